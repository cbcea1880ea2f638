//! `ETCDCTL_…` for global flags that are not given (contract 8.1).

use clap::ArgMatches;
use clap::parser::ValueSource;

use crate::cli::Global;
use crate::exit::CommandError;

/// Prefix of the variables.
const PREFIX: &str = "ETCDCTL_";

/// Takes variables over. A flag that is given as well is an error: one of them would be a mistake.
pub(crate) fn apply(global: &mut Global, matches: &ArgMatches) -> Result<(), CommandError> {
    let mut take = |flag: &str, set: &mut dyn FnMut(&mut Global, String)| {
        let name = format!("{PREFIX}{}", flag.to_uppercase());
        let Ok(value) = std::env::var(&name) else {
            return Ok(());
        };
        if value.is_empty() {
            return Ok(());
        }
        if is_given(matches, flag) {
            return Err(CommandError::BadArguments(format!(
                "conflicting environment variable \"{name}\" is shadowed by corresponding \
                 command-line flag (either unset environment variable or disable flag)"
            )));
        }
        set(global, value);
        Ok(())
    };
    take("endpoints", &mut |global, value| {
        global.endpoints = value.split(',').map(str::to_owned).collect();
    })?;
    take("write_out", &mut |global, value| global.write_out = value)?;
    take("dial_timeout", &mut |global, value| {
        global.dial_timeout = value
    })?;
    take("command_timeout", &mut |global, value| {
        global.command_timeout = value
    })?;
    take("cert", &mut |global, value| global.cert = value)?;
    take("key", &mut |global, value| global.key = value)?;
    take("cacert", &mut |global, value| global.cacert = value)?;
    take("user", &mut |global, value| global.user = value)?;
    take("password", &mut |global, value| global.password = value)
}

/// Whether a flag stands on the command line, before or behind a command.
fn is_given(matches: &ArgMatches, flag: &str) -> bool {
    matches.value_source(flag) == Some(ValueSource::CommandLine)
        || matches
            .subcommand()
            .is_some_and(|(_, matches)| is_given(matches, flag))
}
