//! The function that acts on a batch of SQS messages.
//!
//! The event source mapping needs `ReportBatchItemFailures`: messages named in the answer are received again, the
//! others are deleted. <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>

use std::time::Duration;

use anyhow::Context;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::AppState,
    jobs::{
        sqs::client::{Message, Sqs},
        sqs::consumer,
    },
    resilience::deadline,
};

/// <https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html>
#[derive(Deserialize)]
struct Batch {
    #[serde(rename = "Records")]
    records: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    message_id: String,
    receipt_handle: String,
    body: String,
    attributes: Attributes,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attributes {
    approximate_receive_count: String,
}

impl From<Record> for Message {
    fn from(record: Record) -> Self {
        Self {
            id: record.message_id,
            receipt: record.receipt_handle,
            body: record.body,
            receives: record.attributes.approximate_receive_count.parse().unwrap_or(1),
            reason: None,
        }
    }
}

/// Acts on as many messages at a time as can be decoded. Returns the failed ones, and those for which no time was left.
pub(crate) async fn process_batch(app: &AppState, event: Value) -> anyhow::Result<Value> {
    let sqs = app.queue.as_ref().context("no queue is configured (queue.kind)")?;
    let batch: Batch = serde_json::from_value(event).context("the event is not a batch of SQS messages")?;
    let concurrency = app.config.worker.concurrency.min(app.config.imaging.processes);
    let failures: Vec<Value> = stream::iter(batch.records)
        .map(|record| async {
            let message = Message::from(record);
            let is_done = if deadline::has_time_left() {
                consumer::process(app, sqs, &message).await
            } else {
                release(sqs, &message).await;
                false
            };
            (!is_done).then(|| json!({ "itemIdentifier": message.id }))
        })
        .buffer_unordered(concurrency)
        .filter_map(async |failure| failure)
        .collect()
        .await;
    Ok(json!({ "batchItemFailures": failures }))
}

/// Makes a message visible before its visibility timeout.
async fn release(sqs: &Sqs, message: &Message) {
    if let Err(error) = Box::pin(sqs.hide(message, Duration::ZERO)).await {
        tracing::debug!(%error, "returning a message to SQS failed");
    }
}
