//! The health check of one endpoint: a GET request of the gateway itself.
//!
//! It has no identity headers, touches no session, and uses a connection of its own.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::Empty;
use tokio::time::timeout;

use crate::message::{Endpoint, HostPattern};
use crate::route::{HealthCheck, HostHeader, Route};
use crate::upstream::{Priority, UpstreamError, UpstreamSettings, Upstreams};

pub(super) type CheckClient = Upstreams<Empty<Bytes>>;

/// The check of a route, with its `Host` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) settings: HealthCheck,
    /// `None` is the address of the endpoint.
    host: Option<HeaderValue>,
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error("the health check got status {0}")]
    Status(StatusCode),
    #[error("the health check got no response in time")]
    Timeout,
    #[error("the health check failed: {0}")]
    Upstream(#[from] UpstreamError),
}

impl Check {
    /// Returns the check of a route; `None` if its endpoints are not checked.
    pub(super) fn of(route: &Route) -> Option<Check> {
        let settings = route.upstream_options.health.clone()?;
        let name = match (route.upstream_options.host_header, &route.host) {
            (HostHeader::Client, HostPattern::Exact(name)) => Some(name.as_str()),
            (HostHeader::Client, HostPattern::Subdomain(_) | HostPattern::Any) => None,
            (HostHeader::Upstream, _) => route.upstreams.first().map(|it| it.authority().as_str()),
        };
        Some(Check { settings, host: name.and_then(|name| HeaderValue::from_str(name).ok()) })
    }

    /// Sends the request to an endpoint.
    pub(super) async fn run(
        &self,
        client: &CheckClient,
        endpoint: &Endpoint,
    ) -> Result<(), CheckError> {
        // An open HTTP/2 connection would be used again, and may lead to a process that has ended.
        client.retain(|other| other != endpoint);
        let endpoints = std::slice::from_ref(endpoint);
        let sent = Box::pin(client.send(Priority::Authenticated, endpoints, self.request()));
        let response = timeout(self.settings.timeout, sent).await;
        let status = response.map_err(|_| CheckError::Timeout)??.status();
        match status.is_success() || status.is_redirection() {
            true => Ok(()),
            false => Err(CheckError::Status(status)),
        }
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = Uri::from(self.settings.path.clone());
        let agent = concat!("doorward/", env!("CARGO_PKG_VERSION"), " (health check)");
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        headers.extend(self.host.clone().map(|host| (HOST, host)));
        request
    }

    /// Returns settings with which each check opens a connection.
    pub(super) fn connection_settings(&self) -> UpstreamSettings {
        let limit = self.settings.timeout;
        UpstreamSettings {
            connect_timeout: limit,
            response_timeout: limit,
            idle_timeout: Duration::ZERO,
            max_idle_per_endpoint: 0,
            ..UpstreamSettings::default()
        }
    }
}
