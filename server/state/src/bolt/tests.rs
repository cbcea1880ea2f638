//! Written files come back; files that are not what they should be are refused.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::page::{BRANCH, HEADER_BYTES, LEAF, u32_at, u64_at};
use super::*;

type Contents = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

const NAMES: [&str; 4] = ["alarm", "auth", "key", "meta"];

fn write(contents: &Contents, page_size: usize) -> Vec<u8> {
    let buckets = NAMES.iter().map(|name| {
        let mut bucket = SmallBucket::default();
        for (key, value) in contents.get(*name).into_iter().flatten() {
            bucket.insert(key.clone(), value.clone());
        }
        (*name, Box::new(bucket) as Box<dyn Entries>)
    });
    finish(FileWriter::with_page_size(buckets.collect(), page_size).unwrap())
}

fn finish(mut writer: FileWriter) -> Vec<u8> {
    let mut file = Vec::new();
    while let Some(piece) = writer.next_piece().unwrap() {
        assert!(
            piece.len() == PIECE_BYTES || (file.len() + piece.len()) as u64 == writer.total_bytes()
        );
        file.extend_from_slice(&piece);
    }
    assert_eq!(file.len() as u64, writer.total_bytes());
    file.extend_from_slice(&writer.hash());
    file
}

fn read(file: &[u8], trust: Trust) -> Result<Contents, BoltError> {
    let file = BoltFile::open(file, "test.db", trust)?;
    let mut walk = Walk::new(&file)?;
    let mut contents = Contents::new();
    while let Some(bucket) = walk.take_first() {
        let mut entries = BTreeMap::new();
        walk.entries::<BoltError>(&bucket, &mut |_, key, value| {
            entries.insert(key.to_vec(), value.to_vec());
            Ok(())
        })?;
        contents.insert(String::from_utf8_lossy(bucket.name()).into_owned(), entries);
    }
    Ok(contents)
}

/// Every branch of a file: at least two children, each key the first of its child (traps 1 and 2).
fn check_branches(file: &[u8], page_size: usize) {
    let mut id = 2;
    while id * page_size < file.len() - 32 {
        let page = &file[id * page_size..];
        let flags = u16::from_le_bytes([page[8], page[9]]);
        let count = usize::from(u16::from_le_bytes([page[10], page[11]]));
        if flags == BRANCH {
            assert!(count >= 2, "page {id} has {count} children");
            for element in 0..count {
                let at = HEADER_BYTES + 16 * element;
                let start = at + u32_at(page, at).unwrap() as usize;
                let key = &page[start..start + u32_at(page, at + 4).unwrap() as usize];
                let child = u64_at(page, at + 8).unwrap() as usize;
                let child = &file[child * page_size..];
                let leaf = u16::from_le_bytes([child[8], child[9]]) == LEAF;
                let (pos, len) = if leaf { (4, 8) } else { (0, 4) };
                let start = 16 + u32_at(child, 16 + pos).unwrap() as usize;
                let first = &child[start..start + u32_at(child, 16 + len).unwrap() as usize];
                assert_eq!(key, first, "page {id}, element {element}");
            }
        }
        id += 1 + u32_at(page, 12).unwrap() as usize;
    }
}

fn many(records: usize, value: usize) -> Contents {
    let entries = (0..records).map(|i| ((i as u64).to_be_bytes().to_vec(), vec![7; value]));
    let mut contents: Contents = NAMES.map(|name| (name.to_owned(), BTreeMap::new())).into();
    contents.insert("key".into(), entries.collect());
    contents
}

fn put(bucket: &mut SmallBucket, key: &[u8], value: &str) {
    let hex = |text: &str| -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.map(byte).collect()
    };
    bucket.insert(key.to_vec(), hex(value));
}

/// Bytes that genuine etcdutl 3.7.1 was seen to accept, with hashes it was seen to compute.
#[test]
fn the_known_answer_file() {
    let mut buckets: Vec<(&'static str, SmallBucket)> = [
        "alarm",
        "auth",
        "authRoles",
        "authUsers",
        "cluster",
        "key",
        "lease",
        "members",
        "members_removed",
        "meta",
    ]
    .map(|name| (name, SmallBucket::default()))
    .into();
    put(&mut buckets[1].1, b"authEnabled", "00");
    put(&mut buckets[1].1, b"authRevision", "0000000000000001");
    buckets[4].1.insert("clusterVersion", "3.7.0");
    let values = [
        "0a01611002180220012a0131",
        "0a01611002180320022a0132",
        "0a01621004180420012a0178304d",
        "0a01631005180520012a0179",
        "0a0163",
    ];
    for (main, value) in (2_u64..).zip(values) {
        let mut key = main.to_be_bytes().to_vec();
        key.extend_from_slice(b"_\0\0\0\0\0\0\0\0");
        if main == 6 {
            key.push(b't');
        }
        put(&mut buckets[5].1, &key, value);
    }
    put(&mut buckets[6].1, &77_u64.to_be_bytes(), "084d10d804");
    buckets[7]
        .1
        .insert("1", r#"{"id":1,"peerURLs":["http://x:1"],"name":"k"}"#);
    buckets[9]
        .1
        .insert("confState", r#"{"voters":[1],"auto_leave":false}"#);
    put(&mut buckets[9].1, b"consistent_index", "0000000000000009");
    buckets[9].1.insert("storageVersion", "3.7.0");
    put(&mut buckets[9].1, b"term", "0000000000000003");
    let buckets = buckets
        .into_iter()
        .map(|(name, bucket)| -> (_, Box<dyn Entries>) {
            match name {
                // In the known file this bucket has a page of its own.
                "key" => (name, Box::new(Large(bucket))),
                _ => (name, Box::new(bucket)),
            }
        });
    let file = finish(FileWriter::new(buckets.collect()).unwrap());
    let contents = read(&file, Trust::Hash).unwrap();
    assert_eq!(contents["key"].len(), 5);
    assert_eq!(file.len(), 16_416);
    let sum = Sha256::digest(&file[..16_384]);
    assert_eq!(sum[..], file[16_384..]);
    assert_eq!(
        sum.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>(),
        "7cf3a5cae0997ac6161df95c74c34cded5578e6c69bd3bf809cf998d3a1d5fe0"
    );
}

struct Large(SmallBucket);

impl Entries for Large {
    fn lengths(&self, visit: &mut dyn FnMut(&[u8], usize)) {
        self.0.lengths(visit);
    }

    fn entries(&self) -> Box<dyn EntryCursor> {
        self.0.entries()
    }

    fn may_be_inline(&self) -> bool {
        false
    }
}

#[test]
fn counts_that_leave_a_lone_child_at_each_level() {
    // At 512 bytes a leaf holds 10 of these records and a branch 20 children.
    for records in (1..45)
        .chain(195..215)
        .chain(395..430)
        .chain(3990..4030)
        .chain([4200, 8010])
    {
        let contents = many(records, 24);
        let file = write(&contents, 512);
        check_branches(&file, 512);
        assert_eq!(
            read(&file, Trust::Hash).unwrap(),
            contents,
            "{records} records"
        );
    }
}

#[test]
fn lengths_around_a_page_and_above() {
    for value in [0, 4038, 4039, 4040, 4056, 4057, 8150, 100_000, 1_500_000] {
        let mut contents = many(3, value);
        contents.get_mut("key").unwrap().insert(vec![9; 8], vec![1]);
        let file = write(&contents, PAGE_BYTES);
        check_branches(&file, PAGE_BYTES);
        assert_eq!(
            read(&file, Trust::Hash).unwrap(),
            contents,
            "values of {value} bytes"
        );
    }
}

/// Alone in its leaf, such a record would take two pages.
#[test]
fn records_of_a_little_more_than_a_page_share_their_last_one() {
    for value in [300, 600, 1400, 2100, 4200, 9000, 70_000] {
        let contents = many(200, value);
        let file = write(&contents, PAGE_BYTES);
        check_branches(&file, PAGE_BYTES);
        assert_eq!(read(&file, Trust::Hash).unwrap(), contents);
        let content = 200 * (value + 24);
        let limit = content + content / 8 + 10 * PAGE_BYTES;
        assert!(
            file.len() < limit,
            "values of {value}: {} bytes",
            file.len()
        );
    }
}

#[test]
fn a_key_that_does_not_fit_is_refused() {
    let mut bucket = SmallBucket::default();
    bucket.insert(vec![1; 40_000], Bytes::new());
    assert!(FileWriter::new(vec![("key", Box::new(bucket))]).is_err());
}

#[test]
fn the_frame_is_checked_first() {
    let file = write(&many(100, 50), PAGE_BYTES);
    let end = file.len();
    let open = |bytes: &[u8], trust| read(bytes, trust).map(drop);
    assert!(matches!(
        open(&[], Trust::Hash),
        Err(BoltError::MissingHash)
    ));
    assert!(matches!(
        open(&[], Trust::Nothing),
        Err(BoltError::Damaged { .. })
    ));
    assert!(matches!(
        open(&file[..end - 32], Trust::Hash),
        Err(BoltError::MissingHash)
    ));
    open(&file[..end - 32], Trust::Nothing).unwrap();
    open(&file, Trust::Nothing).unwrap();
    let mut wrong = file.clone();
    wrong[end - 1] ^= 1;
    let error = open(&wrong, Trust::Hash).unwrap_err();
    assert!(
        error.to_string().starts_with("expected sha256 ["),
        "{error}"
    );
    let mut big = file.clone();
    for at in [0, 4096] {
        big[at + 16..at + 20].copy_from_slice(&0xED0C_DAED_u32.to_be_bytes());
    }
    let error = open(&big, Trust::Nothing).unwrap_err().to_string();
    assert!(
        error.contains("test.db") && error.contains("big-endian"),
        "{error}"
    );
    // One bad meta page is survived, whichever it is.
    for at in [0, 4096] {
        let mut one_bad = file.clone();
        one_bad[at + 30] ^= 1;
        open(&one_bad, Trust::Nothing).unwrap();
    }
}

#[test]
fn a_file_that_ends_anywhere_is_refused() {
    let file = write(&many(300, 30), 512);
    for end in (0..file.len())
        .step_by(97)
        .chain([file.len() - 1, file.len() - 33, 512, 1024])
    {
        assert!(read(&file[..end], Trust::Hash).is_err(), "cut at {end}");
        if end + 32 < file.len() {
            assert!(
                read(&file[..end], Trust::Nothing).is_err(),
                "cut at {end}, no hash"
            );
        }
    }
}

/// Any change of a page's structure is noticed, or shows as other content: never a panic.
#[test]
fn flipped_bits_never_panic() {
    let contents = many(60, 20);
    let file = write(&contents, 512);
    for at in 0..file.len() - 32 {
        for bit in [0, 3, 7] {
            let mut damaged = file.clone();
            damaged[at] ^= 1 << bit;
            assert!(read(&damaged, Trust::Hash).is_err());
            drop(read(&damaged, Trust::Nothing));
        }
    }
}

/// Where the header of page `id` lies, and a file with a root branch over leaves.
fn branched() -> (Vec<u8>, usize) {
    let file = write(&many(60, 20), 512);
    let root = u64_at(&file, 32).unwrap() as usize;
    (file, root)
}

fn refused(mut file: Vec<u8>, change: impl FnOnce(&mut [u8]), detail: &str) {
    change(&mut file);
    let error = read(&file, Trust::Nothing).unwrap_err().to_string();
    assert!(error.contains(detail), "{error:?} should say {detail:?}");
}

#[test]
fn hostile_trees_are_refused() {
    let (file, root) = branched();
    let branch = (2..root)
        .find(|id| file[id * 512 + 8] == 1)
        .expect("a branch page");
    let (leaf, branch) = (2 * 512, branch * 512);
    let with = |change: fn(&mut [u8], usize), at, detail: &str| {
        refused(file.clone(), |bytes| change(bytes, at), detail);
    };
    // The first child of the branch is its second, a cycle, beyond the end.
    with(|b, at| b[at + 40] = 2, branch, "used twice");
    with(|b, at| b[at + 24] = (at / 512) as u8, branch, "used twice");
    with(|b, at| b[at + 24] = 200, branch, "a reference to page 200");
    with(|b, at| b[at + 24] = 1, branch, "a reference to page 1");
    with(|b, at| b[at + 12] = 250, leaf, "claims 250 pages more");
    with(|b, at| b[at + 12..at + 16].fill(0xff), leaf, "pages more");
    with(|b, at| b[at + 10] = 250, leaf, "claims 250 elements");
    with(|b, at| b[at] = 9, leaf, "says that it is page 9");
    with(|b, at| b[at + 8] = 0x10, leaf, "has flags");
    with(|b, at| b[at + 20] = 4, leaf, "overlap");
    with(|b, at| b[at + 20 + 16] = b[at + 20] - 16, leaf, "overlap");
    with(
        |b, at| b[at + 24..at + 28].fill(0),
        leaf,
        "impossible length",
    );
    with(
        |b, at| b[at + 28..at + 32].fill(0xff),
        leaf,
        "outside of its page",
    );
    with(|b, at| b[at + 16] = 1, leaf, "a bucket within a bucket");
    with(|b, at| b[at + 10] = 0, branch, "without children");
    with(|b, at| b[at + 10] = 0, leaf, "an empty leaf");
    refused(
        file.clone(),
        |bytes| {
            let key = 1024 + 16 + u32_at(bytes, 1024 + 20).unwrap() as usize;
            bytes[key] = 0xff;
        },
        "out",
    );
    let root_page = root * 512;
    with(|b, at| b[at + 16] = 0, root_page, "no bucket");
    with(
        |b, at| b[at + 28..at + 32].copy_from_slice(&15_u32.to_le_bytes()),
        root_page,
        "too short",
    );
}

#[test]
fn hostile_metas_are_refused() {
    let (file, root) = branched();
    let pages = ((file.len() - 32) / 512) as u64;
    let meta = |page_size, root, freelist, pages| super::page::Meta {
        page_size,
        root,
        freelist,
        pages,
        txid: 9,
    };
    let with = |meta: super::page::Meta, detail: &str| {
        let mut page = bytes::BytesMut::new();
        meta.put(0, &mut page);
        page.resize(512, 0);
        refused(
            file.clone(),
            |bytes| bytes[..512].copy_from_slice(&page),
            detail,
        );
    };
    let (none, root) = (u64::MAX, root as u64);
    with(meta(512, root, none, u64::MAX), "do not fit");
    with(meta(512, root, none, pages + 2), "do not fit");
    with(meta(512, root, none, 2), "do not fit");
    with(meta(512, 0, none, pages), "root is said to be page 0");
    with(meta(512, 1, none, pages), "root is said to be page 1");
    with(meta(512, pages, none, pages), "root is said to be");
    with(meta(512, root, 1, pages), "freelist is said to be page 1");
    with(meta(512, root, pages, pages), "freelist is said to be");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(
        lens in prop::collection::vec((1_usize..700, 0_usize..1500), 0..120),
        small in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..9), prop::collection::vec(any::<u8>(), 0..40), 0..30),
        page_size in prop::sample::select(vec![512_usize, 1024, 4096]),
    ) {
        let key = |(i, (key, value)): (usize, &(usize, usize))| {
            let mut name = (i as u32).to_be_bytes().to_vec();
            name.resize(4 + key, 0xaa);
            (name, vec![i as u8; *value])
        };
        let mut contents: Contents = NAMES.map(|name| (name.to_owned(), BTreeMap::new())).into();
        contents.insert("key".into(), lens.iter().enumerate().map(key).collect());
        contents.insert("meta".into(), small);
        let file = write(&contents, page_size);
        prop_assert_eq!(file.len() % 512, 32);
        check_branches(&file, page_size);
        prop_assert_eq!(read(&file, Trust::Hash).unwrap(), contents);
    }

    #[test]
    fn arbitrary_damage_never_panics(
        at in prop::collection::vec((0_usize..20_000, any::<u8>()), 1..8),
    ) {
        let mut file = write(&many(300, 20), 512);
        for (at, byte) in at {
            let at = at % file.len();
            file[at] = byte;
        }
        drop(read(&file, Trust::Nothing));
    }
}
