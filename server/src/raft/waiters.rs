//! Who waits for the outcome of a command, and how they are answered.
//!
//! - A request of this member's own clients, proposed here: its channel travels in the [`Batch`],
//!   and apply answers it directly. One wake-up a request, none for the layers between.
//! - The same, proposed through the leader: the request waits in [`Forwarded`] by its id until the
//!   command is applied here.
//! - A request that another member forwarded: only the index goes back, its own apply answers.
//!
//! [`Batch`]: super::types::Batch

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keelson_proto::error::Error;
use keelson_proto::keelsonpb::{ForwardError, ForwardResult, forward_result};
use keelson_state::apply::Outcome;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tonic::Code;

/// What a proposal came to.
pub type Answer = Result<Outcome, ProposeError>;

/// A proposal that was not seen to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Certainly not appended: it may be proposed again, to the next leader.
    #[error("not proposed: {0}")]
    Definite(Error),
    /// It may have been applied, or be applied later.
    #[error("fate unknown: {0}")]
    Indefinite(Error),
}

/// What a proposal takes of the space quota until it is applied: from then on the store's size has it.
/// Cheap to clone; given back once, when it is released or its last copy goes.
#[derive(Clone, Debug)]
pub struct Reservation(Arc<Reserved>);

#[derive(Debug)]
struct Reserved {
    in_flight: Arc<AtomicU64>,
    cost: AtomicU64,
}

impl Reservation {
    /// Adds `cost` to what is in flight, and says what was before.
    #[must_use]
    pub fn new(in_flight: &Arc<AtomicU64>, cost: u64) -> (Self, u64) {
        let before = in_flight.fetch_add(cost, Ordering::Relaxed);
        let reserved = Reserved {
            in_flight: Arc::clone(in_flight),
            cost: AtomicU64::new(cost),
        };
        (Self(Arc::new(reserved)), before)
    }

    fn release(&self) {
        self.0.release();
    }
}

impl Reserved {
    fn release(&self) {
        let cost = self.cost.swap(0, Ordering::Relaxed);
        self.in_flight.fetch_sub(cost, Ordering::Relaxed);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.release();
    }
}

/// A waiting request of this member's clients.
pub struct LocalWaiter {
    sender: oneshot::Sender<Answer>,
    reservation: Option<Reservation>,
}

impl LocalWaiter {
    /// A request whose answer comes through the receiver, and what it takes of the quota.
    #[must_use]
    pub fn new(reservation: Option<Reservation>) -> (Self, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        (
            Self {
                sender,
                reservation,
            },
            receiver,
        )
    }

    /// Apply comes to the command now.
    pub fn applying(&self) {
        if let Some(reservation) = &self.reservation {
            reservation.release();
        }
    }

    /// Tells the outcome. A caller that has gone is not told.
    pub fn tell(self, answer: Answer) {
        drop(self.sender.send(answer));
    }
}

/// One waiting request.
pub enum Waiter {
    /// A request of this member's clients.
    Local(LocalWaiter),
    /// A request that another member forwarded to this one.
    Remote {
        /// Its id on the forwarding stream.
        id: u64,
        /// The stream's answers. As deep as the stream's requests in flight, so there is room.
        results: mpsc::Sender<ForwardResult>,
    },
}

impl Waiter {
    /// Whether nobody waits any more: a proposal still queued is then dropped. While there is no
    /// quorum the queue fills with requests that time out; applied minutes later they would undo
    /// what was written since.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Local(waiter) => waiter.sender.is_closed(),
            Self::Remote { results, .. } => results.is_closed(),
        }
    }

    /// Apply comes to the command now.
    pub fn applying(&self) {
        if let Self::Local(waiter) = self {
            waiter.applying();
        }
    }

    /// The command was applied at this index with this outcome.
    pub fn applied(self, index: u64, outcome: Outcome) {
        match self {
            Self::Local(waiter) => waiter.tell(Ok(outcome)),
            Self::Remote { id, results } => {
                let applied = keelson_proto::keelsonpb::Applied { index };
                send(&results, id, forward_result::Result::Applied(applied));
            }
        }
    }

    /// The command was not seen to be applied.
    pub fn failed(self, error: ProposeError) {
        match self {
            Self::Local(waiter) => waiter.tell(Err(error)),
            Self::Remote { id, results } => {
                send(&results, id, forward_result::Result::Error(to_proto(error)));
            }
        }
    }
}

fn send(results: &mpsc::Sender<ForwardResult>, id: u64, result: forward_result::Result) {
    // A peer that has gone, or that has more under way than it may, is not told.
    drop(results.try_send(ForwardResult {
        id,
        result: Some(result),
    }));
}

/// Encodes an error for the member that forwarded the request.
#[must_use]
pub fn to_proto(error: ProposeError) -> ForwardError {
    let (definite, error) = match error {
        ProposeError::Definite(error) => (true, error),
        ProposeError::Indefinite(error) => (false, error),
    };
    ForwardError {
        code: error.code() as i32,
        message: error.text().to_owned(),
        definite,
    }
}

/// Decodes the leader's error.
#[must_use]
pub fn from_proto(error: &ForwardError) -> ProposeError {
    let known = Error::from_text(&error.message).unwrap_or(match Code::from_i32(error.code) {
        Code::FailedPrecondition => Error::NotLeader,
        _ => Error::Timeout,
    });
    if error.definite {
        ProposeError::Definite(known)
    } else {
        ProposeError::Indefinite(known)
    }
}

/// Requests of this member's clients that went through the leader, by request id.
#[derive(Default)]
pub struct Forwarded {
    waiting: Mutex<HashMap<u64, LocalWaiter>>,
}

impl Forwarded {
    /// Waits for the command with this id.
    pub fn insert(&self, request_id: u64, waiter: LocalWaiter) {
        self.waiting.lock().insert(request_id, waiter);
    }

    /// Takes the request out, to answer it.
    #[must_use]
    pub fn take(&self, request_id: u64) -> Option<LocalWaiter> {
        self.waiting.lock().remove(&request_id)
    }

    /// Answers every waiting request; used when their outcomes can no longer be seen.
    pub fn fail_all(&self, error: ProposeError) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for waiter in waiting.into_values() {
            waiter.tell(Err(error));
        }
    }

    /// Whether nobody waits, without locking long.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_is_given_back_once() {
        let in_flight = Arc::new(AtomicU64::new(0));
        let (kept, _) = Reservation::new(&in_flight, 10);
        let (applied, _answer) = LocalWaiter::new(Some(kept.clone()));
        let (other, before) = Reservation::new(&in_flight, 5);
        assert_eq!(before, 10);
        let (lost, _answer) = LocalWaiter::new(Some(other));
        assert_eq!(in_flight.load(Ordering::Relaxed), 15);
        // Applied, although the request has not been answered yet.
        applied.applying();
        assert_eq!(in_flight.load(Ordering::Relaxed), 5);
        applied.applying();
        drop((kept, applied));
        assert_eq!(in_flight.load(Ordering::Relaxed), 5);
        lost.tell(Err(ProposeError::Definite(Error::NotLeader)));
        assert_eq!(in_flight.load(Ordering::Relaxed), 0);
    }
}
