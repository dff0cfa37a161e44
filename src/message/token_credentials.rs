//! Personal access tokens in request headers: in `Authorization` as Bearer, or as the password of Basic
//! credentials, or in `X-Doorward-Token` if the app needs `Authorization` itself.

use data_encoding::BASE64;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::header_lines::HeaderLines;
use crate::session::personal_token::PREFIX;

/// Header for a token beside the credentials of the app.
const X_DOORWARD_TOKEN: HeaderName = HeaderName::from_static("x-doorward-token");

/// The token of a request.
pub enum TokenCredentials {
    Missing,
    /// The text of the token, and the user name of Basic credentials.
    One {
        token: Zeroizing<Vec<u8>>,
        user: Option<String>,
    },
    /// It is unclear which one applies.
    Several,
}

impl TokenCredentials {
    /// Finds the personal access token in the headers of a request. `own` is the header that the route names.
    pub fn find(headers: &HeaderMap, own: Option<&HeaderName>) -> TokenCredentials {
        let standard = X_DOORWARD_TOKEN;
        let whole = [Some(&standard), own].into_iter().flatten();
        let whole = whole.flat_map(|name| headers.get_all(name));
        let whole = whole.map(|value| (Zeroizing::new(value.as_bytes().to_vec()), None));
        only(whole.chain(headers.get_all(AUTHORIZATION).iter().filter_map(parse)))
    }

    /// Finds the access token of a provider: the Bearer credentials, whatever they contain (RFC 6750, 2.1).
    pub fn find_bearer(headers: &HeaderMap) -> TokenCredentials {
        let values = headers.get_all(AUTHORIZATION).iter();
        only(
            values
                .filter_map(|value| bearer(value.to_str().ok()?))
                .map(|token| (Zeroizing::new(token.as_bytes().to_vec()), None)),
        )
    }
}

type Found = (Zeroizing<Vec<u8>>, Option<String>);

fn only(mut found: impl Iterator<Item = Found>) -> TokenCredentials {
    match (found.next(), found.next()) {
        (None, _) => TokenCredentials::Missing,
        (Some((token, user)), None) => TokenCredentials::One { token, user },
        (Some(_), Some(_)) => TokenCredentials::Several,
    }
}

/// Returns the text after `Bearer`.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, credentials) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credentials.trim())
}

/// Removes `Authorization` if it contains a token. No app may see it.
pub(super) fn strip(headers: &mut HeaderLines) {
    if headers.get_all(&AUTHORIZATION).any(|value| parse(value).is_some()) {
        headers.remove(&AUTHORIZATION);
    }
}

/// Returns the token in a value of `Authorization`, and the user name beside it.
fn parse(value: &HeaderValue) -> Option<Found> {
    let value = value.to_str().ok()?;
    if let Some(token) = bearer(value) {
        let is_token = token.starts_with(PREFIX);
        return is_token.then(|| (Zeroizing::new(token.as_bytes().to_vec()), None));
    }
    let (scheme, credentials) = value.trim().split_once(' ')?;
    let credentials = credentials.trim();
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = Zeroizing::new(BASE64.decode(credentials.as_bytes()).ok()?);
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let (user, password) = decoded.split_at_checked(colon)?;
    let token = password.strip_prefix(b":").filter(|it| it.starts_with(PREFIX.as_bytes()))?;
    let user = String::from_utf8_lossy(user).into_owned();
    Some((Zeroizing::new(token.to_vec()), Some(user)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().expect("a name");
            headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    fn found(lines: &[(&str, &str)]) -> Option<(String, Option<String>)> {
        match TokenCredentials::find(&headers(lines), Some(&HeaderName::from_static("x-api-key"))) {
            TokenCredentials::One { token, user } => {
                Some((String::from_utf8(token.to_vec()).expect("text"), user))
            }
            TokenCredentials::Missing | TokenCredentials::Several => None,
        }
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", BASE64.encode(text.as_bytes()))
    }

    #[test]
    fn a_token_is_found_in_each_header() {
        let token = |user: Option<&str>| Some(("dwp_x".to_owned(), user.map(str::to_owned)));
        assert_eq!(found(&[("authorization", "Bearer dwp_x")]), token(None));
        assert_eq!(found(&[("authorization", "bEARER  dwp_x ")]), token(None));
        assert_eq!(found(&[("authorization", &basic("alice:dwp_x"))]), token(Some("alice")));
        let app = ("authorization", "Bearer of-the-app");
        assert_eq!(found(&[("x-doorward-token", "dwp_x"), app]), token(None));
        assert_eq!(found(&[("x-api-key", "dwp_x")]), token(None));
        for other in ["Bearer dw1_x", "dwp_x", "Digest dwp_x", &basic("dwp_x"), "Basic dwp_x"] {
            assert_eq!(found(&[("authorization", other)]), None, "{other}");
        }
    }

    #[test]
    fn bearer_credentials_are_found_whatever_they_contain() {
        let found = |lines: &[(&str, &str)]| match TokenCredentials::find_bearer(&headers(lines)) {
            TokenCredentials::Missing => "none".to_owned(),
            TokenCredentials::One { token, .. } => String::from_utf8_lossy(&token).into_owned(),
            TokenCredentials::Several => "several".to_owned(),
        };
        assert_eq!(found(&[("authorization", "bearer  a.b.c ")]), "a.b.c");
        assert_eq!(found(&[("authorization", "Basic YTpi"), ("x-doorward-token", "x")]), "none");
        let twice = ("authorization", "Bearer a");
        assert_eq!(found(&[twice, twice]), "several");
    }

    #[test]
    fn several_tokens_are_none() {
        let bearer = ("authorization", "Bearer dwp_x");
        for lines in [[bearer, bearer], [bearer, ("x-doorward-token", "dwp_y")]] {
            let found = TokenCredentials::find(&headers(&lines), None);
            assert!(matches!(found, TokenCredentials::Several));
        }
    }

    #[test]
    fn only_authorization_with_a_token_is_removed() {
        let removed = |value: &str| {
            let mut headers = HeaderLines::from(headers(&[("authorization", value)]));
            strip(&mut headers);
            headers.is_empty()
        };
        assert!(removed("Bearer dwp_x") && removed(&basic("a:dwp_x")));
        assert!(!removed("Bearer of-the-app") && !removed(&basic("a:b")));
    }
}
