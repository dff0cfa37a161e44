//! Keys of `[[route]]` that name the user to the app: `identity`, `roles`, Basic credentials and the assertion.

use super::diagnostics::KeyDefault::Value;
use super::reader::{Field, Reader, non_empty};
use crate::message::{IdentityHeader, IdentityHeaders, ValueEncoding};

/// [`IdentityHeaders::standard`] as TOML.
const STANDARD_IDENTITY: &str = concat!(
    r#"{ "X-Forwarded-User" = "{user}", "X-Forwarded-Email" = "{email}", "#,
    r#""X-Forwarded-Groups" = "{groups}", "X-Forwarded-Preferred-Username" = "{user}" }"#
);

/// Default of `upstream_user`.
const USER: &str = "{user}";

/// The requests that a route forwards.
#[derive(Clone, Copy)]
pub(super) struct Passes {
    /// Requests of a user.
    pub user: bool,
    /// Requests with credentials that the app checks.
    pub app_credentials: bool,
}

pub(super) fn headers(section: &mut Reader<'_>) -> Option<IdentityHeaders> {
    let fields = section.pairs("identity", Value(STANDARD_IDENTITY), IdentityHeader::parse);
    let encoding = section.text("identity_encoding", Value(r#""utf8""#), encoding);
    let roles = section.pairs("roles", Value("{}"), |group, role| {
        non_empty(role).map(|role| (group.to_owned(), role.to_owned()))
    });
    let basic = basic(section);
    let (fields, roles, basic) = (fields?, roles?, basic?);
    for (index, field) in fields.value.iter().enumerate() {
        warn_constant(section, field);
        let mut earlier = fields.value[..index].iter();
        if let Some(duplicate) = earlier.find(|other| other.value.name == field.value.name) {
            section.diagnostics.error_between(
                [&duplicate.span, &field.span],
                format!("`identity` contains {} twice, in different case", field.value.name),
                "write it only once".to_owned(),
            );
        }
    }
    let headers = fields.value.into_iter().map(|field| field.value).chain(basic).collect();
    let (encoding, has_roles) = (encoding?.value, !roles.value.is_empty());
    let roles_span = roles.span;
    let roles = roles.value.into_iter().map(|field| field.value).collect();
    let identity = IdentityHeaders { headers, encoding, roles };
    if identity.use_roles() != has_roles {
        section.diagnostics.error(
            if has_roles { &roles_span } else { &fields.span },
            "`roles` and {role} in `identity` have an effect only together",
            "write identity = { \"X-Role\" = \"{role}\" } and roles = { admins = \"Admin\" }",
        );
    }
    Some(identity)
}

/// Reads `upstream_user` and `upstream_password_file`.
fn basic(section: &mut Reader<'_>) -> Option<Option<IdentityHeader>> {
    let user = section.text("upstream_user", Value(r#""{user}""#), |text| {
        IdentityHeader::parse("Authorization", non_empty(text)?)
            .map(|_| text.to_owned())
            .map_err(|error| error.to_string())
    });
    let file = section.optional_file("upstream_password_file", r#""secrets/app-password""#);
    let (user, file) = (user?, file?);
    let Some(file) = file else {
        if user.value != USER {
            section.diagnostics.error(
                &user.span,
                "`upstream_user` has no effect without `upstream_password_file`",
                "write upstream_password_file = \"secrets/app-password\" too",
            );
        }
        return Some(None);
    };
    IdentityHeader::basic(&user.value, file.value).ok().map(Some)
}

/// Checks keys that depend on each other or on the access rule.
pub(super) fn check(
    section: &Reader<'_>,
    identity: Option<&IdentityHeaders>,
    assertion: Option<&Field<bool>>,
    passes: Passes,
) {
    if let Some(assertion) = assertion.filter(|it| it.value && !passes.user) {
        section.diagnostics.error(
            &assertion.span,
            "`assertion` names a user, and this route is public",
            "write access = \"session\", or a secret in `set_header_files` instead",
        );
    }
    let authorization = |header: &&IdentityHeader| header.name == http::header::AUTHORIZATION;
    let headers = identity.map_or(&[][..], |identity| &identity.headers);
    let replaced = headers.iter().filter(authorization).count();
    if replaced > 1 {
        section.diagnostics.error(
            &section.span,
            "`identity` contains Authorization, which `upstream_password_file` sets",
            "write only one of them",
        );
    }
    if replaced > 0 && passes.app_credentials {
        section.diagnostics.error(
            &section.span,
            "the gateway replaces Authorization on this route, so no credentials of a client reach the app",
            "write access = \"session\"",
        );
    }
}

fn warn_constant(section: &Reader<'_>, field: &Field<IdentityHeader>) {
    if field.value.is_constant() {
        section.diagnostics.warning(
            &field.span,
            format!("the value of {} is the same for every user", field.value.name),
            "write it in `set_headers`, or a secret in `set_header_files`",
        );
    }
}

fn encoding(text: &str) -> Result<ValueEncoding, String> {
    match text {
        "utf8" => Ok(ValueEncoding::Utf8),
        "percent" => Ok(ValueEncoding::Percent),
        "rfc2047" => Ok(ValueEncoding::Rfc2047),
        other => Err(super::unknown::unknown_value(other, &["utf8", "percent", "rfc2047"])),
    }
}
