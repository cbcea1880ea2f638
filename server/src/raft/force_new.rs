//! `--force-new-cluster`: this member becomes the only one of its cluster, with the data it has
//! (contract 4.1, openraft-notes 7). Done offline, before Raft starts.
//!
//! - What is known to be committed stays: up to the saved commit, and never below the checkpoint.
//!   What follows was not acknowledged as far as this member knows, and goes.
//! - A membership entry of this member alone is appended, in a term in which nobody else has
//!   written. When it is applied all others are recorded as removed, learners too.
//! - Each step is durable before the next, and all of them can be done again.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use keelson_state::store::Position;
use openraft::EntryPayload;
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, RaftLogReader as _, RaftLogStorage as _};
use openraft::type_config::TypeConfigExt as _;

use super::log_store::LogStore;
use super::snapshot::decode_membership;
use super::types::{Entry, LogId, Membership, Node, TypeConfig, Vote};

/// Makes `member_id` the only member, in the log.
///
/// # Errors
/// When the log or the checkpoint cannot be read or written, or does not know the member.
pub async fn force_new_cluster(
    log: &mut LogStore,
    position: &Position,
    member_id: u64,
) -> Result<()> {
    let applied = (!position.membership.is_empty())
        .then(|| LogId::new(position.applied_term.into(), position.applied_index));
    let saved = log.read_committed().await.context("cannot read the log")?;
    let Some(end) = saved.max(applied) else {
        bail!("--force-new-cluster: nothing was ever committed here");
    };
    let (last, _) = log.ends();
    if last.is_some_and(|last| last.index() > end.index()) {
        let discarded = last.map_or(0, |last| last.index() - end.index());
        tracing::info!(
            "commit-index" = end.index(),
            "entries" = discarded,
            "discarding uncommitted log entries"
        );
        log.truncate_after(Some(end)).await?;
    } else if last.is_none_or(|last| last.index() < end.index()) {
        // The checkpoint is ahead of the log, which then begins behind it.
        log.purge(end).await?;
    }
    let node = own_node(log, position, applied, end, member_id).await?;
    let mut reader = log.get_log_reader().await;
    let voted = reader
        .read_vote()
        .await?
        .map_or(0, |vote| vote.leader_id.term);
    let term = voted.max(**end.committed_leader_id()) + 1;
    log.save_vote(&Vote::new(term, member_id)).await?;
    let nodes = BTreeMap::from([(member_id, node)]);
    let alone = Membership::new(vec![BTreeSet::from([member_id])], nodes)?;
    let entry = Entry::new(
        LogId::new(term.into(), end.index() + 1),
        EntryPayload::Membership(alone),
    );
    let (sender, flushed) = TypeConfig::oneshot();
    log.append([entry], IOFlushed::<TypeConfig>::signal(sender))
        .await?;
    flushed.await.context("the log stopped")??;
    tracing::warn!(
        "local-member-id" = format!("{member_id:x}"),
        "commit-index" = end.index(),
        "forced a new cluster of this member alone"
    );
    Ok(())
}

/// What the membership says of this member, as of the end of the log that is kept.
async fn own_node(
    log: &mut LogStore,
    position: &Position,
    applied: Option<LogId>,
    end: LogId,
    member_id: u64,
) -> Result<Node> {
    let mut membership = if position.membership.is_empty() {
        None
    } else {
        let stored = decode_membership(&position.membership)?;
        Some(stored.membership().clone())
    };
    let first = applied.map_or(0, |applied| applied.index() + 1);
    let mut reader = log.get_log_reader().await;
    let mut entries = reader.entries_stream(first..=end.index()).await;
    while let Some(entry) = entries.next().await {
        if let EntryPayload::Membership(newer) = entry.context("cannot read the log")?.payload {
            membership = Some(newer);
        }
    }
    match membership
        .as_ref()
        .and_then(|known| known.get_node(&member_id))
    {
        Some(node) => Ok(node.clone()),
        None => bail!("{}", super::service::REMOVED),
    }
}
