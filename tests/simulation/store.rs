//! The store as the core may think of it: load, compare-and-swap, touch, end, revoke.

use std::collections::HashMap;

use doorward::clock::UnixMillis;
use doorward::session::{EndReason, NotBefore, SessionKey, Standing, UserTag};

#[derive(Clone)]
pub enum Slot {
    Live { revision: u64, sealed: Vec<u8> },
    Ended,
}

#[derive(Default)]
pub struct Store {
    slots: HashMap<SessionKey, Slot>,
    touched: HashMap<SessionKey, UnixMillis>,
    lines: HashMap<UserTag, NotBefore>,
    ends: HashMap<SessionKey, EndReason>,
}

impl Store {
    pub fn create(&mut self, key: SessionKey, sealed: Vec<u8>) {
        self.slots.insert(key, Slot::Live { revision: 1, sealed });
    }

    pub fn load(&self, key: &SessionKey) -> Option<(Slot, Standing)> {
        let standing = Standing {
            touched: self.touched.get(key).copied().unwrap_or_default(),
            not_before: self.line(&key.tag),
            everyone: NotBefore::default(),
        };
        Some((self.slots.get(key)?.clone(), standing))
    }

    /// Whether the swap was won.
    pub fn commit(&mut self, key: &SessionKey, expected: u64, new: Vec<u8>) -> bool {
        match self.slots.get_mut(key) {
            Some(Slot::Live { revision, sealed }) if *revision == expected => {
                *revision += 1;
                *sealed = new;
                true
            }
            Some(Slot::Live { .. } | Slot::Ended) | None => false,
        }
    }

    pub fn touch(&mut self, key: SessionKey, at: UnixMillis) {
        let touched = self.touched.entry(key).or_default();
        *touched = at.max(*touched);
    }

    pub fn end(&mut self, key: SessionKey, reason: EndReason) {
        self.slots.insert(key, Slot::Ended);
        self.ends.entry(key).or_insert(reason);
    }

    pub fn line(&self, tag: &UserTag) -> NotBefore {
        self.lines.get(tag).copied().unwrap_or_default()
    }

    pub fn revoke_user(&mut self, tag: UserTag, at: UnixMillis) {
        let line = self.line(&tag).later(NotBefore { at, except: None });
        self.lines.insert(tag, line);
    }
}
