//! Makes sled's flush durable (design R6).
//!
//! On Linux sled's flush ends in `sync_file_range`, which hands the data to the disk but neither
//! writes the file's metadata nor empties the disk's cache: it makes nothing durable. This
//! definition takes the place of libc's in the whole process and syncs the file instead. So the
//! thread that wrote the data also syncs it, at once; a sync by the log's thread after the flush
//! would have to wait for its turn behind the idle threads that sled wakes with each write.
//!
//! Nothing is taken for granted: [`is_reached`] proves for each database that its flush gets here
//! with its file. Where it does not, because a linker preferred libc's function, the log's thread
//! syncs after each flush.

#![allow(
    unsafe_code,
    reason = "taking the place of a libc function needs its symbol"
)]

use std::ffi::{c_int, c_uint};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// A file, whatever descriptor it is open under.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// Files that need a look: those of logs without fsync, and those under test.
#[derive(Default)]
struct Marked {
    unsynced: Vec<FileId>,
    awaited: Vec<FileId>,
}

static MARKED: Mutex<Marked> = Mutex::new(Marked {
    unsynced: Vec::new(),
    awaited: Vec::new(),
});

/// Whether [`MARKED`] holds anything: as good as never, then a sync need not ask which file it is.
static ANY_MARKED: AtomicBool = AtomicBool::new(false);

impl Marked {
    fn change<T>(change: impl FnOnce(&mut Self) -> T) -> T {
        let mut marked = MARKED.lock();
        let result = change(&mut marked);
        let any = !marked.unsynced.is_empty() || !marked.awaited.is_empty();
        ANY_MARKED.store(any, Ordering::SeqCst);
        result
    }
}

/// Leaves the syncing of a file to the operating system, for good (`--unsafe-no-fsync`).
pub(super) fn leave_unsynced(file: &File) -> io::Result<()> {
    let id = FileId::of(file)?;
    Marked::change(|marked| marked.unsynced.push(id));
    Ok(())
}

/// Whether `flush`, which must write to the file, gets here and syncs it.
pub(super) fn is_reached<E: From<io::Error>>(
    file: &File,
    flush: impl FnOnce() -> Result<(), E>,
) -> Result<bool, E> {
    let id = FileId::of(file)?;
    Marked::change(|marked| marked.awaited.push(id));
    let flushed = flush();
    let missed = Marked::change(|marked| {
        let before = marked.awaited.len();
        marked.awaited.retain(|awaited| *awaited != id);
        before != marked.awaited.len()
    });
    flushed.map(|()| !missed)
}

/// Whether everything written to the file so far reached the disk, as far as the system knows.
///
/// The system reports a failed write once to each open file. sled's cleaning thread syncs through
/// the same one as its writes and only logs what fails; this asks through ours.
pub(super) fn check_written(file: &File) -> io::Result<()> {
    let fd = std::os::fd::AsRawFd::as_raw_fd(file);
    let (whole, to_its_end) = (0_i64, 0_i64);
    // SAFETY: the descriptor is open for the time of the call, no memory is involved. The system's
    // own call: the function of that name is the one below.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sync_file_range,
            fd,
            whole,
            to_its_end,
            libc::SYNC_FILE_RANGE_WAIT_BEFORE,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

// SAFETY: the symbol has libc's signature. It does more than libc's function promises, and fails
// as that may: with -1 and `errno` set by the system call that failed.
#[unsafe(no_mangle)]
extern "C" fn sync_file_range(fd: c_int, _offset: i64, _bytes: i64, _flags: c_uint) -> c_int {
    // SAFETY: the caller's descriptor is open for the time of the call.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    match sync(file) {
        Ok(()) => 0,
        Err(errno) => {
            // SAFETY: the location is this thread's own.
            unsafe { *libc::__errno_location() = errno.raw_os_error() };
            -1
        }
    }
}

fn sync(file: BorrowedFd<'_>) -> rustix::io::Result<()> {
    if !ANY_MARKED.load(Ordering::SeqCst) {
        return rustix::fs::fdatasync(file);
    }
    let stat = rustix::fs::fstat(file)?;
    let id = FileId {
        device: stat.st_dev,
        inode: stat.st_ino,
    };
    if !MARKED.lock().unsynced.contains(&id) {
        rustix::fs::fdatasync(file)?;
    }
    Marked::change(|marked| marked.awaited.retain(|awaited| *awaited != id));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sled_calls_this_function_and_not_libc() {
        let dir = tempfile::tempdir().unwrap();
        let db = sled::Config::new().path(dir.path()).open().unwrap();
        let file = File::open(dir.path().join("db")).unwrap();
        let reached = is_reached(&file, || {
            db.insert(b"key", b"value").map_err(io::Error::from)?;
            db.flush().map(drop).map_err(io::Error::from)
        });
        assert!(reached.unwrap());
        // Nothing is written, so nothing is synced.
        assert!(!is_reached(&file, || Ok::<_, io::Error>(())).unwrap());
        check_written(&file).unwrap();
    }

    #[test]
    fn a_sync_that_fails_is_reported() {
        let (reader, _writer) = io::pipe().unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&reader);
        assert_eq!(sync_file_range(fd, 0, 0, 0), -1);
        assert_eq!(
            io::Error::last_os_error().raw_os_error(),
            Some(libc::EINVAL)
        );
    }
}
