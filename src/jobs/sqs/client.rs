//! A queue of SQS and its dead-letter queue.

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

use crate::{aws::Failure, config};

/// The most messages that one call takes or gives.
pub const BATCH: usize = 10;
/// How long a call waits for a message. SQS would wait for 20 s; a process that ends waits for its last call.
const LONG_POLL: Duration = Duration::from_secs(5);
/// The shortest for which SQS asks all of the machines that a queue is spread over; without it an answer may miss messages.
const ALL: Duration = Duration::from_secs(1);
/// What the network may take on top of it.
const SLACK: Duration = Duration::from_secs(5);
/// The longest time that SQS hides a message for.
const LONGEST: Duration = Duration::from_hours(12);
/// The longest reason that goes with a dead message, in characters.
const REASON_CHARS: usize = 500;

/// A message that nobody else is given for a while.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its id, a UUID in practice.
    pub id: String,
    /// What deletes and hides it.
    pub receipt: String,
    /// What it says.
    pub body: String,
    /// How often it was given to somebody, from 1.
    pub receives: u32,
    /// Why it is dead, if it is.
    pub reason: Option<String>,
}

/// The queue.
#[derive(Debug, Clone)]
pub struct Sqs {
    client: Client,
    config: config::Sqs,
}

impl Sqs {
    /// A client; nothing is asked yet.
    #[must_use]
    pub fn new(config: &config::Sqs, sdk: &SdkConfig) -> Self {
        Self { client: Client::new(sdk), config: config.clone() }
    }

    /// How long a job that was sent waits to be taken up before it is sent again.
    #[must_use]
    pub fn resend_after(&self) -> Duration {
        self.config.resend_after
    }

    /// Waits for messages, at most `most` of them, and hides them from others for `hidden`.
    ///
    /// # Errors
    /// What SQS says.
    pub async fn receive(&self, most: usize, hidden: Duration) -> Result<Vec<Message>, Failure> {
        self.take(&self.config.url, most, hidden, LONG_POLL).await
    }

    /// The same of the dead-letter queue, without waiting for more to come.
    ///
    /// # Errors
    /// What SQS says.
    pub async fn receive_dead(&self, hidden: Duration) -> Result<Vec<Message>, Failure> {
        self.take(&self.config.dead_letter_url, BATCH, hidden, ALL).await
    }

    async fn take(&self, url: &str, most: usize, hidden: Duration, wait: Duration) -> Result<Vec<Message>, Failure> {
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(wait + SLACK)
            .operation_timeout(2 * (wait + SLACK))
            .build();
        let told = self
            .client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(i32::try_from(most.clamp(1, BATCH)).unwrap_or(1))
            .wait_time_seconds(seconds(wait))
            .visibility_timeout(seconds(hidden))
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_attribute_names(REASON)
            .customize()
            .config_override(aws_sdk_sqs::config::Builder::new().timeout_config(timeouts))
            .send()
            .await;
        let told = told.map_err(|error| Failure::from(error).of("messages can't be received"))?;
        let count = MessageSystemAttributeName::ApproximateReceiveCount;
        let messages = told.messages.unwrap_or_default().into_iter().map(|message| Message {
            receives: message.attributes().and_then(|all| all.get(&count)?.parse().ok()).unwrap_or(1),
            reason: message.message_attributes().and_then(|all| all.get(REASON)?.string_value()).map(str::to_owned),
            id: message.message_id.unwrap_or_default(),
            receipt: message.receipt_handle.unwrap_or_default(),
            body: message.body.unwrap_or_default(),
        });
        Ok(messages.collect())
    }

    /// Hides a message from others for so long from now on; zero shows it at once.
    ///
    /// # Errors
    /// What SQS says; the message may be deleted or somebody else's by now.
    pub async fn hide(&self, message: &Message, hidden: Duration) -> Result<(), Failure> {
        self.hide_in(&self.config.url, message, hidden).await
    }

    /// The same of a dead one.
    ///
    /// # Errors
    /// As [`Sqs::hide`].
    pub async fn hide_dead(&self, message: &Message, hidden: Duration) -> Result<(), Failure> {
        self.hide_in(&self.config.dead_letter_url, message, hidden).await
    }

    async fn hide_in(&self, url: &str, message: &Message, hidden: Duration) -> Result<(), Failure> {
        let hide = self.client.change_message_visibility().queue_url(url).receipt_handle(&message.receipt);
        let done = hide.visibility_timeout(seconds(hidden)).send().await;
        done.map(drop).map_err(|error| Failure::from(error).of("a message can't be hidden"))
    }

    /// Deletes messages, at most [`BATCH`] of them.
    ///
    /// # Errors
    /// What SQS says of all or of one.
    pub async fn delete(&self, receipts: &[String]) -> Result<(), Failure> {
        let entries = receipts.iter().enumerate().map(|(n, receipt)| {
            let entry = DeleteMessageBatchRequestEntry::builder().id(n.to_string()).receipt_handle(receipt);
            entry.build().expect("id and receipt are given")
        });
        let delete = self.client.delete_message_batch().queue_url(&self.config.url);
        let done = delete.set_entries(Some(entries.collect())).send().await;
        let done = done.map_err(|error| Failure::from(error).of("messages can't be deleted"))?;
        done.failed().first().map_or(Ok(()), |entry| {
            Err(Failure::told(&entry.code, entry.message().unwrap_or_default()).of("a message can't be deleted"))
        })
    }

    /// Deletes a dead message.
    ///
    /// # Errors
    /// What SQS says.
    pub async fn delete_dead(&self, message: &Message) -> Result<(), Failure> {
        let delete = self.client.delete_message().queue_url(&self.config.dead_letter_url);
        let done = delete.receipt_handle(&message.receipt).send().await;
        done.map(drop).map_err(|error| Failure::from(error).of("a dead message can't be deleted"))
    }

    /// Sends messages, at most [`BATCH`] of them; answers the places of those that were taken.
    ///
    /// # Errors
    /// What SQS says when it takes none.
    pub async fn send(&self, bodies: &[String]) -> Result<Vec<usize>, Failure> {
        let entries = bodies.iter().enumerate().map(|(n, body)| {
            let entry = SendMessageBatchRequestEntry::builder().id(n.to_string()).message_body(body);
            entry.build().expect("id and body are given")
        });
        let send = self.client.send_message_batch().queue_url(&self.config.url);
        let done = send.set_entries(Some(entries.collect())).send().await;
        let done = done.map_err(|error| Failure::from(error).of("messages can't be sent"))?;
        if let Some(refused) = done.failed().first() {
            tracing::warn!(code = refused.code, why = refused.message(), "a message was refused");
        }
        Ok(done.successful().iter().filter_map(|entry| entry.id.parse().ok()).collect())
    }

    /// Sends a message to the dead-letter queue, with the reason.
    ///
    /// # Errors
    /// What SQS says.
    pub async fn bury(&self, body: &str, reason: &str) -> Result<(), Failure> {
        let reason: String = reason.chars().take(REASON_CHARS).collect();
        let value = MessageAttributeValue::builder().data_type("String").string_value(reason).build();
        let send = self.client.send_message().queue_url(&self.config.dead_letter_url).message_body(body);
        let done = send.message_attributes(REASON, value.map_err(|error| Failure::ours(&error))?).send().await;
        done.map(drop).map_err(|error| Failure::from(error).of("a message can't be sent to the dead-letter queue"))
    }

    /// About how many messages wait in the queue, and how many are dead.
    ///
    /// # Errors
    /// What SQS says of either; it names which.
    pub async fn depth(&self) -> Result<(u64, u64), Failure> {
        let count = async |url: &str, name: &str| {
            let all = QueueAttributeName::ApproximateNumberOfMessages;
            let ask = self.client.get_queue_attributes().queue_url(url).attribute_names(all.clone());
            let told = ask.send().await.map_err(|error| Failure::from(error).of(name))?;
            Ok::<_, Failure>(told.attributes().and_then(|told| told.get(&all)?.parse().ok()).unwrap_or(0))
        };
        Ok((
            count(&self.config.url, "the queue").await?,
            count(&self.config.dead_letter_url, "the dead-letter queue").await?,
        ))
    }
}

/// The attribute of a dead message that says why it is.
const REASON: &str = "reason";

/// Whole ones, upwards; as long as SQS can.
fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.min(LONGEST).as_millis().div_ceil(1000)).unwrap_or(i32::MAX)
}
