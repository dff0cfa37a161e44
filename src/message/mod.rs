//! HTTP as values: heads, targets, hosts, cookies, identity fields. Pure; no socket.
//!
//! | module | what |
//! | --- | --- |
//! | [`host`] | a host name as routes and cookies see it |
//! | [`target`] | the path in its one canonical form, and the bytes that are forwarded |
//! | [`inbound`] | what a client sent, checked: `InboundHead` |
//! | [`hop`] | fields that concern one connection only |
//! | [`forwarded`] | what proxies say about the way that a request came |
//! | [`cookies`] | our cookies found, and kept from upstreams |
//! | [`identity`] | the fields that tell an upstream who the user is |
//! | [`sanitize`] | `InboundHead` without anything a client may not say: `SanitizedHead` |
//! | [`origins`] | whether a page of another site made a browser send it |
//! | [`readings`] | what other programs may take an ambiguous path for |
//! | [`request_id`] | the name of one request |
//! | [`intent`] | navigation or fetch: the form of an answer, never the decision |
//! | [`hygiene`] | what an upstream's answer may not say |
//! | [`endpoint`] | an upstream's address |

pub mod cookies;
pub mod endpoint;
pub mod forwarded;
pub mod hop;
pub mod host;
pub mod hygiene;
pub mod identity;
pub mod inbound;
pub mod intent;
pub mod origins;
pub mod readings;
pub mod request_id;
pub mod sanitize;
pub mod target;

pub use cookies::{CookieNames, Presented};
pub use endpoint::Endpoint;
pub use host::{Host, HostPattern};
pub use identity::{IdentityField, IdentityFields, ValueEncoding};
pub use inbound::{Arrival, BadRequest, InboundHead};
pub use intent::{Asker, Intent};
pub use origins::{Origin, Origins};
pub use readings::{Doubt, Readings};
pub use request_id::{RequestId, RequestIds};
pub use sanitize::{OwnedFields, SanitizedHead};
pub use target::{PathPrefix, Target, TargetError};
