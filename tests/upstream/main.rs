//! The gateway's HTTP clients against well-behaved, broken and hostile servers: upstreams and OpenID Connect
//! providers, and LDAP directories.

mod client;
mod endpoints;
mod ldap;
mod oidc;
mod races;
mod responses;
