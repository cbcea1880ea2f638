//! Rewriting segments: dropping garbage, merging small neighbours (store-notes 5).
//!
//! Runs right after a checkpoint, on the keeper. It drops only what the bits *of that checkpoint*
//! call garbage: their compaction is in the durable manifest (G1), and so are the bits of every
//! older record of the same key, which a restart skips (G2). Bits set meanwhile are carried over to
//! the new chunks before the table is swapped.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::checkpoint::{Core, newly_set};
use super::chunk::Chunk;
use super::dead::{DeadSnapshot, is_dead};
use super::error::StoreError;
use super::segment::{Segment, SegmentChunk, SegmentWriter, Undo};
use super::table::Table;

/// Equal neighbours that are merged into one: each record is written once more per factor of this.
const MERGE_RUN: usize = 4;
/// Garbage that the segment still being appended to must hold before it is rewritten.
const OPEN_GARBAGE_BYTES_MIN: u64 = 1 << 20;
/// Bytes read at once.
const COPY_BYTES: u32 = 1 << 20;
/// Smallest unit by which segments are called equal.
const TIER_BYTES: u64 = 64 << 10;

/// Why segments are rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rewrite {
    /// More than half garbage, or many small neighbours.
    Background,
    /// Any garbage: a Defragment was asked for.
    All,
}

impl Core {
    /// Rewrites the next run of segments that is due; false if there is none. `wrote` hears of the
    /// bytes as they are written, and may pause.
    pub(crate) fn rewrite_next(
        &mut self,
        reason: Rewrite,
        wrote: &mut dyn FnMut(u64),
    ) -> Result<bool, StoreError> {
        if self.shared.epoch.load(Ordering::Acquire) != self.epoch {
            return Ok(false);
        }
        let Some(run) = self.next_run(reason) else {
            return Ok(false);
        };
        self.attempt(|core, undo| core.rewrite(run, undo, wrote))?;
        Ok(true)
    }

    fn next_run(&self, reason: Rewrite) -> Option<Range<usize>> {
        let segments = &self.files.segments;
        let garbage = (0..segments.len()).find(|&place| self.has_garbage(place, reason));
        if let Some(start) = garbage {
            let end = self.extend(start, |place| {
                self.has_garbage(place, reason) || self.is_small(place)
            });
            return Some(start..end);
        }
        (0..segments.len()).find_map(|start| {
            let tier = tier(segments.get(start)?);
            let same = |place: usize| {
                self.is_sealed(place) && segments.get(place).map(self::tier) == Some(tier)
            };
            let end = self.extend(start, same);
            (same(start) && end - start >= MERGE_RUN).then_some(start..end)
        })
    }

    /// The end of the run from `start` whose members all satisfy `wanted` and together fit.
    fn extend(&self, start: usize, wanted: impl Fn(usize) -> bool) -> usize {
        let mut total = 0;
        let mut end = start;
        while let Some(segment) = self.files.segments.get(end) {
            total += live_bytes(segment);
            if end > start && (total > self.segment_merge_bytes_max || !wanted(end)) {
                break;
            }
            end += 1;
        }
        end
    }

    fn has_garbage(&self, place: usize, reason: Rewrite) -> bool {
        let Some(segment) = self.files.segments.get(place) else {
            return false;
        };
        let garbage = segment.durable_dead_bytes();
        match reason {
            Rewrite::All => garbage > 0,
            Rewrite::Background => {
                let enough = self.is_sealed(place) || garbage >= OPEN_GARBAGE_BYTES_MIN;
                garbage * 2 > segment.records_len() && enough
            }
        }
    }

    fn is_sealed(&self, place: usize) -> bool {
        let sealed = |segment: &Segment| segment.is_sealed(self.segment_seal_bytes);
        place + 1 < self.files.segments.len() || self.files.segments.get(place).is_some_and(sealed)
    }

    /// Whether a segment joins a neighbour that is rewritten anyway.
    fn is_small(&self, place: usize) -> bool {
        let small = |segment: &Segment| live_bytes(segment) < self.segment_seal_bytes / 4;
        self.is_sealed(place) && self.files.segments.get(place).is_some_and(small)
    }

    fn rewrite(
        &mut self,
        run: Range<usize>,
        undo: &mut Undo,
        wrote: &mut dyn FnMut(u64),
    ) -> Result<(), StoreError> {
        let Some(position) = self.position.clone() else {
            return Ok(());
        };
        let mut files = self.files.clone();
        let old: Vec<Segment> = files
            .segments
            .get(run.clone())
            .map(<[Segment]>::to_vec)
            .unwrap_or_default();

        // One file takes the whole run, whatever the size at which appending stops.
        let seal_bytes = u64::MAX;
        let mut writer = SegmentWriter::new(&*self.disk, seal_bytes, &mut self.names, undo, None);
        for held in old.iter().flat_map(|segment| &segment.chunks) {
            wrote(copy_live(held, &mut writer)?);
        }
        let written = writer.finish()?;
        files.segments.splice(run, written);
        self.write_dead(&mut files, undo)?;
        self.commit(files, position, undo)?;
        self.swap_chunks(old);
        Ok(())
    }

    /// Carries over the bits set while the copy ran, then swaps the table. The bulk is carried
    /// before the lock is taken: the apply thread waits only for what came after.
    fn swap_chunks(&self, old: Vec<Segment>) {
        let old = old.into_iter().flat_map(|segment| segment.chunks);
        let mut old: Vec<(Arc<Chunk>, DeadSnapshot)> =
            old.map(|held| (held.chunk, held.durable_dead)).collect();
        let chunks = Table::new(self.files.chunks());
        carry(&mut old, &chunks);
        let _swap = self.shared.swap.lock();
        carry(&mut old, &chunks);
        let now = self.shared.table.load_full();
        self.shared.table.store(Arc::new(Table {
            chunks: chunks.chunks,
            frozen: now.frozen.clone(),
            tail: now.tail.clone(),
        }));
    }
}

fn carry(old: &mut [(Arc<Chunk>, DeadSnapshot)], table: &Table) {
    for (chunk, seen) in old {
        let now = chunk.dead.snapshot();
        let slots = newly_set(&now, seen);
        slots
            .into_iter()
            .filter_map(|slot| chunk.revision(slot))
            .for_each(|revision| {
                table.mark_dead(revision);
            });
        *seen = now;
    }
}

/// Copies the records that the durable manifest does not call garbage; gives their bytes.
fn copy_live(held: &SegmentChunk, writer: &mut SegmentWriter<'_>) -> Result<u64, StoreError> {
    let chunk = &held.chunk;
    let (mut frames, mut start, mut end) = (Bytes::new(), 0, 0);
    let mut bytes = 0;
    for (slot, entry) in chunk.read_index()?.enumerate() {
        let entry = entry?;
        let Some((from, to)) = chunk.frame(slot) else {
            break;
        };
        if is_dead(&held.durable_dead, slot) {
            continue;
        }
        if to > end {
            start = from;
            end = to.max(
                from.saturating_add(COPY_BYTES)
                    .min(chunk.records_len() as u32),
            );
            frames = chunk.read_frames(start, end)?;
        }
        let record = chunk.record(slot, &frames, start)?;
        writer.push(&entry.header, &record)?;
        bytes += record.len() as u64;
    }
    Ok(bytes)
}

fn live_bytes(segment: &Segment) -> u64 {
    segment
        .records_len()
        .saturating_sub(segment.durable_dead_bytes())
}

/// Segments of one tier differ by less than the factor [`MERGE_RUN`].
fn tier(segment: &Segment) -> u32 {
    (live_bytes(segment) / TIER_BYTES)
        .max(1)
        .ilog(MERGE_RUN as u64)
}
