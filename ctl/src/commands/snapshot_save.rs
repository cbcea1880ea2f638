//! `snapshot save`: a snapshot of one member in a file (contract 2.10, 8.2).
//!
//! The file has the name `FILENAME.part` until it is complete, synced, and its hash is right.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use keelson::offline::restore::without_number;
use sha2::{Digest as _, Sha256};

use super::file;
use crate::cli::Global;
use crate::connect::{Session, online};
use crate::exit::CommandError;
use crate::progress::Progress;

/// A snapshot holds password hashes: it is its owner's alone.
const MODE: u32 = 0o600;
/// Bytes written at once.
const WRITE_BYTES: usize = 1 << 20;
/// The hash at the end.
const HASH_BYTES: usize = 32;

/// Saves a snapshot.
pub(super) fn run(global: &Global, file: &file::File) -> Result<(), CommandError> {
    let [path] = file.files.as_slice() else {
        let reason = "snapshot save expects one argument <filename>";
        return Err(CommandError::arguments(reason));
    };
    let version = online(global, async |session| save(&session, path).await)?;
    println!("Snapshot saved at {path}");
    if !version.is_empty() {
        println!("Server version {version}");
    }
    Ok(())
}

async fn save(session: &Session<'_>, path: &str) -> Result<String, CommandError> {
    let endpoints = session.client.endpoints();
    if endpoints.len() != 1 {
        let endpoints = endpoints.join(" ");
        return Err(CommandError::Interrupted(format!(
            "snapshot must be requested to one selected node, not multiple [{endpoints}]"
        )));
    }
    // A snapshot takes the time that it takes.
    let Some(timeout) = session.global.command_timeout else {
        return fetch(session, path).await;
    };
    match tokio::time::timeout(timeout, fetch(session, path)).await {
        Ok(result) => result,
        Err(_) => {
            drop(std::fs::remove_file(format!("{path}.part")));
            let reason = "context deadline exceeded";
            Err(CommandError::Interrupted(reason.to_owned()))
        }
    }
}

async fn fetch(session: &Session<'_>, path: &str) -> Result<String, CommandError> {
    let part = format!("{path}.part");
    let file = create(&part)?;
    let received = receive(session, file, &part).await;
    if received.is_err() {
        // What is incomplete is of no use to anybody.
        drop(std::fs::remove_file(&part));
    }
    let version = received?;
    let renamed = std::fs::rename(&part, path).and_then(|()| sync_parent(path));
    renamed.map_err(|error| {
        CommandError::Failed(format!("could not rename {part} to {path} ({error})"))
    })?;
    Ok(version)
}

fn create(part: &str) -> Result<File, CommandError> {
    // One that is there may be readable by others.
    drop(std::fs::remove_file(part));
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(part)
        .map_err(|error| {
            let reason = without_number(&error);
            CommandError::Interrupted(format!("could not open {part} (open {part}: {reason})"))
        })
}

async fn receive(session: &Session<'_>, file: File, part: &str) -> Result<String, CommandError> {
    let cannot = |error: std::io::Error| {
        CommandError::Interrupted(format!("could not write {part} ({error})"))
    };
    let interrupted =
        |reason: &str| CommandError::Interrupted(format!("snapshot interrupted: {reason}"));
    let opened = session.client.snapshot().await;
    let mut messages = opened.map_err(|error| CommandError::Interrupted(error.to_string()))?;
    let mut file = BufWriter::with_capacity(WRITE_BYTES, file);
    let mut hash = Sha256::new();
    let (mut done, mut version) = (0_u64, String::new());
    // The hash is the end of what comes, so the last bytes are held back.
    let mut held: Vec<u8> = Vec::new();
    let mut progress = Progress::start();
    loop {
        let message = messages.message().await;
        let message = message.map_err(|status| interrupted(status.message()))?;
        let Some(message) = message else { break };
        if version.is_empty() {
            version = message.version;
        }
        file.write_all(&message.blob).map_err(cannot)?;
        done += message.blob.len() as u64;
        held.extend_from_slice(&message.blob);
        let known = held.len().saturating_sub(HASH_BYTES);
        hash.update(held.get(..known).unwrap_or_default());
        held.drain(..known);
        progress.at(done, done + message.remaining_bytes);
    }
    if done % 512 != HASH_BYTES as u64 {
        let reason = format!("sha256 checksum not found [bytes: {done}]");
        return Err(interrupted(&reason));
    }
    if hash.finalize()[..] != held[..] {
        return Err(interrupted("its sha256 checksum is of other bytes"));
    }
    let file = file
        .into_inner()
        .map_err(|error| cannot(error.into_error()))?;
    file.sync_all().map_err(cannot)?;
    progress.finish(done);
    Ok(version)
}

fn sync_parent(path: &str) -> std::io::Result<()> {
    let parent = Path::new(path).parent();
    let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
