//! From an entry to the account. Pure.
//!
//! A value of an unexpected shape refuses the login. Anything else would drop groups or mix up accounts.

use crate::clock::UnixMillis;
use crate::config::LdapAttributes;
use crate::secret::sha256;
use crate::session::identity_fields::{
    check_display_name, check_email, check_groups, check_user_name,
};

use super::dn::Dn;
use super::entry::Entry;
use super::failure::LdapRefusal;

/// Attributes with the state of an account, beside those of the configuration.
pub(super) const STATE_ATTRIBUTES: [&str; 8] = [
    USER_ACCOUNT_CONTROL,
    ACCOUNT_EXPIRES,
    PWD_LAST_SET,
    PWD_LOCKED,
    PWD_RESET,
    PWD_CHANGED,
    NS_ACCOUNT_LOCK,
    LOGIN_DISABLED,
];

/// Active Directory: bits, of which 2 disables the account.
const USER_ACCOUNT_CONTROL: &str = "userAccountControl";
const AD_DISABLED: u32 = 2;
/// Active Directory: 100 ns since 1601; zero and the greatest number are never.
const ACCOUNT_EXPIRES: &str = "accountExpires";
const PWD_LAST_SET: &str = "pwdLastSet";
/// Password policy (OpenLDAP and others).
const PWD_LOCKED: &str = "pwdAccountLockedTime";
const PWD_RESET: &str = "pwdReset";
const PWD_CHANGED: &str = "pwdChangedTime";
/// 389 Directory Server and FreeIPA.
const NS_ACCOUNT_LOCK: &str = "nsAccountLock";
/// eDirectory.
const LOGIN_DISABLED: &str = "loginDisabled";

/// A lock by an operator. Other times are locks after wrong passwords, which strangers can cause.
const LOCKED_BY_OPERATOR: &str = "000001010000Z";

/// Milliseconds from 1601 to 1970.
const AD_EPOCH: u64 = 11_644_473_600_000;

/// An account of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LdapAccount {
    /// Unique ID in this directory.
    pub id: String,
    pub user: String,
    pub name: Option<String>,
    pub email: Option<String>,
    pub groups: Vec<String>,
    /// Digest of the time of the last password change; zero if the directory does not show it.
    pub password_changed: [u8; 8],
}

/// Selects the account of an entry.
///
/// # Errors
/// An attribute is missing, ambiguous or malformed.
pub(super) fn account(
    entry: &Entry,
    names: &LdapAttributes,
    groups: Vec<String>,
) -> Result<LdapAccount, LdapRefusal> {
    let unusable = |text: String| LdapRefusal::Entry(text);
    let one = |name: &str| {
        let missing = || unusable(format!("it needs exactly one value of `{name}`"));
        entry.only_id(name).ok_or_else(missing)
    };
    let id = one(&names.id)?;
    let user = match entry.texts(&names.user).as_deref() {
        Some([user]) => user.clone(),
        Some(_) | None => {
            return Err(unusable(format!("it needs exactly one value of `{}`", names.user)));
        }
    };
    check_user_name(&user).map_err(|error| unusable(error.to_string()))?;
    check_groups(&groups).map_err(|error| unusable(error.to_string()))?;
    Ok(LdapAccount {
        id,
        user,
        name: entry.first_text(&names.name).filter(|name| check_display_name(name).is_ok()),
        email: entry.first_text(&names.email).filter(|email| check_email(email).is_ok()),
        groups,
        password_changed: password_changed(entry),
    })
}

/// Returns the names of the groups in a user's entry that are below `base`.
///
/// # Errors
/// The list is incomplete or a name is not certain: a user must never lose groups without notice.
pub(super) fn groups_of_entry(
    entry: &Entry,
    names: &LdapAttributes,
    base: &str,
) -> Result<Vec<String>, LdapRefusal> {
    let unusable = |text: String| LdapRefusal::Entry(text);
    if entry.is_partial(&names.groups) {
        return Err(unusable("it has too many groups; set `group_filter`".to_owned()));
    }
    let base = Dn::parse(base).ok_or_else(|| unusable(format!("`{base}` is no name")))?;
    let mut groups = Vec::new();
    for value in
        entry.texts(&names.groups).ok_or_else(|| unusable("a group is no text".to_owned()))?
    {
        let uncertain = || unusable(format!("the group `{value}` has no certain name"));
        let dn = Dn::parse(&value).ok_or_else(uncertain)?;
        if dn.is_below(&base) {
            groups.push(dn.first(&names.group_name).ok_or_else(uncertain)?.to_owned());
        }
    }
    Ok(unique(groups))
}

/// Returns the names of groups that a search found.
///
/// # Errors
/// A group has no name, or several.
pub(super) fn groups_of_search(
    entries: &[Entry],
    names: &LdapAttributes,
) -> Result<Vec<String>, LdapRefusal> {
    let name = |entry: &Entry| match entry.texts(&names.group_name).as_deref() {
        Some([name]) => Ok(name.clone()),
        Some(_) | None => {
            let text =
                format!("the group `{}` needs exactly one `{}`", entry.dn(), names.group_name);
            Err(LdapRefusal::Entry(text))
        }
    };
    Ok(unique(entries.iter().map(name).collect::<Result<_, _>>()?))
}

fn unique(mut groups: Vec<String>) -> Vec<String> {
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Checks the states that an operator sets. A lock after wrong passwords is left to the bind: strangers cause
/// it, and it must not end sessions.
///
/// # Errors
/// The account is disabled or has expired.
pub(super) fn check_state(entry: &Entry, now: UnixMillis) -> Result<(), LdapRefusal> {
    let text = |name| entry.first_text(name).unwrap_or_default();
    let is_true = |name| text(name).eq_ignore_ascii_case("true");
    if !entry.values(USER_ACCOUNT_CONTROL).is_empty() {
        // Negative numbers occur: the attribute is a signed number.
        let bits = text(USER_ACCOUNT_CONTROL).parse::<i32>().map(i32::cast_unsigned);
        if bits.map_or(true, |bits| bits & AD_DISABLED != 0) {
            return Err(LdapRefusal::Disabled(USER_ACCOUNT_CONTROL));
        }
    }
    if has_expired(&text(ACCOUNT_EXPIRES), now) {
        return Err(LdapRefusal::Disabled(ACCOUNT_EXPIRES));
    }
    if text(PWD_LOCKED) == LOCKED_BY_OPERATOR {
        return Err(LdapRefusal::Disabled(PWD_LOCKED));
    }
    for name in [NS_ACCOUNT_LOCK, LOGIN_DISABLED] {
        if is_true(name) {
            return Err(LdapRefusal::Disabled(name));
        }
    }
    if is_true(PWD_RESET) { Err(LdapRefusal::PasswordReset) } else { Ok(()) }
}

fn has_expired(time: &str, now: UnixMillis) -> bool {
    let Ok(time) = time.parse::<u64>() else { return false };
    let is_never = time == 0 || time >= i64::MAX.cast_unsigned();
    !is_never && time / 10_000 <= now.0.saturating_add(AD_EPOCH)
}

fn password_changed(entry: &Entry) -> [u8; 8] {
    let times: Vec<&[u8]> = [PWD_CHANGED, PWD_LAST_SET]
        .iter()
        .flat_map(|name| entry.values(name))
        .map(Vec::as_slice)
        .collect();
    match times.is_empty() {
        true => [0; 8],
        false => sha256(&times.join(&b' ')).first_chunk().copied().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ldap3_proto::proto::{LdapPartialAttribute, LdapSearchResultEntry};

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn entry(attributes: &[(&str, &[&[u8]])]) -> Entry {
        let attribute = |(name, values): &(&str, &[&[u8]])| LdapPartialAttribute {
            atype: (*name).to_owned(),
            vals: values.iter().map(|value| value.to_vec()).collect(),
        };
        let attributes = attributes.iter().map(attribute).collect();
        LdapSearchResultEntry { dn: "uid=alice,dc=test".to_owned(), attributes }.into()
    }

    fn names() -> LdapAttributes {
        LdapAttributes {
            id: "entryUUID".to_owned(),
            user: "uid".to_owned(),
            name: "cn".to_owned(),
            email: "mail".to_owned(),
            groups: "memberOf".to_owned(),
            group_name: "cn".to_owned(),
        }
    }

    fn is_refused<T>(result: Result<T, LdapRefusal>) -> bool {
        matches!(result, Err(LdapRefusal::Entry(_)))
    }

    #[test]
    fn an_account_has_one_id_and_one_user_name() {
        let good =
            entry(&[("ENTRYUUID", &[b"1-2"]), ("Uid", &[b"alice"]), ("mail", &[b"none", b"a@b"])]);
        let account = super::account(&good, &names(), vec![]).expect("an account");
        assert_eq!(
            (account.id.as_str(), account.user.as_str(), account.email),
            ("1-2", "alice", None)
        );
        for bad in [
            entry(&[("uid", &[b"alice"])]),
            entry(&[("entryUUID", &[b"1"])]),
            entry(&[("entryUUID", &[b"1", b"2"]), ("uid", &[b"alice"])]),
            entry(&[("entryUUID", &[b"1"]), ("uid", &[b"alice", b"root"])]),
            entry(&[("entryUUID", &[b""]), ("uid", &[b"alice"])]),
            entry(&[("entryUUID", &[b"1"]), ("uid", &[b"\xff"])]),
            entry(&[("entryUUID", &[b"1"]), ("uid", &[b"a,b"])]),
            entry(&[("entryUUID", &[b"1"]), ("uid", &[b"a\r\nX: y"])]),
        ] {
            assert!(is_refused(super::account(&bad, &names(), vec![])), "{bad:?}");
        }
        let binary = entry(&[("entryUUID", &[b"\x01\xff"]), ("uid", &[b"alice"])]);
        assert_eq!(super::account(&binary, &names(), vec![]).expect("one").id, "01ff");
    }

    #[test]
    fn only_groups_below_the_base_count() {
        let groups = |values: &[&[u8]]| {
            groups_of_entry(&entry(&[("memberOf", values)]), &names(), "ou=groups,dc=test")
        };
        let found = groups(&[
            b"cn=staff,ou=groups,dc=test",
            b"cn=admins,ou=people,dc=test",
            b"cn=admins\\,ou=groups,dc=test",
            b"cn=Staff Two,ou=sub,OU=Groups,DC=test",
            b"cn=staff,ou=groups,dc=test",
        ]);
        assert_eq!(found.expect("groups"), ["Staff Two", "staff"]);
        for uncertain in [&b"\xff"[..], b"staff", b"ou=staff,ou=groups,dc=test"] {
            assert!(is_refused(groups(&[uncertain])), "{uncertain:?}");
        }
        let partial = entry(&[("memberOf;range=0-1499", &[b"cn=staff,ou=groups,dc=test"])]);
        assert!(is_refused(groups_of_entry(&partial, &names(), "ou=groups,dc=test")));
        assert!(is_refused(groups_of_search(&[entry(&[("cn", &[b"a", b"b"])])], &names())));
        assert!(is_refused(groups_of_search(&[entry(&[])], &names())));
    }

    #[test]
    fn accounts_that_an_operator_disabled_are_refused() {
        let state = |name: &str, value: &[u8]| check_state(&entry(&[(name, &[value])]), NOW);
        for (name, value) in [
            ("userAccountControl", "514"),
            ("userAccountControl", "-2147483646"),
            ("userAccountControl", "unknown"),
            ("pwdAccountLockedTime", "000001010000Z"),
            ("nsAccountLock", "TRUE"),
            ("loginDisabled", "true"),
            ("pwdReset", "TRUE"),
            // 2027-01-15, the second before now
            ("accountExpires", "134444735990000000"),
        ] {
            assert!(state(name, value.as_bytes()).is_err(), "{name}: {value}");
        }
        for (name, value) in [
            ("userAccountControl", "512"),
            ("pwdAccountLockedTime", "20261201000000Z"),
            ("nsAccountLock", "FALSE"),
            ("accountExpires", "0"),
            ("accountExpires", "9223372036854775807"),
            ("accountExpires", "134444736010000000"),
            ("other", "514"),
        ] {
            assert_eq!(state(name, value.as_bytes()), Ok(()), "{name}: {value}");
        }
    }

    #[test]
    fn a_new_password_changes_the_digest() {
        let digest = |name: &str, value: &[u8]| password_changed(&entry(&[(name, &[value])]));
        assert_eq!(digest("uid", b"alice"), [0; 8]);
        assert_ne!(digest("pwdLastSet", b"1"), digest("pwdLastSet", b"2"));
        assert_ne!(digest("pwdChangedTime", b"1"), [0; 8]);
    }
}
