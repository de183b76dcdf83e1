//! The commands of golden scripts, taken apart into words.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::str::FromStr;

/// One command of a script. Whoever runs it takes its arguments out of it; what
/// is left over is a mistake in the script.
#[derive(Debug)]
pub struct Command {
    pub name: String,
    words: Vec<String>,
    options: BTreeMap<String, String>,
    /// The indented commands below it.
    pub body: Vec<Command>,
}

impl Command {
    /// `None` for an empty line and for a comment.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = split_words(line).into_iter();
        let Word::Bare(name) = words.next()? else { panic!("a command begins with its name: {line}") };
        let mut command = Self { name, words: Vec::new(), options: BTreeMap::new(), body: Vec::new() };
        for word in words {
            match word {
                Word::Option(key, value) => drop(command.options.insert(key, value)),
                Word::Bare(word) => command.words.push(word),
            }
        }
        Some(command)
    }

    /// The next word, if there is one.
    pub fn maybe_word(&mut self) -> Option<String> {
        (!self.words.is_empty()).then(|| self.words.remove(0))
    }

    /// The next word.
    pub fn word(&mut self) -> String {
        self.maybe_word().unwrap_or_else(|| panic!("{} needs another word", self.name))
    }

    /// Whether the word `flag` is among the words.
    pub fn flag(&mut self, flag: &str) -> bool {
        let at = self.words.iter().position(|word| word == flag);
        at.map(|at| self.words.remove(at)).is_some()
    }

    /// The value of the option `key`, if it is given.
    pub fn option<T: FromStr<Err: Debug>>(&mut self, key: &str) -> Option<T> {
        self.options.remove(key).map(|value| value.parse().expect("an option's value"))
    }

    /// Fails if there are arguments that nobody has asked for.
    pub fn assert_used_up(&self) {
        assert!(self.words.is_empty() && self.options.is_empty(), "not understood: {self:?}");
        self.body.iter().for_each(Command::assert_used_up);
    }
}

enum Word {
    Bare(String),
    Option(String, String),
}

fn split_words(line: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() && !rest.starts_with('#') {
        let end = if rest.starts_with('"') {
            let mut json = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            words.push(Word::Bare(json.next().expect("a string").expect("a JSON string")));
            json.byte_offset()
        } else {
            let end = rest.find(' ').unwrap_or(rest.len());
            words.push(match rest[..end].split_once('=') {
                Some((key, value)) => Word::Option(key.to_owned(), value.to_owned()),
                None => Word::Bare(rest[..end].to_owned()),
            });
            end
        };
        rest = rest[end..].trim_start();
    }
    words
}
