//! Protocol upgrade from a request to a tunnel (WebSocket).
//!
//! Each tunnel has its own connection. No client data is sent before the 101: the request has no
//! body by its type (CVE-2026-2833), and the caller calls [`PendingTunnel::open`] only after
//! validating the 101.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::message::Endpoint;

use super::error::UpstreamError;
use super::exchange::{SendOutcome, closed_before_request, send_once};
use super::pool::Lease;
use super::request_body::{OutgoingBody, RequestBody};
use super::response_body::UpstreamBody;
use super::response_head::framing;

/// Response to an upgrade request.
pub enum UpgradeResponse<B: RequestBody> {
    /// A 101. Validate it (`Sec-WebSocket-Accept`) before opening the tunnel; dropping the tunnel
    /// closes the connection.
    Switched(Response<()>, PendingTunnel<B>),
    /// Any other status: an ordinary response without a tunnel.
    Declined(Response<UpstreamBody<B>>),
}

/// A tunnel after its 101 and before its first byte.
pub struct PendingTunnel<B: RequestBody> {
    upgrade: OnUpgrade,
    lease: Lease<B>,
}

impl<B: RequestBody> UpgradeResponse<B> {
    /// Returns the endpoint that sent the response.
    pub fn endpoint(&self) -> &Endpoint {
        match self {
            UpgradeResponse::Switched(_, tunnel) => tunnel.lease.endpoint(),
            UpgradeResponse::Declined(response) => response.body().endpoint(),
        }
    }
}

impl<B: RequestBody> PendingTunnel<B> {
    /// Opens the tunnel.
    pub async fn open(self) -> Result<Tunnel<B>, UpstreamError> {
        let upgraded = self.upgrade.await.map_err(|error| UpstreamError::from(&error))?;
        Ok(Tunnel { io: TokioIo::new(upgraded), _lease: self.lease })
    }
}

/// An upgraded connection. It counts towards the endpoint's limit until it is dropped.
pub struct Tunnel<B: RequestBody> {
    io: TokioIo<Upgraded>,
    _lease: Lease<B>,
}

pub(super) async fn send_upgrade_request<B: RequestBody>(
    mut lease: Lease<B>,
    request: Request<()>,
) -> Result<UpgradeResponse<B>, UpstreamError> {
    match send_once(&mut lease, request.map(|()| OutgoingBody::empty()), None).await {
        SendOutcome::Response(response) => classify_response(response, lease).await,
        SendOutcome::Unsent(_) => Err(closed_before_request()),
        SendOutcome::Unprocessed(error) | SendOutcome::Failed(error) => Err(error),
        SendOutcome::TimedOut => Err(UpstreamError::ResponseTimeout),
    }
}

async fn classify_response<B: RequestBody>(
    mut response: Response<hyper::body::Incoming>,
    mut lease: Lease<B>,
) -> Result<UpgradeResponse<B>, UpstreamError> {
    lease.restrict(response.headers());
    framing(false, &mut response)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let lease = lease.discard_after_use();
        let mut response = response.map(|body| UpstreamBody::new(body, lease, None, false));
        response.body_mut().prefetch().await?;
        return Ok(UpgradeResponse::Declined(response));
    }
    let upgrade = hyper::upgrade::on(&mut response);
    Ok(UpgradeResponse::Switched(response.map(drop), PendingTunnel { upgrade, lease }))
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
