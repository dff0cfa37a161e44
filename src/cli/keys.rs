//! `doorward keys`: manages the keys file. Prints key IDs and times, never a key.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::app::{signing_key, signs_from};
use crate::identity::private_file::AtomicFile;
use crate::secret::{KeyId, KeyRing};

use super::config_file::ConfigArgs;
use super::terminal;

/// Far more than 255 keys of some 100 bytes.
const FILE_MAX: u64 = 1 << 20;

/// Create, rotate and list the keys that sign tokens and seal session records
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    pub command: KeysCommand,
}

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Create the keys file of a new installation; never replaces an existing file
    Init(KeysFileArgs),
    /// Add a key that signs after one minute; tokens of older keys stay valid
    Rotate(KeysFileArgs),
    /// Remove an old key; sessions and user histories that still use it end
    Retire(KeysRetireArgs),
    /// List key IDs and creation times
    List(KeysListArgs),
}

#[derive(Debug, Args)]
pub struct KeysFileArgs {
    /// Keys file; by default that of the configuration, or else state/keys.toml
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    #[command(flatten)]
    pub config: ConfigArgs,
}

impl KeysFileArgs {
    pub(super) fn path(&self) -> anyhow::Result<PathBuf> {
        if let Some(keys) = &self.keys {
            return Ok(keys.clone());
        }
        Ok(self.config.files()?.keys.unwrap_or_else(|| PathBuf::from("state/keys.toml")))
    }
}

#[derive(Debug, Args)]
pub struct KeysRetireArgs {
    /// Key ID, as in the list
    pub id: KeyId,
    #[command(flatten)]
    pub file: KeysFileArgs,
    /// Retire a key that sessions may still use
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct KeysListArgs {
    #[command(flatten)]
    pub file: KeysFileArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs a command on the standard streams.
pub fn run(args: KeysArgs) -> anyhow::Result<ExitCode> {
    let code = run_on(&mut terminal::out(), &mut terminal::err(), args)?;
    Ok(ExitCode::from(code))
}

/// Runs a command and returns the exit code.
///
/// # Errors
/// `out` or `err` cannot be written. Every other error is written to `err` and returns exit code 1.
pub fn run_on(out: &mut dyn Write, err: &mut dyn Write, args: KeysArgs) -> anyhow::Result<u8> {
    let result = match args.command {
        KeysCommand::Init(args) => args.path().and_then(|path| init(&path)),
        KeysCommand::Rotate(args) => args.path().and_then(|path| rotate(&path)),
        KeysCommand::Retire(args) => retire(&args),
        KeysCommand::List(args) => list(&args),
    };
    match result {
        Ok(text) => writeln!(out, "{text}")?,
        Err(error) => {
            writeln!(err, "{error:#}")?;
            return Ok(1);
        }
    }
    Ok(0)
}

fn init(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let writer = AtomicFile::lock_new(path).with_context(|| shown.to_string())?;
    if writer.exists() {
        bail!("{shown} exists already; `doorward keys rotate` adds a key to it");
    }
    save(&writer, &KeyRing::generate(&now()))?;
    Ok(format!(
        "created {shown} with key 1; copy it to every gateway of the installation and to your backup"
    ))
}

fn rotate(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    read(path)?;
    let writer = AtomicFile::lock(path).with_context(|| shown.to_string())?;
    let mut ring = read(path)?;
    let id = ring.rotate(&now()).with_context(|| shown.to_string())?;
    save(&writer, &ring)?;
    Ok(format!(
        "added key {id} to {shown}; it verifies at once and signs after one minute: copy the file to every gateway before then"
    ))
}

/// User histories use a key for up to 30 days after it was replaced, sessions up to the absolute timeout.
const RETIRE_AFTER: SignedDuration = SignedDuration::from_hours(31 * 24);

fn retire(args: &KeysRetireArgs) -> anyhow::Result<String> {
    let (path, id) = (&args.file.path()?, args.id);
    let shown = path.display();
    read(path)?;
    let writer = AtomicFile::lock(path).with_context(|| shown.to_string())?;
    let mut ring = read(path)?;
    let Some(successor) = ring.ids().find(|(other, _)| *other > id).map(|(_, at)| at.to_owned())
    else {
        bail!(
            "{shown}: key {id} is the newest one, or does not exist; `doorward keys rotate` adds a newer one, `doorward keys list` lists all"
        );
    };
    let replaced = successor.parse::<Timestamp>().ok();
    let is_recent = replaced.is_some_and(|at| Timestamp::now().duration_since(at) < RETIRE_AFTER);
    if is_recent && !args.force {
        bail!(
            "{shown}: key {id} was replaced at {successor}, less than 31 days ago; sessions and user histories may still use it. Wait, or add --force, which ends them"
        );
    }
    ring.retire(id).with_context(|| shown.to_string())?;
    save(&writer, &ring)?;
    Ok(format!("removed key {id} from {shown}; copy the file to every gateway"))
}

#[derive(Serialize)]
struct KeyRow<'a> {
    id: KeyId,
    created: &'a str,
    signs: bool,
    /// Set while a new key only verifies.
    #[serde(skip_serializing_if = "Option::is_none")]
    signs_from: Option<String>,
}

fn list(args: &KeysListArgs) -> anyhow::Result<String> {
    let ring = read(&args.file.path()?)?;
    let now = Timestamp::now();
    let active = signing_key(&ring, now);
    let row = |(id, created)| {
        let signs_from = signs_from(created).filter(|from| id != active && *from > now);
        let signs_from = signs_from.map(|from| format!("{from:.0}"));
        KeyRow { id, created, signs: id == active, signs_from }
    };
    let rows: Vec<KeyRow<'_>> = ring.ids().map(row).collect();
    if args.json {
        return Ok(serde_json::to_string_pretty(&rows)?);
    }
    let lines: Vec<String> = rows.iter().map(KeyRow::line).collect();
    Ok(format!("{:<4}  {:<25}  USE\n{}", "KEY", "CREATED", lines.join("\n")))
}

impl KeyRow<'_> {
    fn line(&self) -> String {
        let role = match &self.signs_from {
            Some(from) => format!("signs from {from}"),
            None if self.signs => "signs".to_owned(),
            None => "verifies".to_owned(),
        };
        let created = self.created.escape_debug().to_string();
        format!("{:<4}  {created:<25}  {role}", self.id)
    }
}

fn read(path: &Path) -> anyhow::Result<KeyRing> {
    let shown = path.display();
    let text = read_text(path).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            anyhow::anyhow!(
                "{shown}: {error}; `doorward keys init --keys {shown}` creates it for a new installation"
            )
        } else {
            anyhow::anyhow!("{shown}: {error}")
        }
    })?;
    KeyRing::parse(&text).with_context(|| shown.to_string())
}

fn read_text(path: &Path) -> io::Result<Zeroizing<String>> {
    let file = std::fs::File::open(path)?;
    let mut text = Zeroizing::new(String::new());
    io::Read::read_to_string(&mut io::Read::take(file, FILE_MAX), &mut text)?;
    Ok(text)
}

fn save(writer: &AtomicFile, ring: &KeyRing) -> anyhow::Result<()> {
    let written = writer.replace(ring.to_file().as_bytes());
    written.with_context(|| writer.path().display().to_string())
}

/// RFC 3339, to the second.
fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}
