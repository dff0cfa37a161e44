//! Limits on the byte stream of a connection, between TLS and HTTP.
//!
//! - If the client may still be sending when the connection closes, the rest is discarded first (HTTP/1.1), because
//!   a close with unread data resets the connection and the client loses the response.
//! - A client that does not read is disconnected after `write_timeout`, and one that reads byte by byte
//!   by `min_rate`. Both apply to tunnels too.
//! - The first byte of a head starts the header timeout (HTTP/1.1).
//! - On HTTP/2, bytes other than heads and bodies are charged to a budget: PING, SETTINGS, PRIORITY,
//!   WINDOW_UPDATE, empty frames, endless headers. This covers the known floods (CVE-2019-9511 to -9518,
//!   CVE-2024-27316) and unknown ones of the same kind.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::{ConnectionInfo, ProgressTimeout};
use crate::telemetry::{Limit, Metrics};

use super::connection_activity::ConnectionActivity;
use super::scheduling::IoBudget;
use super::unread_body::LingeringClose;

/// Bytes that a client may send besides heads and bodies: a burst, then a rate per second. Browsers need a
/// few hundred.
const CONTROL_BYTES: u64 = 1024 * 1024;
const CONTROL_BYTES_PER_SECOND: u64 = 16 * 1024;
/// Bytes granted per request: a head, and part of an upload that was rejected early.
const BYTES_PER_REQUEST: u64 = 96 * 1024;
/// One byte of window updates is granted for so many bytes written.
const WRITTEN_PER_CONTROL_BYTE: u64 = 8;

/// Bytes that one connection reads before it yields: a few hundred control frames.
const READ_BUDGET: usize = 16 * 1024;
/// Bytes that one connection writes and encrypts before it yields: one TLS record. More is no faster.
const WRITE_BUDGET: usize = 16 * 1024;

/// HTTP version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// A byte stream with its limits.
pub(super) struct GuardedIo<S> {
    stream: S,
    protocol: Protocol,
    activity: Arc<ConnectionActivity>,
    connection: Arc<ConnectionInfo>,
    metrics: Metrics,
    progress: ProgressTimeout,
    read_budget: IoBudget,
    write_budget: IoBudget,
    bytes_read: u64,
    bytes_written: u64,
    /// Whether the last write is pending.
    write_blocked: bool,
    /// Set once the connection is half-closed.
    lingering: Option<Box<LingeringClose>>,
}

impl<S> GuardedIo<S> {
    pub(super) fn new(
        stream: S,
        protocol: Protocol,
        activity: Arc<ConnectionActivity>,
        connection: Arc<ConnectionInfo>,
        metrics: Metrics,
        progress: ProgressTimeout,
    ) -> GuardedIo<S> {
        let (read_budget, write_budget) = (IoBudget::new(READ_BUDGET), IoBudget::new(WRITE_BUDGET));
        let (bytes_read, bytes_written, write_blocked) = (0, 0, false);
        GuardedIo {
            stream,
            protocol,
            activity,
            connection,
            metrics,
            progress,
            read_budget,
            write_budget,
            bytes_read,
            bytes_written,
            write_blocked,
            lingering: None,
        }
    }

    fn record_read(&mut self, bytes: usize) -> io::Result<()> {
        match self.protocol {
            Protocol::Http1 => self.activity.head_started(),
            Protocol::Http2 => {
                self.bytes_read =
                    self.bytes_read.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
                if self.bytes_read > CONTROL_BYTES && self.bytes_read > self.read_allowance() {
                    self.metrics.limit(Limit::ControlBytes, Some(self.connection.peer));
                    return Err(io::Error::other("too many HTTP/2 control bytes"));
                }
            }
        }
        Ok(())
    }

    /// Bytes that a well-behaved client may have sent by now.
    fn read_allowance(&self) -> u64 {
        CONTROL_BYTES
            .saturating_add(self.activity.requests().saturating_mul(BYTES_PER_REQUEST))
            .saturating_add(self.connection.body_bytes())
            .saturating_add(self.bytes_written / WRITTEN_PER_CONTROL_BYTE)
            .saturating_add(self.activity.age().as_secs().saturating_mul(CONTROL_BYTES_PER_SECOND))
    }

    /// Records the result of a write. The write timeout runs while it is pending.
    fn record_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(Ok(done)) => {
                let bytes = bytes(&done);
                self.bytes_written =
                    self.bytes_written.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
                self.progress.record_progress(bytes);
                self.write_budget.consume(bytes);
                self.set_write_blocked(false);
                Poll::Ready(Ok(done))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.write_budget.refill();
                self.set_write_blocked(true);
                self.progress.poll_expired(cx).map(|()| {
                    self.metrics.limit(Limit::WriteTimeout, Some(self.connection.peer));
                    Err(io::ErrorKind::TimedOut.into())
                })
            }
        }
    }

    /// A connection with a pending write is not idle, even if its response is complete.
    fn set_write_blocked(&mut self, write_blocked: bool) {
        match (self.write_blocked, write_blocked) {
            (false, true) => self.activity.hold(),
            (true, false) => self.activity.release(),
            (true, true) | (false, false) => {}
        }
        self.write_blocked = write_blocked;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GuardedIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.read_budget.poll_ready(cx));
        let before = buf.filled().len();
        let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(cx, buf) else {
            self.read_budget.refill();
            return Poll::Pending;
        };
        result?;
        let bytes = buf.filled().len() - before;
        self.read_budget.consume(bytes);
        Poll::Ready(if bytes > 0 { self.record_read(bytes) } else { Ok(()) })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for GuardedIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.write_budget.poll_ready(cx));
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.record_write(cx, result, |bytes| *bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.write_budget.poll_ready(cx));
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.record_write(cx, result, |bytes| *bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.record_write(cx, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if me.lingering.is_none() {
            let shut = Pin::new(&mut me.stream).poll_shutdown(cx);
            ready!(me.record_write(cx, shut, |()| 0))?;
            if me.protocol == Protocol::Http2 || !me.activity.is_unread() {
                return Poll::Ready(Ok(()));
            }
            // Not idle: the limits of `LingeringClose` apply instead.
            me.activity.hold();
        }
        let lingering = me.lingering.get_or_insert_with(|| Box::new(LingeringClose::new()));
        lingering.poll(cx, Pin::new(&mut me.stream)).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    fn io<S>(stream: S, protocol: Protocol) -> GuardedIo<S> {
        let connection = Arc::new(ConnectionInfo::new(IpAddr::from([192, 0, 2, 1])));
        let progress = ProgressTimeout::new(Duration::from_secs(60), 500);
        GuardedIo::new(
            stream,
            protocol,
            Arc::new(ConnectionActivity::new()),
            connection,
            Metrics::default(),
            progress,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn slow_read_a_client_that_reads_nothing_times_out() {
        let (near, _far) = duplex(64);
        let mut io = io(near, Protocol::Http1);
        let start = Instant::now();
        let error = io.write_all(&[0; 1000]).await.expect_err("a timeout");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_read_a_client_that_reads_single_bytes_times_out() {
        let (near, mut far) = duplex(64);
        let mut io = io(near, Protocol::Http1);
        let sipping = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(5)).await;
                if far.read_u8().await.is_err() {
                    return;
                }
            }
        });
        let start = Instant::now();
        io.write_all(&[0; 1_000_000]).await.expect_err("too slow");
        assert!(start.elapsed() < Duration::from_secs(70), "{:?}", start.elapsed());
        sipping.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_but_steady_reader_gets_everything() {
        let (near, mut far) = duplex(4096);
        let mut io = io(near, Protocol::Http1);
        let reading = tokio::spawn(async move {
            let mut all = 0;
            while all < 1_000_000 {
                tokio::time::sleep(Duration::from_secs(4)).await;
                all += far.read(&mut [0; 4096]).await.expect("bytes");
            }
        });
        io.write_all(&[0; 1_000_000]).await.expect("written");
        reading.await.expect("all read");
    }

    #[tokio::test]
    async fn control_bytes_are_limited_on_http2_only() {
        for (protocol, ends) in [(Protocol::Http2, true), (Protocol::Http1, false)] {
            let (near, mut far) = duplex(64 * 1024);
            let mut io = io(near, protocol);
            let talking = tokio::spawn(async move {
                for _ in 0..200 {
                    if far.write_all(&[0; 16 * 1024]).await.is_err() {
                        return;
                    }
                }
            });
            let result = tokio::io::copy(&mut io, &mut tokio::io::sink()).await;
            assert_eq!(result.is_err(), ends, "{protocol:?}");
            drop(io);
            talking.await.expect("ended");
        }
    }

    #[tokio::test]
    async fn requests_extend_the_control_byte_budget() {
        let (near, mut far) = duplex(64 * 1024);
        let mut io = io(near, Protocol::Http2);
        let (activity, connection) = (Arc::clone(&io.activity), Arc::clone(&io.connection));
        let talking = tokio::spawn(async move {
            for _ in 0..100 {
                activity.request_started();
                far.write_all(&[0; 90 * 1024]).await.expect("read");
            }
        });
        tokio::io::copy(&mut io, &mut tokio::io::sink()).await.expect("all wanted");
        talking.await.expect("ended");
        assert_eq!(connection.body_bytes(), 0);
    }

    /// tokio's cooperative budget counts calls, not bytes.
    #[tokio::test]
    async fn a_busy_connection_yields_after_its_budget() {
        let mut io = io(tokio::io::join(tokio::io::repeat(0), tokio::io::sink()), Protocol::Http2);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let (mut bytes_read, mut buffer) = (0, [0; 4096]);
        while Pin::new(&mut io).poll_read(&mut cx, &mut ReadBuf::new(&mut buffer)).is_ready() {
            bytes_read += buffer.len();
        }
        assert_eq!(bytes_read, READ_BUDGET);
        let mut bytes_written = 0;
        while let Poll::Ready(bytes) = Pin::new(&mut io).poll_write(&mut cx, &buffer) {
            bytes_written += bytes.expect("taken");
        }
        assert_eq!(bytes_written, WRITE_BUDGET);
        assert!(Pin::new(&mut io).poll_write(&mut cx, &buffer).is_ready(), "a new budget");
    }
}
