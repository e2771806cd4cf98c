//! The steps of an edit. Each first checks that it is the edit's next one, so that a repeated step changes nothing.

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::{
    app::App,
    db::{
        self,
        jobs::{APPLY_EDIT, Claim, PUBLISH_EVENTS},
    },
    domain::{
        Edit, EditId, EditState, EditStep, EventKind, Photo, PhotoState, Rendition, TaskToken, edit::REVIEW_TIMEOUT,
    },
    jobs::{
        job::{Completion, complete_in},
        kinds::render_photo::{self, RenderResult},
    },
    services::edits::{fail, lock, record_event},
    telemetry::metrics,
};

/// The `fail_reason` after the last attempt, a failed execution, or a dropped job.
pub(super) const GIVEN_UP: &str = "the edit could not be made";
/// The `fail_reason` after the review time, as in the state machine.
pub(super) const REVIEW_TIMED_OUT: &str = "the host did not review it in time";

/// A step to run. The JSON form is the input of the Lambda function `step`, without the edit's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Checks whether the filters fit the photo.
    Validate {},
    /// Stores the token of an execution that waits for the host's decision.
    Review { task_token: TaskToken },
    /// Makes and stores the renditions.
    Apply {},
    /// Makes the edit ready and numbers the event.
    File {},
    /// Makes sure that the album's events are published.
    Announce {},
    /// Fails the edit; `reason` is for people.
    Fail { reason: String },
}

/// What follows a step. The JSON form is the output of the Lambda function `step`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum StepOutcome {
    Next {
        next: Step,
    },
    /// Nothing until the host has decided.
    Waits,
    Ended,
}

/// Runs a step of an edit, from any process and any number of times. An error is worth another attempt; a permanent
/// failure is not an error but leads to [`Step::Fail`].
pub async fn run_step(app: &App, id: EditId, step: Step) -> anyhow::Result<StepOutcome> {
    match step {
        Step::Validate {} => validate(app, id).await,
        Step::Review { task_token } => review(app, id, &task_token).await,
        Step::Apply {} => apply(app, id).await,
        Step::File {} => file(app, id).await,
        Step::Announce {} => announce(app, id).await,
        Step::Fail { reason } => fail_edit(app, id, &reason).await,
    }
}

/// What an edit needs next, by its row.
pub(super) fn next_step(edit: &Edit) -> StepOutcome {
    let next = match (edit.state, edit.step) {
        (EditState::PendingReview | EditState::Processing, Some(EditStep::Validate)) => Step::Validate {},
        (EditState::PendingReview, _) => return StepOutcome::Waits,
        (EditState::Processing, Some(EditStep::Apply)) => Step::Apply {},
        (EditState::Processing, Some(EditStep::File)) => Step::File {},
        (EditState::Ready, Some(EditStep::Announce)) => Step::Announce {},
        _ => return StepOutcome::Ended,
    };
    StepOutcome::Next { next }
}

pub(super) fn fail_step(reason: &str) -> Step {
    Step::Fail { reason: reason.to_owned() }
}

pub(super) fn is_review_overdue(edit: &Edit) -> bool {
    next_step(edit) == StepOutcome::Waits && edit.created_at + REVIEW_TIMEOUT <= db::now()
}

fn failure(reason: &str) -> StepOutcome {
    StepOutcome::Next { next: fail_step(reason) }
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
        return Ok(failure("the photo is not ready"));
    };
    if imaging::size_after_filters(&edit.filters, (width, height)).is_none() {
        return Ok(failure("the filters leave nothing of the photo"));
    }
    advance(app, id, EditStep::Validate, |edit| edit.step = Some(EditStep::Apply)).await
}

/// The host may have decided before there was a token; then the job is enqueued to send the decision.
async fn review(app: &App, id: EditId, token: &TaskToken) -> anyhow::Result<StepOutcome> {
    let outcome = app
        .db
        .transaction(|mut tx| async move {
            let Some(edit) = db::edits::lock(tx.session(), id).await? else {
                return Ok::<_, db::Error>(tx.done(StepOutcome::Ended));
            };
            db::edits::set_task_token(tx.session(), id, token).await?;
            if next_step(&edit) != StepOutcome::Waits {
                tx.enqueue(APPLY_EDIT, id.as_uuid()).await?;
            }
            Ok(tx.done(StepOutcome::Waits))
        })
        .await?;
    Ok(outcome)
}

async fn apply(app: &App, id: EditId) -> anyhow::Result<StepOutcome> {
    let Some((edit, photo)) = load(app, id).await? else { return Ok(StepOutcome::Ended) };
    if next_step(&edit) != (StepOutcome::Next { next: Step::Apply {} }) {
        return Ok(next_step(&edit));
    }
    let rendered = match render_photo::render_original(app, &photo, &edit.filters, false).await?.0 {
        RenderResult::Rendered(rendered) => rendered,
        RenderResult::Rejected { reason, .. } => return Ok(failure(&reason)),
    };
    let renditions: Vec<Rendition> = rendered.renditions.iter().map(render_photo::rendition_row).collect();
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
        // The purge job may have run before these renditions were stored.
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
            if next_step(&edit) != (StepOutcome::Next { next: Step::File {} }) {
                return Ok(tx.done((next_step(&edit), false)));
            }
            let (state, step) = (EditState::Ready, Some(EditStep::Announce));
            let edit = Edit { state, step, ready_at: Some(db::now()), ..edit };
            db::edits::advance(tx.session(), &edit).await?;
            let kind = EventKind::EditReady;
            record_event(&mut tx, &edit, &photo, kind, photo.is_public().then_some(kind)).await?;
            Ok(tx.done((next_step(&edit), true)))
        })
        .await?;
    if filed.1 {
        count("ready");
    }
    Ok(filed.0)
}

/// The transaction that numbered the event has enqueued the job already; this makes sure of it.
async fn announce(app: &App, id: EditId) -> anyhow::Result<StepOutcome> {
    let Some((edit, _)) = load(app, id).await? else { return Ok(StepOutcome::Ended) };
    if edit.step == Some(EditStep::Announce) {
        app.db.enqueue(PUBLISH_EVENTS, edit.album_id.as_uuid()).await?;
    }
    advance(app, id, EditStep::Announce, |edit| edit.step = None).await
}

async fn fail_edit(app: &App, id: EditId, reason: &str) -> anyhow::Result<StepOutcome> {
    let failed = app
        .db
        .transaction(|mut tx| async move {
            match lock(&mut tx, id).await? {
                Some((edit, photo)) if edit.is_open() => {
                    fail(&mut tx, edit, &photo, reason).await?;
                    Ok::<_, db::Error>(tx.done((StepOutcome::Ended, true)))
                }
                found => Ok(tx.done((found.map_or(StepOutcome::Ended, |(edit, _)| next_step(&edit)), false))),
            }
        })
        .await?;
    if failed.1 {
        tracing::info!(reason, "an edit failed");
        count("failed");
    }
    Ok(failed.0)
}

/// Changes the row of an edit that is at the step `from`.
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
            Ok(tx.done(next_step(&edit)))
        })
        .await?;
    Ok(outcome)
}

/// Completes the job unless `has_more` says that the edit needs another step. A transaction that records a decision
/// finds this job and enqueues none, so the job ends only while the edit is locked.
pub(super) async fn complete_unless(
    app: &App,
    claim: &Claim,
    has_more: impl Fn(&Edit, Option<&TaskToken>) -> bool,
) -> anyhow::Result<Option<Completion>> {
    let (id, has_more) = (EditId::from(claim.subject), &has_more);
    app.db
        .transaction(|mut tx| async move {
            let edit: Option<Edit> = db::edits::lock(tx.session(), id).await?;
            let token = db::edits::task_token(tx.session(), id).await?;
            if edit.is_some_and(|edit| has_more(&edit, token.as_ref())) {
                return Ok(tx.done(None));
            }
            let completion = complete_in(&mut tx, claim).await?;
            Ok(tx.done(Some(completion)))
        })
        .await
}

fn count(outcome: &'static str) {
    metrics::EDITS.with(&[("outcome", outcome)]).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_form_is_stable() {
        let fail = Step::Fail { reason: "x".to_owned() };
        for (outcome, json) in [
            (StepOutcome::Next { next: Step::Apply {} }, r#"{"outcome":"next","next":{"step":"apply"}}"#),
            (StepOutcome::Next { next: fail }, r#"{"outcome":"next","next":{"step":"fail","reason":"x"}}"#),
            (StepOutcome::Waits, r#"{"outcome":"waits"}"#),
            (StepOutcome::Ended, r#"{"outcome":"ended"}"#),
        ] {
            assert_eq!(serde_json::to_string(&outcome).unwrap(), json);
            assert_eq!(serde_json::from_str::<StepOutcome>(json).unwrap(), outcome);
        }
        assert!(serde_json::from_str::<Step>(r#"{"step":"apply","reason":"x"}"#).is_err());
    }
}
