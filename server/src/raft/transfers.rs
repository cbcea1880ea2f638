//! Checkpoints on their way to peers: what of the log they still need, and when one is given up.
//!
//! - A peer that receives a checkpoint needs the entries after it next. While it is under way, and
//!   for `CATCH_UP` after its installation, they are not purged: a peer that finds them gone needs
//!   another checkpoint, and never catches up (openraft-notes 3).
//! - A transfer whose bytes do not move is given up. A peer that hangs but answers keep-alives would
//!   otherwise hold the log for ever.
//!
//! Left to others: sending (`raft/snapshot.rs`), purging (`node/checkpoints.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// Bytes of a transfer must move within this time. Long: before it takes the first piece, the
/// receiver waits for the checkpoint or the rewrite it is writing itself.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// What the receiver gets at least to verify and install what it has received...
const INSTALL_TIMEOUT_MIN: Duration = Duration::from_secs(30);
/// ...and a second more for each so many bytes: a tenth of what a slow disk reads.
const INSTALL_BYTES_PER_SECOND: u64 = 16 << 20;
/// How long a peer that has installed a checkpoint may take to fetch what came after it.
const CATCH_UP: Duration = Duration::from_secs(5);

/// How long a transfer may stand still.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Between two pieces.
    pub progress: Duration,
    /// Between the last piece and the answer, beside the time that the bytes' number gives.
    pub install: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            progress: PROGRESS_TIMEOUT,
            install: INSTALL_TIMEOUT_MIN,
        }
    }
}

/// The transfers of this member.
#[derive(Debug, Default)]
pub struct Transfers {
    holds: Mutex<Holds>,
}

#[derive(Debug, Default)]
struct Holds {
    next: u64,
    by_transfer: HashMap<u64, Hold>,
}

/// Entries after `index` are needed; for ever, or until `until`.
#[derive(Clone, Copy, Debug)]
struct Hold {
    index: u64,
    until: Option<Instant>,
}

impl Transfers {
    /// Counts a transfer of a checkpoint at this log index until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>, index: u64) -> Transfer {
        let mut holds = self.holds.lock();
        let id = holds.next;
        holds.next += 1;
        let hold = Hold { index, until: None };
        holds.by_transfer.insert(id, hold);
        Transfer {
            transfers: Arc::clone(self),
            id,
            installed: false,
        }
    }

    /// The last index that may be purged; none if no transfer holds anything.
    #[must_use]
    pub fn purge_limit(&self) -> Option<u64> {
        let now = Instant::now();
        let mut holds = self.holds.lock();
        holds
            .by_transfer
            .retain(|_, hold| hold.until.is_none_or(|until| until > now));
        holds.by_transfer.values().map(|hold| hold.index).min()
    }
}

/// One transfer under way.
pub(super) struct Transfer {
    transfers: Arc<Transfers>,
    id: u64,
    installed: bool,
}

impl Transfer {
    /// The peer has installed it, and now fetches what came after it.
    pub(super) fn installed(mut self) {
        self.installed = true;
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let mut holds = self.transfers.holds.lock();
        if self.installed {
            if let Some(hold) = holds.by_transfer.get_mut(&self.id) {
                hold.until = Some(Instant::now() + CATCH_UP);
            }
        } else {
            holds.by_transfer.remove(&self.id);
        }
    }
}

/// When the pieces of one transfer last moved.
pub(super) struct Progress {
    patience: Patience,
    due: Mutex<Instant>,
    moved: Notify,
}

impl Progress {
    /// Of a transfer of so many bytes, from now.
    pub(super) fn new(mut patience: Patience, bytes: u64) -> Arc<Self> {
        patience.install += Duration::from_secs(bytes / INSTALL_BYTES_PER_SECOND);
        Arc::new(Self {
            due: Mutex::new(Instant::now() + patience.progress),
            patience,
            moved: Notify::new(),
        })
    }

    /// The pieces as the transport takes them: each is progress.
    pub(super) fn watch<T: Send + 'static>(
        self: &Arc<Self>,
        pieces: mpsc::Receiver<T>,
    ) -> impl Stream<Item = T> + Send + 'static {
        let state = (Arc::clone(self), pieces);
        futures::stream::unfold(state, |(progress, mut pieces)| async move {
            let piece = pieces.recv().await;
            let wait = match piece {
                Some(_) => progress.patience.progress,
                None => progress.patience.install,
            };
            *progress.due.lock() = Instant::now() + wait;
            progress.moved.notify_one();
            piece.map(|piece| (piece, (progress, pieces)))
        })
    }

    /// Ends when nothing has moved for too long.
    pub(super) async fn stalled(&self) {
        loop {
            let due = *self.due.lock();
            if due <= Instant::now() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = self.moved.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_transfer_limits_purging() {
        let transfers = Arc::new(Transfers::default());
        assert_eq!(transfers.purge_limit(), None);
        let (old, new) = (transfers.begin(10), transfers.begin(20));
        assert_eq!(transfers.purge_limit(), Some(10));
        drop(old);
        assert_eq!(transfers.purge_limit(), Some(20), "given up: holds nothing");
        new.installed();
        assert_eq!(transfers.purge_limit(), Some(20), "the peer catches up now");
        tokio::time::advance(CATCH_UP).await;
        assert_eq!(transfers.purge_limit(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_transfer_stalls_when_its_pieces_do() {
        use futures::StreamExt as _;
        let patience = Patience::default();
        let progress = Progress::new(patience, 0);
        let (sender, receiver) = mpsc::channel(4);
        for piece in 0..3 {
            sender.send(piece).await.unwrap();
        }
        drop(sender);
        let mut pieces = Box::pin(progress.watch(receiver));
        let almost = patience.progress - Duration::from_secs(1);
        while pieces.next().await.is_some() {
            let waited = tokio::time::timeout(almost, progress.stalled()).await;
            assert!(waited.is_err(), "given up while pieces move");
        }
        let began = Instant::now();
        progress.stalled().await;
        assert_eq!(began.elapsed(), patience.install);
    }
}
