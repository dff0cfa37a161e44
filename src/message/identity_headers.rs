//! Identity headers: they carry the authenticated user to an upstream.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::session::Identity;

/// The identity headers of one route, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityHeaders {
    pub headers: Vec<IdentityHeader>,
    pub encoding: ValueEncoding,
}

/// One identity header and the template of its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityHeader {
    pub name: HeaderName,
    template: Vec<TemplatePart>,
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
    Groups,
}

/// Reason for rejecting a header name or template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("`{{{0}}}` is not known; write {{user}}, {{name}}, {{email}} or {{groups}}")]
    Placeholder(String),
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
        };
        IdentityHeaders {
            headers: vec![
                header("x-forwarded-user", TemplatePart::User),
                header("x-forwarded-email", TemplatePart::Email),
                header("x-forwarded-groups", TemplatePart::Groups),
                header("x-forwarded-preferred-username", TemplatePart::User),
            ],
            encoding: ValueEncoding::Utf8,
        }
    }

    /// Returns names and values for one user. A header whose value is unknown is omitted.
    pub fn values<'a>(
        &'a self,
        identity: &'a Identity,
    ) -> impl Iterator<Item = (&'a HeaderName, HeaderValue)> {
        self.headers.iter().filter_map(|header| {
            let text = header.render(identity)?;
            Some((&header.name, encode(text, self.encoding)))
        })
    }
}

impl IdentityHeader {
    /// Parses a header name and template, as in `"X-Remote-User" = "{user}"`.
    ///
    /// Only letters, digits and `-` are allowed: upstreams fold other characters to `-`, so a
    /// client's header could not be distinguished from ours.
    pub fn parse(name: &str, template: &str) -> Result<IdentityHeader, TemplateError> {
        Ok(IdentityHeader { name: parse_name(name)?, template: parse_template(template)? })
    }

    /// Whether the value is the same for every user.
    pub fn is_constant(&self) -> bool {
        self.template.iter().all(|part| matches!(part, TemplatePart::Text(_)))
    }

    fn render<'a>(&'a self, identity: &'a Identity) -> Option<Cow<'a, str>> {
        match self.template.as_slice() {
            // The usual template needs no copy.
            [only] => only.render(identity),
            parts => {
                let all: Option<String> = parts.iter().map(|part| part.render(identity)).collect();
                all.map(Cow::from)
            }
        }
    }
}

impl TemplatePart {
    fn render<'a>(&'a self, identity: &'a Identity) -> Option<Cow<'a, str>> {
        match self {
            TemplatePart::Text(text) => Some(text.into()),
            TemplatePart::User => Some(identity.user.as_str().into()),
            TemplatePart::Name => identity.name.as_deref().map(Cow::from),
            TemplatePart::Email => identity.email.as_deref().map(Cow::from),
            TemplatePart::Groups if identity.groups.is_empty() => None,
            TemplatePart::Groups => Some(identity.groups.join(",").into()),
        }
    }
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
    if !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
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
        "groups" => Ok(TemplatePart::Groups),
        other => Err(TemplateError::Placeholder(other.to_owned())),
    }
}

const PERCENT: &AsciiSet = &CONTROLS.add(b'%');

/// Always returns a valid value, whatever the directory contains.
fn encode(text: Cow<'_, str>, encoding: ValueEncoding) -> HeaderValue {
    let printable = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    let encoded = match encoding {
        ValueEncoding::Percent => utf8_percent_encode(&text, PERCENT).to_string().into(),
        ValueEncoding::Utf8 | ValueEncoding::Rfc2047 if printable => text,
        ValueEncoding::Utf8 => without_controls(&text).into(),
        ValueEncoding::Rfc2047 => {
            format!("=?UTF-8?B?{}?=", data_encoding::BASE64.encode(text.as_bytes())).into()
        }
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
        let headers = IdentityHeaders { headers, encoding };
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
    fn an_invalid_template_is_rejected_with_its_reason() {
        let error = |name, template| IdentityHeader::parse(name, template).expect_err("refused");
        assert_eq!(error("X-A", "{who}"), TemplateError::Placeholder("who".to_owned()));
        assert_eq!(error("X-A", "{user"), TemplateError::Unclosed);
        assert_eq!(error("X-A", "a\n"), TemplateError::Character);
        assert_eq!(error("X A", "x"), TemplateError::HeaderName("X A".to_owned()));
        for name in ["X_A", "X.A", "X~A", "X!A", "X'A", "X|A", "X^A`"] {
            assert_eq!(error(name, "x"), TemplateError::HeaderName(name.to_owned()));
        }
        assert_eq!(error("Host", "x"), TemplateError::Reserved("Host".to_owned()));
    }
}
