//! Realistic sessions: sealed records as a gateway writes them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use doorward::clock::{Clock, UnixMillis};
use doorward::secret::{KeyRing, random_bytes};
use doorward::session::{
    ClientContext, Identity, Record, SessionId, SessionKey, Superseded, Token, UserTag,
};
use doorward::store::Store;
use tokio::task::JoinSet;

const ABSOLUTE: Duration = Duration::from_hours(12);
const AGENT: &[u8] = b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
/// Number of concurrent writes.
const AT_ONCE: u64 = 256;

/// The sessions of a measurement, one per user.
#[derive(Clone)]
pub struct Sessions {
    keys: Arc<KeyRing>,
    now: UnixMillis,
    ids: Arc<[u8; 8]>,
}

impl Sessions {
    pub fn new() -> Sessions {
        let keys = Arc::new(KeyRing::generate("2026-11-23T00:00:00Z"));
        Sessions { keys, now: Clock::System.now(), ids: Arc::new(random_bytes()) }
    }

    /// Returns the key of a session by number.
    pub fn key(&self, number: u64) -> SessionKey {
        let mut id = [0; 16];
        id[..8].copy_from_slice(self.ids.as_slice());
        id[8..].copy_from_slice(&number.to_be_bytes());
        SessionKey { tag: UserTag(self.keys.user_tag(&user(number))), id: SessionId(id) }
    }

    /// Returns a record after a rotation, like most records.
    pub fn sealed(&self, number: u64) -> Vec<u8> {
        let key = self.key(number);
        let token = Token::new(1, key, 5, random_bytes());
        let address =
            IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | u32::try_from(number).unwrap_or(0)));
        let from = ClientContext::new(address, AGENT);
        let mut record = Record::new(identity(number), &token, self.now, self.end(), from);
        let (grace_until, theft_after) = (self.now, self.now);
        record.previous = Some(Superseded { hash: random_bytes(), grace_until, theft_after });
        record.credential = random_bytes();
        record.persisted_by_browser = true;
        record.seal(&self.keys, &key)
    }

    fn end(&self) -> UnixMillis {
        self.now.plus(ABSOLUTE)
    }

    pub async fn create(&self, store: &Store, number: u64) {
        let (key, sealed) = (self.key(number), self.sealed(number));
        store.create(&key, &sealed, self.now, self.end()).await.expect("created");
    }

    pub async fn touch(&self, store: &Store, number: u64) {
        store.touch(&self.key(number), self.now, self.end()).await.expect("touched");
    }

    /// Another revision of the same session.
    pub async fn rotate(&self, store: &Store, number: u64, revision: u64) {
        let sealed = self.sealed(number);
        store.commit(&self.key(number), revision, &sealed, self.end()).await.expect("renewed");
    }

    /// Runs `work` for each number below `count`, many concurrently.
    pub async fn each<F>(count: u64, act: impl Fn(u64) -> F + Clone + Send + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        let mut all = JoinSet::new();
        for first in 0..AT_ONCE {
            let act = act.clone();
            all.spawn(async move {
                for number in (first..count).step_by(usize::try_from(AT_ONCE).unwrap_or(1)) {
                    act(number).await;
                }
            });
        }
        all.join_all().await;
    }
}

fn user(number: u64) -> String {
    format!("user{number:09}")
}

fn identity(number: u64) -> Identity {
    Identity {
        user: user(number),
        name: Some(format!("Someone Number {number}")),
        email: Some(format!("user{number:09}@example.com")),
        groups: vec!["staff".to_owned(), "wiki-editors".to_owned()],
        ..Identity::default()
    }
}
