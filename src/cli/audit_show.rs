//! `doorward audit show`: the events of a user or a session, from the audit log alone.
//!
//! The content is not trusted: a line may be damaged, or come from another version. `audit verify` finds
//! modified lines.

use std::fs::File;
use std::io::{BufRead, BufReader, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::config;
use crate::telemetry::escape;

use super::config_file::ConfigArgs;
use super::terminal;

#[derive(Args)]
pub(super) struct ShowArgs {
    /// Audit log and its rotated files, oldest first; by default that of the configuration
    files: Vec<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Only events of this user, and revocations of all users
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only events of this session, by its handle
    #[arg(long, value_name = "HANDLE")]
    session: Option<String>,
    /// Only events of this time until now, for example 1h
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    since: Option<Duration>,
    /// Print the lines of the log as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let filter = AuditFilter::new(args, Timestamp::now());
    let mut out = terminal::out();
    for path in &files_or_configured(&args.files, &args.config)? {
        let shown = || format!("{} cannot be read", path.display());
        let file = BufReader::new(File::open(path).with_context(shown)?);
        for line in file.split(b'\n') {
            let line = line.with_context(shown)?;
            let Ok(event) = serde_json::from_slice::<Value>(&line) else { continue };
            if !filter.matches(&event) {
                continue;
            }
            match args.json {
                true => writeln!(out, "{}", String::from_utf8_lossy(&line))?,
                false => writeln!(out, "{}", describe(&event))?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the given files, or the audit log of the configuration.
pub(super) fn files_or_configured(
    files: &[PathBuf],
    config: &ConfigArgs,
) -> anyhow::Result<Vec<PathBuf>> {
    if !files.is_empty() {
        return Ok(files.to_vec());
    }
    let missing = "no audit log; name its files, or a configuration with [audit] file (--config)";
    Ok(vec![config.files()?.audit.context(missing)?])
}

/// The events to show.
struct AuditFilter<'a> {
    user: Option<String>,
    session: Option<&'a str>,
    since: Option<Timestamp>,
}

impl AuditFilter<'_> {
    fn new(args: &ShowArgs, now: Timestamp) -> AuditFilter<'_> {
        let since = args.since.and_then(|since| {
            let since = SignedDuration::try_from(since).ok()?;
            now.checked_sub(since).ok()
        });
        let user = args.user.as_ref().map(|user| user.to_lowercase());
        AuditFilter { user, session: args.session.as_deref(), since }
    }

    fn matches(&self, event: &Value) -> bool {
        self.matches_user(event) && self.matches_session(event) && self.matches_time(event)
    }

    /// A revocation of all users concerns every user.
    fn matches_user(&self, event: &Value) -> bool {
        let name = text(event, "user.name");
        self.user.as_ref().is_none_or(|user| name == "*" || name.to_lowercase() == *user)
    }

    fn matches_session(&self, event: &Value) -> bool {
        let names = ["doorward.session", "doorward.actor_session"];
        self.session.is_none_or(|session| {
            names.iter().any(|name| text(event, name) == session) || text(event, "user.name") == "*"
        })
    }

    fn matches_time(&self, event: &Value) -> bool {
        self.since.is_none_or(|since| {
            text(event, "@timestamp").parse::<Timestamp>().is_ok_and(|at| at >= since)
        })
    }
}

/// Returns one line: time, event, user and session, reason, actor, and the life of an ended session.
fn describe(event: &Value) -> String {
    let at = text(event, "@timestamp").parse::<Timestamp>();
    let at = at.map_or_else(|_| "?".to_owned(), |at| seconds(at).to_string());
    let mut line = format!("{at}  {}", text(event, "event.action"));
    for (label, name) in [
        ("", "event.reason"),
        ("user", "user.name"),
        ("session", "doorward.session"),
        ("by", "doorward.actor"),
        ("in session", "doorward.actor_session"),
        ("uid", "doorward.actor_uid"),
        ("from", "source.ip"),
        ("count", "doorward.count"),
        ("last active", "doorward.last_active"),
        ("ended", "doorward.ended"),
    ] {
        let value = field(event, name);
        if !value.is_empty() {
            line.push_str("  ");
            line.push_str(label);
            line.push_str(if label.is_empty() { "" } else { " " });
            line.push_str(&value);
        }
    }
    if let Some(limit) = event["doorward.limit_seconds"].as_u64() {
        line.push_str(&format!("  limit {} = {limit}s", field(event, "doorward.limit")));
    }
    line
}

fn text<'a>(event: &'a Value, name: &str) -> &'a str {
    event[name].as_str().unwrap_or_default()
}

/// Returns a field: times to the second, and escaped, because a field must not break the line.
fn field(event: &Value, name: &str) -> String {
    let value = match &event[name] {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return String::new(),
    };
    if name.starts_with("doorward.")
        && let Ok(at) = value.parse::<Timestamp>()
    {
        return seconds(at).to_string();
    }
    escape(&value).replace(['\n', '\t'], " ")
}

fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_states_why_a_session_ended_and_by_whom() {
        let event = serde_json::json!({
            "@timestamp": "2027-01-15T08:00:00.123Z",
            "event.action": "session.ended",
            "event.reason": "idle",
            "user.name": "al\u{1b}i\u{202e}c\ne",
            "doorward.session": "0123",
            "doorward.actor": "gateway",
            "doorward.last_active": "2027-01-15T07:29:00.5Z",
            "doorward.ended": "2027-01-15T07:59:00.5Z",
            "doorward.limit": "session.idle_timeout",
            "doorward.limit_seconds": 1800,
        });
        assert_eq!(
            describe(&event),
            "2027-01-15T08:00:00Z  session.ended  idle  user al\\u001bi\\u202ec e  session 0123  by gateway  \
             last active 2027-01-15T07:29:00Z  ended 2027-01-15T07:59:00Z  \
             limit session.idle_timeout = 1800s"
        );
    }
}
