//! Answers of HTTP/1.1 apps, as our own reader and the HTTP library's client understand them: ours may
//! refuse more, and never reads anything else.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use doorward::message::Endpoint;
use doorward::tls::trust;
use doorward::upstream::{Claim, UpstreamSettings, Upstreams};
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

/// What somebody understood.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Understood {
    Nothing,
    /// A head, and then not all of its body.
    Half(Head),
    Whole(Head, Bytes, Option<Vec<(String, Vec<u8>)>>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    fields: Vec<(String, Vec<u8>)>,
}

/// Well made, and to be read as they are meant.
const GOOD: [&[u8]; 16] = [
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

/// Ill made, or to be read in two ways.
const BAD: [&[u8]; 26] = [
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

/// An app that answers each connection once, with what it is given, in the pieces that it is given.
async fn app() -> (SocketAddr, mpsc::UnboundedSender<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (give, mut given) = mpsc::unbounded_channel::<Vec<Vec<u8>>>();
    tokio::spawn(async move {
        while let Some(pieces) = given.recv().await {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            for piece in pieces {
                if stream.write_all(&piece).await.is_err() {
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

async fn ours(upstreams: &Upstreams<TestBody>, to: &[Endpoint], method: &Method) -> Understood {
    match upstreams.send(Claim::Known, to, request(method)).await {
        Ok(response) => understood(response).await,
        Err(_) => Understood::Nothing,
    }
}

async fn the_librarys(address: SocketAddr, method: &Method) -> Understood {
    let stream = TcpStream::connect(address).await.expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a client");
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request(method)).await;
    let understood = match answer {
        // It is for whoever asked to see that a switch was not asked for.
        Ok(response) if response.status() != 101 => understood(response).await,
        Ok(_) | Err(_) => Understood::Nothing,
    };
    driver.abort();
    understood
}

async fn understood<B: Body<Data = Bytes>>(response: Response<B>) -> Understood {
    let head = Head { status: response.status().as_u16(), fields: fields(response.headers()) };
    match response.into_body().collect().await {
        Ok(body) => {
            let trailers = body.trailers().map(fields);
            Understood::Whole(head, body.to_bytes(), trailers)
        }
        Err(_) => Understood::Half(head),
    }
}

/// Of equal lengths one is enough.
fn fields(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut fields: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    fields.dedup_by(|one, other| one.0 == "content-length" && one == other);
    fields
}

struct Judges {
    upstreams: Upstreams<TestBody>,
    endpoints: [Endpoint; 1],
    address: SocketAddr,
    give: mpsc::UnboundedSender<Vec<Vec<u8>>>,
}

impl Judges {
    async fn new() -> Judges {
        let mut params = CertificateParams::new(vec![]).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        let ca = CertifiedIssuer::self_signed(params, key).expect("authority").pem();
        let trust = trust(ca.as_bytes()).expect("trust");
        // A connection for each answer: what is left over on one must not be read as the next.
        let settings = UpstreamSettings { max_idle_per_endpoint: 0, ..Default::default() };
        let (address, give) = app().await;
        let endpoints = [Endpoint::parse(&format!("http://{address}")).expect("an endpoint")];
        Judges { upstreams: Upstreams::new(settings, &trust), endpoints, address, give }
    }

    /// What the two make of the same bytes in the same pieces.
    async fn judge(&self, pieces: &[Vec<u8>], method: &Method) -> (Understood, Understood) {
        let both = async {
            self.give.send(pieces.to_vec()).expect("an app");
            let ours = ours(&self.upstreams, &self.endpoints, method).await;
            self.give.send(pieces.to_vec()).expect("an app");
            (ours, the_librarys(self.address, method).await)
        };
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("in time")
    }

    async fn agree(&self, pieces: &[Vec<u8>], method: &Method) -> Understood {
        let (ours, theirs) = self.judge(pieces, method).await;
        let shown = || String::from_utf8_lossy(&pieces.concat()).into_owned();
        match &ours {
            Understood::Nothing => {}
            Understood::Half(head) => {
                let same = matches!(&theirs, Understood::Half(other) if head == other);
                assert!(same || is_stricter(&theirs, head), "{ours:?} {theirs:?} {:?}", shown());
            }
            Understood::Whole(..) => assert_eq!(ours, theirs, "{:?}", shown()),
        }
        ours
    }
}

/// Where the library read a body to its end, ours may refuse it in the middle.
fn is_stricter(theirs: &Understood, head: &Head) -> bool {
    matches!(theirs, Understood::Whole(other, ..) if head == other)
}

fn cut(bytes: &[u8], size: usize) -> Vec<Vec<u8>> {
    bytes.chunks(size.max(1)).map(<[u8]>::to_vec).collect()
}

#[tokio::test]
async fn rfc_9112_6_3_answers_end_where_the_library_says_in_pieces_of_every_size() {
    let judges = Judges::new().await;
    for method in [Method::GET, Method::HEAD] {
        for answer in GOOD {
            for size in [1, 2, 3, 7, 16, 4096] {
                let ours = judges.agree(&cut(answer, size), &method).await;
                let is_whole = matches!(ours, Understood::Whole(..));
                assert!(is_whole, "{method} {:?}", String::from_utf8_lossy(answer));
            }
        }
        for answer in BAD {
            for size in [1, 5, 4096] {
                let ours = judges.agree(&cut(answer, size), &method).await;
                let may_be = method == Method::HEAD;
                let is_whole = matches!(ours, Understood::Whole(..));
                assert!(may_be || !is_whole, "{:?}", String::from_utf8_lossy(answer));
            }
        }
    }
}

#[tokio::test]
async fn rfc_9112_6_3_what_is_changed_at_random_is_refused_or_read_as_the_library_does() {
    let judges = Judges::new().await;
    let answers = [GOOD.as_slice(), BAD.as_slice()].concat();
    let mut dice = Dice(1);
    for round in 0..1_500_usize {
        let mut answer = answers[dice.below(answers.len())].to_vec();
        for _ in 0..=dice.below(3) {
            change(&mut answer, &mut dice);
        }
        let size = [1, 3, 64, 4096][round % 4];
        let method = if round % 9 == 0 { Method::HEAD } else { Method::GET };
        judges.agree(&cut(&answer, size), &method).await;
    }
}

/// Puts in, takes out or doubles something that matters to framing.
fn change(answer: &mut Vec<u8>, dice: &mut Dice) {
    const WORDS: [&[u8]; 14] = [
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
    let at = dice.below(answer.len() + 1);
    match dice.below(4) {
        0 => {
            let word = WORDS[dice.below(WORDS.len())];
            answer.splice(at..at, word.iter().copied());
        }
        1 if at < answer.len() => {
            answer.remove(at);
        }
        2 if at < answer.len() => answer[at] = u8::try_from(dice.below(256)).expect("a byte"),
        _ => {
            let line = answer
                .iter()
                .skip(at)
                .position(|byte| *byte == b'\n')
                .map_or(at, |end| at + end + 1);
            let copy = answer[at..line].to_vec();
            answer.splice(line..line, copy);
        }
    }
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).expect("few sides")
    }
}
