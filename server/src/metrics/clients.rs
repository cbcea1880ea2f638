//! Requests by the version their client says it speaks (contract 2.1, 6.4).

use std::sync::{Arc, OnceLock};

use super::labels::LabelVec;
use super::types::Counter;

/// Versions that are told apart. Anybody can call himself anything: the rest counts as `other`.
const VERSIONS_MAX: usize = 16;

/// What a client that says nothing counts as.
const UNKNOWN: &str = "unknown";
/// What further versions count as.
const OTHER: &str = "other";

/// Finds the counters of a version without a lock.
#[derive(Debug, Default)]
pub(super) struct ClientVersions {
    known: [OnceLock<Version>; VERSIONS_MAX],
    other: OnceLock<Version>,
}

#[derive(Debug)]
struct Version {
    name: String,
    unary: Arc<Counter>,
    stream: Arc<Counter>,
}

impl Version {
    fn new(name: &str, family: &LabelVec<Counter>) -> Self {
        Self {
            name: name.to_owned(),
            unary: family.with(&["unary", name]),
            stream: family.with(&["stream", name]),
        }
    }

    fn count(&self, is_stream: bool) {
        if is_stream { &self.stream } else { &self.unary }.increment();
    }
}

impl ClientVersions {
    /// Counts a request.
    pub(super) fn count(&self, family: &LabelVec<Counter>, version: Option<&str>, is_stream: bool) {
        let name = version.unwrap_or(UNKNOWN);
        for slot in &self.known {
            let version = slot.get_or_init(|| Version::new(name, family));
            if version.name == name {
                version.count(is_stream);
                return;
            }
        }
        let other = self.other.get_or_init(|| Version::new(OTHER, family));
        other.count(is_stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart_up_to_a_bound() {
        let family = LabelVec::new(&["type", "client_api_version"], Counter::default);
        let versions = ClientVersions::default();
        versions.count(&family, None, false);
        for version in 0..100 {
            versions.count(&family, Some(&format!("{version}")), true);
        }
        versions.count(&family, Some("3"), true);
        assert_eq!(family.with(&["unary", UNKNOWN]).get(), 1);
        assert_eq!(family.with(&["stream", "3"]).get(), 2);
        assert_eq!(family.with(&["stream", OTHER]).get(), 85);
        assert_eq!(family.children().len(), 2 * (VERSIONS_MAX + 1));
    }
}
