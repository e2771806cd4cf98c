//! A session of the server, on loan from a pool: what every statement goes through.
//!
//! It puts a deadline on each statement, and it knows when its connection can't be used again: after an error that
//! says so, and when it is dropped in the middle of a statement, as happens to a request whose client has gone. Such a
//! connection is closed at once, without a word, because the server may not answer any more; others go back as they
//! are, without the round trip that sqlx's own pool makes to find out.

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
    error::{Error, Verdict, verdict},
    pool::{Lent, Live},
};
use crate::resilience::deadline;

/// A step of a statement's answer, as sqlx has it.
type Step = Result<sqlx::Either<MySqlQueryResult, MySqlRow>, sqlx::Error>;

/// A session of the server. Give `&mut` of it wherever sqlx wants an executor.
pub struct Session {
    lent: Lent,
    query_timeout: Duration,
    /// When the transaction that this session is in has had its time.
    ends: Option<Instant>,
}

/// How a connection fares.
#[derive(Debug)]
pub(crate) struct State {
    /// A statement is under way.
    busy: bool,
    /// A statement has been answered since the connection was lent.
    answered: bool,
    verdict: Verdict,
}

impl State {
    pub(crate) const fn fresh() -> Self {
        Self { busy: false, answered: false, verdict: Verdict::Sound }
    }

    /// What is to be done with the connection; one that is given back in the middle of a statement is lost.
    pub(crate) fn verdict(&self) -> Verdict {
        if self.busy && self.verdict == Verdict::Sound { Verdict::Lost } else { self.verdict }
    }

    /// Begins anew with the next borrower.
    pub(crate) fn lend(&mut self) {
        self.answered = false;
    }

    /// Whether the server has been heard of since then.
    pub(crate) fn was_answered(&self) -> bool {
        self.answered
    }

    /// Whether the connection was dropped under way rather than failed.
    pub(crate) fn was_interrupted(&self) -> bool {
        self.busy && self.verdict == Verdict::Sound
    }
}

impl Session {
    pub(crate) fn new(mut lent: Lent, query_timeout: Duration) -> Self {
        lent.state.lend();
        Self { lent, query_timeout, ends: None }
    }

    /// No statement goes on beyond this moment.
    pub(crate) fn ends_at(&mut self, moment: Instant) {
        self.ends = Some(moment);
    }

    /// Whether it can take another statement.
    pub(crate) fn is_sound(&self) -> bool {
        self.lent.state.verdict() == Verdict::Sound
    }

    /// The connection is closed when this is dropped.
    pub(crate) fn condemn(&mut self) {
        self.lent.state.busy = true;
    }

    /// The bare connection, without deadlines, for what sqlx won't do over an executor.
    pub(crate) fn connection(&mut self) -> &mut MySqlConnection {
        &mut self.lent.connection
    }

    /// The connection, and what looks after a statement that begins now.
    fn begin(&mut self) -> (&mut MySqlConnection, Watch<'_>) {
        let (now, limit) = (Instant::now(), self.query_timeout);
        let by_query = (!limit.is_zero()).then(|| now + limit);
        let until = [by_query, self.ends, deadline::ends()].into_iter().flatten().min();
        let given_up = until.is_some() && until == deadline::ends();
        let Live { connection, state, .. } = &mut *self.lent;
        state.busy = true;
        (connection, Watch { state, until: until.map(|until| Box::pin(sleep_until(until))), given_up, begun: now })
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("state", &self.lent.state).finish_non_exhaustive()
    }
}

/// Looks after one statement.
struct Watch<'e> {
    state: &'e mut State,
    until: Option<Pin<Box<Sleep>>>,
    /// It is the caller's own time that ends then: that says nothing of the server.
    given_up: bool,
    begun: Instant,
}

impl Watch<'_> {
    /// Ready when time is up; the connection is lost then.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<sqlx::Error> {
        let Some(until) = &mut self.until else { return Poll::Pending };
        std::task::ready!(until.poll_unpin(cx));
        if !self.given_up {
            self.state.verdict = Verdict::Lost;
        }
        Poll::Ready(Error::timed_out(format!("no answer within {:.1?}", self.begun.elapsed())))
    }

    /// Waits for an answer that comes in one piece.
    async fn over<T>(mut self, mut answer: BoxFuture<'_, Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        std::future::poll_fn(|cx| match answer.poll_unpin(cx) {
            Poll::Ready(outcome) => {
                self.ended(outcome.as_ref().err());
                Poll::Ready(outcome)
            }
            Poll::Pending => self.poll_time(cx).map(Err),
        })
        .await
    }

    /// Notes how the statement ended.
    fn ended(&mut self, error: Option<&sqlx::Error>) {
        self.state.busy = false;
        self.state.answered = true;
        if let Some(error) = error {
            self.state.verdict = verdict(error);
        }
    }
}

/// The steps of a statement's answer, looked after.
struct Watched<'e> {
    steps: BoxStream<'e, Step>,
    watch: Watch<'e>,
}

impl Stream for Watched<'_> {
    type Item = Step;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Step>> {
        match self.steps.poll_next_unpin(cx) {
            Poll::Ready(None) => {
                self.watch.ended(None);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.watch.ended(Some(&error));
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(step) => Poll::Ready(step),
            Poll::Pending => self.watch.poll_time(cx).map(|error| Some(Err(error))),
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
        let (connection, watch) = self.begin();
        Watched { steps: connection.fetch_many(query), watch }.boxed()
    }

    /// Reads on to the end after the first row: nothing is left on the wire for the next statement to find.
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
        let (connection, watch) = self.begin();
        watch.over(connection.prepare_with(sql, parameters)).boxed()
    }
}
