//! Personal access tokens in the admin API.

use std::time::Duration;

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::session::{TokenGrant, TokenScope};
use crate::sessions::{NewGrant, TokenCreationError};
use crate::store::Unavailable;

use super::Admin;
use super::api::{TextResponse, json_body, json_response, query_parameter, text};

/// A token in the JSON of the API, without its text. Times are in Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    pub token: String,
    pub name: String,
    pub created: u64,
    pub expires: u64,
    /// Zero: never used.
    pub last_used: u64,
    pub routes: Vec<String>,
    pub methods: Vec<String>,
    pub networks: Vec<String>,
}

impl From<&TokenGrant> for TokenView {
    fn from(grant: &TokenGrant) -> TokenView {
        let TokenScope { routes, methods, networks } = grant.scope.clone();
        TokenView {
            token: grant.id.handle(),
            name: grant.name.clone(),
            created: grant.created.0,
            expires: grant.expires.0,
            last_used: grant.last_used.0,
            routes,
            methods,
            networks,
        }
    }
}

impl Admin {
    pub(super) async fn tokens(&self, method: &Method, path: &str, query: &str) -> TextResponse {
        let Some(user) = query_parameter(query, "user") else {
            return text(StatusCode::BAD_REQUEST, "set user\n");
        };
        let user = self.account(user);
        match (method, path) {
            (&Method::GET, "/tokens") => json_response(self.list_tokens(&user).await),
            (&Method::POST, "/tokens") => self.create_token(&user, query).await,
            (&Method::POST, "/tokens/delete") => self.delete_token(&user, query).await,
            (_, _) => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    /// Lists the tokens of every account with this name.
    async fn list_tokens(&self, user: &str) -> Result<Value, Unavailable> {
        let sessions = self.sessions();
        let mut tokens = Vec::new();
        for tag in sessions.accounts.named(user).await? {
            let grants = sessions.personal_tokens.list(tag).await?;
            tokens.extend(grants.iter().map(TokenView::from));
        }
        Ok(json!(tokens))
    }

    async fn create_token(&self, user: &str, query: &str) -> TextResponse {
        let field = |name| query_parameter(query, name).unwrap_or_default();
        let sessions = self.sessions();
        let known = &sessions.settings().token_routes;
        let scope =
            TokenScope::parse(&field("routes"), &field("methods"), &field("networks"), known);
        let (scope, days) = match (scope, field("days").parse::<u32>()) {
            (Ok(scope), Ok(days)) => (scope, days),
            (Err(error), _) => return refused(&error),
            (_, Err(_)) => return refused("days must be a number"),
        };
        let lifetime = Duration::from_secs(u64::from(days) * 24 * 60 * 60);
        let account = sessions.shared().login_methods.enabled_account(user);
        let Some(identity) = account else {
            return refused(&TokenCreationError::Account.to_string());
        };
        let new = NewGrant { identity, name: field("name"), scope, lifetime };
        match sessions.personal_tokens.create(new, None).await {
            Ok(token) => json_response(Ok(json!({ "token": token.as_str() }))),
            Err(TokenCreationError::Unavailable(error)) => json_response(Err(error)),
            Err(
                error @ (TokenCreationError::Name
                | TokenCreationError::TooMany
                | TokenCreationError::TooLarge
                | TokenCreationError::Account),
            ) => refused(&error.to_string()),
        }
    }

    async fn delete_token(&self, user: &str, query: &str) -> TextResponse {
        let handle = query_parameter(query, "token").unwrap_or_default();
        match self.delete_named(user, &handle).await {
            Ok(false) => {
                let error = format!("no token {handle}; `doorward token list` shows them");
                json_body(StatusCode::NOT_FOUND, &json!({ "error": error }))
            }
            deleted => json_response(deleted.map(|_| json!({ "deleted": handle }))),
        }
    }
}

impl Admin {
    /// Deletes the token of any account with this name. Returns false if there is none.
    async fn delete_named(&self, user: &str, handle: &str) -> Result<bool, Unavailable> {
        let sessions = self.sessions();
        for tag in sessions.accounts.named(user).await? {
            if sessions.personal_tokens.delete(tag, handle, None).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn refused(error: &str) -> TextResponse {
    json_body(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "error": error }))
}
