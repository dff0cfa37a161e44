//! `doorward user`: manages the users file.
//!
//! Passwords are read from the terminal or from standard input, never from an argument. Arguments are visible
//! in the process list and in the shell history. Exit codes: 0 success, 1 failure, 2 usage error.

use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use http::{Method, StatusCode};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::identity::account::{self, FieldError};
use crate::identity::password_policy::PASSWORD_MAX;
use crate::identity::users_file_editor::UsersFileEditor;
use crate::identity::{Account, Cost, Credential, htpasswd, password_policy, users_file};
use crate::session::Identity;

use super::config_file::{ConfigArgs, SocketArgs};
use super::sessions::send;
use super::terminal;

/// Add, change and list users with a password
#[derive(Debug, Args)]
pub struct UserArgs {
    #[command(subcommand)]
    pub command: UserCommand,
}

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Add a user; creates the file if it is missing
    Add(AddArgs),
    /// Set a new password; ends all sessions of the user
    Passwd(PasswdArgs),
    /// List users, without password hashes
    List(ListArgs),
    /// Disable a user and end their sessions
    Disable(NameArgs),
    /// Enable a disabled user
    Enable(NameArgs),
    /// Remove a user and end their sessions; their location history stays for up to 30 days, or until
    /// `doorward sessions forget NAME`
    Remove(NameArgs),
    /// Delete the second factors of a user who lost them, at the running gateway
    ResetFactors(ResetFactorsArgs),
    /// Import the bcrypt entries of an htpasswd file
    Import(ImportArgs),
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// Login name
    #[arg(value_parser = user_name)]
    pub name: String,
    #[command(flatten)]
    pub file: FileArgs,
    #[command(flatten)]
    pub password: PasswordArgs,
    /// Groups, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = group_name, value_name = "A,B")]
    pub groups: Vec<String>,
    /// E-mail address
    #[arg(long, value_parser = email)]
    pub email: Option<String>,
    /// Display name, as apps show it
    #[arg(long = "name", value_parser = display_name, value_name = "NAME", id = "display_name")]
    pub display_name: Option<String>,
}

#[derive(Debug, Args)]
pub struct PasswdArgs {
    /// Login name
    pub name: String,
    #[command(flatten)]
    pub file: FileArgs,
    #[command(flatten)]
    pub password: PasswordArgs,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub file: FileArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct NameArgs {
    /// Login name
    pub name: String,
    #[command(flatten)]
    pub file: FileArgs,
}

#[derive(Debug, Args)]
pub struct ResetFactorsArgs {
    /// Login name
    pub name: String,
    #[command(flatten)]
    pub socket: SocketArgs,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// htpasswd file
    #[arg(value_name = "HTPASSWD")]
    pub htpasswd: PathBuf,
    #[command(flatten)]
    pub file: FileArgs,
    /// Groups of all imported users, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = group_name, value_name = "A,B")]
    pub groups: Vec<String>,
    /// Import the supported lines and skip the others
    #[arg(long)]
    pub skip_unsupported: bool,
}

#[derive(Debug, Args)]
pub struct FileArgs {
    /// Users file; by default that of the configuration, or else state/users.toml
    #[arg(long, value_name = "FILE")]
    pub users: Option<PathBuf>,
    #[command(flatten)]
    pub config: ConfigArgs,
}

impl FileArgs {
    fn path(&self) -> anyhow::Result<PathBuf> {
        if let Some(users) = &self.users {
            return Ok(users.clone());
        }
        Ok(self.config.files()?.users.unwrap_or_else(|| PathBuf::from("state/users.toml")))
    }
}

#[derive(Debug, Args)]
pub struct PasswordArgs {
    /// Read the password from the first line of standard input
    #[arg(long)]
    pub password_stdin: bool,
    /// Minimum number of characters, at least 8 [default: 15, as NIST SP 800-63B-4 requires where the
    /// password is the only factor]
    #[arg(long, value_parser = clap::value_parser!(u8).range(8..=64))]
    pub min_length: Option<u8>,
}

impl PasswordArgs {
    fn min_length(&self) -> usize {
        self.min_length.map_or(password_policy::LENGTH_MIN, usize::from)
    }
}

/// Input and output of a command. Tests pass their own.
pub struct Console<'a> {
    pub input: &'a mut dyn BufRead,
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
    /// Prompts for a password without echo.
    pub prompt: &'a mut dyn FnMut(&str) -> io::Result<String>,
}

/// Runs a command on the standard streams.
pub fn run(args: UserArgs) -> anyhow::Result<ExitCode> {
    let mut console = Console {
        input: &mut io::stdin().lock(),
        out: &mut terminal::out(),
        err: &mut terminal::err(),
        prompt: &mut |prompt| rpassword::prompt_password(prompt),
    };
    Ok(ExitCode::from(run_on(&mut console, args)?))
}

/// Runs a command on `console` and returns the exit code.
///
/// # Errors
/// `console` cannot be written. Every other error is written to `err` and returns exit code 1.
pub fn run_on(console: &mut Console<'_>, args: UserArgs) -> anyhow::Result<u8> {
    let result = match args.command {
        UserCommand::Add(args) => add(console, args),
        UserCommand::Passwd(args) => passwd(console, &args),
        UserCommand::List(args) => list(console, &args),
        UserCommand::Disable(args) => set_disabled(console, &args, true),
        UserCommand::Enable(args) => set_disabled(console, &args, false),
        UserCommand::Remove(args) => remove(console, &args),
        UserCommand::ResetFactors(args) => reset_factors(console, &args),
        UserCommand::Import(args) => import(console, args),
    };
    match result {
        Ok(()) => Ok(0),
        Err(error) => {
            writeln!(console.err, "{error:#}")?;
            Ok(1)
        }
    }
}

fn add(console: &mut Console<'_>, args: AddArgs) -> anyhow::Result<()> {
    let identity = Identity {
        user: args.name,
        name: args.display_name,
        email: args.email,
        groups: args.groups,
        ..Identity::default()
    };
    account::check_groups(&identity.groups)?;
    // Checked before the password prompt, so that a duplicate name is reported first. The file is opened
    // again afterwards, because no lock may be held during the prompt.
    refuse_existing(&args.file.path()?, &identity.user)?;
    let password = new_password(console, &args.password, &identity.user)?;
    let mut edit = UsersFileEditor::open_or_new(&args.file.path()?)?;
    edit.add(&identity, &password)?;
    edit.save()?;
    print_status(console, &args.file, &format!("added {}", identity.user))
}

fn refuse_existing(users: &Path, name: &str) -> anyhow::Result<()> {
    if !users.exists() {
        return Ok(());
    }
    let edit = UsersFileEditor::open(users)?;
    if let Some(existing) = edit.find(name) {
        let existing = &existing.identity.user;
        bail!(
            "user {existing:?} exists already; use `doorward user passwd {existing}` to set a new password"
        );
    }
    Ok(())
}

fn passwd(console: &mut Console<'_>, args: &PasswdArgs) -> anyhow::Result<()> {
    // Checked before the password prompt.
    let name = existing_name(&args.file.path()?, &args.name)?;
    let password = new_password(console, &args.password, &name)?;
    let mut edit = UsersFileEditor::open(&args.file.path()?)?;
    edit.set_password(&name, &password)?;
    edit.save()?;
    print_status(console, &args.file, &format!("changed the password of {name}"))
}

fn existing_name(users: &Path, name: &str) -> anyhow::Result<String> {
    let edit = UsersFileEditor::open(users)?;
    let found = edit.find(name).with_context(|| {
        let users = users.display();
        format!("no user {name:?} in {users}; `doorward user list` lists all users")
    })?;
    Ok(found.identity.user.clone())
}

fn set_disabled(console: &mut Console<'_>, args: &NameArgs, disabled: bool) -> anyhow::Result<()> {
    let mut edit = UsersFileEditor::open(&args.file.path()?)?;
    let changed = edit.set_disabled(&args.name, disabled)?;
    if changed {
        edit.save()?;
    }
    let word = if disabled { "disabled" } else { "enabled" };
    let already = if changed { "" } else { " already" };
    let message = format!("{} is {word}{already}", args.name);
    print_status(console, &args.file, &message)
}

fn remove(console: &mut Console<'_>, args: &NameArgs) -> anyhow::Result<()> {
    let mut edit = UsersFileEditor::open(&args.file.path()?)?;
    edit.remove(&args.name)?;
    edit.save()?;
    print_status(console, &args.file, &format!("removed {}", args.name))?;
    writeln!(
        console.out,
        "the location history of {0} is kept for up to 30 days (signals.known_for); to delete it now: doorward sessions forget {0}",
        args.name
    )?;
    Ok(())
}

/// The factors are in the session store, so the running gateway deletes them.
fn reset_factors(console: &mut Console<'_>, args: &ResetFactorsArgs) -> anyhow::Result<()> {
    let query =
        form_urlencoded::Serializer::new(String::new()).append_pair("user", &args.name).finish();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let path = format!("/reset-factors?{query}");
    let (status, body) = runtime.block_on(send(&args.socket.path()?, Method::POST, &path))?;
    let response: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    if status != StatusCode::OK {
        bail!("{}", response["error"].as_str().unwrap_or(&body));
    }
    let name = response["reset"].as_str().unwrap_or_default();
    Ok(writeln!(
        console.out,
        "{name} has no second factor; the next login needs the password only"
    )?)
}

/// States what was done.
fn print_status(console: &mut Console<'_>, file: &FileArgs, message: &str) -> anyhow::Result<()> {
    Ok(writeln!(console.out, "{message} in {}", file.path()?.display())?)
}

fn new_password(
    console: &mut Console<'_>,
    args: &PasswordArgs,
    user: &str,
) -> anyhow::Result<Credential> {
    let password =
        if args.password_stdin { read_password(console)? } else { prompt_twice(console)? };
    let password = account::normalize_password(&password);
    if let Err(error) = password_policy::check(&password, user, args.min_length()) {
        bail!("{error}");
    }
    Ok(Credential::hash(&password, Cost::DEFAULT)?)
}

fn read_password(console: &mut Console<'_>) -> anyhow::Result<Zeroizing<String>> {
    // One byte more than the longest password with its line end, so that a longer one is detected.
    let limit = PASSWORD_MAX as u64 + 3;
    let mut line = Zeroizing::new(String::with_capacity(PASSWORD_MAX + 8));
    (&mut *console.input).take(limit).read_line(&mut line).context("standard input")?;
    let password = line.strip_suffix('\n').unwrap_or(&line);
    let password = password.strip_suffix('\r').unwrap_or(password);
    Ok(Zeroizing::new(password.to_owned()))
}

fn prompt_twice(console: &mut Console<'_>) -> anyhow::Result<Zeroizing<String>> {
    let mut read = |prompt: &str| {
        (console.prompt)(prompt)
            .map(Zeroizing::new)
            .context("no terminal for the password prompt; use --password-stdin")
    };
    let first = read("New password: ")?;
    let second = read("Repeat the password: ")?;
    if first != second {
        bail!("the passwords differ; no change was made");
    }
    Ok(first)
}

#[derive(Serialize)]
struct AccountRow<'a> {
    name: &'a str,
    display_name: Option<&'a str>,
    email: Option<&'a str>,
    groups: &'a [String],
    disabled: bool,
    password: &'static str,
}

impl<'a> AccountRow<'a> {
    fn new(account: &'a Account) -> AccountRow<'a> {
        let identity = &account.identity;
        AccountRow {
            name: &identity.user,
            display_name: identity.name.as_deref(),
            email: identity.email.as_deref(),
            groups: &identity.groups,
            disabled: account.disabled,
            password: match account.password.cost() {
                Cost::Argon2id { .. } => "argon2id",
                Cost::Bcrypt { .. } => "bcrypt",
            },
        }
    }

    fn cells(&self) -> [String; 6] {
        let state = if self.disabled { "disabled" } else { "enabled" };
        [
            self.name.to_owned(),
            state.to_owned(),
            self.groups.join(","),
            self.email.unwrap_or_default().to_owned(),
            self.display_name.unwrap_or_default().to_owned(),
            self.password.to_owned(),
        ]
    }
}

const COLUMNS: [&str; 6] = ["NAME", "STATE", "GROUPS", "EMAIL", "DISPLAY NAME", "PASSWORD"];

fn list(console: &mut Console<'_>, args: &ListArgs) -> anyhow::Result<()> {
    let path = &args.file.path()?;
    let accounts = users_file::parse(path, &users_file::read_text(path)?)?;
    let rows: Vec<AccountRow<'_>> = accounts.iter().map(AccountRow::new).collect();
    if args.json {
        writeln!(console.out, "{}", serde_json::to_string_pretty(&rows)?)?;
        return Ok(());
    }
    let cells: Vec<[String; 6]> = rows.iter().map(AccountRow::cells).collect();
    Ok(print_table(console.out, &cells)?)
}

fn print_table(out: &mut dyn Write, rows: &[[String; 6]]) -> io::Result<()> {
    let head = COLUMNS.map(str::to_owned);
    let widths: [usize; 6] = std::array::from_fn(|column| {
        let cells = std::iter::once(&head).chain(rows);
        cells.map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    for row in std::iter::once(&head).chain(rows) {
        let cells = row.iter().zip(widths);
        let padded: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", padded.join("  ").trim_end())?;
    }
    Ok(())
}

fn import(console: &mut Console<'_>, args: ImportArgs) -> anyhow::Result<()> {
    let source = args.htpasswd.display().to_string();
    let text = users_file::read_text(&args.htpasswd).map_err(|error| match error {
        users_file::UsersError::Missing { source: cause, .. } => {
            anyhow::anyhow!("{source}: {cause}")
        }
        other @ (users_file::UsersError::Read { .. }
        | users_file::UsersError::TooLong(_)
        | users_file::UsersError::Invalid { .. }) => other.into(),
    })?;
    let (entries, mut unsupported) = htpasswd::parse(&text);
    account::check_groups(&args.groups)?;
    let mut edit = UsersFileEditor::open_or_new(&args.file.path()?)?;
    let added = import_entries(&mut edit, &entries, &args.groups, &mut unsupported);
    for line in &unsupported {
        writeln!(console.err, "{source}:{}: {}", line.line, line.message)?;
    }
    if !unsupported.is_empty() && !args.skip_unsupported {
        bail!(
            "nothing was imported; {} lines are not supported (--skip-unsupported skips them)",
            unsupported.len()
        );
    }
    if added > 0 {
        edit.save()?;
    }
    let message = format!("imported {added} users and skipped {} lines", unsupported.len());
    print_status(console, &args.file, &message)
}

fn import_entries(
    edit: &mut UsersFileEditor,
    entries: &[htpasswd::HtpasswdEntry],
    groups: &[String],
    unsupported: &mut Vec<htpasswd::UnsupportedLine>,
) -> usize {
    let before = unsupported.len();
    for entry in entries {
        let identity =
            Identity { user: entry.name.clone(), groups: groups.to_vec(), ..Identity::default() };
        if let Err(error) = edit.add(&identity, &entry.password) {
            unsupported
                .push(htpasswd::UnsupportedLine { line: entry.line, message: error.to_string() });
        }
    }
    let added = entries.len() - (unsupported.len() - before);
    unsupported.sort_by_key(|line| line.line);
    added
}

fn user_name(text: &str) -> Result<String, FieldError> {
    let text = &*account::composed(text);
    account::check_user_name(text).map(|()| text.to_owned())
}

fn group_name(text: &str) -> Result<String, FieldError> {
    account::check_groups(&[text.to_owned()]).map(|()| text.to_owned())
}

fn email(text: &str) -> Result<String, FieldError> {
    account::check_email(text).map(|()| text.to_owned())
}

fn display_name(text: &str) -> Result<String, FieldError> {
    account::check_display_name(text).map(|()| text.to_owned())
}
