//! Request framing in HTTP/2, frame by frame; `framing` tests HTTP/1.1.

use crate::framing::{FramingTest, H2, PSEUDO, frame, framing_test, literal, plus, with};
use test_support::upstream::header_values;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(1, END_HEADERS, 1, &literal(fields))
}

fn data(text: &str, flags: u8) -> Vec<u8> {
    frame(0, flags, 1, text.as_bytes())
}

fn post<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    with(":method", "POST").into_iter().chain(more.iter().copied()).collect()
}

/// Sends a POST with this body in one frame.
async fn send(test: &FramingTest, fields: &[(&str, &str)], body: &str) -> H2 {
    test.frames(&[headers(&post(fields)), data(body, END_STREAM)].concat()).await
}

/// HYP-02, HYP-05.
#[tokio::test]
async fn h2_transfer_encoding_never_frames_a_body() {
    let test = framing_test().await;
    for coding in ["chunked", "gzip, chunked", "identity"] {
        assert_eq!(send(&test, &[("transfer-encoding", coding)], "0\r\n\r\n").await, H2::Rejected);
    }
    assert!(test.upstream.heads().is_empty());
    let folded = [("transfer_encoding", "chunked"), ("content_length", "50")];
    assert_eq!(send(&test, &folded, "body").await, H2::Ok);
    assert!(!test.upstream.last_head().contains('_'), "{}", test.upstream.last_head());
}

/// HYP-08, HYP-09.
#[tokio::test]
async fn h2_host_beside_authority_must_be_single_and_valid() {
    let test = framing_test().await;
    let twice: Vec<_> =
        PSEUDO.into_iter().chain([("host", "app.test"), ("host", "app.test")]).collect();
    test.assert_h2_rejected(&twice).await;
    for host in
        ["", "app.test, app.test", "user@app.test", "app.test/x", "app.test:", "app.test:443"]
    {
        test.assert_h2_rejected(&plus("host", host)).await;
    }
    let without: Vec<_> = PSEUDO.into_iter().filter(|(name, _)| *name != ":authority").collect();
    let with_host: Vec<_> = without.into_iter().chain([("host", "app.test")]).collect();
    assert_eq!(test.block(&with_host).await, H2::Ok);
    assert_eq!(header_values(&test.upstream.last_head(), "host"), ["app.test"]);
}

/// HYP-18, HYP-19.
#[tokio::test]
async fn h2_hop_by_hop_headers_are_rejected_or_dropped() {
    let test = framing_test().await;
    for (name, value) in
        [("connection", "x-forwarded-user"), ("upgrade", "h2c"), ("keep-alive", "timeout=5")]
    {
        test.assert_h2_rejected(&plus(name, value)).await;
    }
    for (name, value) in [("http2-settings", "AAMAAABk"), ("proxy-authorization", "Basic eA==")] {
        assert_eq!(test.block(&plus(name, value)).await, H2::Ok, "{name}");
        assert!(
            header_values(&test.upstream.last_head(), name).is_empty(),
            "{}",
            test.upstream.last_head()
        );
    }
}

/// HYP-20.
#[tokio::test]
async fn h2_client_trailers_are_dropped() {
    let test = framing_test().await;
    let trailers = [("x-forwarded-user", "evil"), ("x-a", "evil")];
    let frames = [
        headers(&post(&[("trailer", "x-forwarded-user")])),
        data("body", 0),
        frame(1, END_HEADERS | END_STREAM, 1, &literal(&trailers)),
    ];
    assert_eq!(test.frames(&frames.concat()).await, H2::Ok);
    assert!(!test.upstream.last_head().contains("evil"), "{}", test.upstream.last_head());
    assert_eq!(test.upstream.bodies(), ["body"]);
}

/// HYP-22.
#[tokio::test]
async fn h2_content_length_must_match_the_data() {
    let test = framing_test().await;
    for length in ["+2", "-2", "2, 2", "0x2", "", "3", "1"] {
        let response = send(&test, &[("content-length", length)], "hi").await;
        assert_ne!(response, H2::Ok, "{length}");
    }
    let twice = [("content-length", "2"), ("content-length", "3")];
    assert_ne!(send(&test, &twice, "hi").await, H2::Ok);
    for head in test.upstream.heads() {
        let lengths = header_values(&head, "content-length");
        assert!(lengths.len() <= 1 && lengths.iter().all(|l| l.parse::<u64>().is_ok()), "{head}");
    }
    let before = test.upstream.heads().len();
    assert_eq!(send(&test, &[("content-length", "2")], "hi").await, H2::Ok);
    assert_eq!(test.upstream.heads().len(), before + 1);
    assert_eq!(test.upstream.bodies().last().map(String::as_str), Some("hi"));
}

/// HYP-23.
#[tokio::test]
async fn h2_trace_connect_and_unknown_expect_are_rejected() {
    let test = framing_test().await;
    assert_eq!(test.block(&with(":method", "TRACE")).await, H2::OtherStatus);
    let connect = [(":method", "CONNECT"), (":authority", "app.test:443")];
    assert_ne!(test.block(&connect).await, H2::Ok);
    assert_eq!(test.block(&plus("expect", "foo")).await, H2::OtherStatus);
    assert!(test.upstream.heads().is_empty());
    let get = [headers(&PSEUDO), data("GET /smuggled HTTP/1.1", END_STREAM)];
    assert_eq!(test.frames(&get.concat()).await, H2::Ok);
    let head = test.upstream.last_head();
    let framing = header_values(&head, "content-length").len()
        + header_values(&head, "transfer-encoding").len();
    assert_eq!(framing, 1, "{head}");
    assert_eq!(test.upstream.heads().len(), 1);
}

/// HYP-24.
#[tokio::test]
async fn h2_cookie_crumbs_become_one_header() {
    let test = framing_test().await;
    let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
    let fields: Vec<_> = PSEUDO.into_iter().chain(crumbs).collect();
    assert_eq!(test.block(&fields).await, H2::Ok);
    assert_eq!(header_values(&test.upstream.last_head(), "cookie"), ["a=1; b=2; c=3"]);
}

/// HYP-27.
#[tokio::test]
async fn h2_interrupted_body_is_never_a_complete_request() {
    let test = framing_test().await;
    // RST_STREAM with CANCEL.
    let reset = frame(3, 0, 1, &[0, 0, 0, 8]);
    let frames = [headers(&post(&[])), data("body", 0), reset].concat();
    // Wait for the response to the next stream of the connection.
    let next = frame(1, END_HEADERS | END_STREAM, 3, &literal(&with(":path", "/next")));
    assert_eq!(test.frames(&[frames, next].concat()).await, H2::Ok);
    let bodies = test.upstream.bodies();
    assert!(bodies.iter().all(|body| !body.ends_with("0\r\n\r\n")), "{bodies:?}");
    assert!(test.upstream.last_head().starts_with("GET /next "), "{}", test.upstream.last_head());
}
