//! Bytes that somebody made to do harm: checkpoints of a faulty member, commands in log entries,
//! snapshot files.
//!
//! Flipped bits are found by checksums (`store/tests/damage.rs`); here the checksums are right and
//! the contents are not. Nothing panics, and memory taken stays near what was received (design R12):
//! this program counts it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]
#![allow(
    unsafe_code,
    reason = "an allocator that counts is the only way to see what is taken"
)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use common::{Member, put, put_op, range_op, txn};
use keelson_proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, Compare, DeleteRangeRequest, DowngradeInfo, LeaseGrantRequest,
    LeaseRevokeRequest,
};
use keelson_proto::keelsonpb::{
    Batch, ClusterVersion, Command, MemberAttributes, command::Request,
};
use keelson_state::bolt::{BoltFile, Trust};
use keelson_state::snapshot::{Placement, SnapshotMember, Status, hash_kv, restore};
use keelson_state::store::{RealDisk, StoreOptions, TRANSFER_BYTES_MAX};
use proptest::prelude::*;
use prost::Message as _;

/// What one step may take beside what it was given: index, buffers, a piece of a transfer.
const MEMORY_MAX: usize = 16 << 20;

/// The system's allocator, with the largest single request since it was asked last.
struct Counting;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is that of this call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn assert_bounded(what: &str) {
    let largest = LARGEST.swap(0, Ordering::Relaxed);
    assert!(largest <= MEMORY_MAX, "{what} took {largest} bytes at once");
}

/// A checkpoint as it is sent: the manifest, and the files in its order.
#[derive(Clone)]
struct Sent {
    manifest: Vec<u8>,
    files: Vec<Vec<u8>>,
}

fn sound() -> &'static Sent {
    static SENT: OnceLock<Sent> = OnceLock::new();
    SENT.get_or_init(|| {
        let mut member = Member::new();
        for n in 0..40 {
            let key = format!("k{}", n % 9);
            member.put(put(&key, "value")).unwrap();
        }
        member.grant(7).unwrap();
        member.compact(20).unwrap();
        let member = member.restart();
        let checkpoint = member.state.keeper().current().unwrap();
        let read = |file: usize, len: u64| {
            let len = usize::try_from(len).unwrap();
            let bytes = checkpoint.read_at(file, 0, len).unwrap();
            assert_eq!(bytes.len(), len);
            bytes.to_vec()
        };
        let files = checkpoint.files().iter().enumerate();
        Sent {
            manifest: checkpoint.manifest().to_vec(),
            files: files.map(|(file, entry)| read(file, entry.len())).collect(),
        }
    })
}

/// Receives and installs, as far as it goes.
fn receive(sent: &Sent) -> bool {
    let mut member = Member::new();
    let keeper = member.state.keeper();
    LARGEST.store(0, Ordering::Relaxed);
    let Ok(mut incoming) = keeper.incoming(0, &sent.manifest) else {
        assert_bounded("a manifest");
        return false;
    };
    for (file, bytes) in sent.files.iter().enumerate() {
        for (piece, bytes) in bytes.chunks(TRANSFER_BYTES_MAX).enumerate() {
            let offset = (piece * TRANSFER_BYTES_MAX) as u64;
            if incoming.write(file, offset, bytes).is_err() {
                assert_bounded("a piece");
                return false;
            }
        }
    }
    let mut restore = keelson_state::mvcc::index::Restore::default();
    let received = incoming.finish(&mut |header, length| restore.push_header(&header, length));
    assert_bounded("the files");
    let Ok(received) = received else {
        return false;
    };
    let Ok(installed) = keeper.install(received) else {
        return false;
    };
    let replaced = member.state.replace(installed, restore.finish());
    assert_bounded("the installation");
    replaced.is_ok()
}

/// Little-endian at `at`, as the files have it.
fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Gives a manifest, or a file of one frame, the checksum of what it holds now.
fn seal_body(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[24..]);
    let len = u32::try_from(bytes.len() - 24).unwrap();
    set_u32(bytes, 16, len);
    set_u32(bytes, 20, crc);
}

/// The same for the last chunk of a segment: index block and footer.
fn seal_chunk(bytes: &mut [u8]) {
    let footer = bytes.len() - 32;
    let len = u32::from_le_bytes(bytes[footer + 12..footer + 16].try_into().unwrap());
    if let Some(start) = footer.checked_sub(len as usize) {
        let crc = crc32c::crc32c(&bytes[start..footer]);
        set_u32(bytes, footer + 16, crc);
    }
    let crc = crc32c::crc32c(&bytes[footer..footer + 28]);
    set_u32(bytes, footer + 28, crc);
}

fn is_segment(bytes: &[u8]) -> bool {
    bytes.starts_with(b"KEELSEGM")
}

#[test]
fn a_sound_checkpoint_is_received() {
    assert!(receive(sound()), "the sample itself");
    let mut resealed = sound().clone();
    seal_body(&mut resealed.manifest);
    for file in resealed.files.iter_mut().filter(|file| is_segment(file)) {
        seal_chunk(file);
    }
    assert!(receive(&resealed), "with the checksums made here");
}

/// Commands of every kind, to be spoilt.
fn commands() -> Vec<Vec<u8>> {
    let compare = Compare {
        key: "k".into(),
        range_end: "z".into(),
        ..Default::default()
    };
    let mut transaction = txn(vec![put_op("a", "1"), range_op("b", 3)]);
    transaction.compare.push(compare);
    [
        Request::Put(put("key", "value")),
        Request::DeleteRange(DeleteRangeRequest {
            key: "k".into(),
            range_end: "z".into(),
            prev_kv: true,
        }),
        Request::Txn(transaction),
        Request::Compaction(CompactionRequest {
            revision: 3,
            physical: true,
        }),
        Request::LeaseGrant(LeaseGrantRequest { id: 9, ttl: 5 }),
        Request::LeaseRevoke(LeaseRevokeRequest { id: 9 }),
        Request::Alarm(AlarmRequest {
            action: 1,
            member_id: 5,
            alarm: 1,
        }),
        Request::MemberAttributes(MemberAttributes {
            member_id: 5,
            name: "m".into(),
            client_urls: vec!["http://a:1".into()],
        }),
        Request::ClusterVersion(ClusterVersion {
            version: "3.7.0".into(),
        }),
        Request::Downgrade(DowngradeInfo {
            enabled: true,
            target_version: "3.6.0".into(),
        }),
    ]
    .into_iter()
    .map(|request| {
        let command = Command {
            request_id: 1,
            request: Some(request),
            ..Default::default()
        };
        command.encode_to_vec()
    })
    .collect()
}

/// Applies a command. Refused or not: only one that this version does not know is a reason to stop
/// the member (design R4), and nobody may propose one (`node/forward_service.rs`).
fn apply(member: &mut Member, command: &Command) {
    member.index += 1;
    let applied = member.state.apply(member.index, 1, command);
    assert_eq!(applied.is_err(), command.request.is_none(), "{command:?}");
}

/// A snapshot file with history, tombstones and leases.
fn snapshot_file() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let mut member = Member::new();
        for n in 0..60 {
            let key = format!("key-{}", n % 23);
            member.put(put(&key, &"v".repeat(n * 11))).unwrap();
        }
        member.grant(7).unwrap();
        member.compact(20).unwrap();
        let one = SnapshotMember {
            id: 1,
            peer_urls: vec!["http://a:1".into()],
            name: "one".into(),
            ..SnapshotMember::default()
        };
        let export = member.state.export();
        let mut writer = export.into_file(&[one]).unwrap();
        let mut file = Vec::new();
        while let Some(piece) = writer.next_piece().unwrap() {
            file.extend_from_slice(&piece);
        }
        // Without the hash: nobody vouches for it.
        file
    })
}

/// Restores a file that nobody vouches for, reads what there is, and computes its hashes.
fn restore_file(file: &[u8]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    LARGEST.store(0, Ordering::Relaxed);
    let opened = BoltFile::open(file, "hostile.db", Trust::Nothing);
    assert_bounded("opening");
    let Ok(opened) = opened else { return false };
    drop(Status::read(&opened));
    drop(hash_kv(&opened, 0));
    assert_bounded("its hashes");
    let placement = Placement {
        cluster_id: 7,
        applied_term: 1,
        applied_index: 1,
        ..Placement::default()
    };
    let store = dir.path().join("store");
    let restored = restore(
        &opened,
        StoreOptions::new(&store),
        Arc::new(RealDisk),
        placement,
    );
    assert_bounded("the restore");
    if restored.is_err() {
        return false;
    }
    // What it let through is a state that can be opened and read.
    let state = common::open_at(dir.path());
    let reader = state.reader();
    assert!(reader.compact_revision() <= reader.current_revision());
    true
}

#[test]
fn a_snapshot_file_that_ends_at_any_page_is_refused() {
    let file = snapshot_file();
    assert!(restore_file(file), "the sample itself");
    let mut whole = 0;
    for end in (0..file.len()).step_by(PAGE_BYTES) {
        whole += usize::from(restore_file(&file[..end]));
        whole += usize::from(restore_file(&file[..end + 1]));
    }
    assert_eq!(whole, 0, "restored from a part");
}

/// Every page of a bbolt file that this state writes.
const PAGE_BYTES: usize = 4096;

/// Places in bytes of any length, and what stands there instead.
fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    let byte = prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(0x80), Just(0x7f)];
    prop::collection::vec((any::<prop::sample::Index>(), byte), 1..6)
}

fn change(bytes: &mut [u8], changes: &[(prop::sample::Index, u8)]) {
    if !bytes.is_empty() {
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = *byte;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    #[test]
    fn hostile_manifests_are_refused(spoilt in changes(), rest in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut sent = sound().clone();
        change(&mut sent.manifest[24..], &spoilt);
        sent.manifest.extend(rest);
        seal_body(&mut sent.manifest);
        receive(&sent);
    }

    #[test]
    fn hostile_files_are_refused(spoilt in changes(), file in any::<prop::sample::Index>()) {
        let mut sent = sound().clone();
        let file = file.get(&sent.files).as_ptr();
        for bytes in sent.files.iter_mut().filter(|bytes| bytes.as_ptr() == file) {
            if is_segment(bytes) {
                // The index block and the footer, which the checksums then vouch for.
                let from = bytes.len().saturating_sub(200).max(16);
                change(&mut bytes[from..], &spoilt);
                seal_chunk(bytes);
            } else {
                change(&mut bytes[24..], &spoilt);
                let len = u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize;
                let end = (24 + len).min(bytes.len());
                let crc = crc32c::crc32c(&bytes[24..end]);
                set_u32(bytes, 20, crc);
            }
        }
        receive(&sent);
    }

    #[test]
    fn hostile_footers_are_refused(values in prop::collection::vec(any::<u32>(), 6), which in 0_usize..6) {
        let mut sent = sound().clone();
        for bytes in sent.files.iter_mut().filter(|bytes| is_segment(bytes)) {
            // Magic, records, their length, the index's length, its checksum, the first revision.
            let footer = bytes.len() - 32;
            set_u32(bytes, footer + 4 * which, values[which]);
            let crc = crc32c::crc32c(&bytes[footer..footer + 28]);
            set_u32(bytes, footer + 28, crc);
        }
        receive(&sent);
    }

    #[test]
    fn spoilt_commands_are_refused_or_applied(all in prop::collection::vec(changes(), 24)) {
        let mut member = Member::new();
        member.put(put("key", "0")).unwrap();
        let samples = commands();
        for (place, spoilt) in all.iter().enumerate() {
            let mut bytes = samples[place % samples.len()].clone();
            change(&mut bytes, spoilt);
            LARGEST.store(0, Ordering::Relaxed);
            if let Ok(command) = Command::decode(bytes.as_slice()) {
                apply(&mut member, &command);
            }
            assert_bounded("a command");
        }
        // What it holds can still be read.
        member.hash_kv(0).unwrap();
    }

    #[test]
    fn hostile_snapshot_files_are_refused_or_restored(
        spoilt in changes(),
        bits in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..8), 0..4),
        page in prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>())),
    ) {
        let mut file = snapshot_file().to_vec();
        let pages = file.len() / PAGE_BYTES;
        // A whole page in the place of another one, its number put right: a tree that is no tree.
        if let Some((from, to)) = page {
            let (from, to) = (from.index(pages), to.index(pages));
            let copy = file[from * PAGE_BYTES..][..PAGE_BYTES].to_vec();
            let place = &mut file[to * PAGE_BYTES..][..PAGE_BYTES];
            place.copy_from_slice(&copy);
            place[..8].copy_from_slice(&(to as u64).to_le_bytes());
        } else {
            // Behind the metas, which a checksum guards.
            change(&mut file[2 * PAGE_BYTES..], &spoilt);
        }
        for (place, bit) in bits {
            let place = place.index(file.len());
            file[place] ^= 1 << bit;
        }
        restore_file(&file);
    }

    #[test]
    fn arbitrary_batches_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        LARGEST.store(0, Ordering::Relaxed);
        if let Ok(batch) = Batch::decode(bytes.as_slice()) {
            let mut member = Member::new();
            for command in batch.commands {
                apply(&mut member, &command);
            }
        }
        assert_bounded("a batch");
    }
}
