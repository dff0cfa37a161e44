//! Headers that a client may not send to an upstream.
//!
//! Three kinds: headers about the origin of a request, families of identity headers that gateways set
//! and apps trust, and the rules of one route. `docs/removed-headers.md` lists the first two.

use std::sync::LazyLock;

use http::HeaderName;

use super::identity_headers::is_plain_byte;
use super::method_override;

/// The rules of one route for the headers of its clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// Identity headers of this route, and of the routes with the same upstream.
    pub identity: Vec<HeaderName>,
    /// Further headers that are removed.
    pub removed: Vec<HeaderName>,
    /// Headers that pass although they belong to a family. Never an identity header of a route.
    pub passed: Vec<HeaderName>,
}

/// The headers that are removed on one route.
#[derive(Clone, Debug, Default)]
pub struct ReservedHeaders {
    /// Lower-case names, sorted; without those of the families.
    names: Vec<String>,
    /// Lower-case prefixes.
    prefixes: Vec<String>,
    passed: Vec<HeaderName>,
}

/// Headers about a request's origin. The gateway sets them itself and drops the client's, including
/// those of other proxies, none of which is between the gateway and the upstream.
const FORWARDING_HEADERS: [&str; 27] = [
    // Announces that the request goes to an alternative service (RFC 7838 5).
    "alt-used",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    // RFC 9440: a client must not assert its own certificate.
    "client-cert",
    "client-cert-chain",
    "client-ip",
    "fastly-client-ip",
    "forwarded",
    "forwarded-for",
    "front-end-https",
    // CGI exposes it as HTTP_PROXY, which many libraries use as their outgoing proxy (httpoxy).
    "proxy",
    "proxy-authorization",
    "true-client-ip",
    "x-client-ip",
    "x-client-verify",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-forwarded",
    "x-original-host",
    "x-original-method",
    "x-original-uri",
    "x-original-url",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-url",
    "x-url-scheme",
];

const FORWARDED_PREFIX: &str = "x-forwarded-";

/// Prefixes of headers that gateways and proxies set. Sorted, and none is a prefix of another.
const PREFIXES: [&str; 56] = [
    "auth-request-",
    "cf-access-",
    "impersonate-",
    "iv-",
    "mellon-",
    "oam-",
    "oidc-",
    "remote-",
    "shib-",
    "sm-",
    "ssl-client-",
    "sso-",
    "tailscale-",
    "teleport-",
    "x-amzn-oidc-",
    "x-anonymous-consumer",
    "x-apigateway-api-userinfo",
    "x-arr-clientcert",
    "x-auth-request-",
    "x-authenticated-",
    "x-authentik-",
    "x-client-cert",
    "x-client-cn",
    "x-client-dn",
    "x-client-s-dn",
    "x-client-subject",
    "x-consumer-",
    "x-credential-",
    // The gateway's own, such as the assertion.
    "x-doorward-",
    "x-endpoint-api-",
    FORWARDED_PREFIX,
    "x-goog-authenticated-user-",
    "x-goog-iap-",
    "x-id-token",
    "x-identity",
    "x-impersonate-",
    "x-jwt-",
    "x-keycloak-",
    "x-ms-client-principal",
    "x-ms-token-",
    "x-oauth-",
    "x-oidc-",
    "x-okta-",
    "x-openid-",
    "x-pomerium-",
    "x-remote-",
    "x-rh-identity",
    "x-saml-",
    "x-shib-",
    "x-ssl-",
    "x-sso-",
    "x-tls-client-",
    "x-userinfo",
    "x-vouch-",
    "x-webauth-",
    "x-zitadel-",
];

/// Beginnings of identity headers that apps read.
const STEMS: [&str; 5] = ["auth-", "proxy-", "x-", "x-auth-", "x-proxy-"];

/// Endings of identity headers: each beginning is reserved with each of them, also after `user-`.
const PROPERTIES: [&str; 21] = [
    "claims",
    "display-name",
    "displayname",
    "dn",
    "email",
    "full-name",
    "fullname",
    "group",
    "groups",
    "is-admin",
    "login",
    "mail",
    "permissions",
    "preferred-username",
    "principal",
    "role",
    "roles",
    "scopes",
    "subject",
    "uid",
    "upn",
];

/// Endings after a beginning alone.
const USERS: [&str; 3] = ["user", "userid", "username"];

/// Endings after `user-` only.
const OF_USERS: [&str; 3] = ["id", "info", "name"];

/// Beginnings shared with headers that are no identity headers.
const COMMON_STEMS: [&str; 9] =
    ["accept-", "access-", "cache-", "content-", "if-", "sec-", "upgrade-", "user-", "x-"];

static FAMILY_NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let of_stem = |stem: &&str| {
        let alone = PROPERTIES.iter().chain(&USERS).map(|word| format!("{stem}{word}"));
        let of_user = PROPERTIES.iter().chain(&OF_USERS).map(|word| format!("{stem}user-{word}"));
        alone.chain(of_user).collect::<Vec<_>>()
    };
    let forwarding = FORWARDING_HEADERS.iter().map(|name| (*name).to_owned());
    let mut names: Vec<String> = STEMS.iter().flat_map(of_stem).chain(forwarding).collect();
    names.sort();
    names
});

impl ReservedHeaders {
    /// Reserves the families and the headers of the rules, with the siblings of identity headers.
    pub fn new(rules: &HeaderRules) -> ReservedHeaders {
        let own = rules.identity.iter().chain(&rules.removed);
        let mut names: Vec<String> = own.map(|name| fold(name.as_str())).collect();
        let mut prefixes = Vec::new();
        for name in &rules.identity {
            add_siblings(name.as_str(), &mut names, &mut prefixes);
        }
        prefixes.retain(|prefix| !has_family_prefix(prefix));
        for list in [&mut names, &mut prefixes] {
            list.sort();
            list.dedup();
        }
        ReservedHeaders { names, prefixes, passed: rules.passed.clone() }
    }

    /// Whether the header is reserved, in any spelling.
    ///
    /// A name with `_` is always dropped: CGI, WSGI and PHP upstreams read it as `-`
    /// (CVE-2025-64484). Other characters are folded to `-` first: lighttpd and older Apache fold
    /// all of them (`X~Forwarded~User`), PHP folds the dot.
    pub(super) fn is_reserved(&self, name: &str) -> bool {
        let is_reserved = if name.bytes().all(is_plain_byte) {
            self.covers(name)
        } else {
            let folded = fold(name);
            name.contains('_') || self.covers(&folded) || method_override::is_header(&folded)
        };
        is_reserved && !self.passed.iter().any(|passed| passed == name)
    }

    fn covers(&self, folded: &str) -> bool {
        (may_be_in_family(folded) && is_in_family(folded))
            || self.names.iter().any(|name| name == folded)
            || self.prefixes.iter().any(|prefix| folded.starts_with(prefix))
    }
}

/// Whether the first two letters are those of a family. Most headers of a browser fail here, and every
/// request has a dozen of them.
fn may_be_in_family(name: &str) -> bool {
    let Some([first, second]) = name.as_bytes().first_chunk() else { return false };
    match first {
        b'a' => matches!(second, b'u' | b'l'),
        b'c' => matches!(second, b'f' | b'l'),
        b'f' => matches!(second, b'a' | b'o' | b'r'),
        b'i' => matches!(second, b'm' | b'v'),
        b'o' => matches!(second, b'a' | b'i'),
        b's' => matches!(second, b'h' | b'm' | b's'),
        b't' => matches!(second, b'a' | b'e' | b'r'),
        b'm' | b'p' | b'r' | b'x' => true,
        _ => false,
    }
}

/// Whether the header is removed on every route.
pub fn is_in_family(folded: &str) -> bool {
    FAMILY_NAMES.binary_search_by(|name| name.as_str().cmp(folded)).is_ok()
        || has_family_prefix(folded)
}

/// Returns the name as CGI and WSGI programs read it.
pub fn fold(name: &str) -> String {
    name.bytes().map(|byte| if is_plain_byte(byte) { char::from(byte) } else { '-' }).collect()
}

fn has_family_prefix(name: &str) -> bool {
    // Only the last prefix that sorts before the name can match.
    let before = PREFIXES.partition_point(|prefix| *prefix <= name);
    PREFIXES[..before].last().is_some_and(|prefix| name.starts_with(prefix))
}

/// Adds the headers that an app may read beside `X-Proxy-User`: `X-Proxy-Roles`, `X-Proxy-User-Id`.
fn add_siblings(name: &str, names: &mut Vec<String>, prefixes: &mut Vec<String>) {
    let Some((stem, word)) = name.rsplit_once('-') else { return };
    prefixes.push(format!("{name}-"));
    let stem = format!("{stem}-");
    let mut words = PROPERTIES.iter().chain(&USERS).chain(&OF_USERS);
    if words.any(|known| *known == word) && !COMMON_STEMS.contains(&stem.as_str()) {
        prefixes.push(stem);
    } else {
        names.extend(PROPERTIES.iter().chain(&USERS).map(|word| format!("{stem}{word}")));
    }
}

/// Whether the header is about the origin of a request. The gateway sets such headers itself.
pub fn is_forwarding(name: &str) -> bool {
    name.starts_with(FORWARDED_PREFIX) || FORWARDING_HEADERS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserved(identity: &[&str], removed: &[&str], passed: &[&str]) -> ReservedHeaders {
        let list = |names: &[&str]| {
            names.iter().map(|name| name.parse().expect("a name")).collect::<Vec<HeaderName>>()
        };
        let rules =
            HeaderRules { identity: list(identity), removed: list(removed), passed: list(passed) };
        ReservedHeaders::new(&rules)
    }

    #[test]
    fn identity_headers_of_other_gateways_are_reserved() {
        let reserved = reserved(&[], &[], &[]);
        for name in [
            "impersonate-user",
            "x-consumer-groups",
            "x-user-roles",
            "x-userinfo",
            "x-sso-user",
            "x-client-dn",
            "x-proxy-roles",
            "x-roles",
            "x-auth-user-id",
            "iv-user",
            "sm-user",
            "shib-session-id",
            "cf-access-jwt-assertion",
            "x-goog-iap-jwt-assertion",
            "x-pomerium-jwt-assertion",
            "teleport-jwt-assertion",
            "x-amzn-oidc-data",
            "x-jwt-assertion",
            "x-ms-token-aad-id-token",
            "x-apigateway-api-userinfo",
            "x-endpoint-api-userinfo",
            "x~user~roles",
            "x_user_roles",
            "x-preferred-username",
            "x-client-cn",
            "x-rh-identity",
            "x.http.method.override",
            "alt-used",
        ] {
            assert!(reserved.is_reserved(name), "{name}");
        }
        for name in [
            "user-agent",
            "x-user-agent",
            "x-auth-token",
            "x-auth-key",
            "x-api-key",
            "x-client-data",
            "x-client-id",
            "x-client-version",
            "x-csrf-token",
            "authorization",
            "x-requested-with",
            "x-http-method-override",
            "remote",
            "oidc",
            "x-authent",
            "x-remot-e",
            "x-webauthn",
            "a",
            "z",
            "a.b",
        ] {
            assert!(!reserved.is_reserved(name), "{name}");
        }
    }

    #[test]
    fn siblings_of_a_configured_name_are_reserved() {
        let own = reserved(&["x-acme-user", "x-api-key", "authorization"], &["x-debug"], &[]);
        for name in [
            "x-acme-user",
            "x-acme-roles",
            "x-acme-anything",
            "x-acme-user-id",
            "X_Acme_Roles",
            "x~acme~roles",
            "x-api-key",
            "x-api-key-owner",
            "x-api-roles",
            "authorization",
            "x-debug",
        ] {
            assert!(own.is_reserved(&name.to_ascii_lowercase()), "{name}");
        }
        for name in ["x-acme", "x-api-version", "x-debugger", "x-other", "user-agent"] {
            assert!(!own.is_reserved(name), "{name}");
        }
        let short = reserved(&["x-user", "user-name"], &[], &[]);
        assert!(short.is_reserved("x-user-anything") && short.is_reserved("user-roles"));
        assert!(!short.is_reserved("user-agent") && !short.is_reserved("x-requested-with"));
    }

    #[test]
    fn a_passed_header_is_exempt_by_its_exact_name() {
        let own = reserved(&[], &[], &["x-user-id", "api_key"]);
        assert!(!own.is_reserved("x-user-id") && !own.is_reserved("api_key"));
        for name in ["x-user-name", "x~user~id", "api_key_2", "x_user_id"] {
            assert!(own.is_reserved(name), "{name}");
        }
    }

    #[test]
    fn every_family_passes_the_check_of_its_first_letters() {
        assert!(FAMILY_NAMES.len() > 200);
        for name in FAMILY_NAMES.iter().map(String::as_str).chain(PREFIXES) {
            assert!(may_be_in_family(name), "{name}");
        }
        assert!(!may_be_in_family("accept") && !may_be_in_family("x"));
    }

    #[test]
    fn no_prefix_hides_another_one() {
        assert!(PREFIXES.is_sorted());
        let pairs = PREFIXES.iter().zip(&PREFIXES[1..]);
        assert!(pairs.clone().count() > 10);
        assert!(pairs.into_iter().all(|(one, next)| !next.starts_with(one)));
    }

    #[test]
    fn headers_about_the_origin_are_reserved() {
        let reserved = reserved(&[], &[], &[]);
        for name in FORWARDING_HEADERS {
            assert!(reserved.is_reserved(name) && is_forwarding(name), "{name}");
        }
    }

    /// The page lists what the source lists.
    #[test]
    fn the_documentation_lists_all_removed_headers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/removed-headers.md");
        let page = std::fs::read_to_string(path).expect("the page").to_ascii_lowercase();
        let section = |title: &str| -> Vec<String> {
            let start = page.find(&format!("## {title}")).unwrap_or_else(|| panic!("no {title}"));
            let block = page[start..].split("```").nth(1).expect("a block");
            let mut words: Vec<_> = block.split_whitespace().skip(1).map(str::to_owned).collect();
            words.sort();
            words
        };
        let sorted = |words: &[&str], end: &str| -> Vec<String> {
            let mut words: Vec<_> = words.iter().map(|word| format!("{word}{end}")).collect();
            words.sort();
            words
        };
        assert_eq!(section("prefixes"), sorted(&PREFIXES, "*"));
        assert_eq!(section("beginnings"), sorted(&STEMS, ""));
        assert_eq!(section("properties"), sorted(&PROPERTIES, ""));
        assert_eq!(section("origin"), sorted(&FORWARDING_HEADERS, ""));
    }
}
