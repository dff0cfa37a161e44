//! The response to a request head that is larger than the HTTP library accepts.

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;

use crate::message::{BadRequest, Intent};

use super::Proxy;
use super::access_log::AccessLogEntry;
use super::connection_info::ConnectionInfo;
use super::exchange_record::ExchangeRecord;

/// Most headers that are read from such a head.
const MAX_HEADERS: usize = 128;

impl Proxy {
    /// Responds with a 431, and writes the access log entry. `head` is the start of the head; `None` if nothing
    /// can be read from it.
    pub fn refuse_large_head(
        &self,
        connection: &ConnectionInfo,
        head: &[u8],
    ) -> Option<Response<Bytes>> {
        let request = read_start(head)?;
        let client = self.trusted_proxies.client(connection.peer, request.headers());
        let context =
            self.request_context(connection, client.unwrap_or(connection.peer), request.headers());
        let entry = AccessLogEntry::new(&request, &context, self.responder.access_log.is_some());
        let mut record = ExchangeRecord::new(&self.responder, entry);
        let intent = Intent::from_request(request.method(), request.headers());
        let pending = self.malformed(BadRequest::TooManyHeaders, intent, &mut record.entry);
        let response = self.responder.finish(pending, &record.entry);
        record.respond(response.status());
        let (mut parts, body) = response.into_parts();
        // A local body is there at once.
        let mut body = body.collect().now_or_never()?.ok()?.to_bytes();
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        if request.method() == Method::HEAD {
            body.clear();
        }
        record.record_data(body.len());
        record.record_end();
        Some(Response::from_parts(parts, body))
    }
}

/// Reads the complete lines of an incomplete head.
fn read_start(head: &[u8]) -> Option<Request<()>> {
    let end = head.windows(2).rposition(|pair| pair == b"\r\n")?;
    let lines = [head.get(..end)?, b"\r\n\r\n"].concat();
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut fields);
    parsed.parse(&lines).ok().filter(httparse::Status::is_complete)?;
    let mut request = Request::builder().method(parsed.method?).uri(parsed.path?);
    for field in parsed.headers {
        request = request.header(field.name, field.value);
    }
    request.body(()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_lines_of_a_head_are_read() {
        let request =
            read_start(b"GET /a?b HTTP/1.1\r\nHost: app.test\r\nAccept: text/html\r\nCookie: abc");
        let request = request.expect("two headers");
        assert_eq!((request.method().as_str(), request.uri().path()), ("GET", "/a"));
        assert_eq!(request.headers().len(), 2);
        assert_eq!(request.headers()["accept"], "text/html");
    }

    #[test]
    fn nothing_is_read_from_a_malformed_or_missing_line() {
        for head in
            ["", "GET / HTT", "GET /\r\n", "G(T / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nA B: 1\r\n"]
        {
            assert!(read_start(head.as_bytes()).is_none(), "{head:?}");
        }
    }
}
