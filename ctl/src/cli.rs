//! The commands (contract 8.2, 8.4). Their flags stand with each command.

use clap::{Parser, Subcommand};

use crate::commands::{
    alarm, compaction, defrag, del, downgrade, elect, endpoint, file, get, hashkv, lease, lock,
    member, migrate, move_leader, put, snapshot_restore, txn, watch,
};
pub(crate) use crate::global::Global;

/// A client for Keelson and etcd, and the tool for their snapshots and data directories.
#[derive(Debug, Parser)]
#[command(
    infer_subcommands = true,
    disable_version_flag = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Gets the key or a range of keys
    Get(get::Get),
    /// Puts the given key into the store
    Put(put::Put),
    /// Removes the specified key or range of keys [key, range_end)
    Del(del::Del),
    /// Txn processes all the requests in one transaction
    Txn(txn::Txn),
    /// Watches events stream on keys or prefixes
    Watch(watch::WatchFlags),
    /// Compacts the event history in etcd
    Compaction(compaction::Compaction),
    /// Lease related commands
    #[command(subcommand)]
    Lease(lease::Lease),
    /// Acquires a named lock
    Lock(lock::Lock),
    /// Observes and participates in leader election
    Elect(elect::Elect),
    /// Membership related commands
    #[command(subcommand)]
    Member(member::Member),
    /// Endpoint related commands
    Endpoint(endpoint::Endpoint),
    /// Alarm related commands
    #[command(subcommand)]
    Alarm(alarm::Alarm),
    /// Defragments members, or with --data-dir a data directory that no server uses
    Defrag(defrag::Defrag),
    /// Downgrade related commands
    #[command(subcommand)]
    Downgrade(downgrade::Downgrade),
    /// Transfers leadership to another member
    MoveLeader(move_leader::MoveLeader),
    /// Saves, shows and restores snapshots
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Prints the KV history hash of a snapshot file
    Hashkv(hashkv::Hashkv),
    /// Checks a data directory's storage version against another one
    Migrate(migrate::Migrate),
    /// Shows the global command-line flags
    Options,
    /// Prints the version
    Version(Ignored),
}

/// Commands on snapshots.
#[derive(Debug, Subcommand)]
#[command(infer_subcommands = true)]
pub(crate) enum Snapshot {
    /// Stores a snapshot of a member in a file
    Save(file::File),
    /// Shows what a snapshot file holds
    Status(file::File),
    /// Makes a data directory of a snapshot file
    Restore(Box<snapshot_restore::Restore>),
}

/// Arguments that a command does not look at, as etcd's does not.
#[derive(clap::Args, Debug)]
pub(crate) struct Ignored {
    #[arg(hide = true)]
    pub(crate) args: Vec<String>,
}
