//! What AWS does around a sign-in to RDS: keys that sign tokens, and the rules by which tokens are judged.
//!
//! The tokens are made here after the text of Signature Version 4, not with the service's own code, which they are to
//! be compared with.

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

/// The region of everything here.
pub const REGION: &str = "eu-west-1";

/// An access key of AWS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// The key's public name.
    #[serde(skip)]
    pub id: String,
    /// The secret that signs.
    pub secret: String,
    /// What temporary keys have beside it.
    pub session_token: Option<String>,
}

impl Key {
    /// A key of a person or machine, which nobody else has.
    pub fn long_lived() -> Self {
        Self { id: format!("AKIA{}", unique(16)), secret: unique(40), session_token: None }
    }

    /// A temporary key, as roles have them, with a session token of so many characters.
    pub fn temporary(length: usize) -> Self {
        // Characters that have to be encoded, as real ones have.
        let session_token = format!("IQoJ{}/+=", unique(length - 7));
        Self { id: format!("ASIA{}", unique(16)), secret: unique(40), session_token: Some(session_token) }
    }

    /// The key as variables that AWS's own libraries know.
    pub fn environment(&self) -> Vec<(String, String)> {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut all = vec![pair("AWS_ACCESS_KEY_ID", &self.id), pair("AWS_SECRET_ACCESS_KEY", &self.secret)];
        all.extend(self.session_token.as_deref().map(|token| pair("AWS_SESSION_TOKEN", token)));
        all
    }

    /// A token that lets a user in at an endpoint, `HOST:PORT`, for the next 15 minutes.
    pub fn token(&self, endpoint: &str, region: &str, user: &str) -> String {
        self.token_of(Utc::now(), endpoint, region, user)
    }

    /// The same, made at another time: a presigned `GET https://ENDPOINT/?Action=connect&DBUser=USER`.
    pub fn token_of(&self, at: DateTime<Utc>, endpoint: &str, region: &str, user: &str) -> String {
        let (day, date) = (at.format("%Y%m%d").to_string(), at.format("%Y%m%dT%H%M%SZ").to_string());
        let scope = format!("{day}/{region}/rds-db/aws4_request");
        let credential = format!("{}/{scope}", self.id);
        // In the order of their names, as they are signed.
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

/// Text of capital letters and digits that never comes twice.
fn unique(length: usize) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut bytes = vec![0; length];
    aws_lc_rs::rand::fill(&mut bytes).expect("random bytes");
    bytes.into_iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}

/// A login that was judged.
#[derive(Debug, Clone, Deserialize)]
pub struct Login {
    /// When, in seconds since 1970.
    pub time: f64,
    /// As whom.
    pub user: String,
    /// How long the token was.
    pub bytes: usize,
    /// `ok`, or why not.
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

/// IAM as far as RDS asks it: who may sign in where, and who did. Changes count from the next login.
pub struct Iam {
    config: PathBuf,
    log: PathBuf,
    rules: Mutex<Rules>,
}

impl Iam {
    /// One that lets nobody in yet, with its files in a folder of the caller's.
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

    /// Where the rules are.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// From now on this key may sign tokens for these users, and for no others.
    pub fn allow(&self, key: &Key, users: &[&str]) {
        let users = users.iter().map(|user| (*user).to_owned()).collect();
        self.change(|rules| drop(rules.keys.insert(key.id.clone(), Allowed { key: key.clone(), users })));
    }

    /// From now on this key is unknown.
    pub fn forget(&self, key: &Key) {
        self.change(|rules| drop(rules.keys.remove(&key.id)));
    }

    /// From now on a token is expired after so many seconds; 900 at first, as at AWS.
    pub fn max_age(&self, seconds: u64) {
        self.change(|rules| rules.max_age = seconds);
    }

    /// From now on only tokens for these regions count; [`REGION`] at first.
    pub fn regions(&self, regions: &[&str]) {
        self.change(|rules| rules.regions = regions.iter().map(|region| (*region).to_owned()).collect());
    }

    /// From now on tokens for these endpoints, `HOST:PORT`, count too.
    pub fn add_hosts(&self, hosts: &[String]) {
        self.change(|rules| rules.hosts.extend_from_slice(hosts));
    }

    /// All logins that were judged, in order.
    pub fn logins(&self) -> Vec<Login> {
        let text = fs::read_to_string(&self.log).expect("the log");
        text.lines().map(|line| serde_json::from_str(line).expect("a login")).collect()
    }

    /// The verdicts on the logins of a user, in order.
    pub fn verdicts(&self, user: &str) -> Vec<String> {
        self.logins().into_iter().filter(|login| login.user == user).map(|login| login.verdict).collect()
    }

    /// A login reads either the old rules or the new ones, never half a file.
    fn change(&self, change: impl FnOnce(&mut Rules)) {
        let mut rules = self.rules.lock().expect("no panic while it was held");
        change(&mut rules);
        let new = self.config.with_extension("new");
        fs::write(&new, serde_json::to_vec_pretty(&*rules).expect("JSON")).expect("a file");
        fs::rename(&new, &self.config).expect("the file takes its place");
    }
}
