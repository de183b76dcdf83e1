//! What the worker and its reaper tell each other, as bytes: each message is one packet of fixed
//! length. No I/O, and nothing is allocated: both sides of a fork use it.

use rota_client::BootInstant;

/// The length of a packet: a tag, two numbers of 64 bits and one of 32.
pub(super) const PACKET_BYTES: usize = 21;

/// A message in bytes.
pub(super) type Packet = [u8; PACKET_BYTES];

/// What the reaper is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Until when the work of a session may go on; for ever if `None`.
    Renew { session: u64, deadline: Option<BootInstant> },
    /// Nothing of the session's is left to be watched.
    Close { session: u64 },
    /// A process group that works under a session. `key` is its name here: unlike the number of
    /// the group, it is known before the command starts and is never used again.
    Watch { session: u64, key: u64, group: i32 },
    /// The group has ended: its number may soon be somebody else's.
    Forget { key: u64 },
}

/// What the reaper tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Report {
    /// The session whose deadline has passed.
    pub(super) session: u64,
    /// How many process groups were killed for it.
    pub(super) killed: u32,
}

const RENEW: u8 = 1;
const CLOSE: u8 = 2;
const WATCH: u8 = 3;
const FORGET: u8 = 4;
const REPORT: u8 = 5;

/// What stands for no deadline. Nothing lasts that long.
const NEVER: u64 = u64::MAX;

/// The smallest number of a process group that may be killed: 0 and 1 mean others to kill(2), our
/// own group and every process there is.
const GROUP_MIN: i32 = 2;

impl Command {
    pub(super) fn encode(self) -> Packet {
        match self {
            Self::Renew { session, deadline } => {
                packet(RENEW, session, deadline.map_or(NEVER, BootInstant::as_nanos), 0)
            }
            Self::Close { session } => packet(CLOSE, session, 0, 0),
            Self::Watch { session, key, group } => packet(WATCH, session, key, group),
            Self::Forget { key } => packet(FORGET, 0, key, 0),
        }
    }

    /// `None` if it is no command.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, first, second, group) = parts(bytes)?;
        match tag {
            RENEW => {
                let deadline = (second != NEVER).then_some(BootInstant::from_nanos(second));
                Some(Self::Renew { session: first, deadline })
            }
            CLOSE => Some(Self::Close { session: first }),
            WATCH if group >= GROUP_MIN => Some(Self::Watch { session: first, key: second, group }),
            FORGET => Some(Self::Forget { key: second }),
            _ => None,
        }
    }
}

impl Report {
    pub(super) fn encode(self) -> Packet {
        packet(REPORT, self.session, u64::from(self.killed), 0)
    }

    /// `None` if it is no report.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, session, killed, _) = parts(bytes)?;
        (tag == REPORT).then_some(Self { session, killed: u32::try_from(killed).ok()? })
    }
}

fn packet(tag: u8, first: u64, second: u64, third: i32) -> Packet {
    let mut packet = [0; PACKET_BYTES];
    let numbers = first.to_le_bytes().into_iter().chain(second.to_le_bytes()).chain(third.to_le_bytes());
    packet.iter_mut().zip(std::iter::once(tag).chain(numbers)).for_each(|(to, from)| *to = from);
    packet
}

fn parts(bytes: &[u8]) -> Option<(u8, u64, u64, i32)> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first_chunk()?;
    let (second, rest) = rest.split_first_chunk()?;
    let third = rest.try_into().ok()?;
    Some((*tag, u64::from_le_bytes(*first), u64::from_le_bytes(*second), i32::from_le_bytes(third)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_as_they_went() {
        let deadline = Some(BootInstant::from_nanos(7));
        for command in [
            Command::Renew { session: 1, deadline },
            Command::Renew { session: 1, deadline: None },
            Command::Close { session: u64::MAX },
            Command::Watch { session: 2, key: 3, group: i32::MAX },
            Command::Forget { key: 4 },
        ] {
            assert_eq!(Command::decode(&command.encode()), Some(command));
            assert_eq!(Report::decode(&command.encode()), None);
        }
        let report = Report { session: 5, killed: 6 };
        assert_eq!(Report::decode(&report.encode()), Some(report));
    }

    #[test]
    fn what_is_no_command_kills_nobody() {
        for group in [i32::MIN, -1, 0, 1] {
            assert_eq!(Command::decode(&Command::Watch { session: 1, key: 1, group }.encode()), None);
        }
        for bytes in [&[][..], &[WATCH], &[0; PACKET_BYTES], &[FORGET; PACKET_BYTES + 1]] {
            assert_eq!(Command::decode(bytes), None, "{bytes:?}");
        }
    }
}
