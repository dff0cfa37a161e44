//! The gateway's HTTP clients against well-behaved, broken and hostile servers: upstreams and OpenID Connect
//! providers.

mod client;
mod endpoints;
mod oidc;
mod races;
mod responses;
