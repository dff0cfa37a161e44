//! Session actions triggered by an upstream response: its logout, a sensitive action, or a command in the
//! `Doorward-Session` header.
//!
//! Invariants:
//! - The header never reaches a client. It takes effect only where the route allows it.
//! - A session ends in the store before its cookie is cleared. If it cannot be ended, the response is a 503:
//!   a user who sees a logout page leaves the device.
//! - A failed rotation leaves the token valid, so a store outage logs out no user.
//! - A client that disconnects cancels nothing: the upstream has processed the logout, and so must the proxy.

use std::sync::Arc;
use std::time::Instant;

use http::header::HeaderName;
use http::{HeaderMap, Response, StatusCode};

use tracing::warn;

use crate::auth::Permit;
use crate::connections::{ClientBody, ClientUpgrade, SessionSnapshot};
use crate::message::{CookieLookup, InboundHead, Requester};
use crate::portal::Problem;
use crate::route::{Route, SessionCommand, is_success};
use crate::session::{ClientContext, EndReason};
use crate::sessions::{EndCause, NewToken, UserRef};
use crate::store::Unavailable;
use crate::telemetry::events::Actor;

use super::ConnectionInfo;
use super::access_log::AccessLogEntry;
use super::body::ResponseBody;
use super::forward::{Forwarder, IncomingBody};
use super::respond::{LocalHeaders, PendingResponse};

const CONTROL_HEADER: HeaderName = HeaderName::from_static("doorward-session");

/// A permitted request with everything that its task needs.
pub(super) struct PendingExchange {
    pub(super) head: InboundHead,
    pub(super) body: ClientBody,
    pub(super) upgrade: Option<Box<ClientUpgrade>>,
    pub(super) connection: Arc<ConnectionInfo>,
    pub(super) permit: Permit,
    /// The token to set with the response.
    pub(super) token: Option<NewToken>,
}

/// The parts of a request that are needed when its response triggers a session action.
pub(super) struct SessionControl {
    forwarder: Arc<Forwarder>,
    accepted: Vec<SessionCommand>,
    cookie: CookieLookup,
    context: ClientContext,
    requester: Requester,
    /// Name of the requested host.
    host: String,
    logs_out: bool,
    rotates: bool,
}

impl SessionControl {
    /// `None` if no response to this request can trigger an action, which is the common case.
    pub(super) fn for_request(
        forwarder: &Arc<Forwarder>,
        head: &InboundHead,
        route: &Route,
    ) -> Option<SessionControl> {
        let rules = &route.session_control;
        if rules.is_empty() {
            return None;
        }
        let path = head.target.path();
        let (logs_out, rotates) = (
            rules.is_logout(path, head.target.query()),
            rules.is_sensitive_action(head.methods(), path),
        );
        if !logs_out && !rotates && rules.upstream_commands.is_empty() {
            return None;
        }
        Some(SessionControl {
            forwarder: Arc::clone(forwarder),
            accepted: rules.upstream_commands.clone(),
            cookie: forwarder.context.auth.session_cookie(&head.headers),
            context: head.client_context(),
            requester: head.requester.clone(),
            host: head.host.name().to_owned(),
            logs_out,
            rotates,
        })
    }

    /// Forwards the request and applies the session action, in a task that outlives the client connection.
    pub(super) async fn run_detached(
        self,
        exchange: PendingExchange,
        entry: &mut AccessLogEntry,
    ) -> PendingResponse {
        let (forwarder, requester) = (Arc::clone(&self.forwarder), self.requester.clone());
        // For a client that leaves before the task has ended.
        entry.record_forwarded(Instant::now());
        let mut task_entry = entry.clone();
        let result = forwarder.context.tunnels.tracker.spawn(async move {
            let pending = self.forward_and_apply(exchange, &mut task_entry).await;
            (pending, task_entry)
        });
        match result.await {
            Ok((pending, task_entry)) => {
                *entry = task_entry;
                pending
            }
            Err(_) => {
                let problem = Problem::Upstream(StatusCode::BAD_GATEWAY);
                let page = forwarder.portal.problem(&requester, problem);
                PendingResponse::local(page.map(ResponseBody::Local), LocalHeaders::default())
            }
        }
    }

    async fn forward_and_apply(
        &self,
        exchange: PendingExchange,
        entry: &mut AccessLogEntry,
    ) -> PendingResponse {
        let PendingExchange { head, body, upgrade, connection, permit, token } = exchange;
        let incoming = IncomingBody { body, upgrade, connection: &connection };
        let pending =
            self.forwarder.forward(head, incoming, &permit, entry).await.with_token(token);
        self.apply_command(&permit, pending).await
    }

    /// Applies the session action of the response.
    async fn apply_command(&self, permit: &Permit, pending: PendingResponse) -> PendingResponse {
        let (Some(command), Some(session)) = (self.command(&pending.response), permit.snapshot())
        else {
            return pending;
        };
        match command {
            SessionCommand::Rotate => self.rotate(pending).await,
            SessionCommand::Reauthenticate => {
                let result = self
                    .forwarder
                    .context
                    .auth
                    .sessions()
                    .updater
                    .require_reauthentication(session, &self.context)
                    .await;
                self.or_unavailable(pending, result)
            }
            SessionCommand::End => {
                let client = self.context.clone();
                let result = self
                    .forwarder
                    .context
                    .auth
                    .sessions()
                    .revoker
                    .end_current(session, client)
                    .await;
                self.finish_end(pending, result)
            }
            SessionCommand::EndAll => {
                let result = self.end_all(session).await;
                self.finish_end(pending, result)
            }
        }
    }

    async fn rotate(&self, pending: PendingResponse) -> PendingResponse {
        match self
            .forwarder
            .context
            .auth
            .sessions()
            .updater
            .rotate(&self.cookie, &self.context)
            .await
        {
            Ok(None) => pending,
            Ok(token) => PendingResponse { token, ..pending },
            Err(error) => {
                warn!(event = "session.rotation-failed", %error, "token rotation after a sensitive action failed; the token rotates by age instead");
                pending
            }
        }
    }

    async fn end_all(&self, session: &SessionSnapshot) -> Result<(), Unavailable> {
        let actor = Actor::App { session: session.key.id, client: self.context.clone() };
        let cause = EndCause { reason: EndReason::LogoutByApp, actor };
        let user = &session.record.identity.user;
        self.forwarder
            .context
            .auth
            .sessions()
            .revoker
            .revoke_user_sessions(UserRef::of(&session.key, user), None, cause)
            .await
            .map(drop)
    }

    fn finish_end(
        &self,
        pending: PendingResponse,
        result: Result<(), Unavailable>,
    ) -> PendingResponse {
        let mut pending = self.or_unavailable(pending, result.clone());
        if result.is_ok() {
            pending.token = None;
            pending.ended_at = Some(self.host.clone());
        }
        pending
    }

    fn or_unavailable(
        &self,
        pending: PendingResponse,
        result: Result<(), Unavailable>,
    ) -> PendingResponse {
        match result {
            // The response that ended the session completes; other tracked connections are closed.
            Ok(()) => PendingResponse {
                response: pending.response.map(ResponseBody::untracked),
                ..pending
            },
            Err(_) => {
                let response =
                    self.forwarder.portal.unavailable(&self.requester).map(ResponseBody::Local);
                PendingResponse::local(response, LocalHeaders::default()).with_token(pending.token)
            }
        }
    }

    /// The action that the response triggers. The most severe one wins.
    fn command(&self, response: &Response<ResponseBody>) -> Option<SessionCommand> {
        let sent = upstream_command(response.headers());
        let sent = sent.filter(|command| self.accepted.contains(command));
        if sent == Some(SessionCommand::EndAll) {
            return sent;
        }
        if self.logs_out {
            return Some(SessionCommand::End);
        }
        let rotates = self.rotates && is_success(response.status());
        sent.or(rotates.then_some(SessionCommand::Rotate))
    }
}

/// The command of an upstream response. Local responses never have the header.
fn upstream_command(headers: &HeaderMap) -> Option<SessionCommand> {
    let mut values = headers.get_all(CONTROL_HEADER).iter();
    let value = values.next()?.to_str().ok()?.trim();
    values.next().is_none().then(|| SessionCommand::from_name(value)).flatten()
}
