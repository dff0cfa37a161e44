//! A user in the store and in events.

use crate::session::{SessionKey, UserTag};

use super::end_cause::SessionInfo;

/// A user, by tag for the store and by name for events.
#[derive(Clone, Copy)]
pub struct UserRef<'a> {
    pub tag: UserTag,
    pub user: &'a str,
}

impl<'a> UserRef<'a> {
    /// Returns the user of a session.
    pub fn of(key: &SessionKey, user: &'a str) -> UserRef<'a> {
        UserRef { tag: key.tag, user }
    }
}

impl<'a> From<&'a SessionInfo> for UserRef<'a> {
    fn from(session: &'a SessionInfo) -> UserRef<'a> {
        UserRef::of(&session.key, &session.record.identity.user)
    }
}
