//! Whose certificates a server of the store may show, and what we show it. There is no way to switch the
//! check off.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsConnector;

use super::RedisSettings;
use crate::store::OpenError;

/// One for all servers of the store, which are trusted alike. The files are read here, once.
pub(super) fn connector(settings: &RedisSettings) -> Result<TlsConnector, OpenError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| OpenError::Redis(format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(trusted(settings.ca.as_deref())?);
    Ok(Arc::new(introduced(builder, settings)?).into())
}

fn introduced(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    settings: &RedisSettings,
) -> Result<ClientConfig, OpenError> {
    let (cert, key) = match (&settings.client_cert, &settings.client_key) {
        (None, None) => return Ok(builder.with_no_client_auth()),
        (Some(cert), Some(key)) => (cert, key),
        (Some(_), None) | (None, Some(_)) => {
            return Err(OpenError::Redis(
                "a client certificate and its key go together".to_owned(),
            ));
        }
    };
    let parsed = PrivateKeyDer::from_pem_slice(&read(key)?);
    let parsed = parsed.map_err(|error| unusable(key, &error))?;
    let config = builder.with_client_auth_cert(certificates(cert)?, parsed);
    config.map_err(|error| unusable(cert, &error))
}

/// The authorities of the one file, or the system's.
fn trusted(ca: Option<&Path>) -> Result<RootCertStore, OpenError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(path, &error))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let read = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read).collect();
    let found = found.map_err(|error| unusable(path, &error))?;
    if found.is_empty() {
        Err(unusable(path, &"it holds no certificate in PEM"))
    } else {
        Ok(found)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, OpenError> {
    std::fs::read(path).map_err(|error| OpenError::Secret { path: path.to_owned(), error })
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> OpenError {
    OpenError::Redis(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_vouches_for_nobody_is_refused_at_start() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ca.pem");
        for text in
            ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            std::fs::write(&path, text).expect("written");
            let error = trusted(Some(&path)).expect_err("it vouches for nobody");
            assert!(error.to_string().contains("ca.pem"), "{error}");
        }
    }
}
