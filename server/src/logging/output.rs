//! Where lines go.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use crate::config::LogOutput;

/// Open outputs.
pub(super) struct Outputs(Vec<File>);

impl Outputs {
    /// Opens them; files are created for their owner alone, and added to.
    pub(super) fn open(outputs: &[LogOutput]) -> io::Result<Self> {
        let open = |output: &LogOutput| match output {
            // Duplicates, for a write that neither buffers nor locks.
            LogOutput::Stderr => Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?)),
            LogOutput::Stdout => Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
            LogOutput::File(path) => OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(path),
        };
        outputs
            .iter()
            .map(open)
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Writes a line with one call each. There is nowhere to report a failure to.
    pub(super) fn write(&self, line: &str) {
        for mut file in &self.0 {
            let _ = file.write_all(line.as_bytes());
        }
    }
}
