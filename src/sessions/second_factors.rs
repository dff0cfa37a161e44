//! Stores the second factors of each account, one sealed value per account.

use std::net::IpAddr;
use std::time::Duration;

use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use crate::clock::UnixMillis;
use crate::session::second_factor::MAX_APPS;
use crate::session::{
    AcceptedCode, AuthenticatorApp, Passkey, PasskeyScope, PasskeySignature, SecondFactors,
    SessionKey, UserTag,
};
use crate::store::Unavailable;
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::sealed_values::{LoadedValue, SealedValues, ValueName, overtaken};
use super::user_ref::UserRef;
use super::verified_store::VerifiedStore;

/// A value that expired would admit its user with the password alone.
const RETENTION: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// Lost compare-and-swaps before a change fails.
const MAX_ATTEMPTS: usize = 16;

/// Why a factor was not added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddAppError {
    #[error("You have {MAX_APPS} of them. Remove one first.")]
    TooMany,
    #[error("It is set up already.")]
    Known,
    #[error("{0}")]
    Unavailable(#[from] Unavailable),
}

/// The second factors of all accounts.
#[derive(Clone)]
pub struct SecondFactorStore {
    values: SealedValues,
    store: VerifiedStore,
}

/// A factor to add.
pub enum NewFactor {
    App(AuthenticatorApp),
    Passkey(Passkey),
}

/// The account and the client of a change, for the event.
#[derive(Clone, Copy)]
pub struct FactorOwner<'a> {
    pub account: UserRef<'a>,
    pub session: Option<SessionKey>,
    /// `None` for an operator.
    pub client: Option<IpAddr>,
}

impl SecondFactorStore {
    pub(super) fn new(store: VerifiedStore) -> SecondFactorStore {
        let values = SealedValues::permanent(store.clone());
        SecondFactorStore { values, store }
    }

    /// Returns the factors of an account; none are set up by default.
    ///
    /// # Errors
    /// Also if the stored value does not open: a damaged value must not admit a user without a factor.
    pub async fn load(&self, tag: UserTag) -> Result<SecondFactors, Unavailable> {
        Ok(self.load_value(tag).await?.value.unwrap_or_default())
    }

    /// Verifies a code and makes it unusable, at all gateways. `None` if it is wrong or was used.
    pub async fn accept(
        &self,
        owner: FactorOwner<'_>,
        code: &str,
    ) -> Result<Option<AcceptedCode>, Unavailable> {
        let now = self.store.now();
        let accepted = self.change(owner.account.tag, |factors| factors.accept(code, now)).await?;
        match accepted {
            None => self.emit(SessionEvent::SecondFactorFailed, owner),
            Some(AcceptedCode::OneTime) => {}
            Some(AcceptedCode::Recovery) => {
                self.emit(SessionEvent::SecondFactorChanged("recovery-code-used"), owner);
            }
        }
        Ok(accepted)
    }

    /// Verifies the signature of a passkey and uses up its challenge, at all gateways.
    pub async fn accept_passkey(
        &self,
        owner: FactorOwner<'_>,
        signed: &PasskeySignature,
        scope: PasskeyScope<'_>,
    ) -> Result<bool, Unavailable> {
        let accept = |factors: &mut SecondFactors| factors.accept_passkey(signed, scope);
        let used = self.change(owner.account.tag, accept).await?;
        match used {
            None => self.emit(SessionEvent::SecondFactorFailed, owner),
            Some(used) if used.is_copied => {
                self.emit(SessionEvent::SecondFactorChanged("passkey-counter-went-back"), owner);
            }
            Some(_) => {}
        }
        Ok(used.is_some())
    }

    /// Adds a factor. Returns recovery codes if it is the first one.
    pub async fn add(
        &self,
        owner: FactorOwner<'_>,
        new: &NewFactor,
    ) -> Result<Vec<Zeroizing<String>>, AddAppError> {
        // First, so that an operator finds the factors of an external account by its name.
        self.remember(owner.account).await?;
        let added = self.change(owner.account.tag, |factors| Some(add(factors, new))).await?;
        let codes = added.unwrap_or(Err(AddAppError::TooMany))?;
        let event = match new {
            NewFactor::App(_) => "app-added",
            NewFactor::Passkey(_) => "passkey-added",
        };
        self.emit(SessionEvent::SecondFactorChanged(event), owner);
        Ok(codes)
    }

    /// Removes a factor. Returns false if there is none with this handle, or it is the last one and `keep_one`.
    pub async fn remove(
        &self,
        owner: FactorOwner<'_>,
        handle: &str,
        keep_one: bool,
    ) -> Result<bool, Unavailable> {
        let id = HEXLOWER.decode(handle.as_bytes()).ok().and_then(|id| id.try_into().ok());
        let Some(id) = id else { return Ok(false) };
        let remove = |factors: &mut SecondFactors| {
            (factors.count() > 1 || !keep_one).then_some(())?;
            factors.remove(id).then_some(())
        };
        let is_removed = self.change(owner.account.tag, remove).await?.is_some();
        if is_removed {
            self.emit(SessionEvent::SecondFactorChanged("removed"), owner);
        }
        Ok(is_removed)
    }

    /// Replaces the recovery codes and returns the new ones; none if no app is set up.
    pub async fn replace_recovery_codes(
        &self,
        owner: FactorOwner<'_>,
    ) -> Result<Vec<Zeroizing<String>>, Unavailable> {
        let replace = |factors: &mut SecondFactors| {
            factors.is_set_up().then(|| factors.replace_recovery_codes())
        };
        let codes = self.change(owner.account.tag, replace).await?.unwrap_or_default();
        if !codes.is_empty() {
            self.emit(SessionEvent::SecondFactorChanged("recovery-codes-replaced"), owner);
        }
        Ok(codes)
    }

    /// Returns the accounts with this name that have had factors. Sessions of theirs may have ended long ago.
    pub async fn named(&self, user: &str) -> Result<Vec<UserTag>, Unavailable> {
        Ok(self.values.load(accounts_name(user)).await?.value.unwrap_or_default())
    }

    async fn remember(&self, account: UserRef<'_>) -> Result<(), Unavailable> {
        let add = |tags: &mut Vec<UserTag>| {
            if !tags.contains(&account.tag) {
                tags.push(account.tag);
            }
        };
        self.values.update(accounts_name(account.user), self.retain_until(), add).await
    }

    /// Deletes all factors of an account, also those that do not open.
    pub async fn reset(&self, account: UserRef<'_>) -> Result<(), Unavailable> {
        let name = HEXLOWER.encode(&account.tag.0);
        let none = SecondFactors::default();
        self.values.overwrite(value_name(&name), &none, self.retain_until()).await?;
        let owner = FactorOwner { account, session: None, client: None };
        self.emit(SessionEvent::SecondFactorChanged("reset"), owner);
        Ok(())
    }

    /// Applies a change by compare-and-swap; it may run several times. Without a result, nothing is written.
    async fn change<T>(
        &self,
        tag: UserTag,
        change: impl Fn(&mut SecondFactors) -> Option<T>,
    ) -> Result<Option<T>, Unavailable> {
        let name = HEXLOWER.encode(&tag.0);
        for _ in 0..MAX_ATTEMPTS {
            let loaded = self.load_value(tag).await?;
            let mut next = loaded.value.clone().unwrap_or_default();
            let Some(result) = change(&mut next) else { return Ok(None) };
            if self.values.swap(value_name(&name), &loaded, &next, self.retain_until()).await? {
                return Ok(Some(result));
            }
        }
        Err(overtaken())
    }

    async fn load_value(&self, tag: UserTag) -> Result<LoadedValue<SecondFactors>, Unavailable> {
        self.values.load(value_name(&HEXLOWER.encode(&tag.0))).await
    }

    fn retain_until(&self) -> UnixMillis {
        self.store.now().plus(RETENTION)
    }

    fn emit(&self, event: SessionEvent, owner: FactorOwner<'_>) {
        let (user, session) = (owner.account.user, owner.session.map(|key| key.id));
        let context =
            EventContext { user, session, client: owner.client, ..EventContext::default() };
        self.store.shared.emit(event, context);
    }
}

fn add(
    factors: &mut SecondFactors,
    new: &NewFactor,
) -> Result<Vec<Zeroizing<String>>, AddAppError> {
    let is_first = !factors.is_set_up();
    match new {
        NewFactor::App(app) => {
            let is_known = factors.apps.iter().any(|known| known.has_same_secret(app));
            check_room(factors.apps.len(), is_known)?;
            factors.apps.push(app.clone());
        }
        NewFactor::Passkey(passkey) => {
            let id = &passkey.credential_id;
            let is_known = factors.passkeys.iter().any(|known| known.credential_id == *id);
            check_room(factors.passkeys.len(), is_known)?;
            factors.passkeys.push(passkey.clone());
        }
    }
    Ok(if is_first { factors.replace_recovery_codes() } else { Vec::new() })
}

fn check_room(count: usize, is_known: bool) -> Result<(), AddAppError> {
    if is_known {
        return Err(AddAppError::Known);
    }
    if count < MAX_APPS { Ok(()) } else { Err(AddAppError::TooMany) }
}

fn accounts_name(user: &str) -> ValueName<'_> {
    ValueName { purpose: "accounts with second factors", name: user }
}

fn value_name(name: &str) -> ValueName<'_> {
    ValueName { purpose: "second factors", name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::session::TotpSecret;
    use crate::sessions::test_support::sessions;
    use crate::store::{Store, ValueTag};

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn app(secret: &TotpSecret) -> NewFactor {
        let code = secret.code(NOW.seconds() / 30);
        let app = AuthenticatorApp::confirmed(secret.clone(), "phone", &code, NOW);
        NewFactor::App(app.expect("right"))
    }

    fn setup() -> (SecondFactorStore, Clock, Store) {
        let clock = Clock::manual(NOW);
        let store = Store::memory(clock.clone());
        (sessions(&store, &clock).second_factors, clock, store)
    }

    fn owner(user: &str) -> FactorOwner<'_> {
        let account = UserRef { tag: UserTag([1; 8]), user };
        FactorOwner { account, session: None, client: None }
    }

    #[tokio::test]
    async fn factors_outlive_the_sessions_of_their_user() {
        let (factors, clock, _) = setup();
        let secret = TotpSecret::generate();
        assert_eq!(factors.add(owner("alice"), &app(&secret)).await.expect("memory").len(), 10);
        let again = factors.add(owner("alice"), &app(&secret)).await;
        assert_eq!(again, Err(AddAppError::Known), "the form was sent twice");
        clock.advance(Duration::from_hours(20 * 365 * 24));
        assert!(factors.load(UserTag([1; 8])).await.expect("memory").is_set_up());
        assert!(!factors.load(UserTag([2; 8])).await.expect("memory").is_set_up());
    }

    #[tokio::test]
    async fn an_external_account_is_found_by_its_name_after_years() {
        let (factors, clock, _) = setup();
        factors.add(owner("alice"), &app(&TotpSecret::generate())).await.expect("memory");
        clock.advance(Duration::from_hours(20 * 365 * 24));
        let named = factors.named("alice").await.expect("memory");
        assert!(named.contains(&UserTag([1; 8])), "{named:?}");
    }

    #[tokio::test]
    async fn an_account_has_at_most_five_apps() {
        let (factors, ..) = setup();
        for number in 0..MAX_APPS {
            let added = factors.add(owner("alice"), &app(&TotpSecret::generate())).await;
            assert_eq!(added.expect("memory").is_empty(), number > 0, "codes with the first only");
        }
        let refused = factors.add(owner("alice"), &app(&TotpSecret::generate())).await;
        assert_eq!(refused, Err(AddAppError::TooMany));
    }

    #[tokio::test]
    async fn a_damaged_value_is_an_error_until_an_operator_resets_it() {
        let (factors, _, store) = setup();
        factors.add(owner("alice"), &app(&TotpSecret::generate())).await.expect("memory");
        let name = HEXLOWER.encode(&[1; 8]);
        let keys = factors.store.shared.keys.load_full();
        let tag = ValueTag(keys.login().tag("second factors", &name));
        let stored = store.value(tag).await.expect("memory").expect("stored");
        let until = NOW.plus(RETENTION);
        let damaged = [&stored[..], b"x"].concat();
        store.swap_value(tag, Some(&stored), &damaged, until).await.expect("memory");
        factors.load(UserTag([1; 8])).await.expect_err("not a user without a factor");
        factors.accept(owner("alice"), "000000").await.expect_err("not a wrong code");
        factors.reset(owner("alice").account).await.expect("memory");
        assert!(!factors.load(UserTag([1; 8])).await.expect("memory").is_set_up());
    }
}
