//! The workloads by name, and what the driver is told for each.

use std::fmt;
use std::str::FromStr;

use crate::compare::options::CompareOptions;
use crate::compare::scenario::Scenario;

/// Keys that reads choose from, all written before.
const READ_KEYS: u64 = 10_000;
/// Keys that are watched, one watcher each.
const WATCHED_KEYS: u64 = 100;

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Workload {
    /// Rates, latencies and CPU time under a load.
    Load(LoadWorkload),
    /// Memory after a large load and after a restart.
    Memory,
    /// What an operator does to a cluster that is in use.
    Scenario(Scenario),
}

/// A load of the driver.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LoadWorkload {
    Put { clients: u32 },
    Range { clients: u32, serializable: bool },
    Watch { clients: u32 },
    Lease { clients: u32 },
    Keepalive { clients: u32 },
}

impl LoadWorkload {
    /// The driver's command and arguments; endpoints, core and output are left to the caller.
    pub(crate) fn arguments(&self, options: &CompareOptions) -> Vec<String> {
        let mut arguments = match self {
            Self::Put { .. } => vec!["put".to_string()],
            Self::Range { serializable, .. } => {
                let mut range = vec!["range".into(), format!("--key-space={READ_KEYS}")];
                if *serializable {
                    range.push("--serializable".into());
                }
                range
            }
            Self::Watch { .. } => vec![
                "watch".into(),
                format!("--key-space={WATCHED_KEYS}"),
                format!("--watchers={WATCHED_KEYS}"),
            ],
            Self::Lease { .. } => vec!["lease".into(), "--mode=grant".into()],
            Self::Keepalive { .. } => vec!["lease".into(), "--mode=keepalive".into()],
        };
        if matches!(self, Self::Put { .. } | Self::Watch { .. }) {
            arguments.push(format!("--value-size={}", options.value_size));
        }
        arguments.push(format!("--clients={}", self.clients()));
        arguments.push(format!("--duration={}", options.seconds));
        arguments
    }

    /// What the driver writes before the measurement.
    pub(crate) fn preparation(&self, options: &CompareOptions) -> Option<Vec<String>> {
        matches!(self, Self::Range { .. }).then(|| {
            vec![
                "fill".into(),
                format!("--key-space={READ_KEYS}"),
                format!("--value-size={}", options.value_size),
            ]
        })
    }

    fn clients(&self) -> u32 {
        match self {
            Self::Put { clients }
            | Self::Range { clients, .. }
            | Self::Watch { clients }
            | Self::Lease { clients }
            | Self::Keepalive { clients } => *clients,
        }
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "memory" {
            return Ok(Self::Memory);
        }
        if let Some(scenario) = Scenario::named(text) {
            return Ok(Self::Scenario(scenario));
        }
        let unknown = || format!("{text} is no workload; one is put-64, for example");
        let (name, clients) = text.rsplit_once('-').ok_or_else(unknown)?;
        let clients = clients.parse().map_err(|_| unknown())?;
        Ok(Self::Load(match name {
            "put" => LoadWorkload::Put { clients },
            "range" | "range-serializable" => LoadWorkload::Range {
                clients,
                serializable: name != "range",
            },
            "watch" => LoadWorkload::Watch { clients },
            "lease" => LoadWorkload::Lease { clients },
            "keepalive" => LoadWorkload::Keepalive { clients },
            _ => return Err(unknown()),
        }))
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(load) => load.fmt(f),
            Self::Memory => f.write_str("memory"),
            Self::Scenario(scenario) => f.write_str(scenario.name()),
        }
    }
}

impl fmt::Display for LoadWorkload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Put { .. } => "put",
            Self::Range {
                serializable: false,
                ..
            } => "range",
            Self::Range { .. } => "range-serializable",
            Self::Watch { .. } => "watch",
            Self::Lease { .. } => "lease",
            Self::Keepalive { .. } => "keepalive",
        };
        write!(f, "{name}-{}", self.clients())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in [
            "put-1",
            "range-64",
            "range-serializable-64",
            "watch-10",
            "lease-8",
            "keepalive-3",
            "memory",
            "leader-change",
        ] {
            assert_eq!(name.parse::<Workload>().unwrap().to_string(), name);
        }
        for name in ["put", "put-", "put-x", "get-1", "memory-1", ""] {
            assert!(name.parse::<Workload>().is_err(), "{name}");
        }
    }
}
