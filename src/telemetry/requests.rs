//! One line per request, written by hand because it is written for every request: formatting it
//! through the general logger costs as much as deciding the session.
//!
//! A worker gathers its lines and hands them over in one piece, at the latest after [`FLUSH_EVERY`].

use std::io::Write;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tracing_appender::non_blocking::NonBlocking;

use crate::config::LogFormat;

/// How long a line may wait for company.
pub const FLUSH_EVERY: Duration = Duration::from_millis(100);

/// Bytes that are handed over without waiting.
const FULL: usize = 16 * 1024;

/// Where request lines go, and how they look. Each worker makes its own [`RequestLog`] of it.
#[derive(Clone)]
pub struct RequestLines {
    pub(super) out: NonBlocking,
    pub(super) format: LogFormat,
}

/// One worker's request lines.
pub struct RequestLog {
    lines: RequestLines,
    waiting: Mutex<Vec<u8>>,
}

/// What a line says. Empty fields are left out.
#[derive(Debug, Serialize)]
pub struct RequestLine<'a> {
    pub request: &'a str,
    pub client: IpAddr,
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub verdict: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_ms: Option<u64>,
    pub took_us: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub detail: &'a str,
}

/// The line as the log's other lines look.
#[derive(Serialize)]
struct Stamped<'a> {
    timestamp: String,
    level: &'static str,
    target: &'static str,
    #[serde(flatten)]
    line: &'a RequestLine<'a>,
}

impl RequestLog {
    /// A worker's own.
    pub fn new(lines: RequestLines) -> RequestLog {
        RequestLog { lines, waiting: Mutex::default() }
    }

    /// Takes a line.
    pub fn write(&self, line: &RequestLine<'_>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match self.lines.format {
            LogFormat::Json => json(&mut waiting, line),
            LogFormat::Text => text(&mut waiting, line),
        }
        if waiting.len() >= FULL {
            self.hand_over(&mut waiting);
        }
    }

    /// Hands over what waits.
    pub fn flush(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.is_empty() {
            self.hand_over(&mut waiting);
        }
    }

    /// The writer never blocks: what it cannot take is dropped and counted there.
    fn hand_over(&self, waiting: &mut Vec<u8>) {
        let mut out = self.lines.out.clone();
        out.write_all(waiting).unwrap_or_default();
        waiting.clear();
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        self.flush();
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

fn json(out: &mut Vec<u8>, line: &RequestLine<'_>) {
    let before = out.len();
    let stamped = Stamped { timestamp: now(), level: "INFO", target: "request", line };
    match serde_json::to_writer(&mut *out, &stamped) {
        Ok(()) => out.push(b'\n'),
        // Half a line would spoil the next one.
        Err(_) => out.truncate(before),
    }
}

/// For people: quoted as Rust quotes, so that no byte of a client breaks the line or the terminal.
fn text(out: &mut Vec<u8>, line: &RequestLine<'_>) {
    let RequestLine {
        request,
        client,
        method,
        host,
        path,
        verdict,
        user,
        status,
        took_us,
        detail,
        ..
    } = line;
    let session = line.session.as_deref().unwrap_or("-");
    let user = if user.is_empty() { "-" } else { user };
    let written = writeln!(
        out,
        "{}  INFO request: {status} {verdict} {method:?} {host:?} {path:?} user={user:?} session={session} client={client} request={request} took_us={took_us} {detail:?}",
        now(),
    );
    // Writing to a vector cannot fail.
    written.unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(path: &'a str, user: &'a str) -> RequestLine<'a> {
        RequestLine {
            request: "00000000000000a1",
            client: IpAddr::from([127, 0, 0, 1]),
            method: "GET",
            host: "a.test",
            path,
            verdict: "admit",
            user,
            session: None,
            status: 200,
            upstream_ms: None,
            took_us: 12,
            detail: "",
        }
    }

    #[test]
    fn cve_2024_45808_no_byte_of_a_client_makes_a_second_line() {
        let hostile = "/a\r\n{\"level\":\"ERROR\"}\u{1b}[31m\"";
        let (mut as_json, mut as_text) = (Vec::new(), Vec::new());
        json(&mut as_json, &line(hostile, "al\nice"));
        text(&mut as_text, &line(hostile, "al\nice"));
        for written in [&as_json, &as_text] {
            assert_eq!(written.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert!(!written.contains(&0x1b) && !written.contains(&b'\r'));
        }
        let read: serde_json::Value = serde_json::from_slice(&as_json).expect("JSON");
        assert_eq!(
            (read["path"].as_str(), read["user"].as_str()),
            (Some(hostile), Some("al\nice"))
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut out = Vec::new();
        json(&mut out, &line("/", ""));
        let read: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(read["status"], 200);
        for field in ["user", "session", "upstream_ms", "detail"] {
            assert!(read.get(field).is_none(), "{field}");
        }
    }
}
