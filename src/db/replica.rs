//! A read replica, which may lag behind the writer.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, timeout};

use super::{error::Error, invites, server::Server, session::Session};
use crate::{
    domain::InviteId,
    resilience::{breaker::Breaker, deadline},
};

/// A replica that failed is not used for this long.
const PAUSE: Duration = Duration::from_secs(5);
/// Time for the replica to show its state; the writer could have answered by then.
const CHECK_TIMEOUT: Duration = Duration::from_millis(300);

/// The minimum state that a guest's read needs, as read from the writer.
#[derive(Debug, Clone, Copy)]
pub struct Freshness {
    /// The guest's invite.
    pub invite_id: InviteId,
    /// The number of the latest event of its album.
    pub last_seq: u64,
    /// The time of the invite's last change without an event.
    pub wrote_at: Option<DateTime<Utc>>,
}

pub(crate) struct Replica {
    pub(crate) server: Server,
    breaker: Breaker,
}

impl Replica {
    pub(crate) fn new(server: Server) -> Self {
        Self { server, breaker: Breaker::new(PAUSE) }
    }

    pub(crate) fn note_failure(&self, error: &dyn std::fmt::Display) {
        // A request whose deadline has passed says nothing about the replica.
        if deadline::current().is_some_and(|ends| ends <= Instant::now()) {
            return;
        }
        if self.breaker.record_failure() {
            tracing::warn!(%error, "read replica failed; reading from the writer");
        }
    }

    /// A session that is fresh enough; otherwise why there is none, as the label of a metric.
    pub(crate) async fn session(&self, wanted: &Freshness) -> Result<Session, &'static str> {
        if !self.breaker.allows_call() {
            return Err("failing");
        }
        let checked = timeout(CHECK_TIMEOUT, async {
            let mut session = self.server.session().await?;
            let state = invites::replication_state(&mut session, wanted.invite_id).await?;
            Ok::<_, Error>((session, state))
        });
        match checked.await {
            Ok(Ok((session, state))) => {
                if self.breaker.record_success() {
                    tracing::info!("read replica recovered");
                }
                let is_fresh =
                    state.is_some_and(|(seq, wrote_at)| seq >= wanted.last_seq && wrote_at >= wanted.wrote_at);
                if is_fresh { Ok(session) } else { Err("behind") }
            }
            Ok(Err(error)) => {
                self.note_failure(&error);
                Err("failing")
            }
            Err(_) => {
                self.note_failure(&format_args!("no answer within {CHECK_TIMEOUT:?}"));
                Err("failing")
            }
        }
    }
}
