//! A command's output, line by line, whatever bytes are in it and however long
//! its lines are.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// Bytes of a line that are held at once; longer ones come in parts.
const PART_BYTES_MAX: usize = 64 * 1024;

/// A line, or a part of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Without the newline.
    pub(super) bytes: Vec<u8>,
    /// A whole line, not a part of one.
    pub(super) is_whole: bool,
    /// The newline follows.
    ended: bool,
}

impl Line {
    /// As it came.
    pub(super) fn with_end(mut self) -> Vec<u8> {
        if self.ended {
            self.bytes.push(b'\n');
        }
        self.bytes
    }
}

/// Reads lines.
#[derive(Debug)]
pub(super) struct Output<R> {
    reader: BufReader<R>,
    part: Vec<u8>,
    /// What comes next belongs to a line of which a part was returned.
    in_long_line: bool,
}

impl<R: AsyncRead + Unpin> Output<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader: BufReader::new(reader), part: Vec::new(), in_long_line: false }
    }

    /// The next line; `None` at the end. Nothing is lost when this is dropped
    /// before it is done.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let buffer = self.reader.fill_buf().await?;
            if buffer.is_empty() {
                let rest = !self.part.is_empty();
                return Ok(rest.then(|| self.take(true, false)));
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let room = PART_BYTES_MAX - self.part.len();
            let taken = end.unwrap_or(buffer.len()).min(room);
            self.part.extend_from_slice(&buffer[..taken]);
            let ended = end == Some(taken);
            self.reader.consume(taken + usize::from(ended));
            if ended {
                return Ok(Some(self.take(true, true)));
            }
            if self.part.len() >= PART_BYTES_MAX {
                return Ok(Some(self.take(false, false)));
            }
        }
    }

    fn take(&mut self, is_last: bool, ended: bool) -> Line {
        let is_whole = is_last && !self.in_long_line;
        self.in_long_line = !is_last;
        Line { bytes: std::mem::take(&mut self.part), is_whole, ended }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Vec<Line> {
        let mut output = Output::new(bytes);
        let mut lines = Vec::new();
        while let Some(line) = output.next().await.unwrap() {
            lines.push(line);
        }
        lines
    }

    #[tokio::test]
    async fn any_bytes_pass_as_they_are() {
        let long = [vec![b'x'; PART_BYTES_MAX * 2 + 5], b"\n".to_vec()].concat();
        for bytes in [&b"a\n\nb"[..], b"caf\xe9\n", b"", b"\n", &long, &long[..PART_BYTES_MAX], b"a\r\n"] {
            let lines = read(bytes).await;
            let joined: Vec<u8> = lines.into_iter().flat_map(Line::with_end).collect();
            assert!(joined == bytes, "{} bytes", bytes.len());
        }
    }

    #[tokio::test]
    async fn parts_of_a_long_line_are_no_lines() {
        let mut bytes = vec![b'x'; PART_BYTES_MAX];
        bytes.extend_from_slice(b"checkpoint 7\ncheckpoint 8\n");
        let lines = read(&bytes).await;
        let whole: Vec<&[u8]> = lines.iter().filter(|l| l.is_whole).map(|l| l.bytes.as_slice()).collect();
        assert_eq!(whole, [b"checkpoint 8"]);
    }
}
