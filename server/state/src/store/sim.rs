//! A file system in memory that forgets what was not synced: for tests and simulation (R11).
//!
//! It is as mean as the contract of [`Disk`] allows. Until a sync, a write may survive a power cut
//! whole, in part or not at all, and so may a name. The power can be cut, or an error injected, at
//! any numbered operation that changes something; same seed, same outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Disk, DiskFile};

/// What survives a power cut of all that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Nothing.
    Nothing,
    /// Everything, as after a killed process.
    Everything,
    /// Some of it, by this seed.
    Some(u64),
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::SetLen(len) => bytes.resize(*len as usize, 0),
            Change::Write(offset, data) => {
                let start = *offset as usize;
                let end = start + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                if let Some(target) = bytes.get_mut(start..end) {
                    target.copy_from_slice(data);
                }
            }
        }
    }
}

#[derive(Clone, Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    dirs: BTreeSet<PathBuf>,
    operations: u64,
    cut_at: Option<u64>,
    fail_at: Option<(u64, io::ErrorKind)>,
    off: bool,
    boot: u64,
}

/// The file system. Clones share it.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

fn power_off() -> io::Error {
    io::Error::other("the power is off")
}

impl State {
    /// Counts an operation that changes something. `Some` is an error to report after doing half.
    fn begin(&mut self) -> io::Result<Option<io::Error>> {
        if self.off {
            return Err(power_off());
        }
        self.operations += 1;
        if self.cut_at == Some(self.operations) {
            self.off = true;
            return Err(power_off());
        }
        let failing = self.fail_at.filter(|(at, _)| *at == self.operations);
        Ok(failing.map(|(_, kind)| io::Error::from(kind)))
    }

    fn inode(&mut self, number: u64) -> io::Result<&mut Inode> {
        self.inodes
            .get_mut(&number)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// Number of operations so far that changed something.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Cuts the power instead of performing operation `operation`, counted from 1.
    pub fn cut_at(&self, operation: u64) {
        self.state.lock().cut_at = Some(operation);
    }

    /// Lets operation `operation`, counted from 1, fail; a write is done in half before.
    pub fn fail_at(&self, operation: u64, kind: io::ErrorKind) {
        self.state.lock().fail_at = Some((operation, kind));
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.state.lock().off
    }

    /// Cuts the power now, if it is on, and switches it on again. Open files stay unusable.
    pub fn restart(&self, survival: Survival) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut chance = Chance::new(survival);
        for inode in state.inodes.values_mut() {
            let mut bytes = std::mem::take(&mut inode.durable);
            for change in std::mem::take(&mut inode.pending) {
                match (chance.survives(), change) {
                    (true, change) => change.apply(&mut bytes),
                    (false, Change::Write(offset, mut data)) if chance.partly() => {
                        data.truncate(chance.below(data.len()));
                        Change::Write(offset, data).apply(&mut bytes);
                    }
                    (false, _) => {}
                }
            }
            inode.durable.clone_from(&bytes);
            inode.current = bytes;
        }
        let paths: BTreeSet<PathBuf> = state
            .names
            .keys()
            .chain(state.durable_names.keys())
            .cloned()
            .collect();
        let mut names = BTreeMap::new();
        for path in paths {
            let from = if chance.survives() {
                &state.names
            } else {
                &state.durable_names
            };
            if let Some(&inode) = from.get(&path) {
                names.insert(path, inode);
            }
        }
        let linked: BTreeSet<u64> = names.values().copied().collect();
        state.inodes.retain(|number, _| linked.contains(number));
        state.durable_names.clone_from(&names);
        state.names = names;
        (state.off, state.cut_at, state.fail_at) = (false, None, None);
        state.boot += 1;
    }

    /// The files, by path.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state.lock();
        let content = |inode| state.inodes.get(inode).map(|inode| inode.current.clone());
        state
            .names
            .iter()
            .filter_map(|(path, inode)| Some((path.clone(), content(inode)?)))
            .collect()
    }

    /// Sets the content of a file, durably: damage, for tests.
    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.state.lock();
        let number = state.next_inode;
        state.next_inode += 1;
        let inode = Inode {
            durable: bytes.clone(),
            current: bytes,
            pending: Vec::new(),
        };
        state.inodes.insert(number, inode);
        state.names.insert(path.to_path_buf(), number);
        state.durable_names.insert(path.to_path_buf(), number);
    }

    fn file(&self, state: &State, inode: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimFile {
            state: self.state.clone(),
            inode,
            boot: state.boot,
        })
    }
}

struct Chance {
    survival: Survival,
    random: u64,
}

impl Chance {
    fn new(survival: Survival) -> Chance {
        let seed = if let Survival::Some(seed) = survival {
            seed
        } else {
            0
        };
        Chance {
            survival,
            random: seed.wrapping_mul(2).wrapping_add(1),
        }
    }

    fn next(&mut self) -> u64 {
        // splitmix64: any generator will do, but it must not change between versions.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn survives(&mut self) -> bool {
        match self.survival {
            Survival::Nothing => false,
            Survival::Everything => true,
            Survival::Some(_) => self.next().is_multiple_of(2),
        }
    }

    fn partly(&mut self) -> bool {
        matches!(self.survival, Survival::Some(_)) && self.next().is_multiple_of(2)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next().checked_rem(bound as u64).unwrap_or(0) as usize
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.off {
            return Err(power_off());
        }
        state.dirs.insert(dir.to_path_buf());
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        if state.off {
            return Err(power_off());
        }
        let paths = state.names.keys().chain(&state.dirs);
        let inside = paths.filter(|path| path.parent() == Some(dir));
        let name = |path: &PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
        Ok(inside.filter_map(name).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        if let Some(error) = state.begin()? {
            return Err(error);
        }
        let number = state.next_inode;
        state.next_inode += 1;
        state.inodes.insert(number, Inode::default());
        state.names.insert(path.to_path_buf(), number);
        Ok(self.file(&state, number))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state.lock();
        if state.off {
            return Err(power_off());
        }
        let number = state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(&state, *number))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if let Some(error) = state.begin()? {
            return Err(error);
        }
        let number = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_path_buf(), number);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if let Some(error) = state.begin()? {
            return Err(error);
        }
        state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.off {
            return Err(power_off());
        }
        state.dirs.remove(dir);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if let Some(error) = state.begin()? {
            return Err(error);
        }
        let state = &mut *state;
        state
            .durable_names
            .retain(|path, _| path.parent() != Some(dir));
        let inside = state
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir));
        state
            .durable_names
            .extend(inside.map(|(path, inode)| (path.clone(), *inode)));
        Ok(())
    }
}

struct SimFile {
    state: Arc<Mutex<State>>,
    inode: u64,
    boot: u64,
}

impl SimFile {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        if state.off || state.boot != self.boot {
            return Err(power_off());
        }
        work(&mut state)
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.with(|state| {
            let failure = state.begin()?;
            let inode = state.inode(self.inode)?;
            let change = match (change, &failure) {
                (Change::Write(offset, mut data), Some(_)) => {
                    data.truncate(data.len() / 2);
                    Change::Write(offset, data)
                }
                (Change::SetLen(_), Some(_)) => return failure.map_or(Ok(()), Err),
                (change, None) => change,
            };
            change.apply(&mut inode.current);
            inode.pending.push(change);
            failure.map_or(Ok(()), Err)
        })
    }
}

impl DiskFile for SimFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|state| {
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let inode = state.inode(self.inode)?;
            let end = start.saturating_add(buffer.len());
            let bytes = inode.current.get(start..end);
            buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Write(offset, bytes.to_vec()))
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let present = self.len()?;
        self.change(Change::SetLen(present.max(offset + len)))
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.inode(self.inode)?.current.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state| {
            if let Some(error) = state.begin()? {
                return Err(error);
            }
            let inode = state.inode(self.inode)?;
            inode.durable.clone_from(&inode.current);
            inode.pending.clear();
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> &'static Path {
        Path::new("d/f")
    }

    #[test]
    fn forgets_what_was_not_synced() {
        let disk = SimDisk::new();
        let file = disk.create(path()).unwrap();
        file.write_all_at(b"old", 0).unwrap();
        file.sync_data().unwrap();
        disk.restart(Survival::Nothing);
        assert!(disk.open(path()).is_err(), "the name was not synced");

        let file = disk.create(path()).unwrap();
        file.write_all_at(b"old", 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("d")).unwrap();
        file.write_all_at(b"newer", 0).unwrap();
        disk.restart(Survival::Nothing);
        assert_eq!(disk.files()[path()], b"old");
        assert!(file.len().is_err(), "descriptors do not outlive a cut");
    }

    #[test]
    fn cuts_and_fails_where_told() {
        let disk = SimDisk::new();
        let file = disk.create(path()).unwrap();
        disk.fail_at(2, io::ErrorKind::StorageFull);
        assert_eq!(
            file.write_all_at(b"1234", 0).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        assert_eq!(disk.files()[path()], b"12");
        disk.cut_at(3);
        assert!(file.sync_data().is_err());
        assert!(disk.is_off());
        assert!(disk.list(Path::new("d")).is_err());
        disk.restart(Survival::Everything);
        assert_eq!(disk.files()[path()], b"12");
    }
}
