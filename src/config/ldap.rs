//! `[login.ldap.NAME]`: LDAP directories and Active Directory.

use std::path::PathBuf;
use std::time::Duration;

use super::diagnostics::Diagnostics;
use super::diagnostics::KeyDefault::{Required, Value};
use super::duration;
use super::ldap_filter::FilterTemplate;
use super::oidc::{UserNames, provider_name, recheck_interval, user_prefix, values};
use super::reader::{Field, Reader, non_empty};
use super::values::is_loopback;

/// Section of a directory in messages.
const SECTION: &str = "login.ldap.NAME";

const LDAP_PORT: u16 = 389;
const LDAPS_PORT: u16 = 636;

/// A directory. The password of the service account is in a file or an environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LdapSection {
    /// Lower-case letters, digits and hyphens.
    pub name: String,
    /// Servers with the same data, in the order in which they are tried.
    pub urls: Vec<LdapUrl>,
    /// Whether `ldap://` is encrypted before the first password.
    pub starttls: bool,
    /// CA of the servers, instead of the system's trust store.
    pub ca: Option<PathBuf>,
    /// Name of the service account; `None` searches without one.
    pub bind_dn: Option<String>,
    /// `None` uses the environment variable of [`LdapSection::password_variable`].
    pub bind_password_file: Option<PathBuf>,
    /// Users are entries below it.
    pub base: String,
    pub user_filter: FilterTemplate,
    /// Groups are entries below it; `None` is `base`.
    pub groups_base: Option<String>,
    /// Searches the groups; `None` reads them from the user's entry.
    pub group_filter: Option<FilterTemplate>,
    pub attributes: LdapAttributes,
    /// A user must be in one of these groups; empty admits all.
    pub allow_groups: Vec<String>,
    /// Of the requests to one server.
    pub timeout: Duration,
    /// Precedes every user name of the directory.
    pub user_prefix: String,
    /// Whether a name of this directory is the same person as the same name of other login methods.
    pub trust_user_names: bool,
    /// How often the directory must confirm an account.
    pub recheck: Duration,
}

/// A server of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LdapUrl {
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    /// Whether TLS starts before LDAP.
    pub is_ldaps: bool,
}

/// Names of attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LdapAttributes {
    /// Unique and never used again.
    pub id: String,
    pub user: String,
    pub name: String,
    pub email: String,
    /// Distinguished names of the groups in the user's entry.
    pub groups: String,
    /// Name of a group.
    pub group_name: String,
}

impl LdapSection {
    /// Returns the environment variable with the password of the service account.
    pub fn password_variable(&self) -> String {
        format!("DOORWARD_LDAP_{}_PASSWORD", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

impl<'a> From<&'a Field<LdapSection>> for UserNames<'a> {
    fn from(field: &'a Field<LdapSection>) -> UserNames<'a> {
        UserNames {
            span: &field.span,
            provider: &field.value.name,
            prefix: &field.value.user_prefix,
            is_trusted: field.value.trust_user_names,
            excludes_users_file: true,
        }
    }
}

/// Registers the keys of a directory, for a file without one.
pub(super) fn register_keys(diagnostics: &Diagnostics<'_>) {
    directory("", Reader::empty(diagnostics, SECTION));
}

/// Reads every directory. `None` if one of them is invalid.
pub(super) fn directories(login: &mut Reader<'_>) -> Option<Vec<Field<LdapSection>>> {
    let sections = login.named_sections("ldap", "login.ldap", SECTION)?;
    let read = sections.into_iter().map(|(name, section)| named(&name, section));
    let read: Vec<_> = read.collect();
    read.into_iter().collect()
}

fn named(name: &str, section: Reader<'_>) -> Option<Field<LdapSection>> {
    provider_name(name, &section);
    let (span, is_set) = (section.span.clone(), true);
    directory(name, section).map(|value| Field { value, span, is_set })
}

fn directory(name: &str, mut section: Reader<'_>) -> Option<LdapSection> {
    let text = |text: &str| non_empty(text).map(str::to_owned);
    let urls = section.list("urls", Required(r#"["ldaps://ldap.example.com"]"#), url);
    let starttls = section.flag("starttls", Value("true"));
    let ca = section.optional_file("ca", r#""certs/ldap-ca.pem""#);
    let bind_dn = section.optional("bind_dn", r#""cn=doorward,dc=example,dc=com""#, dn);
    let password_file = section.optional_file("bind_password_file", r#""secrets/ldap""#);
    let base = section.text("base", Required(r#""ou=people,dc=example,dc=com""#), dn);
    let user_filter =
        section.text("user_filter", Value(r#""(uid={user})""#), FilterTemplate::for_users);
    let groups_base = section.optional("groups_base", r#""ou=groups,dc=example,dc=com""#, dn);
    let group_filter =
        section.optional("group_filter", r#""(member={dn})""#, FilterTemplate::for_groups);
    let allow_groups = section.list("allow_groups", Value("[]"), text);
    let timeout = section.quantity("timeout", Value(r#""3s""#), directory_timeout);
    let prefix = section.text("user_prefix", Value(r#""""#), user_prefix);
    let trusted = section.flag("trust_user_names", Value("false"));
    let recheck = section.quantity("recheck", Value(r#""15m""#), recheck_interval);
    let attributes = section.section("attributes", "login.ldap.NAME.attributes");
    let attributes = attributes.and_then(self::attributes);
    let (urls, starttls) = (urls?.value, starttls?.value);
    check_encryption(&section, &urls, starttls);
    Some(LdapSection {
        name: name.to_owned(),
        urls: urls.into_iter().map(|url| url.value).collect(),
        starttls,
        ca: ca?.map(|ca| ca.value),
        bind_dn: bind_dn?.map(|dn| dn.value),
        bind_password_file: password_file?.map(|file| file.value),
        base: base?.value,
        user_filter: user_filter?.value,
        groups_base: groups_base?.map(|dn| dn.value),
        group_filter: group_filter?.map(|filter| filter.value),
        attributes: attributes?,
        allow_groups: values(allow_groups?),
        timeout: timeout?.value,
        user_prefix: prefix?.value,
        trust_user_names: trusted?.value,
        recheck: recheck?.value,
    })
}

/// Passwords travel unencrypted only within this machine.
fn check_encryption(section: &Reader<'_>, urls: &[Field<LdapUrl>], starttls: bool) {
    if urls.is_empty() {
        section.diagnostics.error(
            &section.span,
            "`urls` is empty",
            "write urls = [\"ldaps://ldap.example.com\"]",
        );
    }
    let is_open =
        |url: &&Field<LdapUrl>| !starttls && !url.value.is_ldaps && !is_loopback(&url.value.host);
    if let Some(url) = urls.iter().find(is_open) {
        section.diagnostics.error(
            &url.span,
            "passwords would travel to this server without encryption",
            "write ldaps://, or leave `starttls` out",
        );
    }
}

fn attributes(mut section: Reader<'_>) -> Option<LdapAttributes> {
    let id = section.text("id", Value(r#""entryUUID""#), attribute);
    let user = section.text("user", Value(r#""uid""#), attribute);
    let name = section.text("name", Value(r#""cn""#), attribute);
    let email = section.text("email", Value(r#""mail""#), attribute);
    let groups = section.text("groups", Value(r#""memberOf""#), attribute);
    let group_name = section.text("group_name", Value(r#""cn""#), attribute);
    Some(LdapAttributes {
        id: id?.value,
        user: user?.value,
        name: name?.value,
        email: email?.value,
        groups: groups?.value,
        group_name: group_name?.value,
    })
}

fn url(text: &str) -> Result<LdapUrl, String> {
    let invalid =
        || format!("`{text}` is not the URL of a server; write \"ldaps://ldap.example.com\"");
    let (scheme, rest) = text.split_once("://").ok_or_else(invalid)?;
    let (is_ldaps, default_port) = match scheme {
        "ldaps" => (true, LDAPS_PORT),
        "ldap" => (false, LDAP_PORT),
        _ => return Err(invalid()),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let authority: http::uri::Authority = authority.parse().map_err(|_| invalid())?;
    let port = match authority.as_str().strip_prefix(authority.host()) {
        Some("") => default_port,
        Some(port) => port.strip_prefix(':').and_then(|port| port.parse().ok()).unwrap_or(0),
        // A user name precedes the host.
        None => 0,
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    if !host.is_empty() && port != 0 {
        Ok(LdapUrl { host, port, is_ldaps })
    } else {
        Err(invalid())
    }
}

fn dn(text: &str) -> Result<String, String> {
    match text.contains('=') {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is not a distinguished name; write \"dc=example,dc=com\"")),
    }
}

fn attribute(text: &str) -> Result<String, String> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    match !text.is_empty() && text.chars().all(is_valid) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is not the name of an attribute; write \"uid\"")),
    }
}

/// A login waits for the directory, so the time is limited.
fn directory_timeout(text: &str) -> Result<Duration, String> {
    let time = duration::parse_positive(text).map_err(|error| error.to_string())?;
    match time <= Duration::from_secs(30) {
        true => Ok(time),
        false => Err(format!("`{text}` is longer than 30s; write \"3s\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_server_and_an_encryption() {
        let read = |text| url(text).map(|url| (url.host, url.port, url.is_ldaps)).ok();
        let of = |host: &str, port, is_ldaps| Some((host.to_owned(), port, is_ldaps));
        assert_eq!(read("ldaps://ldap.test"), of("ldap.test", 636, true));
        assert_eq!(read("ldap://ldap.test/"), of("ldap.test", 389, false));
        assert_eq!(read("ldaps://[::1]:10636"), of("::1", 10_636, true));
        for text in [
            "ldap.test",
            "http://a",
            "ldap://",
            "ldap://a/b",
            "ldap://a:0",
            "ldap://u@a",
            "ldap://a:b",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
