//! The other side of [`super::network`]: entries, votes and snapshots from
//! other servers, and their units and questions.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, SinkExt, StreamExt, stream};
use openraft::alias::SnapshotOf;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};
use rota_core::batch::{Batch, check_unit};
use rota_protocol::peer::{
    self, Answer, AppendReply, AppendRequest, AppendResult, Call, DiskId, PeerStatus, SnapshotHead,
    StreamKind,
};
use tokio::sync::mpsc;

use super::elections::{Ended, EndedSender, is_telling};
use super::node::{Leadership, RaftNode};
use super::proposer::ProposerQueue;
use super::state_machine::{Received, SnapshotData};
use super::types::{TypeConfig, entry_in, log_id_in, log_id_out, meta_in, vote_in, vote_out};
use super::validation::{check_clock, check_log_id, check_term, invalid_data};
use crate::env::BoxByteStream;
use crate::peers::{Admission, Frames, PeerView, Peers, decode, send};
use crate::replica::Replica;
use crate::store::{SnapshotFile, SnapshotStore};
use crate::tasks::Tasks;

/// Questions of one connection that are being answered at once.
const ANSWERS_MAX: usize = 1024;

/// How long the next part of a snapshot may take to come.
const SNAPSHOT_FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// What is needed to serve another server.
#[derive(Clone)]
pub(crate) struct PeerService {
    pub(crate) peers: Peers,
    pub(crate) group: RaftNode,
    pub(crate) proposer: ProposerQueue,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) desk: Arc<crate::desk::Desk>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) admission: Admission,
    pub(crate) ended: EndedSender,
    pub(crate) tasks: Tasks,
}

impl PeerService {
    /// What this server knows when another dials it.
    fn view_of(&self, server: u64, disk: DiskId) -> PeerView {
        let membership = self.group.membership();
        let status = {
            let applied = self.replica.read();
            // The effective membership may be uncommitted and roll back, and "removed" is final: a
            // server counts as removed only if it is in neither the effective nor the applied one.
            let known = [&membership, applied.membership()];
            let is_removed = applied.is_removed_disk(disk);
            match known.iter().find_map(|membership| membership.servers.get(&server)) {
                // Its number may be another server's by now.
                Some(endpoint) if endpoint.disk == Some(disk) || !is_removed => {
                    PeerStatus::Member { disk: endpoint.disk }
                }
                _ if is_removed => PeerStatus::Removed,
                _ => PeerStatus::Unknown,
            }
        };
        let leader = match self.group.current_leadership() {
            Leadership::Own { .. } => Some(self.group.server()),
            Leadership::Other { leader } => Some(leader),
            Leadership::Unknown => None,
        };
        PeerView { status, log_end: self.group.log_end(), leader, cluster_id: membership.cluster_id }
    }
}

/// Serves one connection until it ends.
pub(crate) async fn serve_peer(service: PeerService, wire: BoxByteStream, from: String) {
    let accepted = {
        let Some(_handshake) = service.admission.handshake() else {
            service.peers.log_handshake_limit(&from);
            return;
        };
        let view = |server, disk| service.view_of(server, disk);
        service.peers.accept_handshake(wire, &from, &service.admission, view).await
    };
    let (hello, frames, place) = match accepted {
        Ok(Some(accepted)) => accepted,
        Ok(None) => return,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            service.peers.log_invalid(0, &from, "handshake", &error);
            return;
        }
        Err(error) => {
            tracing::debug!(address = from, %error, "a connection ended before its handshake");
            return;
        }
    };
    let serving = async {
        match hello.kind {
            StreamKind::Append => serve_append(&service, frames).await,
            StreamKind::Call => serve_calls(&service, frames).await,
            StreamKind::Snapshot => serve_snapshot(&service, frames).await,
            StreamKind::Units => serve_units(&service, hello.from, frames).await,
            StreamKind::Probe => Ok(()),
        }
    };
    let ended = tokio::select! {
        ended = serving => ended,
        () = place.gives_way() => Ok(()),
    };
    if let Err(error) = ended {
        if error.kind() == io::ErrorKind::InvalidData {
            service.peers.log_invalid(hello.from, &from, &format!("{:?}", hello.kind), &error);
        } else {
            tracing::debug!(peer = hello.from, kind = ?hello.kind, %error, "a peer's connection ended");
        }
    }
    if is_telling(hello.kind)
        && service.group.current_leadership() == (Leadership::Other { leader: hello.from })
    {
        // When many ended, one look is as good as all.
        let term = service.group.term();
        let _ = service.ended.try_send(Ended { server: hello.from, term });
    }
}

async fn serve_append(service: &PeerService, frames: Frames) -> io::Result<()> {
    let (mut replies, requests) = frames.split();
    // Why the requests ended, if it was for what one of them said.
    let fault = Arc::new(std::sync::Mutex::new(None));
    let state = (requests, service.clone(), Arc::clone(&fault));
    let group = &service.group;
    let input = stream::unfold(state, |(mut requests, service, fault)| async move {
        let frame = requests.next().await?;
        match frame.and_then(|frame| append_request(&frame, &service)) {
            Ok(request) => Some((request, (requests, service, fault))),
            Err(error) => {
                *fault.lock().expect("no code panics while it holds this") = Some(error);
                None
            }
        }
    });
    // Fused: it is looked at once more after its end.
    let mut results = Box::pin(group.raft().stream_append(input.fuse()).fuse());
    while let Some(result) = results.next().await {
        let mut reply = AppendReply { count: 1, result: append_result(&result.map_err(io::Error::other)?) };
        while matches!(reply.result, AppendResult::Stored(_)) {
            let Some(Some(result)) = results.next().now_or_never() else { break };
            reply = AppendReply {
                count: reply.count + 1,
                result: append_result(&result.map_err(io::Error::other)?),
            };
        }
        // Raft knows its sender as the leader.
        if !matches!(reply.result, AppendResult::HigherVote(_)) {
            group.record_leader_contact();
        }
        replies.send(peer::encode(&reply)).await?;
        if !matches!(reply.result, AppendResult::Stored(_)) {
            // Raft may have swallowed the next request already: dial again.
            break;
        }
    }
    let fault = fault.lock().expect("no code panics while it holds this").take();
    fault.map_or(Ok(()), Err)
}

/// A request, checked: nothing in it can stop this server when it is applied.
fn append_request(frame: &[u8], service: &PeerService) -> io::Result<AppendEntriesRequest<TypeConfig>> {
    let request: AppendRequest = decode(frame)?;
    check_term(&request.vote, service.group.term())?;
    check_log_id(request.prev.as_ref())?;
    check_log_id(request.commit.as_ref())?;
    for entry in &request.entries {
        check_log_id(Some(&entry.log_id))?;
        check_payload(&entry.payload, service)?;
    }
    let entries: io::Result<Vec<_>> = request.entries.into_iter().map(entry_in).collect();
    Ok(AppendEntriesRequest {
        vote: vote_in(request.vote),
        prev_log_id: request.prev.map(log_id_in),
        entries: entries?,
        leader_commit: request.commit.map(log_id_in),
    })
}

fn check_payload(payload: &peer::Payload, service: &PeerService) -> io::Result<()> {
    match payload {
        peer::Payload::Blank => Ok(()),
        peer::Payload::Batch(batch) => {
            let batch = Batch::decode(batch.clone()).map_err(|error| invalid_data(error.to_string()))?;
            let own_ms = service.replica.cluster_clock().now_ms();
            check_clock(batch.header.timestamp.cluster_ms, own_ms)
        }
        peer::Payload::Membership(membership) => check_cluster(membership, &service.group),
    }
}

/// Whether a membership is one of this server's cluster.
fn check_cluster(membership: &peer::Membership, group: &RaftNode) -> io::Result<()> {
    let (theirs, ours) = (membership.cluster_id, group.cluster_id());
    match theirs == ours || ours.is_none() {
        true => Ok(()),
        false => Err(invalid_data(format!("a membership of cluster {theirs:?}, this is cluster {ours:?}"))),
    }
}

fn append_result(result: &StreamAppendResult<TypeConfig>) -> AppendResult {
    match result {
        Ok(through) => AppendResult::Stored(through.map(log_id_out)),
        Err(StreamAppendError::Conflict(at)) => AppendResult::Conflict(log_id_out(*at)),
        Err(StreamAppendError::HigherVote(vote)) => AppendResult::HigherVote(vote_out(vote)),
    }
}

async fn serve_calls(service: &PeerService, frames: Frames) -> io::Result<()> {
    let (mut sink, mut questions) = frames.split();
    let (answers, mut answered) = mpsc::channel::<(u64, Answer)>(ANSWERS_MAX);
    let answer_all = async {
        while let Some(frame) = questions.next().await {
            let (id, call): (u64, Call) = decode(&frame?)?;
            // Waits while too many are being answered: the other side then waits too.
            let Ok(permit) = answers.clone().reserve_owned().await else { break };
            let (group, desk) = (service.group.clone(), Arc::clone(&service.desk));
            service.tasks.spawn("answer", async move {
                drop(permit.send((id, answer(&group, &desk, call).await)));
            });
        }
        Ok(())
    };
    let send_all = async {
        while let Some(answer) = answered.recv().await {
            sink.feed(peer::encode(&answer)).await?;
            while let Ok(more) = answered.try_recv() {
                sink.feed(peer::encode(&more)).await?;
            }
            sink.flush().await?;
        }
        Ok(())
    };
    tokio::select! {
        ended = answer_all => ended,
        ended = send_all => ended,
    }
}

async fn answer(group: &RaftNode, desk: &crate::desk::Desk, call: Call) -> Answer {
    let refused = |e: &dyn std::fmt::Display| Answer::Error(peer::CallError::Refused(e.to_string()));
    match call {
        Call::Vote(request) | Call::PreVote(request) if check_vote(&request, group).is_err() => {
            metrics::counter!(crate::metrics::PEER_INVALID).increment(1);
            refused(&"a vote that is not plausible")
        }
        Call::Vote(request) => group.vote(request, false).await.map_or_else(|e| refused(&e), Answer::Vote),
        Call::PreVote(request) => group.vote(request, true).await.map_or_else(|e| refused(&e), Answer::Vote),
        Call::Transfer(request) => match check_term(&request.from, group.term()) {
            Ok(()) => Answer::Transfer(group.take_over(request).await),
            Err(error) => refused(&error),
        },
        Call::Ping => Answer::Done,
        other => desk.answer(other).await,
    }
}

fn check_vote(request: &peer::VoteRequest, group: &RaftNode) -> io::Result<()> {
    check_term(&request.vote, group.term())?;
    check_log_id(request.last.as_ref())
}

/// Takes in a snapshot: written under a temporary name, read back and verified,
/// and only then handed to Raft.
async fn serve_snapshot(service: &PeerService, mut frames: Frames) -> io::Result<()> {
    let Some(head) = crate::peers::receive::<SnapshotHead>(&mut frames).await? else { return Ok(()) };
    check_term(&head.vote, service.group.term())?;
    check_log_id(head.last.as_ref())?;
    check_log_id(head.membership_at.as_ref())?;
    check_cluster(&head.membership, &service.group)?;
    let vote = vote_in(head.vote);
    let meta = meta_in(head.clone())?;
    let snapshots = service.snapshots.clone();
    let mut writer = tokio::task::spawn_blocking(move || snapshots.writer(head)).await??;
    loop {
        let frame = tokio::time::timeout(SNAPSHOT_FRAME_TIMEOUT, frames.next()).await?;
        let frame = frame.ok_or(io::ErrorKind::UnexpectedEof)??;
        if frame.is_empty() {
            break;
        }
        writer = tokio::task::spawn_blocking(move || writer.write(&frame).map(|()| writer)).await??;
    }
    let file: SnapshotFile = writer.as_file();
    let verified = file.clone();
    let state = tokio::task::spawn_blocking(move || verified.load()).await?.map_err(io::Error::other)?;
    let own_ms = service.replica.cluster_clock().now_ms();
    check_clock(state.last_timestamp().cluster_ms, own_ms)?;
    let data = SnapshotData { file, received: Some(Box::new(Received { writer, state })) };
    let snapshot: SnapshotOf<TypeConfig, SnapshotData> = openraft::storage::Snapshot { meta, snapshot: data };
    let response =
        service.group.raft().install_full_snapshot(vote, snapshot).await.map_err(io::Error::other)?;
    send(&mut frames, &vote_out(&response.vote)).await
}

/// Passes another server's units to the proposer, for as long as this server
/// leads and loses none. Ending the connection makes the other begin again.
async fn serve_units(service: &PeerService, from: u64, mut frames: Frames) -> io::Result<()> {
    let mut leadership = service.group.leadership();
    let mut losses = service.proposer.losses.clone();
    losses.mark_unchanged();
    leadership.mark_unchanged();
    while matches!(service.group.current_leadership(), Leadership::Own { .. }) {
        tokio::select! {
            frame = frames.next() => match frame {
                Some(unit) => {
                    let unit = unit?.freeze();
                    let origin = check_unit(&unit).map_err(|error| invalid_data(error.to_string()))?;
                    if origin.server != from {
                        return Err(invalid_data(format!("a unit of server {}", origin.server)));
                    }
                    if service.proposer.units.send(unit).await.is_err() {
                        break;
                    }
                }
                None => break,
            },
            changed = leadership.changed() => {
                if changed.is_err() {
                    break;
                }
            }
            lost = losses.changed() => {
                drop(lost);
                break;
            }
        }
    }
    Ok(())
}
