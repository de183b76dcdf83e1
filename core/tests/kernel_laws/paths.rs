//! Paths against ZooKeeper's own rules: `PathUtils.validatePath`, which looks at
//! UTF-16 units one by one, is told again here as it stands there.

use proptest::prelude::*;
use rota_core::path::{NodePath, PATH_LEN_MAX, PathError, is_at_or_below};

fn zookeeper_takes(path: &str) -> bool {
    let units: Vec<u16> = path.encode_utf16().collect();
    let at = |i: usize| units.get(i).copied();
    let (slash, dot) = (Some(u16::from(b'/')), Some(u16::from(b'.')));
    if at(0) != slash {
        return false;
    }
    if units.len() == 1 {
        return true;
    }
    let ends_name = |i: usize| i == units.len() || at(i) == slash;
    let refused = |i: usize| {
        let (c, before) = (at(i), at(i - 1));
        if c == slash && before == slash {
            true
        } else if c == dot && before == dot {
            at(i - 2) == slash && ends_name(i + 1)
        } else if c == dot {
            before == slash && ends_name(i + 1)
        } else {
            matches!(units[i], 0..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..=0xffff)
        }
    };
    at(units.len() - 1) != slash && !(1..units.len()).any(refused)
}

/// Texts that are nearly paths.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        6 => Just("/".to_owned()),
        4 => Just(".".to_owned()),
        6 => "[a-c]",
        // Around every bound of the ranges that are refused.
        1 => "[\u{0}-\u{21}\u{7e}-\u{a1}\u{d7fe}-\u{d7ff}\u{e000}\u{f8fe}-\u{f901}\u{ffee}-\u{ffff}]",
    ];
    prop::collection::vec(part, 0..9).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(crate::cases(4096))]

    #[test]
    fn zookeepers_paths_and_no_others(text in prop_oneof![text(), text().prop_map(|t| format!("/{t}"))]) {
        prop_assert_eq!(NodePath::parse(&text).is_ok(), zookeeper_takes(&text), "{:?}", text);
    }

    #[test]
    fn a_path_is_its_parent_and_its_name(names in prop::collection::vec("[a-c.-]{3}", 1..5)) {
        let path = NodePath::parse(&format!("/{}", names.join("/"))).unwrap();
        let parent = path.parent().unwrap();
        prop_assert_eq!(path.name(), names.last().unwrap());
        prop_assert_eq!(format!("{}/{}", parent.as_str().trim_end_matches('/'), path.name()), path.as_str());
        prop_assert!(is_at_or_below(path.as_str(), parent.as_str()));
        prop_assert!(!is_at_or_below(parent.as_str(), path.as_str()));
        let longer = format!("{path}x");
        prop_assert!(!is_at_or_below(&longer, path.as_str()));
    }
}

#[test]
fn a_path_has_a_longest_length() {
    let of_len = |len: usize| NodePath::parse(&format!("/{}", "x".repeat(len - 1)));
    assert!(of_len(PATH_LEN_MAX).is_ok());
    assert_eq!(of_len(PATH_LEN_MAX + 1), Err(PathError::TooLong));
}
