//! What commands print. Programs get JSON: the API's body as it came, one
//! document on one line. People get aligned columns. Data goes to standard
//! output, talk to standard error; there is no colour in either.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal, Write};

use rota_client::ClientError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::args::Format;

/// Stands where there is nothing to show.
const NOTHING: &str = "-";
/// What separates two columns.
const GAP: &str = "  ";

/// A body of the API, as it came.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Body(Box<RawValue>);

impl Body {
    /// What the body says.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_str(self.0.get()).map_err(|e| ClientError::BadAnswer(e.to_string()))
    }
}

/// Where a command's data goes, and in which form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) format: Format,
}

impl Output {
    /// Shows a body: to programs as it came, to people as `render` puts it.
    pub(crate) fn body<T: DeserializeOwned>(
        &self,
        body: &Body,
        render: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        match self.format {
            Format::Json => bytes(format!("{}\n", body.0.get()).as_bytes()),
            Format::Table => bytes(render(&body.parse()?).as_bytes()),
        }
    }

    /// Shows what the command itself has put together.
    pub(crate) fn document<T: Serialize>(
        &self,
        document: &T,
        render: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        match self.format {
            Format::Json => bytes(format!("{}\n", serde_json::to_string(document)?).as_bytes()),
            Format::Table => bytes(render(document).as_bytes()),
        }
    }

    /// A body that says nothing but that it is done: programs get it as it came,
    /// people are told what was done.
    pub(crate) fn done(&self, body: &Body, what: &str) -> anyhow::Result<()> {
        say(what);
        self.body(body, |_: &serde_json::Value| String::new())
    }
}

/// Writes bytes to standard output.
pub(crate) fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Writes somebody's data as it is. On a terminal, what comes next begins a line.
pub(crate) fn data(data: &[u8]) -> anyhow::Result<()> {
    bytes(data)?;
    let open_line = std::io::stdout().is_terminal() && data.last().is_some_and(|last| *last != b'\n');
    if open_line { bytes(b"\n") } else { Ok(()) }
}

/// Tells whoever runs the command something that is not data.
pub(crate) fn say(text: &str) {
    eprintln!("rota: {text}");
}

/// Aligned columns under their names. A column of numbers is aligned right.
pub(crate) struct Table<const N: usize> {
    names: [&'static str; N],
    rows: Vec<[String; N]>,
    numeric: [bool; N],
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(names: [&'static str; N], rows: impl IntoIterator<Item = [String; N]>) -> Self {
        let rows: Vec<_> = rows.into_iter().map(|row| row.map(|cell| printable(&cell))).collect();
        let numeric = std::array::from_fn(|column| all_numbers(rows.iter().map(|row| row[column].as_str())));
        Self { names, rows, numeric }
    }

    /// The names, in columns as wide as `widths`.
    pub(crate) fn header(&self, widths: [usize; N]) -> String {
        self.line(&self.names, widths)
    }

    /// The rows, in columns as wide as `widths`.
    pub(crate) fn lines(&self, widths: [usize; N]) -> String {
        self.rows.iter().map(|row| self.line(row, widths)).collect()
    }

    /// How wide the columns must be, and at least `widths`: so that what is
    /// printed later stays below what was printed before.
    pub(crate) fn widths(&self, widths: [usize; N]) -> [usize; N] {
        std::array::from_fn(|column| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([widths[column], self.names[column].chars().count()]).max().unwrap_or(0)
        })
    }

    fn line<T: AsRef<str>>(&self, cells: &[T; N], widths: [usize; N]) -> String {
        let mut line = String::new();
        for ((cell, width), numeric) in cells.iter().zip(widths).zip(self.numeric) {
            let cell = cell.as_ref();
            line += &if numeric { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            line += GAP;
        }
        format!("{}\n", line.trim_end())
    }
}

fn all_numbers<'a>(cells: impl Iterator<Item = &'a str>) -> bool {
    let mut cells = cells.filter(|cell| *cell != NOTHING).peekable();
    cells.peek().is_some() && cells.all(|cell| cell.parse::<f64>().is_ok())
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths([0; N]);
        f.write_str(&self.header(widths))?;
        f.write_str(&self.lines(widths))
    }
}

/// A name, and what it stands for.
pub(crate) type Fact = (&'static str, String);

/// Facts, one a line.
pub(crate) fn facts(facts: impl AsRef<[Fact]>) -> String {
    let facts = facts.as_ref();
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    facts.iter().map(|(name, value)| format!("{name:<width$}{GAP}{}\n", printable(value))).collect()
}

/// Labels: `key=value key=value`.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> String {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.join(" ")
}

/// Text of others, which must not move the cursor or break the line.
pub(crate) fn printable(text: &str) -> String {
    if text.is_empty() {
        return NOTHING.to_owned();
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// How many there are, in words: `1 bucket`, `2 buckets`.
pub(crate) fn count(number: impl Into<u64>, what: &str) -> String {
    let number = number.into();
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_right() {
        let rows = [["a", "5"], ["longer", "1024"], ["", "-"]].map(|row| row.map(str::to_owned));
        let table = Table::new(["NAME", "BUCKETS"], rows);
        assert_eq!(table.to_string(), "NAME    BUCKETS\na             5\nlonger     1024\n-             -\n");
        assert_eq!(Table::new(["NAME", "BUCKETS"], []).to_string(), "NAME  BUCKETS\n");
    }

    #[test]
    fn later_lines_stay_below_earlier_ones() {
        let table = |name: &str| Table::new(["NAME", "X"], [[name.to_owned(), "x".to_owned()]]);
        let widths = table("longer").widths([0; 2]);
        assert_eq!(table("a").lines(table("a").widths(widths)), "a       x\n");
    }

    #[test]
    fn what_others_wrote_stays_on_its_line() {
        assert_eq!(
            facts([("a", "x\n\u{1b}[2J".into()), ("bcd", "".into())]),
            "a    x\\n\\u{1b}[2J\nbcd  -\n"
        );
    }

    #[test]
    fn a_body_is_passed_on_as_it_came() {
        let text = r#"{"b":1,"a":{"x":1.10}}"#;
        let body: Body = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&body).unwrap(), text);
        assert_eq!(body.parse::<serde_json::Value>().unwrap()["b"], 1);
        assert!(body.parse::<Vec<u8>>().is_err());
    }

    #[test]
    fn counts_in_words() {
        assert_eq!([count(1_u32, "bucket"), count(0_u32, "bucket")], ["1 bucket", "0 buckets"]);
    }
}
