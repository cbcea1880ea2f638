//! Flags and commands (contract 8.1, 8.2, 8.4).

use clap::{Args, Parser, Subcommand};

/// A client for Keelson and etcd, and the tool for their snapshots and data directories.
#[derive(Debug, Parser)]
#[command(infer_subcommands = true, disable_version_flag = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of all commands. Each is also read from `ETCDCTL_…`.
#[derive(Args, Debug)]
pub(crate) struct Global {
    /// gRPC endpoints
    #[arg(
        long,
        global = true,
        value_delimiter = ',',
        default_value = "127.0.0.1:2379"
    )]
    pub(crate) endpoints: Vec<String>,
    /// The output format (fields, json, protobuf, simple, table)
    #[arg(short = 'w', long, global = true, default_value = "simple")]
    pub(crate) write_out: String,
    /// Timeout for connecting
    #[arg(long, global = true, default_value = "2s")]
    pub(crate) dial_timeout: String,
    /// Timeout for a command, except where a command waits for something
    #[arg(long, global = true, default_value = "5s")]
    pub(crate) command_timeout: String,
    /// How long to wait for a data directory in use, 0 for ever
    #[arg(long, global = true, default_value = "10s")]
    pub(crate) timeout: String,
    /// Certificate for TLS
    #[arg(long, global = true, default_value = "")]
    pub(crate) cert: String,
    /// Key for TLS
    #[arg(long, global = true, default_value = "")]
    pub(crate) key: String,
    /// Certificates of authorities for TLS
    #[arg(long, global = true, default_value = "")]
    pub(crate) cacert: String,
    /// `name[:password]` for authentication
    #[arg(long, global = true, default_value = "")]
    pub(crate) user: String,
    /// Password for authentication
    #[arg(long, global = true, default_value = "")]
    pub(crate) password: String,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Saves, shows and restores snapshots
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Prints the KV history hash of a snapshot file
    Hashkv(Hashkv),
    /// Defragments members, or with --data-dir a data directory that no server uses
    Defrag(Defrag),
    /// Checks a data directory's storage version against another one
    Migrate(Migrate),
    /// Prints the version
    Version,
}

/// Commands on snapshots.
#[derive(Debug, Subcommand)]
#[command(infer_subcommands = true)]
pub(crate) enum Snapshot {
    /// Stores a snapshot of a member in a file
    Save(File),
    /// Shows what a snapshot file holds
    Status(File),
    /// Makes a data directory of a snapshot file
    Restore(Box<Restore>),
}

/// A command's one file.
#[derive(Args, Debug)]
pub(crate) struct File {
    /// The snapshot file
    #[arg(value_name = "FILENAME")]
    pub(crate) files: Vec<String>,
}

/// `snapshot restore`.
#[derive(Args, Debug)]
pub(crate) struct Restore {
    #[command(flatten)]
    pub(crate) file: File,
    /// Path to the data directory to make
    #[arg(long)]
    pub(crate) data_dir: Option<String>,
    /// Path to the log's directory (within --data-dir if not given)
    #[arg(long)]
    pub(crate) wal_dir: Option<String>,
    /// Name of this member
    #[arg(long, default_value = "default")]
    pub(crate) name: String,
    /// All members of the new cluster
    #[arg(long, default_value = "default=http://localhost:2380")]
    pub(crate) initial_cluster: String,
    /// Token of the new cluster
    #[arg(long, default_value = "etcd-cluster")]
    pub(crate) initial_cluster_token: String,
    /// Peer URLs of this member
    #[arg(long, default_value = "http://localhost:2380")]
    pub(crate) initial_advertise_peer_urls: String,
    /// Does not look at the hash at the end (a database copied from a data directory has none)
    #[arg(long)]
    pub(crate) skip_hash_check: bool,
    /// How much to increase the latest revision by
    #[arg(long, default_value_t = 0)]
    pub(crate) bump_revision: u64,
    /// Marks the bumped revision as compacted (required with --bump-revision)
    #[arg(long)]
    pub(crate) mark_compacted: bool,
    /// Accepted and not needed: nothing is mapped into memory
    #[arg(long, hide = true, default_value_t = 0)]
    pub(crate) initial_memory_map_size: u64,
}

/// `hashkv`.
#[derive(Args, Debug)]
pub(crate) struct Hashkv {
    #[command(flatten)]
    pub(crate) file: File,
    /// Highest revision to hash (default: the latest)
    #[arg(long, default_value_t = 0)]
    pub(crate) rev: i64,
}

/// `defrag`.
#[derive(Args, Debug)]
pub(crate) struct Defrag {
    /// A data directory that no server uses
    #[arg(long)]
    pub(crate) data_dir: Option<String>,
}

/// `migrate`.
#[derive(Args, Debug)]
pub(crate) struct Migrate {
    /// Path to the data directory
    #[arg(long)]
    pub(crate) data_dir: String,
    /// The version to migrate to, "X.Y"
    #[arg(long)]
    pub(crate) target_version: String,
    /// Goes on where a migration is not possible
    #[arg(long)]
    pub(crate) force: bool,
}
