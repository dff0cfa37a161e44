//! Passwords: the users file, the check of a password, and the brakes on guessing.
//!
//! | module | what |
//! | --- | --- |
//! | [`password`] | [`PasswordLogin`]: one attempt, from the brakes to the verdict |
//! | [`throttle`] | who may try how often |
//! | [`directory`] | [`Directory`]: the accounts as the file has them now |
//! | [`account`] | one account, and what makes one valid |
//! | [`credential`] | a stored password: argon2id or bcrypt, checked and bounded |
//! | [`users_file`] | the text of the users file, read with all its problems |
//! | [`edit`] | changes to the users file that keep its comments |
//! | [`htpasswd`] | what can be taken over from an htpasswd file |
//! | [`private_file`] | files that only their owner may read, replaced in one step |
//!
//! Invariants:
//! - Unknown, disabled and known names take the same path and the same kind of hash, and get the same
//!   answer: nobody learns from us who has an account.
//! - A hash runs only while it holds a permit, and keeps the permit until it ends, even when the
//!   request behind it is gone: a flood of logins costs so many cores and so much memory, no more.
//! - A users file that cannot be read or is wrong never replaces one that was right.
//! - No password and no stored hash reaches a log or a `Debug` output.

pub mod account;
pub mod credential;
pub mod directory;
pub mod edit;
pub mod htpasswd;
pub mod password;
pub mod private_file;
pub mod throttle;
pub mod users_file;

pub use account::Account;
pub use credential::{Cost, Credential};
pub use directory::{AccountChange, ChangeKind, Directory};
pub use password::{Attempt, PasswordLogin, Settings};
pub use users_file::UsersError;
