//! A certificate authority for development and the demo.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// The files of [`make`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevCertificate {
    /// For the trust store of the developer's browser only.
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Certificates that cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum DevCaError {
    #[error("{path}: {error}")]
    File { path: PathBuf, error: std::io::Error },
    #[error("the certificate cannot be created: {0}")]
    Make(#[from] rcgen::Error),
}

/// Creates a CA and a certificate for `hosts` in `dir`: `ca.pem`, `doorward.pem`, `doorward.key`.
///
/// The key of the CA is not stored, so it can never sign a certificate for another site.
pub fn make(dir: &Path, hosts: &[String]) -> Result<DevCertificate, DevCaError> {
    fs::create_dir_all(dir).map_err(|error| DevCaError::File { path: dir.to_owned(), error })?;
    let ca_key = KeyPair::generate()?;
    let ca_params = authority();
    let ca = ca_params.self_signed(&ca_key)?;
    let key = KeyPair::generate()?;
    let leaf = leaf(hosts)?.signed_by(&key, &Issuer::new(ca_params, ca_key))?;
    let files = DevCertificate {
        ca: dir.join("ca.pem"),
        cert: dir.join("doorward.pem"),
        key: dir.join("doorward.key"),
    };
    write(&files.ca, 0o644, &ca.pem())?;
    write(&files.cert, 0o644, &leaf.pem())?;
    write(&files.key, 0o600, &key.serialize_pem())?;
    Ok(files)
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "doorward development CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(hosts: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(hosts.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, "doorward development");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2028, 1, 1);
    Ok(params)
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), DevCaError> {
    let failed = |error| DevCaError::File { path: path.to_owned(), error };
    // A truncated file would keep its old permissions.
    fs::remove_file(path).or_else(|error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        if missing { Ok(()) } else { Err(failed(error)) }
    })?;
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}
