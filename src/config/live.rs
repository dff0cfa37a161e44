//! `[live]`: what outlives its request (WebSockets, streams, long downloads and uploads).

use std::time::Duration;

use super::duration;
use super::findings::Usual::Is;
use super::reader::Reader;

/// How many may be open, and how long nobody may look at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    pub max_connections: usize,
    pub max_per_session: usize,
    /// How long one goes on while the store cannot be asked whether its session lives.
    pub unchecked_for: Duration,
}

pub(super) fn live(mut section: Reader<'_>) -> Option<Live> {
    let max_connections = section.number("max_connections", Is("20000"), 1..=10_000_000);
    let max_per_session = section.number("max_per_session", Is("500"), 1..=10_000_000);
    let unchecked_for = section.measure("unchecked_for", Is(r#""1m""#), unchecked);
    Some(Live {
        max_connections: max_connections?.value,
        max_per_session: max_per_session?.value,
        unchecked_for: unchecked_for?.value,
    })
}

/// Below a few seconds each hiccup of the store would cut everybody; a day is no bound.
fn unchecked(text: &str) -> Result<Duration, String> {
    let time = duration::parse_positive(text).map_err(|error| error.to_string())?;
    if time < Duration::from_secs(3) || time > Duration::from_hours(1) {
        return Err(format!("`{text}` is not between 3s and 1h; write \"1m\""));
    }
    Ok(time)
}
