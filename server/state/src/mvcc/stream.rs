//! A range read in chunks at one pinned revision (contract 2.3).
//!
//! Unlike a unary range it does not hold back compaction for as long as a slow client reads: each
//! chunk checks the compact revision, and ends the stream with Compacted once its revision is gone.

use std::ops::ControlFlow;

use bytes::Bytes;
use keelson_proto::{etcdserverpb::RangeRequest, key_range::KeyRange, raw};

use super::range::{self, header};
use crate::{error::ApplyError, reader::Reader, revision::Revision};

/// A range that is read chunk by chunk, in key order.
pub struct RangeStream {
    reader: Reader,
    range: KeyRange,
    keys_only: bool,
    count_only: bool,
    /// The revision that all chunks come from.
    revision: i64,
    /// The current revision at the start, for the header.
    current: i64,
    count: i64,
    /// Keys that the limit still admits.
    remaining: u64,
    /// The next key to look at.
    next: Option<Bytes>,
}

struct Chunk {
    records: Vec<Result<Bytes, Revision>>,
    bytes: usize,
    /// The first key that did not go in.
    next: Option<Bytes>,
}

impl RangeStream {
    pub(crate) fn open(reader: Reader, request: &RangeRequest) -> Result<Self, ApplyError> {
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let (view, revisions, pin) = reader
            .shared()
            .begin(|revisions| revisions.of_range(request.revision))?;
        let count = range::count(&view.index, &range, pin.revision());
        reader.count_range();
        Ok(Self {
            next: Some(Bytes::copy_from_slice(range.start())),
            keys_only: request.keys_only,
            count_only: request.count_only,
            revision: pin.revision(),
            current: revisions.current,
            count,
            remaining: match u64::try_from(request.limit) {
                Ok(0) | Err(_) => u64::MAX,
                Ok(limit) => limit,
            },
            range,
            reader,
        })
    }

    /// The next message: up to `keys_max` keys and, beyond the first, `bytes_max` bytes of records.
    /// The last one has header, more and count; `None` after it. May read from the disk.
    ///
    /// # Errors
    /// Compacted, once the revision is gone. Errors of the store end the process.
    pub fn next_chunk(
        &mut self,
        keys_max: usize,
        bytes_max: usize,
    ) -> Result<Option<raw::RangeResponse>, ApplyError> {
        let Some(from) = self.next.take() else {
            return Ok(None);
        };
        if self.count_only {
            return Ok(Some(self.last(Vec::new(), false)));
        }
        loop {
            let (view, _, _pin) = self
                .reader
                .shared()
                .begin(|revisions| revisions.of_range(self.revision))?;
            let chunk = self.collect(&view.index, &from, keys_max, bytes_max);
            let wanted: Vec<Revision> = chunk
                .records
                .iter()
                .filter_map(|record| record.as_ref().err().copied())
                .collect();
            let read = match view.store.read_many(&wanted) {
                Err(_) if view.is_superseded() => continue,
                read => read?,
            };
            let mut read = read.into_iter();
            let kvs: Vec<Bytes> = chunk
                .records
                .into_iter()
                .filter_map(|record| record.ok().or_else(|| read.next()))
                .collect();
            self.remaining -= kvs.len() as u64;
            return Ok(Some(match chunk.next {
                Some(next) if self.remaining > 0 => {
                    self.next = Some(next);
                    raw::RangeResponse {
                        kvs,
                        ..raw::RangeResponse::default()
                    }
                }
                next => self.last(kvs, next.is_some()),
            }));
        }
    }

    fn collect(
        &self,
        index: &super::index::IndexReader,
        from: &[u8],
        keys_max: usize,
        bytes_max: usize,
    ) -> Chunk {
        let keys_max = keys_max
            .max(1)
            .min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        let mut chunk = Chunk {
            records: Vec::new(),
            bytes: 0,
            next: None,
        };
        index.range(
            from,
            self.range.end().as_deref(),
            self.revision,
            |key, found| {
                let len = found.record_len as usize;
                let full = chunk.records.len() >= keys_max
                    || (!chunk.records.is_empty() && chunk.bytes.saturating_add(len) > bytes_max);
                if full {
                    chunk.next = Some(Bytes::copy_from_slice(key));
                    return ControlFlow::Break(());
                }
                chunk.bytes += len;
                chunk.records.push(if self.keys_only {
                    Ok(range::keys_only_record(key, &found))
                } else {
                    Err(found.revision)
                });
                ControlFlow::Continue(())
            },
        );
        chunk
    }

    fn last(&self, kvs: Vec<Bytes>, more: bool) -> raw::RangeResponse {
        raw::RangeResponse {
            header: header(self.current),
            kvs,
            more,
            count: self.count,
        }
    }
}
