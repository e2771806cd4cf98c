//! A user name and a password that AWS Secrets Manager keeps, in the JSON that its rotation writes:
//! `{"username": "...", "password": "..."}`, see
//! <https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_secret_json_structure.html>.

use std::time::SystemTime;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::cache::Issued;
use crate::{aws, config::database::Secret};

/// Reads one secret.
pub(crate) struct Reader {
    secret: Secret,
    user: String,
}

#[derive(Deserialize)]
struct Kept {
    username: Option<String>,
    password: String,
}

impl Reader {
    /// `user` is for a secret that names none.
    pub(crate) fn new(secret: Secret, user: String) -> Self {
        Self { secret, user }
    }

    /// What the secret holds now.
    pub(crate) async fn read(&self) -> Result<Issued, String> {
        let Secret { id, region, ttl } = &self.secret;
        let now = SystemTime::now();
        let text =
            aws::secrets::text(&aws::configuration(region).await, id).await.map_err(|error| error.to_string())?;
        let text = text.ok_or_else(|| format!("the secret {id} holds no text"))?;
        // What serde would say of a text that doesn't fit may quote it.
        let kept: Kept = serde_json::from_str(text.expose_secret())
            .map_err(|_| format!("the secret {id} is no JSON object with a `password` and a `username`"))?;
        let user = kept.username.filter(|name| !name.is_empty()).unwrap_or_else(|| self.user.clone());
        if user.is_empty() {
            return Err(format!("the secret {id} has no `username`, and database.user is not given"));
        }
        let origin = format!("the secret {id} in {region}");
        Ok(Issued { user, secret: SecretString::from(kept.password), is_token: false, good_until: now + *ttl, origin })
    }
}
