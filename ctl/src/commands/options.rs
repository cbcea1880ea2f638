//! `options`: the flags of all commands, which their help leaves out.

use clap::{ArgAction, CommandFactory as _};

use crate::cli::Cli;
use crate::exit::CommandError;
use crate::output;

/// Lists them.
pub(super) fn run() -> Result<(), CommandError> {
    let command = Cli::command();
    let mut lines = Vec::new();
    for arg in command.get_arguments().filter(|arg| arg.is_global_set()) {
        let Some(long) = arg.get_long() else { continue };
        let short = arg.get_short();
        let short = short.map_or("    ".to_owned(), |short| format!("-{short}, "));
        let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
        let names = arg.get_value_names().unwrap_or_default();
        let kind = names.first().filter(|name| !is_switch && *name != "bool");
        let kind = kind.map_or(String::new(), |name| format!(" {name}"));
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let default = arg
            .get_default_values()
            .first()
            .map(|value| value.to_string_lossy());
        let default = match default.as_deref() {
            None | Some("" | "0" | "false") => String::new(),
            Some(value) if kind == " strings" => format!(" (default [{value}])"),
            Some(value) if kind == " string" => format!(" (default {value:?})"),
            Some(value) => format!(" (default {value})"),
        };
        lines.push((long, format!("  {short}--{long}{kind}"), help + &default));
    }
    lines.sort_unstable_by_key(|(long, ..)| *long);
    let width = lines
        .iter()
        .map(|(_, flag, _)| flag.len())
        .max()
        .unwrap_or(0)
        + 3;
    let mut text = "The following options can be passed to any command:\n\n".to_owned();
    for (_, flag, help) in lines {
        text += &format!("{flag:width$}{help}\n");
    }
    output::write(text.as_bytes())
}
