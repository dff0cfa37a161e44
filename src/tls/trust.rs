//! TLS client configurations. Certificate verification cannot be disabled.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

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
}

/// Trusts the certificate authorities of the system. On a system without any, every connection fails.
pub fn system_client_config() -> Result<Arc<ClientConfig>, TrustError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    client(roots)
}

/// Trusts only the authorities in `pem`.
pub fn client_config_for_ca(pem: &[u8]) -> Result<Arc<ClientConfig>, TrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| TrustError::Pem(error.to_string()))?;
        roots.add(certificate).map_err(TrustError::Certificate)?;
    }
    if roots.is_empty() { Err(TrustError::Empty) } else { client(roots) }
}

fn client(roots: RootCertStore) -> Result<Arc<ClientConfig>, TrustError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Provider)?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
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
