//! What an operator can do about an error of AWS, by its code.
//!
//! The codes are those of "Common Errors" in each service's API reference, and of the errors of the calls that we make.
//! One cause has many names: each protocol has its own.

use std::{fmt, io, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::explained;

/// Our own codes, for what fails before a service answers.
const NO_CREDENTIALS: &str = "NoCredentials";
const NO_ANSWER: &str = "NoAnswer";
const UNREACHABLE: &str = "Unreachable";

/// A call that failed, as an operator is told of it: no type of a client, no token, no key.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{told}")]
pub struct Failure {
    /// The service's code, such as `AccessDenied`, or one of our own; none where there is no word for it.
    pub code: Option<String>,
    told: String,
}

impl Failure {
    /// What to do about it, where that can be told.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        self.code.as_deref().and_then(advice)
    }

    /// Whether the caller is known and may not do it.
    #[must_use]
    pub fn is_of_rights(&self) -> bool {
        self.code.as_deref().is_some_and(|code| advice(code) == advice("AccessDenied"))
    }

    /// Nothing was answered for as long as somebody was willing to wait.
    #[must_use]
    pub fn no_answer(within: Duration) -> Self {
        Self { code: Some(NO_ANSWER.to_owned()), told: format!("no answer within {within:?}") }
    }

    /// What was answered in part: the rest has to wait.
    #[must_use]
    pub fn throttled(told: &str) -> Self {
        Self { code: Some("Throttling".to_owned()), told: told.to_owned() }
    }

    /// What a service says of one thing of several.
    #[must_use]
    pub fn told(code: &str, told: &str) -> Self {
        Self { code: Some(code.to_owned()), told: format!("{code}: {told}") }
    }

    /// An answer that broke off.
    #[must_use]
    pub fn cut(told: impl fmt::Display) -> Self {
        Self { code: Some(NO_ANSWER.to_owned()), told: format!("the answer broke off: {told}") }
    }

    /// A request that can't be made, which is a mistake of ours.
    #[must_use]
    pub fn ours(error: &dyn std::error::Error) -> Self {
        Self { code: None, told: explained(error) }
    }

    /// All that there is to say, in one sentence.
    #[must_use]
    pub fn advised(&self) -> String {
        self.advice().map_or_else(|| self.told.clone(), |advice| format!("{}; {advice}", self.told))
    }

    /// The same with what was tried before it.
    #[must_use]
    pub fn of(mut self, what: &str) -> Self {
        self.told = format!("{what}: {}", self.told);
        self
    }
}

/// Storage tells of its own in the words of files, with what AWS said inside.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(|error| Self::ours(&error))
    }
}

impl<E, R> From<SdkError<E, R>> for Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug + 'static,
{
    fn from(error: SdkError<E, R>) -> Self {
        let own = match &error {
            SdkError::TimeoutError(_) => Some(NO_ANSWER),
            _ if has_cause::<CredentialsError>(&error) => Some(NO_CREDENTIALS),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => Some(NO_ANSWER),
            SdkError::DispatchFailure(_) => Some(UNREACHABLE),
            _ => None,
        };
        let code = error.as_service_error().and_then(ProvideErrorMetadata::code).or(own).map(str::to_owned);
        let said = error.as_service_error().and_then(ProvideErrorMetadata::message).map(str::to_owned);
        // A service's own sentence is the whole story; the type around it is the SDK's.
        let told = match (&code, said) {
            (Some(code), Some(said)) => format!("{code}: {said}"),
            _ => explained(&error),
        };
        Self { code, told }
    }
}

/// Whether an error of this type is among the causes.
fn has_cause<T: std::error::Error + 'static>(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<T>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What to do about an error code of AWS; none for one that says it all, or that we do not know.
#[must_use]
pub fn advice(code: &str) -> Option<&'static str> {
    // Errors of the query protocol have names in their XML; those of JSON end in `Exception`, or have a namespace before `#`.
    let bare = code.rsplit('#').next().unwrap_or(code);
    Some(match bare.strip_suffix("Exception").unwrap_or(bare) {
        "AccessDenied" | "AuthorizationError" | "UnauthorizedOperation" | "NotAuthorized" => {
            "does the role allow this action on this very resource, and does no policy of the resource, the organization or \
             the VPC endpoint forbid it? docs/aws.md lists the actions of each process"
        }
        "NoSuchBucket"
        | "ResourceNotFound"
        | "NotFound"
        | "QueueDoesNotExist"
        | "NonExistentQueue"
        | "AWS.SimpleQueueService.NonExistentQueue"
        | "StateMachineDoesNotExist"
        | "TableNotFound" => "is the name right, and are region and account those in which it was made?",
        "ExpiredToken" | "RequestExpired" | "TokenRefreshRequired" => {
            "the credentials have ended: a role's are renewed by themselves, those in variables or a profile are not"
        }
        NO_CREDENTIALS => {
            "credentials come from AWS_* variables, the profile, web identity, the container or the instance's role: is one there?"
        }
        "InvalidClientTokenId"
        | "UnrecognizedClient"
        | "InvalidAccessKeyId"
        | "MissingAuthenticationToken"
        | "InvalidSecurity"
        | "InvalidSecurityToken"
        | "AuthFailure" => "AWS does not know this access key: was it deleted, or is it of another partition?",
        "RequestTimeTooSkewed" | "RequestInTheFuture" => {
            "this host's clock is off by more than AWS takes: is chronyd, or another NTP client, at work?"
        }
        "InvalidSignature" | "SignatureDoesNotMatch" | "IncompleteSignature" => {
            "is the clock right to 5 minutes, and is the secret key that of the access key?"
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
            "more than AWS gives this account at a time: what waits is tried again; if it stays so, ask for a higher quota"
        }
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraint" => {
            "it is in another region: is aws.region right?"
        }
        // The last is what Secrets Manager says of a key.
        "KMSAccessDenied" | "KMS.AccessDenied" | "KmsAccessDenied" | "DecryptionFailure" => {
            "may the role use the key (kms:GenerateDataKey, kms:Decrypt), and does the key's own policy let it?"
        }
        "KMSDisabled" | "KMSInvalidState" | "KMSNotFound" | "KMS.Disabled" | "KMS.NotFound" | "KmsDisabled"
        | "KmsInvalidState" | "KmsNotFound" => "is the key there, enabled, and in this region?",
        "OptInRequired" | "SubscriptionRequired" | "KMSOptInRequired" => {
            "the account is not signed up for this service"
        }
        "InternalError" | "InternalFailure" | "InternalServerError" | "ServiceUnavailable" | "ServiceFailure" => {
            "AWS has trouble of its own, and what waits is tried again: see its Health Dashboard"
        }
        NO_ANSWER | UNREACHABLE => {
            "is there a way to it: a VPC endpoint or NAT, a security group that lets this host out, a name that resolves?"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_error_codes_to_one_advice() {
        for names in [
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
            let told: std::collections::BTreeSet<_> = names.iter().map(|name| advice(name)).collect();
            assert!(told.len() == 1 && told.first().unwrap().is_some(), "{names:?}: {told:?}");
        }
        assert_ne!(advice("AccessDenied"), advice("KMSAccessDeniedException"));
        assert_eq!(advice("EntityTooLarge"), None);
        assert_eq!(advice(""), None);
    }
}
