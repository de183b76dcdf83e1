//! What came out: medians over the rounds, and ratios to the better of the peers; as
//! text, JSON and a chart.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::big::Big;
use crate::chart;
use crate::compare::{Sample, WORKLOADS};
use crate::events::Told;
use crate::faults::{Fault, Noticed};
use crate::sessions::Held;
use crate::systems::Kind;

/// Where it was measured, and with what.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Machine {
    /// The processor, and how many of them.
    pub processor: String,
    /// The kernel.
    pub kernel: String,
    /// The versions of what was compared.
    pub versions: Vec<String>,
    /// How it was asked for.
    pub command: String,
}

impl Machine {
    pub fn this() -> anyhow::Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        let versions = vec![
            first_line(Command::new(rota_tests::rota()).arg("--version")),
            first_line(Command::new("dpkg-query").args(["-W", "-f=zookeeper ${Version}", "zookeeper"])),
            first_line(Command::new("dpkg-query").args(["-W", "-f=etcd-server ${Version}", "etcd-server"])),
        ];
        let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        Ok(Self { processor: format!("{count} x {}", model.unwrap_or("unknown")), kernel, versions, command })
    }
}

/// What a program says first; nothing if it is not there.
fn first_line(command: &mut Command) -> String {
    let said = command.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    said.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

/// All of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    pub machine: Machine,
    pub samples: Vec<Sample>,
    pub noticed: Vec<Noticed>,
    pub told: Vec<Told>,
    pub held: Vec<Held>,
    pub big: Vec<Big>,
}

/// A number of a sample.
pub type Of = fn(&Sample) -> f64;

/// Operations in a second.
pub fn rate(sample: &Sample) -> f64 {
    sample.report.done as f64 / sample.report.seconds
}

impl Results {
    /// Writes them into a folder.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("results.json"), serde_json::to_string(self)?)?;
        fs::write(folder.join("results.txt"), self.text())?;
        fs::write(folder.join("results.svg"), chart::svg(self))?;
        Ok(())
    }

    /// The systems that were compared, in their order.
    pub fn systems(&self) -> Vec<Kind> {
        let samples = self.samples.iter().map(|sample| sample.system);
        let noticed = self.noticed.iter().map(|noticed| noticed.system);
        let told = self.told.iter().map(|told| told.system).chain(self.held.iter().map(|held| held.system));
        let mut kinds: Vec<Kind> =
            samples.chain(noticed).chain(told).chain(self.big.iter().map(|big| big.system)).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }

    /// The median over the rounds; `None` if it was not measured.
    pub fn median(&self, workload: &str, kind: Kind, of: Of) -> Option<f64> {
        let of_it = self.samples.iter().filter(|sample| sample.workload == workload && sample.system == kind);
        median(of_it.map(of).collect())
    }

    fn noticed(&self, fault: Fault, kind: Kind, of: fn(&Noticed) -> f64) -> Option<f64> {
        let of_it = self.noticed.iter().filter(|noticed| noticed.fault == fault && noticed.system == kind);
        median(of_it.map(of).collect())
    }

    /// Tables for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let Machine { processor, kernel, versions, command } = &self.machine;
        let _ =
            writeln!(text, "{processor}, Linux {kernel}; {}\nrota-bench {command}\n", versions.join(", "));
        self.loads(&mut text);
        self.faults(&mut text);
        self.sessions(&mut text);
        self.bigs(&mut text);
        text
    }

    fn loads(&self, text: &mut String) {
        if self.samples.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "{:<8}{:<12}{:>10}{:>8}{:>12}{:>9}{:>9}{:>9}{:>9}{:>9}{:>8}",
            "", "", "ops/s", "ratio", "servers us", "load us", "p50 us", "p99 us", "p99.9", "max us", "MB"
        );
        for workload in WORKLOADS.map(|workload| workload.name) {
            let peers = [Kind::Zookeeper, Kind::Etcd];
            let better = peers.iter().filter_map(|kind| self.median(workload, *kind, rate)).reduce(f64::max);
            for kind in self.systems() {
                let Some(ops) = self.median(workload, kind, rate) else { continue };
                let number = |of: Of| self.median(workload, kind, of).unwrap_or(f64::NAN);
                let ratio = better.map_or(String::new(), |better| format!("{:.2}", ops / better));
                let _ = writeln!(
                    text,
                    "{workload:<8}{:<12}{ops:>10.0}{ratio:>8}{:>12.1}{:>9.1}{:>9.0}{:>9.0}{:>9.0}{:>9.0}{:>8.0}",
                    kind.name(),
                    number(|s| s.servers_us),
                    number(|s| s.report.own_us),
                    number(|s| s.report.latency_us.p50 as f64),
                    number(|s| s.report.latency_us.p99 as f64),
                    number(|s| s.report.latency_us.p999 as f64),
                    number(|s| s.report.latency_us.max as f64),
                    number(|s| s.resident.iter().max().copied().unwrap_or(0) as f64 / 1e6),
                );
            }
        }
        text.push('\n');
    }

    fn faults(&self, text: &mut String) {
        if self.noticed.is_empty() {
            return;
        }
        let _ =
            writeln!(text, "{:<34}{:<12}{:>18}{:>22}", "", "", "without a write ms", "least half second %");
        for fault in Fault::ALL {
            for kind in self.systems() {
                let Some(silence) = self.noticed(fault, kind, |n| n.silence_ms) else { continue };
                let share = self.noticed(fault, kind, |n| n.least_share * 100.0).unwrap_or(f64::NAN);
                let _ = writeln!(text, "{:<34}{:<12}{silence:>18.0}{share:>22.0}", fault.name(), kind.name());
            }
        }
        text.push('\n');
    }

    fn sessions(&self, text: &mut String) {
        for Told { system, watchers, p50_us, max_us, .. } in &self.told {
            let name = system.name();
            let _ = writeln!(
                text,
                "{name:<12}an event to the last of {watchers} watching sessions: {p50_us:.0} us (median), {max_us:.0} us (longest)"
            );
        }
        for held in &self.held {
            let Held { system, count, opened_s, lost, reconnections, bytes, core, core_before } = held;
            let (name, core, before) = (system.name(), core * 100.0, core_before * 100.0);
            let kb = bytes / 1000.0;
            let _ = writeln!(
                text,
                "{name:<12}{count} sessions: opened in {opened_s:.1} s, {lost} lost, {reconnections} reconnections, \
                 {kb:.1} KB each, {core:.1} % of a core ({before:.1} % without)"
            );
        }
        text.push('\n');
    }

    fn bigs(&self, text: &mut String) {
        if self.big.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "{:<12}{:>10}{:>20}{:>20}{:>12}{:>12}",
            "", "nodes", "snapshot p99.9 us", "of the throughput %", "restart s", "MB"
        );
        for big in &self.big {
            let _ = writeln!(
                text,
                "{:<12}{:>10}{:>20}{:>20.0}{:>12.1}{:>12.0}",
                big.system.name(),
                big.nodes,
                big.report.latency_us.p999,
                big.share * 100.0,
                big.restart_s,
                big.resident.iter().max().copied().unwrap_or(0) as f64 / 1e6,
            );
        }
    }
}

/// The middle one, or the mean of the two in the middle.
fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    let (at, is_odd) = (numbers.len() / 2, numbers.len() % 2 == 1);
    let middle = *numbers.get(at)?;
    Some(if is_odd { middle } else { f64::midpoint(numbers[at - 1], middle) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
