//! The layers before dispatch: alarm, then auth.

use keelson_proto::{
    error::Error,
    keelsonpb::{Command, command::Request},
};

use crate::alarm::Alarms;

/// Whether a command may be dispatched.
pub(super) fn admit(alarms: &Alarms, command: &Command, request: &Request) -> Result<(), Error> {
    alarms.admit(request)?;
    authorize(command)
}

/// Authentication cannot be enabled yet, so a command comes without a user and is admitted. One
/// that names a user was resolved by a member that knows more: it is refused, not waved through.
fn authorize(command: &Command) -> Result<(), Error> {
    if command.user.is_empty() {
        Ok(())
    } else {
        Err(Error::AuthNotEnabled)
    }
}
