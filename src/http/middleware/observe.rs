//! What the log line and the metrics of a request need from the application.

use crate::{app::App, server::Peer, telemetry::RequestObserver};

/// The state of [`telemetry::observe`](crate::telemetry::observe).
pub fn observer(app: &App) -> RequestObserver {
    RequestObserver {
        slow_requests: app.slow_requests.clone(),
        client_ip: |request| request.extensions().get::<Peer>().map(|peer| peer.client_ip(request.headers())),
    }
}
