//! `[notify]`: immediate notifications about session events.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;

use super::diagnostics::KeyDefault::Value;
use super::duration;
use super::file_checks::FilePurpose;
use super::reader::{Field, Reader};
use crate::message::Endpoint;
use crate::message::endpoint::Transport;

/// Maximum of `notify.timeout`.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// Events, channels and signing secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notify {
    pub events: BTreeSet<NotifyEvent>,
    pub command: Option<NotifyCommand>,
    pub webhook: Option<Webhook>,
    pub secret_file: Option<PathBuf>,
    /// Per delivery attempt.
    pub timeout: Duration,
}

/// A program with its arguments, run without a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotifyCommand {
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

/// A URL that receives events by POST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// With TLS, or a loopback address.
    pub endpoint: Endpoint,
    pub target: PathAndQuery,
    /// CA that replaces the system's trust store.
    pub ca: Option<PathBuf>,
}

/// An event that can be notified. A client without a session cannot cause any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotifyEvent {
    Theft,
    LocationChanged,
    Undecryptable,
    RolledBack,
    GenerationAhead,
    ActivityInFuture,
    Ended,
    LoginNewLocation,
    Login,
    SecondFactorChanged,
    SecondFactorFailed,
}

impl NotifyEvent {
    /// All events with their names in the log.
    pub const ALL: [(NotifyEvent, &str); 11] = [
        (NotifyEvent::Theft, "session.theft"),
        (NotifyEvent::LocationChanged, "session.location-changed"),
        (NotifyEvent::Undecryptable, "session.undecryptable"),
        (NotifyEvent::RolledBack, "session.rolled-back"),
        (NotifyEvent::GenerationAhead, "session.generation-ahead"),
        (NotifyEvent::ActivityInFuture, "session.activity-in-future"),
        (NotifyEvent::Ended, "session.ended"),
        (NotifyEvent::LoginNewLocation, "session.login-new-location"),
        (NotifyEvent::Login, "session.login"),
        (NotifyEvent::SecondFactorChanged, "second-factor.changed"),
        (NotifyEvent::SecondFactorFailed, "second-factor.failed"),
    ];
}

/// Default of `events`, in the same order.
const DEFAULT_EVENTS: [NotifyEvent; 5] = [
    NotifyEvent::Theft,
    NotifyEvent::LocationChanged,
    NotifyEvent::Undecryptable,
    NotifyEvent::RolledBack,
    NotifyEvent::SecondFactorChanged,
];

/// Former and current names of events. A former name still loads, with a warning.
static RENAMED_EVENTS: [(&str, &str); 5] = [
    ("session.moved", "session.location-changed"),
    ("session.poisoned", "session.undecryptable"),
    ("session.store-went-back", "session.generation-ahead"),
    ("session.touched-ahead", "session.activity-in-future"),
    ("session.login-new-place", "session.login-new-location"),
];

/// An event, and its former and current name if the file contains the former one.
type EventName = (NotifyEvent, Option<&'static (&'static str, &'static str)>);

/// Events that a client without a session can cause at will.
const UNAUTHENTICATED_EVENTS: [&str; 4] =
    ["session.token-invalid", "session.login-failed", "session.login-throttled", "session.refused"];

pub(super) fn notify(mut section: Reader<'_>) -> Option<Notify> {
    let command = section.list("command", Value("[]"), argument);
    let webhook = section.optional("webhook", r#""https://alerts.example.com/doorward""#, address);
    let ca = section.optional_file("ca", r#""certs/alerts-ca.pem""#);
    let secret = section.optional_file_for("secret_file", r#""secrets/notify""#, FilePurpose::Sign);
    let default = r#"["session.theft", "session.location-changed", "session.undecryptable", "session.rolled-back", "second-factor.changed"]"#;
    let events = section.list("events", Value(default), event);
    let timeout = section.quantity("timeout", Value(r#""10s""#), deadline);
    if let Some(events) = &events {
        warn_renamed_events(&section, events);
    }
    let command = program(&section, command?);
    let webhook = with_ca(&section, webhook?, ca?);
    let (command, webhook, secret) = (command?, webhook?, secret?);
    if command.is_none() && webhook.is_none() {
        warn_no_receiver(&section, secret.as_ref(), events.as_ref());
    } else {
        warn_unsigned(&section, webhook.as_ref(), secret.is_some());
    }
    Some(Notify {
        events: events?.value.into_iter().map(|event| event.value.0).collect(),
        command,
        webhook: webhook.map(|webhook| webhook.value),
        secret_file: secret.map(|secret| secret.value),
        timeout: timeout?.value,
    })
}

fn argument(text: &str) -> Result<String, &'static str> {
    if text.contains('\0') { Err("an argument contains a NUL byte") } else { Ok(text.to_owned()) }
}

fn address(text: &str) -> Result<Webhook, String> {
    let shape = || "write a full URL, as in \"https://alerts.example.com/doorward\"".to_owned();
    if text.contains(['@', '#']) {
        return Err("a webhook URL must not contain a user name, password or `#`; \
                    write secret_file = \"…\" to authenticate to the receiver"
            .to_owned());
    }
    let uri: Uri = text.parse().map_err(|_| shape())?;
    let parts = uri.into_parts();
    let (scheme, authority) = parts.scheme.zip(parts.authority).ok_or_else(shape)?;
    let endpoint =
        Endpoint::parse(&format!("{scheme}://{authority}")).map_err(|error| error.to_string())?;
    match endpoint.transport() {
        Transport::Tls => {}
        Transport::Http1 if super::values::is_loopback(endpoint.host()) => {}
        Transport::Http1 | Transport::Http2 => {
            return Err("user names would be sent unencrypted; write https://".to_owned());
        }
    }
    let target = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
    Ok(Webhook { endpoint, target, ca: None })
}

fn event(text: &str) -> Result<EventName, String> {
    if UNAUTHENTICATED_EVENTS.contains(&text) {
        return Err(format!(
            "a client without a session can cause `{text}` at will and flood the receiver; leave it out, and monitor doorward_session_events_total"
        ));
    }
    if text == "session.token-rotated" {
        return Err(
            "`session.token-rotated` is the ordinary course of every session; leave it out".into(),
        );
    }
    let renamed = RENAMED_EVENTS.iter().find(|(former, _)| *former == text);
    let current = renamed.map_or(text, |(_, name)| name);
    let known = NotifyEvent::ALL.iter().find(|(_, name)| *name == current);
    let names = NotifyEvent::ALL.map(|(_, name)| name);
    known
        .map(|(event, _)| (*event, renamed))
        .ok_or_else(|| super::unknown::unknown_value(text, &names))
}

fn deadline(text: &str) -> Result<Duration, String> {
    match duration::parse_positive(text) {
        Ok(time) if time > MAX_TIMEOUT => {
            Err(format!("`{text}` is longer than a minute; write \"60s\" or less"))
        }
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

/// The outer `None` means an error.
fn program(
    section: &Reader<'_>,
    command: Field<Vec<Field<String>>>,
) -> Option<Option<NotifyCommand>> {
    let mut words = command.value.into_iter();
    let Some(first) = words.next() else { return Some(None) };
    if !Path::new(&first.value).is_absolute() {
        section.diagnostics.error(
            &first.span,
            "`command` must start with an absolute path, or the program would depend on PATH",
            "write command = [\"/usr/local/bin/notify-ops\", \"argument\"]; it runs without a shell",
        );
        return None;
    }
    let program = PathBuf::from(first.value);
    section.diagnostics.register_file(&first.span, &program, FilePurpose::Run);
    let arguments = words.map(|word| word.value).collect();
    Some(Some(NotifyCommand { program, arguments }))
}

fn with_ca(
    section: &Reader<'_>,
    webhook: Option<Field<Webhook>>,
    ca: Option<Field<PathBuf>>,
) -> Option<Option<Field<Webhook>>> {
    let Some(ca) = ca else { return Some(webhook) };
    match webhook {
        Some(mut webhook) if webhook.value.endpoint.transport() == Transport::Tls => {
            webhook.value.ca = Some(ca.value);
            Some(Some(webhook))
        }
        Some(_) | None => {
            let help = "leave it out, or write webhook = \"https://…\"";
            section.diagnostics.error(&ca.span, "`ca` needs an https webhook", help);
            None
        }
    }
}

/// Warns about keys that have no effect without a receiver.
fn warn_no_receiver(
    section: &Reader<'_>,
    secret: Option<&Field<PathBuf>>,
    events: Option<&Field<Vec<Field<EventName>>>>,
) {
    let chosen =
        events.filter(|events| !events.value.iter().map(|event| event.value.0).eq(DEFAULT_EVENTS));
    let secret_span = secret.map(|secret| &secret.span);
    if let Some(span) = secret_span.or(chosen.map(|events| &events.span)) {
        let help = "write webhook = \"https://…\" or command = [\"/…\"]";
        section.diagnostics.warning(span, "no notification is sent without a receiver", help);
    }
}

fn warn_renamed_events(section: &Reader<'_>, events: &Field<Vec<Field<EventName>>>) {
    for event in &events.value {
        if let Some((former, name)) = event.value.1 {
            section.diagnostics.warning(
                &event.span,
                format!("`{former}` is now called `{name}`"),
                format!("write \"{name}\"; the former name will be removed"),
            );
        }
    }
}

fn warn_unsigned(section: &Reader<'_>, webhook: Option<&Field<Webhook>>, is_signed: bool) {
    if let Some(webhook) = webhook.filter(|_| !is_signed) {
        section.diagnostics.warning(
            &webhook.span,
            "without a signature the receiver cannot detect forged events",
            "write secret_file = \"…\"",
        );
    }
}
