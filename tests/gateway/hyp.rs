//! The rows of the review that HTTP/2 has too, frame by frame; `framing` has those of HTTP/1.1.

use crate::framing::{Front, H2, PSEUDO, frame, front, literal, plus, with};
use crate::upstream::values;

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
async fn send(front: &Front, fields: &[(&str, &str)], body: &str) -> H2 {
    front.frames(&[headers(&post(fields)), data(body, END_STREAM)].concat()).await
}

#[tokio::test]
async fn hyp_02_hyp_05_h2_no_field_of_http_1_framing_frames_anything() {
    let front = front().await;
    for coding in ["chunked", "gzip, chunked", "identity"] {
        assert_eq!(send(&front, &[("transfer-encoding", coding)], "0\r\n\r\n").await, H2::Refused);
    }
    assert!(front.upstream.heads().is_empty());
    let folded = [("transfer_encoding", "chunked"), ("content_length", "50")];
    assert_eq!(send(&front, &folded, "body").await, H2::Ok);
    assert!(!front.upstream.last().contains('_'), "{}", front.upstream.last());
}

#[tokio::test]
async fn hyp_08_hyp_09_h2_a_host_beside_the_authority_is_there_once_and_is_a_name() {
    let front = front().await;
    let twice: Vec<_> =
        PSEUDO.into_iter().chain([("host", "app.test"), ("host", "app.test")]).collect();
    front.h2_refuses(&twice).await;
    for host in
        ["", "app.test, app.test", "user@app.test", "app.test/x", "app.test:", "app.test:443"]
    {
        front.h2_refuses(&plus("host", host)).await;
    }
    let without: Vec<_> = PSEUDO.into_iter().filter(|(name, _)| *name != ":authority").collect();
    let with_host: Vec<_> = without.into_iter().chain([("host", "app.test")]).collect();
    assert_eq!(front.block(&with_host).await, H2::Ok);
    assert_eq!(values(&front.upstream.last(), "host"), ["app.test"]);
}

#[tokio::test]
async fn hyp_18_hyp_19_h2_fields_of_one_connection_are_refused_or_dropped() {
    let front = front().await;
    for (name, value) in
        [("connection", "x-forwarded-user"), ("upgrade", "h2c"), ("keep-alive", "timeout=5")]
    {
        front.h2_refuses(&plus(name, value)).await;
    }
    for (name, value) in
        [("te", "trailers"), ("http2-settings", "AAMAAABk"), ("proxy-authorization", "Basic eA==")]
    {
        assert_eq!(front.block(&plus(name, value)).await, H2::Ok, "{name}");
        assert!(values(&front.upstream.last(), name).is_empty(), "{}", front.upstream.last());
    }
}

#[tokio::test]
async fn hyp_20_h2_trailers_of_a_client_are_dropped() {
    let front = front().await;
    let trailers = [("x-forwarded-user", "evil"), ("x-a", "evil")];
    let frames = [
        headers(&post(&[("trailer", "x-forwarded-user")])),
        data("body", 0),
        frame(1, END_HEADERS | END_STREAM, 1, &literal(&trailers)),
    ];
    assert_eq!(front.frames(&frames.concat()).await, H2::Ok);
    assert!(!front.upstream.last().contains("evil"), "{}", front.upstream.last());
    assert_eq!(front.upstream.bodies(), ["4\r\nbody\r\n0\r\n\r\n"]);
}

#[tokio::test]
async fn hyp_22_h2_a_length_is_one_plain_number_that_the_frames_bear_out() {
    let front = front().await;
    for length in ["+2", "-2", "2, 2", "0x2", "", "3", "1"] {
        let answer = send(&front, &[("content-length", length)], "hi").await;
        assert_ne!(answer, H2::Ok, "{length}");
    }
    let twice = [("content-length", "2"), ("content-length", "3")];
    assert_ne!(send(&front, &twice, "hi").await, H2::Ok);
    for head in front.upstream.heads() {
        let lengths = values(&head, "content-length");
        assert!(lengths.len() <= 1 && lengths.iter().all(|l| l.parse::<u64>().is_ok()), "{head}");
    }
    let before = front.upstream.heads().len();
    assert_eq!(send(&front, &[("content-length", "2")], "hi").await, H2::Ok);
    assert_eq!(front.upstream.heads().len(), before + 1);
    assert_eq!(front.upstream.bodies().last().map(String::as_str), Some("hi"));
}

#[tokio::test]
async fn hyp_23_h2_trace_connect_and_unknown_expectations_are_refused_and_a_get_stays_framed() {
    let front = front().await;
    assert_eq!(front.block(&with(":method", "TRACE")).await, H2::OtherStatus);
    let connect = [(":method", "CONNECT"), (":authority", "app.test:443")];
    assert_ne!(front.block(&connect).await, H2::Ok);
    assert_eq!(front.block(&plus("expect", "foo")).await, H2::OtherStatus);
    assert!(front.upstream.heads().is_empty());
    let get = [headers(&PSEUDO), data("GET /smuggled HTTP/1.1", END_STREAM)];
    assert_eq!(front.frames(&get.concat()).await, H2::Ok);
    let head = front.upstream.last();
    let framing = values(&head, "content-length").len() + values(&head, "transfer-encoding").len();
    assert_eq!(framing, 1, "{head}");
    assert_eq!(front.upstream.heads().len(), 1);
}

#[tokio::test]
async fn hyp_24_h2_crumbs_of_a_cookie_become_one_field() {
    let front = front().await;
    let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
    let fields: Vec<_> = PSEUDO.into_iter().chain(crumbs).collect();
    assert_eq!(front.block(&fields).await, H2::Ok);
    assert_eq!(values(&front.upstream.last(), "cookie"), ["a=1; b=2; c=3"]);
}

#[tokio::test]
async fn hyp_27_h2_a_body_that_breaks_off_is_never_a_whole_request() {
    let front = front().await;
    // RST_STREAM with CANCEL.
    let reset = frame(3, 0, 1, &[0, 0, 0, 8]);
    let frames = [headers(&post(&[])), data("body", 0), reset].concat();
    // Something to wait for: the answer to the next stream of the connection.
    let next = frame(1, END_HEADERS | END_STREAM, 3, &literal(&with(":path", "/next")));
    assert_eq!(front.frames(&[frames, next].concat()).await, H2::Ok);
    let bodies = front.upstream.bodies();
    assert!(bodies.iter().all(|body| !body.ends_with("0\r\n\r\n")), "{bodies:?}");
    assert!(front.upstream.last().starts_with("GET /next "), "{}", front.upstream.last());
}
