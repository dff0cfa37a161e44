//! Names of keys, and their parsing.
//!
//! The kind precedes the tag, so one prefix covers all keys of a kind. Invalidation tracks records
//! and cutoffs without receiving every touch.

use data_encoding::HEXLOWER;

use crate::redis::{CommandTarget, HashSlot};
use crate::session::{SessionId, SessionKey, UserTag};
use crate::store::types::StoreChange;

/// The global cutoff.
pub(super) const GLOBAL_CUTOFF: &str = "dw:everyone";
/// The greatest `created` that was ahead of Redis' own clock, in the slot of [`GLOBAL_CUTOFF`].
pub(super) const LATEST_FUTURE_CREATED: &str = "dw:ahead:{dw:everyone}";
/// Written to check that Redis accepts writes, in the slot of [`GLOBAL_CUTOFF`].
pub(super) const PROBE: &str = "dw:probe:{dw:everyone}";
/// Prefixes of all keys that decide whether a session is live. Redis requires that none is a prefix
/// of another.
pub(in crate::store) const TRACKED_PREFIXES: [&str; 3] = [GLOBAL_CUTOFF, CUTOFFS, RECORDS];
/// Pattern of all indexes.
pub(super) const ALL_INDEXES: &str = "dw:u:{*}";
/// Pattern of all records.
pub(super) const ALL_RECORDS: &str = "dw:s:{*}:*";

const RECORDS: &str = "dw:s:";
const TOUCHES: &str = "dw:t:";
const CUTOFFS: &str = "dw:nb:";
const INDEXES: &str = "dw:u:";
const HISTORIES: &str = "dw:m:";
const LOGIN_COUNTERS: &str = "dw:lc:";
const KNOWN_PLACES: &str = "dw:lk:";

/// Names of one user's keys.
pub(super) struct UserKeys {
    tag: String,
}

impl UserKeys {
    pub(super) fn new(tag: &UserTag) -> UserKeys {
        UserKeys { tag: format!("{{{}}}", HEXLOWER.encode(&tag.0)) }
    }

    pub(super) fn record(&self, id: SessionId) -> String {
        format!("{RECORDS}{}:{}", self.tag, encode_id(id))
    }

    pub(super) fn touch(&self, id: SessionId) -> String {
        format!("{TOUCHES}{}:{}", self.tag, encode_id(id))
    }

    pub(super) fn cutoff(&self) -> String {
        format!("{CUTOFFS}{}", self.tag)
    }

    pub(super) fn index(&self) -> String {
        format!("{INDEXES}{}", self.tag)
    }

    pub(super) fn history(&self) -> String {
        format!("{HISTORIES}{}", self.tag)
    }

    /// Returns the pattern of all records of the user.
    pub(super) fn records_pattern(&self) -> String {
        format!("{RECORDS}{}:*", self.tag)
    }

    pub(super) fn parse_index_key(name: &[u8]) -> Option<UserTag> {
        tag(name.strip_prefix(INDEXES.as_bytes())?)
    }
}

/// Returns the name of a login counter; `tag` selects the slot.
pub(super) fn login_counter(tag: &str, name: &str) -> String {
    format!("{LOGIN_COUNTERS}{{{tag}}}:{name}")
}

/// Returns the name of a known place.
pub(super) fn known_place(tag: &str, name: &str) -> String {
    format!("{KNOWN_PLACES}{{{tag}}}:{name}")
}

/// Returns the slot of the login counters and places of a tag.
pub(super) fn login_target(tag: &str) -> CommandTarget<'static> {
    CommandTarget::Slot(HashSlot::from_hash_tag(tag.as_bytes()))
}

/// Returns the slot of all keys of a user.
pub(super) fn user_target(tag: &UserTag) -> CommandTarget<'static> {
    CommandTarget::Slot(HashSlot::from_hash_tag(HEXLOWER.encode(&tag.0).as_bytes()))
}

/// Returns the slot of the keys that concern all users.
pub(super) fn global_target() -> CommandTarget<'static> {
    CommandTarget::Slot(HashSlot::from_hash_tag(GLOBAL_CUTOFF.as_bytes()))
}

/// Returns the change that a tracked key represents, or `None` for a foreign key.
pub(in crate::store) fn parse_change(name: &[u8]) -> Option<StoreChange> {
    if name == GLOBAL_CUTOFF.as_bytes() {
        return Some(StoreChange::GlobalCutoff);
    }
    if let Some(rest) = name.strip_prefix(CUTOFFS.as_bytes()) {
        return tag(rest).map(StoreChange::UserCutoff);
    }
    parse_record_key(name).map(StoreChange::Session)
}

/// Parses the key of a record.
pub(super) fn parse_record_key(name: &[u8]) -> Option<SessionKey> {
    let rest = name.strip_prefix(RECORDS.as_bytes())?;
    let colon = rest.iter().position(|byte| *byte == b':')?;
    let (braced, id) = (rest.get(..colon)?, rest.get(colon + 1..)?);
    Some(SessionKey { tag: tag(braced)?, id: parse_id(id)? })
}

/// Parses `{TAG}`.
fn tag(braced: &[u8]) -> Option<UserTag> {
    let hex = braced.strip_prefix(b"{")?.strip_suffix(b"}")?;
    Some(UserTag(HEXLOWER.decode(hex).ok()?.try_into().ok()?))
}

pub(super) fn encode_id(id: SessionId) -> String {
    HEXLOWER.encode(&id.0)
}

pub(super) fn parse_id(hex: &[u8]) -> Option<SessionId> {
    Some(SessionId(HEXLOWER.decode(hex).ok()?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SessionKey = SessionKey { tag: UserTag([0xab; 8]), id: SessionId([1; 16]) };

    #[test]
    fn all_keys_of_a_user_share_one_hash_tag() {
        let names = UserKeys::new(&KEY.tag);
        let ours = [names.record(KEY.id), names.touch(KEY.id), names.cutoff(), names.index()];
        for name in ours.into_iter().chain([names.history()]) {
            let (_, rest) = name.split_once('{').expect("a hash tag");
            assert!(rest.starts_with("abababababababab}"), "{name}");
        }
        let tag = LATEST_FUTURE_CREATED.split(['{', '}']).nth(1);
        assert_eq!(tag, Some(GLOBAL_CUTOFF), "one slot for all users' keys");
        assert_eq!(UserKeys::parse_index_key(names.index().as_bytes()), Some(KEY.tag));
    }

    #[test]
    fn tracked_keys_are_parsed_and_touches_are_not_tracked() {
        let names = UserKeys::new(&KEY.tag);
        assert_eq!(parse_change(names.record(KEY.id).as_bytes()), Some(StoreChange::Session(KEY)));
        assert_eq!(parse_change(names.cutoff().as_bytes()), Some(StoreChange::UserCutoff(KEY.tag)));
        assert_eq!(parse_change(GLOBAL_CUTOFF.as_bytes()), Some(StoreChange::GlobalCutoff));
        let foreign = [names.touch(KEY.id), names.index(), format!("{}x", names.cutoff())];
        for name in foreign.iter().map(String::as_str).chain(["", "dw:s:", "dw:s:{}:", "dw:nb:{"]) {
            assert_eq!(parse_change(name.as_bytes()), None, "{name}");
        }
        for tracked in TRACKED_PREFIXES {
            assert!(!names.touch(KEY.id).starts_with(tracked), "{tracked}");
            assert!(!names.index().starts_with(tracked), "{tracked}");
            assert!(!names.history().starts_with(tracked), "{tracked}");
        }
    }
}
