//! The function that runs one step of an edit, for the state machine of `deploy/stacks/messaging.yaml`.
//!
//! The event is a [`Step`] and the edit's id, such as `{"edit_id": ID, "step": "validate"}`; the answer is a
//! [`StepOutcome`](apply_edit::StepOutcome). An error is worth a retry.

use anyhow::{Context, bail};
use serde_json::Value;

use crate::{
    app::App,
    domain::EditId,
    jobs::kinds::apply_edit::{self, Step},
};

pub(crate) async fn run_step(app: &App, event: Value) -> anyhow::Result<Value> {
    let (id, step) = parse(event).context("the event is not a step of an edit")?;
    let outcome = apply_edit::run_step(app, id, step).await?;
    Ok(serde_json::to_value(outcome)?)
}

fn parse(event: Value) -> anyhow::Result<(EditId, Step)> {
    let Value::Object(mut fields) = event else { bail!("it is not an object") };
    let id = fields.remove("edit_id").context("edit_id is missing")?;
    Ok((serde_json::from_value(id)?, serde_json::from_value(fields.into())?))
}
