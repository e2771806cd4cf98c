//! What each step does. Every one looks first whether it is its turn, so that one which is done again changes nothing.

use anyhow::Context;

use super::{Step, StepOutcome, count, fail, lock, record, standing};
use crate::{
    app::App,
    db,
    domain::{Edit, EditId, EditState, EditStep, EventKind, Photo, PhotoState, Rendition, TaskToken},
    jobs::{
        kinds::render::{self, Verdict},
        queue::Kind,
    },
};

/// Does a step of an edit, and tells what comes next. It may be called from anywhere and any number of times; a step whose
/// turn it is not does nothing.
///
/// # Errors
/// The database's, storage's, or a decoder that could not do its work: worth another try. What another try does not mend
/// is no error, but leads to [`Step::Fail`].
pub async fn step(app: &App, id: EditId, step: Step) -> anyhow::Result<StepOutcome> {
    match step {
        Step::Validate {} => validate(app, id).await,
        Step::Review { task_token } => review(app, id, &task_token).await,
        Step::Apply {} => apply(app, id).await,
        Step::File {} => file(app, id).await,
        Step::Announce {} => announce(app, id).await,
        Step::Fail { reason } => give_up(app, id, &reason).await,
    }
}

fn hopeless(reason: impl Into<String>) -> StepOutcome {
    StepOutcome::Next { next: Step::Fail { reason: reason.into() } }
}

async fn load(app: &App, id: EditId) -> db::Result<Option<(Edit, Photo)>> {
    let mut session = app.db.session().await?;
    let Some(edit) = db::edits::get(&mut session, id).await? else { return Ok(None) };
    let photo = db::photos::get(&mut session, edit.photo_id).await?;
    Ok(photo.map(|photo| (edit, photo)))
}

async fn validate(app: &App, id: EditId) -> anyhow::Result<StepOutcome> {
    let Some((edit, photo)) = load(app, id).await? else { return Ok(StepOutcome::Ended) };
    let (PhotoState::Ready, Some(width), Some(height)) = (photo.state, photo.width, photo.height) else {
        return Ok(hopeless("the photo is not ready"));
    };
    if imaging::size_after_filters(&edit.filters, (width, height)).is_none() {
        return Ok(hopeless("the filters leave nothing of the photo"));
    }
    advance(app, id, EditStep::Validate, |edit| edit.step = Some(EditStep::Apply)).await
}

/// The host may have decided already, before there was a token to tell anybody with.
async fn review(app: &App, id: EditId, token: &TaskToken) -> anyhow::Result<StepOutcome> {
    let outcome = app
        .db
        .transaction(|mut tx| async move {
            let Some(edit) = db::edits::lock(tx.session(), id).await? else {
                return Ok::<_, db::Error>(tx.done(StepOutcome::Ended));
            };
            db::edits::set_task_token(tx.session(), id, token).await?;
            if standing(&edit) != StepOutcome::Waits {
                tx.enqueue(Kind::Edit, id.as_uuid()).await?;
            }
            Ok(tx.done(StepOutcome::Waits))
        })
        .await?;
    Ok(outcome)
}

async fn apply(app: &App, id: EditId) -> anyhow::Result<StepOutcome> {
    let Some((edit, photo)) = load(app, id).await? else { return Ok(StepOutcome::Ended) };
    if standing(&edit) != (StepOutcome::Next { next: Step::Apply {} }) {
        return Ok(standing(&edit));
    }
    let rendered = match render::judge(app, &photo, &edit.filters, false).await?.0 {
        Verdict::Rendered(rendered) => rendered,
        Verdict::Rejected { reason, .. } => return Ok(hopeless(reason)),
    };
    let renditions: Vec<Rendition> = rendered.renditions.iter().map(render::describe).collect();
    let names = renditions.iter().map(|rendition| edit.rendition_name(rendition));
    let files = names.zip(rendered.renditions).map(|(name, made)| (name, made.bytes)).collect();
    app.storage.put_renditions(photo.id, files).await.context("the renditions can't be stored")?;
    let outcome = advance(app, id, EditStep::Apply, |edit| {
        edit.renditions.clone_from(&renditions);
        edit.step = Some(EditStep::File);
    })
    .await?;
    let mut session = app.db.session().await?;
    if outcome == StepOutcome::Ended && db::photos::get(&mut session, photo.id).await?.is_none() {
        drop(session);
        // Deleted while we worked: the purge may have gone by before our renditions were written.
        app.storage.remove(photo.id).await.context("objects of a deleted photo can't be removed")?;
    }
    Ok(outcome)
}

async fn file(app: &App, id: EditId) -> anyhow::Result<StepOutcome> {
    let filed = app
        .db
        .transaction(|mut tx| async move {
            let Some((edit, photo)) = lock(&mut tx, id).await? else {
                return Ok::<_, db::Error>(tx.done((StepOutcome::Ended, false)));
            };
            if standing(&edit) != (StepOutcome::Next { next: Step::File {} }) {
                return Ok(tx.done((standing(&edit), false)));
            }
            let (state, step) = (EditState::Ready, Some(EditStep::Announce));
            let edit = Edit { state, step, ready_at: Some(db::now()), ..edit };
            db::edits::advance(tx.session(), &edit).await?;
            let kind = EventKind::EditReady;
            record(&mut tx, &edit, &photo, kind, photo.is_public().then_some(kind)).await?;
            Ok(tx.done((standing(&edit), true)))
        })
        .await?;
    if filed.1 {
        count("ready");
    }
    Ok(filed.0)
}

/// The event's own transaction has asked for that already; this makes sure of it.
async fn announce(app: &App, id: EditId) -> anyhow::Result<StepOutcome> {
    let Some((edit, _)) = load(app, id).await? else { return Ok(StepOutcome::Ended) };
    if edit.step == Some(EditStep::Announce) {
        app.db.enqueue(Kind::Announce, edit.album_id.as_uuid()).await?;
    }
    advance(app, id, EditStep::Announce, |edit| edit.step = None).await
}

async fn give_up(app: &App, id: EditId, reason: &str) -> anyhow::Result<StepOutcome> {
    let failed = app
        .db
        .transaction(|mut tx| async move {
            match lock(&mut tx, id).await? {
                Some((edit, photo)) if edit.is_open() => {
                    fail(&mut tx, edit, &photo, reason).await?;
                    Ok::<_, db::Error>(tx.done((StepOutcome::Ended, true)))
                }
                found => Ok(tx.done((found.map_or(StepOutcome::Ended, |(edit, _)| standing(&edit)), false))),
            }
        })
        .await?;
    if failed.1 {
        tracing::info!(reason, "an edit failed");
        count("failed");
    }
    Ok(failed.0)
}

/// Moves an edit on from a step, unless it is past it or gone.
async fn advance(app: &App, id: EditId, from: EditStep, change: impl Fn(&mut Edit)) -> anyhow::Result<StepOutcome> {
    let change = &change;
    let outcome = app
        .db
        .transaction(|mut tx| async move {
            let Some(mut edit) = db::edits::lock(tx.session(), id).await? else {
                return Ok::<_, db::Error>(tx.done(StepOutcome::Ended));
            };
            if edit.step == Some(from) {
                change(&mut edit);
                db::edits::advance(tx.session(), &edit).await?;
            }
            Ok(tx.done(standing(&edit)))
        })
        .await?;
    Ok(outcome)
}
