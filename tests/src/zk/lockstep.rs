//! Plays a script to two clusters and compares what they answer.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use rota_protocol::zk::{Body, EventType, OpCode, Request};

use super::client::{Raw, Session};
use super::script::{Act, Scenario, act};
use super::transcript::Transcript;

/// A cluster that scripts are played to.
#[derive(Debug, Clone)]
pub struct Target {
    /// What it is.
    pub name: String,
    /// Where its servers serve clients.
    pub addresses: Vec<String>,
}

/// Parts of the tree for scenarios that are played again, beyond all others.
const AGAIN: usize = 500_000;

/// Plays a scenario to both, in the part `number` of their trees. What differs, if
/// anything does.
///
/// `other` is the real thing, whose servers tell of an event after a `sync`,
/// rarely, when the machine is busy. So where something differs, the scenario is played
/// once more; it counts as the same only if nothing differs then, and `one`
/// answers just what it did before.
///
/// # Errors
/// When a script is wrong or a server does not answer at all.
pub async fn compare(
    one: &Target,
    other: &Target,
    number: usize,
    scenario: &Scenario,
) -> anyhow::Result<Option<String>> {
    let (a, b) = play_both(one, other, number, scenario).await?;
    let found = difference(one, other, scenario, &a, &b);
    if found.is_none() {
        return Ok(None);
    }
    let (again, real) = play_both(one, other, number + AGAIN, scenario).await?;
    if again == a && again == real {
        println!("{}: the real servers answered otherwise once, and then the same", scenario.name);
        return Ok(None);
    }
    Ok(found)
}

async fn play_both(
    one: &Target,
    other: &Target,
    number: usize,
    scenario: &Scenario,
) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let (a, b) = tokio::join!(play(one, number, scenario), play(other, number, scenario));
    let a = a.with_context(|| format!("{}, {}", scenario.name, one.name))?;
    Ok((a, b.with_context(|| format!("{}, {}", scenario.name, other.name))?))
}

/// The first step whose answers differ, with what led to it.
fn difference(
    one: &Target,
    other: &Target,
    scenario: &Scenario,
    a: &[String],
    b: &[String],
) -> Option<String> {
    let width = one.name.len().max(other.name.len());
    let longest = a.len().max(b.len());
    let differs = (0..longest).find(|at| a.get(*at) != b.get(*at));
    differs.map(|at| {
        let line = |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| "(nothing)".to_owned());
        // What the step's session did before, and what happened just before.
        let who = a.get(at).and_then(|line| line.trim().split(' ').next()).unwrap_or_default();
        let tells = |back: &(usize, &String)| {
            let near = back.0 + 6 >= at;
            let is_watch = ["watch", "hears", "resumed"].iter().any(|word| back.1.contains(word));
            near || is_watch && back.1.trim().starts_with(who)
        };
        let before = a[..at].iter().enumerate().filter(tells).map(|(_, line)| format!("    {line}\n"));
        let before: Vec<String> = before.collect();
        let before = before[before.len().saturating_sub(30)..].concat();
        format!(
            "{}:\n{before}  {:width$} {}\n  {:width$} {}\n",
            scenario.name,
            one.name,
            line(a),
            other.name,
            line(b)
        )
    })
}

/// Plays a scenario to one cluster only.
///
/// # Errors
/// When the script is wrong or a server does not answer at all.
pub async fn play_alone(target: &Target, number: usize, scenario: &Scenario) -> anyhow::Result<()> {
    play(target, number, scenario).await.map(drop)
}

async fn play(target: &Target, number: usize, scenario: &Scenario) -> anyhow::Result<Vec<String>> {
    let root = format!("/scenario-{number:06}");
    let mut play = Play {
        target,
        root: root.clone(),
        sessions: BTreeMap::new(),
        opened: Vec::new(),
        marks: BTreeMap::new(),
        last_write: 0,
        transcript: Transcript::new(&root),
    };
    let mut founder = Raw::connect_patiently(&target.addresses[0], None, 10_000).await;
    let Act::Ask(make) = act("create /", &root, &|_| 0)? else { bail!("no request") };
    let xid = founder.send(&make).await?;
    let (header, _) = founder.answer(xid).await?.context("the connection ended")?;
    if header.error != 0 {
        bail!("the part of the tree could not be made: {}", header.error);
    }
    play.last_write = header.zxid;
    play.opened.push(founder.session());
    drop(founder);
    let played = play.steps(&scenario.steps).await;
    play.close_all().await?;
    played?;
    Ok(play.transcript.render())
}

struct Client {
    raw: Raw,
    session: Session,
    alive: bool,
}

struct Play<'a> {
    target: &'a Target,
    root: String,
    sessions: BTreeMap<String, Client>,
    /// All sessions that were opened, also those that have no connection any more.
    opened: Vec<Session>,
    marks: BTreeMap<String, u64>,
    last_write: u64,
    transcript: Transcript,
}

impl Play<'_> {
    async fn steps(&mut self, steps: &[String]) -> anyhow::Result<()> {
        for step in steps {
            self.step(step).await.with_context(|| step.clone())?;
            self.listen().await.with_context(|| format!("after {step}"))?;
        }
        Ok(())
    }

    async fn step(&mut self, step: &str) -> anyhow::Result<()> {
        let (who, rest) = step.split_once(' ').context("a step is a session and an operation")?;
        let zxid = |name: &str| match name {
            "0" => 0,
            "max" => i64::MAX.cast_unsigned(),
            name => self.marks.get(name).copied().unwrap_or_else(|| panic!("no mark {name}")),
        };
        match act(rest, &self.root, &zxid)? {
            Act::Connect { timeout_ms, server } => self.connect(who, timeout_ms, server).await,
            Act::Resume { server, password } => self.resume(who, server, password).await,
            Act::Mark(name) => {
                self.marks.insert(name, self.last_write);
                Ok(())
            }
            Act::Ask(request) => {
                self.ensure(who).await?;
                let client = self.sessions.get_mut(who).context("no session")?;
                let xid = client.raw.send(&request).await?;
                self.hear(who, step, xid, request.op(), is_write(&request)).await
            }
            Act::Pipe(requests) => {
                self.ensure(who).await?;
                let client = self.sessions.get_mut(who).context("no session")?;
                let mut asked = Vec::new();
                for (text, request) in requests {
                    let xid = client.raw.send(&request).await?;
                    asked.push((format!("{who} piped {text}"), xid, request.op(), is_write(&request)));
                }
                for (text, xid, op, writes) in asked {
                    self.hear(who, &text, xid, op, writes).await?;
                }
                Ok(())
            }
            Act::AskRaw(op, body) => {
                self.ensure(who).await?;
                let client = self.sessions.get_mut(who).context("no session")?;
                let xid = client.raw.send_raw(op, &body).await?;
                self.hear(who, step, xid, OpCode::from_number(op).unwrap_or(OpCode::Sasl), false).await
            }
        }
    }

    async fn hear(
        &mut self,
        who: &str,
        step: &str,
        xid: i32,
        op: OpCode,
        writes: bool,
    ) -> anyhow::Result<()> {
        let client = self.sessions.get_mut(who).context("no session")?;
        let Some((header, mut body)) = client.raw.answer(xid).await? else {
            client.alive = false;
            self.transcript.line(&format!("{step} -> closed"));
            return Ok(());
        };
        self.events(who);
        let answer = match header.error {
            0 => Ok(Body::read(op, &mut body)?),
            code => Err(code),
        };
        if !body.is_empty() {
            bail!("{} bytes follow the answer", body.len());
        }
        if writes {
            self.last_write = self.last_write.max(header.zxid);
        }
        self.transcript.answer(step, (writes && answer.is_ok()).then_some(header.zxid), &answer);
        if op == OpCode::CloseSession
            && let Some(client) = self.sessions.get_mut(who)
        {
            client.alive = false;
        }
        Ok(())
    }

    async fn ensure(&mut self, who: &str) -> anyhow::Result<()> {
        match self.sessions.get(who) {
            Some(_) => Ok(()),
            None => self.connect(who, 10_000, None).await,
        }
    }

    fn server(&self, who: &str) -> usize {
        let letter = who.bytes().next().unwrap_or(b'a');
        usize::from(letter.wrapping_sub(b'a')) % self.target.addresses.len()
    }

    async fn connect(&mut self, who: &str, timeout_ms: i32, server: Option<usize>) -> anyhow::Result<()> {
        let address = &self.target.addresses[server.unwrap_or_else(|| self.server(who))];
        let raw = Raw::connect_patiently(address, None, timeout_ms).await;
        let greeting = raw.greeting.clone();
        self.transcript.name_session(greeting.session, who);
        let is_open = greeting.session != 0;
        self.transcript.line(&format!("{who} connected: {is_open}, {} ms", greeting.timeout_ms));
        let session = raw.session();
        self.opened.push(session.clone());
        self.sessions.insert(who.to_owned(), Client { raw, session, alive: true });
        self.catch_up(who).await
    }

    async fn resume(
        &mut self,
        who: &str,
        server: usize,
        password: Option<bytes::Bytes>,
    ) -> anyhow::Result<()> {
        self.ensure(who).await?;
        let before = self.sessions.remove(who).context("no session to go on with")?;
        let mut session = before.session.clone();
        drop(before);
        if let Some(password) = password {
            session.password = password;
        }
        let address = &self.target.addresses[server];
        // A server that is behind sends whoever has seen more away: the sync below lets it
        // catch up instead.
        let raw = Raw::connect_patiently(address, Some(&session), 10_000).await;
        let is_same = raw.greeting.session == session.id;
        self.transcript.line(&format!("{who} resumed: {is_same}, {} ms", raw.greeting.timeout_ms));
        self.sessions.insert(who.to_owned(), Client { raw, session, alive: is_same });
        self.catch_up(who).await
    }

    /// Closes all sessions: one that expired in the middle of the next scenario would take a zxid.
    async fn close_all(&mut self) -> anyhow::Result<()> {
        self.sessions.clear();
        for session in self.opened.drain(..).filter(|session| session.id != 0) {
            let mut raw = Raw::connect_patiently(&self.target.addresses[0], Some(&session), 10_000).await;
            if raw.greeting.session == session.id {
                let xid = raw.send(&Request::CloseSession).await?;
                raw.answer(xid).await?;
            }
        }
        Ok(())
    }

    /// Lets a session's server see what the others have been told.
    async fn catch_up(&mut self, who: &str) -> anyhow::Result<()> {
        let client = self.sessions.get_mut(who).context("no session")?;
        if !client.alive {
            return Ok(());
        }
        let xid = client.raw.send(&Request::Sync("/".to_owned())).await?;
        client.alive = client.raw.answer(xid).await?.is_some();
        Ok(())
    }

    /// Everybody hears of everything so far, and what they hear is written down.
    async fn listen(&mut self) -> anyhow::Result<()> {
        let mut asked = Vec::new();
        for (name, client) in self.sessions.iter_mut().filter(|(_, client)| client.alive) {
            if let Ok(xid) = client.raw.send(&Request::Sync("/".to_owned())).await {
                asked.push((name.clone(), xid));
            } else {
                client.alive = false;
            }
        }
        for (name, xid) in asked {
            let client = self.sessions.get_mut(&name).context("no session")?;
            client.alive = client.raw.answer(xid).await?.is_some();
            if !client.alive {
                self.transcript.line(&format!("  {name} is cut off"));
            }
            self.events(&name);
        }
        Ok(())
    }

    fn events(&mut self, who: &str) {
        let Some(client) = self.sessions.get_mut(who) else { return };
        for (_, event) in client.raw.events.drain(..) {
            let kind = EventType::from_number(event.event_type);
            let kind = kind.map_or_else(|| event.event_type.to_string(), |kind| format!("{kind:?}"));
            self.transcript.line(&format!("  {who} hears {kind} {}", event.path));
        }
    }
}

fn is_write(request: &Request) -> bool {
    matches!(
        request.op(),
        OpCode::Create
            | OpCode::Create2
            | OpCode::CreateContainer
            | OpCode::CreateTtl
            | OpCode::Delete
            | OpCode::SetData
            | OpCode::SetAcl
            | OpCode::Multi
    )
}
