//! What an operator does to a cluster that is in use, and what the clients notice of it.
//!
//! | module | what |
//! |---|---|
//! | [`snapshot`] | a snapshot is streamed while clients write |
//! | [`restore`] | the offline program makes a data directory of one |
//! | [`defrag`] | Defragment while clients write and read |
//! | [`catch_up`] | a member that was away comes back |
//! | [`leader_change`] | MoveLeader, SIGTERM and kill -9 of the leader |
//! | [`member_change`] | a member is added, another removed |
//! | [`calls`] | the calls of Maintenance and Cluster |
//! | [`growth`] | the memory of a process while something is done |

mod calls;
mod catch_up;
mod defrag;
mod growth;
mod leader_change;
mod member_change;
mod restore;
mod snapshot;

use std::path::Path;

use serde::Serialize;

use crate::compare::cluster::{Cluster, Program};
use crate::compare::measure::run_driver;
use crate::compare::options::CompareOptions;

/// Clients that go on meanwhile, as the figures that are promised say.
const CLIENTS: usize = 64;
/// Bytes of the values that fill a store.
const FILL_VALUE_BYTES: u64 = 4096;
/// Clients that fill a store: enough that it takes half a minute.
const FILL_CLIENTS: u32 = 256;
const MIB: f64 = 1024.0 * 1024.0;

/// One of the scenarios.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scenario {
    Snapshot,
    Restore,
    Defrag,
    CatchUp,
    LeaderChange,
    MemberChange,
}

/// What one run of a scenario found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ScenarioSample {
    pub program: &'static str,
    pub scenario: &'static str,
    pub figures: Vec<Figure>,
}

/// A quantity; its name says the unit.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub name: &'static str,
    pub value: f64,
}

impl Scenario {
    const ALL: [Self; 6] = [
        Self::Snapshot,
        Self::Restore,
        Self::Defrag,
        Self::CatchUp,
        Self::LeaderChange,
        Self::MemberChange,
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|scenario| scenario.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Restore => "restore",
            Self::Defrag => "defrag",
            Self::CatchUp => "catchup",
            Self::LeaderChange => "leader-change",
            Self::MemberChange => "member-change",
        }
    }

    fn members(self) -> u8 {
        match self {
            Self::Snapshot | Self::Restore | Self::Defrag => 1,
            Self::CatchUp | Self::LeaderChange | Self::MemberChange => 3,
        }
    }

    /// Runs it with a new cluster of `program` in `place`.
    pub(crate) fn measure(
        self,
        program: &Program,
        options: &CompareOptions,
        place: &Path,
    ) -> anyhow::Result<ScenarioSample> {
        let options = CompareOptions {
            members: self.members(),
            ..options.clone()
        };
        let mut cluster = Cluster::start(program, &options, place)?;
        let figures = match self {
            Self::Snapshot => snapshot::measure(&mut cluster, &options),
            Self::Restore => restore::measure(&mut cluster, &options, place),
            Self::Defrag => defrag::measure(&mut cluster, &options),
            Self::CatchUp => catch_up::measure(&mut cluster, &options),
            Self::LeaderChange => leader_change::measure(&mut cluster, &options),
            Self::MemberChange => member_change::measure(&mut cluster, &options),
        }?;
        cluster.stop()?;
        Ok(ScenarioSample {
            program: program.name,
            scenario: self.name(),
            figures: figures
                .into_iter()
                .map(|(name, value)| Figure { name, value })
                .collect(),
        })
    }
}

/// Names with values.
type Figures = Vec<(&'static str, f64)>;

/// Writes the store that is asked for; gives the number of its keys.
fn fill(cluster: &mut Cluster, options: &CompareOptions) -> anyhow::Result<u64> {
    let keys = (options.store_mib << 20) / FILL_VALUE_BYTES;
    let fill = [
        "fill".to_string(),
        format!("--key-space={keys}"),
        format!("--value-size={FILL_VALUE_BYTES}"),
        format!("--clients={FILL_CLIENTS}"),
    ];
    run_driver(&fill, cluster, options)?;
    Ok(keys)
}

#[expect(clippy::cast_precision_loss, reason = "shown to a hundredth")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}
