//! User names and passwords of AWS Secrets Manager, in the JSON that its rotation writes:
//! `{"username": "...", "password": "..."}`, see
//! <https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_secret_json_structure.html>.

use std::time::SystemTime;

use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::issuer::{IssuedCredential, Issuer};
use crate::{aws, config::database::Secret};

/// Reads one secret.
pub(crate) struct SecretReader {
    secret: Secret,
    user: String,
}

#[derive(Deserialize)]
struct SecretDocument {
    username: Option<String>,
    password: String,
}

impl SecretReader {
    /// `user` is used when the secret has no `username`.
    pub(crate) fn new(secret: Secret, user: String) -> Self {
        Self { secret, user }
    }

    async fn read(&self) -> Result<IssuedCredential, String> {
        let Secret { id, region, ttl } = &self.secret;
        let now = SystemTime::now();
        let text = aws::secrets::text(&aws::sdk_config(region).await, id).await.map_err(|error| error.to_string())?;
        let text = text.ok_or_else(|| format!("secret {id} has no text value"))?;
        // The error of serde may quote the text, so it is not shown.
        let document: SecretDocument = serde_json::from_str(text.expose_secret())
            .map_err(|_| format!("secret {id} is not a JSON object with `password` and `username`"))?;
        let user = document.username.filter(|name| !name.is_empty()).unwrap_or_else(|| self.user.clone());
        if user.is_empty() {
            return Err(format!("secret {id} has no `username`, and database.user is not set"));
        }
        Ok(IssuedCredential {
            user,
            secret: SecretString::from(document.password),
            is_token: false,
            valid_until: now + *ttl,
            origin: format!("secret {id} in {region}"),
        })
    }
}

impl Issuer for SecretReader {
    fn kind(&self) -> &'static str {
        "secrets-manager"
    }

    fn issue(&self) -> BoxFuture<'_, Result<IssuedCredential, String>> {
        Box::pin(self.read())
    }
}
