//! WebSocket tunnels: opened only by a matching handshake, closed when the session ends.

use aws_lc_rs::digest;
use data_encoding::BASE64;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tracing::debug;

use crate::guard::{Permit, Watched};
use crate::http::hygiene;
use crate::route::Route;
use crate::upstream::{PendingTunnel, Switch};

use super::answers::ForwardError;
use super::body::{RequestBody, ResponseBody};
use super::line::Line;
use super::{Gateway, UpstreamHead, keep_private};

/// RFC 6455 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

impl Gateway {
    /// Forwards a handshake. The tunnel opens only after a 101 whose accept value matches: an
    /// upstream that answers anything else has sent an ordinary answer, and no byte slips by.
    pub(super) async fn tunnel(
        &self,
        head: UpstreamHead,
        client: OnUpgrade,
        route: &Route,
        permit: &Permit,
        line: &mut Line,
    ) -> Result<Response<ResponseBody>, ForwardError> {
        let request = head.into_request(());
        let accept = request.headers().get(header::SEC_WEBSOCKET_KEY).map(accept_value);
        let shared = self.guard.shared();
        // Registered before it opens: an end that comes meanwhile is not missed.
        let watched = permit.session().map(|key| shared.live.watch(key));
        let switch = self.upstreams.of(route)?.send_upgrade(&route.upstreams, request).await?;
        line.upstream_answered();
        let (mut response, upstream) = match switch {
            Switch::Switched(response, upstream) => (response, upstream),
            Switch::Answered(mut response) => {
                hygiene::clean(response.headers_mut(), &shared.cookies);
                keep_private(&mut response, permit);
                return Ok(response.map(ResponseBody::Upstream));
            }
        };
        if accept.is_none()
            || response.headers().get(header::SEC_WEBSOCKET_ACCEPT) != accept.as_ref()
        {
            return Err(ForwardError::BadHandshake);
        }
        hygiene::clean(response.headers_mut(), &shared.cookies);
        let tunnels = shared.metrics.tunnels.clone();
        tokio::spawn(async move {
            tunnels.inc();
            carry(client, upstream, watched).await;
            tunnels.dec();
        });
        Ok(switching(response))
    }
}

/// Carries bytes until either side ends or the session does.
async fn carry(client: OnUpgrade, upstream: PendingTunnel<RequestBody>, watched: Option<Watched>) {
    let Ok(client) = client.await else { return };
    let Ok(mut upstream) = upstream.open().await else { return };
    let mut client = TokioIo::new(client);
    let copy = copy_bidirectional(&mut client, &mut upstream);
    let whole = match watched {
        None => copy.await.is_ok(),
        Some(mut watched) => tokio::select! {
            result = copy => result.is_ok(),
            () = watched.cut() => false,
        },
    };
    debug!(whole, "tunnel closed");
}

fn switching<B>(from: Response<B>) -> Response<ResponseBody> {
    let (parts, _) = from.into_parts();
    let mut response = Response::new(ResponseBody::Own(Full::default()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = parts.headers;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    response
}

fn accept_value(key: &HeaderValue) -> HeaderValue {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(GUID);
    let text = BASE64.encode(context.finish().as_ref());
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6455_1_3_the_accept_value_of_the_sample_nonce() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept_value(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
