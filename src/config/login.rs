//! `[login]`: login methods and the limits on failed logins.

use std::path::PathBuf;

use super::diagnostics::Diagnostics;
use super::diagnostics::KeyDefault::Value;
use super::duration;
use super::ldap::{self, LdapSection};
use super::oidc::{self, OidcSection, UserNames};
use super::reader::{Field, Reader, non_empty};
use super::unknown::unknown_value;
use crate::rate_limit::{LoginLimits, Rate};
use crate::session::{PASSWORD_METHOD, SecondFactorMode, SecondFactorPolicy};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub password: Option<PasswordOptions>,
    pub oidc: Vec<OidcSection>,
    pub ldap: Vec<LdapSection>,
    pub limits: LoginLimits,
    pub second_factor: SecondFactorPolicy,
}

impl Login {
    /// Whether there is a login method with this name.
    pub fn has_method(&self, name: &str) -> bool {
        (name == PASSWORD_METHOD && self.password.is_some())
            || self.oidc.iter().any(|provider| provider.name == name)
            || self.ldap.iter().any(|directory| directory.name == name)
    }

    /// Whether a login method is configured.
    pub fn is_any(&self) -> bool {
        self.password.is_some() || !self.oidc.is_empty() || !self.ldap.is_empty()
    }
}

/// Login with a name and password from a users file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordOptions {
    pub users: PathBuf,
    /// Minimum number of characters of a new password.
    pub min_length: usize,
    /// Whether users can change their password.
    pub change: bool,
}

pub(super) fn login(mut section: Reader<'_>) -> Option<Login> {
    let pair = rate(&mut section, ["pair_failures", "pair_interval"], ["10", r#""6s""#]);
    let account = rate(&mut section, ["account_failures", "account_interval"], ["100", r#""30s""#]);
    let network = rate(&mut section, ["network_failures", "network_interval"], ["30", r#""2s""#]);
    let second_factor = second_factor(&mut section);
    let password = section.section_if_written("password", "login.password")?;
    let password = match password {
        Some(section) => Some(self::password(section)?),
        None => None,
    };
    let oidc = oidc::providers(&mut section)?;
    let ldap = ldap::directories(&mut section)?;
    check_names(section.diagnostics, &oidc, &ldap, password.is_some());
    let oidc: Vec<OidcSection> = oidc.into_iter().map(|provider| provider.value).collect();
    let ldap = ldap.into_iter().map(|directory| directory.value).collect();
    // A provider verifies the second factors of its users itself.
    let exempt = oidc.iter().map(|provider| provider.name.clone()).collect();
    let second_factor = SecondFactorPolicy { exempt, ..second_factor? };
    let limits = LoginLimits { pair: pair?, account: account?, network: network? };
    Some(Login { password, oidc, ldap, limits, second_factor })
}

fn second_factor(section: &mut Reader<'_>) -> Option<SecondFactorPolicy> {
    let names = SecondFactorMode::ALL.map(|(_, name)| name);
    let mode = section.text("second_factor", Value(r#""off""#), |text| {
        let known = SecondFactorMode::ALL.into_iter().find(|(_, name)| *name == text);
        known.map(|(mode, _)| mode).ok_or_else(|| unknown_value(text, &names))
    });
    let groups = section
        .list("second_factor_groups", Value("[]"), |text| non_empty(text).map(str::to_owned));
    let (mode, groups) = (mode?, groups?);
    if mode.value != SecondFactorMode::Required && !groups.value.is_empty() {
        section.diagnostics.error(
            &groups.span,
            "`second_factor_groups` has no effect without a required second factor",
            "write second_factor = \"required\", or leave `second_factor_groups` out",
        );
        return None;
    }
    let groups = groups.value.into_iter().map(|group| group.value).collect();
    Some(SecondFactorPolicy { mode: mode.value, groups, exempt: Vec::new() })
}

/// Rejects login methods that could mix up their users, or that have one name.
fn check_names(
    diagnostics: &Diagnostics<'_>,
    oidc: &[Field<OidcSection>],
    ldap: &[Field<LdapSection>],
    has_password: bool,
) {
    let all: Vec<UserNames<'_>> =
        oidc.iter().map(UserNames::from).chain(ldap.iter().map(UserNames::from)).collect();
    oidc::check_user_names(diagnostics, &all, has_password);
    let is_taken = |name: &str| oidc.iter().any(|provider| provider.value.name == name);
    for directory in ldap.iter().filter(|directory| is_taken(&directory.value.name)) {
        diagnostics.error(
            &directory.span,
            format!("`{}` is the name of a [login.oidc] provider too", directory.value.name),
            "write another name",
        );
    }
}

fn rate(
    section: &mut Reader<'_>,
    [burst, every]: [&'static str; 2],
    defaults: [&'static str; 2],
) -> Option<Rate> {
    let burst = section.number(burst, Value(defaults[0]), 1..=1_000_000);
    let every = section.quantity(every, Value(defaults[1]), duration::parse_positive);
    Some(Rate::new(u32::try_from(burst?.value).unwrap_or(u32::MAX), every?.value))
}

fn password(mut section: Reader<'_>) -> Option<PasswordOptions> {
    let users = section.file("users", Value(r#""state/users.toml""#));
    let min_length = section.number("min_length", Value("15"), 8..=64);
    let change = section.flag("change", Value("true"));
    let (users, min_length) = (users?.value, min_length?.value);
    Some(PasswordOptions { users, min_length, change: change?.value })
}
