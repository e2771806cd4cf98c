//! A worker runs the steps one after another until the edit is done or waits for the host.

use super::steps::{
    GIVEN_UP, REVIEW_TIMED_OUT, StepOutcome, complete_unless, fail_step, is_review_overdue, next_step, run_step,
};
use crate::{
    app::AppState,
    aws, db,
    db::jobs::Claim,
    domain::{Edit, EditId, TaskToken},
    jobs::{
        job::{Completion, complete},
        kinds::render_photo::MAX_CRASHES,
    },
    sandbox::SandboxError,
};

pub(super) async fn run(app: &AppState, claim: &Claim) -> anyhow::Result<Completion> {
    let id = EditId::from(claim.subject);
    loop {
        let mut session = app.db.session().await?;
        let edit = db::edits::get(&mut session, id).await?;
        drop(session);
        let mut outcome = edit.as_ref().map_or(StepOutcome::Ended, next_step);
        if edit.is_some_and(|edit| is_review_overdue(&edit)) {
            outcome = StepOutcome::Next { next: fail_step(REVIEW_TIMED_OUT) };
        }
        // An error of the step that fails the edit fails the job.
        let mut is_failing = false;
        while let StepOutcome::Next { next } = outcome {
            outcome = match Box::pin(run_step(app, id, next)).await {
                Err(error) if !is_failing && claim.attempt >= MAX_CRASHES && is_crash(&error) => {
                    is_failing = true;
                    StepOutcome::Next { next: fail_step("the picture can't be decoded with these filters") }
                }
                Err(error)
                    if !is_failing && claim.attempt >= app.config.worker.max_attempts && !aws::is_aws_error(&error) =>
                {
                    tracing::error!(error = format!("{error:#}"), "an edit failed after the last attempt");
                    is_failing = true;
                    StepOutcome::Next { next: fail_step(GIVEN_UP) }
                }
                other => other?,
            };
        }
        if outcome == StepOutcome::Ended {
            return complete(app, claim).await;
        }
        let has_more = |edit: &Edit, _: Option<&TaskToken>| next_step(edit) != StepOutcome::Waits;
        if let Some(completion) = complete_unless(app, claim, has_more).await? {
            return Ok(completion);
        }
    }
}

fn is_crash(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(SandboxError::Crashed(_)))
}
