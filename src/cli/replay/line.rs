//! One line of an audit log, as far as it is judged again. Whoever wrote it: nothing in it is believed to be
//! short, printable or of this version.

use std::io::{self, BufRead, Read as _};
use std::net::IpAddr;

use jiff::Timestamp;
use serde::Deserialize;

use crate::risk::Signal;

/// Far longer than any line that doorward writes.
const LONGEST: u64 = 64 * 1024;

/// Lines, one at a time, in bounded memory.
pub(super) struct Lines<R> {
    reader: R,
    number: u64,
}

/// What stands in a line.
pub(super) enum Read {
    Line(Box<Line>),
    Bad,
}

/// Any line with a time.
pub(super) struct Line {
    pub(super) at: Timestamp,
    pub(super) action: String,
    pub(super) user: String,
    pub(super) session: String,
    pub(super) moved: Option<Move>,
}

/// A line `session.moved`.
pub(super) struct Move {
    pub(super) signals: Vec<Signal>,
    pub(super) score: u32,
    pub(super) answer: String,
    pub(super) enforced: bool,
    pub(super) from: Option<IpAddr>,
    pub(super) here: String,
    pub(super) before: String,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R) -> Lines<R> {
        Lines { reader, number: 0 }
    }

    /// The next line and its number.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Read)>> {
        let mut bytes = Vec::new();
        self.reader.by_ref().take(LONGEST).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let whole = bytes.last() == Some(&b'\n') || bytes.len() as u64 != LONGEST;
        if !whole {
            self.reader.skip_until(b'\n')?;
            return Ok(Some((self.number, Read::Bad)));
        }
        let read = parsed(&bytes).map_or(Read::Bad, |line| Read::Line(Box::new(line)));
        Ok(Some((self.number, read)))
    }
}

fn parsed(bytes: &[u8]) -> Option<Line> {
    let raw: Raw = serde_json::from_slice(bytes).ok()?;
    let at = raw.timestamp.parse().ok()?;
    let moved = if raw.action == "session.moved" { Some(raw.moved()?) } else { None };
    Some(Line {
        at,
        moved,
        action: raw.action,
        user: printable(&raw.user),
        session: printable(&raw.session),
    })
}

#[derive(Deserialize)]
struct Raw {
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
    #[serde(rename = "doorward.answer")]
    answer: Option<String>,
    #[serde(rename = "doorward.enforced")]
    enforced: Option<bool>,
}

impl Raw {
    /// A signal of an unknown name is of a newer doorward, which has to judge it.
    fn moved(&self) -> Option<Move> {
        let signals = self.signals.iter().map(|name| Signal::named(name)).collect::<Option<_>>()?;
        Some(Move {
            signals,
            score: self.score?,
            answer: printable(self.answer.as_deref()?),
            enforced: self.enforced?,
            from: self.client,
            here: place(self.client, [&self.country, &self.language], &self.agent),
            before: place(
                self.other,
                [&self.other_country, &self.other_language],
                &self.other_agent,
            ),
        })
    }
}

/// `said` are country and language, as far as the line has them.
fn place(address: Option<IpAddr>, said: [&Option<String>; 2], agent: &str) -> String {
    let address = address.map(|address| address.to_string());
    let [country, language] = said.map(Option::as_deref);
    let agent = Some(agent).filter(|agent| !agent.is_empty());
    let parts = [address.as_deref(), country, language, agent];
    let parts: Vec<String> = parts.into_iter().flatten().map(printable).collect();
    parts.join(" ")
}

/// For a terminal, which obeys what a file says.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Vec<(u64, bool)> {
        let mut lines = Lines::new(text);
        let mut out = Vec::new();
        while let Some((number, read)) = lines.next().expect("memory") {
            out.push((number, matches!(read, Read::Line(_))));
        }
        out
    }

    #[test]
    fn a_line_without_an_end_in_sight_is_passed_over_in_bounded_memory_and_counted_once() {
        let good = r#"{"@timestamp":"2027-01-15T08:00:00Z","event.action":"session.login"}"#;
        let long = "x".repeat(3 * usize::try_from(LONGEST).expect("small"));
        let text = format!("{good}\n{long}\n{good}\n\u{1b}[31m\n{good}");
        assert_eq!(
            read(text.as_bytes()),
            [(1, true), (2, false), (3, true), (4, false), (5, true)]
        );
        assert_eq!(read(long.as_bytes()), [(1, false)]);
    }

    #[test]
    fn whatever_is_cut_out_of_a_line_is_a_bad_line_and_no_panic() {
        let line = r#"{"@timestamp":"2027-01-15T08:00:00Z","event.action":"session.moved","user.name":"ö\u001b[2J","doorward.signals":["network","browser"],"doorward.score":60,"doorward.answer":"login","doorward.enforced":false}"#;
        let whole = parsed(line.as_bytes()).expect("a line");
        assert_eq!(whole.user, "ö\u{fffd}[2J", "a terminal obeys what it is shown");
        for at in 0..line.len() {
            assert!(parsed(&line.as_bytes()[..at]).is_none(), "{at}");
        }
        assert!(parsed(line.replace("network", "astrology").as_bytes()).is_none());
        assert!(parsed(line.replace("60", "-1").as_bytes()).is_none());
    }

    #[test]
    fn both_places_of_a_move_are_told_with_the_language_where_the_line_has_it() {
        let line = r#"{"@timestamp":"2027-01-15T08:00:00Z","event.action":"session.moved","source.ip":"203.0.113.9","source.geo.country_iso_code":"FR","doorward.language":"fr","user_agent.original":"curl","doorward.other.ip":"192.0.2.7","doorward.other.language":"de-at","doorward.signals":["language"],"doorward.score":10,"doorward.answer":"log","doorward.enforced":false}"#;
        let moved = |line: &str| parsed(line.as_bytes()).and_then(|line| line.moved).expect("one");
        let both = moved(line);
        assert_eq!(
            (both.here.as_str(), both.before.as_str()),
            ("203.0.113.9 FR fr curl", "192.0.2.7 de-at")
        );
        let older = moved(&line.replace("doorward.language", "x").replace("other.language", "y"));
        assert_eq!(
            (older.here.as_str(), older.before.as_str()),
            ("203.0.113.9 FR curl", "192.0.2.7")
        );
    }
}
