//! `on_outage`: what becomes of requests while the store does not answer.

use std::time::Duration;

use super::duration;
use super::findings::Usual::Is;
use super::reader::{Reader, Setting};

/// What becomes of them where a route says nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    pub mode: OnOutage,
    /// Counted from when the store last vouched for a session.
    pub serve_known_for: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOutage {
    /// 503 for everybody who needs a session.
    Deny,
    /// Sessions that were seen alive may read.
    ServeKnown,
}

impl Outage {
    /// How long a route serves them, if it does.
    pub(super) fn on_route(self, own: Option<OnOutage>) -> Option<Duration> {
        match own.unwrap_or(self.mode) {
            OnOutage::Deny => None,
            OnOutage::ServeKnown => Some(self.serve_known_for),
        }
    }
}

pub(super) fn outage(section: &mut Reader<'_>) -> Option<Outage> {
    let mode = section.text("on_outage", Is(r#""deny""#), on_outage);
    let serve_known_for = section.measure("serve_known_for", Is(r#""5m""#), known_for);
    let mode = mode?;
    warn_of_serving(section, &mode);
    Some(Outage { mode: mode.value, serve_known_for: serve_known_for?.value })
}

/// A route's own word. The outer option is empty where it is wrong.
pub(super) fn of_route(section: &mut Reader<'_>) -> Option<Option<OnOutage>> {
    let own = section.optional("on_outage", r#""serve-known""#, on_outage)?;
    if let Some(own) = &own {
        warn_of_serving(section, own);
    }
    Some(own.map(|own| own.value))
}

fn warn_of_serving(section: &Reader<'_>, mode: &Setting<OnOutage>) {
    match mode.value {
        OnOutage::Deny => {}
        OnOutage::ServeKnown => section.findings.warning(
            &mode.place,
            "while the store is away, a session that was ended elsewhere can still read here",
            "write on_outage = \"deny\" where that must not be",
        ),
    }
}

fn on_outage(text: &str) -> Result<OnOutage, String> {
    match text {
        "deny" => Ok(OnOutage::Deny),
        "serve-known" => Ok(OnOutage::ServeKnown),
        other => Err(super::not_one_of(other, &["deny", "serve-known"])),
    }
}

/// Longer is no bridge over an outage but a store of its own.
fn known_for(text: &str) -> Result<Duration, String> {
    let time = duration::parse_positive(text).map_err(|error| error.to_string())?;
    if time > Duration::from_hours(1) {
        return Err(format!("`{text}` is longer than 1h; write \"5m\""));
    }
    Ok(time)
}
