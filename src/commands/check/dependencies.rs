//! The rows of storage and of what AWS does for us: each part that is on, tried with what its process is allowed.

use std::time::{Duration, Instant};

use aws_config::SdkConfig;

use super::{Failure, Outcome, Table};
use crate::{
    aws::{self, step_functions::StateMachine},
    config::{Config, Place},
    jobs::sqs::client::Sqs,
    notifications::Notifier,
    read_model::ReadModel,
    storage::Storage,
};

/// The longest look at one thing.
const LOOK: Duration = Duration::from_secs(10);

impl From<aws::AwsError> for Failure {
    fn from(failure: aws::AwsError) -> Self {
        Self { advice: failure.hint().map(str::to_owned), told: failure.to_string() }
    }
}

/// The rows of the parts that are on.
pub(crate) async fn check(config: &Config, sdk: Option<&SdkConfig>, table: &mut Table) {
    let started = Instant::now();
    let late = match config.storage.place {
        Place::Files(_) => format!("no answer within {LOOK:?}").into(),
        Place::S3(_) => aws::AwsError::timeout(LOOK).into(),
    };
    let storage = tokio::time::timeout(LOOK, storage(config, sdk)).await;
    table.row("storage", started, storage.unwrap_or(Err(late)));
    if let Some((sqs, sdk)) = config.queue.sqs.as_ref().zip(sdk) {
        let started = Instant::now();
        table.row("sqs", started, within(queue(&Sqs::new(sqs, sdk))).await);
    }
    if let Some((arn, sdk)) = config.workflow.state_machine.as_ref().zip(sdk) {
        let started = Instant::now();
        table.row("step_functions", started, within(machine(&StateMachine::new(arn, sdk))).await);
    }
    if config.notifications.topic.is_some() {
        let started = Instant::now();
        table.row("sns", started, within(topic(config, sdk)).await);
    }
    if config.read_model.table.is_some() {
        let started = Instant::now();
        table.row("dynamodb", started, within(read_model(config, sdk)).await);
    }
}

/// A file is written and removed; a bucket is asked whether it is there, which is all that may be tried without a photo.
async fn storage(config: &Config, sdk: Option<&SdkConfig>) -> Outcome {
    let place = &config.storage.place;
    let storage = Storage::open(&config.storage, &config.http, sdk).map_err(|error| format!("{error:#}"))?;
    match storage.probe().await {
        Ok(()) => Ok(place.to_string()),
        Err(error) => Err(aws::AwsError::from(error).context(&place.to_string()).into()),
    }
}

async fn queue(queue: &Sqs) -> Outcome {
    let (waiting, dead) = Box::pin(queue.depth()).await?;
    Ok(format!("about {waiting} messages, {dead} dead"))
}

async fn machine(machine: &StateMachine) -> Outcome {
    Box::pin(machine.check()).await.map_err(|failure| failure.context(machine.arn()))?;
    Ok(format!("{} is there", machine.arn()))
}

/// Publishing would reach the subscribers, so only the topic's attributes are read, which takes another permission.
async fn topic(config: &Config, sdk: Option<&SdkConfig>) -> Outcome {
    let notifier = Notifier::new(&config.notifications, sdk).map_err(|error| Failure::from(format!("{error:#}")))?;
    let Some(topic) = notifier.topic() else { return Ok("off".to_owned()) };
    let arn = topic.arn();
    match topic.check().await {
        Ok(()) => {
            Ok(format!("{arn} is there; publishing was not tried, because subscribers would receive the message"))
        }
        Err(failure) if failure.is_access_denied() => Ok(format!(
            "{arn} was not checked: publishing would reach its subscribers, and reading it takes sns:GetTopicAttributes, which this role lacks"
        )),
        Err(failure) => Err(failure.context(arn).into()),
    }
}

async fn read_model(config: &Config, sdk: Option<&SdkConfig>) -> Outcome {
    let model = ReadModel::new(&config.read_model, sdk).map_err(|error| Failure::from(format!("{error:#}")))?;
    let Some(model) = model else { return Ok("off".to_owned()) };
    model.check().await.map_err(|failure| failure.context(model.table()))?;
    Ok(format!("{} answers", model.table()))
}

/// Of what AWS does for us.
async fn within(look: impl Future<Output = Outcome>) -> Outcome {
    tokio::time::timeout(LOOK, look).await.unwrap_or_else(|_| Err(aws::AwsError::timeout(LOOK).into()))
}
