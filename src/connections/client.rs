//! The client's side of an exchange, apart from the request head. The server creates these values, so that only
//! the server depends on the HTTP library.

use std::error::Error;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::io::{AsyncRead, AsyncWrite};

/// The body of a client's request.
pub type ClientBody = UnsyncBoxBody<Bytes, ClientBodyError>;

/// Why a client's body ended early.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ClientBodyError(#[from] pub Box<dyn Error + Send + Sync>);

/// The byte stream of a client connection after a 101.
pub trait ClientStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ClientStream for T {}

/// Completes once the 101 is sent. `None` if the client is gone.
pub type OpeningStream = BoxFuture<'static, Option<Box<dyn ClientStream>>>;

/// The client connection of an upgrade request.
pub struct ClientUpgrade {
    pub stream: OpeningStream,
    /// Held while the tunnel is open, because the server releases its own permit on an upgrade.
    pub permit: Box<dyn Evictable>,
}

/// A connection that counts against the connection limit until it is dropped.
pub trait Evictable: Send + Sync + 'static {
    /// Waits until the connection limiter evicts this connection.
    fn evicted(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}
