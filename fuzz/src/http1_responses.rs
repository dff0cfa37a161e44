//! HTTP/1.1 responses to a request without a body: the gateway's parser agrees with hyper or
//! rejects the response, for any chunking.

use std::time::Duration;

use bytes::Bytes;
use doorward::upstream::fuzz_support::{ParsedResponse, parse_in_chunks};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

/// The first byte selects the chunk size and whether the request was HEAD.
pub fn http1_response(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let (size, is_head) = (usize::from(first & 63), first & 64 != 0);
    let parsed = parse_in_chunks(bytes, size, is_head);
    let whole = parse_in_chunks(bytes, usize::MAX, is_head);
    assert_eq!(parsed, whole, "in chunks of {size}");
    let Some(parsed) = parsed else { return };
    let by_hyper = parse_with_hyper(bytes, is_head).expect("hyper accepts it too");
    assert_eq!((parsed.status.as_u16(), &parsed.body), (by_hyper.0, &by_hyper.2));
    assert_eq!(header_list(&parsed.headers), by_hyper.1);
    assert_eq!(parsed.trailers.as_ref().map(header_list), by_hyper.3);
    assert_framed_once(&parsed);
}

/// A forwarded response has at most one length and one framing.
fn assert_framed_once(parsed: &ParsedResponse) {
    let lengths = parsed.headers.get_all("content-length").iter().count();
    let codings = parsed.headers.get_all("transfer-encoding").iter().count();
    let has_body = !parsed.body.is_empty();
    assert!(!has_body || lengths + codings <= 1, "{parsed:?}");
}

type Headers = Vec<(String, Vec<u8>)>;

fn parse_with_hyper(
    bytes: &[u8],
    is_head: bool,
) -> Option<(u16, Headers, Vec<u8>, Option<Headers>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(async {
        let (near, mut far) = duplex(1 << 20);
        // The gateway removes whitespace before a colon (RFC 9112 5.1), and allows more headers.
        let (mut sender, connection) = http1::Builder::new()
            .allow_spaces_after_header_name_in_responses(true)
            .max_headers(256)
            .handshake(TokioIo::new(near))
            .await
            .expect("a client");
        tokio::spawn(connection);
        let method = if is_head { Method::HEAD } else { Method::GET };
        let request = Request::builder().method(method).uri("/").header("host", "app.test");
        let sent = sender.send_request(request.body(Empty::<Bytes>::new()).expect("a request"));
        let responding = async {
            far.read_u8().await.expect("a request");
            far.write_all(bytes).await.unwrap_or_default();
            drop(far);
        };
        let both = async { tokio::join!(sent, responding).0 };
        let response = tokio::time::timeout(Duration::from_secs(5), both).await.ok()?.ok()?;
        let (status, headers) = (response.status().as_u16(), header_list(response.headers()));
        let body = response.into_body().collect().await.ok()?;
        let trailers = body.trailers().map(header_list);
        Some((status, headers, body.to_bytes().to_vec(), trailers))
    })
}

/// Equal lengths count once; a list of them equals one.
fn header_list(headers: &HeaderMap) -> Headers {
    let mut headers: Headers = headers
        .iter()
        .filter(|(name, _)| *name != "content-length")
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    headers.sort();
    headers
}
