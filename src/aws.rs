//! What all AWS clients share: configuration, credentials and errors.
//!
//! Credentials and endpoints are found as by every AWS SDK: environment, profile, web identity, container, IMDSv2;
//! `AWS_ENDPOINT_URL` and its variants lead to an emulator. The region is always given by the caller, because a default
//! would silently sign for the wrong region.

pub mod credentials;
mod error;
pub mod region;
pub mod secrets;
pub mod step_functions;

use std::time::Duration;

use aws_config::{AppName, BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};

pub use error::{AwsError, error_hint};

const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// For a call with its retries.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(8);
const MAX_ATTEMPTS: u32 = 3;

/// Reads the environment and the profile on each call, so that changes made while the process runs are seen.
pub async fn sdk_config(region: &str) -> SdkConfig {
    let timeouts = TimeoutConfig::builder();
    let timeouts = timeouts.operation_attempt_timeout(ATTEMPT_TIMEOUT).operation_timeout(OPERATION_TIMEOUT).build();
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS))
        .app_name(AppName::new(env!("CARGO_PKG_NAME")).expect("letters only"))
        .load()
        .await
}

/// Whether an AWS call failed for a reason outside the request: outage, quota, credentials, permissions. A missing
/// object is not such a reason.
pub fn is_aws_error(error: &anyhow::Error) -> bool {
    find(error).is_some_and(|error| !matches!(error.code.as_deref(), Some("NoSuchKey" | "NotFound")))
}

/// An error with its causes, and the hint of an [`AwsError`] among them.
pub fn with_hint(error: &anyhow::Error) -> String {
    match find(error).and_then(AwsError::hint) {
        Some(hint) => format!("{error:#}; {hint}"),
        None => format!("{error:#}"),
    }
}

fn find(error: &anyhow::Error) -> Option<&AwsError> {
    error.chain().find_map(|cause| {
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause.downcast_ref().or_else(|| inner?.downcast_ref::<AwsError>())
    })
}

/// An error of the SDK with its causes, which its `Display` omits.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |error| error.source()) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
