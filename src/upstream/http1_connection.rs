//! HTTP/1.1 connection for requests without a body, driven by the task that awaits the response.
//!
//! Most requests have no body: one head is written and one response is read. hyper's client has to
//! be ready for bodies in both directions, so it keeps a task per connection and passes each
//! message through channels. That was a quarter of the gateway's cost per request.
//!
//! No data may arrive between exchanges. Before a head is written, the kernel is polled for
//! unexpected bytes: they would be taken for this request's response.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use http::{HeaderMap, Method, Request, Response, header};
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;
use tokio_util::io::poll_read_buf;

use super::body_decoder::{BodyDecoder, Decoded};
use super::error::UpstreamError;
use super::liveness_probe::ProbedSocket;
use super::request_body::Progress;
use super::response_head::{ResponseHead, ResponseHeadReader, protocol_error};
use super::settings::HeadLimits;

/// Initial and maximum size of one read, in bytes.
const MIN_READ: usize = 4 * 1024;
const MAX_READ: usize = 64 * 1024;

/// Size of a typical request head in bytes.
const HEAD_CAPACITY: usize = 1024;

/// One connection; dropping it closes it.
pub(super) struct Http1Connection {
    stream: IoStream,
    /// Bytes read but not yet parsed.
    buffer: BytesMut,
    /// Size of the next read; it grows with long responses.
    read_size: usize,
}

enum IoStream {
    Tcp(ProbedSocket),
    Tls(Box<TlsStream<ProbedSocket>>),
}

/// A serialized request head.
pub(super) struct RequestHead {
    bytes: Vec<u8>,
    is_head: bool,
}

enum WriteResult {
    Written(usize),
    /// The upstream sent data before the whole request was written.
    Interrupted,
}

/// Reason for a failed send.
pub(super) enum SendError {
    /// The connection was unusable and nothing was written.
    Unsent(UpstreamError),
    /// The upstream may have received the request.
    Failed(UpstreamError),
}

/// Progress of a response whose head has been read.
#[derive(Debug)]
pub(super) struct ResponseBodyState {
    decoder: BodyDecoder,
    keep_alive: bool,
    /// Whether a TLS connection may end the body without close_notify.
    lenient_close: bool,
}

impl Http1Connection {
    pub(super) fn tcp(stream: ProbedSocket) -> Http1Connection {
        Http1Connection::new(IoStream::Tcp(stream))
    }

    pub(super) fn tls(stream: TlsStream<ProbedSocket>) -> Http1Connection {
        Http1Connection::new(IoStream::Tls(Box::new(stream)))
    }

    fn new(stream: IoStream) -> Http1Connection {
        Http1Connection { stream, buffer: BytesMut::new(), read_size: MIN_READ }
    }

    /// Sends a request head and waits for the response head. Interim responses are progress.
    pub(super) async fn send(
        &mut self,
        head: &RequestHead,
        limits: HeadLimits,
        progress: &Progress,
    ) -> Result<(Response<()>, ResponseBodyState), SendError> {
        poll_fn(|cx| self.poll_unexpected_data(cx)).await.map_err(SendError::Unsent)?;
        let is_written = self.write_head(&head.bytes).await?;
        let mut reader = ResponseHeadReader::new(head.is_head, limits);
        let parsed = poll_fn(|cx| self.poll_head(cx, &mut reader, progress)).await;
        let ResponseHead { response, framing, keep_alive } = parsed.map_err(SendError::Failed)?;
        let keep_alive = keep_alive && is_written;
        let decoder = BodyDecoder::new(framing);
        Ok((response, ResponseBodyState { decoder, keep_alive, lenient_close: false }))
    }

    /// Whether the connection may carry another exchange.
    pub(super) fn is_reusable(&self, state: &ResponseBodyState) -> bool {
        state.keep_alive && state.decoder.is_complete() && self.buffer.is_empty()
    }

    /// Whether the rest of the body is known to be complete in the buffer.
    pub(super) fn has_buffered(&self, state: &ResponseBodyState) -> bool {
        let buffered = u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
        state.decoder.size_hint().exact().is_some_and(|left| left <= buffered)
    }

    /// Releases buffer memory that an idle connection does not need.
    pub(super) fn shrink(&mut self) {
        if self.buffer.capacity() > MIN_READ {
            self.buffer = BytesMut::new();
        }
        self.read_size = MIN_READ;
        self.stream.socket().probe().request();
    }

    /// Fails if the upstream closed the connection or sent data since the last response.
    fn poll_unexpected_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        let mut bytes = [0; 1];
        let mut buffer = ReadBuf::new(&mut bytes);
        Poll::Ready(match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => Ok(()),
            Poll::Ready(Err(error)) => Err(io_failure(&error)),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                Err(connection_closed("while it was idle"))
            }
            Poll::Ready(Ok(())) => Err(protocol_error("data outside of any response")),
        })
    }

    /// Returns false if a response arrived before the whole head was written; the rest is then not
    /// sent.
    async fn write_head(&mut self, bytes: &[u8]) -> Result<bool, SendError> {
        let mut left = bytes;
        while !left.is_empty() {
            match poll_fn(|cx| self.poll_write_or_read(cx, left)).await {
                Ok(WriteResult::Written(0)) => {
                    return Err(SendError::Failed(connection_closed(
                        "before the request was sent",
                    )));
                }
                Ok(WriteResult::Written(taken)) => left = left.get(taken..).unwrap_or_default(),
                Ok(WriteResult::Interrupted) => return Ok(false),
                // TLS may have sent part of a write that it reports as failed.
                Err(error) if left.len() == bytes.len() && !self.stream.is_tls() => {
                    return Err(SendError::Unsent(io_failure(&error)));
                }
                Err(error) => return Err(SendError::Failed(io_failure(&error))),
            }
        }
        let flushed = poll_fn(|cx| self.stream.poll_flush(cx)).await;
        flushed.map_err(|error| SendError::Failed(io_failure(&error)))?;
        Ok(true)
    }

    fn poll_write_or_read(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<WriteResult>> {
        if let Poll::Ready(written) = self.stream.poll_write(cx, bytes) {
            return Poll::Ready(written.map(WriteResult::Written));
        }
        match ready!(self.poll_fill(cx))? {
            0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            _ => Poll::Ready(Ok(WriteResult::Interrupted)),
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut ResponseHeadReader,
        progress: &Progress,
    ) -> Poll<Result<ResponseHead, UpstreamError>> {
        loop {
            let interim = reader.interim();
            if !self.buffer.is_empty()
                && let Some(head) = reader.read(&mut self.buffer)?
            {
                return Poll::Ready(Ok(head));
            }
            if reader.interim() > interim {
                progress.record_progress();
            }
            if ready!(self.poll_fill(cx)).map_err(|error| io_failure(&error))? == 0 {
                return Poll::Ready(Err(connection_closed("before its response")));
            }
        }
    }

    /// Returns the next frame of the response body.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        state: &mut ResponseBodyState,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, UpstreamError>>> {
        loop {
            match state.decoder.next(&mut self.buffer)? {
                Decoded::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Decoded::Trailers(headers) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(headers))));
                }
                Decoded::End => return Poll::Ready(None),
                Decoded::NeedMore => {}
            }
            let filled = match ready!(self.poll_fill(cx)) {
                Err(error) if state.lenient_close && is_truncation(&error) => 0,
                filled => filled.map_err(|error| io_failure(&error))?,
            };
            if filled == 0 {
                return Poll::Ready(match state.decoder.ends_with_connection() {
                    true => None,
                    false => Some(Err(connection_closed("in the middle of its response"))),
                });
            }
        }
    }

    /// Reads more bytes; returns zero at the end of the connection.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer.reserve(self.read_size);
        let filled = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.buffer))?;
        if filled >= self.read_size {
            self.read_size = MAX_READ.min(self.read_size * 2);
        }
        Poll::Ready(Ok(filled))
    }
}

impl ResponseBodyState {
    pub(super) fn decoder(&self) -> &BodyDecoder {
        &self.decoder
    }

    /// Accepts the end of a TLS connection without close_notify as the end of the body.
    pub(super) fn accept_truncation(&mut self) {
        self.lenient_close = true;
    }
}

impl IoStream {
    fn is_tls(&self) -> bool {
        match self {
            IoStream::Tcp(_) => false,
            IoStream::Tls(_) => true,
        }
    }

    fn socket(&self) -> &ProbedSocket {
        match self {
            IoStream::Tcp(socket) => socket,
            IoStream::Tls(tls) => tls.get_ref().0,
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            IoStream::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            IoStream::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            IoStream::Tcp(_) => Poll::Ready(Ok(())),
            IoStream::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }
}

impl AsyncRead for IoStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            IoStream::Tcp(socket) => Pin::new(socket).poll_read(cx, to),
            IoStream::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, to),
        }
    }
}

impl RequestHead {
    /// Serializes a request in origin form that has no body.
    pub(super) fn new<B>(request: &Request<B>) -> RequestHead {
        RequestHead { bytes: serialize_head(request), is_head: request.method() == Method::HEAD }
    }
}

/// Writes `Host` first (RFC 9110 7.2). Names and values were validated on construction.
fn serialize_head<B>(request: &Request<B>) -> Vec<u8> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let mut head = Vec::with_capacity(HEAD_CAPACITY);
    for part in [request.method().as_str(), " ", target, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    write_if_present(&mut head, request.headers(), &header::HOST);
    for (name, value) in request.headers() {
        if *name != header::HOST {
            write_header(&mut head, name.as_str(), value.as_bytes());
        }
    }
    if needs_content_length(request.method()) {
        write_header(&mut head, "content-length", b"0");
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn write_if_present(head: &mut Vec<u8>, headers: &HeaderMap, name: &header::HeaderName) {
    if let Some(value) = headers.get(name) {
        write_header(head, name.as_str(), value.as_bytes());
    }
}

fn write_header(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    write_title_case(head, name);
    for part in [b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}

/// Some upstreams compare names with their case (`Content-Length`), although it has no meaning.
fn write_title_case(head: &mut Vec<u8>, name: &str) {
    let mut before = b'-';
    head.extend(name.bytes().map(|byte| {
        let is_first = std::mem::replace(&mut before, byte) == b'-';
        // Names are in lower case.
        if is_first { byte.to_ascii_uppercase() } else { byte }
    }));
}

/// Whether upstreams expect a `Content-Length` for this method even without a body (RFC 9110 8.6).
fn needs_content_length(method: &Method) -> bool {
    [Method::POST, Method::PUT, Method::PATCH].contains(method)
}

/// Whether a TLS connection ended without close_notify (RFC 8446 6.1). An attacker on the network
/// can cause that too.
pub(super) fn is_truncation(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}

fn connection_closed(when: &str) -> UpstreamError {
    UpstreamError::ConnectionTerminated(when.to_owned())
}

fn io_failure(error: &io::Error) -> UpstreamError {
    let protocol_kinds = [io::ErrorKind::InvalidData, io::ErrorKind::InvalidInput];
    if protocol_kinds.contains(&error.kind()) {
        UpstreamError::Protocol(error.to_string())
    } else {
        UpstreamError::ConnectionTerminated(error.to_string())
    }
}
