//! Flags, environment and config file (contract 5), resolved into one [`Config`].
//!
//! ```text
//! args ─ Go's flag syntax ─┐
//! environment ─ ETCD_… ────┼─ Settings (text → typed Value, by the table) ─ Config ─ validate
//! config file ─ YAML, JSON ┘
//! ```
//!
//! - [`table`] is the one definition of every setting. Flags and environment, or the file: never
//!   both.
//! - Nothing here logs or exits: what is to be said before there is a logger comes back as
//!   [`Notice`]s, what stops the start as [`LoadError`].
//! - A setting that Keelson does not have yet is answered by its [`table::Status`].

mod args;
mod duration;
mod environment;
mod file;
mod gates;
mod initial_cluster;
mod load;
mod resolve;
mod sections;
mod server;
mod settings;
pub mod table;
mod url;
mod validate;
mod value;

pub use duration::{GoDuration, parse as parse_duration};
pub use gates::{Gates, Stage};
pub use initial_cluster::InitialCluster;
pub use load::{Invocation, LoadError, Loaded, Notice, load};
pub use resolve::same_addresses;
pub use sections::{
    Auth, Clustering, Config, Features, InitialClusterState, LogFormat, LogLevel, LogOutput,
    Logging, Member, MetricsDetail, Monitoring, Security, Tls, Tracing, Unsafe,
};
pub(crate) use server::RESERVED_DESCRIPTORS;
pub use settings::{Settings, Source};
pub use url::{Scheme, Url, join as join_urls};
pub use validate::Problem;
pub(crate) use validate::mismatch;
