//! One connection, as the gateway and the server see it together.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::message::SanitizedHead;
use crate::session::Fingerprint;

use super::way::Way;

/// Who is at the other end, and what the gateway learned about them. The server reads it to tell
/// clients apart when there is not room for all.
#[derive(Debug)]
pub struct Caller {
    pub peer: IpAddr,
    /// Of the TLS handshake, in lower case.
    server_name: OnceLock<String>,
    fingerprint: OnceLock<Fingerprint>,
    known: AtomicBool,
    received: AtomicU64,
    /// Of the last request.
    way: Mutex<Option<Arc<Way>>>,
}

/// Beside each piece of a body: its frame's own bytes.
const FRAMING: u64 = 64;

impl Caller {
    /// A stranger.
    pub fn new(peer: IpAddr) -> Caller {
        Caller {
            peer,
            server_name: OnceLock::new(),
            fingerprint: OnceLock::new(),
            known: AtomicBool::new(false),
            received: AtomicU64::new(0),
            way: Mutex::new(None),
        }
    }

    /// The way of a request: as last time, where it is the same.
    pub(super) fn way(&self, head: &SanitizedHead) -> Arc<Way> {
        let mut last = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = last.as_ref().filter(|way| way.is(head.client(), head.host())) {
            return Arc::clone(same);
        }
        Arc::clone(last.insert(Arc::new(Way::new(head.client(), head.host().clone()))))
    }

    /// Notes the host that the handshake was for.
    pub fn asks_for(&self, server_name: Option<&str>) {
        if let Some(name) = server_name {
            self.server_name.get_or_init(|| name.to_ascii_lowercase());
        }
    }

    /// Notes what the handshake looked like.
    pub fn shook_hands(&self, fingerprint: Fingerprint) {
        self.fingerprint.get_or_init(|| fingerprint);
    }

    /// What the handshake looked like, where it was looked at.
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint.get().copied()
    }

    /// The host that the handshake was for, where it named one.
    pub(super) fn server_name(&self) -> Option<&str> {
        self.server_name.get().map(String::as_str)
    }

    /// A request of this connection had a live session.
    pub(super) fn is_known_now(&self) {
        if !self.known.load(Ordering::Relaxed) {
            self.known.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a live session was ever shown here.
    pub fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Bytes that came and were wanted: bodies.
    pub fn wanted(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(super) fn took(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(FRAMING);
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }
}
