//! The fields of passkeys in forms: a script of the page fills them.

use data_encoding::BASE64URL_NOPAD;
use std::time::Duration;

use crate::clock::UnixMillis;
use crate::message::InboundHead;
use crate::secret::{KeyRing, seal};
use crate::session::passkey::ALGORITHMS;
use crate::session::{
    NewCredential, PasskeyChallenge, PasskeyScope, PasskeySignature, SecondFactors,
};

use super::Portal;
use super::forms::FormFields;
use super::pages::PasskeyForm;

/// Time to use a passkey.
const CHALLENGE_TIME: Duration = Duration::from_secs(5 * 60);

const PURPOSE: &[u8] = b"passkey challenge";

/// A challenge of a form, with the site for which it is.
pub(super) struct FormChallenge {
    pub(super) challenge: PasskeyChallenge,
    domain: String,
    origin: String,
}

impl FormChallenge {
    pub(super) fn scope(&self) -> PasskeyScope<'_> {
        PasskeyScope { domain: &self.domain, origin: &self.origin, challenge: &self.challenge }
    }
}

impl Portal {
    /// Returns the domain of passkeys: that of the session cookie, or else the host.
    pub(super) fn passkey_domain<'a>(&'a self, head: &'a InboundHead) -> &'a str {
        self.auth.settings().cookies.domain().unwrap_or_else(|| head.host.name())
    }

    /// Returns what the script of a page needs. `binding` binds the challenge to a session or a login.
    pub(super) fn passkey_form(
        &self,
        head: &InboundHead,
        binding: &[u8],
        factors: &SecondFactors,
    ) -> PasskeyForm {
        let challenge = PasskeyChallenge::new(self.shared().clock.now());
        let domain = self.passkey_domain(head).to_owned();
        let known = factors.passkeys_of(&domain).map(|passkey| &passkey.credential_id);
        PasskeyForm {
            challenge: challenge.text(),
            sealed: seal_challenge(&self.shared().keys.load(), binding, &challenge),
            known: known.map(|id| BASE64URL_NOPAD.encode(id)).collect::<Vec<_>>().join(" "),
            algorithms: ALGORITHMS.map(|id| id.to_string()).join(" "),
            domain,
        }
    }

    /// Opens the challenge of a form; `None` if it is older than five minutes, or of another session or login.
    pub(super) fn passkey_challenge(
        &self,
        head: &InboundHead,
        binding: &[u8],
        fields: &FormFields,
    ) -> Option<FormChallenge> {
        let (keys, now) = (self.shared().keys.load(), self.shared().clock.now());
        let challenge = open_challenge(&keys, binding, fields.text("challenge"), now)?;
        let domain = self.passkey_domain(head).to_owned();
        Some(FormChallenge { challenge, domain, origin: format!("https://{}", head.host) })
    }
}

fn seal_challenge(keys: &KeyRing, binding: &[u8], challenge: &PasskeyChallenge) -> String {
    let plain = postcard::to_allocvec(challenge).unwrap_or_default();
    BASE64URL_NOPAD.encode(&seal::seal(keys, PURPOSE, binding, &plain))
}

fn open_challenge(
    keys: &KeyRing,
    binding: &[u8],
    text: &str,
    now: UnixMillis,
) -> Option<PasskeyChallenge> {
    let sealed = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
    let plain = seal::open(keys, PURPOSE, binding, &sealed).ok()?;
    let challenge: PasskeyChallenge = postcard::from_bytes(&plain).ok()?;
    (now.since(challenge.made) < CHALLENGE_TIME).then_some(challenge)
}

/// Reads a new credential; fields that do not decode are empty.
pub(super) fn new_credential(fields: &FormFields) -> NewCredential {
    NewCredential {
        client_data: bytes(fields, "client_data"),
        authenticator_data: bytes(fields, "authenticator_data"),
        public_key: bytes(fields, "public_key"),
        algorithm: fields.text("algorithm").parse().unwrap_or_default(),
    }
}

/// Reads a signature; `None` if the form has none.
pub(super) fn signature(fields: &FormFields) -> Option<PasskeySignature> {
    let signature = PasskeySignature {
        credential_id: bytes(fields, "credential"),
        client_data: bytes(fields, "client_data"),
        authenticator_data: bytes(fields, "authenticator_data"),
        signature: bytes(fields, "signature"),
    };
    (!signature.credential_id.is_empty()).then_some(signature)
}

fn bytes(fields: &FormFields, name: &str) -> Vec<u8> {
    BASE64URL_NOPAD.decode(fields.text(name).as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_belongs_to_its_form_for_five_minutes() {
        let (keys, now) = (KeyRing::generate("now"), UnixMillis(1_800_000_000_000));
        let challenge = PasskeyChallenge::new(now);
        let sealed = seal_challenge(&keys, b"session 1", &challenge);
        let open = |binding: &[u8], at| open_challenge(&keys, binding, &sealed, at);
        assert!(open(b"session 1", now).is_some_and(|opened| opened == challenge));
        assert!(open(b"session 2", now).is_none());
        assert!(open(b"session 1", now.plus(CHALLENGE_TIME)).is_none());
    }
}
