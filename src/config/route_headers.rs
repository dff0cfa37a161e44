//! `strip`, `pass_headers`, `set_headers` and `set_header_files` of a route.

use http::{HeaderName, HeaderValue};

use super::diagnostics::KeyDefault::Value;
use super::diagnostics::Span;
use super::file_checks::FilePurpose;
use super::programs::Programs;
use super::reader::{Field, Reader, non_empty};
use crate::message::IdentityHeaders;
use crate::message::identity_headers::parse_name;
use crate::message::reserved_headers::{fold, is_forwarding};
use crate::route::RouteHeaders;

/// Headers about the request, which the gateway writes after it has removed those of the client.
const SET_BY_GATEWAY: [&str; 6] = [
    "forwarded",
    "x-doorward-assertion",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

/// `identity` is `None` if it is invalid.
pub(super) fn headers(
    section: &mut Reader<'_>,
    identity: Option<&IdentityHeaders>,
    programs: Option<&Programs>,
) -> Option<RouteHeaders> {
    let strip = section.list("strip", Value("[]"), client_header);
    let pass = section.list("pass_headers", Value("[]"), passed_header);
    let set = section.pairs("set_headers", Value("{}"), fixed_header);
    let diagnostics = section.diagnostics;
    let set_files = section.pairs("set_header_files", Value("{}"), |name, file| {
        Ok::<_, String>((fixed_name(name)?, diagnostics.resolve(&None, non_empty(file)?)))
    });
    let (strip, pass, set, set_files) = (strip?, pass?, set?, set_files?);
    for file in &set_files.value {
        section.diagnostics.register_file(&file.span, &file.value.1, FilePurpose::Read);
    }
    let names = names_of(&set).chain(names_of(&set_files)).collect::<Vec<_>>();
    refuse_twice(section, &names);
    refuse_identity(section, &names, identity);
    refuse_contradictions(section, &pass, &strip, &names);
    let mut stripped = values(strip);
    for name in programs.into_iter().flat_map(Programs::headers) {
        refuse_credentials(section, &pass, &name);
        stripped.push(name);
    }
    Some(RouteHeaders::new(stripped, values(pass), values(set), values(set_files)))
}

type NameAt<'a> = (&'a HeaderName, &'a Span);

fn names_of<T>(fields: &Field<Vec<Field<(HeaderName, T)>>>) -> impl Iterator<Item = NameAt<'_>> {
    fields.value.iter().map(|field| (&field.value.0, &field.span))
}

fn refuse_twice(section: &Reader<'_>, names: &[NameAt<'_>]) {
    for (index, (name, span)) in names.iter().enumerate() {
        if let Some((_, first)) = names[..index].iter().find(|(other, _)| other == name) {
            section.diagnostics.error_between(
                [*first, *span],
                format!("{name} is set twice"),
                "write it only once".to_owned(),
            );
        }
    }
}

/// A constant would replace the user.
fn refuse_identity(section: &Reader<'_>, names: &[NameAt<'_>], identity: Option<&IdentityHeaders>) {
    let identity = identity.map_or(&[][..], |identity| &identity.headers);
    let is_identity = |name: &HeaderName| identity.iter().any(|header| header.name == *name);
    for (name, span) in names.iter().filter(|(name, _)| is_identity(name)) {
        section.diagnostics.error(
            span,
            format!("{name} is an identity header of this route"),
            "write it only in `identity`, or choose another name",
        );
    }
}

/// The gateway reads the header and removes it.
fn refuse_credentials(
    section: &Reader<'_>,
    pass: &Field<Vec<Field<HeaderName>>>,
    name: &HeaderName,
) {
    if let Some(field) = pass.value.iter().find(|field| field.value == *name) {
        section.diagnostics.error(
            &field.span,
            format!(
                "`pass_headers` passes {name}, in which the gateway receives tokens on this route"
            ),
            "leave it out",
        );
    }
}

fn refuse_contradictions(
    section: &Reader<'_>,
    pass: &Field<Vec<Field<HeaderName>>>,
    strip: &Field<Vec<Field<HeaderName>>>,
    set: &[NameAt<'_>],
) {
    let is_set = |name: &HeaderName| set.iter().any(|(set, _)| set.as_str() == fold(name.as_str()));
    let is_stripped = |name: &HeaderName| strip.value.iter().any(|other| other.value == *name);
    for field in pass.value.iter().filter(|pass| is_set(&pass.value) || is_stripped(&pass.value)) {
        section.diagnostics.error(
            &field.span,
            format!("`pass_headers` passes {}, which this route removes or sets", field.value),
            "write it only once",
        );
    }
}

/// A header that is removed. One that frames the message is handled by the gateway itself.
fn client_header(name: &str) -> Result<HeaderName, String> {
    let parsed: HeaderName =
        name.parse().map_err(|_| format!("`{name}` is not a valid header name"))?;
    match name {
        _ if name.eq_ignore_ascii_case("cookie") => {
            Err("a route cannot remove all cookies; remove them in the app".to_owned())
        }
        _ => Ok(parsed),
    }
}

fn passed_header(name: &str) -> Result<HeaderName, String> {
    let parsed = client_header(name)?;
    // The check of names that only the gateway sets accepts no underscore.
    parse_name(&fold(parsed.as_str())).map_err(|error| error.to_string())?;
    match is_forwarding(&fold(parsed.as_str())) {
        true => Err(format!("`{name}` is about the origin of a request; only the gateway sets it")),
        false => Ok(parsed),
    }
}

fn fixed_name(name: &str) -> Result<HeaderName, String> {
    let parsed = parse_name(name).map_err(|error| error.to_string())?;
    match SET_BY_GATEWAY.contains(&parsed.as_str()) {
        true => Err(format!("`{name}` is set by the gateway itself")),
        false => Ok(parsed),
    }
}

fn fixed_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let name = fixed_name(name)?;
    if value.contains(['{', '}']) {
        return Err("a placeholder belongs into `identity`; this value is the same for every user"
            .to_owned());
    }
    let is_printable = value.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    let parsed = HeaderValue::from_str(value).ok().filter(|_| is_printable);
    parsed.map(|value| (name, value)).ok_or_else(|| "only printable ASCII is allowed".to_owned())
}

fn values<T>(list: Field<Vec<Field<T>>>) -> Vec<T> {
    list.value.into_iter().map(|item| item.value).collect()
}
