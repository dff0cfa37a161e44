//! Keys of `[[route]]` for programs without a browser: `tokens`, `token_header`, `bearer` and
//! `client_certificates`.

use http::HeaderName;
use http::header::AUTHORIZATION;

use super::diagnostics::KeyDefault::Value;
use super::reader::{Field, Reader, non_empty};
use crate::message::identity_headers::parse_name;

/// How programs authenticate on a route.
pub(super) struct Programs {
    pub(super) tokens: bool,
    pub(super) token_header: Option<HeaderName>,
    pub(super) bearer: Vec<String>,
    pub(super) client_certificates: bool,
}

/// The requests that the access rule of the route passes.
#[derive(Clone, Copy)]
pub(super) struct RouteKind {
    pub(super) is_public: bool,
    pub(super) passes_app_credentials: bool,
}

impl Programs {
    /// Returns the headers that only the gateway reads on the route.
    pub(super) fn headers(&self) -> impl Iterator<Item = HeaderName> {
        let bearer = (!self.bearer.is_empty()).then_some(AUTHORIZATION);
        self.token_header.clone().into_iter().chain(bearer)
    }
}

/// `kind` is `None` if the access rule is invalid.
pub(super) fn programs(section: &mut Reader<'_>, kind: Option<RouteKind>) -> Option<Programs> {
    let tokens = section.flag("tokens", Value("false"));
    let header = section.optional("token_header", r#""X-Api-Key""#, token_header);
    let bearer = section.list("bearer", Value("[]"), |name| non_empty(name).map(str::to_owned));
    let certificates = section.flag("client_certificates", Value("false"));
    let (tokens, header, bearer) = (tokens?, header?, bearer?);
    let certificates = certificates?;
    if let Some(kind) = kind {
        check_public(section, kind, "tokens", &tokens);
        check_public(section, kind, "client_certificates", &certificates);
        check_bearer(section, kind, &bearer);
    }
    if let Some(header) = header.as_ref().filter(|_| !tokens.value) {
        section.diagnostics.warning(
            &header.span,
            "`token_header` has no effect without `tokens`",
            "write tokens = true too, or leave it out",
        );
    }
    Some(Programs {
        tokens: tokens.value,
        token_header: header.map(|header| header.value),
        bearer: bearer.value.into_iter().map(|name| name.value).collect(),
        client_certificates: certificates.value,
    })
}

fn check_public(section: &Reader<'_>, kind: RouteKind, key: &str, flag: &Field<bool>) {
    if flag.value && kind.is_public {
        section.diagnostics.error(
            &flag.span,
            format!("`{key}` has no effect on a public route"),
            format!("write access = \"session\", or leave `{key}` out"),
        );
    }
}

fn check_bearer(section: &Reader<'_>, kind: RouteKind, bearer: &Field<Vec<Field<String>>>) {
    if !bearer.value.is_empty() && (kind.is_public || kind.passes_app_credentials) {
        section.diagnostics.error(
            &bearer.span,
            "the gateway checks Authorization on a route with `bearer`, and this route passes requests without a session",
            "write access = \"session\", or leave `bearer` out",
        );
    }
}

fn token_header(name: &str) -> Result<HeaderName, String> {
    let parsed = parse_name(name).map_err(|error| error.to_string())?;
    match parsed == AUTHORIZATION || parsed.as_str().starts_with("x-doorward-") {
        true => Err(format!("`{name}` is read in any case; name another header")),
        false => Ok(parsed),
    }
}
