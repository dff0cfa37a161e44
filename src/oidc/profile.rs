//! From claims to the identity, and the allow rules. Pure.
//!
//! A claim of an unexpected shape ends the login. Anything else would drop groups without notice.

use serde_json::{Map, Value};

use super::claim_path::ClaimPath;
use super::failure::LoginRefusal;
use super::login::Profile;
use super::settings::{AllowRules, ClaimMapping};
use crate::session::identity_fields::{check_display_name, check_email, check_user_name};

/// Most groups of a user.
pub(super) const MAX_GROUPS: usize = 1000;

/// Most bytes of all group names together.
const MAX_GROUP_BYTES: usize = 16 * 1024;

/// Selects the identity. `looked_up` holds groups of a separate look-up.
///
/// # Errors
/// A claim has an unexpected shape, or there is no user name.
pub(super) fn profile(
    claims: &Map<String, Value>,
    mapping: &ClaimMapping,
    looked_up: Vec<String>,
) -> Result<Profile, LoginRefusal> {
    let invalid = |error| LoginRefusal::Claims(format!("{error}"));
    let text = |paths: &[ClaimPath]| first_text(claims, paths, mapping.trust_email);
    let user = text(&mapping.user)?;
    let user = user.ok_or_else(|| LoginRefusal::Claims("no claim has a user name".to_owned()))?;
    check_user_name(&user).map_err(invalid)?;
    let name = text(&mapping.name)?.filter(|name| check_display_name(name).is_ok());
    // An invalid or unverified address is no address: another user could have entered it.
    let email = text(&mapping.email)?.filter(|email| check_email(email).is_ok());
    let groups = groups(claims, mapping, looked_up)?;
    Ok(Profile { user, name, email, groups })
}

fn first_text(
    claims: &Map<String, Value>,
    paths: &[ClaimPath],
    trust_email: bool,
) -> Result<Option<String>, LoginRefusal> {
    for path in paths {
        let text = match path.find(claims) {
            None => continue,
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(_) => return Err(LoginRefusal::Claims(format!("`{path}` is not a text"))),
        };
        let is_trusted = trust_email || is_email_verified(claims);
        let is_usable = !is_email(path) || is_trusted && check_email(&text).is_ok();
        if is_usable && !text.is_empty() {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

fn is_email(path: &ClaimPath) -> bool {
    *path == ClaimPath::of(&["email"])
}

/// Some providers send the text `"true"`.
fn is_email_verified(claims: &Map<String, Value>) -> bool {
    match claims.get("email_verified") {
        Some(Value::Bool(is_verified)) => *is_verified,
        Some(Value::String(text)) => text == "true",
        Some(_) | None => false,
    }
}

fn groups(
    claims: &Map<String, Value>,
    mapping: &ClaimMapping,
    looked_up: Vec<String>,
) -> Result<Vec<String>, LoginRefusal> {
    let mut all = looked_up;
    for path in &mapping.groups {
        all.extend(group_names(claims, path)?);
    }
    if mapping.strip_leading_slash {
        all.iter_mut().for_each(strip_leading_slash);
    }
    all.sort_unstable();
    all.dedup();
    check_groups(&all)?;
    Ok(all)
}

fn group_names(claims: &Map<String, Value>, path: &ClaimPath) -> Result<Vec<String>, LoginRefusal> {
    let invalid = || LoginRefusal::Claims(format!("`{path}` is not a list of names"));
    match path.find(claims) {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(names)) => {
            names.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(invalid)).collect()
        }
        Some(_) => Err(invalid()),
    }
}

fn strip_leading_slash(name: &mut String) {
    if let Some(rest) = name.strip_prefix('/') {
        *name = rest.to_owned();
    }
}

/// Identity headers join names with commas: a comma in a name would add a group.
fn check_groups(all: &[String]) -> Result<(), LoginRefusal> {
    let bytes: usize = all.iter().map(String::len).sum();
    if all.len() > MAX_GROUPS || bytes > MAX_GROUP_BYTES {
        return Err(LoginRefusal::Claims(
            "more than 1,000 groups or 16 KiB of names; limit the groups at the provider"
                .to_owned(),
        ));
    }
    let is_invalid = |name: &&String| {
        name.is_empty() || name.contains(',') || name.chars().any(char::is_control)
    };
    match all.iter().find(is_invalid) {
        Some(name) => Err(LoginRefusal::Claims(format!(
            "the group name {name:?} is empty, or has a comma or a control character"
        ))),
        None => Ok(()),
    }
}

/// Checks the allow rules. Each list that is not empty must be met.
pub(super) fn check_allowed(
    profile: &Profile,
    claims: &Map<String, Value>,
    rules: &AllowRules,
) -> Result<(), LoginRefusal> {
    let has_group =
        rules.groups.is_empty() || profile.groups.iter().any(|group| rules.groups.contains(group));
    let has_domain = rules.domains.is_empty()
        || profile.email.as_deref().is_some_and(|email| has_domain(email, &rules.domains));
    let has_claims = rules.claims.iter().all(|(path, values)| has_value(path.find(claims), values));
    match has_group && has_domain && has_claims {
        true => Ok(()),
        false => Err(LoginRefusal::NotAllowed(profile.user.clone())),
    }
}

/// The address has exactly one `@`: it was validated.
fn has_domain(email: &str, domains: &[String]) -> bool {
    let domain = email.split_once('@').map_or("", |(_, domain)| domain);
    domains.iter().any(|allowed| allowed.eq_ignore_ascii_case(domain))
}

fn has_value(found: Option<&Value>, allowed: &[String]) -> bool {
    let is_allowed = |value: &Value| match value {
        Value::String(text) => allowed.contains(text),
        Value::Bool(flag) => allowed.contains(&flag.to_string()),
        Value::Number(number) => allowed.contains(&number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    };
    match found {
        Some(Value::Array(values)) => values.iter().any(is_allowed),
        Some(value) => is_allowed(value),
        None => false,
    }
}

/// Whether the token omits the groups because the user has too many (Microsoft Entra).
pub(super) fn has_group_overage(claims: &Map<String, Value>, mapping: &ClaimMapping) -> bool {
    let needs_groups = mapping.groups.contains(&ClaimPath::of(&["groups"]));
    let names = claims.get("_claim_names").and_then(|names| names.get("groups"));
    let is_marked = claims.get("hasgroups").is_some_and(|mark| *mark != Value::Bool(false));
    needs_groups && !claims.contains_key("groups") && (names.is_some() || is_marked)
}
