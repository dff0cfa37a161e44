//! `[live]`: tracked connections (WebSockets, streams, long downloads and uploads).

use std::time::Duration;

use super::diagnostics::KeyDefault::Value;
use super::duration;
use super::reader::Reader;

/// Limits of tracked connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongLived {
    pub max_connections: usize,
    pub max_per_session: usize,
    /// Time for which a connection stays open without confirmation of its session by the store.
    pub unchecked_for: Duration,
}

pub(super) fn long_lived(mut section: Reader<'_>) -> Option<LongLived> {
    let max_connections = section.number("max_connections", Value("20000"), 1..=10_000_000);
    let max_per_session = section.number("max_per_session", Value("500"), 1..=10_000_000);
    let unchecked_for = section.quantity("unchecked_for", Value(r#""1m""#), unchecked);
    Some(LongLived {
        max_connections: max_connections?.value,
        max_per_session: max_per_session?.value,
        unchecked_for: unchecked_for?.value,
    })
}

/// Parses a time from 3 s to 1 h. Less would close every connection during a short store outage.
fn unchecked(text: &str) -> Result<Duration, String> {
    let time = duration::parse_positive(text).map_err(|error| error.to_string())?;
    if time < Duration::from_secs(3) || time > Duration::from_hours(1) {
        return Err(format!("`{text}` is not between 3s and 1h; write \"1m\""));
    }
    Ok(time)
}
