//! Login methods whose accounts this gateway checks at every request. Another one (passkeys) is a variant
//! of [`LoginMethod`] and a file. Accounts of external providers are checked at the provider.

use std::fmt;
use std::sync::Arc;

use crate::clock::UnixMillis;
use crate::session::{EndReason, Identity, Provider, Record};

use super::account::Account;
use super::password::PasswordLogin;

/// A configured login method.
#[derive(Clone, Debug)]
pub enum LoginMethod {
    /// Passwords of the users file.
    Password(Arc<PasswordLogin>),
}

/// The result of a successful login, for which a session can be created.
#[derive(Clone, Debug)]
pub struct VerifiedLogin {
    pub identity: Arc<Identity>,
    /// Digest of the credential used; zero if the login method has none. The session ends when it
    /// changes.
    pub credential_digest: [u8; 8],
    /// Whether the user proved a second factor.
    pub second_factor: bool,
    /// What an external provider reported beside the identity.
    pub external: Option<Box<ExternalFacts>>,
}

/// What an external provider reports beside the identity.
#[derive(Clone, Default)]
pub struct ExternalFacts {
    /// Issuer and its ID of the session; `None` if the provider named none.
    pub provider_session: Option<String>,
    /// When the user proved their identity to the provider; zero if it is unknown.
    pub authenticated: UnixMillis,
    /// The encoded ID token.
    pub id_token: String,
    pub refresh_token: Option<String>,
}

/// Without the tokens.
impl fmt::Debug for ExternalFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExternalFacts(authenticated {:?})", self.authenticated)
    }
}

impl From<&Account> for VerifiedLogin {
    fn from(account: &Account) -> VerifiedLogin {
        VerifiedLogin {
            identity: Arc::clone(&account.identity),
            credential_digest: account.credential_digest,
            second_factor: false,
            external: None,
        }
    }
}

impl LoginMethod {
    /// Whether the session was created by a login with this method.
    fn owns(&self, record: &Record) -> bool {
        match self {
            LoginMethod::Password(_) => record.identity.provider == Provider::Password,
        }
    }

    /// Returns the current identity of a session's user, or the reason why the session must end.
    ///
    /// Groups and addresses are current, not those of the login.
    fn current_identity(&self, record: &Record) -> Result<Arc<Identity>, EndReason> {
        match self {
            LoginMethod::Password(login) => login.directory().current_identity(record),
        }
    }
}

/// The configured login methods. Empty on a gateway whose users log in elsewhere.
#[derive(Clone, Debug, Default)]
pub struct LoginMethods(Vec<LoginMethod>);

impl LoginMethods {
    pub fn new(methods: Vec<LoginMethod>) -> LoginMethods {
        LoginMethods(methods)
    }

    /// Returns the current identity of a session's user, or the reason why the session must end.
    ///
    /// Only the login method of the session can end it. If this gateway does not have it, another
    /// gateway on the same store does, and the recorded identity is used.
    pub fn current_identity(&self, record: &Record) -> Result<Arc<Identity>, EndReason> {
        match self.0.iter().find(|method| method.owns(record)) {
            Some(method) => method.current_identity(record),
            None => Ok(Arc::clone(&record.identity)),
        }
    }

    /// Returns the login with a password, if configured.
    #[expect(clippy::unnecessary_find_map, reason = "login methods without a password will follow")]
    pub fn password(&self) -> Option<&Arc<PasswordLogin>> {
        self.0.iter().find_map(|method| match method {
            LoginMethod::Password(login) => Some(login),
        })
    }

    /// Whether users can change their password.
    pub fn is_changeable(&self) -> bool {
        self.password().is_some_and(|login| login.settings().is_changeable)
    }

    /// Returns the credential digest of a name's account; zero if there is no account.
    pub fn credential_digest(&self, name: &str) -> [u8; 8] {
        let account = self.password().and_then(|login| login.directory().find(name));
        account.map_or([0; 8], |account| account.credential_digest)
    }

    /// Returns the identity of an account of the users file that may log in.
    pub fn enabled_account(&self, user: &str) -> Option<Arc<Identity>> {
        let account = self.password()?.directory().find(user)?;
        (!account.disabled).then(|| Arc::clone(&account.identity))
    }

    /// Returns a user's name in the spelling of their account, if they have one.
    pub fn user(&self, name: &str) -> Option<String> {
        let account = self.password()?.directory().find(name)?;
        Some(account.identity.user.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Cost, Credential, Directory, PasswordSettings};
    use crate::secret::{KeyRing, random_bytes};
    use crate::session::{ClientContext, SessionId, SessionKey, Token, UserTag};

    fn record(user: &str, credential: [u8; 8], provider: Provider) -> Record {
        let keys = KeyRing::generate("now");
        let key = SessionKey { tag: UserTag(keys.user_tag(user)), id: SessionId(random_bytes()) };
        let token = Token::new(keys.signing_key().0, key, 0, random_bytes());
        let identity = Identity { user: user.to_owned(), provider, ..Identity::default() };
        let from = ClientContext::new([127, 0, 0, 1].into(), b"test");
        let (at, end) = (UnixMillis(1_000), UnixMillis(2_000));
        Record { credential, ..Record::new(identity, &token, at, end, from) }
    }

    fn passwords(directory: &tempfile::TempDir) -> LoginMethods {
        let stored =
            Credential::hash("password", Cost::Argon2id { m: 8, t: 1, p: 1 }).expect("a hash");
        let path = directory.path().join("users.toml");
        let text = format!("[[user]]\nname = \"alice\"\npassword = \"{}\"\n", stored.stored());
        std::fs::write(&path, text).expect("written");
        let users = Arc::new(Directory::open(&path).expect("a users file"));
        let keys = KeyRing::generate("now");
        let login = PasswordLogin::new(users, PasswordSettings::default(), keys.login().clone());
        LoginMethods::new(vec![LoginMethod::Password(Arc::new(login.expect("settings")))])
    }

    #[test]
    fn only_the_login_method_of_a_session_can_end_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let methods = passwords(&directory);
        let login = methods.password().expect("configured").directory().find("alice");
        let alice = VerifiedLogin::from(login.expect("an account").as_ref());
        let end = |user, digest, provider| {
            methods.current_identity(&record(user, digest, provider)).err()
        };
        assert_eq!(end("alice", alice.credential_digest, Provider::Password), None);
        assert_eq!(end("alice", [1; 8], Provider::Password), Some(EndReason::CredentialChanged));
        assert_eq!(end("bob", [1; 8], Provider::Password), Some(EndReason::AccountGone));
        // Bob has no account in the users file, but logged in elsewhere.
        assert_eq!(end("bob", [0; 8], Provider::External(Box::default())), None);
        let no_methods = LoginMethods::default();
        let recorded = no_methods.current_identity(&record("bob", [1; 8], Provider::Password));
        assert_eq!(recorded.expect("the recorded identity").user, "bob");
    }
}
