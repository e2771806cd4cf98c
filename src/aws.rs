//! The configuration that every AWS client of this program starts from.
//!
//! Credentials, endpoints and the rest are found as by every AWS SDK: environment, profile, web identity, container,
//! IMDSv2; `AWS_ENDPOINT_URL` and its kin lead to an emulator. The region is always said by the caller: a default one
//! would sign for the wrong place in silence.

mod advice;
pub mod credentials;
pub mod region;
pub mod secrets;
pub mod step_functions;

use std::time::Duration;

use aws_config::{AppName, BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};

pub use advice::{Failure, advice};

use crate::config::{Config, Place};

/// A call that takes longer is given up and tried again.
const ATTEMPT: Duration = Duration::from_secs(3);
/// The longest time for a call with all its tries.
const CALL: Duration = Duration::from_secs(8);
/// How often a call is tried in all.
const TRIES: u32 = 3;

/// Reads the environment and the profile anew, so that what was changed there under way counts.
pub async fn configuration(region: &str) -> SdkConfig {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT).operation_timeout(CALL).build();
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(TRIES))
        .app_name(AppName::new(env!("CARGO_PKG_NAME")).expect("letters only"))
        .load()
        .await
}

/// What the clients of all parts start from that AWS does for us; none when it does none, and then nobody looks for
/// credentials.
pub async fn for_parts_of(config: &Config) -> Option<SdkConfig> {
    let bucket = matches!(config.storage.place, Place::S3(_));
    let others = [
        config.queue.sqs.is_some(),
        config.notifications.topic.is_some(),
        config.read_model.table.is_some(),
        config.workflow.state_machine.is_some(),
    ];
    if !bucket && !others.contains(&true) {
        return None;
    }
    Some(configuration(config.aws.region.as_deref()?).await)
}

/// Whether an error comes of AWS, and not of what was asked: an outage, a limit, credentials, a right. That something is not
/// there is an answer.
pub fn is_away(error: &anyhow::Error) -> bool {
    failure_in(error).is_some_and(|failure| !matches!(failure.code.as_deref(), Some("NoSuchKey" | "NotFound")))
}

/// An error with its causes, and what an operator can do about it where it comes of AWS.
pub fn advised(error: &anyhow::Error) -> String {
    match failure_in(error).and_then(Failure::advice) {
        Some(advice) => format!("{error:#}; {advice}"),
        None => format!("{error:#}"),
    }
}

/// What AWS said, if it is among the causes.
fn failure_in(error: &anyhow::Error) -> Option<&Failure> {
    error.chain().find_map(|cause| {
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause.downcast_ref().or_else(|| inner?.downcast_ref::<Failure>())
    })
}

/// An error of the SDK with its causes, which its `Display` leaves out.
pub fn explained(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let told = inner.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        cause = inner.source();
    }
    text
}
