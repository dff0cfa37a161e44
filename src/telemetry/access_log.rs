//! The access log: one entry per request. It does not use `tracing`, because formatting an entry there
//! costs as much as checking the session.
//!
//! Each worker buffers its entries and writes them in one piece, at the latest after [`FLUSH_INTERVAL`].

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};

use crate::config::LogFormat;
use crate::message::{Endpoint, HostPattern, PathPrefix};

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

impl AccessLogWriter {
    /// Writes to `out` in a thread of its own, until the guard is dropped.
    pub fn new(
        out: impl Write + Send + 'static,
        format: LogFormat,
    ) -> (AccessLogWriter, WorkerGuard) {
        let (out, guard) = tracing_appender::non_blocking(out);
        (AccessLogWriter { out, format }, guard)
    }
}

/// The access log of one worker.
pub struct AccessLog {
    writer: AccessLogWriter,
    buffer: Mutex<Vec<u8>>,
}

/// The fields of an entry. Empty ones are omitted.
#[derive(Debug, Serialize)]
pub struct AccessLogFields<'a> {
    /// Whether the entry has the level WARN instead of INFO.
    #[serde(skip)]
    pub is_warning: bool,
    pub request_id: &'a str,
    pub client: IpAddr,
    pub protocol: &'static str,
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    /// Host pattern and path prefix.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "route_name")]
    pub route: Option<(&'a HostPattern, &'a PathPrefix)>,
    pub verdict: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub user: &'a str,
    /// The handle of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    pub status: u16,
    /// Bytes of the response body that the client connection has taken.
    pub bytes: u64,
    /// Why the exchange ended early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<&'static str>,
    #[serde(rename = "upstream", skip_serializing_if = "is_none", serialize_with = "addresses")]
    pub upstreams: &'a [Endpoint],
    /// Time until the response head of the upstream, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_us: Option<u64>,
    /// Time until the end of the response, in microseconds.
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

fn level(fields: &AccessLogFields<'_>) -> &'static str {
    if fields.is_warning { "WARN" } else { "INFO" }
}

fn route_name<S: Serializer>(
    route: &Option<(&HostPattern, &PathPrefix)>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match route {
        Some((host, path)) => serializer.collect_str(&format_args!("{host}{}", path.as_str())),
        None => serializer.serialize_none(),
    }
}

fn is_none(endpoints: &[Endpoint]) -> bool {
    endpoints.is_empty()
}

fn addresses<S: Serializer>(endpoints: &[Endpoint], serializer: S) -> Result<S::Ok, S::Error> {
    match endpoints {
        [only] => serializer.collect_str(only),
        several => {
            let names: Vec<String> = several.iter().map(Endpoint::to_string).collect();
            serializer.serialize_str(&names.join(", "))
        }
    }
}

fn json(out: &mut Vec<u8>, fields: &AccessLogFields<'_>) {
    let start = out.len();
    let level = level(fields);
    let entry = TimestampedEntry { timestamp: now(), level, target: "access", fields };
    match serde_json::to_writer(&mut *out, &entry) {
        Ok(()) => out.push(b'\n'),
        // Half an entry would corrupt the next one.
        Err(_) => out.truncate(start),
    }
}

/// Client data is escaped as Rust strings, so that it can neither start a new line nor control a terminal.
fn text(out: &mut Vec<u8>, fields: &AccessLogFields<'_>) {
    let AccessLogFields {
        request_id,
        client,
        protocol,
        method,
        host,
        path,
        verdict,
        user,
        status,
        bytes,
        duration_us,
        detail,
        ..
    } = fields;
    let session = fields.session.as_deref().unwrap_or("-");
    let (level, cut) = (level(fields), fields.cut.unwrap_or("-"));
    let upstreams: Vec<String> = fields.upstreams.iter().map(Endpoint::to_string).collect();
    let upstream = if upstreams.is_empty() { "-".to_owned() } else { upstreams.join(",") };
    let user = if user.is_empty() { "-" } else { user };
    let written = writeln!(
        out,
        "{}  {level} access: {status} {verdict} {method:?} {host:?} {path:?} {protocol} user={user:?} session={session} client={client} upstream={upstream} request_id={request_id} bytes={bytes} cut={cut} duration_us={duration_us} {detail:?}",
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
            is_warning: false,
            request_id: "00000000000000a1",
            client: IpAddr::from([127, 0, 0, 1]),
            protocol: "HTTP/1.1",
            method: "GET",
            host: "a.test",
            path,
            route: None,
            verdict: "admit",
            user,
            session: None,
            status: 200,
            bytes: 0,
            cut: None,
            upstreams: &[],
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
    fn empty_fields_are_omitted() {
        let mut out = Vec::new();
        json(&mut out, &fields("/", ""));
        let read: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(read["status"], 200);
        for field in ["user", "session", "route", "cut", "upstream", "upstream_us", "detail"] {
            assert!(read.get(field).is_none(), "{field}");
        }
    }
}
