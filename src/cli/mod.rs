//! The commands. Each parses its arguments, calls a lower layer, and prints the result.
//!
//! Exit codes: 0 success, 1 failure (the reason is on standard error), 2 usage error.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "only the commands write to the terminal"
)]

pub mod audit;
mod audit_show;
pub mod certs;
pub mod check;
pub mod config_file;
mod config_watch;
pub mod demo;
pub mod explain;
pub mod keys;
pub mod notify;
pub mod reload;
pub mod run;
mod service_manager;
pub mod sessions;
pub mod shell;
pub mod signals;
mod terminal;
pub mod token;
pub mod upstreams;
pub mod user;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

/// A reverse proxy that adds login and secure sessions to web apps
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
    /// Reload the configuration of the running gateway
    Reload(reload::ReloadArgs),
    /// Try the gateway with two small apps, without setup
    Demo(demo::DemoArgs),
    /// Check a configuration and list all its errors and warnings
    Check(check::CheckArgs),
    /// Explain how the gateway would handle a request
    Explain(Box<explain::ExplainArgs>),
    /// Print a configuration with every key and its default
    PrintConfig,
    /// Manage the users file
    User(user::UserArgs),
    /// Manage the keys file
    Keys(keys::KeysArgs),
    /// List, show and revoke sessions of the running gateway
    Sessions(sessions::SessionsArgs),
    /// List the endpoints of the running gateway with their state
    Upstreams(upstreams::UpstreamsArgs),
    /// Create, list and delete personal access tokens
    Token(token::TokenArgs),
    /// Show and verify the audit log
    Audit(audit::AuditArgs),
    /// Evaluate the risk signals of sessions
    Signals(signals::SignalsArgs),
    /// Former name of `signals simulate`
    #[command(hide = true)]
    Replay(signals::SimulateArgs),
    /// Send notifications
    Notify(notify::NotifyArgs),
    /// Create certificates for development
    Certs(certs::CertsArgs),
    /// Print a completion script for a shell
    Completions(shell::CompletionsArgs),
    /// Print the manual page, or write one per command
    Man(shell::ManArgs),
}

/// Runs the command given by the process arguments.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Check(args) => check::run(args),
        Command::Explain(args) => explain::run(&args),
        Command::PrintConfig => check::print_config(),
        Command::User(args) => user::run(args),
        Command::Keys(args) => keys::run(args),
        Command::Sessions(args) => sessions::run(args),
        Command::Upstreams(args) => upstreams::run(&args),
        Command::Token(args) => token::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Signals(args) => signals::run(&args),
        Command::Replay(args) => signals::replay(&args),
        Command::Notify(args) => notify::run(&args),
        Command::Certs(args) => certs::run(&args),
        Command::Completions(args) => shell::completions(&args, Arguments::command()),
        Command::Man(args) => shell::man(&args, Arguments::command()),
    };
    result.unwrap_or_else(|error| {
        // Nothing is left to report to if this fails.
        writeln!(terminal::err(), "doorward: {error:#}").unwrap_or_default();
        ExitCode::FAILURE
    })
}
