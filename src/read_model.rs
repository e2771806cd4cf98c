//! The read model: albums, their public photos and their invites in a DynamoDB table, from which viewers' pages are
//! served without MySQL. See [`items`] for items and keys.
//!
//! It is a copy. A job writes the items from the current rows, each with the number of an event and only over older
//! items, so that late, repeated and reordered writes change nothing. Readers use MySQL where the table has no item,
//! fails, or lags too far behind.

mod dynamodb;
pub mod items;

use std::time::{Duration, Instant};

use anyhow::Context;
use aws_config::SdkConfig;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{sync::watch, time::timeout};

pub use dynamodb::Overwrite;

use crate::{
    aws::AwsError,
    config,
    db::photos::Page,
    domain::{Album, AlbumId, Guest, InviteRole, InviteToken, Photo},
    resilience::breaker::Breaker,
    telemetry::metrics,
};
use dynamodb::Table;
use items::{Item, Key};

/// After a failed read MySQL is used for this long.
const PAUSE: Duration = Duration::from_secs(3);
/// How long a measured lag is valid. A Lambda function is frozen between invocations, so the last measurement may be
/// old.
pub const LAG_TTL: Duration = Duration::from_secs(15);
/// The longest wait of a request for a measurement of the lag.
const LAG_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest wait of a request for a write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Concurrent writes.
const CONCURRENT_WRITES: usize = 8;

/// See the module's documentation.
pub struct ReadModel {
    table: Table,
    breaker: Breaker,
    lag: watch::Sender<Option<Lag>>,
}

/// The last measurement of the lag.
#[derive(Debug, Clone, Copy)]
struct Lag {
    measured_at: Instant,
    /// Changes have waited too long to be projected: MySQL is used.
    is_behind: bool,
}

impl Lag {
    fn is_valid(&self) -> bool {
        self.measured_at.elapsed() <= LAG_TTL
    }
}

/// The result of a lookup.
#[derive(Debug)]
pub enum Lookup<T> {
    Hit(T),
    /// The invite is revoked or expired, or its album is deleted, which is final.
    Ended,
    /// Use MySQL.
    Miss,
}

impl ReadModel {
    /// The configured read model; `None` when it is off. A configured table needs the AWS configuration `sdk`.
    pub fn new(config: &config::ReadModel, sdk: Option<&SdkConfig>) -> anyhow::Result<Option<Self>> {
        let Some(name) = &config.table else { return Ok(None) };
        let table = Table::new(name, sdk.context("the read model needs an AWS configuration")?);
        Ok(Some(Self { table, breaker: Breaker::new(PAUSE), lag: watch::Sender::new(None) }))
    }

    /// The table's name.
    #[must_use]
    pub fn table(&self) -> &str {
        self.table.name()
    }

    /// Records a measurement of the lag, every few seconds: whether changes have waited too long to be projected.
    pub fn set_behind(&self, is_behind: bool) {
        let before = self.lag.send_replace(Some(Lag { measured_at: Instant::now(), is_behind }));
        if before.is_some_and(|lag| lag.is_behind) != is_behind {
            if is_behind {
                tracing::warn!("read model lags too far behind; reading from the database");
            } else {
                tracing::info!("read model has caught up");
            }
        }
    }

    /// Whether the read model lags too far behind; false when that is unknown, as during an outage of the database.
    async fn is_behind(&self) -> bool {
        let mut lag = self.lag.subscribe();
        let measured = timeout(LAG_TIMEOUT, lag.wait_for(|lag| lag.is_some_and(|lag| lag.is_valid()))).await;
        measured.is_ok_and(|lag| lag.is_ok_and(|lag| lag.is_some_and(|lag| lag.is_behind)))
    }

    /// Checks that the table answers.
    pub async fn check(&self) -> Result<(), AwsError> {
        self.table.check().await
    }

    /// The album of an invite with the role `view`; the other roles see more than the read model contains.
    pub async fn find_album(&self, token: &InviteToken, id: AlbumId, now: DateTime<Utc>) -> Lookup<(Guest, Album)> {
        let (invite_key, album_key) = (Key::invite(&token.hash()), Key::album(id));
        let both = futures_util::future::try_join(self.table.get(&invite_key), self.table.get(&album_key));
        let Some((invite, album)) = self.read(both).await else { return Lookup::Miss };
        let found = match invite.as_ref().and_then(Item::to_invite) {
            Some(invite) if invite.revoked || invite.expires_at.is_some_and(|at| at <= now) => Lookup::Ended,
            Some(invite) if invite.guest.role == InviteRole::View && invite.guest.album_id == id => match album {
                Some(album) if album.json.is_none() => Lookup::Ended,
                album => {
                    let album = album.and_then(|item| item.to_album(id));
                    album.map_or(Lookup::Miss, |album| Lookup::Hit((invite.guest, album)))
                }
            },
            _ => Lookup::Miss,
        };
        count(if matches!(found, Lookup::Miss) { "miss" } else { "hit" });
        found
    }

    /// A page of an album's public photos, for a caller of [`Self::find_album`]; `None`: use MySQL.
    pub async fn photos(&self, id: AlbumId, page: &Page) -> Option<Vec<Photo>> {
        let (partition, range) = (items::partition(id), items::range(page.after, page.oldest_first));
        let list = self.table.list(&partition, &range, page.oldest_first, page.limit as usize);
        let found = self.read(list).await?;
        let photos = found.and_then(|items| items.iter().map(Item::to_photo).collect::<Option<Vec<Photo>>>());
        count(if photos.is_some() { "hit" } else { "miss" });
        photos
    }

    /// `None` when the table does not answer, and for [`PAUSE`] afterwards.
    async fn read<T>(&self, request: impl Future<Output = Result<T, AwsError>>) -> Option<T> {
        if self.is_behind().await || !self.breaker.allows_call() {
            count("fallback");
            return None;
        }
        match request.await {
            Ok(answer) => {
                if self.breaker.record_success() {
                    tracing::info!("read model recovered");
                }
                Some(answer)
            }
            Err(error) => {
                if self.breaker.record_failure() {
                    let advice = error.hint();
                    tracing::warn!(%error, advice, "read model failed; reading from the database");
                }
                count("fallback");
                None
            }
        }
    }

    /// Writes items, each unless there is a newer one. After an error some may have been written.
    pub async fn write(&self, items: &[Item], overwrite: Overwrite) -> Result<(), AwsError> {
        let writes: Vec<_> = items.iter().map(|item| self.table.put(item, overwrite)).collect();
        count_failure(stream::iter(writes).buffer_unordered(CONCURRENT_WRITES).try_for_each(|_| async { Ok(()) }).await)
    }

    /// Writes an item that must take effect at once, such as a revocation, as far as possible: the job writes it later
    /// in any case.
    pub async fn write_now(&self, item: &Item) {
        let written = timeout(WRITE_TIMEOUT, self.write(std::slice::from_ref(item), Overwrite::Older)).await;
        let error = match written {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {WRITE_TIMEOUT:?}"),
        };
        tracing::warn!(error, "writing to the read model failed; its job will retry");
    }

    /// Marks an album as deleted and removes its photos.
    pub async fn remove_album(&self, id: AlbumId) -> Result<(), AwsError> {
        self.write(&[Item::deleted(id, Utc::now())], Overwrite::Older).await?;
        let mut after = None;
        loop {
            let (mut keys, next) = count_failure(self.table.keys(&items::partition(id), after.as_ref()).await)?;
            keys.retain(|key| *key != Key::album(id));
            self.remove(&keys).await?;
            after = next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Removes items with any number: their rows are gone for good.
    pub async fn remove(&self, keys: &[Key]) -> Result<(), AwsError> {
        count_failure(self.table.delete(keys).await)
    }

    /// A page of the keys of an album's items, and the key after which the next page begins.
    pub async fn album_keys(&self, id: AlbumId, after: Option<&Key>) -> Result<(Vec<Key>, Option<Key>), AwsError> {
        self.table.keys(&items::partition(id), after).await
    }

    /// A page of the keys of all items, and the key after which the next page begins.
    pub async fn all_keys(&self, after: Option<&Key>) -> Result<(Vec<Key>, Option<Key>), AwsError> {
        self.table.all_keys(after).await
    }
}

fn count(outcome: &'static str) {
    metrics::READ_MODEL_READS.with(&[("outcome", outcome)]).increment(1);
}

fn count_failure<T>(result: Result<T, AwsError>) -> Result<T, AwsError> {
    if result.is_err() {
        metrics::READ_MODEL_WRITE_FAILURES.increment(1);
    }
    result
}
