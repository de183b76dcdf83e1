//! What a process has used, as the kernel's scheduler counts it.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// Processor time of all threads, ended ones too, in the scheduler's own nanoseconds
/// (`man 3 clock_getcpuclockid`): the counters in ticks are unreliable in virtual machines.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?))?;
    Ok(clock.now()?.into())
}

/// Memory that is there, in bytes.
pub fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}
