//! Keeps sled from waiting for the disk twice (design R6).
//!
//! On Linux sled's flush ends in `sync_file_range`, which waits until the data was handed to the
//! disk but neither writes the file's metadata nor empties the disk's cache: it makes nothing
//! durable. The log's own `fdatasync` follows and does all of it. This definition takes the place
//! of libc's in the whole process, so that flush only writes. Nothing depends on it: where a linker
//! prefers libc's, a group is as durable as before, only slower.

#![allow(
    unsafe_code,
    reason = "taking the place of a libc function needs its symbol"
)]

use std::ffi::{c_int, c_uint};

// SAFETY: the symbol has libc's signature, and success without any effect is within its contract,
// which promises no durability. Nobody but sled calls it in this process.
#[unsafe(no_mangle)]
extern "C" fn sync_file_range(_fd: c_int, _offset: i64, _bytes: i64, _flags: c_uint) -> c_int {
    #[cfg(test)]
    tests::CALLS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    0
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    pub(super) static CALLS: AtomicU64 = AtomicU64::new(0);

    #[test]
    fn sled_calls_this_function_and_not_libc() {
        let dir = tempfile::tempdir().unwrap();
        let db = sled::Config::new().path(dir.path()).open().unwrap();
        db.insert(b"key", b"value").unwrap();
        let before = CALLS.load(Ordering::Relaxed);
        db.flush().unwrap();
        assert!(CALLS.load(Ordering::Relaxed) > before);
    }
}
