//! The leader's and candidate's side of the connections to other servers.
//! Entries are pipelined, in a window that is small on purpose: larger ones gain
//! nothing and starve the cluster while a server catches up.

use std::future::Future;
use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, SinkExt, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use rota_protocol::peer::{
    self, Answer, AppendReply, AppendResult, Call, SNAPSHOT_FRAME_BYTES, ServerEndpoint, StreamKind,
};
use tokio::time::Instant;

use super::proposer::entries_in_flight;
use super::state_machine::{SnapshotData, head_of};
use super::types::{RaftServer, TypeConfig, entry_out, log_id_in, log_id_out, vote_in, vote_out};
use super::validation::{check_log_id, check_term};
use crate::peers::{Frames, Peers, RpcClient, decode, flush, receive};

/// Requests to a near server that are not answered yet. A far one has as many as there are
/// entries under way.
const WINDOW_MIN: usize = 4;
/// A server that answers no request for this long is dialled anew: its machine
/// may be gone without a word.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one frame of a snapshot may take to leave.
const SNAPSHOT_FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the receiver of a snapshot may take to verify and keep it, beyond what the same
/// took here: it is as long as the snapshot is large.
const SNAPSHOT_ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Pauses before a server that cannot be reached is tried again.
const BACKOFF_MS: [u64; 4] = [20, 40, 80, 150];

/// Makes connections for Raft.
pub(crate) struct NetworkFactory {
    peers: Peers,
    /// Kept connections for votes: to dial first would take longer than the vote.
    votes: RpcClient,
}

impl NetworkFactory {
    pub(crate) fn new(peers: Peers, votes: RpcClient) -> Self {
        Self { peers, votes }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, server: &RaftServer) -> Network {
        Network {
            peers: self.peers.clone(),
            votes: self.votes.clone(),
            target,
            endpoint: server.endpoint.clone(),
            append: None,
        }
    }
}

/// Raft's connections to one server, for one purpose.
pub(crate) struct Network {
    peers: Peers,
    votes: RpcClient,
    target: u64,
    endpoint: ServerEndpoint,
    append: Option<Frames>,
}

type RpcError = RPCError<TypeConfig>;
type AppendItem = Result<StreamAppendResult<TypeConfig>, RpcError>;

fn unreachable(error: &io::Error) -> RpcError {
    RPCError::Unreachable(Unreachable::new(error))
}

fn broken(error: &io::Error) -> RpcError {
    RPCError::Network(NetworkError::new(error))
}

impl Network {
    async fn connect(&self, kind: StreamKind) -> Result<Frames, RpcError> {
        // Raft makes a new client when a server is new, and not when it has moved.
        let known = self.peers.endpoints().remove(&self.target);
        let endpoint = known.as_ref().unwrap_or(&self.endpoint);
        self.peers.connect_to(self.target, endpoint, kind).await.map_err(|e| unreachable(&e))
    }

    async fn ask(&self, call: Call) -> Result<Answer, RpcError> {
        self.votes.call(self.target, call).await.map_err(|e| unreachable(&io::Error::other(e)))
    }

    async fn ask_vote(
        &self,
        request: peer::VoteRequest,
        call: fn(peer::VoteRequest) -> Call,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let own_term = request.vote.term;
        match self.ask(call(request)).await? {
            Answer::Vote(reply) => {
                check_term(&reply.vote, own_term).map_err(|e| broken(&e))?;
                check_log_id(reply.last.as_ref()).map_err(|e| broken(&e))?;
                let last = reply.last.map(log_id_in);
                Ok(VoteResponse::new(vote_in(reply.vote), last, reply.granted))
            }
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(answer: &Answer) -> RpcError {
    broken(&io::Error::new(io::ErrorKind::InvalidData, format!("unexpected answer {answer:?}")))
}

fn vote_request(rpc: &VoteRequest<TypeConfig>) -> peer::VoteRequest {
    peer::VoteRequest {
        vote: vote_out(&rpc.vote),
        last: rpc.last_log_id.map(log_id_out),
        transfer: rpc.leadership_transfer,
    }
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let one = Box::pin(stream::once(async move { rpc }));
        let mut results = self.stream_append(one, option).await?;
        match results.next().await {
            Some(result) => result.map(AppendEntriesResponse::from),
            None => Err(broken(&io::ErrorKind::ConnectionReset.into())),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendItem>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let session = AppendSession {
            network: self,
            input,
            first: None,
            input_ended: false,
            term: 0,
            unanswered: 0,
            stalled_at: Instant::now(),
            over: false,
        };
        let results = stream::unfold(session, |mut session| async move {
            let item = session.next().await?;
            Some((item, session))
        });
        std::future::ready(Ok(results.boxed())).boxed()
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(vote_request(&rpc), Call::Vote).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(vote_request(&rpc), Call::PreVote).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let frames = self.connect(StreamKind::Snapshot).await?;
        tokio::select! {
            sent = send_snapshot(frames, vote_out(&vote), snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote_in(vote))),
                Err(error) => Err(StreamingError::Network(NetworkError::new(&error))),
            },
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let request = peer::TransferRequest {
            from: vote_out(req.from_leader()),
            to: *req.to_node_id(),
            last: req.last_log_id().copied().map(log_id_out),
        };
        match self.ask(Call::Transfer(request)).await? {
            Answer::Transfer(Ok(())) => Ok(Ok(())),
            Answer::Transfer(Err(why)) => Err(broken(&io::Error::other(why))),
            other => Err(unexpected(&other)),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        let last = BACKOFF_MS[BACKOFF_MS.len() - 1];
        let pauses = BACKOFF_MS.into_iter().chain(std::iter::repeat(last));
        Some(Backoff::new(pauses.map(Duration::from_millis)))
    }
}

/// One run of pipelined requests. It owns the input, since Raft locks that for
/// the session's target: dropping the session must free it at once.
///
/// The server is dialled only once there is a request: it is in the input that
/// Raft waits out the backoff, so dialling first would mean dialling a dead server
/// over and over without a pause.
struct AppendSession<'s, S> {
    network: &'s mut Network,
    input: S,
    /// The request that was taken from the input before there was a connection.
    first: Option<AppendEntriesRequest<TypeConfig>>,
    input_ended: bool,
    /// The term of the leader whose requests these are.
    term: u64,
    unanswered: usize,
    stalled_at: Instant,
    over: bool,
}

impl<S> AppendSession<'_, S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    async fn next(&mut self) -> Option<AppendItem> {
        if self.over {
            return None;
        }
        // Taken, so that a connection that is left in the middle is not used again.
        let mut frames = match self.network.append.take() {
            Some(frames) => frames,
            None => match self.connect().await {
                Ok(Some(frames)) => frames,
                Ok(None) => return None,
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            },
        };
        match self.step(&mut frames).await {
            Ok(Some(Ok(stored))) => {
                self.network.append = Some(frames);
                Some(Ok(Ok(stored)))
            }
            // After a refusal the other side ends the connection.
            Ok(Some(refused)) => {
                self.over = true;
                Some(Ok(refused))
            }
            Ok(None) => {
                self.over = true;
                self.network.append = Some(frames);
                None
            }
            Err(error) => {
                self.over = true;
                Some(Err(broken(&error)))
            }
        }
    }

    /// Waits for a request, then connects for it.
    async fn connect(&mut self) -> Result<Option<Frames>, RpcError> {
        self.first = self.input.next().await;
        match self.first {
            Some(_) => self.network.connect(StreamKind::Append).await.map(Some),
            None => Ok(None),
        }
    }

    /// Sends and receives until there is a result, or the input has ended and
    /// everything is answered.
    async fn step(&mut self, frames: &mut Frames) -> io::Result<Option<StreamAppendResult<TypeConfig>>> {
        if let Some(request) = self.first.take() {
            self.feed(frames, request).await?;
            flush(frames).await?;
        }
        let window = self.window();
        loop {
            if self.input_ended && self.unanswered == 0 {
                return Ok(None);
            }
            tokio::select! {
                biased;
                frame = frames.next(), if self.unanswered > 0 => {
                    let frame = frame.ok_or(io::ErrorKind::ConnectionReset)??;
                    return self.answered(&decode(&frame)?).map(Some);
                }
                () = tokio::time::sleep_until(self.stalled_at), if self.unanswered > 0 => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                request = self.input.next(), if !self.input_ended && self.unanswered < window => {
                    let mut next = Some(request);
                    while let Some(request) = next {
                        let Some(request) = request else {
                            self.input_ended = true;
                            break;
                        };
                        self.feed(frames, request).await?;
                        next = if self.unanswered < window { self.input.next().now_or_never() } else { None };
                    }
                    flush(frames).await?;
                }
            }
        }
    }

    /// Requests that may be unanswered: as many as keep the way to the server full.
    fn window(&self) -> usize {
        let round_trip = self.network.peers.round_trips().shortest(self.network.target).unwrap_or_default();
        entries_in_flight(round_trip).max(WINDOW_MIN)
    }

    async fn feed(
        &mut self,
        frames: &mut Frames,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> io::Result<()> {
        self.term = request.vote.leader_id.term;
        let request = peer::AppendRequest {
            vote: vote_out(&request.vote),
            prev: request.prev_log_id.map(log_id_out),
            entries: request.entries.into_iter().map(entry_out).collect(),
            commit: request.leader_commit.map(log_id_out),
        };
        if self.unanswered == 0 {
            self.stalled_at = Instant::now() + STALL_TIMEOUT;
        }
        self.unanswered += 1;
        frames.feed(peer::encode(&request)).await
    }

    /// Takes in an answer. One may speak for several requests: what it says of
    /// the last of them holds for those before.
    fn answered(&mut self, reply: &AppendReply) -> io::Result<StreamAppendResult<TypeConfig>> {
        let count = reply.count as usize;
        if count == 0 || count > self.unanswered {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "answers to requests that were not made"));
        }
        self.unanswered -= count;
        self.stalled_at = Instant::now() + STALL_TIMEOUT;
        Ok(match &reply.result {
            AppendResult::Stored(through) => {
                check_log_id(through.as_ref())?;
                if let Some(last) = through {
                    self.network.peers.acknowledged(self.network.target, self.term, *last);
                }
                Ok(through.map(log_id_in))
            }
            AppendResult::Conflict(at) => {
                check_log_id(Some(at))?;
                Err(StreamAppendError::Conflict(log_id_in(*at)))
            }
            AppendResult::HigherVote(vote) => {
                check_term(vote, self.term)?;
                Err(StreamAppendError::HigherVote(vote_in(*vote)))
            }
        })
    }
}

/// Sends one frame of a snapshot. A receiver whose machine is gone takes none.
async fn send_frame(frames: &mut Frames, frame: Bytes) -> io::Result<()> {
    tokio::time::timeout(SNAPSHOT_FRAME_TIMEOUT, frames.send(frame)).await?
}

/// Sends a snapshot file as it is, block after block, and returns the receiver's
/// vote.
async fn send_snapshot(
    mut frames: Frames,
    vote: peer::Vote,
    snapshot: SnapshotOf<TypeConfig, SnapshotData>,
) -> io::Result<peer::Vote> {
    let began = Instant::now();
    send_frame(&mut frames, peer::encode(&head_of(&snapshot, vote))).await?;
    let file = snapshot.snapshot.file;
    let mut body = tokio::task::spawn_blocking(move || file.body()).await??;
    loop {
        let (rest, block) = tokio::task::spawn_blocking(move || {
            let mut block = vec![0; SNAPSHOT_FRAME_BYTES];
            let len = body.read(&mut block)?;
            block.truncate(len);
            io::Result::Ok((body, block))
        })
        .await??;
        body = rest;
        let ended = block.is_empty();
        send_frame(&mut frames, Bytes::from(block)).await?;
        if ended {
            break;
        }
    }
    let answer =
        tokio::time::timeout(began.elapsed() + SNAPSHOT_ANSWER_TIMEOUT, receive(&mut frames)).await??;
    let answer: peer::Vote = answer.ok_or(io::ErrorKind::ConnectionReset)?;
    check_term(&answer, vote.term)?;
    Ok(answer)
}
