//! Identity headers: they carry the authenticated user to an upstream.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::session::Identity;

/// The identity headers of one route, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityHeaders {
    pub headers: Vec<IdentityHeader>,
    pub encoding: ValueEncoding,
    /// Groups and the value of `{role}` for their members. The first match applies.
    pub roles: Vec<(String, String)>,
}

/// One identity header and the template of its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityHeader {
    pub name: HeaderName,
    template: Vec<TemplatePart>,
    /// The password that follows the user in `Authorization: Basic`; `None` for any other header.
    password: Option<Password>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Password {
    /// Not read yet.
    File(PathBuf),
    /// Marked sensitive.
    Text(HeaderValue),
}

/// Encoding of values outside ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ValueEncoding {
    /// Raw UTF-8 bytes.
    #[default]
    Utf8,
    /// `%C3%A9`: every byte outside printable ASCII, and `%` itself.
    Percent,
    /// RFC 2047 `=?UTF-8?B?…?=` if the value is not printable ASCII.
    Rfc2047,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TemplatePart {
    Text(String),
    User,
    Name,
    Email,
    /// All groups, with this text between two of them.
    Groups(String),
    Provider,
    Role,
    /// A claim of the provider.
    Claim(String),
}

/// Reason for rejecting a header name or template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error(
        "`{{{0}}}` is not known; write {{user}}, {{name}}, {{email}}, {{groups}}, {{groups:|}}, {{given_name}}, {{family_name}}, {{claim:NAME}}, {{provider}} or {{role}}"
    )]
    Placeholder(String),
    #[error("a separator is missing; write {{groups:|}}, or {{groups}} for a comma")]
    Separator,
    #[error("the name of a claim has 1 to 128 bytes; write {{claim:department}}")]
    ClaimName,
    #[error("`{{claim:{0}}}` is not checked; write {{{0}}}")]
    CheckedClaim(String),
    #[error("a {{ is not closed")]
    Unclosed,
    #[error("only printable ASCII is allowed outside placeholders")]
    Character,
    #[error(
        "`{0}` is not a valid header name here; use only letters, digits and -, as in X-Remote-User"
    )]
    HeaderName(String),
    #[error("`{0}` belongs to the connection or the message; choose another name")]
    Reserved(String),
}

/// Headers that frame or route a message: an identity in one of them would break or redirect the
/// request.
const RESERVED: [&str; 14] = [
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

impl IdentityHeaders {
    /// `X-Forwarded-User`, `-Email`, `-Groups`, `-Preferred-Username`.
    pub fn standard() -> IdentityHeaders {
        let header = |name, part| IdentityHeader {
            name: HeaderName::from_static(name),
            template: vec![part],
            password: None,
        };
        IdentityHeaders {
            headers: vec![
                header("x-forwarded-user", TemplatePart::User),
                header("x-forwarded-email", TemplatePart::Email),
                header("x-forwarded-groups", TemplatePart::Groups(",".to_owned())),
                header("x-forwarded-preferred-username", TemplatePart::User),
            ],
            encoding: ValueEncoding::Utf8,
            roles: Vec::new(),
        }
    }

    /// Returns whether a header contains `{role}`.
    pub fn use_roles(&self) -> bool {
        let mut parts = self.headers.iter().flat_map(|header| &header.template);
        parts.any(|part| *part == TemplatePart::Role)
    }

    /// Returns the names of claims in the templates.
    pub fn claim_names(&self) -> impl Iterator<Item = &str> {
        let parts = self.headers.iter().flat_map(|header| &header.template);
        parts.filter_map(|part| match part {
            TemplatePart::Claim(name) => Some(name.as_str()),
            TemplatePart::Text(_)
            | TemplatePart::User
            | TemplatePart::Name
            | TemplatePart::Email
            | TemplatePart::Groups(_)
            | TemplatePart::Provider
            | TemplatePart::Role => None,
        })
    }

    /// Returns the files of passwords that are not read yet.
    pub fn password_files(&self) -> impl Iterator<Item = &Path> {
        self.headers.iter().filter_map(|header| match &header.password {
            Some(Password::File(file)) => Some(file.as_path()),
            Some(Password::Text(_)) | None => None,
        })
    }

    /// Reads the files of passwords. Until then, their headers are omitted.
    ///
    /// # Errors
    /// The first error of `read`.
    pub fn read_files<E>(
        &mut self,
        read: &impl Fn(&Path) -> Result<HeaderValue, E>,
    ) -> Result<(), E> {
        for password in self.headers.iter_mut().filter_map(|header| header.password.as_mut()) {
            if let Password::File(file) = password {
                *password = Password::Text(read(file)?);
            }
        }
        Ok(())
    }

    /// Returns names and values for one user. A header whose value is unknown is omitted.
    pub fn values<'a>(
        &'a self,
        identity: &'a Identity,
    ) -> impl Iterator<Item = (&'a HeaderName, HeaderValue)> {
        self.headers.iter().filter_map(|header| {
            let text = header.render(identity, &self.roles)?;
            let value = match &header.password {
                None => encode(text, self.encoding),
                Some(password) => basic_credentials(&text, password)?,
            };
            Some((&header.name, value))
        })
    }
}

impl IdentityHeader {
    /// Parses a header name and template, as in `"X-Remote-User" = "{user}"`.
    ///
    /// Only letters, digits and `-` are allowed: upstreams fold other characters to `-`, so a
    /// client's header could not be distinguished from ours.
    pub fn parse(name: &str, template: &str) -> Result<IdentityHeader, TemplateError> {
        let (name, template) = (parse_name(name)?, parse_template(template)?);
        Ok(IdentityHeader { name, template, password: None })
    }

    /// Returns `Authorization: Basic` with a user from a template and a password from a file.
    pub fn basic(user: &str, password_file: PathBuf) -> Result<IdentityHeader, TemplateError> {
        let (template, password) = (parse_template(user)?, Some(Password::File(password_file)));
        Ok(IdentityHeader { name: AUTHORIZATION, template, password })
    }

    /// Whether the value is the same for every user.
    pub fn is_constant(&self) -> bool {
        self.password.is_none()
            && self.template.iter().all(|part| matches!(part, TemplatePart::Text(_)))
    }

    fn render<'a>(
        &'a self,
        identity: &'a Identity,
        roles: &'a [(String, String)],
    ) -> Option<Cow<'a, str>> {
        match self.template.as_slice() {
            // The usual template needs no copy.
            [only] => only.render(identity, roles),
            parts => {
                let all = parts.iter().map(|part| part.render(identity, roles));
                all.collect::<Option<String>>().map(Cow::from)
            }
        }
    }
}

impl TemplatePart {
    fn render<'a>(
        &'a self,
        identity: &'a Identity,
        roles: &'a [(String, String)],
    ) -> Option<Cow<'a, str>> {
        match self {
            TemplatePart::Text(text) => Some(text.into()),
            TemplatePart::User => Some(identity.user.as_str().into()),
            TemplatePart::Name => identity.name.as_deref().map(Cow::from),
            TemplatePart::Email => identity.email.as_deref().map(Cow::from),
            TemplatePart::Groups(separator) => joined(&identity.groups, separator).map(Cow::from),
            TemplatePart::Provider => Some(identity.provider.method().into()),
            TemplatePart::Role => role(&identity.groups, roles).map(Cow::from),
            TemplatePart::Claim(name) => identity.claim(name).map(Cow::from),
        }
    }
}

/// Joins the groups; `None` without any. A group that contains the separator is left out: the app would read
/// it as two groups. No group contains a comma.
fn joined(groups: &[String], separator: &str) -> Option<String> {
    if separator == "," {
        return (!groups.is_empty()).then(|| groups.join(","));
    }
    let usable = groups.iter().filter(|group| !group.contains(separator));
    let usable: Vec<&str> = usable.map(String::as_str).collect();
    (!usable.is_empty()).then(|| usable.join(separator))
}

fn role<'a>(groups: &[String], roles: &'a [(String, String)]) -> Option<&'a str> {
    let found = roles.iter().find(|(group, _)| groups.contains(group));
    found.map(|(_, role)| role.as_str())
}

/// RFC 7617. `None` if the password is not read yet, or if the app would split the user name.
fn basic_credentials(user: &str, password: &Password) -> Option<HeaderValue> {
    let Password::Text(password) = password else { return None };
    if user.contains(':') || user.contains(char::is_control) {
        return None;
    }
    let credentials = [user.as_bytes(), b":", password.as_bytes()].concat();
    let text = format!("Basic {}", BASE64.encode(&credentials));
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Parses the name of a header that the gateway sets: letters, digits and `-`, and none that frames or
/// routes the message.
pub fn parse_name(name: &str) -> Result<HeaderName, TemplateError> {
    let invalid_name = || TemplateError::HeaderName(name.to_owned());
    let parsed: HeaderName = name.parse().map_err(|_| invalid_name())?;
    if !name.bytes().all(is_plain_byte) {
        return Err(invalid_name());
    }
    match RESERVED.contains(&parsed.as_str()) {
        true => Err(TemplateError::Reserved(name.to_owned())),
        false => Ok(parsed),
    }
}

/// Letters, digits and `-`: upstreams fold only their case.
pub(super) fn is_plain_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

fn parse_template(template: &str) -> Result<Vec<TemplatePart>, TemplateError> {
    let mut out = Vec::new();
    let mut rest = template;
    while let Some((text, after)) = rest.split_once('{') {
        push_text(&mut out, text)?;
        let (name, after) = after.split_once('}').ok_or(TemplateError::Unclosed)?;
        out.push(placeholder(name)?);
        rest = after;
    }
    push_text(&mut out, rest)?;
    Ok(out)
}

fn push_text(out: &mut Vec<TemplatePart>, text: &str) -> Result<(), TemplateError> {
    if !is_printable(text) {
        return Err(TemplateError::Character);
    }
    if !text.is_empty() {
        out.push(TemplatePart::Text(text.to_owned()));
    }
    Ok(())
}

fn placeholder(name: &str) -> Result<TemplatePart, TemplateError> {
    match name {
        "user" => Ok(TemplatePart::User),
        "name" => Ok(TemplatePart::Name),
        "email" => Ok(TemplatePart::Email),
        "groups" => Ok(TemplatePart::Groups(",".to_owned())),
        "provider" => Ok(TemplatePart::Provider),
        "role" => Ok(TemplatePart::Role),
        "given_name" | "family_name" => Ok(TemplatePart::Claim(name.to_owned())),
        other => match other.split_once(':') {
            Some(("groups", separator)) => groups_with(separator),
            Some(("claim", claim)) => claim_named(claim),
            Some(_) | None => Err(TemplateError::Placeholder(other.to_owned())),
        },
    }
}

fn groups_with(separator: &str) -> Result<TemplatePart, TemplateError> {
    match separator {
        "" => Err(TemplateError::Separator),
        separator if is_printable(separator) => Ok(TemplatePart::Groups(separator.to_owned())),
        _ => Err(TemplateError::Character),
    }
}

/// Another user could have entered an address that the provider did not verify.
fn claim_named(name: &str) -> Result<TemplatePart, TemplateError> {
    match name {
        "email" | "groups" => Err(TemplateError::CheckedClaim(name.to_owned())),
        name if !is_printable(name) => Err(TemplateError::Character),
        name if (1..=128).contains(&name.len()) => Ok(TemplatePart::Claim(name.to_owned())),
        _ => Err(TemplateError::ClaimName),
    }
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

const PERCENT: &AsciiSet = &CONTROLS.add(b'%');

/// Always returns a valid value, whatever the directory contains.
fn encode(text: Cow<'_, str>, encoding: ValueEncoding) -> HeaderValue {
    let printable = is_printable(&text);
    let encoded = match encoding {
        ValueEncoding::Percent => utf8_percent_encode(&text, PERCENT).to_string().into(),
        ValueEncoding::Utf8 | ValueEncoding::Rfc2047 if printable => text,
        ValueEncoding::Utf8 => without_controls(&text).into(),
        ValueEncoding::Rfc2047 => format!("=?UTF-8?B?{}?=", BASE64.encode(text.as_bytes())).into(),
    };
    HeaderValue::from_bytes(encoded.as_bytes()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn without_controls(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> Identity {
        Identity {
            user: "alice".to_owned(),
            name: Some("Aliçe\r\nX-Admin: 1".to_owned()),
            email: None,
            groups: vec!["staff".to_owned(), "it".to_owned()],
            ..Identity::default()
        }
    }

    fn rendered(name: &str, template: &str, encoding: ValueEncoding) -> Vec<(String, Vec<u8>)> {
        let headers = vec![IdentityHeader::parse(name, template).expect("a template")];
        let roles = [("admins", "Admin"), ("it", "Editor"), ("staff", "Viewer")];
        let roles = roles.map(|(group, role)| (group.to_owned(), role.to_owned())).to_vec();
        let headers = IdentityHeaders { headers, encoding, roles };
        headers
            .values(&alice())
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn a_header_follows_its_template_or_is_absent() {
        let value = |template| rendered("X-Remote-User", template, ValueEncoding::Utf8);
        assert_eq!(value("{user}"), [("x-remote-user".to_owned(), b"alice".to_vec())]);
        assert_eq!(value("u={user};g={groups}")[0].1, b"u=alice;g=staff,it");
        assert!(value("{email}").is_empty());
    }

    #[test]
    fn non_ascii_and_hostile_values_never_break_a_request() {
        let value = |encoding| rendered("X-Name", "{name}", encoding).remove(0).1;
        assert_eq!(value(ValueEncoding::Utf8), "Aliçe??X-Admin: 1".as_bytes());
        assert_eq!(value(ValueEncoding::Percent), b"Ali%C3%A7e%0D%0AX-Admin: 1");
        assert!(value(ValueEncoding::Rfc2047).starts_with(b"=?UTF-8?B?"));
    }

    #[test]
    fn groups_take_any_separator_and_never_read_as_two() {
        let value = |template| rendered("X-Groups", template, ValueEncoding::Utf8);
        assert_eq!(value("{groups:|}")[0].1, b"staff|it");
        assert_eq!(value("{groups:; }")[0].1, b"staff; it");
        let separated = |separator| joined(&["a|b".to_owned(), "c".to_owned()], separator);
        assert_eq!(separated("|").as_deref(), Some("c"), "not the groups a and b");
        assert_eq!(separated(",").as_deref(), Some("a|b,c"));
        assert_eq!(joined(&["a|b".to_owned()], "|"), None);
    }

    #[test]
    fn the_first_role_of_a_group_applies() {
        let value = |template| rendered("X-Role", template, ValueEncoding::Utf8);
        assert_eq!(value("{role}")[0].1, b"Editor");
        assert_eq!(value("{provider}")[0].1, b"password");
        assert_eq!(role(&["guests".to_owned()], &[]), None, "the header is omitted");
    }

    #[test]
    fn basic_credentials_need_a_password_and_an_unambiguous_user() {
        let basic = |template: &str, user: &str, read: bool| {
            let header = IdentityHeader::basic(template, PathBuf::from("p")).expect("a template");
            let mut headers =
                IdentityHeaders { headers: vec![header], ..IdentityHeaders::standard() };
            if read {
                let password = |_: &Path| Ok::<_, ()>(HeaderValue::from_static("pa:ss"));
                headers.read_files(&password).expect("read");
            }
            let identity = Identity { user: user.to_owned(), ..Identity::default() };
            let mut values = headers.values(&identity);
            values.next().map(|(_, value)| value.to_str().expect("ASCII").to_owned())
        };
        assert_eq!(basic("{user}", "zoë", true).as_deref(), Some("Basic em/DqzpwYTpzcw=="));
        assert_eq!(basic("app", "zoë", true).as_deref(), Some("Basic YXBwOnBhOnNz"));
        assert_eq!(basic("{user}", "a:b", true), None);
        assert_eq!(basic("{user}", "zoë", false), None, "the file was not read");
    }

    #[test]
    fn an_invalid_template_is_rejected_with_its_reason() {
        let error = |name, template| IdentityHeader::parse(name, template).expect_err("refused");
        assert_eq!(error("X-A", "{who}"), TemplateError::Placeholder("who".to_owned()));
        assert_eq!(error("X-A", "{user"), TemplateError::Unclosed);
        assert_eq!(error("X-A", "{groups:}"), TemplateError::Separator);
        assert_eq!(error("X-A", "{groups:\n}"), TemplateError::Character);
        assert_eq!(error("X-A", "{claim:}"), TemplateError::ClaimName);
        assert_eq!(error("X-A", "{claim:email}"), TemplateError::CheckedClaim("email".to_owned()));
        assert_eq!(error("X-A", "{claims:a}"), TemplateError::Placeholder("claims:a".to_owned()));
        assert_eq!(error("X-A", "a\n"), TemplateError::Character);
        assert_eq!(error("X A", "x"), TemplateError::HeaderName("X A".to_owned()));
        for name in ["X_A", "X.A", "X~A", "X!A", "X'A", "X|A", "X^A`"] {
            assert_eq!(error(name, "x"), TemplateError::HeaderName(name.to_owned()));
        }
        assert_eq!(error("Host", "x"), TemplateError::Reserved("Host".to_owned()));
    }
}
