//! One connection: always as many questions under way as it may have.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::codec::{Answer, Ask, Codec, FOLDER, path};
use super::record::Record;
use super::{Load, MULTI, Operation};

/// Room for one read.
const READ_BYTES: usize = 64 * 1024;
/// More than a question is longer than its values.
const OVERHEAD_BYTES: usize = 256;
/// Before the next server is tried.
const AGAIN_AFTER: Duration = Duration::from_millis(10);
/// How long a server may take to welcome a connection.
const WELCOME: Duration = Duration::from_secs(2);
/// Connections that make keys, and how many keys each makes by one question.
const FILLERS: u64 = 32;
const FILL_MULTI: u64 = 50;
const FILL_OUTSTANDING: usize = 4;
/// How long servers may take to welcome anybody at all.
const FILL_TIME: Duration = Duration::from_secs(60);

/// What one connection asks.
pub struct Script {
    operation: Operation,
    number: u64,
    outstanding: usize,
    value: Vec<u8>,
    keys: u64,
    /// The last new key, and where it is.
    created: u64,
    path: [u8; 24],
    asked: u64,
    random: u64,
}

impl Script {
    pub fn new(load: &Load, number: u64) -> Self {
        Self {
            operation: load.operation,
            number,
            outstanding: load.outstanding,
            value: vec![b'v'; load.value_bytes],
            keys: load.keys.max(MULTI),
            // Each run and connection has keys of its own.
            created: load.run * 1_000_000_000_000 + number * 1_000_000_000,
            path: [0; 24],
            asked: 0,
            random: number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        }
    }

    /// The next number from nothing in particular (xorshift64).
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn next(&mut self) -> Ask<'_> {
        self.asked += 1;
        let key = self.random() % (self.keys - MULTI + 1);
        match self.operation {
            Operation::Set => Ask::Set { key, value: &self.value },
            Operation::Create => {
                self.created += 1;
                self.path = path('c', self.created);
                Ask::Create { path: &self.path, value: &self.value }
            }
            Operation::Get => Ask::Get { key },
            Operation::Mix if self.asked.is_multiple_of(10) => Ask::Set { key, value: &self.value },
            Operation::Mix => Ask::Get { key },
            Operation::Multi => Ask::Multi { key, count: MULTI, value: &self.value },
        }
    }

    /// Bytes that the next question has at most.
    fn bytes_max(&self) -> usize {
        let values = if self.operation == Operation::Multi { MULTI } else { 1 };
        (self.value.len() + OVERHEAD_BYTES) * usize::try_from(values).unwrap_or(1)
    }
}

/// A connection that was welcomed.
struct Wire<C> {
    stream: TcpStream,
    codec: C,
    input: BytesMut,
    output: BytesMut,
}

impl<C: Codec> Wire<C> {
    async fn connect(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut wire = Self { stream, codec: C::default(), input: BytesMut::new(), output: BytesMut::new() };
        wire.codec.hello(&mut wire.output);
        wire.write().await?;
        while !wire.codec.welcome(&mut wire.input)? {
            wire.read().await?;
        }
        Ok(wire)
    }

    async fn write(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.output).await?;
        self.output.clear();
        Ok(())
    }

    /// Asks one thing and waits for its answer.
    async fn ask_one(&mut self, ask: Ask<'_>) -> anyhow::Result<Answer> {
        self.codec.ask(ask, &mut self.output);
        loop {
            self.write().await?;
            if let Some(answer) = self.codec.answer(&mut self.input, &mut self.output)? {
                return Ok(answer);
            }
            self.read().await?;
        }
    }

    /// Makes these keys.
    async fn create_all(&mut self, mut keys: Range<u64>, value: &[u8]) -> anyhow::Result<()> {
        let mut waiting = 0;
        loop {
            let bytes = (value.len() + OVERHEAD_BYTES) * usize::try_from(FILL_MULTI)?;
            while waiting < FILL_OUTSTANDING && !keys.is_empty() && self.codec.has_room(bytes) {
                let count = FILL_MULTI.min(keys.end - keys.start);
                self.codec.ask(Ask::Fill { key: keys.start, count, value }, &mut self.output);
                keys.start += count;
                waiting += 1;
            }
            if waiting == 0 {
                return Ok(());
            }
            self.write().await?;
            self.read().await?;
            while let Some(answer) = self.codec.answer(&mut self.input, &mut self.output)? {
                ensure!(matches!(answer, Answer::Done(_)), "keys are refused");
                waiting -= 1;
            }
        }
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        self.input.reserve(READ_BYTES);
        ensure!(self.stream.read_buf(&mut self.input).await? > 0, "the server has closed the connection");
        Ok(())
    }
}

/// Asks until it is dropped. A connection that breaks is made again, to the next server.
pub async fn run<C: Codec>(servers: Vec<String>, mut script: Script, record: Rc<Record>) {
    let mut at = usize::try_from(script.number).unwrap_or(0);
    loop {
        let address = &servers[at % servers.len()];
        if let Ok(Ok(wire)) = tokio::time::timeout(WELCOME, Wire::<C>::connect(address)).await {
            let mut waiting = VecDeque::new();
            // Only a broken connection ends this.
            let _broken = ask::<C>(wire, &mut script, &record, &mut waiting).await;
            record.lost(waiting.len());
        }
        at += 1;
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn ask<C: Codec>(
    mut wire: Wire<C>,
    script: &mut Script,
    record: &Record,
    waiting: &mut VecDeque<(u64, Instant)>,
) -> anyhow::Result<()> {
    loop {
        let now = Instant::now();
        while waiting.len() < script.outstanding && wire.codec.has_room(script.bytes_max()) {
            let number = wire.codec.ask(script.next(), &mut wire.output);
            waiting.push_back((number, now));
        }
        if !wire.output.is_empty() {
            wire.write().await?;
        }
        wire.read().await?;
        let now = Instant::now();
        while let Some(answer) = wire.codec.answer(&mut wire.input, &mut wire.output)? {
            let (Answer::Done(number) | Answer::Refused(number)) = answer;
            // Most answers come in order.
            let at = waiting.iter().position(|(asked, _)| *asked == number);
            let (_, asked) = at.and_then(|at| waiting.remove(at)).context("an answer to nothing")?;
            match answer {
                Answer::Done(_) => record.done(asked, now),
                Answer::Refused(_) => record.refused(),
            }
        }
    }
}

/// Connects and makes the folder of the keys. It may be there: that is refused, but the
/// cluster has agreed on it.
async fn first_write<C: Codec>(address: &str) -> anyhow::Result<Wire<C>> {
    let write = async {
        let mut wire = Wire::<C>::connect(address).await?;
        wire.ask_one(Ask::Create { path: FOLDER, value: b"" }).await?;
        Ok(wire)
    };
    tokio::time::timeout(WELCOME, write).await?
}

/// Waits until a server takes a write, and makes the keys, unless the last of them is there.
pub async fn fill<C: Codec + 'static>(load: &Load) -> anyhow::Result<()> {
    let deadline = Instant::now() + FILL_TIME;
    let mut wire = loop {
        match first_write::<C>(&load.servers[0]).await {
            Ok(wire) => break wire,
            Err(error) => ensure!(Instant::now() < deadline, "no server welcomes: {error:#}"),
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    };
    if load.filled {
        return Ok(());
    }
    let keys = load.keys.max(MULTI);
    if C::TELLS_ABSENCE
        && let Answer::Done(_) = wire.ask_one(Ask::Get { key: keys - 1 }).await?
    {
        return Ok(());
    }
    let mut fillers = tokio::task::JoinSet::new();
    let share = keys.div_ceil(FILLERS);
    for number in 0..FILLERS {
        let address = load.servers[usize::try_from(number)? % load.servers.len()].clone();
        let value = vec![b'v'; load.value_bytes];
        let range = number * share..keys.min((number + 1) * share);
        fillers
            .spawn_local(async move { Wire::<C>::connect(&address).await?.create_all(range, &value).await });
    }
    while let Some(filled) = fillers.join_next().await {
        filled??;
    }
    Ok(())
}
