//! Where settings come from: a TOML table under an overlay of environment variables. Collects mistakes.
//!
//! A secret that Secrets Manager keeps can't be read here, where nothing waits: a first reading finds which are named
//! ([`Config::named_secrets`](super::Config::named_secrets)), the caller fetches them, and [`Source::tell`] passes them to
//! the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt::{self, Debug},
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::aliases::{ALIASES, old_key};
use crate::aws::region;

/// Variables with the prefix that aren't settings: of the client, of `dev`'s database server and of the tests.
const NOT_SETTINGS: [&str; 6] = ["CONFIG", "URL", "TOKEN", "MYSQLD", "MARIADBD", "TEST_DB"];
const PREFIX: &str = "DARKROOM_";
/// Where systemd puts a service's credentials, see systemd.exec(5).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// What systemd puts before the name of each file of the folder in `LoadCredential=darkroom:FOLDER`.
const CREDENTIAL_PREFIX: &str = "darkroom_";
/// What AWS Lambda sets for the programs of its functions, and what says which function it is.
const LAMBDA: &str = "AWS_LAMBDA_RUNTIME_API";
const HANDLER: &str = "_HANDLER";
/// The handler of the function that answers clients.
pub const API: &str = "api";
/// Where every AWS SDK finds the region, in the order in which it looks.
const REGIONS: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];

/// All that is wrong with a configuration, a line each.
#[derive(Debug, Default, thiserror::Error)]
pub struct Mistakes {
    made: Vec<String>,
    /// Secrets that could not be read, possibly because of an outage.
    unread: Vec<String>,
    /// Old keys that the configuration uses: mistakes name the new ones.
    deprecations: Vec<String>,
}

impl Mistakes {
    /// A single one, found by a command that needs what is not set.
    #[must_use]
    pub fn one(mistake: &str) -> Self {
        Self { made: vec![mistake.to_owned()], ..Self::default() }
    }

    /// Whether another attempt would fail too: the configuration is wrong, not just a secret unavailable that it names.
    #[must_use]
    pub fn will_stay(&self) -> bool {
        !self.made.is_empty()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = [&self.made[..], &self.unread].concat();
        match (lines.len(), self.will_stay()) {
            (1, true) => f.write_str("the configuration has a mistake:")?,
            (count, true) => write!(f, "the configuration has {count} mistakes:")?,
            (_, false) => f.write_str("the configuration names what can't be read:")?,
        }
        lines.iter().chain(&self.deprecations).try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// A secret that a setting names instead of holding it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The setting that it is for.
    pub key: String,
    /// Its name or ARN in Secrets Manager.
    pub id: String,
    /// The AWS region.
    pub region: String,
}

/// Such a secret with its text.
pub type Told = (Named, SecretString);

/// A configuration being read: ask it for each setting by its dotted key, then [`Source::finish`].
#[derive(Clone)]
pub struct Source {
    table: Table,
    env: BTreeMap<String, String>,
    credentials: Option<PathBuf>,
    regions: BTreeMap<String, String>,
    in_lambda: bool,
    handler: Option<OsString>,
    told: Vec<(Named, Result<SecretString, String>)>,
    named: Vec<Named>,
    secrets: BTreeSet<String>,
    known: BTreeSet<String>,
    effective: BTreeMap<String, String>,
    mistakes: Vec<String>,
    unread: BTreeMap<String, String>,
    deprecations: Vec<String>,
}

impl Source {
    /// Opens a file, if one is named, and an environment.
    ///
    /// # Errors
    /// The file can't be read or isn't TOML, or a variable isn't UTF-8.
    pub fn load(file: Option<&Path>, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, Mistakes> {
        let text = match file {
            Some(path) => {
                std::fs::read_to_string(path).map_err(|error| Mistakes::one(&format!("{}: {error}", path.display())))?
            }
            None => String::new(),
        };
        Self::parse(&text, env).map_err(|mut mistakes| {
            if let Some(path) = file {
                mistakes.made.iter_mut().for_each(|mistake| *mistake = format!("{}: {mistake}", path.display()));
            }
            mistakes
        })
    }

    /// The same from a text.
    ///
    /// # Errors
    /// The text isn't TOML, or a variable isn't UTF-8.
    pub fn parse(text: &str, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, Mistakes> {
        let mut table: Table = text.parse().map_err(|error: toml::de::Error| {
            // Its Display shows the line, which may hold a secret.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            Mistakes::one(&format!("line {line}: {}", error.message()))
        })?;
        let (mut settings, mut credentials, mut regions) = (BTreeMap::new(), None, BTreeMap::new());
        let (mut in_lambda, mut handler) = (false, None);
        for (name, value) in env {
            if name == LAMBDA {
                in_lambda = true;
                continue;
            }
            if name == HANDLER {
                handler = Some(value);
                continue;
            }
            if name == CREDENTIALS {
                credentials = Some(PathBuf::from(value));
                continue;
            }
            if let (Some(name), Some(value)) = (name.to_str(), value.to_str())
                && REGIONS.contains(&name)
                && !value.is_empty()
            {
                regions.insert(name.to_owned(), value.to_owned());
                continue;
            }
            let Some(name) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
            if NOT_SETTINGS.contains(&name) {
                continue;
            }
            let value = value.into_string().map_err(|_| Mistakes::one(&format!("{PREFIX}{name} is not UTF-8")))?;
            settings.insert(name.to_owned(), value);
        }
        let (mut mistakes, mut deprecations) = (Vec::new(), Vec::new());
        for (old, new) in ALIASES {
            let (old_variable, new_variable) = (variable(old), variable(new));
            let in_file = take_value(&mut table, old).map(|value| (old, new, put_value(&mut table, new, value)));
            let in_env = settings.remove(&old_variable[PREFIX.len()..]).map(|text| {
                let replaced = settings.insert(new_variable[PREFIX.len()..].to_owned(), text).is_some();
                (&*old_variable, &*new_variable, replaced)
            });
            for (old, new, replaced) in in_file.into_iter().chain(in_env) {
                deprecations.push(deprecation(old, new));
                if replaced {
                    mistakes.push(format!("{old} and {new} are both given: the first is the old name of the second"));
                }
            }
        }
        Ok(Self {
            table,
            env: settings,
            credentials,
            regions,
            in_lambda,
            handler,
            told: Vec::new(),
            named: Vec::new(),
            secrets: BTreeSet::new(),
            known: BTreeSet::new(),
            effective: BTreeMap::new(),
            mistakes,
            unread: BTreeMap::new(),
            deprecations,
        })
    }

    /// Puts in what Secrets Manager keeps for a setting, or why that can't be read.
    pub fn tell(&mut self, named: Named, secret: Result<SecretString, String>) {
        self.told.push((named, secret));
    }

    /// A warning for each old key in use.
    pub(crate) fn deprecations(&self) -> Vec<String> {
        self.deprecations.clone()
    }

    /// The secrets that were told.
    pub(crate) fn told(&self) -> Vec<Told> {
        let text = |(named, text): &(Named, Result<SecretString, String>)| Some((named.clone(), text.clone().ok()?));
        self.told.iter().filter_map(text).collect()
    }

    /// The secrets that were asked for, are named, and were not told.
    pub(crate) fn into_named(self) -> Vec<Named> {
        self.named
    }

    /// A setting with a default.
    pub fn get<T: DeserializeOwned + Clone + Debug>(&mut self, key: &str, default: T) -> T {
        let value = self.optional(key).unwrap_or(default);
        self.effective.insert(key.to_owned(), format!("{value:?}"));
        value
    }

    /// A setting that has to be given. `stand_in` goes on for the sake of the mistakes that follow.
    pub fn require<T: DeserializeOwned + Clone + Debug>(&mut self, key: &str, stand_in: T) -> T {
        let before = self.mistakes.len();
        let value = self.optional(key);
        if value.is_none() && self.mistakes.len() == before {
            self.mistakes.push(format!("{key} is missing (in the file, or as {})", variable(key)));
        }
        let value = value.unwrap_or(stand_in);
        self.effective.insert(key.to_owned(), format!("{value:?}"));
        value
    }

    /// A setting without a default.
    pub fn optional<T: DeserializeOwned + Debug>(&mut self, key: &str) -> Option<T> {
        let (name, value) = self.raw(key)?;
        match parse_value::<T>(value) {
            Ok(value) => {
                self.effective.insert(key.to_owned(), format!("{value:?}"));
                Some(value)
            }
            Err(why) => {
                self.mistakes.push(format!("{name}: {why}"));
                None
            }
        }
    }

    /// Whether a setting is given at all.
    pub fn is_given(&mut self, key: &str) -> bool {
        self.raw(key).is_some()
    }

    /// A length of time such as `400ms`, `30s` or `15m`.
    pub fn duration(&mut self, key: &str, default: &str) -> Duration {
        let text = self.get(key, default.to_owned());
        humantime::parse_duration(&text).unwrap_or_else(|error| {
            self.mistakes.push(format!("{key}: {error}; write for example \"{default}\""));
            Duration::from_secs(1)
        })
    }

    /// Secrets: `key` is a text or a list of texts, `key_file` a file with one a line, `key_secret_id` the name or ARN of a
    /// secret of Secrets Manager with the same text as such a file. With none of them, a credential of systemd with the key as
    /// its name is such a file.
    pub fn secrets(&mut self, key: &str) -> Vec<SecretString> {
        match self.secret_texts(key) {
            Ok(texts) if texts.is_empty() => Vec::new(),
            Ok(texts) => {
                self.effective.insert(key.to_owned(), "***".to_owned());
                texts.into_iter().map(SecretString::from).collect()
            }
            Err(mistake) => {
                self.mistakes.push(mistake);
                Vec::new()
            }
        }
    }

    fn secret_texts(&mut self, key: &str) -> Result<Vec<String>, String> {
        self.secrets.insert(key.to_owned());
        self.secrets.extend(old_key(key).map(str::to_owned));
        let credential = self.credential(key);
        let forms = [("", Form::Text), ("_file", Form::File), ("_secret_id", Form::Id)];
        let given = forms.map(|(suffix, form)| Some((form, self.raw(&format!("{key}{suffix}"))?)));
        let given: Vec<(Form, (String, Raw))> = given.into_iter().flatten().collect();
        if let ([(_, (name, _)), ..], Some(path)) = (&given[..], &credential) {
            return Err(format!("{name} and the credential {} are both given", path.display()));
        }
        if let [(_, (one, _)), (_, (other, _)), ..] = &given[..] {
            return Err(format!("{one} and {other} are both given"));
        }
        match given.into_iter().next() {
            None => credential.map_or(Ok(Vec::new()), |path| read_secrets(&path)),
            Some((Form::Text, (_, Raw::Text(text) | Raw::Toml(Value::String(text))))) => Ok(vec![text]),
            Some((Form::Text, (name, Raw::Toml(value)))) => {
                value.try_into().map_err(|_| format!("{name}: must be a text or a list of texts"))
            }
            Some((Form::File, (name, raw))) => {
                let path: PathBuf = parse_value(raw).map_err(|why| format!("{name}: {why}"))?;
                read_secrets(&path).map_err(|why| format!("{name}: {why}"))
            }
            Some((Form::Id, (name, raw))) => {
                let id = parse_value(raw).map_err(|why| format!("{name}: {why}"))?;
                self.by_id(key, &name, id)
            }
        }
    }

    /// The secret that `name` names: its fetched value, or a record that it must be fetched.
    fn by_id(&mut self, key: &str, name: &str, id: String) -> Result<Vec<String>, String> {
        match self.told.iter().find(|(named, _)| named.key == key) {
            Some((_, Ok(text))) => return Ok(lines(text.expose_secret())),
            Some((_, Err(why))) => {
                self.unread.insert(key.to_owned(), format!("{name}: {why}"));
                return Ok(Vec::new());
            }
            None => {}
        }
        let set = self.raw("aws.region").and_then(|(_, raw)| parse_value(raw).ok());
        let region = region::from_arn(&id).or(set).or_else(|| self.region());
        let region =
            region.ok_or_else(|| format!("{name}: must be an ARN where aws.region (or AWS_REGION) is not given"))?;
        self.named.push(Named { key: key.to_owned(), id, region });
        Err(format!("{name}: the secret was not read"))
    }

    /// Whether this is a function of AWS Lambda, for which some defaults are others.
    pub fn in_lambda(&self) -> bool {
        self.in_lambda
    }

    /// Whether clients are answered, as by all that serves; of the functions of AWS Lambda by one alone.
    pub fn answers_clients(&self) -> bool {
        !self.in_lambda || self.handler.as_ref().is_none_or(|handler| handler == API)
    }

    /// The region that the environment names as AWS's own libraries want it.
    pub fn region(&self) -> Option<String> {
        REGIONS.iter().find_map(|name| self.regions.get(*name)).cloned()
    }

    /// One secret of several lines, such as a key in PEM.
    pub fn text(&mut self, key: &str) -> Option<SecretString> {
        let lines = self.secrets(key);
        let lines: Vec<&str> = lines.iter().map(ExposeSecret::expose_secret).collect();
        (!lines.is_empty()).then(|| lines.join("\n").into())
    }

    /// One secret.
    pub fn secret(&mut self, key: &str) -> Option<SecretString> {
        let mut all = self.secrets(key);
        self.check(all.len() <= 1, key, "must be one secret");
        all.pop()
    }

    /// The credential with the key, or its old key, as its name.
    fn credential(&mut self, key: &str) -> Option<PathBuf> {
        let folder = self.credentials.clone()?;
        let find = |key: &str| {
            let names = [format!("{CREDENTIAL_PREFIX}{key}"), key.to_owned()];
            names.iter().map(|name| folder.join(name)).find(|path| path.try_exists().unwrap_or(true))
        };
        find(key).or_else(|| {
            let old = old_key(key)?;
            let path = find(old)?;
            self.deprecations.push(deprecation(&format!("{old} (a credential)"), key));
            Some(path)
        })
    }

    /// Credentials that are named like our settings but match none. Other files in the folder may belong to other
    /// programs.
    fn unknown_credentials(&self) -> Vec<String> {
        let names = self.credentials.iter().filter_map(|folder| folder.read_dir().ok()).flatten();
        let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names
            .filter(|name| name.strip_prefix(CREDENTIAL_PREFIX).is_some_and(|key| !self.secrets.contains(key)))
            .collect()
    }

    /// Notes a mistake unless the condition holds. Of a secret that could not be read nothing is known.
    pub fn check(&mut self, holds: bool, key: &str, rule: impl fmt::Display) {
        if !holds && !self.unread.contains_key(key) {
            self.mistakes.push(format!("{key}: {rule}"));
        }
    }

    /// Ends the reading: what was never asked for is a mistake.
    ///
    /// # Errors
    /// Every mistake met on the way.
    pub fn finish(mut self) -> Result<BTreeMap<String, String>, Mistakes> {
        let mut unknown = Vec::new();
        for (section, value) in &self.table {
            match value {
                Value::Table(keys) => unknown.extend(keys.keys().map(|key| format!("{section}.{key}"))),
                _ => unknown.push(section.clone()),
            }
        }
        unknown.retain(|key| !self.known.contains(key));
        self.mistakes.extend(unknown.into_iter().map(|key| format!("{key} is not a setting")));
        let credentials = self.unknown_credentials();
        self.mistakes.extend(credentials.into_iter().map(|name| format!("the credential {name} is no secret setting")));
        let variables: BTreeSet<String> = self.known.iter().map(|key| variable(key)).collect();
        for name in self.env.keys().map(|name| format!("{PREFIX}{name}")) {
            if !variables.contains(&name) {
                self.mistakes.push(format!("{name} is not a setting"));
            }
        }
        if self.mistakes.is_empty() && self.unread.is_empty() {
            return Ok(self.effective);
        }
        Err(Mistakes {
            made: self.mistakes,
            unread: self.unread.into_values().collect(),
            deprecations: self.deprecations,
        })
    }

    /// Where the key is set and to what; the environment goes before the file.
    fn raw(&mut self, key: &str) -> Option<(String, Raw)> {
        self.known.insert(key.to_owned());
        let name = variable(key);
        if let Some(text) = self.env.get(&name[PREFIX.len()..]) {
            return Some((name, Raw::Text(text.clone())));
        }
        let (section, field) = key.split_once('.')?;
        let value = self.table.get(section)?.get(field)?.clone();
        Some((key.to_owned(), Raw::Toml(value)))
    }
}

enum Raw {
    Toml(Value),
    Text(String),
}

/// How a secret is given.
enum Form {
    Text,
    File,
    Id,
}

/// A variable's text is tried as TOML (`7`, `true`, `["a"]`), then as a plain text, then as a list with commas.
fn parse_value<T: DeserializeOwned>(raw: Raw) -> Result<T, String> {
    let explain = |error: toml::de::Error| error.message().to_owned();
    match raw {
        Raw::Toml(value) => value.try_into().map_err(explain),
        Raw::Text(text) => {
            let literal = format!("v = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("v"));
            if let Some(value) = literal.and_then(|value| value.try_into().ok()) {
                return Ok(value);
            }
            let list = text.split(',').map(|part| Value::String(part.trim().to_owned())).collect();
            Value::String(text).try_into().or_else(|error| Value::Array(list).try_into().map_err(|_| explain(error)))
        }
    }
}

/// One secret a line.
fn read_secrets(path: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(path).map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(lines(&text))
}

fn lines(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

fn deprecation(old: &str, new: &str) -> String {
    format!("setting {old} is deprecated: use {new}")
}

fn take_value(table: &mut Table, key: &str) -> Option<Value> {
    let (section, field) = key.split_once('.')?;
    table.get_mut(section)?.as_table_mut()?.remove(field)
}

/// Whether the key was there already.
fn put_value(table: &mut Table, key: &str, value: Value) -> bool {
    let Some((section, field)) = key.split_once('.') else { return false };
    let keys = table.entry(section).or_insert_with(|| Value::Table(Table::new())).as_table_mut();
    keys.is_some_and(|keys| keys.insert(field.to_owned(), value).is_some())
}
