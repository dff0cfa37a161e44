//! An event as JSON, with the field names of the Elastic Common Schema (8.11).

use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;

use crate::clock::UnixMillis;
use crate::session::{ClientContext, TlsFingerprint};
use crate::telemetry::escape;

use super::actor::{ActorFields, LifetimeFields};
use super::ecs_class::{EcsClass, PROCESS_INFO, PROCESS_START};
use super::risk_fields::RiskFields;
use super::{EventContext, SessionEvent};

/// An event of the audit log or a notification.
#[derive(Clone, Debug)]
pub struct EcsEvent {
    at: UnixMillis,
    action: &'static str,
    class: EcsClass,
    outcome: &'static str,
    reason: Option<&'static str>,
    user: String,
    session: Option<String>,
    client: Option<IpAddr>,
    agent: String,
    fingerprint: Option<TlsFingerprint>,
    other: Option<ClientContext>,
    risk: Option<RiskFields>,
    actor: Option<ActorFields>,
    lifetime: Option<LifetimeFields>,
    /// Number of events or sessions, for lines that report a count.
    count: Option<u64>,
}

impl EcsEvent {
    pub fn new(event: SessionEvent, context: &EventContext<'_>, at: UnixMillis) -> EcsEvent {
        EcsEvent {
            at,
            action: event.as_str(),
            class: EcsClass::from_event(event),
            outcome: if event.is_success() { "success" } else { "failure" },
            reason: event.reason(),
            user: context.user.to_owned(),
            session: context.session.map(|id| id.handle()),
            client: context.client,
            agent: context.agent.to_owned(),
            fingerprint: context.fingerprint,
            other: context.other_client.cloned(),
            risk: context.risk.map(|risk| RiskFields::new(risk, context)),
            actor: context.actor.map(ActorFields::from),
            lifetime: context.lifetime.map(|times| LifetimeFields::new(&times, timestamp)),
            count: context.count,
        }
    }

    /// Returns the event that the process starts something.
    pub fn process_start(action: &'static str, at: UnixMillis) -> EcsEvent {
        EcsEvent::process(PROCESS_START, action, None, None, at)
    }

    /// Returns an event of the process itself. `count` is the number of things that it reports.
    pub fn process_info(
        action: &'static str,
        reason: &'static str,
        count: Option<u64>,
        at: UnixMillis,
    ) -> EcsEvent {
        EcsEvent::process(PROCESS_INFO, action, Some(reason), count, at)
    }

    /// Returns the value of `event.action`.
    pub fn action(&self) -> &'static str {
        self.action
    }

    fn process(
        class: EcsClass,
        action: &'static str,
        reason: Option<&'static str>,
        count: Option<u64>,
        at: UnixMillis,
    ) -> EcsEvent {
        EcsEvent {
            at,
            action,
            class,
            outcome: "unknown",
            reason,
            user: String::new(),
            session: None,
            client: None,
            agent: String::new(),
            fingerprint: None,
            other: None,
            risk: None,
            actor: None,
            lifetime: None,
            count,
        }
    }

    /// Returns the handle of the session, or the user if the event has no session.
    pub fn subject(&self) -> String {
        self.session.clone().unwrap_or_else(|| self.user.clone())
    }

    /// Returns the line without its MAC. `previous` is the MAC of the line before, empty for the first.
    /// Escaped before the MAC is computed, because programs show the line as it is.
    /// The serialization of these fields cannot fail.
    pub fn to_chained_json(&self, chain: &str, seq: u64, previous: &str) -> String {
        let line = EntryJson { chain: Some(chain), seq: Some(seq), previous, ..self.json() };
        escape(&serde_json::to_string(&line).unwrap_or_default()).into_owned()
    }

    /// Returns the event as a notification.
    pub fn to_json(&self, id: &str) -> String {
        serde_json::to_string(&EntryJson { id: Some(id), ..self.json() }).unwrap_or_default()
    }

    fn json(&self) -> EntryJson<'_> {
        EntryJson {
            timestamp: timestamp(self.at),
            version: "8.11",
            kind: "event",
            category: self.class.category,
            types: self.class.types,
            action: self.action,
            outcome: self.outcome,
            reason: self.reason,
            user: &self.user,
            client: self.client,
            agent: &self.agent,
            fingerprint: self.fingerprint.map(format_fingerprint),
            session: self.session.as_deref(),
            other_client: self.other.as_ref().map(|other| other.address),
            other_agent: self.other.as_ref().map_or("", |other| &other.user_agent),
            other_fingerprint: self
                .other
                .as_ref()
                .and_then(|other| other.fingerprint)
                .map(format_fingerprint),
            risk: self.risk.as_ref(),
            actor: self.actor.as_ref(),
            lifetime: self.lifetime.as_ref(),
            count: self.count,
            id: None,
            chain: None,
            seq: None,
            previous: "",
        }
    }
}

#[derive(Serialize)]
struct EntryJson<'a> {
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
    risk: Option<&'a RiskFields>,
    #[serde(flatten)]
    actor: Option<&'a ActorFields>,
    #[serde(flatten)]
    lifetime: Option<&'a LifetimeFields>,
    #[serde(rename = "doorward.count", skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    /// Of a notification only.
    #[serde(rename = "event.id", skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    /// Of a line in the log only.
    #[serde(rename = "doorward.chain", skip_serializing_if = "Option::is_none")]
    chain: Option<&'a str>,
    #[serde(rename = "doorward.seq", skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    /// Makes the first line of a file verifiable without the file before.
    #[serde(rename = "doorward.prev", skip_serializing_if = "str::is_empty")]
    previous: &'a str,
}

fn format_fingerprint(fingerprint: TlsFingerprint) -> String {
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
    fn a_line_has_ecs_names_and_no_session_id() {
        let id = SessionId([9; 16]);
        let context = EventContext {
            user: "alice",
            session: Some(id),
            client: Some([192, 0, 2, 1].into()),
            agent: "Firefox",
            ..EventContext::default()
        };
        let event = SessionEvent::Ended(EndReason::Logout);
        let text = EcsEvent::new(event, &context, UnixMillis(1_800_000_000_123))
            .to_chained_json("c", 7, "ab");
        assert_eq!(
            text,
            format!(
                r#"{{"@timestamp":"2027-01-15T08:00:00.123Z","ecs.version":"8.11","event.kind":"event","event.category":["session"],"event.type":["end"],"event.action":"session.ended","event.outcome":"success","event.reason":"logout","user.name":"alice","source.ip":"192.0.2.1","user_agent.original":"Firefox","doorward.session":"{}","doorward.chain":"c","doorward.seq":7,"doorward.prev":"ab"}}"#,
                id.handle()
            )
        );
    }

    /// CVE-2009-4487.
    #[test]
    fn client_data_cannot_start_a_new_line() {
        let context = EventContext {
            user: "a\n{\"event.action\":\"x\"}\u{1b}[31m\u{9b}31m\u{202e}\u{2028}\u{7f}é",
            ..EventContext::default()
        };
        let text = EcsEvent::new(SessionEvent::LoginFailed, &context, UnixMillis(0))
            .to_chained_json("c", 1, "");
        assert!(text.chars().all(|c| c == 'é' || (' '..='~').contains(&c)), "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(line["user.name"], context.user);
        assert_eq!(text.matches("\"event.action\"").count(), 1);
    }
}
