//! `doorward keys`: manages the keys file. Prints key IDs and times, never a key.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::identity::private_file::AtomicFile;
use crate::secret::{KeyId, KeyRing};

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
    /// List key IDs and creation times
    List(KeysListArgs),
}

#[derive(Debug, Args)]
pub struct KeysFileArgs {
    /// Keys file
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

/// Runs a command on the standard streams.
pub fn run(args: KeysArgs) -> anyhow::Result<ExitCode> {
    let stdout = io::stdout();
    let terminal = stdout.is_terminal();
    let code = run_on(&mut stdout.lock(), &mut io::stderr().lock(), terminal, args)?;
    Ok(ExitCode::from(code))
}

/// Runs a command and returns the exit code.
///
/// # Errors
/// `out` or `err` cannot be written. Every other error is written to `err` and returns exit code 1.
pub fn run_on(
    out: &mut dyn Write,
    err: &mut dyn Write,
    terminal: bool,
    args: KeysArgs,
) -> anyhow::Result<u8> {
    let result = match args.command {
        KeysCommand::Init(args) => init(&args.keys),
        KeysCommand::Rotate(args) => rotate(&args.keys),
        KeysCommand::List(args) => list(&args),
    };
    match result {
        Ok(Output::Data(text)) => write!(out, "{text}")?,
        Ok(Output::Status(text)) if terminal => writeln!(out, "{text}")?,
        Ok(Output::Status(_)) => {}
        Err(error) => {
            writeln!(err, "{error:#}")?;
            return Ok(1);
        }
    }
    Ok(0)
}

enum Output {
    /// The requested data.
    Data(String),
    /// A message that is printed on a terminal only.
    Status(String),
}

fn init(path: &Path) -> anyhow::Result<Output> {
    let shown = path.display();
    let writer = AtomicFile::lock_new(path).with_context(|| shown.to_string())?;
    if writer.exists() {
        bail!("{shown} exists already; `doorward keys rotate` adds a key to it");
    }
    save(&writer, &KeyRing::generate(&now()))?;
    Ok(Output::Status(format!(
        "created {shown} with key 1; copy it to every gateway of the installation and to your backup"
    )))
}

fn rotate(path: &Path) -> anyhow::Result<Output> {
    let shown = path.display();
    read(path)?;
    let writer = AtomicFile::lock(path).with_context(|| shown.to_string())?;
    let mut ring = read(path)?;
    let id = ring.rotate(&now()).with_context(|| shown.to_string())?;
    save(&writer, &ring)?;
    Ok(Output::Status(format!(
        "added key {id} to {shown}; it verifies at once and signs after one minute: copy the file to every gateway before then"
    )))
}

#[derive(Serialize)]
struct KeyRow<'a> {
    id: KeyId,
    created: &'a str,
    signs: bool,
}

fn list(args: &KeysListArgs) -> anyhow::Result<Output> {
    let ring = read(&args.file.keys)?;
    let (newest, _) = ring.signing_key();
    let rows: Vec<KeyRow<'_>> =
        ring.ids().map(|(id, created)| KeyRow { id, created, signs: id == newest }).collect();
    if args.json {
        return Ok(Output::Data(format!("{}\n", serde_json::to_string_pretty(&rows)?)));
    }
    Ok(Output::Data(rows.iter().map(KeyRow::line).collect()))
}

impl KeyRow<'_> {
    fn line(&self) -> String {
        let role = if self.signs { "signs" } else { "verifies" };
        format!("{}\t{}\t{role}\n", self.id, self.created.escape_debug())
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
