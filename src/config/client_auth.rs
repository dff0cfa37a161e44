//! `[[tls.client_auth]]`: client certificates of the TLS connections to a host.

use std::path::PathBuf;

use super::diagnostics::KeyDefault::{Required, Value};
use super::diagnostics::{Diagnostics, Span};
use super::oidc::user_prefix;
use super::reader::Reader;
use super::unknown::unknown_value;
use crate::message::HostPattern;

const SECTION: &str = "tls.client_auth";

/// Client certificates of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    pub host: HostPattern,
    /// The authorities that sign the certificates.
    pub ca: PathBuf,
    /// Revocation lists of the authorities.
    pub crl: Option<PathBuf>,
    /// Whether a connection without a certificate is refused.
    pub is_required: bool,
    /// The name of a certificate that becomes the user name.
    pub user: CertificateName,
    /// Precedes every user name.
    pub user_prefix: String,
}

/// A name in a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateName {
    /// Common name of the subject.
    CommonName,
    /// Subject alternative names.
    Email,
    Uri,
    Dns,
}

/// A section and its location.
pub(super) struct ClientCertificatesAt {
    pub(super) settings: ClientCertificates,
    pub(super) span: Span,
}

/// Registers the keys, for a file without a section.
pub(super) fn register_keys(diagnostics: &Diagnostics<'_>) {
    client_auth(Reader::empty(diagnostics, SECTION));
}

pub(super) fn sections(tls: &mut Reader<'_>) -> Option<Vec<ClientCertificatesAt>> {
    let sections = tls.sections("client_auth", SECTION)?;
    let read: Vec<_> = sections.into_iter().map(client_auth).collect();
    let read: Vec<ClientCertificatesAt> = read.into_iter().collect::<Option<_>>()?;
    for (index, one) in read.iter().enumerate() {
        if read[..index].iter().any(|other| other.settings.host == one.settings.host) {
            tls.diagnostics.error(
                &one.span,
                format!("{} has two [[{SECTION}]]", one.settings.host),
                "write one, with all authorities in one file",
            );
        }
    }
    Some(read)
}

fn client_auth(mut section: Reader<'_>) -> Option<ClientCertificatesAt> {
    let host = section.text("host", Required(r#""api.example.com""#), HostPattern::parse);
    let ca = section.file("ca", Required(r#""certs/clients-ca.pem""#));
    let mode = section.text("mode", Value(r#""require""#), mode);
    let map = section.text("map", Value(r#""cn""#), certificate_name);
    let crl = section.optional_file("crl", r#""certs/clients-crl.pem""#);
    let prefix = section.text("user_prefix", Value(r#""cert-""#), user_prefix);
    let settings = ClientCertificates {
        host: host?.value,
        ca: ca?.value,
        crl: crl?.map(|crl| crl.value),
        is_required: mode?.value,
        user: map?.value,
        user_prefix: prefix?.value,
    };
    Some(ClientCertificatesAt { settings, span: section.span.clone() })
}

fn mode(text: &str) -> Result<bool, String> {
    match text {
        "require" => Ok(true),
        "allow" => Ok(false),
        other => Err(unknown_value(other, &["require", "allow"])),
    }
}

fn certificate_name(text: &str) -> Result<CertificateName, String> {
    match text {
        "cn" => Ok(CertificateName::CommonName),
        "email" => Ok(CertificateName::Email),
        "uri" => Ok(CertificateName::Uri),
        "dns" => Ok(CertificateName::Dns),
        other => Err(unknown_value(other, &["cn", "email", "uri", "dns"])),
    }
}
