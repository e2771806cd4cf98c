//! Secrets that AWS Secrets Manager keeps as text. Those that settings name by `x_secret_id` are read once, before anything else
//! begins: a start is what takes up a new one. Passwords that rotate under way are the business of the database's logins.

use std::collections::BTreeMap;

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::Client;
use futures_util::future::join_all;
use secrecy::SecretString;

use super::{Failure, configuration};
use crate::config::{Config, Named, Source, Told};

/// Reads each secret that a source names, but for those that were read before, and tells the source. With none nobody looks for
/// credentials.
pub async fn fetch(source: &mut Source, before: &[Told]) {
    let mut named = Config::named_secrets(source);
    for (old, text) in before {
        for known in named.extract_if(.., |new| new == old) {
            source.tell(known, Ok(text.clone()));
        }
    }
    let mut configurations = BTreeMap::new();
    for secret in &named {
        if !configurations.contains_key(&secret.region) {
            configurations.insert(secret.region.clone(), configuration(&secret.region).await);
        }
    }
    let texts = join_all(named.iter().map(|secret| value(&configurations[&secret.region], secret))).await;
    for (secret, text) in named.into_iter().zip(texts) {
        source.tell(secret, text);
    }
}

/// What a setting is by its secret, or why that is not to be had: in the service's words, with what to do about it.
async fn value(sdk: &SdkConfig, Named { id, .. }: &Named) -> Result<SecretString, String> {
    match text(sdk, id).await {
        Ok(Some(text)) => Ok(text),
        Ok(None) => Err(format!("the secret {id} holds no text: put one in, as it would stand in the setting's file")),
        Err(failure) => Err(failure.advised()),
    }
}

/// The text that a secret (by name or ARN) holds now; none when it is blank, or bytes.
///
/// # Errors
/// Why Secrets Manager does not tell.
pub async fn text(sdk: &SdkConfig, id: &str) -> Result<Option<SecretString>, Failure> {
    let answer = Client::new(sdk).get_secret_value().secret_id(id).send().await;
    let answer = answer.map_err(|error| Failure::from(error).of(&format!("the secret {id}")))?;
    Ok(answer.secret_string.filter(|text| !text.trim().is_empty()).map(Into::into))
}
