//! Changing the membership (contract 2.11, design R10).
//!
//! ```text
//! add → raft learner, marked pending ──started, caught up──▶ raft voter        (listed as a voter)
//! add --learner → raft learner ──MemberPromote, caught up──▶ raft voter       (listed as a learner)
//! ```
//!
//! | file | what |
//! |---|---|
//! | [`rules`] | what a change does and why it is refused; pure |
//! | [`change`] | getting it into the log, through the leader; settling pending voters |
//! | [`join`] | the start of a member that was added |
//! | [`discovery`] | finding the members of a bootstrap in another cluster |
//! | [`srv`] | finding them in DNS |
//! | [`hello`] | who is reachable, who was removed, and when a bootstrap may begin |
//!
//! - A voter that was added counts for the quorum only once it has started and caught up: adding a
//!   member that is not running costs nothing.
//! - A raft voter has published itself, unless it stood in the bootstrap: so a member that lost its
//!   data is always known (`join`, `hello`).
//! - What stands in the log is raft's membership alone. Removed ids follow from it as it is applied.

pub mod change;
pub mod discovery;
pub mod hello;
pub mod join;
pub mod rules;
pub mod srv;
