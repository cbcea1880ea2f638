//! Errors of commands and the exit codes that scripts know (contract 8.3).

use std::process::ExitCode;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The work failed.
    #[error("{0}")]
    Failed(String),
    /// No connection.
    #[error("{0}")]
    BadConnection(String),
    /// An output format or option value that is not there.
    #[error("{0}")]
    BadFeature(String),
    /// A snapshot that did not come to its end.
    #[error("{0}")]
    Interrupted(String),
    /// Arguments that do not fit.
    #[error("{0}")]
    BadArguments(String),
}

impl CommandError {
    /// A failure of any kind.
    pub(crate) fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// A failure that may have causes worth telling.
    pub(crate) fn with_causes(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let next = error.to_string();
            if !text.contains(&next) {
                text = format!("{text}: {next}");
            }
            cause = error.source();
        }
        Self::Failed(text)
    }

    fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::BadConnection(_) => 2,
            Self::BadFeature(_) => 4,
            Self::Interrupted(_) => 5,
            Self::BadArguments(_) => 128,
        }
    }

    /// Tells the user; gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("Error: {self}");
        ExitCode::from(self.code())
    }
}

/// What clap found wrong; help goes to standard output.
pub(crate) fn usage(error: &clap::Error, program: &str) -> ExitCode {
    use clap::error::{ContextKind, ErrorKind};
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            print!("{error}");
            return ExitCode::SUCCESS;
        }
        ErrorKind::InvalidSubcommand => {
            if let Some(command) = error.get(ContextKind::InvalidSubcommand) {
                eprintln!("Error: unknown command \"{command}\" for \"{program}\"");
                eprintln!("Run '{program} --help' for usage.");
                return ExitCode::FAILURE;
            }
        }
        _ => {}
    }
    let text = error.to_string();
    eprintln!(
        "Error: {}",
        text.strip_prefix("error: ").unwrap_or(&text).trim_end()
    );
    ExitCode::FAILURE
}
