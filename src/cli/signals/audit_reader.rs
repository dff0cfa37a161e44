//! Reads audit logs line by line. The content is not trusted: a line may be too long, hold control
//! characters, or come from another version.

use std::io::{self, BufRead, Read as _};
use std::net::IpAddr;

use jiff::Timestamp;
use serde::Deserialize;

use crate::risk::Signal;

/// Far longer than any line that doorward writes.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// Reads one line at a time in bounded memory.
pub(super) struct AuditReader<R> {
    reader: R,
    /// Of the last line; 0 before the first.
    number: u64,
}

pub(super) enum ParsedLine {
    Line(Box<AuditLine>),
    Invalid,
}

/// An audit line with a timestamp.
pub(super) struct AuditLine {
    pub(super) timestamp: Timestamp,
    pub(super) action: String,
    pub(super) user: String,
    pub(super) session: String,
    pub(super) location_change: Option<LocationChange>,
}

/// The details of a `session.location-changed` line.
pub(super) struct LocationChange {
    pub(super) signals: Vec<Signal>,
    pub(super) score: u32,
    pub(super) action: String,
    pub(super) enforced: bool,
    pub(super) client: Option<IpAddr>,
    /// Address, country, language and user agent.
    pub(super) current: String,
    pub(super) previous: String,
}

impl<R: BufRead> AuditReader<R> {
    pub(super) fn new(reader: R) -> AuditReader<R> {
        AuditReader { reader, number: 0 }
    }

    /// Returns the next line and its number.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, ParsedLine)>> {
        let mut bytes = Vec::new();
        self.reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let complete = bytes.last() == Some(&b'\n') || bytes.len() as u64 != MAX_LINE_BYTES;
        if !complete {
            self.reader.skip_until(b'\n')?;
            return Ok(Some((self.number, ParsedLine::Invalid)));
        }
        let parsed =
            parse(&bytes).map_or(ParsedLine::Invalid, |line| ParsedLine::Line(Box::new(line)));
        Ok(Some((self.number, parsed)))
    }
}

fn parse(bytes: &[u8]) -> Option<AuditLine> {
    let raw: RawLine = serde_json::from_slice(bytes).ok()?;
    let timestamp = raw.timestamp.parse().ok()?;
    let location_change =
        if raw.is_location_change() { Some(raw.location_change()?) } else { None };
    Some(AuditLine {
        timestamp,
        location_change,
        action: raw.action,
        user: sanitize(&raw.user),
        session: sanitize(&raw.session),
    })
}

#[derive(Deserialize)]
struct RawLine {
    #[serde(rename = "@timestamp")]
    timestamp: String,
    #[serde(rename = "event.action")]
    action: String,
    #[serde(rename = "user.name", default)]
    user: String,
    #[serde(rename = "doorward.session", default)]
    session: String,
    #[serde(rename = "source.ip")]
    client: Option<IpAddr>,
    #[serde(rename = "user_agent.original", default)]
    agent: String,
    #[serde(rename = "source.geo.country_iso_code")]
    country: Option<String>,
    #[serde(rename = "doorward.language")]
    language: Option<String>,
    #[serde(rename = "doorward.other.ip")]
    other: Option<IpAddr>,
    #[serde(rename = "doorward.other.user_agent", default)]
    other_agent: String,
    #[serde(rename = "doorward.other.country")]
    other_country: Option<String>,
    #[serde(rename = "doorward.other.language")]
    other_language: Option<String>,
    #[serde(rename = "doorward.signals", default)]
    signals: Vec<String>,
    #[serde(rename = "doorward.score")]
    score: Option<u32>,
    /// `doorward.answer` in logs of older versions.
    #[serde(rename = "doorward.action", alias = "doorward.answer")]
    risk_action: Option<String>,
    #[serde(rename = "doorward.enforced")]
    enforced: Option<bool>,
}

impl RawLine {
    /// `session.moved` is the name of the event in logs of older versions.
    fn is_location_change(&self) -> bool {
        matches!(self.action.as_str(), "session.location-changed" | "session.moved")
    }

    /// Returns `None` for an unknown signal: the line comes from a newer version.
    fn location_change(&self) -> Option<LocationChange> {
        let signals =
            self.signals.iter().map(|name| Signal::from_name(name)).collect::<Option<_>>()?;
        Some(LocationChange {
            signals,
            score: self.score?,
            action: current_action(self.risk_action.as_deref()?),
            enforced: self.enforced?,
            client: self.client,
            current: location(self.client, [&self.country, &self.language], &self.agent),
            previous: location(
                self.other,
                [&self.other_country, &self.other_language],
                &self.other_agent,
            ),
        })
    }
}

/// Returns the present name of an action.
fn current_action(name: &str) -> String {
    if name == "renew" { "rotate".to_owned() } else { sanitize(name) }
}

fn location(address: Option<IpAddr>, details: [&Option<String>; 2], agent: &str) -> String {
    let address = address.map(|address| address.to_string());
    let [country, language] = details.map(Option::as_deref);
    let agent = Some(agent).filter(|agent| !agent.is_empty());
    let parts = [address.as_deref(), country, language, agent];
    let parts: Vec<String> = parts.into_iter().flatten().map(sanitize).collect();
    parts.join(" ")
}

/// Replaces control characters, which could control the terminal.
fn sanitize(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Vec<(u64, bool)> {
        let mut lines = AuditReader::new(text);
        let mut out = Vec::new();
        while let Some((number, parsed)) = lines.next().expect("memory") {
            out.push((number, matches!(parsed, ParsedLine::Line(_))));
        }
        out
    }

    #[test]
    fn an_overlong_line_is_skipped_and_counted_once() {
        let good = r#"{"@timestamp":"2027-01-15T08:00:00Z","event.action":"session.login"}"#;
        let long = "x".repeat(3 * usize::try_from(MAX_LINE_BYTES).expect("small"));
        let text = format!("{good}\n{long}\n{good}\n\u{1b}[31m\n{good}");
        assert_eq!(
            read(text.as_bytes()),
            [(1, true), (2, false), (3, true), (4, false), (5, true)]
        );
        assert_eq!(read(long.as_bytes()), [(1, false)]);
    }

    #[test]
    fn a_truncated_line_is_invalid() {
        let line = r#"{"@timestamp":"2027-01-15T08:00:00Z","event.action":"session.location-changed","user.name":"ö\u001b[2J","doorward.signals":["network","browser"],"doorward.score":60,"doorward.answer":"login","doorward.enforced":false}"#;
        let whole = parse(line.as_bytes()).expect("a line");
        assert_eq!(whole.user, "ö\u{fffd}[2J", "control characters are replaced");
        for at in 0..line.len() {
            assert!(parse(&line.as_bytes()[..at]).is_none(), "{at}");
        }
        assert!(parse(line.replace("network", "astrology").as_bytes()).is_none());
        assert!(parse(line.replace("60", "-1").as_bytes()).is_none());
    }

    #[test]
    fn former_names_of_the_action_are_read() {
        for (field, action) in [("answer", "renew"), ("action", "rotate")] {
            let line = format!(
                r#"{{"@timestamp":"2027-01-15T08:00:00Z","event.action":"session.location-changed","doorward.signals":["network"],"doorward.score":40,"doorward.{field}":"{action}","doorward.enforced":false}}"#
            );
            let change = parse(line.as_bytes()).and_then(|line| line.location_change);
            assert_eq!(change.expect("a change").action, "rotate");
        }
    }

    #[test]
    fn both_locations_are_rendered_with_the_language_if_known() {
        let line = r#"{"@timestamp":"2027-01-15T08:00:00Z","event.action":"session.location-changed","source.ip":"203.0.113.9","source.geo.country_iso_code":"FR","doorward.language":"fr","user_agent.original":"curl","doorward.other.ip":"192.0.2.7","doorward.other.language":"de-at","doorward.signals":["language"],"doorward.score":10,"doorward.answer":"log","doorward.enforced":false}"#;
        let change =
            |line: &str| parse(line.as_bytes()).and_then(|line| line.location_change).expect("one");
        let both = change(line);
        assert_eq!(
            (both.current.as_str(), both.previous.as_str()),
            ("203.0.113.9 FR fr curl", "192.0.2.7 de-at")
        );
        let older = change(&line.replace("doorward.language", "x").replace("other.language", "y"));
        assert_eq!(
            (older.current.as_str(), older.previous.as_str()),
            ("203.0.113.9 FR curl", "192.0.2.7")
        );
    }
}
