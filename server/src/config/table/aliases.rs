//! `--experimental-…`: the names that settings had up to etcd 3.6 (contract 5.1).

use super::{Flag, Group};

/// What an old name stands for.
#[derive(Clone, Copy, Debug)]
pub enum Alias {
    /// The flag of this name.
    Flag(&'static Flag),
    /// A feature gate; the alias takes a bool.
    Gate(&'static str),
}

/// Gates that were flags.
const GATES: [(&str, &str); 6] = [
    ("initial-corrupt-check", "InitialCorruptCheck"),
    ("compact-hash-check-enabled", "CompactHashCheck"),
    ("enable-lease-checkpoint", "LeaseCheckpoint"),
    ("enable-lease-checkpoint-persist", "LeaseCheckpointPersist"),
    (
        "txn-mode-write-with-shared-buffer",
        "TxnModeWriteWithSharedBuffer",
    ),
    ("stop-grpc-service-on-defrag", "StopGRPCServiceOnDefrag"),
];

/// What an old name of a flag or config-file key stands for.
#[must_use]
pub fn alias(name: &str) -> Option<Alias> {
    let rest = name.strip_prefix("experimental-")?;
    if let Some((_, gate)) = GATES.iter().find(|(old, _)| *old == rest) {
        return Some(Alias::Gate(gate));
    }
    let flag = Flag::named(rest)?;
    let renamed = match flag.group {
        Group::Features => flag.name != "max-learners",
        Group::Tracing => true,
        _ => matches!(flag.name, "memory-mlock" | "warning-unary-request-duration"),
    };
    renamed.then_some(Alias::Flag(flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names() {
        assert!(
            matches!(alias("experimental-corrupt-check-time"), Some(Alias::Flag(flag))
            if flag.name == "corrupt-check-time")
        );
        assert!(matches!(
            alias("experimental-initial-corrupt-check"),
            Some(Alias::Gate("InitialCorruptCheck"))
        ));
        for name in [
            "experimental-name",
            "experimental-max-learners",
            "corrupt-check-time",
        ] {
            assert!(alias(name).is_none(), "{name}");
        }
    }
}
