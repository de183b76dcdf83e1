//! How a source stands in the index. Apart from [`Source`], so that one can
//! change without the other; the version says which form a record has.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::identity::{FileId, Mark, Stat, Trace};
use super::source::{Incarnation, Reader, Source, State};
use crate::wire::{Gap, GapReason};

/// The version of a record. A record of another version is not read: its
/// source is begun anew.
pub(super) const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) v: u32,
    file: String,
    item: String,
    incarnations: Vec<IncarnationRecord>,
    reader: Option<(u64, u64)>,
    gaps: Vec<Gap>,
    seen_ms: u64,
    gone_ms: Option<u64>,
    retired: bool,
}

#[derive(Serialize, Deserialize)]
struct IncarnationRecord {
    number: u64,
    id: (u64, u64, u64),
    size: u64,
    changed_ns: u64,
    head: (u64, u64),
    tail: (u64, u64),
    state: StateRecord,
    grown_ms: u64,
    passed_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StateRecord {
    Live,
    /// The path as bytes: it need not be UTF-8.
    Away {
        at: Option<Vec<u8>>,
        since_ms: u64,
    },
    Lost(GapReason),
}

impl Record {
    pub(super) fn of(source: &Source) -> Self {
        Self {
            v: VERSION,
            file: source.file.clone(),
            item: source.item.clone(),
            incarnations: source.incarnations.iter().map(IncarnationRecord::of).collect(),
            reader: source.reader.map(|reader| (reader.incarnation, reader.offset)),
            gaps: source.gaps.clone(),
            seen_ms: source.seen_ms,
            gone_ms: source.gone_ms,
            retired: source.retired,
        }
    }

    pub(super) fn into_source(self, path: PathBuf) -> Source {
        Source {
            path,
            file: self.file,
            item: self.item,
            incarnations: self.incarnations.into_iter().map(IncarnationRecord::into_incarnation).collect(),
            reader: self.reader.map(|(incarnation, offset)| Reader { incarnation, offset }),
            gaps: self.gaps,
            seen_ms: self.seen_ms,
            gone_ms: self.gone_ms,
            retired: self.retired,
        }
    }
}

impl IncarnationRecord {
    fn of(incarnation: &Incarnation) -> Self {
        let Trace { stat, head, tail } = incarnation.trace;
        let state = match &incarnation.state {
            State::Live => StateRecord::Live,
            State::Away { at, since_ms } => StateRecord::Away {
                at: at.as_ref().map(|at| at.as_os_str().as_bytes().to_vec()),
                since_ms: *since_ms,
            },
            State::Lost(reason) => StateRecord::Lost(*reason),
        };
        Self {
            number: incarnation.number,
            id: (stat.id.dev, stat.id.ino, stat.id.born_ns),
            size: stat.size,
            changed_ns: stat.changed_ns,
            head: (head.len, head.hash),
            tail: (tail.len, tail.hash),
            state,
            grown_ms: incarnation.grown_ms,
            passed_ms: incarnation.passed_ms,
        }
    }

    fn into_incarnation(self) -> Incarnation {
        let (dev, ino, born_ns) = self.id;
        let mark = |(len, hash)| Mark { len, hash };
        let state = match self.state {
            StateRecord::Live => State::Live,
            StateRecord::Away { at, since_ms } => {
                let at = at.map(|bytes| PathBuf::from(OsString::from_vec(bytes)));
                State::Away { at, since_ms }
            }
            StateRecord::Lost(reason) => State::Lost(reason),
        };
        Incarnation {
            number: self.number,
            trace: Trace {
                stat: Stat { id: FileId { dev, ino, born_ns }, size: self.size, changed_ns: self.changed_ns },
                head: mark(self.head),
                tail: mark(self.tail),
            },
            state,
            grown_ms: self.grown_ms,
            passed_ms: self.passed_ms,
            recorded: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_record_holds_all_of_a_source() {
        let odd = PathBuf::from(OsStr::from_bytes(b"/v/\xff.1"));
        let trace = Trace {
            stat: Stat { id: FileId { dev: 1, ino: 2, born_ns: 3 }, size: 4, changed_ns: 5 },
            head: Mark { len: 4, hash: u64::MAX },
            tail: Mark { len: 4, hash: 7 },
        };
        let incarnation = |number, state| Incarnation {
            number,
            trace,
            state,
            grown_ms: 8,
            passed_ms: Some(9),
            recorded: true,
        };
        let source = Source {
            path: "/v/f".into(),
            file: "f".into(),
            item: "a@h:f".into(),
            incarnations: vec![
                incarnation(1, State::Lost(GapReason::Truncated)),
                incarnation(2, State::Away { at: Some(odd), since_ms: 10 }),
                incarnation(3, State::Live),
            ],
            reader: Some(Reader { incarnation: 2, offset: 3 }),
            gaps: vec![Gap { incarnation: 1, from: 0, to: 4, reason: GapReason::Truncated }],
            seen_ms: 11,
            gone_ms: None,
            retired: true,
        };
        let bytes = serde_json::to_vec(&Record::of(&source)).unwrap();
        let read: Record = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(read.v, VERSION);
        assert_eq!(format!("{:?}", read.into_source("/v/f".into())), format!("{source:?}"));
    }
}
