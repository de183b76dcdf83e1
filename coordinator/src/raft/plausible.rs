//! Bounds on the terms and log positions that other servers send, requests and replies
//! alike: a number near the largest would leave none for the next election.

use std::io;

use rota_protocol::peer::{LogId, Vote};

/// The lead that a term may have over this server's. Each election adds one; a server that has
/// missed a million of them is not plausible.
const TERM_LEAP_MAX: u64 = 1_000_000;
/// Terms, indexes and milliseconds that no cluster reaches: a million a second for 100,000 years
/// is less.
const PLAUSIBLE_MAX: u64 = 1 << 62;

/// Data of another server that cannot be true.
pub(super) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Checks the vote of another server at `own_term`, this server's.
pub(super) fn check_term(vote: &Vote, own_term: u64) -> io::Result<()> {
    match vote.term <= own_term.saturating_add(TERM_LEAP_MAX) && vote.term < PLAUSIBLE_MAX {
        true => Ok(()),
        false => {
            Err(invalid(format!("term {} is not plausible: this server is in term {own_term}", vote.term)))
        }
    }
}

/// Checks a position in the log of another server.
pub(super) fn check_log_id(id: Option<&LogId>) -> io::Result<()> {
    match id.is_none_or(|id| id.index < PLAUSIBLE_MAX && id.term < PLAUSIBLE_MAX) {
        true => Ok(()),
        false => Err(invalid(format!("log position {id:?} is not plausible"))),
    }
}

/// Checks a time of the cluster's clock.
pub(super) fn check_clock(clock_ms: u64) -> io::Result<()> {
    match clock_ms < PLAUSIBLE_MAX {
        true => Ok(()),
        false => Err(invalid(format!("{clock_ms} ms of the cluster's clock are not plausible"))),
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
        assert!(check_term(&vote(PLAUSIBLE_MAX), PLAUSIBLE_MAX).is_err());
        assert!(check_term(&vote(u64::MAX), u64::MAX).is_err());
        let at = |term, index| LogId { term, leader: 2, index };
        assert!(check_log_id(None).is_ok() && check_log_id(Some(&at(3, 9))).is_ok());
        assert!(check_log_id(Some(&at(3, PLAUSIBLE_MAX))).is_err());
        assert!(check_log_id(Some(&at(PLAUSIBLE_MAX, 9))).is_err());
        assert!(check_clock(1 << 45).is_ok() && check_clock(PLAUSIBLE_MAX).is_err());
    }
}
