//! The delivery of one notification over one channel, with retries.

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use tokio::sync::Semaphore;
use tracing::debug;

use super::channel::{Channel, DeliveryError, SignedMessage, Stderr};
use crate::clock::Clock;
use crate::secret::{SigningSecret, random_bytes};
use crate::telemetry::events::EcsEvent;

/// Factor from one retry delay to the next.
const BACKOFF_FACTOR: f32 = 3.0;

/// The retries of a delivery.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    pub attempts: usize,
    /// Delay before the second attempt, three times as long before each further one. A random part of up
    /// to 100 % is added, so that gateways do not retry at the same time.
    pub initial_delay: Duration,
    /// Maximum Retry-After of a receiver, which is added to the delay.
    pub max_retry_after: Duration,
    /// Maximum time for all attempts, including the wait for a permit.
    pub total_timeout: Duration,
    /// Maximum time for pending deliveries at a stop of the gateway.
    pub drain_timeout: Duration,
}

impl Default for RetryPolicy {
    /// Six attempts in about two minutes, or seven minutes with the longest Retry-After.
    fn default() -> RetryPolicy {
        RetryPolicy {
            attempts: 6,
            initial_delay: Duration::from_millis(700),
            max_retry_after: Duration::from_secs(60),
            total_timeout: Duration::from_secs(10 * 60),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

impl RetryPolicy {
    fn backoff(&self) -> ExponentialBuilder {
        ExponentialBuilder::new()
            .with_min_delay(self.initial_delay)
            .with_factor(BACKOFF_FACTOR)
            .without_max_delay()
            .with_max_times(self.attempts.saturating_sub(1))
            .with_jitter()
    }
}

/// A notification, with the same ID and body for all attempts and channels.
pub(super) struct Message {
    id: String,
    body: Bytes,
    secret: Option<Arc<SigningSecret>>,
}

impl Message {
    pub(super) fn new(event: &EcsEvent, secret: Option<Arc<SigningSecret>>) -> Message {
        let id = format!("msg_{}", HEXLOWER.encode(&random_bytes::<16>()));
        let body = event.to_json(&id).into();
        Message { id, body, secret }
    }

    /// Signs with the time of the system clock, which receivers compare with theirs.
    pub(super) fn sign(&self) -> SignedMessage {
        let now = Clock::System.now().seconds();
        SignedMessage {
            id: self.id.clone(),
            timestamp: now.to_string(),
            signature: self.secret.as_ref().map(|secret| secret.sign(&self.id, now, &self.body)),
            body: self.body.clone(),
        }
    }
}

pub(super) struct Delivery {
    pub(super) message: Arc<Message>,
    pub(super) channel: Arc<Channel>,
    /// Permits for concurrent attempts.
    pub(super) permits: Arc<Semaphore>,
    /// For one attempt.
    pub(super) timeout: Duration,
    pub(super) retry: RetryPolicy,
}

impl Delivery {
    /// Returns the result of the last attempt.
    pub(super) async fn run(&self) -> Result<String, DeliveryError> {
        let max_retry_after = self.retry.max_retry_after;
        let attempts = (|| self.attempt())
            .retry(self.retry.backoff())
            .when(|error: &DeliveryError| !error.is_permanent())
            .adjust(|error, delay| {
                let requested = error.retry_after().unwrap_or_default().min(max_retry_after);
                delay.map(|delay| delay + requested)
            })
            .notify(|error, delay| {
                debug!(event = "notify.retrying", channel = %self.channel, %error, ?delay);
            });
        let total = self.retry.total_timeout;
        tokio::time::timeout(total, attempts).await.unwrap_or(Err(DeliveryError::Timeout(total)))
    }

    async fn attempt(&self) -> Result<String, DeliveryError> {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await.ok();
        self.channel.send(&self.message.sign(), self.timeout, Stderr::Discard).await
    }
}
