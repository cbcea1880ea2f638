//! What can go wrong in the state layer, and which of it every member sees alike (design R4).

use keelson_proto::error::Error;

use crate::store::StoreError;

/// Why a command or a read did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApplyError {
    /// Refused for a reason that follows from replicated state: the client is told, nothing has
    /// changed.
    #[error(transparent)]
    Refused(#[from] Error),
    /// The local store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Local data contradicts itself.
    #[error("state is damaged: {0}")]
    Damaged(String),
    /// A command this version does not know: going on would diverge from members that do.
    #[error("a command of unknown kind at log index {0}")]
    UnknownCommand(u64),
}

impl ApplyError {
    /// Whether every member comes to the same error (design R4). One that is not deterministic
    /// must end the process; it is never a reply.
    #[must_use]
    pub fn is_deterministic(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Store(_) | Self::Damaged(_) | Self::UnknownCommand(_) => false,
        }
    }
}

/// An error after which this member must stop: its state can no longer be trusted to follow the
/// log (design R4, R9).
#[derive(Clone, Debug, thiserror::Error)]
#[error("this member cannot go on: {0}")]
pub struct Fatal(#[source] ApplyError);

impl Fatal {
    /// Splits an error into what the client is told and what ends the process.
    pub fn or_refusal(error: ApplyError) -> Result<Error, Self> {
        match error {
            ApplyError::Refused(refusal) => Ok(refusal),
            error => Err(Self(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::Revision;

    #[test]
    fn only_refusals_are_deterministic() {
        assert!(ApplyError::from(Error::Compacted).is_deterministic());
        let lost = ApplyError::from(StoreError::NotFound(Revision { main: 3, sub: 0 }));
        assert!(!lost.is_deterministic());
        assert!(Fatal::or_refusal(lost).is_err());
        assert!(!ApplyError::UnknownCommand(7).is_deterministic());
    }
}
