//! The connections of one worker, grouped by what their routes ask of them.

use std::path::PathBuf;
use std::time::Duration;

use crate::route::Route;
use crate::tls::{self, TlsError};
use crate::upstream::{UpstreamError, UpstreamSettings, Upstreams};

use super::RequestBody;

/// Routes that trust the same authority and wait the same time share their connections.
#[derive(Default)]
pub struct UpstreamGroups {
    groups: Vec<Group>,
}

struct Group {
    ca: Option<PathBuf>,
    response_timeout: Duration,
    upstreams: Upstreams<RequestBody>,
}

impl UpstreamGroups {
    /// Reads the authorities that the routes name.
    pub fn new<'a>(routes: impl Iterator<Item = &'a Route>) -> Result<UpstreamGroups, TlsError> {
        let mut made = UpstreamGroups::default();
        for route in routes {
            if made.find(route).is_none() {
                made.groups.push(Group::new(route)?);
            }
        }
        Ok(made)
    }

    /// The group of a route that was there at [`UpstreamGroups::new`].
    pub(super) fn of(&self, route: &Route) -> Result<&Upstreams<RequestBody>, UpstreamError> {
        self.find(route).map(|group| &group.upstreams).ok_or(UpstreamError::NoEndpoint)
    }

    fn find(&self, route: &Route) -> Option<&Group> {
        self.groups.iter().find(|group| {
            group.response_timeout == route.response_timeout && group.ca == route.upstream_ca
        })
    }
}

impl Group {
    fn new(route: &Route) -> Result<Group, TlsError> {
        let settings = UpstreamSettings {
            response_timeout: route.response_timeout,
            ..UpstreamSettings::default()
        };
        let trust = tls::client_config(route.upstream_ca.as_deref())?;
        Ok(Group {
            ca: route.upstream_ca.clone(),
            response_timeout: route.response_timeout,
            upstreams: Upstreams::new(settings, &trust),
        })
    }
}
