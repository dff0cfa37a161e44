//! The page on which users create and delete their personal access tokens. It requires a recent login.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;

use crate::auth::{AuthenticatedSession, DenyReason};
use crate::message::InboundHead;
use crate::session::{Provider, TokenGrant, TokenScope};
use crate::sessions::{NewGrant, TokenCreationError};

use super::forms::{FormFields, TOKENS};
use super::pages::{self, TokenRow, TokensPage};
use super::responses::{Page, html_page, see_other};
use super::{Portal, Problem};

/// Longest time since the login.
const MAX_AUTH_AGE: Duration = Duration::from_secs(15 * 60);

/// What a form of the page did.
#[derive(Default)]
struct FormResult<'a> {
    token: &'a str,
    error: &'a str,
}

impl Portal {
    /// Returns whether the user can have tokens: this gateway must have the login method of the account.
    pub(super) fn has_tokens(&self, session: &AuthenticatedSession) -> bool {
        let is_known = match &session.identity.provider {
            Provider::Password => self.auth.shared().login_methods.password().is_some(),
            Provider::External(login) => self.auth.settings().providers.contains(&login.provider),
        };
        is_known && !self.auth.settings().token_routes.is_empty()
    }

    async fn token_session(&self, head: &InboundHead) -> Result<AuthenticatedSession, Page> {
        let session = self.authenticate_recent(head, MAX_AUTH_AGE).await;
        let session = session.map_err(|denial| self.deny(head, &denial))?;
        if !self.has_tokens(&session) {
            return Err(self.problem(&head.requester, Problem::NoRoute));
        }
        // A token works without a second factor, so it must not replace one.
        let policy = &self.auth.settings().second_factor;
        match policy.is_missing(&session.record, &session.identity, false) {
            true => Err(self.deny(head, &DenyReason::SecondFactor)),
            false => Ok(session),
        }
    }

    /// Shows the tokens.
    pub(super) async fn show_tokens(&self, head: &InboundHead) -> Page {
        match self.token_session(head).await {
            Ok(session) => self.tokens_page(head, &session, FormResult::default()).await,
            Err(page) => page,
        }
    }

    /// Handles a form of the page.
    pub(super) async fn change_tokens(&self, head: &InboundHead, fields: FormFields) -> Page {
        let session = match self.token_session(head).await {
            Ok(session) => session,
            Err(page) => return page,
        };
        if !self.verify_session_csrf(&session.key, &fields) {
            return self.problem(&head.requester, Problem::CrossSite);
        }
        match fields.text("do") {
            "create" => self.create_token(head, &session, &fields).await,
            "delete" => self.delete_token(head, &session, &fields).await,
            _ => self.problem(&head.requester, Problem::MalformedForm),
        }
    }

    async fn create_token(
        &self,
        head: &InboundHead,
        session: &AuthenticatedSession,
        fields: &FormFields,
    ) -> Page {
        let new = match self.new_grant(session, fields) {
            Ok(new) => new,
            Err(error) => {
                let outcome = FormResult { error: &error, ..FormResult::default() };
                return self.tokens_page(head, session, outcome).await;
            }
        };
        let created = self.auth.sessions().personal_tokens.create(new, Some(head.client)).await;
        match created {
            Ok(token) => {
                let outcome = FormResult { token: &token, ..FormResult::default() };
                self.tokens_page(head, session, outcome).await
            }
            Err(TokenCreationError::Unavailable(error)) => {
                self.deny(head, &DenyReason::Unavailable(error))
            }
            Err(
                error @ (TokenCreationError::Name
                | TokenCreationError::TooMany
                | TokenCreationError::TooLarge
                | TokenCreationError::Account),
            ) => {
                let error = error.to_string();
                let outcome = FormResult { error: &error, ..FormResult::default() };
                self.tokens_page(head, session, outcome).await
            }
        }
    }

    fn new_grant(
        &self,
        session: &AuthenticatedSession,
        fields: &FormFields,
    ) -> Result<NewGrant, String> {
        let known = &self.auth.settings().token_routes;
        let [routes, methods, networks] =
            ["routes", "methods", "networks"].map(|name| fields.text(name));
        let scope = TokenScope::parse(routes, methods, networks, known)?;
        let days = fields.text("days").trim().parse::<u32>().ok();
        let days = days.filter(|days| (1..=366).contains(days));
        let days = days.ok_or("The number of days must be from 1 to 366.")?;
        let lifetime = Duration::from_secs(u64::from(days) * 24 * 60 * 60);
        let (identity, name) = (Arc::clone(&session.identity), fields.text("name").to_owned());
        Ok(NewGrant { identity, name, scope, lifetime })
    }

    async fn delete_token(
        &self,
        head: &InboundHead,
        session: &AuthenticatedSession,
        fields: &FormFields,
    ) -> Page {
        let (tag, handle) = (session.key.tag, fields.text("token"));
        let tokens = &self.auth.sessions().personal_tokens;
        match tokens.delete(tag, handle, Some(head.client)).await {
            Ok(_) => self.with_session_token(see_other(TOKENS), session),
            Err(error) => self.deny(head, &DenyReason::Unavailable(error)),
        }
    }

    async fn tokens_page(
        &self,
        head: &InboundHead,
        session: &AuthenticatedSession,
        outcome: FormResult<'_>,
    ) -> Page {
        let listed = self.auth.sessions().personal_tokens.list(session.key.tag).await;
        let grants = match listed {
            Ok(grants) => grants,
            Err(error) => return self.deny(head, &DenyReason::Unavailable(error)),
        };
        let html = pages::render(&TokensPage {
            site: &self.branding.name,
            user: &session.identity.user,
            csrf: &self.session_csrf(&session.key),
            token: outcome.token,
            error: outcome.error,
            routes: &self.auth.settings().token_routes,
            rows: grants.iter().map(token_row).collect(),
        });
        let status =
            if outcome.error.is_empty() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
        self.with_session_token(html_page(status, html), session)
    }
}

fn token_row(grant: &TokenGrant) -> TokenRow {
    let TokenScope { routes, methods, networks } = &grant.scope;
    let limits = [routes, methods, networks].into_iter().flatten();
    TokenRow {
        handle: grant.id.handle(),
        name: grant.name.clone(),
        expires: date(grant.expires.seconds()),
        last_used: match grant.last_used.0 {
            0 => "never".to_owned(),
            _ => date(grant.last_used.seconds()),
        },
        limits: limits.map(String::as_str).collect::<Vec<_>>().join(", "),
    }
}

pub(super) fn date(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|at| Timestamp::from_second(at).ok());
    at.map_or_else(String::new, |at| at.strftime("%Y-%m-%d").to_string())
}
