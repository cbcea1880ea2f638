//! Multi-version concurrency control: one history of revisions, readable at any point of it.
//!
//! ```text
//! write: command ─► check ─► index ─► store ─► sink ─► visible      (one main revision each)
//! read:  begin (view, pin) ─► index at a revision ─► records by revision
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`index`] | key → revisions, in memory |
//! | [`record`] | the bytes of a revision (design R1) |
//! | [`shared`] | what readers and the writer share; pins |
//! | [`range`], [`stream`] | ranges at a revision |
//! | [`txn`] | compares, the path taken, checks before the first change |
//! | [`mod@write`] | the one writer |
//! | [`compaction`] | logical at once, removal in batches |
//! | [`hash`] | hashes that members compare |
//!
//! Invariants:
//! - All changes of a command have one main revision, subs from 0 (contract 2.5).
//! - A reader that has seen `visible` = R finds all of R in the index, the store and the sink.
//! - What a pinned read may need stays in the index (store-notes 4).

pub mod compaction;
mod crc;
pub mod hash;
pub mod index;
pub mod range;
pub mod record;
pub mod shared;
pub mod stream;
pub mod txn;
pub mod write;
