//! What is said to arguments that clap refuses: the texts of etcd's tools, and where there is help.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Shows help on standard output, errors on standard error.
pub(crate) fn report(error: &clap::Error, root: &clap::Command, args: &[String]) -> ExitCode {
    let program = root.get_bin_name().unwrap_or_default();
    match error.kind() {
        ErrorKind::DisplayHelp => {
            print!("{error}");
            ExitCode::SUCCESS
        }
        ErrorKind::InvalidSubcommand
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let (mut command, path) = innermost(root, args);
            match context(error, ContextKind::InvalidSubcommand) {
                Some(unknown) if path.is_empty() => {
                    eprintln!("Error: unknown command \"{unknown}\" for \"{program}\"");
                    eprintln!("Run '{program} --help' for usage.");
                    ExitCode::FAILURE
                }
                // A group of commands shows what it has.
                _ => {
                    print!("{}", command.render_long_help());
                    ExitCode::SUCCESS
                }
            }
        }
        _ => {
            let (mut command, _) = innermost(root, args);
            eprintln!("Error: {}", text(error, args));
            eprintln!("{}", command.render_usage());
            ExitCode::FAILURE
        }
    }
}

/// The text of a flag or value that is wrong.
pub(crate) fn text(error: &clap::Error, args: &[String]) -> String {
    let argument = context(error, ContextKind::InvalidArg).unwrap_or_default();
    // clap says which values a flag takes as well.
    let flag = argument.split([' ', '=', '[']).next().unwrap_or_default();
    let value = context(error, ContextKind::InvalidValue).unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument => match flag.strip_prefix("--") {
            Some(_) => format!("unknown flag: {flag}"),
            None => {
                let letter = flag.trim_start_matches('-').chars().next();
                let letter = letter.map(String::from).unwrap_or_default();
                let whole = args.iter().find(|arg| arg.starts_with(flag));
                let whole = whole.map_or(flag, String::as_str);
                format!("unknown shorthand flag: '{letter}' in {whole}")
            }
        },
        ErrorKind::InvalidValue if value.is_empty() => format!("flag needs an argument: {flag}"),
        ErrorKind::ValueValidation => {
            let reason = std::error::Error::source(error).map(ToString::to_string);
            let reason = reason.unwrap_or_default();
            format!("invalid argument {value:?} for \"{flag}\" flag: {reason}")
        }
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.strip_prefix("error: ").unwrap_or(line).to_owned()
        }
    }
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.first().cloned(),
        _ => None,
    }
}

/// The command that the arguments lead to, and its path.
fn innermost(root: &clap::Command, args: &[String]) -> (clap::Command, Vec<String>) {
    let mut command = root.clone();
    let mut path = Vec::new();
    for arg in args {
        let found = command.get_subcommands().find(|command| {
            command.get_name() == arg || (!arg.is_empty() && command.get_name().starts_with(arg))
        });
        if let Some(found) = found.cloned() {
            path.push(found.get_name().to_owned());
            let shown = format!(
                "{} {}",
                root.get_bin_name().unwrap_or_default(),
                path.join(" ")
            );
            command = found.bin_name(shown);
        }
    }
    (command, path)
}
