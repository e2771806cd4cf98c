//! What an operator does about a dead job that shall not be tried again.

use uuid::Uuid;

use super::kinds::{edit, render};
use crate::{
    db::{self, Db},
    jobs::queue::Kind,
};

/// Drops a dead job; false when there is none of this id. Its photo is rejected, or its edit fails: nothing else would ever
/// settle them.
///
/// # Errors
/// The database's.
pub async fn give_up(db: &Db, job: Uuid) -> db::Result<bool> {
    db.transaction(|mut tx| async move {
        match db::jobs::dead(tx.session(), job).await? {
            Some((Kind::Develop, subject)) => render::abandon(&mut tx, subject.into()).await?,
            Some((Kind::Edit, subject)) => edit::abandon(&mut tx, subject.into()).await?,
            Some((Kind::PurgePhoto | Kind::PurgeAlbum | Kind::Announce | Kind::Project, _)) | None => {}
        }
        let dropped = db::jobs::drop_dead(tx.session(), job).await?;
        Ok(tx.done(dropped))
    })
    .await
}
