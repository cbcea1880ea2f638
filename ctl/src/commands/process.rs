//! Programs that a command runs.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

/// Why a program did not end well, in Go's words.
pub(super) struct Failure {
    pub(super) text: String,
    /// The code to end with.
    pub(super) code: u8,
}

/// What went wrong, if anything did.
pub(super) fn failure(program: &str, ran: io::Result<ExitStatus>) -> Option<Failure> {
    let (text, code) = match ran {
        Ok(status) if status.success() => return None,
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => {
                let short = u8::try_from(code).unwrap_or(1);
                (format!("exit status {code}"), short)
            }
            (None, Some(signal)) => (format!("signal: {signal}"), 1),
            (None, None) => ("exit status unknown".to_owned(), 1),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound && !program.contains('/') => {
            let text = format!("exec: {program:?}: executable file not found in $PATH");
            (text, 1)
        }
        Err(error) => {
            let reason = keelson::offline::restore::without_number(&error);
            (format!("fork/exec {program}: {reason}"), 1)
        }
    };
    Some(Failure { text, code })
}
