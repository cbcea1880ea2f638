//! etcd's snapshot files: its buckets in a [`bolt`](crate::bolt) database
//! (contract 2.10, 8.4; etcd-snapshot-file 3).
//!
//! ```text
//! State ── begin ──▶ Export ── FileWriter ──▶ Maintenance.Snapshot, keelctl snapshot save
//! file ── open ──▶ Import ── records, state ──▶ keelctl snapshot restore
//!                    └────── Status, hash_kv ──▶ keelctl snapshot status, hashkv
//! ```
//!
//! | module | what |
//! |---|---|
//! | `buckets` | names of buckets and keys, keys of records |
//! | `export` | a consistent point of a running state, streamed in bounded memory |
//! | `import` | everything a restored member takes over, checked |
//! | `restore` | a file made into a new store |
//! | `history` | the rules that records of one key follow |
//! | `status`, `hash` | what etcdutl computes from a file |
//!
//! Records go both ways byte for byte (design R1), so hashes agree on both sides.

mod buckets;
mod export;
mod hash;
mod history;
mod import;
mod restore;
mod status;

pub use buckets::SnapshotMember;
pub use export::{Export, STORAGE_VERSION};
pub use hash::{FileHash, HashError, hash_kv};
pub use import::{Content, Import, ImportError, ImportedRecord};
pub use restore::{Placement, restore};
pub use status::Status;
