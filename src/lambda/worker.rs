//! The function `develop`: a batch of messages of SQS.
//!
//! The event source has to be set up with `ReportBatchItemFailures`: what the answer names comes again, the rest is deleted.
//! <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>

use std::time::Duration;

use anyhow::Context;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::{App, AppState},
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

/// Acts on each message, as many at a time as there are decoders: who waits for one spends its time on nothing. Answers which
/// have to come again. Those whose turn does not come in time are among them.
pub(crate) async fn act(app: &AppState, event: Value) -> anyhow::Result<Value> {
    let queue = app.queue.as_ref().context("there is no queue (queue.kind)")?;
    let batch: Batch = serde_json::from_value(event).context("the event is no batch of messages of SQS")?;
    let failures: Vec<Value> = stream::iter(batch.records)
        .map(|record| async {
            let message = Message::from(record);
            let done = if deadline::is_ahead() {
                consumer::act(app, queue, &message).await
            } else {
                give_back(queue, &message).await;
                false
            };
            (!done).then(|| json!({ "itemIdentifier": message.id }))
        })
        .buffer_unordered(places(app))
        .filter_map(async |failure| failure)
        .collect()
        .await;
    Ok(json!({ "batchItemFailures": failures }))
}

fn places(app: &App) -> usize {
    app.config.worker.concurrency.min(app.config.imaging.processes)
}

/// Lets others see a message at once, which would stay hidden for the queue's time.
async fn give_back(queue: &Sqs, message: &Message) {
    if let Err(error) = Box::pin(queue.hide(message, Duration::ZERO)).await {
        tracing::debug!(%error, "a message waits for its time to be over");
    }
}
