//! Keys of `[[route]]` about the connection to the upstream and the request head that it receives.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;
use rustls::pki_types::ServerName;

use super::diagnostics::KeyDefault::Value;
use super::diagnostics::Span;
use super::duration;
use super::reader::{Field, Reader};
use super::values::path_prefix;
use crate::message::endpoint::Transport;
use crate::message::{Endpoint, PathPrefix};
use crate::route::{
    ClientCertificate, HealthCheck, HostHeader, PathMapping, UpstreamOptions, UpstreamTls,
};

pub(super) fn options(
    section: &mut Reader<'_>,
    path: Option<&Field<PathPrefix>>,
    upstreams: Option<&[Field<Endpoint>]>,
) -> Option<UpstreamOptions> {
    let tls = tls(section, upstreams);
    let host_header = section.text("host_header", Value(r#""client""#), host_header);
    let via = section.flag("via", Value("true"));
    let health = section.section("health", "route.health").and_then(health);
    let prefix = section.optional("forwarded_prefix", r#""/wiki""#, forwarded_prefix);
    let path_mapping = path_mapping(section, path);
    Some(UpstreamOptions {
        tls: tls?,
        health: health?,
        host_header: host_header?.value,
        via: via?.value,
        forwarded_prefix: prefix?.map(|prefix| prefix.value),
        path_mapping: path_mapping?,
        ..UpstreamOptions::default()
    })
}

/// Reads `[route.health]`.
fn health(mut section: Reader<'_>) -> Option<Option<HealthCheck>> {
    let path = section.optional("path", r#""/healthz""#, check_path);
    let interval = section.quantity("interval", Value(r#""10s""#), check_interval);
    let timeout = section.quantity("timeout", Value(r#""2s""#), duration::parse_positive);
    let fall = section.number("fall", Value("3"), 1..=100);
    let rise = section.number("rise", Value("2"), 1..=100);
    let (path, interval, timeout) = (path?, interval?, timeout?);
    let (fall, rise) = (fall?, rise?);
    let Some(path) = path else {
        let defaults = (Duration::from_secs(10), Duration::from_secs(2), 3, 2);
        if (interval.value, timeout.value, fall.value, rise.value) != defaults {
            section.diagnostics.error(
                &section.span,
                "`[route.health]` has no `path`, so no endpoint is checked",
                "write path = \"/healthz\", or leave the section out",
            );
        }
        return Some(None);
    };
    let number = |field: Field<usize>| u32::try_from(field.value).unwrap_or(u32::MAX);
    Some(Some(HealthCheck {
        path: path.value,
        interval: interval.value,
        timeout: timeout.value,
        fall: number(fall),
        rise: number(rise),
    }))
}

fn check_path(text: &str) -> Result<PathAndQuery, String> {
    let path = PathAndQuery::try_from(text).ok().filter(|_| text.starts_with('/'));
    let path = path.filter(|_| !text.contains('#'));
    path.ok_or_else(|| format!("`{text}` is no path; write \"/healthz\""))
}

fn check_interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text).map_err(|error| error.to_string())?;
    let is_long_enough = interval >= Duration::from_secs(1);
    is_long_enough
        .then_some(interval)
        .ok_or_else(|| format!("`{text}` is too short; write \"1s\" or longer"))
}

fn path_mapping(
    section: &mut Reader<'_>,
    path: Option<&Field<PathPrefix>>,
) -> Option<Option<PathMapping>> {
    let upstream = section.optional("upstream_path", r#""/""#, path_prefix)?;
    let (Some(upstream), path) = (upstream, path?) else { return Some(None) };
    for prefix in [path, &upstream] {
        if !prefix.value.as_str().bytes().all(is_plain) {
            section.diagnostics.error(
                &prefix.span,
                "with `upstream_path`, both paths are replaced byte for byte, so they must be plain",
                "write letters, digits, /, -, _, . and ~ only",
            );
            return None;
        }
    }
    Some(Some(PathMapping::new(path.value.clone(), upstream.value)))
}

/// Whether a URL has only one spelling of this byte that browsers use (RFC 3986 2.3).
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte)
}

fn tls(section: &mut Reader<'_>, upstreams: Option<&[Field<Endpoint>]>) -> Option<UpstreamTls> {
    let ca = section.optional_file("upstream_ca", r#""certs/upstream-ca.pem""#);
    let name = section.optional("upstream_name", r#""app.internal""#, server_name);
    let cert = section.optional_file("upstream_cert", r#""certs/gateway.pem""#);
    let key = section.optional_file("upstream_key", r#""certs/gateway.key""#);
    let spans = [
        ("upstream_ca", span(ca.as_ref())),
        ("upstream_name", span(name.as_ref())),
        ("upstream_cert", span(cert.as_ref())),
        ("upstream_key", span(key.as_ref())),
    ];
    for (key, span) in spans {
        if let Some(span) = span.filter(|_| upstreams.is_some_and(|all| !all.iter().any(is_tls))) {
            section.diagnostics.error(
                span,
                format!("`{key}` has no effect without an https upstream"),
                format!("write an https:// upstream, or leave {key} out"),
            );
        }
    }
    let certificate = client_certificate(section, cert?, key?);
    Some(UpstreamTls {
        ca: ca?.map(|file| file.value),
        server_name: name?.map(|name| name.value),
        certificate: certificate?,
    })
}

/// Returns the location of an optional value.
fn span<T>(field: Option<&Option<Field<T>>>) -> Option<&Span> {
    field?.as_ref().map(|field| &field.span)
}

fn client_certificate(
    section: &Reader<'_>,
    cert: Option<Field<PathBuf>>,
    key: Option<Field<PathBuf>>,
) -> Option<Option<ClientCertificate>> {
    match (cert, key) {
        (Some(cert), Some(key)) => {
            Some(Some(ClientCertificate { cert: cert.value, key: key.value }))
        }
        (None, None) => Some(None),
        (Some(one), None) | (None, Some(one)) => {
            section.diagnostics.error(
                &one.span,
                "`upstream_cert` and `upstream_key` belong together",
                "write both, or leave both out",
            );
            None
        }
    }
}

pub(super) fn is_tls(upstream: &Field<Endpoint>) -> bool {
    match upstream.value.transport() {
        Transport::Tls => true,
        Transport::Http1 | Transport::Http2 => false,
    }
}

/// Warns about clear text beyond this machine. `proves_itself` means that the app can recognise requests of the
/// gateway, by a secret or an assertion.
pub(super) fn warn_clear_text(
    section: &Reader<'_>,
    upstream: &Field<Endpoint>,
    proves_itself: bool,
) {
    let host = upstream.value.host();
    if is_tls(upstream) || super::values::is_loopback(host) {
        return;
    }
    section.diagnostics.warning(
        &upstream.span,
        format!("requests and identity headers are sent to {host} unencrypted"),
        match proves_itself {
            true => "write https://, unless the network between is private",
            false => {
                "write https://, or let the app require `assertion` or a secret in `set_header_files`: other programs in that network can send identity headers too"
            }
        },
    );
}

fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned())
        .map_err(|_| format!("`{text}` is no host name; write the name in the certificate"))
}

fn host_header(text: &str) -> Result<HostHeader, String> {
    match text {
        "client" => Ok(HostHeader::Client),
        "upstream" => Ok(HostHeader::Upstream),
        other => Err(format!("`{other}` is unknown; write \"client\" or \"upstream\"")),
    }
}

fn forwarded_prefix(text: &str) -> Result<HeaderValue, String> {
    let is_path = text.starts_with('/') && text.len() > 1 && !text.ends_with('/');
    let value = HeaderValue::from_str(text).ok().filter(|_| is_path && text.is_ascii());
    value.ok_or_else(|| format!("`{text}` is no path below the host; write \"/wiki\""))
}
