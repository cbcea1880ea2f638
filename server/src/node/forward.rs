//! What a follower asks of the leader on behalf of its clients, over one stream a leader.
//!
//! - Many requests share a message and a stream; answers come in any order, by id.
//! - A proposal's outcome is not sent back: the follower's own apply answers its client. What comes
//!   back for it is an error, or the index.
//! - When the stream breaks, every request on it is told at once. Clients of a leader that died do
//!   not wait out the request timeout (contract 9).
//! - A leader that has handed over is still there: for a moment its stream may say which proposals
//!   and changes of the membership were applied, and which it never took. One that is to be removed
//!   hands over first, and leaves the change to the next one.
//! - A stream that was given up sends nothing any more: what its requests were told would be wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use keelson_proto::error::Error;
use keelson_proto::keelsonpb::{
    self, ForwardItem, ForwardRequest, forward_item, forward_result, leader_client::LeaderClient,
    member_change,
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::metrics::Counter;
use crate::raft::network::Network;
use crate::raft::peers::{Peers, Purpose};
use crate::raft::waiters::{Forwarded, ProposeError, from_proto, to_proto};

/// Requests that wait to be sent. Above it they wait for room.
const QUEUE_MAX: usize = 16 * 1024;
/// Requests in one message.
const ITEMS_MAX: usize = 1024;
/// Bytes of proposals in one message, unless a single one is larger.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// How long proposals may wait for a leader that leads no more: it answers at once if it lives, and
/// if it has died the stream breaks by itself. Only one that hangs takes as long as this.
const SETTLE_TIME: Duration = Duration::from_millis(500);
/// Messages that are encoded and not yet taken by the transport.
const MESSAGES_MAX: usize = 4;

/// Why a request to the leader failed.
#[derive(Debug)]
pub enum ForwardError {
    /// The leader refused it.
    Refused(keelsonpb::ForwardError),
    /// The stream to the leader broke.
    Lost,
}

/// Sends requests to the leader. Cheap to clone.
#[derive(Clone)]
pub struct Forwarder {
    inner: Arc<Inner>,
}

struct Inner {
    network: Network,
    peers: Arc<Peers>,
    forwarded: Arc<Forwarded>,
    next_id: AtomicU64,
    stream: Mutex<Option<Stream>>,
}

/// The stream to one leader.
#[derive(Clone)]
struct Stream {
    leader: u64,
    items: mpsc::Sender<ForwardItem>,
    pending: Arc<Mutex<Option<Pending>>>,
    /// Ends the stream's task.
    given_up: CancellationToken,
}

impl Stream {
    fn new(leader: u64, items: mpsc::Sender<ForwardItem>) -> Self {
        Self {
            leader,
            items,
            pending: Arc::new(Mutex::new(Some(Pending::default()))),
            given_up: CancellationToken::new(),
        }
    }

    /// From here on requests may be sent. Not if the stream was given up before: its requests were
    /// told that nothing was sent, and may have gone another way.
    fn open(&self) -> bool {
        match self.pending.lock().as_mut() {
            Some(pending) => {
                pending.open = true;
                true
            }
            None => false,
        }
    }
}

impl Stream {
    /// Whether nothing that was sent waits for its answer.
    fn is_settled(&self) -> bool {
        let pending = self.pending.lock();
        pending
            .as_ref()
            .is_none_or(|pending| !pending.open || pending.requests.is_empty())
    }
}

/// Requests on a stream that are not answered; gone once the stream has broken.
#[derive(Default)]
struct Pending {
    requests: HashMap<u64, Request>,
    /// Requests may have been sent.
    open: bool,
}

enum Request {
    /// A proposal, by its request id: apply answers it.
    Propose(u64),
    /// What the leader answers itself, and another leader may as well be asked.
    Ask(Answer),
    /// A change of the membership, which the leader answers too, but which may have been made.
    Change(Answer),
}

type Answer = oneshot::Sender<Result<forward_result::Result, ForwardError>>;

impl Forwarder {
    /// Sends to the leaders reached through `peers`; outcomes of proposals go to `forwarded`.
    #[must_use]
    pub fn new(network: Network, peers: Arc<Peers>, forwarded: Arc<Forwarded>) -> Self {
        let inner = Inner {
            network,
            peers,
            forwarded,
            next_id: AtomicU64::new(1),
            stream: Mutex::new(None),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Forwards an encoded command. Its outcome, or its failure, goes to the waiter that stands in
    /// [`Forwarded`] under `request_id`.
    pub async fn propose(&self, leader: u64, request_id: u64, command: bytes::Bytes) {
        let request = forward_item::Request::Propose(command);
        if self
            .send(leader, request, Request::Propose(request_id))
            .await
            .is_err()
        {
            // Nothing was sent.
            self.inner
                .fail_proposal(request_id, ProposeError::Definite(Error::NotLeader));
        }
    }

    /// Asks for an index that every write acknowledged so far is at or below.
    ///
    /// # Errors
    /// When the leader refuses or is lost.
    pub async fn read_index(&self, leader: u64) -> Result<forward_result::Result, ForwardError> {
        self.ask(
            leader,
            forward_item::Request::ReadIndex(keelsonpb::ReadIndex {}),
        )
        .await
    }

    /// Renews a lease on the leader.
    ///
    /// # Errors
    /// When the leader refuses or is lost.
    pub async fn lease_renew(
        &self,
        leader: u64,
        id: i64,
    ) -> Result<forward_result::Result, ForwardError> {
        self.ask(leader, forward_item::Request::LeaseRenew(id))
            .await
    }

    /// Asks the leader for a lease's remaining time.
    ///
    /// # Errors
    /// When the leader refuses or is lost.
    pub async fn lease_time_to_live(
        &self,
        leader: u64,
        id: i64,
    ) -> Result<forward_result::Result, ForwardError> {
        self.ask(leader, forward_item::Request::LeaseTimeToLive(id))
            .await
    }

    /// Asks the leader for a change of the membership.
    ///
    /// # Errors
    /// When the leader refuses or is lost.
    pub async fn member_change(
        &self,
        leader: u64,
        change: member_change::Change,
    ) -> Result<forward_result::Result, ForwardError> {
        let change = keelsonpb::MemberChange {
            change: Some(change),
        };
        let request = forward_item::Request::MemberChange(change);
        self.answered(leader, request, Request::Change).await
    }

    /// The stream to a leader that leads no more takes nothing new. Its proposals and changes have a
    /// moment to be settled, all else that waits is told at once.
    pub fn leader_changed(&self, leader: Option<u64>) {
        let gone = {
            let mut current = self.inner.stream.lock();
            current.take_if(|stream| Some(stream.leader) != leader)
        };
        if let Some(stream) = gone {
            self.inner.retire(stream);
        }
    }

    async fn ask(
        &self,
        leader: u64,
        request: forward_item::Request,
    ) -> Result<forward_result::Result, ForwardError> {
        self.answered(leader, request, Request::Ask).await
    }

    async fn answered(
        &self,
        leader: u64,
        request: forward_item::Request,
        kind: fn(Answer) -> Request,
    ) -> Result<forward_result::Result, ForwardError> {
        let (sender, receiver) = oneshot::channel();
        self.send(leader, request, kind(sender)).await?;
        receiver.await.unwrap_or(Err(ForwardError::Lost))
    }

    async fn send(
        &self,
        leader: u64,
        request: forward_item::Request,
        waiting: Request,
    ) -> Result<(), ForwardError> {
        let stream = self.stream(leader);
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        match stream.pending.lock().as_mut() {
            Some(pending) => pending.requests.insert(id, waiting),
            None => return Err(ForwardError::Lost),
        };
        let item = ForwardItem {
            id,
            request: Some(request),
        };
        if stream.items.send(item).await.is_err() {
            // If the entry is still there nobody else has answered it.
            return match stream
                .pending
                .lock()
                .as_mut()
                .and_then(|pending| pending.requests.remove(&id))
            {
                Some(_) => Err(ForwardError::Lost),
                None => Ok(()),
            };
        }
        Ok(())
    }

    fn stream(&self, leader: u64) -> Stream {
        let mut current = self.inner.stream.lock();
        if let Some(stream) = &*current
            && stream.leader == leader
            && !stream.items.is_closed()
        {
            return stream.clone();
        }
        let (items, receiver) = mpsc::channel(QUEUE_MAX);
        let stream = Stream::new(leader, items);
        let replaced = current.replace(stream.clone());
        drop(current);
        if let Some(replaced) = replaced {
            self.inner.retire(replaced);
        }
        tokio::spawn(run_stream(
            Arc::clone(&self.inner),
            stream.clone(),
            receiver,
        ));
        stream
    }
}

/// One stream's life: requests out, answers in, and at the end everything pending is told.
async fn run_stream(inner: Arc<Inner>, stream: Stream, items: mpsc::Receiver<ForwardItem>) {
    tokio::select! {
        ended = exchange(&inner, &stream, items) => if let Err(error) = ended {
            let leader = format!("{:x}", stream.leader);
            tracing::debug!(leader, error = %error, "stream to the leader ended");
        },
        // A leader that hangs would keep the task for ever, and get what still waits to be sent
        // once it goes on.
        () = stream.given_up.cancelled() => {}
    }
    inner.give_up(&stream);
}

async fn exchange(
    inner: &Inner,
    stream: &Stream,
    items: mpsc::Receiver<ForwardItem>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let channel = inner.peers.channel(stream.leader, Purpose::Forward)?;
    let limit = crate::raft::network::MESSAGE_BYTES_MAX;
    let mut client = LeaderClient::new(channel)
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit);
    let (messages, outbound) = mpsc::channel(MESSAGES_MAX);
    let request = inner
        .network
        .request(stream.leader, ReceiverStream::new(outbound));
    let mut inbound = client.forward(request).await?.into_inner();
    if !stream.open() {
        return Ok(());
    }
    let stats = inner.network.stats(stream.leader);
    let packing = pack(items, messages, &stats.sent_bytes);
    let receiving = async {
        while let Some(message) = inbound.next().await {
            let message = message?;
            stats.received_bytes.add(message.encoded_len() as u64);
            for result in message.items {
                inner.answer(stream, result);
            }
        }
        Ok(())
    };
    tokio::select! {
        () = packing => Ok(()),
        received = receiving => received,
    }
}

/// Packs what waits into messages.
async fn pack(
    mut items: mpsc::Receiver<ForwardItem>,
    messages: mpsc::Sender<ForwardRequest>,
    sent_bytes: &Counter,
) {
    let mut held = None;
    loop {
        let first = match held.take() {
            Some(item) => item,
            None => match items.recv().await {
                Some(item) => item,
                None => return,
            },
        };
        let mut bytes = proposal_bytes(&first);
        let mut message = ForwardRequest { items: vec![first] };
        while message.items.len() < ITEMS_MAX {
            let Ok(item) = items.try_recv() else { break };
            bytes += proposal_bytes(&item);
            if bytes > MESSAGE_BYTES_MAX {
                held = Some(item);
                break;
            }
            message.items.push(item);
        }
        sent_bytes.add(message.encoded_len() as u64);
        if messages.send(message).await.is_err() {
            return;
        }
    }
}

fn proposal_bytes(item: &ForwardItem) -> usize {
    match &item.request {
        Some(forward_item::Request::Propose(command)) => command.len(),
        _ => 0,
    }
}

impl Inner {
    fn answer(&self, stream: &Stream, result: keelsonpb::ForwardResult) {
        let request = stream
            .pending
            .lock()
            .as_mut()
            .and_then(|pending| pending.requests.remove(&result.id));
        match (request, result.result) {
            (Some(Request::Propose(request_id)), Some(forward_result::Result::Error(error))) => {
                self.fail_proposal(request_id, from_proto(&error));
            }
            // Applied there, or about to be applied here: apply answers.
            (Some(Request::Propose(_)) | None, _) => {}
            (Some(Request::Ask(sender) | Request::Change(sender)), result) => {
                drop(sender.send(match result {
                    Some(forward_result::Result::Error(error)) => Err(ForwardError::Refused(error)),
                    Some(result) => Ok(result),
                    None => Err(ForwardError::Lost),
                }));
            }
        }
    }

    /// Lets what may have been sent and changes something be settled; gives the rest up.
    fn retire(self: &Arc<Self>, stream: Stream) {
        let asked: Vec<Request> = match stream.pending.lock().as_mut() {
            Some(pending) if pending.open => {
                let asked = pending
                    .requests
                    .extract_if(|_, request| matches!(request, Request::Ask(_)));
                asked.map(|(_, request)| request).collect()
            }
            _ => Vec::new(),
        };
        for request in asked {
            if let Request::Ask(sender) = request {
                drop(sender.send(Err(ForwardError::Lost)));
            }
        }
        if stream.is_settled() {
            self.give_up(&stream);
            return;
        }
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = stream.given_up.cancelled() => {}
                () = tokio::time::sleep(SETTLE_TIME) => inner.give_up(&stream),
            }
        });
    }

    fn give_up(&self, stream: &Stream) {
        stream.given_up.cancel();
        let Some(pending) = stream.pending.lock().take() else {
            return;
        };
        for request in pending.requests.into_values() {
            match request {
                Request::Propose(request_id) => {
                    let error = if pending.open {
                        ProposeError::Indefinite(Error::TimeoutDueToConnectionLost)
                    } else {
                        ProposeError::Definite(Error::NotLeader)
                    };
                    self.fail_proposal(request_id, error);
                }
                Request::Change(sender) if !pending.open => {
                    let refused = to_proto(ProposeError::Definite(Error::NotLeader));
                    drop(sender.send(Err(ForwardError::Refused(refused))));
                }
                Request::Ask(sender) | Request::Change(sender) => {
                    drop(sender.send(Err(ForwardError::Lost)));
                }
            }
        }
    }

    fn fail_proposal(&self, request_id: u64, error: ProposeError) {
        if let Some(waiter) = self.forwarded.take(request_id) {
            waiter.tell(Err(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::raft::waiters::LocalWaiter;

    fn forwarder() -> (Forwarder, Arc<Forwarded>) {
        let peers = Arc::new(Peers::new(1));
        let forwarded = Arc::new(Forwarded::default());
        let network = Network::new(Arc::clone(&peers), 7, Duration::from_secs(1));
        let forwarder = Forwarder::new(network, peers, Arc::clone(&forwarded));
        (forwarder, forwarded)
    }

    /// A pending proposal on a stream, opened or not; what it is told when the stream is given up.
    async fn told(open: bool) -> ProposeError {
        let (forwarder, forwarded) = forwarder();
        let (items, _queue) = mpsc::channel(1);
        let stream = Stream::new(2, items);
        let (waiter, answer) = LocalWaiter::new(None);
        forwarded.insert(5, waiter);
        if let Some(pending) = stream.pending.lock().as_mut() {
            pending.requests.insert(1, Request::Propose(5));
        }
        if open {
            assert!(stream.open());
        }
        *forwarder.inner.stream.lock() = Some(stream.clone());
        let began = tokio::time::Instant::now();
        forwarder.leader_changed(None);
        let told = answer.await.unwrap().err().unwrap();
        let waited = if open { SETTLE_TIME } else { Duration::ZERO };
        assert_eq!(began.elapsed().as_millis() / 10, waited.as_millis() / 10);
        assert!(stream.given_up.is_cancelled());
        assert!(!stream.open(), "sends after its requests were told");
        told
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_handed_over_may_still_answer() {
        let (forwarder, forwarded) = forwarder();
        let (items, _queue) = mpsc::channel(1);
        let stream = Stream::new(2, items);
        let (waiter, answer) = LocalWaiter::new(None);
        forwarded.insert(5, waiter);
        let (asked, asked_answer) = oneshot::channel();
        let (change, change_answer) = oneshot::channel();
        if let Some(pending) = stream.pending.lock().as_mut() {
            pending.requests.insert(1, Request::Propose(5));
            pending.requests.insert(2, Request::Ask(asked));
            pending.requests.insert(3, Request::Change(change));
        }
        assert!(stream.open());
        *forwarder.inner.stream.lock() = Some(stream.clone());
        forwarder.leader_changed(Some(3));
        assert!(matches!(asked_answer.await, Ok(Err(ForwardError::Lost))));
        assert!(!stream.given_up.is_cancelled());
        for id in [1, 3] {
            let refused = to_proto(ProposeError::Definite(Error::NotLeader));
            let result = keelsonpb::ForwardResult {
                id,
                result: Some(forward_result::Result::Error(refused)),
            };
            forwarder.inner.answer(&stream, result);
        }
        let told = answer.await.unwrap().err();
        assert_eq!(told, Some(ProposeError::Definite(Error::NotLeader)));
        let told = change_answer.await.unwrap();
        assert!(matches!(told, Err(ForwardError::Refused(_))), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_was_given_up_sends_nothing() {
        assert_eq!(told(false).await, ProposeError::Definite(Error::NotLeader));
        assert_eq!(
            told(true).await,
            ProposeError::Indefinite(Error::TimeoutDueToConnectionLost)
        );
    }
}
