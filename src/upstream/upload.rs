//! Sends a request with a body over HTTP/1.1. The body may go on after the response has begun.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::Body;
use tokio::io::AsyncWrite;
use tokio_util::io::poll_write_buf;

use super::error::UpstreamError;
use super::request_body::{BodyFraming, OutgoingBody, RequestBody};

/// A request that is being sent.
pub(super) struct Upload<B> {
    body: OutgoingBody<B>,
    /// What the rest of the body needs.
    framing: BodyFraming,
    /// The head, or the size of a chunk. Written before `data`.
    prefix: BytesMut,
    data: Bytes,
    /// Written after `data`.
    suffix: &'static [u8],
    state: UploadState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UploadState {
    Sending,
    /// Nothing follows what is prepared.
    Prepared,
    /// The upstream closed its side. It may have responded before, so its response is still read.
    Abandoned,
}

impl<B: RequestBody> Upload<B> {
    /// A request with a serialized `head`.
    pub(super) fn new(head: Vec<u8>, framing: BodyFraming, body: OutgoingBody<B>) -> Upload<B> {
        let prefix = BytesMut::from(Bytes::from(head));
        let (data, suffix, state) = (Bytes::new(), &b""[..], UploadState::Sending);
        Upload { body, framing, prefix, data, suffix, state }
    }

    /// Sends as much as the client has sent and the upstream takes. Ready at the end of the request; pending
    /// after the upstream has closed its side.
    ///
    /// # Errors
    /// The body or the connection failed.
    pub(super) fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<Result<(), UpstreamError>> {
        if self.state == UploadState::Abandoned {
            return Poll::Pending;
        }
        match ready!(self.poll_send(cx, stream)) {
            Err(SendFailure::Body) => Poll::Ready(Err(UpstreamError::ClientBody)),
            Err(SendFailure::Write(error)) if is_closed(&error) => {
                self.state = UploadState::Abandoned;
                Poll::Pending
            }
            Err(SendFailure::Write(error)) => Poll::Ready(Err(UpstreamError::from_io(&error))),
            Ok(()) => Poll::Ready(Ok(())),
        }
    }

    /// Sends the rest. What an upstream does not take any more is discarded: the client may read the response
    /// only after it has sent everything.
    pub(super) async fn finish<S: AsyncWrite + Unpin>(
        mut self,
        mut stream: S,
    ) -> Result<(), UpstreamError> {
        poll_fn(|cx| match self.poll(cx, &mut stream) {
            Poll::Pending if self.state == UploadState::Abandoned => self.poll_discard(cx),
            sent @ (Poll::Ready(_) | Poll::Pending) => sent,
        })
        .await
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) => return Poll::Ready(Err(UpstreamError::ClientBody)),
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<Result<(), SendFailure>> {
        loop {
            // Before the write, so that a head and the first data leave together.
            let prepared = match self.is_sending() && self.data.is_empty() && self.suffix.is_empty()
            {
                true => self.poll_prepare(cx)?,
                false => Poll::Ready(()),
            };
            let mut pending = (&mut self.prefix).chain(&mut self.data).chain(&mut self.suffix);
            if pending.has_remaining() {
                if ready!(poll_write_buf(Pin::new(&mut *stream), cx, &mut pending))? == 0 {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe).into()));
                }
            } else if prepared.is_pending() || !self.is_sending() {
                ready!(Pin::new(&mut *stream).poll_flush(cx))?;
                return prepared.map(Ok);
            }
        }
    }

    fn is_sending(&self) -> bool {
        self.state == UploadState::Sending
    }

    /// Takes the next frame of the body.
    fn poll_prepare(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendFailure>> {
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => self.prepare(frame.into_data().unwrap_or_default())?,
            Some(Err(_)) => return Poll::Ready(Err(SendFailure::Body)),
            None => self.prepare_end()?,
        }
        Poll::Ready(Ok(()))
    }

    fn prepare(&mut self, data: Bytes) -> Result<(), SendFailure> {
        // An empty chunk would end the body.
        if data.is_empty() {
            return Ok(());
        }
        let is_last = self.body.is_end_stream();
        match &mut self.framing {
            BodyFraming::Chunked => {
                self.prefix.put_slice(format!("{:X}\r\n", data.len()).as_bytes());
                self.suffix = if is_last { b"\r\n0\r\n\r\n" } else { b"\r\n" };
            }
            BodyFraming::Length(left) => {
                let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                *left = left.checked_sub(length).ok_or(SendFailure::Body)?;
                if is_last && *left > 0 {
                    return Err(SendFailure::Body);
                }
            }
        }
        if is_last {
            self.state = UploadState::Prepared;
        }
        self.data = data;
        Ok(())
    }

    fn prepare_end(&mut self) -> Result<(), SendFailure> {
        self.state = UploadState::Prepared;
        match self.framing {
            BodyFraming::Chunked => self.suffix = b"0\r\n\r\n",
            BodyFraming::Length(0) => {}
            BodyFraming::Length(_) => return Err(SendFailure::Body),
        }
        Ok(())
    }
}

/// Why a request could not be sent.
enum SendFailure {
    /// The client's body failed, or does not have its length.
    Body,
    Write(io::Error),
}

impl From<io::Error> for SendFailure {
    fn from(error: io::Error) -> SendFailure {
        SendFailure::Write(error)
    }
}

/// Whether the upstream closed its connection. It may do so after an early response, with unread data.
fn is_closed(error: &io::Error) -> bool {
    [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset].contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    type Part = Result<http_body::Frame<Bytes>, io::Error>;

    fn upload(framing: BodyFraming, parts: &[&[u8]]) -> Upload<impl RequestBody + use<>> {
        let parts: Vec<Part> = parts
            .iter()
            .map(|part| Ok(http_body::Frame::data(Bytes::copy_from_slice(part))))
            .collect();
        let body = StreamBody::new(futures_util::stream::iter(parts));
        Upload::new(b"HEAD\r\n\r\n".to_vec(), framing, OutgoingBody::new(body))
    }

    async fn send(
        mut upload: Upload<impl RequestBody>,
        buffer: usize,
    ) -> (Result<(), UpstreamError>, Vec<u8>) {
        let (mut near, mut far) = duplex(buffer);
        let sending = async move { poll_fn(|cx| upload.poll(cx, &mut near)).await };
        let mut received = Vec::new();
        let (sent, read) = tokio::join!(sending, far.read_to_end(&mut received));
        read.expect("readable");
        (sent, received)
    }

    #[tokio::test]
    async fn each_part_is_framed_for_any_buffer_of_the_socket() {
        let long = [b'l'; 20_000];
        let parts: [&[u8]; 4] = [b"one", b"", &long, b"end"];
        let whole = parts.concat();
        let length = u64::try_from(whole.len()).expect("a length");
        for buffer in [1, 7, 4096, 1 << 20] {
            let (sent, received) = send(upload(BodyFraming::Length(length), &parts), buffer).await;
            assert_eq!(sent, Ok(()));
            assert_eq!(received, [b"HEAD\r\n\r\n", &*whole].concat());
            let (sent, received) = send(upload(BodyFraming::Chunked, &parts), buffer).await;
            assert_eq!(sent, Ok(()));
            let chunks: [&[u8]; 4] =
                [b"HEAD\r\n\r\n3\r\none\r\n4E20\r\n", &long, b"\r\n3\r\nend\r\n", b"0\r\n\r\n"];
            assert_eq!(received, chunks.concat());
        }
    }

    #[tokio::test]
    async fn a_body_without_its_announced_length_fails() {
        for length in [2, 4] {
            let (sent, _) = send(upload(BodyFraming::Length(length), &[b"one"]), 4096).await;
            assert_eq!(sent, Err(UpstreamError::ClientBody), "{length}");
        }
    }

    #[tokio::test]
    async fn nothing_more_is_sent_to_an_upstream_that_closed() {
        let (mut near, far) = duplex(4096);
        drop(far);
        let mut upload = upload(BodyFraming::Chunked, &[b"one"]);
        for _ in 0..2 {
            let polled = poll_fn(|cx| Poll::Ready(upload.poll(cx, &mut near))).await;
            assert!(polled.is_pending(), "the response is still read");
        }
        assert_eq!(upload.state, UploadState::Abandoned);
    }
}
