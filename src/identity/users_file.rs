//! Parser for the users file. Returns the accounts, or all problems at once.
//!
//! ```toml
//! [[user]]
//! name = "alice"
//! password = "$argon2id$v=19$…"     # written by `doorward user passwd alice`
//! groups = ["staff"]
//! email = "alice@example.com"
//! display_name = "Alice Smith"
//! disabled = false
//! ```

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use crate::session::Identity;

use super::account::{self, Account};
use super::credential::Credential;

/// Maximum size of the users file in bytes. The file is read every second.
pub const FILE_MAX: u64 = 16 << 20;
const PROBLEMS_MAX: usize = 50;

/// Reason for rejecting the users file. The previous accounts remain.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("{}: {source}; create it with `doorward user add NAME --users {}`", path.display(), path.display())]
    Missing { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: longer than {FILE_MAX} bytes", .0.display())]
    TooLong(PathBuf),
    #[error("{}", ProblemList(path, problems))]
    Invalid { path: PathBuf, problems: Vec<UsersFileProblem> },
}

/// One problem in the file and its remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsersFileProblem {
    /// Counted from 1.
    pub line: usize,
    pub message: String,
}

struct ProblemList<'a>(&'a Path, &'a [UsersFileProblem]);

impl fmt::Display for ProblemList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.1.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            let (path, line) = (self.0.display(), problem.line);
            write!(f, "{separator}{path}:{line}: {}", problem.message)?;
        }
        Ok(())
    }
}

/// Reads the file at `path`, up to [`FILE_MAX`] bytes.
pub fn read_text(path: &Path) -> Result<String, UsersError> {
    let too_long = || UsersError::TooLong(path.to_owned());
    let read = || {
        let file = std::fs::File::open(path)?;
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, FILE_MAX + 1), &mut text)?;
        Ok(text)
    };
    let text = read().map_err(|source| read_error(path, source))?;
    if text.len() as u64 > FILE_MAX {
        return Err(too_long());
    }
    Ok(text)
}

fn read_error(path: &Path, source: io::Error) -> UsersError {
    let path = path.to_owned();
    match source.kind() == io::ErrorKind::NotFound {
        true => UsersError::Missing { path, source },
        false => UsersError::Read { path, source },
    }
}

/// Parses the text of the users file; `path` appears only in errors.
pub fn parse(path: &Path, text: &str) -> Result<Vec<Account>, UsersError> {
    let problems = match toml::from_str::<UsersFile>(text) {
        Ok(file) => match check(text, file) {
            Ok(accounts) => return Ok(accounts),
            Err(problems) => problems,
        },
        Err(error) => vec![syntax(text, &error)],
    };
    Err(UsersError::Invalid { path: path.to_owned(), problems })
}

fn syntax(text: &str, error: &toml::de::Error) -> UsersFileProblem {
    let at = error.span().map_or(0, |span| span.start);
    let hint = "; an entry is [[user]] with name, password, and optionally groups, email, display_name, disabled";
    UsersFileProblem { line: line_of(text, at), message: format!("{}{hint}", error.message()) }
}

fn check(text: &str, file: UsersFile) -> Result<Vec<Account>, Vec<UsersFileProblem>> {
    let mut accounts = Vec::with_capacity(file.user.len());
    let mut problems = Vec::new();
    let mut lines = HashMap::new();
    for entry in file.user {
        let line = line_of(text, entry.name.span().start);
        let folded = account::normalize_name(entry.name.get_ref());
        if let Some(first) = lines.insert(folded, line) {
            problems.push(duplicate_name(&entry, line, first));
        }
        match entry.into_account(text) {
            Ok(account) => accounts.push(account),
            Err(more) => problems.extend(more),
        }
    }
    problems.truncate(PROBLEMS_MAX);
    if problems.is_empty() { Ok(accounts) } else { Err(problems) }
}

fn duplicate_name(entry: &UserEntry, line: usize, first: usize) -> UsersFileProblem {
    let name = entry.name.get_ref();
    UsersFileProblem {
        line,
        message: format!(
            "user {name:?} is already defined in line {first} (names are case-insensitive); keep one of them"
        ),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().iter().take(at);
    1 + before.filter(|byte| **byte == b'\n').count()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsersFile {
    #[serde(default)]
    user: Vec<UserEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserEntry {
    name: Spanned<String>,
    password: Spanned<String>,
    groups: Option<Spanned<Vec<String>>>,
    email: Option<Spanned<String>>,
    display_name: Option<Spanned<String>>,
    #[serde(default)]
    disabled: bool,
}

impl UserEntry {
    fn into_account(self, text: &str) -> Result<Account, Vec<UsersFileProblem>> {
        let mut problems = Problems { text, found: Vec::new() };
        problems.check(&self.name, "name", |name| account::check_user_name(name));
        if let Some(groups) = &self.groups {
            problems.check(groups, "groups", |groups| account::check_groups(groups));
        }
        if let Some(email) = &self.email {
            problems.check(email, "email", |email| account::check_email(email));
        }
        if let Some(name) = &self.display_name {
            problems.check(name, "display_name", |name| account::check_display_name(name));
        }
        let password = problems.check(&self.password, "password", |text| Credential::parse(text));
        match password {
            Some(password) if problems.found.is_empty() => Ok(self.finish(password)),
            Some(_) | None => Err(problems.found),
        }
    }

    fn finish(self, password: Credential) -> Account {
        let identity = Identity {
            user: self.name.into_inner(),
            name: self.display_name.map(Spanned::into_inner),
            email: self.email.map(Spanned::into_inner),
            groups: self.groups.map(Spanned::into_inner).unwrap_or_default(),
            ..Identity::default()
        };
        Account::new(identity, password, self.disabled)
    }
}

struct Problems<'a> {
    text: &'a str,
    found: Vec<UsersFileProblem>,
}

impl Problems<'_> {
    fn check<T, V, E: fmt::Display>(
        &mut self,
        field: &Spanned<T>,
        key: &str,
        check: impl FnOnce(&T) -> Result<V, E>,
    ) -> Option<V> {
        match check(field.get_ref()) {
            Ok(value) => Some(value),
            Err(error) => {
                self.found.push(UsersFileProblem {
                    line: line_of(self.text, field.span().start),
                    message: format!("{key}: {error}"),
                });
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$12$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u";

    fn problems(text: &str) -> Vec<UsersFileProblem> {
        match parse(Path::new("users.toml"), text) {
            Err(UsersError::Invalid { problems, .. }) => problems,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_full_entry_parses_into_an_account() {
        let text = format!(
            "[[user]]\nname='alice'\npassword='{HASH}'\ngroups=['staff','ops']\nemail='a@b'\ndisplay_name='Alice'\ndisabled=true\n"
        );
        let accounts = parse(Path::new("users.toml"), &text).expect("a good file");
        let [alice] = accounts.as_slice() else { panic!("{accounts:?}") };
        assert_eq!(alice.identity.user, "alice");
        assert_eq!(alice.identity.groups, ["staff", "ops"]);
        assert_eq!(alice.identity.email.as_deref(), Some("a@b"));
        assert_eq!(alice.identity.name.as_deref(), Some("Alice"));
        assert!(alice.disabled);
    }

    #[test]
    fn an_empty_file_has_no_users() {
        assert_eq!(parse(Path::new("users.toml"), "# empty\n").expect("good").len(), 0);
    }

    #[test]
    fn all_problems_are_reported_with_their_lines() {
        let text = format!(
            "[[user]]\nname = ' alice'\npassword = 'clear'\n\n[[user]]\nname = 'bob'\npassword = '{HASH}'\ngroups = ['a,b']\n[[user]]\nname = 'BOB'\npassword = '{HASH}'\n"
        );
        let found = problems(&text);
        let lines: Vec<usize> = found.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [2, 3, 8, 10], "{found:?}");
        assert!(found[1].message.contains("doorward user passwd"));
        assert!(found[3].message.contains("line 6"), "{found:?}");
    }

    #[test]
    fn unknown_keys_and_syntax_errors_are_reported_with_a_line() {
        let text = format!("[[user]]\nname='a'\npassword='{HASH}'\nadmin=true\n");
        assert_eq!(problems(&text)[0].line, 4);
        assert_eq!(problems("\n\n[[user]\n")[0].line, 3);
    }

    #[test]
    fn an_error_names_file_line_and_remedy() {
        let error = parse(Path::new("config/users.toml"), "[[user]]\nname=''\npassword=''\n");
        let text = error.expect_err("two problems").to_string();
        assert!(text.starts_with("config/users.toml:2: name: "), "{text}");
        assert!(text.contains("\nconfig/users.toml:3: password: "), "{text}");
    }
}
