//! A state machine of Step Functions that runs the steps of edits; an execution's name is the edit's id.
//!
//! The definition is in `deploy/stacks/messaging.yaml`. The name makes starting idempotent: a name can't be used again
//! until 90 days after its execution ended
//! (<https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html>).

use aws_config::SdkConfig;
use aws_sdk_sfn::{Client, types::ExecutionStatus};
use serde_json::json;

use crate::{
    aws::AwsError,
    domain::{EditId, TaskToken},
};

/// The error of a refused edit, which the definition catches.
const REFUSED: &str = "Refused";

#[derive(Debug)]
pub struct StateMachine {
    client: Client,
    arn: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionState {
    Running,
    /// Succeeded, failed, stopped or timed out.
    Ended,
}

impl StateMachine {
    #[must_use]
    pub fn new(arn: &str, sdk: &SdkConfig) -> Self {
        Self { client: Client::new(sdk), arn: arn.to_owned() }
    }

    #[must_use]
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// Fails when the state machine does not exist, or the role may not describe it.
    pub async fn check(&self) -> Result<(), AwsError> {
        self.client.describe_state_machine().state_machine_arn(&self.arn).send().await?;
        Ok(())
    }

    /// Starts the execution of an edit. Returns false when it was started before.
    pub(crate) async fn start(&self, id: EditId) -> Result<bool, AwsError> {
        let input = json!({ "edit_id": id }).to_string();
        let start = self.client.start_execution().state_machine_arn(&self.arn).name(id.to_string()).input(input);
        match start.send().await.map_err(AwsError::from) {
            Ok(_) => Ok(true),
            Err(failure) if failure.code.as_deref() == Some("ExecutionAlreadyExists") => Ok(false),
            Err(failure) => Err(failure.context("an execution can't be started")),
        }
    }

    pub(crate) async fn execution_state(&self, id: EditId) -> Result<ExecutionState, AwsError> {
        let arn = format!("{}:{id}", self.arn.replacen(":stateMachine:", ":execution:", 1));
        let described = self.client.describe_execution().execution_arn(arn).send().await;
        let described = described.map_err(|error| AwsError::from(error).context("an execution can't be described"))?;
        Ok(match described.status {
            ExecutionStatus::Succeeded
            | ExecutionStatus::Failed
            | ExecutionStatus::Aborted
            | ExecutionStatus::TimedOut => ExecutionState::Ended,
            _ => ExecutionState::Running,
        })
    }

    /// Sends the host's decision to a waiting execution. It is not an error that the execution no longer waits.
    pub(crate) async fn send_decision(&self, token: &TaskToken, is_approved: bool) -> Result<(), AwsError> {
        let sent = if is_approved {
            let next = json!({ "outcome": "next", "next": { "step": "apply" } }).to_string();
            let call = self.client.send_task_success().task_token(token.expose()).output(next);
            call.send().await.map(drop).map_err(AwsError::from)
        } else {
            let call = self.client.send_task_failure().task_token(token.expose()).error(REFUSED);
            call.send().await.map(drop).map_err(AwsError::from)
        };
        match sent {
            Err(failure)
                if !matches!(failure.code.as_deref(), Some("TaskTimedOut" | "TaskDoesNotExist" | "InvalidToken")) =>
            {
                Err(failure.context("a decision can't be sent to an execution"))
            }
            _ => Ok(()),
        }
    }
}
