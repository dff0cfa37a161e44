//! Which sessions there are: of one user by his index, of all by a walk over all indexes, and one by a walk
//! over the names of all records.

use std::collections::HashSet;
use std::sync::Arc;

use ::redis::cmd;

use super::link::{Ask, Place};
use super::names::{ALL_INDEXES, ALL_RECORDS, Names, id_of, recorded};
use super::server::Server;
use super::{Redis, decimal};
use crate::clock::UnixMillis;
use crate::session::{SessionId, SessionKey, UserTag};
use crate::store::memory::newest_first;
use crate::store::{LISTED_MOST, Listed, Slot, Unavailable};

/// Keys that one SCAN step looks at.
const SCAN_COUNT: usize = 1_000;

/// Records of one listing that are asked for at once: a record may have 20 KiB, and an answer has a bound.
const LISTED_AT_ONCE: usize = 100;

impl Redis {
    /// The index first and the line after it: a session that a revocation in between ends is not shown.
    pub(in crate::store) async fn sessions_of(
        &self,
        tag: &UserTag,
    ) -> Result<Vec<Listed>, Unavailable> {
        let mut command = cmd("HGETALL");
        command.arg(Names::of(tag).index());
        let index: Vec<(Vec<u8>, Vec<u8>)> =
            self.ask(self.user(tag), Ask::Command(&command)).await?;
        let line = self.not_before(tag).await?;
        let mut dated: Vec<_> = index
            .iter()
            .filter_map(|(field, value)| indexed(field, value))
            .filter(|(id, created)| !line.ends(*id, *created))
            .collect();
        dated.sort_by_key(|(id, created)| (std::cmp::Reverse(*created), *id));
        dated.truncate(LISTED_MOST);
        self.listed(tag, dated).await
    }

    /// Walks the users' indexes of all primaries.
    pub(in crate::store) async fn all(&self, limit: usize) -> Result<Vec<Listed>, Unavailable> {
        // Where they are is not known before something was asked.
        self.ping().await?;
        let (mut out, mut seen) = (Vec::new(), HashSet::new());
        for server in &self.shared.topology.map().primaries {
            self.all_of(server, limit, &mut seen, &mut out).await?;
        }
        Ok(out)
    }

    /// With SCAN, which unlike KEYS lets others have their turn.
    async fn all_of(
        &self,
        server: &Arc<Server>,
        limit: usize,
        seen: &mut HashSet<UserTag>,
        out: &mut Vec<Listed>,
    ) -> Result<(), Unavailable> {
        let mut cursor: u64 = 0;
        loop {
            let (next, names) = self.scan(server, ALL_INDEXES, cursor).await?;
            for tag in names.iter().filter_map(|name| Names::tag_of_index(name)) {
                if out.len() >= limit {
                    return Ok(());
                }
                if seen.insert(tag) {
                    let room = limit - out.len();
                    out.extend(self.sessions_of(&tag).await?.into_iter().take(room));
                }
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// A session by its id. Nothing is read but names: a thousand in a round trip, and kept no longer.
    pub(in crate::store) async fn find(
        &self,
        is_it: impl Fn(&SessionId) -> bool + Send + Sync,
    ) -> Result<Option<SessionKey>, Unavailable> {
        self.ping().await?;
        for server in &self.shared.topology.map().primaries {
            let found = self.find_at(server, &is_it).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    async fn find_at(
        &self,
        server: &Arc<Server>,
        is_it: &(impl Fn(&SessionId) -> bool + Send + Sync),
    ) -> Result<Option<SessionKey>, Unavailable> {
        let mut cursor = 0;
        loop {
            let (next, names) = self.scan(server, ALL_RECORDS, cursor).await?;
            let mut keys = names.iter().filter_map(|name| recorded(name));
            match keys.find(|key| is_it(&key.id)) {
                None if next == 0 => return Ok(None),
                None => cursor = next,
                found => return Ok(found),
            }
        }
    }

    async fn scan(
        &self,
        server: &Arc<Server>,
        pattern: &str,
        cursor: u64,
    ) -> Result<(u64, Vec<Vec<u8>>), Unavailable> {
        let mut command = cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(pattern);
        command.arg("COUNT").arg(SCAN_COUNT);
        self.ask(Place::At(server), Ask::Command(&command)).await
    }

    /// The records and touches of `dated`, newest first.
    async fn listed(
        &self,
        tag: &UserTag,
        dated: Vec<(SessionId, UnixMillis)>,
    ) -> Result<Vec<Listed>, Unavailable> {
        let mut out = Vec::with_capacity(dated.len());
        for some in dated.chunks(LISTED_AT_ONCE) {
            self.list(tag, some, &mut out).await?;
        }
        newest_first(&mut out);
        Ok(out.into_iter().map(|(_, listed)| listed).collect())
    }

    /// In one round trip.
    async fn list(
        &self,
        tag: &UserTag,
        dated: &[(SessionId, UnixMillis)],
        out: &mut Vec<(UnixMillis, Listed)>,
    ) -> Result<(), Unavailable> {
        let names = Names::of(tag);
        let mut command = cmd("MGET");
        for (id, _) in dated {
            command.arg(names.record(*id)).arg(names.touch(*id));
        }
        let values: Vec<Option<Vec<u8>>> = self.ask(self.user(tag), Ask::Command(&command)).await?;
        for ((id, created), pair) in dated.iter().zip(values.chunks_exact(2)) {
            let [record, touch] = pair else { continue };
            let slot = self.slot(record.clone())?;
            let touched = self.millis(touch.clone())?;
            if let Slot::Live { revision, sealed } = slot {
                let key = SessionKey { tag: *tag, id: *id };
                out.push((*created, Listed { key, revision, sealed, touched }));
            }
        }
        Ok(())
    }
}

/// A session in the index; `None` for the two fields that are no sessions.
fn indexed(field: &[u8], value: &[u8]) -> Option<(SessionId, UnixMillis)> {
    let created = value.split(|byte| *byte == b' ').next()?;
    Some((id_of(field)?, decimal(created)?))
}
