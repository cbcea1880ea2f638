//! The applied index and those who wait for it.
//!
//! openraft wakes every waiter at each metrics change (openraft-notes 5); here a waiter is woken
//! once, when its index is reached.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The index of the last log entry whose effects readers can see.
#[derive(Debug, Default)]
pub struct AppliedIndex {
    index: AtomicU64,
    term: AtomicU64,
    waiters: Mutex<BinaryHeap<IndexWaiter>>,
}

#[derive(Debug)]
struct IndexWaiter {
    index: Reverse<u64>,
    sender: oneshot::Sender<()>,
}

impl PartialEq for IndexWaiter {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

impl Eq for IndexWaiter {}

impl PartialOrd for IndexWaiter {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for IndexWaiter {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.index.cmp(&other.index)
    }
}

impl AppliedIndex {
    /// The applied index.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index.load(Ordering::Acquire)
    }

    /// The term of the last applied entry.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// Entries up to `index` are applied and visible.
    pub fn advance(&self, term: u64, index: u64) {
        self.term.store(term, Ordering::Release);
        self.index.store(index, Ordering::Release);
        let mut waiters = self.waiters.lock();
        while waiters.peek().is_some_and(|waiter| waiter.index.0 <= index) {
            if let Some(waiter) = waiters.pop() {
                // A reader that has gone is not told.
                let _ = waiter.sender.send(());
            }
        }
    }

    /// Waits until `index` is applied.
    pub async fn wait(&self, index: u64) {
        if self.index() >= index {
            return;
        }
        let receiver = {
            let mut waiters = self.waiters.lock();
            // Again under the lock: `advance` stores before it locks.
            if self.index() >= index {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            waiters.push(IndexWaiter {
                index: Reverse(index),
                sender,
            });
            receiver
        };
        // The sender lives in the heap until it is used.
        drop(receiver.await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wakes_exactly_those_reached() {
        let applied = std::sync::Arc::new(AppliedIndex::default());
        let wait = |index| {
            let applied = std::sync::Arc::clone(&applied);
            tokio::spawn(async move { applied.wait(index).await })
        };
        let (five, seven) = (wait(5), wait(7));
        tokio::task::yield_now().await;
        applied.advance(1, 6);
        five.await.unwrap();
        tokio::task::yield_now().await;
        assert!(!seven.is_finished());
        applied.advance(1, 7);
        seven.await.unwrap();
    }
}
