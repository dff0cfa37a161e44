use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio_rustls::TlsConnector;

use super::*;
use crate::config::CertificateFiles;
use crate::session::TlsFingerprint;
use crate::tls::{Certificates, dev_ca, provider};

struct Fixture {
    acceptor: HandshakeAcceptor,
    roots: rustls::RootCertStore,
    _directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        let directory = tempfile::tempdir().expect("a directory");
        dev_ca::make(directory.path(), &["app.test".to_owned()]).expect("certificates");
        let at = |name: &str| directory.path().join(name);
        let files = CertificateFiles { cert: at("doorward.pem"), key: at("doorward.key") };
        let certificates = Certificates::load(&[files], &[]).expect("loaded");
        let mut roots = rustls::RootCertStore::empty();
        let ca = rustls_pki_types::CertificateDer::from_pem_file(at("ca.pem")).expect("the CA");
        roots.add(ca).expect("a root");
        let acceptor = HandshakeAcceptor::new(certificates).expect("a configuration");
        Fixture { acceptor, roots, _directory: directory }
    }

    fn client(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(versions).expect("versions");
        Arc::new(builder.with_root_certificates(self.roots.clone()).with_no_client_auth())
    }

    /// Performs a handshake, with reads of at most `chunk` bytes, then an echo. Returns the fingerprint and
    /// whether the session was resumed.
    async fn connect(&self, client: &Arc<ClientConfig>, chunk: usize) -> (TlsFingerprint, bool) {
        let (near, far) = duplex(1 << 16);
        let near = SlowReader { stream: near, chunk };
        let server = async {
            let (mut tls, hello) =
                self.acceptor.accept_with_client_hello(near).await.expect("a handshake");
            let mut word = [0; 4];
            tls.read_exact(&mut word).await.expect("a word");
            tls.write_all(&word).await.expect("sent");
            tls.shutdown().await.expect("closed");
            hello.fingerprint()
        };
        let peer = async {
            let name = ServerName::try_from("app.test").expect("a name");
            let connector = TlsConnector::from(Arc::clone(client));
            let mut tls = connector.connect(name, far).await.expect("a handshake");
            tls.write_all(b"word").await.expect("sent");
            let mut echo = Vec::new();
            tls.read_to_end(&mut echo).await.expect("an echo");
            assert_eq!(echo, b"word");
            tls.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
        };
        let both = async { tokio::join!(server, peer) };
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("in time")
    }

    /// Sends bytes that fail the handshake. Returns the error and the response.
    async fn reject(&self, bytes: &[u8]) -> (io::Error, Vec<u8>) {
        let (near, mut far) = duplex(1 << 20);
        far.write_all(bytes).await.expect("sent");
        let error = self
            .acceptor
            .accept_with_client_hello(near)
            .await
            .map(|_| ())
            .expect_err("no handshake");
        (error, all(&mut far).await)
    }
}

/// A stream with reads of at most `chunk` bytes.
struct SlowReader {
    stream: DuplexStream,
    chunk: usize,
}

impl AsyncRead for SlowReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = vec![0; self.chunk.min(buf.remaining())];
        let mut few = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut few))?;
        buf.put_slice(few.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SlowReader {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn all(stream: &mut DuplexStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes);
    tokio::time::timeout(Duration::from_secs(10), end).await.expect("closed").expect("read");
    bytes
}

#[tokio::test]
async fn a_resumed_session_has_the_same_fingerprint() {
    let fixture = Fixture::new();
    let (new, old) = (&rustls::version::TLS13, &rustls::version::TLS12);
    let mut fingerprints = Vec::new();
    for versions in [&[new, old][..], &[old], &[new]] {
        let client = fixture.client(versions);
        let (fresh, resumed) = fixture.connect(&client, 1 << 16).await;
        assert!(!resumed);
        let (again, resumed) = fixture.connect(&client, 1 << 16).await;
        assert!(resumed, "{versions:?}");
        assert_eq!(fresh, again);
        assert!(!fingerprints.contains(&fresh), "{versions:?}");
        fingerprints.push(fresh);
    }
}

#[tokio::test]
async fn a_hello_that_arrives_byte_by_byte_is_complete() {
    let fixture = Fixture::new();
    let client = fixture.client(rustls::ALL_VERSIONS);
    let whole = fixture.connect(&client, 1 << 16).await.0;
    let client = fixture.client(rustls::ALL_VERSIONS);
    assert_eq!(fixture.connect(&client, 1).await.0, whole);
}

#[tokio::test]
async fn an_endless_hello_is_rejected_with_an_alert() {
    let fixture = Fixture::new();
    // A message of 64 KiB in records of one byte.
    let record = |byte: u8| [22, 3, 1, 0, 1, byte];
    let begun: Vec<u8> = [1, 0, 0xff, 0xff].into_iter().flat_map(record).collect();
    let rest = std::iter::repeat_n(record(0), MAX_CLIENT_HELLO / 6 + 1).flatten();
    let bytes: Vec<u8> = begun.into_iter().chain(rest).collect();
    let (error, alert) = fixture.reject(&bytes).await;
    assert!(error.to_string().contains("too long"), "{error}");
    assert_eq!(alert, DECODE_ERROR);
}

#[tokio::test]
async fn other_bytes_are_rejected_with_the_alert_of_rustls() {
    let fixture = Fixture::new();
    for bytes in
        [&b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"[..], b"\x16\x03\x01\x00\x04\x02\0\0\0"]
    {
        let (_, response) = fixture.reject(bytes).await;
        let (near, mut far) = duplex(1 << 20);
        far.write_all(bytes).await.expect("sent");
        fixture.acceptor.accept(near).await.map(|_| ()).expect_err("no handshake");
        assert_eq!(response, all(&mut far).await);
    }
}

#[tokio::test]
async fn a_disconnect_during_the_hello_is_an_unexpected_eof() {
    let fixture = Fixture::new();
    let (near, mut far) = duplex(1 << 16);
    far.write_all(&[22, 3, 1, 2, 0, 1]).await.expect("sent");
    drop(far);
    let error = fixture
        .acceptor
        .accept_with_client_hello(near)
        .await
        .map(|_| ())
        .expect_err("no handshake");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}
