//! One event as it is told: the same id and the same bytes at every attempt and in every channel.

use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXLOWER;

use crate::clock::Clock;
use crate::secret::{SigningSecret, random_bytes};
use crate::telemetry::audit::entry::AuditEntry;

pub(super) struct Message {
    id: String,
    body: Bytes,
    secret: Option<Arc<SigningSecret>>,
}

/// A message, signed for one attempt: receivers refuse what was signed long ago.
pub(super) struct SignedMessage {
    pub(super) id: String,
    pub(super) timestamp: String,
    pub(super) signature: Option<String>,
    pub(super) body: Bytes,
}

impl Message {
    pub(super) fn new(entry: &AuditEntry, secret: Option<Arc<SigningSecret>>) -> Message {
        let id = format!("msg_{}", HEXLOWER.encode(&random_bytes::<16>()));
        let body = entry.to_json(&id).into();
        Message { id, body, secret }
    }

    /// By the system's clock, as the receiver's is.
    pub(super) fn signed(&self) -> SignedMessage {
        let now = Clock::System.now().seconds();
        SignedMessage {
            id: self.id.clone(),
            timestamp: now.to_string(),
            signature: self.secret.as_ref().map(|secret| secret.sign(&self.id, now, &self.body)),
            body: self.body.clone(),
        }
    }
}
