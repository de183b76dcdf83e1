//! The time that a request may take: so long for finding a coordinator that answers, and so much
//! longer for an answer that takes long by itself.
//!
//! The two are kept apart: a coordinator that is not there must not cost the time that a snapshot
//! may take. Durations are arguments here, no clock is read.

use std::time::Duration;

/// What is left of a request's time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// For finding a coordinator that answers.
    search: Duration,
    /// For the answer of one that was found, before that is counted against the search.
    answer: Duration,
    /// For how long every server has refused connections, one after the other, and how long they
    /// may.
    refused: Duration,
    refused_max: Duration,
}

/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spent {
    /// The server was there: it answered, or did not in time.
    Waiting,
    /// The server could not be reached.
    Searching,
    /// Nothing listens at the server's address.
    Refused,
}

impl Budget {
    pub(crate) fn new(search: Duration, answer: Duration, refused_max: Duration) -> Self {
        Self { search, answer, refused: Duration::ZERO, refused_max }
    }

    /// How long an attempt may take to reach a server; `None` when the time is over.
    pub(crate) fn search(&self) -> Option<Duration> {
        let is_over = self.search.is_zero() || self.is_refused();
        (!is_over).then_some(self.search)
    }

    /// Whether every server has refused connections for as long as they may.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused >= self.refused_max
    }

    /// How long a server may take that was reached, and that has `patience` for an answer that does
    /// not take long by itself.
    pub(crate) fn answer(&self, patience: Duration) -> Duration {
        self.search.min(patience).saturating_add(self.answer)
    }

    /// So long was spent, on that.
    pub(crate) fn spend(&mut self, time: Duration, on: Spent) {
        let beyond = match on {
            Spent::Waiting => {
                let beyond = time.saturating_sub(self.answer);
                self.answer = self.answer.saturating_sub(time);
                beyond
            }
            Spent::Searching | Spent::Refused => time,
        };
        self.search = self.search.saturating_sub(beyond);
        self.refused = match on {
            Spent::Refused => self.refused.saturating_add(time),
            Spent::Waiting | Spent::Searching => Duration::ZERO,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_long_answer_costs_nothing_of_the_search() {
        let mut budget = Budget::new(seconds(5), seconds(60), Duration::MAX);
        assert_eq!(budget.answer(seconds(2)), seconds(62));
        budget.spend(seconds(61), Spent::Waiting);
        assert_eq!((budget.search(), budget.answer(seconds(2))), (Some(seconds(4)), seconds(2)));
    }

    #[test]
    fn a_search_ends_at_its_deadline_however_long_an_answer_may_take() {
        let mut budget = Budget::new(seconds(5), seconds(60), Duration::MAX);
        budget.spend(seconds(5), Spent::Searching);
        assert_eq!(budget.search(), None);
    }

    #[test]
    fn who_is_only_refused_gives_up_sooner() {
        let mut budget = Budget::new(seconds(15), Duration::ZERO, seconds(2));
        budget.spend(seconds(1), Spent::Refused);
        // One that is there, and has trouble, may soon have less.
        budget.spend(seconds(1), Spent::Waiting);
        budget.spend(seconds(1), Spent::Refused);
        assert_eq!(budget.search(), Some(seconds(12)));
        assert!(!budget.is_refused());
        budget.spend(seconds(1), Spent::Refused);
        assert_eq!((budget.search(), budget.is_refused()), (None, true));
    }

    #[test]
    fn nothing_overflows() {
        let mut budget = Budget::new(Duration::MAX, Duration::MAX, Duration::MAX);
        assert_eq!(budget.answer(Duration::MAX), Duration::MAX);
        budget.spend(Duration::MAX, Spent::Waiting);
        budget.spend(Duration::MAX, Spent::Refused);
        assert_eq!(budget.search(), None);
    }
}
