//! One write for all the replies that are ready (design 3, "transport").
//!
//! HTTP/2 flushes after each data frame, and the task of a connection is polled as soon as one of
//! its streams has an answer. Done as asked, a batch of replies that became ready together would
//! leave in one system call and one packet each, which costs more than all the rest of a request.
//! So what a connection writes is collected here, and sent when the connection has been polled once
//! more behind everything else that was ready to run. An idle member delays nothing: the second
//! poll follows at once.
//!
//! Invariants:
//! - Bytes leave in the order in which they were written.
//! - What is collected is bounded; beyond it a write waits for the socket, as it would without.
//! - Nothing stays behind: a poll of the connection ends with nothing collected, with the second
//!   poll asked for, or with the socket's waker registered.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are collected at most: a socket's default send buffer takes as much at once.
const COLLECTED_BYTES_MAX: usize = 64 << 10;
/// Bytes of the buffer that an idle connection keeps.
const KEPT_BYTES_MAX: usize = 4 << 10;
/// A write from which on a whole buffer is taken at once: more of the kind will follow, and a buffer
/// that grew with them would be copied each time.
const LARGE_WRITE_BYTES: usize = 8 << 10;

/// A connection's bytes, written in batches. Clones are the same connection.
pub(super) struct Batched<T>(Arc<Mutex<Collected<T>>>);

struct Collected<T> {
    inner: T,
    bytes: BytesMut,
}

impl<T> Clone for Batched<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Batched<T> {
    pub(super) fn new(inner: T) -> Self {
        Self(Arc::new(Mutex::new(Collected {
            inner,
            bytes: BytesMut::new(),
        })))
    }

    /// Whether something is collected.
    fn has_bytes(&self) -> bool {
        !self.0.lock().bytes.is_empty()
    }

    /// Sends what is collected.
    fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut collected = self.0.lock();
        ready!(collected.poll_send(cx))?;
        if collected.bytes.capacity() > KEPT_BYTES_MAX {
            collected.bytes = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Collected<T> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.bytes.is_empty() {
            let sent = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.bytes))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.bytes.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_collect(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.bytes.len() + len > COLLECTED_BYTES_MAX {
            ready!(self.poll_send(cx))?;
            if len > COLLECTED_BYTES_MAX {
                return Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
            }
        }
        if len >= LARGE_WRITE_BYTES {
            self.bytes
                .reserve(COLLECTED_BYTES_MAX - self.bytes.len().min(COLLECTED_BYTES_MAX));
        }
        for slice in slices {
            self.bytes.extend_from_slice(slice);
        }
        Poll::Ready(Ok(len))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Batched<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().inner).poll_read(cx, buffer)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Batched<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_collect(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_collect(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Leaves it to [`Flushing`], which alone knows when the batch is whole.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut collected = self.0.lock();
        ready!(collected.poll_send(cx))?;
        Pin::new(&mut collected.inner).poll_shutdown(cx)
    }
}

/// Drives a connection over [`Batched`] bytes and sends what it has collected.
pub(super) struct Flushing<C, T> {
    connection: Pin<Box<C>>,
    io: Batched<T>,
    /// Everything else that was ready has had its turn.
    whole: bool,
}

impl<C, T> Flushing<C, T> {
    pub(super) fn new(connection: C, io: Batched<T>) -> Self {
        Self {
            connection: Box::pin(connection),
            io,
            whole: false,
        }
    }

    /// The connection, to tell it something.
    pub(super) fn connection(&mut self) -> Pin<&mut C> {
        self.connection.as_mut()
    }
}

impl<C, T, E> Future for Flushing<C, T>
where
    C: Future<Output = Result<(), E>>,
    T: AsyncRead + AsyncWrite + Unpin,
    E: From<io::Error>,
{
    type Output = Result<(), E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Poll::Ready(result) = this.connection.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        if !this.io.has_bytes() {
            this.whole = false;
        } else if this.whole {
            if let Poll::Ready(sent) = this.io.poll_send(cx) {
                this.whole = false;
                sent?;
            }
        } else {
            this.whole = true;
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Writes `writes`, each flushed, then waits for ever.
    async fn writer(
        mut io: Batched<tokio::io::DuplexStream>,
        writes: Vec<Vec<u8>>,
    ) -> io::Result<()> {
        for bytes in writes {
            io.write_all(&bytes).await?;
            io.flush().await?;
            tokio::task::yield_now().await;
        }
        std::future::pending().await
    }

    #[tokio::test]
    async fn everything_arrives_in_order_through_a_socket_that_takes_little() {
        let (near, mut far) = tokio::io::duplex(1000);
        let io = Batched::new(near);
        let sizes = [1, 7, 5000, 64 << 10, 1, (64 << 10) + 1, 200_000, 3];
        let writes: Vec<Vec<u8>> = (0_u8..).zip(sizes).map(|(byte, n)| vec![byte; n]).collect();
        let expected = writes.concat();
        let serving = tokio::spawn(Flushing::new(writer(io.clone(), writes), io));
        let mut got = vec![0; expected.len()];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(got, expected);
        serving.abort();
    }

    #[tokio::test]
    async fn writes_of_a_connection_leave_together() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let io = Batched::new(near);
        let mut handle = io.clone();
        let connection = async move {
            for _ in 0..10 {
                handle.write_all(b"reply").await?;
                handle.flush().await?;
            }
            std::future::pending::<io::Result<()>>().await
        };
        let mut serving = std::pin::pin!(Flushing::new(connection, io));
        let mut buffer = [0; 100];
        // The first poll collects, the second one sends.
        assert!(futures::poll!(serving.as_mut()).is_pending());
        assert!(futures::poll!(std::pin::pin!(far.read(&mut buffer))).is_pending());
        assert!(futures::poll!(serving.as_mut()).is_pending());
        assert_eq!(far.read(&mut buffer).await.unwrap(), 50);
    }

    #[tokio::test]
    async fn a_shutdown_sends_what_is_left_and_errors_end_the_connection() {
        let (near, mut far) = tokio::io::duplex(100);
        let mut io = Batched::new(near);
        io.write_all(b"last words").await.unwrap();
        io.shutdown().await.unwrap();
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"last words");

        let (near, far) = tokio::io::duplex(100);
        drop(far);
        let io = Batched::new(near);
        let serving = Flushing::new(writer(io.clone(), vec![vec![1; 10]]), io);
        let ended = tokio::time::timeout(std::time::Duration::from_secs(10), serving).await;
        assert!(ended.unwrap().is_err());
    }
}
