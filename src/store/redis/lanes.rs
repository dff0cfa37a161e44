//! A worker's connections to one server.
//!
//! A write that waits for replicas holds up whatever comes after it on its connection. So such writes have
//! connections of their own, each carries one of them at a time, and who finds none free for as long as
//! replicas are waited for writes without waiting: where replicas are missing, a burst of logins costs each
//! of them that time once, and nobody takes the queue for a server that is silent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::dial::{Dialer, Patience};
use super::server::{Answer, Failure, Sent, Server, Wait, Wire};

/// Writes of one worker that wait for one server's replicas at a time.
const WAITING: usize = 4;

/// The shortest wait: none at all means for ever to Redis.
const LEAST: Duration = Duration::from_millis(1);

/// The connection that all share, and those on which one write at a time waits for replicas.
pub(super) struct Lanes {
    shared: Wire,
    free: Semaphore,
    /// Those that nothing waits on.
    idle: Mutex<Vec<Wire>>,
    patience: Patience,
}

impl Lanes {
    pub(super) fn new(server: Arc<Server>, patience: Patience) -> Lanes {
        let shared = Wire::new(server, patience);
        Lanes { shared, free: Semaphore::new(WAITING), idle: Mutex::default(), patience }
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.shared.server
    }

    /// Sends once. What is waited for replicas is waited for a connection too: together no longer.
    pub(super) async fn send(
        &self,
        dialer: &Arc<Dialer>,
        sent: Sent<'_>,
    ) -> Result<Answer, Failure> {
        let Some(wait) = sent.wait else {
            return self.shared.send(dialer, sent).await;
        };
        let until = Instant::now() + wait.timeout;
        let Ok(Ok(lane)) = tokio::time::timeout_at(until, self.lane(wait)).await else {
            return self.shared.send(dialer, Sent { wait: None, ..sent }).await;
        };
        let left = until.saturating_duration_since(Instant::now()).max(LEAST);
        let wait = Some(Wait { timeout: left, ..wait });
        let answer = lane.wire.send(dialer, Sent { wait, ..sent }).await;
        self.idle().push(lane.wire);
        answer
    }

    /// Given back by who was answered. Of who went away in the middle the server may still wait for
    /// replicas, so that connection is dropped with it.
    async fn lane(&self, wait: Wait) -> Result<Lane<'_>, tokio::sync::AcquireError> {
        let permit = self.free.acquire().await?;
        let idle = self.idle().pop();
        let wire = idle.unwrap_or_else(|| {
            let mut patience = self.patience;
            patience.answer = patience.answer.saturating_add(wait.timeout);
            Wire::new(Arc::clone(self.server()), patience)
        });
        Ok(Lane { wire, _permit: permit })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Wire>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Lane<'a> {
    wire: Wire,
    _permit: SemaphorePermit<'a>,
}
