//! Secrets in AWS Secrets Manager. Settings named `x_secret_id` are read once, at start-up; database passwords, which
//! rotate at run time, are read by the database's logins.

use std::collections::BTreeMap;

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::Client;
use futures_util::future::join_all;
use secrecy::SecretString;

use super::{AwsError, sdk_config};
use crate::config::{Config, Source, Told};

/// Fetches the secrets that a source names, except those in `known`, and adds them to the source.
pub async fn fetch(source: &mut Source, known: &[Told]) {
    let mut named = Config::named_secrets(source);
    for (secret, text) in known {
        for reused in named.extract_if(.., |named| named == secret) {
            source.tell(reused, Ok(text.clone()));
        }
    }
    let mut sdk_configs = BTreeMap::new();
    for secret in &named {
        if !sdk_configs.contains_key(&secret.region) {
            sdk_configs.insert(secret.region.clone(), sdk_config(&secret.region).await);
        }
    }
    let values = join_all(named.iter().map(|secret| setting_value(&sdk_configs[&secret.region], &secret.id))).await;
    for (secret, value) in named.into_iter().zip(values) {
        source.tell(secret, value);
    }
}

async fn setting_value(sdk: &SdkConfig, id: &str) -> Result<SecretString, String> {
    match text(sdk, id).await {
        Ok(Some(text)) => Ok(text),
        Ok(None) => Err(format!("the secret {id} holds no text: store the text that the setting's file would contain")),
        Err(error) => Err(error.with_hint()),
    }
}

/// The current text of a secret (by name or ARN); none if it is blank or binary.
pub async fn text(sdk: &SdkConfig, id: &str) -> Result<Option<SecretString>, AwsError> {
    let output = Client::new(sdk).get_secret_value().secret_id(id).send().await;
    let output = output.map_err(|error| AwsError::from(error).context(&format!("the secret {id}")))?;
    Ok(output.secret_string.filter(|text| !text.trim().is_empty()).map(Into::into))
}
