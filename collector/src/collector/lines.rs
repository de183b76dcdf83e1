//! Cuts a stream of bytes into whole lines. Pure.
//!
//! Only whole lines go to the output, so that who reads it sees no half lines;
//! but no byte is ever changed or dropped, so writing a half line after all is
//! never wrong, and three things make it happen: the line is too long to be
//! held, it has not grown for a while, or nothing can follow it any more.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::wire::CHUNK_BYTES;

/// Longest line that is held back. A longer one is written in parts.
pub const HELD_BYTES_MAX: usize = CHUNK_BYTES;
/// How long a line without its end is held back after it last grew.
pub const HELD_FOR: Duration = Duration::from_secs(1);

/// The end of a stream that is no whole line yet.
#[derive(Debug, Default)]
pub struct Lines {
    held: Vec<u8>,
    grown: Option<Instant>,
}

impl Lines {
    /// Takes the next bytes of the stream and returns what is to be written.
    pub fn push(&mut self, bytes: &Bytes, now: Instant) -> Vec<Bytes> {
        if bytes.is_empty() {
            return Vec::new();
        }
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let mut ready = Vec::new();
        if whole > 0 {
            ready.extend(self.take());
            ready.push(bytes.slice(..whole));
        }
        if whole < bytes.len() {
            self.held.extend_from_slice(&bytes[whole..]);
            self.grown = Some(now);
        }
        if self.held.len() >= HELD_BYTES_MAX {
            ready.extend(self.take());
        }
        ready
    }

    /// Takes what is held back.
    pub fn take(&mut self) -> Option<Bytes> {
        self.grown = None;
        (!self.held.is_empty()).then(|| std::mem::take(&mut self.held).into())
    }

    /// How many bytes are held back.
    #[must_use]
    pub fn held_len(&self) -> u64 {
        self.held.len() as u64
    }

    /// When what is held back is to be written, if nothing comes until then.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.grown.map(|grown| grown + HELD_FOR)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(parts: &[Bytes]) -> String {
        String::from_utf8(parts.concat()).unwrap()
    }

    #[test]
    fn cases() {
        let now = Instant::now();
        let mut lines = Lines::default();
        // pushed, written, held after that
        let cases = [
            ("a", "", 1),
            ("b\n", "ab\n", 0),
            ("c\nd", "c\n", 1),
            ("", "", 1),
            ("\n", "d\n", 0),
            ("\n\n", "\n\n", 0),
        ];
        for (pushed, written, held) in cases {
            assert_eq!(text(&lines.push(&Bytes::from(pushed), now)), written, "after {pushed:?}");
            assert_eq!(lines.held_len(), held, "after {pushed:?}");
            assert_eq!(lines.due().is_some(), held > 0);
        }
    }

    #[test]
    fn a_half_line_is_due_when_it_has_not_grown() {
        let now = Instant::now();
        let mut lines = Lines::default();
        lines.push(&Bytes::from("a"), now);
        lines.push(&Bytes::from("b"), now + HELD_FOR);
        assert_eq!(lines.due(), Some(now + 2 * HELD_FOR));
        assert_eq!(lines.take().unwrap(), "ab");
        assert_eq!((lines.due(), lines.take()), (None, None));
    }

    #[test]
    fn a_line_that_is_too_long_is_written_in_parts() {
        let mut lines = Lines::default();
        let part = Bytes::from(vec![b'x'; HELD_BYTES_MAX - 1]);
        assert!(lines.push(&part, Instant::now()).is_empty());
        assert_eq!(lines.push(&part, Instant::now()).concat().len(), 2 * HELD_BYTES_MAX - 2);
        assert_eq!(text(&lines.push(&Bytes::from("y\n"), Instant::now())), "y\n");
    }

    proptest! {
        #[test]
        fn nothing_is_changed_and_only_whole_lines_come_out(chunks in prop::collection::vec("[ab\n]{0,6}", 0..12)) {
            let (mut lines, mut out) = (Lines::default(), String::new());
            for chunk in &chunks {
                let written = text(&lines.push(&Bytes::from(chunk.clone()), Instant::now()));
                prop_assert!(written.is_empty() || written.ends_with('\n'));
                out.push_str(&written);
            }
            out.push_str(&lines.take().map_or(String::new(), |held| text(&[held])));
            prop_assert_eq!(out, chunks.concat());
        }
    }
}
