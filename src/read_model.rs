//! The read model: albums, their public photos and their invites in a table of DynamoDB, from which the pages of viewers
//! are served under a crowd, without MySQL. Items and keys stand in [`items`].
//!
//! It is a copy. What is in it is written by the job `project` from the rows as they are, each item under the number of an
//! event and only over older ones, so that late, repeated and reordered writes change nothing. Whoever reads asks MySQL where
//! the copy has no answer, fails, or is known to be behind.

mod dynamodb;
pub mod items;

use std::time::{Duration, Instant};

use anyhow::Context;
use aws_config::SdkConfig;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{sync::watch, time::timeout};

pub use dynamodb::Over;

use crate::{
    aws::Failure,
    config,
    db::photos::Page,
    domain::{Album, AlbumId, Guest, InviteRole, InviteToken, Photo},
    resilience::breaker::Breaker,
    telemetry::metrics,
};
use dynamodb::Table;
use items::{Item, Key};

/// After a failed read MySQL answers for so long.
const REST: Duration = Duration::from_secs(3);
/// How long what was seen of the lag holds. A function of Lambda is frozen between invocations, so nobody may have looked since.
pub const SEEN_HOLDS: Duration = Duration::from_secs(15);
/// The longest time that a request waits for a look at the lag.
const LOOK: Duration = Duration::from_secs(1);
/// The longest time that a request waits for a write.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Writes at a time.
const WRITES: usize = 8;

/// The read model.
pub struct ReadModel {
    table: Table,
    breaker: Breaker,
    lag: watch::Sender<Option<Lag>>,
}

/// What was seen when somebody last looked at how old the changes are that wait to be written.
#[derive(Debug, Clone, Copy)]
struct Lag {
    seen: Instant,
    /// They have been waiting for too long: MySQL knows better.
    behind: bool,
}

impl Lag {
    fn holds(&self) -> bool {
        self.seen.elapsed() <= SEEN_HOLDS
    }
}

/// What the read model has for a caller.
#[derive(Debug)]
pub enum Found<T> {
    /// This.
    Hit(T),
    /// The invite is revoked or expired, or its album deleted. That does not change again.
    Ended,
    /// Nothing: ask MySQL.
    Nothing,
}

impl ReadModel {
    /// The read model as configured; none when it is off. Its clients start from `sdk`.
    ///
    /// # Errors
    /// A table is set and there is nothing that its clients could start from.
    pub fn new(config: &config::ReadModel, sdk: Option<&SdkConfig>) -> anyhow::Result<Option<Self>> {
        let Some(name) = &config.table else { return Ok(None) };
        let table = Table::new(name, sdk.context("a table needs AWS's configuration")?);
        Ok(Some(Self { table, breaker: Breaker::new(REST), lag: watch::Sender::new(None) }))
    }

    /// The table's name.
    #[must_use]
    pub fn table(&self) -> &str {
        self.table.name()
    }

    /// Notes whether changes have been waiting for too long, as of now. To be told every few seconds.
    pub fn set_behind(&self, behind: bool) {
        let before = self.lag.send_replace(Some(Lag { seen: Instant::now(), behind }));
        if before.is_some_and(|lag| lag.behind) != behind {
            if behind {
                tracing::warn!("the read model is too far behind; pages come from the database");
            } else {
                tracing::info!("the read model has caught up");
            }
        }
    }

    /// Whether MySQL knows better. While nobody can tell, what is here is better than nothing.
    async fn is_behind(&self) -> bool {
        let mut lag = self.lag.subscribe();
        let seen = timeout(LOOK, lag.wait_for(|lag| lag.is_some_and(|lag| lag.holds()))).await;
        seen.is_ok_and(|lag| lag.is_ok_and(|lag| lag.is_some_and(|lag| lag.behind)))
    }

    /// Whether its table answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn look(&self) -> Result<(), Failure> {
        self.table.look().await
    }

    /// The album that a viewer's invite opens. Other roles see more than is here.
    pub async fn open(&self, token: &InviteToken, id: AlbumId, now: DateTime<Utc>) -> Found<(Guest, Album)> {
        let (invite_key, album_key) = (Key::invite(&token.hash()), Key::album(id));
        let both = futures_util::future::try_join(self.table.get(&invite_key), self.table.get(&album_key));
        let Some((invite, album)) = self.read(both).await else { return Found::Nothing };
        let found = match invite.as_ref().and_then(Item::to_invite) {
            Some(invite) if invite.revoked || invite.expires_at.is_some_and(|at| at <= now) => Found::Ended,
            Some(invite) if invite.guest.role == InviteRole::View && invite.guest.album_id == id => match album {
                Some(album) if album.json.is_none() => Found::Ended,
                album => {
                    let album = album.and_then(|item| item.to_album(id));
                    album.map_or(Found::Nothing, |album| Found::Hit((invite.guest, album)))
                }
            },
            _ => Found::Nothing,
        };
        count(if matches!(found, Found::Nothing) { "miss" } else { "hit" });
        found
    }

    /// A page of an album's public photos, for who has [opened](Self::open) it; none: ask MySQL.
    pub async fn photos(&self, id: AlbumId, page: &Page) -> Option<Vec<Photo>> {
        let (partition, range) = (items::partition(id), items::range(page.after, page.oldest_first));
        let list = self.table.list(&partition, &range, page.oldest_first, page.limit as usize);
        let found = self.read(list).await?;
        let photos = found.and_then(|items| items.iter().map(Item::to_photo).collect::<Option<Vec<Photo>>>());
        count(if photos.is_some() { "hit" } else { "miss" });
        photos
    }

    /// None when the table does not answer, and for a while after.
    async fn read<T>(&self, asked: impl Future<Output = Result<T, Failure>>) -> Option<T> {
        if self.is_behind().await || !self.breaker.may_be_asked() {
            count("fallback");
            return None;
        }
        match asked.await {
            Ok(answer) => {
                if self.breaker.answered() {
                    tracing::info!("the read model answers again");
                }
                Some(answer)
            }
            Err(error) => {
                if self.breaker.failed() {
                    let advice = error.advice();
                    tracing::warn!(%error, advice, "the read model fails; pages come from the database");
                }
                count("fallback");
                None
            }
        }
    }

    /// Writes items, each unless a newer one is there.
    ///
    /// # Errors
    /// One could not be written; others may have been.
    pub async fn write(&self, items: &[Item], over: Over) -> Result<(), Failure> {
        let writes: Vec<_> = items.iter().map(|item| self.table.put(item, over)).collect();
        written(stream::iter(writes).buffer_unordered(WRITES).try_for_each(|_| async { Ok(()) }).await)
    }

    /// Writes what counts at once, best effort: the job that does it in any case comes a little later.
    pub async fn write_now(&self, item: &Item) {
        let written = timeout(AT_ONCE, self.write(std::slice::from_ref(item), Over::Older)).await;
        let why = match written {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {AT_ONCE:?}"),
        };
        tracing::warn!(error = why, "the read model does not know yet what has ended; the job will tell it");
    }

    /// Ends an album for who reads here, and removes its photos.
    ///
    /// # Errors
    /// Something could not be written or removed.
    pub async fn remove_album(&self, id: AlbumId) -> Result<(), Failure> {
        self.write(&[Item::deleted(id, Utc::now())], Over::Older).await?;
        let mut after = None;
        loop {
            let (mut keys, next) = written(self.table.keys(&items::partition(id), after.as_ref()).await)?;
            keys.retain(|key| *key != Key::album(id));
            self.remove(&keys).await?;
            after = next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Removes items, whatever their numbers: what they stand for will never be again.
    ///
    /// # Errors
    /// Some could not be removed.
    pub async fn remove(&self, keys: &[Key]) -> Result<(), Failure> {
        written(self.table.delete(keys).await)
    }

    /// A page of the keys of an album's items, and where the next one begins.
    ///
    /// # Errors
    /// The table's.
    pub async fn keys_of(&self, id: AlbumId, after: Option<&Key>) -> Result<(Vec<Key>, Option<Key>), Failure> {
        self.table.keys(&items::partition(id), after).await
    }

    /// A page of the keys of all items, and where the next one begins.
    ///
    /// # Errors
    /// The table's.
    pub async fn all_keys(&self, after: Option<&Key>) -> Result<(Vec<Key>, Option<Key>), Failure> {
        self.table.all_keys(after).await
    }
}

fn count(outcome: &'static str) {
    metrics::READ_MODEL_READS.with(&[("outcome", outcome)]).increment(1);
}

fn written<T>(outcome: Result<T, Failure>) -> Result<T, Failure> {
    if outcome.is_err() {
        metrics::READ_MODEL_WRITE_FAILURES.increment(1);
    }
    outcome
}
