//! `[login.oidc.NAME]`: OpenID Connect providers.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use super::diagnostics::KeyDefault::{Required, Value};
use super::diagnostics::{Diagnostics, Span};
use super::duration;
use super::reader::{Field, Reader, non_empty};
use super::unknown::unknown_value;
use super::values::is_loopback;
use crate::session::{CERTIFICATE_METHOD, PASSWORD_METHOD};

/// Section of a provider in messages.
const SECTION: &str = "login.oidc.NAME";

/// Maximum length of a name. It is part of URLs and metrics.
const MAX_NAME: usize = 32;

/// A provider. Secrets and keys are in files or environment variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcSection {
    /// Lower-case letters, digits and hyphens.
    pub name: String,
    /// https URL, or http on this machine.
    pub issuer: String,
    pub client_id: String,
    pub client_auth: OidcClientAuth,
    /// `None` uses the environment variable of [`OidcSection::secret_variable`].
    pub client_secret_file: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
    pub client_key_id: Option<String>,
    pub client_assertion_file: Option<PathBuf>,
    /// CA of the provider, instead of the system's trust store.
    pub ca: Option<PathBuf>,
    /// Without `openid`.
    pub scopes: Vec<String>,
    /// Text of the login button.
    pub label: String,
    pub claims: OidcClaims,
    pub allow: OidcAllow,
    pub userinfo: bool,
    pub graph: Option<String>,
    pub pushed_requests: bool,
    pub max_age: Option<Duration>,
    pub acr: Vec<String>,
    /// Audiences of access tokens that routes with `bearer` accept.
    pub bearer_audience: Vec<String>,
    pub timeout: Duration,
    /// Precedes every user name of the provider.
    pub user_prefix: String,
    /// Whether a name of this provider is the same person as the same name of other login methods.
    pub trust_user_names: bool,
    /// How often the provider must confirm an account; `None` for never.
    pub recheck: Option<Duration>,
    /// Whether a logout ends the session at the provider too.
    pub provider_logout: bool,
    /// Whether the provider verifies a second factor at every login.
    pub second_factor: bool,
}

/// How the gateway proves its identity to the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OidcClientAuth {
    SecretBasic,
    SecretPost,
    PrivateKeyJwt,
    AssertionFile,
    None,
}

/// Where the claims of a user are: paths from the top of the claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcClaims {
    /// The first path with a value counts, also for `name` and `email`.
    pub user: Vec<Vec<String>>,
    pub name: Vec<Vec<String>>,
    pub email: Vec<Vec<String>>,
    /// The values of all paths count.
    pub groups: Vec<Vec<String>>,
    pub strip_leading_slash: bool,
    pub trust_email: bool,
}

/// The users who may log in. Empty lists allow all; every list that is set must be satisfied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OidcAllow {
    pub groups: Vec<String>,
    pub domains: Vec<String>,
    /// Claims with their required values.
    pub claims: Vec<(String, String)>,
}

impl OidcSection {
    /// Returns the environment variable with the client secret.
    pub fn secret_variable(&self) -> String {
        format!("DOORWARD_OIDC_{}_SECRET", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// Returns the files that hold secrets.
    pub fn secret_files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.client_secret_file, &self.client_key_file].into_iter().flatten()
    }
}

/// Registers the keys of a provider, for a file without one.
pub(super) fn register_keys(diagnostics: &Diagnostics<'_>) {
    provider("", Reader::empty(diagnostics, SECTION));
}

/// Reads every provider. `None` if one of them is invalid.
pub(super) fn providers(login: &mut Reader<'_>) -> Option<Vec<Field<OidcSection>>> {
    let sections = login.named_sections("oidc", "login.oidc", SECTION)?;
    let read = sections.into_iter().map(|(name, section)| named(&name, section));
    let read: Vec<_> = read.collect();
    read.into_iter().collect()
}

fn named(name: &str, section: Reader<'_>) -> Option<Field<OidcSection>> {
    provider_name(name, &section);
    let (span, is_set) = (section.span.clone(), true);
    provider(name, section).map(|value| Field { value, span, is_set })
}

/// Rejects a name that does not fit into URLs and metrics.
pub(super) fn provider_name(name: &str, section: &Reader<'_>) {
    let is_valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_too_long = name.len() > MAX_NAME;
    if name.is_empty()
        || is_too_long
        || matches!(name, PASSWORD_METHOD | CERTIFICATE_METHOD)
        || !name.chars().all(is_valid)
    {
        section.diagnostics.error(
            &section.span,
            format!("`{name}` is not a name for a provider"),
            "write a name such as company: lower-case letters, digits and -, at most 32, and not \"password\" or \"certificate\"",
        );
    }
}

fn provider(name: &str, mut section: Reader<'_>) -> Option<OidcSection> {
    let text = |text: &str| non_empty(text).map(str::to_owned);
    let issuer = section.text("issuer", Required(r#""https://id.example.com""#), web_url);
    let client_id = section.text("client_id", Required(r#""doorward""#), text);
    let client_auth = section.text("client_auth", Value(r#""basic""#), client_auth);
    let secret_file = section.optional_file("client_secret_file", r#""secrets/oidc""#);
    let key_file = section.optional_file("client_key_file", r#""secrets/oidc.key""#);
    let key_id = section.optional("client_key_id", r#""doorward-1""#, text);
    let assertion = section.optional_file("client_assertion_file", r#""/var/run/token""#);
    let ca = section.optional_file("ca", r#""certs/id-ca.pem""#);
    let scopes = section.list("scopes", Value(r#"["profile", "email"]"#), scope);
    let label = section.optional("label", r#""Example Company""#, text);
    let userinfo = section.flag("userinfo", Value("false"));
    let graph = section.optional("graph", r#""https://graph.microsoft.com/v1.0""#, web_url);
    let pushed = section.flag("pushed_requests", Value("false"));
    let max_age = section.optional_quantity("max_age", r#""12h""#, duration::parse_positive);
    let acr = section.list("acr", Value("[]"), text);
    let bearer = section.list("bearer_audience", Value("[]"), text);
    let timeout = section.quantity("timeout", Value(r#""10s""#), provider_timeout);
    let prefix = section.text("user_prefix", Value(r#""""#), user_prefix);
    let trusted = section.flag("trust_user_names", Value("false"));
    let recheck = section.optional_quantity("recheck", r#""15m""#, recheck_interval);
    let logout = section.flag("provider_logout", Value("true"));
    let second_factor = section.flag("second_factor", Value("false"));
    let claims = section.section("claims", "login.oidc.NAME.claims").and_then(claims);
    let allow = section.section("allow", "login.oidc.NAME.allow").and_then(allow);
    let client_auth = client_auth?;
    let files = [secret_file?, key_file?, assertion?];
    check_files(&section, &client_auth, &files);
    let [client_secret_file, client_key_file, client_assertion_file] =
        files.map(|file| file.map(|file| file.value));
    Some(OidcSection {
        name: name.to_owned(),
        issuer: issuer?.value,
        client_id: client_id?.value,
        client_auth: client_auth.value,
        client_secret_file,
        client_key_file,
        client_key_id: key_id?.map(|id| id.value),
        client_assertion_file,
        ca: ca?.map(|ca| ca.value),
        scopes: values(scopes?),
        label: label?.map_or_else(|| name.to_owned(), |label| label.value),
        claims: claims?,
        allow: allow?,
        userinfo: userinfo?.value,
        graph: graph?.map(|url| url.value),
        pushed_requests: pushed?.value,
        max_age: max_age?.map(|age| age.value),
        acr: values(acr?),
        bearer_audience: values(bearer?),
        timeout: timeout?.value,
        user_prefix: prefix?.value,
        trust_user_names: trusted?.value,
        recheck: recheck?.map(|time| time.value),
        provider_logout: logout?.value,
        second_factor: second_factor?.value,
    })
}

/// Rejects a file of another `client_auth`, and a missing one.
fn check_files(
    section: &Reader<'_>,
    auth: &Field<OidcClientAuth>,
    [secret, key, assertion]: &[Option<Field<PathBuf>>; 3],
) {
    let (wanted, word) = match auth.value {
        OidcClientAuth::SecretBasic | OidcClientAuth::SecretPost => ("client_secret_file", ""),
        OidcClientAuth::PrivateKeyJwt => ("client_key_file", "private_key_jwt"),
        OidcClientAuth::AssertionFile => ("client_assertion_file", "assertion_file"),
        OidcClientAuth::None => ("", ""),
    };
    let all = [
        ("client_secret_file", secret, "basic"),
        ("client_key_file", key, "private_key_jwt"),
        ("client_assertion_file", assertion, "assertion_file"),
    ];
    for (name, file, method) in all {
        if let Some(file) = file.as_ref().filter(|_| name != wanted) {
            section.diagnostics.error(
                &file.span,
                format!("`{name}` has no effect with this `client_auth`"),
                format!("write client_auth = \"{method}\", or leave {name} out"),
            );
        }
        if name == wanted && file.is_none() && !word.is_empty() {
            section.diagnostics.error(
                &auth.span,
                format!("client_auth = \"{word}\" needs `{name}`"),
                format!("write {name} = \"…\""),
            );
        }
    }
}

fn claims(mut section: Reader<'_>) -> Option<OidcClaims> {
    let user = section.paths("user", Value(r#"["preferred_username"]"#));
    let name = section.paths("name", Value(r#"["name"]"#));
    let email = section.paths("email", Value(r#"["email"]"#));
    let groups = section.paths("groups", Value(r#"["groups"]"#));
    let strip = section.flag("strip_leading_slash", Value("false"));
    let trust = section.flag("trust_email", Value("false"));
    Some(OidcClaims {
        user: user?.value,
        name: name?.value,
        email: email?.value,
        groups: groups?.value,
        strip_leading_slash: strip?.value,
        trust_email: trust?.value,
    })
}

fn allow(mut section: Reader<'_>) -> Option<OidcAllow> {
    let text = |text: &str| non_empty(text).map(str::to_owned);
    let groups = section.list("groups", Value("[]"), text);
    let domains = section.list("domains", Value("[]"), domain);
    let claims = section.pairs("claims", Value("{}"), |name, value| {
        Ok::<_, &'static str>((non_empty(name)?.to_owned(), non_empty(value)?.to_owned()))
    });
    Some(OidcAllow { groups: values(groups?), domains: values(domains?), claims: values(claims?) })
}

/// The user names of a provider.
pub(super) struct UserNames<'a> {
    pub span: &'a Span,
    pub provider: &'a str,
    pub prefix: &'a str,
    pub is_trusted: bool,
    /// Whether a login refuses names of the users file.
    pub excludes_users_file: bool,
}

impl<'a> From<&'a Field<OidcSection>> for UserNames<'a> {
    fn from(field: &'a Field<OidcSection>) -> UserNames<'a> {
        UserNames {
            span: &field.span,
            provider: &field.value.name,
            prefix: &field.value.user_prefix,
            is_trusted: field.value.trust_user_names,
            excludes_users_file: false,
        }
    }
}

/// Checks the providers against each other and the passwords. Two login methods whose names are not
/// distinguishable could give one person the account of another in every app.
pub(super) fn check_user_names(
    diagnostics: &Diagnostics<'_>,
    providers: &[UserNames<'_>],
    has_password: bool,
) {
    for (index, one) in providers.iter().enumerate().filter(|(_, one)| !one.is_trusted) {
        // A trusted provider does not use the prefix of another one.
        let is_other =
            |(other, names): &(usize, &UserNames<'_>)| *other != index && !names.is_trusted;
        let mut others = providers.iter().enumerate().filter(is_other);
        let overlaps = |(_, other): (usize, &UserNames<'_>)| {
            one.prefix.starts_with(other.prefix) || other.prefix.starts_with(one.prefix)
        };
        let is_in_users_file = has_password && !one.excludes_users_file && one.prefix.is_empty();
        if is_in_users_file || others.any(overlaps) {
            report_same_names(diagnostics, one.span, one.provider);
        }
    }
}

fn report_same_names(diagnostics: &Diagnostics<'_>, span: &Span, name: &str) {
    diagnostics.error(
        span,
        format!(
            "a user of `{name}` could have the name of a user of another login method, and their access"
        ),
        format!(
            "write user_prefix = \"{name}-\", or trust_user_names = true if equal names are always the same person"
        ),
    );
}

fn client_auth(text: &str) -> Result<OidcClientAuth, String> {
    match text {
        "basic" => Ok(OidcClientAuth::SecretBasic),
        "post" => Ok(OidcClientAuth::SecretPost),
        "private_key_jwt" => Ok(OidcClientAuth::PrivateKeyJwt),
        "assertion_file" => Ok(OidcClientAuth::AssertionFile),
        "none" => Ok(OidcClientAuth::None),
        other => Err(unknown_value(
            other,
            &["basic", "post", "private_key_jwt", "assertion_file", "none"],
        )),
    }
}

/// Accepts an https URL, or an http URL of this machine, without user, query and fragment.
fn web_url(text: &str) -> Result<String, String> {
    let invalid = || format!("`{text}` is not a URL; write \"https://id.example.com\"");
    let url: Uri = text.parse().map_err(|_| invalid())?;
    let host = url.host().ok_or_else(invalid)?;
    if text.contains(['@', '?', '#']) {
        return Err(format!("`{text}` has a user name, a query or a fragment; leave it out"));
    }
    match url.scheme_str() {
        Some("https") => Ok(text.to_owned()),
        Some("http") if is_loopback(host) => Ok(text.to_owned()),
        Some("http") => Err(format!("`{text}` is not encrypted; write https://")),
        Some(_) | None => Err(invalid()),
    }
}

fn scope(text: &str) -> Result<String, String> {
    if text == "openid" {
        return Err("`openid` is always requested; leave it out".to_owned());
    }
    let is_valid = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
    match !text.is_empty() && text.chars().all(is_valid) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is not one scope; write \"profile\"")),
    }
}

fn domain(text: &str) -> Result<String, String> {
    match text.contains('@') || !text.contains('.') {
        true => Err(format!("`{text}` is not a domain; write \"example.com\"")),
        false => Ok(text.to_ascii_lowercase()),
    }
}

pub(super) fn user_prefix(text: &str) -> Result<String, String> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || "-_.+/".contains(c);
    match text.len() <= MAX_NAME && text.chars().all(is_valid) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` has other characters than letters, digits and -_.+/")),
    }
}

/// A login waits for the provider, so the time is limited.
fn provider_timeout(text: &str) -> Result<Duration, String> {
    let time = duration::parse_positive(text).map_err(|error| error.to_string())?;
    match time <= Duration::from_secs(60) {
        true => Ok(time),
        false => Err(format!("`{text}` is longer than 60s; write \"10s\"")),
    }
}

/// The provider receives one request per session and interval.
pub(super) fn recheck_interval(text: &str) -> Result<Duration, String> {
    let time = duration::parse_positive(text).map_err(|error| error.to_string())?;
    match time >= Duration::from_secs(60) {
        true => Ok(time),
        false => Err(format!("`{text}` is shorter than 1m; write \"15m\"")),
    }
}

pub(super) fn values<T>(list: Field<Vec<Field<T>>>) -> Vec<T> {
    list.value.into_iter().map(|item| item.value).collect()
}
