//! Errors of commands and the exit codes that scripts know (contract 8.3).

use std::process::ExitCode;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The work failed.
    #[error("{0}")]
    Failed(String),
    /// There was nobody to ask within the time; and why.
    #[error("context deadline exceeded")]
    NoConnection(String),
    /// No connection.
    #[error("{0}")]
    BadConnection(String),
    /// Input that cannot be understood.
    #[error("{0}")]
    InvalidInput(String),
    /// An output format or option value that is not there.
    #[error("{0}")]
    BadFeature(String),
    /// A snapshot or watch that did not come to its end.
    #[error("{0}")]
    Interrupted(String),
    /// Input or output that failed.
    #[error("{0}")]
    Io(String),
    /// Arguments that do not fit.
    #[error("{0}")]
    BadArguments(String),
    /// What failed has been said already; or a program that was run has this code.
    #[error("exit code {0}")]
    Silent(u8),
}

impl CommandError {
    /// A failure of any kind.
    pub(crate) fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// Arguments that do not fit.
    pub(crate) fn arguments(text: impl Into<String>) -> Self {
        Self::BadArguments(text.into())
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
            Self::Failed(_) | Self::NoConnection(_) => 1,
            Self::BadConnection(_) => 2,
            Self::InvalidInput(_) => 3,
            Self::BadFeature(_) => 4,
            Self::Interrupted(_) => 5,
            Self::Io(_) => 6,
            Self::BadArguments(_) => 128,
            Self::Silent(code) => *code,
        }
    }

    /// Tells the user; gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if let Self::NoConnection(reason) = self {
            warn_no_connection(reason);
        }
        if !matches!(self, Self::Silent(_)) {
            eprintln!("Error: {self}");
        }
        ExitCode::from(self.code())
    }
}

/// Says why nobody was reached, which the error's text does not.
pub(crate) fn warn_no_connection(reason: &str) {
    eprintln!("warning: no connection: {reason}");
}

impl From<keelson_client::Error> for CommandError {
    fn from(error: keelson_client::Error) -> Self {
        use keelson_client::Error;
        match error {
            Error::NoEndpoints => Self::BadConnection(error.to_string()),
            Error::InvalidEndpoint { .. } => Self::BadArguments(error.to_string()),
            Error::Tls => Self::BadFeature(error.to_string()),
            Error::DeadlineExceeded {
                no_connection: Some(reason),
            } => Self::NoConnection(reason),
            error => Self::Failed(error.to_string()),
        }
    }
}
