//! Messages to systemd. They have no effect without `NOTIFY_SOCKET`, that is, outside of a unit with
//! `Type=notify` or `Type=notify-reload`.

use sd_notify::NotifyState;
use tracing::warn;

/// The gateway accepts requests.
pub(super) fn ready() {
    send(&[NotifyState::Ready]);
}

/// A reload has started. [`ready`] reports its end.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => report(&error),
    }
}

/// The drain has started.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping]);
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        report(&error);
    }
}

fn report(error: &std::io::Error) {
    warn!(event = "service-manager.notify-failed", %error, "systemd was not notified");
}
