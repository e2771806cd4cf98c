//! Tokens of RDS IAM database authentication: a presigned request that stands in for a password.
//!
//! See <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.html>. RDS takes a token for 15
//! minutes, if the credentials that signed it live so long. So credentials are fetched here for each token, which shows
//! when they end, and which finds those that were rotated.

use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_sdk_rds::auth_token::{AuthTokenGenerator, Config};
use aws_sdk_sts::config::{Credentials, SharedCredentialsProvider};
use secrecy::SecretString;

use super::cache::Issued;
use crate::{aws, config::database::Iam};

/// A login may take so long; a token is not used when its credentials end before that.
const LOGIN: Duration = Duration::from_secs(10);

/// Signs tokens for one user of one server.
pub(crate) struct Signer {
    iam: Iam,
    user: String,
}

impl Signer {
    pub(crate) fn new(iam: Iam, user: String) -> Self {
        Self { iam, user }
    }

    /// A new token.
    pub(crate) async fn sign(&self) -> Result<Issued, String> {
        let now = SystemTime::now();
        let (sdk, credentials) = self.credentials().await?;
        let config = Config::builder()
            .hostname(&self.iam.host)
            .port(self.iam.port.into())
            // The generator puts the name into a URL as it is.
            .username(
                url::form_urlencoded::byte_serialize(self.user.as_bytes()).collect::<String>().replace('+', "%20"),
            )
            .region(aws_config::Region::new(self.iam.region.clone()))
            .credentials(SharedCredentialsProvider::new(credentials.clone()))
            .build()
            .map_err(|error| aws::explained(&*error))?;
        let token = AuthTokenGenerator::new(config).auth_token(&sdk).await.map_err(|error| aws::explained(&*error))?;
        let by_lease = now + self.iam.lease;
        // Short-lived to begin with, they are used to their end.
        let by_credentials = credentials.expiry().map(|end| if now + LOGIN < end { end - LOGIN } else { end });
        let Iam { host, port, region, .. } = &self.iam;
        Ok(Issued {
            user: self.user.clone(),
            secret: SecretString::from(token.as_str()),
            is_token: true,
            good_until: by_credentials.map_or(by_lease, |end| end.min(by_lease)),
            origin: format!("signed for {host}:{port} in {region} with {}", credentials.access_key_id()),
        })
    }

    /// The ARN of whoever signs, from STS.
    pub(crate) async fn identity(&self) -> Result<String, String> {
        let (sdk, _) = self.credentials().await?;
        let told = aws_sdk_sts::Client::new(&sdk).get_caller_identity().send().await;
        let told = told.map_err(|error| aws::explained(&error))?;
        Ok(told.arn.unwrap_or_default())
    }

    async fn credentials(&self) -> Result<(SdkConfig, Credentials), String> {
        let sdk = aws::configuration(&self.iam.region).await;
        let credentials = aws::credentials::ask(&sdk).await?;
        Ok((sdk, credentials))
    }
}
