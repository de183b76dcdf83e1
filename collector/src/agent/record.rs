//! How a source stands in the index. Apart from [`Source`], so that one can
//! change without the other; the version says which form a record has.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::gap_list::GapState;
use super::identity::{FileId, Fingerprint, Mark, Stat};
use super::source::{Incarnation, Loss, Reader, Source, State};
use crate::clock::Now;
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
    /// The number of the last gap that the reader has recorded.
    #[serde(default)]
    reader_gaps: u64,
    gaps: Vec<GapRecord>,
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
    passed_ms: Option<u64>,
    /// A path as bytes: it need not be UTF-8.
    #[serde(default)]
    real_path: Option<Vec<u8>>,
}

/// A gap. Before they were numbered, each had an end.
#[derive(Serialize, Deserialize)]
struct GapRecord {
    #[serde(default)]
    number: u64,
    incarnation: u64,
    from: u64,
    to: Option<u64>,
    reason: GapReason,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StateRecord {
    Live,
    /// The path as bytes: it need not be UTF-8.
    Away {
        at: Option<Vec<u8>>,
    },
    Lost(GapReason),
    /// Lost, and nobody saw the end.
    LostOpen(GapReason),
}

impl Record {
    pub(super) fn of(source: &Source) -> Self {
        Self {
            v: VERSION,
            file: source.file.clone(),
            item: source.item.clone(),
            incarnations: source.incarnations.iter().map(IncarnationRecord::of).collect(),
            reader: source.reader.map(|reader| (reader.incarnation, reader.offset)),
            reader_gaps: source.reader.map_or(0, |reader| reader.gaps),
            gaps: source.gaps.iter().map(GapRecord::of).collect(),
            seen_ms: source.seen_ms,
            gone_ms: source.gone.map(|gone| gone.unix_ms),
            retired: source.retired,
        }
    }

    /// The source at `path`. Every duration begins anew at `now`.
    pub(super) fn into_source(self, path: PathBuf, now: Now) -> Source {
        let reader_gaps = self.reader_gaps;
        let gaps = numbered(self.gaps);
        let gap_state = GapState::recorded(gaps.last().map_or(0, |gap| gap.number));
        Source {
            path,
            file: self.file,
            item: self.item,
            incarnations: self.incarnations.into_iter().map(|i| i.into_incarnation(now)).collect(),
            reader: self.reader.map(|(incarnation, offset)| Reader {
                incarnation,
                offset,
                gaps: reader_gaps,
            }),
            gaps,
            gap_state,
            seen_ms: self.seen_ms,
            gone: self.gone_ms.map(|unix_ms| Now { unix_ms, ..now }),
            retired: self.retired,
        }
    }
}

impl IncarnationRecord {
    fn of(incarnation: &Incarnation) -> Self {
        let Fingerprint { stat, head, tail } = incarnation.trace;
        let state = match &incarnation.state {
            State::Live => StateRecord::Live,
            State::Away { at } => StateRecord::Away { at: at.as_deref().map(path_bytes) },
            State::Lost(Loss { reason, is_end_known: true }) => StateRecord::Lost(*reason),
            State::Lost(Loss { reason, is_end_known: false }) => StateRecord::LostOpen(*reason),
        };
        Self {
            number: incarnation.number,
            id: (stat.id.dev, stat.id.ino, stat.id.born_ns),
            size: stat.size,
            changed_ns: stat.changed_ns,
            head: (head.len, head.hash),
            tail: (tail.len, tail.hash),
            state,
            passed_ms: incarnation.passed_ms,
            real_path: incarnation.real_path.as_deref().map(path_bytes),
        }
    }

    fn into_incarnation(self, now: Now) -> Incarnation {
        let (dev, ino, born_ns) = self.id;
        let mark = |(len, hash)| Mark { len, hash };
        let state = match self.state {
            StateRecord::Live => State::Live,
            StateRecord::Away { at } => State::Away { at: at.map(path_of) },
            StateRecord::Lost(reason) => State::Lost(Loss { reason, is_end_known: true }),
            StateRecord::LostOpen(reason) => State::Lost(Loss { reason, is_end_known: false }),
        };
        Incarnation {
            number: self.number,
            trace: Fingerprint {
                stat: Stat { id: FileId { dev, ino, born_ns }, size: self.size, changed_ns: self.changed_ns },
                head: mark(self.head),
                tail: mark(self.tail),
            },
            state,
            real_path: self.real_path.map(path_of),
            quiet_since_ms: now.monotonic_ms,
            passed_ms: self.passed_ms,
            recorded: true,
        }
    }
}

impl GapRecord {
    fn of(gap: &Gap) -> Self {
        let Gap { number, incarnation, from, to, reason } = *gap;
        Self { number, incarnation, from, to, reason }
    }
}

/// Gaps of a record from before they were numbered get the numbers that follow.
fn numbered(gaps: Vec<GapRecord>) -> Vec<Gap> {
    let mut last = 0;
    let number = |gap: GapRecord| {
        last = gap.number.max(last + 1);
        let GapRecord { incarnation, from, to, reason, .. } = gap;
        Gap { number: last, incarnation, from, to, reason }
    };
    gaps.into_iter().map(number).collect()
}

fn path_bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_record_holds_all_of_a_source() {
        let odd = PathBuf::from(OsStr::from_bytes(b"/v/\xff.1"));
        let trace = Fingerprint {
            stat: Stat { id: FileId { dev: 1, ino: 2, born_ns: 3 }, size: 4, changed_ns: 5 },
            head: Mark { len: 4, hash: u64::MAX },
            tail: Mark { len: 4, hash: 7 },
        };
        let incarnation = |number, state| Incarnation {
            number,
            trace,
            state,
            real_path: Some("/real".into()),
            quiet_since_ms: 8,
            passed_ms: Some(9),
            recorded: true,
        };
        let source = Source {
            path: "/v/f".into(),
            file: "f".into(),
            item: "a@h:f".into(),
            incarnations: vec![
                incarnation(0, State::Lost(Loss { reason: GapReason::Gone, is_end_known: false })),
                incarnation(1, State::Lost(Loss { reason: GapReason::Truncated, is_end_known: true })),
                incarnation(2, State::Away { at: Some(odd) }),
                incarnation(3, State::Live),
            ],
            reader: Some(Reader { incarnation: 2, offset: 3, gaps: 5 }),
            gaps: vec![Gap { number: 6, incarnation: 1, from: 0, to: None, reason: GapReason::Truncated }],
            gap_state: GapState::recorded(6),
            seen_ms: 11,
            gone: Some(Now { unix_ms: 12, monotonic_ms: 8 }),
            retired: true,
        };
        let now = Now { unix_ms: 20, monotonic_ms: 8 };
        let bytes = serde_json::to_vec(&Record::of(&source)).unwrap();
        let read: Record = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(read.v, VERSION);
        assert_eq!(format!("{:?}", read.into_source("/v/f".into(), now)), format!("{source:?}"));
    }

    #[test]
    fn a_record_from_before_gaps_were_numbered_is_read() {
        let record = r#"{"v":1,"file":"f","item":"a@h:f","incarnations":[{"number":1,"id":[1,2,3],"size":4,
            "changed_ns":5,"head":[4,6],"tail":[4,7],"state":{"away":{"at":null,"since_ms":10}},"grown_ms":8,
            "passed_ms":null}],"reader":[1,3],"gaps":[{"incarnation":1,"from":0,"to":4,"reason":"gone"}],
            "seen_ms":11,"gone_ms":12,"retired":false}"#;
        let record: Record = serde_json::from_str(record).unwrap();
        let source = record.into_source("/v/f".into(), Now { unix_ms: 20, monotonic_ms: 8 });
        let gap = Gap { number: 1, incarnation: 1, from: 0, to: Some(4), reason: GapReason::Gone };
        assert_eq!((source.gaps, source.incarnations[0].quiet_since_ms), (vec![gap], 8));
    }
}
