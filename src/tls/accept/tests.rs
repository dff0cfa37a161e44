use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio_rustls::TlsConnector;

use super::*;
use crate::config::CertificateFiles;
use crate::session::Fingerprint;
use crate::tls::{Certificates, dev_ca, provider};

struct Stage {
    acceptor: Acceptor,
    roots: rustls::RootCertStore,
    _directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Stage {
        let directory = tempfile::tempdir().expect("a directory");
        dev_ca::make(directory.path(), &["app.test".to_owned()]).expect("certificates");
        let at = |name: &str| directory.path().join(name);
        let files = CertificateFiles { cert: at("doorward.pem"), key: at("doorward.key") };
        let config = Certificates::load(&[files]).expect("loaded").server_config();
        let mut roots = rustls::RootCertStore::empty();
        let ca = rustls_pki_types::CertificateDer::from_pem_file(at("ca.pem")).expect("the CA");
        roots.add(ca).expect("a root");
        let acceptor = Acceptor::new(config.expect("a configuration"));
        Stage { acceptor, roots, _directory: directory }
    }

    fn client(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(versions).expect("versions");
        Arc::new(builder.with_root_certificates(self.roots.clone()).with_no_client_auth())
    }

    /// One handshake, of which the gateway reads so many bytes at once; then a word in each direction.
    async fn meet(&self, client: &Arc<ClientConfig>, at_once: usize) -> (Fingerprint, bool) {
        let (near, far) = duplex(1 << 16);
        let near = Trickle { stream: near, at_once };
        let server = async {
            let (mut tls, hello) = self.acceptor.listen(near).await.expect("a handshake");
            let mut word = [0; 4];
            tls.read_exact(&mut word).await.expect("a word");
            tls.write_all(&word).await.expect("sent");
            tls.shutdown().await.expect("closed");
            hello.fingerprint()
        };
        let visitor = async {
            let name = ServerName::try_from("app.test").expect("a name");
            let connector = TlsConnector::from(Arc::clone(client));
            let mut tls = connector.connect(name, far).await.expect("a handshake");
            tls.write_all(b"word").await.expect("sent");
            let mut answer = Vec::new();
            tls.read_to_end(&mut answer).await.expect("an answer");
            assert_eq!(answer, b"word");
            tls.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
        };
        let both = async { tokio::join!(server, visitor) };
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("in time")
    }

    /// What a client hears that sends these bytes and waits.
    async fn heard(&self, bytes: &[u8]) -> (io::Error, Vec<u8>) {
        let (near, mut far) = duplex(1 << 20);
        far.write_all(bytes).await.expect("sent");
        let error = self.acceptor.listen(near).await.map(|_| ()).expect_err("no handshake");
        (error, all(&mut far).await)
    }
}

/// A stream of which so many bytes can be read at once.
struct Trickle {
    stream: DuplexStream,
    at_once: usize,
}

impl AsyncRead for Trickle {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = vec![0; self.at_once.min(buf.remaining())];
        let mut few = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut few))?;
        buf.put_slice(few.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Trickle {
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
    let mut heard = Vec::new();
    let end = stream.read_to_end(&mut heard);
    tokio::time::timeout(Duration::from_secs(10), end).await.expect("closed").expect("read");
    heard
}

#[tokio::test]
async fn a_client_that_comes_back_with_its_ticket_keeps_its_fingerprint() {
    let stage = Stage::new();
    let (new, old) = (&rustls::version::TLS13, &rustls::version::TLS12);
    let mut seen = Vec::new();
    for versions in [&[new, old][..], &[old], &[new]] {
        let client = stage.client(versions);
        let (fresh, resumed) = stage.meet(&client, 1 << 16).await;
        assert!(!resumed);
        let (again, resumed) = stage.meet(&client, 1 << 16).await;
        assert!(resumed, "{versions:?}");
        assert_eq!(fresh, again);
        assert!(!seen.contains(&fresh), "{versions:?}");
        seen.push(fresh);
    }
}

#[tokio::test]
async fn a_hello_that_comes_byte_by_byte_is_heard_whole() {
    let stage = Stage::new();
    let client = stage.client(rustls::ALL_VERSIONS);
    let whole = stage.meet(&client, 1 << 16).await.0;
    let client = stage.client(rustls::ALL_VERSIONS);
    assert_eq!(stage.meet(&client, 1).await.0, whole);
}

#[tokio::test]
async fn a_hello_without_an_end_is_refused_with_an_alert_and_not_kept() {
    let stage = Stage::new();
    // 64 KiB are promised, in a record of a byte each.
    let record = |byte: u8| [22, 3, 1, 0, 1, byte];
    let begun: Vec<u8> = [1, 0, 0xff, 0xff].into_iter().flat_map(record).collect();
    let rest = std::iter::repeat_n(record(0), LONGEST_HELLO / 6 + 1).flatten();
    let bytes: Vec<u8> = begun.into_iter().chain(rest).collect();
    let (error, alert) = stage.heard(&bytes).await;
    assert!(error.to_string().contains("too long"), "{error}");
    assert_eq!(alert, DECODE_ERROR);
}

#[tokio::test]
async fn what_is_no_hello_is_refused_as_rustls_does() {
    let stage = Stage::new();
    for bytes in
        [&b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"[..], b"\x16\x03\x01\x00\x04\x02\0\0\0"]
    {
        let (_, heard) = stage.heard(bytes).await;
        let (near, mut far) = duplex(1 << 20);
        far.write_all(bytes).await.expect("sent");
        stage.acceptor.accept(near).await.map(|_| ()).expect_err("no handshake");
        assert_eq!(heard, all(&mut far).await);
    }
}

#[tokio::test]
async fn who_hangs_up_in_the_middle_of_a_hello_is_gone() {
    let stage = Stage::new();
    let (near, mut far) = duplex(1 << 16);
    far.write_all(&[22, 3, 1, 2, 0, 1]).await.expect("sent");
    drop(far);
    let error = stage.acceptor.listen(near).await.map(|_| ()).expect_err("no handshake");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}
