//! Client certificates: which clients are admitted, on which connections, and until when.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use doorward::admin::ReloadMode;
use http::StatusCode;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use test_support::browser::{Browser, Response};
use test_support::gateway::{Gateway, Setup, prepare_directory};
use test_support::upstream::Upstream;

use super::websocket::Echo;

/// An authority for clients, with a file of its certificate and one of its revocation list.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "clients");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Returns a client configuration with a certificate for the name, trusting the gateway of `directory`.
    fn client(&self, name: &str, serial: u64, directory: &Path) -> Arc<ClientConfig> {
        Arc::new(self.client_with(name, serial, trusting(directory, rustls::ALL_VERSIONS)))
    }

    fn client_with(&self, name: &str, serial: u64, builder: Builder) -> ClientConfig {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().expect("a key");
        let chain = vec![params.signed_by(&key, &self.issuer).expect("signed").der().clone()];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
        builder.with_client_auth_cert(chain, key).expect("a certificate")
    }

    fn revocation_list(&self, revoked: &[u64]) -> String {
        let year = |year| rcgen::date_time_ymd(year, 1, 1);
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: year(2025),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: year(2025),
            next_update: year(2099),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("signed").pem().expect("PEM")
    }
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn trusting(directory: &Path, versions: &[&'static rustls::SupportedProtocolVersion]) -> Builder {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(directory.join("ca.pem")).expect("the CA");
    roots.add(ca).expect("a root");
    ClientConfig::builder_with_provider(doorward::tls::provider())
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots)
}

struct CertificateTest {
    authority: Authority,
    upstream: Upstream,
    gateway: Gateway,
}

impl CertificateTest {
    /// `app.test` has client certificates, `other.test` has not. `/` admits every certificate, `/backup` one
    /// user, `/bank` with a recent login, `/plain` none.
    async fn new(mode: &str) -> CertificateTest {
        CertificateTest::with_sockets(mode, ([127, 0, 0, 1], 1).into()).await
    }

    /// As above. `/ws` leads to another upstream.
    async fn with_sockets(mode: &str, sockets: SocketAddr) -> CertificateTest {
        let authority = Authority::new();
        let upstream = Upstream::start().await;
        let directory = prepare_directory();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("clients.pem"), &authority.pem).expect("written");
        std::fs::write(at("clients.crl"), authority.revocation_list(&[])).expect("written");
        let route = |host: &str, path: &str, access: &str, more: &str| {
            format!(
                "[[route]]\nhost = \"{host}\"\npath = \"{path}\"\nupstream = \"http://{}\"\naccess = {access}\n{more}\n",
                upstream.address
            )
        };
        let admits = "client_certificates = true";
        let routes = route("app.test", "/", "\"session\"", admits)
            + &route("app.test", "/backup", "{ users = [\"cert-backup\"] }", admits)
            + &route("app.test", "/bank", "{ max_auth_age = \"5m\" }", admits)
            + &route("app.test", "/plain", "\"session\"", "")
            + &route("other.test", "/", "\"public\"", "")
            + &format!(
                "[[route]]\nhost = \"app.test\"\npath = \"/ws\"\nupstream = \"http://{sockets}\"\naccess = \"session\"\n"
            );
        let extra = format!(
            "[[tls.client_auth]]\nhost = \"app.test\"\nca = \"clients.pem\"\ncrl = \"clients.crl\"\nmode = \"{mode}\"\n"
        );
        let shared_directory = Some(directory);
        let gateway = Gateway::start(Setup { routes, extra, shared_directory, ..Setup::default() });
        CertificateTest { authority, upstream, gateway }
    }

    /// A program with a certificate for the name.
    fn program(&self, name: &str, serial: u64) -> Browser {
        let tls = self.authority.client(name, serial, self.gateway.directory.path());
        Browser { tls, ..Browser::new(&self.gateway) }
    }

    fn without_certificate(&self) -> Browser {
        Browser::new(&self.gateway)
    }

    fn revoke(&self, serial: u64) {
        let list = self.authority.revocation_list(&[serial]);
        std::fs::write(self.gateway.path("clients.crl"), list).expect("written");
        self.gateway.reload(ReloadMode::Apply);
    }
}

fn reason(answer: &Response) -> (u16, String) {
    let body: Value = serde_json::from_str(&answer.text()).unwrap_or_default();
    (answer.status.as_u16(), body["reason"].as_str().unwrap_or_default().to_owned())
}

/// Sends a GET of `/` on an open connection. `None` if the gateway has closed it.
async fn exchange(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    host: &str,
) -> Option<String> {
    let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains("\r\n\r\n") {
        match tokio::time::timeout(Duration::from_secs(10), stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return None,
            Ok(Ok(read)) => text.push_str(&String::from_utf8_lossy(&buffer[..read])),
            Err(_) => panic!("no response in time"),
        }
    }
    Some(text)
}

#[tokio::test]
async fn a_client_certificate_admits_the_user_that_it_names() {
    let test = CertificateTest::new("require").await;
    let spoofed = [
        ("x-ssl-client-s-dn", "CN=admin"),
        ("x-client-cert", "x"),
        ("client-cert", "x"),
        ("client-cert-chain", "x"),
        ("x-forwarded-client-cert", "x"),
        ("x_ssl_client_verify", "SUCCESS"),
        ("x-forwarded-user", "admin"),
    ];
    for h2 in [false, true] {
        let mut program = Browser { h2, ..test.program("backup", 7) };
        let answer = program.send("PUT", "/backup", &spoofed, "x").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert!(answer.set_cookies().is_empty(), "no session");
        assert_eq!(test.upstream.last_values("x-forwarded-user"), ["cert-backup"]);
        let head = test.upstream.last_head().to_ascii_lowercase();
        assert!(!head.contains("cert:") && !head.contains("ssl") && !head.contains("admin"));
    }
    let mut other = test.program("monitor", 8);
    assert_eq!(other.fetch("/").await.status, StatusCode::OK);
    assert_eq!(other.fetch("/backup").await.status, StatusCode::FORBIDDEN);
    assert_eq!(reason(&other.fetch("/bank").await), (403, "token-needs-session".to_owned()));
    assert_eq!(reason(&other.fetch("/plain").await), (401, "no-session".to_owned()));
    let split = test.program("a:b", 9).fetch("/").await;
    assert_eq!(reason(&split), (401, "no-session".to_owned()), "apps would split the name");
}

#[tokio::test]
async fn a_connection_without_a_valid_certificate_is_refused() {
    let test = CertificateTest::new("require").await;
    let forged = Authority::new().client("backup", 7, test.gateway.directory.path());
    let forged = Browser { tls: forged, ..Browser::new(&test.gateway) };
    for client in [test.without_certificate(), forged] {
        for h2 in [false, true] {
            // In TLS 1.3, the client learns it with its first read.
            let mut stream = Browser { h2, ..client.clone() }.connect().await;
            assert_eq!(exchange(&mut stream, "app.test").await, None);
        }
    }
    assert!(test.upstream.heads().is_empty());
}

#[tokio::test]
async fn an_optional_certificate_leaves_the_login_to_others() {
    let test = CertificateTest::new("allow").await;
    assert_eq!(test.program("backup", 7).fetch("/").await.status, StatusCode::OK);
    let mut alice = test.without_certificate();
    assert_eq!(reason(&alice.fetch("/").await), (401, "no-session".to_owned()));
    alice.log_in("alice").await;
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK);
    let forged = Authority::new().client("backup", 7, test.gateway.directory.path());
    let mut stream = Browser { tls: forged, ..Browser::new(&test.gateway) }.connect().await;
    assert_eq!(exchange(&mut stream, "app.test").await, None, "an invalid one is refused");
}

#[tokio::test]
async fn a_certificate_host_needs_a_handshake_with_its_own_name() {
    for mode in ["require", "allow"] {
        let test = CertificateTest::new(mode).await;
        let other_host = Browser { host: "other.test".to_owned(), ..test.without_certificate() };
        let mut stream = other_host.connect().await;
        let answer = exchange(&mut stream, "app.test").await.expect("a response");
        assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
        let answer = exchange(&mut stream, "other.test").await.expect("a response");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // An address is no server name, so the handshake has none.
        let mut config = ClientConfig::clone(&test.program("backup", 7).tls);
        config.enable_sni = false;
        let mut stream =
            Browser { tls: Arc::new(config), ..test.program("backup", 7) }.connect().await;
        let answer = exchange(&mut stream, "app.test").await.expect("a response");
        assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    }
}

#[tokio::test]
async fn a_connection_with_a_certificate_is_never_resumed() {
    let test = CertificateTest::new("require").await;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let directory = test.gateway.directory.path();
        let config = || test.authority.client_with("backup", 7, trusting(directory, &[version]));
        let kinds = |host: &str, config: ClientConfig| {
            let tls = Arc::new(config);
            let client = Browser { tls, host: host.to_owned(), ..Browser::new(&test.gateway) };
            async move {
                let mut kinds = Vec::new();
                for _ in 0..2 {
                    let mut stream = client.connect().await;
                    exchange(&mut stream, &client.host).await.expect("a response");
                    kinds.push(stream.get_ref().1.handshake_kind());
                }
                kinds
            }
        };
        let full = Some(HandshakeKind::Full);
        assert_eq!(kinds("app.test", config()).await, [full, full]);
        let resumed = Some(HandshakeKind::Resumed);
        assert_eq!(kinds("other.test", config()).await, [full, resumed], "the client does resume");
    }
}

#[tokio::test]
async fn a_revoked_certificate_loses_its_open_connections() {
    let test = CertificateTest::new("require").await;
    let (revoked, other) = (test.program("backup", 7), test.program("monitor", 8));
    let mut idle = revoked.connect().await;
    assert!(exchange(&mut idle, "app.test").await.expect("a response").contains(" 200 "));
    let mut kept = other.connect().await;
    assert!(exchange(&mut kept, "app.test").await.expect("a response").contains(" 200 "));
    test.revoke(7);
    let mut buffer = [0; 64];
    let closed = tokio::time::timeout(Duration::from_secs(5), idle.read(&mut buffer)).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "closed without a request: {closed:?}");
    assert!(exchange(&mut kept, "app.test").await.expect("a response").contains(" 200 "));
    let mut again = revoked.connect().await;
    assert_eq!(exchange(&mut again, "app.test").await, None);
}

#[tokio::test]
async fn a_revoked_certificate_closes_websockets() {
    let echo = Echo::start().await;
    let test = CertificateTest::with_sockets("require", echo.address).await;
    let mut alice = test.program("alice", 7);
    alice.log_in("alice").await;
    let mut stream = alice.connect().await;
    let upgrade = format!(
        "GET /ws HTTP/1.1\r\nHost: app.test\r\nCookie: {}={}\r\nOrigin: https://app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        test_support::browser::SESSION,
        alice.token()
    );
    stream.write_all(upgrade.as_bytes()).await.expect("sent");
    let mut buffer = [0; 4096];
    let read = stream.read(&mut buffer).await.expect("a response");
    let head = String::from_utf8_lossy(&buffer[..read]).into_owned();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    test.revoke(7);
    let closed = tokio::time::timeout(Duration::from_secs(5), async {
        while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
    });
    assert!(closed.await.is_ok(), "the WebSocket is closed");
}

#[tokio::test]
async fn another_site_cannot_use_the_certificate_of_a_browser() {
    let test = CertificateTest::new("require").await;
    let mut browser = test.program("backup", 7);
    for headers in [[("origin", "https://evil.test")], [("sec-fetch-site", "cross-site")]] {
        let answer = browser.send("POST", "/", &headers, "x").await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{headers:?}");
        assert!(test.upstream.heads().is_empty());
    }
}

#[tokio::test]
async fn a_host_that_gains_certificates_refuses_older_connections() {
    let test = CertificateTest::new("require").await;
    let with = test.gateway.config_text();
    let section = with.find("[[tls.client_auth]]").expect("the section");
    let end = with[section..].find("mode = \"require\"\n").expect("the last key") + section;
    let without = format!("{}{}", &with[..section], &with[end + "mode = \"require\"\n".len()..]);
    test.gateway.set_config_text(&without.replace("client_certificates = true", ""));
    test.gateway.reload(ReloadMode::Apply);
    let mut stream = test.without_certificate().connect().await;
    assert!(exchange(&mut stream, "app.test").await.expect("a response").contains(" 401 "));
    test.gateway.set_config_text(&with);
    test.gateway.reload(ReloadMode::Apply);
    let answer = exchange(&mut stream, "app.test").await.expect("a response");
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
}
