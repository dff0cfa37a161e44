//! TLS towards https upstreams: self-signed certificates, names, client certificates.

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use test_support::browser::{Browser, Response};
use test_support::gateway::{Gateway, Setup, prepare_directory, session_route};

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// A self-signed certificate as `openssl req -x509 -subj /CN=app` creates it: an authority without any
/// alternative name.
fn self_signed() -> Issuer {
    let mut params = CertificateParams::new(vec![]).expect("params");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "app");
    Issuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

/// Certificate and key for `name`, signed by `issuer`, as PEM.
fn signed(name: &str, issuer: &Issuer) -> (CertificateDer<'static>, KeyPair, String) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![name.to_owned()]).expect("params");
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    (certificate.der().clone(), key, certificate.pem())
}

/// An upstream that responds 200. With `clients`, it requires a certificate signed by that issuer.
async fn serve(
    certificate: CertificateDer<'static>,
    key: &KeyPair,
    clients: Option<&Issuer>,
) -> SocketAddr {
    let provider = doorward::tls::provider();
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = match clients {
        Some(issuer) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(issuer.der().clone()).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
        None => builder.with_no_client_auth(),
    };
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = builder.with_single_cert(vec![certificate], key.into()).expect("usable");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let accepting = acceptor.accept(stream);
            tokio::spawn(async move {
                let Ok(mut stream) = accepting.await else { return };
                let mut head = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                        stream.write_all(response).await.unwrap_or_default();
                        stream.flush().await.unwrap_or_default();
                    }
                }
            });
        }
    });
    address
}

/// Sends a request through a gateway whose route has these additional keys.
async fn fetch(upstream: SocketAddr, directory: &Arc<TempDir>, keys: &str) -> Response {
    let route = session_route(upstream).replace("http://", "https://");
    let route = route.replace("\"session\"", "\"public\"");
    let gateway = Gateway::start(Setup {
        routes: format!("{route}{keys}\n"),
        server: "proxy_status = true".to_owned(),
        shared_directory: Some(Arc::clone(directory)),
        ..Setup::default()
    });
    Browser::new(&gateway).fetch("/").await
}

fn write(directory: &Arc<TempDir>, name: &str, text: &str) {
    std::fs::write(directory.path().join(name), text).expect("written");
}

fn assert_refused(response: &Response) {
    assert_eq!(response.status, StatusCode::BAD_GATEWAY);
    assert_eq!(response.header("proxy-status"), "doorward; error=tls_certificate_error");
}

#[tokio::test]
async fn a_self_signed_certificate_given_as_ca_is_trusted() {
    let (own, other, directory) = (self_signed(), self_signed(), prepare_directory());
    write(&directory, "own.pem", &own.pem());
    write(&directory, "both.pem", &[other.pem(), own.pem()].concat());
    write(&directory, "other.pem", &other.pem());
    let upstream = serve(own.der().clone(), own.key(), None).await;
    for name in ["own.pem", "both.pem"] {
        let response = fetch(upstream, &directory, &format!("upstream_ca = \"{name}\"")).await;
        assert_eq!(response.status, StatusCode::OK, "{name}");
    }
    // The same name and another key.
    assert_refused(&fetch(upstream, &directory, "upstream_ca = \"other.pem\"").await);
    assert_refused(&fetch(upstream, &directory, "").await);
}

#[tokio::test]
async fn upstream_name_replaces_the_host_in_the_verification() {
    let (authority, directory) = (self_signed(), prepare_directory());
    write(&directory, "upstream-ca.pem", &authority.pem());
    let (certificate, key, _) = signed("app.internal", &authority);
    let upstream = serve(certificate, &key, None).await;
    let ca = "upstream_ca = \"upstream-ca.pem\"";
    let named = |name: &str| format!("{ca}\nupstream_name = \"{name}\"");
    let response = fetch(upstream, &directory, &named("app.internal")).await;
    assert_eq!(response.status, StatusCode::OK);
    assert_refused(&fetch(upstream, &directory, &named("other.internal")).await);
    assert_refused(&fetch(upstream, &directory, ca).await);
}

#[tokio::test]
async fn a_client_certificate_is_presented_to_the_upstream() {
    let (authority, directory) = (self_signed(), prepare_directory());
    write(&directory, "upstream-ca.pem", &authority.pem());
    let (certificate, key, pem) = signed("gateway", &authority);
    drop(certificate);
    write(&directory, "gateway.pem", &pem);
    write(&directory, "gateway.key", &key.serialize_pem());
    let (certificate, key, _) = signed("127.0.0.1", &authority);
    let upstream = serve(certificate, &key, Some(&authority)).await;
    let ca = "upstream_ca = \"upstream-ca.pem\"";
    let keys = format!("{ca}\nupstream_cert = \"gateway.pem\"\nupstream_key = \"gateway.key\"");
    assert_eq!(fetch(upstream, &directory, &keys).await.status, StatusCode::OK);
    assert_eq!(fetch(upstream, &directory, ca).await.status, StatusCode::BAD_GATEWAY);
}
