//! `doorward user`: the users file, from the command line.
//!
//! A password comes from the terminal or from standard input, never from an argument: arguments show
//! in the process list and stay in the shell's history. Exit codes: 0 done, 1 not done, 2 wrong usage.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::identity::account::{self, FieldError};
use crate::identity::edit::UsersEdit;
use crate::identity::password::PASSWORD_MAX;
use crate::identity::{Account, Cost, Credential, htpasswd, users_file};
use crate::session::Identity;

/// NIST SP 800-63B-4, 3.1.1.2: 8 at least; 15 where the password is the only factor.
const LENGTH_MIN: usize = 8;
const LENGTH_ADVISED: usize = 15;

/// Add, change and list the users that log in with a password
#[derive(Debug, Args)]
pub struct UserArgs {
    #[command(subcommand)]
    pub command: UserCommand,
}

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Add a user; makes the file when it is missing
    Add(AddArgs),
    /// Give a user a new password; ends the sessions that the old one began
    Passwd(PasswdArgs),
    /// List the users; never shows a password or its hash
    List(ListArgs),
    /// Keep a user out, and end his sessions
    Disable(NameArgs),
    /// Let a disabled user in again
    Enable(NameArgs),
    /// Remove a user, and end his sessions; where he was is remembered for up to 30 days more, or until
    /// `doorward sessions forget NAME`
    Remove(NameArgs),
    /// Take over the bcrypt lines of an htpasswd file
    Import(ImportArgs),
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// The name to log in with
    #[arg(value_parser = user_name)]
    pub name: String,
    #[command(flatten)]
    pub file: FileArgs,
    #[command(flatten)]
    pub password: PasswordArgs,
    /// Groups, with commas between them
    #[arg(long, value_delimiter = ',', value_parser = group_name, value_name = "A,B")]
    pub groups: Vec<String>,
    /// E-mail address
    #[arg(long, value_parser = email)]
    pub email: Option<String>,
    /// The person's name, as apps show it
    #[arg(long = "name", value_parser = display_name, value_name = "NAME", id = "display_name")]
    pub display_name: Option<String>,
}

#[derive(Debug, Args)]
pub struct PasswdArgs {
    /// The user
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
    /// The user
    pub name: String,
    #[command(flatten)]
    pub file: FileArgs,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The htpasswd file
    #[arg(value_name = "HTPASSWD")]
    pub htpasswd: PathBuf,
    #[command(flatten)]
    pub file: FileArgs,
    /// Groups for all imported users
    #[arg(long, value_delimiter = ',', value_parser = group_name, value_name = "A,B")]
    pub groups: Vec<String>,
    /// Take over the good lines and pass over the others
    #[arg(long)]
    pub skip_unsupported: bool,
}

#[derive(Debug, Args)]
pub struct FileArgs {
    /// The users file
    #[arg(long, value_name = "FILE", default_value = "config/users.toml")]
    pub users: PathBuf,
}

#[derive(Debug, Args)]
pub struct PasswordArgs {
    /// Read the password from the first line of standard input
    #[arg(long)]
    pub password_stdin: bool,
}

/// Where a command reads and writes. A test gives its own.
pub struct Console<'a> {
    pub input: &'a mut dyn BufRead,
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
    /// Asks for a password without showing it.
    pub ask: &'a mut dyn FnMut(&str) -> io::Result<String>,
    /// Whether people read `out`.
    pub terminal: bool,
}

/// Runs one command on the process's own streams.
pub fn run(args: UserArgs) -> anyhow::Result<ExitCode> {
    let stdout = io::stdout();
    let terminal = stdout.is_terminal();
    let mut console = Console {
        input: &mut io::stdin().lock(),
        out: &mut stdout.lock(),
        err: &mut io::stderr().lock(),
        ask: &mut |prompt| rpassword::prompt_password(prompt),
        terminal,
    };
    Ok(ExitCode::from(run_on(&mut console, args)?))
}

/// Runs one command on `console`; gives the exit code.
///
/// # Errors
/// When `console` cannot be written to. All else is told on `err`, with exit code 1.
pub fn run_on(console: &mut Console<'_>, args: UserArgs) -> anyhow::Result<u8> {
    let done = match args.command {
        UserCommand::Add(args) => add(console, args),
        UserCommand::Passwd(args) => passwd(console, &args),
        UserCommand::List(args) => list(console, &args),
        UserCommand::Disable(args) => set_disabled(console, &args, true),
        UserCommand::Enable(args) => set_disabled(console, &args, false),
        UserCommand::Remove(args) => remove(console, &args),
        UserCommand::Import(args) => import(console, args),
    };
    match done {
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
    };
    account::check_groups(&identity.groups)?;
    // Before the password is asked for: nobody types one twice to hear that the name is taken. The
    // file is opened again afterwards, so that no lock is held while somebody types.
    refuse_existing(&args.file.users, &identity.user)?;
    let password = new_password(console, &args.password, &identity.user)?;
    let mut edit = UsersEdit::open_or_new(&args.file.users)?;
    edit.add(&identity, &password)?;
    edit.save()?;
    say(console, &args.file, &format!("added {}", identity.user))
}

fn refuse_existing(users: &Path, name: &str) -> anyhow::Result<()> {
    if !users.exists() {
        return Ok(());
    }
    let edit = UsersEdit::open(users)?;
    if let Some(there) = edit.find(name) {
        let there = &there.identity.user;
        bail!(
            "user {there:?} is there already; use `doorward user passwd {there}` for a new password"
        );
    }
    Ok(())
}

fn passwd(console: &mut Console<'_>, args: &PasswdArgs) -> anyhow::Result<()> {
    // Named before the password is asked for.
    let name = existing_name(&args.file.users, &args.name)?;
    let password = new_password(console, &args.password, &name)?;
    let mut edit = UsersEdit::open(&args.file.users)?;
    edit.set_password(&name, &password)?;
    edit.save()?;
    say(console, &args.file, &format!("changed the password of {name}"))
}

fn existing_name(users: &Path, name: &str) -> anyhow::Result<String> {
    let edit = UsersEdit::open(users)?;
    let found = edit.find(name).with_context(|| {
        let users = users.display();
        format!("there is no user {name:?} in {users}; `doorward user list` shows all")
    })?;
    Ok(found.identity.user.clone())
}

fn set_disabled(console: &mut Console<'_>, args: &NameArgs, disabled: bool) -> anyhow::Result<()> {
    let mut edit = UsersEdit::open(&args.file.users)?;
    let changed = edit.set_disabled(&args.name, disabled)?;
    if changed {
        edit.save()?;
    }
    let word = if disabled { "disabled" } else { "enabled" };
    let already = if changed { "" } else { " already" };
    let message = format!("{} is {word}{already}", args.name);
    say(console, &args.file, &message)
}

fn remove(console: &mut Console<'_>, args: &NameArgs) -> anyhow::Result<()> {
    let mut edit = UsersEdit::open(&args.file.users)?;
    edit.remove(&args.name)?;
    edit.save()?;
    say(console, &args.file, &format!("removed {}", args.name))?;
    if console.terminal {
        writeln!(
            console.out,
            "where {0} was is remembered for up to 30 days more (signals.known_for); to end that now: doorward sessions forget {0}",
            args.name
        )?;
    }
    Ok(())
}

/// Quiet in a pipe, as scripts like it.
fn say(console: &mut Console<'_>, file: &FileArgs, message: &str) -> anyhow::Result<()> {
    if console.terminal {
        writeln!(console.out, "{message} in {}", file.users.display())?;
    }
    Ok(())
}

// ---- passwords ----

fn new_password(
    console: &mut Console<'_>,
    args: &PasswordArgs,
    user: &str,
) -> anyhow::Result<Credential> {
    let password = if args.password_stdin { read_password(console)? } else { ask_twice(console)? };
    check_password(&password, user)?;
    if password.chars().count() < LENGTH_ADVISED {
        writeln!(
            console.err,
            "note: {LENGTH_ADVISED} characters or more are advised where the password is the only proof (NIST SP 800-63B-4)"
        )?;
    }
    Ok(Credential::hash(&password, Cost::DEFAULT)?)
}

fn read_password(console: &mut Console<'_>) -> anyhow::Result<Zeroizing<String>> {
    // One more than the longest with its line end, so that a longer one is seen to be too long.
    let most = PASSWORD_MAX as u64 + 3;
    let mut line = Zeroizing::new(String::with_capacity(PASSWORD_MAX + 8));
    (&mut *console.input).take(most).read_line(&mut line).context("standard input")?;
    let password = line.strip_suffix('\n').unwrap_or(&line);
    let password = password.strip_suffix('\r').unwrap_or(password);
    Ok(Zeroizing::new(password.to_owned()))
}

fn ask_twice(console: &mut Console<'_>) -> anyhow::Result<Zeroizing<String>> {
    let mut ask = |prompt: &str| {
        (console.ask)(prompt).map(Zeroizing::new).context(
            "no terminal to ask on; give the password on standard input with --password-stdin",
        )
    };
    let first = ask("New password: ")?;
    let second = ask("Once more: ")?;
    if first != second {
        bail!("the two passwords differ; nothing was changed");
    }
    Ok(first)
}

fn check_password(password: &str, user: &str) -> anyhow::Result<()> {
    if password.chars().count() < LENGTH_MIN {
        bail!(
            "the password is shorter than {LENGTH_MIN} characters: such are guessed in no time (NIST SP 800-63B-4)"
        );
    }
    if password.len() > PASSWORD_MAX {
        bail!("the password is longer than {PASSWORD_MAX} bytes: a login would refuse it");
    }
    if password.contains(['\0', '\r', '\n']) {
        bail!("the password has a line break or a NUL in it: no login form sends one");
    }
    if account::fold(password) == account::fold(user) {
        bail!("the password is the user name: that is the first guess");
    }
    if COMMONEST.contains(&account::fold(password).as_str()) {
        bail!("the password is one of those that are tried first");
    }
    Ok(())
}

/// Of the lists of leaked passwords, the first with eight letters or more.
const COMMONEST: [&str; 24] = [
    "12345678",
    "123456789",
    "1234567890",
    "password",
    "password1",
    "password123",
    "passw0rd",
    "p@ssw0rd",
    "p@ssword",
    "qwertyuiop",
    "qwerty123",
    "qwerty12345",
    "1q2w3e4r",
    "1q2w3e4r5t",
    "iloveyou",
    "sunshine",
    "princess",
    "football",
    "baseball",
    "welcome1",
    "admin123",
    "administrator",
    "changeme",
    "letmein1",
];

// ---- list ----

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    display_name: Option<&'a str>,
    email: Option<&'a str>,
    groups: &'a [String],
    disabled: bool,
    password: &'static str,
}

impl<'a> Row<'a> {
    fn of(account: &'a Account) -> Row<'a> {
        let identity = &account.identity;
        Row {
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
    let path = &args.file.users;
    let accounts = users_file::parse(path, &users_file::read_text(path)?)?;
    let rows: Vec<Row<'_>> = accounts.iter().map(Row::of).collect();
    if args.json {
        writeln!(console.out, "{}", serde_json::to_string_pretty(&rows)?)?;
        return Ok(());
    }
    let cells: Vec<[String; 6]> = rows.iter().map(Row::cells).collect();
    if console.terminal {
        print_table(console.out, &cells)?;
    } else {
        for row in cells {
            writeln!(console.out, "{}", row.join("\t"))?;
        }
    }
    Ok(())
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

// ---- import ----

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
    let (entries, mut bad) = htpasswd::parse(&text);
    account::check_groups(&args.groups)?;
    let mut edit = UsersEdit::open_or_new(&args.file.users)?;
    let added = take_over(&mut edit, &entries, &args.groups, &mut bad);
    for line in &bad {
        writeln!(console.err, "{source}:{}: {}", line.line, line.message)?;
    }
    if !bad.is_empty() && !args.skip_unsupported {
        bail!(
            "nothing was imported; {} of the lines cannot be taken over (--skip-unsupported passes over them)",
            bad.len()
        );
    }
    if added > 0 {
        edit.save()?;
    }
    let message = format!("imported {added} users, passed over {} lines,", bad.len());
    say(console, &args.file, &message)
}

fn take_over(
    edit: &mut UsersEdit,
    entries: &[htpasswd::Entry],
    groups: &[String],
    bad: &mut Vec<htpasswd::Unsupported>,
) -> usize {
    let before = bad.len();
    for entry in entries {
        let identity =
            Identity { user: entry.name.clone(), groups: groups.to_vec(), ..Identity::default() };
        if let Err(error) = edit.add(&identity, &entry.password) {
            bad.push(htpasswd::Unsupported { line: entry.line, message: error.to_string() });
        }
    }
    let added = entries.len() - (bad.len() - before);
    bad.sort_by_key(|line| line.line);
    added
}

// ---- arguments ----

fn user_name(text: &str) -> Result<String, FieldError> {
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
