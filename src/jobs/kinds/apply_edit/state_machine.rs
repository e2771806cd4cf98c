//! A state machine runs the steps; a worker starts its execution, sends it the host's decision, and notices when it
//! failed.

use super::steps::{
    GIVEN_UP, REVIEW_TIMED_OUT, StepOutcome, complete_unless, fail_step, is_review_overdue, next_step, run_step,
};
use crate::{
    app::AppState,
    aws::step_functions::{ExecutionState, StateMachine},
    db,
    db::jobs::Claim,
    domain::{Edit, EditId, EditState, TaskToken},
    jobs::job::{Completion, complete},
};

pub(super) async fn run(app: &AppState, machine: &StateMachine, claim: &Claim) -> anyhow::Result<Completion> {
    let id = EditId::from(claim.subject);
    loop {
        let mut session = app.db.session().await?;
        let edit = db::edits::get(&mut session, id).await?;
        let token = db::edits::task_token(&mut session, id).await?;
        drop(session);
        let Some(edit) = edit else { return complete(app, claim).await };
        match token {
            Some(token) if is_decided(&edit) => {
                machine.send_decision(&token, edit.state != EditState::Failed).await?;
                let mut session = app.db.session().await?;
                db::edits::clear_task_token(&mut session, id, &token).await?;
            }
            None if next_step(&edit) == StepOutcome::Ended => {}
            // Also while it waits for the host, because an execution can be stopped.
            _ => ensure_execution(app, machine, &edit).await?,
        }
        let has_more = |edit: &Edit, token: Option<&TaskToken>| token.is_some() && is_decided(edit);
        if let Some(completion) = complete_unless(app, claim, has_more).await? {
            return Ok(completion);
        }
    }
}

fn is_decided(edit: &Edit) -> bool {
    edit.state != EditState::PendingReview
}

/// Starts the execution unless it exists. One that has ended can't be started again, so a still open edit then fails.
async fn ensure_execution(app: &AppState, machine: &StateMachine, edit: &Edit) -> anyhow::Result<()> {
    if !machine.start(edit.id).await? && machine.execution_state(edit.id).await? == ExecutionState::Ended {
        let reason = if is_review_overdue(edit) { REVIEW_TIMED_OUT } else { GIVEN_UP };
        run_step(app, edit.id, fail_step(reason)).await?;
    }
    Ok(())
}
