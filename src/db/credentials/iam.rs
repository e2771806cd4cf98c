//! Tokens of RDS IAM database authentication: a presigned request that is used as a password, see
//! <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.html>.
//!
//! RDS accepts a token for 15 minutes, unless the AWS credentials that signed it expire sooner. The AWS credentials are
//! therefore resolved again for each token: that shows their expiry and follows rotations.

use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_sdk_rds::auth_token::{AuthTokenGenerator, Config};
use aws_sdk_sts::config::{Credentials, SharedCredentialsProvider};
use futures_util::future::BoxFuture;
use secrecy::SecretString;

use super::issuer::{IssuedCredential, Issuer};
use crate::{aws, config::database::Iam};

/// Time for a login: a token is not used when its AWS credentials expire within it.
const LOGIN: Duration = Duration::from_secs(10);

/// Signs tokens for one user of one server.
pub(crate) struct TokenSigner {
    iam: Iam,
    user: String,
}

impl TokenSigner {
    pub(crate) fn new(iam: Iam, user: String) -> Self {
        Self { iam, user }
    }

    async fn sign(&self) -> Result<IssuedCredential, String> {
        let now = SystemTime::now();
        let (sdk, credentials) = self.aws_credentials().await?;
        let config = Config::builder()
            .hostname(&self.iam.host)
            .port(self.iam.port.into())
            // The generator does not escape the name in the URL.
            .username(
                url::form_urlencoded::byte_serialize(self.user.as_bytes()).collect::<String>().replace('+', "%20"),
            )
            .region(aws_config::Region::new(self.iam.region.clone()))
            .credentials(SharedCredentialsProvider::new(credentials.clone()))
            .build()
            .map_err(|error| aws::error_chain(&*error))?;
        let token =
            AuthTokenGenerator::new(config).auth_token(&sdk).await.map_err(|error| aws::error_chain(&*error))?;
        let configured_end = now + self.iam.lease;
        // AWS credentials that live shorter than a login takes are used to their end.
        let credentials_end = credentials.expiry().map(|end| if now + LOGIN < end { end - LOGIN } else { end });
        let Iam { host, port, region, .. } = &self.iam;
        Ok(IssuedCredential {
            user: self.user.clone(),
            secret: SecretString::from(token.as_str()),
            is_token: true,
            valid_until: credentials_end.map_or(configured_end, |end| end.min(configured_end)),
            origin: format!("signed for {host}:{port} in {region} with {}", credentials.access_key_id()),
        })
    }

    async fn caller_arn(&self) -> Result<String, String> {
        let (sdk, _) = self.aws_credentials().await?;
        let caller = aws_sdk_sts::Client::new(&sdk).get_caller_identity().send().await;
        Ok(caller.map_err(|error| aws::error_chain(&error))?.arn.unwrap_or_default())
    }

    async fn aws_credentials(&self) -> Result<(SdkConfig, Credentials), String> {
        let sdk = aws::sdk_config(&self.iam.region).await;
        let credentials = aws::credentials::fetch(&sdk).await?;
        Ok((sdk, credentials))
    }
}

impl Issuer for TokenSigner {
    fn kind(&self) -> &'static str {
        "iam"
    }

    fn issue(&self) -> BoxFuture<'_, Result<IssuedCredential, String>> {
        Box::pin(self.sign())
    }

    fn identity(&self) -> BoxFuture<'_, Option<Result<String, String>>> {
        Box::pin(async { Some(self.caller_arn().await) })
    }
}
