//! Connections to all endpoints: each is dialled by a task of its own until it answers, calls go round
//! among those that are connected.
//!
//! Invariants:
//! - A slot has a channel, or one task that dials for it, or is lost with the client.
//! - A channel whose connection has failed is taken away by the call that saw it, once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

/// Pause after an endpoint refused a connection, doubled each time.
const REDIAL_FIRST: Duration = Duration::from_millis(50);
/// Longest such pause: a member that restarts is found soon.
const REDIAL_MAX: Duration = Duration::from_secs(1);

/// The connections of a client.
pub(crate) struct Balancer {
    slots: Vec<Slot>,
    next: AtomicUsize,
    /// Moves on whenever a slot gets a channel.
    connected: watch::Sender<()>,
}

struct Slot {
    name: String,
    endpoint: Endpoint,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    channel: Option<Channel>,
    /// Counts the channels that the slot has had.
    generation: u64,
    last_error: Option<String>,
}

/// A connected endpoint.
pub(crate) struct Picked {
    pub(crate) channel: Channel,
    slot: usize,
    generation: u64,
}

impl Balancer {
    /// Begins to dial; needs a tokio runtime.
    pub(crate) fn start(endpoints: Vec<(String, Endpoint)>) -> Arc<Self> {
        let slots = endpoints.into_iter().map(|(name, endpoint)| Slot {
            name,
            endpoint,
            state: Mutex::default(),
        });
        let balancer = Arc::new(Self {
            slots: slots.collect(),
            next: AtomicUsize::new(0),
            connected: watch::Sender::new(()),
        });
        for slot in 0..balancer.slots.len() {
            balancer.dial(slot);
        }
        balancer
    }

    /// Waits for a connected endpoint.
    pub(crate) async fn pick(&self) -> Picked {
        let mut connected = self.connected.subscribe();
        loop {
            if let Some(picked) = self.next_connected() {
                return picked;
            }
            if connected.changed().await.is_err() {
                // The sender lives in self.
                std::future::pending::<()>().await;
            }
        }
    }

    fn next_connected(&self) -> Option<Picked> {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.slots.len();
        (0..count).find_map(|step| {
            let index = start.wrapping_add(step).checked_rem(count)?;
            let state = self.slots.get(index)?.lock();
            Some(Picked {
                channel: state.channel.clone()?,
                slot: index,
                generation: state.generation,
            })
        })
    }

    /// Gives a channel up whose connection failed.
    pub(crate) fn failed(self: &Arc<Self>, picked: &Picked, reason: &str) {
        let Some(slot) = self.slots.get(picked.slot) else {
            return;
        };
        let mut state = slot.lock();
        if state.generation == picked.generation && state.channel.take().is_some() {
            state.last_error = Some(reason.to_owned());
            drop(state);
            self.dial(picked.slot);
        }
    }

    /// Why endpoints are not connected, if none is.
    pub(crate) fn no_connection(&self) -> Option<String> {
        let mut reasons = Vec::new();
        for slot in &self.slots {
            let state = slot.lock();
            if state.channel.is_some() {
                return None;
            }
            let reason = state.last_error.as_deref().unwrap_or("no answer");
            reasons.push(format!("{}: {reason}", slot.name));
        }
        Some(reasons.join("; "))
    }

    fn dial(self: &Arc<Self>, index: usize) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let endpoint = slot.endpoint.clone();
        let balancer = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut pause = REDIAL_FIRST;
            loop {
                let dialled = endpoint.connect().await;
                let Some(balancer) = balancer.upgrade() else {
                    return;
                };
                let Some(slot) = balancer.slots.get(index) else {
                    return;
                };
                match dialled {
                    Ok(channel) => {
                        let mut state = slot.lock();
                        state.channel = Some(channel);
                        state.generation += 1;
                        drop(state);
                        balancer.connected.send_replace(());
                        return;
                    }
                    Err(error) => slot.lock().last_error = Some(innermost(&error)),
                }
                drop(balancer);
                tokio::time::sleep(pause).await;
                pause = REDIAL_MAX.min(pause * 2);
            }
        });
    }
}

impl Slot {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic of another holder leaves nothing half done here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cause at the end of the chain: what the system said.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}
