//! Logins at LDAP directories and Active Directory.
//!
//! | module | contents |
//! | --- | --- |
//! | [`directory`] | [`LdapDirectory`]: one login, and the confirmation of an account |
//! | `connection` | one connection: TLS, bind, search, and the limits on responses |
//! | `entry` | an entry of a search result |
//! | [`account`] | from an entry to the account: names, groups, states that prevent a login |
//! | `dn` | distinguished names |
//! | `password` | passwords that a directory could take for an anonymous login |
//! | [`failure`] | why there is no login |
//!
//! Invariants:
//! - The password of a user is sent on a connection of its own, which serves nothing else.
//! - No password is sent before the server has proved its name by TLS, except within this machine.
//! - Responses are limited in size, depth, number and time. Referrals are not followed.
//! - Exactly one entry is an account. No answer is ever "no account" because of an error.
//! - The module sees no cookies, stores or pages, and logs nothing itself.

pub mod account;
mod connection;
pub mod directory;
mod dn;
mod entry;
pub mod failure;
mod password;

pub use account::LdapAccount;
pub use directory::{LdapDirectory, ServiceAccount};
pub use failure::{LdapFailure, LdapRefusal};
