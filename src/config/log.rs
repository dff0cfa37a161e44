//! `[log]`: level and format of the log on standard error.

use std::io::IsTerminal;

use super::diagnostics::KeyDefault::Value;
use super::reader::Reader;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
    /// Whether the access log is on.
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
    let level = section.text("level", Value(r#""info""#), level);
    let format = section.text("format", Value(r#""auto""#), format);
    let requests = section.flag("requests", Value("true"));
    Some(Log { level: level?.value, format: format?.value, requests: requests?.value })
}

fn level(text: &str) -> Result<LogLevel, String> {
    match text {
        "error" => Ok(LogLevel::Error),
        "warn" => Ok(LogLevel::Warn),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        other => Err(super::unknown::unknown_value(other, &["error", "warn", "info", "debug"])),
    }
}

/// `auto` is text on a terminal, and JSON elsewhere.
fn format(text: &str) -> Result<LogFormat, String> {
    match text {
        "auto" if std::io::stderr().is_terminal() => Ok(LogFormat::Text),
        "auto" | "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        other => Err(super::unknown::unknown_value(other, &["auto", "json", "text"])),
    }
}
