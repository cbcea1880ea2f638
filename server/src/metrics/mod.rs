//! The metrics page (contract 6.4).
//!
//! - Plain atomics; a handle is a field, so counting looks nothing up.
//! - [`names`] holds every name, type, help text and bucket list. [`grpc`] counts calls, messages
//!   and bytes on the way through. `observers` is what the node and its log report to.
//! - Numbers that live elsewhere are read when the page is rendered, by [`Metrics::on_render`].

mod clients;
mod exposition;
pub mod grpc;
mod grpc_methods;
mod labels;
pub mod names;
mod node;
mod observers;
mod process;
mod registry;
mod types;

pub(crate) use grpc_methods::takes_one_request;
pub use labels::LabelVec;
pub use registry::Metrics;
pub use types::{Buckets, Counter, Gauge, Histogram};
