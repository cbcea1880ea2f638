//! The log: sled, the plain append file and memory, beside raw append + `fdatasync`.
//!
//! One iteration is one durable append of 256 bytes. With 64 appenders, 64 appends are always on
//! their way, as one Raft core keeps them: an append is queued as soon as another is durable.
//! Set `KEELSON_BENCH_DIR` to a directory on the disk to be measured; the default is `target`.

#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot go on says so by a panic"
)]
#![allow(
    missing_docs,
    reason = "criterion's macros make undocumented functions"
)]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use keelson::raft::wal::{MemoryDisk, Wal, WalEntry, WalOptions, open_file, open_sled};

/// The member's allocator: sled takes 8 MiB for each segment it fills.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PAYLOAD: &[u8] = &[0x5a; 256];

/// How far the log is durable.
#[derive(Default)]
struct Watermark {
    next: Mutex<u64>,
    moved: Condvar,
}

impl Watermark {
    fn raise(&self, next: u64) {
        *self.next.lock().unwrap() = next;
        self.moved.notify_one();
    }

    fn beyond(&self, index: u64) -> u64 {
        let next = self.next.lock().unwrap();
        *self.moved.wait_while(next, |next| *next <= index).unwrap()
    }
}

/// Appends `count` entries from `first` on, `window` of them at a time.
fn run(wal: &dyn Wal, first: u64, count: u64, window: u64) -> Duration {
    let watermark = Arc::new(Watermark {
        next: Mutex::new(first),
        ..Watermark::default()
    });
    let started = Instant::now();
    let (mut queued, mut durable) = (first, first);
    while durable < first + count {
        while queued < first + count && queued < durable + window {
            let payload = Bytes::from_static(PAYLOAD);
            let entry = WalEntry {
                index: queued,
                term: 1,
                kind: 1,
                payload,
            };
            queued += 1;
            let (watermark, next) = (Arc::clone(&watermark), queued);
            let done = move |outcome: Result<(), _>| {
                outcome.unwrap();
                watermark.raise(next);
            };
            wal.append(vec![entry], Box::new(done));
        }
        durable = watermark.beyond(durable);
    }
    started.elapsed()
}

/// The least any log can do: one write and one sync for every `window` payloads.
fn run_raw(file: &mut File, count: u64, window: u64) -> Duration {
    let group = PAYLOAD.repeat(window as usize);
    let started = Instant::now();
    for _ in 0..count.div_ceil(window) {
        file.write_all(&group).unwrap();
        file.sync_data().unwrap();
    }
    started.elapsed()
}

fn place() -> PathBuf {
    let default = || Path::new(env!("CARGO_TARGET_TMPDIR")).to_path_buf();
    std::env::var_os("KEELSON_BENCH_DIR").map_or_else(default, PathBuf::from)
}

fn bench(c: &mut Criterion) {
    for appenders in [1, 64] {
        let mut group = c.benchmark_group(format!("wal/{appenders}"));
        group.throughput(Throughput::Elements(1));
        group
            .sample_size(20)
            .measurement_time(Duration::from_secs(5));

        let dir = tempfile::tempdir_in(place()).unwrap();
        let mut file = File::create(dir.path().join("raw")).unwrap();
        group.bench_function("raw", |b| {
            b.iter_custom(|n| run_raw(&mut file, n, appenders))
        });

        let file = tempfile::tempdir_in(place()).unwrap();
        let sled = tempfile::tempdir_in(place()).unwrap();
        let logs: [(&str, Arc<dyn Wal>); 3] = [
            (
                "file",
                open_file(file.path(), WalOptions::default()).unwrap(),
            ),
            (
                "sled",
                open_sled(sled.path(), WalOptions::default()).unwrap(),
            ),
            ("memory", Arc::new(MemoryDisk::new().open())),
        ];
        for (name, wal) in logs {
            let mut next = 0;
            group.bench_function(name, |b| {
                b.iter_custom(|count| {
                    let elapsed = run(&*wal, next, count, appenders);
                    next += count;
                    elapsed
                })
            });
        }
        group.finish();
    }
}

criterion_group!(wal, bench);
criterion_main!(wal);
