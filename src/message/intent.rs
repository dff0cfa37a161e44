//! Kind of a request as the browser reports it. It selects the form of a response, never the
//! decision or the time of a token rotation: a client may claim anything.

use http::Method;
use http::header::{self, HeaderMap, HeaderName};

use super::request_id::RequestId;

// A `HeaderName` avoids parsing the name on each lookup.
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The kind of request that a local response answers, and its ID.
#[derive(Clone, Debug)]
pub struct Requester {
    pub intent: Intent,
    pub request: RequestId,
}

/// Kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// A browser navigation: pages and redirects.
    Navigation,
    /// A script or other program: status codes and JSON.
    Fetch,
}

impl Intent {
    /// Derives the intent from `Sec-Fetch-Mode`, or from `Accept` if the browser does not send it.
    pub fn from_request(method: &Method, headers: &HeaderMap) -> Intent {
        let navigation = match header_str(headers, &SEC_FETCH_MODE) {
            Some(mode) => mode == "navigate",
            None => is_get_or_head(method) && accepts_html(headers),
        };
        if navigation { Intent::Navigation } else { Intent::Fetch }
    }
}

fn is_get_or_head(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

/// Whether the response is shown in a frame of another page.
pub fn is_framed(headers: &HeaderMap) -> bool {
    let dest = header_str(headers, &SEC_FETCH_DEST);
    dest.is_some_and(|dest| matches!(dest, "iframe" | "frame" | "embed" | "object" | "fencedframe"))
}

/// Whether the client accepts HTML.
pub fn accepts_html(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).is_some_and(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|part| part.trim_ascii().starts_with(b"text/html"))
    })
}

fn header_str<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                ((*name).parse().expect("a name"), HeaderValue::from_static(value))
            })
            .collect()
    }

    #[test]
    fn navigations_are_distinguished_from_fetches() {
        let html = headers(&[("accept", "text/html,application/xhtml+xml")]);
        assert_eq!(Intent::from_request(&Method::GET, &html), Intent::Navigation);
        assert_eq!(Intent::from_request(&Method::POST, &html), Intent::Fetch);
        let fetch = headers(&[("sec-fetch-mode", "cors"), ("accept", "text/html")]);
        assert_eq!(Intent::from_request(&Method::GET, &fetch), Intent::Fetch);
        let form = headers(&[("sec-fetch-mode", "navigate")]);
        assert_eq!(Intent::from_request(&Method::POST, &form), Intent::Navigation);
        assert_eq!(
            Intent::from_request(&Method::GET, &headers(&[("accept", "*/*")])),
            Intent::Fetch
        );
    }
}
