//! Steps led by a state machine: a worker starts it, tells it what the host decides, and looks after it.

use super::{GIVEN_UP, StepOutcome, UNDECIDED, complete_unless, give_up, is_overdue, standing, step};
use crate::aws::step_functions::Execution;
use crate::{
    app::AppState,
    aws::step_functions::Machine,
    db,
    domain::{Edit, EditId, EditState, TaskToken},
    jobs::{End, complete, queue::Claim},
};

pub async fn lead(app: &AppState, machine: &Machine, claim: &Claim) -> anyhow::Result<End> {
    let id = EditId::from(claim.subject);
    loop {
        let mut session = app.db.session().await?;
        let edit = db::edits::get(&mut session, id).await?;
        let token = db::edits::task_token(&mut session, id).await?;
        drop(session);
        let Some(edit) = edit else { return complete(app, claim).await };
        match token {
            Some(token) if is_decided(&edit) => {
                machine.tell(&token, edit.state != EditState::Failed).await?;
                let mut session = app.db.session().await?;
                db::edits::forget_task_token(&mut session, id, &token).await?;
            }
            None if standing(&edit) == StepOutcome::Ended => {}
            // Also while it waits for the host: whoever ended it told nobody.
            _ => see_to(app, machine, &edit).await?,
        }
        let more = |edit: &Edit, token: Option<&TaskToken>| token.is_some() && is_decided(edit);
        if let Some(end) = complete_unless(app, claim, more).await? {
            return Ok(end);
        }
    }
}

fn is_decided(edit: &Edit) -> bool {
    edit.state != EditState::PendingReview
}

/// Starts the execution. One that was started before and is over can't be started again: an edit that is still open then fails.
async fn see_to(app: &AppState, machine: &Machine, edit: &Edit) -> anyhow::Result<()> {
    if machine.start(edit.id).await? {
        return Ok(());
    }
    if machine.execution(edit.id).await? == Execution::Over {
        let reason = if is_overdue(edit) { UNDECIDED } else { GIVEN_UP };
        step(app, edit.id, give_up(reason)).await?;
    }
    Ok(())
}
