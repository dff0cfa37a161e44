//! The accounts of the current users file.
//!
//! A lookup is one hash lookup in a snapshot. The composition root calls
//! [`Directory::reload_if_changed`] every second and ends the sessions affected by a change. A
//! missing or invalid file is reported once and changes nothing: an editing mistake must neither
//! admit anyone nor lock everyone out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::hash::{BuildHasher, RandomState};

use crate::secret::sha256;
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
    /// Selects decoys. A name always gets the same kind of decoy, and the choice cannot be
    /// predicted from outside.
    decoy_hasher: RandomState,
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
    /// Groups, names or e-mail changed, or the account was enabled. Existing sessions keep their
    /// data.
    Other,
}

#[derive(Debug)]
struct AccountTable {
    accounts: HashMap<String, Arc<Account>>,
    /// One decoy per account, of the account's cost: unknown names have the same distribution of
    /// costs as existing ones.
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
            decoy_hasher: RandomState::new(),
        })
    }

    /// Returns the account for a login name. ASCII case is ignored.
    pub fn find(&self, name: &str) -> Option<Arc<Account>> {
        let snapshot = self.snapshot.load();
        // Most names, such as those from sessions, are already lower case.
        match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            false => snapshot.accounts.get(name).cloned(),
            true => snapshot.accounts.get(&normalize_name(name)).cloned(),
        }
    }

    /// Returns the current identity of a session's user, or the reason why the session must end: the
    /// account was removed or disabled, or its password changed.
    pub(super) fn current_identity(&self, record: &Record) -> Result<Arc<Identity>, EndReason> {
        match self.find(&record.identity.user) {
            None => Err(EndReason::AccountGone),
            Some(account) if account.disabled => Err(EndReason::AccountGone),
            Some(account) if account.credential_digest != record.credential => {
                Err(EndReason::CredentialChanged)
            }
            Some(account) => Ok(Arc::clone(&account.identity)),
        }
    }

    /// Returns the number of accounts.
    pub fn len(&self) -> usize {
        self.snapshot.load().accounts.len()
    }

    /// Whether there is no account.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reloads the file if its content changed, and returns the changes to existing accounts.
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
        Ok(before.changes_to(&self.snapshot.load()))
    }

    /// Returns the hash against which an unknown name is verified.
    pub(super) fn decoy(&self, name: &str) -> Option<Credential> {
        let snapshot = self.snapshot.load();
        let count = u64::try_from(snapshot.decoys.len()).ok()?;
        let at = self.decoy_hasher.hash_one(normalize_name(name)).checked_rem(count)?;
        let at = usize::try_from(at).ok()?;
        snapshot.decoys.get(at).cloned()
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
        changes.sort_by(|a, b| a.user.cmp(&b.user));
        changes
    }
}

fn decoys(accounts: &[Account]) -> Vec<Credential> {
    let mut made: HashMap<Cost, Credential> = HashMap::new();
    accounts
        .iter()
        .filter_map(|account| {
            let cost = account.password.cost();
            if let Some(decoy) = made.get(&cost) {
                return Some(decoy.clone());
            }
            let decoy = Credential::decoy(cost).ok()?;
            made.insert(cost, decoy.clone());
            Some(decoy)
        })
        .collect()
}

fn change_kind(old: &Account, new: Option<&Account>) -> Option<ChangeKind> {
    match new {
        None => Some(ChangeKind::Removed),
        Some(new) if new.identity.user != old.identity.user => Some(ChangeKind::Removed),
        Some(new) if new.disabled && !old.disabled => Some(ChangeKind::Disabled),
        Some(new) if new.credential_digest != old.credential_digest => {
            Some(ChangeKind::PasswordChanged)
        }
        Some(new) if new != old => Some(ChangeKind::Other),
        Some(_) => None,
    }
}
