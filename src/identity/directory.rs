//! The accounts of the current users file.
//!
//! A lookup is one hash lookup in a snapshot. The composition root calls
//! [`Directory::reload_if_changed`] every second and ends the sessions affected by a change. A
//! missing or invalid file is reported once and changes nothing: an editing mistake must neither
//! admit anyone nor lock everyone out.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::secret::{LoginKey, sha256};
use crate::session::{EndReason, Identity, Record};

use super::account::{Account, normalize_name};
use super::credential::{Cost, Credential};
use super::users_file::{self, UsersError};

/// The accounts of one users file.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    snapshot: ArcSwap<AccountTable>,
    /// State of the file at the last check, valid or not.
    file_state: Mutex<FileState>,
    reloaded: Notify,
}

/// One changed account. Its sessions may have to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountChange {
    /// The user name as recorded in sessions.
    pub user: String,
    pub kind: ChangeKind,
}

/// Kind of a change. If several apply, the first in this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// The account was removed, or the spelling of its name changed.
    Removed,
    Disabled,
    PasswordChanged,
    Enabled,
    /// Groups, names or e-mail changed.
    Other,
    /// A new account.
    Added,
}

impl ChangeKind {
    /// Returns the name for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            ChangeKind::Removed => "removed",
            ChangeKind::Disabled => "disabled",
            ChangeKind::PasswordChanged => "password-changed",
            ChangeKind::Enabled => "enabled",
            ChangeKind::Other => "changed",
            ChangeKind::Added => "added",
        }
    }

    /// Returns why the change ends the user's sessions, if it does.
    pub fn end_reason(self) -> Option<EndReason> {
        match self {
            ChangeKind::Removed => Some(EndReason::AccountGone),
            ChangeKind::Disabled => Some(EndReason::AccountDisabled),
            ChangeKind::PasswordChanged => Some(EndReason::CredentialChanged),
            ChangeKind::Enabled | ChangeKind::Other | ChangeKind::Added => None,
        }
    }
}

#[derive(Debug)]
struct AccountTable {
    accounts: HashMap<String, Arc<Account>>,
    /// One decoy for each cost of the accounts.
    decoys: Vec<Credential>,
}

#[derive(Debug, PartialEq, Eq)]
enum FileState {
    Content([u8; 32]),
    Unreadable(String),
}

impl Directory {
    /// Reads the users file at startup.
    ///
    /// # Errors
    /// If it is missing or invalid; a gateway does not start without its users.
    pub fn open(path: &Path) -> Result<Directory, UsersError> {
        let text = users_file::read_text(path)?;
        let snapshot = AccountTable::new(users_file::parse(path, &text)?);
        Ok(Directory {
            path: path.to_owned(),
            snapshot: ArcSwap::from_pointee(snapshot),
            file_state: Mutex::new(FileState::Content(sha256(text.as_bytes()))),
            reloaded: Notify::new(),
        })
    }

    /// Returns the account for a login name, in any spelling that [`normalize_name`] makes equal.
    pub fn find(&self, name: &str) -> Option<Arc<Account>> {
        let snapshot = self.snapshot.load();
        // Most names, such as those from sessions, are already in the normal form.
        match name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()) {
            true => snapshot.accounts.get(name).cloned(),
            false => snapshot.accounts.get(&normalize_name(name)).cloned(),
        }
    }

    /// Returns the current identity of a session's user, or the reason why the session must end: the
    /// account was removed or disabled, or its password changed.
    pub(super) fn current_identity(&self, record: &Record) -> Result<Arc<Identity>, EndReason> {
        match self.find(&record.identity.user) {
            None => Err(EndReason::AccountGone),
            Some(account) if account.disabled => Err(EndReason::AccountDisabled),
            Some(account) if account.credential_digest != record.credential => {
                Err(EndReason::CredentialChanged)
            }
            Some(account) => Ok(Arc::clone(&account.identity)),
        }
    }

    /// Waits until the accounts satisfy a condition.
    pub async fn wait_until(&self, condition: impl Fn(&Directory) -> bool) {
        loop {
            let reloaded = self.reloaded.notified();
            if condition(self) {
                return;
            }
            reloaded.await;
        }
    }

    /// Returns the path of the users file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether an account is in the group.
    pub fn has_group(&self, group: &str) -> bool {
        let snapshot = self.snapshot.load();
        let mut groups = snapshot.accounts.values().flat_map(|account| &account.identity.groups);
        groups.any(|name| name == group)
    }

    /// Returns the number of accounts.
    pub fn len(&self) -> usize {
        self.snapshot.load().accounts.len()
    }

    /// Whether there is no account.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reloads the file if its content changed, and returns the changes.
    ///
    /// # Errors
    /// If the file is missing, unreadable or invalid; reported once per such state. The accounts
    /// are kept.
    pub fn reload_if_changed(&self) -> Result<Vec<AccountChange>, UsersError> {
        let read = users_file::read_text(&self.path);
        let now = FileState::from_read(&read);
        // Held until the swap: otherwise a concurrent call could replace a newer snapshot with an
        // older one.
        let mut file_state = self.file_state.lock();
        if *file_state == now {
            return Ok(Vec::new());
        }
        *file_state = now;
        let next = AccountTable::new(users_file::parse(&self.path, &read?)?);
        let before = self.snapshot.swap(Arc::new(next));
        self.reloaded.notify_waiters();
        Ok(before.changes_to(&self.snapshot.load()))
    }

    /// Returns the hash against which an unknown name is verified.
    ///
    /// The choice is the cost with the greatest keyed hash of name and cost. It is equal at all
    /// gateways and after a restart. When accounts come and go it stays the same, unless the first account
    /// of a cost comes or the last one goes; then only the names of that cost change.
    pub(super) fn decoy(&self, key: &LoginKey, name: &str) -> Option<Credential> {
        self.snapshot.load().decoy(key, name)
    }
}

impl FileState {
    fn from_read(read: &Result<String, UsersError>) -> FileState {
        match read {
            Ok(text) => FileState::Content(sha256(text.as_bytes())),
            Err(error) => FileState::Unreadable(error.to_string()),
        }
    }
}

impl AccountTable {
    fn new(accounts: Vec<Account>) -> AccountTable {
        let decoys = decoys(&accounts);
        let by_name =
            |account: Account| (normalize_name(&account.identity.user), Arc::new(account));
        AccountTable { accounts: accounts.into_iter().map(by_name).collect(), decoys }
    }

    fn decoy(&self, key: &LoginKey, name: &str) -> Option<Credential> {
        let name = normalize_name(name);
        let score = |decoy: &&Credential| key.tag("decoy", &format!("{:?} {name}", decoy.cost()));
        self.decoys.iter().max_by_key(score).cloned()
    }

    fn changes_to(&self, next: &AccountTable) -> Vec<AccountChange> {
        let mut changes: Vec<AccountChange> = self
            .accounts
            .iter()
            .filter_map(|(folded, old)| {
                let kind = change_kind(old, next.accounts.get(folded).map(Arc::as_ref))?;
                let user = old.identity.user.clone();
                Some(AccountChange { user, kind })
            })
            .collect();
        let is_added = |name: &String| !self.accounts.contains_key(name);
        let added = next.accounts.iter().filter(|(name, _)| is_added(name));
        changes.extend(added.map(|(_, account)| AccountChange {
            user: account.identity.user.clone(),
            kind: ChangeKind::Added,
        }));
        changes.sort_by(|a, b| a.user.cmp(&b.user));
        changes
    }
}

fn decoys(accounts: &[Account]) -> Vec<Credential> {
    let costs: HashSet<Cost> = accounts.iter().map(|account| account.password.cost()).collect();
    costs.into_iter().filter_map(|cost| Credential::decoy(cost).ok()).collect()
}

fn change_kind(old: &Account, new: Option<&Account>) -> Option<ChangeKind> {
    match new {
        None => Some(ChangeKind::Removed),
        Some(new) if new.identity.user != old.identity.user => Some(ChangeKind::Removed),
        Some(new) if new.disabled && !old.disabled => Some(ChangeKind::Disabled),
        Some(new) if new.credential_digest != old.credential_digest => {
            Some(ChangeKind::PasswordChanged)
        }
        Some(new) if old.disabled && !new.disabled => Some(ChangeKind::Enabled),
        Some(new) if new != old => Some(ChangeKind::Other),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::KeyRing;
    use crate::session::Identity;

    const COSTS: [Cost; 2] = [Cost::Argon2id { m: 8, t: 1, p: 1 }, Cost::Bcrypt { cost: 4 }];

    fn snapshot(costs: impl IntoIterator<Item = Cost>) -> AccountTable {
        let account = |(number, cost)| {
            let identity = Identity { user: format!("user{number}"), ..Identity::default() };
            Account::new(identity, Credential::decoy(cost).expect("a hash"), false)
        };
        AccountTable::new(costs.into_iter().enumerate().map(account).collect())
    }

    fn costs_of_unknown_names(snapshot: &AccountTable, key: &LoginKey) -> Vec<Cost> {
        let cost = |number| snapshot.decoy(key, &format!("nobody{number}")).expect("one").cost();
        (0..200).map(cost).collect()
    }

    /// Otherwise existing names would be those whose time never changes.
    #[test]
    fn unknown_names_keep_their_cost_over_all_changes() {
        let keys = KeyRing::parse(&KeyRing::generate("now").to_file()).expect("a keys file");
        let key = keys.login();
        let [argon2, bcrypt] = COSTS;
        let before = costs_of_unknown_names(&snapshot([argon2, bcrypt]), key);
        let share = before.iter().filter(|cost| **cost == bcrypt).count();
        assert!((60..140).contains(&share), "both costs occur: {share} of 200");
        for accounts in [vec![bcrypt, argon2], vec![argon2; 20], vec![bcrypt; 20]] {
            let more = snapshot([argon2, bcrypt].into_iter().chain(accounts));
            assert_eq!(costs_of_unknown_names(&more, key), before);
        }
        // Another gateway, or the same one after a restart.
        let again = KeyRing::parse(&keys.to_file()).expect("our own file");
        assert_eq!(costs_of_unknown_names(&snapshot([bcrypt, argon2]), again.login()), before);
        // A third cost changes only the names that get it.
        let third = Cost::Bcrypt { cost: 5 };
        let after = costs_of_unknown_names(&snapshot([argon2, bcrypt, third]), key);
        let changed = before.iter().zip(&after).filter(|(old, new)| old != new);
        assert!(changed.into_iter().all(|(_, new)| *new == third));
    }

    #[test]
    fn spellings_of_an_unknown_name_have_one_cost() {
        let (keys, accounts) = (KeyRing::generate("now"), snapshot(COSTS));
        let cost = |name: &str| accounts.decoy(keys.login(), name).expect("one").cost();
        for number in 0..50 {
            let (name, spelling) = (format!("zo\u{eb}{number}"), format!(" ZOe\u{308}{number}"));
            assert_eq!(cost(&name), cost(&spelling));
        }
    }
}
