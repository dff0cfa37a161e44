//! What kind of request a browser says this is. It chooses the form of an answer, never the
//! decision and never the moment of a renewal: a client may claim what it likes.

use http::Method;
use http::header::{self, HeaderMap, HeaderName};

use super::request_id::RequestId;

// As a name, it is found without being read letter by letter first.
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Whom an answer of ours is for, and which request it names.
#[derive(Clone, Debug)]
pub struct Asker {
    pub intent: Intent,
    pub request: RequestId,
}

/// What the answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// A person looks at the answer: pages and redirects.
    Navigation,
    /// A program reads it: status codes and JSON.
    Fetch,
}

impl Intent {
    /// From `Sec-Fetch-Mode` where the browser sends it, else from `Accept`.
    pub fn of(method: &Method, headers: &HeaderMap) -> Intent {
        let navigation = match text(headers, &SEC_FETCH_MODE) {
            Some(mode) => mode == "navigate",
            None => readable(method) && takes_pages(headers),
        };
        if navigation { Intent::Navigation } else { Intent::Fetch }
    }
}

fn readable(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

/// Whether the client takes a page for an answer.
pub fn takes_pages(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).is_some_and(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|part| part.trim_ascii().starts_with(b"text/html"))
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                ((*name).parse().expect("a name"), HeaderValue::from_static(value))
            })
            .collect()
    }

    #[test]
    fn a_navigation_is_told_from_a_fetch() {
        let html = headers(&[("accept", "text/html,application/xhtml+xml")]);
        assert_eq!(Intent::of(&Method::GET, &html), Intent::Navigation);
        assert_eq!(Intent::of(&Method::POST, &html), Intent::Fetch);
        let fetch = headers(&[("sec-fetch-mode", "cors"), ("accept", "text/html")]);
        assert_eq!(Intent::of(&Method::GET, &fetch), Intent::Fetch);
        let form = headers(&[("sec-fetch-mode", "navigate")]);
        assert_eq!(Intent::of(&Method::POST, &form), Intent::Navigation);
        assert_eq!(Intent::of(&Method::GET, &headers(&[("accept", "*/*")])), Intent::Fetch);
    }
}
