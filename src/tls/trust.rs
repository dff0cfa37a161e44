//! TLS client configurations. Certificate verification cannot be disabled.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Certificate authorities that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("not a PEM file of certificates: {0}")]
    Pem(String),
    #[error("no certificate in the CA file")]
    Empty,
    #[error("not a usable CA certificate: {0}")]
    Certificate(rustls::Error),
    #[error("TLS cannot be set up: {0}")]
    Provider(rustls::Error),
    #[error("the certificates cannot be used: {0}")]
    Verifier(String),
    #[error("the key does not belong to the certificate: {0}")]
    Key(rustls::Error),
}

/// The certificate chain and key that a client presents.
pub type ClientIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Trusts the certificate authorities of the system. On a system without any, every connection fails.
pub fn system_client_config() -> Result<Arc<ClientConfig>, TrustError> {
    ServerTrust::system().client_config(None)
}

/// Trusts only the certificates in `pem`, as authorities and as certificates of a server.
pub fn client_config_for_ca(pem: &[u8]) -> Result<Arc<ClientConfig>, TrustError> {
    ServerTrust::from_pem(pem)?.client_config(None)
}

/// The servers that a client trusts.
pub(super) struct ServerTrust {
    roots: RootCertStore,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerTrust {
    pub(super) fn system() -> ServerTrust {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        ServerTrust { roots, pinned: Vec::new() }
    }

    pub(super) fn from_pem(pem: &[u8]) -> Result<ServerTrust, TrustError> {
        let mut trust = ServerTrust { roots: RootCertStore::empty(), pinned: Vec::new() };
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| TrustError::Pem(error.to_string()))?;
            trust.roots.add(certificate.clone()).map_err(TrustError::Certificate)?;
            trust.pinned.push(certificate);
        }
        if trust.pinned.is_empty() { Err(TrustError::Empty) } else { Ok(trust) }
    }

    pub(super) fn client_config(
        self,
        identity: Option<ClientIdentity>,
    ) -> Result<Arc<ClientConfig>, TrustError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Provider)?;
        let builder = if self.pinned.is_empty() {
            builder.with_root_certificates(self.roots)
        } else {
            let verifier = WebPkiServerVerifier::builder_with_provider(self.roots.into(), provider)
                .build()
                .map_err(|error| TrustError::Verifier(error.to_string()))?;
            let verifier = PinningVerifier { pinned: self.pinned, verifier };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        };
        Ok(Arc::new(match identity {
            Some((chain, key)) => {
                builder.with_client_auth_cert(chain, key).map_err(TrustError::Key)?
            }
            None => builder.with_no_client_auth(),
        }))
    }
}

/// Accepts a server whose certificate is one of the configured ones, and else verifies the chain.
///
/// The usual self-signed certificate (`openssl req -x509`) is marked as an authority and often has no
/// name, so a chain from it to itself is invalid. The server still has to prove that it has the key.
#[derive(Debug)]
struct PinningVerifier {
    pinned: Vec<CertificateDer<'static>>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for PinningVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.pinned.iter().any(|pinned| pinned == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_certificate_is_an_error() {
        assert!(matches!(client_config_for_ca(b""), Err(TrustError::Empty)));
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(client_config_for_ca(broken), Err(TrustError::Certificate(_))));
    }
}
