//! The rules of contract 2.11: which membership follows from a change, or why it is refused.
//!
//! Pure: everything that is known of the members is given as a [`View`]. The leader judges, so what
//! is connected and caught up is what it sees.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keelson_proto::error::Error;
use keelson_proto::keelsonpb::member_change;

use crate::raft::types::{Membership, Node};

/// How long a quorum must have been connected before a member is added (contract 2.11).
pub const CONNECTED_MIN: Duration = Duration::from_secs(5);
/// Log entries that a pending voter may be behind when it becomes a voter: a moment's worth under
/// load. An entry holds a batch of commands.
const SETTLE_LAG_MAX: u64 = 128;

/// A change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new member with an id of its own.
    Add {
        /// Its id.
        id: u64,
        /// Where its peers reach it.
        peer_urls: Vec<String>,
        /// Whether it is to stay a learner until it is promoted.
        learner: bool,
    },
    /// A member leaves for ever.
    Remove(u64),
    /// A member is reached elsewhere.
    Update {
        /// The member.
        id: u64,
        /// Where its peers reach it from now on.
        peer_urls: Vec<String>,
    },
    /// A learner becomes a voter.
    Promote(u64),
    /// A member that was added as a voter becomes one, now that it has caught up.
    Settle(u64),
}

impl Change {
    /// A change that was asked for; `new_id` gives the id of a member that is added.
    pub fn requested(change: member_change::Change, new_id: impl FnOnce(&[String]) -> u64) -> Self {
        use member_change::Change as Requested;
        match change {
            Requested::Add(add) => Self::Add {
                id: new_id(&add.peer_urls),
                peer_urls: add.peer_urls,
                learner: add.is_learner,
            },
            Requested::Remove(id) => Self::Remove(id),
            Requested::Update(update) => Self::Update {
                id: update.id,
                peer_urls: update.peer_urls,
            },
            Requested::Promote(id) => Self::Promote(id),
        }
    }

    /// Whom it concerns.
    #[must_use]
    pub fn id(&self) -> u64 {
        match self {
            Self::Add { id, .. }
            | Self::Update { id, .. }
            | Self::Remove(id)
            | Self::Promote(id)
            | Self::Settle(id) => *id,
        }
    }
}

/// What is appended for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This membership; at most one voter differs.
    Append(Membership),
    /// The same members, one of them with these properties.
    Set(u64, Node),
}

/// Peer URLs of all members together. The whole membership is one entry of the log, sent again with
/// each change of any member, and stands in each checkpoint; members of sound clusters have some
/// hundred bytes each.
const URL_BYTES_MAX: usize = 1 << 20;

/// Why nothing is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The client is told.
    Refused(Error),
    /// It may be judged differently in a moment.
    Wait,
}

impl From<Error> for Verdict {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// The cluster as the leader sees it.
pub struct View<'a> {
    /// The effective membership.
    pub membership: &'a Membership,
    /// The leader.
    pub local: u64,
    /// Whether a member has published itself.
    pub started: &'a dyn Fn(u64) -> bool,
    /// Whether an id was removed for good.
    pub removed: &'a dyn Fn(u64) -> bool,
    /// How long another member has been reached without a longer silence; `None` if it is not.
    pub connected: &'a dyn Fn(u64) -> Option<Duration>,
    /// Index up to which a member's log is known to equal the leader's.
    pub matched: &'a dyn Fn(u64) -> u64,
    /// The leader's last log index.
    pub last: u64,
    /// Whether changes that could cost the quorum are refused.
    pub strict: bool,
    /// Learners there may be at a time.
    pub learners_max: usize,
}

impl View<'_> {
    /// What is appended for `change`.
    ///
    /// # Errors
    /// The errors of contract 2.11, in the order in which etcd finds them.
    pub fn judge(&self, change: &Change) -> Result<Step, Verdict> {
        match change {
            Change::Add {
                id,
                peer_urls,
                learner,
            } => self.add(*id, peer_urls, *learner),
            Change::Remove(id) => self.remove(*id),
            Change::Update { id, peer_urls } => self.update(*id, peer_urls).map_err(Into::into),
            Change::Promote(id) => self.promote(*id).map_err(Into::into),
            Change::Settle(id) => self.settle(*id),
        }
    }

    fn add(&self, id: u64, peer_urls: &[String], learner: bool) -> Result<Step, Verdict> {
        if self.strict {
            self.may_add(learner)?;
        }
        if (self.removed)(id) {
            // Removed a moment ago: the same URLs have another id with the next second. etcd says
            // that the member is not found.
            return Err(Verdict::Wait);
        }
        let mut nodes = self.nodes();
        if nodes.contains_key(&id) {
            return Err(Error::MemberExist.into());
        }
        self.check_urls(id, peer_urls)?;
        if learner && self.learners() >= self.learners_max {
            return Err(Error::TooManyLearners.into());
        }
        let node = Node {
            peer_urls: peer_urls.to_vec(),
            pending_voter: !learner,
        };
        nodes.insert(id, node);
        Ok(self.append(self.raft_voters(), nodes)?)
    }

    /// Adding anyone takes a quorum of the cluster as it would be that has been connected for a
    /// while, adding a voter one that has started. A lone member may always add.
    fn may_add(&self, learner: bool) -> Result<(), Error> {
        let voters = self.listed_voters();
        let quorum = quorum(voters.len() + 1);
        let started = voters.iter().filter(|id| (self.started)(**id)).count();
        let alone = voters.len() == 1;
        if !learner && started < quorum && !(alone && started == 1) {
            return Err(Error::MemberNotEnoughStarted);
        }
        let connected = self.count_connected(&voters, CONNECTED_MIN);
        if connected < quorum && !alone {
            return Err(Error::Unhealthy);
        }
        Ok(())
    }

    fn remove(&self, id: u64) -> Result<Step, Verdict> {
        let mut nodes = self.nodes();
        let mut voters = self.raft_voters();
        let mut left = self.listed_voters();
        let is_learner = nodes.contains_key(&id) && !left.contains(&id);
        if self.strict && !is_learner {
            self.may_remove(id)?;
        }
        if nodes.remove(&id).is_none() {
            return Err(Error::MemberNotFound.into());
        }
        voters.remove(&id);
        left.remove(&id);
        if left.is_empty() {
            return Err(Error::MemberNotEnoughStarted.into());
        }
        if voters.is_empty() {
            // Another one is about to become a voter.
            return Err(Verdict::Wait);
        }
        Ok(self.append(voters, nodes)?)
    }

    /// The voters left must have a quorum of started ones, and if the victim is up, a quorum of
    /// connected ones: one that is down is no part of the active quorum anyway.
    fn may_remove(&self, id: u64) -> Result<(), Error> {
        let voters = self.listed_voters();
        let left: BTreeSet<u64> = voters.iter().copied().filter(|one| *one != id).collect();
        let started = left.iter().filter(|id| (self.started)(**id)).count();
        if started < quorum(left.len()) {
            return Err(Error::MemberNotEnoughStarted);
        }
        if !self.is_connected(id, Duration::ZERO) {
            return Ok(());
        }
        // As etcd counts: the victim as one of those that are connected, member or not.
        let connected = self.count_connected(&voters, Duration::ZERO);
        if connected.saturating_sub(1) < 1 + voters.len().saturating_sub(1) / 2 {
            return Err(Error::Unhealthy);
        }
        Ok(())
    }

    fn update(&self, id: u64, peer_urls: &[String]) -> Result<Step, Error> {
        let node = self.membership.get_node(&id).ok_or(Error::MemberNotFound)?;
        self.check_urls(id, peer_urls)?;
        Ok(Step::Set(
            id,
            Node {
                peer_urls: peer_urls.to_vec(),
                pending_voter: node.pending_voter,
            },
        ))
    }

    fn promote(&self, id: u64) -> Result<Step, Error> {
        let nodes = self.nodes();
        if !nodes.contains_key(&id) {
            return Err(Error::MemberNotFound);
        }
        let matched = if id == self.local {
            self.last
        } else {
            (self.matched)(id)
        };
        if matched.saturating_mul(10) < self.last.saturating_mul(9) {
            return Err(Error::LearnerNotReady);
        }
        let listed = self.listed_voters();
        if self.strict {
            let started = 1 + listed.iter().filter(|id| (self.started)(**id)).count();
            if started < quorum(listed.len() + 1) {
                return Err(Error::MemberNotEnoughStarted);
            }
        }
        if listed.contains(&id) {
            return Err(Error::MemberNotLearner);
        }
        // It is about to publish itself; until then nobody would know it if it lost its data.
        if !(self.started)(id) {
            return Err(Error::LearnerNotReady);
        }
        let mut voters = self.raft_voters();
        voters.insert(id);
        self.append(voters, nodes)
    }

    fn settle(&self, id: u64) -> Result<Step, Verdict> {
        if !self.is_pending(id)
            || !(self.started)(id)
            || !self.is_connected(id, Duration::ZERO)
            || (self.matched)(id).saturating_add(SETTLE_LAG_MAX) < self.last
        {
            return Err(Verdict::Wait);
        }
        let mut voters = self.raft_voters();
        voters.insert(id);
        Ok(self.append(voters, self.nodes())?)
    }

    /// Members that were added as voters and are not yet.
    pub fn pending(&self) -> impl Iterator<Item = u64> {
        let nodes = self.membership.nodes();
        nodes.map(|(id, _)| *id).filter(|id| self.is_pending(*id))
    }

    fn is_pending(&self, id: u64) -> bool {
        let node = self.membership.get_node(&id);
        node.is_some_and(|node| node.pending_voter) && !self.raft_voters().contains(&id)
    }

    fn nodes(&self) -> BTreeMap<u64, Node> {
        let nodes = self.membership.nodes();
        nodes.map(|(id, node)| (*id, node.clone())).collect()
    }

    fn raft_voters(&self) -> BTreeSet<u64> {
        self.membership.voter_ids().collect()
    }

    /// Voters as clients see them: pending ones too.
    fn listed_voters(&self) -> BTreeSet<u64> {
        let voters = self.raft_voters();
        let nodes = self.membership.nodes();
        nodes
            .filter(|(id, node)| node.pending_voter || voters.contains(id))
            .map(|(id, _)| *id)
            .collect()
    }

    fn learners(&self) -> usize {
        self.membership.nodes().count() - self.listed_voters().len()
    }

    fn check_urls(&self, id: u64, peer_urls: &[String]) -> Result<(), Error> {
        let others = || self.membership.nodes().filter(|(other, _)| **other != id);
        let theirs = || others().flat_map(|(_, node)| &node.peer_urls);
        if theirs().any(|url| peer_urls.contains(url)) {
            return Err(Error::PeerURLExist);
        }
        if theirs().chain(peer_urls).map(String::len).sum::<usize>() > URL_BYTES_MAX {
            return Err(Error::RequestTooLarge);
        }
        Ok(())
    }

    fn is_connected(&self, id: u64, at_least: Duration) -> bool {
        id == self.local || (self.connected)(id).is_some_and(|since| since >= at_least)
    }

    fn count_connected(&self, members: &BTreeSet<u64>, at_least: Duration) -> usize {
        let connected = members
            .iter()
            .filter(|id| self.is_connected(**id, at_least));
        connected.count()
    }

    fn append(&self, voters: BTreeSet<u64>, nodes: BTreeMap<u64, Node>) -> Result<Step, Error> {
        // Only an empty set of voters, or a voter without a node, is refused; neither can be here.
        Membership::new(vec![voters], nodes)
            .map(Step::Append)
            .map_err(|_| Error::Unhealthy)
    }
}

fn quorum(members: usize) -> usize {
    members / 2 + 1
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
