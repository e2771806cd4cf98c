//! Steps led by a worker, one after another, until nothing is left to do or the host has to decide. A worker that takes over
//! goes on where the row says.

use super::{GIVEN_UP, StepOutcome, UNDECIDED, complete_unless, give_up, is_overdue, standing, step};
use crate::{
    app::AppState,
    aws, db,
    domain::{Edit, EditId, TaskToken},
    jobs::{End, complete, kinds::render::CRASHES, queue::Claim},
    sandbox::SandboxError,
};

pub async fn lead(app: &AppState, claim: &Claim) -> anyhow::Result<End> {
    let id = EditId::from(claim.subject);
    loop {
        let mut session = app.db.session().await?;
        let edit = db::edits::get(&mut session, id).await?;
        drop(session);
        let mut outcome = edit.as_ref().map_or(StepOutcome::Ended, standing);
        if edit.is_some_and(|edit| is_overdue(&edit)) {
            outcome = StepOutcome::Next { next: give_up(UNDECIDED) };
        }
        // Once: what fails after it was given up fails the job.
        let mut given_up = None;
        while let StepOutcome::Next { next } = outcome {
            outcome = match Box::pin(step(app, id, next)).await {
                Err(error) if given_up.is_none() && claim.attempt >= CRASHES && crashed(&error) => {
                    let reason = given_up.insert("the picture can't be decoded with these filters");
                    StepOutcome::Next { next: give_up(reason) }
                }
                // As the state machine does when its tries are used up.
                Err(error)
                    if given_up.is_none()
                        && claim.attempt >= app.config.worker.max_attempts
                        && !aws::is_away(&error) =>
                {
                    tracing::error!(error = format!("{error:#}"), "an edit is given up");
                    StepOutcome::Next { next: give_up(given_up.insert(GIVEN_UP)) }
                }
                other => other?,
            };
        }
        if outcome == StepOutcome::Ended {
            return complete(app, claim).await;
        }
        let more = |edit: &Edit, _: Option<&TaskToken>| standing(edit) != StepOutcome::Waits;
        if let Some(end) = complete_unless(app, claim, more).await? {
            return Ok(end);
        }
    }
}

fn crashed(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(SandboxError::Crashed(_)))
}
