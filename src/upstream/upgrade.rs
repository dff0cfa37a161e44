//! Switching protocols: from a request to a tunnel (WebSocket).
//!
//! Each tunnel has a connection of its own. Nothing of the client's goes out before the 101: the
//! request has no body by its type (CVE-2026-2833), and [`PendingTunnel::open`] comes after the
//! caller has judged the 101.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer::framing;
use super::body::{Outgoing, RequestBody, UpstreamBody};
use super::error::UpstreamError;
use super::exchange::{Attempt, attempt, closed_at_once};
use super::pool::Lease;

/// The answer to a request for another protocol.
pub enum Switch<B: RequestBody> {
    /// A 101: check what it says (`Sec-WebSocket-Accept`) before opening the tunnel; dropping the
    /// tunnel closes the connection.
    Switched(Response<()>, PendingTunnel<B>),
    /// Any other status: an ordinary answer, and no tunnel.
    Answered(Response<UpstreamBody<B>>),
}

/// A 101 was read; not a byte has been exchanged after it.
pub struct PendingTunnel<B: RequestBody> {
    upgrade: OnUpgrade,
    lease: Lease<B>,
}

impl<B: RequestBody> PendingTunnel<B> {
    /// The bytes after the 101, both ways.
    pub async fn open(self) -> Result<Tunnel<B>, UpstreamError> {
        let upgraded = self.upgrade.await.map_err(|error| UpstreamError::from(&error))?;
        Ok(Tunnel { io: TokioIo::new(upgraded), _lease: self.lease })
    }
}

/// A connection that speaks another protocol now. It counts as a connection of its endpoint until
/// it is dropped.
pub struct Tunnel<B: RequestBody> {
    io: TokioIo<Upgraded>,
    _lease: Lease<B>,
}

pub(super) async fn switch<B: RequestBody>(
    mut lease: Lease<B>,
    request: Request<()>,
) -> Result<Switch<B>, UpstreamError> {
    match attempt(&mut lease, request.map(|()| Outgoing::empty()), None).await {
        Attempt::Answered(response) => sort(response, lease),
        Attempt::Unsent(_) => Err(closed_at_once()),
        Attempt::Unprocessed(error) | Attempt::Broken(error) => Err(error),
        Attempt::Late => Err(UpstreamError::ResponseTimeout),
    }
}

fn sort<B: RequestBody>(
    mut response: Response<hyper::body::Incoming>,
    lease: Lease<B>,
) -> Result<Switch<B>, UpstreamError> {
    framing(false, &mut response)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let lease = lease.never_again();
        let answer = response.map(|body| UpstreamBody::new(body, lease, None));
        return Ok(Switch::Answered(answer));
    }
    let upgrade = hyper::upgrade::on(&mut response);
    Ok(Switch::Switched(response.map(drop), PendingTunnel { upgrade, lease }))
}

impl<B: RequestBody> AsyncRead for Tunnel<B> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<B: RequestBody> AsyncWrite for Tunnel<B> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
