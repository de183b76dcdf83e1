//! Laws of snapshots: what is written is read back exactly, in whatever portions
//! it arrives; what is damaged in any one byte, or ends early, is refused.

use std::collections::BTreeSet;

use crate::history::{end, intents, live};
use proptest::prelude::*;
use proptest::sample::Index;
use rota_core::state::check::check;
use rota_core::state::snapshot::{BLOCK_HEADER_BYTES, Decoder, SnapshotError, encode};
use rota_core::state::{Actor, Command, CreateMode, Op, State, Submitted, Timestamp};

fn bytes_of(state: &State) -> Vec<u8> {
    encode(state).flatten().collect()
}

fn decode<'a>(portions: impl IntoIterator<Item = &'a [u8]>) -> Result<State, SnapshotError> {
    let mut decoder = Decoder::new();
    for portion in portions {
        decoder.push(portion)?;
    }
    decoder.finish()
}

/// Cuts `bytes` at these places.
fn portions<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    ends.extend([0, bytes.len()]);
    ends.sort_unstable();
    ends.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(crate::cases(128))]

    #[test]
    fn a_snapshot_round_trips_in_any_portions(
        intents in intents(60),
        servers in prop::collection::btree_set(1u64..9, 0..4),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
    ) {
        let mut state = end(&live(&intents));
        for server in servers {
            state.note_submitted(server, Submitted { boot: server * 3, seq: 1 });
        }
        let bytes = bytes_of(&state);
        let decoded = decode(portions(&bytes, &cuts)).unwrap();
        prop_assert_eq!(&decoded, &state);
        prop_assert_eq!(decoded.digest(), state.digest());
        prop_assert_eq!(bytes_of(&decoded), bytes);
    }

    #[test]
    fn a_flipped_byte_is_refused(
        intents in intents(40),
        flips in prop::collection::vec((any::<Index>(), 1u8..), 8),
        cuts in prop::collection::vec(any::<Index>(), 0..4),
    ) {
        let bytes = bytes_of(&end(&live(&intents)));
        for (at, mask) in flips {
            let mut damaged = bytes.clone();
            *at.get_mut(&mut damaged) ^= mask;
            prop_assert!(decode(portions(&damaged, &cuts)).is_err(), "{:?} ^ {mask}", at.index(bytes.len()));
        }
    }

    #[test]
    fn a_cut_is_refused(intents in intents(40), ends in prop::collection::vec(any::<Index>(), 8)) {
        let bytes = bytes_of(&end(&live(&intents)));
        for end in ends {
            prop_assert!(decode([&bytes[..end.index(bytes.len())]]).is_err());
        }
    }

    #[test]
    fn foreign_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode([&bytes[..]]).is_err());
        let disguised = [b"ROTASNAP\x01\x00\x00\x00", &bytes[..]].concat();
        prop_assert!(decode([&disguised[..]]).is_err());
    }
}

/// Each single bit of one small snapshot.
#[test]
fn every_bit_counts() {
    let bytes = bytes_of(&State::new());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert!(decode([&damaged[..]]).is_err(), "bit {bit} of byte {at}");
        }
    }
}

fn state_of_several_blocks() -> State {
    let mut state = State::new();
    for n in 0..400u32 {
        let data = n.to_le_bytes().repeat(512).into();
        let op = Op::create(format!("/n{n}"), data, CreateMode::Persistent);
        state.apply(state.zxid() + 1, Timestamp::at(5), Command::Write { by: Actor::rota(None), op });
    }
    state
}

#[test]
fn a_state_of_several_blocks_round_trips() {
    let state = state_of_several_blocks();
    assert!(encode(&state).count() > 3);
    assert_eq!(decode(bytes_of(&state).chunks(7)).unwrap(), state);
    let read = decode(bytes_of(&state).chunks(100_000)).unwrap();
    assert_eq!(read, state);
    assert_eq!(check(&read), Vec::<String>::new());
    assert!(bytes_of(&read) == bytes_of(&state), "children are in another order");
}

#[test]
fn a_block_that_is_missing_or_doubled_or_out_of_place_is_refused() {
    let blocks: Vec<Vec<u8>> = encode(&state_of_several_blocks()).collect();
    let refused = |order: &[usize]| decode(order.iter().map(|&at| &blocks[at][..])).is_err();
    let last = blocks.len() - 1;
    assert_eq!(last, 3);
    assert!(refused(&[0, 1, 2]) && refused(&[0, 2, 3]) && refused(&[1, 2, 3]));
    assert!(refused(&[0, 1, 1, 2, 3, 3]) && refused(&[0, 1, 2, 3, 1]) && refused(&[0, 1, 3, 2]));
    // Whole blocks, but not all; and all nodes, but not the end.
    assert!(matches!(decode(blocks[..last].iter().map(|block| &block[..])), Err(SnapshotError::CutOff)));
    assert!(blocks[last].len() > BLOCK_HEADER_BYTES);
    let cut = &blocks[last][..blocks[last].len() - 1];
    assert!(matches!(decode([&blocks[..last].concat()[..], cut]), Err(SnapshotError::CutOff)));
}

#[test]
fn a_newer_format_says_so() {
    let mut bytes = bytes_of(&State::new());
    bytes[8] = 9;
    assert!(matches!(decode([&bytes[..]]), Err(SnapshotError::Format(9))));
    assert!(matches!(decode([&b"SQLite format 3"[..]]), Err(SnapshotError::Foreign)));
}

proptest! {
    #![proptest_config(crate::cases(4))]

    /// Places in lists are in no digest and no comparison: they are looked at here, with
    /// parents that have few children, many, and few again.
    #[test]
    fn lists_of_children_are_right_however_long(
        come in prop::collection::vec(0u16..300, 300),
        go in prop::collection::vec(0u16..300, 600),
    ) {
        let mut state = State::new();
        let write = |state: &mut State, ops: Vec<Op>| {
            let applied = state.apply(state.zxid() + 1, Timestamp::at(5), Command::Multi { by: Actor::rota(None), ops });
            assert_eq!(check(state), Vec::<String>::new());
            applied.reply.is_ok()
        };
        let path = |n: u16| format!("/n{n}");
        let toggled = |state: &State, n: u16, may_come: bool| match state.tree().get(&path(n)) {
            Some(_) => Some(Op::Delete { path: path(n), version: None }),
            None => may_come.then(|| Op::create(path(n), "".into(), CreateMode::Persistent)),
        };
        let comes = come.iter().map(|n| (*n, true));
        for (round, (n, may_come)) in comes.chain(go.iter().map(|n| (*n, false))).enumerate() {
            let ops: Vec<Op> = toggled(&state, n, may_come).into_iter().collect();
            if round % 5 == 0 {
                let next = toggled(&state, n + 300, true);
                let refused = Op::Check { path: "/missing".to_owned(), version: None };
                let before = names(&state);
                prop_assert!(!write(&mut state, ops.iter().cloned().chain(next).chain([refused]).collect()));
                prop_assert_eq!(before, names(&state));
            }
            write(&mut state, ops);
            if round % 100 == 0 {
                survives(&state)?;
            }
        }
        let left: Vec<Op> = (0..300).filter_map(|n| toggled(&state, n, false)).collect();
        write(&mut state, left);
        let again: Vec<Op> = (0..5).filter_map(|n| toggled(&state, n, true)).collect();
        write(&mut state, again);
        survives(&state)?;
    }
}

fn names(state: &State) -> BTreeSet<String> {
    state.tree().paths_below("/").map(ToString::to_string).collect()
}

/// A snapshot of it is read back with the lists as they were.
fn survives(state: &State) -> Result<(), TestCaseError> {
    let bytes = bytes_of(state);
    let read = decode([&bytes[..]]).unwrap();
    prop_assert_eq!(check(&read), Vec::<String>::new());
    prop_assert!(bytes == bytes_of(&read), "children are in another order");
    Ok(())
}
