//! The bytes of a connection, between TLS and HTTP: what only shows here is bounded here.
//!
//! - A client that takes nothing of what is written to it is given up after `write_timeout`, and one
//!   that takes it byte by byte by `min_rate`. It holds also after a connection became a tunnel.
//! - The first byte of a head starts its clock (HTTP/1.1).
//! - On HTTP/2, bytes that are neither heads nor wanted bodies are paid from a budget: pings, settings,
//!   priorities, window updates, empty frames, headers without an end. Each kind has had its own
//!   advisory (CVE-2019-9511 to -9518, CVE-2024-27316); this bounds them all, those without a name too.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::{Caller, Pace};
use crate::telemetry::{Limit, Metrics};

use super::fair::Share;
use super::pulse::Pulse;

/// Bytes that a client may send beside heads and bodies, at once and then in each second. A browser
/// needs some hundred.
const CHATTER: u64 = 1024 * 1024;
const CHATTER_PER_SECOND: u64 = 16 * 1024;
/// A request may have a head this long, and its share of an upload that was answered early.
const PER_REQUEST: u64 = 96 * 1024;
/// What we send has to be acknowledged by window updates; they are far smaller.
const PER_WRITTEN: u64 = 8;

/// What one connection reads before others have their go: some hundred frames, where frames are all that
/// is sent.
const READ_SHARE: usize = 16 * 1024;
/// What it writes, and encrypts: a TLS record. More of it at a time makes a download no faster.
const WRITE_SHARE: usize = 16 * 1024;

/// Which protocol is spoken on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speech {
    Http1,
    Http2,
}

/// A stream with its limits.
pub(super) struct Wire<S> {
    stream: S,
    speech: Speech,
    pulse: Arc<Pulse>,
    caller: Arc<Caller>,
    metrics: Metrics,
    pace: Pace,
    reads: Share,
    writes: Share,
    read: u64,
    written: u64,
    /// Something waits to be taken.
    stuck: bool,
}

impl<S> Wire<S> {
    pub(super) fn new(
        stream: S,
        speech: Speech,
        pulse: Arc<Pulse>,
        caller: Arc<Caller>,
        metrics: Metrics,
        pace: Pace,
    ) -> Wire<S> {
        let (reads, writes) = (Share::of(READ_SHARE), Share::of(WRITE_SHARE));
        let (read, written, stuck) = (0, 0, false);
        Wire { stream, speech, pulse, caller, metrics, pace, reads, writes, read, written, stuck }
    }

    fn took(&mut self, bytes: usize) -> io::Result<()> {
        match self.speech {
            Speech::Http1 => self.pulse.head_begins(),
            Speech::Http2 => {
                self.read = self.read.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
                if self.read > CHATTER && self.read > self.allowed() {
                    self.metrics.limit(Limit::Chatter, Some(self.caller.peer));
                    return Err(io::Error::other("more chatter than requests"));
                }
            }
        }
        Ok(())
    }

    /// What a client that does nothing but use the gateway may have sent by now.
    fn allowed(&self) -> u64 {
        CHATTER
            .saturating_add(self.pulse.requests().saturating_mul(PER_REQUEST))
            .saturating_add(self.caller.wanted())
            .saturating_add(self.written / PER_WRITTEN)
            .saturating_add(self.pulse.age().as_secs().saturating_mul(CHATTER_PER_SECOND))
    }

    /// What became of a write: time counts while nothing goes.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(Ok(done)) => {
                let bytes = bytes(&done);
                self.written =
                    self.written.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
                self.pace.moved(bytes);
                self.writes.moved(bytes);
                self.is_stuck(false);
                Poll::Ready(Ok(done))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.writes.renew();
                self.is_stuck(true);
                self.pace.poll_late(cx).map(|()| {
                    self.metrics.limit(Limit::Write, Some(self.caller.peer));
                    Err(io::ErrorKind::TimedOut.into())
                })
            }
        }
    }

    /// An answer may be over for us while its end still waits to be taken: that is no rest.
    fn is_stuck(&mut self, stuck: bool) {
        match (self.stuck, stuck) {
            (false, true) => self.pulse.begin_writing(),
            (true, false) => self.pulse.end(),
            (true, true) | (false, false) => {}
        }
        self.stuck = stuck;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.reads.poll_left(cx));
        let before = buf.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) else {
            self.reads.renew();
            return Poll::Pending;
        };
        read?;
        let bytes = buf.filled().len() - before;
        self.reads.moved(bytes);
        Poll::Ready(if bytes > 0 { self.took(bytes) } else { Ok(()) })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.writes.poll_left(cx));
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watched(cx, written, |bytes| *bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.writes.poll_left(cx));
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watched(cx, written, |bytes| *bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.watched(cx, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watched(cx, shut, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    fn wire<S>(stream: S, speech: Speech) -> Wire<S> {
        let caller = Arc::new(Caller::new(IpAddr::from([192, 0, 2, 1])));
        let pace = Pace::new(Duration::from_secs(60), 500);
        Wire::new(stream, speech, Arc::new(Pulse::new()), caller, Metrics::default(), pace)
    }

    #[tokio::test(start_paused = true)]
    async fn slow_read_a_client_that_takes_nothing_is_given_up_after_a_minute() {
        let (near, _far) = duplex(64);
        let mut wire = wire(near, Speech::Http1);
        let start = Instant::now();
        let error = wire.write_all(&[0; 1000]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_read_a_client_that_takes_a_byte_now_and_then_is_given_up_too() {
        let (near, mut far) = duplex(64);
        let mut wire = wire(near, Speech::Http1);
        let sipping = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(5)).await;
                if far.read_u8().await.is_err() {
                    return;
                }
            }
        });
        let start = Instant::now();
        wire.write_all(&[0; 1_000_000]).await.expect_err("too slow");
        assert!(start.elapsed() < Duration::from_secs(70), "{:?}", start.elapsed());
        sipping.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_but_surely_gets_all() {
        let (near, mut far) = duplex(4096);
        let mut wire = wire(near, Speech::Http1);
        let reading = tokio::spawn(async move {
            let mut all = 0;
            while all < 1_000_000 {
                tokio::time::sleep(Duration::from_secs(4)).await;
                all += far.read(&mut [0; 4096]).await.expect("bytes");
            }
        });
        wire.write_all(&[0; 1_000_000]).await.expect("written");
        reading.await.expect("all read");
    }

    #[tokio::test]
    async fn chatter_on_http2_ends_the_connection_and_on_http1_there_is_none() {
        for (speech, ends) in [(Speech::Http2, true), (Speech::Http1, false)] {
            let (near, mut far) = duplex(64 * 1024);
            let mut wire = wire(near, speech);
            let talking = tokio::spawn(async move {
                for _ in 0..200 {
                    if far.write_all(&[0; 16 * 1024]).await.is_err() {
                        return;
                    }
                }
            });
            let result = tokio::io::copy(&mut wire, &mut tokio::io::sink()).await;
            assert_eq!(result.is_err(), ends, "{speech:?}");
            drop(wire);
            talking.await.expect("ended");
        }
    }

    #[tokio::test]
    async fn requests_and_their_bodies_are_no_chatter() {
        let (near, mut far) = duplex(64 * 1024);
        let mut wire = wire(near, Speech::Http2);
        let (pulse, caller) = (Arc::clone(&wire.pulse), Arc::clone(&wire.caller));
        let talking = tokio::spawn(async move {
            for _ in 0..100 {
                pulse.begin();
                far.write_all(&[0; 90 * 1024]).await.expect("read");
            }
        });
        tokio::io::copy(&mut wire, &mut tokio::io::sink()).await.expect("all wanted");
        talking.await.expect("ended");
        assert_eq!(caller.wanted(), 0);
    }

    /// tokio's own budget counts calls, however many bytes each of them moves.
    #[tokio::test]
    async fn who_reads_or_writes_without_end_lets_others_go_in_between() {
        let mut wire =
            wire(tokio::io::join(tokio::io::repeat(0), tokio::io::sink()), Speech::Http2);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let (mut read, mut buffer) = (0, [0; 4096]);
        while Pin::new(&mut wire).poll_read(&mut cx, &mut ReadBuf::new(&mut buffer)).is_ready() {
            read += buffer.len();
        }
        assert_eq!(read, READ_SHARE);
        let mut written = 0;
        while let Poll::Ready(bytes) = Pin::new(&mut wire).poll_write(&mut cx, &buffer) {
            written += bytes.expect("taken");
        }
        assert_eq!(written, WRITE_SHARE);
        assert!(Pin::new(&mut wire).poll_write(&mut cx, &buffer).is_ready(), "a new share");
    }
}
