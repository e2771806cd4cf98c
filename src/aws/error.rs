//! Errors of AWS calls, with a hint for the operator by error code.
//!
//! The codes are those of "Common Errors" in each service's API reference, and of the errors of the calls made here.
//! One cause has several codes, because each protocol has its own.

use std::{fmt, io, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::error_chain;

/// Codes of our own, for calls that fail before a service answers.
const NO_CREDENTIALS: &str = "NoCredentials";
const TIMEOUT: &str = "Timeout";
const UNREACHABLE: &str = "Unreachable";

/// A failed call, without types of the SDK and without secrets.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct AwsError {
    /// The service's code, such as `AccessDenied`, or one of our own.
    pub code: Option<String>,
    message: String,
}

impl AwsError {
    /// What an operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        self.code.as_deref().and_then(error_hint)
    }

    pub fn is_access_denied(&self) -> bool {
        self.code.as_deref().is_some_and(|code| error_hint(code) == error_hint("AccessDenied"))
    }

    pub fn timeout(after: Duration) -> Self {
        Self { code: Some(TIMEOUT.to_owned()), message: format!("no answer within {after:?}") }
    }

    /// A call that was carried out in part.
    pub fn throttled(message: &str) -> Self {
        Self { code: Some("Throttling".to_owned()), message: message.to_owned() }
    }

    /// The error of one entry of a batch.
    pub fn service(code: &str, message: &str) -> Self {
        Self { code: Some(code.to_owned()), message: format!("{code}: {message}") }
    }

    /// A response body that ended early.
    pub fn interrupted(cause: impl fmt::Display) -> Self {
        Self { code: Some(TIMEOUT.to_owned()), message: format!("the response was interrupted: {cause}") }
    }

    /// A request that can't be built, which is a bug.
    pub fn invalid_request(error: &dyn std::error::Error) -> Self {
        Self { code: None, message: error_chain(error) }
    }

    /// Message and hint.
    pub fn with_hint(&self) -> String {
        self.hint().map_or_else(|| self.message.clone(), |hint| format!("{}; {hint}", self.message))
    }

    /// Prefixes the message with what failed.
    #[must_use]
    pub fn context(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

/// Storage wraps the error of a call in an [`io::Error`].
impl From<io::Error> for AwsError {
    fn from(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(|error| Self::invalid_request(&error))
    }
}

impl<E, R> From<SdkError<E, R>> for AwsError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug + 'static,
{
    fn from(error: SdkError<E, R>) -> Self {
        let own = match &error {
            SdkError::TimeoutError(_) => Some(TIMEOUT),
            _ if has_cause::<CredentialsError>(&error) => Some(NO_CREDENTIALS),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => Some(TIMEOUT),
            SdkError::DispatchFailure(_) => Some(UNREACHABLE),
            _ => None,
        };
        let service = error.as_service_error();
        let code = service.and_then(ProvideErrorMetadata::code).or(own).map(str::to_owned);
        // The service's own message is complete; the SDK's types around it add nothing.
        let message = match (&code, service.and_then(ProvideErrorMetadata::message)) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            _ => error_chain(&error),
        };
        Self { code, message }
    }
}

fn has_cause<T: std::error::Error + 'static>(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(<dyn std::error::Error>::is::<T>)
}

/// What an operator can do about an error code; none if the error says it all or the code is unknown.
pub fn error_hint(code: &str) -> Option<&'static str> {
    // Codes of JSON protocols may end in `Exception` and have a namespace before `#`.
    let bare = code.rsplit('#').next().unwrap_or(code);
    Some(match bare.strip_suffix("Exception").unwrap_or(bare) {
        "AccessDenied" | "AuthorizationError" | "UnauthorizedOperation" | "NotAuthorized" => {
            "does the role allow this action on this resource, and does no resource, organization or VPC endpoint \
             policy deny it? docs/aws.md lists the actions of each process"
        }
        "NoSuchBucket"
        | "ResourceNotFound"
        | "NotFound"
        | "QueueDoesNotExist"
        | "NonExistentQueue"
        | "AWS.SimpleQueueService.NonExistentQueue"
        | "StateMachineDoesNotExist"
        | "TableNotFound" => "are the name, the region and the account right?",
        "ExpiredToken" | "RequestExpired" | "TokenRefreshRequired" => {
            "the credentials have expired: those of a role are renewed automatically, those in variables or a profile \
             are not"
        }
        NO_CREDENTIALS => {
            "are there credentials in AWS_* variables, the profile, web identity, the container or the instance's role?"
        }
        "InvalidClientTokenId"
        | "UnrecognizedClient"
        | "InvalidAccessKeyId"
        | "MissingAuthenticationToken"
        | "InvalidSecurity"
        | "InvalidSecurityToken"
        | "AuthFailure" => "the access key is unknown: was it deleted, or does it belong to another partition?",
        "RequestTimeTooSkewed" | "RequestInTheFuture" => {
            "this host's clock is wrong: is chronyd or another NTP client running?"
        }
        "InvalidSignature" | "SignatureDoesNotMatch" | "IncompleteSignature" => {
            "is the clock right to 5 minutes, and does the secret key belong to the access key?"
        }
        "Throttling"
        | "Throttled"
        | "ThrottledRequest"
        | "RequestThrottled"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "ProvisionedThroughputExceeded"
        | "LimitExceeded"
        | "SlowDown"
        | "BandwidthLimitExceeded"
        | "KMSThrottling"
        | "KmsThrottled" => {
            "the account's quota is exceeded and the call is retried; if it persists, request a higher quota"
        }
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraint" => {
            "the bucket is in another region: is aws.region right?"
        }
        // Secrets Manager answers `DecryptionFailure` where the key is the reason.
        "KMSAccessDenied" | "KMS.AccessDenied" | "KmsAccessDenied" | "DecryptionFailure" => {
            "may the role use the KMS key (kms:GenerateDataKey, kms:Decrypt), and does the key's policy allow it?"
        }
        "KMSDisabled" | "KMSInvalidState" | "KMSNotFound" | "KMS.Disabled" | "KMS.NotFound" | "KmsDisabled"
        | "KmsInvalidState" | "KmsNotFound" => "does the KMS key exist in this region, and is it enabled?",
        "OptInRequired" | "SubscriptionRequired" | "KMSOptInRequired" => {
            "the account is not signed up for this service"
        }
        "InternalError" | "InternalFailure" | "InternalServerError" | "ServiceUnavailable" | "ServiceFailure" => {
            "AWS has an internal problem and the call is retried: see its Health Dashboard"
        }
        TIMEOUT | UNREACHABLE => {
            "is there a route to it (VPC endpoint or NAT, security group), and does its name resolve?"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_one_cause_have_one_hint() {
        for codes in [
            &["AccessDenied", "AccessDeniedException", "AuthorizationError", "AuthorizationErrorException"][..],
            &["Throttling", "ThrottlingException", "Throttled", "ThrottledException", "SlowDown"],
            &[
                "NotFound",
                "NotFoundException",
                "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException",
                "NoSuchBucket",
            ],
            &["ExpiredToken", "ExpiredTokenException"],
            &["InvalidSignatureException", "SignatureDoesNotMatch"],
        ] {
            let hints: std::collections::BTreeSet<_> = codes.iter().map(|code| error_hint(code)).collect();
            assert!(hints.len() == 1 && hints.first().unwrap().is_some(), "{codes:?}: {hints:?}");
        }
        assert_ne!(error_hint("AccessDenied"), error_hint("KMSAccessDeniedException"));
        assert_eq!(error_hint("EntityTooLarge"), None);
        assert_eq!(error_hint(""), None);
    }
}
