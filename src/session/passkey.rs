//! Passkeys (WebAuthn level 3) without attestation: a new public key, and signatures of it.
//!
//! The browser's own functions extract the public key from a new credential, so there is no CBOR to parse. Without
//! attestation nothing proves where a new key comes from, in any encoding. The later signatures prove the key.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;
use crate::secret::{constant_time_eq, random_bytes, sha256};

/// COSE algorithms that are accepted, best first: EdDSA, ES256, RS256.
pub const ALGORITHMS: [i32; 3] = [-8, -7, -257];

/// Maximum length of a credential ID (WebAuthn, 4) and of a public key in bytes.
const ID_MAX: usize = 1_023;
const KEY_MAX: usize = 1_024;

/// Flags of the authenticator data.
const USER_PRESENT: u8 = 1;
const USER_VERIFIED: u8 = 1 << 2;
const HAS_CREDENTIAL: u8 = 1 << 6;

/// A passkey of an account.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passkey {
    pub id: [u8; 8],
    pub name: String,
    pub added: UnixMillis,
    pub credential_id: Vec<u8>,
    /// The domain for which it was created.
    pub domain: String,
    algorithm: i32,
    /// SubjectPublicKeyInfo in DER.
    public_key: Vec<u8>,
    /// Signature counter; zero if the authenticator has none.
    counter: u32,
    /// When the challenge of the last signature was made. A challenge is accepted once.
    last_challenge: UnixMillis,
}

/// What a signature must be for: the domain of the passkey, the origin of the page, and its challenge.
#[derive(Clone, Copy)]
pub struct PasskeyScope<'a> {
    pub domain: &'a str,
    /// `https://` and the host with its port.
    pub origin: &'a str,
    pub challenge: &'a PasskeyChallenge,
}

/// A challenge and its time.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasskeyChallenge {
    pub made: UnixMillis,
    random: [u8; 32],
}

/// What the browser reports about a new credential.
#[derive(Clone, Default)]
pub struct NewCredential {
    pub client_data: Vec<u8>,
    pub authenticator_data: Vec<u8>,
    pub public_key: Vec<u8>,
    pub algorithm: i32,
}

/// A signature of a passkey.
#[derive(Clone, Default)]
pub struct PasskeySignature {
    pub credential_id: Vec<u8>,
    pub client_data: Vec<u8>,
    pub authenticator_data: Vec<u8>,
    pub signature: Vec<u8>,
}

/// Why a passkey or its signature is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasskeyError {
    #[error("the data of the browser is malformed")]
    Malformed,
    #[error("the data is for another action, site or challenge")]
    Foreign,
    #[error("the user did not confirm the action at the authenticator")]
    NotConfirmed,
    #[error("the algorithm of the key is not supported")]
    Algorithm,
    #[error("the signature is wrong")]
    Signature,
    #[error("the challenge was used before")]
    Used,
}

/// The fields of the client data that are checked.
#[derive(Deserialize)]
struct ClientData {
    #[serde(rename = "type")]
    action: String,
    challenge: String,
    origin: String,
    #[serde(default, rename = "crossOrigin")]
    cross_origin: bool,
}

/// The start of the authenticator data: hash of the domain 32, flags 1, counter 4.
struct AuthenticatorData<'a> {
    counter: u32,
    flags: u8,
    rest: &'a [u8],
}

impl PasskeyChallenge {
    pub fn new(now: UnixMillis) -> PasskeyChallenge {
        PasskeyChallenge { made: now, random: random_bytes() }
    }

    /// Returns the challenge as in the client data.
    pub fn text(&self) -> String {
        BASE64URL_NOPAD.encode(&self.random)
    }
}

impl PasskeyScope<'_> {
    fn check_client_data(&self, json: &[u8], action: &str) -> Result<(), PasskeyError> {
        let data: ClientData = serde_json::from_slice(json).map_err(|_| PasskeyError::Malformed)?;
        let is_challenge =
            constant_time_eq(data.challenge.as_bytes(), self.challenge.text().as_bytes());
        let is_expected = data.action == action
            && data.origin == self.origin
            && !data.cross_origin
            && is_challenge;
        is_expected.then_some(()).ok_or(PasskeyError::Foreign)
    }

    fn parse<'a>(&self, data: &'a [u8]) -> Result<AuthenticatorData<'a>, PasskeyError> {
        let (head, rest) = data.split_at_checked(37).ok_or(PasskeyError::Malformed)?;
        let (domain, tail) = head.split_at(32);
        let [flags, a, b, c, d] = *tail else { return Err(PasskeyError::Malformed) };
        if !constant_time_eq(domain, &sha256(self.domain.as_bytes())) {
            return Err(PasskeyError::Foreign);
        }
        if flags & USER_PRESENT == 0 {
            return Err(PasskeyError::NotConfirmed);
        }
        Ok(AuthenticatorData { counter: u32::from_be_bytes([a, b, c, d]), flags, rest })
    }
}

impl Passkey {
    /// Verifies a new credential.
    pub fn register(
        new: &NewCredential,
        scope: PasskeyScope<'_>,
        name: &str,
        now: UnixMillis,
    ) -> Result<Passkey, PasskeyError> {
        scope.check_client_data(&new.client_data, "webauthn.create")?;
        let data = scope.parse(&new.authenticator_data)?;
        if data.flags & HAS_CREDENTIAL == 0 {
            return Err(PasskeyError::Malformed);
        }
        let credential_id = credential_id(data.rest).ok_or(PasskeyError::Malformed)?;
        if !ALGORITHMS.contains(&new.algorithm) {
            return Err(PasskeyError::Algorithm);
        }
        if credential_id.len() > ID_MAX || new.public_key.len() > KEY_MAX {
            return Err(PasskeyError::Malformed);
        }
        Ok(Passkey {
            id: random_bytes(),
            name: name.to_owned(),
            added: now,
            credential_id: credential_id.to_owned(),
            domain: scope.domain.to_owned(),
            algorithm: new.algorithm,
            public_key: new.public_key.clone(),
            counter: data.counter,
            last_challenge: scope.challenge.made,
        })
    }

    /// Verifies a signature and uses up its challenge.
    pub fn verify(
        &mut self,
        signed: &PasskeySignature,
        scope: PasskeyScope<'_>,
    ) -> Result<PasskeyUse, PasskeyError> {
        if self.domain != scope.domain {
            return Err(PasskeyError::Foreign);
        }
        scope.check_client_data(&signed.client_data, "webauthn.get")?;
        let data = scope.parse(&signed.authenticator_data)?;
        let message = [&signed.authenticator_data[..], &sha256(&signed.client_data)].concat();
        let key = UnparsedPublicKey::new(algorithm(self.algorithm)?, &self.public_key);
        key.verify(&message, &signed.signature).map_err(|_| PasskeyError::Signature)?;
        if scope.challenge.made <= self.last_challenge {
            return Err(PasskeyError::Used);
        }
        self.last_challenge = scope.challenge.made;
        // Synced passkeys have no counter. A copy of another one is reported, and refusing it would lock its
        // owner out.
        let is_copied = data.counter > 0 && data.counter <= self.counter;
        self.counter = self.counter.max(data.counter);
        Ok(PasskeyUse { is_copied, user_verified: data.flags & USER_VERIFIED != 0 })
    }

    /// Returns the ID for forms.
    pub fn handle(&self) -> String {
        HEXLOWER.encode(&self.id)
    }
}

/// What an accepted signature shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasskeyUse {
    /// The counter went back: the authenticator may have been copied.
    pub is_copied: bool,
    /// The authenticator verified the user, by PIN or biometrics.
    pub user_verified: bool,
}

fn algorithm(id: i32) -> Result<&'static dyn VerificationAlgorithm, PasskeyError> {
    match id {
        -8 => Ok(&ED25519),
        -7 => Ok(&ECDSA_P256_SHA256_ASN1),
        -257 => Ok(&RSA_PKCS1_2048_8192_SHA256),
        _ => Err(PasskeyError::Algorithm),
    }
}

/// Returns the ID from the attested credential data: AAGUID 16, length 2, ID, key.
fn credential_id(data: &[u8]) -> Option<&[u8]> {
    let (head, rest) = data.split_at_checked(18)?;
    let length = u16::from_be_bytes(head.get(16..18)?.try_into().ok()?);
    rest.get(..usize::from(length)).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const DOMAIN: &str = "app.test";
    const ORIGIN: &str = "https://app.test:8443";

    /// An authenticator with one credential.
    struct Authenticator {
        key: EcdsaKeyPair,
        counter: u32,
    }

    impl Authenticator {
        fn new() -> Authenticator {
            let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
            Authenticator { key, counter: 0 }
        }

        fn client_data(action: &str, origin: &str, challenge: &PasskeyChallenge) -> Vec<u8> {
            let challenge = challenge.text();
            let json =
                serde_json::json!({ "type": action, "challenge": challenge, "origin": origin });
            json.to_string().into_bytes()
        }

        fn data(&self, domain: &str, flags: u8) -> Vec<u8> {
            let hash = sha256(domain.as_bytes());
            [&hash[..], &[flags], &self.counter.to_be_bytes()].concat()
        }

        fn create(&self, challenge: &PasskeyChallenge) -> NewCredential {
            let mut data = self.data(DOMAIN, USER_PRESENT | USER_VERIFIED | HAS_CREDENTIAL);
            data.extend([[0; 16].as_slice(), &[0, 3], b"one", b"a COSE key"].concat());
            let public_key = self.key.public_key().as_der().expect("a key").as_ref().to_vec();
            let client_data = Authenticator::client_data("webauthn.create", ORIGIN, challenge);
            NewCredential { client_data, authenticator_data: data, public_key, algorithm: -7 }
        }

        fn sign(&self, client_data: Vec<u8>, authenticator_data: Vec<u8>) -> PasskeySignature {
            let message = [&authenticator_data[..], &sha256(&client_data)].concat();
            let signature = self.key.sign(&SystemRandom::new(), &message).expect("signed");
            let (credential_id, signature) = (b"one".to_vec(), signature.as_ref().to_vec());
            PasskeySignature { credential_id, client_data, authenticator_data, signature }
        }

        fn get(&self, challenge: &PasskeyChallenge) -> PasskeySignature {
            let client_data = Authenticator::client_data("webauthn.get", ORIGIN, challenge);
            self.sign(client_data, self.data(DOMAIN, USER_PRESENT))
        }
    }

    fn scope(challenge: &PasskeyChallenge) -> PasskeyScope<'_> {
        PasskeyScope { domain: DOMAIN, origin: ORIGIN, challenge }
    }

    fn challenge(seconds: u64) -> PasskeyChallenge {
        PasskeyChallenge::new(UnixMillis(NOW.0 + seconds * 1_000))
    }

    fn registered() -> (Authenticator, Passkey) {
        let (authenticator, first) = (Authenticator::new(), challenge(0));
        let new = authenticator.create(&first);
        let passkey = Passkey::register(&new, scope(&first), "key", NOW).expect("a passkey");
        (authenticator, passkey)
    }

    #[test]
    fn a_passkey_signs_each_challenge_once() {
        let (authenticator, mut passkey) = registered();
        assert_eq!(passkey.credential_id, b"one");
        let next = challenge(1);
        let signed = authenticator.get(&next);
        let used = passkey.verify(&signed, scope(&next)).expect("signed");
        assert_eq!(used, PasskeyUse { is_copied: false, user_verified: false });
        assert_eq!(passkey.verify(&signed, scope(&next)), Err(PasskeyError::Used), "a replay");
        let earlier = challenge(0);
        let signed = authenticator.get(&earlier);
        assert_eq!(passkey.verify(&signed, scope(&earlier)), Err(PasskeyError::Used));
    }

    #[test]
    fn a_signature_for_another_site_action_or_challenge_is_refused() {
        let (authenticator, passkey) = registered();
        let next = challenge(1);
        let client = Authenticator::client_data;
        let data = authenticator.data(DOMAIN, USER_PRESENT);
        let verify = |client_data: Vec<u8>, data: Vec<u8>| {
            passkey.clone().verify(&authenticator.sign(client_data, data), scope(&next))
        };
        let right = client("webauthn.get", ORIGIN, &next);
        assert!(verify(right.clone(), data.clone()).is_ok());
        let foreign = Err(PasskeyError::Foreign);
        for (action, origin, challenge) in [
            ("webauthn.create", ORIGIN, &next),
            ("webauthn.get", "https://app.test", &next),
            ("webauthn.get", "https://evil.test:8443", &next),
            ("webauthn.get", ORIGIN, &challenge(1)),
        ] {
            assert_eq!(
                verify(client(action, origin, challenge), data.clone()),
                foreign,
                "{origin}"
            );
        }
        let other = authenticator.data("evil.test", USER_PRESENT);
        assert_eq!(verify(right.clone(), other), foreign);
        let absent = authenticator.data(DOMAIN, USER_VERIFIED);
        assert_eq!(verify(right.clone(), absent), Err(PasskeyError::NotConfirmed));
        assert_eq!(verify(b"{}".to_vec(), data.clone()), Err(PasskeyError::Malformed));
        assert_eq!(verify(right, data[..36].to_vec()), Err(PasskeyError::Malformed));
    }

    #[test]
    fn a_signature_of_another_key_or_message_is_refused() {
        let (authenticator, mut passkey) = registered();
        let next = challenge(1);
        let wrong = Err(PasskeyError::Signature);
        let other = Authenticator::new().get(&next);
        assert_eq!(passkey.verify(&other, scope(&next)), wrong);
        let mut signed = authenticator.get(&next);
        signed.authenticator_data[32] |= USER_VERIFIED;
        assert_eq!(passkey.verify(&signed, scope(&next)), wrong, "a changed flag");
        assert!(passkey.verify(&authenticator.get(&next), scope(&next)).is_ok(), "not used up");
    }

    #[test]
    fn a_counter_that_goes_back_is_reported() {
        let (mut authenticator, mut passkey) = registered();
        for (seconds, counter, is_copied) in
            [(1, 5, false), (2, 6, false), (3, 6, true), (4, 7, false)]
        {
            authenticator.counter = counter;
            let next = challenge(seconds);
            let used = passkey.verify(&authenticator.get(&next), scope(&next)).expect("signed");
            assert_eq!(used.is_copied, is_copied, "{counter}");
        }
    }

    #[test]
    fn an_unusable_new_credential_is_refused() {
        let (authenticator, first) = (Authenticator::new(), challenge(0));
        let right = authenticator.create(&first);
        let register = |new: &NewCredential| {
            Passkey::register(new, scope(&first), "key", NOW).err().expect("refused")
        };
        let new = NewCredential { algorithm: -37, ..right.clone() };
        assert_eq!(register(&new), PasskeyError::Algorithm);
        for length in [36, 37, 50, 54, 57] {
            let authenticator_data = right.authenticator_data[..length].to_vec();
            let new = NewCredential { authenticator_data, ..right.clone() };
            assert_eq!(register(&new), PasskeyError::Malformed, "{length}");
        }
        let client_data = Authenticator::client_data("webauthn.get", ORIGIN, &first);
        assert_eq!(register(&NewCredential { client_data, ..right }), PasskeyError::Foreign);
    }
}
