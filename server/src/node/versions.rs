//! The cluster version and downgrades (contract 2.10, 4.3).
//!
//! The cluster version is the lowest that all members speak, decided by the leader. Every Keelson is
//! a 3.7, so it is 3.7 except while a downgrade is under way: then it is the target, 3.6, as an
//! operator's tools expect before they replace the programs. There is no 3.6 to replace them with, so
//! a downgrade ends by CANCEL, or by itself where the target is 3.7: one that came with a snapshot of
//! a later version. Nothing in a member depends on the cluster version: it serves
//! and stores the same during a downgrade.

use std::sync::Arc;
use std::time::Duration;

use keelson_proto::CLUSTER_VERSION;
use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::DowngradeInfo;
use keelson_proto::keelsonpb::{ClusterVersion, command::Request};

use super::Node;
use super::error::NodeError;

/// How often the leader decides the cluster version (contract 4.3).
const MONITOR_INTERVAL: Duration = Duration::from_secs(4);

/// Major and minor version.
type MajorMinor = (i64, i64);

impl Node {
    /// The downgrade under way, if any.
    #[must_use]
    pub fn downgrade_info(&self) -> DowngradeInfo {
        self.reader().members(|members| members.downgrade().clone())
    }

    /// Whether a downgrade to this version could begin; the cluster version as `major.minor`.
    ///
    /// # Errors
    /// WrongDowngradeVersionFormat, ClusterVersionUnavailable, InvalidDowngradeTargetVersion,
    /// DowngradeInProcess, in this order; LeaderChanged, Timeout.
    pub async fn downgrade_validate(&self, version: &str) -> Result<String, NodeError> {
        let target = parse(version)?;
        self.check_downgrade(target).await?;
        self.cluster_major_minor()
    }

    /// Begins a downgrade; the cluster version of before.
    ///
    /// # Errors
    /// As [`Node::downgrade_validate`] and [`Node::propose`].
    pub async fn downgrade_enable(&self, version: &str) -> Result<String, NodeError> {
        let target = parse(version)?;
        self.check_downgrade(target).await?;
        let before = self.cluster_major_minor()?;
        let (major, minor) = target;
        let info = DowngradeInfo {
            enabled: true,
            target_version: format!("{major}.{minor}.0"),
        };
        tracing::warn!(
            "target-version" = info.target_version,
            "downgrade enabled: the cluster version falls, the program stays"
        );
        self.propose(Request::Downgrade(info)).await?;
        Ok(before)
    }

    /// Ends a downgrade. One that is not under way is no error (contract 2.10).
    ///
    /// # Errors
    /// As [`Node::propose`], LeaderChanged, ClusterVersionUnavailable.
    pub async fn downgrade_cancel(&self) -> Result<String, NodeError> {
        self.linearize().await?;
        if self.downgrade_info().enabled {
            self.propose(Request::Downgrade(DowngradeInfo::default()))
                .await?;
        } else {
            tracing::warn!("no downgrade is under way: nothing to cancel");
        }
        self.cluster_major_minor()
    }

    async fn check_downgrade(&self, target: MajorMinor) -> Result<(), NodeError> {
        // Through any member: what it knows must not be old.
        self.linearize().await?;
        let version = self
            .cluster_version()
            .ok_or(Error::ClusterVersionUnavailable)?;
        let (major, minor) = parse(&version)?;
        if target != (major, minor - 1) {
            return Err(Error::InvalidDowngradeTargetVersion.into());
        }
        if self.downgrade_info().enabled {
            return Err(Error::DowngradeInProcess.into());
        }
        Ok(())
    }

    fn cluster_major_minor(&self) -> Result<String, NodeError> {
        let version = self
            .cluster_version()
            .ok_or(Error::ClusterVersionUnavailable)?;
        let (major, minor) = parse(&version)?;
        Ok(format!("{major}.{minor}"))
    }
}

/// Keeps the cluster version while this member leads: at once when it begins to, then now and then.
pub(super) async fn run(node: Arc<Node>) {
    let mut metrics = node.status().watch_metrics();
    let mut ticks = tokio::time::interval(MONITOR_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let check = node.config().downgrade_check_interval;
    let mut checks = tokio::time::interval(check.unwrap_or(MONITOR_INTERVAL));
    checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut led_before = false;
    loop {
        let is_due = tokio::select! {
            _ = checks.tick(), if check.is_some() => {
                if node.status().leader().is_local {
                    tokio::select! {
                        () = end_downgrade(&node) => {}
                        () = node.stopping.cancelled() => return,
                    }
                }
                continue;
            }
            changed = metrics.changed() => match changed {
                Ok(_) => false,
                Err(_) => return,
            },
            _ = ticks.tick() => true,
            () = node.stopping.cancelled() => return,
        };
        let leads = node.status().leader().is_local;
        let begins = leads && !led_before;
        led_before = leads;
        if begins || (leads && is_due) {
            tokio::select! {
                () = update(&node) => {}
                () = node.stopping.cancelled() => return,
            }
        }
    }
}

/// Ends a downgrade whose target all members run: each Keelson is of the one version.
async fn end_downgrade(node: &Node) {
    let downgrade = node.downgrade_info();
    if !downgrade.enabled || parse(&downgrade.target_version) != parse(CLUSTER_VERSION) {
        return;
    }
    tracing::info!(
        "cluster-version" = downgrade.target_version,
        "the cluster has been downgraded"
    );
    let ended = node.propose_unchecked(Request::Downgrade(DowngradeInfo::default()));
    if let Err(error) = ended.await {
        tracing::warn!(error = %error, "failed to cancel downgrade");
    }
}

async fn update(node: &Node) {
    let downgrade = node.downgrade_info();
    let wanted = if downgrade.enabled {
        downgrade.target_version
    } else {
        CLUSTER_VERSION.to_owned()
    };
    let before = node.cluster_version();
    if before.as_ref() == Some(&wanted) {
        return;
    }
    let version = ClusterVersion {
        version: wanted.clone(),
    };
    let set = node.propose_unchecked(Request::ClusterVersion(version));
    match (set.await, before) {
        (Ok(_), None) => {
            tracing::info!("cluster-version" = wanted, "set initial cluster version");
        }
        (Ok(_), Some(before)) => {
            tracing::info!(from = before, to = wanted, "updated cluster version")
        }
        (Err(error), _) => tracing::warn!(error = %error, "failed to set cluster version"),
    }
}

/// Reads a version as etcd does: `major.minor`, or a semantic version of which the rest is ignored.
fn parse(version: &str) -> Result<MajorMinor, Error> {
    semantic(version)
        .or_else(|| semantic(&format!("{version}.0")))
        .ok_or(Error::WrongDowngradeVersionFormat)
}

fn semantic(version: &str) -> Option<MajorMinor> {
    let (version, metadata) = version.split_once('+').unwrap_or((version, ""));
    let (version, pre_release) = version.split_once('-').unwrap_or((version, ""));
    let is_word = |part: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-~".contains(&byte);
        !part.is_empty() && part.bytes().all(is_allowed)
    };
    let is_identifier = |text: &str| text.is_empty() || text.split('.').all(is_word);
    if !is_identifier(metadata) || !is_identifier(pre_release) {
        return None;
    }
    let number = |part: &str| {
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.parse::<i64>().ok()).flatten()
    };
    let parts: Option<Vec<i64>> = version.split('.').map(number).collect();
    match parts?.as_slice() {
        [major, minor, _patch] => Some((*major, *minor)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_genuine_program_reads_them() {
        for text in [
            "3.6",
            "3.6.0",
            "3.6.1",
            "3.6.0-rc.1",
            "3.6.0+b",
            "3.06",
            "03.6",
            "3.6.01",
            "3.6.0-",
            "3.6.0+",
            "3.6.0-01",
            "3.6.0-rc.1+b.2",
        ] {
            assert_eq!(parse(text), Ok((3, 6)), "{text}");
        }
        for text in [
            "",
            "3",
            "3.6.",
            ".6",
            "3.6-rc.1",
            "v3.6",
            " 3.6",
            "3.6.0.0",
            "3.-6",
            "3.+6",
            "3.6.a",
            "99999999999999999999.6",
            "3.6.0-rc_1",
            "3.6.0-rc..1",
            "3.6.0-\u{e9}",
        ] {
            assert_eq!(
                parse(text),
                Err(Error::WrongDowngradeVersionFormat),
                "{text}"
            );
        }
    }
}
