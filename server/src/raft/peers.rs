//! The members as this one reaches them: addresses, connections, and when each was last heard.
//!
//! - Addresses are looked up by id at each connect: Raft's clients outlive membership changes
//!   (openraft-notes 4).
//! - One connection a peer and purpose: heartbeats and votes never queue behind log data.
//! - What "has a leader" needs is timed here, where messages arrive (openraft-notes 6).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use super::peer_stats::PeerStats;
use super::types::{Membership, StoredMembership};

/// How long a TCP connection to a peer may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// HTTP/2 window of a peer connection: several full append requests are under way at once.
const WINDOW_BYTES: u32 = 8 << 20;
/// A silent connection is probed after this time and given up after as long again.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The log stream and snapshots.
    Log,
    /// Heartbeats, votes, leader transfer.
    Control,
    /// Forwarded client requests.
    Forward,
}

/// Why a peer cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// No member has this id.
    #[error("no peer URL is known for member {0:x}")]
    Unknown(u64),
    /// The peer's URL cannot be dialled.
    #[error("peer URL {url} cannot be used: {reason}")]
    BadUrl {
        /// The URL.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The members of the cluster, seen from here.
#[derive(Debug)]
pub struct Peers {
    local_id: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    urls: HashMap<u64, Vec<String>>,
    /// With the URL each was made for, so that a changed URL is noticed.
    channels: HashMap<(u64, Purpose), (String, Channel)>,
    /// Next URL to try, for members that have several.
    attempts: HashMap<u64, usize>,
    heard: HashMap<u64, Heard>,
    stats: HashMap<u64, Arc<PeerStats>>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    first: Instant,
    last: Instant,
}

impl Peers {
    /// No peers yet; `set` fills them in.
    #[must_use]
    pub fn new(local_id: u64) -> Self {
        Self {
            local_id,
            inner: Mutex::default(),
        }
    }

    /// This member's id.
    #[must_use]
    pub fn local_id(&self) -> u64 {
        self.local_id
    }

    /// Takes over the addresses of a membership; connections of members that left are dropped.
    pub fn set(&self, membership: &Membership) {
        let mut inner = self.inner.lock();
        inner.urls = membership
            .nodes()
            .map(|(id, node)| (*id, node.peer_urls.clone()))
            .collect();
        let Inner {
            urls,
            channels,
            heard,
            stats,
            ..
        } = &mut *inner;
        channels.retain(|(id, _), _| urls.contains_key(id));
        heard.retain(|id, _| urls.contains_key(id));
        stats.retain(|id, _| urls.contains_key(id));
    }

    /// The other members' ids, ascending.
    #[must_use]
    pub fn others(&self) -> Vec<u64> {
        let inner = self.inner.lock();
        let others = inner.urls.keys().filter(|id| **id != self.local_id);
        let mut others: Vec<u64> = others.copied().collect();
        others.sort_unstable();
        others
    }

    /// As [`Peers::set`], from a stored membership.
    pub fn set_stored(&self, membership: &StoredMembership) {
        self.set(membership.membership());
    }

    /// A connection to a member. It comes up with the first call and again after a failure.
    ///
    /// # Errors
    /// When the member is unknown or its URL cannot be dialled.
    pub fn channel(&self, id: u64, purpose: Purpose) -> Result<Channel, PeerError> {
        let mut inner = self.inner.lock();
        let urls = inner.urls.get(&id).ok_or(PeerError::Unknown(id))?;
        let attempt = inner.attempts.get(&id).copied().unwrap_or(0);
        let url = urls
            .get(attempt.checked_rem(urls.len()).unwrap_or(0))
            .ok_or(PeerError::Unknown(id))?
            .clone();
        if let Some((known, channel)) = inner.channels.get(&(id, purpose))
            && *known == url
        {
            return Ok(channel.clone());
        }
        let channel = connect_lazily(&url)?;
        inner.channels.insert((id, purpose), (url, channel.clone()));
        Ok(channel)
    }

    /// The members, this one among them.
    #[must_use]
    pub fn ids(&self) -> Vec<u64> {
        self.inner.lock().urls.keys().copied().collect()
    }

    /// Whether somebody is a member.
    #[must_use]
    pub fn is_member(&self, id: u64) -> bool {
        self.inner.lock().urls.contains_key(&id)
    }

    /// The numbers of a peer. Those of somebody who is no member count nowhere.
    #[must_use]
    pub fn stats(&self, id: u64) -> Arc<PeerStats> {
        let mut inner = self.inner.lock();
        if !inner.urls.contains_key(&id) {
            return Arc::default();
        }
        Arc::clone(inner.stats.entry(id).or_default())
    }

    /// A call to a member failed to reach it: its next connection tries its next URL.
    pub fn unreachable(&self, id: u64) {
        let mut inner = self.inner.lock();
        if inner.urls.get(&id).is_some_and(|urls| urls.len() > 1) {
            let attempt = inner.attempts.entry(id).or_default();
            *attempt = attempt.wrapping_add(1);
        }
    }

    /// A valid message came from a member, or an answer to one of ours.
    pub fn heard(&self, id: u64, silence_max: Duration) {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        // Anybody can call himself anything: only members are remembered.
        if !inner.urls.contains_key(&id) {
            return;
        }
        let heard = inner.heard.entry(id).or_insert(Heard {
            first: now,
            last: now,
        });
        if now.duration_since(heard.last) > silence_max {
            heard.first = now;
        }
        heard.last = now;
    }

    /// Since when a member has been heard without a longer silence, if it is now.
    #[must_use]
    pub fn active_since(&self, id: u64, silence_max: Duration) -> Option<Instant> {
        let inner = self.inner.lock();
        let heard = inner.heard.get(&id)?;
        (heard.last.elapsed() <= silence_max).then_some(heard.first)
    }
}

fn connect_lazily(url: &str) -> Result<Channel, PeerError> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| PeerError::BadUrl {
        url: url.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .connect_lazy())
}
