//! `[aws]`, and the parts of the service that AWS may do: each is off unless its `kind` says so.

use std::time::Duration;

use serde::Deserialize;

use super::source::Source;

/// The longest time that SQS hides a message for.
const LONGEST_VISIBILITY: Duration = Duration::from_hours(12);

/// `[aws]`: what all services of AWS share. Credentials and endpoints are found as by every AWS SDK.
#[derive(Debug, Clone)]
pub struct Aws {
    /// The region; `AWS_REGION`, then `AWS_DEFAULT_REGION`, when left out.
    pub region: Option<String>,
}

impl Aws {
    pub(crate) fn read(s: &mut Source) -> Self {
        Self { region: s.optional("aws.region").or_else(|| s.region()) }
    }

    /// Notes that a service is on: without a region it would be looked for in the wrong place.
    pub(crate) fn needed(&self, s: &mut Source, by: &str) {
        s.check(self.region.is_some(), "aws.region", format!("must be given (or AWS_REGION) for {by}"));
    }
}

/// What `queue.kind` may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum QueueKind {
    Table,
    Sqs,
}

/// `[queue]`: how workers come to their jobs.
#[derive(Debug, Clone)]
pub struct Queue {
    /// The queue, with `queue.kind = "sqs"`; without one workers look into the table of jobs.
    pub sqs: Option<Sqs>,
}

/// A queue of SQS.
#[derive(Debug, Clone)]
pub struct Sqs {
    /// Its URL.
    pub url: String,
    /// The URL of its dead-letter queue.
    pub dead_letter_url: String,
    /// A job that no worker has claimed is sent again after this time, then after twice as long each time.
    pub redelivery_delay: Duration,
}

impl Queue {
    pub(crate) fn read(s: &mut Source, aws: &Aws) -> Self {
        if s.get("queue.kind", QueueKind::Table) == QueueKind::Table {
            return Self { sqs: None };
        }
        aws.needed(s, "queue.kind = \"sqs\"");
        let sqs = Sqs {
            url: s.require("queue.url", String::new()),
            dead_letter_url: s.require("queue.dead_letter_url", String::new()),
            redelivery_delay: s.duration("queue.redelivery_delay", "5m"),
        };
        for (key, url) in [("queue.url", &sqs.url), ("queue.dead_letter_url", &sqs.dead_letter_url)] {
            s.check(
                url.is_empty() || url.starts_with("https://") || url.starts_with("http://"),
                key,
                "must be the URL of a queue",
            );
        }
        s.check(
            (Duration::from_secs(1)..=LONGEST_VISIBILITY).contains(&sqs.redelivery_delay),
            "queue.redelivery_delay",
            "must be 1s to 12h",
        );
        Self { sqs: Some(sqs) }
    }
}

/// What `read_model.kind` may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ReadModelKind {
    None,
    Dynamodb,
}

/// `[read_model]`: what album pages are read from under a crowd.
#[derive(Debug, Clone)]
pub struct ReadModel {
    /// The table of DynamoDB, with `read_model.kind = "dynamodb"`; without one MySQL answers.
    pub table: Option<String>,
}

impl ReadModel {
    pub(crate) fn read(s: &mut Source, aws: &Aws) -> Self {
        if s.get("read_model.kind", ReadModelKind::None) == ReadModelKind::None {
            return Self { table: None };
        }
        aws.needed(s, "read_model.kind = \"dynamodb\"");
        Self { table: Some(s.require("read_model.table", String::new())) }
    }
}

/// What `workflow.kind` may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WorkflowKind {
    Local,
    StepFunctions,
}

/// `[workflow]`: who leads an edit through its steps.
#[derive(Debug, Clone)]
pub struct Workflow {
    /// The ARN of the state machine, with `workflow.kind = "step-functions"`; without one workers do.
    pub state_machine: Option<String>,
}

impl Workflow {
    pub(crate) fn read(s: &mut Source, aws: &Aws) -> Self {
        if s.get("workflow.kind", WorkflowKind::Local) == WorkflowKind::Local {
            return Self { state_machine: None };
        }
        aws.needed(s, "workflow.kind = \"step-functions\"");
        let arn = s.require("workflow.state_machine", String::new());
        s.check(
            arn.starts_with("arn:") && arn.contains(":stateMachine:") && arn.split(':').count() == 7,
            "workflow.state_machine",
            "must be the ARN of a state machine, without a version or an alias",
        );
        Self { state_machine: Some(arn) }
    }
}
