//! Requests whose messages are still arriving.
//!
//! A gRPC message announces its length, and tonic takes memory for all of it at once. [`Arriving`]
//! stands before it: bytes are held as they come, and passed on when a message is whole. What is held
//! is counted per connection and per port kind of the process ([`ArrivingBytes`]); a request that would
//! exceed either bound is refused as one too many, and what it held is freed. A message that comes in
//! one frame, as nearly all do, passes through uncounted and uncopied.
//!
//! Nobody shuts others out by what he leaves unfinished: a connection has a small part of the room of
//! all, a message that does not go on is given up ([`STALLED_AFTER`]), and the only unfinished message
//! of a connection is never refused, whatever the others hold.
//!
//! Waiting instead of refusing would not do: bytes that are not read use up the connection's window,
//! and with it the room of the messages whose end would free them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use keelson_proto::error::Error;
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;

use super::boundaries::{Boundaries, HEADER_BYTES};

/// Bytes of unfinished messages that a client's connection may hold: 42 requests of the usual largest
/// size (1.5 MiB), all begun at the same time and none of them finished. A sixteenth of what all may
/// hold. Where a longer message is allowed, the bound is its length.
const CLIENT_CONNECTION_BYTES_MAX: usize = 64 << 20;
/// The same of a peer's connection, whose messages are longer: two of the longest (64 MiB).
const PEER_CONNECTION_BYTES_MAX: usize = 128 << 20;
/// Bytes of unfinished messages that all connections together may hold, apart from one message of each
/// connection that holds no other.
const PROCESS_BYTES_MAX: usize = 1 << 30;
/// A message of which a part is there and nothing more comes for so long is given up: nobody is left
/// who would finish it, and it keeps its room. TCP repeats a lost segment several times within it.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// Frames below this length are copied together: a slice would keep the whole buffer alive into which
/// the connection reads, of which it may be a small part.
const COPIED_BELOW_BYTES: usize = 8 << 10;

/// Counts the bytes of unfinished messages of the process, those of clients or those of peers.
#[derive(Debug)]
pub struct ArrivingBytes {
    bytes: AtomicUsize,
    process_bytes_max: usize,
    connection_bytes_max: usize,
}

impl ArrivingBytes {
    /// The count of what clients send.
    #[must_use]
    pub fn of_clients() -> Self {
        Self::new(CLIENT_CONNECTION_BYTES_MAX, PROCESS_BYTES_MAX)
    }

    /// The count of what peers send.
    #[must_use]
    pub fn of_peers() -> Self {
        Self::new(PEER_CONNECTION_BYTES_MAX, PROCESS_BYTES_MAX)
    }

    fn new(connection_bytes_max: usize, process_bytes_max: usize) -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            process_bytes_max,
            connection_bytes_max,
        }
    }

    /// The count of one connection, whose messages are at most so long.
    pub(super) fn of_connection(
        self: &Arc<Self>,
        message_bytes_max: usize,
    ) -> Arc<ConnectionBytes> {
        let longest = message_bytes_max.saturating_add(HEADER_BYTES);
        Arc::new(ConnectionBytes {
            bytes: AtomicUsize::new(0),
            bytes_max: self.connection_bytes_max.max(longest),
            process: Arc::clone(self),
        })
    }
}

/// Counts the bytes of unfinished messages of one connection.
#[derive(Debug)]
pub(super) struct ConnectionBytes {
    bytes: AtomicUsize,
    bytes_max: usize,
    process: Arc<ArrivingBytes>,
}

impl ConnectionBytes {
    /// Whether there was room for so many more, for a message of which `held` are counted; they are
    /// counted then. There always is for a message that is the only one here: its length is bounded.
    ///
    /// Nothing is counted that is then refused: it would make a message look accompanied that is not.
    /// Threads that look at the process's count at the same time may exceed its bound by a frame each.
    fn take(&self, held: usize, bytes: usize) -> bool {
        let taken = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |here| {
                let all = self.process.bytes.load(Ordering::Relaxed);
                let fits =
                    here + bytes <= self.bytes_max && all + bytes <= self.process.process_bytes_max;
                (here == held || fits).then_some(here + bytes)
            });
        if taken.is_ok() {
            self.process.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.process.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes of a message that is not whole yet.
#[derive(Default)]
struct Held {
    pieces: VecDeque<Bytes>,
    /// Short frames, collected.
    last: BytesMut,
    len: usize,
}

impl Held {
    fn push(&mut self, data: Bytes) {
        self.len += data.len();
        if data.len() < COPIED_BELOW_BYTES {
            self.last.extend_from_slice(&data);
        } else {
            self.seal();
            self.pieces.push_back(data);
        }
    }

    fn seal(&mut self) {
        if !self.last.is_empty() {
            self.pieces
                .push_back(std::mem::take(&mut self.last).freeze());
        }
    }
}

/// A request's body that gives whole messages.
pub struct Arriving<B> {
    inner: B,
    boundaries: Boundaries,
    /// Whole, to be passed on.
    whole: VecDeque<Bytes>,
    held: Held,
    /// Counted in `connection`: what is held.
    counted: usize,
    /// When what is held has waited too long for more; none while nothing is held, so that a stream
    /// between two messages may be silent for ever. Boxed: few bodies ever hold anything.
    stalled: Option<Pin<Box<Sleep>>>,
    connection: Arc<ConnectionBytes>,
    message_bytes_max: usize,
    /// A message announced more than may be received: the service that decodes it says so, in words
    /// that depend on it, and reads nothing more.
    refused: bool,
    /// What comes behind the bytes.
    end: Option<Frame<Bytes>>,
    ended: bool,
}

impl<B> Arriving<B> {
    /// The body `inner`, in messages. One that announces more than `message_bytes_max` is passed on as
    /// it is.
    pub(super) fn new(
        inner: B,
        message_bytes_max: usize,
        connection: Arc<ConnectionBytes>,
    ) -> Self {
        Self {
            inner,
            boundaries: Boundaries::default(),
            whole: VecDeque::new(),
            held: Held::default(),
            counted: 0,
            stalled: None,
            connection,
            message_bytes_max,
            refused: false,
            end: None,
            ended: false,
        }
    }

    /// Everything held may go on.
    fn release(&mut self) {
        self.held.seal();
        self.whole.append(&mut self.held.pieces);
        self.held.len = 0;
        self.stalled = None;
        self.connection.give_back(std::mem::take(&mut self.counted));
    }

    /// Nothing held will go on.
    fn give_up(&mut self) {
        self.held = Held::default();
        self.release();
    }

    /// Whether what is held has waited too long for more.
    fn is_stalled(&mut self, cx: &mut Context<'_>) -> bool {
        let stalled = self.stalled.as_mut();
        stalled.is_some_and(|stalled| stalled.as_mut().poll(cx).is_ready())
    }

    /// Takes a frame's bytes in.
    fn arrived(&mut self, mut data: Bytes) -> Result<(), Status> {
        if self.refused {
            self.whole.push_back(data);
            return Ok(());
        }
        let piece = self.boundaries.follow(&data);
        if piece.announced_bytes as usize > self.message_bytes_max {
            self.refused = true;
            self.release();
            self.whole.push_back(data);
            return Ok(());
        }
        if piece.whole_bytes > 0 {
            let whole = data.split_to(piece.whole_bytes);
            self.release();
            self.whole.push_back(whole);
        }
        if data.is_empty() {
            return Ok(());
        }
        if !self.connection.take(self.counted, data.len()) {
            self.give_up();
            return Err(Error::RequestTooManyRequests.into());
        }
        self.counted += data.len();
        self.held.push(data);
        match &mut self.stalled {
            Some(stalled) => stalled.as_mut().reset(Instant::now() + STALLED_AFTER),
            None => self.stalled = Some(Box::pin(sleep(STALLED_AFTER))),
        }
        Ok(())
    }
}

impl<B> Drop for Arriving<B> {
    fn drop(&mut self) {
        self.connection.give_back(self.counted);
    }
}

impl<B> HttpBody for Arriving<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        loop {
            if let Some(bytes) = this.whole.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if this.ended {
                return Poll::Ready(this.end.take().map(Ok));
            }
            let Poll::Ready(arrived) = Pin::new(&mut this.inner).poll_frame(cx) else {
                // Only now: what has arrived counts even if nobody asked for it in time.
                if !this.is_stalled(cx) {
                    return Poll::Pending;
                }
                this.ended = true;
                this.give_up();
                let status = Status::deadline_exceeded("the rest of the message did not arrive");
                return Poll::Ready(Some(Err(status.into())));
            };
            match arrived {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        if let Err(status) = this.arrived(data) {
                            this.ended = true;
                            return Poll::Ready(Some(Err(status.into())));
                        }
                    }
                    Err(trailers) => {
                        (this.ended, this.end) = (true, Some(trailers));
                        this.release();
                    }
                },
                Some(Err(error)) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => {
                    this.ended = true;
                    // A message that ends too early is the decoder's to refuse.
                    this.release();
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let nothing_left = self.whole.is_empty() && self.held.len == 0 && self.end.is_none();
        nothing_left && (self.ended || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    type Frames = futures::channel::mpsc::UnboundedSender<Result<Frame<Bytes>, Status>>;

    /// A body that is fed by hand, with this much room.
    fn body(
        message_bytes_max: usize,
        connection: &Arc<ConnectionBytes>,
    ) -> (
        Frames,
        Arriving<impl HttpBody<Data = Bytes, Error = Status> + Unpin + use<>>,
    ) {
        let (frames, queue) = futures::channel::mpsc::unbounded();
        let arriving = Arriving::new(
            StreamBody::new(queue),
            message_bytes_max,
            Arc::clone(connection),
        );
        (frames, arriving)
    }

    fn room(connection_bytes_max: usize, process_bytes_max: usize) -> Arc<ArrivingBytes> {
        Arc::new(ArrivingBytes::new(connection_bytes_max, process_bytes_max))
    }

    fn message(len: usize) -> Vec<u8> {
        let announced = u32::try_from(len).unwrap().to_be_bytes();
        [&[0], &announced[..], &vec![7; len]].concat()
    }

    fn send(frames: &Frames, bytes: &[u8]) {
        let frame = Frame::data(Bytes::copy_from_slice(bytes));
        frames.unbounded_send(Ok(frame)).unwrap();
    }

    /// The bytes of the frames that are there now.
    fn given<B>(arriving: &mut Arriving<B>) -> Vec<u8>
    where
        B: HttpBody<Data = Bytes, Error = Status> + Unpin,
    {
        let mut bytes = Vec::new();
        while let Some(Some(frame)) = arriving.frame().now_or_never() {
            bytes.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        bytes
    }

    #[tokio::test]
    async fn messages_are_given_whole_however_they_are_cut() {
        let bytes: Vec<u8> = [0, 3, 40_000, 0, 9000, 70_000]
            .into_iter()
            .flat_map(message)
            .collect();
        for size in [1, 4, 5, 100, 8192, 16_384, bytes.len()] {
            let process = room(usize::MAX, usize::MAX);
            let (frames, mut arriving) = body(1 << 20, &process.of_connection(0));
            let (mut got, mut sent) = (Vec::new(), 0);
            let mut boundaries = Boundaries::default();
            for chunk in bytes.chunks(size) {
                send(&frames, chunk);
                let whole = boundaries.follow(chunk).whole_bytes;
                let expected = if whole == 0 { got.len() } else { sent + whole };
                sent += chunk.len();
                got.extend(given(&mut arriving));
                assert_eq!(got.len(), expected, "{size}");
                assert_eq!(process.bytes.load(Ordering::Relaxed), sent - got.len());
            }
            assert_eq!(got, bytes, "{size}");
            let trailers = http::HeaderMap::new();
            frames
                .unbounded_send(Ok(Frame::trailers(trailers)))
                .unwrap();
            drop(frames);
            assert!(arriving.frame().await.unwrap().unwrap().is_trailers());
            assert!(arriving.frame().await.is_none());
        }
    }

    #[tokio::test]
    async fn what_is_held_is_bounded_and_freed() {
        let process = room(1000, 1500);
        let connection = process.of_connection(0);
        let (frames, mut first) = body(1 << 20, &connection);
        send(&frames, &message(2000)[..900]);
        assert!(given(&mut first).is_empty());
        let (others, mut second) = body(1 << 20, &connection);
        send(&others, &message(200)[..200]);
        let refused = second.frame().await.unwrap().unwrap_err();
        let refused = refused.downcast::<Status>().unwrap();
        assert_eq!(refused.message(), Error::RequestTooManyRequests.text());
        assert!(second.frame().await.is_none());
        // Whole messages need no room.
        let (others, mut third) = body(1 << 20, &connection);
        send(&others, &message(5000));
        assert_eq!(given(&mut third).len(), 5005);
        // Nor does another connection share this one's bound, only that of the process.
        let other = process.of_connection(0);
        let (others, mut fourth) = body(1 << 20, &other);
        send(&others, &message(2000)[..600]);
        assert!(given(&mut fourth).is_empty());
        let (others, mut fifth) = body(1 << 20, &other);
        send(&others, &[0]);
        assert!(fifth.frame().await.unwrap().is_err());
        assert_eq!(process.bytes.load(Ordering::Relaxed), 1500);
        drop((first, second, third, fourth, fifth));
        assert_eq!(process.bytes.load(Ordering::Relaxed), 0);
        assert_eq!(connection.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn the_only_message_of_a_connection_is_never_refused() {
        let process = room(1000, 1500);
        let full: Vec<_> = (0..2)
            .map(|_| {
                let (frames, mut arriving) = body(1 << 20, &process.of_connection(0));
                send(&frames, &message(1000)[..750]);
                assert!(given(&mut arriving).is_empty());
                (frames, arriving)
            })
            .collect();
        let connection = process.of_connection(0);
        let (frames, mut arriving) = body(5000, &connection);
        let bytes = message(5000);
        for chunk in bytes[..5000].chunks(100) {
            send(&frames, chunk);
            assert!(given(&mut arriving).is_empty());
            // One more is one too many, and does not disturb the first.
            let (others, mut second) = body(5000, &connection);
            send(&others, &[0]);
            assert!(second.frame().await.unwrap().is_err());
        }
        send(&frames, &bytes[5000..]);
        assert_eq!(given(&mut arriving), bytes);
        assert_eq!(process.bytes.load(Ordering::Relaxed), 1500);
        drop(full);
    }

    #[test]
    fn a_connection_has_room_for_its_longest_message_and_a_small_part_of_all() {
        let clients = Arc::new(ArrivingBytes::of_clients());
        let usual = clients.of_connection(2 << 20).bytes_max;
        assert_eq!(usual, CLIENT_CONNECTION_BYTES_MAX);
        assert!(usual * 16 <= PROCESS_BYTES_MAX);
        let long = clients.of_connection(100 << 20).bytes_max;
        assert_eq!(long, (100 << 20) + HEADER_BYTES);
        let peers = Arc::new(ArrivingBytes::of_peers());
        let longest = crate::raft::network::MESSAGE_BYTES_MAX;
        let usual = peers.of_connection(longest).bytes_max;
        assert_eq!(usual, PEER_CONNECTION_BYTES_MAX);
        assert!(longest + HEADER_BYTES < usual && usual * 8 <= PROCESS_BYTES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_go_on_is_given_up() {
        let process = room(1000, 1000);
        let connection = process.of_connection(0);
        let (frames, mut arriving) = body(1000, &connection);
        let bytes = message(500);
        // However slow, as long as it goes on.
        for chunk in bytes.chunks(100) {
            send(&frames, chunk);
            given(&mut arriving);
            let silent = STALLED_AFTER - Duration::from_secs(1);
            let more = tokio::time::timeout(silent, arriving.frame());
            assert!(more.await.is_err());
        }
        // Between messages nothing is awaited.
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, arriving.frame()).await.is_err());
        send(&frames, &bytes);
        assert_eq!(given(&mut arriving), bytes);

        // Part of a header is part of a message; frames without bytes are no progress.
        for part in [3, 300] {
            let (frames, mut arriving) = body(1000, &connection);
            send(&frames, &bytes[..part]);
            assert!(given(&mut arriving).is_empty());
            let begun = Instant::now();
            let half = tokio::time::timeout(STALLED_AFTER / 2, arriving.frame());
            assert!(half.await.is_err());
            send(&frames, &[]);
            let refused = arriving.frame().await.unwrap().unwrap_err();
            let refused = refused.downcast::<Status>().unwrap();
            assert_eq!(refused.code(), tonic::Code::DeadlineExceeded);
            // Timers have a granularity of a millisecond.
            assert!(begun.elapsed() <= STALLED_AFTER + Duration::from_millis(2));
            assert_eq!(process.bytes.load(Ordering::Relaxed), 0);
            assert!(arriving.frame().await.is_none());
        }

        // What came while nobody asked for it came in time.
        let (frames, mut arriving) = body(1000, &connection);
        send(&frames, &bytes[..300]);
        assert!(given(&mut arriving).is_empty());
        send(&frames, &bytes[300..]);
        tokio::time::advance(hour).await;
        assert_eq!(given(&mut arriving), bytes);
    }

    #[tokio::test]
    async fn too_long_and_unfinished_messages_are_left_to_the_decoder() {
        let process = room(1000, 1000);
        let (frames, mut arriving) = body(100, &process.of_connection(0));
        send(&frames, &message(101)[..5]);
        assert_eq!(given(&mut arriving), message(101)[..5]);
        send(&frames, &[7; 3000]);
        assert_eq!(given(&mut arriving).len(), 3000);

        let (frames, mut arriving) = body(100, &process.of_connection(0));
        send(&frames, &message(50)[..30]);
        assert!(given(&mut arriving).is_empty());
        drop(frames);
        assert_eq!(given(&mut arriving), message(50)[..30]);
        assert_eq!(process.bytes.load(Ordering::Relaxed), 0);
    }
}
