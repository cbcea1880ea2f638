//! Multi-version concurrency control: keys, revisions, ranges, compaction, hashes.

pub mod index;
