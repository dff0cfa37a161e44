//! The attempt of a login form: at the users file, or at the LDAP directories.

use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::identity::{LdapAttempt, LdapOutcome, LoginOutcome, PasswordLogin, VerifiedLogin};
use crate::ldap::{LdapFailure, LdapRefusal};
use crate::message::InboundHead;
use crate::telemetry::SessionEvent;

use super::Portal;
use super::pages::LoginNotice;
use super::responses::whole_seconds;

/// With directories, a refusal is sent this long after the attempt began. Otherwise its time would show whether
/// the users file or a directory has the name.
const REFUSED_AFTER: Duration = Duration::from_secs(1);

/// Time after which a client may try again while a directory does not answer.
const UNAVAILABLE: Duration = Duration::from_secs(30);

/// Why a form led to no login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoginDenial {
    /// Unknown name, disabled account of the users file or wrong password.
    Refused,
    /// The password is right, but the directory's account may not log in.
    AccountRefused,
    Throttled(Duration),
    /// Too many logins at a time.
    Busy(Duration),
    /// A directory does not answer.
    Unavailable,
}

impl LoginDenial {
    /// Returns the status, the message and the time after which a client may try again.
    pub(super) fn response(self) -> (StatusCode, LoginNotice, Option<Duration>) {
        match self {
            LoginDenial::Refused => (StatusCode::UNAUTHORIZED, LoginNotice::WrongPassword, None),
            LoginDenial::AccountRefused => {
                (StatusCode::FORBIDDEN, LoginNotice::AccountRefused, None)
            }
            LoginDenial::Throttled(wait) => {
                let seconds = whole_seconds(wait);
                (StatusCode::TOO_MANY_REQUESTS, LoginNotice::Throttled { seconds }, Some(wait))
            }
            LoginDenial::Busy(wait) => {
                (StatusCode::SERVICE_UNAVAILABLE, LoginNotice::Busy, Some(wait))
            }
            LoginDenial::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, LoginNotice::Unavailable, Some(UNAVAILABLE))
            }
        }
    }

    /// Returns the event to report. Failures of a service are no failed logins.
    pub(super) fn event(self) -> Option<SessionEvent> {
        match self {
            LoginDenial::Refused | LoginDenial::AccountRefused => Some(SessionEvent::LoginFailed),
            LoginDenial::Throttled(_) => Some(SessionEvent::LoginThrottled),
            LoginDenial::Busy(_) | LoginDenial::Unavailable => None,
        }
    }
}

impl Portal {
    /// Whether the login form works.
    pub(super) fn has_form_login(&self) -> bool {
        self.login.is_some() || !self.providers().ldap.is_empty()
    }

    /// Makes one attempt of the login form, within the limits on failed logins. A name of the users file is
    /// verified there only.
    pub(super) async fn verify_form(
        &self,
        head: &InboundHead,
        name: &str,
        password: Zeroizing<String>,
    ) -> Result<VerifiedLogin, LoginDenial> {
        let began = Instant::now();
        let has_directories = !self.providers().ldap.is_empty();
        let users_file = self
            .login
            .as_ref()
            .filter(|login| !has_directories || login.directory().find(name).is_some());
        let result = match users_file {
            Some(login) => {
                let outcome = self.verify_password(login, name, password, head.client).await;
                password_result(outcome)
            }
            None => self.verify_at_directories(head, name, password).await,
        };
        if has_directories && result.as_ref().err() == Some(&LoginDenial::Refused) {
            tokio::time::sleep_until(began + REFUSED_AFTER).await;
        }
        result
    }

    /// Verifies a password of the users file within the limits on failed logins.
    pub(super) async fn verify_password(
        &self,
        login: &PasswordLogin,
        name: &str,
        password: Zeroizing<String>,
        client: IpAddr,
    ) -> LoginOutcome {
        let throttle = &self.auth.sessions().throttle;
        let attempt = throttle.attempt(name, client).await;
        let charge = throttle.charge(&attempt);
        let outcome = login.verify(name, password, attempt.queue_place(), charge).await;
        if let LoginOutcome::Accept(_) = outcome {
            throttle.record_success(&attempt).await;
        }
        outcome
    }

    async fn verify_at_directories(
        &self,
        head: &InboundHead,
        name: &str,
        password: Zeroizing<String>,
    ) -> Result<VerifiedLogin, LoginDenial> {
        let shared = self.shared();
        let throttle = &self.auth.sessions().throttle;
        let counted = throttle.attempt(name, head.client).await;
        let attempt = LdapAttempt {
            name,
            password,
            place: counted.queue_place(),
            now: shared.clock.now(),
            is_in_users_file: &|user| shared.login_methods.user(user).is_some(),
        };
        match self.providers().ldap.verify(attempt, throttle.charge(&counted)).await {
            LdapOutcome::Accept(login) => {
                throttle.record_success(&counted).await;
                shared.metrics.providers.ldap_login(login.identity.provider.method(), "success");
                Ok(login)
            }
            LdapOutcome::Fail { directory, failure } => {
                shared.metrics.providers.ldap_login(&directory, failure.code());
                Err(report(head, &directory, &failure))
            }
            LdapOutcome::Throttle { retry_after } => Err(LoginDenial::Throttled(retry_after)),
            LdapOutcome::Busy { retry_after } => Err(LoginDenial::Busy(retry_after)),
        }
    }
}

fn password_result(outcome: LoginOutcome) -> Result<VerifiedLogin, LoginDenial> {
    match outcome {
        LoginOutcome::Accept(account) => Ok(account.as_ref().into()),
        LoginOutcome::Refuse => Err(LoginDenial::Refused),
        LoginOutcome::Throttle { retry_after } => Err(LoginDenial::Throttled(retry_after)),
        LoginOutcome::Busy { retry_after } => Err(LoginDenial::Busy(retry_after)),
    }
}

/// Logs why a directory admits no login. The name is left out, because people type passwords into its field.
fn report(head: &InboundHead, directory: &str, failure: &LdapFailure) -> LoginDenial {
    let request = head.requester.request.as_str();
    match failure {
        LdapFailure::Unavailable(error) => {
            warn!(
                event = "ldap.unavailable",
                provider = directory,
                request,
                error,
                "a login is not possible, because the directory does not answer; existing sessions are not affected"
            );
            LoginDenial::Unavailable
        }
        LdapFailure::Refused(refusal) => {
            let (reason, client) = (refusal.code(), head.client);
            info!(event = "ldap.login-failed", provider = directory, reason, request, error = %refusal, %client);
            denial(refusal)
        }
    }
}

fn denial(refusal: &LdapRefusal) -> LoginDenial {
    match refusal.is_after_password() {
        true => LoginDenial::AccountRefused,
        false => LoginDenial::Refused,
    }
}
