//! How many descriptors the process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::RESERVED_DESCRIPTORS;

/// Raises the limit as far as it may be raised, and returns it.
///
/// # Errors
/// With the limit if it is too low to serve anyone (contract 4.1).
pub(super) fn raise_descriptors() -> Result<u64, u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let effective = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    match effective.unwrap_or(u64::MAX) {
        too_low if too_low <= RESERVED_DESCRIPTORS => Err(too_low),
        enough => Ok(enough),
    }
}
