//! A minimal store: load, compare-and-swap, touch, end, revoke.

use std::collections::HashMap;

use doorward::clock::UnixMillis;
use doorward::session::{EndReason, RevocationCutoff, SessionFacts, SessionKey, UserTag};

#[derive(Clone)]
pub enum Slot {
    Live { revision: u64, sealed: Vec<u8> },
    Ended,
}

#[derive(Default)]
pub struct Store {
    slots: HashMap<SessionKey, Slot>,
    touched: HashMap<SessionKey, UnixMillis>,
    cutoffs: HashMap<UserTag, RevocationCutoff>,
    ends: HashMap<SessionKey, EndReason>,
}

impl Store {
    pub fn create(&mut self, key: SessionKey, sealed: Vec<u8>) {
        self.slots.insert(key, Slot::Live { revision: 1, sealed });
    }

    pub fn load(&self, key: &SessionKey) -> Option<(Slot, SessionFacts)> {
        let facts = SessionFacts {
            touched: self.touched.get(key).copied().unwrap_or_default(),
            user_cutoff: self.cutoff(&key.tag),
            global_cutoff: RevocationCutoff::default(),
        };
        Some((self.slots.get(key)?.clone(), facts))
    }

    /// Returns whether the compare-and-swap succeeded.
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

    pub fn cutoff(&self, tag: &UserTag) -> RevocationCutoff {
        self.cutoffs.get(tag).copied().unwrap_or_default()
    }

    pub fn revoke_user(&mut self, tag: UserTag, at: UnixMillis) {
        let cutoff = self.cutoff(&tag).later(RevocationCutoff { at, except: None });
        self.cutoffs.insert(tag, cutoff);
    }
}
