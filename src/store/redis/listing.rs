//! Listings: sessions of one user by index, of all users by a scan of the indexes, and a search by
//! a scan of the record keys.

use std::collections::HashSet;
use std::sync::Arc;

use ::redis::cmd;

use super::commands::{RedisStore, parse_decimal};
use super::keys::{ALL_INDEXES, ALL_RECORDS, UserKeys, parse_id, parse_record_key, user_target};
use crate::clock::UnixMillis;
use crate::redis::{CommandTarget, RedisNode};
use crate::session::{SessionId, SessionKey, UserTag};
use crate::store::tables::sort_newest_first;
use crate::store::types::{MAX_LISTED, SessionListing, Slot, Unavailable};

/// Keys per SCAN step.
const SCAN_COUNT: usize = 1_000;

/// Records per command. A record may have 20 KiB, and replies are limited.
const LIST_BATCH: usize = 100;

impl RedisStore {
    /// Reads the index first and the cutoff after it, so a session revoked in between is not
    /// listed.
    pub(in crate::store) async fn list_user(
        &self,
        tag: &UserTag,
    ) -> Result<Vec<SessionListing>, Unavailable> {
        let indexed = self.read_index(tag).await?;
        let cutoff = self.user_cutoff(tag).await?;
        let mut dated: Vec<_> =
            indexed.into_iter().filter(|(id, created)| !cutoff.revokes(*id, *created)).collect();
        dated.sort_by_key(|(id, created)| (std::cmp::Reverse(*created), *id));
        dated.truncate(MAX_LISTED);
        self.load_listings(tag, dated).await
    }

    /// Returns the sessions in the index of a user. If another program replaced the index, the
    /// records are scanned instead.
    async fn read_index(&self, tag: &UserTag) -> Result<Vec<(SessionId, UnixMillis)>, Unavailable> {
        let mut command = cmd("HGETALL");
        command.arg(UserKeys::new(tag).index());
        let index: Result<Vec<(Vec<u8>, Vec<u8>)>, _> =
            self.query(user_target(tag), &command).await;
        match index {
            Ok(index) => {
                Ok(index.iter().filter_map(|(id, at)| parse_index_entry(id, at)).collect())
            }
            Err(_) if self.is_foreign_index(tag).await? => self.scan_user(tag).await,
            Err(error) => Err(error),
        }
    }

    /// Finds the sessions of a user without an index. Their time is unknown, so no cutoff omits
    /// them here.
    async fn scan_user(&self, tag: &UserTag) -> Result<Vec<(SessionId, UnixMillis)>, Unavailable> {
        self.connect().await?;
        let (pattern, mut out) = (UserKeys::new(tag).records_pattern(), Vec::new());
        for node in &self.client.nodes() {
            let mut cursor = 0;
            loop {
                let (next, names) = self.scan(node, &pattern, cursor).await?;
                let keys = names.iter().filter_map(|name| parse_record_key(name));
                out.extend(keys.map(|key| (key.id, UnixMillis(u64::MAX))));
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(out)
    }

    /// Scans the indexes of all primaries.
    pub(in crate::store) async fn list_all(
        &self,
        limit: usize,
    ) -> Result<Vec<SessionListing>, Unavailable> {
        self.connect().await?;
        let (mut out, mut listed) = (Vec::new(), HashSet::new());
        for node in &self.client.nodes() {
            self.list_node(node, limit, &mut listed, &mut out).await?;
        }
        Ok(out)
    }

    /// Uses SCAN because KEYS blocks Redis.
    async fn list_node(
        &self,
        node: &Arc<RedisNode>,
        limit: usize,
        listed: &mut HashSet<UserTag>,
        out: &mut Vec<SessionListing>,
    ) -> Result<(), Unavailable> {
        let mut cursor: u64 = 0;
        loop {
            let (next, names) = self.scan(node, ALL_INDEXES, cursor).await?;
            for tag in names.iter().filter_map(|name| UserKeys::parse_index_key(name)) {
                if out.len() >= limit {
                    return Ok(());
                }
                if listed.insert(tag) {
                    let room = limit - out.len();
                    out.extend(self.list_user(&tag).await?.into_iter().take(room));
                }
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Finds a session by ID. Reads only keys, a thousand per round trip, without keeping them.
    pub(in crate::store) async fn find_session(
        &self,
        is_it: impl Fn(&SessionKey) -> bool + Send + Sync,
    ) -> Result<Option<SessionKey>, Unavailable> {
        self.connect().await?;
        for node in &self.client.nodes() {
            let found = self.find_on_node(node, &is_it).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    async fn find_on_node(
        &self,
        node: &Arc<RedisNode>,
        is_it: &(impl Fn(&SessionKey) -> bool + Send + Sync),
    ) -> Result<Option<SessionKey>, Unavailable> {
        let mut cursor = 0;
        loop {
            let (next, names) = self.scan(node, ALL_RECORDS, cursor).await?;
            let mut keys = names.iter().filter_map(|name| parse_record_key(name));
            match keys.find(|key| is_it(key)) {
                None if next == 0 => return Ok(None),
                None => cursor = next,
                found => return Ok(found),
            }
        }
    }

    async fn scan(
        &self,
        node: &Arc<RedisNode>,
        pattern: &str,
        cursor: u64,
    ) -> Result<(u64, Vec<Vec<u8>>), Unavailable> {
        let mut command = cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(pattern);
        command.arg("COUNT").arg(SCAN_COUNT);
        self.query(CommandTarget::Node(node), &command).await
    }

    /// Loads the records and touches, newest first.
    async fn load_listings(
        &self,
        tag: &UserTag,
        dated: Vec<(SessionId, UnixMillis)>,
    ) -> Result<Vec<SessionListing>, Unavailable> {
        let mut out = Vec::with_capacity(dated.len());
        for batch in dated.chunks(LIST_BATCH) {
            self.load_batch(tag, batch, &mut out).await?;
        }
        sort_newest_first(&mut out);
        Ok(out.into_iter().map(|(_, listed)| listed).collect())
    }

    /// Loads one batch in one round trip. Omits a record that doorward did not write: it must not
    /// hide the others.
    async fn load_batch(
        &self,
        tag: &UserTag,
        dated: &[(SessionId, UnixMillis)],
        out: &mut Vec<(UnixMillis, SessionListing)>,
    ) -> Result<(), Unavailable> {
        let names = UserKeys::new(tag);
        let mut command = cmd("MGET");
        for (id, _) in dated {
            command.arg(names.record(*id)).arg(names.touch(*id));
        }
        let values: Vec<Option<Vec<u8>>> = self.query(user_target(tag), &command).await?;
        for ((id, created), pair) in dated.iter().zip(values.chunks_exact(2)) {
            let [record, touch] = pair else { continue };
            let touched = self.parse_millis(touch.clone()).unwrap_or_default();
            if let Ok(Slot::Live { revision, sealed }) = self.parse_slot(record.clone()) {
                let key = SessionKey { tag: *tag, id: *id };
                out.push((*created, SessionListing { key, revision, sealed, touched }));
            }
        }
        Ok(())
    }
}

/// Parses a session in the index. Returns `None` for the two fields that are not sessions.
fn parse_index_entry(field: &[u8], value: &[u8]) -> Option<(SessionId, UnixMillis)> {
    let created = value.split(|byte| *byte == b' ').next()?;
    Some((parse_id(field)?, parse_decimal(created)?))
}
