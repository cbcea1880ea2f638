//! The key index: every key with its revisions, in key order, in memory (design 4).
//!
//! ```text
//! Fences (ArcSwap) ──► Chunk ──► Chunk ──► …            copied on split and merge only
//!                        │ lower bound, leaf
//!                        ▼
//!                      Leaf (RwLock): Entry Entry … ≤ 128, upper bound, live, max_main
//!                                       │ key, newest revision, [history]
//! ```
//!
//! The index holds no locations: the revision *is* the location, and the store's segment table
//! maps it to bytes, so rewriting a segment touches nothing here.
//!
//! Invariants (store-notes 3):
//! - Fences change only on split and merge, and are published before the changed leaf is unlocked.
//! - A reader whose key is not below `upper`, or whose leaf is `dead`, looks up again.
//! - A reader holds one leaf's lock at a time; a scan goes on at `upper`.
//! - There is one writer: apply, which also drives compaction. It owns the [`KeyIndex`];
//!   [`IndexReader`]s are shared.
//! - Revisions of a key leave from its oldest end only.

mod entry;
mod fences;
mod leaf;
mod restore;
mod tree;

pub use entry::{Found, Head};
pub use restore::Restore;
pub use tree::{CompactBudget, IndexReader, KeyIndex};
