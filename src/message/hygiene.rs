//! What an upstream's answer may not say to a browser of ours.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::cookies::CookieNames;
use super::hop;

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// Takes out connection fields and every attempt to set or delete our cookies.
pub fn clean(headers: &mut HeaderMap, cookies: &CookieNames) {
    let (mut sets, mut clears) = (false, false);
    hop::strip_with(headers, |name| {
        sets |= *name == header::SET_COOKIE;
        clears |= *name == CLEAR_SITE_DATA;
        is_boast(name) || is_our_word(name)
    });
    if sets {
        drop_own_cookies(headers, cookies);
    }
    if clears {
        spare_cookies(headers);
    }
}

/// What tells a visitor which program in which version to look up holes for (ASVS 13.4.6).
fn is_boast(name: &HeaderName) -> bool {
    matches!(name.as_str(), "server" | "x-powered-by" | "x-aspnet-version" | "x-aspnetmvc-version")
}

/// Makes an answer one that nobody keeps, whatever an app said of it: to caches in general, or to those
/// of a network between (RFC 9213 and its forerunner).
pub fn never_store(headers: &mut HeaderMap) {
    let targeted = |name: &&HeaderName| name.as_str().ends_with("cdn-cache-control");
    let targeted: Vec<HeaderName> = headers.keys().filter(targeted).cloned().collect();
    for name in targeted {
        headers.remove(name);
    }
    headers.remove("surrogate-control");
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// What every answer to a logout says: the cookie goes, and what the browser kept of the site.
pub fn say_goodbye(headers: &mut HeaderMap, cookies: &CookieNames) {
    if let Some(gone) = cookies.clear_session() {
        headers.append(header::SET_COOKIE, gone);
    }
    let kept = HeaderValue::from_static("\"cache\", \"storage\"");
    headers.append(CLEAR_SITE_DATA, kept);
    never_store(headers);
}

/// What apps and the gateway say to each other, or the gateway of itself: `Doorward-Session`, `-Store`.
fn is_our_word(name: &HeaderName) -> bool {
    name.as_str().starts_with("doorward-")
}

/// Takes out of trailers what only a head may say (RFC 9110 6.5.1): a client that merges them would
/// let an upstream set our cookies after all.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    hop::strip_with(trailers, |name| {
        *name == header::SET_COOKIE
            || *name == CLEAR_SITE_DATA
            || is_boast(name)
            || is_our_word(name)
    });
}

fn drop_own_cookies(headers: &mut HeaderMap, cookies: &CookieNames) {
    let ours = |value: &HeaderValue| cookies.set_by(value.as_bytes());
    if !headers.get_all(header::SET_COOKIE).iter().any(ours) {
        return;
    }
    let kept: Vec<HeaderValue> =
        headers.get_all(header::SET_COOKIE).iter().filter(|value| !ours(value)).cloned().collect();
    headers.remove(header::SET_COOKIE);
    for value in kept {
        headers.append(header::SET_COOKIE, value);
    }
}

/// `Clear-Site-Data: "cookies"` would delete the session cookie too; the app may clear the rest.
fn spare_cookies(headers: &mut HeaderMap) {
    let Some(value) = headers.remove(CLEAR_SITE_DATA) else {
        return;
    };
    let text = value.to_str().unwrap_or_default();
    let spared: Vec<&str> =
        text.split(',').map(str::trim).flat_map(without_cookies).copied().collect();
    if let Ok(value) = HeaderValue::from_str(&spared.join(", "))
        && !spared.is_empty()
    {
        headers.insert(CLEAR_SITE_DATA, value);
    }
}

fn without_cookies(directive: &str) -> &'static [&'static str] {
    match directive {
        "\"*\"" => &["\"cache\"", "\"storage\""],
        "\"cache\"" => &["\"cache\""],
        "\"storage\"" => &["\"storage\""],
        "\"executionContexts\"" => &["\"executionContexts\""],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_can_neither_set_nor_delete_our_cookies() {
        let mut headers = HeaderMap::new();
        for line in ["a=1", "__Host-doorward=; Max-Age=0", "__host-doorward=x", "b=2"] {
            headers.append(header::SET_COOKIE, HeaderValue::from_static(line));
        }
        headers.insert(CLEAR_SITE_DATA, HeaderValue::from_static("\"cache\", \"cookies\""));
        clean(&mut headers, &CookieNames::new(None));
        assert_eq!(headers.get_all(header::SET_COOKIE).iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
        assert_eq!(headers[CLEAR_SITE_DATA], "\"cache\"");
    }

    #[test]
    fn trailers_keep_neither_what_a_head_may_say_nor_words_that_are_ours() {
        let mut trailers = HeaderMap::new();
        for name in ["set-cookie", "clear-site-data", "doorward-session", "server", "te"] {
            trailers.insert(name, HeaderValue::from_static("x"));
        }
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        clean_trailers(&mut trailers);
        assert_eq!(trailers.keys().collect::<Vec<_>>(), ["grpc-status"]);
    }

    #[test]
    fn an_app_cannot_say_what_only_the_gateway_says() {
        let mut headers = HeaderMap::new();
        headers.insert("doorward-store", HeaderValue::from_static("away"));
        clean(&mut headers, &CookieNames::new(None));
        assert!(headers.is_empty());
    }

    #[test]
    fn clear_site_data_of_cookies_alone_goes_and_everything_becomes_the_rest() {
        let cleared = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CLEAR_SITE_DATA, HeaderValue::from_static(value));
            clean(&mut headers, &CookieNames::new(None));
            headers.get(CLEAR_SITE_DATA).cloned()
        };
        assert_eq!(cleared("\"cookies\""), None);
        assert_eq!(cleared("\"*\""), Some(HeaderValue::from_static("\"cache\", \"storage\"")));
    }
}
