//! Reads: retried once when their connection is lost, and for guests from a read replica where there is one.
//!
//! A replica lags behind, so a guest's read uses it only where the guest can't notice. Each request of a guest looks
//! its invite up on the writer, because a revocation takes effect at once. The same row has the number of the album's
//! latest event and the time of the invite's last change without an event (a photo was declared, uploaded or has
//! expired). A replica that has not replicated both is skipped. So callers read their own writes, see at least what an
//! event has announced, and never see an older state after a newer one, with any number of instances and any lag.
//!
//! Hosts read from the writer: they write, review, and are few.

use super::{
    database::Db,
    error::{AsDbError, Error, Result},
    replica::Freshness,
    session::Session,
};
use crate::telemetry::metrics;

impl Db {
    /// Runs `work`, which only reads, on the writer, and again if its connection is lost.
    pub async fn read<T, E, F>(&self, mut work: impl FnMut(Session) -> F) -> Result<T, E>
    where
        E: From<Error> + AsDbError,
        F: Future<Output = Result<T, E>>,
    {
        match work(self.session().await?).await {
            Err(error) if error.as_db_error().is_some_and(Error::is_connection_failure) => {
                work(self.session().await?).await
            }
            result => result,
        }
    }

    /// Runs `work`, which only reads, on the replica if that is as fresh as `wanted`, else on the writer; without
    /// `wanted` always on the writer.
    pub async fn read_from_replica<T, E, F>(
        &self,
        wanted: Option<Freshness>,
        mut work: impl FnMut(Session) -> F,
    ) -> Result<T, E>
    where
        E: From<Error> + AsDbError,
        F: Future<Output = Result<T, E>>,
    {
        let (Some(replica), Some(wanted)) = (self.replica(), wanted) else { return self.read(work).await };
        let reason = match replica.session(&wanted).await {
            Ok(session) => {
                let result = work(session).await;
                let Some(error) = result.as_ref().err().and_then(AsDbError::as_db_error) else {
                    metrics::DB_READS.with(&[("server", "reader")]).increment(1);
                    return result;
                };
                // Any error, such as a missing grant or migration on the replica: the writer may succeed.
                replica.note_failure(error);
                "failing"
            }
            Err(reason) => reason,
        };
        metrics::DB_READS.with(&[("server", "writer"), ("reason", reason)]).increment(1);
        self.read(work).await
    }
}
