//! The commands. Each reads its arguments, calls a layer below, and says what happened.
//!
//! Exit codes: 0 done, 1 it did not work (the reason is on standard error), 2 wrong usage.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the commands are what speaks to a terminal"
)]

pub mod audit;
pub mod certs;
pub mod check;
pub mod demo;
pub mod explain;
pub mod keys;
pub mod notify;
pub mod replay;
pub mod run;
pub mod sessions;
pub mod user;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A reverse proxy that keeps the sessions of apps that cannot.
#[derive(Parser)]
#[command(name = "doorward", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway
    Run(run::RunArgs),
    /// Show the gateway with two small apps, nothing to set up
    Demo(demo::DemoArgs),
    /// Say every problem of a configuration at once
    Check(check::CheckArgs),
    /// Say what the gateway would do with a request, and why
    Explain(Box<explain::ExplainArgs>),
    /// Print a configuration with every key at its default
    PrintConfig,
    /// Keep the users file
    User(user::UserArgs),
    /// Keep the keys file
    Keys(keys::KeysArgs),
    /// List, show and end sessions of the running gateway
    Sessions(sessions::SessionsArgs),
    /// Verify the audit log
    Audit(audit::AuditArgs),
    /// Say what other [signals] settings would have done, from what the audit log says of moved sessions
    Replay(replay::ReplayArgs),
    /// Try whether who is to be told of a theft is told
    Notify(notify::NotifyArgs),
    /// Make certificates for development
    Certs(certs::CertsArgs),
}

/// Runs the command that the process was called with.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Check(args) => check::run(args),
        Command::Explain(args) => explain::run(&args),
        Command::PrintConfig => check::print_config(),
        Command::User(args) => user::run(args),
        Command::Keys(args) => keys::run(args),
        Command::Sessions(args) => sessions::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Replay(args) => replay::run(&args),
        Command::Notify(args) => notify::run(&args),
        Command::Certs(args) => certs::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("doorward: {error:#}");
        ExitCode::FAILURE
    })
}
