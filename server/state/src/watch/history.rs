//! Reading history for watchers that are behind (store-notes 6, W4, W5).

use std::sync::Arc;

use bytes::Bytes;
use keelson_proto::key_range::KeyRange;

use super::event::{Event, Prev, RevisionEvents};
use super::shard::{HistoryJob, HistoryPart};
use crate::error::ApplyError;
use crate::mvcc::record;
use crate::reader::{History, Reader};
use crate::revision::Revision;

/// Bytes of events that one read brings, beyond its first revision.
const BYTES_MAX: usize = 4 << 20;

/// Reads a job's revisions under a pin. `None`: its first revision is compacted away.
///
/// # Errors
/// The store's end the process.
pub fn read(reader: &Reader, job: &HistoryJob) -> Result<Option<HistoryPart>, ApplyError> {
    loop {
        let history = reader.history();
        if job.from < history.revisions().compact {
            return Ok(None);
        }
        match read_at(&history, job) {
            Err(_) if history.is_superseded() => {}
            done => return done.map(Some),
        }
    }
}

fn read_at(history: &History, job: &HistoryJob) -> Result<HistoryPart, ApplyError> {
    let mut revisions: Vec<Arc<RevisionEvents>> = Vec::new();
    let mut current: Option<RevisionEvents> = None;
    let mut bytes = 0;
    let from = Revision {
        main: job.from,
        sub: 0,
    };
    for stored in history.store().scan(from, job.to) {
        let stored = stored?;
        let main = stored.revision.main;
        if let Some(done) = current.take_if(|open| open.revision != main) {
            let through = done.revision;
            bytes += done.size();
            revisions.push(Arc::new(done));
            if revisions.len() >= job.revisions_max || bytes >= BYTES_MAX {
                return Ok(HistoryPart { through, revisions });
            }
        }
        let key = record::key(&stored.record)?;
        if key.is_empty()
            || !job
                .ranges
                .iter()
                .any(|range: &KeyRange| range.contains(&key))
        {
            continue;
        }
        let event = event(history, main, key, stored.tombstone, stored.record)?;
        current
            .get_or_insert_with(|| RevisionEvents {
                revision: main,
                events: Vec::new(),
            })
            .events
            .push(event);
    }
    revisions.extend(current.map(Arc::new));
    Ok(HistoryPart {
        through: job.to,
        revisions,
    })
}

/// Its previous value is what was visible at main − 1; absent if that is compacted.
fn event(
    history: &History,
    main: i64,
    key: Bytes,
    tombstone: bool,
    stored: Bytes,
) -> Result<Event, ApplyError> {
    let prev = if main > history.revisions().compact {
        history.at(&key, main - 1)
    } else {
        None
    };
    let prev = match prev {
        Some(prev) => Prev::Record(history.store().read(prev)?),
        None => Prev::None,
    };
    Ok(Event::new(main, key, tombstone, stored, prev))
}
