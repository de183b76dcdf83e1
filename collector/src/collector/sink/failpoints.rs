//! The steps of a sink's work between which its process may be stopped. Tests
//! let others act at each of them; otherwise this does nothing.

use std::fmt;

/// What has been done last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The claim was staked, the output opened.
    Opened,
    /// No larger claim was seen; the lock is not yet taken.
    Looked,
    /// The lock was taken; the claims not yet looked at again.
    Locked,
    /// No larger claim was seen under the lock; nothing is changed yet.
    Entitled,
    /// The output was changed; the lock is still held.
    Acted,
    /// The lock was not to be had, and a copy was made.
    Copied,
    /// No larger claim was seen after that; the copy is not yet in place.
    CopyEntitled,
    /// The copy is in place.
    Displaced,
}

/// What a test lets happen.
#[derive(Default)]
pub(super) struct Failpoints {
    #[cfg(test)]
    pub(super) at: Option<(Step, Box<dyn FnOnce() + Send>)>,
}

impl Failpoints {
    /// A step has been done.
    pub(super) fn done(&mut self, step: Step) {
        #[cfg(test)]
        if let Some((_, act)) = self.at.take_if(|(at, _)| *at == step) {
            act();
        }
        let _ = step;
    }
}

impl fmt::Debug for Failpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Steps")
    }
}
