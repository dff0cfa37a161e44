//! Connection state shared by the server and the request handler.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::message::SanitizedHead;
use crate::session::{Identity, TlsFingerprint, TokenId};
use crate::upstream::PinnedConnections;

use super::body_bytes::BodyBytes;
use super::forwarded_headers::ForwardedHeaders;
use super::rendered_identity::IdentityCache;

/// Facts about one client connection. The server reads them to choose connections for eviction.
#[derive(Debug)]
pub struct ConnectionInfo {
    pub peer: IpAddr,
    /// SNI of the TLS handshake, in lower case.
    server_name: OnceLock<String>,
    fingerprint: OnceLock<TlsFingerprint>,
    certificate: OnceLock<PresentedCertificate>,
    authenticated: AtomicBool,
    has_request: AtomicBool,
    body_bytes: Arc<BodyBytes>,
    /// Forwarded headers of the last request, for reuse.
    forwarded_headers: Mutex<Option<Arc<ForwardedHeaders>>>,
    /// Identity headers of the last permit, for reuse.
    pub(super) identity: IdentityCache,
    /// Upstream connections that are authenticated for this client; they close with it.
    pub(super) pinned: PinnedConnections,
}

/// A verified certificate of a client.
#[derive(Clone, Debug)]
pub struct PresentedCertificate {
    /// First half of its SHA-256 hash.
    pub id: TokenId,
    /// The user that it names, if any.
    pub identity: Option<Arc<Identity>>,
}

impl ConnectionInfo {
    /// A new connection, without an authenticated request.
    pub fn new(peer: IpAddr) -> ConnectionInfo {
        ConnectionInfo {
            peer,
            server_name: OnceLock::new(),
            fingerprint: OnceLock::new(),
            certificate: OnceLock::new(),
            authenticated: AtomicBool::new(false),
            has_request: AtomicBool::new(false),
            body_bytes: Arc::default(),
            forwarded_headers: Mutex::new(None),
            identity: IdentityCache::default(),
            pinned: PinnedConnections::default(),
        }
    }

    /// Forwarded headers of a request, reused while client and host stay the same.
    pub(super) fn forwarded_headers(&self, head: &SanitizedHead) -> Arc<ForwardedHeaders> {
        let mut last = self.forwarded_headers.lock();
        if let Some(same) =
            last.as_ref().filter(|headers| headers.matches(head.client(), head.host()))
        {
            return Arc::clone(same);
        }
        Arc::clone(last.insert(Arc::new(ForwardedHeaders::new(head.client(), head.host().clone()))))
    }

    /// Stores the SNI of the TLS handshake.
    pub fn set_server_name(&self, server_name: Option<&str>) {
        if let Some(name) = server_name {
            self.server_name.get_or_init(|| name.to_ascii_lowercase());
        }
    }

    /// Stores the TLS fingerprint.
    pub fn set_fingerprint(&self, fingerprint: TlsFingerprint) {
        self.fingerprint.get_or_init(|| fingerprint);
    }

    /// Stores the verified certificate of the client.
    pub fn set_certificate(&self, certificate: PresentedCertificate) {
        self.certificate.get_or_init(|| certificate);
    }

    /// Returns the verified certificate of the client, if it has one.
    pub(super) fn certificate(&self) -> Option<&PresentedCertificate> {
        self.certificate.get()
    }

    /// TLS fingerprint, if it was taken.
    pub(super) fn fingerprint(&self) -> Option<TlsFingerprint> {
        self.fingerprint.get().copied()
    }

    /// SNI of the TLS handshake, if any.
    pub(super) fn server_name(&self) -> Option<&str> {
        self.server_name.get().map(String::as_str)
    }

    /// Returns true once, for the first request of the connection.
    pub(super) fn is_first_request(&self) -> bool {
        !self.has_request.load(Ordering::Relaxed) && !self.has_request.swap(true, Ordering::Relaxed)
    }

    /// Records that a request had a valid session.
    pub(super) fn mark_authenticated(&self) {
        if !self.authenticated.load(Ordering::Relaxed) {
            self.authenticated.store(true, Ordering::Relaxed);
        }
    }

    /// Whether any request of this connection had a valid session.
    pub fn is_authenticated(&self) -> bool {
        self.authenticated.load(Ordering::Relaxed)
    }

    /// Bytes received in request bodies, framing included.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes.count()
    }

    /// Counts one piece of a request body.
    pub fn add_body_bytes(&self, bytes: usize) {
        self.body_bytes.add(bytes);
    }

    /// Counter of the bytes received in request bodies.
    pub fn body_byte_counter(&self) -> &Arc<BodyBytes> {
        &self.body_bytes
    }
}
