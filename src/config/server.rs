//! `[server]`, `[admin]`, `[keys]` and `[[tls.certificate]]`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;

use super::duration;
use super::findings::Usual::{Is, Required};
use super::reader::{Reader, Setting};

/// What the public side listens on.
#[derive(Clone, Debug)]
pub struct Server {
    /// Never empty.
    pub https: Vec<SocketAddr>,
    /// Where plain requests are redirected to https.
    pub http: Vec<SocketAddr>,
    /// Whose word about the client's address is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether connections begin with a trusted proxy's word about the client.
    pub proxy_protocol: bool,
    /// 0: one per core.
    pub workers: usize,
    /// What browsers are told about https, on every answer to a request that could be read (RFC 6797).
    pub hsts: Option<HeaderValue>,
    /// Whether answers say in `Proxy-Status` why an app gave none (RFC 9209).
    pub proxy_status: bool,
    /// How long what is under way may go on after a stop.
    pub drain: Duration,
}

/// What the operator's side listens on.
#[derive(Clone, Debug)]
pub struct Admin {
    pub listen: Option<SocketAddr>,
    pub socket: Option<PathBuf>,
}

/// A certificate chain and its key, PEM.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

pub(super) fn server(mut section: Reader<'_>) -> Option<Server> {
    let https = section.list("https", Is(r#"["0.0.0.0:8443"]"#), address);
    let http = section.list("http", Is("[]"), address);
    let trusted = section.list("trusted_proxies", Is("[]"), network);
    let proxy_protocol = section.flag("proxy_protocol", Is("false"));
    let workers = section.number("workers", Is("0"), 0..=1024);
    let hsts = section.text("hsts", Is(r#""max-age=31536000""#), strict_transport);
    let proxy_status = section.flag("proxy_status", Is("true"));
    let drain = section.measure("drain", Is(r#""30s""#), duration::parse);
    if let (Some(flag), Some(trusted)) = (&proxy_protocol, &trusted)
        && flag.value
        && trusted.value.is_empty()
    {
        section.findings.problem(
            &flag.place,
            "`proxy_protocol` is the word of trusted proxies, and there are none",
            "write trusted_proxies = [\"10.0.0.0/8\"] with the addresses of yours",
        );
        return None;
    }
    if let Some(trusted) = &trusted {
        trusted.value.iter().for_each(|network| warn_of_everybody(&section, network));
    }
    Some(Server {
        https: values(some_listener(&section, https?)?),
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
    let listen = section.text("listen", Is(r#""127.0.0.1:9180""#), |text| match text {
        "" => Ok(None),
        text => address(text).map(Some),
    });
    let base = section.findings.base;
    let socket = section.text("socket", Is(r#""run/admin.sock""#), |text| {
        Ok::<_, String>(Some(text).filter(|text| !text.is_empty()).map(|text| base.join(text)))
    });
    let listen = listen?;
    if listen.value.is_some_and(|address| !address.ip().is_loopback()) {
        section.findings.warning(
            &listen.place,
            "everybody who reaches this address can read the metrics",
            "write \"127.0.0.1:9180\", or keep others off with a firewall",
        );
    }
    Some(Admin { listen: listen.value, socket: socket?.value })
}

pub(super) fn keys(mut section: Reader<'_>) -> Option<PathBuf> {
    section.path("file", Is(r#""state/keys.toml""#)).map(|file| file.value)
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

fn some_listener(
    section: &Reader<'_>,
    https: Setting<Vec<Setting<SocketAddr>>>,
) -> Option<Setting<Vec<Setting<SocketAddr>>>> {
    if https.value.is_empty() {
        section.findings.problem(
            &https.place,
            "`https` is an empty list: nobody could reach the gateway",
            "write https = [\"0.0.0.0:8443\"]",
        );
        return None;
    }
    Some(https)
}

fn warn_of_everybody(section: &Reader<'_>, network: &Setting<IpNet>) {
    if network.value.prefix_len() == 0 {
        section.findings.warning(
            &network.place,
            format!("`{}` believes everybody: any client can claim any address", network.value),
            "write the addresses of your own proxies",
        );
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is no address with a port; write \"0.0.0.0:8443\" or \"[::1]:8443\"")
    })
}

/// RFC 6797 6.1: one max-age, and the two directives that browsers know.
fn strict_transport(text: &str) -> Result<Option<HeaderValue>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let seconds = |part: &str| {
        let digits = part.strip_prefix("max-age=").unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let mut parts = text.split("; ");
    let is_well = parts.next().is_some_and(seconds)
        && parts.all(|part| matches!(part, "includeSubDomains" | "preload"));
    HeaderValue::from_str(text).ok().filter(|_| is_well).map(Some).ok_or_else(|| {
        format!(
            "`{text}` is no Strict-Transport-Security; write \"max-age=31536000\", or \"\" for none"
        )
    })
}

pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(|_| single()).map_err(|_| {
        format!("`{text}` is no address or network; write \"10.0.0.0/8\" or \"192.0.2.7\"")
    })
}

fn values<T>(list: Setting<Vec<Setting<T>>>) -> Vec<T> {
    list.value.into_iter().map(|item| item.value).collect()
}
