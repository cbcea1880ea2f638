//! One file of the plain append log: a row of frames, read back whole.
//!
//! The name is the segment's number in hexadecimal. Nothing in a file is ever changed; a torn end
//! is cut off at recovery, before anything is written behind it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::error::WalError;
use super::frame::{Frame, FrameError, HEADER_BYTES, MAGIC};

/// Extension of a segment.
const EXTENSION: &str = "klog";

/// Path of segment `number`.
pub(super) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.{EXTENSION}"))
}

/// Numbers of the segments in `dir`, in order.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, WalError> {
    let io = |error| WalError::io(format!("listing {}", dir.display()), error);
    let mut numbers = Vec::new();
    for item in fs::read_dir(dir).map_err(io)? {
        let path = item.map_err(io)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == EXTENSION)
        {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let number = u64::from_str_radix(&stem, 16).map_err(|_| {
                WalError::Refused(format!("{} is not a segment's name", path.display()))
            })?;
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Creates an empty segment; the caller syncs the directory.
pub(super) fn create(dir: &Path, number: u64) -> Result<File, WalError> {
    let path = path_of(dir, number);
    File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| WalError::io(format!("creating {}", path.display()), error))
}

/// A segment's bytes, walked frame by frame.
pub(super) struct Walk {
    data: Bytes,
    offset: usize,
}

impl Walk {
    /// Reads the file of a segment.
    pub(super) fn open(path: &Path) -> Result<Self, WalError> {
        let data = fs::read(path)
            .map_err(|error| WalError::io(format!("reading {}", path.display()), error))?;
        Ok(Self {
            data: data.into(),
            offset: 0,
        })
    }

    /// End of the frames walked so far.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// The next frame with its offset, the reason why there is none, or `None` at a clean end.
    pub(super) fn step(&mut self) -> Option<Result<(usize, Frame), FrameError>> {
        let rest = self.data.slice(self.offset.min(self.data.len())..);
        if rest.is_empty() {
            return None;
        }
        Some(Frame::decode(&rest).map(|frame| {
            let offset = self.offset;
            self.offset += frame.encoded_bytes();
            (offset, frame)
        }))
    }

    /// Counts the valid frames anywhere behind the current offset.
    pub(super) fn valid_frames_behind(&self) -> u64 {
        let mut count = 0;
        let mut at = self.offset;
        while let Some(rest) = self
            .data
            .get(at..)
            .filter(|rest| rest.len() >= HEADER_BYTES)
        {
            let Some(found) = rest.windows(MAGIC.len()).position(|bytes| bytes == MAGIC) else {
                break;
            };
            match Frame::decode(&self.data.slice(at + found..)) {
                Ok(frame) => {
                    count += 1;
                    at += found + frame.encoded_bytes();
                }
                Err(_) => at += found + 1,
            }
        }
        count
    }
}
