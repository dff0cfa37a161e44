//! The session record: hashes, times and the user's identity. No token can be derived from it.

use serde::{Deserialize, Serialize};

use super::context::ClientContext;
use super::known_locations::KnownLocations;
use super::{SessionKey, Token};
use crate::clock::UnixMillis;
use crate::secret::seal::{self, OpenError};
use crate::secret::{KeyId, KeyRing, constant_time_eq};

/// The stored state of one session. Times are wall-clock milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub identity: Identity,
    /// Creation time. Revocation cutoffs are compared with it.
    pub created: UnixMillis,
    /// Time of the last login.
    pub authenticated: UnixMillis,
    /// Last activity when the record was written. [`SessionFacts`](super::SessionFacts) may have a later
    /// one.
    pub last_active: UnixMillis,
    /// End of the session by the absolute timeout.
    pub absolute_end: UnixMillis,
    pub generation: u32,
    /// SHA-256 of the current token's secret.
    pub current_hash: [u8; 32],
    /// Time at which the client first presented the current token.
    pub current_since: UnixMillis,
    /// Whether the current token was used a minute or more after its first use. By then every browser
    /// has it on disk, so a crash does not explain an older token.
    pub persisted_by_browser: bool,
    pub previous: Option<Superseded>,
    pub offer: Option<Offer>,
    /// Digest of the credential used at login; zero if there is none. A session ends when the user
    /// changes the password.
    pub credential: [u8; 8],
    /// Whether every token is refused until the user logs in again.
    pub reauth_required: bool,
    /// Whether the token must rotate regardless of its age, after a sensitive action.
    pub rotation_due: bool,
    /// Location of the login.
    pub created_from: ClientContext,
    /// Location from which the current token was first presented.
    pub rotated_from: ClientContext,
    /// Other locations from which the session was used.
    pub known_locations: KnownLocations,
}

/// The user of a session, as established at login.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Identity {
    /// User name, unique in this installation.
    pub user: String,
    pub name: Option<String>,
    pub email: Option<String>,
    pub groups: Vec<String>,
}

/// The token before the current one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Superseded {
    pub hash: [u8; 32],
    /// End of the grace period.
    pub grace_until: UnixMillis,
    /// Start of the theft verdict. In between, the token is refused without one, because a request may
    /// have been in flight for a while.
    pub theft_after: UnixMillis,
}

/// A successor that the client has not yet presented.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Key from which the successor was derived.
    pub ratchet_key: KeyId,
    pub salt: [u8; 16],
    /// SHA-256 of the successor's secret.
    pub hash: [u8; 32],
    /// Number of offers. Offers within one grace period count once.
    pub count: u8,
    pub last_counted: UnixMillis,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    Logout,
    Revoked,
    Replaced,
    Idle,
    Absolute,
    Theft,
    #[serde(rename = "not-renewing")]
    RotationIgnored,
    AccountGone,
    CredentialChanged,
    /// Another session of the user was stolen, and all of the user's sessions were revoked.
    TheftElsewhere,
}

impl EndReason {
    /// All reasons with their codes in a store.
    pub const ALL: [(EndReason, u8); 10] = [
        (EndReason::Logout, 1),
        (EndReason::Revoked, 2),
        (EndReason::Replaced, 3),
        (EndReason::Idle, 4),
        (EndReason::Absolute, 5),
        (EndReason::Theft, 6),
        (EndReason::RotationIgnored, 7),
        (EndReason::AccountGone, 8),
        (EndReason::CredentialChanged, 9),
        (EndReason::TheftElsewhere, 10),
    ];

    /// Returns the code in a store.
    pub fn code(self) -> u8 {
        Self::ALL.iter().find(|(reason, _)| *reason == self).map_or(0, |(_, code)| *code)
    }

    /// Returns the reason of a code. An unknown code, from a newer gateway, reads as `Revoked`.
    pub fn from_code(code: u8) -> EndReason {
        let known = Self::ALL.iter().find(|(_, known)| *known == code);
        known.map_or(EndReason::Revoked, |(reason, _)| *reason)
    }

    /// Returns the name for logs and responses.
    pub fn as_str(self) -> &'static str {
        match self {
            EndReason::Logout => "logout",
            EndReason::Revoked => "revoked",
            EndReason::Replaced => "replaced",
            EndReason::Idle => "idle",
            EndReason::Absolute => "absolute",
            EndReason::Theft => "theft",
            EndReason::RotationIgnored => "not-rotating",
            EndReason::AccountGone => "account-gone",
            EndReason::CredentialChanged => "credential-changed",
            EndReason::TheftElsewhere => "theft-elsewhere",
        }
    }
}

/// Why stored bytes are not a valid record. Such a record is reported and never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("cannot open the session record: {0}")]
    Open(#[from] OpenError),
    #[error("the session record has an unknown format")]
    Format,
    #[error("the session record belongs to another user")]
    User,
}

const FORMAT: u8 = 4;

impl Record {
    /// Creates the record of a new session with its first token.
    pub fn new(
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
            last_active: at,
            absolute_end: end,
            generation: token.generation,
            current_hash: token.hash(),
            current_since: at,
            persisted_by_browser: false,
            previous: None,
            offer: None,
            credential: [0; 8],
            reauth_required: false,
            rotation_due: false,
            created_from: from.clone(),
            rotated_from: from,
            known_locations: KnownLocations::default(),
        }
    }

    /// Returns whether this is an older copy than `other`: of an earlier generation, or from before
    /// reauthentication was required.
    pub fn is_older_than(&self, other: &Record) -> bool {
        let lost_reauth = other.reauth_required && !self.reauth_required;
        self.generation < other.generation || (self.generation == other.generation && lost_reauth)
    }

    /// Returns whether `token` is the superseded token and was within its grace period at `at`.
    pub fn was_in_grace_at(&self, token: &Token, at: UnixMillis) -> bool {
        let is_token = |previous: &&Superseded| constant_time_eq(&previous.hash, &token.hash());
        self.previous.as_ref().filter(is_token).is_some_and(|previous| at < previous.grace_until)
    }

    /// Seals the record for a store. The session, the user and the generation are authenticated.
    ///
    /// Layout: `format 1 | generation 4 | sealed`.
    pub fn seal(&self, keys: &KeyRing, key: &SessionKey) -> Vec<u8> {
        let plain = postcard::to_allocvec(self).unwrap_or_default();
        let sealed = seal::seal(keys, &key.id.0, &associated_data(key, self.generation), &plain);
        let mut out = Vec::with_capacity(5 + sealed.len());
        out.push(FORMAT);
        out.extend_from_slice(&self.generation.to_be_bytes());
        out.extend_from_slice(&sealed);
        out
    }

    /// Opens a record that [`Record::seal`] sealed for the same session.
    pub fn open(keys: &KeyRing, key: &SessionKey, stored: &[u8]) -> Result<Record, RecordError> {
        let (head, sealed) = stored.split_at_checked(5).ok_or(RecordError::Format)?;
        let [FORMAT, a, b, c, d] = *head else {
            return Err(RecordError::Format);
        };
        let generation = u32::from_be_bytes([a, b, c, d]);
        let plain = seal::open(keys, &key.id.0, &associated_data(key, generation), sealed)?;
        let record: Record = postcard::from_bytes(&plain).map_err(|_| RecordError::Format)?;
        if record.generation != generation {
            return Err(RecordError::Format);
        }
        if keys.user_tag(&record.identity.user) != key.tag.0 {
            return Err(RecordError::User);
        }
        Ok(record)
    }
}

fn associated_data(key: &SessionKey, generation: u32) -> [u8; 28] {
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
        let key = SessionKey { tag: UserTag(keys.user_tag(user)), id: SessionId(random_bytes()) };
        let token = Token::new(keys.signing_key().0, key, 0, random_bytes());
        let identity = Identity { user: user.to_owned(), ..Identity::default() };
        let from = ClientContext::new(IpAddr::from([127, 0, 0, 1]), b"test");
        (key, Record::new(identity, &token, UnixMillis(1_000), UnixMillis(2_000), from))
    }

    #[test]
    fn a_record_opens_for_its_own_session_only() {
        let keys = KeyRing::generate("now");
        let (key, record) = sample(&keys, "alice");
        let stored = record.seal(&keys, &key);
        assert_eq!(Record::open(&keys, &key, &stored), Ok(record));
        let (other, _) = sample(&keys, "alice");
        assert_eq!(Record::open(&keys, &other, &stored), Err(RecordError::Open(OpenError::Forged)));
    }

    #[test]
    fn a_record_moved_to_another_generation_or_user_is_refused() {
        let keys = KeyRing::generate("now");
        let (key, record) = sample(&keys, "alice");
        let mut stored = record.seal(&keys, &key);
        stored[4] = 1;
        assert!(Record::open(&keys, &key, &stored).is_err());
        let (_, bob) = sample(&keys, "bob");
        assert_eq!(Record::open(&keys, &key, &bob.seal(&keys, &key)), Err(RecordError::User));
    }

    #[test]
    fn sealed_bytes_do_not_contain_the_user_name() {
        let keys = KeyRing::generate("now");
        let (key, record) = sample(&keys, "alice-in-the-clear");
        let stored = record.seal(&keys, &key);
        assert!(!stored.windows(5).any(|window| window == b"alice"));
    }

    #[test]
    fn every_end_reason_round_trips_through_its_code() {
        for (reason, code) in EndReason::ALL {
            assert_eq!(EndReason::from_code(reason.code()), reason);
            assert_ne!(code, 0);
        }
    }
}
