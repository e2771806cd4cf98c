//! A session of the server: a pooled connection that every statement goes through.
//!
//! It applies a deadline to each statement and notes when its connection can't be used again: after an error that says
//! so, and when it is dropped during a statement, as when a client disconnects. Such a connection is closed at once;
//! others return to the pool without the round trip that sqlx's own pool makes to check them.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt, future::BoxFuture, stream::BoxStream};
use sqlx::{
    Execute, Executor, MySql, MySqlConnection, SqlStr,
    mysql::{MySqlQueryResult, MySqlRow, MySqlStatement, MySqlTypeInfo},
};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    connection::{Connection, ConnectionState},
    error::Error,
    pool::PooledConnection,
};
use crate::resilience::deadline;

/// A row of a statement's result, or the end of the result.
type Step = Result<sqlx::Either<MySqlQueryResult, MySqlRow>, sqlx::Error>;

/// A session of the server; `&mut Session` is an executor of sqlx.
pub struct Session {
    connection: PooledConnection,
    query_timeout: Duration,
    /// The end of the transaction that this session runs.
    transaction_deadline: Option<Instant>,
}

impl Session {
    pub(crate) fn new(connection: PooledConnection, query_timeout: Duration) -> Self {
        Self { connection, query_timeout, transaction_deadline: None }
    }

    /// No statement runs beyond this moment.
    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        self.transaction_deadline = Some(deadline);
    }

    /// Whether it can run another statement.
    pub(crate) fn is_usable(&self) -> bool {
        self.connection.state.is_usable()
    }

    /// Has the connection closed when this is dropped.
    pub(crate) fn mark_broken(&mut self) {
        self.connection.state.mark_broken();
    }

    /// The connection of sqlx, without deadlines, for what sqlx does not do over an executor.
    pub(crate) fn connection(&mut self) -> &mut MySqlConnection {
        &mut self.connection.inner
    }

    /// The connection, and the monitor of a statement that starts now.
    fn start_statement(&mut self) -> (&mut MySqlConnection, StatementMonitor<'_>) {
        let (started, limit) = (Instant::now(), self.query_timeout);
        let query_deadline = (!limit.is_zero()).then(|| started + limit);
        let request_deadline = deadline::current();
        let until = [query_deadline, self.transaction_deadline, request_deadline].into_iter().flatten().min();
        let ends_with_request = until.is_some() && until == request_deadline;
        let Connection { inner, state, .. } = &mut *self.connection;
        state.statement_started();
        let timer = until.map(|until| Box::pin(sleep_until(until)));
        (inner, StatementMonitor { state, timer, ends_with_request, started })
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("state", &self.connection.state).finish_non_exhaustive()
    }
}

/// Applies the deadline of one statement and notes how it ended.
struct StatementMonitor<'e> {
    state: &'e mut ConnectionState,
    timer: Option<Pin<Box<Sleep>>>,
    /// The deadline is that of the request, which says nothing about the server.
    ends_with_request: bool,
    started: Instant,
}

impl StatementMonitor<'_> {
    /// Ready at the deadline, when the connection is lost.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<sqlx::Error> {
        let Some(timer) = &mut self.timer else { return Poll::Pending };
        std::task::ready!(timer.poll_unpin(cx));
        if !self.ends_with_request {
            self.state.statement_timed_out();
        }
        Poll::Ready(Error::timed_out(format!("no answer within {:.1?}", self.started.elapsed())))
    }

    /// Runs a statement whose result is a single value.
    async fn run<T>(mut self, mut statement: BoxFuture<'_, Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        std::future::poll_fn(|cx| match statement.poll_unpin(cx) {
            Poll::Ready(result) => {
                self.state.statement_ended(result.as_ref().err());
                Poll::Ready(result)
            }
            Poll::Pending => self.poll_deadline(cx).map(Err),
        })
        .await
    }
}

/// The result of a monitored statement.
struct MonitoredSteps<'e> {
    steps: BoxStream<'e, Step>,
    monitor: StatementMonitor<'e>,
}

impl Stream for MonitoredSteps<'_> {
    type Item = Step;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Step>> {
        match self.steps.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(step))) => Poll::Ready(Some(Ok(step))),
            Poll::Ready(end) => {
                self.monitor.state.statement_ended(end.as_ref().and_then(|step| step.as_ref().err()));
                Poll::Ready(end)
            }
            Poll::Pending => self.monitor.poll_deadline(cx).map(|error| Some(Err(error))),
        }
    }
}

impl<'c> Executor<'c> for &'c mut Session {
    type Database = MySql;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Step>
    where
        'c: 'e,
        E: 'q + Execute<'q, MySql>,
    {
        let (connection, monitor) = self.start_statement();
        MonitoredSteps { steps: connection.fetch_many(query), monitor }.boxed()
    }

    /// Reads the result to its end after the first row, so that no rows are left for the next statement.
    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<MySqlRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, MySql>,
    {
        let mut rows = self.fetch(query);
        async move {
            let mut first = None;
            while let Some(row) = rows.try_next().await? {
                first.get_or_insert(row);
            }
            Ok(first)
        }
        .boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [MySqlTypeInfo],
    ) -> BoxFuture<'e, Result<MySqlStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        let (connection, monitor) = self.start_statement();
        monitor.run(connection.prepare_with(sql, parameters)).boxed()
    }
}
