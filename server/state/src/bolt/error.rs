//! What can be wrong with a file from outside.

use std::io;
use std::sync::Arc;

/// Why a snapshot file cannot be used. Names the file, and the offset where there is one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BoltError {
    /// The file cannot be read.
    #[error("cannot read {file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// The file is not what it should be.
    #[error("{file} is damaged at offset {offset}: {detail}")]
    Damaged {
        /// The file.
        file: String,
        /// Where, in bytes from its beginning.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// The file ends without the hash that `snapshot save` appends (contract 8.4).
    #[error("snapshot missing hash but --skip-hash-check=false")]
    MissingHash,
    /// The hash at the end is of other bytes (contract 8.4).
    #[error("expected sha256 {}, got {}", list(expected), list(got))]
    WrongHash {
        /// What the file says.
        expected: [u8; 32],
        /// What its bytes give.
        got: [u8; 32],
    },
}

/// As etcd shows bytes: decimal, with spaces.
fn list(bytes: &[u8]) -> String {
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    format!("[{}]", numbers.join(" "))
}
