//! Who leads, and whether anybody does.
//!
//! openraft's cut-off leader never steps down by itself, and a cut-off follower shows its old leader
//! for ever (openraft-notes 6). So "has a leader" is decided here:
//!
//! - a leader has one (itself) while a quorum acknowledged something within the election timeout,
//!   its election for a start; a single voter always has;
//! - any other member has one while it heard a valid message from the leader of its committed vote
//!   within the election timeout. Messages are timed where they arrive, in the peer service.

use std::time::Duration;

use openraft::Instant as _;
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftMetrics;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::types::{TypeConfig, Vote};

/// Raft's metrics, as openraft publishes them.
#[derive(Clone)]
pub struct MetricsReceiver(WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>);

/// Raft has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("raft has stopped")]
pub struct RaftGone;

impl MetricsReceiver {
    /// Wraps openraft's receiver.
    #[must_use]
    pub fn new(receiver: WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>) -> Self {
        Self(receiver)
    }

    /// Looks at the newest metrics. They are locked meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&RaftMetrics<TypeConfig>) -> T) -> T {
        look(&self.0.borrow_watched())
    }

    /// Waits for a change that was not seen yet.
    ///
    /// # Errors
    /// When Raft has gone.
    pub async fn changed(&mut self) -> Result<(), RaftGone> {
        self.0.changed().await.map_err(|_| RaftGone)
    }

    /// Waits until the metrics are as wanted.
    ///
    /// # Errors
    /// When Raft has gone.
    pub async fn wait_for(
        &mut self,
        wanted: impl Fn(&RaftMetrics<TypeConfig>) -> bool,
    ) -> Result<(), RaftGone> {
        loop {
            if wanted(&self.0.borrow_and_update()) {
                return Ok(());
            }
            self.changed().await?;
        }
    }
}

/// The leader as this member sees it.
pub struct Leadership {
    member_id: u64,
    election_timeout: Duration,
    heard: Mutex<Heard>,
    /// The term of this member's last election that was not followed by an acknowledgement yet, and
    /// when it was noticed.
    elected: Mutex<Option<(u64, Instant)>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    term: u64,
    leader: u64,
    at: Option<Instant>,
}

/// What is known of the leader at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderView {
    /// The term.
    pub term: u64,
    /// The leader, if there is one that is alive.
    pub leader: Option<u64>,
    /// Whether this member is it.
    pub is_local: bool,
}

impl LeaderView {
    /// The leader, if it is another member. A view that still names this one is older than its
    /// end as the leader: what is asked of it now would only come back to this member.
    #[must_use]
    pub fn remote(&self) -> Option<u64> {
        self.leader.filter(|_| !self.is_local)
    }
}

impl Leadership {
    /// Nobody has been heard yet.
    #[must_use]
    pub fn new(member_id: u64, election_timeout: Duration) -> Self {
        Self {
            member_id,
            election_timeout,
            heard: Mutex::default(),
            elected: Mutex::default(),
        }
    }

    /// The election timeout.
    #[must_use]
    pub fn election_timeout(&self) -> Duration {
        self.election_timeout
    }

    /// A message of a leader arrived.
    pub fn heard_from_leader(&self, vote: &Vote) {
        if !vote.committed {
            return;
        }
        let mut heard = self.heard.lock();
        if vote.leader_id.term >= heard.term {
            *heard = Heard {
                term: vote.leader_id.term,
                leader: vote.leader_id.voted_for,
                at: Some(Instant::now()),
            };
        }
    }

    /// Whether a quorum elected this member within the election timeout.
    fn was_just_elected(&self, term: u64) -> bool {
        let mut elected = self.elected.lock();
        let at = match *elected {
            Some((known, at)) if known == term => at,
            _ => {
                let now = Instant::now();
                *elected = Some((term, now));
                now
            }
        };
        at.elapsed() < self.election_timeout
    }

    /// The leader now.
    #[must_use]
    pub fn view(&self, metrics: &RaftMetrics<TypeConfig>) -> LeaderView {
        let term = metrics.current_term;
        let none = LeaderView {
            term,
            leader: None,
            is_local: false,
        };
        if metrics.running_state.is_err() {
            return none;
        }
        if metrics.state.is_leader() {
            let voters = metrics.membership_config.voter_ids().count();
            let acknowledged = match &metrics.last_quorum_acked {
                Some(at) => at.elapsed() < self.election_timeout,
                None => self.was_just_elected(term),
            };
            return if voters <= 1 || acknowledged {
                LeaderView {
                    term,
                    leader: Some(self.member_id),
                    is_local: true,
                }
            } else {
                none
            };
        }
        if !metrics.vote.committed {
            return none;
        }
        let leader = metrics.vote.leader_id.voted_for;
        let heard = *self.heard.lock();
        let alive = heard.leader == leader
            && heard.term == term
            && heard
                .at
                .is_some_and(|at| at.elapsed() < self.election_timeout);
        if alive {
            LeaderView {
                term,
                leader: Some(leader),
                is_local: false,
            }
        } else {
            none
        }
    }
}
