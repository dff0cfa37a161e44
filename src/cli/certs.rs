//! `doorward certs dev`: certificates for development.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::tls::dev_ca;

use super::terminal;

#[derive(Args)]
pub struct CertsArgs {
    #[command(subcommand)]
    command: CertsCommand,
}

#[derive(Subcommand)]
enum CertsCommand {
    /// Create a development CA and a certificate (ca.pem, doorward.pem, doorward.key)
    Dev {
        /// Output directory
        #[arg(long, default_value = "certs")]
        dir: PathBuf,
        /// Host name of the certificate; repeatable
        #[arg(long = "host", default_value = "localhost")]
        hosts: Vec<String>,
    },
}

pub(super) fn run(args: &CertsArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        CertsCommand::Dev { dir, hosts } => {
            let files = dev_ca::make(dir, hosts)?;
            let mut out = terminal::out();
            writeln!(out, "certificate  {}", files.cert.display())?;
            writeln!(out, "key          {}", files.key.display())?;
            let ca = files.ca.display();
            writeln!(out, "authority    {ca} (trust it in your own browser only)")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
