//! What the audience sees: redrawn in place on a terminal, plain lines
//! otherwise.

use std::collections::{BTreeMap, VecDeque};
use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use tokio::time::Instant;

use super::observer::{PoolSight, Sight};

/// Events that stay on the screen.
const EVENTS_SHOWN: usize = 12;
/// Without a terminal, the state is told this often.
const TELL_PERIOD: Duration = Duration::from_secs(5);

/// The audience's view. It goes to standard error: the account is the output.
pub(super) struct View {
    began: Instant,
    in_place: bool,
    quiet: bool,
    events: VecDeque<String>,
    lines_drawn: usize,
    last: Option<Sight>,
    told_at: Option<Instant>,
}

impl View {
    pub(super) fn new(quiet: bool) -> Self {
        Self {
            began: Instant::now(),
            in_place: stderr().is_terminal() && !quiet,
            quiet,
            events: VecDeque::new(),
            lines_drawn: 0,
            last: None,
            told_at: None,
        }
    }

    /// Tells an event.
    pub(super) fn event(&mut self, text: impl AsRef<str>) {
        let line = format!("{:6.1} s  {}", self.began.elapsed().as_secs_f64(), text.as_ref());
        if self.quiet {
            return;
        }
        if !self.in_place {
            eprintln!("{line}");
        }
        self.events.push_back(line);
        if self.events.len() > EVENTS_SHOWN {
            self.events.pop_front();
        }
        self.draw();
    }

    /// Takes in a new look at the cluster, and tells what moved since the last.
    pub(super) fn update(&mut self, sight: Sight) {
        if let Some(last) = &self.last {
            for text in changes(last, &sight) {
                self.event(text);
            }
        }
        self.last = Some(sight);
        if self.quiet {
            return;
        }
        if self.in_place {
            self.draw();
        } else if self.told_at.is_none_or(|at| at.elapsed() >= TELL_PERIOD) {
            self.told_at = Some(Instant::now());
            let lines = self.state_lines();
            lines.iter().for_each(|line| eprintln!("          {line}"));
        }
    }

    fn state_lines(&self) -> Vec<String> {
        let Some(sight) = &self.last else { return vec!["starting".to_owned()] };
        let leader = sight.leader.map_or_else(|| "none".to_owned(), |id| format!("coordinator-{id}"));
        let mut lines = vec![format!("leader {leader}, term {}", sight.term)];
        for pool in &sight.pools {
            lines.push(format!(
                "pool {}: table version {}, {} moving",
                pool.name, pool.table.version, pool.moving
            ));
            for member in &pool.members {
                let draining = if member.member.draining { ", draining" } else { "" };
                let progress = member.progress.iter().next_back();
                let progress =
                    progress.map(|(bucket, text)| format!("   {bucket}: {text}")).unwrap_or_default();
                lines
                    .push(format!("  {:<12} {:>3} buckets{draining}{progress}", member.name, member.buckets));
            }
        }
        lines
    }

    fn draw(&mut self) {
        if !self.in_place {
            return;
        }
        let mut screen = String::new();
        if self.lines_drawn > 0 {
            screen.push_str(&format!("\x1b[{}A", self.lines_drawn));
        }
        let lines: Vec<String> = self
            .state_lines()
            .into_iter()
            .chain(["".to_owned()])
            .chain(self.events.iter().cloned())
            .collect();
        for line in &lines {
            // A line that wraps would break the drawing.
            let line: String = line.chars().take(100).collect();
            screen.push_str(&format!("\x1b[2K{line}\n"));
        }
        screen.push_str("\x1b[J");
        self.lines_drawn = lines.len();
        // A terminal that is gone is no reason to stop.
        let _ = stderr().write_all(screen.as_bytes());
    }
}

/// What is different between two looks, in words.
fn changes(before: &Sight, after: &Sight) -> Vec<String> {
    let mut texts = Vec::new();
    if before.leader != after.leader
        && let Some(leader) = after.leader
    {
        texts.push(format!("coordinator-{leader} leads, term {}", after.term));
    }
    for (before, after) in before.pools.iter().zip(&after.pools) {
        texts.extend(moves(before, after));
    }
    texts
}

fn moves(before: &PoolSight, after: &PoolSight) -> Vec<String> {
    let then = before.owners();
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for (bucket, owner) in after.owners() {
        let from = then.get(bucket).copied().unwrap_or("nobody");
        if from != owner {
            *counts.entry((from, owner)).or_default() += 1;
        }
    }
    let version = after.table.version;
    let text = |((from, to), n): (&(&str, &str), &u32)| {
        format!("table {} of {}: {n} buckets from {from} to {to}", version, after.name)
    };
    counts.iter().map(text).collect()
}
