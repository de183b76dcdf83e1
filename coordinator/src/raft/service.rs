//! The other side of [`super::network`]: entries, votes and snapshots from
//! other servers, and their units and questions.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, SinkExt, StreamExt, stream};
use openraft::alias::SnapshotOf;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};
use rota_protocol::peer::{
    self, Answer, AppendReply, AppendRequest, AppendResult, Call, Class, SnapshotHead,
};
use tokio::sync::mpsc;

use super::group::{Group, Leadership};
use super::machine::{Received, SnapshotData};
use super::proposer::ProposerQueue;
use super::types::{TypeConfig, entry_in, log_id_in, log_id_out, meta_in, vote_in, vote_out};
use crate::parts::BoxWire;
use crate::peers::{Frames, Peers, decode, send};
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
    pub(crate) group: Group,
    pub(crate) proposer: ProposerQueue,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) desk: Arc<crate::desk::Desk>,
    pub(crate) tasks: Tasks,
}

/// Serves one connection until it ends.
pub(crate) async fn serve_peer(service: PeerService, wire: BoxWire, from: String) {
    let welcomed = match service.peers.welcome(wire, &from).await {
        Ok(Some(welcomed)) => welcomed,
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(address = from, %error, "a connection ended before its hello");
            return;
        }
    };
    let (hello, frames) = welcomed;
    let ended = match hello.class {
        Class::Append => serve_append(&service.group, frames).await,
        Class::Call => serve_calls(&service, frames).await,
        Class::Snapshot => serve_snapshot(&service, frames).await,
        Class::Units => serve_units(&service, frames).await,
    };
    if let Err(error) = ended {
        tracing::debug!(peer = hello.from, class = ?hello.class, %error, "a server's connection ended");
    }
}

async fn serve_append(group: &Group, frames: Frames) -> io::Result<()> {
    let (mut replies, requests) = frames.split();
    let input = stream::unfold((requests, group.clone()), |(mut requests, group)| async move {
        let frame = requests.next().await?;
        group.hear_of_leader();
        match frame.and_then(|frame| append_request(&frame)) {
            Ok(request) => Some((request, (requests, group))),
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    tracing::warn!(%error, "entries that do not decode");
                }
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
        replies.send(peer::encode(&reply)).await?;
        if !matches!(reply.result, AppendResult::Stored(_)) {
            // Raft may have swallowed the next request already: dial again.
            break;
        }
    }
    Ok(())
}

fn append_request(frame: &[u8]) -> io::Result<AppendEntriesRequest<TypeConfig>> {
    let request: AppendRequest = decode(frame)?;
    let entries: io::Result<Vec<_>> = request.entries.into_iter().map(entry_in).collect();
    Ok(AppendEntriesRequest {
        vote: vote_in(request.vote),
        prev_log_id: request.prev.map(log_id_in),
        entries: entries?,
        leader_commit: request.commit.map(log_id_in),
    })
}

fn append_result(result: &StreamAppendResult<TypeConfig>) -> AppendResult {
    match result {
        Ok(upto) => AppendResult::Stored(upto.map(log_id_out)),
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

async fn answer(group: &Group, desk: &crate::desk::Desk, call: Call) -> Answer {
    let refused = |e: &dyn std::fmt::Display| Answer::Error(peer::CallError::Refused(e.to_string()));
    match call {
        Call::Vote(request) => group.vote(request, false).await.map_or_else(|e| refused(&e), Answer::Vote),
        Call::PreVote(request) => group.vote(request, true).await.map_or_else(|e| refused(&e), Answer::Vote),
        Call::Transfer(request) => Answer::Transfer(group.take_over(request).await),
        other => desk.answer(other).await,
    }
}

/// Takes in a snapshot: written under a temporary name, read back and verified,
/// and only then handed to Raft.
async fn serve_snapshot(service: &PeerService, mut frames: Frames) -> io::Result<()> {
    let Some(head) = crate::peers::receive::<SnapshotHead>(&mut frames).await? else { return Ok(()) };
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
    let data = SnapshotData { file, received: Some(Box::new(Received { writer, state })) };
    let snapshot: SnapshotOf<TypeConfig, SnapshotData> = openraft::storage::Snapshot { meta, snapshot: data };
    let response =
        service.group.raft().install_full_snapshot(vote, snapshot).await.map_err(io::Error::other)?;
    send(&mut frames, &vote_out(&response.vote)).await
}

/// Passes another server's units to the proposer, for as long as this server
/// leads and loses none. Ending the connection makes the other begin again.
async fn serve_units(service: &PeerService, mut frames: Frames) -> io::Result<()> {
    let mut leadership = service.group.leadership();
    let mut losses = service.proposer.losses.clone();
    losses.mark_unchanged();
    leadership.mark_unchanged();
    while matches!(service.group.leads(), Leadership::Own { .. }) {
        tokio::select! {
            frame = frames.next() => match frame {
                Some(unit) => {
                    if service.proposer.units.send(unit?.freeze()).await.is_err() {
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
