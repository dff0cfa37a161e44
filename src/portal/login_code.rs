//! The second step of a login: a one-time code, a recovery code or a passkey.
//!
//! It follows the password, so it reveals nothing about accounts to people who do not know the password. The
//! result of the first step travels through the form: sealed, bound to the host and the login cookie of the
//! browser, for ten minutes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::auth::DenyReason;
use crate::clock::UnixMillis;
use crate::identity::{ExternalFacts, VerifiedLogin};
use crate::message::InboundHead;
use crate::secret::{KeyRing, seal};
use crate::session::{Extension, Identity, PasskeySignature, Provider, SecondFactors};
use crate::sessions::{FactorOwner, UserRef};
use crate::store::Unavailable;

use super::Portal;
use super::forms::{CSRF, FormFields, LOGIN, RETURN_URL, is_script};
use super::pages::{self, LoginCodePage, format_wait};
use super::passkeys::{self, FormChallenge};
use super::responses::{
    Page, html_page, json_page, scripted_page, see_other, whole_seconds, with_retry_after,
};

/// Time for the second step.
const STEP_TIME: Duration = Duration::from_secs(10 * 60);

const PURPOSE: &[u8] = b"first step of a login";

/// The result of the first step.
#[derive(Serialize, Deserialize)]
struct FirstStep {
    made: UnixMillis,
    identity: Identity,
    /// The fields of the identity's provider.
    provider: Vec<Extension>,
    credential_digest: [u8; 8],
    /// What the next confirmation of an external account needs.
    refresh_token: Option<String>,
}

/// Why a code was not accepted.
enum CodeError {
    Wrong,
    Throttled(Duration),
    Unavailable(Unavailable),
}

impl From<Unavailable> for CodeError {
    fn from(error: Unavailable) -> CodeError {
        CodeError::Unavailable(error)
    }
}

impl Portal {
    /// Completes a login whose password is right, or asks for a code if the account has a second factor.
    pub(super) async fn after_password(
        &self,
        head: &InboundHead,
        sealed: &str,
        login: VerifiedLogin,
    ) -> Page {
        match self.factors_of(&login).await {
            Ok(factors) if !factors.is_set_up() => self.complete_login(head, sealed, &login).await,
            Ok(_) if is_script(head) => {
                let body = json!({ "error": "login", "reason": "second-factor" });
                json_page(StatusCode::UNAUTHORIZED, &body)
            }
            Ok(factors) => {
                let first = FirstStep::new(&login, self.now());
                self.ask_for_code(head, sealed, &first, &factors)
            }
            Err(error) => self.deny(head, &DenyReason::Unavailable(error)),
        }
    }

    /// Returns the factors that a login needs; none if the policy does not apply to it.
    async fn factors_of(&self, login: &VerifiedLogin) -> Result<SecondFactors, Unavailable> {
        if !self.auth.settings().second_factor.is_offered(&login.identity) {
            return Ok(SecondFactors::default());
        }
        let tag = self.shared().user_tag(login.identity.account());
        self.auth.sessions().second_factors.load(tag).await
    }

    fn ask_for_code(
        &self,
        head: &InboundHead,
        sealed: &str,
        pending: &FirstStep,
        factors: &SecondFactors,
    ) -> Page {
        let (nonce, _) = self.nonce(head);
        let text = pending.seal(&self.shared().keys.load(), &binding(head, &nonce));
        self.code_page(head, StatusCode::OK, [&pending.identity.user, &text, sealed], factors, "")
    }

    fn code_page(
        &self,
        head: &InboundHead,
        status: StatusCode,
        [user, pending, target]: [&str; 3],
        factors: &SecondFactors,
        error: &str,
    ) -> Page {
        let (nonce, _) = self.nonce(head);
        let has_passkey = factors.passkeys_of(self.passkey_domain(head)).next().is_some();
        let passkey = has_passkey.then(|| self.passkey_form(head, &binding(head, &nonce), factors));
        let is_scripted = passkey.is_some();
        let html = pages::render(&LoginCodePage {
            site: &self.branding.name,
            host: head.host.name(),
            user,
            error,
            pending,
            target,
            passkey,
            help: self.branding.help.as_ref(),
        });
        if is_scripted { scripted_page(status, html) } else { html_page(status, html) }
    }

    /// Handles the form. A first step that is too old, or of another browser, leads to the login page.
    pub(super) async fn try_code(&self, head: &InboundHead, fields: FormFields) -> Page {
        let (nonce, sealed) = (self.nonce(head).0, fields.text(RETURN_URL));
        let (text, keys) = (fields.text(CSRF), self.shared().keys.load_full());
        let pending = FirstStep::open(&keys, &binding(head, &nonce), text, self.now());
        let login = pending.and_then(|pending| self.current_login(pending));
        let Some(login) = login else {
            return see_other(&format!("{LOGIN}?{RETURN_URL}={sealed}"));
        };
        let challenge = self.passkey_challenge(head, &binding(head, &nonce), &fields);
        let proof = SecondProof::of(&fields, challenge.as_ref());
        match self.verify_proof(&login, proof, head.client).await {
            Ok(()) => {
                let login = VerifiedLogin { second_factor: true, ..login };
                self.complete_login(head, sealed, &login).await
            }
            Err(error) => self.code_refused(head, &login, [text, sealed], error).await,
        }
    }

    /// Returns the login of the first step if its account has not changed since.
    fn current_login(&self, pending: FirstStep) -> Option<VerifiedLogin> {
        let login = pending.login()?;
        if login.identity.provider != Provider::Password {
            return Some(login);
        }
        let account = self.login.as_ref()?.directory().find(&login.identity.user)?;
        let is_unchanged =
            !account.disabled && account.credential_digest == login.credential_digest;
        is_unchanged.then(|| account.as_ref().into())
    }

    /// Verifies a code or a passkey. The attempt counts as a failure before it is checked.
    async fn verify_proof(
        &self,
        login: &VerifiedLogin,
        proof: SecondProof<'_>,
        client: IpAddr,
    ) -> Result<(), CodeError> {
        let sessions = self.auth.sessions();
        let (account, throttle) = (login.identity.account(), &sessions.throttle);
        let attempt = throttle.code_attempt(account, login.credential_digest, client).await;
        throttle.charge(&attempt).await.map_err(CodeError::Throttled)?;
        let account = UserRef { tag: self.shared().user_tag(account), user: &login.identity.user };
        let owner = FactorOwner { account, session: None, client: Some(client) };
        let factors = &sessions.second_factors;
        let is_right = match proof {
            SecondProof::Code(code) => factors.accept(owner, code).await?.is_some(),
            SecondProof::Passkey(signed, challenge) => {
                factors.accept_passkey(owner, &signed, challenge.scope()).await?
            }
        };
        is_right.then_some(()).ok_or(CodeError::Wrong)?;
        throttle.record_success(&attempt).await;
        Ok(())
    }

    async fn code_refused(
        &self,
        head: &InboundHead,
        login: &VerifiedLogin,
        [pending, target]: [&str; 2],
        error: CodeError,
    ) -> Page {
        let factors = match self.factors_of(login).await {
            Ok(factors) => factors,
            Err(error) => return self.deny(head, &DenyReason::Unavailable(error)),
        };
        let fields = [login.identity.user.as_str(), pending, target];
        match error {
            CodeError::Unavailable(error) => self.deny(head, &DenyReason::Unavailable(error)),
            CodeError::Wrong => {
                let text =
                    "The code is wrong, has expired, or was used already. Wait for the next one.";
                self.code_page(head, StatusCode::UNAUTHORIZED, fields, &factors, text)
            }
            CodeError::Throttled(wait) => {
                let text = format_wait(whole_seconds(wait));
                let text = format!("There were too many wrong codes. Try again in {text}.");
                let page =
                    self.code_page(head, StatusCode::TOO_MANY_REQUESTS, fields, &factors, &text);
                with_retry_after(page, wait)
            }
        }
    }

    fn now(&self) -> UnixMillis {
        self.shared().clock.now()
    }
}

/// What the form proves beside the password.
enum SecondProof<'a> {
    /// A one-time code or a recovery code.
    Code(&'a str),
    Passkey(PasskeySignature, &'a FormChallenge),
}

impl SecondProof<'_> {
    fn of<'a>(fields: &'a FormFields, challenge: Option<&'a FormChallenge>) -> SecondProof<'a> {
        if let (Some(signed), Some(challenge)) = (passkeys::signature(fields), challenge) {
            return SecondProof::Passkey(signed, challenge);
        }
        let codes = [fields.text("code"), fields.text("recovery")];
        SecondProof::Code(codes.into_iter().find(|code| !code.is_empty()).unwrap_or_default())
    }
}

/// Binds the first step to the host and the browser.
fn binding(head: &InboundHead, nonce: &str) -> Vec<u8> {
    format!("{} {nonce}", head.host).into_bytes()
}

impl FirstStep {
    fn new(login: &VerifiedLogin, now: UnixMillis) -> FirstStep {
        FirstStep {
            made: now,
            identity: Identity::clone(&login.identity),
            provider: login.identity.provider.extensions(),
            credential_digest: login.credential_digest,
            refresh_token: login.external.as_ref().and_then(|facts| facts.refresh_token.clone()),
        }
    }

    fn seal(&self, keys: &KeyRing, binding: &[u8]) -> String {
        let plain = postcard::to_allocvec(self).unwrap_or_default();
        BASE64URL_NOPAD.encode(&seal::seal(keys, PURPOSE, binding, &plain))
    }

    fn open(keys: &KeyRing, binding: &[u8], text: &str, now: UnixMillis) -> Option<FirstStep> {
        let sealed = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        let plain = seal::open(keys, PURPOSE, binding, &sealed).ok()?;
        let pending: FirstStep = postcard::from_bytes(&plain).ok()?;
        (now.since(pending.made) < STEP_TIME).then_some(pending)
    }

    fn login(self) -> Option<VerifiedLogin> {
        let mut identity = self.identity;
        for extension in &self.provider {
            identity.provider.apply(extension)?;
        }
        let (authenticated, refresh_token) = (self.made, self.refresh_token);
        let facts = ExternalFacts { authenticated, refresh_token, ..ExternalFacts::default() };
        let external = identity.provider.external().map(|_| Box::new(facts));
        let (identity, credential_digest) = (Arc::new(identity), self.credential_digest);
        Some(VerifiedLogin { identity, credential_digest, second_factor: false, external })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::ExternalLogin;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    #[test]
    fn a_first_step_opens_for_its_browser_and_for_ten_minutes() {
        let keys = KeyRing::generate("now");
        let provider = ExternalLogin { provider: "corp".to_owned(), ..ExternalLogin::default() };
        let identity = Identity {
            user: "alice".to_owned(),
            groups: vec!["staff".to_owned()],
            provider: Provider::External(Box::new(provider)),
            ..Identity::default()
        };
        let login = VerifiedLogin {
            identity: Arc::new(identity.clone()),
            credential_digest: [7; 8],
            second_factor: false,
            external: None,
        };
        let sealed = FirstStep::new(&login, NOW).seal(&keys, b"a.test nonce");
        let open = |binding: &[u8], at| FirstStep::open(&keys, binding, &sealed, at);
        let opened = open(b"a.test nonce", NOW).and_then(FirstStep::login).expect("its browser");
        assert_eq!((&*opened.identity, opened.credential_digest), (&identity, [7; 8]));
        assert!(!opened.second_factor && opened.external.is_some());
        assert!(open(b"a.test other", NOW).is_none() && open(b"b.test nonce", NOW).is_none());
        assert!(open(b"a.test nonce", NOW.plus(STEP_TIME)).is_none());
    }
}
