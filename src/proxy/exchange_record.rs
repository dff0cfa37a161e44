//! The end of an exchange, for the access log and the metrics.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;

use super::access_log::{AccessLogEntry, End};
use super::body::ResponseBodyError;
use super::respond::Responder;

/// Status of a request whose client was gone before the response, as in the logs of nginx.
const CLIENT_GONE_STATUS: u16 = 499;
const CLIENT_GONE: &str = "client_gone";

/// A request from its head to the end of its response. Dropping it writes the access log entry, so each request
/// has one, however it ends.
pub struct ExchangeRecord {
    responder: Arc<Responder>,
    /// Boxed: the record is moved with the response body through every layer.
    pub(super) entry: Box<AccessLogEntry>,
    end: ExchangeEnd,
    bytes: u64,
}

/// How far an exchange got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExchangeEnd {
    /// No response yet.
    Pending,
    /// The response head was returned, and not yet the end of the body.
    Responded(StatusCode),
    Completed(StatusCode),
    /// The gateway ended the body early, for this cause.
    Cut(StatusCode, &'static str),
}

impl ExchangeRecord {
    pub(super) fn new(responder: &Arc<Responder>, entry: AccessLogEntry) -> ExchangeRecord {
        let (responder, entry) = (Arc::clone(responder), Box::new(entry));
        ExchangeRecord { responder, entry, end: ExchangeEnd::Pending, bytes: 0 }
    }

    pub(super) fn respond(&mut self, status: StatusCode) {
        // The body of a response to HEAD is not read to its end.
        self.end = match self.entry.is_head() {
            true => ExchangeEnd::Completed(status),
            false => ExchangeEnd::Responded(status),
        };
    }

    /// Records bytes of the response body that the client connection has taken.
    pub fn record_data(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Records the end of the response body.
    pub fn record_end(&mut self) {
        if let ExchangeEnd::Responded(status) = self.end {
            self.end = ExchangeEnd::Completed(status);
        }
    }

    /// Records that the gateway ends the response body early.
    pub fn record_failure(&mut self, error: &ResponseBodyError) {
        if let ExchangeEnd::Responded(status) = self.end {
            self.end = ExchangeEnd::Cut(status, error.cause());
            self.entry.set_detail(error.to_string());
            if error.is_upstream_failure() {
                self.entry.set_upstream_failure(error.cause());
            }
        }
    }
}

impl Drop for ExchangeRecord {
    fn drop(&mut self) {
        let metrics = &self.responder.auth.shared().metrics;
        let (status, cut) = match self.end {
            ExchangeEnd::Completed(status) => (status.as_u16(), None),
            ExchangeEnd::Responded(status) => (status.as_u16(), Some(CLIENT_GONE)),
            ExchangeEnd::Cut(status, cause) => (status.as_u16(), Some(cause)),
            ExchangeEnd::Pending => {
                metrics.request(self.entry.verdict(), CLIENT_GONE_STATUS);
                (CLIENT_GONE_STATUS, Some(CLIENT_GONE))
            }
        };
        if let Some(cause) = cut {
            metrics.exchange_cut(cause);
        }
        let end = End { time: Instant::now(), status, bytes: self.bytes, cut };
        self.entry.count(&self.responder.route_metrics, end.time);
        if let Some(log) = &self.responder.access_log {
            self.entry.write(log, &end);
        }
    }
}
