//! What a process has used, as the kernel's scheduler counts it.

use std::fs;
use std::time::Duration;

use anyhow::Context;

/// Processor time of all threads, from the scheduler's own nanoseconds: the counters
/// in ticks are unreliable in virtual machines. Threads that have ended are not in it.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let mut total = 0u64;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // One that has just ended is passed over.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        total += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(total))
}

/// Memory that is there, in bytes.
pub fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}
