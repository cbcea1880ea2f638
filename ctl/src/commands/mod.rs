//! One file a command: its flags, its run, and how its result is shown.

pub(crate) mod alarm;
pub(crate) mod compaction;
pub(crate) mod defrag;
pub(crate) mod del;
pub(crate) mod downgrade;
pub(crate) mod elect;
pub(crate) mod endpoint;
mod endpoint_hashkv;
mod endpoint_health;
mod endpoint_status;
pub(crate) mod file;
pub(crate) mod get;
pub(crate) mod hashkv;
mod key_range;
pub(crate) mod lease;
pub(crate) mod lock;
pub(crate) mod member;
pub(crate) mod migrate;
pub(crate) mod move_leader;
mod options;
mod process;
pub(crate) mod put;
mod signals;
pub(crate) mod snapshot_restore;
mod snapshot_save;
mod snapshot_status;
pub(crate) mod txn;
mod version;
pub(crate) mod watch;
mod words;

use crate::cli::{Cli, Command, Snapshot};
use crate::exit::CommandError;

/// Runs what was asked for.
pub(crate) fn run(program: &str, cli: &Cli) -> Result<(), CommandError> {
    let global = &cli.global;
    match &cli.command {
        Command::Get(get) => get::run(global, get),
        Command::Put(put) => put::run(global, put),
        Command::Del(del) => del::run(global, del),
        Command::Txn(txn) => txn::run(global, txn),
        Command::Watch(flags) => watch::run(global, flags),
        Command::Compaction(compaction) => compaction::run(global, compaction),
        Command::Lease(lease) => lease::run(global, lease),
        Command::Lock(lock) => lock::run(global, lock),
        Command::Elect(elect) => elect::run(global, elect),
        Command::Member(member) => member::run(global, member),
        Command::Endpoint(endpoint) => endpoint::run(global, endpoint),
        Command::Alarm(alarm) => alarm::run(global, alarm),
        Command::Defrag(defrag) => defrag::run(global, defrag),
        Command::Downgrade(downgrade) => downgrade::run(global, downgrade),
        Command::MoveLeader(move_leader) => move_leader::run(global, move_leader),
        Command::Snapshot(Snapshot::Save(file)) => snapshot_save::run(global, file),
        Command::Snapshot(Snapshot::Status(file)) => snapshot_status::run(global, file),
        Command::Snapshot(Snapshot::Restore(restore)) => snapshot_restore::run(restore),
        Command::Hashkv(hashkv) => hashkv::run(global, hashkv),
        Command::Migrate(migrate) => migrate::run(global, migrate),
        Command::Options => options::run(),
        Command::Version(_) => {
            version::run(program);
            Ok(())
        }
    }
}
