//! Which server to ask: the one there is, the master that sentinels name, or a slot's primary.
//!
//! ```text
//! map        the primaries, and on a cluster who has which slot; replaced as a whole, read without a lock
//! look       asks sentinels or cluster nodes for a newer map: one look at a time for the whole process
//! moved      a primary says that a slot is elsewhere: mended at once, before the command goes there
//! ```
//!
//! Invariants: a map names primaries only, as far as anybody knows; what replaces it is not older than it,
//! by the epochs that sentinels and nodes count; who follows the primaries hears of a new one before a
//! command goes to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::dial::Dialer;
use super::server::Server;
use super::slots::{SLOTS, Slot};
use super::{cluster, sentinel};
use crate::config::{HostPort, RedisServers};
use crate::store::Unavailable;

/// Between two looks that failing commands ask for.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

pub(super) struct Topology {
    servers: RedisServers,
    map: ArcSwap<Map>,
    primaries: watch::Sender<Arc<[Arc<Server>]>>,
    /// By address, so that a server keeps its breaker through changes of the map.
    known: Mutex<HashMap<String, Arc<Server>>>,
    looking: tokio::sync::Mutex<Looked>,
}

/// The last look: when, and what it was told.
#[derive(Default)]
struct Looked {
    at: Option<Instant>,
    trouble: Option<Unavailable>,
}

/// Who serves what.
#[derive(Debug, Default)]
pub(super) struct Map {
    /// Rises with each change.
    version: u64,
    /// What those counted who told of it.
    pub(super) epoch: u64,
    pub(super) primaries: Vec<Arc<Server>>,
    /// On a cluster: for each slot an index into `primaries`, or [`NOBODY`].
    owners: Vec<u16>,
    /// On a cluster with TLS: what nodes announce that they are called, by address. A redirect has the
    /// address, and a certificate the name.
    names: Arc<HashMap<HostPort, HostPort>>,
}

/// A slot without a primary.
const NOBODY: u16 = u16::MAX;

/// What a look found.
pub(super) struct Found {
    pub(super) epoch: u64,
    pub(super) primaries: Vec<HostPort>,
    /// On a cluster: first and last slot, and an index into `primaries`.
    pub(super) ranges: Vec<(u16, u16, u16)>,
    /// By address, of those nodes that have one, also of such as have no slots yet.
    pub(super) names: HashMap<HostPort, HostPort>,
    /// More than half were heard and nobody knows better: an older epoch is believed too, since those
    /// who count may have been set up anew.
    pub(super) by_most: bool,
}

impl Map {
    pub(super) fn owner(&self, slot: Slot) -> Option<&Arc<Server>> {
        if self.owners.is_empty() {
            return self.primaries.first();
        }
        let owner = *self.owners.get(usize::from(slot.0))?;
        self.primaries.get(usize::from(owner))
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// What the node at an address is called, if it says so.
    fn called<'a>(&'a self, at: &'a HostPort) -> &'a HostPort {
        self.names.get(at).unwrap_or(at)
    }

    fn says_as(&self, other: &Map) -> bool {
        let same = |(one, two): (&Arc<Server>, &Arc<Server>)| one.address == two.address;
        self.primaries.len() == other.primaries.len()
            && self.primaries.iter().zip(&other.primaries).all(same)
            && self.owners == other.owners
            && self.names == other.names
    }
}

impl Topology {
    pub(super) fn new(servers: RedisServers, dialer: &Dialer) -> Topology {
        let only = match &servers {
            RedisServers::One(at) => Some((at.to_string(), dialer.target(at))),
            RedisServers::Unix(path) => Some((path.display().to_string(), dialer.unix(path))),
            RedisServers::Sentinel { .. } | RedisServers::Cluster(_) => None,
        };
        let mut map = Map::default();
        if let Some((address, target)) = only {
            map.primaries.push(Server::new(address, target, false));
        }
        Topology {
            servers,
            primaries: watch::Sender::new(Arc::from(map.primaries.as_slice())),
            map: ArcSwap::from_pointee(map),
            known: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn map(&self) -> Arc<Map> {
        self.map.load_full()
    }

    pub(super) fn primaries(&self) -> watch::Receiver<Arc<[Arc<Server>]>> {
        self.primaries.subscribe()
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.servers, RedisServers::Cluster(_))
    }

    /// Whether there is nobody to ask where the primary is: it is the one that was named.
    pub(super) fn is_fixed(&self) -> bool {
        matches!(self.servers, RedisServers::One(_) | RedisServers::Unix(_))
    }

    /// Looks for a newer map than `seen`, unless somebody just did. Says whether there is one now.
    pub(super) async fn look(&self, dialer: &Dialer, seen: u64) -> Result<bool, Unavailable> {
        if self.is_fixed() {
            return Ok(false);
        }
        let mut looked = self.looking.lock().await;
        if self.map.load().version != seen {
            return Ok(true);
        }
        if looked.at.is_none_or(|at| at.elapsed() > LOOK_AGAIN) {
            self.look_now(dialer, &mut looked).await;
        }
        let is_newer = self.map.load().version != seen;
        match &looked.trouble {
            Some(trouble) if !is_newer => Err(trouble.clone()),
            Some(_) | None => Ok(is_newer),
        }
    }

    /// As [`Topology::look`], but does not wait for a look that is under way.
    pub(super) async fn look_if_nobody_does(&self, dialer: &Dialer, seen: u64) -> bool {
        if self.is_fixed() || self.looking.try_lock().is_err() {
            return false;
        }
        self.look(dialer, seen).await.unwrap_or(false)
    }

    /// Looks, whatever was seen: sentinels may name another master while the old one still answers.
    pub(super) async fn refresh(&self, dialer: &Dialer) -> Result<(), Unavailable> {
        if self.is_fixed() {
            return Ok(());
        }
        let mut looked = self.looking.lock().await;
        self.look_now(dialer, &mut looked).await;
        looked.trouble.clone().map_or(Ok(()), Err)
    }

    async fn look_now(&self, dialer: &Dialer, looked: &mut Looked) {
        let found = match &self.servers {
            RedisServers::One(_) | RedisServers::Unix(_) => return,
            RedisServers::Sentinel { sentinels, master } => {
                sentinel::find(dialer, sentinels, master, &self.map()).await
            }
            RedisServers::Cluster(seeds) => cluster::find(dialer, seeds, &self.map()).await,
        };
        looked.trouble = found.map(|found| self.adopt(dialer, found)).err();
        looked.at = Some(Instant::now());
    }

    /// Takes what was found, if it is not older than what is known.
    fn adopt(&self, dialer: &Dialer, found: Found) {
        let known = self.map();
        if found.epoch < known.epoch && !found.by_most {
            return;
        }
        let mut primaries = Vec::with_capacity(found.primaries.len());
        for at in &found.primaries {
            primaries.push(self.server(dialer, at));
        }
        let mut owners = Vec::new();
        if self.is_cluster() {
            owners = vec![NOBODY; SLOTS];
            for (first, last, owner) in found.ranges {
                if let Some(range) = owners.get_mut(usize::from(first)..=usize::from(last)) {
                    range.fill(owner);
                }
            }
        }
        let names = Arc::new(found.names);
        self.replace(Map { version: 0, epoch: found.epoch, primaries, owners, names });
    }

    /// A primary said that `slot` is at `at` now.
    pub(super) fn moved(&self, dialer: &Dialer, slot: Slot, at: &HostPort) {
        let known = self.map();
        let server = self.server(dialer, known.called(at));
        let mut primaries = known.primaries.clone();
        let index = place(&mut primaries, &server);
        let mut owners = known.owners.clone();
        if let Some(owner) = owners.get_mut(usize::from(slot.0)) {
            *owner = index;
        }
        let names = Arc::clone(&known.names);
        self.replace(Map { version: 0, epoch: known.epoch, primaries, owners, names });
    }

    /// A primary said that `at` is taking over. The server to ask, once.
    pub(super) fn taking_over(&self, dialer: &Dialer, at: &HostPort) -> Arc<Server> {
        let known = self.map();
        let server = self.server(dialer, known.called(at));
        let mut primaries = known.primaries.clone();
        place(&mut primaries, &server);
        self.replace(Map {
            version: 0,
            epoch: known.epoch,
            primaries,
            owners: known.owners.clone(),
            names: Arc::clone(&known.names),
        });
        server
    }

    /// Who follows the primaries is told before any command can find the new ones.
    fn replace(&self, mut map: Map) {
        let mut known = self.known();
        let before = self.map.load();
        if before.says_as(&map) {
            return;
        }
        map.version = before.version.wrapping_add(1);
        let primaries: Arc<[Arc<Server>]> = Arc::from(map.primaries.as_slice());
        self.primaries.send_if_modified(|told| {
            let is_new = !same_servers(told, &primaries);
            if is_new {
                *told = primaries;
            }
            is_new
        });
        known.retain(|address, _| map.primaries.iter().any(|one| one.address == *address));
        self.map.store(Arc::new(map));
    }

    fn server(&self, dialer: &Dialer, at: &HostPort) -> Arc<Server> {
        let address = at.to_string();
        let mut known = self.known();
        if let Some(server) = known.get(&address) {
            return Arc::clone(server);
        }
        let server = Server::new(address.clone(), dialer.target(at), self.servers.is_sentinel());
        known.insert(address, Arc::clone(&server));
        server
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Server>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where `server` stands in the list, which it joins if it must.
fn place(primaries: &mut Vec<Arc<Server>>, server: &Arc<Server>) -> u16 {
    let at = primaries.iter().position(|one| one.address == server.address);
    let at = at.unwrap_or_else(|| {
        primaries.push(Arc::clone(server));
        primaries.len() - 1
    });
    u16::try_from(at).unwrap_or(NOBODY)
}

fn same_servers(one: &[Arc<Server>], two: &[Arc<Server>]) -> bool {
    let has = |list: &[Arc<Server>], server: &Arc<Server>| {
        list.iter().any(|other| other.address == server.address)
    };
    one.len() == two.len() && one.iter().all(|server| has(two, server))
}
