//! A topic of Amazon SNS. Its subscriptions choose by filter policies on the message attributes `kind`, `album` and
//! `reviewed`; `traceparent` is one too. On a FIFO topic an album's events keep their order and a repeat within five minutes
//! is dropped (<https://docs.aws.amazon.com/sns/latest/dg/fifo-topic-message-ordering.html>); a standard topic promises
//! neither.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_config::SdkConfig;
use aws_sdk_sns::{Client, error::BuildError, types::MessageAttributeValue};

use super::cloudevent::CloudEvent;
use crate::{
    aws::Failure,
    config,
    domain::{AlbumId, Event},
    telemetry::Trace,
};

/// The topic.
pub struct Topic {
    arn: String,
    /// A FIFO topic.
    in_order: bool,
    client: Client,
    /// When something was last published here, and how that went.
    last: Mutex<Option<(Instant, Result<(), Failure>)>>,
}

impl Topic {
    pub(crate) fn new(config: &config::Topic, sdk: &SdkConfig) -> Self {
        let in_order = config.arn.rsplit_once('.').is_some_and(|(_, end)| end == "fifo");
        Self { arn: config.arn.clone(), in_order, client: Client::new(sdk), last: Mutex::default() }
    }

    /// Its ARN.
    #[must_use]
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// How long ago this process last published something, and how that went.
    #[must_use]
    pub fn last(&self) -> Option<(Duration, Result<(), Failure>)> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|(at, outcome)| (at.elapsed(), outcome.clone()))
    }

    /// Whether it is there. This needs `sns:GetTopicAttributes`, which publishing does not, and nothing else tells
    /// without publishing.
    ///
    /// # Errors
    /// It is not, or the role may not look.
    pub async fn look(&self) -> Result<(), Failure> {
        self.client.get_topic_attributes().topic_arn(&self.arn).send().await?;
        Ok(())
    }

    /// Publishes an event.
    ///
    /// # Errors
    /// The topic did not take it.
    pub(crate) async fn send(
        &self,
        album_id: AlbumId,
        event: &Event,
        document: &CloudEvent,
        trace: &Trace,
    ) -> anyhow::Result<()> {
        let reviewed = if event.public_kind.is_some() { "true" } else { "false" };
        let mut request = self.client.publish().topic_arn(&self.arn).message(&document.body);
        for (name, value) in [
            ("kind", event.kind.as_str().to_owned()),
            ("album", album_id.to_string()),
            ("reviewed", reviewed.to_owned()),
            ("traceparent", trace.to_string()),
        ] {
            request = request.message_attributes(name, attribute(value)?);
        }
        if self.in_order {
            request = request.message_group_id(album_id.to_string()).message_deduplication_id(&document.id);
        }
        let outcome = request.send().await.map(|_| ()).map_err(|error| Failure::from(error).of(&self.arn));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), outcome.clone()));
        Ok(outcome?)
    }
}

fn attribute(value: String) -> Result<MessageAttributeValue, BuildError> {
    MessageAttributeValue::builder().data_type("String").string_value(value).build()
}
