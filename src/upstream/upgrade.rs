//! Protocol upgrade from a request to a tunnel (WebSocket).
//!
//! Each tunnel has its own connection. No client data is sent before the 101: the request has no
//! body by its type (CVE-2026-2833), and the caller calls [`PendingTunnel::open`] only after
//! validating the 101.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::message::Endpoint;

use super::error::UpstreamError;
use super::exchange::{Http1Outcome, closed_before_request};
use super::http1_connection::Http1Connection;
use super::pool::Lease;
use super::request_body::RequestBody;
use super::response_body::UpstreamBody;

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
    pub fn open(self) -> Tunnel<B> {
        Tunnel { lease: self.lease }
    }
}

/// An upgraded connection. It counts towards the endpoint's limit until it is dropped.
pub struct Tunnel<B: RequestBody> {
    lease: Lease<B>,
}

impl<B: RequestBody> Tunnel<B> {
    fn connection(&mut self) -> io::Result<&mut Http1Connection> {
        self.lease.http1().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// Accepts the response to an upgrade request.
pub(super) async fn accept<B: RequestBody>(
    sent: Http1Outcome<B>,
) -> Result<UpgradeResponse<B>, UpstreamError> {
    let (response, state, lease) = match sent {
        Http1Outcome::Response(response, state, lease) => (response, state, lease),
        Http1Outcome::Retry(_) => return Err(closed_before_request()),
        Http1Outcome::Failed(error) => return Err(error),
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(UpgradeResponse::Switched(response, PendingTunnel { lease }));
    }
    let lease = lease.discard_after_use();
    let mut response = response.map(|()| UpstreamBody::from_http1(state, lease));
    response.body_mut().prefetch().await?;
    Ok(UpgradeResponse::Declined(response))
}

impl<B: RequestBody> AsyncRead for Tunnel<B> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.connection()?.poll_read_tunnel(cx, buf)
    }
}

impl<B: RequestBody> AsyncWrite for Tunnel<B> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.connection()?.stream().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection()?.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection()?.stream().poll_shutdown(cx)
    }
}
