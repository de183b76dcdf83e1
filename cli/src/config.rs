//! The configuration file: TOML, one table for each command, its keys named as
//! the command's flags. It only changes defaults: a flag or an environment
//! variable goes before it. A variable that is set and empty is as one that is not set: files of
//! units and of containers say `X=${Y}` where there may be no Y.
//!
//! ```toml
//! servers = ["10.0.0.1:7710", "10.0.0.2:7710"]
//!
//! [coordinator]
//! id = 1
//! data = "/var/lib/rota"
//! ```

use std::ffi::{self, OsString};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::builder::{OsStr, Resettable};
use clap::{Arg, Command};
use toml::Value;

/// Whether an environment variable is set, and to nothing.
pub(crate) fn is_set_and_empty(name: &ffi::OsStr) -> bool {
    std::env::var_os(name).is_some_and(|value| value.is_empty())
}

/// Has no flag take its value from a variable that is set and empty.
pub(crate) fn without_empty_variables(command: Command, is_empty: &dyn Fn(&ffi::OsStr) -> bool) -> Command {
    let command = command.mut_args(|arg| match arg.get_env() {
        Some(name) if is_empty(name) => arg.env(Resettable::Reset),
        _ => arg,
    });
    command.mut_subcommands(|sub| without_empty_variables(sub, is_empty))
}

/// Reads the file that `--config` or `ROTA_CONFIG` names, if any, and makes its
/// values the defaults of the flags.
pub(crate) fn with_file_defaults(
    command: Command,
    args: impl Iterator<Item = OsString>,
) -> anyhow::Result<Command> {
    let Some(path) = path_of(args) else { return Ok(command) };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
    let table: toml::Table =
        text.parse().with_context(|| format!("the configuration file {} is not TOML", path.display()))?;
    apply(command, &table).with_context(|| format!("in the configuration file {}", path.display()))
}

fn path_of(args: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    let mut args = args.skip(1);
    while let Some(arg) = args.next() {
        if arg == "--" {
            break;
        }
        if arg == "--config" {
            return args.next().map(PathBuf::from);
        }
        if let Some(path) = arg.to_str().and_then(|a| a.strip_prefix("--config=")) {
            return Some(PathBuf::from(path));
        }
    }
    std::env::var_os("ROTA_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn apply(mut command: Command, table: &toml::Table) -> anyhow::Result<Command> {
    for (key, value) in table {
        if let Value::Table(inner) = value {
            if command.find_subcommand(key).is_none() {
                bail!("there is no command {key:?}");
            }
            let mut failed = Ok(());
            command = command.mut_subcommand(key, |sub| match apply(sub.clone(), inner) {
                Ok(changed) => changed,
                Err(error) => {
                    failed = Err(error);
                    sub
                }
            });
            failed.with_context(|| format!("in [{key}]"))?;
            continue;
        }
        let flag = command.get_arguments().find(|arg| arg.get_long() == Some(key));
        let Some(id) = flag.map(|arg| arg.get_id().clone()) else {
            bail!("there is no flag --{key} here");
        };
        let values = texts(value).with_context(|| format!("the value of {key}"))?;
        command = command.mut_arg(id, |arg| default(arg, values));
    }
    Ok(command)
}

fn default(arg: Arg, values: Vec<String>) -> Arg {
    let values: Vec<OsStr> = values.into_iter().map(OsStr::from).collect();
    arg.required(false).default_values(values)
}

fn texts(value: &Value) -> anyhow::Result<Vec<String>> {
    Ok(match value {
        Value::String(text) => vec![text.clone()],
        Value::Integer(n) => vec![n.to_string()],
        Value::Float(n) => vec![n.to_string()],
        Value::Boolean(b) => vec![b.to_string()],
        Value::Array(values) => values.iter().map(texts).collect::<anyhow::Result<Vec<_>>>()?.concat(),
        Value::Datetime(_) | Value::Table(_) => {
            bail!("must be a text, a number, true or false, or a list of those")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    fn parse(file: &str, args: &[&str]) -> anyhow::Result<crate::args::Cli> {
        let command = apply(crate::args::command(), &file.parse()?)?;
        let matches = command.try_get_matches_from([&["rota"], args].concat())?;
        Ok(crate::args::Cli::from_arg_matches(&matches)?)
    }

    #[test]
    fn the_file_gives_defaults_and_flags_go_before_it() {
        let file = "servers = [\"a:1\", \"b:2\"]\n[coordinator]\nid = 3\ndata = \"d\"";
        let cli = parse(file, &["coordinator"]).unwrap();
        assert_eq!(cli.global.servers, ["a:1", "b:2"]);
        let cli = parse(file, &["--servers", "c:3", "status"]).unwrap();
        assert_eq!(cli.global.servers, ["c:3"]);
    }

    #[test]
    fn a_variable_that_is_set_and_empty_is_as_one_that_is_not_set() {
        fn variables(command: &Command) -> Vec<String> {
            let of_args = command.get_arguments().filter_map(Arg::get_env);
            let of_args = of_args.map(|name| name.to_string_lossy().into_owned());
            of_args.chain(command.get_subcommands().flat_map(variables)).collect()
        }
        let all = variables(&crate::args::command());
        assert!(all.len() > 20 && all.contains(&"ROTA_SESSION_TIMEOUT".to_owned()), "{all:?}");
        let left = |is_empty: &dyn Fn(&ffi::OsStr) -> bool| {
            variables(&without_empty_variables(crate::args::command(), is_empty))
        };
        assert_eq!(left(&|_| false), all);
        assert_eq!(left(&|_| true), Vec::<String>::new());
        assert!(!left(&|name| name == "ROTA_POOL").contains(&"ROTA_POOL".to_owned()));
    }

    #[test]
    fn what_is_not_known_is_said() {
        for (file, word) in
            [("nonsense = 1", "nonsense"), ("[coordinator]\nidd = 1", "idd"), ("[x]\na = 1", "\"x\"")]
        {
            let error = format!("{:#}", parse(file, &["status"]).err().unwrap());
            assert!(error.contains(word), "{error}");
        }
    }
}
