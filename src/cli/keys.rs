//! `doorward keys`: the keys file. Shows ids and times, never a key.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::identity::private_file::Writer;
use crate::secret::{KeyId, KeyRing};

/// A keys file holds at most 255 keys of some 100 bytes.
const FILE_MAX: u64 = 1 << 20;

/// Make, rotate and list the keys that sign tokens and seal records
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    pub command: KeysCommand,
}

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a new installation's keys file; never replaces one
    Init(KeysFileArgs),
    /// Add a key that mints after a minute; tokens of the old keys stay good
    Rotate(KeysFileArgs),
    /// List ids and creation times
    List(KeysListArgs),
}

#[derive(Debug, Args)]
pub struct KeysFileArgs {
    /// The keys file
    #[arg(long, value_name = "FILE", default_value = "state/keys.toml")]
    pub keys: PathBuf,
}

#[derive(Debug, Args)]
pub struct KeysListArgs {
    #[command(flatten)]
    pub file: KeysFileArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs one command on the process's own streams.
pub fn run(args: KeysArgs) -> anyhow::Result<ExitCode> {
    let stdout = io::stdout();
    let terminal = stdout.is_terminal();
    let code = run_on(&mut stdout.lock(), &mut io::stderr().lock(), terminal, args)?;
    Ok(ExitCode::from(code))
}

/// Runs one command; gives the exit code.
///
/// # Errors
/// When `out` or `err` cannot be written to. All else is told on `err`, with exit code 1.
pub fn run_on(
    out: &mut dyn Write,
    err: &mut dyn Write,
    terminal: bool,
    args: KeysArgs,
) -> anyhow::Result<u8> {
    let done = match args.command {
        KeysCommand::Init(args) => init(&args.keys),
        KeysCommand::Rotate(args) => rotate(&args.keys),
        KeysCommand::List(args) => list(&args),
    };
    match done {
        Ok(Told::Data(text)) => write!(out, "{text}")?,
        Ok(Told::Note(text)) if terminal => writeln!(out, "{text}")?,
        Ok(Told::Note(_)) => {}
        Err(error) => {
            writeln!(err, "{error:#}")?;
            return Ok(1);
        }
    }
    Ok(0)
}

enum Told {
    /// What was asked for.
    Data(String),
    /// What a person likes to hear, and a script does not.
    Note(String),
}

fn init(path: &Path) -> anyhow::Result<Told> {
    let shown = path.display();
    let writer = Writer::lock_new(path).with_context(|| shown.to_string())?;
    if writer.exists() {
        bail!("{shown} is there already; `doorward keys rotate` adds a key to it");
    }
    save(&writer, &KeyRing::generate(&now()))?;
    Ok(Told::Note(format!(
        "made {shown} with key 1; every gateway of the installation uses this file, and your backup needs it"
    )))
}

fn rotate(path: &Path) -> anyhow::Result<Told> {
    let shown = path.display();
    read(path)?;
    let writer = Writer::lock(path).with_context(|| shown.to_string())?;
    let mut ring = read(path)?;
    let id = ring.rotate(&now()).with_context(|| shown.to_string())?;
    save(&writer, &ring)?;
    Ok(Told::Note(format!(
        "added key {id} to {shown}; it verifies at once and mints in a minute: give the file to every gateway by then"
    )))
}

#[derive(Serialize)]
struct Row<'a> {
    id: KeyId,
    created: &'a str,
    mints: bool,
}

fn list(args: &KeysListArgs) -> anyhow::Result<Told> {
    let ring = read(&args.file.keys)?;
    let (newest, _) = ring.newest();
    let rows: Vec<Row<'_>> =
        ring.ids().map(|(id, created)| Row { id, created, mints: id == newest }).collect();
    if args.json {
        return Ok(Told::Data(format!("{}\n", serde_json::to_string_pretty(&rows)?)));
    }
    Ok(Told::Data(rows.iter().map(Row::line).collect()))
}

impl Row<'_> {
    fn line(&self) -> String {
        let work = if self.mints { "mints" } else { "verifies" };
        format!("{}\t{}\t{work}\n", self.id, self.created.escape_debug())
    }
}

fn read(path: &Path) -> anyhow::Result<KeyRing> {
    let shown = path.display();
    let text = read_text(path).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            anyhow::anyhow!(
                "{shown}: {error}; `doorward keys init --keys {shown}` makes a new installation's"
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

fn save(writer: &Writer, ring: &KeyRing) -> anyhow::Result<()> {
    let written = writer.replace(ring.to_file().as_bytes());
    written.with_context(|| writer.path().display().to_string())
}

/// RFC 3339, to the second.
fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}
