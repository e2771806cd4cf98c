//! Steps led by a worker, one after another, until nothing is left to do or the host has to decide. A worker that takes over
//! goes on where the row says.

use super::{Step, StepOutcome, standing, step};
use crate::{
    app::AppState,
    db,
    domain::{Edit, EditId},
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
        if let Some(end) = complete_if_waiting(app, claim, id).await? {
            return Ok(end);
        }
    }
}

fn crashed(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(SandboxError::Crashed(_)))
}

/// An edit that the host agrees to meanwhile finds this job still there and adds none, so the job may end only while the
/// edit is locked and still waits.
async fn complete_if_waiting(app: &AppState, claim: &Claim, id: EditId) -> anyhow::Result<Option<End>> {
    app.db
        .transaction(|mut tx| async move {
            let edit: Option<Edit> = db::edits::lock(tx.session(), id).await?;
            if edit.is_some_and(|edit| standing(&edit) != StepOutcome::Waits) {
                return Ok(tx.done(None));
            }
            let end = if db::jobs::complete(tx.session(), claim).await? { End::Done } else { End::Lost };
            Ok(tx.done(Some(end)))
        })
        .await
}
