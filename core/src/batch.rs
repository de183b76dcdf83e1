//! How commands travel. One Raft entry is one batch; a batch is what its leader
//! stamped, then units; a unit is what one server submitted in one go. A unit is
//! encoded once, by the server that its client is connected to, and its bytes
//! are forwarded, logged and replicated as they are. The leader checks that what
//! it proposes decodes ([`check_unit`]); [`apply`] decodes one command at a time, so that the
//! allocator can reuse each command's memory for the next. Every replica refuses a command that
//! does not decode there, and the rest of its unit: no bytes in the log can stop a cluster.
//!
//! ```text
//! batch = [format: u8 = 7] [crc32 of what follows: u32 le]
//!         [wall_ms: u64 le] [cluster_ms: u64 le] [checked zxid: u64 le] [its digest: u64 le] unit*
//! unit  = [server: u64 le] [boot: u64 le] [seq: u64 le] [length: u32 le] [postcard Command]*
//! ```

use std::iter;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use memchr::memmem;

use crate::Zxid;
use crate::state::{Applied, Command, State, Submitted, Timestamp};

const FORMAT: u8 = 7;
/// Format and checksum.
const ENVELOPE_BYTES: usize = 1 + 4;
const HEADER_BYTES: usize = ENVELOPE_BYTES + 8 + 8 + 8 + 8;
const UNIT_HEADER_BYTES: usize = 8 + 8 + 8 + 4;

/// The `seq` of a unit that is proposed at most once: a leader's own decisions.
/// What one leader decided is never sent again in the name of a later one.
pub const UNSEQUENCED: u64 = 0;

/// What the leader says with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// When it was proposed.
    pub timestamp: Timestamp,
    /// A point that the leader has applied: its zxid and its state's digest
    /// there. Every server that passed that point compares.
    pub checkpoint: (Zxid, u64),
}

/// Who submitted a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The server.
    pub server: u64,
    /// Which boot of it, and which unit of that boot.
    pub unit: Submitted,
}

/// What became of a part of a batch.
#[derive(Debug)]
pub enum UnitOutcome {
    /// A command of a unit was applied: which one, from 0, and what it did.
    Applied(usize, Applied),
    /// The unit was skipped: a repeat, or one whose predecessor was lost on the way
    /// and that will be sent again.
    Skipped,
    /// A command of the unit does not decode: neither it nor the commands after it were applied.
    /// The unit counts as submitted, so that the units after it are not skipped for ever.
    Undecodable,
}

/// Bytes that are not a batch: damage on this server, or a newer format. No server
/// stores such a batch when another sends it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Written by a newer version.
    #[error("batch format {0} is not known to this version")]
    Format(u8),
    /// Ends in the middle of its header.
    #[error("the batch is cut off")]
    CutOff,
    /// It is not what its leader encoded.
    #[error("the checksum of the batch is wrong")]
    Checksum,
}

/// Bytes that are not a unit.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// Shorter than its header says, or longer.
    #[error("the unit has {actual} bytes, not {expected}")]
    Length {
        /// Bytes after the header, as the header says; 0 without a whole header.
        expected: usize,
        /// Bytes that are there.
        actual: usize,
    },
    /// It has no command.
    #[error("the unit is empty")]
    Empty,
    /// A command does not decode.
    #[error("command {index} does not decode")]
    Decode {
        /// Counted from 0.
        index: usize,
        /// Why.
        #[source]
        cause: postcard::Error,
    },
}

/// Encodes one unit.
#[must_use]
pub fn encode_unit(origin: Origin, commands: &[Command]) -> Bytes {
    let mut payload = Vec::new();
    for command in commands {
        payload = encode_command(command, payload);
    }
    seal_unit(origin, &payload)
}

/// Appends a command to the payload of a unit.
#[must_use]
pub fn encode_command(command: &Command, payload: Vec<u8>) -> Vec<u8> {
    postcard::to_extend(command, payload).expect("commands have no fallible part")
}

/// Makes a unit of commands that are encoded already.
#[must_use]
pub fn seal_unit(origin: Origin, payload: &[u8]) -> Bytes {
    let mut unit = BytesMut::with_capacity(UNIT_HEADER_BYTES + payload.len());
    unit.put_u64_le(origin.server);
    unit.put_u64_le(origin.unit.boot);
    unit.put_u64_le(origin.unit.seq);
    unit.put_u32_le(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    unit.put_slice(payload);
    unit.freeze()
}

/// Puts a leader's header before units that are already encoded.
pub fn encode_batch<'a>(header: Header, units: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let bytes = units.clone().map(Bytes::len).sum::<usize>();
    let mut batch = BytesMut::with_capacity(HEADER_BYTES + bytes);
    batch.put_u8(FORMAT);
    batch.put_u32_le(0);
    batch.put_u64_le(header.timestamp.wall_ms);
    batch.put_u64_le(header.timestamp.cluster_ms);
    batch.put_u64_le(header.checkpoint.0);
    batch.put_u64_le(header.checkpoint.1);
    for unit in units {
        batch.put_slice(unit);
    }
    let checksum = crc32fast::hash(&batch[ENVELOPE_BYTES..]);
    batch[1..ENVELOPE_BYTES].copy_from_slice(&checksum.to_le_bytes());
    batch.freeze()
}

/// Sets the format byte and a valid checksum, so that fuzz inputs reach the decoder behind them.
#[cfg(fuzzing)]
#[must_use]
pub fn fix_checksum(bytes: Bytes) -> Bytes {
    let mut batch = BytesMut::from(bytes);
    if batch.len() >= ENVELOPE_BYTES {
        batch[0] = FORMAT;
        let checksum = crc32fast::hash(&batch[ENVELOPE_BYTES..]);
        batch[1..ENVELOPE_BYTES].copy_from_slice(&checksum.to_le_bytes());
    }
    batch.freeze()
}

/// Checks that a unit is whole and that all of its commands decode.
///
/// # Errors
/// When it must not be proposed.
pub fn check_unit(unit: &Bytes) -> Result<Origin, UnitError> {
    let mut rest = unit.clone();
    let wrong_length = |expected, actual| UnitError::Length { expected, actual };
    let (origin, expected) = take_unit_header(&mut rest).ok_or_else(|| wrong_length(0, unit.len()))?;
    if rest.len() != expected {
        return Err(wrong_length(expected, rest.len()));
    }
    if rest.is_empty() {
        return Err(UnitError::Empty);
    }
    for (index, command) in CommandDecoder(rest).enumerate() {
        command.map_err(|cause| UnitError::Decode { index, cause })?;
    }
    Ok(origin)
}

/// The header of a unit and the length of what follows it; `None` when it is cut off.
fn take_unit_header(bytes: &mut Bytes) -> Option<(Origin, usize)> {
    if bytes.len() < UNIT_HEADER_BYTES {
        return None;
    }
    let server = bytes.get_u64_le();
    let unit = Submitted { boot: bytes.get_u64_le(), seq: bytes.get_u64_le() };
    Some((Origin { server, unit }, bytes.get_u32_le() as usize))
}

/// A batch, its commands still encoded.
#[derive(Debug)]
pub struct Batch {
    /// What the leader said.
    pub header: Header,
    units: Bytes,
}

impl Batch {
    /// Verifies the checksum and reads the header.
    ///
    /// # Errors
    /// For a format that this version does not know, and for damage.
    pub fn decode(mut bytes: Bytes) -> Result<Self, BatchError> {
        match bytes.first() {
            Some(&FORMAT) => {}
            Some(&other) => return Err(BatchError::Format(other)),
            None => return Err(BatchError::CutOff),
        }
        if bytes.len() < HEADER_BYTES {
            return Err(BatchError::CutOff);
        }
        bytes.advance(1);
        if bytes.get_u32_le() != crc32fast::hash(&bytes) {
            return Err(BatchError::Checksum);
        }
        let now = Timestamp { wall_ms: bytes.get_u64_le(), cluster_ms: bytes.get_u64_le() };
        let checkpoint = (bytes.get_u64_le(), bytes.get_u64_le());
        Ok(Self { header: Header { timestamp: now, checkpoint }, units: bytes })
    }

    /// All commands of each unit whose bytes contain `path`, in order and decoded lazily; those of
    /// a unit end at the first that does not decode. The batch is unchanged.
    pub fn decode_units_containing(&self, path: &'static str) -> impl Iterator<Item = Command> {
        let mut batch = Self { header: self.header, units: self.units.clone() };
        let units = iter::from_fn(move || batch.next_unit()).flatten();
        let with_path = units.filter(move |(_, payload)| memmem::find(payload, path.as_bytes()).is_some());
        with_path.flat_map(|(_, payload)| CommandDecoder(payload).map_while(Result::ok))
    }

    /// The next unit, its commands still encoded. What is no unit ends the batch:
    /// nothing says where the next one would begin.
    fn next_unit(&mut self) -> Option<Result<(Origin, Bytes), MalformedUnit>> {
        if self.units.is_empty() {
            return None;
        }
        match take_unit_header(&mut self.units) {
            Some((origin, len)) if len <= self.units.len() => Some(Ok((origin, self.units.split_to(len)))),
            _ => {
                self.units.clear();
                Some(Err(MalformedUnit))
            }
        }
    }
}

/// Bytes that have no unit's header, or are fewer than the header says.
#[derive(Debug)]
struct MalformedUnit;

/// Stands for whoever made a unit whose header cannot be read.
const NOBODY: Origin = Origin { server: 0, unit: Submitted { boot: 0, seq: UNSEQUENCED } };

/// Applies a batch to the state: the units in order, each once. `after` hears of
/// each command as soon as it is applied, with the state as it is then. At a command that does
/// not decode it hears of [`UnitOutcome::Undecodable`], and the rest of the unit is skipped; at bytes
/// that have no unit's header, the rest of the batch is.
pub fn apply(state: &mut State, mut batch: Batch, mut after: impl FnMut(&State, Origin, UnitOutcome)) {
    let now = batch.header.timestamp;
    while let Some(unit) = batch.next_unit() {
        let Ok((origin, payload)) = unit else {
            after(state, NOBODY, UnitOutcome::Undecodable);
            continue;
        };
        if origin.unit.seq != UNSEQUENCED && !state.note_submitted(origin.server, origin.unit) {
            after(state, origin, UnitOutcome::Skipped);
            continue;
        }
        for (index, command) in CommandDecoder(payload).enumerate() {
            let Ok(command) = command else {
                after(state, origin, UnitOutcome::Undecodable);
                break;
            };
            let applied = state.apply(state.zxid() + 1, now, command);
            after(state, origin, UnitOutcome::Applied(index, applied));
        }
    }
}

/// Decodes the commands of a unit. It ends after the first error.
struct CommandDecoder(Bytes);

impl Iterator for CommandDecoder {
    type Item = Result<Command, postcard::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let (command, rest) = match postcard::take_from_bytes(&self.0) {
            Ok((command, rest)) => (Ok(command), rest.len()),
            Err(error) => (Err(error), 0),
        };
        self.0.advance(self.0.len() - rest);
        Some(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Actor, CreateMode, Import, Op};

    fn create(path: &str) -> Command {
        let op = Op::create(path.into(), Bytes::from_static(b"x"), CreateMode::Persistent);
        Command::Write { by: Actor::rota(None), op }
    }

    fn unit(boot: u64, seq: u64, path: &str) -> Bytes {
        encode_unit(Origin { server: 3, unit: Submitted { boot, seq } }, &[create(path)])
    }

    fn batch(units: &[Bytes]) -> Batch {
        let header = Header { timestamp: Timestamp::at(5), checkpoint: (0, 0) };
        Batch::decode(encode_batch(header, units.iter())).unwrap()
    }

    #[test]
    fn a_unit_sent_again_is_done_once_and_none_overtakes_a_lost_one() {
        let mut state = State::new();
        let mut done = |batch: Batch| {
            let mut done = Vec::new();
            apply(&mut state, batch, |_, _, fate| done.push(matches!(fate, UnitOutcome::Applied(0, _))));
            done
        };
        let first = batch(&[unit(1, 1, "/a"), unit(1, 1, "/a"), unit(1, 3, "/c")]);
        assert_eq!(done(first), [true, false, false]);
        let again = batch(&[unit(1, 1, "/a"), unit(1, 2, "/b"), unit(1, 3, "/c")]);
        assert_eq!(done(again), [false, true, true]);
        let restarted = batch(&[unit(2, 1, "/d"), unit(1, 4, "/e")]);
        assert_eq!(done(restarted), [true, false]);
        let unsequenced = batch(&[unit(0, UNSEQUENCED, "/f"), unit(0, UNSEQUENCED, "/g")]);
        assert_eq!(done(unsequenced), [true, true]);
        assert_eq!(state.zxid(), 6);
    }

    /// The bytes of format 7, once written, stay readable: a change of an enum
    /// that breaks this needs a new format number.
    #[test]
    fn format_7_reads_as_it_always_did() {
        let now = Timestamp { wall_ms: 5, cluster_ms: 4 };
        let bytes = encode_batch(Header { timestamp: now, checkpoint: (6, 7) }, [unit(1, 2, "/a")].iter());
        let golden: &[u8] = &[
            7, 61, 162, 160, 190, 5, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7,
            0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 13,
            0, 0, 0, 2, 0, 0, 0, 0, 2, 47, 97, 1, 1, 120, 0, 0,
        ];
        assert_eq!(&bytes[..], golden);
    }

    /// A server that does not know a command refuses what others apply, and diverges: one more
    /// command or operation is another format, which such a server refuses to store.
    #[test]
    fn format_7_has_these_commands_and_operations() {
        let known = |command: &Command| match command {
            Command::OpenSession { .. }
            | Command::CloseSession { .. }
            | Command::Multi { .. }
            | Command::ResumeSession { .. }
            | Command::Announce { .. }
            | Command::ExpireSession { .. }
            | Command::Import(Import::Begin | Import::More { .. } | Import::End { .. } | Import::Abandon) => {
                7
            }
            Command::Write { op, .. } => match op {
                Op::Create { .. }
                | Op::Delete { .. }
                | Op::SetData { .. }
                | Op::Check { .. }
                | Op::CheckFence { .. }
                | Op::SetAcl { .. }
                | Op::Ensure { .. }
                | Op::Reap { .. } => 7,
            },
        };
        assert_eq!(known(&create("/a")), FORMAT, "name the format whose commands these are");
    }

    #[test]
    fn a_batch_that_is_not_what_was_encoded_is_noticed() {
        let bytes = encode_batch(
            Header { timestamp: Timestamp::at(5), checkpoint: (6, 7) },
            [unit(1, 1, "/a")].iter(),
        );
        assert_eq!(Batch::decode(Bytes::from_static(&[9])).unwrap_err(), BatchError::Format(9));
        assert_eq!(Batch::decode(Bytes::new()).unwrap_err(), BatchError::CutOff);
        assert_eq!(Batch::decode(bytes.slice(..8)).unwrap_err(), BatchError::CutOff);
        let shorter = bytes.slice(..bytes.len() - 1);
        assert_eq!(Batch::decode(shorter).unwrap_err(), BatchError::Checksum);
        for at in ENVELOPE_BYTES..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1;
            assert_eq!(Batch::decode(flipped.into()).unwrap_err(), BatchError::Checksum, "byte {at}");
        }
    }

    #[test]
    fn what_does_not_decode_is_refused_and_the_rest_is_done() {
        let garbage = seal_unit(Origin { server: 4, unit: Submitted { boot: 1, seq: 1 } }, &[0xff; 100]);
        // Its first command is valid, and is applied.
        let sound = encode_command(&create("/half"), Vec::new());
        let half = [&sound[..], &[0xff; 9]].concat();
        let half = seal_unit(Origin { server: 5, unit: Submitted { boot: 1, seq: 1 } }, &half);
        let no_unit = Bytes::from_static(&[0xff; 100]);
        let mut state = State::new();
        let mut fates = Vec::new();
        let after_half =
            encode_unit(Origin { server: 5, unit: Submitted { boot: 1, seq: 2 } }, &[create("/d")]);
        let units =
            [unit(1, 1, "/a"), garbage, half, unit(1, 2, "/b"), after_half, no_unit, unit(1, 3, "/c")];
        apply(&mut state, batch(&units), |_, origin, fate| {
            fates.push((origin.server, matches!(fate, UnitOutcome::Applied(0, _))));
        });
        assert_eq!(fates, [(3, true), (4, false), (5, true), (5, false), (3, true), (5, true), (0, false)]);
        assert_eq!(state.zxid(), 4);
        let counted = Some(Submitted { boot: 1, seq: 1 });
        assert_eq!(state.submitted(4), counted, "what follows a refused unit is not skipped");
    }

    #[test]
    fn commands_are_found_by_the_path_in_their_unit() {
        let origin = |seq| Origin { server: 3, unit: Submitted { boot: 1, seq } };
        let [inside, outside] = ["/rota/pools/p", "/rota-pools"].map(create);
        let mixed = encode_unit(origin(1), &[outside.clone(), inside.clone()]);
        let others = encode_unit(origin(2), std::slice::from_ref(&outside));
        let sound = encode_command(&inside, Vec::new());
        let cut_off = seal_unit(origin(3), &[&sound[..], &[0xff; 9]].concat());
        let found = |units: &[Bytes]| batch(units).decode_units_containing("/rota/pools").collect::<Vec<_>>();
        assert_eq!(found(&[others.clone(), mixed.clone()]), [outside, inside.clone()]);
        assert_eq!(found(&[cut_off, others]), [inside]);
        let mut left = batch(&[mixed]);
        assert_eq!(left.decode_units_containing("/rota/pools").count(), 2);
        assert!(left.next_unit().is_some(), "the units stay in the batch");
    }

    #[test]
    fn a_leader_proposes_whole_units_only() {
        let sound = unit(1, 1, "/a");
        assert_eq!(check_unit(&sound).unwrap().server, 3);
        assert!(matches!(check_unit(&Bytes::from_static(&[0xff; 100])), Err(UnitError::Length { .. })));
        assert!(matches!(check_unit(&sound.slice(..sound.len() - 1)), Err(UnitError::Length { .. })));
        let two = Bytes::from([&sound[..], &sound[..]].concat());
        assert!(matches!(check_unit(&two), Err(UnitError::Length { .. })));
        let origin = Origin { server: 3, unit: Submitted { boot: 1, seq: 1 } };
        assert!(matches!(check_unit(&seal_unit(origin, &[])), Err(UnitError::Empty)));
        let garbage = seal_unit(origin, &[0xff; 9]);
        assert!(matches!(check_unit(&garbage), Err(UnitError::Decode { index: 0, .. })));
        assert!(check_unit(&Bytes::new()).is_err());
    }
}
