//! An ext4 file system in a loop file. Its power is cut with `EXT4_IOC_SHUTDOWN` without a log
//! flush: what no fsync has covered is gone, as after a real power cut.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// `EXT4_IOC_SHUTDOWN`: `_IOR('X', 125, u32)`.
const EXT4_IOC_SHUTDOWN: u32 = 0x8004_587d;
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: nothing that is not on the device yet gets there.
const NO_LOG_FLUSH: u32 = 2;

/// How often a drop tries to unmount.
const UNMOUNT_ATTEMPTS: usize = 40;
/// Pause between the attempts.
const UNMOUNT_PAUSE: Duration = Duration::from_millis(50);

/// A mounted loop file. Unmounted when dropped.
#[derive(Debug)]
pub struct LoopDisk {
    image: PathBuf,
    mount: PathBuf,
    mounted: bool,
}

impl LoopDisk {
    /// Creates a file system of `megabytes` in `directory` and mounts it there.
    ///
    /// # Errors
    /// Where this needs rights or tools that are not there: not every machine allows it.
    pub fn create(directory: &Path, megabytes: u64) -> Result<Self> {
        let (image, mount) = (directory.join("disk.img"), directory.join("mnt"));
        File::create(&image)?.set_len(megabytes << 20)?;
        run(Command::new("mkfs.ext4").arg("-q").arg("-F").arg(&image))?;
        std::fs::create_dir_all(&mount)?;
        let mut disk = Self {
            image,
            mount,
            mounted: false,
        };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Cuts the power: from now on every access fails.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cut_power(&self) -> Result<()> {
        let directory = File::open(&self.mount)?;
        shutdown(&directory).context("EXT4_IOC_SHUTDOWN")
    }

    /// Turns the power on again: the journal is replayed. Nobody may have files open.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn restore_power(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    fn mount(&mut self) -> Result<()> {
        run(Command::new("mount")
            .arg("-o")
            .arg("loop")
            .arg(&self.image)
            .arg(&self.mount))?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<()> {
        run(Command::new("umount").arg(&self.mount))?;
        self.mounted = false;
        Ok(())
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if !self.mounted {
            return;
        }
        // A process that was killed just now may still have files open.
        let mut unmounted = self.unmount();
        for _ in 0..UNMOUNT_ATTEMPTS {
            if unmounted.is_ok() {
                return;
            }
            std::thread::sleep(UNMOUNT_PAUSE);
            unmounted = self.unmount();
        }
        if let Err(error) = unmounted {
            eprintln!("cannot unmount {}: {error:#}", self.mount.display());
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[allow(unsafe_code, reason = "the one system call that no safe wrapper has")]
fn shutdown(directory: &File) -> rustix::io::Result<()> {
    // SAFETY: the kernel reads one u32 through the pointer that `Setter` makes of the value, which
    // is what EXT4_IOC_SHUTDOWN takes.
    unsafe {
        let call = rustix::ioctl::Setter::<EXT4_IOC_SHUTDOWN, u32>::new(NO_LOG_FLUSH);
        rustix::ioctl::ioctl(directory, call)
    }
}
