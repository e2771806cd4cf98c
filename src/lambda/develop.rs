//! The function `develop`: a batch of messages of SQS.
//!
//! The event source has to be set up with `ReportBatchItemFailures`: what the answer names comes again, the rest is deleted.
//! <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>

use anyhow::Context;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{app::AppState, deadline, queue::Message, worker::messages};

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

/// Acts on each message, as many at a time as a worker would; answers which have to come again. Those whose turn does not
/// come in time are among them.
pub(super) async fn act(app: &AppState, event: Value) -> anyhow::Result<Value> {
    let queue = app.queue.as_ref().context("there is no queue (queue.kind)")?;
    let batch: Batch = serde_json::from_value(event).context("the event is no batch of messages of SQS")?;
    let failures: Vec<Value> = stream::iter(batch.records)
        .map(|record| async {
            let message = Message::from(record);
            let done = deadline::is_ahead() && messages::act(app, queue, &message).await;
            (!done).then(|| json!({ "itemIdentifier": message.id }))
        })
        .buffer_unordered(app.config.worker.concurrency)
        .filter_map(async |failure| failure)
        .collect()
        .await;
    Ok(json!({ "batchItemFailures": failures }))
}
