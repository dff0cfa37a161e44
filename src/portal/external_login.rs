//! Logins at OpenID Connect providers: `/.doorward/oidc/NAME/login` leads to the provider, which leads back to
//! `/.doorward/oidc/NAME/callback`.
//!
//! One cookie per browser binds all of its logins, so any number of tabs can log in at once.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use http::StatusCode;
use http::header::{self, HeaderValue};
use tracing::{info, warn};

use crate::auth::AuthenticatedSession;
use crate::identity::{LoginProvider, VerifiedLogin};
use crate::message::cookies::SameSite;
use crate::message::{InboundHead, Target};
use crate::oidc::{
    BrowserBinding, Callback, LoginFailure, LoginRefusal, MAX_RETURN_STATE, PendingLogin,
    ProviderStatus, StartRequest, StateError,
};
use crate::route::{Access, AccessRule, Route};
use crate::session::PASSWORD_METHOD;
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::forms::{FormFields, LOGIN, LoginState, PREFIX, RETURN_URL};
use super::pages::{self, ContinuePage, LoginFailedPage, ProviderButton};
use super::responses::{Page, html_page, see_other};
use super::{Portal, Problem};

/// Value of `Retry-After` in seconds while a provider does not respond.
const RETRY_AFTER: u64 = 30;

/// What the page that a login leads to requires.
#[derive(Debug, Default, PartialEq, Eq)]
struct LoginRequirement {
    rule: AccessRule,
    max_age: Option<Duration>,
}

impl Portal {
    /// Redirects to the provider.
    pub(super) async fn show_provider_login(&self, head: &InboundHead, name: &str) -> Page {
        let Some(provider) = self.providers().find(name) else {
            return self.problem(&head.requester, Problem::NoRoute);
        };
        let query = FormFields::parse(head.target.query().unwrap_or_default().to_owned().into());
        self.start_login(head, provider, query.text(RETURN_URL)).await
    }

    /// Redirects to the provider with the state of a login.
    pub(super) async fn start_login(
        &self,
        head: &InboundHead,
        provider: &LoginProvider,
        sealed: &str,
    ) -> Page {
        if self.auth.shared().outage.prevents_login() {
            return self.problem(&head.requester, Problem::StoreUnavailable);
        }
        let state = self.login_state(head, sealed);
        let requirement = self.requirement(head, &state);
        let (nonce, fresh) = self.nonce(head);
        let request = StartRequest {
            redirect_uri: callback_url(head, provider),
            return_state: self.short_state(head, sealed, &state),
            browser: binding(&nonce).unwrap_or_default(),
            max_age: requirement.max_age,
            acr: requirement.rule.acr,
            prompt: None,
        };
        let keys = self.auth.shared().keys.load_full();
        match provider.client.start(&keys, &request).await {
            Ok(url) => {
                let page = without_referrer(see_other(&url));
                self.with_login_cookie(page, &nonce, fresh)
            }
            Err(error) => self.login_failed(head, provider, &error.into(), sealed),
        }
    }

    /// Completes a login. Only GET requests reach this page.
    pub(super) async fn finish_login(&self, head: &InboundHead, name: &str) -> Page {
        let Some(provider) = self.providers().find(name) else {
            return self.problem(&head.requester, Problem::NoRoute);
        };
        if self.needs_bounce(head) {
            let html = pages::render(&ContinuePage {
                site: &self.branding.name,
                url: head.target.raw().as_str(),
            });
            return without_referrer(html_page(StatusCode::OK, html));
        }
        without_referrer(self.redeem(head, provider).await)
    }

    /// Whether the browser withholds the session cookie, because it is `SameSite=Strict` and the provider
    /// started this navigation. A page that loads the same URL again makes it a navigation of this site.
    fn needs_bounce(&self, head: &InboundHead) -> bool {
        let is_strict = self.auth.settings().cookies.same_site() == SameSite::Strict;
        is_strict && head.headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site")
    }

    async fn redeem(&self, head: &InboundHead, provider: &LoginProvider) -> Page {
        let shared = self.auth.shared();
        let callback = match Callback::parse(head.target.query().unwrap_or_default()) {
            Ok(callback) => callback,
            Err(refusal) => return self.login_failed(head, provider, &refusal.into(), ""),
        };
        let (nonce, fresh) = self.nonce(head);
        let browser = binding(&nonce).filter(|_| !fresh);
        let pending = browser.ok_or(StateError::Foreign).and_then(|browser| {
            let (name, now) = (&provider.settings.name, shared.clock.now());
            PendingLogin::open(&shared.keys.load(), name, browser, &callback.state, now)
        });
        let pending = match pending {
            Ok(pending) => pending,
            Err(error) => return self.without_pending(head, provider, error).await,
        };
        let state = self.login_state(head, &pending.return_state);
        let session = self.other_session(head, &state).await;
        // Another tab has logged in since.
        if session.as_ref().is_some_and(|session| session.record.created >= pending.created) {
            return see_other(state.target.as_deref().unwrap_or("/"));
        }
        match self.verified_login(provider, &callback, &pending).await {
            Ok(login) => {
                provider_login(self, provider, "success");
                warn_without_refresh_token(provider, &login);
                self.complete_login(head, &pending.return_state, &login).await
            }
            Err(error) => self.login_failed(head, provider, &error, &pending.return_state),
        }
    }

    async fn verified_login(
        &self,
        provider: &LoginProvider,
        callback: &Callback,
        pending: &PendingLogin,
    ) -> Result<VerifiedLogin, LoginFailure> {
        let shared = self.auth.shared();
        let login = provider.client.finish(callback, pending).await?;
        let verified = provider.verified(login, shared.keys.load().login(), shared.clock.now());
        verified.map_err(|error| LoginRefusal::Claims(error).into())
    }

    /// Handles a callback that does not belong to a login of this browser. The URL may be in the history.
    async fn without_pending(
        &self,
        head: &InboundHead,
        provider: &LoginProvider,
        error: StateError,
    ) -> Page {
        match self.other_session(head, &LoginState::default()).await {
            Some(_) => see_other("/"),
            None => self.login_failed(head, provider, &error.into(), ""),
        }
    }

    /// Returns the live session of this browser, unless it is the one that was refused.
    async fn other_session(
        &self,
        head: &InboundHead,
        state: &LoginState,
    ) -> Option<AuthenticatedSession> {
        let presented = self.presented_session(head)?;
        if presented == state.refused {
            return None;
        }
        self.authenticate_for_logout(head).await.ok()
    }

    /// Reports a failed login, and shows what the user can do.
    fn login_failed(
        &self,
        head: &InboundHead,
        provider: &LoginProvider,
        failure: &LoginFailure,
        sealed: &str,
    ) -> Page {
        self.report_failure(head, provider, failure);
        let status = match failure {
            LoginFailure::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            LoginFailure::State(_) => StatusCode::BAD_REQUEST,
            LoginFailure::Refused(_) => StatusCode::FORBIDDEN,
        };
        let html = pages::render(&LoginFailedPage {
            site: &self.branding.name,
            provider: &provider.settings.label,
            text: failure.user_text(),
            login: &login_url(sealed),
            code: failure.code(),
            request: head.requester.request.as_str(),
            help: self.branding.help.as_ref(),
        });
        let mut page = html_page(status, html);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            page.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
        }
        page
    }

    fn report_failure(&self, head: &InboundHead, provider: &LoginProvider, failure: &LoginFailure) {
        let (provider_name, reason) = (&provider.settings.name, failure.code());
        let request = head.requester.request.as_str();
        provider_login(self, provider, reason);
        if let LoginFailure::Unavailable(error) = failure {
            warn!(
                event = "oidc.unavailable",
                provider = provider_name,
                request,
                %error,
                "a login is not possible, because the provider does not respond; existing sessions are not affected"
            );
            return;
        }
        info!(event = "oidc.login-failed", provider = provider_name, reason, request, error = %failure, client = %head.client);
        let from = head.client_context();
        let (client, agent) = (Some(head.client), from.user_agent.as_str());
        let context = EventContext { client, agent, ..EventContext::default() };
        self.auth.shared().emit(SessionEvent::LoginFailed, context);
    }

    /// Returns the buttons of the login page. A route may accept only some providers.
    pub(super) fn provider_buttons(
        &self,
        head: &InboundHead,
        state: &LoginState,
        sealed: &str,
    ) -> Vec<ProviderButton<'_>> {
        let rule = self.requirement(head, state).rule;
        let accepted = |provider: &&LoginProvider| is_accepted(&rule, &provider.settings.name);
        let button = |provider| ProviderButton::new(provider, sealed);
        self.providers().iter().filter(accepted).map(button).collect()
    }

    /// Whether the login page has the form for name and password.
    pub(super) fn offers_password(&self, head: &InboundHead, state: &LoginState) -> bool {
        let rule = self.requirement(head, state).rule;
        let directories = self.providers().ldap.iter();
        let methods = directories.map(|directory| directory.settings().name.as_str());
        let mut methods = methods.chain(self.login.as_ref().map(|_| PASSWORD_METHOD));
        rule.acr.is_empty() && methods.any(|method| is_accepted(&rule, method))
    }

    /// Returns the provider to which the login page redirects: the only login method, if the user needs
    /// no message first.
    pub(super) fn only_provider(
        &self,
        head: &InboundHead,
        state: &LoginState,
    ) -> Option<&LoginProvider> {
        let is_silent = matches!(state.reason.as_str(), "" | "reauthenticate")
            && !state.is_unsaved
            && !state.is_too_long;
        if !is_silent || self.offers_password(head, state) {
            return None;
        }
        let rule = self.requirement(head, state).rule;
        let mut accepted =
            self.providers().iter().filter(|provider| is_accepted(&rule, &provider.settings.name));
        match (accepted.next(), accepted.next()) {
            (Some(only), None) => Some(only),
            (_, _) => None,
        }
    }

    /// Returns what the route of the return URL requires.
    fn requirement(&self, head: &InboundHead, state: &LoginState) -> LoginRequirement {
        let is_refused = state.reason == "reauthenticate";
        let fallback = is_refused.then_some(Duration::ZERO);
        let Some(route) = state.target.as_deref().and_then(|target| self.route_of(head, target))
        else {
            return LoginRequirement { max_age: fallback, ..LoginRequirement::default() };
        };
        let Access::Session(rule) = &route.access else { return LoginRequirement::default() };
        let applies = is_refused
            || route.policy_for(std::iter::once(&http::Method::GET), false).max_auth_age.is_some();
        let max_age = route.policy.max_auth_age.filter(|_| applies).or(fallback);
        LoginRequirement { rule: rule.clone(), max_age }
    }

    fn route_of(&self, head: &InboundHead, target: &str) -> Option<&Route> {
        let path = Target::new(target.parse().ok()?).ok()?.path().to_owned();
        self.routes.find(&head.host, &path).map(AsRef::as_ref)
    }

    /// Returns a state that fits into the URL of the provider, without the return URL if necessary.
    fn short_state(&self, head: &InboundHead, sealed: &str, state: &LoginState) -> String {
        if sealed.len() <= MAX_RETURN_STATE {
            return sealed.to_owned();
        }
        let shared = self.auth.shared();
        let short = LoginState { target: None, is_too_long: true, ..state.clone() };
        let host = head.host.to_string();
        short.seal(&shared.keys.load(), &host, shared.clock.now()).unwrap_or_default()
    }
}

impl<'a> ProviderButton<'a> {
    fn new(provider: &'a LoginProvider, sealed: &str) -> ProviderButton<'a> {
        let settings = &provider.settings;
        let to = if sealed.is_empty() { String::new() } else { format!("?{RETURN_URL}={sealed}") };
        ProviderButton {
            label: &settings.label,
            href: format!("{PREFIX}/oidc/{}/login{to}", settings.name),
            is_down: is_down(provider),
        }
    }
}

fn is_accepted(rule: &AccessRule, method: &str) -> bool {
    rule.logins.is_empty() || rule.logins.iter().any(|name| name == method)
}

fn is_down(provider: &LoginProvider) -> bool {
    matches!(provider.client.status(), ProviderStatus::Down(_))
}

fn provider_login(portal: &Portal, provider: &LoginProvider, result: &'static str) {
    portal.shared().metrics.providers.login(&provider.settings.name, result);
}

fn warn_without_refresh_token(provider: &LoginProvider, login: &VerifiedLogin) {
    let has_token = login.external.as_ref().is_some_and(|facts| facts.refresh_token.is_some());
    if provider.settings.recheck.is_some() && !has_token {
        warn!(
            event = "oidc.no-refresh-token",
            provider = provider.settings.name,
            user = login.identity.user,
            "the provider sent no refresh token, so `recheck` has no effect for this session; request the scope offline_access"
        );
    }
}

fn callback_url(head: &InboundHead, provider: &LoginProvider) -> String {
    format!("https://{}{PREFIX}/oidc/{}/callback", head.host, provider.settings.name)
}

fn login_url(sealed: &str) -> String {
    match sealed {
        "" => LOGIN.to_owned(),
        sealed => format!("{LOGIN}?{RETURN_URL}={sealed}"),
    }
}

/// Decodes the value of the login cookie.
fn binding(nonce: &str) -> Option<BrowserBinding> {
    BASE64URL_NOPAD.decode(nonce.as_bytes()).ok()?.try_into().ok()
}

/// The URL of a callback has a code, which no other site may receive.
pub(super) fn without_referrer(mut page: Page) -> Page {
    page.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    page
}
