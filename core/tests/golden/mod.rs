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

mod command;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use command::Command;

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
