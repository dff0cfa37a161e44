//! The state of a login between redirect and callback. It travels sealed in the `state` parameter, so a
//! browser can have any number of logins at once and the gateway stores nothing.
//!
//! It opens only in the browser that started the login, for the same provider and for an hour.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::failure::StateError;
use super::settings::OidcSettings;
use crate::clock::UnixMillis;
use crate::secret::{KeyRing, random_bytes, seal, sha256};

/// Longest time between redirect and callback.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Longest [`StartRequest::return_state`] in bytes. It is part of two URLs, which servers limit to about 8 KiB.
pub const MAX_RETURN_STATE: usize = 2 * 1024;

const SUBJECT: &[u8] = b"oidc login state";

/// The browser binding: the value of its login cookie.
pub type BrowserBinding = [u8; 16];

/// A login to start.
#[derive(Clone, Debug, Default)]
pub struct StartRequest {
    /// URL of the callback page.
    pub redirect_uri: String,
    /// Opaque value for the callback, at most [`MAX_RETURN_STATE`] bytes. A longer one is left out.
    pub return_state: String,
    pub browser: BrowserBinding,
    /// Maximum age of the login at the provider; the lower one of this and the setting applies. Zero
    /// requires a new login.
    pub max_age: Option<Duration>,
    /// Accepted authentication contexts, best first; empty uses the setting.
    pub acr: Vec<String>,
    /// Value of `prompt`, such as `select_account`.
    pub prompt: Option<String>,
}

/// The opened state of a callback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingLogin {
    pub return_state: String,
    pub(super) redirect_uri: String,
    pub(super) nonce: [u8; 16],
    pub(super) verifier: [u8; 32],
    pub(super) max_age: Option<u64>,
    pub(super) acr: Vec<String>,
    /// Time of the redirect.
    pub created: UnixMillis,
}

impl PendingLogin {
    pub(super) fn new(request: &StartRequest, now: UnixMillis) -> PendingLogin {
        let return_state = match request.return_state.len() {
            0..=MAX_RETURN_STATE => request.return_state.clone(),
            _ => String::new(),
        };
        PendingLogin {
            return_state,
            redirect_uri: request.redirect_uri.clone(),
            nonce: random_bytes(),
            verifier: random_bytes(),
            max_age: request.max_age.map(|age| age.as_secs()),
            acr: request.acr.clone(),
            created: now,
        }
    }

    /// Applies the settings of the provider: the lower maximum age, and its contexts if none are requested.
    pub(super) fn limited_by(mut self, settings: &OidcSettings) -> PendingLogin {
        let configured = settings.max_age.map(|age| age.as_secs());
        self.max_age = self.max_age.into_iter().chain(configured).min();
        if self.acr.is_empty() {
            self.acr.clone_from(&settings.acr);
        }
        self
    }

    /// Returns the PKCE code verifier (RFC 7636).
    pub(super) fn code_verifier(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64URL_NOPAD.encode(&self.verifier))
    }

    /// Returns the S256 challenge of the code verifier.
    pub(super) fn code_challenge(&self) -> String {
        BASE64URL_NOPAD.encode(&sha256(self.code_verifier().as_bytes()))
    }

    pub(super) fn nonce(&self) -> String {
        BASE64URL_NOPAD.encode(&self.nonce)
    }

    pub(super) fn seal(&self, keys: &KeyRing, provider: &str, browser: BrowserBinding) -> String {
        let plain = Zeroizing::new(postcard::to_allocvec(self).unwrap_or_default());
        let sealed = seal::seal(keys, SUBJECT, &binding(provider, browser), &plain);
        BASE64URL_NOPAD.encode(&sealed)
    }

    /// Opens the `state` of a callback. `provider` is the name in the path of the callback.
    ///
    /// # Errors
    /// The state belongs to another browser or provider, or is too old.
    pub fn open(
        keys: &KeyRing,
        provider: &str,
        browser: BrowserBinding,
        state: &str,
        now: UnixMillis,
    ) -> Result<PendingLogin, StateError> {
        let sealed = BASE64URL_NOPAD.decode(state.as_bytes()).map_err(|_| StateError::Foreign)?;
        let plain = seal::open(keys, SUBJECT, &binding(provider, browser), &sealed);
        let plain = Zeroizing::new(plain.map_err(|_| StateError::Foreign)?);
        let pending: PendingLogin =
            postcard::from_bytes(&plain).map_err(|_| StateError::Foreign)?;
        match now.since(pending.created) < LIFETIME {
            true => Ok(pending),
            false => Err(StateError::Expired),
        }
    }
}

fn binding(provider: &str, browser: BrowserBinding) -> Vec<u8> {
    [&browser[..], provider.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn sealed(keys: &KeyRing, request: &StartRequest) -> String {
        PendingLogin::new(request, NOW).seal(keys, "corp", [1; 16])
    }

    #[test]
    fn a_state_opens_in_its_browser_for_its_provider_for_an_hour() {
        let keys = KeyRing::generate("now");
        let request = StartRequest { return_state: "back".to_owned(), ..StartRequest::default() };
        let state = sealed(&keys, &request);
        let open = |provider: &str, browser, now| {
            PendingLogin::open(&keys, provider, browser, &state, now).map(|it| it.return_state)
        };
        assert_eq!(open("corp", [1; 16], NOW), Ok("back".to_owned()));
        assert_eq!(open("corp", [2; 16], NOW), Err(StateError::Foreign));
        assert_eq!(open("other", [1; 16], NOW), Err(StateError::Foreign));
        assert_eq!(open("corp", [1; 16], NOW.plus(LIFETIME)), Err(StateError::Expired));
        for state in ["", "x", "dw1_", &state[..state.len() - 1]] {
            let opened = PendingLogin::open(&keys, "corp", [1; 16], state, NOW);
            assert_eq!(opened, Err(StateError::Foreign), "{state:?}");
        }
    }

    #[test]
    fn each_login_has_its_own_nonce_and_verifier() {
        let (one, two) = (StartRequest::default(), StartRequest::default());
        let (one, two) = (PendingLogin::new(&one, NOW), PendingLogin::new(&two, NOW));
        assert_ne!(one.nonce(), two.nonce());
        assert_ne!(*one.code_verifier(), *two.code_verifier());
        assert_eq!(one.code_verifier().len(), 43);
    }

    #[test]
    fn a_return_state_that_is_too_long_is_left_out() {
        let of = |length: usize| {
            let request =
                StartRequest { return_state: "x".repeat(length), ..StartRequest::default() };
            PendingLogin::new(&request, NOW).return_state.len()
        };
        assert_eq!((of(MAX_RETURN_STATE), of(MAX_RETURN_STATE + 1)), (MAX_RETURN_STATE, 0));
    }
}
