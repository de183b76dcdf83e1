//! Golden scripts: a file holds blocks of commands, each followed by `---` and
//! the output it is to have, up to an empty line. One file is one scenario, and
//! its name says what happens.
//!
//! To write the outputs anew, after a change or for a new script (then read
//! them, every one: they are the assertion):
//!
//! ```sh
//! UPDATE_GOLDEN=1 cargo test -p rota-core --test kernel --test assign
//! ```
//!
//! A command is one line: a name, words, and options `key=value`. A word in
//! double quotes is a JSON string. Indented lines belong to the command above
//! them. `#` begins a comment.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
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
    fn parse(line: &str) -> Option<Self> {
        let mut words = split_words(line).into_iter();
        let Some(Word::Bare(name)) = words.next() else { return None };
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

    fn assert_used_up(&self) {
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

/// Runs every block of the script and compares the whole file with what it
/// would be if written anew.
pub fn run(folder: &str, name: &str, mut run: impl FnMut(&mut Command) -> String) {
    let path = folder_path(folder).join(name);
    let golden = std::fs::read_to_string(&path).expect("the script");
    let mut fresh = String::new();
    let mut lines = golden.lines();
    let mut commands: Vec<Command> = Vec::new();
    while let Some(line) = lines.next() {
        fresh += &format!("{line}\n");
        if line == "---" {
            for mut command in commands.drain(..) {
                fresh += &run(&mut command);
                command.assert_used_up();
            }
            let goes_on = lines.any(str::is_empty);
            fresh += if goes_on { "\n" } else { "" };
        } else if let Some(command) = Command::parse(line) {
            match commands.last_mut() {
                Some(above) if line.starts_with(' ') => above.body.push(command),
                _ => commands.push(command),
            }
        }
    }
    assert!(commands.is_empty(), "{name} ends without ---");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, fresh).expect("the script is written");
    } else {
        assert_same(&path, &golden, &fresh);
    }
}

fn assert_same(path: &Path, golden: &str, fresh: &str) {
    if golden == fresh {
        return;
    }
    let same = golden.lines().zip(fresh.lines()).take_while(|(a, b)| a == b).count();
    let rest = |text: &str| text.lines().skip(same).take(12).collect::<Vec<_>>().join("\n");
    panic!("{}:{}\nexpected:\n{}\ngot:\n{}", path.display(), same + 1, rest(golden), rest(fresh));
}

/// Fails unless `listed` are exactly the scripts in `folder`.
pub fn assert_all_listed(folder: &str, listed: &[&str]) {
    let files = std::fs::read_dir(folder_path(folder)).expect("the folder of scripts");
    let names = files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned());
    let listed: BTreeSet<String> = listed.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(names.collect::<BTreeSet<String>>(), listed);
}

fn folder_path(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder)
}

/// One test for each script of a folder, named like it.
macro_rules! scenarios {
    ($folder:literal, $run:path: $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $run(stringify!($name));
            }
        )*

        #[test]
        fn every_script_is_listed() {
            golden::assert_all_listed($folder, &[$(stringify!($name)),*]);
        }
    };
}
