//! Bytes of an app in answer to a request without a body: our reader and the HTTP library's client
//! understand the same, or ours refuses; and how the bytes are cut changes nothing.

use std::time::Duration;

use bytes::Bytes;
use doorward::upstream::replay::{Answered, read};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

/// The first byte says how the bytes are cut, and whether they answer HEAD.
pub fn reply(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let (size, head) = (usize::from(first & 63), first & 64 != 0);
    let ours = read(bytes, size, head);
    let whole = read(bytes, usize::MAX, head);
    assert_eq!(ours, whole, "cut into pieces of {size}");
    let Some(ours) = ours else { return };
    let theirs = the_librarys(bytes, head).expect("the library understands it too");
    assert_eq!((ours.status.as_u16(), &ours.body), (theirs.0, &theirs.2));
    assert_eq!(fields(&ours.headers), theirs.1);
    assert_eq!(ours.trailers.as_ref().map(fields), theirs.3);
    framed_once(&ours);
}

/// What goes on to a client has at most one length, and never two ways to end.
fn framed_once(ours: &Answered) {
    let lengths = ours.headers.get_all("content-length").iter().count();
    let codings = ours.headers.get_all("transfer-encoding").iter().count();
    let has_body = !ours.body.is_empty();
    assert!(!has_body || lengths + codings <= 1, "{ours:?}");
}

type Fields = Vec<(String, Vec<u8>)>;

fn the_librarys(bytes: &[u8], head: bool) -> Option<(u16, Fields, Vec<u8>, Option<Fields>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(async {
        let (near, mut far) = duplex(1 << 20);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(near)).await.expect("a client");
        tokio::spawn(connection);
        let method = if head { Method::HEAD } else { Method::GET };
        let request = Request::builder().method(method).uri("/").header("host", "app.test");
        let asked = sender.send_request(request.body(Empty::<Bytes>::new()).expect("a request"));
        let answered = async {
            far.read_u8().await.expect("a request");
            far.write_all(bytes).await.unwrap_or_default();
            drop(far);
        };
        let both = async { tokio::join!(asked, answered).0 };
        let response = tokio::time::timeout(Duration::from_secs(5), both).await.ok()?.ok()?;
        let (status, headers) = (response.status().as_u16(), fields(response.headers()));
        let body = response.into_body().collect().await.ok()?;
        let trailers = body.trailers().map(fields);
        Some((status, headers, body.to_bytes().to_vec(), trailers))
    })
}

/// Of equal lengths one is enough; a list of them says the same as one.
fn fields(headers: &HeaderMap) -> Fields {
    let mut fields: Fields = headers
        .iter()
        .filter(|(name, _)| *name != "content-length")
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    fields.sort();
    fields
}
