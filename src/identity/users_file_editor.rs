//! Editor for the users file. Comments, order and layout are kept.
//!
//! A change reads the file, edits it, parses the result as the gateway would, and only then writes
//! it: no command leaves an invalid file. The lock is held from the first read.

use std::io;
use std::path::{Path, PathBuf};

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, TomlError, value};

use crate::session::Identity;

use super::account::{Account, normalize_name};
use super::credential::Credential;
use super::private_file::AtomicFile;
use super::users_file::{self, UsersError};

/// The users file, opened for a change. Nothing is written before [`UsersFileEditor::save`].
#[derive(Debug)]
pub struct UsersFileEditor {
    file: AtomicFile,
    path: PathBuf,
    document: DocumentMut,
    accounts: Vec<Account>,
}

/// Reason for a failed change. The file is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error(transparent)]
    File(#[from] UsersError),
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Syntax { path: PathBuf, source: TomlError },
    #[error("{}: write each user as a separate [[user]] table; this command does not edit `user = [...]`", .0.display())]
    Inline(PathBuf),
    #[error("user {0:?} already exists; set a new password with `doorward user passwd {0}`")]
    Exists(String),
    #[error("there is no user {name:?} in {}; list all users with `doorward user list`", path.display())]
    NoSuchUser { name: String, path: PathBuf },
}

impl UsersFileEditor {
    /// Opens the file at `path`. A missing file starts empty, and its directory is created.
    pub fn open_or_new(path: &Path) -> Result<UsersFileEditor, EditError> {
        let file = AtomicFile::lock_new(path).map_err(|source| write_error(path, source))?;
        let text = if file.exists() { users_file::read_text(path)? } else { FILE_HEAD.to_owned() };
        UsersFileEditor::from_text(file, path, &text)
    }

    /// Opens the existing file at `path`.
    pub fn open(path: &Path) -> Result<UsersFileEditor, EditError> {
        // A missing file is reported before the lock of a missing directory.
        users_file::read_text(path)?;
        let file = AtomicFile::lock(path).map_err(|source| write_error(path, source))?;
        let text = users_file::read_text(path)?;
        UsersFileEditor::from_text(file, path, &text)
    }

    fn from_text(file: AtomicFile, path: &Path, text: &str) -> Result<UsersFileEditor, EditError> {
        let accounts = users_file::parse(path, text)?;
        let document =
            text.parse().map_err(|source| EditError::Syntax { path: path.to_owned(), source })?;
        Ok(UsersFileEditor { file, path: path.to_owned(), document, accounts })
    }

    /// Returns the account for a login name.
    pub fn find(&self, name: &str) -> Option<&Account> {
        let folded = normalize_name(name);
        let mut accounts = self.accounts.iter();
        accounts.find(|account| normalize_name(&account.identity.user) == folded)
    }

    /// Appends an account.
    pub fn add(&mut self, identity: &Identity, password: &Credential) -> Result<(), EditError> {
        if let Some(there) = self.find(&identity.user) {
            return Err(EditError::Exists(there.identity.user.clone()));
        }
        let account = Account::new(identity.clone(), password.clone(), false);
        self.tables()?.push(to_table(&account));
        self.accounts.push(account);
        Ok(())
    }

    /// Sets an account's password.
    pub fn set_password(&mut self, name: &str, password: &Credential) -> Result<(), EditError> {
        self.set(name, "password", value(password.stored()))
    }

    /// Enables or disables an account. Returns whether that is a change.
    pub fn set_disabled(&mut self, name: &str, disabled: bool) -> Result<bool, EditError> {
        let before = self.find(name).is_some_and(|account| account.disabled);
        self.set(name, "disabled", value(disabled))?;
        Ok(before != disabled)
    }

    /// Removes an account.
    pub fn remove(&mut self, name: &str) -> Result<(), EditError> {
        let at = self.position(name)?;
        self.tables()?.remove(at);
        self.accounts.remove(at);
        Ok(())
    }

    /// Writes the file atomically.
    pub fn save(self) -> Result<(), EditError> {
        let text = self.document.to_string();
        users_file::parse(&self.path, &text)?;
        let written = self.file.replace(text.as_bytes());
        written.map_err(|source| write_error(&self.path, source))
    }

    fn set(&mut self, name: &str, key: &str, item: Item) -> Result<(), EditError> {
        let at = self.position(name)?;
        if let Some(table) = self.tables()?.get_mut(at) {
            replace_value(table, key, item);
        }
        Ok(())
    }

    fn position(&self, name: &str) -> Result<usize, EditError> {
        let folded = normalize_name(name);
        let mut accounts = self.accounts.iter();
        let at = accounts.position(|account| normalize_name(&account.identity.user) == folded);
        at.ok_or_else(|| EditError::NoSuchUser { name: name.to_owned(), path: self.path.clone() })
    }

    fn tables(&mut self) -> Result<&mut ArrayOfTables, EditError> {
        let users = self
            .document
            .entry("user")
            .or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
        let tables = users.as_array_of_tables_mut();
        tables.ok_or_else(|| EditError::Inline(self.path.clone()))
    }
}

fn write_error(path: &Path, source: io::Error) -> EditError {
    let path = path.to_owned();
    EditError::Write { path, source }
}

/// Sets a value and keeps the comment after the old one.
fn replace_value(table: &mut Table, key: &str, mut item: Item) {
    let old = table.get(key).and_then(Item::as_value);
    if let (Some(old), Some(new)) = (old, item.as_value_mut()) {
        *new.decor_mut() = old.decor().clone();
    }
    table.insert(key, item);
}

fn to_table(account: &Account) -> Table {
    let identity = &account.identity;
    let mut table = Table::new();
    table.decor_mut().set_prefix("\n");
    table.insert("name", value(&identity.user));
    table.insert("password", value(account.password.stored()));
    if !identity.groups.is_empty() {
        table.insert("groups", value(identity.groups.iter().collect::<Array>()));
    }
    if let Some(email) = &identity.email {
        table.insert("email", value(email));
    }
    if let Some(name) = &identity.name {
        table.insert("display_name", value(name));
    }
    table
}

const FILE_HEAD: &str = "\
# doorward's users. `doorward user` edits this file and keeps your comments; you may edit it too: a
# running gateway applies a change within a second, and keeps the previous users if the file is invalid.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Cost;

    fn credential(password: &str) -> Credential {
        Credential::hash(password, Cost::Argon2id { m: 8, t: 1, p: 1 }).expect("hashes")
    }

    fn identity(name: &str) -> Identity {
        Identity { user: name.to_owned(), ..Identity::default() }
    }

    #[test]
    fn comments_and_other_users_survive_every_change() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("users.toml");
        let stored = credential("old password").stored().to_owned();
        let text = format!(
            "# head\n[[user]]\nname = \"alice\" # the boss\npassword = \"{stored}\" # changed in May\n\n# second\n[[user]]\nname = \"bob\"\npassword = \"{stored}\"\n# end\n"
        );
        std::fs::write(&path, text).expect("writes");
        let mut edit = UsersFileEditor::open(&path).expect("a good file");
        edit.set_password("ALICE", &credential("new password")).expect("exists");
        edit.set_disabled("bob", true).expect("exists");
        edit.add(&identity("carol"), &credential("carols own")).expect("a new name");
        edit.save().expect("writes");
        let text = std::fs::read_to_string(&path).expect("reads");
        for comment in ["# head", "# the boss", "# changed in May", "# second", "# end"] {
            assert!(text.contains(comment), "{comment} is lost:\n{text}");
        }
        let edit = UsersFileEditor::open(&path).expect("our own file");
        assert!(edit.find("alice").expect("alice").password.verify("new password"));
        assert!(edit.find("bob").expect("bob").disabled);
        assert!(edit.find("carol").expect("carol").password.verify("carols own"));
    }

    #[test]
    fn nothing_is_written_before_save_or_over_an_invalid_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("users.toml");
        let mut edit = UsersFileEditor::open_or_new(&path).expect("a new file");
        edit.add(&identity("alice"), &credential("password")).expect("adds");
        drop(edit);
        assert!(!path.exists());
        std::fs::write(&path, "[[user]]\nname = 1\n").expect("writes");
        assert!(matches!(UsersFileEditor::open_or_new(&path), Err(EditError::File(_))));
    }

    #[test]
    fn an_inline_list_of_users_is_rejected_with_a_remedy() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("users.toml");
        let stored = credential("password").stored().to_owned();
        std::fs::write(&path, format!("user = [{{ name = 'a', password = '{stored}' }}]\n"))
            .expect("writes");
        let mut edit = UsersFileEditor::open(&path).expect("it reads");
        assert!(matches!(edit.remove("a"), Err(EditError::Inline(_))));
    }
}
