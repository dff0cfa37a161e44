//! `on_outage`: behaviour of routes during a store outage.

use std::time::Duration;

use super::diagnostics::KeyDefault::Value;
use super::duration;
use super::reader::{Field, Reader};

/// Default for all routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    pub mode: OnOutage,
    /// Maximum age of the last confirmation by the store.
    pub serve_known_for: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOutage {
    /// Responds 503 on every route with a session.
    Deny,
    /// Serves read requests of cached sessions.
    ServeKnown,
}

impl Outage {
    /// Returns how long a route serves cached sessions; `None` if it does not.
    pub(super) fn on_route(self, own: Option<OnOutage>) -> Option<Duration> {
        match own.unwrap_or(self.mode) {
            OnOutage::Deny => None,
            OnOutage::ServeKnown => Some(self.serve_known_for),
        }
    }
}

pub(super) fn outage(section: &mut Reader<'_>) -> Option<Outage> {
    let mode = section.text("on_outage", Value(r#""deny""#), on_outage);
    let serve_known_for = section.quantity("serve_known_for", Value(r#""5m""#), known_for);
    let mode = mode?;
    warn_serves_stale(section, &mode);
    Some(Outage { mode: mode.value, serve_known_for: serve_known_for?.value })
}

/// Reads the key of a route. The outer `None` means an invalid value, the inner one an unset key.
pub(super) fn for_route(section: &mut Reader<'_>) -> Option<Option<OnOutage>> {
    let own = section.optional("on_outage", r#""serve-known""#, on_outage)?;
    if let Some(own) = &own {
        warn_serves_stale(section, own);
    }
    Some(own.map(|own| own.value))
}

fn warn_serves_stale(section: &Reader<'_>, mode: &Field<OnOutage>) {
    match mode.value {
        OnOutage::Deny => {}
        OnOutage::ServeKnown => section.diagnostics.warning(
            &mode.span,
            "during a store outage, a session that was ended elsewhere can still read here",
            "write on_outage = \"deny\" to prevent this",
        ),
    }
}

fn on_outage(text: &str) -> Result<OnOutage, String> {
    match text {
        "deny" => Ok(OnOutage::Deny),
        "serve-known" => Ok(OnOutage::ServeKnown),
        other => Err(super::unknown::unknown_value(other, &["deny", "serve-known"])),
    }
}

/// Parses a time of at most one hour: revocations elsewhere are not observed in this time.
fn known_for(text: &str) -> Result<Duration, String> {
    let time = duration::parse_positive(text).map_err(|error| error.to_string())?;
    if time > Duration::from_hours(1) {
        return Err(format!("`{text}` is longer than 1h; write \"5m\""));
    }
    Ok(time)
}
