//! `snapshot restore`: a snapshot file made into a data directory of a new cluster (contract 8.4).
//!
//! ```text
//! <data-dir>.restoring   marked as unfinished; store, log, identity: written and synced
//! rename the log         if it is apart (--wal-dir), still marked
//! unmark, rename         the data directory appears whole
//! unmark the log
//! ```
//!
//! Until the last rename there is nothing that a server would start on
//! ([`crate::process::unfinished`]); what an attempt left behind is removed by the next one. The log begins behind entry (1, number of members),
//! which stands for the whole snapshot on every member that is restored from it; so members that
//! are restored with the same file and the same cluster agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use anyhow::{Context as _, Result, anyhow, bail};
use keelson_proto::keelsonpb::MemberAttributes;
use keelson_state::bolt::{BoltFile, Trust, check_hash};
use keelson_state::members::Members;
use keelson_state::snapshot::{self, Content, Placement};
use keelson_state::store::{RealDisk, StoreOptions};
use prost::Message as _;

use crate::config::{InitialCluster, Url, mismatch, same_addresses};
use crate::process::{DataDir, unfinished};
use crate::raft::bootstrap;
use crate::raft::codec;
use crate::raft::identity::Identity;
use crate::raft::types::{LogId, Membership, Node, StoredMembership, Vote};
use crate::raft::wal::{LogPosition, WalError, WalOptions, open_sled};

/// The term of the entry that a restored state stands for; the first election is in the next.
const TERM: u64 = 1;
/// What keeps a second program out of a data directory.
const LOCK: &str = "lock";
/// Where a directory is built before it gets its name.
const UNFINISHED: &str = "restoring";

/// The flags of `snapshot restore`, with etcdutl's defaults.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// The snapshot file.
    pub file: PathBuf,
    /// The data directory to make. Default: `<name>.etcd`.
    pub data_dir: Option<PathBuf>,
    /// The log's directory. Default: within the data directory.
    pub wal_dir: Option<PathBuf>,
    /// This member's name.
    pub name: String,
    /// All members of the new cluster.
    pub initial_cluster: String,
    /// Goes into the new ids.
    pub initial_cluster_token: String,
    /// This member's peer URLs.
    pub initial_advertise_peer_urls: String,
    /// Whether the hash at the file's end is not looked at.
    pub skip_hash_check: bool,
    /// Revisions to skip, after which all before are compacted; 0 for none.
    pub bump_revision: u64,
}

/// Where a restore wrote, and what it found.
pub struct Restored {
    /// The data directory.
    pub data_dir: PathBuf,
    /// What the file held beside its records.
    pub content: Content,
}

/// Makes a data directory of a snapshot file.
///
/// # Errors
/// With etcdutl's texts; the target is then as it was.
pub fn restore(options: &RestoreOptions) -> Result<Restored> {
    let data_dir = options
        .data_dir
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{}.etcd", options.name)));
    let members = members(options)?;
    if !is_absent_or_empty(&data_dir) {
        bail!(
            "data-dir {:?} not empty or could not be read",
            data_dir.display().to_string()
        );
    }
    if let Some(wal_dir) = &options.wal_dir
        && wal_dir.exists()
        && !unfinished::is_marked(wal_dir)
    {
        bail!("wal-dir {:?} exists", wal_dir.display().to_string());
    }
    let shown = data_dir.display().to_string();
    let file = options.file.display().to_string();
    tracing::info!(path = file, "data-dir" = shown, "restoring snapshot");
    let opened = File::open(&options.file)
        .map_err(|error| anyhow!("open {file}: {}", without_number(&error)))?;
    let bolt = match BoltFile::open(&opened, file.clone(), Trust::Nothing) {
        Ok(bolt) => bolt,
        Err(error) => {
            if !options.skip_hash_check {
                check_hash(&opened, &file)?;
            }
            return Err(error.into());
        }
    };
    let wal_dir = wal_place(&data_dir, options.wal_dir.as_deref())?;
    let unfinished = Unfinished::create(&data_dir, &wal_dir)?;
    let made = take_over(options, &members, &opened, &bolt, &unfinished);
    let made = made.and_then(|content| unfinished.finish(&data_dir, &wal_dir).map(|()| content));
    let content = match made {
        Ok(content) => content,
        Err(error) => {
            unfinished.remove();
            return Err(error);
        }
    };
    for warning in &content.warnings {
        tracing::warn!("{warning}");
    }
    if content.auth.enabled {
        tracing::warn!(
            "authentication is enabled in the snapshot, which this version cannot enforce yet: \
             a server refuses to start on this data directory"
        );
    }
    tracing::info!(
        path = file,
        "data-dir" = shown,
        revision = content.revision,
        "compact-revision" = content.compact_revision,
        records = content.records,
        "restored snapshot"
    );
    Ok(Restored { data_dir, content })
}

/// Fills a directory while the file's hash is being checked: that takes as long as half of the rest.
/// What was made of a file whose hash is wrong is worth nothing.
fn take_over(
    options: &RestoreOptions,
    members: &BTreeMap<u64, (String, Vec<String>)>,
    opened: &File,
    bolt: &BoltFile<&File>,
    unfinished: &Unfinished,
) -> Result<Content> {
    let name = options.file.display().to_string();
    let fill = || unfinished.fill(options, members, bolt);
    if options.skip_hash_check {
        return fill();
    }
    std::thread::scope(|scope| {
        let hashing = scope.spawn(|| check_hash(opened, &name));
        let filled = fill();
        let checked = hashing.join();
        checked.map_err(|_| anyhow!("the check of the hash panicked"))??;
        filled
    })
}

/// The members of the new cluster by id, with the checks of a bootstrap.
fn members(options: &RestoreOptions) -> Result<BTreeMap<u64, (String, Vec<String>)>> {
    let parse = |error: String| anyhow!(error);
    let advertised = Url::parse_list(&options.initial_advertise_peer_urls).map_err(parse)?;
    let cluster = InitialCluster::parse(&options.initial_cluster).map_err(parse)?;
    if cluster.is_empty() {
        let text = &options.initial_cluster;
        bail!("--initial-cluster={text} names no member");
    }
    if cluster.repeats_url() {
        bail!("initial cluster {cluster} has duplicate url");
    }
    let name = &options.name;
    let Some(urls) = cluster.urls(name) else {
        bail!("couldn't find local name {name:?} in the initial cluster configuration");
    };
    if urls != advertised && !same_addresses(urls, &advertised) {
        bail!(mismatch(name, urls, &advertised));
    }
    let named = cluster.members().map(|(name, urls)| {
        let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
        (name, urls)
    });
    let members = bootstrap::members(named, &options.initial_cluster_token);
    let owned = members
        .into_iter()
        .map(|(id, (name, urls))| (id, (name.to_owned(), urls)));
    Ok(owned.collect())
}

/// A data directory that nobody sees yet.
struct Unfinished {
    path: PathBuf,
    wal: PathBuf,
    /// Keeps a second restore away.
    _lock: DataDir,
}

impl Unfinished {
    fn create(data_dir: &Path, wal_dir: &WalDir) -> Result<Self> {
        let path = beside(data_dir)?;
        let wal = match wal_dir {
            WalDir::Within(place) => path.join(place),
            WalDir::Apart(wal_dir) => beside(wal_dir)?,
        };
        is_ours(&path)?;
        if let WalDir::Apart(_) = wal_dir {
            is_ours(&wal)?;
        }
        let lock = DataDir::open(&path)?;
        for entry in std::fs::read_dir(&path)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != LOCK && !unfinished::is_mark(&name) {
                remove(&entry.path())?;
            }
        }
        if let WalDir::Apart(wal_dir) = wal_dir {
            remove(&wal)?;
            if unfinished::is_marked(wal_dir) {
                let left = wal_dir.display().to_string();
                tracing::info!(
                    "wal-dir" = left,
                    "removing the log of a restore that did not finish"
                );
                remove(wal_dir)?;
            }
        }
        mark(&path)?;
        for directory in [path.join("member"), wal.clone()] {
            use std::os::unix::fs::DirBuilderExt as _;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        if let WalDir::Apart(_) = wal_dir {
            mark(&wal)?;
        }
        Ok(Self {
            path,
            wal,
            _lock: lock,
        })
    }

    fn fill(
        &self,
        options: &RestoreOptions,
        members: &BTreeMap<u64, (String, Vec<String>)>,
        file: &BoltFile<&File>,
    ) -> Result<Content> {
        let cluster_id = bootstrap::cluster_id(members.keys().copied());
        let local = members.iter().find(|(_, (name, _))| *name == options.name);
        let member_id = *local.context("this member is not in the cluster")?.0;
        let index = members.len() as u64;
        let membership = stored_membership(members, index)?;
        let named = |(id, (name, _)): (&u64, &(String, Vec<String>))| {
            Members::attributes_item(&MemberAttributes {
                member_id: *id,
                name: name.clone(),
                client_urls: Vec::new(),
            })
        };
        let member = self.path.join("member");
        let placement = Placement {
            cluster_id,
            applied_term: TERM,
            applied_index: index,
            membership: codec::stored_membership_to_proto(&membership)
                .encode_to_vec()
                .into(),
            items: members.iter().map(named).collect(),
            bump_revision: i64::try_from(options.bump_revision)
                .map_err(|_| anyhow!("--bump-revision is too large"))?,
        };
        let store = StoreOptions::new(member.join("store"));
        let content = snapshot::restore(file, store, Arc::new(RealDisk), placement)?;
        write_log(&self.wal, index, member_id)?;
        let identity = Identity {
            member_id,
            cluster_id,
        };
        identity.write(&self.wal)?;
        identity.write(&member)?;
        for (id, (name, urls)) in members {
            tracing::info!(
                "cluster-id" = format!("{cluster_id:x}"),
                "local-member-id" = format!("{member_id:x}"),
                "added-peer-id" = format!("{id:x}"),
                "json:added-peer-peer-urls" = crate::logging::list(urls),
                "added-peer-name" = name,
                "added member"
            );
        }
        Ok(content)
    }

    /// Clears away what a restore that failed has made, as far as the disk lets us.
    fn remove(&self) {
        let wal = Some(&self.wal).filter(|wal| !wal.starts_with(&self.path));
        for path in wal.into_iter().chain([&self.path]) {
            if let Err(error) = remove(path) {
                tracing::warn!(error = %error, "what is left of the restore is not removed");
            }
        }
    }

    /// The log first: without its data directory it is refused, and nothing is served.
    fn finish(&self, data_dir: &Path, wal_dir: &WalDir) -> Result<()> {
        sync(&self.path.join("member"))?;
        if let WalDir::Apart(wal_dir) = wal_dir {
            sync(&self.wal)?;
            publish(&self.wal, wal_dir)?;
        }
        unmark(&self.path)?;
        publish(&self.path, data_dir)?;
        match wal_dir {
            WalDir::Apart(wal_dir) => unmark(wal_dir),
            WalDir::Within(_) => Ok(()),
        }
    }
}

/// Where the log goes.
enum WalDir {
    /// To this place in the data directory.
    Within(PathBuf),
    /// To a directory of its own.
    Apart(PathBuf),
}

fn wal_place(data_dir: &Path, wal_dir: Option<&Path>) -> Result<WalDir> {
    let default = Path::new("member").join("wal");
    let Some(wal_dir) = wal_dir else {
        return Ok(WalDir::Within(default));
    };
    let (whole, part) = (
        std::path::absolute(data_dir)?,
        std::path::absolute(wal_dir)?,
    );
    match part.strip_prefix(whole) {
        Err(_) => Ok(WalDir::Apart(wal_dir.to_owned())),
        Ok(place)
            if place == default || !default.starts_with(place) && !place.starts_with("member") =>
        {
            Ok(WalDir::Within(place.to_owned()))
        }
        Ok(_) => bail!(
            "wal-dir {:?} would hold other parts of data-dir {:?}",
            wal_dir.display().to_string(),
            data_dir.display().to_string()
        ),
    }
}

/// Refuses to clear a directory that no restore has made.
fn is_ours(directory: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", directory.display()));
        }
    };
    let mut others = 0;
    for entry in entries {
        others += u32::from(entry?.file_name() != LOCK);
    }
    if others > 0 && !unfinished::is_marked(directory) {
        bail!(
            "{:?} is in the way and was not made by a restore: move it elsewhere",
            directory.display().to_string()
        );
    }
    Ok(())
}

fn mark(directory: &Path) -> Result<()> {
    unfinished::mark(directory).with_context(|| format!("cannot write in {}", directory.display()))
}

fn unmark(directory: &Path) -> Result<()> {
    unfinished::unmark(directory)
        .with_context(|| format!("cannot write in {}", directory.display()))
}

fn publish(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to)
        .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))?;
    sync(&parent(to))
}

fn stored_membership(
    members: &BTreeMap<u64, (String, Vec<String>)>,
    index: u64,
) -> Result<StoredMembership> {
    let voters: BTreeSet<u64> = members.keys().copied().collect();
    let node = |(id, (_, peer_urls)): (&u64, &(String, Vec<String>))| {
        let node = Node {
            peer_urls: peer_urls.clone(),
            pending_voter: false,
        };
        (*id, node)
    };
    let nodes: BTreeMap<u64, Node> = members.iter().map(node).collect();
    let membership = Membership::new(vec![voters], nodes).context("impossible cluster")?;
    let log_id = LogId::new(TERM.into(), index);
    Ok(StoredMembership::new(Some(log_id), membership))
}

/// A log that begins behind the entry that the state stands for, with a vote in its term.
fn write_log(directory: &Path, index: u64, member_id: u64) -> Result<()> {
    let log = open_sled(directory, WalOptions::default())
        .with_context(|| format!("cannot make the log in {}", directory.display()))?;
    let vote = codec::vote_to_proto(&Vote::new(TERM, member_id)).encode_to_vec();
    wait(|done| log.save_vote(vote.into(), done))?;
    let position = LogPosition { term: TERM, index };
    wait(|done| log.purge_to(position, done))?;
    log.close().context("cannot close the log")
}

fn wait(ask: impl FnOnce(crate::raft::wal::Done)) -> Result<()> {
    let (sender, receiver) = mpsc::sync_channel(1);
    ask(Box::new(move |result: Result<(), WalError>| {
        drop(sender.send(result))
    }));
    receiver
        .recv()
        .context("the log has ended")?
        .context("cannot write the log")
}

fn is_absent_or_empty(directory: &Path) -> bool {
    match std::fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

fn beside(directory: &Path) -> Result<PathBuf> {
    let name = directory
        .file_name()
        .with_context(|| format!("{} names no directory", directory.display()))?;
    let mut name = name.to_owned();
    name.push(".");
    name.push(UNFINISHED);
    Ok(directory.with_file_name(name))
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn remove(path: &Path) -> Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

fn sync(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("cannot sync {}", directory.display()))
}

/// The system's words without Rust's number behind them, as etcd shows them.
#[must_use]
pub fn without_number(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}
