//! What the presented token is to the record: the current one, its successor, or one of before.
//!
//! S3 and S8 stand here: one behind is answered within the grace only, two behind is a replay.

use super::Seen;
use crate::secret::equal_in_constant_time;

/// What the presented token is to the record.
pub(super) enum Presented {
    Current,
    Successor,
    Superseded,
    /// Superseded by a sensitive action, too long ago to be answered and not long enough for an alarm.
    Late,
    CrashedBack,
    Replayed,
    Future,
    Unproven,
}

impl Seen<'_> {
    pub(super) fn standing_of_token(&self) -> Presented {
        let record = self.case.record;
        let generation = self.case.presented.generation;
        if generation == record.generation {
            return if self.proves(&record.current) {
                Presented::Current
            } else {
                Presented::Unproven
            };
        }
        if generation > record.generation {
            return self.ahead(generation);
        }
        if record.generation - generation > 1 {
            return Presented::Replayed;
        }
        self.one_behind()
    }

    fn ahead(&self, generation: u32) -> Presented {
        let offered = self.case.record.offer.as_ref();
        let next = generation - self.case.record.generation == 1;
        match offered {
            Some(offer) if next && self.proves(&offer.hash) => Presented::Successor,
            Some(_) | None => Presented::Future,
        }
    }

    fn one_behind(&self) -> Presented {
        let record = self.case.record;
        let Some(previous) = record.previous.as_ref() else {
            return Presented::Replayed;
        };
        if !self.proves(&previous.hash) {
            return Presented::Unproven;
        }
        if self.now < previous.until {
            return Presented::Superseded;
        }
        if self.now < previous.alarm {
            return Presented::Late;
        }
        if !record.seasoned && record.renewed_from.same_place(self.case.context) {
            return Presented::CrashedBack;
        }
        Presented::Replayed
    }

    fn proves(&self, hash: &[u8; 32]) -> bool {
        equal_in_constant_time(&self.hash, hash)
    }
}
