//! `[session]`: how long a session lives and how its token is renewed.

use std::time::Duration;

use super::duration;
use super::findings::Usual::Is;
use super::reader::{Reader, Setting};
use crate::message::Host;
use crate::session::{OnReuse, PolicyError, SessionPolicy};

/// What holds for every session.
#[derive(Clone, Debug)]
pub struct Session {
    pub policy: SessionPolicy,
    /// 0: no limit.
    pub max_per_user: usize,
    /// One login for all hosts at and below it.
    pub domain: Option<String>,
}

/// The section as read, with the places that other sections are compared with.
#[derive(Default)]
pub(super) struct SessionSection {
    /// Empty where the times contradict each other.
    pub policy: Option<SessionPolicy>,
    pub max_per_user: Option<usize>,
    pub domain: Option<Option<Setting<String>>>,
}

impl SessionSection {
    pub(super) fn checked(self) -> Option<Session> {
        Some(Session {
            policy: self.policy?,
            max_per_user: self.max_per_user?,
            domain: self.domain?.map(|domain| domain.value),
        })
    }
}

struct Times {
    idle: Setting<Duration>,
    absolute: Setting<Duration>,
    rotate_after: Setting<Duration>,
    grace: Setting<Duration>,
}

pub(super) fn session(mut section: Reader<'_>) -> SessionSection {
    let times = times(&mut section);
    let on_reuse = section.text("on_reuse", Is(r#""revoke""#), on_reuse);
    let max_per_user = section.number("max_per_user", Is("0"), 0..=10_000);
    let domain = section.optional("domain", r#""example.com""#, domain);
    if let Some(on_reuse) = &on_reuse {
        warn_of_theft(&section, on_reuse);
    }
    if let Some(Some(domain)) = &domain {
        section.findings.warning(
            &domain.place,
            format!(
                "every host below {} can set and, over plain http, read this cookie",
                domain.value
            ),
            "leave `domain` out where one login for several hosts is not needed",
        );
    }
    let policy = times.zip(on_reuse).and_then(|(times, reuse)| times.policy(&section, reuse.value));
    SessionSection { policy, max_per_user: max_per_user.map(|number| number.value), domain }
}

fn times(section: &mut Reader<'_>) -> Option<Times> {
    let mut time = |key, usual| section.measure(key, Is(usual), duration::parse_positive);
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
            section.findings.problem(&self.blamed(error).place, error.to_string(), "");
        };
        // Each pair on its own first, so that a contradiction in one does not hide the other's.
        let [second, minute] = [1, 60].map(Duration::from_secs);
        let life = SessionPolicy::new(idle, absolute, minute, second, on_reuse).map_err(report);
        let token = SessionPolicy::new(minute, minute, rotate_after, grace, on_reuse);
        life.and(token.map_err(report)).ok()?;
        SessionPolicy::new(idle, absolute, rotate_after, grace, on_reuse).ok()
    }

    /// Of two times that contradict each other, one that somebody wrote.
    fn blamed(&self, error: PolicyError) -> &Setting<Duration> {
        let written = |first: &'_ Setting<Duration>| first.written;
        match error {
            PolicyError::IdleTooShort => &self.idle,
            PolicyError::AbsoluteBelowIdle if written(&self.absolute) => &self.absolute,
            PolicyError::AbsoluteBelowIdle => &self.idle,
            PolicyError::GraceTooShort => &self.grace,
            PolicyError::RotateBelowGrace if written(&self.rotate_after) => &self.rotate_after,
            PolicyError::RotateBelowGrace => &self.grace,
        }
    }
}

fn warn_of_theft(section: &Reader<'_>, on_reuse: &Setting<OnReuse>) {
    match on_reuse.value {
        OnReuse::Revoke | OnReuse::RevokeAll | OnReuse::Reauthenticate => {}
        OnReuse::Log => section.findings.warning(
            &on_reuse.place,
            "a stolen session goes on: the theft is only written down",
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
        other => Err(super::not_one_of(other, &["revoke", "revoke-all", "reauthenticate", "log"])),
    }
}

/// A cookie's domain. A name without a dot would be one that no browser accepts, or a whole TLD.
fn domain(text: &str) -> Result<String, String> {
    if let Some(rest) = text.strip_prefix('.') {
        return Err(format!("a domain has no dot at its start; write \"{rest}\""));
    }
    let host = Host::parse(text).map_err(|error| format!("{error}; write \"example.com\""))?;
    let name = host.name();
    if host.port().is_some() {
        return Err(format!("a cookie has no port; write \"{name}\""));
    }
    if name.parse::<std::net::IpAddr>().is_ok() || name.starts_with('[') {
        return Err(format!("`{name}` is an address, and cookies are shared by names only"));
    }
    if !name.contains('.') {
        return Err(format!(
            "`{name}` has no dot, and browsers refuse such cookies; write \"example.com\""
        ));
    }
    Ok(name.to_owned())
}
