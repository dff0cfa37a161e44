//! Indexes over the accounts and sessions of external providers, as sealed values in the store.
//!
//! | index | name | entries |
//! | --- | --- | --- |
//! | names | shown user name | tags of the accounts that logged in under it |
//! | provider sessions | account provider and its session ID | keys of our sessions |
//! | used logout tokens | issuer and token ID | none; the value exists |
//!
//! An entry lasts until the end of the session that it was written for.

use crate::clock::UnixMillis;
use crate::identity::VerifiedLogin;
use crate::session::{SessionKey, UserTag};
use crate::store::Unavailable;

use super::sealed_values::{SealedValues, ValueName};
use super::verified_store::VerifiedStore;

/// Maximum number of entries of one index; the oldest is left out. They fit into one value.
const MAX_ENTRIES: usize = 500;

/// The indexes of one worker.
#[derive(Clone)]
pub struct Accounts {
    values: SealedValues,
    store: VerifiedStore,
}

impl Accounts {
    pub(super) fn new(store: VerifiedStore) -> Accounts {
        Accounts { values: SealedValues::new(store.clone()), store }
    }

    /// Returns the tags of every account with this name, also without a session: that of the users file,
    /// and those that logged in under it at external providers. An account ID is a name too.
    pub async fn named(&self, user: &str) -> Result<Vec<UserTag>, Unavailable> {
        let own = self.store.shared.user_tag(user);
        let external = self.values.load::<Vec<UserTag>>(account_name(user)).await?;
        let external = external.value.unwrap_or_default();
        Ok(std::iter::once(own).chain(external.into_iter().filter(|tag| *tag != own)).collect())
    }

    /// Adds a session to the indexes, before it is created.
    pub(super) async fn add(
        &self,
        login: &VerifiedLogin,
        key: SessionKey,
        until: UnixMillis,
    ) -> Result<(), Unavailable> {
        let name = account_name(&login.identity.user);
        self.values.update(name, until, |tags| add_entry(tags, key.tag)).await?;
        let session = login.external.as_ref().and_then(|facts| facts.provider_session.as_deref());
        if let Some(name) = session {
            let name = provider_session(name);
            self.values.update(name, until, |keys| add_entry(keys, key)).await?;
        }
        Ok(())
    }

    /// Keeps an account in the index of its name until a later time.
    pub(super) async fn keep_name(
        &self,
        user: &str,
        tag: UserTag,
        until: UnixMillis,
    ) -> Result<(), Unavailable> {
        self.values.update(account_name(user), until, |tags| add_entry(tags, tag)).await
    }

    /// Returns the sessions that began in this session of the provider.
    pub async fn of_provider_session(&self, name: &str) -> Result<Vec<SessionKey>, Unavailable> {
        let loaded = self.values.load(provider_session(name)).await?;
        Ok(loaded.value.unwrap_or_default())
    }

    /// Returns whether a logout token was used before.
    pub async fn is_logout_used(&self, token: &str) -> Result<bool, Unavailable> {
        let loaded = self.values.load::<u8>(used_logout(token)).await?;
        Ok(loaded.value.is_some())
    }

    /// Records that a logout token was used. It is forgotten after `until`.
    pub async fn record_logout(&self, token: &str, until: UnixMillis) -> Result<(), Unavailable> {
        self.values.update(used_logout(token), until, |used: &mut u8| *used = 1).await
    }
}

fn add_entry<T: PartialEq>(entries: &mut Vec<T>, entry: T) {
    entries.retain(|other| *other != entry);
    entries.push(entry);
    let surplus = entries.len().saturating_sub(MAX_ENTRIES);
    entries.drain(..surplus);
}

fn account_name(name: &str) -> ValueName<'_> {
    ValueName { purpose: "account name", name }
}

fn provider_session(name: &str) -> ValueName<'_> {
    ValueName { purpose: "provider session", name }
}

fn used_logout(name: &str) -> ValueName<'_> {
    ValueName { purpose: "used logout token", name }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::identity::ExternalFacts;
    use crate::message::CookieLookup;
    use crate::oidc::LogoutToken;
    use crate::session::{
        ClientContext, ExternalLogin, Identity, Provider, SessionId, oidc_account,
    };
    use crate::sessions::test_support::sessions;
    use crate::sessions::{SessionInfo, Sessions};
    use crate::store::Store;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const ISSUER: &str = "https://id.test";

    fn setup() -> Sessions {
        let clock = Clock::manual(NOW);
        sessions(&Store::memory(clock.clone()), &clock)
    }

    /// Logs in the subject under the name alice, in this session of the provider.
    async fn log_in(sessions: &Sessions, subject: &str, sid: Option<&str>) -> SessionInfo {
        let session = sid.map(|sid| crate::identity::session_name(ISSUER, sid));
        let external = ExternalLogin {
            provider: "corp".to_owned(),
            account: oidc_account(ISSUER, subject),
            provider_session: if sid.is_some() { [1; 8] } else { [0; 8] },
            ..ExternalLogin::default()
        };
        let tag = sessions.shared().user_tag(&external.account);
        let provider = Provider::External(Box::new(external));
        let identity = Identity { user: "alice".to_owned(), provider, ..Identity::default() };
        let facts = ExternalFacts { provider_session: session, ..ExternalFacts::default() };
        let login = VerifiedLogin {
            identity: Arc::new(identity),
            credential_digest: [0; 8],
            second_factor: false,
            external: Some(Box::new(facts)),
        };
        let before = sessions.list_user_sessions(&tag).await.expect("memory");
        let from = ClientContext::new([127, 0, 0, 1].into(), b"test");
        sessions.create_session(&login, &CookieLookup::Missing, from).await.expect("created");
        let mut after = sessions.list_user_sessions(&tag).await.expect("memory");
        after.retain(|session| !before.iter().any(|old| old.key == session.key));
        after.pop().expect("a new session")
    }

    fn logout(id: &str, sid: Option<&str>, subject: Option<&str>) -> LogoutToken {
        LogoutToken {
            issuer: ISSUER.to_owned(),
            subject: subject.map(str::to_owned),
            provider_session: sid.map(str::to_owned),
            token_id: id.to_owned(),
            expires: NOW.plus(Duration::from_secs(120)),
        }
    }

    /// Returns which of the sessions are live.
    async fn live<const N: usize>(sessions: &Sessions, all: [&SessionInfo; N]) -> [bool; N] {
        let mut live = [false; N];
        for (live, session) in live.iter_mut().zip(all) {
            let listed = sessions.list_user_sessions(&session.key.tag).await.expect("memory");
            *live = listed.iter().any(|other| other.key == session.key);
        }
        live
    }

    #[tokio::test]
    async fn one_name_stands_for_all_of_its_accounts() {
        let sessions = setup();
        let (one, two) = (log_in(&sessions, "1", None).await, log_in(&sessions, "2", None).await);
        assert_ne!(one.key.tag, two.key.tag);
        let own = sessions.shared().user_tag("alice");
        let mut named = sessions.accounts.named("alice").await.expect("memory");
        named.sort_unstable();
        let mut expected = [own, one.key.tag, two.key.tag];
        expected.sort_unstable();
        assert_eq!(named, expected);
        let account = oidc_account(ISSUER, "1");
        assert_eq!(sessions.accounts.named(&account).await, Ok(vec![one.key.tag]));
    }

    #[tokio::test]
    async fn a_logout_with_a_session_ends_that_session_only() {
        let sessions = setup();
        let first = log_in(&sessions, "1", Some("a")).await;
        let second = log_in(&sessions, "1", Some("b")).await;
        let token = logout("t", Some("a"), Some("1"));
        assert_eq!(sessions.log_out_at_provider(&token).await, Ok(true));
        assert_eq!(live(&sessions, [&first, &second]).await, [false, true]);
    }

    /// Some providers name the session in the logout token only.
    #[tokio::test]
    async fn a_logout_ends_sessions_of_which_no_provider_session_is_known() {
        let sessions = setup();
        let (unknown, other) =
            (log_in(&sessions, "1", None).await, log_in(&sessions, "2", None).await);
        let token = logout("t", Some("a"), Some("1"));
        assert_eq!(sessions.log_out_at_provider(&token).await, Ok(true));
        assert_eq!(live(&sessions, [&unknown, &other]).await, [false, true]);
    }

    /// Keycloak sends another subject than in the ID token if it is pairwise.
    #[tokio::test]
    async fn a_logout_with_another_subject_ends_the_session_it_names() {
        let sessions = setup();
        let session = log_in(&sessions, "pairwise", Some("a")).await;
        let token = logout("t", Some("a"), Some("public"));
        assert_eq!(sessions.log_out_at_provider(&token).await, Ok(true));
        assert_eq!(live(&sessions, [&session]).await, [false]);
    }

    #[tokio::test]
    async fn a_logout_with_a_subject_ends_all_sessions_of_the_account() {
        let sessions = setup();
        let one = log_in(&sessions, "1", Some("a")).await;
        let two = log_in(&sessions, "1", None).await;
        let other = log_in(&sessions, "2", Some("c")).await;
        assert_eq!(sessions.log_out_at_provider(&logout("t", None, Some("1"))).await, Ok(true));
        assert_eq!(live(&sessions, [&one, &two, &other]).await, [false, false, true]);
    }

    #[tokio::test]
    async fn a_logout_token_works_once() {
        let sessions = setup();
        let token = logout("t", None, Some("1"));
        assert_eq!(sessions.log_out_at_provider(&token).await, Ok(true));
        let later = log_in(&sessions, "1", None).await;
        assert_eq!(sessions.log_out_at_provider(&token).await, Ok(false));
        assert_eq!(live(&sessions, [&later]).await, [true]);
        let other_issuer = LogoutToken { issuer: "https://b.test".to_owned(), ..token };
        assert_eq!(sessions.log_out_at_provider(&other_issuer).await, Ok(true));
    }

    #[tokio::test]
    async fn a_logout_before_the_end_of_its_login_prevents_the_session() {
        let sessions = setup();
        let session = log_in(&sessions, "1", Some("a")).await;
        let key = SessionKey { id: SessionId([9; 16]), ..session.key };
        let login = VerifiedLogin {
            identity: Arc::clone(&session.record.identity),
            credential_digest: [0; 8],
            second_factor: false,
            external: Some(Box::new(ExternalFacts {
                provider_session: Some(crate::identity::session_name(ISSUER, "a")),
                ..ExternalFacts::default()
            })),
        };
        let until = NOW.plus(Duration::from_hours(1));
        sessions.accounts.add(&login, key, until).await.expect("memory");
        let token = logout("t", Some("a"), None);
        assert_eq!(sessions.log_out_at_provider(&token).await, Ok(true));
        assert!(sessions.store().create(&key, b"record", NOW, until).await.is_err());
    }
}
