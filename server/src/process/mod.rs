//! The process around a server: arguments, logger, data directory, signals, exit code
//! (contract 4.1 to 4.3).
//!
//! ```text
//! load → logger → validate → descriptors → data directory, lock → server → signal → stop → die
//! ```
//!
//! - Exit codes: 0 for help, version and a regular end; 1 for start and configuration errors; 2 for
//!   a bad flag. A stop by signal ends by that signal, so that its sender sees it took effect.
//! - A panic ends the process: nothing goes on with state that a panic may have left half done.

mod announce;
mod data_dir;
mod die;
mod limits;
mod notify;
mod panic;
mod run;
mod signals;
pub mod unfinished;

pub use data_dir::{DataDir, DataDirError};
pub use run::main;

/// The compiler, where etcd shows Go's version.
pub const COMPILER: &str = concat!("rust", env!("CARGO_PKG_RUST_VERSION"));
