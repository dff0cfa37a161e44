//! `[notify]`: who is told at once of a theft and the like.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;

use super::duration;
use super::files::Purpose;
use super::findings::Usual::Is;
use super::reader::{Reader, Setting};
use crate::message::Endpoint;
use crate::message::endpoint::Transport;

/// A receiver that does not answer within this is not there.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What is told, to whom, and how it is signed.
#[derive(Clone, Debug, Default)]
pub struct Notify {
    pub events: BTreeSet<NotifyEvent>,
    pub command: Option<NotifyCommand>,
    pub webhook: Option<Webhook>,
    pub secret_file: Option<PathBuf>,
    /// For one attempt.
    pub timeout: Duration,
}

/// A program and its arguments. No shell reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotifyCommand {
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

/// An address that takes events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// With TLS, or on this machine.
    pub endpoint: Endpoint,
    pub target: PathAndQuery,
    /// Who vouches for it, in place of the system's authorities.
    pub ca: Option<PathBuf>,
}

/// An event that somebody may be told of. None of them can be caused by a stranger without a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotifyEvent {
    Theft,
    Moved,
    Poisoned,
    RolledBack,
    StoreWentBack,
    TouchedAhead,
    Ended,
    LoginNewPlace,
    Login,
}

impl NotifyEvent {
    /// All of them with their words, which are those of the log.
    pub const ALL: [(NotifyEvent, &str); 9] = [
        (NotifyEvent::Theft, "session.theft"),
        (NotifyEvent::Moved, "session.moved"),
        (NotifyEvent::Poisoned, "session.poisoned"),
        (NotifyEvent::RolledBack, "session.rolled-back"),
        (NotifyEvent::StoreWentBack, "session.store-went-back"),
        (NotifyEvent::TouchedAhead, "session.touched-ahead"),
        (NotifyEvent::Ended, "session.ended"),
        (NotifyEvent::LoginNewPlace, "session.login-new-place"),
        (NotifyEvent::Login, "session.login"),
    ];
}

/// Told where nothing else is chosen, in the order of the default.
const USUAL: [NotifyEvent; 4] =
    [NotifyEvent::Theft, NotifyEvent::Moved, NotifyEvent::Poisoned, NotifyEvent::RolledBack];

/// Events that anybody can cause without a session, as often as he likes.
const BY_STRANGERS: [&str; 4] =
    ["session.forged", "session.login-refused", "session.login-throttled", "session.refused"];

pub(super) fn notify(mut section: Reader<'_>) -> Option<Notify> {
    let command = section.list("command", Is("[]"), argument);
    let webhook = section.optional("webhook", r#""https://alerts.example.com/doorward""#, address);
    let ca = section.optional_file("ca", r#""certs/alerts-ca.pem""#);
    let secret = section.optional_file_for("secret_file", r#""secrets/notify""#, Purpose::Sign);
    let usual = r#"["session.theft", "session.moved", "session.poisoned", "session.rolled-back"]"#;
    let events = section.list("events", Is(usual), event);
    let timeout = section.measure("timeout", Is(r#""10s""#), deadline);
    let command = program(&section, command?);
    let webhook = with_authority(&section, webhook?, ca?);
    let (command, webhook, secret) = (command?, webhook?, secret?);
    if command.is_none() && webhook.is_none() {
        nobody_is_told(&section, secret.as_ref(), events.as_ref());
    } else {
        warn_unsigned(&section, webhook.as_ref(), secret.is_some());
    }
    Some(Notify {
        events: events?.value.into_iter().map(|event| event.value).collect(),
        command,
        webhook: webhook.map(|webhook| webhook.value),
        secret_file: secret.map(|secret| secret.value),
        timeout: timeout?.value,
    })
}

fn argument(text: &str) -> Result<String, &'static str> {
    if text.contains('\0') { Err("an argument holds a NUL byte") } else { Ok(text.to_owned()) }
}

fn address(text: &str) -> Result<Webhook, String> {
    let shape = || "write a full address, as in \"https://alerts.example.com/doorward\"".to_owned();
    if text.contains(['@', '#']) {
        return Err("an address to tell has no user name, password or `#`; \
                    write secret_file = \"…\" so that the receiver knows who speaks"
            .to_owned());
    }
    let uri: Uri = text.parse().map_err(|_| shape())?;
    let parts = uri.into_parts();
    let (scheme, authority) = parts.scheme.zip(parts.authority).ok_or_else(shape)?;
    let endpoint =
        Endpoint::parse(&format!("{scheme}://{authority}")).map_err(|error| error.to_string())?;
    match endpoint.transport() {
        Transport::Tls => {}
        Transport::Http1 if super::is_loopback(endpoint.host()) => {}
        Transport::Http1 | Transport::Http2 => {
            return Err("names of users would travel in clear text; write https://".to_owned());
        }
    }
    let target = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
    Ok(Webhook { endpoint, target, ca: None })
}

fn event(text: &str) -> Result<NotifyEvent, String> {
    if BY_STRANGERS.contains(&text) {
        return Err(format!(
            "anybody can cause `{text}` without a session, and could wake whoever is told as often as \
             he likes; leave it out, and watch doorward_session_events_total"
        ));
    }
    if text == "session.renewed" {
        return Err(
            "`session.renewed` is the ordinary course of every session; leave it out".into()
        );
    }
    let known = NotifyEvent::ALL.iter().find(|(_, word)| *word == text);
    let words = NotifyEvent::ALL.map(|(_, word)| word);
    known.map(|(event, _)| *event).ok_or_else(|| super::not_one_of(text, &words))
}

fn deadline(text: &str) -> Result<Duration, String> {
    match duration::parse_positive(text) {
        Ok(time) if time > LONGEST_TIMEOUT => {
            Err(format!("`{text}` is longer than a minute; write \"60s\" or less"))
        }
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

/// The outer option is empty where it is wrong.
fn program(
    section: &Reader<'_>,
    command: Setting<Vec<Setting<String>>>,
) -> Option<Option<NotifyCommand>> {
    let mut words = command.value.into_iter();
    let Some(first) = words.next() else { return Some(None) };
    if !Path::new(&first.value).is_absolute() {
        section.findings.problem(
            &first.place,
            "`command` begins with no absolute path: what runs would depend on the environment",
            "write command = [\"/usr/local/bin/tell-me\", \"argument\"]; no shell reads it",
        );
        return None;
    }
    let program = PathBuf::from(first.value);
    section.findings.file(&first.place, &program, Purpose::Run);
    let arguments = words.map(|word| word.value).collect();
    Some(Some(NotifyCommand { program, arguments }))
}

fn with_authority(
    section: &Reader<'_>,
    webhook: Option<Setting<Webhook>>,
    ca: Option<Setting<PathBuf>>,
) -> Option<Option<Setting<Webhook>>> {
    let Some(ca) = ca else { return Some(webhook) };
    match webhook {
        Some(mut webhook) if webhook.value.endpoint.transport() == Transport::Tls => {
            webhook.value.ca = Some(ca.value);
            Some(Some(webhook))
        }
        Some(_) | None => {
            let help = "leave it out, or write webhook = \"https://…\"";
            section.findings.problem(&ca.place, "`ca` vouches for an https webhook", help);
            None
        }
    }
}

/// Whoever wrote keys that do nothing believes that he will be told.
fn nobody_is_told(
    section: &Reader<'_>,
    secret: Option<&Setting<PathBuf>>,
    events: Option<&Setting<Vec<Setting<NotifyEvent>>>>,
) {
    let chosen = events.filter(|events| !events.value.iter().map(|event| event.value).eq(USUAL));
    let written = secret.map(|secret| &secret.place);
    if let Some(place) = written.or(chosen.map(|events| &events.place)) {
        let help = "write webhook = \"https://…\" or command = [\"/…\"]";
        section.findings.warning(place, "nobody is told of anything", help);
    }
}

fn warn_unsigned(section: &Reader<'_>, webhook: Option<&Setting<Webhook>>, is_signed: bool) {
    if let Some(webhook) = webhook.filter(|_| !is_signed) {
        section.findings.warning(
            &webhook.place,
            "the receiver cannot tell doorward's words from anybody else's",
            "write secret_file = \"…\"",
        );
    }
}
