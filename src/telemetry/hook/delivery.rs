//! One letter in one way, until it arrived or there is no point in trying.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::debug;

use super::Pace;
use super::letter::Letter;
use super::way::{Failure, Voice, Way};
use crate::secret::random_bytes;

/// Of one pause to the next.
const LONGER: u32 = 3;

pub(super) struct Delivery {
    pub(super) letter: Arc<Letter>,
    pub(super) way: Arc<Way>,
    /// Whose turn it is to be told.
    pub(super) turns: Arc<Semaphore>,
    pub(super) timeout: Duration,
    pub(super) pace: Pace,
}

impl Delivery {
    /// What came back in the end.
    pub(super) async fn run(&self) -> Result<String, Failure> {
        let longest = self.pace.longest;
        let told = tokio::time::timeout(longest, self.attempts()).await;
        told.unwrap_or(Err(Failure::Late(longest)))
    }

    async fn attempts(&self) -> Result<String, Failure> {
        let mut pause = self.pace.pause;
        let mut left = self.pace.attempts;
        loop {
            left = left.saturating_sub(1);
            match self.attempt().await {
                Err(error) if left > 0 && !error.is_final() => {
                    debug!(event = "notify-waits", way = %self.way, %error, left);
                    let asked = error.wait().unwrap_or_default().min(self.pace.asked);
                    tokio::time::sleep(asked + jittered(pause)).await;
                    pause = pause.saturating_mul(LONGER);
                }
                result => return result,
            }
        }
    }

    async fn attempt(&self) -> Result<String, Failure> {
        // Nobody closes it while deliveries run.
        let _turn = self.turns.acquire().await.ok();
        self.way.tell(&self.letter.stamped(), self.timeout, Voice::Unheard).await
    }
}

/// From half to one and a half: gateways that saw the same outage do not come back together.
fn jittered(pause: Duration) -> Duration {
    let [random] = random_bytes::<1>();
    pause.mul_f64(0.5 + f64::from(random) / 255.0)
}
