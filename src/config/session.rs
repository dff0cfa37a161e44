//! `[session]`: timeouts, rotation and cookie domain of sessions.

use std::time::Duration;

use super::diagnostics::KeyDefault::Value;
use super::duration;
use super::reader::{Field, Reader};
use crate::message::cookies::SameSite;
use crate::message::{CookieSettings, Host};
use crate::session::{OnReuse, PolicyError, SessionPolicy};

#[derive(Clone, Debug)]
pub struct Session {
    pub policy: SessionPolicy,
    /// Zero: no limit.
    pub max_per_user: usize,
    pub cookie: CookieSettings,
}

/// The section with the locations that cross checks need.
#[derive(Default)]
pub(super) struct SessionSection {
    /// None if the times contradict each other.
    pub policy: Option<SessionPolicy>,
    pub max_per_user: Option<usize>,
    pub domain: Option<Option<Field<String>>>,
    /// The cookie without its domain.
    pub cookie: Option<CookieSettings>,
}

impl SessionSection {
    pub(super) fn finish(self) -> Option<Session> {
        Some(Session {
            policy: self.policy?,
            max_per_user: self.max_per_user?,
            cookie: CookieSettings {
                domain: self.domain?.map(|domain| domain.value),
                ..self.cookie?
            },
        })
    }
}

struct Times {
    idle: Field<Duration>,
    absolute: Field<Duration>,
    rotate_after: Field<Duration>,
    grace: Field<Duration>,
}

pub(super) fn session(mut section: Reader<'_>) -> SessionSection {
    let times = times(&mut section);
    let on_reuse = section.text("on_reuse", Value(r#""revoke""#), on_reuse);
    let max_per_user = section.number("max_per_user", Value("0"), 0..=10_000);
    let domain = section.optional("domain", r#""example.com""#, domain);
    if let Some(on_reuse) = &on_reuse {
        warn_theft_only_logged(&section, on_reuse);
    }
    if let Some(Some(domain)) = &domain {
        section.diagnostics.warning(
            &domain.span,
            format!(
                "every host below {} can set and, over plain http, read this cookie",
                domain.value
            ),
            "leave `domain` out unless several hosts share one login",
        );
    }
    let cookie = cookie(&mut section);
    let policy = times.zip(on_reuse).and_then(|(times, reuse)| times.policy(&section, reuse.value));
    let max_per_user = max_per_user.map(|number| number.value);
    SessionSection { policy, max_per_user, domain, cookie }
}

fn cookie(section: &mut Reader<'_>) -> Option<CookieSettings> {
    let name = section.text("cookie_name", Value(r#""doorward""#), cookie_name);
    let persistent = section.flag("persistent", Value("false"));
    let same_site = section.text("same_site", Value(r#""lax""#), same_site);
    if let Some(same_site) = same_site.as_ref().filter(|value| value.value == SameSite::None) {
        section.diagnostics.warning(
            &same_site.span,
            "browsers send this cookie with requests that other sites make",
            "write same_site = \"lax\", unless users post forms from other sites to an app",
        );
    }
    let (name, persistent, same_site) = (name?.value, persistent?.value, same_site?.value);
    Some(CookieSettings { name, domain: None, same_site, persistent })
}

fn cookie_name(text: &str) -> Result<String, String> {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.to_ascii_lowercase().starts_with("__") {
        return Err(format!("`{text}` has a prefix, which is added by itself; write \"doorward\""));
    }
    if text.is_empty() || text.len() > 64 || !text.bytes().all(is_valid) {
        return Err(format!(
            "`{text}` is not 1 to 64 letters, digits, `-`, `_` or `.`; write \"doorward\""
        ));
    }
    if text.ends_with("-login") {
        return Err(format!("`{text}` ends like the cookie of the login form; write \"doorward\""));
    }
    Ok(text.to_owned())
}

fn same_site(text: &str) -> Result<SameSite, String> {
    match text {
        "lax" => Ok(SameSite::Lax),
        "strict" => Ok(SameSite::Strict),
        "none" => Ok(SameSite::None),
        other => Err(super::unknown::unknown_value(other, &["lax", "strict", "none"])),
    }
}

fn times(section: &mut Reader<'_>) -> Option<Times> {
    let mut time = |key, default| section.quantity(key, Value(default), duration::parse_positive);
    let idle = time("idle_timeout", r#""30m""#);
    let absolute = time("absolute_timeout", r#""12h""#);
    let rotate_after = time("rotate_after", r#""10m""#);
    let grace = time("rotation_grace", r#""30s""#);
    Some(Times { idle: idle?, absolute: absolute?, rotate_after: rotate_after?, grace: grace? })
}

impl Times {
    fn policy(&self, section: &Reader<'_>, on_reuse: OnReuse) -> Option<SessionPolicy> {
        let (idle, absolute) = (self.idle.value, self.absolute.value);
        let (rotate_after, grace) = (self.rotate_after.value, self.grace.value);
        let report = |error| {
            section.diagnostics.error(&self.conflicting_field(error).span, error.to_string(), "");
        };
        // Checks each pair separately first, so that both contradictions are reported.
        let [second, minute] = [1, 60].map(Duration::from_secs);
        let life = SessionPolicy::new(idle, absolute, minute, second, on_reuse).map_err(report);
        let token = SessionPolicy::new(minute, minute, rotate_after, grace, on_reuse);
        life.and(token.map_err(report)).ok()?;
        if rotate_after >= absolute {
            section.diagnostics.warning(
                &self.conflicting_field(PolicyError::RotateBelowGrace).span,
                "tokens never rotate: `rotate_after` is not below `absolute_timeout`",
                "write rotate_after = \"10m\"",
            );
        }
        SessionPolicy::new(idle, absolute, rotate_after, grace, on_reuse).ok()
    }

    /// Returns the contradicting time to report: one that is set in the file.
    fn conflicting_field(&self, error: PolicyError) -> &Field<Duration> {
        let is_set = |field: &'_ Field<Duration>| field.is_set;
        match error {
            PolicyError::IdleTooShort => &self.idle,
            PolicyError::AbsoluteBelowIdle if is_set(&self.absolute) => &self.absolute,
            PolicyError::AbsoluteBelowIdle => &self.idle,
            PolicyError::GraceTooShort => &self.grace,
            PolicyError::RotateBelowGrace if is_set(&self.rotate_after) => &self.rotate_after,
            PolicyError::RotateBelowGrace => &self.grace,
        }
    }
}

fn warn_theft_only_logged(section: &Reader<'_>, on_reuse: &Field<OnReuse>) {
    match on_reuse.value {
        OnReuse::Revoke | OnReuse::RevokeAll | OnReuse::Reauthenticate => {}
        OnReuse::Log => section.diagnostics.warning(
            &on_reuse.span,
            "a stolen session stays valid: the theft is only logged",
            "write on_reuse = \"revoke\"",
        ),
    }
}

fn on_reuse(text: &str) -> Result<OnReuse, String> {
    match text {
        "revoke" => Ok(OnReuse::Revoke),
        "revoke-all" => Ok(OnReuse::RevokeAll),
        "reauthenticate" => Ok(OnReuse::Reauthenticate),
        "log" => Ok(OnReuse::Log),
        other => Err(super::unknown::unknown_value(
            other,
            &["revoke", "revoke-all", "reauthenticate", "log"],
        )),
    }
}

/// Parses a cookie domain. Browsers reject a name without a dot.
fn domain(text: &str) -> Result<String, String> {
    if let Some(rest) = text.strip_prefix('.') {
        return Err(format!("a domain must not start with a dot; write \"{rest}\""));
    }
    let host = Host::parse(text).map_err(|error| format!("{error}; write \"example.com\""))?;
    let name = host.name();
    if host.port().is_some() {
        return Err(format!("a cookie domain has no port; write \"{name}\""));
    }
    if name.parse::<std::net::IpAddr>().is_ok() || name.starts_with('[') {
        return Err(format!("`{name}` is an address, and a cookie domain must be a name"));
    }
    if !name.contains('.') {
        return Err(format!(
            "`{name}` has no dot, and browsers reject such cookies; write \"example.com\""
        ));
    }
    Ok(name.to_owned())
}
