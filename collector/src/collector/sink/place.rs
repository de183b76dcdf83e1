//! Where a source's output goes. Labels come from other machines, so nothing
//! in them is trusted: a path that could lead out of the directory is refused.

use std::path::{Path, PathBuf};

use rota_core::pool::Item;

use super::Modes;
use crate::naming::{LABEL_APP, LABEL_FILE, LABEL_HOST, item_name};

/// The collector's own directory within the output directory.
pub const OWN_DIR: &str = ".rota";

/// The files that belong to one source's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The output: `<dir>/<app>/<host>/<file>`.
    pub output: PathBuf,
    /// The directory of what the collectors know of it.
    pub own: PathBuf,
    /// The output directory itself.
    pub dir: PathBuf,
    /// The source's item.
    pub item: String,
    /// Who may read it.
    pub modes: Modes,
}

/// Why an item has no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// A label is missing.
    #[error("item {item} has no label {label}")]
    NoLabel {
        /// Which item.
        item: String,
        /// Which label.
        label: &'static str,
    },
    /// A label is no plain name or relative path.
    #[error("item {item}: label {label} is {value:?}, which could lead out of the output directory")]
    Unsafe {
        /// Which item.
        item: String,
        /// Which label.
        label: &'static str,
        /// What it says.
        value: String,
    },
    /// The labels belong to an item of another name. Two items with the same
    /// labels would write to one file.
    #[error("item {item} has the labels of {other}")]
    OtherItem {
        /// Which item.
        item: String,
        /// Whose labels they are.
        other: String,
    },
}

impl Place {
    /// The place of a source in the output directory `dir`.
    ///
    /// # Errors
    /// When the item's labels are missing, unsafe, or another item's.
    pub fn of(dir: &Path, name: &str, item: &Item, modes: Modes) -> Result<Self, PlaceError> {
        let label = |label| {
            let value = item.labels.get(label).map(String::as_str);
            value.ok_or_else(|| PlaceError::NoLabel { item: name.to_owned(), label })
        };
        let check = |label, value: &str, is_safe: bool| {
            let refused = || PlaceError::Unsafe { item: name.to_owned(), label, value: value.to_owned() };
            if is_safe { Ok(()) } else { Err(refused()) }
        };
        let (app, host, file) = (label(LABEL_APP)?, label(LABEL_HOST)?, label(LABEL_FILE)?);
        check(LABEL_APP, app, is_plain(app) && app != OWN_DIR)?;
        check(LABEL_HOST, host, is_plain(host))?;
        check(LABEL_FILE, file, file.split('/').all(is_plain))?;
        let named = item_name(app, host, file);
        if named != name {
            return Err(PlaceError::OtherItem { item: name.to_owned(), other: named });
        }
        Ok(Self {
            output: dir.join(app).join(host).join(file),
            own: dir.join(OWN_DIR).join("sources").join(name),
            dir: dir.to_owned(),
            item: name.to_owned(),
            modes,
        })
    }
}

/// A name that means a file or directory right here, wherever "here" is.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(|c: char| c == '/' || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naming::labels;

    fn place(app: &str, host: &str, file: &str) -> Result<Place, PlaceError> {
        let item = Item { labels: labels(app, host, file), ..Item::default() };
        Place::of(Path::new("/out"), &item_name(app, host, file), &item, Modes::default())
    }

    #[test]
    fn places() {
        let found = place("shop", "web-1", "a/b.log").unwrap();
        assert_eq!(found.output, Path::new("/out/shop/web-1/a/b.log"));
        assert_eq!(found.own, Path::new("/out/.rota/sources/shop@web-1:a%2Fb.log"));
    }

    #[test]
    fn whatever_could_lead_out_is_refused() {
        let cases = [
            ("..", "h", "f"),
            ("a/b", "h", "f"),
            (".rota", "h", "f"),
            ("a", "", "f"),
            ("a", ".", "f"),
            ("a", "h", "../f"),
            ("a", "h", "x/../../f"),
            ("a", "h", "/etc/passwd"),
            ("a", "h", "x//f"),
            ("a", "h", "x/"),
            ("a", "h", ""),
            ("a", "h", "x\ny"),
            ("a\0", "h", "f"),
        ];
        for (app, host, file) in cases {
            let refused = place(app, host, file);
            assert!(
                matches!(refused, Err(PlaceError::Unsafe { .. })),
                "{app:?} {host:?} {file:?}: {refused:?}"
            );
        }
    }

    #[test]
    fn labels_must_be_there_and_be_the_items_own() {
        let mut item = Item { labels: labels("a", "h", "f"), ..Item::default() };
        let of = |name: &str, item: &Item| Place::of(Path::new("/out"), name, item, Modes::default());
        assert!(matches!(of("a@h:g", &item), Err(PlaceError::OtherItem { .. })));
        item.labels.remove("host");
        assert!(matches!(of("a@h:f", &item), Err(PlaceError::NoLabel { label: "host", .. })));
    }
}
