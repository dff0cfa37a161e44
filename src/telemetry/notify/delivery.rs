//! One message in one channel, until it arrived or there is no point in trying.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::debug;

use super::RetryPolicy;
use super::channel::{Channel, DeliveryError, Stderr};
use super::message::Message;
use crate::secret::random_bytes;

/// Of one pause to the next.
const BACKOFF_FACTOR: u32 = 3;

pub(super) struct Delivery {
    pub(super) message: Arc<Message>,
    pub(super) channel: Arc<Channel>,
    /// Whose turn it is to be told.
    pub(super) turns: Arc<Semaphore>,
    pub(super) timeout: Duration,
    pub(super) retry: RetryPolicy,
}

impl Delivery {
    /// What came back in the end.
    pub(super) async fn run(&self) -> Result<String, DeliveryError> {
        let longest = self.retry.total_timeout;
        let told = tokio::time::timeout(longest, self.attempts()).await;
        told.unwrap_or(Err(DeliveryError::Timeout(longest)))
    }

    async fn attempts(&self) -> Result<String, DeliveryError> {
        let mut pause = self.retry.initial_delay;
        let mut left = self.retry.attempts;
        loop {
            left = left.saturating_sub(1);
            match self.attempt().await {
                Err(error) if left > 0 && !error.is_permanent() => {
                    debug!(event = "notify.retrying", channel = %self.channel, %error, remaining = left);
                    let asked = error.wait().unwrap_or_default().min(self.retry.max_retry_after);
                    tokio::time::sleep(asked + with_jitter(pause)).await;
                    pause = pause.saturating_mul(BACKOFF_FACTOR);
                }
                result => return result,
            }
        }
    }

    async fn attempt(&self) -> Result<String, DeliveryError> {
        // Nobody closes it while deliveries run.
        let _turn = self.turns.acquire().await.ok();
        self.channel.tell(&self.message.signed(), self.timeout, Stderr::Discard).await
    }
}

/// From half to one and a half: gateways that saw the same outage do not come back together.
fn with_jitter(pause: Duration) -> Duration {
    let [random] = random_bytes::<1>();
    pause.mul_f64(0.5 + f64::from(random) / 255.0)
}
