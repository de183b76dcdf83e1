//! How a source is named: its item, its labels, and the text of a file's path.
//!
//! Names are injective: two sources never share an item, so the collector can
//! check an item's labels against its name and trust neither alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rota_core::pool::{NAME_LEN_MAX, check_name};
use xxhash_rust::xxh3::xxh3_64;

/// Label of an item: the application that writes the file.
pub const LABEL_APP: &str = "app";
/// Label of an item: the machine that the file is on.
pub const LABEL_HOST: &str = "host";
/// Label of an item: the file, relative to where the agent was told to look.
pub const LABEL_FILE: &str = "file";

/// The name of the item of a source: `<app>@<host>:<file>`.
///
/// What a name cannot hold, and `%`, is percent-encoded; so is `@` in `app` and
/// `:` in `host`, which keeps the three parts apart. A name that would be too
/// long is cut and ends in `~` and the hash of the whole.
#[must_use]
pub fn item_name(app: &str, host: &str, file: &str) -> String {
    let mut name = escape(app, "@");
    name.push('@');
    name.push_str(&escape(host, ":"));
    name.push(':');
    name.push_str(&escape(file, ""));
    shorten(name)
}

/// The labels of the item of a source.
#[must_use]
pub fn labels(app: &str, host: &str, file: &str) -> BTreeMap<String, String> {
    [(LABEL_APP, app), (LABEL_HOST, host), (LABEL_FILE, file)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// A file's path as text. A path that is not UTF-8, or has control characters,
/// has those bytes (and `%`) percent-encoded.
#[must_use]
pub fn path_text(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let mut text = String::with_capacity(bytes.len());
    let plain = std::str::from_utf8(bytes).is_ok_and(|s| !s.chars().any(char::is_control));
    for chunk in bytes.utf8_chunks() {
        if plain {
            text.push_str(chunk.valid());
        } else {
            chunk.valid().chars().for_each(|c| push_escaped(&mut text, c, c.is_control() || c == '%'));
        }
        chunk.invalid().iter().for_each(|byte| push_hex(&mut text, *byte));
    }
    text
}

/// A file's path for people: as [`path_text`], and without characters that
/// reorder or hide what stands around them. Names in log lines and error messages
/// come from whoever can create a file, and must not look like anything else.
#[must_use]
pub fn display_text(path: &Path) -> String {
    let mut text = String::new();
    for c in path_text(path).chars() {
        push_escaped(&mut text, c, is_deceptive(c));
    }
    text
}

/// Line and paragraph separators, direction marks and invisible characters.
fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{061C}')
}

/// What went wrong, with all its causes: `a: b: c`.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors repeat their cause in their own text.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// `text` as one segment of a URL's path: everything but letters, digits and
/// `-._~` is percent-encoded.
#[must_use]
pub fn url_segment(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            push_hex(&mut segment, byte);
        }
    }
    segment
}

fn escape(text: &str, also: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut probe = String::new();
    for c in text.chars() {
        // Not alone: "." is no name, but may be part of one.
        probe.clear();
        probe.extend(['x', c]);
        push_escaped(&mut escaped, c, c == '%' || also.contains(c) || check_name(&probe).is_err());
    }
    escaped
}

fn push_escaped(text: &mut String, c: char, escaped: bool) {
    if escaped {
        c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| push_hex(text, byte));
    } else {
        text.push(c);
    }
}

fn push_hex(text: &mut String, byte: u8) {
    write!(text, "%{byte:02X}").expect("writing to a string cannot fail");
}

fn shorten(name: String) -> String {
    if name.len() <= NAME_LEN_MAX {
        return name;
    }
    let tail = format!("~{:016x}", xxh3_64(name.as_bytes()));
    let mut kept = NAME_LEN_MAX - tail.len();
    while !name.is_char_boundary(kept) {
        kept -= 1;
    }
    format!("{}{tail}", &name[..kept])
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn items() {
        let cases = [
            (("shop", "web-1", "app.log"), "shop@web-1:app.log"),
            (("shop", "web-1", "a/b.log"), "shop@web-1:a%2Fb.log"),
            (("shop", "web-1", "100%.log"), "shop@web-1:100%25.log"),
            (("shop", "web-1", "a\tb"), "shop@web-1:a%09b"),
            (("a@b", "h:1", "x@y:z"), "a%40b@h%3A1:x@y:z"),
            (("лавка", "веб", "журнал.log"), "лавка@веб:журнал.log"),
        ];
        for ((app, host, file), name) in cases {
            assert_eq!(item_name(app, host, file), name);
            assert_eq!(check_name(name), Ok(()));
        }
    }

    #[test]
    fn what_looks_alike_has_different_names() {
        assert_ne!(item_name("a", "b@c", "f"), item_name("a@b", "c", "f"));
        assert_ne!(item_name("a", "b:c", "f"), item_name("a", "b", "c:f"));
        assert_ne!(item_name("a", "b", "c/f"), item_name("a", "b", "c%2Ff"));
    }

    #[test]
    fn a_long_name_is_cut_and_stays_unique() {
        let file = "ü".repeat(200);
        let name = item_name("shop", "web-1", &file);
        assert!(name.len() <= NAME_LEN_MAX && name.starts_with("shop@web-1:ü"));
        assert_eq!(check_name(&name), Ok(()));
        assert_ne!(name, item_name("shop", "web-1", &format!("{file}x")));
    }

    #[test]
    fn paths_as_text() {
        assert_eq!(path_text(Path::new("a/100%.log")), "a/100%.log");
        assert_eq!(path_text(Path::new("a\n%")), "a%0A%25");
        assert_eq!(path_text(Path::new(OsStr::from_bytes(b"a\xff%b"))), "a%FF%25b");
    }

    #[test]
    fn paths_for_people_cannot_deceive() {
        let shown = |bytes: &[u8]| display_text(Path::new(OsStr::from_bytes(bytes)));
        assert_eq!(shown(b"/v/x.log"), "/v/x.log");
        assert_eq!(shown(b"esc\x1b[31mred\nnl.log"), "esc%1B[31mred%0Anl.log");
        assert_eq!(shown("a\u{202E}gol.x".as_bytes()), "a%E2%80%AEgol.x");
        assert_eq!(shown("журнал".as_bytes()), "журнал");
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("/out/x.log")]
        struct Outer(#[source] std::io::Error);
        let full = std::io::Error::from_raw_os_error(28);
        assert_eq!(error_chain(&Outer(full)), "/out/x.log: No space left on device (os error 28)");
    }

    #[test]
    fn url_segments() {
        assert_eq!(url_segment("shop@w:a%2Fb.log"), "shop%40w%3Aa%252Fb.log");
    }

    proptest! {
        #[test]
        fn every_source_has_a_name_of_its_own(
            one in ("[a@:%/ü]{1,4}", "[a@:%/ü]{1,4}", "[a@:%/ü\n]{1,4}"),
            other in ("[a@:%/ü]{1,4}", "[a@:%/ü]{1,4}", "[a@:%/ü\n]{1,4}"),
        ) {
            let name = |(app, host, file): &(String, String, String)| item_name(app, host, file);
            prop_assert_eq!(check_name(&name(&one)), Ok(()));
            prop_assert_eq!(name(&one) == name(&other), one == other);
        }
    }
}
