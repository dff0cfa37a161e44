//! `doorward certs dev`: certificates for development.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::tls::dev_ca;

#[derive(Args)]
pub struct CertsArgs {
    #[command(subcommand)]
    command: CertsCommand,
}

#[derive(Subcommand)]
enum CertsCommand {
    /// Make a development CA and a certificate: ca.pem, doorward.pem, doorward.key
    Dev {
        /// Where to write them
        #[arg(long, default_value = "certs")]
        dir: PathBuf,
        /// Host names the certificate is for
        #[arg(long = "host", default_value = "localhost")]
        hosts: Vec<String>,
    },
}

pub(super) fn run(args: &CertsArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        CertsCommand::Dev { dir, hosts } => {
            let made = dev_ca::make(dir, hosts)?;
            println!("certificate  {}", made.cert.display());
            println!("key          {}", made.key.display());
            println!(
                "authority    {} (let your own browser trust it, nobody else's)",
                made.ca.display()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
