//! One connection to a server.

#![allow(clippy::wildcard_enum_match_arm, reason = "not our enums, and they grow")]

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use ldap3_proto::LdapCodec;
use ldap3_proto::proto::{
    LdapBindCred, LdapBindRequest, LdapExtendedRequest, LdapMsg, LdapOp, LdapResult,
    LdapResultCode, LdapSearchRequest,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::codec::Framed;

use crate::config::LdapUrl;

use super::entry::Entry;

/// Maximum size of a message in bytes. The largest legitimate one is an entry with many groups.
const MAX_MESSAGE: usize = 256 * 1024;
/// Maximum nesting depth of a message; a search result has 6.
const MAX_DEPTH: usize = 12;
/// Maximum number of references of one search. They are ignored.
const MAX_REFERENCES: usize = 64;

const STARTTLS: &str = "1.3.6.1.4.1.1466.20037";

/// No usable answer. The text is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoAnswer(pub(super) String);

/// The answer to a bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BindAnswer {
    Accepted,
    /// The directory refuses this password or account; the text is for the log.
    Refused(String),
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A connection that closes when it is dropped. The caller limits the time.
pub(super) struct LdapConnection {
    stream: Framed<Box<dyn Socket>, LdapCodec>,
    last_id: i32,
}

impl LdapConnection {
    /// Connects. `starttls` encrypts `ldap://`.
    pub(super) async fn open(
        url: &LdapUrl,
        starttls: bool,
        tls: &Arc<ClientConfig>,
    ) -> Result<LdapConnection, NoAnswer> {
        let stream = TcpStream::connect((url.host.as_str(), url.port)).await;
        let stream = stream.map_err(|error| NoAnswer(format!("no connection: {error}")))?;
        let stream = match (url.is_ldaps, starttls) {
            (true, _) => start_tls(stream, url, tls).await?,
            (false, true) => {
                let stream = request_tls(stream).await?;
                start_tls(stream, url, tls).await?
            }
            (false, false) => Box::new(stream),
        };
        Ok(LdapConnection::new(stream))
    }

    fn new(stream: Box<dyn Socket>) -> LdapConnection {
        let codec = LdapCodec::new(Some(MAX_MESSAGE), Some(MAX_DEPTH));
        LdapConnection { stream: Framed::new(stream, codec), last_id: 0 }
    }

    /// Proves a name with a password, which must not be empty.
    pub(super) async fn bind(&mut self, dn: &str, password: &str) -> Result<BindAnswer, NoAnswer> {
        let cred = LdapBindCred::Simple(password.to_owned());
        let request = LdapBindRequest { version: 3, dn: dn.to_owned(), cred };
        self.send(LdapOp::BindRequest(request)).await?;
        match self.receive().await? {
            LdapOp::BindResponse(response) => bind_answer(&response.res),
            other => Err(unexpected(&other)),
        }
    }

    /// Returns at most `request.sizelimit` entries, and whether there are more.
    pub(super) async fn search(
        &mut self,
        request: LdapSearchRequest,
    ) -> Result<(Vec<Entry>, bool), NoAnswer> {
        let limit = usize::try_from(request.sizelimit).unwrap_or_default();
        self.send(LdapOp::SearchRequest(request)).await?;
        let (mut entries, mut references) = (Vec::new(), 0);
        loop {
            match self.receive().await? {
                LdapOp::SearchResultEntry(_) if entries.len() == limit => {
                    return Ok((entries, true));
                }
                LdapOp::SearchResultEntry(entry) => entries.push(Entry::from(entry)),
                LdapOp::SearchResultReference(_) if references < MAX_REFERENCES => references += 1,
                LdapOp::SearchResultDone(result) => return search_end(&result, entries),
                other => return Err(unexpected(&other)),
            }
        }
    }

    async fn send(&mut self, op: LdapOp) -> Result<(), NoAnswer> {
        self.last_id += 1;
        let message = LdapMsg { msgid: self.last_id, op, ctrl: Vec::new() };
        let sent = self.stream.send(message).await;
        sent.map_err(|error| NoAnswer(format!("the request was not sent: {error}")))
    }

    /// Returns the next answer to the last request.
    async fn receive(&mut self) -> Result<LdapOp, NoAnswer> {
        match self.stream.next().await {
            Some(Ok(message)) if message.msgid == self.last_id => Ok(message.op),
            Some(Ok(_)) => Err(NoAnswer("an answer to no request".to_owned())),
            Some(Err(error)) => Err(NoAnswer(format!("the answer cannot be read: {error}"))),
            None => Err(NoAnswer("the connection was closed".to_owned())),
        }
    }
}

/// Requests TLS on an open connection (RFC 4511, 4.14).
async fn request_tls(stream: TcpStream) -> Result<TcpStream, NoAnswer> {
    let codec = LdapCodec::new(Some(MAX_MESSAGE), Some(MAX_DEPTH));
    let mut framed = Framed::new(stream, codec);
    let request = LdapExtendedRequest { name: STARTTLS.to_owned(), value: None };
    let message = LdapMsg { msgid: 1, op: LdapOp::ExtendedRequest(request), ctrl: Vec::new() };
    let failed = |text: &dyn std::fmt::Display| NoAnswer(format!("no StartTLS: {text}"));
    framed.send(message).await.map_err(|error| failed(&error))?;
    let answer = framed.next().await.ok_or_else(|| failed(&"the connection was closed"))?;
    let answer = answer.map_err(|error| failed(&error))?;
    match answer.op {
        LdapOp::ExtendedResponse(response)
            if answer.msgid == 1 && response.res.code == LdapResultCode::Success => {}
        LdapOp::ExtendedResponse(response) => return Err(failed(&describe(&response.res))),
        other => return Err(unexpected(&other)),
    }
    let parts = framed.into_parts();
    // Bytes from before the handshake must not count as an answer within it.
    match parts.read_buf.is_empty() {
        true => Ok(parts.io),
        false => Err(failed(&"data before the TLS handshake")),
    }
}

async fn start_tls(
    stream: TcpStream,
    url: &LdapUrl,
    tls: &Arc<ClientConfig>,
) -> Result<Box<dyn Socket>, NoAnswer> {
    let name = ServerName::try_from(url.host.clone());
    let name = name.map_err(|error| NoAnswer(format!("`{}`: {error}", url.host)))?;
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
    Ok(Box::new(stream.map_err(|error| NoAnswer(format!("TLS: {error}")))?))
}

/// Separates answers about the account from answers about the server.
fn bind_answer(result: &LdapResult) -> Result<BindAnswer, NoAnswer> {
    use LdapResultCode as Code;
    match result.code {
        Code::Success => Ok(BindAnswer::Accepted),
        Code::InvalidCredentials
        | Code::ConstraintViolation
        | Code::InsufficentAccessRights
        | Code::UnwillingToPerform
        | Code::InappropriateAuthentication
        | Code::NoSuchObject => Ok(BindAnswer::Refused(describe(result))),
        _ => Err(NoAnswer(format!("the bind failed: {}", describe(result)))),
    }
}

fn search_end(result: &LdapResult, entries: Vec<Entry>) -> Result<(Vec<Entry>, bool), NoAnswer> {
    match result.code {
        LdapResultCode::Success => Ok((entries, false)),
        LdapResultCode::SizeLimitExceeded => Ok((entries, true)),
        _ => Err(NoAnswer(format!("the search failed: {}", describe(result)))),
    }
}

/// Result code and text; the text comes from the directory.
fn describe(result: &LdapResult) -> String {
    let text: String = result.message.chars().filter(|c| !c.is_control()).take(200).collect();
    format!("{:?} {text}", result.code).trim_end().to_owned()
}

fn unexpected(op: &LdapOp) -> NoAnswer {
    let what = match op {
        LdapOp::ExtendedResponse(response) => describe(&response.res),
        _ => "another kind of answer".to_owned(),
    };
    NoAnswer(format!("unexpected: {what}"))
}
