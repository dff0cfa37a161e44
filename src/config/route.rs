//! `[[route]]`: which upstream a request is for, and who may reach it.

use std::path::PathBuf;
use std::time::Duration;

use super::findings::Place;
use super::findings::Usual::{Is, Required};
use super::outage::{self, Outage};
use super::reader::{Reader, Setting, TextOrSection, not_empty};
use super::{duration, limits, steering};
use crate::message::endpoint::Transport;
use crate::message::host::HostError;
use crate::message::{
    Endpoint, HostPattern, IdentityField, IdentityFields, Origin, Origins, PathPrefix,
    ValueEncoding,
};
use crate::route::{
    Access, Activity, AmbiguousPaths, BodyLimits, Methods, Requirement, Route, Steering,
};
use crate::session::{RoutePolicy, SessionPolicy, Watch};

/// [`IdentityFields::standard`], as the file would write it.
const STANDARD_IDENTITY: &str = concat!(
    r#"{ "X-Forwarded-User" = "{user}", "X-Forwarded-Email" = "{email}", "#,
    r#""X-Forwarded-Groups" = "{groups}", "X-Forwarded-Preferred-Username" = "{user}" }"#
);

/// A route and the places that it is compared by.
pub(super) struct RouteSection {
    pub route: Route,
    /// The `[[route]]` line.
    pub place: Place,
    pub host: Place,
    pub access: Place,
}

/// What other sections say for all routes.
pub(super) struct Inherited {
    pub bodies: BodyLimits,
    /// Empty where it is wrong.
    pub outage: Option<Outage>,
}

/// What `access` says: the session's age is asked about beside who the user is.
struct Rule {
    access: Access,
    max_auth_age: Option<Duration>,
    auth_age_methods: Methods,
    place: Place,
}

pub(super) fn route(
    mut section: Reader<'_>,
    session: Option<&SessionPolicy>,
    inherited: &Inherited,
) -> Option<RouteSection> {
    let host = section.text("host", Required(r#""wiki.example.com""#), pattern);
    let path = section.text("path", Is(r#""/""#), prefix);
    let upstreams =
        section.one_or_more("upstream", Required(r#""http://127.0.0.1:3000""#), Endpoint::parse);
    let rule = rule(&mut section);
    let identity = identity(&mut section);
    let origins = origins(&mut section, rule.as_ref());
    let ambiguous = ambiguous(&mut section, rule.as_ref());
    let renewal = section.flag("renewal", Is("true"));
    let signals = section.text("signals", Is(r#""monitor""#), watch);
    let response_timeout =
        section.measure("response_timeout", Is(r#""60s""#), duration::parse_positive);
    let max_age =
        section.optional_measure("max_connection_age", r#""4h""#, duration::parse_positive);
    let on_outage = outage::of_route(&mut section);
    let upstream_ca = section.optional_file("upstream_ca", r#""certs/upstream-ca.pem""#);
    let own = section.section("session", "route.session");
    let own = own.and_then(|section| session_of_route(section, session));
    let limits = section.section("limits", "route.limits");
    let limits = limits.and_then(|section| limits::of_route(section, &inherited.bodies));
    if let Some(renewal) = &renewal {
        let signals = signals.as_ref().map_or(Watch::Off, |signals| signals.value);
        warn_of_no_renewal(&section, renewal, signals);
    }
    if let Some(upstreams) = &upstreams {
        upstreams.value.iter().for_each(|upstream| warn_of_clear_text(&section, upstream));
        check_authority(&section, &upstreams.value, upstream_ca.as_ref()?.as_ref());
    }
    let (host, rule, on_outage) = (host?, rule?, on_outage?);
    let OwnSession { times, activity, steering } = own?;
    let upstreams = upstreams?.value.into_iter().map(|upstream| upstream.value);
    Some(RouteSection {
        place: section.place.clone(),
        host: host.place,
        access: rule.place,
        route: Route {
            host: host.value,
            path: path?.value,
            upstreams: upstreams.collect(),
            access: rule.access,
            identity: identity?,
            origins: origins?,
            ambiguous: ambiguous?,
            policy: RoutePolicy {
                max_auth_age: rule.max_auth_age,
                signals: signals?.value,
                ..times
            },
            auth_age_methods: rule.auth_age_methods,
            limits: limits?,
            renewal: renewal?.value,
            response_timeout: response_timeout?.value,
            serve_known_for: inherited.outage.and_then(|outage| outage.on_route(on_outage)),
            max_connection_age: max_age?.map(|age| age.value),
            activity,
            steering,
            upstream_ca: upstream_ca?.map(|file| file.value),
        },
    })
}

fn pattern(text: &str) -> Result<HostPattern, String> {
    HostPattern::parse(text).map_err(|error| match error {
        HostError::Port => {
            format!("`{text}` has a port, and a route holds for all; write the name")
        }
        HostError::Empty | HostError::Character => {
            format!("{error}; write \"wiki.example.com\", \"*.example.com\" or \"*\"")
        }
    })
}

pub(super) fn prefix(text: &str) -> Result<PathPrefix, String> {
    if !text.starts_with('/') {
        return Err(format!("a path starts with a slash; write \"/{text}\""));
    }
    if text.contains(['?', '#', '%']) {
        return Err("a path is written decoded, and without ? or #".to_owned());
    }
    PathPrefix::parse(text).map_err(|error| error.to_string())
}

fn rule(section: &mut Reader<'_>) -> Option<Rule> {
    match section.text_or_section("access", "route.access", Required(r#""session""#)) {
        TextOrSection::Text(text) => rule_of_text(section, text),
        TextOrSection::Section(asked) => requirement(asked),
        TextOrSection::Wrong => None,
        TextOrSection::Nothing => {
            section.findings.problem(
                &section.place,
                "a route without `access` does not load",
                "write access = \"session\", or \"public\" if everybody may use it \
                 without logging in",
            );
            None
        }
    }
}

fn rule_of_text(section: &Reader<'_>, text: Setting<String>) -> Option<Rule> {
    let access = match text.value.as_str() {
        "public" => Access::Public,
        "session" => Access::Session(Requirement::default()),
        other => {
            section.findings.problem(
                &text.place,
                format!("`access`: `{other}` is no rule"),
                "write \"session\", \"public\", or { groups = [\"staff\"] }",
            );
            return None;
        }
    };
    let auth_age_methods = Methods::All;
    Some(Rule { access, max_auth_age: None, auth_age_methods, place: text.place })
}

/// A table that asks nothing would let everybody in who has a session; whoever wrote it meant some.
fn requirement(mut section: Reader<'_>) -> Option<Rule> {
    let name = |text: &str| not_empty(text).map(str::to_owned);
    let users = section.list("users", Is("[]"), name);
    let groups = section.list("groups", Is("[]"), name);
    let max_auth_age =
        section.optional_measure("max_auth_age", r#""5m""#, duration::parse_positive);
    let methods = steering::methods(&mut section, "auth_age_methods");
    let (users, groups, max_auth_age, methods) = (users?, groups?, max_auth_age?, methods?);
    if methods.written && max_auth_age.is_none() {
        section.findings.problem(
            &methods.place,
            "`auth_age_methods` says what `max_auth_age` is asked of, and there is none",
            "write max_auth_age = \"5m\" too, or leave it out",
        );
        return None;
    }
    let is_written = users.written || groups.written;
    let is_empty = users.value.is_empty() && groups.value.is_empty();
    if is_empty && (is_written || max_auth_age.is_none()) {
        section.findings.problem(
            &section.place,
            "`access` names nobody, and would let everybody in who is logged in",
            "write users or groups, or access = \"session\" if that is meant",
        );
        return None;
    }
    let names = |list: Setting<Vec<Setting<String>>>| {
        list.value.into_iter().map(|item| item.value).collect()
    };
    let requirement = Requirement { users: names(users), groups: names(groups) };
    Some(Rule {
        access: Access::Session(requirement),
        max_auth_age: max_auth_age.map(|age| age.value),
        auth_age_methods: methods.value,
        place: section.place.clone(),
    })
}

fn identity(section: &mut Reader<'_>) -> Option<IdentityFields> {
    let fields = section.pairs("identity", Is(STANDARD_IDENTITY), IdentityField::parse);
    let encoding = section.text("identity_encoding", Is(r#""utf8""#), encoding);
    let fields = fields?;
    for (at, field) in fields.value.iter().enumerate() {
        let twin = fields.value[..at].iter().find(|other| other.value.name == field.value.name);
        if let Some(twin) = twin {
            section.findings.problem_between(
                [&twin.place, &field.place],
                format!("`identity` names {} twice, in upper and lower case", field.value.name),
                "write it once".to_owned(),
            );
        }
    }
    let fields = fields.value.into_iter().map(|field| field.value).collect();
    Some(IdentityFields { fields, encoding: encoding?.value })
}

/// `csrf` and `origins`: whose pages may act on the route.
fn origins(section: &mut Reader<'_>, rule: Option<&Rule>) -> Option<Origins> {
    let checked = section.text("csrf", Is(r#""on""#), super::on_or_off);
    let allowed = section.list("origins", Is("[]"), origin);
    let (checked, allowed) = (checked?, allowed?);
    let is_public = rule.is_some_and(|rule| rule.access == Access::Public);
    let has_none = !checked.value || is_public;
    if has_none && let Some(first) = allowed.value.first() {
        section.findings.warning(
            &first.place,
            "`origins` does nothing here: every site may act on this route",
            "leave it out, or write access = \"session\" and csrf = \"on\"",
        );
    }
    if !checked.value && !is_public {
        section.findings.warning(
            &checked.place,
            "any site that a user visits can act in his name on this route",
            "write origins = [\"https://the.one.that.may\"] instead",
        );
    }
    let allowed = allowed.value.into_iter().map(|origin| origin.value).collect();
    Some(Origins { checked: checked.value, allowed })
}

fn origin(text: &str) -> Result<Origin, String> {
    Origin::parse(text)
        .map_err(|error| format!("`{text}`: {error}; write \"https://app.example.com\""))
}

fn ambiguous(section: &mut Reader<'_>, rule: Option<&Rule>) -> Option<AmbiguousPaths> {
    let paths = section.text("ambiguous_paths", Is(r#""refuse""#), |text| match text {
        "refuse" => Ok(AmbiguousPaths::Refuse),
        "require-session" => Ok(AmbiguousPaths::RequireSession),
        other => Err(super::not_one_of(other, &["refuse", "require-session"])),
    })?;
    let is_public = rule.is_some_and(|rule| rule.access == Access::Public);
    if is_public && paths.value == AmbiguousPaths::RequireSession {
        section.findings.problem(
            &paths.place,
            "`ambiguous_paths` lets nothing through without a session, and this route asks for none",
            "write access = \"session\", or leave `ambiguous_paths` out",
        );
        return None;
    }
    Some(paths.value)
}

fn encoding(text: &str) -> Result<ValueEncoding, String> {
    match text {
        "utf8" => Ok(ValueEncoding::Utf8),
        "percent" => Ok(ValueEncoding::Percent),
        "rfc2047" => Ok(ValueEncoding::Rfc2047),
        other => Err(super::not_one_of(other, &["utf8", "percent", "rfc2047"])),
    }
}

/// `[route.session]`.
struct OwnSession {
    times: RoutePolicy,
    activity: Activity,
    steering: Steering,
}

fn session_of_route(
    mut section: Reader<'_>,
    session: Option<&SessionPolicy>,
) -> Option<OwnSession> {
    let times = times(&mut section, session);
    let activity = steering::activity(&mut section);
    let steering = steering::steering(&mut section);
    Some(OwnSession { times: times?, activity: activity?, steering: steering? })
}

/// Stricter times than the session's own.
fn times(section: &mut Reader<'_>, session: Option<&SessionPolicy>) -> Option<RoutePolicy> {
    let idle = section.optional_measure("idle_timeout", r#""15m""#, duration::parse_positive);
    let absolute =
        section.optional_measure("absolute_timeout", r#""8h""#, duration::parse_positive);
    let (idle, absolute) = (idle?, absolute?);
    if let Some(session) = session {
        stricter(section, "idle_timeout", idle.as_ref(), session.idle());
        stricter(section, "absolute_timeout", absolute.as_ref(), session.absolute());
    }
    Some(RoutePolicy {
        idle: idle.map(|time| time.value),
        absolute: absolute.map(|time| time.value),
        max_auth_age: None,
        signals: Watch::default(),
    })
}

/// A session ends by its own times everywhere: a longer one here would be a promise not kept.
fn stricter(section: &Reader<'_>, key: &str, here: Option<&Setting<Duration>>, session: Duration) {
    if let Some(here) = here.filter(|here| here.value > session) {
        section.findings.problem(
            &here.place,
            format!(
                "`{key}` of a route is longer than the one of [session], \
                 which ends the session first"
            ),
            "make it shorter, or the one of [session] longer",
        );
    }
}

fn watch(text: &str) -> Result<Watch, String> {
    let known = Watch::ALL.into_iter().find(|(_, word)| *word == text);
    let words = Watch::ALL.map(|(_, word)| word);
    known.map(|(watch, _)| watch).ok_or_else(|| super::not_one_of(text, &words))
}

fn check_authority(
    section: &Reader<'_>,
    upstreams: &[Setting<Endpoint>],
    authority: Option<&Setting<PathBuf>>,
) {
    let is_tls = |upstream: &Setting<Endpoint>| match upstream.value.transport() {
        Transport::Tls => true,
        Transport::Http1 | Transport::Http2 => false,
    };
    if let Some(authority) = authority.filter(|_| !upstreams.iter().any(is_tls)) {
        section.findings.problem(
            &authority.place,
            "`upstream_ca` vouches for https upstreams, and this route has none",
            "write an https:// upstream, or leave upstream_ca out",
        );
    }
}

fn warn_of_no_renewal(section: &Reader<'_>, renewal: &Setting<bool>, signals: Watch) {
    if renewal.value {
        return;
    }
    section.findings.warning(
        &renewal.place,
        "a stolen token stays good on this route until the session ends",
        "leave `renewal` out, unless the clients of this route cannot store a new cookie",
    );
    if signals == Watch::Enforce {
        section.findings.warning(
            &renewal.place,
            "a score from signals.renew_at on renews nothing here; the token is due, and renewed at the session's next request on a route that renews",
            "leave `renewal` out, or lower signals.login_at for sessions that are used on this route alone",
        );
    }
}

fn warn_of_clear_text(section: &Reader<'_>, upstream: &Setting<Endpoint>) {
    let is_clear = match upstream.value.transport() {
        Transport::Http1 | Transport::Http2 => true,
        Transport::Tls => false,
    };
    if is_clear && !super::is_loopback(upstream.value.host()) {
        section.findings.warning(
            &upstream.place,
            format!(
                "requests and who the user is travel to {} in clear text",
                upstream.value.host()
            ),
            "write https://, unless the network between is yours alone",
        );
    }
}
