//! The session record: hashes, times and the user's identity. No token can be derived from it.
//!
//! Formats:
//! - 4: the fields in order, as Postcard writes them. It is written whenever it suffices, so gateways
//!   that know only format 4 share all such sessions.
//! - 5: the same, followed by [`Extension`]s. An extension adds a field without a new format.
//!
//! A field that an older gateway must not ignore needs a new format. `docs/decisions/036-record-format.md`
//! describes upgrades and downgrades.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::context::ClientContext;
use super::extension::Extension;
use super::fingerprint::TlsFingerprint;
use super::identity::Identity;
use super::{SessionKey, Token};
use crate::clock::UnixMillis;
use crate::secret::seal::{self, OpenError};
use crate::secret::{KeyId, KeyRing, constant_time_eq};

/// The stored state of one session. Times are wall-clock milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Shared, so a request of an external account copies a pointer.
    #[serde(with = "shared_identity")]
    pub identity: Arc<Identity>,
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
    /// When the user proved a second factor; `None` for a login with one. Extension 7 of format 5.
    #[serde(skip)]
    pub second_factor: Option<UnixMillis>,
    /// Extensions of format 5 that this version does not know, by ascending ID. They are written back.
    #[serde(skip)]
    pub extensions: Vec<Extension>,
}

/// Networks and clients beside those of the login. Empty for most sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownLocations {
    /// The current network is at the end.
    pub(super) networks: Vec<KnownNetwork>,
    pub(super) clients: Vec<KnownClient>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownNetwork {
    pub(super) address: IpAddr,
    /// When the session last entered or left the network.
    pub(super) last_used: UnixMillis,
    /// Whether a route in enforce mode accepts it.
    pub(super) trusted: bool,
}

/// A client, identified by user agent and TLS fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownClient {
    pub(super) user_agent: String,
    pub(super) fingerprint: Option<TlsFingerprint>,
    pub(super) trusted: bool,
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

/// Why stored bytes are not a valid record. Such a record is reported and never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("cannot open the session record: {0}")]
    Open(#[from] OpenError),
    #[error("the session record has an unknown format")]
    Format,
    #[error("the session record belongs to another user")]
    User,
    #[error("a newer version wrote the session record, in format {0}; upgrade this gateway")]
    Newer(u8),
}

const FORMAT_4: u8 = 4;
const FORMAT_5: u8 = 5;

/// ID of the extension with [`Record::second_factor`].
const SECOND_FACTOR: u16 = 7;

impl Record {
    /// Creates the record of a new session with its first token.
    pub fn new(
        identity: impl Into<Arc<Identity>>,
        token: &Token,
        at: UnixMillis,
        end: UnixMillis,
        from: ClientContext,
    ) -> Record {
        Record {
            identity: identity.into(),
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
            second_factor: None,
            extensions: Vec::new(),
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
        let (format, plain) = self.encode();
        let data = AssociatedData::new(format, key, self.generation);
        let sealed = seal::seal(keys, &key.id.0, data.as_slice(), &plain);
        let mut out = Vec::with_capacity(5 + sealed.len());
        out.push(format);
        out.extend_from_slice(&self.generation.to_be_bytes());
        out.extend_from_slice(&sealed);
        out
    }

    /// Opens a record that [`Record::seal`] sealed for the same session.
    pub fn open(keys: &KeyRing, key: &SessionKey, stored: &[u8]) -> Result<Record, RecordError> {
        let (head, sealed) = stored.split_at_checked(5).ok_or(RecordError::Format)?;
        let [format, a, b, c, d] = *head else {
            return Err(RecordError::Format);
        };
        match format {
            FORMAT_4 | FORMAT_5 => {}
            0..FORMAT_4 => return Err(RecordError::Format),
            newer => return Err(RecordError::Newer(newer)),
        }
        let generation = u32::from_be_bytes([a, b, c, d]);
        let data = AssociatedData::new(format, key, generation);
        let plain = seal::open(keys, &key.id.0, data.as_slice(), sealed)?;
        let record = Record::decode(format, &plain)?;
        if record.generation != generation {
            return Err(RecordError::Format);
        }
        if keys.user_tag(record.identity.account()) != key.tag.0 {
            return Err(RecordError::User);
        }
        Ok(record)
    }

    /// Encodes the record in the oldest format that can represent it.
    fn encode(&self) -> (u8, Vec<u8>) {
        let mut plain = postcard::to_allocvec(self).unwrap_or_default();
        let external = self.identity.provider.extensions();
        let second_factor = self
            .second_factor
            .map(|at| Extension { id: SECOND_FACTOR, value: at.0.to_be_bytes().to_vec() });
        let mut extensions: Vec<_> =
            external.iter().chain(&second_factor).chain(&self.extensions).collect();
        extensions.sort_by_key(|extension| extension.id);
        if extensions.is_empty() {
            return (FORMAT_4, plain);
        }
        plain.extend(postcard::to_allocvec(&extensions).unwrap_or_default());
        (FORMAT_5, plain)
    }

    fn decode(format: u8, plain: &[u8]) -> Result<Record, RecordError> {
        let (mut record, rest): (Record, _) =
            postcard::take_from_bytes(plain).map_err(|_| RecordError::Format)?;
        if format == FORMAT_4 {
            return if rest.is_empty() { Ok(record) } else { Err(RecordError::Format) };
        }
        let (extensions, rest): (Vec<Extension>, _) =
            postcard::take_from_bytes(rest).map_err(|_| RecordError::Format)?;
        if !rest.is_empty() || !extensions.is_sorted_by(|one, next| one.id < next.id) {
            return Err(RecordError::Format);
        }
        for extension in extensions {
            record.apply(extension).ok_or(RecordError::Format)?;
        }
        Ok(record)
    }

    /// Applies an extension; `None` if its value is malformed.
    fn apply(&mut self, extension: Extension) -> Option<()> {
        if extension.id == SECOND_FACTOR {
            let time = extension.value.as_slice().try_into().ok()?;
            self.second_factor = Some(UnixMillis(u64::from_be_bytes(time)));
        } else if !Arc::make_mut(&mut self.identity).provider.apply(&extension)? {
            self.extensions.push(extension);
        }
        Some(())
    }
}

/// Stores the identity itself.
mod shared_identity {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Identity;

    pub(super) fn serialize<S: Serializer>(
        identity: &Arc<Identity>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        identity.as_ref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<Identity>, D::Error> {
        Identity::deserialize(deserializer).map(Arc::new)
    }
}

/// The data that a seal authenticates. Format 5 includes the format: otherwise an attacker with write
/// access to the store could turn a record into one of format 4, without its extensions.
struct AssociatedData([u8; 29]);

impl AssociatedData {
    fn new(format: u8, key: &SessionKey, generation: u32) -> AssociatedData {
        let mut out = [0; 29];
        out[..8].copy_from_slice(&key.tag.0);
        out[8..24].copy_from_slice(&key.id.0);
        out[24..28].copy_from_slice(&generation.to_be_bytes());
        out[28] = format;
        AssociatedData(out)
    }

    fn as_slice(&self) -> &[u8] {
        if self.0[28] == FORMAT_4 { &self.0[..28] } else { &self.0 }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::secret::random_bytes;
    use crate::session::{ExternalLogin, Provider, SessionId, UserTag};

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

    fn external(record: &Record) -> Record {
        let provider = ExternalLogin { provider: "example".to_owned(), ..Default::default() };
        let provider = Provider::External(Box::new(provider));
        let identity = Identity { provider, ..Identity::clone(&record.identity) };
        Record { identity: identity.into(), ..record.clone() }
    }

    #[test]
    fn only_a_record_with_extensions_has_format_5() {
        let keys = KeyRing::generate("now");
        let (key, record) = sample(&keys, "alice");
        assert_eq!(record.seal(&keys, &key)[0], FORMAT_4);
        let extended = external(&record);
        let stored = extended.seal(&keys, &key);
        assert_eq!(stored[0], FORMAT_5);
        assert_eq!(Record::open(&keys, &key, &stored), Ok(extended));
    }

    #[test]
    fn a_record_keeps_when_a_second_factor_was_proved() {
        let keys = KeyRing::generate("now");
        let (key, record) = sample(&keys, "alice");
        for record in [external(&record), record] {
            let record = Record { second_factor: Some(UnixMillis(1_500)), ..record };
            let stored = record.seal(&keys, &key);
            assert_eq!((stored[0], Record::open(&keys, &key, &stored)), (FORMAT_5, Ok(record)));
        }
    }

    #[test]
    fn unknown_extensions_are_written_back() {
        let keys = KeyRing::generate("now");
        let (key, record) = sample(&keys, "alice");
        let extension = |id| Extension { id, value: vec![1, 2, 3] };
        let extensions = vec![extension(100), extension(u16::MAX)];
        for record in [external(&record), record] {
            let record = Record { extensions: extensions.clone(), ..record };
            let read = Record::open(&keys, &key, &record.seal(&keys, &key)).expect("a record");
            assert_eq!(read, record);
            let touched = Record { last_active: UnixMillis(9), ..read };
            let written = Record::open(&keys, &key, &touched.seal(&keys, &key)).expect("a record");
            assert_eq!(written.extensions, extensions);
        }
    }

    #[test]
    fn a_record_of_another_format_is_refused() {
        let keys = KeyRing::generate("now");
        let (key, record) = sample(&keys, "alice");
        let open = |stored: &[u8], format: u8| {
            let mut stored = stored.to_vec();
            stored[0] = format;
            Record::open(&keys, &key, &stored)
        };
        let forged = Err(RecordError::Open(OpenError::Forged));
        let stored = external(&record).seal(&keys, &key);
        assert_eq!(open(&stored, FORMAT_4), forged, "its extensions would be lost");
        assert_eq!(open(&record.seal(&keys, &key), FORMAT_5), forged);
        for format in [0, 1, 3] {
            assert_eq!(open(&stored, format), Err(RecordError::Format));
        }
        for format in [6, 255] {
            assert_eq!(open(&stored, format), Err(RecordError::Newer(format)));
        }
    }

    #[test]
    fn a_record_of_an_external_account_opens_under_the_tag_of_the_account_only() {
        let keys = KeyRing::generate("now");
        let (names, record) = sample(&keys, "alice");
        let login = ExternalLogin {
            provider: "example".to_owned(),
            account: "oidc:https://id.test#1234".to_owned(),
            acr: Some("phr".to_owned()),
            provider_session: [7; 8],
            confirmed: UnixMillis(1_500),
            claims: vec![("given_name".to_owned(), "Alice".to_owned())],
        };
        let tag = UserTag(keys.user_tag(&login.account));
        let provider = Provider::External(Box::new(login));
        let identity = Identity { provider, ..Identity::clone(&record.identity) };
        let record = Record { identity: identity.into(), ..record };
        let own = SessionKey { tag, ..names };
        assert_eq!(Record::open(&keys, &own, &record.seal(&keys, &own)), Ok(record.clone()));
        let opened = Record::open(&keys, &names, &record.seal(&keys, &names));
        assert_eq!(opened, Err(RecordError::User), "the name alone is another account");
    }

    #[test]
    fn malformed_extensions_are_refused() {
        let (_, record) = sample(&KeyRing::generate("now"), "alice");
        let decode = |extensions: &[Extension]| {
            let mut plain = postcard::to_allocvec(&record).expect("a record");
            plain.extend(postcard::to_allocvec(extensions).expect("extensions"));
            Record::decode(FORMAT_5, &plain)
        };
        let extension = |id, value: &[u8]| Extension { id, value: value.to_vec() };
        assert!(decode(&[extension(1, b"example"), extension(70, b"")]).is_ok());
        let twice = [extension(70, b""), extension(70, b"")];
        let unordered = [extension(70, b""), extension(1, b"example")];
        let without_provider = [extension(2, b"oidc:https://id.test#1")];
        let wrong_lengths = [4, 5, 6].map(|id| [extension(1, b"example"), extension(id, b"123")]);
        for extensions in [&twice[..], &unordered, &[extension(1, &[0xff])], &without_provider]
            .into_iter()
            .chain(wrong_lengths.iter().map(|wrong| &wrong[..]))
        {
            assert_eq!(decode(extensions), Err(RecordError::Format));
        }
        let mut plain = postcard::to_allocvec(&record).expect("a record");
        assert_eq!(Record::decode(FORMAT_4, &plain), Ok(record.clone()));
        plain.push(0);
        assert_eq!(Record::decode(FORMAT_4, &plain), Err(RecordError::Format), "trailing bytes");
    }
}
