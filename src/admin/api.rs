//! The answers of the operator's API.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::guard::Opened;
use crate::session::EndReason;
use crate::store::{Advice, Cleared, DistributedFigures, Durability, Unavailable};
use crate::telemetry::StoreFigures;

use super::{Admin, Scope};

/// Most sessions in one listing.
const LIST_LIMIT: usize = 10_000;

type Answer = Response<Full<Bytes>>;

/// A session as the commands show it. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    pub session: String,
    pub user: String,
    pub begun: u64,
    pub last_active: u64,
    pub absolute_end: u64,
    pub generation: u32,
    pub begun_from: String,
    pub renewed_from: String,
    pub agent: String,
}

impl From<&Opened> for SessionView {
    fn from(opened: &Opened) -> SessionView {
        let record = &opened.record;
        SessionView {
            session: opened.key.id.handle(),
            user: record.identity.user.clone(),
            begun: record.created.0,
            last_active: opened.last_active.0,
            absolute_end: record.absolute_end.0,
            generation: record.generation,
            begun_from: record.begun_from.address.to_string(),
            renewed_from: record.renewed_from.address.to_string(),
            agent: record.begun_from.agent.clone(),
        }
    }
}

/// What to revoke.
enum Target {
    User(String),
    Session(String),
    All,
}

impl Admin {
    pub(super) async fn answer(&self, request: Request<Incoming>, scope: Scope) -> Answer {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        if scope == Scope::Monitor && !names_this_machine(&request) {
            return text(StatusCode::FORBIDDEN, "ask by a loopback name\n");
        }
        match (request.method(), path.as_str(), scope) {
            (&Method::GET, "/live", _) => text(StatusCode::OK, "live\n"),
            (&Method::GET, "/ready", _) => self.ready().await,
            (&Method::GET, "/metrics", _) => self.metrics(),
            (&Method::GET, "/sessions", Scope::Operator) => self.list(&query).await,
            (&Method::GET, path, Scope::Operator) if path.starts_with("/sessions/") => {
                self.show(path.strip_prefix("/sessions/").unwrap_or_default()).await
            }
            (&Method::POST, "/revoke", Scope::Operator) => self.revoke(&query).await,
            (&Method::POST, "/forget", Scope::Operator) => self.forget(&query).await,
            (_, _, Scope::Monitor | Scope::Operator) => {
                text(StatusCode::NOT_FOUND, "no such thing\n")
            }
        }
    }

    async fn ready(&self) -> Answer {
        match self.guard.store().ping().await {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {error}\n")),
        }
    }

    fn metrics(&self) -> Answer {
        let metrics = &self.guard.shared().metrics;
        if let Some(figures) = self.guard.store().figures() {
            metrics.store(&told(figures));
        }
        let mut answer = text(StatusCode::OK, &metrics.render());
        let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0");
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
        answer
    }

    async fn list(&self, query: &str) -> Answer {
        let sessions = match parameter(query, "user") {
            Some(user) => self.guard.sessions_of(&self.account(user)).await,
            None => self.guard.all_sessions(LIST_LIMIT).await,
        };
        answer(sessions.map(|list| json!(list.iter().map(SessionView::from).collect::<Vec<_>>())))
    }

    async fn show(&self, handle: &str) -> Answer {
        match self.guard.session_of(handle).await {
            Ok(Some(session)) => answer(Ok(json!(SessionView::from(&session)))),
            Ok(None) => not_found(handle),
            Err(error) => answer(Err(error)),
        }
    }

    async fn revoke(&self, query: &str) -> Answer {
        let target = match (
            parameter(query, "user"),
            parameter(query, "session"),
            parameter(query, "all"),
        ) {
            (Some(user), None, None) => Target::User(user),
            (None, Some(handle), None) => Target::Session(handle),
            (None, None, Some(_)) => Target::All,
            (_, _, _) => return text(StatusCode::BAD_REQUEST, "name one of user, session, all\n"),
        };
        match target {
            Target::User(user) => {
                let user = self.account(user);
                answer(self.guard.end_all(&user, None).await.map(|sure| revoked(&user, sure)))
            }
            Target::All => {
                answer(self.guard.end_everybody().await.map(|sure| revoked("all", sure)))
            }
            Target::Session(handle) => self.revoke_one(&handle).await,
        }
    }

    /// Of a user without an account too: what is remembered of him outlives it.
    async fn forget(&self, query: &str) -> Answer {
        let Some(user) = parameter(query, "user").filter(|user| !user.is_empty()) else {
            return text(StatusCode::BAD_REQUEST, "name the user\n");
        };
        let user = self.account(user);
        answer(self.guard.forget_user(&user).await.map(|()| json!({ "forgotten": user })))
    }

    /// The name as sessions carry it: one may log in as `Alice` and be `alice`. A name without an
    /// account stays as it is; sessions of an account that is gone may still stand.
    fn account(&self, name: String) -> String {
        let directory = self.guard.shared().directory.as_ref();
        let account = directory.and_then(|directory| directory.find(&name));
        account.map_or(name, |account| account.identity.user.clone())
    }

    async fn revoke_one(&self, handle: &str) -> Answer {
        let found = match self.guard.session_of(handle).await {
            Err(error) => self.guard.seen_as(handle).map(Some).ok_or(error),
            found => found,
        };
        match found {
            Ok(Some(session)) => {
                let ended = self.guard.end_session(&session, EndReason::Revoked).await;
                answer(ended.map(|sure| revoked(handle, sure)))
            }
            Ok(None) => not_found(handle),
            Err(error) => answer(Err(error)),
        }
    }
}

/// `durable` is null where no replica was asked for: then it is as durable as Redis is configured.
fn revoked(what: &str, durability: Durability) -> serde_json::Value {
    let durable = durability.is_durable();
    let mut answer = json!({ "revoked": what, "durable": durable });
    if let (Durability::Replicated { asked, got }, Some(fields)) =
        (durability, answer.as_object_mut())
    {
        fields.insert("replicas".to_owned(), json!({ "asked": asked, "got": got }));
    }
    answer
}

fn told(figures: DistributedFigures) -> StoreFigures {
    let cache = figures.cache.unwrap_or_default();
    StoreFigures {
        round_trips: figures.round_trips,
        shed: figures.shed,
        left_alone: figures.left_alone,
        advice: Advice::ALL.map(Advice::word).into_iter().zip(figures.advice).collect(),
        hits: cache.hits,
        misses: cache.misses,
        entries: cache.entries,
        bytes: cache.bytes,
        cleared: Cleared::ALL.map(Cleared::word).into_iter().zip(cache.cleared).collect(),
        changes_age: figures.proof_age,
    }
}

/// A page from elsewhere that talks a browser on this machine into asking us names another host
/// (CVE-2026-27589, DNS rebinding).
fn names_this_machine(request: &Request<Incoming>) -> bool {
    let host =
        request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    let Ok(host) = crate::message::Host::parse(host) else { return false };
    let name = host.name().trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok()
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn answer(result: Result<serde_json::Value, Unavailable>) -> Answer {
    let (status, body) = match result {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, json!({ "error": error.to_string() })),
    };
    let mut answer = text(status, &body.to_string());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn not_found(handle: &str) -> Answer {
    let error = format!("no live session {handle}; `doorward sessions list` shows them");
    let mut answer = text(StatusCode::NOT_FOUND, &json!({ "error": error }).to_string());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn text(status: StatusCode, body: &str) -> Answer {
    let mut answer = Response::new(Full::from(body.to_owned()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_revoked_says_whether_it_is_durable() {
        for (durability, text) in [
            (Durability::InMemory, r#"{"durable":false,"revoked":"all"}"#),
            (Durability::OnDisk, r#"{"durable":true,"revoked":"all"}"#),
            (Durability::Unasked, r#"{"durable":null,"revoked":"all"}"#),
            (
                Durability::Replicated { asked: 2, got: 1 },
                r#"{"durable":false,"replicas":{"asked":2,"got":1},"revoked":"all"}"#,
            ),
        ] {
            assert_eq!(revoked("all", durability).to_string(), text);
        }
    }
}
