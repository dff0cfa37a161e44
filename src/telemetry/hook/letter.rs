//! One event as it is told: the same id and the same bytes at every attempt and in every way.

use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXLOWER;

use crate::clock::Clock;
use crate::secret::{SigningSecret, random_bytes};
use crate::telemetry::audit::line::Entry;

pub(super) struct Letter {
    id: String,
    body: Bytes,
    secret: Option<Arc<SigningSecret>>,
}

/// A letter, signed for one attempt: receivers refuse what was signed long ago.
pub(super) struct Stamped {
    pub(super) id: String,
    pub(super) timestamp: String,
    pub(super) signature: Option<String>,
    pub(super) body: Bytes,
}

impl Letter {
    pub(super) fn new(entry: &Entry, secret: Option<Arc<SigningSecret>>) -> Letter {
        let id = format!("msg_{}", HEXLOWER.encode(&random_bytes::<16>()));
        let body = entry.letter(&id).into();
        Letter { id, body, secret }
    }

    /// By the system's clock, as the receiver's is.
    pub(super) fn stamped(&self) -> Stamped {
        let now = Clock::System.now().seconds();
        Stamped {
            id: self.id.clone(),
            timestamp: now.to_string(),
            signature: self.secret.as_ref().map(|secret| secret.sign(&self.id, now, &self.body)),
            body: self.body.clone(),
        }
    }
}
