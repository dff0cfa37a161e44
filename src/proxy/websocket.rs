//! WebSocket tunnels. Opened only by a matching handshake, closed when the session ends.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use tokio::io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::auth::{Auth, Permit};
use crate::clock::UnixMillis;
use crate::connections::{
    ClientUpgrade, CloseHandle, CloseReason, ConnectionGuard, Evictable, OpeningStream,
};
use crate::route::ActivityFrames;
use crate::telemetry::{GaugeGuard, Limit};
use crate::upstream::{PendingTunnel, UpgradeResponse};

use super::access_log::AccessLogEntry;
use super::activity_reporter::ActivityReporter;
use super::body::{InboundBody, ResponseBody, TimedBody, Tracking};
use super::exchange_context::{ExchangeContext, OutgoingRequest, closed};
use super::frame_rhythm::FrameRhythm;
use super::frames::FrameScanner;
use super::local_response::ForwardError;
use super::progress_timeout::Deadlines;
use super::respond::PendingResponse;

/// Size in bytes of the relay buffer of each direction.
const BUFFER_SIZE: usize = 8 * 1024;

/// Time limit for sending the close frame and draining the client.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a half-closed tunnel stays open.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Close codes after which clients reconnect. After 1008 (policy violation) the user must log in.
const GOING_AWAY: u16 = 1001;
const SERVICE_RESTART: u16 = 1012;
const TRY_AGAIN_LATER: u16 = 1013;

/// Forwards a WebSocket handshake. The tunnel opens only after a 101 with the matching accept key. Any
/// other response is forwarded as an ordinary one, so no unchecked byte passes.
pub(super) async fn open(
    context: &ExchangeContext,
    outgoing: OutgoingRequest,
    client: ClientUpgrade,
    permit: &Permit,
    entry: &mut AccessLogEntry,
) -> Result<PendingResponse, ForwardError> {
    let route = permit.route();
    let request = outgoing.head.into_upstream_request(());
    let accept = request.headers.get(&header::SEC_WEBSOCKET_KEY).and_then(accept_key);
    let shared = context.auth.shared();
    // Registered before the handshake, so that a session end during the handshake is not missed.
    let mut tracked = context.track(permit)?;
    entry.record_forwarded(Instant::now().into_std());
    let switch = tokio::select! {
        biased;
        reason = closed(&mut tracked) => return Err(ForwardError::Closed(reason)),
        sent = context.upstreams.get(route)?.send_upgrade(outgoing.caller, &route.upstreams, request) => sent?,
    };
    entry.record_upstream_response(switch.endpoint());
    let (response, upstream) = match switch {
        UpgradeResponse::Switched(response, upstream) => (response, upstream),
        UpgradeResponse::Declined(response) => {
            let deadline = Deadlines::new(permit).connection_age;
            let tracking = tracked.map(|guard| Tracking::now(guard, None));
            let idle = route.limits.upstream_idle;
            let timed = |body| TimedBody::new(body, idle, deadline);
            let response = response.map(|body| ResponseBody::from_upstream(timed(body), tracking));
            return Ok(PendingResponse::from_upstream(response, permit));
        }
    };
    if accept.is_none() || response.headers().get(header::SEC_WEBSOCKET_ACCEPT) != accept.as_ref() {
        return Err(ForwardError::BadHandshake);
    }
    let open = GaugeGuard::new(&shared.metrics.websocket_tunnels);
    let reporter = FrameActivity::new(&context.auth, permit);
    let limits = TunnelLimits {
        // The registry limits the age of tracked connections.
        age: route.max_connection_age.filter(|_| tracked.is_none()),
        tracked,
        stop: match permit.session() {
            Some(_) => context.tunnels.stop.clone(),
            None => context.tunnels.public_stop.clone(),
        },
        permit: client.permit,
        idle_timer: Arc::new(IdleTimer::new(route.limits.tunnel_idle)),
        auth: context.auth.clone(),
    };
    context.tunnels.tracker.spawn(async move {
        let _open = open;
        relay(client.stream, upstream, limits, reporter).await;
    });
    Ok(PendingResponse::upgrade(switching_protocols(response)))
}

/// Reports the frames of a tunnel as activity.
struct FrameActivity {
    reporter: ActivityReporter,
    /// Whether only frames count that no timer sends.
    ignore_timers: bool,
    /// Whether frames of the upstream count as activity too.
    count_upstream: bool,
}

/// Reports the frames of one direction as activity.
struct FrameReporter<'a> {
    reporter: &'a ActivityReporter,
    /// `None` counts every frame.
    rhythm: Option<FrameRhythm>,
}

impl FrameReporter<'_> {
    /// Reports a data frame with this payload length.
    fn report(&mut self, length: u64) {
        let now = self.reporter.now();
        if self.rhythm.as_mut().is_none_or(|rhythm| rhythm.observe(length, now)) {
            self.reporter.touch();
        }
    }
}

impl FrameActivity {
    /// `None` if no frame counts as activity.
    fn new(auth: &Auth, permit: &Permit) -> Option<FrameActivity> {
        let (ignore_timers, count_upstream) = match permit.route().activity.websocket {
            ActivityFrames::None => return None,
            ActivityFrames::Irregular => (true, false),
            ActivityFrames::Client => (false, false),
            ActivityFrames::Any => (false, true),
        };
        let reporter = ActivityReporter::new(auth, permit.session()?, UnixMillis(0));
        Some(FrameActivity { reporter, ignore_timers, count_upstream })
    }

    fn of_client(&self) -> FrameReporter<'_> {
        let rhythm = self.ignore_timers.then(FrameRhythm::default);
        FrameReporter { reporter: &self.reporter, rhythm }
    }

    fn of_upstream(&self) -> Option<FrameReporter<'_>> {
        self.count_upstream.then_some(FrameReporter { reporter: &self.reporter, rhythm: None })
    }
}

/// Why the proxy closes a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CloseCause {
    Session(CloseReason),
    /// Graceful shutdown.
    Shutdown,
    /// The connection limiter needs room for another client.
    Evicted,
    /// No data in either direction within the idle timeout.
    Idle,
}

impl CloseCause {
    fn limit(self) -> Option<Limit> {
        match self {
            CloseCause::Session(_) | CloseCause::Shutdown => None,
            CloseCause::Evicted => Some(Limit::ConnectionEvicted),
            CloseCause::Idle => Some(Limit::WebSocketIdleTimeout),
        }
    }

    fn close_frame(self) -> [u8; 4] {
        close_frame(match self {
            CloseCause::Session(CloseReason::SessionEnded) => 1008,
            CloseCause::Session(CloseReason::MaxAge) | CloseCause::Idle => GOING_AWAY,
            // The new routes decide about the next connection.
            CloseCause::Session(CloseReason::RouteChanged) | CloseCause::Shutdown => {
                SERVICE_RESTART
            }
            CloseCause::Session(CloseReason::Unchecked) | CloseCause::Evicted => TRY_AGAIN_LATER,
        })
    }
}

/// Everything that closes a tunnel. Holds the connection permit while the tunnel is open.
struct TunnelLimits {
    tracked: Option<ConnectionGuard>,
    stop: CancellationToken,
    permit: Box<dyn Evictable>,
    idle_timer: Arc<IdleTimer>,
    age: Option<Duration>,
    auth: Auth,
}

impl TunnelLimits {
    async fn reached(&mut self) -> CloseCause {
        let cause = tokio::select! {
            reason = closed(&mut self.tracked) => CloseCause::Session(reason),
            () = max_age_reached(self.age) => CloseCause::Session(CloseReason::MaxAge),
            () = self.stop.cancelled() => CloseCause::Shutdown,
            () = self.permit.evicted() => CloseCause::Evicted,
            () = self.idle_timer.expired() => CloseCause::Idle,
        };
        if let Some(limit) = cause.limit() {
            self.auth.shared().metrics.limit(limit, None);
        }
        cause
    }
}

async fn max_age_reached(age: Option<Duration>) {
    match age {
        Some(age) => sleep(age).await,
        None => std::future::pending().await,
    }
}

/// Idle timeout of a tunnel, over both directions.
struct IdleTimer {
    timeout: Duration,
    started: Instant,
    /// Milliseconds from `started` to the last relayed data.
    last_activity: AtomicU64,
}

impl IdleTimer {
    /// A `timeout` of zero never expires.
    fn new(timeout: Duration) -> IdleTimer {
        IdleTimer { timeout, started: Instant::now(), last_activity: AtomicU64::new(0) }
    }

    fn record_activity(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_activity.store(now, Ordering::Relaxed);
    }

    /// Waits until the timeout expires.
    async fn expired(&self) {
        if self.timeout.is_zero() {
            std::future::pending::<()>().await;
        }
        loop {
            let last_activity = Duration::from_millis(self.last_activity.load(Ordering::Relaxed));
            let left = (last_activity + self.timeout).saturating_sub(self.started.elapsed());
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

/// Relays data until either side closes or a limit is reached.
async fn relay(
    client: OpeningStream,
    upstream: PendingTunnel<InboundBody>,
    mut limits: TunnelLimits,
    activity: Option<FrameActivity>,
) {
    let Some(client) = client.await else { return };
    let (mut from_client, mut to_client) = io::split(client);
    let (mut from_upstream, mut to_upstream) = io::split(upstream.open());
    let mut upstream_frames = FrameScanner::default();
    let activity = activity.as_ref();
    let [client_handle, upstream_handle] =
        [(); 2].map(|()| limits.tracked.as_ref().map(ConnectionGuard::close_handle));
    let idle_timer = Arc::clone(&limits.idle_timer);
    let mut client_frames = FrameScanner::default();
    let upstream_copy = copy(
        &mut from_client,
        &mut to_upstream,
        &mut client_frames,
        client_handle,
        &idle_timer,
        activity.map(FrameActivity::of_client),
    );
    let client_copy = copy(
        &mut from_upstream,
        &mut to_client,
        &mut upstream_frames,
        upstream_handle,
        &idle_timer,
        activity.and_then(FrameActivity::of_upstream),
    );
    let cause = tokio::select! {
        result = relay_both(upstream_copy, client_copy) => {
            debug!(clean = result.is_ok(), "tunnel closed");
            return;
        }
        cause = limits.reached() => cause,
    };
    send_close(&mut from_client, &mut to_client, &upstream_frames, cause.close_frame()).await;
    debug!(?cause, "tunnel ended");
}

/// Waits for both directions. When one ends, the other gets [`HALF_CLOSE_TIMEOUT`]: WebSocket has no
/// half-closed state (RFC 6455 7.1.1), and such a tunnel would never end.
async fn relay_both(
    upstream_copy: impl Future<Output = io::Result<()>>,
    client_copy: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let (mut upstream_copy, mut client_copy) = (pin!(upstream_copy), pin!(client_copy));
    tokio::select! {
        result = upstream_copy.as_mut() => {
            result?;
            timeout(HALF_CLOSE_TIMEOUT, client_copy).await?
        }
        result = client_copy.as_mut() => {
            result?;
            timeout(HALF_CLOSE_TIMEOUT, upstream_copy).await?
        }
    }
}

/// Copies one direction and tracks the frame boundary of the bytes written. The future may be dropped in the
/// middle of a frame, where a close frame would be read as payload. After the session has ended it stays
/// pending, and `TunnelLimits` closes the tunnel.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    frames: &mut FrameScanner,
    mut ending: Option<CloseHandle>,
    idle_timer: &IdleTimer,
    mut reporter: Option<FrameReporter<'_>>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        let mut rest = match from.read(&mut buffer).await? {
            0 => return to.shutdown().await,
            read => &buffer[..read],
        };
        while !rest.is_empty() {
            if let Some(ending) = &mut ending
                && ending.allowed().await.is_err()
            {
                return std::future::pending().await;
            }
            let (taken, left) = rest.split_at(to.write(rest).await?);
            if taken.is_empty() {
                return Err(io::ErrorKind::WriteZero.into());
            }
            idle_timer.record_activity();
            frames.advance(taken);
            rest = left;
        }
        to.flush().await?;
        if let Some(reporter) = &mut reporter
            && let Some(length) = frames.take_data()
        {
            reporter.report(length);
        }
    }
}

/// Sends the close frame (RFC 6455 7.4.1), then drains the client. Closing a socket with unread data
/// resets it and discards the close frame.
async fn send_close(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    frames: &FrameScanner,
    close: [u8; 4],
) {
    let closing = async {
        if frames.at_boundary() {
            to.write_all(&close).await?;
        }
        to.shutdown().await?;
        io::copy(from, &mut io::sink()).await
    };
    // The tunnel closes even if the client does not read.
    let _ = timeout(CLOSE_TIMEOUT, closing).await;
}

/// A complete close frame: final, opcode 8, two bytes of payload (RFC 6455 5.5.1).
fn close_frame(code: u16) -> [u8; 4] {
    let [high, low] = code.to_be_bytes();
    [0x88, 0x02, high, low]
}

fn switching_protocols<B>(from: Response<B>) -> Response<ResponseBody> {
    let (parts, _) = from.into_parts();
    let mut response = Response::new(ResponseBody::Local(Full::default()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = parts.headers;
    response
}

fn accept_key(key: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6455_1_3_accept_key_of_the_sample_nonce() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept_key(&key).expect("ASCII"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
