//! `[server]`, `[admin]`, `[keys]` and `[[tls.certificate]]`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;

use super::client_auth::{self, ClientCertificatesAt};
use super::diagnostics::KeyDefault::{Required, Value};
use super::duration;
use super::reader::{Field, Reader, non_empty};
use super::unknown::unknown_value;

/// The public listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Directory of everything that the gateway writes, unless another key names a file.
    pub state_dir: PathBuf,
    /// Never empty.
    pub https: Vec<SocketAddr>,
    /// Listeners that redirect to https.
    pub http: Vec<SocketAddr>,
    /// The port of https URLs, if a port mapping publishes another one.
    pub public_port: Option<u16>,
    /// Proxies whose forwarded headers are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which trusted proxies report the client.
    pub forwarded_header: ForwardedHeader,
    /// Whether every connection starts with a PROXY header of a trusted proxy.
    pub proxy_protocol: bool,
    /// Zero: one per core.
    pub workers: usize,
    /// `Strict-Transport-Security` of every response (RFC 6797).
    pub hsts: Option<HeaderValue>,
    /// Whether responses report upstream errors in `Proxy-Status` (RFC 9209).
    pub proxy_status: bool,
    /// Time after a stop in which requests are still accepted.
    pub drain_delay: Duration,
    /// Time limit of the drain after that.
    pub drain: Duration,
    /// Whether a change of the configuration file is a reload.
    pub watch: bool,
}

/// The header in which trusted proxies report the client. Any other one is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `Forwarded` or `X-Forwarded-For`. If both are present, they must agree.
    Either,
    Forwarded,
    XForwardedFor,
}

impl Server {
    /// Returns the ports of https URLs.
    pub fn public_ports(&self) -> Vec<u16> {
        self.https.iter().map(SocketAddr::port).chain(self.public_port).collect()
    }
}

/// The admin listeners; `None` disables one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminListeners {
    pub listen: Option<SocketAddr>,
    pub socket: Option<PathBuf>,
}

/// Certificate chain and key in PEM format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

pub(super) fn server(mut section: Reader<'_>) -> Option<Server> {
    let state_dir = state_dir(&mut section);
    let https = section.list("https", Value(r#"["0.0.0.0:8443"]"#), address);
    let http = section.list("http", Value("[]"), address);
    let trusted = section.list("trusted_proxies", Value("[]"), network);
    let public_port = section.optional_number("public_port", "443", 1..=65_535);
    let forwarded = section.text("forwarded_header", Value(r#""either""#), forwarded_header);
    let proxy_protocol = section.flag("proxy_protocol", Value("false"));
    let workers = section.number("workers", Value("0"), 0..=1024);
    let hsts = section.text("hsts", Value(r#""max-age=31536000""#), parse_hsts);
    let proxy_status = section.flag("proxy_status", Value("true"));
    let drain_delay = section.quantity("drain_delay", Value(r#""0s""#), duration::parse);
    let drain = section.quantity("drain", Value(r#""30s""#), duration::parse);
    let watch = section.flag("watch", Value("false"));
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
    let (https, http) = (require_listener(&section, https?)?, http?);
    let public_port = public_port?.and_then(|port| u16::try_from(port.value).ok());
    warn_redirect_port(&section, &https, &http, public_port);
    Some(Server {
        state_dir: state_dir?,
        https: values(https),
        http: values(http),
        public_port,
        forwarded_header: forwarded?.value,
        trusted_proxies: values(trusted?),
        proxy_protocol: proxy_protocol?.value,
        workers: workers?.value,
        hsts: hsts?.value,
        proxy_status: proxy_status?.value,
        drain: drain?.value,
        drain_delay: drain_delay?.value,
        watch: watch?.value,
    })
}

/// Reads the state directory, where the defaults of later sections are.
pub(super) fn state_dir(section: &mut Reader<'_>) -> Option<PathBuf> {
    let text = section
        .text("state_dir", Value(r#""state""#), |text| non_empty(text).map(str::to_owned))?;
    let directory = section.diagnostics.resolve(&text.span, &text.value);
    section.diagnostics.set_state_dir(&directory);
    Some(directory)
}

pub(super) fn admin(mut section: Reader<'_>) -> Option<AdminListeners> {
    let listen = section.text("listen", Value(r#""127.0.0.1:9180""#), |text| match text {
        "" => Ok(None),
        text => address(text).map(Some),
    });
    let socket = section.path_or_empty("socket", Value(r#""state/admin.sock""#));
    let listen = listen?;
    if listen.value.is_some_and(|address| !address.ip().is_loopback()) {
        section.diagnostics.warning(
            &listen.span,
            "every host that reaches this address can read the metrics",
            "write \"127.0.0.1:9180\", or restrict access with a firewall",
        );
    }
    Some(AdminListeners { listen: listen.value, socket: socket?.value })
}

pub(super) fn keys(mut section: Reader<'_>) -> Option<PathBuf> {
    section.path("file", Value(r#""state/keys.toml""#)).map(|file| file.value)
}

/// `[tls]`.
pub(super) struct Tls {
    pub(super) certificates: Vec<CertificateFiles>,
    pub(super) client_auth: Vec<ClientCertificatesAt>,
}

pub(super) fn tls(mut tls: Reader<'_>) -> Option<Tls> {
    let sections = tls.sections("certificate", "tls.certificate");
    let client_auth = client_auth::sections(&mut tls);
    let read: Vec<_> = sections?.into_iter().map(certificate).collect();
    let certificates = read.into_iter().collect::<Option<_>>();
    Some(Tls { certificates: certificates?, client_auth: client_auth? })
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

/// Redirects lead to the port of the listener, which is wrong if a port mapping publishes another one.
fn warn_redirect_port(
    section: &Reader<'_>,
    https: &Field<Vec<Field<SocketAddr>>>,
    http: &Field<Vec<Field<SocketAddr>>>,
    public_port: Option<u16>,
) {
    let port = https.value.first().map_or(443, |address| address.value.port());
    if let Some(first) =
        http.value.first().filter(|_| public_port.is_none() && !matches!(port, 0 | 443))
    {
        section.diagnostics.warning(
            &first.span,
            format!("the public port of https is unknown: its listener has port {port}"),
            format!("write public_port = 443 behind a port mapping, or public_port = {port}"),
        );
    }
}

fn forwarded_header(text: &str) -> Result<ForwardedHeader, String> {
    match text {
        "either" => Ok(ForwardedHeader::Either),
        "forwarded" => Ok(ForwardedHeader::Forwarded),
        "x-forwarded-for" => Ok(ForwardedHeader::XForwardedFor),
        other => Err(unknown_value(other, &["either", "forwarded", "x-forwarded-for"])),
    }
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
