//! The client certificate of a connection. It was verified in the handshake, and is verified again when
//! authorities or revocation lists change.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use tracing::info;

use crate::proxy::{ConnectionInfo, PresentedCertificate};
use crate::secret::sha256;
use crate::session::TokenId;
use crate::tls::Certificates;

use super::connection_activity::ConnectionActivity;

/// Records the certificate of a connection to the host, and evicts the connection when the certificate is no
/// longer accepted. Does nothing without a certificate.
pub(super) fn follow(
    certificates: &Arc<Certificates>,
    host: String,
    chain: &[CertificateDer<'static>],
    connection: &ConnectionInfo,
    activity: &Arc<ConnectionActivity>,
) {
    let (Some(leaf), Some(rule)) = (chain.first(), certificates.client_auth(&host)) else { return };
    let identity = rule.identity(leaf).map(Arc::new);
    let certificate = PresentedCertificate { id: id(leaf), identity };
    let (peer, handle) = (connection.peer, certificate.id.handle());
    connection.set_certificate(certificate);
    let (certificates, chain) = (Arc::clone(certificates), chain.to_vec());
    let watched = Arc::downgrade(activity);
    let task = tokio::spawn(async move {
        let error = certificates.until_refused(&host, &chain).await;
        if let Some(activity) = watched.upgrade() {
            info!(
                event = "client-certificate.ended",
                %peer,
                host,
                certificate = handle,
                error,
                "a client certificate is no longer accepted; its connection is closed"
            );
            activity.evict();
        }
    });
    activity.keep_watch(task);
}

fn id(leaf: &CertificateDer<'_>) -> TokenId {
    let mut id = [0; 16];
    id.copy_from_slice(&sha256(leaf)[..16]);
    TokenId(id)
}
