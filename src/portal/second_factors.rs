//! The page on which users set up and remove second factors. It requires a recent login, and a login with the
//! second factor if there is one.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::auth::{AuthenticatedSession, DenyReason};
use crate::clock::UnixMillis;
use crate::message::InboundHead;
use crate::secret::{KeyRing, seal};
use crate::session::notice::NoticeKind;
use crate::session::second_factor::NAME_MAX;
use crate::session::{
    AuthenticatorApp, Passkey, Refusal, SecondFactors, SecurityNotice, SessionKey, TotpSecret,
    UserHistory,
};
use crate::sessions::{AddAppError, FactorOwner, NewFactor, NewToken, UserRef};

use super::forms::{FormFields, RETURN_URL};
use super::pages::{self, AppSetup, FactorRow, QrCode, SecondFactorsPage};
use super::passkeys;
use super::responses::{Page, scripted_page, see_other};
use super::tokens::date;
use super::{Portal, Problem, with_token};

/// Longest time since the login.
const MAX_AUTH_AGE: Duration = Duration::from_secs(15 * 60);

/// Longest time from showing a secret to its first code.
const SETUP_TIME: Duration = Duration::from_secs(15 * 60);

const PURPOSE: &[u8] = b"new authenticator app";

const NAME_RULE: &str = "Write a name with at most 64 characters.";

/// A session that may change the second factors, and what they are.
struct FactorVisit {
    session: AuthenticatedSession,
    factors: SecondFactors,
}

/// A secret that no code has confirmed yet. It is sealed in the form, so nothing is stored before.
#[derive(Serialize, Deserialize)]
struct AppDraft {
    made: UnixMillis,
    secret: TotpSecret,
}

/// What a form of the page did.
#[derive(Default)]
struct FactorFormResult {
    error: String,
    codes: Vec<Zeroizing<String>>,
    /// The app that is being set up.
    draft: Option<AppDraft>,
    name: String,
    /// The rotated token after a change of the session.
    token: Option<NewToken>,
    /// Whether the session has proved a second factor just now.
    has_proved: bool,
}

impl FactorFormResult {
    fn refused(error: &str) -> FactorFormResult {
        FactorFormResult { error: error.to_owned(), ..FactorFormResult::default() }
    }
}

impl Portal {
    /// Whether the user can have a second factor.
    pub(super) fn has_second_factor_page(&self, session: &AuthenticatedSession) -> bool {
        self.auth.settings().second_factor.is_offered(&session.identity)
    }

    /// Shows the factors. A user who came from another page and has a second factor goes back to it.
    pub(super) async fn show_second_factors(&self, head: &InboundHead) -> Page {
        let visit = match self.visit_factors(head).await {
            Ok(visit) => visit,
            Err(page) => return page,
        };
        let query = FormFields::parse(head.target.query().unwrap_or_default().to_owned().into());
        let sealed = query.text(RETURN_URL);
        match self.return_url(head, sealed) {
            Some(target) if visit.session.record.second_factor.is_some() => {
                self.with_session_token(see_other(&target), &visit.session)
            }
            Some(_) | None => self.factors_page(head, &visit, sealed, FactorFormResult::default()),
        }
    }

    /// Handles a form of the page.
    pub(super) async fn change_second_factors(
        &self,
        head: &InboundHead,
        fields: FormFields,
    ) -> Page {
        let visit = match self.visit_factors(head).await {
            Ok(visit) => visit,
            Err(page) => return page,
        };
        if !self.verify_session_csrf(&visit.session.key, &fields) {
            return self.problem(&head.requester, Problem::CrossSite);
        }
        let result = match fields.text("do") {
            "start" => Ok(FactorFormResult {
                draft: Some(self.new_draft()),
                ..FactorFormResult::default()
            }),
            "add" => self.add_app(head, &visit, &fields).await,
            "passkey" => self.add_passkey(head, &visit, &fields).await,
            "remove" => self.remove_factor(head, &visit, &fields).await,
            "codes" => self.replace_codes(head, &visit).await,
            _ => return self.problem(&head.requester, Problem::MalformedForm),
        };
        match result {
            Ok(result) => self.after_change(head, visit, fields.text(RETURN_URL), result).await,
            Err(denial) => self.deny(head, &denial),
        }
    }

    /// Shows the page with the current factors.
    async fn after_change(
        &self,
        head: &InboundHead,
        visit: FactorVisit,
        sealed: &str,
        result: FactorFormResult,
    ) -> Page {
        match self.auth.sessions().second_factors.load(visit.session.key.tag).await {
            Ok(factors) => {
                self.factors_page(head, &FactorVisit { factors, ..visit }, sealed, result)
            }
            Err(error) => self.deny(head, &DenyReason::Unavailable(error)),
        }
    }

    async fn visit_factors(&self, head: &InboundHead) -> Result<FactorVisit, Page> {
        let session = self.authenticate_recent(head, MAX_AUTH_AGE).await;
        let session = session.map_err(|denial| self.deny(head, &denial))?;
        if !self.has_second_factor_page(&session) {
            return Err(self.problem(&head.requester, Problem::NoRoute));
        }
        let factors = self.auth.sessions().second_factors.load(session.key.tag).await;
        let factors = factors.map_err(|error| self.deny(head, &DenyReason::Unavailable(error)))?;
        // A session of the password alone must not change the second factor.
        if factors.is_set_up() && session.record.second_factor.is_none() {
            return Err(self.deny(head, &DenyReason::Refused(Refusal::Reauthenticate)));
        }
        Ok(FactorVisit { session, factors })
    }

    async fn add_app(
        &self,
        head: &InboundHead,
        visit: &FactorVisit,
        fields: &FormFields,
    ) -> Result<FactorFormResult, DenyReason> {
        let (session, now) = (&visit.session, self.shared().clock.now());
        let keys = self.shared().keys.load_full();
        let Some(draft) = AppDraft::open(&keys, &session.key, fields.text("setup"), now) else {
            return Ok(FactorFormResult::refused("This form has expired. Scan the new code."));
        };
        let Some(name) = name(fields) else {
            return Ok(draft.refused(fields.text("name"), NAME_RULE));
        };
        let code = fields.text("code");
        let Some(app) = AuthenticatorApp::confirmed(draft.secret.clone(), name, code, now) else {
            return Ok(
                draft.refused(name, "The code is wrong. Write the code that the app shows now.")
            );
        };
        self.add_factor(head, session, &NewFactor::App(app)).await
    }

    async fn add_passkey(
        &self,
        head: &InboundHead,
        visit: &FactorVisit,
        fields: &FormFields,
    ) -> Result<FactorFormResult, DenyReason> {
        let (session, now) = (&visit.session, self.shared().clock.now());
        let Some(challenge) = self.passkey_challenge(head, &session.key.id.0, fields) else {
            return Ok(FactorFormResult::refused("This form has expired. Try again."));
        };
        let Some(name) = name(fields) else { return Ok(FactorFormResult::refused(NAME_RULE)) };
        let new = passkeys::new_credential(fields);
        match Passkey::register(&new, challenge.scope(), name, now) {
            Ok(passkey) => self.add_factor(head, session, &NewFactor::Passkey(passkey)).await,
            Err(error) => {
                let text = format!("The passkey cannot be used: {error}.");
                Ok(FactorFormResult::refused(&text))
            }
        }
    }

    async fn add_factor(
        &self,
        head: &InboundHead,
        session: &AuthenticatedSession,
        new: &NewFactor,
    ) -> Result<FactorFormResult, DenyReason> {
        match self.auth.sessions().second_factors.add(owner(head, session), new).await {
            Ok(codes) => {
                self.notify_user(head, session).await;
                self.strengthen(head, session, codes).await
            }
            Err(AddAppError::Unavailable(error)) => Err(error.into()),
            Err(error @ (AddAppError::TooMany | AddAppError::Known)) => {
                Ok(FactorFormResult::refused(&error.to_string()))
            }
        }
    }

    /// The session has proved a second factor, so it gets a new token.
    async fn strengthen(
        &self,
        head: &InboundHead,
        session: &AuthenticatedSession,
        codes: Vec<Zeroizing<String>>,
    ) -> Result<FactorFormResult, DenyReason> {
        let updater = &self.auth.sessions().updater;
        updater.record_second_factor(&session.key).await?;
        let token = updater.rotate(&self.session_cookie(head), &head.client_context()).await?;
        Ok(FactorFormResult { codes, token, has_proved: true, ..FactorFormResult::default() })
    }

    async fn remove_factor(
        &self,
        head: &InboundHead,
        visit: &FactorVisit,
        fields: &FormFields,
    ) -> Result<FactorFormResult, DenyReason> {
        let session = &visit.session;
        let keep_one = self.auth.settings().second_factor.requires(&session.identity);
        let store = &self.auth.sessions().second_factors;
        let is_removed =
            store.remove(owner(head, session), fields.text("factor"), keep_one).await?;
        if is_removed {
            self.notify_user(head, session).await;
        }
        if is_removed || !keep_one {
            return Ok(FactorFormResult::default());
        }
        let text = "You must have a second factor. Set up another app before you remove this one.";
        Ok(FactorFormResult::refused(text))
    }

    async fn replace_codes(
        &self,
        head: &InboundHead,
        visit: &FactorVisit,
    ) -> Result<FactorFormResult, DenyReason> {
        let store = &self.auth.sessions().second_factors;
        let codes = store.replace_recovery_codes(owner(head, &visit.session)).await?;
        self.notify_user(head, &visit.session).await;
        Ok(FactorFormResult { codes, ..FactorFormResult::default() })
    }

    /// Shows the change to the user at the next login.
    async fn notify_user(&self, head: &InboundHead, session: &AuthenticatedSession) {
        let (kind, from) = (NoticeKind::SecondFactorChanged, head.client_context());
        let now = self.shared().clock.now();
        let notice = SecurityNotice::new(kind, session.key.id, &from, None, now);
        let account = UserRef::of(&session.key, &session.identity.user);
        let add = |history: &mut UserHistory| history.add_notice(notice.clone());
        self.auth.sessions().histories.update_best_effort(account, add).await;
    }

    fn new_draft(&self) -> AppDraft {
        AppDraft { made: self.shared().clock.now(), secret: TotpSecret::generate() }
    }

    fn factors_page(
        &self,
        head: &InboundHead,
        visit: &FactorVisit,
        sealed: &str,
        result: FactorFormResult,
    ) -> Page {
        let FactorVisit { session, factors } = visit;
        let draft = match result.draft {
            None if !factors.is_set_up() => Some(self.new_draft()),
            draft => draft,
        };
        let issuer = match self.branding.name.as_str() {
            "" => head.host.name(),
            name => name,
        };
        let texts = draft.map(|draft| {
            let keys = self.shared().keys.load();
            let uri = draft.secret.uri(issuer, &session.identity.user);
            (QrCode::encode(&uri), draft.secret.text(), draft.seal(&keys, &session.key))
        });
        let setup = texts.as_ref().and_then(|(qr, secret, sealed)| {
            Some(AppSetup { qr: qr.as_ref()?, secret, sealed, name: &result.name })
        });
        let has_proved = session.record.second_factor.is_some() || result.has_proved;
        let target = self.return_url(head, sealed);
        let html = pages::render(&SecondFactorsPage {
            site: &self.branding.name,
            user: &session.identity.user,
            csrf: &self.session_csrf(&session.key),
            target: sealed,
            continue_at: target.as_deref().filter(|_| has_proved).unwrap_or_default(),
            error: &result.error,
            is_required: target.is_some() && !has_proved,
            new_codes: result.codes.iter().map(|code| code.as_str()).collect(),
            codes_left: factors.recovery.len(),
            rows: factor_rows(factors),
            passkey: Some(self.passkey_form(head, &session.key.id.0, factors)),
            user_id: &BASE64URL_NOPAD.encode(&session.key.tag.0),
            setup,
        });
        let status = if result.error.is_empty() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
        let page = self.with_session_token(scripted_page(status, html), session);
        with_token(&self.auth, page, result.token.as_ref())
    }
}

fn owner<'a>(head: &InboundHead, session: &'a AuthenticatedSession) -> FactorOwner<'a> {
    let account = UserRef::of(&session.key, &session.identity.user);
    FactorOwner { account, session: Some(session.key), client: Some(head.client) }
}

fn factor_rows(factors: &SecondFactors) -> Vec<FactorRow> {
    let row = |kind, handle, name: &str, added: UnixMillis| FactorRow {
        handle,
        kind,
        name: name.to_owned(),
        added: date(added.seconds()),
    };
    let apps = factors.apps.iter();
    let apps = apps.map(|app| row("Authenticator app", app.handle(), &app.name, app.added));
    let passkeys = factors.passkeys.iter();
    let passkeys = passkeys.map(|key| row("Passkey", key.handle(), &key.name, key.added));
    apps.chain(passkeys).collect()
}

/// Returns the name of a new factor if it is acceptable.
fn name(fields: &FormFields) -> Option<&str> {
    let name = fields.text("name").trim();
    let is_valid = !name.is_empty() && name.len() <= NAME_MAX && !name.contains(char::is_control);
    is_valid.then_some(name)
}

impl AppDraft {
    fn seal(&self, keys: &KeyRing, key: &SessionKey) -> String {
        let plain = Zeroizing::new(postcard::to_allocvec(self).unwrap_or_default());
        BASE64URL_NOPAD.encode(&seal::seal(keys, PURPOSE, &key.id.0, &plain))
    }

    fn open(keys: &KeyRing, key: &SessionKey, text: &str, now: UnixMillis) -> Option<AppDraft> {
        let sealed = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        let plain = Zeroizing::new(seal::open(keys, PURPOSE, &key.id.0, &sealed).ok()?);
        let draft: AppDraft = postcard::from_bytes(&plain).ok()?;
        (now.since(draft.made) < SETUP_TIME).then_some(draft)
    }

    /// Shows the same secret again.
    fn refused(self, name: &str, error: &str) -> FactorFormResult {
        FactorFormResult {
            draft: Some(self),
            name: name.to_owned(),
            ..FactorFormResult::refused(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{SessionId, UserTag};

    #[test]
    fn a_new_secret_belongs_to_one_session_for_fifteen_minutes() {
        let keys = KeyRing::generate("now");
        let key = |id| SessionKey { tag: UserTag([1; 8]), id: SessionId([id; 16]) };
        let now = UnixMillis(1_800_000_000_000);
        let draft = AppDraft { made: now, secret: TotpSecret::generate() };
        let sealed = draft.seal(&keys, &key(1));
        let open = |session, at| AppDraft::open(&keys, &key(session), &sealed, at);
        assert!(open(1, now).is_some_and(|opened| opened.secret == draft.secret));
        assert!(open(2, now).is_none() && open(1, now.plus(SETUP_TIME)).is_none());
    }
}
