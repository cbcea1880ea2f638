//! Asking for a password: a terminal does not show it.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::exit::CommandError;

/// Asks, and reads a line from standard input.
pub(crate) fn ask(prompt: &str) -> Result<String, CommandError> {
    let stdin = std::io::stdin();
    let mut stdout = std::io::stdout();
    let asked = write!(stdout, "{prompt}").and_then(|()| stdout.flush());
    asked.map_err(CommandError::failed)?;
    let hidden = stdin.is_terminal().then(Hidden::begin).flatten();
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    drop(hidden);
    println!();
    read.map_err(CommandError::failed)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that does not echo until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn begin() -> Option<Self> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &quiet).ok()?;
        Some(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Nothing is left to do if the terminal is gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}
