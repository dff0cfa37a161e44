//! `doorward sessions`: asks the running gateway over its admin socket.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;

use crate::admin::SessionView;

#[derive(Args)]
pub struct SessionsArgs {
    /// The gateway's admin socket (admin.socket)
    #[arg(long, global = true, default_value = "run/admin.sock", env = "DOORWARD_SOCKET")]
    socket: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: SessionsCommand,
}

#[derive(Subcommand)]
enum SessionsCommand {
    /// The live sessions
    List {
        /// Of this user only
        #[arg(long)]
        user: Option<String>,
    },
    /// One session
    Show {
        /// The session's handle, as in the list and in the log
        session: String,
    },
    /// Forget where a user was, with what programs, and his notices; also of a user who was removed
    Forget {
        /// The user, by the name that the account has or had
        user: String,
    },
    /// End sessions; every gateway refuses them from now on
    #[command(group(clap::ArgGroup::new("which").required(true)))]
    Revoke {
        /// The session's handle
        #[arg(group = "which")]
        session: Option<String>,
        /// All sessions of this user
        #[arg(long, group = "which")]
        user: Option<String>,
        /// All sessions of everybody
        #[arg(long, group = "which")]
        all: bool,
    },
}

pub(super) fn run(args: SessionsArgs) -> anyhow::Result<ExitCode> {
    let (method, path) = request(&args.command);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (status, body) = runtime.block_on(ask(&args.socket, method, &path))?;
    if status != StatusCode::OK {
        let error: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        bail!("{}", error["error"].as_str().unwrap_or(&body));
    }
    if args.json {
        println!("{body}");
    } else {
        show(&args.command, &body)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn request(command: &SessionsCommand) -> (Method, String) {
    let query = |name: &str, value: &str| {
        form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish()
    };
    match command {
        SessionsCommand::List { user: None } => (Method::GET, "/sessions".to_owned()),
        SessionsCommand::List { user: Some(user) } => {
            (Method::GET, format!("/sessions?{}", query("user", user)))
        }
        SessionsCommand::Show { session } => (Method::GET, format!("/sessions/{session}")),
        SessionsCommand::Forget { user } => {
            (Method::POST, format!("/forget?{}", query("user", user)))
        }
        SessionsCommand::Revoke { session: Some(session), .. } => {
            (Method::POST, format!("/revoke?{}", query("session", session)))
        }
        SessionsCommand::Revoke { user: Some(user), .. } => {
            (Method::POST, format!("/revoke?{}", query("user", user)))
        }
        SessionsCommand::Revoke { .. } => (Method::POST, "/revoke?all=1".to_owned()),
    }
}

async fn ask(socket: &PathBuf, method: Method, path: &str) -> anyhow::Result<(StatusCode, String)> {
    let stream = tokio::net::UnixStream::connect(socket).await.with_context(|| {
        format!(
            "{}: no gateway answers; is it running, and is this its admin.socket?",
            socket.display()
        )
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "localhost")
        .body(Empty::<Bytes>::new())
        .context("a session handle has no such characters")?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec())?))
}

fn show(command: &SessionsCommand, body: &str) -> anyhow::Result<()> {
    match command {
        SessionsCommand::List { .. } => table(&serde_json::from_str::<Vec<SessionView>>(body)?),
        SessionsCommand::Show { .. } => details(&serde_json::from_str(body)?),
        SessionsCommand::Forget { .. } => {
            let answer: serde_json::Value = serde_json::from_str(body)?;
            let user = answer["forgotten"].as_str().unwrap_or_default();
            println!("forgot where {user} was; live sessions of {user} keep it until they end");
        }
        SessionsCommand::Revoke { .. } => {
            let answer: serde_json::Value = serde_json::from_str(body)?;
            println!("revoked {}", answer["revoked"].as_str().unwrap_or_default());
            if let Some(caution) = caution(&answer) {
                println!("{caution}");
            }
        }
    }
    Ok(())
}

/// What may still undo it; it acts now in any case.
fn caution(answer: &serde_json::Value) -> Option<String> {
    let asked = answer["replicas"]["asked"].as_u64()?;
    let got = answer["replicas"]["got"].as_u64()?;
    (got < asked).then(|| {
        format!(
            "not durable: {got} of {asked} replicas have it. A failover of Redis now may bring it back; \
             revoke again when the replicas are well"
        )
    })
}

fn table(sessions: &[SessionView]) {
    if std::io::stdout().is_terminal() || !sessions.is_empty() {
        println!("{:<17} {:<20} {:<20} {:<20} FROM", "SESSION", "USER", "BEGUN", "LAST USED");
    }
    for session in sessions {
        println!(
            "{:<17} {:<20} {:<20} {:<20} {}",
            session.session,
            session.user,
            time(session.begun),
            time(session.last_active),
            session.renewed_from
        );
    }
}

fn details(session: &SessionView) {
    println!("session       {}", session.session);
    println!("user          {}", session.user);
    println!("begun         {} from {}", time(session.begun), session.begun_from);
    println!("last used     {}", time(session.last_active));
    println!(
        "token         renewed {} times, last shown first from {}",
        session.generation, session.renewed_from
    );
    println!("ends at most  {}", time(session.absolute_end));
    println!("browser       {}", session.agent);
}

/// To the second, in UTC.
fn time(milliseconds: u64) -> String {
    let seconds = i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| "?".to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_that_a_failover_may_undo_says_so() {
        let said = |text: &str| caution(&serde_json::from_str(text).expect("JSON"));
        let both = r#"{"durable":true,"replicas":{"asked":2,"got":2}}"#;
        for well in [both, r#"{"durable":false}"#, r#"{"durable":null}"#, "{}"] {
            assert_eq!(said(well), None);
        }
        let few = said(r#"{"durable":false,"replicas":{"asked":2,"got":1}}"#).expect("a caution");
        assert!(few.contains("1 of 2 replicas"), "{few}");
    }
}
