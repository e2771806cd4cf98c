//! The function `step`: one step of an edit, for the state machine of `deploy/stacks/messaging.yaml`.
//!
//! The event is a [`Step`] with the edit's id beside it, such as `{"edit_id": ID, "step": "validate"}`; the answer is a
//! [`StepOutcome`](edit::StepOutcome), whose `next` is the step to come. An error is worth another try: each step may be done again.

use anyhow::{Context, bail};
use serde_json::Value;

use crate::{
    app::App,
    domain::EditId,
    jobs::kinds::edit::{self, Step},
};

/// Does the step that an event asks for.
pub(crate) async fn take(app: &App, event: Value) -> anyhow::Result<Value> {
    let (id, step) = read(event).context("the event is no step of an edit")?;
    let outcome = edit::step(app, id, step).await?;
    Ok(serde_json::to_value(outcome)?)
}

fn read(event: Value) -> anyhow::Result<(EditId, Step)> {
    let Value::Object(mut fields) = event else { bail!("it is no object") };
    let id = fields.remove("edit_id").context("edit_id is missing")?;
    Ok((serde_json::from_value(id)?, serde_json::from_value(fields.into())?))
}
