//! TLS to the servers of the client: trusted authorities and the client certificate. Verification
//! cannot be disabled.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsConnector;

use super::errors::InvalidSettings;
use super::settings::RedisSettings;

/// Returns the connector for all servers of the client. Reads the files once.
pub(super) fn connector(settings: &RedisSettings) -> Result<TlsConnector, InvalidSettings> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| InvalidSettings(format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(root_store(settings.ca.as_deref())?);
    Ok(Arc::new(with_client_auth(builder, settings)?).into())
}

fn with_client_auth(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    settings: &RedisSettings,
) -> Result<ClientConfig, InvalidSettings> {
    let (cert, key) = match (&settings.client_cert, &settings.client_key) {
        (None, None) => return Ok(builder.with_no_client_auth()),
        (Some(cert), Some(key)) => (cert, key),
        (Some(_), None) | (None, Some(_)) => {
            return Err(InvalidSettings(
                "a client certificate needs its key, and a key needs its certificate".to_owned(),
            ));
        }
    };
    let parsed = PrivateKeyDer::from_pem_slice(&read(key)?);
    let parsed = parsed.map_err(|error| tls_error(key, &error))?;
    let config = builder.with_client_auth_cert(read_certificates(cert)?, parsed);
    config.map_err(|error| tls_error(cert, &error))
}

/// Returns the authorities of the file, or the system's.
fn root_store(ca: Option<&Path>) -> Result<RootCertStore, InvalidSettings> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| tls_error(path, &error))?;
    }
    Ok(roots)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, InvalidSettings> {
    let read = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read).collect();
    let found = found.map_err(|error| tls_error(path, &error))?;
    if found.is_empty() {
        Err(tls_error(path, &"it contains no PEM certificate"))
    } else {
        Ok(found)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, InvalidSettings> {
    std::fs::read(path).map_err(|error| tls_error(path, &error))
}

fn tls_error(path: &Path, error: &dyn std::fmt::Display) -> InvalidSettings {
    InvalidSettings(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_without_certificates_is_rejected_at_startup() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ca.pem");
        for text in
            ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            std::fs::write(&path, text).expect("written");
            let error = root_store(Some(&path)).expect_err("no certificate");
            assert!(error.to_string().contains("ca.pem"), "{error}");
        }
    }
}
