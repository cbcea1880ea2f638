//! bbolt's file format: what etcd's snapshot files are made of (etcd-snapshot-file 1, 2).
//!
//! ```text
//! page 0 │ page 1 │ page 2 … page H−1 │ SHA-256
//! meta   │ meta   │ B+trees           │ of all pages before
//! ```
//!
//! | module | what |
//! |---|---|
//! | `page` | page headers, elements, meta pages |
//! | `layout` | pass 1 of writing: where each leaf and branch will lie, from lengths alone |
//! | `writer` | pass 2: the bytes, in one forward pass, in pieces |
//! | `source`, `reader` | an untrusted file, checked before it is believed |
//! | `walk` | its buckets' entries, in order |
//!
//! Invariants of what is written:
//! - A branch's key equals the first key of its child, and a branch has at least two children:
//!   bbolt would otherwise fail later, when it writes.
//! - No freelist, no free pages; padding is zero.
//!
//! It knows nothing of what etcd stores in the buckets: that is [`crate::snapshot`]'s.

mod error;
mod layout;
mod page;
mod reader;
mod source;
mod walk;
mod writer;

#[cfg(test)]
mod tests;

pub use error::BoltError;
pub use page::PAGE_BYTES;
pub use reader::{BoltFile, Trust, check_hash};
pub use source::ReadAt;
pub use walk::{Bucket, Visit, Walk};
pub use writer::{Entries, EntryCursor, FileWriter, PIECE_BYTES, SmallBucket};
