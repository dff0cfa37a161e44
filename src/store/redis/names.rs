//! The names of keys, and what a name is about.
//!
//! The kind stands before the tag, so that one prefix names all keys of a kind: a gateway that follows
//! the changes of records and lines is not told of every touch.

use data_encoding::HEXLOWER;

use crate::session::{SessionId, SessionKey, UserTag};
use crate::store::Change;

/// The line of all users.
pub(in crate::store) const EVERYONE: &str = "dw:everyone";
/// The latest beginning of any session that was begun ahead of Redis' own clock; in the slot of
/// [`EVERYONE`].
pub(super) const AHEAD: &str = "dw:ahead:{dw:everyone}";
/// All that decides whether a session lives, by prefix. None is a prefix of another, as Redis asks.
pub(in crate::store) const FOLLOWED: [&str; 3] = [EVERYONE, LINES, RECORDS];
/// Matches every index, for a walk over all users.
pub(super) const ALL_INDEXES: &str = "dw:u:{*}";
/// Matches every record.
pub(super) const ALL_RECORDS: &str = "dw:s:{*}:*";

const RECORDS: &str = "dw:s:";
const TOUCHES: &str = "dw:t:";
const LINES: &str = "dw:nb:";
const INDEXES: &str = "dw:u:";
const MEMOS: &str = "dw:m:";

/// The names of one user's keys.
pub(super) struct Names {
    tag: String,
}

impl Names {
    pub(super) fn of(tag: &UserTag) -> Names {
        Names { tag: format!("{{{}}}", HEXLOWER.encode(&tag.0)) }
    }

    pub(super) fn record(&self, id: SessionId) -> String {
        format!("{RECORDS}{}:{}", self.tag, hex(id))
    }

    pub(super) fn touch(&self, id: SessionId) -> String {
        format!("{TOUCHES}{}:{}", self.tag, hex(id))
    }

    pub(super) fn line(&self) -> String {
        format!("{LINES}{}", self.tag)
    }

    pub(super) fn index(&self) -> String {
        format!("{INDEXES}{}", self.tag)
    }

    pub(super) fn memo(&self) -> String {
        format!("{MEMOS}{}", self.tag)
    }

    pub(super) fn tag_of_index(name: &[u8]) -> Option<UserTag> {
        tag(name.strip_prefix(INDEXES.as_bytes())?)
    }
}

/// What a followed key is about; `None` for a name that we would not write.
pub(in crate::store) fn changed(name: &[u8]) -> Option<Change> {
    if name == EVERYONE.as_bytes() {
        return Some(Change::Everyone);
    }
    if let Some(rest) = name.strip_prefix(LINES.as_bytes()) {
        return tag(rest).map(Change::User);
    }
    recorded(name).map(Change::Session)
}

/// Whose record it is.
pub(super) fn recorded(name: &[u8]) -> Option<SessionKey> {
    let rest = name.strip_prefix(RECORDS.as_bytes())?;
    let colon = rest.iter().position(|byte| *byte == b':')?;
    let (braced, id) = (rest.get(..colon)?, rest.get(colon + 1..)?);
    Some(SessionKey { tag: tag(braced)?, id: id_of(id)? })
}

/// `{TAG}` and nothing else.
fn tag(braced: &[u8]) -> Option<UserTag> {
    let hex = braced.strip_prefix(b"{")?.strip_suffix(b"}")?;
    Some(UserTag(HEXLOWER.decode(hex).ok()?.try_into().ok()?))
}

pub(super) fn hex(id: SessionId) -> String {
    HEXLOWER.encode(&id.0)
}

pub(super) fn id_of(hex: &[u8]) -> Option<SessionId> {
    Some(SessionId(HEXLOWER.decode(hex).ok()?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SessionKey = SessionKey { tag: UserTag([0xab; 8]), id: SessionId([1; 16]) };

    #[test]
    fn all_keys_of_a_user_share_one_hash_tag() {
        let names = Names::of(&KEY.tag);
        let ours = [names.record(KEY.id), names.touch(KEY.id), names.line(), names.index()];
        for name in ours.into_iter().chain([names.memo()]) {
            let (_, rest) = name.split_once('{').expect("a hash tag");
            assert!(rest.starts_with("abababababababab}"), "{name}");
        }
        assert_eq!(Names::tag_of_index(names.index().as_bytes()), Some(KEY.tag));
    }

    #[test]
    fn a_followed_name_says_what_it_is_about_and_a_touch_is_not_followed() {
        let names = Names::of(&KEY.tag);
        assert_eq!(changed(names.record(KEY.id).as_bytes()), Some(Change::Session(KEY)));
        assert_eq!(changed(names.line().as_bytes()), Some(Change::User(KEY.tag)));
        assert_eq!(changed(EVERYONE.as_bytes()), Some(Change::Everyone));
        let foreign = [names.touch(KEY.id), names.index(), format!("{}x", names.line())];
        for name in foreign.iter().map(String::as_str).chain(["", "dw:s:", "dw:s:{}:", "dw:nb:{"]) {
            assert_eq!(changed(name.as_bytes()), None, "{name}");
        }
        for followed in FOLLOWED {
            assert!(!names.touch(KEY.id).starts_with(followed), "{followed}");
            assert!(!names.index().starts_with(followed), "{followed}");
            assert!(!names.memo().starts_with(followed), "{followed}");
        }
    }
}
