//! An Amazon SNS topic. Subscriptions filter by the message attributes `kind`, `album` and `reviewed`; `traceparent` is
//! an attribute too. A FIFO topic keeps the order of an album's events and drops a repeat within five minutes
//! (<https://docs.aws.amazon.com/sns/latest/dg/fifo-topic-message-ordering.html>); a standard topic does neither.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_config::SdkConfig;
use aws_sdk_sns::{Client, error::BuildError, types::MessageAttributeValue};

use super::cloudevent::CloudEvent;
use crate::{
    aws::AwsError,
    config,
    domain::{AlbumId, Event},
    telemetry::Trace,
};

pub struct Topic {
    arn: String,
    is_fifo: bool,
    client: Client,
    /// The time and the result of the last publication.
    last_publication: Mutex<Option<(Instant, Result<(), AwsError>)>>,
}

impl Topic {
    pub(crate) fn new(config: &config::Topic, sdk: &SdkConfig) -> Self {
        let is_fifo = config.arn.rsplit_once('.').is_some_and(|(_, end)| end == "fifo");
        Self { arn: config.arn.clone(), is_fifo, client: Client::new(sdk), last_publication: Mutex::default() }
    }

    #[must_use]
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// The age and the result of the last publication by this process.
    #[must_use]
    pub fn last_publication(&self) -> Option<(Duration, Result<(), AwsError>)> {
        let last = self.last_publication.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|(at, outcome)| (at.elapsed(), outcome.clone()))
    }

    /// Fails when the topic does not exist or is not accessible. Needs `sns:GetTopicAttributes`, which publishing does
    /// not.
    pub async fn check(&self) -> Result<(), AwsError> {
        self.client.get_topic_attributes().topic_arn(&self.arn).send().await?;
        Ok(())
    }

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
        if self.is_fifo {
            request = request.message_group_id(album_id.to_string()).message_deduplication_id(&document.id);
        }
        let outcome = request.send().await.map(|_| ()).map_err(|error| AwsError::from(error).context(&self.arn));
        *self.last_publication.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), outcome.clone()));
        Ok(outcome?)
    }
}

fn attribute(value: String) -> Result<MessageAttributeValue, BuildError> {
    MessageAttributeValue::builder().data_type("String").string_value(value).build()
}
