//! HTTP messages as values: heads, targets, hosts, cookies, identity headers. Pure: no socket.
//!
//! | module | contents |
//! | --- | --- |
//! | [`host`] | host names as routes and cookies compare them |
//! | [`token_credentials`] | personal access tokens in headers |
//! | [`target`] | canonical path for decisions, raw bytes for forwarding |
//! | [`inbound`] | validated request head: `InboundHead` |
//! | [`hop`] | hop-by-hop headers |
//! | [`forwarded`] | parser for `Forwarded` and `X-Forwarded-For` |
//! | [`cookies`] | lookup of the gateway's cookies, and their removal before forwarding |
//! | [`identity_headers`] | headers that carry the user's identity to an upstream |
//! | [`method_override`] | methods that a request names beside its own |
//! | [`reserved_headers`] | headers that a client may not send to an upstream |
//! | [`sanitize`] | `InboundHead` without reserved headers: `SanitizedHead` |
//! | [`csrf`] | check of cross-origin requests |
//! | [`path_ambiguity`] | interpretations of an ambiguous path |
//! | [`request_id`] | request IDs |
//! | [`intent`] | navigation or fetch: the form of a response, never the decision |
//! | [`response_headers`] | removal of reserved headers from an upstream's response |
//! | [`connection_auth`] | NTLM and Kerberos, which authenticate a connection |
//! | [`endpoint`] | address of an upstream |

pub mod connection_auth;
pub mod cookies;
pub mod csrf;
pub mod endpoint;
pub mod forwarded;
pub mod header_lines;
pub mod hop;
pub mod host;
pub mod identity_headers;
pub mod inbound;
pub mod intent;
pub mod method_override;
pub mod path_ambiguity;
pub mod request_id;
pub mod reserved_headers;
pub mod response_headers;
pub mod sanitize;
pub mod target;
pub mod token_credentials;

pub use cookies::{CookieLookup, CookieNames, CookieSettings};
pub use csrf::{CrossOriginPolicy, Origin};
pub use endpoint::Endpoint;
pub use header_lines::HeaderLines;
pub use host::{Host, HostPattern};
pub use identity_headers::{IdentityHeader, IdentityHeaders, ValueEncoding};
pub use inbound::{BadRequest, InboundHead, RequestContext};
pub use intent::{Intent, Requester};
pub use path_ambiguity::{Ambiguity, AmbiguousPath, Interpretations};
pub use request_id::{RequestId, RequestIds};
pub use reserved_headers::{HeaderRules, ReservedHeaders};
pub use sanitize::SanitizedHead;
pub use target::{PathPrefix, Target, TargetError};
