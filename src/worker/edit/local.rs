//! Steps led by a worker, one after another, until nothing is left to do or the host has to decide. A worker that takes over
//! goes on where the row says.

use super::{GIVEN_UP, StepOutcome, UNDECIDED, complete_unless, give_up, standing, step};
use crate::{
    app::AppState,
    aws, db,
    domain::{Edit, EditId, TaskToken, edit::REVIEW_TIME},
    queue::Claim,
    worker::{End, complete, develop::CRASHES, sandbox::SandboxError},
};

pub async fn lead(app: &AppState, claim: &Claim) -> anyhow::Result<End> {
    let id = EditId::from(claim.subject);
    loop {
        let mut session = app.db.session().await?;
        let edit = db::edits::get(&mut session, id).await?;
        drop(session);
        let mut outcome = edit.as_ref().map_or(StepOutcome::Ended, standing);
        if outcome == StepOutcome::Waits && edit.is_some_and(|edit| edit.created_at + REVIEW_TIME <= db::now()) {
            outcome = StepOutcome::Next { next: give_up(UNDECIDED) };
        }
        while let StepOutcome::Next { next } = outcome {
            outcome = match Box::pin(step(app, id, next)).await {
                Err(error) if claim.attempt >= CRASHES && crashed(&error) => {
                    StepOutcome::Next { next: give_up("the picture can't be decoded with these filters") }
                }
                // As the state machine does when its tries are used up.
                Err(error) if claim.attempt >= app.config.worker.max_attempts && !aws::is_away(&error) => {
                    tracing::error!(error = format!("{error:#}"), "an edit is given up");
                    StepOutcome::Next { next: give_up(GIVEN_UP) }
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
