//! The key ring. Its keys verify tokens and open records. They do not suffice to create a live token,
//! because a live token needs a record with its hash.
//!
//! - `tag` never changes: it determines the store keys of a user's sessions. With a new one, "log out
//!   everywhere" would miss existing sessions.
//! - Each `[[key]]` is a root key, from which one key per purpose is derived. The newest signs; all
//!   verify. `doorward keys rotate` adds one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::assertion_key::{AssertionKey, Jwk};
use super::random_bytes;

/// Identifies a root key, from 1 to 255.
pub type KeyId = u8;

/// The keys of an installation.
pub struct KeyRing {
    tag_root: Zeroizing<[u8; 32]>,
    tag: hmac::Key,
    audit: hmac::Key,
    login: LoginKey,
    permanent_seal: hmac::Key,
    signing: KeyId,
    keys: BTreeMap<KeyId, RootKey>,
    is_provisional: bool,
}

/// The permanent key that hides names and addresses in login counters and selects decoys.
#[derive(Clone)]
pub struct LoginKey(hmac::Key);

impl LoginKey {
    /// Returns a keyed hash of the text for one purpose.
    pub fn tag(&self, purpose: &str, text: &str) -> [u8; 8] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(purpose.as_bytes());
        context.update(&[0]);
        context.update(text.as_bytes());
        let mut tag = [0; 8];
        tag.copy_from_slice(&context.sign().as_ref()[..8]);
        tag
    }
}

impl fmt::Debug for LoginKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoginKey(…)")
    }
}

/// A root key and the keys derived from it.
pub struct RootKey {
    root: Zeroizing<[u8; 32]>,
    created: String,
    mac: hmac::Key,
    ratchet: hmac::Key,
    seal: hmac::Key,
    /// Derived when it is first used: most routes need no assertion.
    assertion: OnceLock<Option<AssertionKey>>,
}

/// Why a keys file is invalid. The text never contains key material.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyRingError {
    #[error(
        "it is not the TOML of a keys file: {0}; restore it from your backup, or remove it to start anew (which ends all sessions)"
    )]
    Syntax(String),
    #[error("`{0}` is not 32 bytes in base64")]
    InvalidKey(&'static str),
    #[error("it has no [[key]]; `doorward keys rotate` adds one")]
    Empty,
    #[error("key id {0} is used twice")]
    DuplicateId(KeyId),
    #[error("key id 0 is not allowed; use 1 to 255")]
    ZeroId,
    #[error("all 255 key ids are used; remove the oldest [[key]] whose sessions have ended")]
    Full,
    #[error("it has no key {0}; `doorward keys list` lists all")]
    Unknown(KeyId),
}

impl KeyRing {
    /// Generates the keys of a new installation. `created` is an RFC 3339 time, for display.
    pub fn generate(created: &str) -> KeyRing {
        let mut ring = KeyRing::from_tag(random_bytes());
        ring.keys.insert(1, RootKey::new(random_bytes(), created.to_owned()));
        ring.signing = 1;
        ring
    }

    /// Generates keys that replace a missing keys file until it is known whether sessions of other keys exist.
    pub fn provisional(created: &str) -> KeyRing {
        KeyRing { is_provisional: true, ..KeyRing::generate(created) }
    }

    /// Whether sessions of other keys may exist. Then no session may be created, and a token that these keys
    /// did not sign may be valid.
    pub fn is_provisional(&self) -> bool {
        self.is_provisional
    }

    /// Parses a keys file.
    pub fn parse(text: &str) -> Result<KeyRing, KeyRingError> {
        let file: KeyFile = toml::from_str(text)
            .map_err(|error| KeyRingError::Syntax(error.message().to_owned()))?;
        let mut ring = KeyRing::from_tag(key_bytes("tag", &file.tag)?);
        for entry in &file.key {
            if entry.id == 0 {
                return Err(KeyRingError::ZeroId);
            }
            let key = RootKey::new(key_bytes("root", &entry.root)?, entry.created.clone());
            if ring.keys.insert(entry.id, key).is_some() {
                return Err(KeyRingError::DuplicateId(entry.id));
            }
        }
        ring.signing = *ring.keys.keys().next_back().ok_or(KeyRingError::Empty)?;
        Ok(ring)
    }

    /// Returns the content of the keys file, to be written with mode 0600.
    pub fn to_file(&self) -> Zeroizing<String> {
        let file = KeyFile {
            tag: BASE64.encode(self.tag_root.as_slice()),
            key: self.keys.iter().map(|(id, key)| key.to_entry(*id)).collect(),
        };
        let body = Zeroizing::new(toml::to_string(&file).unwrap_or_default());
        Zeroizing::new(format!("{FILE_HEADER}{}", body.as_str()))
    }

    /// Adds a key and signs with it from now on. Older keys still verify.
    pub fn rotate(&mut self, created: &str) -> Result<KeyId, KeyRingError> {
        let id = self.newest_id().checked_add(1).ok_or(KeyRingError::Full)?;
        self.keys.insert(id, RootKey::new(random_bytes(), created.to_owned()));
        self.signing = id;
        Ok(id)
    }

    /// Removes an old key. Tokens and records of it are no longer accepted.
    ///
    /// # Errors
    /// If there is no such key, or it is the newest one.
    pub fn retire(&mut self, id: KeyId) -> Result<(), KeyRingError> {
        if id == self.newest_id() || self.keys.remove(&id).is_none() {
            return Err(KeyRingError::Unknown(id));
        }
        Ok(())
    }

    /// Returns the signing key: the newest one, unless [`KeyRing::set_signing_key`] selected another.
    pub fn signing_key(&self) -> (KeyId, &RootKey) {
        let key = self.keys.get(&self.signing).unwrap_or_else(empty_key_ring);
        (self.signing, key)
    }

    /// Selects an older signing key. Other gateways would reject tokens signed with a key that they have
    /// not loaded yet. An unknown ID has no effect.
    pub fn set_signing_key(&mut self, id: KeyId) {
        if self.keys.contains_key(&id) {
            self.signing = id;
        }
    }

    fn newest_id(&self) -> KeyId {
        self.keys.keys().next_back().copied().unwrap_or_default()
    }

    /// Returns the key with this ID.
    pub fn key(&self, id: KeyId) -> Option<&RootKey> {
        self.keys.get(&id)
    }

    /// Returns the public keys of assertions, of all keys.
    pub fn assertion_jwks(&self) -> Vec<&Jwk> {
        self.keys.values().filter_map(RootKey::assertion).map(AssertionKey::jwk).collect()
    }

    /// Returns IDs and creation times, oldest first.
    pub fn ids(&self) -> impl Iterator<Item = (KeyId, &str)> {
        self.keys.iter().map(|(id, key)| (*id, key.created.as_str()))
    }

    /// Returns the permanent tag of a user: the HMAC of the name under the tag key.
    pub fn user_tag(&self, user: &str) -> [u8; 8] {
        let mut tag = [0; 8];
        tag.copy_from_slice(&hmac::sign(&self.tag, user.as_bytes()).as_ref()[..8]);
        tag
    }

    /// Returns the permanent key that chains the entries of the audit log.
    pub fn audit(&self) -> &hmac::Key {
        &self.audit
    }

    /// Returns the permanent key of the login limits: it hides names and addresses in counters, and selects
    /// the decoys of unknown names. All gateways of an installation share it.
    pub fn login(&self) -> &LoginKey {
        &self.login
    }

    /// Returns the permanent key from which the keys of values that outlive every root key are derived.
    pub fn permanent_seal(&self) -> &hmac::Key {
        &self.permanent_seal
    }

    fn from_tag(root: [u8; 32]) -> KeyRing {
        KeyRing {
            tag: hmac::Key::new(hmac::HMAC_SHA256, &root),
            audit: derive(&root, b"doorward audit 1"),
            login: LoginKey(derive(&root, b"doorward login 1")),
            permanent_seal: derive(&root, b"doorward permanent seal 1"),
            tag_root: Zeroizing::new(root),
            signing: 0,
            keys: BTreeMap::new(),
            is_provisional: false,
        }
    }
}

#[expect(clippy::panic, reason = "both constructors insert a key; no input reaches this")]
fn empty_key_ring<T>() -> T {
    panic!("a key ring has no key")
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing(newest {}, {} keys)", self.newest_id(), self.keys.len())
    }
}

impl RootKey {
    fn new(root: [u8; 32], created: String) -> RootKey {
        RootKey {
            mac: derive(&root, b"doorward token mac 1"),
            ratchet: derive(&root, b"doorward ratchet 1"),
            seal: derive(&root, b"doorward seal 1"),
            assertion: OnceLock::new(),
            root: Zeroizing::new(root),
            created,
        }
    }

    /// Returns the key that signs tokens.
    pub fn mac(&self) -> &hmac::Key {
        &self.mac
    }

    /// Returns the key that derives the secret of a successor token.
    pub fn ratchet(&self) -> &hmac::Key {
        &self.ratchet
    }

    /// Returns the key from which the sealing keys are derived.
    pub fn seal(&self) -> &hmac::Key {
        &self.seal
    }

    /// Returns the key that signs assertions for upstreams.
    pub fn assertion(&self) -> Option<&AssertionKey> {
        self.assertion.get_or_init(|| AssertionKey::derive(&self.root)).as_ref()
    }

    fn to_entry(&self, id: KeyId) -> KeyEntry {
        KeyEntry { id, created: self.created.clone(), root: BASE64.encode(self.root.as_slice()) }
    }
}

fn derive(root: &[u8; 32], purpose: &[u8]) -> hmac::Key {
    let bytes = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, root), purpose);
    hmac::Key::new(hmac::HMAC_SHA256, bytes.as_ref())
}

fn key_bytes(name: &'static str, text: &str) -> Result<[u8; 32], KeyRingError> {
    let bytes = BASE64.decode(text.as_bytes()).map_err(|_| KeyRingError::InvalidKey(name))?;
    bytes.try_into().map_err(|_| KeyRingError::InvalidKey(name))
}

const FILE_HEADER: &str = "\
# doorward's keys. Keep this file secret (mode 0600) and in your backup; every gateway of an
# installation uses the same one. `doorward keys rotate` adds a key; a key may be removed once no
# session whose token it signed is left (the absolute timeout after the next rotation).

";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    tag: String,
    #[serde(default)]
    key: Vec<KeyEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    id: KeyId,
    #[serde(default)]
    created: String,
    root: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keys_file_round_trips() {
        let mut ring = KeyRing::generate("2026-11-23T00:00:00Z");
        ring.rotate("2026-11-24T00:00:00Z").expect("room for a second key");
        let again = KeyRing::parse(&ring.to_file()).expect("our own file");
        assert_eq!(again.signing_key().0, 2);
        assert_eq!(again.ids().count(), 2);
        assert_eq!(again.user_tag("alice"), ring.user_tag("alice"));
        let sign = |ring: &KeyRing| hmac::sign(ring.signing_key().1.mac(), b"x").as_ref().to_vec();
        assert_eq!(sign(&again), sign(&ring));
    }

    #[test]
    fn the_keys_of_one_root_differ_by_purpose() {
        let ring = KeyRing::generate("now");
        let (_, key) = ring.signing_key();
        let sign = |key: &hmac::Key| hmac::sign(key, b"x").as_ref().to_vec();
        assert_ne!(sign(key.mac()), sign(key.ratchet()));
        assert_ne!(sign(key.mac()), sign(key.seal()));
    }

    #[test]
    fn an_invalid_keys_file_is_refused_with_its_fault() {
        assert_eq!(KeyRing::parse("tag = 'x'").err(), Some(KeyRingError::InvalidKey("tag")));
        let tag = BASE64.encode(&[7; 32]);
        assert_eq!(KeyRing::parse(&format!("tag = '{tag}'")).err(), Some(KeyRingError::Empty));
        let twice =
            format!("tag='{tag}'\n[[key]]\nid=1\nroot='{tag}'\n[[key]]\nid=1\nroot='{tag}'");
        assert_eq!(KeyRing::parse(&twice).err(), Some(KeyRingError::DuplicateId(1)));
        assert!(matches!(KeyRing::parse("nonsense"), Err(KeyRingError::Syntax(_))));
    }

    #[test]
    fn debug_output_contains_no_key() {
        let ring = KeyRing::generate("now");
        assert_eq!(format!("{ring:?}"), "KeyRing(newest 1, 1 keys)");
    }
}
