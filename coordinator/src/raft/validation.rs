//! Validation of terms, log ids and clock values received from other servers, in requests and
//! replies: a term near `u64::MAX` would leave no term for the next election.

use std::io;

use rota_protocol::peer::{LogId, Vote};

/// Largest accepted difference between a received term and this server's. Each election adds one.
const TERM_LEAP_MAX: u64 = 1_000_000;
/// Largest accepted difference between a received value of the cluster clock and this server's: a
/// server that joins starts at 0. A hundred years, in milliseconds.
const CLOCK_AHEAD_MS_MAX: u64 = 100 * 365 * 24 * 3_600_000;
/// Exclusive limit of terms and log indexes: a million per second reach it in 146,000 years.
const COUNTER_MAX: u64 = 1 << 62;

/// An `InvalidData` error for data from another server.
pub(super) fn invalid_data(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Checks the vote of another server at `own_term`, this server's.
pub(super) fn check_term(vote: &Vote, own_term: u64) -> io::Result<()> {
    match vote.term <= own_term.saturating_add(TERM_LEAP_MAX) && vote.term < COUNTER_MAX {
        true => Ok(()),
        false => Err(invalid_data(format!(
            "term {} is out of range: this server's term is {own_term}, and at most {TERM_LEAP_MAX} more are accepted",
            vote.term
        ))),
    }
}

/// Checks a position in the log of another server.
pub(super) fn check_log_id(id: Option<&LogId>) -> io::Result<()> {
    match id.is_none_or(|id| id.index < COUNTER_MAX && id.term < COUNTER_MAX) {
        true => Ok(()),
        false => Err(invalid_data(format!("log id {id:?} is out of range"))),
    }
}

/// Checks a value of the cluster clock against `own_ms`, this server's.
pub(super) fn check_clock(cluster_ms: u64, own_ms: u64) -> io::Result<()> {
    match cluster_ms <= own_ms.saturating_add(CLOCK_AHEAD_MS_MAX) {
        true => Ok(()),
        false => Err(invalid_data(format!(
            "cluster clock {cluster_ms} ms is out of range: this server's is {own_ms} ms, and at most \
             {CLOCK_AHEAD_MS_MAX} ms more are accepted"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_and_positions_have_bounds() {
        let vote = |term| Vote { term, leader: 2, committed: false };
        assert!(check_term(&vote(7 + TERM_LEAP_MAX), 7).is_ok());
        assert!(check_term(&vote(8 + TERM_LEAP_MAX), 7).is_err());
        assert!(check_term(&vote(COUNTER_MAX), COUNTER_MAX).is_err());
        assert!(check_term(&vote(u64::MAX), u64::MAX).is_err());
        let at = |term, index| LogId { term, leader: 2, index };
        assert!(check_log_id(None).is_ok() && check_log_id(Some(&at(3, 9))).is_ok());
        assert!(check_log_id(Some(&at(3, COUNTER_MAX))).is_err());
        assert!(check_log_id(Some(&at(COUNTER_MAX, 9))).is_err());
        assert!(
            check_clock(CLOCK_AHEAD_MS_MAX + 7, 7).is_ok() && check_clock(CLOCK_AHEAD_MS_MAX + 8, 7).is_err()
        );
    }
}
