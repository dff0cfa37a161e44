//! An LDAP server inside the test process, without TLS. By default it follows the rules;
//! [`LdapServer::script`] makes it lie.

#![allow(clippy::wildcard_enum_match_arm, reason = "not our enums, and they grow")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::{SinkExt, StreamExt};
use ldap3_proto::LdapCodec;
use ldap3_proto::proto::{
    LdapBindCred, LdapBindResponse, LdapExtendedResponse, LdapFilter, LdapMsg, LdapOp,
    LdapPartialAttribute, LdapResult, LdapResultCode, LdapSearchRequest, LdapSearchResultEntry,
};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::codec::Framed;

/// Name and password of the service account.
pub const SERVICE: (&str, &str) = ("cn=doorward,dc=test", "a service password");

/// An entry of the directory.
#[derive(Clone, Debug)]
pub struct LdapEntry {
    pub dn: String,
    pub password: String,
    pub attributes: Vec<(&'static str, Vec<u8>)>,
}

impl LdapEntry {
    /// A user below `ou=people` with the password `NAME's password` in these groups.
    pub fn user(name: &str, groups: &[&str]) -> LdapEntry {
        let mut attributes = vec![
            ("entryUUID", format!("uuid-of-{name}").into_bytes()),
            ("uid", name.as_bytes().to_vec()),
            ("cn", format!("{name} of the directory").into_bytes()),
            ("mail", format!("{name}@ldap.test").into_bytes()),
        ];
        let groups = groups.iter().map(|group| format!("cn={group},ou=groups,dc=test"));
        attributes.extend(groups.map(|group| ("memberOf", group.into_bytes())));
        let dn = format!("uid={name},ou=people,dc=test");
        LdapEntry { dn, password: format!("{name}'s password"), attributes }
    }

    /// Adds a value.
    pub fn with(mut self, name: &'static str, value: &str) -> LdapEntry {
        self.attributes.push((name, value.as_bytes().to_vec()));
        self
    }
}

/// A request with the number of its connection.
#[derive(Clone, Debug)]
pub struct LdapRequest {
    pub connection: usize,
    pub op: LdapOp,
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum LdapAnswer {
    /// The answers that follow the rules.
    Normal,
    Ops(Vec<LdapOp>),
    /// An answer with another message ID.
    WithId(i32, LdapOp),
    Bytes(Vec<u8>),
    /// Nothing; the connection stays open.
    Silence,
    Close,
}

type Script = Box<dyn FnMut(&LdapRequest) -> LdapAnswer + Send>;

/// A running server. Dropping it stops it.
pub struct LdapServer {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
    password_file: tempfile::NamedTempFile,
}

struct State {
    entries: Vec<LdapEntry>,
    requests: Vec<LdapRequest>,
    connections: usize,
    is_down: bool,
    script: Script,
}

impl LdapServer {
    /// Starts a server with the service account and these entries.
    pub async fn start(entries: Vec<LdapEntry>) -> LdapServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State {
            entries,
            requests: Vec::new(),
            connections: 0,
            is_down: false,
            script: Box::new(|_| LdapAnswer::Normal),
        }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        let password_file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(password_file.path(), SERVICE.1).expect("written");
        LdapServer { address, state, task, password_file }
    }

    /// Returns `[login.ldap.staff]` for this server, followed by further keys.
    pub fn configuration(&self, more: &str) -> String {
        format!(
            "[login.ldap.staff]\nurls = [\"ldap://{}\"]\nstarttls = false\nbind_dn = \"{}\"\nbind_password_file = \"{}\"\nbase = \"ou=people,dc=test\"\ngroups_base = \"ou=groups,dc=test\"\n{more}\n",
            self.address,
            SERVICE.0,
            self.password_file.path().display()
        )
    }

    /// Replaces the entries.
    pub fn set_entries(&self, entries: Vec<LdapEntry>) {
        self.state().entries = entries;
    }

    /// While it is down, the server closes every connection.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// Decides the answer to every request from now on.
    pub fn script(&self, script: impl FnMut(&LdapRequest) -> LdapAnswer + Send + 'static) {
        self.state().script = Box::new(script);
    }

    /// Removes and returns the requests so far.
    pub fn take_requests(&self) -> Vec<LdapRequest> {
        std::mem::take(&mut self.state().requests)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }
}

impl Drop for LdapServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns a result with this code.
pub fn result(code: LdapResultCode) -> LdapResult {
    LdapResult { code, matcheddn: String::new(), message: String::new(), referral: Vec::new() }
}

/// Returns the answer to a bind.
pub fn bind_answer(code: LdapResultCode) -> LdapOp {
    LdapOp::BindResponse(LdapBindResponse { res: result(code), saslcreds: None })
}

/// Returns the answer to an extended request.
pub fn extended_answer(code: LdapResultCode) -> LdapOp {
    LdapOp::ExtendedResponse(LdapExtendedResponse { res: result(code), name: None, value: None })
}

/// Returns the entry as a search result.
pub fn search_entry(entry: &LdapEntry) -> LdapOp {
    let mut attributes: Vec<LdapPartialAttribute> = Vec::new();
    for (name, value) in &entry.attributes {
        match attributes.iter_mut().find(|attribute| attribute.atype == *name) {
            Some(attribute) => attribute.vals.push(value.clone()),
            None => attributes.push(LdapPartialAttribute {
                atype: (*name).to_owned(),
                vals: vec![value.clone()],
            }),
        }
    }
    LdapOp::SearchResultEntry(LdapSearchResultEntry { dn: entry.dn.clone(), attributes })
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let connection = {
        let mut state = state.lock().expect("no panic");
        state.connections += 1;
        if state.is_down {
            return;
        }
        state.connections
    };
    let mut framed = Framed::new(stream, LdapCodec::default());
    while let Some(Ok(message)) = framed.next().await {
        let answer = {
            let mut state = state.lock().expect("no panic");
            let request = LdapRequest { connection, op: message.op };
            state.requests.push(request.clone());
            match (state.script)(&request) {
                LdapAnswer::Normal => LdapAnswer::Ops(normal(&state.entries, &request.op)),
                other => other,
            }
        };
        let id = message.msgid;
        match answer {
            LdapAnswer::Ops(ops) => {
                for op in ops {
                    send(&mut framed, id, op).await;
                }
            }
            LdapAnswer::WithId(id, op) => send(&mut framed, id, op).await,
            LdapAnswer::Bytes(bytes) => {
                framed.get_mut().write_all(&bytes).await.unwrap_or_default();
            }
            LdapAnswer::Silence => {}
            LdapAnswer::Close => return,
            LdapAnswer::Normal => unreachable!("replaced above"),
        }
    }
}

/// The client may have closed the connection.
async fn send(framed: &mut Framed<TcpStream, LdapCodec>, msgid: i32, op: LdapOp) {
    framed.send(LdapMsg { msgid, op, ctrl: Vec::new() }).await.unwrap_or_default();
}

fn normal(entries: &[LdapEntry], op: &LdapOp) -> Vec<LdapOp> {
    match op {
        LdapOp::BindRequest(bind) => {
            let LdapBindCred::Simple(password) = &bind.cred else { return Vec::new() };
            let is_right = |entry: &LdapEntry| entry.dn == bind.dn && entry.password == *password;
            let is_service = (bind.dn.as_str(), password.as_str()) == SERVICE;
            // An empty password is an anonymous login.
            let is_accepted = password.is_empty() || is_service || entries.iter().any(is_right);
            vec![bind_answer(match is_accepted {
                true => LdapResultCode::Success,
                false => LdapResultCode::InvalidCredentials,
            })]
        }
        LdapOp::SearchRequest(search) => {
            let found = entries.iter().filter(|entry| is_selected(entry, search));
            let done = LdapOp::SearchResultDone(result(LdapResultCode::Success));
            found.map(search_entry).chain([done]).collect()
        }
        _ => Vec::new(),
    }
}

fn is_selected(entry: &LdapEntry, search: &LdapSearchRequest) -> bool {
    entry.dn.ends_with(&search.base) && matches(entry, &search.filter)
}

fn matches(entry: &LdapEntry, filter: &LdapFilter) -> bool {
    match filter {
        LdapFilter::And(parts) => parts.iter().all(|part| matches(entry, part)),
        LdapFilter::Or(parts) => parts.iter().any(|part| matches(entry, part)),
        LdapFilter::Equality(name, value) => entry
            .attributes
            .iter()
            .any(|(n, v)| n == name && v.eq_ignore_ascii_case(value.as_bytes())),
        LdapFilter::Present(name) => entry.attributes.iter().any(|(n, _)| n == name),
        _ => false,
    }
}
