//! The access log: one entry per request. It does not use `tracing`, because formatting an entry there
//! costs as much as checking the session.
//!
//! Each worker buffers its entries and writes them in one piece, at the latest after [`FLUSH_INTERVAL`].

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tracing_appender::non_blocking::NonBlocking;

use crate::config::LogFormat;

/// Maximum time that an entry is buffered.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// Buffered bytes that are written at once.
const FLUSH_BYTES: usize = 16 * 1024;

/// The output and format of the access log, from which each worker creates its [`AccessLog`].
#[derive(Clone)]
pub struct AccessLogWriter {
    pub(super) out: NonBlocking,
    pub(super) format: LogFormat,
}

/// The access log of one worker.
pub struct AccessLog {
    writer: AccessLogWriter,
    buffer: Mutex<Vec<u8>>,
}

/// The fields of an entry. Empty ones are omitted.
#[derive(Debug, Serialize)]
pub struct AccessLogFields<'a> {
    pub request_id: &'a str,
    pub client: IpAddr,
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub verdict: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub user: &'a str,
    /// The handle of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    pub status: u16,
    /// Time until the response head of the upstream, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_us: Option<u64>,
    /// Time until the response head was sent, in microseconds.
    pub duration_us: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub detail: &'a str,
}

/// An entry in the format of the other log entries.
#[derive(Serialize)]
struct TimestampedEntry<'a> {
    timestamp: String,
    level: &'static str,
    target: &'static str,
    #[serde(flatten)]
    fields: &'a AccessLogFields<'a>,
}

impl AccessLog {
    pub fn new(writer: AccessLogWriter) -> AccessLog {
        AccessLog { writer, buffer: Mutex::default() }
    }

    /// Buffers an entry.
    pub fn write(&self, fields: &AccessLogFields<'_>) {
        let mut buffer = self.buffer.lock();
        match self.writer.format {
            LogFormat::Json => json(&mut buffer, fields),
            LogFormat::Text => text(&mut buffer, fields),
        }
        if buffer.len() >= FLUSH_BYTES {
            self.write_out(&mut buffer);
        }
    }

    /// Writes the buffered entries.
    pub fn flush(&self) {
        let mut buffer = self.buffer.lock();
        if !buffer.is_empty() {
            self.write_out(&mut buffer);
        }
    }

    /// Never blocks: the non-blocking writer drops entries when its queue is full.
    fn write_out(&self, buffer: &mut Vec<u8>) {
        let mut out = self.writer.out.clone();
        out.write_all(buffer).unwrap_or_default();
        buffer.clear();
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

fn json(out: &mut Vec<u8>, fields: &AccessLogFields<'_>) {
    let start = out.len();
    let entry = TimestampedEntry { timestamp: now(), level: "INFO", target: "access", fields };
    match serde_json::to_writer(&mut *out, &entry) {
        Ok(()) => {
            escape_unprintable(out, start);
            out.push(b'\n');
        }
        // Half an entry would corrupt the next one.
        Err(_) => out.truncate(start),
    }
}

/// Escapes every character of JSON text that a terminal does not print: JSON itself only requires it
/// below U+0020. Bidirectional marks would reorder an entry, C1 controls could command a terminal.
fn escape_unprintable(out: &mut Vec<u8>, start: usize) {
    if out[start..].iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return;
    }
    let text = String::from_utf8_lossy(&out[start..]).into_owned();
    out.truncate(start);
    for c in text.chars() {
        let mut buffer = [0; 2];
        let is_printable = c.is_ascii_graphic() || c == ' ' || c.escape_debug().len() == 1;
        if is_printable {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            let units = c.encode_utf16(&mut buffer).iter();
            units.for_each(|unit| out.extend_from_slice(format!("\\u{unit:04x}").as_bytes()));
        }
    }
}

/// Client data is escaped as Rust strings, so that it can neither start a new line nor control a terminal.
fn text(out: &mut Vec<u8>, fields: &AccessLogFields<'_>) {
    let AccessLogFields {
        request_id,
        client,
        method,
        host,
        path,
        verdict,
        user,
        status,
        duration_us,
        detail,
        ..
    } = fields;
    let session = fields.session.as_deref().unwrap_or("-");
    let user = if user.is_empty() { "-" } else { user };
    let written = writeln!(
        out,
        "{}  INFO access: {status} {verdict} {method:?} {host:?} {path:?} user={user:?} session={session} client={client} request_id={request_id} duration_us={duration_us} {detail:?}",
        now(),
    );
    // Writing to a vector cannot fail.
    written.unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields<'a>(path: &'a str, user: &'a str) -> AccessLogFields<'a> {
        AccessLogFields {
            request_id: "00000000000000a1",
            client: IpAddr::from([127, 0, 0, 1]),
            method: "GET",
            host: "a.test",
            path,
            verdict: "admit",
            user,
            session: None,
            status: 200,
            upstream_us: None,
            duration_us: 12,
            detail: "",
        }
    }

    /// CVE-2024-45808.
    #[test]
    fn client_data_cannot_start_a_new_line() {
        let hostile = "/a\r\n{\"level\":\"ERROR\"}\u{1b}[31m\"";
        let (mut as_json, mut as_text) = (Vec::new(), Vec::new());
        json(&mut as_json, &fields(hostile, "al\nice"));
        text(&mut as_text, &fields(hostile, "al\nice"));
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
    fn unprintable_characters_are_escaped_in_json() {
        let unprintable =
            "\u{85}\u{9b}31m\u{7f}\u{2028}\u{2029}\u{202e}\u{2066}\u{200b}\u{feff}\u{e0041}";
        let path = format!("/é日本/{unprintable}");
        let mut out = Vec::new();
        json(&mut out, &fields(&path, "zoë"));
        let read: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!((read["path"].as_str(), read["user"].as_str()), (Some(&*path), Some("zoë")));
        let text = String::from_utf8(out).expect("UTF-8");
        assert!(text.contains("é日本") && text.contains("\\udb40\\udc41"), "{text}");
        let hidden = |c: &char| unprintable.contains(*c) && !c.is_ascii_graphic();
        assert_eq!(text.chars().find(hidden), None, "{text}");
    }

    #[test]
    fn empty_fields_are_omitted() {
        let mut out = Vec::new();
        json(&mut out, &fields("/", ""));
        let read: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(read["status"], 200);
        for field in ["user", "session", "upstream_us", "detail"] {
            assert!(read.get(field).is_none(), "{field}");
        }
    }
}
