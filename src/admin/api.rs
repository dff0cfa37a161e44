//! The responses of the admin API.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::sessions::{ConfirmedRevocation, EndCause, SessionInfo, UserRef};
use crate::store::{Advice, Durability, FlushCause, RedisStats, Unavailable};
use crate::telemetry::StoreStats;
use crate::telemetry::metrics::EndpointLabels;
use crate::telemetry::process::ProcessStats;
use crate::upstream::EndpointReport;

use super::reload::{ReloadMode, ReloadReport};
use super::{Admin, Scope};

/// Maximum number of sessions in one listing.
const LIST_LIMIT: usize = 10_000;

pub(super) type TextResponse = Response<Full<Bytes>>;

/// A session in the JSON of the API. Times are in Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    pub session: String,
    pub user: String,
    pub created: u64,
    pub last_active: u64,
    pub absolute_end: u64,
    pub generation: u32,
    pub created_from: String,
    pub rotated_from: String,
    pub user_agent: String,
}

impl From<&SessionInfo> for SessionView {
    fn from(session: &SessionInfo) -> SessionView {
        let record = &session.record;
        SessionView {
            session: session.key.id.handle(),
            user: record.identity.user.clone(),
            created: record.created.0,
            last_active: session.last_active.0,
            absolute_end: record.absolute_end.0,
            generation: record.generation,
            created_from: record.created_from.address.to_string(),
            rotated_from: record.rotated_from.address.to_string(),
            user_agent: record.created_from.user_agent.clone(),
        }
    }
}

/// The sessions to revoke.
enum RevokeTarget {
    User(String),
    Session(String),
    All,
}

impl Admin {
    pub(super) async fn handle<B>(&self, request: Request<B>, scope: Scope) -> TextResponse {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        if scope == Scope::Monitor && !has_local_host(&request) {
            return text(StatusCode::FORBIDDEN, "use a loopback name or address in the URL\n");
        }
        let method = match request.method() {
            // hyper sends no body to a HEAD (RFC 9110 9.3.2).
            &Method::HEAD => &Method::GET,
            method => method,
        };
        match (method, path.as_str(), scope) {
            (&Method::GET, "/live", _) => text(StatusCode::OK, "live\n"),
            (&Method::GET, "/ready", _) => self.ready().await,
            (&Method::GET, "/metrics", _) => self.metrics(),
            (&Method::GET, "/sessions", Scope::Operator { .. }) => self.list(&query).await,
            (&Method::GET, path, Scope::Operator { .. }) if path.starts_with("/sessions/") => {
                self.show(path.strip_prefix("/sessions/").unwrap_or_default()).await
            }
            (&Method::POST, "/revoke", Scope::Operator { uid }) => self.revoke(&query, uid).await,
            (&Method::POST, "/forget", Scope::Operator { .. }) => self.forget(&query).await,
            (&Method::POST, "/reset-factors", Scope::Operator { .. }) => {
                self.reset_factors(&query).await
            }
            (method, path, Scope::Operator { .. }) if path.starts_with("/tokens") => {
                self.tokens(method, path, &query).await
            }
            (&Method::GET, "/upstreams", Scope::Operator { .. }) => {
                json_body(StatusCode::OK, &json!((self.endpoints)()))
            }
            (&Method::POST, "/reload", Scope::Operator { .. }) => self.reload(&query).await,
            (_, _, Scope::Monitor | Scope::Operator { .. }) => {
                text(StatusCode::NOT_FOUND, "not found\n")
            }
        }
    }

    async fn ready(&self) -> TextResponse {
        if self.draining.is_cancelled() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "not ready: stopping\n");
        }
        let is_keyless = || self.sessions().shared().keys.load().is_provisional();
        match self.sessions().store().ping().await {
            Ok(()) if is_keyless() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "not ready: the keys file is missing\n")
            }
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {error}\n")),
        }
    }

    fn metrics(&self) -> TextResponse {
        let sessions = self.sessions();
        let metrics = &sessions.shared().metrics;
        if let Some(stats) = sessions.store().stats() {
            metrics.update_store(&store_stats(stats));
        }
        metrics.update_endpoints((self.endpoints)().into_iter().map(endpoint_metrics));
        metrics.update_process(ProcessStats::read());
        if let Some(audit) = &sessions.shared().events.audit {
            metrics.update_audit(audit.stats());
        }
        let mut response = text(StatusCode::OK, &metrics.render());
        let content_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response
    }

    async fn list(&self, query: &str) -> TextResponse {
        let sessions = match query_parameter(query, "user") {
            Some(user) => self.list_user(&self.account(user)).await,
            None => self.sessions().list_all_sessions(LIST_LIMIT).await,
        };
        json_response(
            sessions.map(|list| json!(list.iter().map(SessionView::from).collect::<Vec<_>>())),
        )
    }

    /// Lists the sessions of every account with this name.
    async fn list_user(&self, user: &str) -> Result<Vec<SessionInfo>, Unavailable> {
        let sessions = self.sessions();
        let mut all = Vec::new();
        for tag in sessions.accounts.named(user).await? {
            all.extend(sessions.list_user_sessions(&tag).await?);
        }
        Ok(all)
    }

    async fn show(&self, handle: &str) -> TextResponse {
        match self.sessions().find_session(handle).await {
            Ok(Some(session)) => json_response(Ok(json!(SessionView::from(&session)))),
            Ok(None) => not_found(handle),
            Err(error) => json_response(Err(error)),
        }
    }

    async fn revoke(&self, query: &str, uid: Option<u32>) -> TextResponse {
        let target = match (
            query_parameter(query, "user"),
            query_parameter(query, "session"),
            query_parameter(query, "all"),
        ) {
            (Some(user), None, None) => RevokeTarget::User(user),
            (None, Some(handle), None) => RevokeTarget::Session(handle),
            (None, None, Some(_)) => RevokeTarget::All,
            (_, _, _) => {
                return text(StatusCode::BAD_REQUEST, "set exactly one of user, session, all\n");
            }
        };
        let cause = EndCause::operator(uid);
        match target {
            RevokeTarget::User(user) => self.revoke_user(user, cause).await,
            RevokeTarget::Session(handle) => self.revoke_one(&handle, cause).await,
            RevokeTarget::All => {
                let sessions = self.sessions();
                let revoked = sessions.revoker.revoke_all_sessions(cause, LIST_LIMIT).await;
                revocation_response("all", true, revoked)
            }
        }
    }

    /// Revokes the sessions of every account with this name. A name without an account is revoked too,
    /// because sessions of a deleted account may still exist.
    async fn revoke_user(&self, name: String, cause: EndCause) -> TextResponse {
        let account = self.sessions().shared().login_methods.user(&name);
        let (is_known, user) = (account.is_some(), account.unwrap_or(name));
        let revoked = self.revoke_accounts(&user, cause).await;
        revocation_response(&user, is_known, revoked)
    }

    /// The account of the users file comes first: the others need a store that can be read.
    async fn revoke_accounts(
        &self,
        user: &str,
        cause: EndCause,
    ) -> Result<ConfirmedRevocation, Unavailable> {
        let sessions = self.sessions();
        let revoker = &sessions.revoker;
        let own = UserRef { tag: sessions.shared().user_tag(user), user };
        let mut total = revoker.revoke_user_sessions(own, None, cause.clone()).await?;
        for tag in sessions.accounts.named(user).await? {
            if tag != own.tag {
                let account = UserRef { tag, user };
                let revoked = revoker.revoke_user_sessions(account, None, cause.clone()).await?;
                total = ConfirmedRevocation { ended: total.ended + revoked.ended, ..revoked };
            }
        }
        Ok(total)
    }

    /// Works without an account too, because the history of a user outlives their account.
    async fn forget(&self, query: &str) -> TextResponse {
        let Some(user) = query_parameter(query, "user").filter(|user| !user.is_empty()) else {
            return text(StatusCode::BAD_REQUEST, "set user\n");
        };
        let user = self.account(user);
        let forgotten = self.forget_accounts(&user).await;
        json_response(forgotten.map(|()| json!({ "forgotten": user })))
    }

    async fn forget_accounts(&self, user: &str) -> Result<(), Unavailable> {
        let sessions = self.sessions();
        for tag in sessions.accounts.named(user).await? {
            sessions.histories.delete(UserRef { tag, user }).await?;
        }
        Ok(())
    }

    /// Deletes the second factors of every account with this name.
    async fn reset_factors(&self, query: &str) -> TextResponse {
        let Some(user) = query_parameter(query, "user").filter(|user| !user.is_empty()) else {
            return text(StatusCode::BAD_REQUEST, "set user\n");
        };
        let user = self.account(user);
        let reset = self.reset_accounts(&user).await;
        json_response(reset.map(|()| json!({ "reset": user })))
    }

    async fn reset_accounts(&self, user: &str) -> Result<(), Unavailable> {
        let sessions = self.sessions();
        let mut tags = sessions.second_factors.named(user).await?;
        tags.push(sessions.shared().user_tag(user));
        tags.sort_unstable();
        tags.dedup();
        for tag in tags {
            sessions.second_factors.reset(UserRef { tag, user }).await?;
        }
        Ok(())
    }

    /// Reloads on another thread, because files are read. A configuration with problems gets a 422.
    async fn reload(&self, query: &str) -> TextResponse {
        let mode = match query_parameter(query, "dry_run") {
            Some(_) => ReloadMode::DryRun,
            None => ReloadMode::Apply,
        };
        let reload = Arc::clone(&self.reload);
        let reloaded = tokio::task::spawn_blocking(move || reload(mode)).await;
        let report = reloaded.unwrap_or_else(|error| ReloadReport::failed(vec![error.to_string()]));
        let mut response = json_response(Ok(json!(report)));
        if !report.is_ok() {
            *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
        }
        response
    }

    /// Returns the name in the spelling of the account, which session records have: `Alice` may be `alice`.
    /// A name without an account is unchanged, because sessions of a deleted account may still exist.
    pub(super) fn account(&self, name: String) -> String {
        self.sessions().shared().login_methods.user(&name).unwrap_or(name)
    }

    async fn revoke_one(&self, handle: &str, cause: EndCause) -> TextResponse {
        let found = match self.sessions().find_session(handle).await {
            Err(error) => self.sessions().cached_session_by_handle(handle).map(Some).ok_or(error),
            found => found,
        };
        match found {
            Ok(Some(session)) => {
                let ended = self.sessions().revoker.end_session(&session, cause).await;
                let revoked = ended.map(|durability| ConfirmedRevocation { durability, ended: 1 });
                revocation_response(handle, true, revoked)
            }
            Ok(None) => not_found(handle),
            Err(error) => json_response(Err(error)),
        }
    }
}

/// Responds with 404 if there was nothing to revoke and the name is unknown: it may be misspelled.
fn revocation_response(
    what: &str,
    is_known: bool,
    revocation: Result<ConfirmedRevocation, Unavailable>,
) -> TextResponse {
    match revocation {
        Ok(ConfirmedRevocation { ended: 0, .. }) if !is_known => {
            let error = format!(
                "no user {what} and no session of one; `doorward sessions list` shows them"
            );
            json_body(StatusCode::NOT_FOUND, &json!({ "error": error }))
        }
        Ok(revocation) => json_response(Ok(revoked(what, revocation))),
        Err(Unavailable(error)) => json_response(Err(Unavailable(format!(
            "{error}. This gateway refuses the sessions from now on and tries again every second; other gateways may still admit them"
        )))),
    }
}

/// `durable` is null if no replicas are required: then durability depends on the configuration of Redis.
fn revoked(what: &str, revocation: ConfirmedRevocation) -> serde_json::Value {
    let ConfirmedRevocation { durability, ended } = revocation;
    let durable = durability.is_durable();
    let mut response = json!({ "revoked": what, "ended": ended, "durable": durable });
    if let (Durability::Replicated { requested, acknowledged }, Some(fields)) =
        (durability, response.as_object_mut())
    {
        let replicas = json!({ "requested": requested, "acknowledged": acknowledged });
        fields.insert("replicas".to_owned(), replicas);
    }
    response
}

fn store_stats(stats: RedisStats) -> StoreStats {
    let cache = stats.cache.unwrap_or_default();
    StoreStats {
        round_trips: stats.round_trips,
        rejected: stats.rejected,
        open_circuits: stats.open_circuits,
        config_warnings: Advice::ALL.map(Advice::as_str).into_iter().zip(stats.advice).collect(),
        hits: cache.hits,
        misses: cache.misses,
        entries: cache.entries,
        bytes: cache.bytes,
        flushes: FlushCause::ALL.map(FlushCause::as_str).into_iter().zip(cache.flushes).collect(),
        invalidation_age: stats.staleness,
    }
}

/// Reports whether the Host is a loopback name or an address. A DNS rebinding attack has the name of the
/// attacker's site (CVE-2026-27589).
fn has_local_host<B>(request: &Request<B>) -> bool {
    let host =
        request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    let Ok(host) = crate::message::Host::parse(host) else { return false };
    let name = host.name().trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok()
}

pub(super) fn query_parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

pub(super) fn json_response(result: Result<serde_json::Value, Unavailable>) -> TextResponse {
    let (status, body) = match result {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, json!({ "error": error.to_string() })),
    };
    json_body(status, &body)
}

pub(super) fn json_body(status: StatusCode, body: &serde_json::Value) -> TextResponse {
    let mut response = text(status, &body.to_string());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn endpoint_metrics(report: EndpointReport) -> (EndpointLabels, bool, usize) {
    let EndpointReport { route, endpoint, cause, requests, .. } = report;
    (EndpointLabels { route, endpoint }, cause.is_none(), requests.unwrap_or_default())
}

fn not_found(handle: &str) -> TextResponse {
    let error = format!("no live session {handle}; `doorward sessions list` shows them");
    json_body(StatusCode::NOT_FOUND, &json!({ "error": error }))
}

pub(super) fn text(status: StatusCode, body: &str) -> TextResponse {
    let mut response = Response::new(Full::from(body.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_reports_its_durability() {
        for (durability, text) in [
            (Durability::InMemory, r#"{"durable":false,"ended":3,"revoked":"all"}"#),
            (Durability::OnDisk, r#"{"durable":true,"ended":3,"revoked":"all"}"#),
            (Durability::NotRequested, r#"{"durable":null,"ended":3,"revoked":"all"}"#),
            (
                Durability::Replicated { requested: 2, acknowledged: 1 },
                r#"{"durable":false,"ended":3,"replicas":{"acknowledged":1,"requested":2},"revoked":"all"}"#,
            ),
        ] {
            assert_eq!(
                revoked("all", ConfirmedRevocation { durability, ended: 3 }).to_string(),
                text
            );
        }
    }
}
