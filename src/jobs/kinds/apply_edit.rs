//! Takes an edit through its steps, each of which may run again without harm. The edit's row says how far it has come.
//!
//! A worker runs the steps itself (`local`), or a state machine of Step Functions does, and a worker starts and
//! monitors its execution (`state_machine`). Whatever changes an edit enqueues this job.

mod local;
mod state_machine;
mod steps;

use uuid::Uuid;

pub use steps::{Step, StepOutcome, run_step};

use crate::{
    app::AppState,
    db::{
        self, Tx,
        jobs::{APPLY_EDIT, Claim, Queue},
    },
    jobs::{
        job::{Completion, Job, complete},
        retry::Retry,
    },
    services::edits::{fail, lock},
};
use steps::{GIVEN_UP, fail_step};

pub(crate) struct ApplyEdit;

impl Job for ApplyEdit {
    const NAME: &'static str = APPLY_EDIT.name;
    const FORMER_NAMES: &'static [&'static str] = &["edit"];
    const QUEUE: Queue = APPLY_EDIT.queue;
    const RETRY: Retry = Retry::Limited;

    async fn run(app: &AppState, claim: &Claim) -> anyhow::Result<Completion> {
        match &app.machine {
            None => local::run(app, claim).await,
            Some(machine) => Box::pin(state_machine::run(app, machine, claim)).await,
        }
    }

    /// Fails the edit.
    async fn abandon(tx: &mut Tx, id: Uuid) -> db::Result<()> {
        if let Some((edit, photo)) = lock(tx, id.into()).await?
            && edit.is_open()
        {
            fail(tx, edit, &photo, GIVEN_UP).await?;
        }
        Ok(())
    }

    /// Fails the edit, as the state machine does after its last attempt. An edit of the state machine is left to it.
    async fn run_exhausted(app: &AppState, claim: &Claim) -> anyhow::Result<Completion> {
        anyhow::ensure!(app.machine.is_none(), "every attempt to look after its execution ended without a result");
        run_step(app, claim.subject.into(), fail_step(GIVEN_UP)).await?;
        complete(app, claim).await
    }
}
