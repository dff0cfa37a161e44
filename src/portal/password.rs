//! The page on which users of the users file change their password.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tracing::error;
use zeroize::Zeroizing;

use crate::auth::AuthenticatedSession;
use crate::identity::account::normalize_password;
use crate::identity::{LoginOutcome, PasswordLogin, password_policy};
use crate::message::InboundHead;
use crate::session::Provider;

use super::forms::{FormFields, LoginState, RETURN_URL};
use super::pages::{self, PasswordPage};
use super::responses::{Page, html_page, see_other};
use super::{Portal, Problem};

/// Longest wait until the gateway has loaded the changed users file. It checks it every second.
const RELOAD_TIME: Duration = Duration::from_secs(3);

impl Portal {
    /// Shows the form.
    pub(super) async fn show_password(&self, head: &InboundHead) -> Page {
        let session = match self.authenticate(head, true).await {
            Ok(session) => session,
            Err(denial) => return self.deny(head, &denial),
        };
        match self.changeable(&session) {
            Some(login) => self.password_page(&session, &login, StatusCode::OK, ""),
            None => self.problem(&head.requester, Problem::NoRoute),
        }
    }

    /// Returns the login whose password the user of this session can change.
    pub(super) fn changeable(&self, session: &AuthenticatedSession) -> Option<Arc<PasswordLogin>> {
        let login = self.login.clone().filter(|login| login.settings().is_changeable);
        login.filter(|_| session.identity.provider == Provider::Password)
    }

    fn password_page(
        &self,
        session: &AuthenticatedSession,
        login: &PasswordLogin,
        status: StatusCode,
        error: &str,
    ) -> Page {
        let html = pages::render(&PasswordPage {
            site: &self.branding.name,
            user: &session.identity.user,
            csrf: &self.session_csrf(&session.key),
            error,
            min_length: login.settings().min_length,
            help: self.branding.help.as_ref(),
        });
        self.with_session_token(html_page(status, html), session)
    }

    /// Checks the current password like a login, then writes the new one. All sessions of the user end, as
    /// after `doorward user passwd`.
    pub(super) async fn change_password(&self, head: &InboundHead, fields: FormFields) -> Page {
        let session = match self.authenticate(head, true).await {
            Ok(session) => session,
            Err(denial) => return self.deny(head, &denial),
        };
        if !self.verify_session_csrf(&session.key, &fields) {
            return self.problem(&head.requester, Problem::CrossSite);
        }
        let Some(login) = self.changeable(&session) else {
            return self.problem(&head.requester, Problem::NoRoute);
        };
        let refused = |status, text: &str| self.password_page(&session, &login, status, text);
        let new = match checked_password(&fields, &session.identity.user, &login) {
            Ok(new) => new,
            Err(text) => return refused(StatusCode::BAD_REQUEST, &text),
        };
        if let Err((status, text)) = self.verify_current(head, &session, &login, &fields).await {
            return refused(status, text);
        }
        if let Err(error) = login.set_password(&session.identity.user, new).await {
            error!(event = "users.write-failed", %error, "a user could not change their password");
            return refused(StatusCode::SERVICE_UNAVAILABLE, NOT_WRITTEN);
        }
        self.wait_for_reload(&session, &login).await;
        see_other(&self.login_after_change(head))
    }

    async fn verify_current(
        &self,
        head: &InboundHead,
        session: &AuthenticatedSession,
        login: &PasswordLogin,
        fields: &FormFields,
    ) -> Result<(), (StatusCode, &'static str)> {
        let current = fields.one("current").cloned().unwrap_or_default();
        let name = &session.identity.user;
        match self.verify_password(login, name, current, head.client).await {
            LoginOutcome::Accept(_) => Ok(()),
            LoginOutcome::Refuse => Err((StatusCode::FORBIDDEN, "The current password is wrong.")),
            LoginOutcome::Throttle { .. } | LoginOutcome::Busy { .. } => {
                Err((StatusCode::TOO_MANY_REQUESTS, TOO_MANY))
            }
        }
    }

    /// Waits until this gateway uses the new password, so that the next login succeeds.
    async fn wait_for_reload(&self, session: &AuthenticatedSession, login: &PasswordLogin) {
        let (user, old) = (&session.identity.user, session.record.credential);
        let reloaded = login.directory().wait_until(|directory| {
            directory.find(user).is_none_or(|account| account.credential_digest != old)
        });
        // The login page works in any case; the new password is accepted a moment later.
        tokio::time::timeout(RELOAD_TIME, reloaded).await.unwrap_or_default();
    }

    fn login_after_change(&self, head: &InboundHead) -> String {
        let shared = self.auth.shared();
        let state = LoginState { reason: "password-changed".to_owned(), ..LoginState::default() };
        let host = head.host.to_string();
        let sealed = state.seal(&shared.keys.load(), &host, shared.clock.now());
        format!("/.doorward/login?{RETURN_URL}={}", sealed.unwrap_or_default())
    }
}

const NOT_WRITTEN: &str = "Your password could not be changed, because this site cannot store it. Your old \
                           password is still valid.";
const TOO_MANY: &str = "There were too many attempts. Try again in a moment.";

/// Returns the new password if it was typed twice and satisfies the rules.
fn checked_password(
    fields: &FormFields,
    user: &str,
    login: &PasswordLogin,
) -> Result<Zeroizing<String>, String> {
    let [new, repeated] = ["new", "repeated"].map(|name| normalize_password(fields.text(name)));
    if *new != *repeated {
        return Err("The two new passwords differ.".to_owned());
    }
    match password_policy::check(&new, user, login.settings().min_length) {
        Ok(()) => Ok(new),
        Err(error) => Err(format!("Choose another password: {error}.")),
    }
}
