//! The fields that tell an upstream who the user is.

use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::sanitize;
use crate::session::Identity;

/// The fields of one route, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFields {
    pub fields: Vec<IdentityField>,
    pub encoding: ValueEncoding,
}

/// One field and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityField {
    pub name: HeaderName,
    template: Vec<Piece>,
}

/// How names beyond ASCII travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ValueEncoding {
    /// The UTF-8 bytes as they are.
    #[default]
    Utf8,
    /// `%C3%A9`: every byte beyond printable ASCII, and `%` itself.
    Percent,
    /// RFC 2047 `=?UTF-8?B?…?=` where a value is not printable ASCII.
    Rfc2047,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    User,
    Name,
    Email,
    Groups,
}

/// Why a template cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("`{{{0}}}` is not known; write {{user}}, {{name}}, {{email}} or {{groups}}")]
    Placeholder(String),
    #[error("a {{ is not closed")]
    Unclosed,
    #[error("only printable ASCII may stand beside placeholders")]
    Character,
    #[error("`{0}` is not a name for it; write letters, digits and - alone, as in X-Remote-User")]
    FieldName(String),
    #[error("`{0}` belongs to the connection or the message, not to the user; choose another name")]
    Reserved(String),
}

/// Names that frame or route a message: an identity there would break or redirect the request.
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

impl IdentityFields {
    /// `X-Forwarded-User`, `-Email`, `-Groups`, `-Preferred-Username`.
    pub fn standard() -> IdentityFields {
        let field = |name, piece| IdentityField {
            name: HeaderName::from_static(name),
            template: vec![piece],
        };
        IdentityFields {
            fields: vec![
                field("x-forwarded-user", Piece::User),
                field("x-forwarded-email", Piece::Email),
                field("x-forwarded-groups", Piece::Groups),
                field("x-forwarded-preferred-username", Piece::User),
            ],
            encoding: ValueEncoding::Utf8,
        }
    }

    /// Names and values for one user. A field whose value is unknown is absent.
    pub fn values<'a>(
        &'a self,
        identity: &'a Identity,
    ) -> impl Iterator<Item = (&'a HeaderName, HeaderValue)> {
        self.fields.iter().filter_map(|field| {
            let text = field.render(identity)?;
            Some((&field.name, encode(text, self.encoding)))
        })
    }
}

impl IdentityField {
    /// Reads a field's name and template, as in `"X-Remote-User" = "{user}"`. A name with other marks
    /// is one that upstreams fold together with its neighbours: a client's could not be told from it.
    pub fn parse(name: &str, template: &str) -> Result<IdentityField, TemplateError> {
        let unfit = || TemplateError::FieldName(name.to_owned());
        let parsed: HeaderName = name.parse().map_err(|_| unfit())?;
        if !name.bytes().all(sanitize::is_plain) {
            return Err(unfit());
        }
        if RESERVED.contains(&parsed.as_str()) {
            return Err(TemplateError::Reserved(name.to_owned()));
        }
        Ok(IdentityField { name: parsed, template: pieces(template)? })
    }

    fn render(&self, identity: &Identity) -> Option<String> {
        let mut out = String::new();
        for piece in &self.template {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::User => out.push_str(&identity.user),
                Piece::Name => out.push_str(identity.name.as_deref()?),
                Piece::Email => out.push_str(identity.email.as_deref()?),
                Piece::Groups if identity.groups.is_empty() => return None,
                Piece::Groups => out.push_str(&identity.groups.join(",")),
            }
        }
        Some(out)
    }
}

fn pieces(template: &str) -> Result<Vec<Piece>, TemplateError> {
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

fn push_text(out: &mut Vec<Piece>, text: &str) -> Result<(), TemplateError> {
    if !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Err(TemplateError::Character);
    }
    if !text.is_empty() {
        out.push(Piece::Text(text.to_owned()));
    }
    Ok(())
}

fn placeholder(name: &str) -> Result<Piece, TemplateError> {
    match name {
        "user" => Ok(Piece::User),
        "name" => Ok(Piece::Name),
        "email" => Ok(Piece::Email),
        "groups" => Ok(Piece::Groups),
        other => Err(TemplateError::Placeholder(other.to_owned())),
    }
}

const PERCENT: &AsciiSet = &CONTROLS.add(b'%');

/// Always a value that can be sent: whatever a directory holds, it never breaks a request.
fn encode(text: String, encoding: ValueEncoding) -> HeaderValue {
    let printable = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    let encoded = match encoding {
        ValueEncoding::Percent => utf8_percent_encode(&text, PERCENT).to_string(),
        ValueEncoding::Utf8 | ValueEncoding::Rfc2047 if printable => text,
        ValueEncoding::Utf8 => without_controls(&text),
        ValueEncoding::Rfc2047 => {
            format!("=?UTF-8?B?{}?=", data_encoding::BASE64.encode(text.as_bytes()))
        }
    };
    HeaderValue::try_from(encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
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
        }
    }

    fn rendered(name: &str, template: &str, encoding: ValueEncoding) -> Vec<(String, Vec<u8>)> {
        let fields = vec![IdentityField::parse(name, template).expect("a template")];
        let fields = IdentityFields { fields, encoding };
        fields
            .values(&alice())
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn a_field_says_what_its_template_says_or_is_absent() {
        let value = |template| rendered("X-Remote-User", template, ValueEncoding::Utf8);
        assert_eq!(value("{user}"), [("x-remote-user".to_owned(), b"alice".to_vec())]);
        assert_eq!(value("u={user};g={groups}")[0].1, b"u=alice;g=staff,it");
        assert!(value("{email}").is_empty());
    }

    #[test]
    fn values_beyond_ascii_and_hostile_ones_never_break_a_request() {
        let value = |encoding| rendered("X-Name", "{name}", encoding).remove(0).1;
        assert_eq!(value(ValueEncoding::Utf8), "Aliçe??X-Admin: 1".as_bytes());
        assert_eq!(value(ValueEncoding::Percent), b"Ali%C3%A7e%0D%0AX-Admin: 1");
        assert!(value(ValueEncoding::Rfc2047).starts_with(b"=?UTF-8?B?"));
    }

    #[test]
    fn a_template_that_cannot_work_is_named() {
        let error = |name, template| IdentityField::parse(name, template).expect_err("refused");
        assert_eq!(error("X-A", "{who}"), TemplateError::Placeholder("who".to_owned()));
        assert_eq!(error("X-A", "{user"), TemplateError::Unclosed);
        assert_eq!(error("X-A", "a\n"), TemplateError::Character);
        assert_eq!(error("X A", "x"), TemplateError::FieldName("X A".to_owned()));
        for name in ["X_A", "X.A", "X~A", "X!A", "X'A", "X|A", "X^A`"] {
            assert_eq!(error(name, "x"), TemplateError::FieldName(name.to_owned()));
        }
        assert_eq!(error("Host", "x"), TemplateError::Reserved("Host".to_owned()));
    }
}
