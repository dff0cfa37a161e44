//! Client certificates, per host. Sessions of such a host are never resumed: a resumption would skip the
//! verification of the certificate.

use std::fmt;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::{CertificateName, ClientCertificates};
use crate::secret::sha256;
use crate::session::identity_fields::check_user_name;
use crate::session::{CERTIFICATE_METHOD, ExternalLogin, Identity, Provider};

use super::trust::TrustError;
use super::{TlsError, chain, listener_builder, provider, read};

/// The rule of one host, with the authorities and revocation lists as read from their files.
pub struct ClientAuthRule {
    settings: ClientCertificates,
    verifier: Arc<dyn ClientCertVerifier>,
    /// Names the authorities in account IDs.
    authorities: String,
}

impl fmt::Debug for ClientAuthRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientAuthRule({})", self.settings.host)
    }
}

impl ClientAuthRule {
    /// Reads the files, and appends their contents to `bytes`.
    ///
    /// # Errors
    /// A file cannot be used. A file without an authority would admit every certificate or none.
    pub(super) fn read(
        settings: &ClientCertificates,
        bytes: &mut Vec<Vec<u8>>,
    ) -> Result<ClientAuthRule, TlsError> {
        let pem = read(&settings.ca)?;
        let mut roots = RootCertStore::empty();
        for authority in chain(&settings.ca, &pem)? {
            roots.add(authority).map_err(|error| TlsError::ClientAuthority {
                path: settings.ca.clone(),
                error: TrustError::Certificate(error),
            })?;
        }
        let authorities = HEXLOWER.encode(&sha256(&pem)[..8]);
        bytes.push(pem);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider());
        let verifier = match &settings.crl {
            Some(_) => verifier
                .with_crls(revocation_lists(settings, bytes)?)
                .enforce_revocation_expiration(),
            None => verifier,
        };
        let verifier = match settings.is_required {
            true => verifier,
            false => verifier.allow_unauthenticated(),
        };
        let verifier = verifier.build().map_err(|error| TlsError::ClientAuthority {
            path: settings.ca.clone(),
            error: TrustError::Verifier(error.to_string()),
        })?;
        Ok(ClientAuthRule { settings: settings.clone(), verifier, authorities })
    }

    pub(super) fn settings(&self) -> ClientCertificates {
        self.settings.clone()
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        self.settings.host.matches(name)
    }

    /// Returns the TLS configuration of a connection to the host.
    pub(super) fn server_config(
        &self,
        certificates: Arc<dyn ResolvesServerCert>,
    ) -> Result<ServerConfig, TlsError> {
        let builder = listener_builder()?.with_client_cert_verifier(Arc::clone(&self.verifier));
        let mut config = builder.with_cert_resolver(certificates);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Verifies a chain again, with the current authorities and revocation lists.
    pub(super) fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let (leaf, rest) = chain
            .split_first()
            .ok_or_else(|| rustls::Error::General("no certificate".to_owned()))?;
        self.verifier.verify_client_cert(leaf, rest, UnixTime::now()).map(|_| ())
    }

    /// Returns the user that a verified certificate names; `None` if it has no such name, or several, or one
    /// that apps would split.
    pub fn identity(&self, leaf: &CertificateDer<'_>) -> Option<Identity> {
        let name = self.settings.user.find(leaf)?;
        let user = format!("{}{name}", self.settings.user_prefix);
        check_user_name(&user).ok()?;
        let login = ExternalLogin {
            provider: CERTIFICATE_METHOD.to_owned(),
            account: format!("cert:{}#{user}", self.authorities),
            ..ExternalLogin::default()
        };
        let provider = Provider::External(Box::new(login));
        Some(Identity { user, provider, ..Identity::default() })
    }
}

fn revocation_lists(
    settings: &ClientCertificates,
    bytes: &mut Vec<Vec<u8>>,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let Some(path) = &settings.crl else { return Ok(Vec::new()) };
    let pem = read(path)?;
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&pem).collect();
    let lists = lists.ok().filter(|lists| !lists.is_empty());
    let lists = lists.ok_or_else(|| TlsError::NoRevocationList { path: path.clone() })?;
    bytes.push(pem);
    Ok(lists)
}

impl CertificateName {
    /// Returns the only name of this kind in a certificate. Of a URI, the part after the scheme.
    fn find(self, leaf: &CertificateDer<'_>) -> Option<String> {
        let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
        if self == CertificateName::CommonName {
            let names = leaf.subject().iter_common_name();
            return only(names.filter_map(|name| name.as_str().ok()));
        }
        let names = leaf.subject_alternative_name().ok()??;
        only(names.value.general_names.iter().filter_map(|name| self.select(name)))
    }

    fn select<'a>(self, name: &'a GeneralName<'_>) -> Option<&'a str> {
        if let (CertificateName::Email, GeneralName::RFC822Name(name))
        | (CertificateName::Dns, GeneralName::DNSName(name)) = (self, name)
        {
            return Some(name);
        }
        if let (CertificateName::Uri, GeneralName::URI(uri)) = (self, name) {
            return uri.split_once("://").map(|(_, rest)| rest);
        }
        None
    }
}

/// Another order of several names would be another user.
fn only<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<String> {
    let name = names.next()?;
    names.next().is_none().then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;
    use crate::message::HostPattern;

    fn settings(directory: &tempfile::TempDir) -> ClientCertificates {
        ClientCertificates {
            host: HostPattern::parse("app.test").expect("a host"),
            ca: directory.path().join("ca.pem"),
            crl: None,
            is_required: true,
            user: CertificateName::CommonName,
            user_prefix: "cert-".to_owned(),
        }
    }

    #[test]
    fn a_file_without_an_authority_or_list_does_not_load() {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = settings(&directory);
        let load = |settings: &ClientCertificates| ClientAuthRule::read(settings, &mut Vec::new());
        assert!(matches!(load(&settings), Err(TlsError::Read { .. })));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (text, is_empty) in [("", true), ("text", true), (broken, false)] {
            std::fs::write(&settings.ca, text).expect("written");
            let error = load(&settings).expect_err("refused");
            assert_eq!(matches!(error, TlsError::NoCertificate { .. }), is_empty, "{error}");
        }
        let key = KeyPair::generate().expect("a key");
        let authority = CertificateParams::default().self_signed(&key).expect("a certificate");
        std::fs::write(&settings.ca, authority.pem()).expect("written");
        assert!(load(&settings).is_ok());
        let list = directory.path().join("list.pem");
        let settings = ClientCertificates { crl: Some(list.clone()), ..settings };
        assert!(matches!(load(&settings), Err(TlsError::Read { .. })));
        for text in ["", "text", &authority.pem()] {
            std::fs::write(&list, text).expect("written");
            assert!(matches!(load(&settings), Err(TlsError::NoRevocationList { .. })), "{text}");
        }
    }

    #[test]
    fn the_only_name_of_its_kind_becomes_the_user() {
        let named = |kind: CertificateName, names: &[&str]| {
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            for name in names {
                let text = || (*name).try_into().expect("ASCII");
                match kind {
                    CertificateName::CommonName => {
                        params.distinguished_name.push(DnType::CommonName, *name)
                    }
                    CertificateName::Email => {
                        params.subject_alt_names.push(SanType::Rfc822Name(text()))
                    }
                    CertificateName::Uri => params.subject_alt_names.push(SanType::URI(text())),
                    CertificateName::Dns => params.subject_alt_names.push(SanType::DnsName(text())),
                }
            }
            let key = KeyPair::generate().expect("a key");
            let leaf = params.self_signed(&key).expect("a certificate");
            [
                CertificateName::CommonName,
                CertificateName::Email,
                CertificateName::Uri,
                CertificateName::Dns,
            ]
            .map(|kind| kind.find(leaf.der()))
        };
        let only = |at: usize, name: &str| {
            let mut expected = [None, None, None, None];
            expected[at] = Some(name.to_owned());
            expected
        };
        assert_eq!(named(CertificateName::CommonName, &["backup"]), only(0, "backup"));
        assert_eq!(named(CertificateName::Email, &["a@b.test"]), only(1, "a@b.test"));
        let workload = named(CertificateName::Uri, &["spiffe://b.test/ns/prod"]);
        assert_eq!(workload, only(2, "b.test/ns/prod"));
        assert_eq!(named(CertificateName::Dns, &["a.test"]), only(3, "a.test"));
        assert_eq!(named(CertificateName::Dns, &["a.test", "b.test"]), [None, None, None, None]);
        assert_eq!(named(CertificateName::Uri, &["urn:uuid:1"]), [None, None, None, None]);
    }
}
