//! A live connection's end of the register: whether it goes on.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::pulse::Looked;
use super::{Cut, Inner, Live};
use crate::session::SessionKey;

/// How soon it is seen that there was one.
const NEXT_LOOK: Duration = Duration::from_millis(20);

/// One registered connection. Dropping it takes it off the list.
pub struct Watched {
    pub(super) live: Live,
    pub(super) key: SessionKey,
    pub(super) number: u64,
    pub(super) end: Ending,
}

/// Tells whether a connection goes on; for a second place that has to hear it.
pub struct Ending {
    live: Live,
    signal: Arc<Signal>,
    told: Pin<Box<WaitForCancellationFutureOwned>>,
    /// For the next look, while there was none since this process stood still.
    waits: Option<Pin<Box<Sleep>>>,
}

pub(super) struct Signal {
    told: CancellationToken,
    why: OnceLock<Cut>,
    looked: Looked,
}

impl Watched {
    /// As [`Ending::poll_on`].
    pub fn poll_on(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        self.end.poll_on(cx)
    }

    /// As [`Ending::on`].
    pub async fn on(&mut self) -> Result<(), Cut> {
        self.end.on().await
    }

    /// Waits until it has to end.
    pub async fn cut(&mut self) -> Cut {
        std::future::poll_fn(|cx| self.end.poll_cut(cx)).await
    }

    /// For another place of the same connection.
    pub fn ending(&self) -> Ending {
        Ending::of(&self.live, Arc::clone(&self.end.signal))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.live.release(&self.key, self.number);
    }
}

impl Ending {
    pub(super) fn of(live: &Live, signal: Arc<Signal>) -> Ending {
        let told = Box::pin(signal.told.clone().cancelled_owned());
        Ending { live: live.clone(), signal, told, waits: None }
    }

    /// Whether what has come may be passed on; asked before it is read, or after and before it is
    /// written. The look comes first, the cut second: a process that stood still for a while passes
    /// nothing on before this session has been looked at again, for what came meanwhile is for, or from,
    /// somebody who may have logged out. While nobody answers it waits until it is cut as unchecked.
    pub fn poll_on(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        while self.signal.has_missed(&self.live) {
            if let Poll::Ready(why) = self.poll_cut(cx) {
                return Poll::Ready(Err(why));
            }
            let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(NEXT_LOOK)));
            std::task::ready!(waits.as_mut().poll(cx));
            self.waits = None;
        }
        Poll::Ready(match self.poll_cut(cx) {
            Poll::Ready(why) => Err(why),
            Poll::Pending => Ok(()),
        })
    }

    /// As [`Ending::poll_on`].
    pub async fn on(&mut self) -> Result<(), Cut> {
        std::future::poll_fn(|cx| self.poll_on(cx)).await
    }

    /// Ready once the connection has to end.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<Cut> {
        std::task::ready!(self.told.as_mut().poll(cx));
        Poll::Ready(self.signal.why.get().copied().unwrap_or(Cut::SessionEnded))
    }
}

impl Signal {
    pub(super) fn of(looked: Looked) -> Signal {
        Signal { told: CancellationToken::new(), why: OnceLock::new(), looked }
    }

    fn has_missed(&self, live: &Live) -> bool {
        live.inner.pulse.has_missed(&self.looked, Instant::now())
    }
}

impl Inner {
    pub(super) fn tell(&self, signal: &Signal, why: Cut) {
        if signal.why.set(why).is_ok() {
            self.metrics.live_cut(why.word());
            signal.told.cancel();
        }
    }
}
