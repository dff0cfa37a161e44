//! `[log]`: what is written to standard error, and how.

use std::io::IsTerminal;

use super::findings::Usual::Is;
use super::reader::Reader;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
    /// Whether each request is a line.
    pub requests: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

pub(super) fn log(mut section: Reader<'_>) -> Option<Log> {
    let level = section.text("level", Is(r#""info""#), level);
    let format = section.text("format", Is(r#""auto""#), format);
    let requests = section.flag("requests", Is("true"));
    Some(Log { level: level?.value, format: format?.value, requests: requests?.value })
}

fn level(text: &str) -> Result<LogLevel, String> {
    match text {
        "error" => Ok(LogLevel::Error),
        "warn" => Ok(LogLevel::Warn),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        other => Err(super::not_one_of(other, &["error", "warn", "info", "debug"])),
    }
}

/// `auto` is text for whoever watches a terminal, and JSON for what collects lines.
fn format(text: &str) -> Result<LogFormat, String> {
    match text {
        "auto" if std::io::stderr().is_terminal() => Ok(LogFormat::Text),
        "auto" | "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        other => Err(super::not_one_of(other, &["auto", "json", "text"])),
    }
}
