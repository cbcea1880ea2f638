//! `completion`: a script that completes commands and flags in a shell.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::exit::CommandError;
use crate::output;

/// `completion`.
#[derive(Args, Debug)]
pub(crate) struct Completion {
    /// bash, zsh, fish or powershell
    #[arg(value_name = "bash|zsh|fish|powershell")]
    shells: Vec<String>,
}

/// Writes the script.
pub(super) fn run(
    program: &str,
    mut command: Command,
    flags: &Completion,
) -> Result<(), CommandError> {
    let [shell] = flags.shells.as_slice() else {
        let count = flags.shells.len();
        let reason = format!("accepts 1 arg(s), received {count}");
        return Err(CommandError::Failed(reason));
    };
    let shell = match shell.as_str() {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        "powershell" => Shell::PowerShell,
        _ => {
            let reason = format!("invalid argument {shell:?} for \"{program} completion\"");
            return Err(CommandError::Failed(reason));
        }
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, program, &mut script);
    output::write(&script)
}
