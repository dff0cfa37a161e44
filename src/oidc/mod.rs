//! OpenID Connect: the gateway as relying party of external providers.
//!
//! Invariants:
//! - The account of a user is (issuer, subject). An address is a claim, and counts only when verified.
//! - A provider that does not respond refuses nothing: [`ProviderUnavailable`] is never a [`LoginRefusal`].
//! - Algorithms come from the gateway's list and the provider's metadata, never from a token.
//! - Every response has a limit in size and time. Keys are fetched at most once in 30 seconds.
//! - Groups that cannot be determined end the login. They are never silently missing.
//!
//! | module | content |
//! | --- | --- |
//! | [`provider`] | the operations: start, finish, refresh, logout |
//! | [`settings`] | settings of a provider |
//! | [`login_state`] | the sealed state of a login between redirect and callback |
//! | [`callback`] | parameters of the callback |
//! | [`login`] | the results |
//! | [`failure`] | the failures |
//! | `discovery`, `metadata` | endpoints and keys, fetched by one task |
//! | `jws`, `id_token`, `logout_token` | signatures, and the rules for tokens |
//! | `profile`, `user_claims` | from claims to the identity; UserInfo and group look-ups |
//! | `authorization_request`, `token_endpoint`, `end_session`, `requests` | requests to the provider |
//! | [`claim_path`], [`web_url`], [`client_key`] | checked values of the settings |

pub mod access_token;
mod authorization_request;
pub mod callback;
pub mod claim_path;
mod claim_values;
mod client_credentials;
pub mod client_key;
mod discovery;
mod end_session;
pub mod failure;
pub mod fuzz_support;
mod id_token;
mod jws;
pub mod login;
pub mod login_state;
mod logout_token;
mod metadata;
mod profile;
pub mod provider;
mod requests;
pub mod settings;
mod token_endpoint;
mod user_claims;
pub mod web_url;

pub use callback::Callback;
pub use claim_path::ClaimPath;
pub use client_key::{ClientKey, ClientKeyError};
pub use failure::{
    AccessTokenFailure, LoginFailure, LoginRefusal, LogoutTokenFailure, ProviderUnavailable,
    RefreshFailure, StateError,
};
pub use login::{
    AccessToken, EndSession, EndSessionRequest, LogoutToken, OidcLogin, Profile, RefreshRequest,
    RefreshedLogin, Tokens,
};
pub use login_state::{BrowserBinding, MAX_RETURN_STATE, PendingLogin, StartRequest};
pub use provider::{OidcProvider, ProviderStatus};
pub use settings::{AllowRules, ClaimMapping, ClientAuth, ClientSecret, OidcSettings};
pub use web_url::{WebUrl, WebUrlError};
