//! Notifications to systemd, see `sd_notify(3)`. Without systemd these functions do nothing.

use std::time::Duration;

use sd_notify::NotifyState;

pub(crate) fn ready() {
    notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// A reload begins; [`ready`] ends it.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now, NotifyState::Status("reloading")]),
        Err(error) => tracing::warn!(%error, "failed to notify systemd of a reload"),
    }
}

/// The shutdown begins, and may take up to `timeout`.
pub(crate) fn stopping(timeout: Duration) {
    let micros = u32::try_from(timeout.as_micros()).unwrap_or(u32::MAX);
    let status = NotifyState::Status("stopping: still accepting requests");
    notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros), status]);
}

/// The text that `systemctl status` shows.
pub(crate) fn status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "failed to notify systemd");
    }
}

/// Notifies the watchdog, if there is one, three times per period, each time after the runtime has run a new task: a
/// stalled runtime stops the notifications.
pub(crate) async fn notify_watchdog() {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    loop {
        tokio::time::sleep(period / 3).await;
        if tokio::spawn(std::future::ready(())).await.is_ok() {
            notify(&[NotifyState::Watchdog]);
        }
    }
}
