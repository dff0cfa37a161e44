//! `doorward token`: personal access tokens of the running gateway.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use http::{Method, StatusCode};

use crate::admin::TokenView;

use super::config_file::SocketArgs;
use super::sessions::{send, time};

#[derive(Args)]
pub struct TokenArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Create a token and print it; it is shown only once
    Add {
        /// User name of an account in the users file; other users create tokens on their sessions page
        user: String,
        /// Name of the token, for lists
        #[arg(long)]
        name: String,
        /// Days until it expires, at most 366
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=366))]
        days: u32,
        /// Only on this route, as host and path; may be repeated
        #[arg(long)]
        route: Vec<String>,
        /// Only with this method; may be repeated
        #[arg(long)]
        method: Vec<String>,
        /// Only from this network; may be repeated
        #[arg(long)]
        network: Vec<String>,
    },
    /// List the tokens of a user
    List { user: String },
    /// Delete a token
    Delete {
        user: String,
        /// Handle, as in the list and in the log
        token: String,
    },
}

pub(super) fn run(args: TokenArgs) -> anyhow::Result<ExitCode> {
    let (method, path) = request(&args.command);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (status, body) = runtime.block_on(send(&args.socket.path()?, method, &path))?;
    let response: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    if status != StatusCode::OK {
        bail!("{}", response["error"].as_str().unwrap_or(&body));
    }
    if args.json {
        println!("{body}");
        return Ok(ExitCode::SUCCESS);
    }
    match &args.command {
        TokenCommand::Add { .. } => println!("{}", response["token"].as_str().unwrap_or_default()),
        TokenCommand::List { .. } => table(&serde_json::from_str::<Vec<TokenView>>(&body)?),
        TokenCommand::Delete { token, .. } => println!("deleted {token}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn request(command: &TokenCommand) -> (Method, String) {
    let query = |pairs: &[(&str, &str)]| {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
    };
    match command {
        TokenCommand::Add { user, name, days, route, method, network } => {
            let (days, routes) = (days.to_string(), route.join(","));
            let (methods, networks) = (method.join(","), network.join(","));
            let pairs = [
                ("user", user.as_str()),
                ("name", name),
                ("days", &days),
                ("routes", &routes),
                ("methods", &methods),
                ("networks", &networks),
            ];
            (Method::POST, format!("/tokens?{}", query(&pairs)))
        }
        TokenCommand::List { user } => {
            (Method::GET, format!("/tokens?{}", query(&[("user", user)])))
        }
        TokenCommand::Delete { user, token } => {
            let pairs = [("user", user.as_str()), ("token", token)];
            (Method::POST, format!("/tokens/delete?{}", query(&pairs)))
        }
    }
}

fn table(tokens: &[TokenView]) {
    println!("{:<17} {:<20} {:<20} {:<20} LIMITS", "TOKEN", "NAME", "EXPIRES", "LAST USED");
    for token in tokens {
        let last_used = match token.last_used {
            0 => "never".to_owned(),
            at => time(at),
        };
        let limits = [&token.routes, &token.methods, &token.networks];
        let limits: Vec<&str> = limits.into_iter().flatten().map(String::as_str).collect();
        println!(
            "{:<17} {:<20} {:<20} {last_used:<20} {}",
            token.token,
            token.name,
            time(token.expires),
            limits.join(" ")
        );
    }
}
