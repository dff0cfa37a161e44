//! Small sealed values beside the sessions, such as the index of a provider's sessions. Each has a purpose and
//! a name, of which the store sees a keyed hash only.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock::UnixMillis;
use crate::secret::seal::OpenError;
use crate::secret::{KeyRing, seal};
use crate::store::{CommitOutcome, MAX_VALUE_BYTES, Unavailable, ValueTag};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::verified_store::VerifiedStore;

/// Lost compare-and-swaps before an update fails.
const MAX_ATTEMPTS: usize = 16;

/// Purpose and name of a value.
#[derive(Clone, Copy)]
pub(super) struct ValueName<'a> {
    pub(super) purpose: &'static str,
    pub(super) name: &'a str,
}

/// A value, and the stored bytes for the compare-and-swap.
pub(super) struct LoadedValue<T> {
    pub(super) value: Option<T>,
    stored: Option<Bytes>,
}

/// The values of one worker.
#[derive(Clone)]
pub(super) struct SealedValues {
    store: VerifiedStore,
    /// Whether the values outlive every root key, and none may count as missing.
    is_permanent: bool,
}

impl SealedValues {
    pub(super) fn new(store: VerifiedStore) -> SealedValues {
        SealedValues { store, is_permanent: false }
    }

    /// Values that are sealed with the permanent key. One that does not open is an error, not a missing value.
    pub(super) fn permanent(store: VerifiedStore) -> SealedValues {
        SealedValues { store, is_permanent: true }
    }

    pub(super) fn now(&self) -> UnixMillis {
        self.store.now()
    }

    /// Loads a value. One that was not sealed with our keys is reported, and counts as missing unless values
    /// are permanent.
    pub(super) async fn load<T: DeserializeOwned>(
        &self,
        name: ValueName<'_>,
    ) -> Result<LoadedValue<T>, Unavailable> {
        let keys = self.store.shared.keys.load_full();
        let tag = name.tag(&keys);
        let stored = self.store.track_errors(self.store.raw.value(tag).await)?;
        let Some(bytes) = &stored else { return Ok(LoadedValue { value: None, stored }) };
        let value = match seal::open(&keys, name.purpose.as_bytes(), &tag.0, bytes) {
            Ok(plain) => postcard::from_bytes(&plain).ok(),
            Err(OpenError::UnknownKey) => {
                let text = "a value is sealed with a key that this gateway's keys file lacks; copy the newest keys file here";
                return Err(Unavailable(text.to_owned()));
            }
            Err(OpenError::Malformed | OpenError::Forged) => None,
        };
        if value.is_none() {
            self.store.shared.emit(SessionEvent::Undecryptable, EventContext::default());
            if self.is_permanent {
                return Err(Unavailable(
                    "a value in the store was not sealed with these keys".to_owned(),
                ));
            }
        }
        Ok(LoadedValue { value, stored })
    }

    /// Replaces a loaded value; false if another request was first. Returns false too for a value that is
    /// too large to store.
    pub(super) async fn swap<T: Serialize>(
        &self,
        name: ValueName<'_>,
        loaded: &LoadedValue<T>,
        value: &T,
        until: UnixMillis,
    ) -> Result<bool, Unavailable> {
        let keys = self.store.shared.keys.load_full();
        let tag = name.tag(&keys);
        let plain = postcard::to_allocvec(value).unwrap_or_default();
        let sealed = self.seal(&keys, name, &plain);
        let swapped = self.store.raw.swap_value(tag, loaded.stored.as_deref(), &sealed, until);
        Ok(self.store.track_errors(swapped.await)? == CommitOutcome::Swapped)
    }

    fn seal(&self, keys: &KeyRing, name: ValueName<'_>, plain: &[u8]) -> Vec<u8> {
        let (purpose, tag) = (name.purpose.as_bytes(), name.tag(keys));
        match self.is_permanent {
            true => seal::seal_permanently(keys, purpose, &tag.0, plain),
            false => seal::seal(keys, purpose, &tag.0, plain),
        }
    }

    /// Replaces a value, also one that does not open.
    pub(super) async fn overwrite<T: Serialize>(
        &self,
        name: ValueName<'_>,
        value: &T,
        until: UnixMillis,
    ) -> Result<(), Unavailable> {
        for _ in 0..MAX_ATTEMPTS {
            let tag = name.tag(&self.store.shared.keys.load());
            let stored = self.store.track_errors(self.store.raw.value(tag).await)?;
            let loaded = LoadedValue { value: None, stored };
            if self.swap(name, &loaded, value, until).await? {
                return Ok(());
            }
        }
        Err(overtaken())
    }

    /// Applies `change` to a value, which may run more than once. A missing value is the default.
    pub(super) async fn update<T: Serialize + DeserializeOwned + Default + Clone + PartialEq>(
        &self,
        name: ValueName<'_>,
        until: UnixMillis,
        change: impl Fn(&mut T),
    ) -> Result<(), Unavailable> {
        for _ in 0..MAX_ATTEMPTS {
            let loaded = self.load::<T>(name).await?;
            let mut next = loaded.value.clone().unwrap_or_default();
            change(&mut next);
            if self.swap(name, &loaded, &next, until).await? {
                return Ok(());
            }
        }
        Err(overtaken())
    }
}

pub(super) fn overtaken() -> Unavailable {
    Unavailable("every write of a value was overtaken by another".to_owned())
}

impl ValueName<'_> {
    fn tag(self, keys: &KeyRing) -> ValueTag {
        ValueTag(keys.login().tag(self.purpose, self.name))
    }
}

/// Returns whether a value can be stored.
pub(super) fn fits(value: &impl Serialize) -> bool {
    let plain = postcard::to_allocvec(value).unwrap_or_default();
    plain.len() + seal::OVERHEAD <= MAX_VALUE_BYTES
}
