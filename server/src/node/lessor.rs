//! How long leases have to live: the leader's half of the lease (design 8, store-notes 8,
//! contract 2.8).
//!
//! - Remaining times live only in the leader's memory. KeepAlive never enters the log.
//! - A new leader gives every lease its full TTL, or its last checkpoint, plus one election timeout;
//!   when there are many the expiries are spread.
//! - The heap holds one entry a lease. A renewal leaves it where it is: an entry that comes up too
//!   early is pushed again.
//! - Revoking goes through the log, and only after the leader has confirmed that it still leads
//!   (#15247): that is the caller's part (`expire`).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Leases that expire at one look (contract 2.8).
pub const EXPIRED_MAX: usize = 500;
/// From this many leases on a new leader spreads the expiries (contract 2.8).
const SPREAD_FROM: usize = 1000;
/// Expiries a second when they are spread.
const SPREAD_RATE: f64 = 750.0;
/// An expired lease whose revocation did not come through is tried again after this time.
const RETRY: Duration = Duration::from_secs(3);

/// A lease as the state knows it.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTerms {
    /// The lease.
    pub id: i64,
    /// Granted time to live in seconds.
    pub ttl: i64,
    /// Remaining seconds at the last checkpoint; 0 if there is none.
    pub remaining_ttl: i64,
}

/// Remaining times, if this member leads.
#[derive(Debug, Default)]
pub struct Lessor {
    inner: Mutex<Option<Primary>>,
    renewed: AtomicU64,
    expired: AtomicU64,
}

#[derive(Debug)]
struct Primary {
    leases: HashMap<i64, Timer>,
    heap: BinaryHeap<Reverse<(Instant, i64)>>,
}

#[derive(Clone, Copy, Debug)]
struct Timer {
    ttl: i64,
    expiry: Instant,
}

impl Lessor {
    /// This member leads from now on, with the leases that `leases` reads.
    ///
    /// They are read under the lock that `granted` and `revoked` take: what is applied meanwhile is
    /// either read, or noted afterwards, never lost.
    pub fn promote<T: IntoIterator<Item = LeaseTerms>>(
        &self,
        leases: impl FnOnce() -> T,
        extend: Duration,
    ) {
        let mut inner = self.inner.lock();
        let now = Instant::now();
        let mut timers: Vec<(i64, Timer)> = leases()
            .into_iter()
            .map(|lease| {
                let seconds = if lease.remaining_ttl > 0 {
                    lease.remaining_ttl
                } else {
                    lease.ttl
                };
                (
                    lease.id,
                    Timer {
                        ttl: lease.ttl,
                        expiry: after(now, seconds) + extend,
                    },
                )
            })
            .collect();
        if timers.len() >= SPREAD_FROM {
            spread(&mut timers);
        }
        let heap = timers
            .iter()
            .map(|(id, timer)| Reverse((timer.expiry, *id)))
            .collect();
        *inner = Some(Primary {
            leases: timers.into_iter().collect(),
            heap,
        });
    }

    /// This member no longer leads.
    pub fn demote(&self) {
        *self.inner.lock() = None;
    }

    /// Whether this member counts remaining times.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.inner.lock().is_some()
    }

    /// A lease was granted.
    pub fn granted(&self, id: i64, ttl: i64) {
        if let Some(primary) = &mut *self.inner.lock() {
            let expiry = after(Instant::now(), ttl);
            primary.leases.insert(id, Timer { ttl, expiry });
            primary.heap.push(Reverse((expiry, id)));
        }
    }

    /// A lease was revoked. Its heap entry goes when it comes up.
    pub fn revoked(&self, id: i64) {
        if let Some(primary) = &mut *self.inner.lock() {
            primary.leases.remove(&id);
        }
    }

    /// Renews a lease; gives its TTL. `None` if it is unknown, has expired, or this member does not
    /// lead.
    pub fn renew(&self, id: i64) -> Option<i64> {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let timer = inner.as_mut()?.leases.get_mut(&id)?;
        if timer.expiry <= now {
            return None;
        }
        timer.expiry = after(now, timer.ttl);
        self.renewed.fetch_add(1, Relaxed);
        Some(timer.ttl)
    }

    /// A lease that had expired is revoked.
    pub fn count_expired(&self) {
        self.expired.fetch_add(1, Relaxed);
    }

    /// Renewals and expired leases so far, as the leader.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.renewed.load(Relaxed), self.expired.load(Relaxed))
    }

    /// Whether the lease has expired and waits to be revoked.
    #[must_use]
    pub fn is_expired(&self, id: i64) -> bool {
        let inner = self.inner.lock();
        let timer = inner.as_ref().and_then(|primary| primary.leases.get(&id));
        timer.is_some_and(|timer| timer.expiry <= Instant::now())
    }

    /// Remaining seconds, rounded down, and the granted TTL.
    #[must_use]
    pub fn remaining(&self, id: i64) -> Option<(i64, i64)> {
        let inner = self.inner.lock();
        let timer = inner.as_ref()?.leases.get(&id)?;
        let left = timer.expiry.saturating_duration_since(Instant::now());
        Some((i64::try_from(left.as_secs()).unwrap_or(i64::MAX), timer.ttl))
    }

    /// Ids by expiry, soonest first; `None` if this member does not lead.
    #[must_use]
    pub fn by_expiry(&self) -> Option<Vec<i64>> {
        let inner = self.inner.lock();
        let primary = inner.as_ref()?;
        let mut leases: Vec<(Instant, i64)> = primary
            .leases
            .iter()
            .map(|(id, timer)| (timer.expiry, *id))
            .collect();
        drop(inner);
        leases.sort_unstable();
        Some(leases.into_iter().map(|(_, id)| id).collect())
    }

    /// Leases that have expired, at most [`EXPIRED_MAX`]. Each comes up again after a while, should
    /// its revocation fail.
    #[must_use]
    pub fn expired(&self) -> Vec<i64> {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let Some(Primary { leases, heap }) = &mut *inner else {
            return Vec::new();
        };
        let mut expired = Vec::new();
        while expired.len() < EXPIRED_MAX {
            let Some(&Reverse((due, id))) = heap.peek() else {
                break;
            };
            if due > now {
                break;
            }
            heap.pop();
            let Some(timer) = leases.get(&id) else {
                continue;
            };
            if timer.expiry > now {
                heap.push(Reverse((timer.expiry, id)));
            } else {
                heap.push(Reverse((now + RETRY, id)));
                expired.push(id);
            }
        }
        expired
    }
}

/// TTLs go up to 285 years, which an `Instant` may not hold (contract 2.8).
fn after(now: Instant, seconds: i64) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    let wanted = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    now.checked_add(wanted).unwrap_or(now + FAR)
}

/// Moves expiries apart so that at most [`SPREAD_RATE`] of them fall into a second. Only ever later.
fn spread(timers: &mut [(i64, Timer)]) {
    timers.sort_unstable_by_key(|(_, timer)| timer.expiry);
    let step = Duration::from_secs_f64(1.0 / SPREAD_RATE);
    let mut earliest: Option<Instant> = None;
    for (_, timer) in timers {
        let expiry = earliest.map_or(timer.expiry, |earliest| timer.expiry.max(earliest));
        timer.expiry = expiry;
        earliest = Some(expiry + step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(id: i64, ttl: i64, remaining_ttl: i64) -> LeaseTerms {
        LeaseTerms {
            id,
            ttl,
            remaining_ttl,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn expires_renews_and_retries() {
        let lessor = Lessor::default();
        lessor.promote(
            || [lease(1, 10, 0), lease(2, 10, 4)],
            Duration::from_secs(1),
        );
        assert_eq!(lessor.remaining(1), Some((11, 10)));
        assert_eq!(lessor.remaining(2), Some((5, 10)));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(lessor.expired(), [2]);
        assert_eq!(lessor.renew(2), None);
        assert!(lessor.is_expired(2));
        assert_eq!(lessor.renew(1), Some(10));
        assert_eq!(lessor.expired(), [] as [i64; 0]);
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(lessor.expired(), [2]);
        lessor.revoked(2);
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(lessor.expired(), [1]);
        lessor.demote();
        assert_eq!(lessor.renew(1), None);
        assert_eq!(lessor.by_expiry(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn many_expiries_are_spread() {
        let lessor = Lessor::default();
        lessor.promote(|| (0..3000).map(|id| lease(id, 5, 0)), Duration::ZERO);
        tokio::time::advance(Duration::from_millis(5050)).await;
        let first = lessor.expired().len();
        assert!((1..=60).contains(&first), "{first}");
        tokio::time::advance(Duration::from_secs(4)).await;
        let mut rest = 0;
        while let n @ 1.. = lessor.expired().len() {
            rest += n;
        }
        assert!(first + rest >= 3000);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_ttl_is_no_overflow() {
        let lessor = Lessor::default();
        lessor.promote(|| [], Duration::ZERO);
        lessor.granted(7, 9_000_000_000);
        assert!(
            lessor
                .remaining(7)
                .is_some_and(|(left, _)| left > 900_000_000)
        );
    }
}
