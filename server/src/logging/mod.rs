//! etcd's log lines on stderr (contract 6.5).
//!
//! ```text
//! tracing event ─ EtcdLayer: level, target, sampling ─ line ─ one write per output
//! ```
//!
//! - A line is complete and written with one call, so lines of threads and processes that share a
//!   file do not mix.
//! - Field names with dashes are string literals: `"snapshot-count" = 1`. The reserved field
//!   [`SEVERITY`] makes an error a `panic` or `fatal` line; a name that starts with [`RAW_PREFIX`]
//!   holds JSON as it is, such as a [`list`].
//! - Spans are not recorded; they cost nothing.
//! - Values, passwords and tokens are not logged; that is up to those who log.

mod fields;
mod layer;
mod line;
mod output;
mod sampling;
mod time;

pub use layer::{EtcdLayer, init};
pub use line::{RAW_PREFIX, SEVERITY, list};

/// A duration as Go prints it, for a field: `took = %logging::go(took)`.
#[must_use]
pub fn go(duration: std::time::Duration) -> crate::config::GoDuration {
    crate::config::GoDuration(duration)
}
