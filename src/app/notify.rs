//! Who is told of a theft and the like: what the configuration names, read and ready.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::config::{self, Config, Notify};
use crate::secret::SigningSecret;
use crate::telemetry::Metrics;
use crate::telemetry::hook::{Hook, Pace, Settings, Webhook};
use crate::tls;

use super::{StartError, read_secret};

/// Starts the thread that tells, where there is somebody to tell.
pub(super) fn start(config: &Config, metrics: &Metrics) -> Result<Option<Hook>, StartError> {
    let Some(settings) = settings(&config.notify)? else { return Ok(None) };
    Ok(Some(Hook::start(settings, metrics.clone())?))
}

/// Nothing where nobody is to be told.
///
/// # Errors
/// When a file that is named cannot be used: an alarm that will not ring is found out before it has to.
pub fn settings(notify: &Notify) -> Result<Option<Settings>, StartError> {
    if notify.command.is_none() && notify.webhook.is_none() {
        return Ok(None);
    }
    if let Some(command) = &notify.command {
        config::program(&command.program).map_err(|error| unusable(&command.program, error))?;
    }
    Ok(Some(Settings {
        events: notify.events.clone(),
        command: notify.command.clone(),
        webhook: notify.webhook.as_ref().map(webhook).transpose()?,
        secret: notify.secret_file.as_deref().map(secret).transpose()?,
        timeout: notify.timeout,
        pace: Pace::default(),
    }))
}

fn webhook(at: &config::Webhook) -> Result<Webhook, StartError> {
    Ok(Webhook { at: at.clone(), trust: tls::client_config(at.ca.as_deref())? })
}

fn secret(path: &Path) -> Result<Arc<SigningSecret>, StartError> {
    let secret = SigningSecret::parse(&read_secret(path)?);
    secret.map(Arc::new).map_err(|error| unusable(path, io::Error::other(error)))
}

fn unusable(path: &Path, error: io::Error) -> StartError {
    StartError::File { path: path.to_owned(), error }
}
