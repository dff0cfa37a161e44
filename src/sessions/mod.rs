//! Session service: creates, lists, rotates, restricts and ends sessions.
//!
//! A verified store wraps the store of one worker and checks each loaded session against the
//! [session cache](crate::store::SessionCache).
//! The services above it have one noun each: [`Sessions`], [`Revoker`], [`SessionUpdater`],
//! [`UserHistories`], [`LoginThrottle`], [`Accounts`] and [`ProviderTokenStore`]. All workers share [`Shared`].

mod accounts;
mod connection_check;
mod end_cause;
pub(crate) mod end_report;
pub(crate) mod events;
mod expiry_schedule;
mod expiry_watch;
pub(crate) mod global_revocation;
mod login_throttle;
mod new_token;
mod outage;
mod pending_ends;
mod personal_tokens;
mod provider_logout;
mod provider_tokens;
mod recheck;
mod recheck_attempts;
mod revocation;
mod sealed_values;
mod second_factors;
mod service;
mod settings;
mod shared;
#[cfg(test)]
pub(crate) mod test_support;
mod token_accounts;
mod token_throttle;
mod updater;
mod user_history;
mod user_ref;
pub(crate) mod verified_store;

pub use accounts::Accounts;
pub use connection_check::{follow_changes, revalidate_connections};
pub use end_cause::{EndCause, SessionInfo};
pub use events::Events;
pub use login_throttle::{LoginAttempt, LoginThrottle};
pub use new_token::NewToken;
pub use outage::StoreOutage;
pub use personal_tokens::{NewGrant, PersonalTokens, TokenCreationError, TokenDenial};
pub use provider_tokens::{ProviderTokenStore, ProviderTokens, RefreshClaim};
pub use revocation::{ConfirmedRevocation, Revoker};
pub use second_factors::{AddAppError, FactorOwner, NewFactor, SecondFactorStore};
pub use service::{NewSession, RecoverableSession, Sessions};
pub use settings::SessionSettings;
pub use shared::{Shared, SharedParts};
pub use token_throttle::TokenThrottle;
pub use updater::SessionUpdater;
pub use user_history::UserHistories;
pub use user_ref::UserRef;
