//! WebSocket tunnels: opened only by a matching handshake, closed when the session ends.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest;
use data_encoding::BASE64;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::clock::UnixMillis;
use crate::guard::{Cut, Ending, Guard, Permit, Watched};
use crate::route::{Frames as Talk, Route};
use crate::session::SessionKey;
use crate::telemetry::{Counted, Limit};
use crate::upstream::{PendingTunnel, Switch};

use super::Gateway;
use super::answers::ForwardError;
use super::body::{RequestBody, ResponseBody, Watch};
use super::forward::{self, Asked, Upgrade, keep_private, outbound, session_end};
use super::frames::Frames;
use super::line::Line;

/// RFC 6455 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// How much is read from an upstream at a time, in bytes.
const PIECE: usize = 8 * 1024;

/// How long a client may take to hear that its session is over.
const GOODBYE: Duration = Duration::from_millis(500);

/// How long one direction of a tunnel may go on alone.
const HALF_OPEN: Duration = Duration::from_secs(5);

/// A whole close frame with code 1001: this gateway stops, and the client may connect to another.
const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// What outlives the requests of one worker. A drain waits for all that the tracker knows; `stop` tells
/// tunnels to end, for by themselves they never would.
pub struct Tunnels {
    pub tracker: TaskTracker,
    pub stop: CancellationToken,
}

/// A connection's place among all, as a tunnel keeps it: the server is done with the connection once it
/// became one. It comes with the request that asks for it.
#[derive(Clone)]
pub struct Seat(pub Arc<dyn Hold>);

/// Given up when the last of it is dropped.
pub trait Hold: Send + Sync + 'static {
    /// Waits until somebody else needs the place.
    fn wanted(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

trait Reader: AsyncRead + Unpin {}
impl<T: AsyncRead + Unpin> Reader for T {}
trait Writer: AsyncWrite + Unpin {}
impl<T: AsyncWrite + Unpin> Writer for T {}

impl Gateway {
    /// Forwards a handshake. The tunnel opens only after a 101 whose accept value matches: an
    /// upstream that answers anything else has sent an ordinary answer, and no byte slips by.
    pub(super) async fn tunnel(
        &self,
        asked: Asked,
        client: Upgrade,
        route: &Route,
        permit: &Permit,
        line: &mut Line,
    ) -> Result<Response<ResponseBody>, ForwardError> {
        let request = asked.head.into_request(());
        let accept = request.headers().get(header::SEC_WEBSOCKET_KEY).map(accept_value);
        let shared = self.guard.shared();
        // Registered before it opens: an end that comes meanwhile is not missed.
        let mut watched = self.watch(permit, route)?;
        let switch = tokio::select! {
            biased;
            why = session_end(&mut watched) => return Err(ForwardError::Cut(why)),
            sent = self.upstreams.of(route)?.send_upgrade(asked.claim, &route.upstreams, request) => sent?,
        };
        line.upstream_answered();
        let (mut response, upstream) = match switch {
            Switch::Switched(response, upstream) => (response, upstream),
            Switch::Answered(mut response) => {
                self.clean(&mut response);
                keep_private(&mut response, permit);
                let end = forward::Ends::of(route, permit).age;
                return Ok(response.map(|body| outbound(body, route, watched.map(Watch::Now), end)));
            }
        };
        if accept.is_none()
            || response.headers().get(header::SEC_WEBSOCKET_ACCEPT) != accept.as_ref()
        {
            return Err(ForwardError::BadHandshake);
        }
        self.clean(&mut response);
        let open = Counted::one_of(&shared.metrics.tunnels);
        let pulse = Pulse::of(self, permit, route);
        let ends = Ends {
            // The register knows the age of those it has.
            age: route.max_connection_age.filter(|_| watched.is_none()),
            watched,
            stop: self.tunnels.stop.clone(),
            seat: client.seat,
            silence: Arc::new(Silence::new(route.limits.tunnel_idle)),
            guard: self.guard.clone(),
        };
        self.tunnels.tracker.spawn(async move {
            let _open = open;
            carry(client.on, upstream, ends, pulse).await;
        });
        Ok(switching(response))
    }
}

/// Keeps the session of a tunnel from idling out while its people talk.
struct Pulse {
    guard: Guard,
    session: SessionKey,
    /// Whether what the app says counts too.
    both: bool,
    every: Duration,
    last: AtomicU64,
}

impl Pulse {
    /// `None` where no frame counts.
    fn of(gateway: &Gateway, permit: &Permit, route: &Route) -> Option<Pulse> {
        let both = match route.activity.websocket {
            Talk::None => return None,
            Talk::Client => false,
            Talk::Any => true,
        };
        let (guard, session) = (gateway.guard.clone(), permit.session()?);
        let every = guard.shared().policy.touch_every();
        Some(Pulse { guard, session, both, every, last: AtomicU64::new(0) })
    }

    /// Notes activity, as seldom as requests do.
    fn beat(&self) {
        let now = self.guard.shared().clock.now();
        let last = UnixMillis(self.last.load(Ordering::Relaxed));
        if now.since(last) < self.every {
            return;
        }
        self.last.store(now.0, Ordering::Relaxed);
        let (guard, session) = (self.guard.clone(), self.session);
        // What fails is counted, and the next frame tries again.
        tokio::spawn(async move { guard.note_activity(&session).await.unwrap_or_default() });
    }
}

/// Why a tunnel ends that neither side ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Session(Cut),
    /// The gateway stops.
    Stop,
    /// Another connection needs the place.
    Wanted,
    /// Neither side said anything for too long.
    Silent,
}

impl End {
    fn limit(self) -> Option<Limit> {
        match self {
            End::Session(_) | End::Stop => None,
            End::Wanted => Some(Limit::Displaced),
            End::Silent => Some(Limit::TunnelIdle),
        }
    }

    fn close_frame(self) -> [u8; 4] {
        match self {
            End::Session(why) => close_frame(why),
            End::Stop | End::Silent => GOING_AWAY,
            // As where the store is away: try again later.
            End::Wanted => close_frame(Cut::Unchecked),
        }
    }
}

/// What can end a tunnel. It keeps the place of its connection for as long.
struct Ends {
    watched: Option<Watched>,
    stop: CancellationToken,
    seat: Option<Seat>,
    silence: Arc<Silence>,
    age: Option<Duration>,
    guard: Guard,
}

impl Ends {
    async fn first(&mut self) -> End {
        let end = tokio::select! {
            why = session_end(&mut self.watched) => End::Session(why),
            () = aged(self.age) => End::Session(Cut::TooOld),
            () = self.stop.cancelled() => End::Stop,
            () = wanted(self.seat.as_ref()) => End::Wanted,
            () = self.silence.lasts() => End::Silent,
        };
        if let Some(limit) = end.limit() {
            self.guard.shared().metrics.limit(limit, None);
        }
        end
    }
}

async fn aged(age: Option<Duration>) {
    match age {
        Some(age) => sleep(age).await,
        None => std::future::pending().await,
    }
}

async fn wanted(seat: Option<&Seat>) {
    match seat {
        Some(seat) => seat.0.wanted().await,
        None => std::future::pending().await,
    }
}

/// How long a tunnel has carried nothing, either way.
struct Silence {
    most: Duration,
    began: Instant,
    /// Milliseconds after `began` at which something was last passed on.
    broken: AtomicU64,
}

impl Silence {
    /// A `most` of zero lasts for ever.
    fn new(most: Duration) -> Silence {
        Silence { most, began: Instant::now(), broken: AtomicU64::new(0) }
    }

    fn breaks(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.broken.store(now, Ordering::Relaxed);
    }

    /// Ready once it has lasted too long.
    async fn lasts(&self) {
        if self.most.is_zero() {
            std::future::pending::<()>().await;
        }
        loop {
            let broken = Duration::from_millis(self.broken.load(Ordering::Relaxed));
            let left = (broken + self.most).saturating_sub(self.began.elapsed());
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

/// Carries bytes until either side ends, or something else ends it.
async fn carry(
    client: OnUpgrade,
    upstream: PendingTunnel<RequestBody>,
    mut ends: Ends,
    pulse: Option<Pulse>,
) {
    let Ok(client) = client.await else { return };
    let Ok(upstream) = upstream.open().await else { return };
    let (mut from_client, mut to_client) = io::split(TokioIo::new(client));
    let (mut from_upstream, mut to_upstream) = io::split(upstream);
    let mut frames = Frames::default();
    let pulse = pulse.as_ref();
    let [client_lives, upstream_lives] =
        [(); 2].map(|()| ends.watched.as_ref().map(Watched::ending));
    let silence = Arc::clone(&ends.silence);
    let mut said = Frames::default();
    let upwards =
        deliver(&mut from_client, &mut to_upstream, &mut said, client_lives, &silence, pulse);
    let heard = pulse.filter(|pulse| pulse.both);
    let downwards =
        deliver(&mut from_upstream, &mut to_client, &mut frames, upstream_lives, &silence, heard);
    let end = tokio::select! {
        result = both_ways(upwards, downwards) => {
            debug!(whole = result.is_ok(), "tunnel closed");
            return;
        }
        end = ends.first() => end,
    };
    say_goodbye(&mut from_client, &mut to_client, &frames, end.close_frame()).await;
    debug!(?end, "tunnel ended");
}

/// Until both directions are over. Once one is, the other has a moment to end as well: a WebSocket has
/// no use for one direction (RFC 6455 7.1.1), and half a tunnel would be held for ever.
async fn both_ways(
    upwards: impl Future<Output = io::Result<()>>,
    downwards: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let (mut upwards, mut downwards) = (pin!(upwards), pin!(downwards));
    tokio::select! {
        result = upwards.as_mut() => {
            result?;
            timeout(HALF_OPEN, downwards).await?
        }
        result = downwards.as_mut() => {
            result?;
            timeout(HALF_OPEN, upwards).await?
        }
    }
}

/// Knows at every moment which bytes the other side has taken: this may be dropped in the middle of a
/// frame, and a close frame there would be read as the app's own words. A session that ended stops it;
/// who holds both directions hears of that as well, and says why.
async fn deliver(
    from: &mut impl Reader,
    to: &mut impl Writer,
    frames: &mut Frames,
    mut ending: Option<Ending>,
    silence: &Silence,
    pulse: Option<&Pulse>,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let mut rest = match from.read(&mut buffer).await? {
            0 => return to.shutdown().await,
            read => &buffer[..read],
        };
        while !rest.is_empty() {
            if let Some(ending) = &mut ending
                && ending.on().await.is_err()
            {
                return std::future::pending().await;
            }
            let (taken, left) = rest.split_at(to.write(rest).await?);
            if taken.is_empty() {
                return Err(io::ErrorKind::WriteZero.into());
            }
            silence.breaks();
            frames.advance(taken);
            rest = left;
        }
        to.flush().await?;
        if let Some(pulse) = pulse.filter(|_| frames.take_data()) {
            pulse.beat();
        }
    }
}

/// Tells the client why its tunnel ends (RFC 6455 7.4.1), then reads
/// what it still sends: a socket closed over unread bytes is reset, and takes the close frame along.
async fn say_goodbye(
    from: &mut impl Reader,
    to: &mut impl Writer,
    frames: &Frames,
    close: [u8; 4],
) {
    let goodbye = async {
        if frames.between() {
            to.write_all(&close).await?;
        }
        to.shutdown().await?;
        io::copy(from, &mut io::sink()).await
    };
    // A client that does not listen is cut all the same.
    let _ = timeout(GOODBYE, goodbye).await;
}

/// A whole close frame: final, opcode 8, two bytes of payload (RFC 6455 5.5.1). A client comes back by
/// itself after "going away" and "try again later"; after "policy violation" it has to log in.
fn close_frame(why: Cut) -> [u8; 4] {
    let code: u16 = match why {
        Cut::SessionEnded => 1008,
        Cut::TooOld => 1001,
        Cut::Unchecked => 1013,
    };
    let [high, low] = code.to_be_bytes();
    [0x88, 0x02, high, low]
}

fn switching<B>(from: Response<B>) -> Response<ResponseBody> {
    let (parts, _) = from.into_parts();
    let mut response = Response::new(ResponseBody::Own(Full::default()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = parts.headers;
    let headers = response.headers_mut();
    // What follows has none (RFC 9110 8.6).
    headers.remove(header::CONTENT_LENGTH);
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

    #[test]
    fn rfc_9110_8_6_an_answer_that_switches_protocols_has_no_length() {
        let app =
            Response::builder().status(101).header("Content-Length", "5").header("X-App", "1");
        let response = switching(app.body(()).expect("an answer"));
        assert_eq!(response.headers().get(header::CONTENT_LENGTH), None);
        assert_eq!(response.headers().get("x-app"), Some(&HeaderValue::from_static("1")));
    }
}
