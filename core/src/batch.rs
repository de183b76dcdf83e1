//! How commands travel. One Raft entry is one batch; a batch is what its leader
//! stamped, then units; a unit is what one server submitted in one go. A unit is
//! encoded once, by the server that its client is connected to, and its bytes
//! are forwarded, logged and replicated as they are; only [`apply`] decodes them.
//!
//! ```text
//! batch = [format: u8 = 5] [time_ms: u64 le] [checked zxid: u64 le] [its digest: u64 le] unit*
//! unit  = [server: u64 le] [boot: u64 le] [seq: u64 le] [length: u32 le] [postcard Command]*
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::Zxid;
use crate::state::{Applied, Command, State, Submitted};

const FORMAT: u8 = 5;
const HEADER_BYTES: usize = 1 + 8 + 8 + 8;
const UNIT_HEADER_BYTES: usize = 8 + 8 + 8 + 4;

/// The `seq` of a unit that is proposed at most once: a leader's own decisions.
/// What one leader decided is never sent again in the name of a later one.
pub const UNSEQUENCED: u64 = 0;

/// What the leader says with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The leader's clock, milliseconds since 1970.
    pub time_ms: u64,
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
pub enum Fate {
    /// A command of a unit was applied: which one, from 0, and what it did.
    Applied(usize, Applied),
    /// The unit was skipped: a repeat, or one whose predecessor was lost on the way
    /// and that will be sent again.
    Skipped,
}

/// Bytes that are not a batch. A committed batch that does not decode is either
/// damage or a newer format; either way this server cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Written by a newer version.
    #[error("batch format {0} is not known to this version")]
    Format(u8),
    /// Ends in the middle.
    #[error("the batch is cut off")]
    CutOff,
    /// A command does not decode.
    #[error("a command does not decode")]
    Decode(#[from] postcard::Error),
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
    batch.put_u64_le(header.time_ms);
    batch.put_u64_le(header.checkpoint.0);
    batch.put_u64_le(header.checkpoint.1);
    for unit in units {
        batch.put_slice(unit);
    }
    batch.freeze()
}

/// A decoded batch, its commands still encoded.
#[derive(Debug)]
pub struct Batch {
    /// What the leader said.
    pub header: Header,
    units: Bytes,
}

impl Batch {
    /// Reads the header.
    ///
    /// # Errors
    /// For a format that this version does not know, and for a cut-off batch.
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
        let time_ms = bytes.get_u64_le();
        let checkpoint = (bytes.get_u64_le(), bytes.get_u64_le());
        Ok(Self { header: Header { time_ms, checkpoint }, units: bytes })
    }

    /// The next unit, its commands still encoded.
    fn next_unit(&mut self) -> Result<Option<(Origin, Bytes)>, BatchError> {
        if self.units.is_empty() {
            return Ok(None);
        }
        if self.units.len() < UNIT_HEADER_BYTES {
            return Err(BatchError::CutOff);
        }
        let server = self.units.get_u64_le();
        let unit = Submitted { boot: self.units.get_u64_le(), seq: self.units.get_u64_le() };
        let len = self.units.get_u32_le() as usize;
        if self.units.len() < len {
            return Err(BatchError::CutOff);
        }
        Ok(Some((Origin { server, unit }, self.units.split_to(len))))
    }
}

/// Applies a batch to the state: the units in order, each once. `after` hears of
/// each command as soon as it is applied, with the state as it is then.
///
/// # Errors
/// When the batch does not decode. The state may then have taken a part of it,
/// and the server must stop.
pub fn apply(
    state: &mut State,
    mut batch: Batch,
    mut after: impl FnMut(&State, Origin, Fate),
) -> Result<(), BatchError> {
    let time_ms = batch.header.time_ms;
    while let Some((origin, mut payload)) = batch.next_unit()? {
        if origin.unit.seq != UNSEQUENCED && !state.note_submitted(origin.server, origin.unit) {
            after(state, origin, Fate::Skipped);
            continue;
        }
        let mut index = 0;
        while !payload.is_empty() {
            let applied = state.apply(state.zxid() + 1, time_ms, next_command(&mut payload)?);
            after(state, origin, Fate::Applied(index, applied));
            index += 1;
        }
    }
    Ok(())
}

fn next_command(payload: &mut Bytes) -> Result<Command, BatchError> {
    let (command, rest) = postcard::take_from_bytes(payload)?;
    let taken = payload.len() - rest.len();
    payload.advance(taken);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Actor, CreateMode, Op};

    fn create(path: &str) -> Command {
        let op = Op::create(path.into(), Bytes::from_static(b"x"), CreateMode::Persistent);
        Command::Write { by: Actor::rota(None), op }
    }

    fn unit(boot: u64, seq: u64, path: &str) -> Bytes {
        encode_unit(Origin { server: 3, unit: Submitted { boot, seq } }, &[create(path)])
    }

    fn batch(units: &[Bytes]) -> Batch {
        let header = Header { time_ms: 5, checkpoint: (0, 0) };
        Batch::decode(encode_batch(header, units.iter())).unwrap()
    }

    #[test]
    fn a_unit_sent_again_is_done_once_and_none_overtakes_a_lost_one() {
        let mut state = State::new();
        let mut done = |batch: Batch| {
            let mut done = Vec::new();
            apply(&mut state, batch, |_, _, fate| done.push(matches!(fate, Fate::Applied(0, _)))).unwrap();
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

    /// The bytes of format 5, once written, stay readable: a change of an enum
    /// that breaks this needs a new format number.
    #[test]
    fn format_5_reads_as_it_always_did() {
        let bytes = encode_batch(Header { time_ms: 5, checkpoint: (6, 7) }, [unit(1, 2, "/a")].iter());
        let golden: &[u8] = &[
            5, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0,
            0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 13, 0, 0, 0, 2, 0, 0, 0, 0, 2, 47, 97, 1, 1,
            120, 0, 0,
        ];
        assert_eq!(&bytes[..], golden);
        assert!(Batch::decode(Bytes::from_static(&[9])).is_err());
        let cut = Batch::decode(bytes.slice(..bytes.len() - 1)).unwrap();
        assert!(apply(&mut State::new(), cut, |_, _, _| panic!("nothing of it is applied")).is_err());
    }
}
