//! What a store keeps of a session: hashes, times and who it is. No token, nothing reversible.

use serde::{Deserialize, Serialize};

use super::context::ClientContext;
use super::seen::Seen;
use super::{SessionKey, Token};
use crate::clock::UnixMillis;
use crate::secret::seal::{self, OpenError};
use crate::secret::{KeyId, KeyRing, equal_in_constant_time};

/// One session. Times are wall-clock milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub identity: Identity,
    /// When the session began. Not-before lines are compared with this.
    pub created: UnixMillis,
    /// When the user last proved who he is.
    pub authenticated: UnixMillis,
    /// The last activity known when the record was written; a store may know a later one.
    pub active: UnixMillis,
    /// When the session ends whatever happens.
    pub absolute_end: UnixMillis,
    pub generation: u32,
    /// SHA-256 of the current token's secret.
    pub current: [u8; 32],
    /// When the current token was first shown to us.
    pub current_since: UnixMillis,
    /// Whether the current token was in use a minute or more after it was first shown: by then every
    /// browser has it on disk, and an older one is not the work of a crash.
    pub seasoned: bool,
    pub previous: Option<Superseded>,
    pub offer: Option<Offer>,
    /// A fingerprint of the credential that the login proved, zero when there is none: a session does
    /// not outlive the password it began with.
    pub credential: [u8; 8],
    /// Set when a replay was answered by asking for a fresh login instead of ending the session.
    pub frozen: bool,
    /// Whether the token is due whatever its age: a sensitive action was done with it.
    pub due: bool,
    /// Where the session began.
    pub begun_from: ClientContext,
    /// Where the current token was first shown from.
    pub renewed_from: ClientContext,
    /// Where else it was used from.
    pub seen: Seen,
}

/// Who a session belongs to, as the login said.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Identity {
    /// The account's name, unique in this installation.
    pub user: String,
    pub name: Option<String>,
    pub email: Option<String>,
    pub groups: Vec<String>,
}

/// The token before the current one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Superseded {
    pub hash: [u8; 32],
    /// It is answered before this time.
    pub until: UnixMillis,
    /// From this time on it is a replay; between the two it is refused without an alarm, for a request
    /// may have been long under way.
    pub alarm: UnixMillis,
}

/// A successor that was offered and not yet shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The key whose ratchet made the successor.
    pub ratchet: KeyId,
    pub salt: [u8; 16],
    /// SHA-256 of the successor's secret.
    pub hash: [u8; 32],
    /// Offers made at least one grace apart.
    pub counted: u8,
    pub last_counted: UnixMillis,
}

/// Why a session ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    Logout,
    Revoked,
    Replaced,
    Idle,
    Absolute,
    Theft,
    NotRenewing,
    AccountGone,
    CredentialChanged,
    /// All sessions of the user were revoked, because one of them was stolen.
    TheftElsewhere,
}

impl EndReason {
    /// All reasons with the code by which a store keeps them.
    pub const ALL: [(EndReason, u8); 10] = [
        (EndReason::Logout, 1),
        (EndReason::Revoked, 2),
        (EndReason::Replaced, 3),
        (EndReason::Idle, 4),
        (EndReason::Absolute, 5),
        (EndReason::Theft, 6),
        (EndReason::NotRenewing, 7),
        (EndReason::AccountGone, 8),
        (EndReason::CredentialChanged, 9),
        (EndReason::TheftElsewhere, 10),
    ];

    /// The code by which a store keeps the reason.
    pub fn code(self) -> u8 {
        Self::ALL.iter().find(|(reason, _)| *reason == self).map_or(0, |(_, code)| *code)
    }

    /// The reason behind a code; an unknown code (of a newer gateway) reads as `Revoked`.
    pub fn from_code(code: u8) -> EndReason {
        let known = Self::ALL.iter().find(|(_, known)| *known == code);
        known.map_or(EndReason::Revoked, |(reason, _)| *reason)
    }

    /// The word for logs and answers.
    pub fn word(self) -> &'static str {
        match self {
            EndReason::Logout => "logout",
            EndReason::Revoked => "revoked",
            EndReason::Replaced => "replaced",
            EndReason::Idle => "idle",
            EndReason::Absolute => "absolute",
            EndReason::Theft => "theft",
            EndReason::NotRenewing => "not-renewing",
            EndReason::AccountGone => "account-gone",
            EndReason::CredentialChanged => "credential-changed",
            EndReason::TheftElsewhere => "theft-elsewhere",
        }
    }
}

/// Why bytes from a store are no record. They are refused and reported, never served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the record does not open: {0}")]
    Open(#[from] OpenError),
    #[error("the record is not of a known format")]
    Format,
    #[error("the record belongs to another user")]
    User,
}

const FORMAT: u8 = 4;

impl Record {
    /// A session that begins now with `token`.
    pub fn begin(
        identity: Identity,
        token: &Token,
        at: UnixMillis,
        end: UnixMillis,
        from: ClientContext,
    ) -> Record {
        Record {
            identity,
            created: at,
            authenticated: at,
            active: at,
            absolute_end: end,
            generation: token.generation,
            current: token.hash(),
            current_since: at,
            seasoned: false,
            previous: None,
            offer: None,
            credential: [0; 8],
            frozen: false,
            due: false,
            begun_from: from.clone(),
            renewed_from: from,
            seen: Seen::default(),
        }
    }

    /// Whether this is an older copy of the same session than `other`: of an earlier token, or from
    /// before a replay froze it.
    pub fn is_before(&self, other: &Record) -> bool {
        let thawed = other.frozen && !self.frozen;
        self.generation < other.generation || (self.generation == other.generation && thawed)
    }

    /// Whether this token, the one before the current, was still answered at a time that is over.
    pub fn answered_at(&self, token: &Token, at: UnixMillis) -> bool {
        let is_it = |previous: &&Superseded| equal_in_constant_time(&previous.hash, &token.hash());
        self.previous.as_ref().filter(is_it).is_some_and(|previous| at < previous.until)
    }

    /// Seals the record for a store, bound to session, user and generation.
    ///
    /// Layout: `format 1 | generation 4 | sealed`.
    pub fn seal(&self, keys: &KeyRing, key: &SessionKey) -> Vec<u8> {
        let plain = postcard::to_allocvec(self).unwrap_or_default();
        let sealed = seal::seal(keys, &key.id.0, &binding(key, self.generation), &plain);
        let mut out = Vec::with_capacity(5 + sealed.len());
        out.push(FORMAT);
        out.extend_from_slice(&self.generation.to_be_bytes());
        out.extend_from_slice(&sealed);
        out
    }

    /// Opens what [`Record::seal`] made for the same session.
    pub fn open(keys: &KeyRing, key: &SessionKey, stored: &[u8]) -> Result<Record, RecordError> {
        let (head, sealed) = stored.split_at_checked(5).ok_or(RecordError::Format)?;
        let [FORMAT, a, b, c, d] = *head else {
            return Err(RecordError::Format);
        };
        let generation = u32::from_be_bytes([a, b, c, d]);
        let plain = seal::open(keys, &key.id.0, &binding(key, generation), sealed)?;
        let record: Record = postcard::from_bytes(&plain).map_err(|_| RecordError::Format)?;
        if record.generation != generation {
            return Err(RecordError::Format);
        }
        if keys.tag_of(&record.identity.user) != key.tag.0 {
            return Err(RecordError::User);
        }
        Ok(record)
    }
}

fn binding(key: &SessionKey, generation: u32) -> [u8; 28] {
    let mut out = [0; 28];
    out[..8].copy_from_slice(&key.tag.0);
    out[8..24].copy_from_slice(&key.id.0);
    out[24..].copy_from_slice(&generation.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::secret::random_bytes;
    use crate::session::{SessionId, UserTag};

    fn sample(keys: &KeyRing, user: &str) -> (SessionKey, Record) {
        let key = SessionKey { tag: UserTag(keys.tag_of(user)), id: SessionId(random_bytes()) };
        let token = Token::new(keys.newest().0, key, 0, random_bytes());
        let identity = Identity { user: user.to_owned(), ..Identity::default() };
        let from = ClientContext::new(IpAddr::from([127, 0, 0, 1]), b"test");
        (key, Record::begin(identity, &token, UnixMillis(1_000), UnixMillis(2_000), from))
    }

    #[test]
    fn a_record_reads_back_for_its_own_session_only() {
        let keys = KeyRing::generate("now");
        let (key, record) = sample(&keys, "alice");
        let stored = record.seal(&keys, &key);
        assert_eq!(Record::open(&keys, &key, &stored), Ok(record));
        let (other, _) = sample(&keys, "alice");
        assert_eq!(Record::open(&keys, &other, &stored), Err(RecordError::Open(OpenError::Forged)));
    }

    #[test]
    fn a_record_spliced_to_another_generation_or_user_is_refused() {
        let keys = KeyRing::generate("now");
        let (key, record) = sample(&keys, "alice");
        let mut stored = record.seal(&keys, &key);
        stored[4] = 1;
        assert!(Record::open(&keys, &key, &stored).is_err());
        let (_, bob) = sample(&keys, "bob");
        assert_eq!(Record::open(&keys, &key, &bob.seal(&keys, &key)), Err(RecordError::User));
    }

    #[test]
    fn stored_bytes_show_no_name() {
        let keys = KeyRing::generate("now");
        let (key, record) = sample(&keys, "alice-in-the-clear");
        let stored = record.seal(&keys, &key);
        assert!(!stored.windows(5).any(|window| window == b"alice"));
    }

    #[test]
    fn every_end_reason_reads_back_from_its_code() {
        for (reason, code) in EndReason::ALL {
            assert_eq!(EndReason::from_code(reason.code()), reason);
            assert_ne!(code, 0);
        }
    }
}
