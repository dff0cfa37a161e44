//! `doorward sessions`: client of the admin socket.

use std::io::{self, IsTerminal, Write as _};
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

use super::config_file::SocketArgs;
use super::terminal;

#[derive(Args)]
pub struct SessionsArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: SessionsCommand,
}

#[derive(Subcommand)]
enum SessionsCommand {
    /// List the current sessions
    List {
        /// Only sessions of this user
        #[arg(long)]
        user: Option<String>,
    },
    /// Show one session
    Show {
        /// Session handle, as in the list and in the log
        session: String,
    },
    /// Delete a user's location history, known user agents and notices; works for removed users too
    Forget {
        /// User name
        user: String,
    },
    /// Revoke sessions on every gateway
    #[command(group(clap::ArgGroup::new("which").required(true)))]
    Revoke {
        /// Session handle
        #[arg(group = "which")]
        session: Option<String>,
        /// Revoke all sessions of this user
        #[arg(long, group = "which")]
        user: Option<String>,
        /// Revoke all sessions of all users
        #[arg(long, group = "which")]
        all: bool,
    },
}

pub(super) fn run(args: SessionsArgs) -> anyhow::Result<ExitCode> {
    let (method, path) = request(&args.command);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (status, body) = runtime.block_on(send(&args.socket.path()?, method, &path))?;
    if status != StatusCode::OK {
        let error: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        bail!("{}", error["error"].as_str().unwrap_or(&body));
    }
    if args.json {
        writeln!(terminal::out(), "{body}")?;
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

/// Sends a request to the admin socket.
pub(super) async fn send(
    socket: &PathBuf,
    method: Method,
    path: &str,
) -> anyhow::Result<(StatusCode, String)> {
    let stream = tokio::net::UnixStream::connect(socket).await.with_context(|| {
        format!(
            "{}: no gateway listens on this socket; check that it runs and that admin.socket is this path",
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
        .context("invalid character in the session handle")?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec())?))
}

fn show(command: &SessionsCommand, body: &str) -> anyhow::Result<()> {
    match command {
        SessionsCommand::List { .. } => table(&serde_json::from_str::<Vec<SessionView>>(body)?)?,
        SessionsCommand::Show { .. } => details(&serde_json::from_str(body)?)?,
        SessionsCommand::Forget { .. } => {
            let response: serde_json::Value = serde_json::from_str(body)?;
            let user = response["forgotten"].as_str().unwrap_or_default();
            writeln!(
                terminal::out(),
                "deleted the history of {user}; current sessions keep their part until they end"
            )?;
        }
        SessionsCommand::Revoke { .. } => {
            let response: serde_json::Value = serde_json::from_str(body)?;
            writeln!(terminal::out(), "{}", revoked_text(&response))?;
            if let Some(warning) = durability_warning(&response) {
                writeln!(terminal::out(), "{warning}")?;
            }
        }
    }
    Ok(())
}

fn revoked_text(response: &serde_json::Value) -> String {
    let what = response["revoked"].as_str().unwrap_or_default();
    match response["ended"].as_u64().unwrap_or_default() {
        0 => format!("{what} had no session"),
        1 => format!("revoked {what}: 1 session ended"),
        ended => format!("revoked {what}: {ended} sessions ended"),
    }
}

/// Returns a warning if too few replicas have the revocation, so that a failover could undo it.
fn durability_warning(response: &serde_json::Value) -> Option<String> {
    let requested = response["replicas"]["requested"].as_u64()?;
    let confirmed = response["replicas"]["acknowledged"].as_u64()?;
    (confirmed < requested).then(|| {
        format!(
            "not durable: {confirmed} of {requested} replicas have the revocation. A failover of Redis may undo it; \
             revoke again when the replicas are in sync"
        )
    })
}

fn table(sessions: &[SessionView]) -> io::Result<()> {
    let mut out = terminal::out();
    if std::io::stdout().is_terminal() || !sessions.is_empty() {
        writeln!(
            out,
            "{:<17} {:<20} {:<20} {:<20} FROM",
            "SESSION", "USER", "CREATED", "LAST USED"
        )?;
    }
    for session in sessions {
        writeln!(
            out,
            "{:<17} {:<20} {:<20} {:<20} {}",
            session.session,
            session.user,
            time(session.created),
            time(session.last_active),
            session.rotated_from
        )?;
    }
    Ok(())
}

fn details(session: &SessionView) -> io::Result<()> {
    let mut out = terminal::out();
    writeln!(out, "session       {}", session.session)?;
    writeln!(out, "user          {}", session.user)?;
    writeln!(out, "created       {} from {}", time(session.created), session.created_from)?;
    writeln!(out, "last used     {}", time(session.last_active))?;
    writeln!(
        out,
        "token         rotated {} times, last from {}",
        session.generation, session.rotated_from
    )?;
    writeln!(out, "ends at most  {}", time(session.absolute_end))?;
    writeln!(out, "browser       {}", session.user_agent)
}

/// Formats a time in UTC, to the second.
pub(super) fn time(milliseconds: u64) -> String {
    let seconds = i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| "?".to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_states_how_many_sessions_ended() {
        let text =
            |ended: u64| revoked_text(&serde_json::json!({ "revoked": "alice", "ended": ended }));
        assert_eq!(text(0), "alice had no session");
        assert_eq!(text(1), "revoked alice: 1 session ended");
        assert_eq!(text(2), "revoked alice: 2 sessions ended");
    }

    #[test]
    fn a_revocation_on_too_few_replicas_warns() {
        let warning = |text: &str| durability_warning(&serde_json::from_str(text).expect("JSON"));
        let both = r#"{"durable":true,"replicas":{"acknowledged":2,"requested":2}}"#;
        for durable in [both, r#"{"durable":false}"#, r#"{"durable":null}"#, "{}"] {
            assert_eq!(warning(durable), None);
        }
        let few = warning(r#"{"durable":false,"replicas":{"acknowledged":1,"requested":2}}"#)
            .expect("a warning");
        assert!(few.contains("1 of 2 replicas"), "{few}");
    }
}
