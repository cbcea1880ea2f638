//! The writer thread over a backend that records, stalls, fails and panics.

use std::sync::mpsc::{self, Receiver, Sender};

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, PartialEq, Eq)]
enum Call {
    Append(Vec<u64>, Option<u64>),
    Vote,
    Committed(u64),
    Truncate(Option<u64>),
    Purge(u64),
    Slice,
    Sync,
}

/// Tells every call; each sync waits for its outcome.
struct Scripted {
    calls: Sender<Call>,
    outcomes: Receiver<Result<(), WalError>>,
}

impl Scripted {
    fn tell(&self, call: Call) {
        drop(self.calls.send(call));
    }
}

impl Backend for Scripted {
    fn append(
        &mut self,
        entries: &[WalEntry],
        committed: Option<LogPosition>,
    ) -> Result<u64, WalError> {
        let indexes = entries.iter().map(|entry| entry.index).collect();
        self.tell(Call::Append(
            indexes,
            committed.map(|committed| committed.index),
        ));
        Ok(1)
    }

    fn save_vote(&mut self, vote: &Bytes) -> Result<(), WalError> {
        assert_ne!(&vote[..], b"panic", "asked for");
        self.tell(Call::Vote);
        Ok(())
    }

    fn save_committed(&mut self, committed: LogPosition) -> Result<(), WalError> {
        self.tell(Call::Committed(committed.index));
        Ok(())
    }

    fn truncate_after(&mut self, index: Option<u64>) -> Result<(), WalError> {
        self.tell(Call::Truncate(index));
        Ok(())
    }

    fn mark_purged(&mut self, position: LogPosition) -> Result<(), WalError> {
        self.tell(Call::Purge(position.index));
        Ok(())
    }

    fn purge_slice(&mut self) -> Result<bool, WalError> {
        self.tell(Call::Slice);
        Ok(false)
    }

    fn sync(&mut self) -> Result<(), WalError> {
        self.tell(Call::Sync);
        self.outcomes.recv().unwrap_or(Ok(()))
    }

    fn reader(&self) -> Arc<dyn Reader> {
        struct Nothing;
        impl Reader for Nothing {
            fn read(&self, range: Range<u64>, _: usize) -> Result<Vec<WalEntry>, WalError> {
                Err(WalError::Missing { index: range.start })
            }
        }
        Arc::new(Nothing)
    }
}

/// `outcomes` goes before the log: syncs that still wait then succeed, and the log can close.
struct Script {
    outcomes: Sender<Result<(), WalError>>,
    wal: GroupCommit,
    calls: Receiver<Call>,
    reports: Receiver<(u64, Result<(), WalError>)>,
    report: Sender<(u64, Result<(), WalError>)>,
}

impl Script {
    fn new() -> Self {
        let (told, calls) = mpsc::channel();
        let (outcomes, outcome) = mpsc::channel();
        let (report, reports) = mpsc::channel();
        let backend = Scripted {
            calls: told,
            outcomes: outcome,
        };
        let wal = GroupCommit::start(backend, Recovered::default(), WalOptions::default()).unwrap();
        Self {
            wal,
            calls,
            outcomes,
            reports,
            report,
        }
    }

    fn done(&self, id: u64) -> Done {
        let report = self.report.clone();
        Box::new(move |outcome| drop(report.send((id, outcome))))
    }

    fn append(&self, index: u64) {
        let entry = WalEntry {
            index,
            term: 1,
            kind: 0,
            payload: Bytes::from_static(b"x"),
        };
        self.wal.append(vec![entry], self.done(index));
    }

    fn call(&self) -> Call {
        self.calls.recv_timeout(DEADLINE).unwrap()
    }

    fn report(&self) -> (u64, bool) {
        let (id, outcome) = self.reports.recv_timeout(DEADLINE).unwrap();
        (id, outcome.is_ok())
    }

    /// A group whose sync does not return yet: what is queued now forms the next group.
    fn stall(&self) {
        self.append(0);
        assert_eq!(self.call(), Call::Append(vec![0], None));
        assert_eq!(self.call(), Call::Sync);
    }

    fn go_on(&self) {
        self.outcomes.send(Ok(())).unwrap();
    }
}

#[test]
fn what_waits_is_written_in_order_with_one_sync_and_one_report_of_the_newest_append() {
    let script = Script::new();
    script.stall();
    script.append(1);
    script.append(2);
    script
        .wal
        .save_vote(Bytes::from_static(b"vote"), script.done(100));
    script.append(3);
    script
        .wal
        .purge_to(LogPosition { term: 1, index: 1 }, script.done(101));
    script.go_on();
    assert_eq!(script.report(), (0, true));
    let order = [
        Call::Append(vec![1, 2], None),
        Call::Vote,
        Call::Append(vec![3], None),
        Call::Purge(1),
        Call::Sync,
    ];
    for call in order {
        assert_eq!(script.call(), call);
    }
    assert!(
        script.reports.try_recv().is_err(),
        "nothing is reported before the sync returns"
    );
    script.go_on();
    assert_eq!(
        [script.report(), script.report(), script.report()],
        [(3, true), (100, true), (101, true)]
    );
    assert_eq!(script.call(), Call::Slice);
}

#[test]
fn a_truncation_is_durable_before_anything_is_written_behind_it() {
    let script = Script::new();
    script.stall();
    script.append(1);
    script.wal.truncate_after(Some(0), script.done(100));
    script.append(1);
    script.wal.save_committed(LogPosition { term: 1, index: 1 });
    script.go_on();
    for call in [
        Call::Append(vec![1], None),
        Call::Truncate(Some(0)),
        Call::Sync,
    ] {
        assert_eq!(script.call(), call);
    }
    script.go_on();
    assert_eq!(
        script.call(),
        Call::Append(vec![1], None),
        "the commit is younger than the append"
    );
    assert_eq!(script.call(), Call::Sync);
}

#[test]
fn the_commit_is_written_when_the_log_is_idle() {
    let script = Script::new();
    script.stall();
    script.go_on();
    assert_eq!(script.report(), (0, true));
    script.wal.save_committed(LogPosition { term: 1, index: 7 });
    assert_eq!(
        script.call(),
        Call::Committed(0),
        "lowered to the end of the log"
    );
    assert_eq!(script.call(), Call::Sync);
}

#[test]
fn a_failed_sync_is_told_to_every_waiter_and_ends_the_log() {
    let script = Script::new();
    script.stall();
    script.append(1);
    script.append(2);
    script
        .outcomes
        .send(Err(WalError::Injected("torn cable")))
        .unwrap();
    let reports = [script.report(), script.report(), script.report()];
    assert_eq!(reports, [(0, false), (1, false), (2, false)]);
    script.append(3);
    assert_eq!(script.report(), (3, false));
    assert!(
        script.calls.try_recv().is_err(),
        "nothing is written after a failure"
    );
    assert!(script.wal.close().is_err());
}

#[test]
fn a_panic_of_the_thread_fails_later_calls_instead_of_hanging_them() {
    let script = Script::new();
    script
        .wal
        .save_vote(Bytes::from_static(b"panic"), script.done(1));
    assert!(script.wal.close().is_err());
    script.append(0);
    assert_eq!(script.report(), (0, false));
}

#[test]
fn a_full_queue_makes_callers_wait_and_lets_them_go_on() {
    let script = Script::new();
    script.stall();
    let payload = Bytes::from(vec![0; PAYLOAD_BYTES_MAX]);
    let large = WalEntry {
        index: 1,
        term: 1,
        kind: 0,
        payload,
    };
    script.wal.append(vec![large], script.done(1));
    let (wal, done) = (&script.wal, script.done(2));
    let (returned, returns) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let entry = WalEntry {
                index: 2,
                term: 1,
                kind: 0,
                payload: Bytes::new(),
            };
            wal.append(vec![entry], done);
            returned.send(()).unwrap();
        });
        let early = returns.recv_timeout(Duration::from_millis(50));
        assert!(early.is_err(), "there is no room before the group is taken");
        (0..3).for_each(|_| script.go_on());
        returns.recv_timeout(DEADLINE).unwrap();
    });
    assert_eq!(script.report(), (0, true));
    assert_eq!(script.report(), (1, true));
    assert_eq!(script.report(), (2, true));
}
