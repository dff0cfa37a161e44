//! Notifications: builds the notifier from `[notify]`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::config::{self, Config, Notify};
use crate::notify::{Notifier, RetryPolicy, Settings, WebhookReceiver};
use crate::secret::SigningSecret;
use crate::telemetry::Metrics;
use crate::tls;

use super::secrets;
use super::start_error::StartError;

/// Starts the notifier thread; `None` without a receiver.
pub(super) fn start(config: &Config, metrics: &Metrics) -> Result<Option<Notifier>, StartError> {
    let Some(settings) = settings(&config.notify)? else { return Ok(None) };
    Ok(Some(Notifier::start(settings, metrics.clone())?))
}

/// Returns the notifier settings; `None` without a receiver.
///
/// # Errors
/// A configured file cannot be used. The check at start prevents a notifier that fails at the first event.
pub fn settings(notify: &Notify) -> Result<Option<Settings>, StartError> {
    if notify.command.is_none() && notify.webhook.is_none() {
        return Ok(None);
    }
    if let Some(command) = &notify.command {
        config::check_executable(&command.program)
            .map_err(|error| unusable(&command.program, error))?;
    }
    Ok(Some(Settings {
        events: notify.events.clone(),
        command: notify.command.clone(),
        webhook: notify.webhook.as_ref().map(webhook).transpose()?,
        secret: notify.secret_file.as_deref().map(secret).transpose()?,
        timeout: notify.timeout,
        retry: RetryPolicy::default(),
    }))
}

fn webhook(target: &config::Webhook) -> Result<WebhookReceiver, StartError> {
    Ok(WebhookReceiver { target: target.clone(), tls: tls::client_config(target.ca.as_deref())? })
}

fn secret(path: &Path) -> Result<Arc<SigningSecret>, StartError> {
    let secret = SigningSecret::parse(&secrets::read_file(path)?);
    secret.map(Arc::new).map_err(|error| unusable(path, io::Error::other(error)))
}

fn unusable(path: &Path, error: io::Error) -> StartError {
    StartError::File { path: path.to_owned(), error }
}
