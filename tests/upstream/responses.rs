//! HTTP/1.1 responses as parsed by the gateway and by hyper's client: the gateway may reject more,
//! but never parses differently.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use doorward::message::Endpoint;
use doorward::tls::client_config_for_ca;
use doorward::upstream::{Priority, UpstreamSettings, Upstreams};
use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

type TestBody = UnsyncBoxBody<Bytes, io::Error>;

/// Result of a parser.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Parsed {
    Nothing,
    /// A head and an incomplete body.
    Half(Head),
    Whole(Head, Bytes, Option<Vec<(String, Vec<u8>)>>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    fields: Vec<(String, Vec<u8>)>,
}

/// Valid responses.
const VALID: [&[u8]; 16] = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 \r\ncontent-length: 2\r\nX-A:  b \r\nx-a: c\r\n\r\nok",
    b"HTTP/1.1 404 Nothing here\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 900\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.0 200 OK\r\n\r\nold",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n002;a=\"b\"\r\nok\r\nA\r\n0123456789\r\n0\r\nSum: 7\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 302 Found\r\nLocation: /a\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n",
];

/// Invalid or ambiguous responses.
const INVALID: [&[u8]; 26] = [
    b"",
    b"\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 099 Low\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok!",
    b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX-A: b\r\n folded\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11111111111111111\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a\nb\r\nok\r\n0\r\n\r\n",
];

/// An upstream that answers each connection once, with the given bytes in the given chunks.
async fn app() -> (SocketAddr, mpsc::UnboundedSender<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (give, mut given) = mpsc::unbounded_channel::<Vec<Vec<u8>>>();
    tokio::spawn(async move {
        while let Some(chunks) = given.recv().await {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            for chunk in chunks {
                if stream.write_all(&chunk).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            stream.shutdown().await.unwrap_or_default();
        }
    });
    (address, give)
}

fn nothing() -> TestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn request(method: &Method) -> Request<TestBody> {
    let request = Request::builder().method(method).uri("/").header("host", "app.test");
    request.body(nothing()).expect("a request")
}

async fn parsed_by_gateway(
    upstreams: &Upstreams<TestBody>,
    to: &[Endpoint],
    method: &Method,
) -> Parsed {
    match upstreams.send(Priority::Authenticated, to, request(method)).await {
        Ok(response) => collected(response).await,
        Err(_) => Parsed::Nothing,
    }
}

async fn parsed_by_hyper(address: SocketAddr, method: &Method) -> Parsed {
    let stream = TcpStream::connect(address).await.expect("a connection");
    // The gateway removes whitespace before a colon (RFC 9112 5.1).
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .allow_spaces_after_header_name_in_responses(true)
        .handshake(TokioIo::new(stream))
        .await
        .expect("a client");
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request(method)).await;
    let collected = match response {
        // The caller must detect an unsolicited upgrade.
        Ok(response) if response.status() != 101 => collected(response).await,
        Ok(_) | Err(_) => Parsed::Nothing,
    };
    driver.abort();
    collected
}

async fn collected<B: Body<Data = Bytes>>(response: Response<B>) -> Parsed {
    let head = Head { status: response.status().as_u16(), fields: header_list(response.headers()) };
    match response.into_body().collect().await {
        Ok(body) => {
            let trailers = body.trailers().map(header_list);
            Parsed::Whole(head, body.to_bytes(), trailers)
        }
        Err(_) => Parsed::Half(head),
    }
}

/// Equal lengths count once.
fn header_list(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut fields: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    fields.dedup_by(|one, other| one.0 == "content-length" && one == other);
    fields
}

struct Parsers {
    upstreams: Upstreams<TestBody>,
    endpoints: [Endpoint; 1],
    address: SocketAddr,
    give: mpsc::UnboundedSender<Vec<Vec<u8>>>,
}

impl Parsers {
    async fn new() -> Parsers {
        let mut params = CertificateParams::new(vec![]).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        let ca = CertifiedIssuer::self_signed(params, key).expect("authority").pem();
        let trust = client_config_for_ca(ca.as_bytes()).expect("trust");
        // One connection per response: leftover bytes must not be read as the next response.
        let settings = UpstreamSettings { max_idle_per_endpoint: 0, ..Default::default() };
        let (address, give) = app().await;
        let endpoints = [Endpoint::parse(&format!("http://{address}")).expect("an endpoint")];
        Parsers { upstreams: Upstreams::new(settings, &trust), endpoints, address, give }
    }

    /// Results of both parsers for the same bytes in the same chunks.
    async fn parse_both(&self, chunks: &[Vec<u8>], method: &Method) -> (Parsed, Parsed) {
        let both = async {
            self.give.send(chunks.to_vec()).expect("an app");
            let ours = parsed_by_gateway(&self.upstreams, &self.endpoints, method).await;
            self.give.send(chunks.to_vec()).expect("an app");
            (ours, parsed_by_hyper(self.address, method).await)
        };
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("in time")
    }

    async fn assert_agreement(&self, chunks: &[Vec<u8>], method: &Method) -> Parsed {
        let (ours, hyper) = self.parse_both(chunks, method).await;
        let shown = || String::from_utf8_lossy(&chunks.concat()).into_owned();
        match &ours {
            Parsed::Nothing => {}
            Parsed::Half(head) => {
                let same = matches!(&hyper, Parsed::Half(other) if head == other);
                assert!(same || is_stricter(&hyper, head), "{ours:?} {hyper:?} {:?}", shown());
            }
            Parsed::Whole(..) => assert_eq!(ours, hyper, "{:?}", shown()),
        }
        ours
    }
}

/// Even if hyper read a body to its end, the gateway may reject it midway.
fn is_stricter(hyper: &Parsed, head: &Head) -> bool {
    matches!(hyper, Parsed::Whole(other, ..) if head == other)
}

fn chunks_of(bytes: &[u8], size: usize) -> Vec<Vec<u8>> {
    bytes.chunks(size.max(1)).map(<[u8]>::to_vec).collect()
}

/// RFC 9112 6.3.
#[tokio::test]
async fn responses_end_where_hyper_ends_them_for_any_chunk_size() {
    let judges = Parsers::new().await;
    for method in [Method::GET, Method::HEAD] {
        for response in VALID {
            for size in [1, 2, 3, 7, 16, 4096] {
                let ours = judges.assert_agreement(&chunks_of(response, size), &method).await;
                let is_whole = matches!(ours, Parsed::Whole(..));
                assert!(is_whole, "{method} {:?}", String::from_utf8_lossy(response));
            }
        }
        for response in INVALID {
            for size in [1, 5, 4096] {
                let ours = judges.assert_agreement(&chunks_of(response, size), &method).await;
                let may_be = method == Method::HEAD;
                let is_whole = matches!(ours, Parsed::Whole(..));
                assert!(may_be || !is_whole, "{:?}", String::from_utf8_lossy(response));
            }
        }
    }
}

/// RFC 9112 6.3.
#[tokio::test]
async fn mutated_responses_are_rejected_or_parsed_like_hyper() {
    let judges = Parsers::new().await;
    let responses = [VALID.as_slice(), INVALID.as_slice()].concat();
    let mut random = SplitMix64(1);
    for round in 0..1_500_usize {
        let mut response = responses[random.below(responses.len())].to_vec();
        for _ in 0..=random.below(3) {
            mutate(&mut response, &mut random);
        }
        let size = [1, 3, 64, 4096][round % 4];
        let method = if round % 9 == 0 { Method::HEAD } else { Method::GET };
        judges.assert_agreement(&chunks_of(&response, size), &method).await;
    }
}

/// Inserts, removes or duplicates something that affects framing.
fn mutate(response: &mut Vec<u8>, random: &mut SplitMix64) {
    const FRAGMENTS: [&[u8]; 14] = [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b";",
        b",",
        b"0",
        b"f",
        b":",
        b"\0",
        b"chunked",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 1\r\n",
    ];
    let at = random.below(response.len() + 1);
    match random.below(4) {
        0 => {
            let fragment = FRAGMENTS[random.below(FRAGMENTS.len())];
            response.splice(at..at, fragment.iter().copied());
        }
        1 if at < response.len() => {
            response.remove(at);
        }
        2 if at < response.len() => response[at] = u8::try_from(random.below(256)).expect("a byte"),
        _ => {
            let line = response
                .iter()
                .skip(at)
                .position(|byte| *byte == b'\n')
                .map_or(at, |end| at + end + 1);
            let copy = response[at..line].to_vec();
            response.splice(line..line, copy);
        }
    }
}

/// SplitMix64.
struct SplitMix64(u64);

impl SplitMix64 {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).expect("few sides")
    }
}
