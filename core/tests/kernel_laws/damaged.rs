//! Bytes that are not what was encoded: whatever they decode to, no replica stops, all of them come
//! to the same state, and that state is sound.

use proptest::collection::vec;
use proptest::prelude::*;
use rota_core::batch::{self, Batch, Header, Origin, UnitError, UnitOutcome};
use rota_core::state::check::check;
use rota_core::state::{State, Submitted, Timestamp};

use crate::history::{intents, live};

/// Where a unit is damaged, and by what.
type Damage = (usize, usize, u8);

proptest! {
    #![proptest_config(crate::cases(512))]

    #[test]
    fn damaged_units_do_the_same_everywhere(
        intents in intents(40),
        damage in vec((any::<usize>(), any::<usize>(), any::<u8>()), 1..40),
    ) {
        let mut payloads: Vec<Vec<u8>> =
            live(&intents).iter().map(|entry| batch::encode_command(&entry.command, Vec::new())).collect();
        if payloads.is_empty() {
            return Ok(());
        }
        for (unit, at, byte) in damage {
            damage_one(&mut payloads, (unit, at, byte));
        }
        let unit = |(seq, payload): (u64, &Vec<u8>)| {
            batch::seal_unit(Origin { server: 7, unit: Submitted { boot: 1, seq } }, payload)
        };
        let units: Vec<_> = (1..).zip(&payloads).map(unit).collect();
        let bytes = batch::encode_batch(Header { timestamp: Timestamp::at(5), checkpoint: (0, 0) }, units.iter());
        let run = || {
            let (mut state, mut undecodable) = (State::new(), 0);
            batch::apply(&mut state, Batch::decode(bytes.clone()).unwrap(), |_, _, fate| {
                undecodable += usize::from(matches!(fate, UnitOutcome::Undecodable));
            });
            (state, undecodable)
        };
        let (one, two) = (run(), run());
        prop_assert_eq!(check(&one.0), Vec::<String>::new());
        // What the leader would have refused to propose is what is refused here.
        let unfit = units
            .iter()
            .filter_map(|unit| batch::check_unit(unit).err())
            // Has no command that could fail to decode.
            .filter(|error| !matches!(error, UnitError::Empty))
            .count();
        prop_assert_eq!(one.1, unfit);
        prop_assert!(one == two);
    }
}

/// Another byte in a unit, or one more, or fewer.
fn damage_one(payloads: &mut [Vec<u8>], (unit, at, byte): Damage) {
    let count = payloads.len();
    let payload = &mut payloads[unit % count];
    match (at % 8, payload.len()) {
        (0, _) => payload.push(byte),
        (_, 0) => {}
        (1, len) => payload.truncate(len - 1),
        (_, len) => payload[at % len] = byte,
    }
}
