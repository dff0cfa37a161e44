//! The accounts as the users file has them now.
//!
//! A look-up costs one hash look-up in a snapshot. The composition root calls
//! [`Directory::reload_if_changed`] each second and ends the sessions that a change concerns. A file
//! that is gone or wrong is reported once and changes nothing: an operator's slip must neither let
//! somebody in nor lock everybody out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use std::hash::{BuildHasher, RandomState};

use crate::secret::sha256;

use super::account::{Account, fold};
use super::credential::{Cost, Credential};
use super::users_file::{self, UsersError};

/// The accounts of one users file.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    snapshot: ArcSwap<Snapshot>,
    /// What the file was when it was looked at last, whether it was good or not.
    seen: Mutex<Seen>,
    /// Chooses decoys; the same name gets the same kind of decoy, and nobody outside can tell which.
    chooser: RandomState,
}

/// One account that is no longer what it was. Its sessions may have to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountChange {
    /// The name as its sessions carry it.
    pub user: String,
    pub kind: ChangeKind,
}

/// What happened to an account. When several things did, the first of this list that did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It is gone, or its name is spelled in another way.
    Removed,
    Disabled,
    PasswordChanged,
    /// Groups, names, e-mail, or it is enabled again. Sessions go on, with what they began with.
    Other,
}

#[derive(Debug)]
struct Snapshot {
    accounts: HashMap<String, Arc<Account>>,
    /// One decoy per account, of the account's cost: unknown names cost what the known ones do, in
    /// the same shares.
    decoys: Vec<Credential>,
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Content([u8; 32]),
    Unreadable(String),
}

impl Directory {
    /// Reads the users file for the first time.
    ///
    /// # Errors
    /// When it is missing or anything in it is wrong; a gateway does not start without its users.
    pub fn open(path: &Path) -> Result<Directory, UsersError> {
        let text = users_file::read_text(path)?;
        let snapshot = Snapshot::new(users_file::parse(path, &text)?);
        Ok(Directory {
            path: path.to_owned(),
            snapshot: ArcSwap::from_pointee(snapshot),
            seen: Mutex::new(Seen::Content(sha256(text.as_bytes()))),
            chooser: RandomState::new(),
        })
    }

    /// The account behind a login name. Upper and lower case of ASCII count as one.
    pub fn find(&self, name: &str) -> Option<Arc<Account>> {
        let snapshot = self.snapshot.load();
        // As sessions carry it, a name is folded already, most often.
        match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            false => snapshot.accounts.get(name).cloned(),
            true => snapshot.accounts.get(&fold(name)).cloned(),
        }
    }

    /// How many accounts there are.
    pub fn len(&self) -> usize {
        self.snapshot.load().accounts.len()
    }

    /// Whether there is no account.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the file up when its content changed, and says what changed in the accounts that were
    /// there before.
    ///
    /// # Errors
    /// When the file is missing, unreadable or wrong: once per such state. The accounts stay.
    pub fn reload_if_changed(&self) -> Result<Vec<AccountChange>, UsersError> {
        let read = users_file::read_text(&self.path);
        let now = Seen::of(&read);
        // Held to the end: of two callers, the one that read last must not be overtaken.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == now {
            return Ok(Vec::new());
        }
        *seen = now;
        let next = Snapshot::new(users_file::parse(&self.path, &read?)?);
        let before = self.snapshot.swap(Arc::new(next));
        Ok(before.changes_to(&self.snapshot.load()))
    }

    /// What a name without an account is checked against.
    pub(super) fn decoy(&self, name: &str) -> Option<Credential> {
        let snapshot = self.snapshot.load();
        let count = u64::try_from(snapshot.decoys.len()).ok()?;
        let at = self.chooser.hash_one(fold(name)).checked_rem(count)?;
        let at = usize::try_from(at).ok()?;
        snapshot.decoys.get(at).cloned()
    }
}

impl Seen {
    fn of(read: &Result<String, UsersError>) -> Seen {
        match read {
            Ok(text) => Seen::Content(sha256(text.as_bytes())),
            Err(error) => Seen::Unreadable(error.to_string()),
        }
    }
}

impl Snapshot {
    fn new(accounts: Vec<Account>) -> Snapshot {
        let decoys = decoys(&accounts);
        let by_name = |account: Account| (fold(&account.identity.user), Arc::new(account));
        Snapshot { accounts: accounts.into_iter().map(by_name).collect(), decoys }
    }

    fn changes_to(&self, next: &Snapshot) -> Vec<AccountChange> {
        let mut changes: Vec<AccountChange> = self
            .accounts
            .iter()
            .filter_map(|(folded, old)| {
                let kind = change(old, next.accounts.get(folded).map(Arc::as_ref))?;
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

fn change(old: &Account, new: Option<&Account>) -> Option<ChangeKind> {
    match new {
        None => Some(ChangeKind::Removed),
        Some(new) if new.identity.user != old.identity.user => Some(ChangeKind::Removed),
        Some(new) if new.disabled && !old.disabled => Some(ChangeKind::Disabled),
        Some(new) if new.credential != old.credential => Some(ChangeKind::PasswordChanged),
        Some(new) if new != old => Some(ChangeKind::Other),
        Some(_) => None,
    }
}
