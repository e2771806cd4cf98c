//! IAM authentication of RDS: access keys that sign tokens, and the rules for accepting tokens.
//!
//! Tokens are built here from the specification of Signature Version 4, not with the service's own code, to test that
//! code.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use aws_lc_rs::hmac;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::sha256_hex;

pub const REGION: &str = "eu-west-1";

/// An access key of AWS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// The access key id.
    #[serde(skip)]
    pub id: String,
    pub secret: String,
    /// Of temporary keys.
    pub session_token: Option<String>,
}

impl Key {
    /// A new long-term access key.
    pub fn long_lived() -> Self {
        Self { id: format!("AKIA{}", unique(16)), secret: unique(40), session_token: None }
    }

    /// A new temporary key with a session token of `length` characters.
    pub fn temporary(length: usize) -> Self {
        // With characters that must be encoded, as in real tokens.
        let session_token = format!("IQoJ{}/+=", unique(length - 7));
        Self { id: format!("ASIA{}", unique(16)), secret: unique(40), session_token: Some(session_token) }
    }

    /// The key as environment variables of the AWS SDKs.
    pub fn environment(&self) -> Vec<(String, String)> {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut all = vec![pair("AWS_ACCESS_KEY_ID", &self.id), pair("AWS_SECRET_ACCESS_KEY", &self.secret)];
        all.extend(self.session_token.as_deref().map(|token| pair("AWS_SESSION_TOKEN", token)));
        all
    }

    /// An authentication token for a user at an endpoint, `HOST:PORT`, valid for 15 minutes.
    pub fn token(&self, endpoint: &str, region: &str, user: &str) -> String {
        self.token_of(Utc::now(), endpoint, region, user)
    }

    /// A token of another time: a presigned `GET https://ENDPOINT/?Action=connect&DBUser=USER`.
    pub fn token_of(&self, at: DateTime<Utc>, endpoint: &str, region: &str, user: &str) -> String {
        let (day, date) = (at.format("%Y%m%d").to_string(), at.format("%Y%m%dT%H%M%SZ").to_string());
        let scope = format!("{day}/{region}/rds-db/aws4_request");
        let credential = format!("{}/{scope}", self.id);
        // Sorted by name, as the signature requires.
        let mut parameters = vec![
            ("Action", "connect"),
            ("DBUser", user),
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", &credential),
            ("X-Amz-Date", &date),
            ("X-Amz-Expires", "900"),
        ];
        parameters.extend(self.session_token.as_deref().map(|token| ("X-Amz-Security-Token", token)));
        parameters.push(("X-Amz-SignedHeaders", "host"));
        let encoded: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{name}={}", percent_encoded(value))).collect();
        let query = encoded.join("&");

        let request = format!("GET\n/\n{query}\nhost:{endpoint}\n\nhost\n{}", sha256_hex(b""));
        let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256_hex(request.as_bytes()));
        let key = scope.split('/').fold(format!("AWS4{}", self.secret).into_bytes(), |key, part| sign(&key, part));
        format!("{endpoint}/?{query}&X-Amz-Signature={}", hex(&sign(&key, &to_sign)))
    }
}

fn sign(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => write!(encoded, "%{byte:02X}").expect("a String takes everything"),
        }
        encoded
    })
}

/// A unique text of capital letters and digits.
fn unique(length: usize) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut bytes = vec![0; length];
    aws_lc_rs::rand::fill(&mut bytes).expect("random bytes");
    bytes.into_iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}

/// A login and its result.
#[derive(Debug, Clone, Deserialize)]
pub struct Login {
    /// In seconds since the epoch.
    pub time: f64,
    pub user: String,
    /// The length of the token.
    pub bytes: usize,
    /// `ok` or the reason of the refusal.
    pub verdict: String,
}

/// The configuration of `tests/scripts/rds-iam/verify.py`, which describes its fields.
#[derive(Debug, Serialize)]
struct Rules {
    hosts: Vec<String>,
    regions: Vec<String>,
    keys: BTreeMap<String, Allowed>,
    max_age: u64,
    log: PathBuf,
}

#[derive(Debug, Serialize)]
struct Allowed {
    #[serde(flatten)]
    key: Key,
    users: Vec<String>,
}

/// The IAM rules of RDS logins, and a log of logins. Changes apply from the next login.
pub struct Iam {
    config: PathBuf,
    log: PathBuf,
    rules: Mutex<Rules>,
}

impl Iam {
    /// Without any allowed key; the files are in `folder`.
    pub fn new(folder: &Path) -> Self {
        let (config, log) = (folder.join("iam.json"), folder.join("iam.log"));
        fs::write(&log, "").expect("a log");
        let rules = Rules {
            hosts: Vec::new(),
            regions: vec![REGION.to_owned()],
            keys: BTreeMap::new(),
            max_age: 900,
            log: log.clone(),
        };
        let iam = Self { config, log, rules: Mutex::new(rules) };
        iam.change(|_| {});
        iam
    }

    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Allows this key to sign tokens for exactly these users.
    pub fn allow(&self, key: &Key, users: &[&str]) {
        let users = users.iter().map(|user| (*user).to_owned()).collect();
        self.change(|rules| drop(rules.keys.insert(key.id.clone(), Allowed { key: key.clone(), users })));
    }

    /// Removes this key.
    pub fn forget(&self, key: &Key) {
        self.change(|rules| drop(rules.keys.remove(&key.id)));
    }

    /// Sets the lifetime of tokens in seconds; the default is 900, as at AWS.
    pub fn max_age(&self, seconds: u64) {
        self.change(|rules| rules.max_age = seconds);
    }

    /// Accepts tokens for these regions only; the default is [`REGION`].
    pub fn regions(&self, regions: &[&str]) {
        self.change(|rules| rules.regions = regions.iter().map(|region| (*region).to_owned()).collect());
    }

    /// Also accepts tokens for these endpoints, `HOST:PORT`.
    pub fn add_hosts(&self, hosts: &[String]) {
        self.change(|rules| rules.hosts.extend_from_slice(hosts));
    }

    /// All logins in order.
    pub fn logins(&self) -> Vec<Login> {
        let text = fs::read_to_string(&self.log).expect("the log");
        text.lines().map(|line| serde_json::from_str(line).expect("a login")).collect()
    }

    /// The results of a user's logins in order.
    pub fn login_results(&self, user: &str) -> Vec<String> {
        self.logins().into_iter().filter(|login| login.user == user).map(|login| login.verdict).collect()
    }

    /// Replaces the file atomically, because a login may be reading it.
    fn change(&self, change: impl FnOnce(&mut Rules)) {
        let mut rules = self.rules.lock().expect("not poisoned");
        change(&mut rules);
        let new = self.config.with_extension("new");
        fs::write(&new, serde_json::to_vec_pretty(&*rules).expect("JSON")).expect("a file");
        fs::rename(&new, &self.config).expect("the file takes its place");
    }
}
