//! Changes to the users file. Comments, order and layout stay as the operator wrote them.
//!
//! A change reads, edits, reads its own result back as the gateway would, and only then writes: no
//! command leaves a file that the gateway refuses. The writer's lock is held from the first reading.

use std::io;
use std::path::{Path, PathBuf};

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, TomlError, value};

use crate::session::Identity;

use super::account::{Account, fold};
use super::credential::Credential;
use super::private_file::Writer;
use super::users_file::{self, UsersError};

/// The users file, open for a change. Nothing is written before [`UsersEdit::save`].
#[derive(Debug)]
pub struct UsersEdit {
    writer: Writer,
    path: PathBuf,
    document: DocumentMut,
    accounts: Vec<Account>,
}

/// Why a change was not made. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error(transparent)]
    File(#[from] UsersError),
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Syntax { path: PathBuf, source: TomlError },
    #[error("{}: write every user as a [[user]] of its own; this command does not edit `user = [...]`", .0.display())]
    Inline(PathBuf),
    #[error("user {0:?} is there already; use `doorward user passwd {0}` for a new password")]
    Exists(String),
    #[error("there is no user {name:?} in {}; `doorward user list` shows all", path.display())]
    NoSuchUser { name: String, path: PathBuf },
}

impl UsersEdit {
    /// Opens the file at `path`; one that is missing begins empty, its directory is made.
    pub fn open_or_new(path: &Path) -> Result<UsersEdit, EditError> {
        let writer = Writer::lock_new(path).map_err(|source| write_error(path, source))?;
        let text =
            if writer.exists() { users_file::read_text(path)? } else { FILE_HEAD.to_owned() };
        UsersEdit::from_text(writer, path, &text)
    }

    /// Opens the file at `path`, which must be there.
    pub fn open(path: &Path) -> Result<UsersEdit, EditError> {
        // A missing file is named before a missing directory's lock is.
        users_file::read_text(path)?;
        let writer = Writer::lock(path).map_err(|source| write_error(path, source))?;
        let text = users_file::read_text(path)?;
        UsersEdit::from_text(writer, path, &text)
    }

    fn from_text(writer: Writer, path: &Path, text: &str) -> Result<UsersEdit, EditError> {
        let accounts = users_file::parse(path, text)?;
        let document =
            text.parse().map_err(|source| EditError::Syntax { path: path.to_owned(), source })?;
        Ok(UsersEdit { writer, path: path.to_owned(), document, accounts })
    }

    /// The account that a login as `name` would find.
    pub fn find(&self, name: &str) -> Option<&Account> {
        let folded = fold(name);
        let mut accounts = self.accounts.iter();
        accounts.find(|account| fold(&account.identity.user) == folded)
    }

    /// Adds an account at the end.
    pub fn add(&mut self, identity: &Identity, password: &Credential) -> Result<(), EditError> {
        if let Some(there) = self.find(&identity.user) {
            return Err(EditError::Exists(there.identity.user.clone()));
        }
        let account = Account::new(identity.clone(), password.clone(), false);
        self.tables()?.push(to_table(&account));
        self.accounts.push(account);
        Ok(())
    }

    /// Gives an account a new password.
    pub fn set_password(&mut self, name: &str, password: &Credential) -> Result<(), EditError> {
        self.set(name, "password", value(password.stored()))
    }

    /// Lets an account in or keeps it out. Says whether that is a change.
    pub fn set_disabled(&mut self, name: &str, disabled: bool) -> Result<bool, EditError> {
        let before = self.find(name).is_some_and(|account| account.disabled);
        self.set(name, "disabled", value(disabled))?;
        Ok(before != disabled)
    }

    /// Takes an account out.
    pub fn remove(&mut self, name: &str) -> Result<(), EditError> {
        let at = self.position(name)?;
        self.tables()?.remove(at);
        self.accounts.remove(at);
        Ok(())
    }

    /// Writes the file in one step.
    pub fn save(self) -> Result<(), EditError> {
        let text = self.document.to_string();
        users_file::parse(&self.path, &text)?;
        let written = self.writer.replace(text.as_bytes());
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
        let folded = fold(name);
        let mut accounts = self.accounts.iter();
        let at = accounts.position(|account| fold(&account.identity.user) == folded);
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

/// Sets a value and keeps the comment behind the old one.
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
# running gateway takes a change up within a second, and keeps what it has when the file is wrong.
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
        let mut edit = UsersEdit::open(&path).expect("a good file");
        edit.set_password("ALICE", &credential("new password")).expect("she is there");
        edit.set_disabled("bob", true).expect("he is there");
        edit.add(&identity("carol"), &credential("carols own")).expect("a new name");
        edit.save().expect("writes");
        let text = std::fs::read_to_string(&path).expect("reads");
        for comment in ["# head", "# the boss", "# changed in May", "# second", "# end"] {
            assert!(text.contains(comment), "{comment} is lost:\n{text}");
        }
        let edit = UsersEdit::open(&path).expect("our own file");
        assert!(edit.find("alice").expect("alice").password.verify("new password"));
        assert!(edit.find("bob").expect("bob").disabled);
        assert!(edit.find("carol").expect("carol").password.verify("carols own"));
    }

    #[test]
    fn nothing_is_written_before_save_or_over_a_broken_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("users.toml");
        let mut edit = UsersEdit::open_or_new(&path).expect("a new file");
        edit.add(&identity("alice"), &credential("password")).expect("adds");
        drop(edit);
        assert!(!path.exists());
        std::fs::write(&path, "[[user]]\nname = 1\n").expect("writes");
        assert!(matches!(UsersEdit::open_or_new(&path), Err(EditError::File(_))));
    }

    #[test]
    fn an_inline_list_of_users_is_refused_with_advice() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("users.toml");
        let stored = credential("password").stored().to_owned();
        std::fs::write(&path, format!("user = [{{ name = 'a', password = '{stored}' }}]\n"))
            .expect("writes");
        let mut edit = UsersEdit::open(&path).expect("it reads");
        assert!(matches!(edit.remove("a"), Err(EditError::Inline(_))));
    }
}
