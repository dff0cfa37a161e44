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

use http::header::HeaderName;
use http::{HeaderMap, Response, StatusCode};

use tracing::warn;

use crate::auth::Permit;
use crate::connections::{ClientBody, SessionSnapshot};
use crate::message::{CookieLookup, InboundHead, Requester};
use crate::portal::Problem;
use crate::route::{Route, SessionCommand, is_success};
use crate::session::{ClientContext, EndReason};
use crate::sessions::{EndCause, NewToken};
use crate::store::Unavailable;
use crate::telemetry::events::Actor;

use super::access_log::AccessLogEntry;
use super::body::ResponseBody;
use super::forward::{IncomingBody, Upgrade};
use super::respond::{LocalHeaders, PendingResponse};
use super::{ConnectionInfo, Proxy};

const CONTROL_HEADER: HeaderName = HeaderName::from_static("doorward-session");

/// A permitted request with everything that its task needs.
pub(super) struct PendingExchange {
    pub(super) head: InboundHead,
    pub(super) body: ClientBody,
    pub(super) upgrade: Option<Upgrade>,
    pub(super) connection: Arc<ConnectionInfo>,
    pub(super) permit: Permit,
    /// The token to set with the response.
    pub(super) token: Option<NewToken>,
}

/// The parts of a request that are needed when its response triggers a session action.
pub(super) struct SessionControl {
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
        proxy: &Proxy,
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
            accepted: rules.upstream_commands.clone(),
            cookie: proxy.auth.session_cookie(&head.headers),
            context: head.client_context(),
            requester: head.requester.clone(),
            host: head.host.name().to_owned(),
            logs_out,
            rotates,
        })
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

impl Proxy {
    /// Forwards the request and applies the session action, in a task that outlives the client connection.
    pub(super) async fn run_detached(
        self: &Arc<Self>,
        exchange: PendingExchange,
        control: SessionControl,
        entry: &mut AccessLogEntry,
    ) -> PendingResponse {
        let (proxy, requester, mut task_entry) =
            (Arc::clone(self), control.requester.clone(), entry.clone());
        let result = self.tunnels.tracker.spawn(async move {
            let pending = proxy.forward_and_apply(exchange, control, &mut task_entry).await;
            (pending, task_entry)
        });
        match result.await {
            Ok((pending, task_entry)) => {
                *entry = task_entry;
                pending
            }
            Err(_) => {
                let problem = Problem::Upstream(StatusCode::BAD_GATEWAY);
                let page = self.portal.problem(&requester, problem);
                PendingResponse::local(page.map(ResponseBody::Local), LocalHeaders::default())
            }
        }
    }

    async fn forward_and_apply(
        &self,
        exchange: PendingExchange,
        control: SessionControl,
        entry: &mut AccessLogEntry,
    ) -> PendingResponse {
        let PendingExchange { head, body, upgrade, connection, permit, token } = exchange;
        let incoming = IncomingBody { body, upgrade, connection: &connection };
        let pending = self.forward(head, incoming, &permit, entry).await.with_token(token);
        self.apply_command(control, &permit, pending).await
    }

    /// Applies the session action of the response.
    async fn apply_command(
        &self,
        control: SessionControl,
        permit: &Permit,
        pending: PendingResponse,
    ) -> PendingResponse {
        let (Some(command), Some(session)) =
            (control.command(&pending.response), permit.snapshot())
        else {
            return pending;
        };
        match command {
            SessionCommand::Rotate => self.rotate(&control, pending).await,
            SessionCommand::Reauthenticate => {
                let result = self
                    .auth
                    .sessions()
                    .updater
                    .require_reauthentication(session, &control.context)
                    .await;
                self.or_unavailable(&control, pending, result)
            }
            SessionCommand::End => {
                let client = control.context.clone();
                let result = self.auth.sessions().revoker.end_current(session, client).await;
                self.finish_end(&control, pending, result)
            }
            SessionCommand::EndAll => {
                let result = self.end_all(session, &control).await;
                self.finish_end(&control, pending, result)
            }
        }
    }

    async fn rotate(&self, control: &SessionControl, pending: PendingResponse) -> PendingResponse {
        match self.auth.sessions().updater.rotate(&control.cookie, &control.context).await {
            Ok(None) => pending,
            Ok(token) => PendingResponse { token, ..pending },
            Err(error) => {
                warn!(event = "session.rotation-failed", %error, "token rotation after a sensitive action failed; the token rotates by age instead");
                pending
            }
        }
    }

    async fn end_all(
        &self,
        session: &SessionSnapshot,
        control: &SessionControl,
    ) -> Result<(), Unavailable> {
        let actor = Actor::App { session: session.key.id, client: control.context.clone() };
        let cause = EndCause { reason: EndReason::LogoutByApp, actor };
        self.auth
            .sessions()
            .revoker
            .revoke_user_sessions(&session.record.identity.user, None, cause)
            .await
            .map(drop)
    }

    fn finish_end(
        &self,
        control: &SessionControl,
        pending: PendingResponse,
        result: Result<(), Unavailable>,
    ) -> PendingResponse {
        let mut pending = self.or_unavailable(control, pending, result.clone());
        if result.is_ok() {
            pending.token = None;
            pending.ended_at = Some(control.host.clone());
        }
        pending
    }

    fn or_unavailable(
        &self,
        control: &SessionControl,
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
                let response = self.portal.unavailable(&control.requester).map(ResponseBody::Local);
                PendingResponse::local(response, LocalHeaders::default()).with_token(pending.token)
            }
        }
    }
}
