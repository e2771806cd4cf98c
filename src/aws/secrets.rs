//! Secrets that settings name by `x_secret_id` and that AWS Secrets Manager keeps as text. They are read once, before anything
//! else begins: a start is what takes up a new one. Passwords that rotate under way are the business of the database's logins.

use std::collections::BTreeMap;

use aws_sdk_secretsmanager::Client;
use futures_util::future::join_all;
use secrecy::SecretString;

use super::{Failure, configuration};
use crate::config::{Config, Source};

/// Reads each secret that a source names, and tells the source. With none nobody looks for credentials.
pub async fn fetch(source: &mut Source) {
    let named = Config::named_secrets(source);
    let mut clients = BTreeMap::new();
    for secret in &named {
        if !clients.contains_key(&secret.region) {
            clients.insert(secret.region.clone(), Client::new(&configuration(&secret.region).await));
        }
    }
    let texts = join_all(named.iter().map(|secret| text(&clients[&secret.region], &secret.id))).await;
    for (secret, text) in named.into_iter().zip(texts) {
        source.tell(secret.key, text);
    }
}

/// What a secret holds now, or why that is not to be had: in the service's words, with what to do about it.
async fn text(client: &Client, id: &str) -> Result<SecretString, String> {
    let answer = client.get_secret_value().secret_id(id).send().await;
    let answer = answer.map_err(|error| Failure::from(error).of(&format!("the secret {id}")).advised())?;
    match answer.secret_string {
        Some(text) if !text.trim().is_empty() => Ok(text.into()),
        _ => Err(format!("the secret {id} holds no text: put one in, as it would stand in the setting's file")),
    }
}
