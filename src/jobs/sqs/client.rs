//! The SQS client: a queue and its dead-letter queue.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::{
    Client,
    config::timeout::TimeoutConfig,
    types::{
        DeleteMessageBatchRequestEntry, MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName,
        SendMessageBatchRequestEntry,
    },
};

use crate::{aws::AwsError, config};

/// The most messages that one SQS call accepts or returns.
pub const BATCH: usize = 10;
/// How long a call waits for a message. SQS allows 20 s, but a stopping process waits for its last call.
const LONG_POLL: Duration = Duration::from_secs(5);
/// The shortest wait for which SQS queries all of its servers. A short poll queries a subset and may miss messages.
const SHORTEST_LONG_POLL: Duration = Duration::from_secs(1);
/// Network time on top of the wait.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest visibility timeout of SQS.
const MAX_VISIBILITY_TIMEOUT: Duration = Duration::from_hours(12);
/// The message attribute with the reason of a dead-lettered message.
const REASON: &str = "reason";
const MAX_REASON_CHARS: usize = 500;

/// A received message, hidden from other consumers for a while.
#[derive(Debug, Clone)]
pub struct Message {
    /// A UUID in practice.
    pub id: String,
    /// The receipt handle, which deletes or hides the message.
    pub receipt: String,
    pub body: String,
    /// How often the message was received, from 1.
    pub receives: u32,
    /// Why it was dead-lettered.
    pub reason: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Sqs {
    client: Client,
    config: config::Sqs,
}

impl Sqs {
    #[must_use]
    pub fn new(config: &config::Sqs, sdk: &SdkConfig) -> Self {
        Self { client: Client::new(sdk), config: config.clone() }
    }

    /// How long a sent job waits for an attempt before it is sent again.
    #[must_use]
    pub fn redelivery_delay(&self) -> Duration {
        self.config.redelivery_delay
    }

    /// Waits for messages, and hides them from other consumers for `visibility_timeout`.
    pub async fn receive(&self, limit: usize, visibility_timeout: Duration) -> Result<Vec<Message>, AwsError> {
        self.receive_from(&self.config.url, limit, visibility_timeout, LONG_POLL).await
    }

    /// Receives what is in the dead-letter queue now.
    pub async fn receive_dead(&self, visibility_timeout: Duration) -> Result<Vec<Message>, AwsError> {
        self.receive_from(&self.config.dead_letter_url, BATCH, visibility_timeout, SHORTEST_LONG_POLL).await
    }

    async fn receive_from(
        &self,
        url: &str,
        limit: usize,
        visibility_timeout: Duration,
        wait: Duration,
    ) -> Result<Vec<Message>, AwsError> {
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(wait + NETWORK_TIMEOUT)
            .operation_timeout(2 * (wait + NETWORK_TIMEOUT))
            .build();
        let received = self
            .client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(i32::try_from(limit.clamp(1, BATCH)).unwrap_or(1))
            .wait_time_seconds(seconds(wait))
            .visibility_timeout(seconds(visibility_timeout))
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_attribute_names(REASON)
            .customize()
            .config_override(aws_sdk_sqs::config::Builder::new().timeout_config(timeouts))
            .send()
            .await;
        let received = received.map_err(|error| AwsError::from(error).context("messages can't be received"))?;
        let count = MessageSystemAttributeName::ApproximateReceiveCount;
        let messages = received.messages.unwrap_or_default().into_iter().map(|message| Message {
            receives: message.attributes().and_then(|all| all.get(&count)?.parse().ok()).unwrap_or(1),
            reason: message.message_attributes().and_then(|all| all.get(REASON)?.string_value()).map(str::to_owned),
            id: message.message_id.unwrap_or_default(),
            receipt: message.receipt_handle.unwrap_or_default(),
            body: message.body.unwrap_or_default(),
        });
        Ok(messages.collect())
    }

    /// Sets the visibility timeout of a message, counted from now; zero makes it visible. Fails when the message was
    /// deleted or received by another consumer.
    pub async fn hide(&self, message: &Message, visibility_timeout: Duration) -> Result<(), AwsError> {
        self.hide_in(&self.config.url, message, visibility_timeout).await
    }

    /// The same for a message of the dead-letter queue.
    pub async fn hide_dead(&self, message: &Message, visibility_timeout: Duration) -> Result<(), AwsError> {
        self.hide_in(&self.config.dead_letter_url, message, visibility_timeout).await
    }

    async fn hide_in(&self, url: &str, message: &Message, timeout: Duration) -> Result<(), AwsError> {
        let hide = self.client.change_message_visibility().queue_url(url).receipt_handle(&message.receipt);
        let done = hide.visibility_timeout(seconds(timeout)).send().await;
        done.map(drop).map_err(|error| AwsError::from(error).context("a message can't be hidden"))
    }

    /// Deletes at most [`BATCH`] messages.
    pub async fn delete(&self, receipts: &[String]) -> Result<(), AwsError> {
        let entries = receipts.iter().enumerate().map(|(n, receipt)| {
            let entry = DeleteMessageBatchRequestEntry::builder().id(n.to_string()).receipt_handle(receipt);
            entry.build().expect("id and receipt are given")
        });
        let delete = self.client.delete_message_batch().queue_url(&self.config.url);
        let done = delete.set_entries(Some(entries.collect())).send().await;
        let done = done.map_err(|error| AwsError::from(error).context("messages can't be deleted"))?;
        done.failed().first().map_or(Ok(()), |entry| {
            Err(AwsError::service(&entry.code, entry.message().unwrap_or_default())
                .context("a message can't be deleted"))
        })
    }

    pub async fn delete_dead(&self, message: &Message) -> Result<(), AwsError> {
        let delete = self.client.delete_message().queue_url(&self.config.dead_letter_url);
        let done = delete.receipt_handle(&message.receipt).send().await;
        done.map(drop).map_err(|error| AwsError::from(error).context("a dead message can't be deleted"))
    }

    /// Sends at most [`BATCH`] messages. Returns the indices of those that SQS accepted.
    pub async fn send(&self, bodies: &[String]) -> Result<Vec<usize>, AwsError> {
        let entries = bodies.iter().enumerate().map(|(n, body)| {
            let entry = SendMessageBatchRequestEntry::builder().id(n.to_string()).message_body(body);
            entry.build().expect("id and body are given")
        });
        let send = self.client.send_message_batch().queue_url(&self.config.url);
        let done = send.set_entries(Some(entries.collect())).send().await;
        let done = done.map_err(|error| AwsError::from(error).context("messages can't be sent"))?;
        if let Some(refused) = done.failed().first() {
            tracing::warn!(code = refused.code, reason = refused.message(), "SQS refused a message");
        }
        Ok(done.successful().iter().filter_map(|entry| entry.id.parse().ok()).collect())
    }

    /// Sends a message to the dead-letter queue, with the reason.
    pub async fn dead_letter(&self, body: &str, reason: &str) -> Result<(), AwsError> {
        let reason: String = reason.chars().take(MAX_REASON_CHARS).collect();
        let value = MessageAttributeValue::builder().data_type("String").string_value(reason).build();
        let send = self.client.send_message().queue_url(&self.config.dead_letter_url).message_body(body);
        let done =
            send.message_attributes(REASON, value.map_err(|error| AwsError::invalid_request(&error))?).send().await;
        done.map(drop)
            .map_err(|error| AwsError::from(error).context("a message can't be sent to the dead-letter queue"))
    }

    /// The approximate numbers of messages in the queue and in the dead-letter queue. The error names the queue.
    pub async fn depth(&self) -> Result<(u64, u64), AwsError> {
        let depth_of = async |url: &str, name: &str| {
            let count = QueueAttributeName::ApproximateNumberOfMessages;
            let ask = self.client.get_queue_attributes().queue_url(url).attribute_names(count.clone());
            let answer = ask.send().await.map_err(|error| AwsError::from(error).context(name))?;
            Ok::<_, AwsError>(answer.attributes().and_then(|all| all.get(&count)?.parse().ok()).unwrap_or(0))
        };
        Ok((
            depth_of(&self.config.url, "the queue").await?,
            depth_of(&self.config.dead_letter_url, "the dead-letter queue").await?,
        ))
    }
}

/// Rounded up, and limited to what SQS accepts.
fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.min(MAX_VISIBILITY_TIMEOUT).as_millis().div_ceil(1000)).unwrap_or(i32::MAX)
}
