//! Request bodies with a minimum rate.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{BoxError, body::Bytes};
use futures_util::FutureExt;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::telemetry::metrics;

/// Time that every body gets, however small it is.
const BODY_GRACE: Duration = Duration::from_secs(5);

/// The error of a body that arrives more slowly than the configured minimum rate.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the request body arrives too slowly")]
pub struct BodyTooSlow;

impl BodyTooSlow {
    /// Whether `error` is this one, or is caused by it.
    pub fn is_cause_of(error: &(dyn Error + 'static)) -> bool {
        std::iter::successors(Some(error), |&error| error.source()).any(<dyn Error + 'static>::is::<Self>)
    }
}

/// A body with a minimum rate. Only the time that the service waits for bytes counts.
#[derive(Debug)]
pub(crate) struct MinRateBody<B> {
    body: B,
    /// 0: no minimum.
    bytes_per_second: u64,
    received: u64,
    /// The sum of the previous waits.
    waited: Duration,
    /// The start and the timeout of the present wait.
    wait: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<B> MinRateBody<B> {
    pub(crate) fn new(body: B, bytes_per_second: u64) -> Self {
        Self { body, bytes_per_second, received: 0, waited: Duration::ZERO, wait: None }
    }

    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(allowed) = (self.received * 1000).checked_div(self.bytes_per_second) else { return Poll::Pending };
        let left = (BODY_GRACE + Duration::from_millis(allowed)).saturating_sub(self.waited);
        let start = || {
            let now = Instant::now();
            (now, Box::pin(sleep_until(now + left)))
        };
        self.wait.get_or_insert_with(start).1.poll_unpin(cx)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for MinRateBody<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                if let Some((started, _)) = self.wait.take() {
                    self.waited += started.elapsed();
                }
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                self.received += data.map_or(0, |bytes| bytes.len() as u64);
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => self.poll_timeout(cx).map(|()| {
                metrics::CONNECTION_TIMEOUTS.with(&[("reason", "body")]).increment(1);
                Some(Err(BodyTooSlow.into()))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
