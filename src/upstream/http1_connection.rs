//! HTTP/1.1 connection, driven by the task that awaits the response.
//!
//! Most requests have no body: one head is written and one response is read. A body is sent while
//! the response is awaited and read (see `upload`).
//!
//! No data may arrive between exchanges. Before a head is written, the kernel is polled for
//! unexpected bytes: they would be taken for this request's response.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, Response, header};
use http_body::Frame;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;
use tokio_util::io::poll_read_buf;
use tokio_util::task::AbortOnDropHandle;

use super::body_decoder::{BodyDecoder, Decoded};
use super::error::UpstreamError;
use super::liveness_probe::ProbedSocket;
use super::request::UpstreamRequest;
use super::request_body::{BodyFraming, OutgoingBody, Progress, RequestBody};
use super::response_head::{RequestKind, ResponseHead, ResponseHeadReader, protocol_error};
use super::settings::HeadLimits;
use super::upload::Upload;

/// Initial and maximum size of one read, in bytes.
const MIN_READ: usize = 4 * 1024;
const MAX_READ: usize = 64 * 1024;

/// Size of a typical request head in bytes.
const HEAD_CAPACITY: usize = 1024;

/// Bytes of a header besides its name and value.
const SEPARATORS: usize = 4;

/// One connection; dropping it closes it.
pub(super) struct Http1Connection {
    stream: IoStream,
    /// Bytes read but not yet parsed.
    buffer: BytesMut,
    /// Empty; keeps the memory for the next head.
    head: Vec<u8>,
    /// Size of the next read; it grows with long responses.
    read_size: usize,
}

pub(super) enum IoStream {
    Tcp(ProbedSocket<TcpStream>),
    Tls(Box<TlsStream<ProbedSocket<TcpStream>>>),
    Unix(ProbedSocket<UnixStream>),
    /// Shared with an upload, so no other request uses it.
    Shared(SharedStream),
}

/// `None` once it is closed.
type SharedStream = Arc<Mutex<Option<IoStream>>>;

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
pub(super) struct ResponseBodyState {
    decoder: BodyDecoder,
    keep_alive: bool,
    /// Whether a TLS connection may end the body without close_notify.
    lenient_close: bool,
    /// The rest of the request, if the response began before its end. Dropping it ends the upload.
    upload: Option<AbortOnDropHandle<Result<(), UpstreamError>>>,
}

impl Http1Connection {
    pub(super) fn tcp(stream: ProbedSocket<TcpStream>) -> Http1Connection {
        Http1Connection::new(IoStream::Tcp(stream))
    }

    pub(super) fn tls(stream: TlsStream<ProbedSocket<TcpStream>>) -> Http1Connection {
        Http1Connection::new(IoStream::Tls(Box::new(stream)))
    }

    pub(super) fn unix(stream: ProbedSocket<UnixStream>) -> Http1Connection {
        Http1Connection::new(IoStream::Unix(stream))
    }

    fn new(stream: IoStream) -> Http1Connection {
        Http1Connection { stream, buffer: BytesMut::new(), head: Vec::new(), read_size: MIN_READ }
    }

    /// Sends a request and waits for the response head. Interim responses are progress.
    pub(super) async fn send<B: RequestBody>(
        &mut self,
        request: &mut UpstreamRequest<OutgoingBody<B>>,
        limits: HeadLimits,
        progress: &Progress,
    ) -> Result<(Response<()>, ResponseBodyState), SendError> {
        poll_fn(|cx| self.poll_unexpected_data(cx)).await.map_err(SendError::Unsent)?;
        let mut reader = ResponseHeadReader::new(request_kind(request), limits);
        let mut head = std::mem::take(&mut self.head);
        write_head(&mut head, request);
        let framing = request.body.framing();
        let (is_written, mut upload) = match framing {
            None => {
                let is_written = self.send_head(&head).await?;
                head.clear();
                self.head = head;
                (is_written, None)
            }
            Some(framing) => {
                let body = request.body.take();
                (true, Some(Box::new(Upload::new(head, framing, body))))
            }
        };
        let parsed = poll_fn(|cx| {
            self.poll_upload(cx, &mut upload)?;
            self.poll_head(cx, &mut reader, progress)
        });
        let ResponseHead { response, framing, keep_alive } =
            parsed.await.map_err(SendError::Failed)?;
        let (decoder, keep_alive) = (BodyDecoder::new(framing), keep_alive && is_written);
        let keep_alive = keep_alive && upload.is_none();
        let upload = upload.map(|upload| self.continue_upload(*upload));
        let state = ResponseBodyState { decoder, keep_alive, lenient_close: false, upload };
        Ok((response, state))
    }

    /// Returns the address of the upstream; `None` for a Unix socket.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match &self.stream {
            IoStream::Tcp(socket) => socket.get_ref().peer_addr().ok(),
            IoStream::Tls(tls) => tls.get_ref().0.get_ref().peer_addr().ok(),
            IoStream::Unix(_) | IoStream::Shared(_) => None,
        }
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
        if self.head.capacity() > MIN_READ {
            self.head = Vec::new();
        }
        self.read_size = MIN_READ;
        self.stream.request_probe();
    }

    /// Fails if the upstream closed the connection or sent data since the last response.
    fn poll_unexpected_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        let mut bytes = [0; 1];
        let mut buffer = ReadBuf::new(&mut bytes);
        Poll::Ready(match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => Ok(()),
            Poll::Ready(Err(error)) => Err(UpstreamError::from_io(&error)),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                Err(connection_closed("while it was idle"))
            }
            Poll::Ready(Ok(())) => Err(protocol_error("data outside of any response")),
        })
    }

    /// Returns false if a response arrived before the whole head was written; the rest is then not
    /// sent.
    async fn send_head(&mut self, bytes: &[u8]) -> Result<bool, SendError> {
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
                    return Err(SendError::Unsent(UpstreamError::from_io(&error)));
                }
                Err(error) => return Err(SendError::Failed(UpstreamError::from_io(&error))),
            }
        }
        let flushed = poll_fn(|cx| Pin::new(&mut self.stream).poll_flush(cx)).await;
        flushed.map_err(|error| SendError::Failed(UpstreamError::from_io(&error)))?;
        Ok(true)
    }

    fn poll_write_or_read(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<WriteResult>> {
        if let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, bytes) {
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
            if ready!(self.poll_fill(cx)).map_err(|error| UpstreamError::from_io(&error))? == 0 {
                return Poll::Ready(Err(connection_closed("before its response")));
            }
        }
    }

    /// Sends more of a request body, and drops it at its end.
    fn poll_upload<B: RequestBody>(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut Option<Box<Upload<B>>>,
    ) -> Result<(), UpstreamError> {
        if let Some(current) = upload
            && let Poll::Ready(sent) = current.poll(cx, &mut self.stream)
        {
            *upload = None;
            sent?;
        }
        Ok(())
    }

    /// Sends the rest of a request in a task of its own: a client may send all of it before it reads the
    /// response, and a response that is not read is not polled.
    fn continue_upload<B: RequestBody>(
        &mut self,
        upload: Upload<B>,
    ) -> AbortOnDropHandle<Result<(), UpstreamError>> {
        let shared = SharedStream::default();
        let stream = std::mem::replace(&mut self.stream, IoStream::Shared(Arc::clone(&shared)));
        *shared.lock() = Some(stream);
        AbortOnDropHandle::new(tokio::spawn(async move {
            let sent = upload.finish(IoStream::Shared(Arc::clone(&shared))).await;
            if sent.is_err() {
                // The upstream may write to a client that does not read, and wait for the rest.
                *shared.lock() = None;
            }
            sent
        }))
    }

    /// Returns the next frame of the response body.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        state: &mut ResponseBodyState,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        state.check_upload(cx)?;
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
                filled => filled.map_err(|error| UpstreamError::from_io(&error))?,
            };
            if filled == 0 {
                return Poll::Ready(match state.decoder.ends_with_connection() {
                    true => None,
                    false => Some(Err(connection_closed("in the middle of its response"))),
                });
            }
        }
    }

    /// Reads the bytes of a tunnel, which may have arrived together with the 101.
    pub(super) fn poll_read_tunnel(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, to);
        }
        let length = self.buffer.len().min(to.remaining());
        to.put_slice(&self.buffer.split_to(length));
        Poll::Ready(Ok(()))
    }

    /// The stream of a tunnel, for writes.
    pub(super) fn stream(&mut self) -> Pin<&mut IoStream> {
        Pin::new(&mut self.stream)
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

    /// Fails if the client's body failed. Its end has no effect on the response.
    fn check_upload(&mut self, cx: &mut Context<'_>) -> Result<(), UpstreamError> {
        let Some(upload) = &mut self.upload else { return Ok(()) };
        let Poll::Ready(ended) = Pin::new(upload).poll(cx) else { return Ok(()) };
        self.upload = None;
        ended.unwrap_or(Ok(()))
    }

    /// Accepts the end of a TLS connection without close_notify as the end of the body.
    pub(super) fn accept_truncation(&mut self) {
        self.lenient_close = true;
    }
}

impl IoStream {
    fn is_tls(&self) -> bool {
        match self {
            IoStream::Tls(_) => true,
            IoStream::Tcp(_) | IoStream::Unix(_) | IoStream::Shared(_) => false,
        }
    }

    fn request_probe(&mut self) {
        match self {
            IoStream::Tcp(socket) => socket.request_probe(),
            IoStream::Unix(socket) => socket.request_probe(),
            IoStream::Tls(tls) => tls.get_mut().0.request_probe(),
            IoStream::Shared(_) => {}
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
            IoStream::Unix(socket) => Pin::new(socket).poll_read(cx, to),
            IoStream::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, to),
            IoStream::Shared(shared) => poll_shared(shared, |stream| stream.poll_read(cx, to)),
        }
    }
}

impl AsyncWrite for IoStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            IoStream::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            IoStream::Unix(socket) => Pin::new(socket).poll_write(cx, bytes),
            IoStream::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, bytes),
            IoStream::Shared(shared) => poll_shared(shared, |stream| stream.poll_write(cx, bytes)),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            IoStream::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            IoStream::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            IoStream::Tls(tls) => Pin::new(tls.as_mut()).poll_write_vectored(cx, slices),
            IoStream::Shared(shared) => {
                poll_shared(shared, |stream| stream.poll_write_vectored(cx, slices))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            IoStream::Tcp(_) | IoStream::Unix(_) => Poll::Ready(Ok(())),
            IoStream::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
            IoStream::Shared(shared) => poll_shared(shared, |stream| stream.poll_flush(cx)),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            IoStream::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            IoStream::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            IoStream::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
            IoStream::Shared(shared) => poll_shared(shared, |stream| stream.poll_shutdown(cx)),
        }
    }
}

fn poll_shared<T>(
    shared: &SharedStream,
    poll: impl FnOnce(Pin<&mut IoStream>) -> Poll<io::Result<T>>,
) -> Poll<io::Result<T>> {
    match &mut *shared.lock() {
        Some(stream) => poll(Pin::new(stream)),
        None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
    }
}

fn request_kind<B>(request: &UpstreamRequest<B>) -> RequestKind {
    match request.method {
        Method::HEAD => RequestKind::Head,
        _ if request.headers.contains(&header::UPGRADE) => RequestKind::Upgrade,
        _ => RequestKind::Other,
    }
}

/// Writes `Host` first (RFC 9110 7.2). Names and values were validated on construction.
fn write_head<B: RequestBody>(head: &mut Vec<u8>, request: &UpstreamRequest<OutgoingBody<B>>) {
    let target = request.target.as_str();
    head.reserve(HEAD_CAPACITY);
    for part in [request.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    if let Some(host) = request.headers.get(&header::HOST) {
        write_header(head, header::HOST.as_str(), host.as_bytes());
    }
    for (name, value) in request.headers.iter() {
        if *name != header::HOST {
            write_header(head, name.as_str(), value.as_bytes());
        }
    }
    match request.body.framing() {
        Some(BodyFraming::Chunked) => write_header(head, "transfer-encoding", b"chunked"),
        Some(BodyFraming::Length(length)) => {
            write_header(head, "content-length", length.to_string().as_bytes());
        }
        None if needs_content_length(&request.method) => {
            write_header(head, "content-length", b"0");
        }
        None => {}
    }
    head.extend_from_slice(b"\r\n");
}

fn write_header(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    // One check of the capacity for all parts.
    head.reserve(name.len() + value.len() + SEPARATORS);
    let start = head.len();
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
    capitalize(head.get_mut(start..start + name.len()).unwrap_or_default());
}

/// Writes a name, in lower case, as `Content-Length`. Some upstreams compare names with their case, although it has
/// no meaning.
fn capitalize(name: &mut [u8]) {
    let mut before = b'-';
    for byte in name {
        if before == b'-' {
            byte.make_ascii_uppercase();
        }
        before = *byte;
    }
}

/// Whether upstreams expect a `Content-Length` for this method even without a body (RFC 9110 8.6).
fn needs_content_length(method: &Method) -> bool {
    [Method::POST, Method::PUT, Method::PATCH].contains(method)
}

/// Whether a TLS connection ended without close_notify (RFC 8446 6.1). An attacker on the network
/// can cause that too.
fn is_truncation(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}

fn connection_closed(when: &str) -> UpstreamError {
    UpstreamError::ConnectionTerminated(when.to_owned())
}
