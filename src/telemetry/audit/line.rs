//! What one line says, in the names of the Elastic Common Schema (8.11) where it has one.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;

use crate::clock::UnixMillis;
use crate::session::{ClientContext, Fingerprint};

use super::super::events::{About, SessionEvent};
use super::ecs::Kind;
use super::told::Told;

/// The actions of the log about itself.
pub(super) const BEGUN: &str = "audit.begun";
pub(super) const TORN: &str = "audit.torn";
pub(super) const LOST: &str = "audit.lost";
pub(super) const SUPPRESSED: &str = "audit.suppressed";

/// One event, before it has a place in the chain.
#[derive(Clone, Debug)]
pub(in crate::telemetry) struct Entry {
    pub(super) at: UnixMillis,
    pub(in crate::telemetry) action: &'static str,
    kind: Kind,
    outcome: &'static str,
    reason: Option<&'static str>,
    user: String,
    session: Option<String>,
    client: Option<IpAddr>,
    agent: String,
    fingerprint: Option<Fingerprint>,
    other: Option<ClientContext>,
    moved: Option<Told>,
    /// How many there were, for lines that count.
    count: Option<u64>,
}

impl Entry {
    pub(in crate::telemetry) fn new(
        event: SessionEvent,
        about: &About<'_>,
        at: UnixMillis,
    ) -> Entry {
        Entry {
            at,
            action: event.word(),
            kind: Kind::of(event),
            outcome: if event.is_success() { "success" } else { "failure" },
            reason: event.reason(),
            user: about.user.to_owned(),
            session: about.session.map(|id| id.handle()),
            client: about.client,
            agent: about.agent.to_owned(),
            fingerprint: about.fingerprint,
            other: about.other.cloned(),
            moved: about.moved.map(|moved| Told::new(moved, about)),
            count: None,
        }
    }

    /// A line of the log about itself.
    pub(in crate::telemetry) fn own(
        action: &'static str,
        reason: Option<&'static str>,
        count: Option<u64>,
        at: UnixMillis,
    ) -> Entry {
        Entry {
            at,
            action,
            kind: Kind::own(action),
            outcome: "unknown",
            reason,
            user: String::new(),
            session: None,
            client: None,
            agent: String::new(),
            fingerprint: None,
            other: None,
            moved: None,
            count,
        }
    }

    /// Whom it is about: the session, or the user where none is known.
    pub(in crate::telemetry) fn whose(&self) -> String {
        self.session.clone().unwrap_or_else(|| self.user.clone())
    }

    /// The line without its MAC, after the one with the MAC `before`, which is empty for the first. No
    /// field can fail to be written as JSON.
    pub(super) fn text(&self, chain: &str, seq: u64, before: &str) -> String {
        let line = Line { chain: Some(chain), seq: Some(seq), before, ..self.line() };
        serde_json::to_string(&line).unwrap_or_default()
    }

    /// The same outside a log, for who is told at once.
    pub(in crate::telemetry) fn letter(&self, id: &str) -> String {
        serde_json::to_string(&Line { id: Some(id), ..self.line() }).unwrap_or_default()
    }

    fn line(&self) -> Line<'_> {
        Line {
            timestamp: timestamp(self.at),
            version: "8.11",
            kind: "event",
            category: self.kind.category,
            types: self.kind.types,
            action: self.action,
            outcome: self.outcome,
            reason: self.reason,
            user: &self.user,
            client: self.client,
            agent: &self.agent,
            fingerprint: self.fingerprint.map(told),
            session: self.session.as_deref(),
            other_client: self.other.as_ref().map(|other| other.address),
            other_agent: self.other.as_ref().map_or("", |other| &other.agent),
            other_fingerprint: self.other.as_ref().and_then(|other| other.fingerprint).map(told),
            moved: self.moved.as_ref(),
            count: self.count,
            id: None,
            chain: None,
            seq: None,
            before: "",
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "@timestamp")]
    timestamp: String,
    #[serde(rename = "ecs.version")]
    version: &'a str,
    #[serde(rename = "event.kind")]
    kind: &'a str,
    #[serde(rename = "event.category")]
    category: &'a [&'a str],
    #[serde(rename = "event.type")]
    types: &'a [&'a str],
    #[serde(rename = "event.action")]
    action: &'a str,
    #[serde(rename = "event.outcome")]
    outcome: &'a str,
    #[serde(rename = "event.reason", skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(rename = "user.name", skip_serializing_if = "str::is_empty")]
    user: &'a str,
    #[serde(rename = "source.ip", skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    #[serde(rename = "user_agent.original", skip_serializing_if = "str::is_empty")]
    agent: &'a str,
    #[serde(rename = "doorward.fingerprint", skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    #[serde(rename = "doorward.session", skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    #[serde(rename = "doorward.other.ip", skip_serializing_if = "Option::is_none")]
    other_client: Option<IpAddr>,
    #[serde(rename = "doorward.other.user_agent", skip_serializing_if = "str::is_empty")]
    other_agent: &'a str,
    #[serde(rename = "doorward.other.fingerprint", skip_serializing_if = "Option::is_none")]
    other_fingerprint: Option<String>,
    #[serde(flatten)]
    moved: Option<&'a Told>,
    #[serde(rename = "doorward.count", skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    /// Of a letter.
    #[serde(rename = "event.id", skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    /// Of a line in the log.
    #[serde(rename = "doorward.chain", skip_serializing_if = "Option::is_none")]
    chain: Option<&'a str>,
    #[serde(rename = "doorward.seq", skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    /// So that the first line of a file can be checked without the file before.
    #[serde(rename = "doorward.prev", skip_serializing_if = "str::is_empty")]
    before: &'a str,
}

fn told(fingerprint: Fingerprint) -> String {
    fingerprint.to_string()
}

fn timestamp(at: UnixMillis) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{EndReason, SessionId};

    #[test]
    fn a_line_has_the_names_of_ecs_and_no_session_id() {
        let id = SessionId([9; 16]);
        let about = About {
            user: "alice",
            session: Some(id),
            client: Some([192, 0, 2, 1].into()),
            agent: "Firefox",
            ..About::default()
        };
        let event = SessionEvent::Ended(EndReason::Logout);
        let text = Entry::new(event, &about, UnixMillis(1_800_000_000_123)).text("c", 7, "ab");
        assert_eq!(
            text,
            format!(
                r#"{{"@timestamp":"2027-01-15T08:00:00.123Z","ecs.version":"8.11","event.kind":"event","event.category":["session"],"event.type":["end"],"event.action":"session.ended","event.outcome":"success","event.reason":"logout","user.name":"alice","source.ip":"192.0.2.1","user_agent.original":"Firefox","doorward.session":"{}","doorward.chain":"c","doorward.seq":7,"doorward.prev":"ab"}}"#,
                id.handle()
            )
        );
    }

    #[test]
    fn cve_2009_4487_what_a_client_sent_makes_no_line_of_its_own() {
        let about = About { user: "a\n{\"event.action\":\"x\"}\u{1b}[31m", ..About::default() };
        let text = Entry::new(SessionEvent::LoginRefused, &about, UnixMillis(0)).text("c", 1, "");
        assert!(!text.bytes().any(|byte| byte.is_ascii_control()), "{text}");
        assert_eq!(text.matches("\"event.action\"").count(), 1);
    }
}
