//! An HTTP/1.1 connection for requests without a body, driven by whoever waits for the answer.
//!
//! Most requests have no body. For them a head is written and an answer read; the HTTP library's
//! client, which must be ready for bodies both ways at once, keeps a task for each connection and
//! passes every message through channels. That was a quarter of what a request cost the gateway.
//!
//! The connection is silent between exchanges: before a head is written, the kernel is asked whether
//! anything came. Whatever did would be taken for this request's answer.

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

use super::answer::{Answer, AnswerReader, wrong};
use super::content::{Content, Piece};
use super::error::UpstreamError;
use super::socket::Socket;

/// What is read at a time: at first, and at most.
const READ_LEAST: usize = 4 * 1024;
const READ_MOST: usize = 64 * 1024;

/// A usual head.
const HEAD: usize = 1024;

/// One connection. Dropped, it is closed.
pub(super) struct Plain {
    stream: Stream,
    /// What was read and not yet taken.
    buffer: BytesMut,
    /// How much is read at a time: more, while answers are long.
    reads: usize,
}

enum Stream {
    Tcp(Socket),
    Tls(Box<TlsStream<Socket>>),
}

/// A request's head as bytes.
pub(super) struct Question {
    bytes: Vec<u8>,
    is_head: bool,
}

enum Wrote {
    Some(usize),
    /// The other side speaks already.
    Interrupted,
}

/// Why there is no answer.
pub(super) enum Trouble {
    /// The connection was no good, and nothing of the request was written.
    Unsent(UpstreamError),
    /// The request may have arrived.
    Broken(UpstreamError),
}

/// What is left of an answer whose head was read.
#[derive(Debug)]
pub(super) struct Unread {
    content: Content,
    persists: bool,
}

impl Plain {
    pub(super) fn tcp(stream: Socket) -> Plain {
        Plain::over(Stream::Tcp(stream))
    }

    pub(super) fn tls(stream: TlsStream<Socket>) -> Plain {
        Plain::over(Stream::Tls(Box::new(stream)))
    }

    fn over(stream: Stream) -> Plain {
        Plain { stream, buffer: BytesMut::new(), reads: READ_LEAST }
    }

    /// Sends a question and waits for its answer's head.
    pub(super) async fn ask(
        &mut self,
        question: &Question,
    ) -> Result<(Response<()>, Unread), Trouble> {
        poll_fn(|cx| self.poll_silent(cx)).await.map_err(Trouble::Unsent)?;
        let is_heard = self.write(&question.bytes).await?;
        let mut reader = AnswerReader::new(question.is_head);
        let answer = poll_fn(|cx| self.poll_head(cx, &mut reader)).await;
        let Answer { response, framing, persists } = answer.map_err(Trouble::Broken)?;
        let persists = persists && is_heard;
        Ok((response, Unread { content: Content::new(framing), persists }))
    }

    /// Whether it may carry another exchange after this one.
    pub(super) fn is_clean(&self, unread: &Unread) -> bool {
        unread.persists && unread.content.is_done() && self.buffer.is_empty()
    }

    /// Keeps no more memory than an idle connection needs.
    pub(super) fn rest(&mut self) {
        if self.buffer.capacity() > READ_LEAST {
            self.buffer = BytesMut::new();
        }
        self.reads = READ_LEAST;
        self.stream.socket().look().again();
    }

    /// Nothing came since the last answer, and the other side is there.
    fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        let mut bytes = [0; 1];
        let mut buffer = ReadBuf::new(&mut bytes);
        Poll::Ready(match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => Ok(()),
            Poll::Ready(Err(error)) => Err(broken(&error)),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Err(closed("while it was idle")),
            Poll::Ready(Ok(())) => Err(wrong("it spoke without being asked")),
        })
    }

    /// False where an answer came before all was taken: it is to be read, and the rest is not sent.
    async fn write(&mut self, bytes: &[u8]) -> Result<bool, Trouble> {
        let mut left = bytes;
        while !left.is_empty() {
            match poll_fn(|cx| self.poll_write_or_hear(cx, left)).await {
                Ok(Wrote::Some(0)) => return Err(Trouble::Broken(closed("before it was asked"))),
                Ok(Wrote::Some(taken)) => left = left.get(taken..).unwrap_or_default(),
                Ok(Wrote::Interrupted) => return Ok(false),
                // TLS may have sent a part of what it says it did not take.
                Err(error) if left.len() == bytes.len() && !self.stream.is_tls() => {
                    return Err(Trouble::Unsent(broken(&error)));
                }
                Err(error) => return Err(Trouble::Broken(broken(&error))),
            }
        }
        let flushed = poll_fn(|cx| self.stream.poll_flush(cx)).await;
        flushed.map_err(|error| Trouble::Broken(broken(&error)))?;
        Ok(true)
    }

    fn poll_write_or_hear(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<Wrote>> {
        if let Poll::Ready(written) = self.stream.poll_write(cx, bytes) {
            return Poll::Ready(written.map(Wrote::Some));
        }
        match ready!(self.poll_fill(cx))? {
            0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            _ => Poll::Ready(Ok(Wrote::Interrupted)),
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut AnswerReader,
    ) -> Poll<Result<Answer, UpstreamError>> {
        loop {
            if !self.buffer.is_empty()
                && let Some(answer) = reader.read(&mut self.buffer)?
            {
                return Poll::Ready(Ok(answer));
            }
            if ready!(self.poll_fill(cx)).map_err(|error| broken(&error))? == 0 {
                return Poll::Ready(Err(closed("before its answer")));
            }
        }
    }

    /// The next piece of a body.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        unread: &mut Unread,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, UpstreamError>>> {
        loop {
            match unread.content.next(&mut self.buffer)? {
                Piece::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Piece::Trailers(fields) => return Poll::Ready(Some(Ok(Frame::trailers(fields)))),
                Piece::End => return Poll::Ready(None),
                Piece::More => {}
            }
            if ready!(self.poll_fill(cx)).map_err(|error| broken(&error))? == 0 {
                return Poll::Ready(match unread.content.ends_with_connection() {
                    true => None,
                    false => Some(Err(closed("in the middle of its answer"))),
                });
            }
        }
    }

    /// Reads some more; zero at the connection's end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer.reserve(self.reads);
        let filled = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.buffer))?;
        if filled >= self.reads {
            self.reads = READ_MOST.min(self.reads * 2);
        }
        Poll::Ready(Ok(filled))
    }
}

impl Unread {
    pub(super) fn content(&self) -> &Content {
        &self.content
    }
}

impl Stream {
    fn is_tls(&self) -> bool {
        match self {
            Stream::Tcp(_) => false,
            Stream::Tls(_) => true,
        }
    }

    fn socket(&self) -> &Socket {
        match self {
            Stream::Tcp(socket) => socket,
            Stream::Tls(tls) => tls.get_ref().0,
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Stream::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(_) => Poll::Ready(Ok(())),
            Stream::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(socket) => Pin::new(socket).poll_read(cx, to),
            Stream::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, to),
        }
    }
}

impl Question {
    /// Of a request in origin form that has no body.
    pub(super) fn new<B>(request: &Request<B>) -> Question {
        Question { bytes: written(request), is_head: request.method() == Method::HEAD }
    }
}

/// `Host` first (RFC 9110 7.2). Names and values were checked when they were made.
fn written<B>(request: &Request<B>) -> Vec<u8> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let mut head = Vec::with_capacity(HEAD);
    for part in [request.method().as_str(), " ", target, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    write_field(&mut head, request.headers(), &header::HOST);
    for (name, value) in request.headers() {
        if *name != header::HOST {
            write_line(&mut head, name.as_str(), value.as_bytes());
        }
    }
    if expects_length(request.method()) {
        write_line(&mut head, "content-length", b"0");
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn write_field(head: &mut Vec<u8>, headers: &HeaderMap, name: &header::HeaderName) {
    if let Some(value) = headers.get(name) {
        write_line(head, name.as_str(), value.as_bytes());
    }
}

fn write_line(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}

/// Methods of which apps ask how long the body is, even where there is none (RFC 9110 8.6).
fn expects_length(method: &Method) -> bool {
    [Method::POST, Method::PUT, Method::PATCH].contains(method)
}

fn closed(when: &str) -> UpstreamError {
    UpstreamError::ConnectionTerminated(when.to_owned())
}

fn broken(error: &io::Error) -> UpstreamError {
    let spoke_wrongly = [io::ErrorKind::InvalidData, io::ErrorKind::InvalidInput];
    if spoke_wrongly.contains(&error.kind()) {
        UpstreamError::Protocol(error.to_string())
    } else {
        UpstreamError::ConnectionTerminated(error.to_string())
    }
}
