//! Applying committed commands: the one place where state changes (design 3, step 6).
//!
//! ```text
//! State::apply ─► alarm ─► auth ─► dispatch ─► WriteTxn ─► sink ─► visible ─► Outcome
//! ```
//!
//! The chain is composed here, once; no command takes another way in. Each command happens wholly
//! or not at all: all failures are found before the first change.
//!
//! [`State`] is owned by one thread, the apply thread. It depends on replicated state only
//! (design R4): no clock, no chance, no local size changes an outcome.

mod admit;
mod dispatch;
mod reply;
mod restore;
mod state;

pub use crate::mvcc::write::{EventRecord, EventSink};
pub use reply::{Outcome, Reply, Response};
pub use state::{State, StateOptions};
