//! Connections that outlive their request: WebSocket tunnels and event streams.
//!
//! Each is registered under its session before it opens, and cut when the session ends: at once on
//! this gateway, and on others when they next look (every two seconds).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::session::{NotBefore, SessionKey, Standing};
use crate::store::{Loaded, Slot};

use super::Guard;

/// All live connections of a process, by session.
#[derive(Clone, Default)]
pub struct Live {
    sessions: Arc<Mutex<HashMap<SessionKey, Entry>>>,
}

struct Entry {
    cut: CancellationToken,
    count: usize,
}

/// One registered connection. Dropping it takes it off the list.
pub struct Watched {
    live: Live,
    key: SessionKey,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Live {
    /// Registers a connection of a session.
    pub fn watch(&self, key: SessionKey) -> Watched {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = sessions
            .entry(key)
            .or_insert_with(|| Entry { cut: CancellationToken::new(), count: 0 });
        entry.count += 1;
        let cut = Box::pin(entry.cut.clone().cancelled_owned());
        Watched { live: self.clone(), key, cut }
    }

    /// Cuts all connections of a session on this gateway.
    pub fn cut(&self, key: &SessionKey) {
        // The entry stays until its connections are gone: one that registers now is cut at once.
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = sessions.get(key) {
            entry.cut.cancel();
        }
    }

    /// Sessions with a live connection.
    pub fn sessions(&self) -> Vec<SessionKey> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    fn release(&self, key: &SessionKey) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = sessions.get_mut(key) {
            entry.count -= 1;
            if entry.count == 0 {
                sessions.remove(key);
            }
        }
    }
}

impl Watched {
    /// Ready once the session ended.
    pub fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.cut.as_mut().poll(cx)
    }

    /// Waits for the end of the session.
    pub async fn cut(&mut self) {
        self.cut.as_mut().await;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.live.release(&self.key);
    }
}

impl Guard {
    /// Looks at every session with a live connection and cuts those that ended. While the store is
    /// away nothing is cut: an outage logs nobody out.
    pub async fn cut_ended(&self) {
        for key in self.shared.live.sessions() {
            let Ok(loaded) = self.store.load(&key).await else { continue };
            if self.has_ended(&key, loaded) {
                self.shared.live.cut(&key);
            }
        }
    }

    fn has_ended(&self, key: &SessionKey, loaded: Loaded) -> bool {
        let Loaded { slot, touched, not_before } = loaded;
        match slot {
            Slot::Absent | Slot::Ended { .. } => true,
            Slot::Live { .. } => {
                let keys = self.shared.keys.load_full();
                let record = match self.open(&keys, key, slot) {
                    Ok((_, record)) => record,
                    Err(denial) => return !denial.is_passing(),
                };
                let standing = Standing { touched, not_before, everyone: NotBefore::default() };
                self.record_is_over(key, &record, &standing)
            }
        }
    }
}
