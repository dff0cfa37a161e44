//! TLS with rustls and aws-lc-rs: certificates by SNI, reloaded when their files change.
//!
//! TLS 1.2 and 1.3, hybrid post-quantum key exchange first (X25519MLKEM768). No early data, because an
//! attacker could replay a request.

mod accept;
mod client_auth;
pub mod dev_ca;
pub mod hello;
mod trust;

pub use accept::{HandshakeAcceptor, MAX_CLIENT_HELLO};
pub use client_auth::ClientAuthRule;
pub use trust::{ClientIdentity, TrustError, client_config_for_ca, system_client_config};

use trust::ServerTrust;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ConfigBuilder, ServerConfig, WantsVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::{CertificateFiles, ClientCertificates};
use crate::route::ClientCertificate;

/// A certificate that cannot be used. The message has the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: cannot be read ({error}); check the path and its permissions")]
    Read { path: PathBuf, error: String },
    #[error(
        "{path}: holds no certificate in PEM; the file should begin with -----BEGIN CERTIFICATE-----"
    )]
    NoCertificate { path: PathBuf },
    #[error("{path}: the key cannot be used with its certificate ({error})")]
    Key { path: PathBuf, error: String },
    #[error(
        "{path}: {error}; write the PEM file of the authority that signed the upstream's certificate"
    )]
    Authority { path: PathBuf, error: TrustError },
    #[error(
        "{path}: {error}; write the PEM file of the authority that signs the certificates of clients"
    )]
    ClientAuthority { path: PathBuf, error: TrustError },
    #[error(
        "{path}: holds no revocation list in PEM; the file should begin with -----BEGIN X509 CRL-----"
    )]
    NoRevocationList { path: PathBuf },
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The certificates of the listeners.
#[derive(Debug)]
pub struct Certificates {
    served: ArcSwap<ServedCertificates>,
    changes: watch::Sender<()>,
}

/// Certificates as read from their files.
#[derive(Debug)]
pub struct ServedCertificates {
    files: Vec<CertificateFiles>,
    client_auth: Vec<Arc<ClientAuthRule>>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
    /// For clients without SNI, and for names that no certificate has.
    default: Arc<CertifiedKey>,
    /// The content of the files, to detect a change.
    bytes: Vec<Vec<u8>>,
    /// End of validity of each certificate.
    expiries: Vec<Timestamp>,
}

/// Longest time between two verifications of the certificate of an open connection.
const REVERIFY: Duration = Duration::from_secs(60 * 60);

fn listener_builder() -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, TlsError> {
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    Ok(ServerConfig::builder_with_provider(provider()).with_protocol_versions(&versions)?)
}

fn set_protocols(config: &mut ServerConfig) {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.max_early_data_size = 0;
}

/// Returns the cryptography provider.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl Certificates {
    /// Reads all certificates. At least one is required.
    pub fn load(
        files: &[CertificateFiles],
        client_auth: &[ClientCertificates],
    ) -> Result<Arc<Certificates>, TlsError> {
        let served = ArcSwap::from_pointee(ServedCertificates::read(files, client_auth)?);
        Ok(Arc::new(Certificates { served, changes: watch::Sender::default() }))
    }

    /// Replaces all certificates. Established connections keep theirs.
    pub fn replace(&self, new: ServedCertificates) {
        self.served.store(Arc::new(new));
        self.changes.send_replace(());
    }

    /// Reads the files again. Returns whether they have changed. After an error the old certificates
    /// stay in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let served = self.served.load();
        let client_auth: Vec<_> = served.client_auth.iter().map(|rule| rule.settings()).collect();
        let new = ServedCertificates::read(&served.files, &client_auth)?;
        if new.bytes == served.bytes {
            return Ok(false);
        }
        // Unchanged if a reload of the configuration replaced them in the meantime.
        self.served.compare_and_swap(&served, Arc::new(new));
        self.changes.send_replace(());
        Ok(true)
    }

    /// Reports whether a certificate has this name. Names are in lower case.
    pub fn has_name(&self, name: &str) -> bool {
        self.served.load().find(name).is_some()
    }

    /// Returns when each certificate expires, by its file.
    pub fn expiries(&self) -> Vec<(PathBuf, Timestamp)> {
        let served = self.served.load();
        let files = served.files.iter().map(|files| files.cert.clone());
        files.zip(served.expiries.iter().copied()).collect()
    }

    /// Reports whether both hosts have the same certificate, so that a client may reuse a connection to
    /// one of them for the other (RFC 9113, section 9.1.1).
    pub fn share_certificate(&self, host: &str, other: &str) -> bool {
        let served = self.served.load();
        Arc::ptr_eq(&served.choose(Some(host)), &served.choose(Some(other)))
    }

    /// Returns the TLS configuration of connections without client certificates.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let certificates = Arc::clone(self) as Arc<dyn ResolvesServerCert>;
        let mut config = listener_builder()?.with_no_client_auth().with_cert_resolver(certificates);
        set_protocols(&mut config);
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        Ok(Arc::new(config))
    }

    /// Returns whether any host uses client certificates.
    fn has_client_auth(&self) -> bool {
        !self.served.load().client_auth.is_empty()
    }

    /// Returns the rule for client certificates of a host, in lower case.
    pub fn client_auth(&self, name: &str) -> Option<Arc<ClientAuthRule>> {
        self.served.load().client_auth.iter().find(|rule| rule.matches(name)).cloned()
    }

    /// Returns the TLS configuration of a host with client certificates.
    fn client_auth_config(
        self: &Arc<Self>,
        name: &str,
    ) -> Option<Result<Arc<ServerConfig>, TlsError>> {
        let rule = self.client_auth(name)?;
        Some(rule.server_config(Arc::clone(self) as Arc<dyn ResolvesServerCert>).map(
            |mut config| {
                set_protocols(&mut config);
                Arc::new(config)
            },
        ))
    }

    /// Waits until a certificate of a connection to the host is no longer accepted, and returns the reason.
    pub async fn until_refused(&self, name: &str, chain: &[CertificateDer<'static>]) -> String {
        let mut changes = self.changes.subscribe();
        loop {
            match self.client_auth(name).map(|rule| rule.verify(chain)) {
                None => return "the host has no client certificates any more".to_owned(),
                Some(Err(error)) => return error.to_string(),
                Some(Ok(())) => {}
            }
            // A certificate may also expire.
            drop(tokio::time::timeout(REVERIFY, changes.changed()).await);
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        Some(self.served.load().choose(name.as_deref()))
    }
}

impl ServedCertificates {
    /// Reads all certificates. At least one is required.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn read(
        files: &[CertificateFiles],
        client_auth: &[ClientCertificates],
    ) -> Result<ServedCertificates, TlsError> {
        let mut by_name = HashMap::new();
        let mut default = None;
        let (mut bytes, mut expiries) = (Vec::new(), Vec::new());
        for file in files {
            let (cert, key) = (read(&file.cert)?, read(&file.key)?);
            let certified = Arc::new(certified(file, &cert, &key)?);
            expiries.push(expiry(&certified.cert));
            for name in names(&certified) {
                by_name.entry(name).or_insert_with(|| Arc::clone(&certified));
            }
            default.get_or_insert(certified);
            bytes.extend([cert, key]);
        }
        let default = default
            .ok_or(TlsError::NoCertificate { path: PathBuf::from("[[tls.certificate]]") })?;
        let mut client_auth = client_auth.to_vec();
        // An exact host before a wildcard.
        client_auth.sort_by_key(|settings| settings.host.rank());
        let rules = client_auth.iter().map(|it| ClientAuthRule::read(it, &mut bytes));
        let client_auth = rules.map(|rule| rule.map(Arc::new)).collect::<Result<_, _>>()?;
        Ok(ServedCertificates {
            files: files.to_vec(),
            client_auth,
            by_name,
            default,
            bytes,
            expiries,
        })
    }

    fn choose(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        name.and_then(|name| self.find(name)).unwrap_or_else(|| Arc::clone(&self.default))
    }

    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let wildcard = || {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        };
        self.by_name.get(name).or_else(wildcard).cloned()
    }
}

/// Returns the client configuration for an upstream: its authorities, else those of the system, and the
/// certificate that the gateway presents.
pub fn upstream_config(
    ca: Option<&Path>,
    certificate: Option<&ClientCertificate>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let Some(files) = certificate else { return client_config(ca) };
    let trust = match ca {
        Some(path) => ServerTrust::from_pem(&read(path)?)
            .map_err(|error| TlsError::Authority { path: path.to_owned(), error })?,
        None => ServerTrust::system(),
    };
    let key_error = |error: String| TlsError::Key { path: files.key.clone(), error };
    let chain = chain(&files.cert, &read(&files.cert)?)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
        .map_err(|error| key_error(error.to_string()))?;
    trust.client_config(Some((chain, key))).map_err(|error| key_error(error.to_string()))
}

/// Returns a client configuration that trusts the authorities in `ca`, or else those of the system.
pub fn client_config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let Some(path) = ca else { return Ok(system_client_config()?) };
    let unusable = |error| TlsError::Authority { path: path.to_owned(), error };
    client_config_for_ca(&read(path)?).map_err(unusable)
}

fn certified(files: &CertificateFiles, cert: &[u8], key: &[u8]) -> Result<CertifiedKey, TlsError> {
    let chain = chain(&files.cert, cert)?;
    let unusable = |error: String| TlsError::Key { path: files.key.clone(), error };
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| unusable(error.to_string()))?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| unusable(error.to_string()))
}

fn chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) | Err(_) => Err(TlsError::NoCertificate { path: path.to_owned() }),
    }
}

/// Returns when the first certificate of a file expires.
///
/// # Errors
/// The file cannot be read, or has no certificate.
pub fn file_expiry(path: &Path) -> Result<Timestamp, TlsError> {
    Ok(expiry(&chain(path, &read(path)?)?))
}

/// Returns the end of validity of the first certificate; the greatest time if it cannot be read.
fn expiry(chain: &[CertificateDer<'_>]) -> Timestamp {
    let leaf = chain.first().map(|leaf| X509Certificate::from_der(leaf));
    let Some(Ok((_, leaf))) = leaf else { return Timestamp::MAX };
    Timestamp::from_second(leaf.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX)
}

/// Returns the DNS names of a certificate, including wildcards.
fn names(certified: &CertifiedKey) -> Vec<String> {
    let Some(leaf) = certified.cert.first() else { return Vec::new() };
    let Ok(parsed) = webpki::EndEntityCert::try_from(leaf) else { return Vec::new() };
    parsed.valid_dns_names().map(str::to_ascii_lowercase).collect()
}

/// Reads a file. The error names it.
pub fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path)
        .map_err(|error| TlsError::Read { path: path.to_owned(), error: error.to_string() })
}
