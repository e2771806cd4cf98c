//! A state machine of Step Functions that leads edits, by executions that have the edit's id as their name.
//!
//! Its definition is in `deploy/stacks/messaging.yaml`. Names make starting idempotent: of one name there is one execution, for 90 days
//! after its end (<https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html>).

use aws_config::SdkConfig;
use aws_sdk_sfn::{Client, types::ExecutionStatus};
use serde_json::json;

use crate::{
    aws::Failure,
    domain::{EditId, TaskToken},
};

/// The error that an execution is told of a refused edit; the definition knows it.
const REFUSED: &str = "Refused";

/// The state machine.
#[derive(Debug)]
pub struct Machine {
    client: Client,
    arn: String,
}

/// How an execution is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execution {
    /// On its way.
    Runs,
    /// It came to its end, gave up, was ended by somebody, or its time was over.
    Over,
}

impl Machine {
    /// A client; nothing is asked yet.
    #[must_use]
    pub fn new(arn: &str, sdk: &SdkConfig) -> Self {
        Self { client: Client::new(sdk), arn: arn.to_owned() }
    }

    /// Its ARN.
    #[must_use]
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// Whether it is there.
    ///
    /// # Errors
    /// It is not, or this role may not look.
    pub async fn look(&self) -> Result<(), Failure> {
        self.client.describe_state_machine().state_machine_arn(&self.arn).send().await?;
        Ok(())
    }

    /// Starts the execution of an edit; false when it was started before.
    ///
    /// # Errors
    /// What Step Functions says.
    pub(crate) async fn start(&self, id: EditId) -> Result<bool, Failure> {
        let input = json!({ "edit_id": id }).to_string();
        let start = self.client.start_execution().state_machine_arn(&self.arn).name(id.to_string()).input(input);
        match start.send().await.map_err(Failure::from) {
            Ok(_) => Ok(true),
            Err(failure) if failure.code.as_deref() == Some("ExecutionAlreadyExists") => Ok(false),
            Err(failure) => Err(failure.of("an execution can't be started")),
        }
    }

    /// How the execution of an edit is doing.
    ///
    /// # Errors
    /// What Step Functions says.
    pub(crate) async fn execution(&self, id: EditId) -> Result<Execution, Failure> {
        let arn = format!("{}:{id}", self.arn.replacen(":stateMachine:", ":execution:", 1));
        let told = self.client.describe_execution().execution_arn(arn).send().await;
        let told = told.map_err(|error| Failure::from(error).of("an execution can't be looked at"))?;
        let over =
            [ExecutionStatus::Succeeded, ExecutionStatus::Failed, ExecutionStatus::Aborted, ExecutionStatus::TimedOut];
        Ok(if over.contains(&told.status) { Execution::Over } else { Execution::Runs })
    }

    /// Tells an execution that waits what the host has decided.
    ///
    /// # Errors
    /// What Step Functions says. That nobody waits any more is none.
    pub(crate) async fn tell(&self, token: &TaskToken, approved: bool) -> Result<(), Failure> {
        let told = if approved {
            let next = json!({ "outcome": "next", "next": { "step": "apply" } }).to_string();
            let call = self.client.send_task_success().task_token(token.expose()).output(next);
            call.send().await.map(drop).map_err(Failure::from)
        } else {
            let call = self.client.send_task_failure().task_token(token.expose()).error(REFUSED);
            call.send().await.map(drop).map_err(Failure::from)
        };
        match told {
            Err(failure)
                if !matches!(failure.code.as_deref(), Some("TaskTimedOut" | "TaskDoesNotExist" | "InvalidToken")) =>
            {
                Err(failure.of("an execution can't be told of a decision"))
            }
            _ => Ok(()),
        }
    }
}
