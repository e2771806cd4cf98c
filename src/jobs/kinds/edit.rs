//! The job of an edit: its way from the wish to renditions, in steps that may each be done again.
//!
//! [`step()`] does one of them and tells what comes next; how far an edit has come is kept in its row. Who leads it through is
//! decided in `run` alone: everything else wakes the job, for a new edit and for one that the host has agreed to.

mod local;
mod remote;
mod steps;

use serde::{Deserialize, Serialize};

pub use steps::step;

use crate::jobs::{End, complete};
use crate::{
    app::AppState,
    db::{self, Tx, photo_event},
    domain::{Edit, EditId, EditState, EditStep, EventKind, Photo, TaskToken, edit::REVIEW_TIME},
    jobs::queue::{Claim, Kind},
    telemetry::metrics,
};

/// What `fail_reason` says of an edit that the host did not agree to.
const REFUSED: &str = "the host refused it";
/// What it says of one whose tries are used up, whose execution broke off, or that an operator gave up.
const GIVEN_UP: &str = "the edit could not be made";
/// What it says of one that the host never looked at, as in the state machine.
const UNDECIDED: &str = "nobody looked at it in time";

/// One thing to do for an edit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Looks whether the filters fit the photo, and whether the host has to agree.
    Validate {},
    /// Keeps the token that a state machine waits with for the host's decision.
    Review {
        /// The token.
        task_token: TaskToken,
    },
    /// Makes its renditions and stores them.
    Apply {},
    /// Makes it ready, and numbers the event.
    File {},
    /// Sees to it that the album's events are announced.
    Announce {},
    /// Gives it up.
    Fail {
        /// Why, for people.
        reason: String,
    },
}

/// What is to be done after a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum StepOutcome {
    /// Another step.
    Next {
        /// Which.
        next: Step,
    },
    /// Nothing, until the host has decided.
    Waits,
    /// Nothing more.
    Ended,
}

/// What the host decides of an edit that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is made.
    Approve,
    /// It is not.
    Refuse,
}

/// Leads an edit through its steps, or has a state machine do it.
pub(crate) async fn run(app: &AppState, claim: &Claim) -> anyhow::Result<End> {
    match &app.machine {
        None => local::lead(app, claim).await,
        Some(machine) => Box::pin(remote::lead(app, machine, claim)).await,
    }
}

/// Gives up an edit whose every try ended without a word, as the state machine does; what leads that one is only looked after here.
pub(crate) async fn exhausted(app: &AppState, claim: &Claim) -> anyhow::Result<End> {
    anyhow::ensure!(app.machine.is_none(), "every try to look after its execution ended without a word");
    step(app, claim.subject.into(), give_up(GIVEN_UP)).await?;
    complete(app, claim).await
}

fn give_up(reason: &str) -> Step {
    Step::Fail { reason: reason.to_owned() }
}

/// Whether the host had all the time there is to decide, and has not.
fn is_overdue(edit: &Edit) -> bool {
    standing(edit) == StepOutcome::Waits && edit.created_at + REVIEW_TIME <= db::now()
}

/// Ends the job of an edit, unless there is more to do for it. An edit that the host decides on meanwhile finds this job still
/// there and adds none, so the job may end only while the edit is locked and that has not happened.
async fn complete_unless(
    app: &AppState,
    claim: &Claim,
    more: impl Fn(&Edit, Option<&TaskToken>) -> bool,
) -> anyhow::Result<Option<End>> {
    let (id, more) = (EditId::from(claim.subject), &more);
    app.db
        .transaction(|mut tx| async move {
            let edit: Option<Edit> = db::edits::lock(tx.session(), id).await?;
            let token = db::edits::task_token(tx.session(), id).await?;
            if edit.is_some_and(|edit| more(&edit, token.as_ref())) {
                return Ok(tx.done(None));
            }
            let end = if db::jobs::complete(tx.session(), claim).await? { End::Done } else { End::Lost };
            Ok(tx.done(Some(end)))
        })
        .await
}

/// Writes what the host decided of a locked edit that waits, and sees to what follows.
///
/// # Errors
/// The database's.
pub async fn decide(tx: &mut Tx, edit: Edit, photo: &Photo, decision: Decision) -> db::Result<Edit> {
    // Whoever leads it hears of either.
    db::jobs::revive_this(tx.session(), Kind::Edit, edit.id.as_uuid()).await?;
    tx.enqueue(Kind::Edit, edit.id.as_uuid()).await?;
    match decision {
        Decision::Approve => {
            let edit = Edit { state: EditState::Processing, ..edit };
            db::edits::advance(tx.session(), &edit).await?;
            Ok(edit)
        }
        Decision::Refuse => fail(tx, edit, photo, REFUSED).await,
    }
}

/// Gives up an edit whose dead job an operator drops: nothing else would ever settle it.
pub(crate) async fn abandon(tx: &mut Tx, id: EditId) -> db::Result<()> {
    if let Some((edit, photo)) = lock(tx, id).await?
        && edit.is_open()
    {
        fail(tx, edit, &photo, GIVEN_UP).await?;
    }
    Ok(())
}

/// Locks an edit, after its album and its photo; none when any of them is gone.
async fn lock(tx: &mut Tx, id: EditId) -> db::Result<Option<(Edit, Photo)>> {
    let Some(found) = db::edits::get(tx.session(), id).await? else { return Ok(None) };
    let album = db::albums::lock(tx.session(), found.album_id).await?;
    let photo = db::photos::lock(tx.session(), found.photo_id).await?;
    let edit = db::edits::lock(tx.session(), id).await?;
    Ok(edit.zip(album.and(photo)))
}

/// Fails a locked, open edit, and numbers the event. Those who see only public photos never learnt of it.
async fn fail(tx: &mut Tx, edit: Edit, photo: &Photo, reason: &str) -> db::Result<Edit> {
    let edit = Edit { state: EditState::Failed, step: None, fail_reason: Some(reason.to_owned()), ..edit };
    db::edits::advance(tx.session(), &edit).await?;
    record(tx, &edit, photo, EventKind::EditFailed, None).await?;
    Ok(edit)
}

async fn record(tx: &mut Tx, edit: &Edit, photo: &Photo, kind: EventKind, public: Option<EventKind>) -> db::Result<()> {
    let event = db::events::NewEvent { edit_id: Some(edit.id), ..photo_event(photo, kind, public) };
    tx.record(edit.album_id, event).await
}

fn count(outcome: &'static str) {
    metrics::EDITS.with(&[("outcome", outcome)]).increment(1);
}

/// What is to be done for an edit, by its row.
fn standing(edit: &Edit) -> StepOutcome {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_outcomes_are_json_objects() {
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
