//! Steps led by a worker, one after another, until nothing is left to do or the host has to decide. A worker that takes over
//! goes on where the row says.

use super::{Step, StepOutcome, complete_unless, standing, step};
use crate::{
    app::AppState,
    db,
    domain::{Edit, EditId, TaskToken},
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
        while let StepOutcome::Next { next } = outcome {
            outcome = match Box::pin(step(app, id, next)).await {
                Err(error) if claim.attempt >= CRASHES && crashed(&error) => {
                    let reason = "the picture can't be decoded with these filters".to_owned();
                    StepOutcome::Next { next: Step::Fail { reason } }
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
