//! `[server]`, `[admin]`, `[keys]` and `[[tls.certificate]]`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;

use super::diagnostics::KeyDefault::{Required, Value};
use super::duration;
use super::reader::{Field, Reader};

/// The public listeners.
#[derive(Clone, Debug)]
pub struct Server {
    /// Never empty.
    pub https: Vec<SocketAddr>,
    /// Listeners that redirect to https.
    pub http: Vec<SocketAddr>,
    /// Proxies whose forwarded headers are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether every connection starts with a PROXY header of a trusted proxy.
    pub proxy_protocol: bool,
    /// Zero: one per core.
    pub workers: usize,
    /// `Strict-Transport-Security` of every response (RFC 6797).
    pub hsts: Option<HeaderValue>,
    /// Whether responses report upstream errors in `Proxy-Status` (RFC 9209).
    pub proxy_status: bool,
    /// Time limit of the drain after a stop.
    pub drain: Duration,
}

/// The admin listeners; `None` disables one.
#[derive(Clone, Debug)]
pub struct Admin {
    pub listen: Option<SocketAddr>,
    pub socket: Option<PathBuf>,
}

/// Certificate chain and key in PEM format.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

pub(super) fn server(mut section: Reader<'_>) -> Option<Server> {
    let https = section.list("https", Value(r#"["0.0.0.0:8443"]"#), address);
    let http = section.list("http", Value("[]"), address);
    let trusted = section.list("trusted_proxies", Value("[]"), network);
    let proxy_protocol = section.flag("proxy_protocol", Value("false"));
    let workers = section.number("workers", Value("0"), 0..=1024);
    let hsts = section.text("hsts", Value(r#""max-age=31536000""#), parse_hsts);
    let proxy_status = section.flag("proxy_status", Value("true"));
    let drain = section.quantity("drain", Value(r#""30s""#), duration::parse);
    if let (Some(flag), Some(trusted)) = (&proxy_protocol, &trusted)
        && flag.value
        && trusted.value.is_empty()
    {
        section.diagnostics.error(
            &flag.span,
            "`proxy_protocol` needs trusted proxies, and none is configured",
            "write trusted_proxies = [\"10.0.0.0/8\"] with the addresses of your proxies",
        );
        return None;
    }
    if let Some(trusted) = &trusted {
        trusted.value.iter().for_each(|network| warn_trusts_everyone(&section, network));
    }
    Some(Server {
        https: values(require_listener(&section, https?)?),
        http: values(http?),
        trusted_proxies: values(trusted?),
        proxy_protocol: proxy_protocol?.value,
        workers: workers?.value,
        hsts: hsts?.value,
        proxy_status: proxy_status?.value,
        drain: drain?.value,
    })
}

pub(super) fn admin(mut section: Reader<'_>) -> Option<Admin> {
    let listen = section.text("listen", Value(r#""127.0.0.1:9180""#), |text| match text {
        "" => Ok(None),
        text => address(text).map(Some),
    });
    let base = section.diagnostics.base;
    let socket = section.text("socket", Value(r#""run/admin.sock""#), |text| {
        Ok::<_, String>(Some(text).filter(|text| !text.is_empty()).map(|text| base.join(text)))
    });
    let listen = listen?;
    if listen.value.is_some_and(|address| !address.ip().is_loopback()) {
        section.diagnostics.warning(
            &listen.span,
            "every host that reaches this address can read the metrics",
            "write \"127.0.0.1:9180\", or restrict access with a firewall",
        );
    }
    Some(Admin { listen: listen.value, socket: socket?.value })
}

pub(super) fn keys(mut section: Reader<'_>) -> Option<PathBuf> {
    section.path("file", Value(r#""state/keys.toml""#)).map(|file| file.value)
}

pub(super) fn certificates(mut tls: Reader<'_>) -> Option<Vec<CertificateFiles>> {
    let sections = tls.sections("certificate", "tls.certificate");
    let read: Vec<_> = sections?.into_iter().map(certificate).collect();
    read.into_iter().collect()
}

fn certificate(mut section: Reader<'_>) -> Option<CertificateFiles> {
    let cert = section.file("cert", Required(r#""certs/doorward.pem""#));
    let key = section.file("key", Required(r#""certs/doorward.key""#));
    Some(CertificateFiles { cert: cert?.value, key: key?.value })
}

fn require_listener(
    section: &Reader<'_>,
    https: Field<Vec<Field<SocketAddr>>>,
) -> Option<Field<Vec<Field<SocketAddr>>>> {
    if https.value.is_empty() {
        section.diagnostics.error(
            &https.span,
            "`https` is an empty list: the gateway would have no listener",
            "write https = [\"0.0.0.0:8443\"]",
        );
        return None;
    }
    Some(https)
}

fn warn_trusts_everyone(section: &Reader<'_>, network: &Field<IpNet>) {
    if network.value.prefix_len() == 0 {
        section.diagnostics.warning(
            &network.span,
            format!("`{}` trusts every client: any client can forge its address", network.value),
            "write the addresses of your own proxies",
        );
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is not an address with a port; write \"0.0.0.0:8443\" or \"[::1]:8443\"")
    })
}

/// Parses `max-age` and the directives that browsers support (RFC 6797, 6.1).
fn parse_hsts(text: &str) -> Result<Option<HeaderValue>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let seconds = |part: &str| {
        let digits = part.strip_prefix("max-age=").unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let mut parts = text.split("; ");
    let is_valid = parts.next().is_some_and(seconds)
        && parts.all(|part| matches!(part, "includeSubDomains" | "preload"));
    HeaderValue::from_str(text).ok().filter(|_| is_valid).map(Some).ok_or_else(|| {
        format!(
            "`{text}` is not a valid Strict-Transport-Security value; write \"max-age=31536000\", or \"\" for none"
        )
    })
}

pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(|_| single()).map_err(|_| {
        format!("`{text}` is not an address or network; write \"10.0.0.0/8\" or \"192.0.2.7\"")
    })
}

fn values<T>(list: Field<Vec<Field<T>>>) -> Vec<T> {
    list.value.into_iter().map(|item| item.value).collect()
}
