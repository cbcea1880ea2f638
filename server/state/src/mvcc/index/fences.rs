//! The way from a key to its leaf: a two-level, immutable table of lower bounds.
//!
//! A split or merge copies one chunk (≤ [`CHUNK_FENCES_MAX`] fences) and the list of chunks; all
//! else is shared with the version before, which readers may still hold.

use std::sync::Arc;

use super::leaf::Leaf;

/// A split copies one chunk and the list of chunks: with 10 M keys (about 100,000 leaves) both
/// have a few hundred items.
const CHUNK_FENCES_MAX: usize = 384;

#[derive(Clone)]
struct Fence {
    lower: Arc<[u8]>,
    leaf: Arc<Leaf>,
}

#[derive(Clone, Default)]
struct Chunk {
    fences: Vec<Fence>,
}

impl Chunk {
    fn lower(&self) -> &[u8] {
        self.fences.first().map_or(&[], |fence| &fence.lower)
    }

    /// Position of the fence whose leaf takes `key`.
    fn position(&self, key: &[u8]) -> usize {
        self.fences
            .partition_point(|fence| fence.lower.as_ref() <= key)
            .saturating_sub(1)
    }
}

/// Lower bounds of all leaves, in order. The first leaf takes everything below the second fence.
#[derive(Clone)]
pub(super) struct Fences {
    chunks: Vec<Arc<Chunk>>,
    /// The leaf of the smallest keys, which no merge removes.
    first: Arc<Leaf>,
}

impl Fences {
    pub(super) fn new(first: Arc<Leaf>) -> Self {
        Self::from_leaves(first, Vec::new())
    }

    /// Fences of leaves in key order; each of `rest` with its lower bound.
    pub(super) fn from_leaves(first: Arc<Leaf>, rest: Vec<(Arc<[u8]>, Arc<Leaf>)>) -> Self {
        let mut all = vec![Fence {
            lower: Arc::from(&[][..]),
            leaf: Arc::clone(&first),
        }];
        all.extend(rest.into_iter().map(|(lower, leaf)| Fence { lower, leaf }));
        let chunks = all
            .chunks(CHUNK_FENCES_MAX / 2)
            .map(|fences| {
                Arc::new(Chunk {
                    fences: fences.to_vec(),
                })
            })
            .collect();
        Self { chunks, first }
    }

    /// The leaf that takes `key`.
    pub(super) fn find(&self, key: &[u8]) -> &Arc<Leaf> {
        self.chunks
            .get(self.chunk_position(key))
            .and_then(|chunk| chunk.fences.get(chunk.position(key)))
            .map_or(&self.first, |fence| &fence.leaf)
    }

    /// These fences and one more leaf.
    pub(super) fn with(&self, lower: Arc<[u8]>, leaf: Arc<Leaf>) -> Self {
        let mut fences = self.clone();
        let position = fences.chunk_position(&lower);
        let Some(chunk) = fences.chunks.get_mut(position) else {
            return fences;
        };
        let mut changed = Chunk::clone(chunk);
        let at = changed.position(&lower) + 1;
        changed
            .fences
            .insert(at.min(changed.fences.len()), Fence { lower, leaf });
        if changed.fences.len() > CHUNK_FENCES_MAX {
            let right = changed.fences.split_off(changed.fences.len() / 2);
            changed.fences.shrink_to_fit();
            *chunk = Arc::new(changed);
            fences
                .chunks
                .insert(position + 1, Arc::new(Chunk { fences: right }));
        } else {
            *chunk = Arc::new(changed);
        }
        fences
    }

    /// These fences without the leaf that begins at `lower`. The first leaf stays.
    pub(super) fn without(&self, lower: &[u8]) -> Self {
        let mut fences = self.clone();
        let position = fences.chunk_position(lower);
        let Some(chunk) = fences.chunks.get_mut(position) else {
            return fences;
        };
        let mut changed = Chunk::clone(chunk);
        let at = changed.position(lower);
        if lower.is_empty()
            || changed
                .fences
                .get(at)
                .is_none_or(|fence| fence.lower.as_ref() != lower)
        {
            return fences;
        }
        changed.fences.remove(at);
        if changed.fences.is_empty() {
            fences.chunks.remove(position);
        } else {
            *chunk = Arc::new(changed);
        }
        fences
    }

    fn chunk_position(&self, key: &[u8]) -> usize {
        self.chunks
            .partition_point(|chunk| chunk.lower() <= key)
            .saturating_sub(1)
    }

    #[cfg(test)]
    pub(super) fn leaves(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.fences.len()).sum()
    }
}
