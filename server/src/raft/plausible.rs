//! What no honest member sends: refused before Raft's core sees it (design R12).
//!
//! Raft's core trusts its peers. It stops at some impossible messages (a snapshot beyond its leader's
//! term), counts past the end of numbers at others (a term of 2^64 − 1), and takes some as true (a
//! vote that names the receiver as the elected leader). Here every message is held against itself
//! and against what this member knows for certain; what fails is refused and logged.
//!
//! - Whoever asks for a vote or leads does so in its own name.
//! - No log id is of a later term than the vote that it comes with.
//! - What is committed here stays: its index has no other term, and what follows none before it.
//! - Terms and indexes stay far from the end of their numbers.
//! - An answer is about what was asked.
//! - A commit counts as far as the message shows that this member's log is its leader's.
//!
//! This does not make the cluster safe from a member that lies plausibly: Raft is not Byzantine. It
//! keeps the others running and what they have committed.

use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::{AppendEntriesRequest, VoteRequest};

use super::service::Raft;
use super::types::{Entry, LogId, SnapshotMeta, TypeConfig, Vote};

/// No honest log or election gets here within the life of a cluster.
const NUMBER_MAX: u64 = 1 << 62;
/// How far a term may be ahead of this member's above that: one election a microsecond for an hour.
/// So one lie cannot use up the terms, and the cluster goes on after the largest that is believed.
const TERM_LEAP_MAX: u64 = 1 << 32;

const SNAPSHOT: &str = "snapshot";

/// Why a message cannot come from an honest member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Implausible {
    /// It speaks for somebody else.
    #[error("the vote names member {named:x}, but comes from {from:x}")]
    ForeignVote {
        /// Whom the vote names.
        named: u64,
        /// Who sent it.
        from: u64,
    },
    /// A candidate's vote says that it was elected, or a leader's that it was not.
    #[error("the vote of term {term} is of the wrong kind")]
    WrongKind {
        /// Its term.
        term: u64,
    },
    /// A number that no honest member has reached.
    #[error("{what} {number} is out of reach")]
    OutOfReach {
        /// Which number.
        what: &'static str,
        /// Its value.
        number: u64,
    },
    /// A log id of a term that has not begun.
    #[error("{what} {log_id} is beyond the vote's term {term}")]
    BeyondVote {
        /// Which log id.
        what: &'static str,
        /// The log id.
        log_id: LogId,
        /// The vote's term.
        term: u64,
    },
    /// Entries whose indexes have gaps, or whose terms fall.
    #[error("log entries are not consecutive")]
    NotConsecutive,
    /// A log without what is committed here.
    #[error("{what} {log_id} contradicts {committed}, which is committed")]
    ContradictsCommitted {
        /// Which log id.
        what: &'static str,
        /// The log id.
        log_id: LogId,
        /// The newest that is committed here.
        committed: LogId,
    },
    /// An answer to nothing.
    #[error("an answer to nothing that was asked")]
    Unasked,
    /// A member that has lost what it had acknowledged: its log or its disk is damaged.
    #[error("it lacks {conflict}, but has acknowledged entries up to {matched}")]
    Lost {
        /// What it says that it lacks.
        conflict: LogId,
        /// What it has acknowledged.
        matched: LogId,
    },
    /// An answer with more than was asked, or about something else.
    #[error("the answer is about {answered:?}, asked was {asked:?}")]
    NotAsked {
        /// What it is about.
        answered: Option<LogId>,
        /// What was asked.
        asked: Option<LogId>,
    },
}

/// What this member knows for certain.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// Its term.
    pub term: u64,
    /// The newest log id that it knows to be committed.
    pub committed: Option<LogId>,
    /// The last index of its log.
    pub last_index: Option<u64>,
}

impl Known {
    /// What Raft says now.
    #[must_use]
    pub fn of(raft: &Raft) -> Self {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        Self {
            term: metrics.current_term.max(metrics.vote.leader_id.term),
            committed: metrics.local_committed,
            last_index: metrics.last_log_index,
        }
    }

    /// A request for a vote.
    ///
    /// # Errors
    /// When no honest candidate would send it.
    pub fn check_vote_request(
        &self,
        from: u64,
        request: &VoteRequest<TypeConfig>,
    ) -> Result<(), Implausible> {
        self.check_speaker(from, &request.vote, false)?;
        check_log_id("last log id", request.last_log_id.as_ref(), &request.vote)
    }

    /// Log entries, or a heartbeat.
    ///
    /// # Errors
    /// When no honest leader would send it.
    pub fn check_append(
        &self,
        from: u64,
        request: &AppendEntriesRequest<TypeConfig>,
    ) -> Result<(), Implausible> {
        let vote = &request.vote;
        self.check_speaker(from, vote, true)?;
        let (prev, commit) = (request.prev_log_id.as_ref(), request.leader_commit.as_ref());
        check_log_id("previous log id", prev, vote)?;
        check_log_id("commit", commit, vote)?;
        check_consecutive(prev, &request.entries)?;
        let last = request.entries.last().map(|entry| &entry.log_id);
        check_log_id("entry", last, vote)?;
        self.check_committed("commit", commit)?;
        // A leader of an earlier term may still hold what others have replaced since. Raft tells it
        // of the later term before it looks at any log.
        if vote.leader_id.term < self.term {
            return Ok(());
        }
        self.check_committed("previous log id", prev)?;
        for entry in &request.entries {
            self.check_committed("entry", Some(&entry.log_id))?;
        }
        Ok(())
    }

    /// Keeps of the leader's commit what its message speaks of: up to its last entry, or else the
    /// one before it. What lies beyond was not compared with this member's log. Raft's core would
    /// remember it, and take it for its own as soon as any later leader sends an entry.
    ///
    /// `reached` is the last index that earlier messages of the same stream, which Raft may not have
    /// handled yet, have led to; and then this one.
    pub fn bound_commit(
        &self,
        request: &mut AppendEntriesRequest<TypeConfig>,
        reached: &mut Option<u64>,
    ) {
        let index = |log_id: Option<LogId>| log_id.map(|id| id.index());
        if index(request.prev_log_id) > self.last_index.max(*reached) {
            // The log has a gap before it: there will be a conflict.
            request.leader_commit = None;
            return;
        }
        let last = request.entries.last().map(|entry| entry.log_id);
        let last = last.or(request.prev_log_id);
        *reached = index(last);
        if index(request.leader_commit) > index(last) {
            request.leader_commit = last;
        }
    }

    /// A snapshot's position and membership.
    ///
    /// # Errors
    /// When no honest leader would send it.
    pub fn check_snapshot(
        &self,
        from: u64,
        vote: &Vote,
        meta: &SnapshotMeta,
    ) -> Result<(), Implausible> {
        self.check_leader(from, vote, SNAPSHOT, meta.last_log_id.as_ref())?;
        let membership = *meta.last_membership.log_id();
        if !is_within(membership, meta.last_log_id) {
            return Err(Implausible::NotAsked {
                answered: membership,
                asked: meta.last_log_id,
            });
        }
        Ok(())
    }

    /// A leader's vote with the log id that goes along: of a snapshot or of a handover.
    ///
    /// # Errors
    /// When no honest leader would send it.
    pub fn check_leader(
        &self,
        from: u64,
        vote: &Vote,
        what: &'static str,
        log_id: Option<&LogId>,
    ) -> Result<(), Implausible> {
        self.check_speaker(from, vote, true)?;
        check_log_id(what, log_id, vote)?;
        self.check_committed(what, log_id)
    }

    /// Of a peer's answer to this member's own vote: that is all that counts there.
    #[must_use]
    pub fn of_vote(vote: &Vote) -> Self {
        Self {
            term: vote.leader_id.term,
            ..Self::default()
        }
    }

    /// The vote in the answer of peer `from` to `asked`, which is this member's own.
    ///
    /// Two answers show that the peer was lied to, or lies: a vote for this member in a term that it
    /// never stood in, and another leader of the term that it leads itself. Raft's core would take
    /// the first as an election, and the second as nothing, for ever. What counts of them is that
    /// there must be a later term: without it the two would never agree again.
    ///
    /// # Errors
    /// When no honest member would answer so.
    pub fn answered_vote(
        &self,
        from: u64,
        asked: &Vote,
        answered: Vote,
    ) -> Result<Vote, Implausible> {
        let (term, named) = (answered.leader_id.term, answered.leader_id.voted_for);
        self.check_term(term)?;
        let is_own = named == asked.leader_id.voted_for;
        let later_term = match term.cmp(&asked.leader_id.term) {
            std::cmp::Ordering::Greater if is_own => term,
            std::cmp::Ordering::Equal if !is_own && answered.committed && asked.committed => {
                term + 1
            }
            _ => return Ok(answered),
        };
        // This member has not voted in that term: its vote goes to the peer.
        let mut later = answered;
        later.leader_id.term = later_term;
        later.leader_id.voted_for = from;
        later.committed = false;
        Ok(later)
    }

    fn check_speaker(&self, from: u64, vote: &Vote, elected: bool) -> Result<(), Implausible> {
        let named = vote.leader_id.voted_for;
        if named != from {
            return Err(Implausible::ForeignVote { named, from });
        }
        let term = vote.leader_id.term;
        if vote.committed != elected {
            return Err(Implausible::WrongKind { term });
        }
        self.check_term(term)
    }

    fn check_term(&self, number: u64) -> Result<(), Implausible> {
        if number > NUMBER_MAX.max(self.term.saturating_add(TERM_LEAP_MAX)) {
            return Err(Implausible::OutOfReach {
                what: "term",
                number,
            });
        }
        Ok(())
    }

    fn check_committed(
        &self,
        what: &'static str,
        log_id: Option<&LogId>,
    ) -> Result<(), Implausible> {
        let (Some(committed), Some(log_id)) = (self.committed, log_id) else {
            return Ok(());
        };
        let is_sound = match log_id.index().cmp(&committed.index()) {
            std::cmp::Ordering::Less => term(log_id) <= term(&committed),
            std::cmp::Ordering::Equal => *log_id == committed,
            std::cmp::Ordering::Greater => term(log_id) >= term(&committed),
        };
        if is_sound {
            return Ok(());
        }
        Err(Implausible::ContradictsCommitted {
            what,
            log_id: *log_id,
            committed,
        })
    }
}

/// What a peer says that it has, after it was sent the entries behind `prev` up to `last`: Raft's
/// core takes it for granted that it is between the two.
///
/// # Errors
/// When it says that it has something else.
pub fn check_matching(
    prev: Option<LogId>,
    last: Option<LogId>,
    answered: Option<LogId>,
) -> Result<(), Implausible> {
    if prev <= answered && is_within(answered, last) {
        return Ok(());
    }
    Err(Implausible::NotAsked {
        answered,
        asked: last,
    })
}

/// Neither later nor further.
fn is_within(log_id: Option<LogId>, last: Option<LogId>) -> bool {
    log_id <= last && log_id.map(|id| id.index()) <= last.map(|id| id.index())
}

/// What a peer says that it lacks, after it was sent entries behind `asked`, and having acknowledged
/// those up to `matched`.
///
/// # Errors
/// When it was not asked for that, or has lost entries: Raft would ask it again and again, without a
/// pause (openraft-notes 7).
pub fn check_conflict(
    asked: Option<LogId>,
    matched: Option<LogId>,
    conflict: LogId,
) -> Result<(), Implausible> {
    if asked.is_none_or(|asked| conflict.index() > asked.index()) {
        return Err(Implausible::NotAsked {
            answered: Some(conflict),
            asked,
        });
    }
    match matched.filter(|matched| conflict.index() <= matched.index()) {
        Some(matched) => Err(Implausible::Lost { conflict, matched }),
        None => Ok(()),
    }
}

fn term(log_id: &LogId) -> u64 {
    **log_id.committed_leader_id()
}

fn check_log_id(
    what: &'static str,
    log_id: Option<&LogId>,
    vote: &Vote,
) -> Result<(), Implausible> {
    let Some(log_id) = log_id else {
        return Ok(());
    };
    if log_id.index() > NUMBER_MAX {
        return Err(Implausible::OutOfReach {
            what: "index",
            number: log_id.index(),
        });
    }
    if term(log_id) > vote.leader_id.term {
        return Err(Implausible::BeyondVote {
            what,
            log_id: *log_id,
            term: vote.leader_id.term,
        });
    }
    Ok(())
}

/// Entries follow each other, and their terms never fall: Raft's core trusts both (contract 10.5).
fn check_consecutive(prev: Option<&LogId>, entries: &[Entry]) -> Result<(), Implausible> {
    let mut index = prev.map_or(Some(0), |prev| prev.index().checked_add(1));
    let mut newest = prev.map_or(0, term);
    for entry in entries {
        let follows = index == Some(entry.log_id.index()) && term(&entry.log_id) >= newest;
        if !follows {
            return Err(Implausible::NotConsecutive);
        }
        index = entry.log_id.index().checked_add(1);
        newest = term(&entry.log_id);
    }
    Ok(())
}

#[cfg(test)]
#[path = "plausible_tests.rs"]
mod tests;
