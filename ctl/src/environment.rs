//! `ETCDCTL_…` for global flags that are not given (contract 8.1).
//!
//! A variable becomes a flag in front of the arguments, so flags and variables are read alike.

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use crate::exit::CommandError;

/// Prefix of the variables.
const PREFIX: &str = "ETCDCTL_";
/// Variables that a command reads itself.
const OF_COMMANDS: [&str; 2] = ["ETCDCTL_WATCH_KEY", "ETCDCTL_WATCH_RANGE_END"];

/// Flags out of variables, to go in front of what was given.
///
/// A flag that is given as well is an error: one of them would be a mistake.
pub(crate) fn flags(command: &Command, matches: &ArgMatches) -> Result<Vec<String>, CommandError> {
    let mut flags = Vec::new();
    let mut known: Vec<String> = OF_COMMANDS.map(str::to_owned).to_vec();
    for arg in command.get_arguments().filter(|arg| arg.is_global_set()) {
        let Some(flag) = arg.get_long() else { continue };
        let name = format!("{PREFIX}{}", flag.to_uppercase().replace('-', "_"));
        if let Ok(value) = std::env::var(&name)
            && !value.is_empty()
        {
            if is_given(matches, arg.get_id().as_str()) {
                return Err(CommandError::Failed(format!(
                    "conflicting environment variable \"{name}\" is shadowed by corresponding \
                     command-line flag (either unset environment variable or disable flag)"
                )));
            }
            flags.push(format!("--{flag}={value}"));
        }
        known.push(name);
    }
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with(PREFIX) && !known.iter().any(|known| *known == name) {
            eprintln!("warning: unrecognized environment variable {name}");
        }
    }
    Ok(flags)
}

/// Whether a flag stands on the command line, before or behind a command.
fn is_given(matches: &ArgMatches, flag: &str) -> bool {
    let here = matches.try_contains_id(flag).is_ok()
        && matches.value_source(flag) == Some(ValueSource::CommandLine);
    here || matches
        .subcommand()
        .is_some_and(|(_, matches)| is_given(matches, flag))
}
