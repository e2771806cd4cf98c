//! The DynamoDB table. `pk` (string) is the partition key, `sk` (string) the sort key. Reads are strongly consistent,
//! so that they see each write that has been answered.

use std::{collections::HashMap, time::Duration};

use aws_config::{SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_dynamodb::{
    Client,
    operation::put_item::PutItemError,
    types::{AttributeValue, DeleteRequest, WriteRequest},
};
use chrono::DateTime;

use super::items::{Item, Key};
use crate::aws::AwsError;

/// A read that takes longer fails, and MySQL is used.
const READ_ATTEMPT: Duration = Duration::from_millis(300);
const READ: Duration = Duration::from_millis(650);
const READ_TRIES: u32 = 2;
const READ_PAUSE: Duration = Duration::from_millis(20);
/// The most queries for one page of a list, of which tombstones take up places.
const MAX_QUERIES: usize = 6;
/// The least number of items that a further query reads.
const MIN_FURTHER_ITEMS: usize = 100;
/// DynamoDB's limit for one batch of deletions.
const BATCH: usize = 25;

type Attributes = HashMap<String, AttributeValue>;

/// The items that a write overwrites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// Older items.
    Older,
    /// Older items and those with the same number, to repair damaged ones.
    OlderOrSame,
}

pub(crate) struct Table {
    name: String,
    /// With short timeouts.
    reader: Client,
    writer: Client,
}

impl Table {
    pub(crate) fn new(name: &str, sdk: &SdkConfig) -> Self {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(READ_ATTEMPT).operation_timeout(READ).build();
        let retries = RetryConfig::standard().with_max_attempts(READ_TRIES).with_initial_backoff(READ_PAUSE);
        let fast = sdk.to_builder().timeout_config(timeouts).retry_config(retries).build();
        Self { name: name.to_owned(), reader: Client::new(&fast), writer: Client::new(sdk) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The item of a key.
    pub(crate) async fn get(&self, key: &Key) -> Result<Option<Item>, AwsError> {
        let call = self.reader.get_item().table_name(&self.name).set_key(Some(attributes_of_key(key)));
        // Boxed, as in all calls of requests: the futures of the SDK are large.
        Ok(Box::pin(call.consistent_read(true).send()).await?.item.as_ref().and_then(read))
    }

    /// The items of a range that are not tombstones, in its order; `None` when there are too many tombstones among
    /// them.
    pub(crate) async fn list(
        &self,
        partition: &str,
        (low, high): &(String, String),
        oldest_first: bool,
        limit: usize,
    ) -> Result<Option<Vec<Item>>, AwsError> {
        let (mut items, mut from) = (Vec::new(), None);
        for query in 0..MAX_QUERIES {
            // AWS charges for each item that is read; usually there are no tombstones.
            let max_items = if query == 0 { limit } else { limit.max(MIN_FURTHER_ITEMS) };
            let call = self
                .reader
                .query()
                .table_name(&self.name)
                .consistent_read(true)
                .key_condition_expression("pk = :pk AND sk BETWEEN :low AND :high")
                .expression_attribute_values(":pk", text(partition))
                .expression_attribute_values(":low", text(low))
                .expression_attribute_values(":high", text(high))
                .scan_index_forward(oldest_first)
                .limit(i32::try_from(max_items).unwrap_or(i32::MAX))
                .set_exclusive_start_key(from);
            let answer = Box::pin(call.send()).await?;
            items.extend(answer.items().iter().filter_map(read).filter(|item| item.json.is_some()));
            from = answer.last_evaluated_key;
            if items.len() >= limit || from.is_none() {
                items.truncate(limit);
                return Ok(Some(items));
            }
        }
        Ok(None)
    }

    /// Checks the table with a query for which pages need the same permission. It has longer timeouts: it may be the
    /// first call, which connects and fetches credentials.
    pub(crate) async fn check(&self) -> Result<(), AwsError> {
        self.keys("none", None).await?;
        Ok(())
    }

    /// Writes an item unless there is a newer one; whether it was written.
    pub(crate) async fn put(&self, item: &Item, overwrite: Overwrite) -> Result<bool, AwsError> {
        let condition = match overwrite {
            Overwrite::Older => "attribute_not_exists(seq) OR seq < :seq",
            Overwrite::OlderOrSame => "attribute_not_exists(seq) OR seq <= :seq",
        };
        let call = self
            .writer
            .put_item()
            .table_name(&self.name)
            .set_item(Some(attributes(item)))
            .condition_expression(condition)
            .expression_attribute_values(":seq", number(&item.seq));
        let written = Box::pin(call.send()).await;
        match written {
            Ok(_) => Ok(true),
            Err(error) if error.as_service_error().is_some_and(PutItemError::is_conditional_check_failed_exception) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A page of the keys of a partition, tombstones included.
    pub(crate) async fn keys(&self, partition: &str, after: Option<&Key>) -> Result<(Vec<Key>, Option<Key>), AwsError> {
        let answer = self
            .writer
            .query()
            .table_name(&self.name)
            .consistent_read(true)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", text(partition))
            .projection_expression("pk, sk")
            .set_exclusive_start_key(after.map(attributes_of_key))
            .send()
            .await?;
        Ok((answer.items().iter().filter_map(key).collect(), answer.last_evaluated_key.as_ref().and_then(key)))
    }

    /// A page of the keys of the whole table.
    pub(crate) async fn all_keys(&self, after: Option<&Key>) -> Result<(Vec<Key>, Option<Key>), AwsError> {
        let answer = self
            .writer
            .scan()
            .table_name(&self.name)
            .consistent_read(true)
            .projection_expression("pk, sk")
            .set_exclusive_start_key(after.map(attributes_of_key))
            .send()
            .await?;
        Ok((answer.items().iter().filter_map(key).collect(), answer.last_evaluated_key.as_ref().and_then(key)))
    }

    /// Deletes items with any number.
    pub(crate) async fn delete(&self, keys: &[Key]) -> Result<(), AwsError> {
        for some in keys.chunks(BATCH) {
            let requests: Result<Vec<_>, _> = some
                .iter()
                .map(|key| {
                    let request = DeleteRequest::builder().set_key(Some(attributes_of_key(key))).build()?;
                    Ok(WriteRequest::builder().delete_request(request).build())
                })
                .collect();
            let requests =
                requests.map_err(|error: aws_sdk_dynamodb::error::BuildError| AwsError::invalid_request(&error))?;
            let answer = self.writer.batch_write_item().request_items(&self.name, requests).send().await?;
            if answer.unprocessed_items().is_some_and(|left| !left.is_empty()) {
                return Err(AwsError::throttled("some items were not deleted"));
            }
        }
        Ok(())
    }
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn number(number: &impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn attributes_of_key(key: &Key) -> Attributes {
    HashMap::from([("pk".to_owned(), text(&key.pk)), ("sk".to_owned(), text(&key.sk))])
}

fn attributes(item: &Item) -> Attributes {
    let mut attributes = attributes_of_key(&item.key);
    attributes.insert("seq".to_owned(), number(&item.seq));
    attributes.extend(item.json.as_deref().map(|json| ("json".to_owned(), text(json))));
    attributes.extend(item.expires_at.map(|at| ("expires_at".to_owned(), number(&at.timestamp()))));
    attributes
}

fn key(attributes: &Attributes) -> Option<Key> {
    let text = |name: &str| attributes.get(name)?.as_s().ok().cloned();
    Some(Key { pk: text("pk")?, sk: text("sk")? })
}

/// `None` when the attributes are not those of an item of the read model.
fn read(attributes: &Attributes) -> Option<Item> {
    let number = |name: &str| attributes.get(name)?.as_n().ok();
    Some(Item {
        key: key(attributes)?,
        seq: number("seq")?.parse().ok()?,
        json: attributes.get("json").and_then(|value| value.as_s().ok()).cloned(),
        expires_at: number("expires_at").and_then(|at| DateTime::from_timestamp(at.parse().ok()?, 0)),
    })
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::domain::{AlbumId, PhotoId};

    #[test]
    fn items_survive_a_round_trip() {
        let (album_id, photo_id) = (AlbumId::generate(), PhotoId::generate());
        let now = DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap();
        let tombstone = Item::photo(album_id, photo_id, 7, None, now);
        let live = Item { json: Some("{}".to_owned()), expires_at: None, ..tombstone.clone() };
        for item in [tombstone, live, Item::deleted(album_id, now)] {
            assert_eq!(read(&attributes(&item)), Some(item));
        }
        assert_eq!(read(&attributes_of_key(&Key::album(album_id))), None, "an item needs a number");
    }
}
