//! The keys: who holds them can check tokens and open records, and still cannot make a live token,
//! because a live token needs a record that holds its hash.
//!
//! - `tag` stays the same for the life of the installation: it decides the slot in which a user's
//!   sessions lie. A new one would scatter them, and "log out everywhere" would miss some.
//! - Each `[[key]]` is a root from which the keys for one purpose each are derived. The newest
//!   mints; all verify. `doorward keys rotate` adds one.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::random_bytes;

/// Names a root key inside a token; 1 to 255.
pub type KeyId = u8;

/// All keys of an installation.
pub struct KeyRing {
    tag_root: Zeroizing<[u8; 32]>,
    tag: hmac::Key,
    audit: hmac::Key,
    minting: KeyId,
    keys: BTreeMap<KeyId, RootKey>,
}

/// One root and what is derived from it.
pub struct RootKey {
    root: Zeroizing<[u8; 32]>,
    created: String,
    mac: hmac::Key,
    ratchet: hmac::Key,
    seal: hmac::Key,
}

/// Why a keys file cannot be used. Never names key material.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyRingError {
    #[error(
        "it is not the TOML of a keys file: {0}; restore it from your backup, or remove it to start anew (which ends all sessions)"
    )]
    Syntax(String),
    #[error("`{0}` is not 32 bytes in base64")]
    NotAKey(&'static str),
    #[error("it has no [[key]]; `doorward keys rotate` adds one")]
    Empty,
    #[error("key id {0} stands twice")]
    Twice(KeyId),
    #[error("key ids go from 1 to 255; 0 is none")]
    Zero,
    #[error("all 255 key ids are used; remove the oldest [[key]] whose sessions have ended")]
    Full,
}

impl KeyRing {
    /// A new installation's keys. `created` is an RFC 3339 time, for people.
    pub fn generate(created: &str) -> KeyRing {
        let mut ring = KeyRing::from_tag(random_bytes());
        ring.keys.insert(1, RootKey::new(random_bytes(), created.to_owned()));
        ring.minting = 1;
        ring
    }

    /// Reads the text of a keys file.
    pub fn parse(text: &str) -> Result<KeyRing, KeyRingError> {
        let file: KeyFile = toml::from_str(text)
            .map_err(|error| KeyRingError::Syntax(error.message().to_owned()))?;
        let mut ring = KeyRing::from_tag(key_bytes("tag", &file.tag)?);
        for entry in &file.key {
            if entry.id == 0 {
                return Err(KeyRingError::Zero);
            }
            let key = RootKey::new(key_bytes("root", &entry.root)?, entry.created.clone());
            if ring.keys.insert(entry.id, key).is_some() {
                return Err(KeyRingError::Twice(entry.id));
            }
        }
        ring.minting = *ring.keys.keys().next_back().ok_or(KeyRingError::Empty)?;
        Ok(ring)
    }

    /// The text of the keys file, to be written with mode 0600.
    pub fn to_file(&self) -> Zeroizing<String> {
        let file = KeyFile {
            tag: BASE64.encode(self.tag_root.as_slice()),
            key: self.keys.iter().map(|(id, key)| key.to_entry(*id)).collect(),
        };
        let body = Zeroizing::new(toml::to_string(&file).unwrap_or_default());
        Zeroizing::new(format!("{FILE_HEAD}{}", body.as_str()))
    }

    /// Adds a key that mints from now on; the old still verify.
    pub fn rotate(&mut self, created: &str) -> Result<KeyId, KeyRingError> {
        let id = self.last().checked_add(1).ok_or(KeyRingError::Full)?;
        self.keys.insert(id, RootKey::new(random_bytes(), created.to_owned()));
        self.minting = id;
        Ok(id)
    }

    /// The id and the key that mint: the newest, unless [`KeyRing::mint_with`] chose another.
    pub fn newest(&self) -> (KeyId, &RootKey) {
        let key = self.keys.get(&self.minting).unwrap_or_else(unreachable_empty);
        (self.minting, key)
    }

    /// Mints with an older key for now: a key that other gateways have not read yet would make tokens
    /// that they take for forged. An unknown id changes nothing.
    pub fn mint_with(&mut self, id: KeyId) {
        if self.keys.contains_key(&id) {
            self.minting = id;
        }
    }

    fn last(&self) -> KeyId {
        self.keys.keys().next_back().copied().unwrap_or_default()
    }

    /// The key that a token or record names.
    pub fn key(&self, id: KeyId) -> Option<&RootKey> {
        self.keys.get(&id)
    }

    /// Ids and creation times, oldest first.
    pub fn ids(&self) -> impl Iterator<Item = (KeyId, &str)> {
        self.keys.iter().map(|(id, key)| (*id, key.created.as_str()))
    }

    /// HMAC of `user` under the tag key: the same for the life of the installation.
    pub fn tag_of(&self, user: &str) -> [u8; 8] {
        let mut tag = [0; 8];
        tag.copy_from_slice(&hmac::sign(&self.tag, user.as_bytes()).as_ref()[..8]);
        tag
    }

    /// Chains the lines of the audit log: the same for the life of the installation.
    pub fn audit(&self) -> &hmac::Key {
        &self.audit
    }

    fn from_tag(root: [u8; 32]) -> KeyRing {
        KeyRing {
            tag: hmac::Key::new(hmac::HMAC_SHA256, &root),
            audit: derive(&root, b"doorward audit 1"),
            tag_root: Zeroizing::new(root),
            minting: 0,
            keys: BTreeMap::new(),
        }
    }
}

#[expect(clippy::panic, reason = "both constructors put a key in; no input reaches this")]
fn unreachable_empty<T>() -> T {
    panic!("a key ring without a key was built")
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing(newest {}, {} keys)", self.last(), self.keys.len())
    }
}

impl RootKey {
    fn new(root: [u8; 32], created: String) -> RootKey {
        RootKey {
            mac: derive(&root, b"doorward token mac 1"),
            ratchet: derive(&root, b"doorward ratchet 1"),
            seal: derive(&root, b"doorward seal 1"),
            root: Zeroizing::new(root),
            created,
        }
    }

    /// Signs tokens.
    pub fn mac(&self) -> &hmac::Key {
        &self.mac
    }

    /// Makes a successor's secret from its predecessor's.
    pub fn ratchet(&self) -> &hmac::Key {
        &self.ratchet
    }

    /// Makes the key that seals one record or form.
    pub fn seal(&self) -> &hmac::Key {
        &self.seal
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
    let bytes = BASE64.decode(text.as_bytes()).map_err(|_| KeyRingError::NotAKey(name))?;
    bytes.try_into().map_err(|_| KeyRingError::NotAKey(name))
}

const FILE_HEAD: &str = "\
# doorward's keys. Keep this file secret (mode 0600) and in your backup; every gateway of an
# installation uses the same one. `doorward keys rotate` adds a key; a key may be removed once no
# session that it minted is left (the absolute timeout after the next rotation).

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
    fn a_keys_file_reads_back_as_the_same_keys() {
        let mut ring = KeyRing::generate("2026-11-23T00:00:00Z");
        ring.rotate("2026-11-24T00:00:00Z").expect("room for a second key");
        let again = KeyRing::parse(&ring.to_file()).expect("our own file");
        assert_eq!(again.newest().0, 2);
        assert_eq!(again.ids().count(), 2);
        assert_eq!(again.tag_of("alice"), ring.tag_of("alice"));
        let sign = |ring: &KeyRing| hmac::sign(ring.newest().1.mac(), b"x").as_ref().to_vec();
        assert_eq!(sign(&again), sign(&ring));
    }

    #[test]
    fn the_keys_of_one_root_differ_by_purpose() {
        let ring = KeyRing::generate("now");
        let (_, key) = ring.newest();
        let sign = |key: &hmac::Key| hmac::sign(key, b"x").as_ref().to_vec();
        assert_ne!(sign(key.mac()), sign(key.ratchet()));
        assert_ne!(sign(key.mac()), sign(key.seal()));
    }

    #[test]
    fn a_broken_keys_file_is_named_and_never_replaced() {
        assert_eq!(KeyRing::parse("tag = 'x'").err(), Some(KeyRingError::NotAKey("tag")));
        let tag = BASE64.encode(&[7; 32]);
        assert_eq!(KeyRing::parse(&format!("tag = '{tag}'")).err(), Some(KeyRingError::Empty));
        let twice =
            format!("tag='{tag}'\n[[key]]\nid=1\nroot='{tag}'\n[[key]]\nid=1\nroot='{tag}'");
        assert_eq!(KeyRing::parse(&twice).err(), Some(KeyRingError::Twice(1)));
        assert!(matches!(KeyRing::parse("nonsense"), Err(KeyRingError::Syntax(_))));
    }

    #[test]
    fn debug_output_shows_no_key() {
        let ring = KeyRing::generate("now");
        assert_eq!(format!("{ring:?}"), "KeyRing(newest 1, 1 keys)");
    }
}
