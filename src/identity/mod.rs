//! Login methods: passwords of a users file, with rate limits, LDAP directories and OpenID Connect providers.
//!
//! | module | contents |
//! | --- | --- |
//! | [`login_method`] | [`LoginMethod`]: the configured login methods; [`VerifiedLogin`]: their result |
//! | [`password`] | [`PasswordLogin`]: one login attempt |
//! | `login_providers` | [`LoginProviders`]: the external providers of one configuration |
//! | [`external`] | [`LoginProvider`]: an OpenID Connect provider, and the identity of its users |
//! | `kept_claims` | the claims of a provider that templates of routes contain |
//! | [`ldap`] | [`LdapLogins`]: one login attempt at the LDAP directories |
//! | [`confirmation`] | [`Confirmer`]: confirms accounts of external providers |
//! | `hash_queue` | the fair queue for password hashing |
//! | [`password_policy`] | rules for new passwords |
//! | [`directory`] | [`Directory`]: the accounts in the current users file |
//! | [`account`] | one account and the validation of its fields |
//! | [`credential`] | a stored password hash: argon2id or bcrypt, with bounded cost |
//! | [`users_file`] | parser for the users file; reports all problems |
//! | [`users_file_editor`] | changes to the users file that keep its comments |
//! | [`htpasswd`] | import from an htpasswd file |
//! | [`private_file`] | files readable only by their owner, replaced atomically |
//!
//! Invariants:
//! - Unknown, disabled and existing names take the same code path, run the same kind of hash and
//!   get the same response. The login form does not reveal which accounts exist.
//! - A hash runs only with a permit and keeps it until it ends, even if its request is gone. A
//!   flood of logins takes a bounded number of cores and amount of memory.
//! - An unreadable or invalid users file never replaces a valid one.
//! - No password and no stored hash appears in a log or in `Debug` output.

pub mod account;
pub mod confirmation;
pub mod credential;
pub mod directory;
pub mod external;
mod hash_queue;
pub mod htpasswd;
mod kept_claims;
pub mod ldap;
pub mod login_method;
mod login_providers;
pub mod password;
pub mod password_policy;
pub mod private_file;
pub mod users_file;
pub mod users_file_editor;

pub use account::Account;
pub use confirmation::{ConfirmFailure, Confirmation, Confirmer};
pub use credential::{Cost, Credential};
pub use directory::{AccountChange, ChangeKind, Directory};
pub use external::{LoginProvider, hash_session, session_name};
pub use hash_queue::QueuePlace;
pub use ldap::{LdapAttempt, LdapLogins, LdapOutcome};
pub use login_method::{ExternalFacts, LoginMethod, LoginMethods, VerifiedLogin};
pub use login_providers::LoginProviders;
pub use password::{LoginOutcome, PasswordLogin, PasswordSettings};
pub use users_file::UsersError;
