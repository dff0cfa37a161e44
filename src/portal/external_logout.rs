//! Logouts at OpenID Connect providers, in both directions: after a logout here the browser goes to the
//! provider, and a provider ends sessions with a back-channel request.

use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Full, Limited};
use serde_json::json;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::connections::ClientBody;
use crate::identity::LoginProvider;
use crate::message::{InboundHead, Intent, intent, response_headers};
use crate::oidc::{EndSession, EndSessionRequest, LogoutTokenFailure};
use crate::session::TokenRefusal;
use crate::sessions::SessionInfo;

use super::pages::{self, LoggedOutPage, ProviderLogout};
use super::responses::{Page, html_page, json_page};
use super::{FORM_TIME, Portal, Problem};

/// Maximum size of a logout request in bytes.
const MAX_BODY: usize = 8 * 1024;

/// Value of `Retry-After` in seconds while the store or the keys of the provider are unavailable.
const RETRY_AFTER: u64 = 5;

/// Result of a back-channel logout, as the label of its metric.
enum LogoutResult {
    Done,
    Replayed,
    Refused(String),
    Unavailable(String),
    /// Too many refused requests from this network.
    Throttled(Duration),
}

impl LogoutResult {
    fn as_str(&self) -> &'static str {
        match self {
            LogoutResult::Done => "success",
            LogoutResult::Replayed => "replayed",
            LogoutResult::Refused(_) => "refused",
            LogoutResult::Unavailable(_) => "unavailable",
            LogoutResult::Throttled(_) => "throttled",
        }
    }
}

impl Portal {
    /// Ends sessions at the request of a provider (OpenID Connect Back-Channel Logout 1.0). The signature
    /// of the token is the only authentication, so the request needs no cookie.
    pub(super) async fn backchannel_logout(
        &self,
        head: &InboundHead,
        body: ClientBody,
        name: &str,
    ) -> Page {
        let Some(provider) = self.providers().find(name) else {
            return self.problem(&head.requester, Problem::NoRoute);
        };
        if body.size_hint().lower() > MAX_BODY as u64 {
            return self.problem(&head.requester, Problem::BodyTooLarge);
        }
        let throttle = &self.auth.sessions().token_throttle;
        let failures = throttle.of_logouts(head.client);
        if let Err(TokenRefusal::Throttled { wait }) = throttle.check(&failures) {
            return self.report_logout(head, name, &LogoutResult::Throttled(wait));
        }
        let read = Limited::new(body, MAX_BODY).collect();
        let body = match tokio::time::timeout(FORM_TIME, read).await {
            Err(_) => return self.problem(&head.requester, Problem::BodyTimeout),
            Ok(Err(_)) => return self.problem(&head.requester, Problem::BodyTooLarge),
            Ok(Ok(body)) => body.to_bytes(),
        };
        let result = self.end_provider_sessions(provider, &body).await;
        if let LogoutResult::Refused(_) | LogoutResult::Replayed = result {
            throttle.charge(&failures).await;
        }
        self.report_logout(head, name, &result)
    }

    fn report_logout(&self, head: &InboundHead, name: &str, result: &LogoutResult) -> Page {
        self.shared().metrics.providers.logout(name, result.as_str());
        logout_result(head, name, result)
    }

    async fn end_provider_sessions(&self, provider: &LoginProvider, body: &[u8]) -> LogoutResult {
        let token = match provider.client.verify_logout_token(body).await {
            Ok(token) => token,
            Err(LogoutTokenFailure::Unavailable(error)) => {
                return LogoutResult::Unavailable(error.to_string());
            }
            Err(error @ LogoutTokenFailure::Refused(_)) => {
                return LogoutResult::Refused(error.to_string());
            }
        };
        match self.auth.sessions().log_out_at_provider(&token).await {
            Ok(true) => LogoutResult::Done,
            Ok(false) => LogoutResult::Replayed,
            Err(error) => LogoutResult::Unavailable(error.to_string()),
        }
    }

    /// Builds the response after the end of sessions: the page, or the way to the logout at the provider.
    pub(super) async fn after_logout(&self, head: &InboundHead, ended: &[SessionInfo]) -> Page {
        for session in ended {
            if let Some(page) = self.provider_logout(head, session).await {
                return page;
            }
        }
        self.logout_response(head)
    }

    /// Returns the page that leads to the logout at the provider of a session.
    async fn provider_logout(&self, head: &InboundHead, session: &SessionInfo) -> Option<Page> {
        let login = session.record.identity.provider.external()?;
        let provider = self.providers().find(&login.provider)?;
        let tokens = &self.auth.sessions().tokens;
        let stored = tokens.load(&session.key).await.unwrap_or_default();
        // Kept until the end of the session's lifetime otherwise. They are sealed.
        tokens.erase(&session.key).await.unwrap_or_default();
        let is_page =
            head.requester.intent == Intent::Navigation || intent::accepts_html(&head.headers);
        if !provider.settings.provider_logout || !is_page {
            return None;
        }
        let id_token = Some(stored.id_token).filter(|token| !token.is_empty());
        let request = EndSessionRequest {
            id_token_hint: id_token.map(Zeroizing::new),
            logout_hint: None,
            post_logout_redirect_uri: Some(format!("https://{}/.doorward/logout", head.host)),
            state: None,
        };
        let action = provider.client.end_session(&request)?;
        Some(self.provider_logout_page(head, provider, &action))
    }

    /// The page is a document of its own: the content security policy of a form also applies to the redirects
    /// that follow it, and those of a provider are unknown.
    fn provider_logout_page(
        &self,
        head: &InboundHead,
        provider: &LoginProvider,
        action: &EndSession,
    ) -> Page {
        let logout = ProviderLogout { label: &provider.settings.label, action };
        let page = LoggedOutPage { site: &self.branding.name, provider: Some(&logout) };
        let html = pages::render(&page);
        let mut page = html_page(StatusCode::OK, html);
        let headers = page.headers_mut();
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if let EndSession::Form { .. } = action {
            let policy = HeaderValue::from_static(FORM_POLICY);
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        let cookies = &self.auth.settings().cookies;
        response_headers::set_logout_headers(headers, cookies, head.host.name());
        page
    }
}

/// Allows a form to every https site, because the redirects of the provider are unknown.
const FORM_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; form-action https: http://localhost:* http://127.0.0.1:*; base-uri 'none'; frame-ancestors 'none'";

/// Reports the result to the log and to the provider.
fn logout_result(head: &InboundHead, provider: &str, result: &LogoutResult) -> Page {
    let (request, client) = (head.requester.request.as_str(), head.client.to_string());
    let (status, text) = match result {
        LogoutResult::Done => {
            info!(event = "oidc.backchannel-logout", provider, request);
            let mut page = Response::new(Full::default());
            let no_store = HeaderValue::from_static("no-store");
            page.headers_mut().insert(header::CACHE_CONTROL, no_store);
            return page;
        }
        LogoutResult::Replayed => (StatusCode::BAD_REQUEST, "the logout token was used before"),
        LogoutResult::Refused(error) => (StatusCode::BAD_REQUEST, error.as_str()),
        LogoutResult::Unavailable(error) => (StatusCode::SERVICE_UNAVAILABLE, error.as_str()),
        LogoutResult::Throttled(_) => {
            (StatusCode::TOO_MANY_REQUESTS, "too many requests of this network were refused")
        }
    };
    warn!(
        event = "oidc.backchannel-logout-failed",
        provider,
        request,
        client,
        reason = result.as_str(),
        error = text,
        "a logout at the provider did not end its sessions here"
    );
    let (code, retry_after) = match result {
        LogoutResult::Unavailable(_) => ("unavailable", Some(RETRY_AFTER)),
        LogoutResult::Throttled(wait) => ("throttled", Some(wait.as_secs().max(1))),
        LogoutResult::Done | LogoutResult::Replayed | LogoutResult::Refused(_) => {
            ("invalid_request", None)
        }
    };
    let mut page = json_page(status, &json!({ "error": code, "reason": result.as_str() }));
    if let Some(seconds) = retry_after {
        page.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    page
}
