//! What systemd is told, when it asks: see `sd_notify(3)`. Without it nothing of this does anything.

use std::time::Duration;

use sd_notify::NotifyState;

/// The service takes requests.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// A reload begins; [`ready`] ends it.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status("reloading")]),
        Err(error) => tracing::warn!(%error, "systemd was not told of a reload"),
    }
}

/// The drain begins, and may take so long.
pub(crate) fn stopping(at_most: Duration) {
    let micros = u32::try_from(at_most.as_micros()).unwrap_or(u32::MAX);
    let status = NotifyState::Status("draining: requests are still taken");
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros), status]);
}

/// What the service is about, for `systemctl status`.
pub(crate) fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

fn tell(news: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(news) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// Tells the watchdog that the runtime lives, three times in its time, each time after a task that was started anew has
/// had its turn. For ever; at once over where no watchdog is.
pub(crate) async fn heartbeat() {
    let Some(time) = sd_notify::watchdog_enabled() else { return };
    loop {
        tokio::time::sleep(time / 3).await;
        if tokio::spawn(std::future::ready(())).await.is_ok() {
            tell(&[NotifyState::Watchdog]);
        }
    }
}
