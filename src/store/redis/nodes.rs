//! Where the primaries are, and how to open a connection of one's own to each.
//!
//! What is promised: the list always names the servers that writes go to now, one for a single server,
//! and it changes *before* a command goes to another one. Who follows changes drops its connections
//! when it does, and opens new ones.

use std::sync::Arc;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, ProtocolVersion, PushInfo, RedisResult};
use tokio::sync::watch;

use super::{Redis, Shared};
use crate::store::Unavailable;

/// A server that takes writes.
#[derive(Clone)]
pub(in crate::store) struct Primary {
    shared: Arc<Shared>,
}

impl Primary {
    /// For logs.
    pub(in crate::store) fn address(&self) -> &str {
        &self.shared.address
    }

    /// A new RESP3 connection. `on_push` gets every push in the order of arrival, and a
    /// [`Disconnection`](::redis::PushKind::Disconnection) when the connection breaks; it must not block.
    /// Commands on it have no deadline but their caller's.
    pub(in crate::store) async fn open_push(
        &self,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Result<MultiplexedConnection, Unavailable> {
        let deadline = self.shared.connect_timeout();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(deadline))
            .set_response_timeout(None)
            .set_push_sender(move |push| -> Result<(), ()> {
                on_push(push);
                Ok(())
            });
        let connected = async {
            let client = resp3(&self.shared.client)?;
            client.get_multiplexed_async_connection_with_config(&config).await
        };
        // The crate's own deadline does not cover the handshake that follows the connection.
        match tokio::time::timeout(deadline.saturating_mul(2), connected).await {
            Ok(connected) => connected.map_err(|error| self.shared.unavailable(&error)),
            Err(_) => Err(self.shared.silent(deadline)),
        }
    }

    /// What a failed command means to an operator.
    pub(in crate::store) fn unavailable(&self, error: &::redis::RedisError) -> Unavailable {
        self.shared.unavailable(error)
    }
}

impl Redis {
    /// The primaries as they are now, and as they change.
    pub(in crate::store) fn primaries(&self) -> watch::Receiver<Arc<[Primary]>> {
        let only = Primary { shared: Arc::clone(&self.shared) };
        let (sender, receiver) = watch::channel(Arc::from([only]));
        // One server stays the one: the sender goes, the value stays.
        drop(sender);
        receiver
    }
}

/// The same client, speaking the protocol that has pushes.
fn resp3(client: &Client) -> RedisResult<Client> {
    let info = client.get_connection_info().clone();
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Client::open(info.set_redis_settings(settings))
}
