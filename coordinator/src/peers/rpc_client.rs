//! Questions with answers, many at a time over one connection to each server.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use rota_protocol::peer::{self, Answer, Call, StreamKind};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Frames, Peers, decode, flush};
use crate::tasks::Tasks;

/// How long an answer may take. The other server answers much faster or not at
/// all; whoever asks has a longer deadline and asks again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a change of the membership may take: a new voter is waited for.
pub(crate) const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Questions that may wait for a connection; beyond it, asking fails at once.
const QUEUE_LEN_MAX: usize = 4096;

/// Why there is no answer. Whether the question was acted upon is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallFailure {
    #[error("the other server cannot be reached")]
    Unreachable,
    #[error("the other server did not answer in time")]
    Timeout,
    #[error("too many questions wait for the other server")]
    Overloaded,
}

struct PendingCall {
    call: Call,
    answer: oneshot::Sender<Answer>,
}

/// A call that was sent.
struct Waiting {
    asked_at: Instant,
    overdue_at: Instant,
    answer: oneshot::Sender<Answer>,
}

/// Asks other servers.
#[derive(Clone)]
pub(crate) struct RpcClient {
    peers: Peers,
    tasks: Tasks,
    queues: Arc<Mutex<BTreeMap<u64, mpsc::Sender<PendingCall>>>>,
}

impl RpcClient {
    pub(crate) fn new(peers: Peers, tasks: Tasks) -> Self {
        Self { peers, tasks, queues: Arc::default() }
    }

    /// Asks `server` and waits for its answer.
    pub(crate) async fn call(&self, server: u64, call: Call) -> Result<Answer, CallFailure> {
        let (sender, receiver) = oneshot::channel();
        let timeout = timeout_of(&call);
        let question = PendingCall { call, answer: sender };
        self.queue(server).try_send(question).map_err(|_| CallFailure::Overloaded)?;
        match tokio::time::timeout(timeout, receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(CallFailure::Unreachable),
            Err(_) => Err(CallFailure::Timeout),
        }
    }

    fn queue(&self, server: u64) -> mpsc::Sender<PendingCall> {
        let mut queues = self.queues.lock().expect("no code panics while it holds this");
        let queue = queues.entry(server).or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(QUEUE_LEN_MAX);
            let peers = self.peers.clone();
            self.tasks.spawn("calls", keep_calling(peers, server, receiver));
            sender
        });
        queue.clone()
    }
}

fn timeout_of(call: &Call) -> Duration {
    match call {
        Call::ChangeMembership { .. } | Call::CheckVoters(_) | Call::TransferTo(_) => CHANGE_TIMEOUT,
        _ => ANSWER_TIMEOUT,
    }
}

async fn keep_calling(peers: Peers, server: u64, mut questions: mpsc::Receiver<PendingCall>) {
    while let Some(first) = questions.recv().await {
        let talk = async {
            let mut frames = peers.connect(server, StreamKind::Call).await?;
            run_rpc_connection(&mut frames, first, &mut questions).await
        };
        if let Err(error) = talk.await {
            tracing::debug!(peer = server, %error, "the connection for calls ended");
        }
        // Whoever waits has been told by the drop of its sender. What is still
        // queued was asked of a server that could not be reached just now.
        while questions.try_recv().is_ok() {}
    }
}

async fn run_rpc_connection(
    frames: &mut Frames,
    first: PendingCall,
    questions: &mut mpsc::Receiver<PendingCall>,
) -> io::Result<()> {
    let mut waiting: BTreeMap<u64, Waiting> = BTreeMap::new();
    let mut next_id = 0u64;
    let mut received_at = Instant::now();
    let mut question = Some(first);
    loop {
        while let Some(PendingCall { call, answer }) = question.take().or_else(|| questions.try_recv().ok()) {
            let asked_at = Instant::now();
            waiting.insert(next_id, Waiting { asked_at, overdue_at: asked_at + timeout_of(&call), answer });
            let send = frames.feed(peer::encode(&(next_id, call)));
            tokio::time::timeout(ANSWER_TIMEOUT, send).await??;
            next_id += 1;
        }
        tokio::time::timeout(ANSWER_TIMEOUT, flush(frames)).await??;
        let overdue_at = waiting.values().map(|waiting| waiting.overdue_at).min();
        tokio::select! {
            frame = frames.next() => match frame {
                Some(frame) => {
                    let (id, answer): (u64, Answer) = decode(&frame?)?;
                    received_at = Instant::now();
                    if let Some(waiting) = waiting.remove(&id) {
                        // A caller that gave up is not told.
                        drop(waiting.answer.send(answer));
                    }
                }
                None => return Ok(()),
            },
            next = questions.recv() => match next {
                Some(next) => question = Some(next),
                None => return Ok(()),
            },
            () = sleep_until(overdue_at) => {
                let now = Instant::now();
                let overdue = waiting.values().filter(|waiting| waiting.overdue_at <= now);
                let last_asked_at = overdue.map(|waiting| waiting.asked_at).min();
                waiting.retain(|_, waiting| waiting.overdue_at > now);
                // One late answer is that call's own. A server that answered nothing since may
                // be gone with its machine.
                if last_asked_at.is_some_and(|asked_at| received_at < asked_at) {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
