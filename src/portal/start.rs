//! The start page of a host whose routes all have a path prefix.

use http::StatusCode;

use crate::message::InboundHead;

use super::Portal;
use super::pages::{self, StartPage};
use super::responses::{Page, html_page, see_other};

impl Portal {
    /// Lists the apps of this host that the user may open, or redirects to the configured one.
    pub(super) async fn show_start(&self, head: &InboundHead) -> Page {
        let session = match self.authenticate(head, true).await {
            Ok(session) => session,
            Err(denial) => return self.deny(head, &denial),
        };
        if let Some(start) = &self.branding.start {
            return self.with_session_token(see_other(start), &session);
        }
        let routes = self.routes.for_host(&head.host);
        let admitted = routes.filter(|route| route.admits(&session.identity));
        let mut apps: Vec<&str> = admitted.map(|route| route.path.as_str()).collect();
        apps.sort_unstable();
        let html = pages::render(&StartPage {
            site: &self.branding.name,
            host: head.host.name(),
            user: &session.identity.user,
            apps,
        });
        self.with_session_token(html_page(StatusCode::OK, html), &session)
    }
}
