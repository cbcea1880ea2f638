//! The workloads. Each is a closed loop: a client sends its next request when it has the reply.
//!
//! | module | what |
//! |---|---|
//! | [`options`] | what the command line says |
//! | [`run`] | one run: runtime, connections, window, counting, the watchdog |
//! | [`template`] | keys, and requests that are encoded once |
//! | [`unary`], [`watch`], [`lease`] | the clients |

mod lease;
pub(crate) mod options;
mod run;
pub(crate) mod template;
mod unary;
mod watch;

pub(crate) use lease::run_lease;
pub(crate) use unary::{run_fill, run_put, run_range};
pub(crate) use watch::run_watch;
