//! Configuration: one small struct per concern, read from a TOML file and from `DARKROOM_*` variables.
//!
//! A variable overrides the file: `http.listen` is `DARKROOM_HTTP_LISTEN`. Every key, its default and its
//! meaning stand in `deploy/darkroom.toml`, which a test holds against this code. Reading reports ALL mistakes
//! at once, by name, before anything is bound or connected; unknown keys and variables are mistakes too.
//! A secret `x` may be given as `x_file`, the path of a file that holds it, as `x_secret_id`, the name or ARN of a secret of
//! AWS Secrets Manager that does, or as a credential of systemd with the key as its name.

mod aliases;
mod announce;
mod aws;
pub mod database;
mod front;
mod http;
mod limits;
mod log;
mod sections;
mod source;
mod storage;
mod telemetry;

use std::collections::BTreeMap;

pub use announce::{Notifications, Topic, Webhook};
pub use aws::{Aws, Queue, ReadModel, Sqs, Workflow};
pub use database::Database;
pub use front::{Forwarded, Front, Proxy};
pub use http::{Http, Tls};
pub use limits::{Limits, Rate};
pub use log::{Log, LogFormat};
pub use sections::{Compat, Identity, Imaging, Jwks, Operations, Reconciler, Uploads, Worker};
pub use source::{API, Mistakes, Named, Source, Told};
pub use storage::{CloudFront, Place, S3, Storage};
pub use telemetry::{Emf, Otlp, Telemetry};

/// Everything that an operator can set.
#[derive(Debug, Clone)]
pub struct Config {
    /// The main listener.
    pub http: Http,
    /// What one process takes on.
    pub limits: Limits,
    /// The operations listener.
    pub operations: Operations,
    /// Who may sign in.
    pub identity: Identity,
    /// The MySQL or MariaDB server.
    pub database: Database,
    /// What all services of AWS share.
    pub aws: Aws,
    /// Where photos are kept.
    pub storage: Storage,
    /// What may be uploaded.
    pub uploads: Uploads,
    /// What is made of a photo, and within which limits.
    pub imaging: Imaging,
    /// The worker's loop.
    pub worker: Worker,
    /// How workers come to their jobs.
    pub queue: Queue,
    /// The sweep.
    pub reconciler: Reconciler,
    /// Where events are announced.
    pub notifications: Notifications,
    /// What album pages are read from.
    pub read_model: ReadModel,
    /// Who leads edits through their steps.
    pub workflow: Workflow,
    /// What those knew who come from the Java service.
    pub compat: Compat,
    /// What is logged, and how.
    pub log: Log,
    /// Exports of metrics and spans.
    pub telemetry: Telemetry,
    /// Each key with its value, secrets masked, for `/info`.
    pub effective: BTreeMap<String, String>,
    /// What Secrets Manager told, for a reading again.
    pub told: Vec<Told>,
    /// A warning for each old key in use.
    pub deprecations: Vec<String>,
}

impl Config {
    /// Reads a source that has been told of its [`Config::named_secrets`].
    ///
    /// # Errors
    /// Every mistake, by name.
    pub fn read(mut source: Source) -> Result<Self, Mistakes> {
        let this = Self::sections(&mut source);
        Ok(Self { told: source.told(), deprecations: source.deprecations(), effective: source.finish()?, ..this })
    }

    /// The secrets that a source leaves to Secrets Manager. Mistakes are for [`Config::read`] to tell.
    #[must_use]
    pub fn named_secrets(source: &Source) -> Vec<Named> {
        let mut trial = source.clone();
        Self::sections(&mut trial);
        trial.into_named()
    }

    /// Logs a warning for each old key in use.
    pub(crate) fn log_deprecations(&self) {
        for deprecation in &self.deprecations {
            tracing::warn!("{deprecation}");
        }
    }

    fn sections(s: &mut Source) -> Self {
        let (http, limits) = (Http::read(s), Limits::read(s));
        let (operations, identity) = (Operations::read(s), Identity::read(s));
        let (database, aws) = (Database::read(s), Aws::read(s));
        let (storage, uploads, imaging) = (Storage::read(s, &aws), Uploads::read(s), Imaging::read(s));
        let (worker, queue, reconciler) = (Worker::read(s), Queue::read(s, &aws), Reconciler::read(s, &storage.place));
        let (notifications, read_model) = (Notifications::read(s, &aws), ReadModel::read(s, &aws));
        let (workflow, compat) = (Workflow::read(s, &aws), Compat::read(s));
        let (log, telemetry) = (Log::read(s), Telemetry::read(s));
        let heard = queue.sqs.is_some() || matches!(storage.place, Place::Files(_));
        s.check(heard, "queue.kind", "must be \"sqs\" with storage.kind = \"s3\": S3 tells of uploads by messages");
        Self {
            http,
            limits,
            operations,
            identity,
            database,
            aws,
            storage,
            uploads,
            imaging,
            worker,
            queue,
            reconciler,
            notifications,
            read_model,
            workflow,
            compat,
            log,
            telemetry,
            effective: BTreeMap::new(),
            told: Vec::new(),
            deprecations: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, env: &[(&str, &str)]) -> Result<Config, Mistakes> {
        let env = env.iter().map(|(k, v)| (k.into(), v.into()));
        Config::read(Source::parse(text, env).unwrap())
    }

    const LEAST: &str = r#"
        http.public_url = "https://photos.example"
        identity = { issuer = "https://id.example", audience = "darkroom", jwks = "/etc/darkroom/jwks.json" }
        database = { user = "darkroom" }
        storage = { directory = "/var/lib/darkroom", signing_keys = ["00112233445566778899aabbccddeeff"] }
    "#;

    #[test]
    fn each_part_of_aws_says_what_it_needs() {
        let aws = r#"
            storage.kind = "s3"
            storage.signing_keys = ["00112233445566778899aabbccddeeff"]
            queue.kind = "sqs"
            notifications = { kind = "sns", topic = "photos" }
            read_model.kind = "dynamodb"
            workflow = { kind = "step-functions", state_machine = "edits" }
        "#;
        let least = LEAST.lines().filter(|line| !line.contains("storage")).collect::<Vec<_>>().join(
            "
",
        );
        let mistakes = read(&format!("{least}{aws}"), &[]).unwrap_err().to_string();
        for part in [
            "aws.region: must be given (or AWS_REGION) for storage.kind",
            "storage.bucket is missing",
            "queue.url is missing",
            "queue.dead_letter_url is missing",
            "notifications.topic: must be the ARN",
            "read_model.table is missing",
            "workflow.state_machine: must be the ARN",
        ] {
            assert!(mistakes.contains(part), "{part} is missing from:\n{mistakes}");
        }
        let deaf = read(&aws.replace("queue.kind", "# queue.kind"), &[]).unwrap_err().to_string();
        assert!(deaf.contains("queue.kind: must be \"sqs\" with storage.kind"), "{deaf}");
        let wrong = read(&format!("{LEAST}\nqueue.kind = 'kafka'"), &[]).unwrap_err().to_string();
        assert!(wrong.contains("queue.kind") && wrong.contains("sqs"), "{wrong}");
        let region = |env: &[(&str, &str)]| read(LEAST, env).unwrap().aws.region;
        assert_eq!(region(&[]), None);
        assert_eq!(region(&[("AWS_DEFAULT_REGION", "eu-west-1")]).unwrap(), "eu-west-1");
        assert_eq!(region(&[("AWS_DEFAULT_REGION", "eu-west-1"), ("AWS_REGION", "eu-west-3")]).unwrap(), "eu-west-3");
        assert_eq!(region(&[("AWS_REGION", "eu-west-3"), ("DARKROOM_AWS_REGION", "eu-west-2")]).unwrap(), "eu-west-2");
    }

    #[test]
    fn lambda_has_own_defaults_and_no_folder() {
        let s3 = LEAST.replace("directory = \"/var/lib/darkroom\"", "kind = \"s3\", bucket = \"photos\"");
        let queue =
            r#"queue = { kind = "sqs", url = "https://sqs.example/q", dead_letter_url = "https://sqs.example/d" }"#;
        let s3 = format!("{s3}\n{queue}");
        let region = ("AWS_REGION", "eu-west-1");
        let lambda = ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001");
        let (server, function) = (read(&s3, &[region]).unwrap(), read(&s3, &[region, lambda]).unwrap());
        assert_eq!((server.database.pool.max_connections, server.telemetry.emf), (16, Emf::Off));
        assert_eq!((function.database.pool.max_connections, function.telemetry.emf), (2, Emf::Stdout));
        let more = [region, lambda, ("DARKROOM_DATABASE_MAX_CONNECTIONS", "4")];
        assert_eq!(read(&s3, &more).unwrap().database.pool.max_connections, 4);
        let files = read(LEAST, &[lambda]).unwrap_err().to_string();
        assert!(files.contains("storage.kind") && files.contains("Lambda"), "{files}");
    }

    #[test]
    fn key_set_is_url_file_or_inline() {
        let read = |place: &str| read(LEAST, &[("DARKROOM_IDENTITY_JWKS", place)]).map(|config| config.identity.jwks);
        assert!(matches!(read("https://id.example/keys"), Ok(Jwks::Url(_))));
        assert!(matches!(read("keys.json"), Ok(Jwks::File(_))));
        assert!(matches!(read(r#" {"keys": []}"#), Ok(Jwks::Document(_))));
        for wrong in ["{}", "{", "http://id.example/keys"] {
            assert!(read(wrong).unwrap_err().to_string().contains("identity.jwks"), "{wrong}");
        }
    }

    #[test]
    fn every_mistake_is_reported_in_one_run() {
        let text = "http.listen = \"nowhere\"\nworker.concurrency = 0\nhttp.pubic_url = \"x\"";
        let mistakes = read(text, &[("DARKROOM_LOG_FORMAT", "xml"), ("DARKROOM_NOPE", "1")]).unwrap_err().to_string();
        for part in [
            "http.listen",
            "worker.concurrency",
            "http.pubic_url",
            "DARKROOM_LOG_FORMAT",
            "DARKROOM_NOPE",
            "identity.issuer",
            "storage.directory",
        ] {
            assert!(mistakes.contains(part), "{part} is missing from:\n{mistakes}");
        }
    }

    #[test]
    fn variables_override_file_and_mask_secrets() {
        let env = [("DARKROOM_WORKER_CONCURRENCY", "7"), ("DARKROOM_DATABASE_PASSWORD", "0123")];
        let config = read(LEAST, &env).unwrap();
        assert_eq!(config.worker.concurrency, 7);
        assert_eq!(config.effective["worker.concurrency"], "7");
        assert_eq!(config.effective["database.password"], "***");
        assert!(!format!("{config:?}").contains("00112233445566778899aabbccddeeff"));
        assert!(!format!("{:?}", config.effective).contains("0011"));
    }

    #[test]
    fn a_secret_may_come_from_a_file() {
        let file = std::env::temp_dir().join(format!("darkroom-secret-{}", uuid::Uuid::now_v7()));
        std::fs::write(&file, "from the file\n").unwrap();
        let both = [("DARKROOM_DATABASE_PASSWORD_FILE", file.to_str().unwrap()), ("DARKROOM_DATABASE_PASSWORD", "x")];
        let config = read(LEAST, &both[..1]).unwrap();
        let database::Auth::Password(Some(password)) = &config.database.login.auth else { panic!("a password") };
        assert_eq!(secrecy::ExposeSecret::expose_secret(password), "from the file");
        assert!(read(LEAST, &both).unwrap_err().to_string().contains("both"));
        std::fs::remove_file(&file).unwrap();
        assert!(read(LEAST, &both[..1]).unwrap_err().to_string().contains("DARKROOM_DATABASE_PASSWORD_FILE"));
    }

    #[test]
    fn a_secret_may_be_a_credential_of_systemd() {
        let folder = std::env::temp_dir().join(format!("darkroom-credentials-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        let with = |more: &[(&str, &str)]| {
            read(LEAST, &[&[("CREDENTIALS_DIRECTORY", folder.to_str().unwrap())], more].concat())
        };
        let password = |config: Config| match config.database.login.auth {
            database::Auth::Password(password) => {
                password.map(|it| secrecy::ExposeSecret::expose_secret(&it).to_owned())
            }
            _ => None,
        };
        // An installation without secrets of its own, and a credential of another program.
        std::fs::write(folder.join("tls-key"), "not ours").unwrap();
        assert_eq!(password(with(&[]).unwrap()), None);
        // `LoadCredential=database.password:FILE`, then `LoadCredential=darkroom:FOLDER`, which puts a word before.
        std::fs::write(folder.join("database.password"), "one by one\n").unwrap();
        assert_eq!(password(with(&[]).unwrap()).as_deref(), Some("one by one"));
        std::fs::rename(folder.join("database.password"), folder.join("darkroom_database.password")).unwrap();
        let config = with(&[]).unwrap();
        assert_eq!(config.effective["database.password"], "***");
        assert_eq!(password(config).as_deref(), Some("one by one"));
        for name in ["DARKROOM_DATABASE_PASSWORD", "DARKROOM_DATABASE_PASSWORD_FILE"] {
            let both = with(&[(name, "x")]).unwrap_err().to_string();
            assert!(both.contains(name) && both.contains("both") && !both.contains("one by one"), "{both}");
        }
        std::fs::write(folder.join("darkroom_databse.password"), "misspelt").unwrap();
        let unknown = with(&[]).unwrap_err().to_string();
        assert!(unknown.contains("darkroom_databse.password") && !unknown.contains("misspelt"), "{unknown}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn resolves_named_secrets() {
        let arn = "arn:aws:secretsmanager:eu-west-3:123456789012:secret:signing-AbCdEf";
        let least = LEAST.replace(
            "signing_keys = [\"00112233445566778899aabbccddeeff\"]",
            &format!("signing_keys_secret_id = \"{arn}\""),
        );
        let source = |env: &[(&str, &str)]| {
            Source::parse(&least, env.iter().map(|(k, v)| (k.into(), v.into())).collect::<Vec<_>>()).unwrap()
        };
        let signing =
            Named { key: "storage.signing_keys".to_owned(), id: arn.to_owned(), region: "eu-west-3".to_owned() };
        assert_eq!(Config::named_secrets(&source(&[])), std::slice::from_ref(&signing));
        // A name alone is looked for where all else is; what is not asked for is not wanted, nor what means something else.
        let password = ("DARKROOM_DATABASE_PASSWORD_SECRET_ID", "darkroom/password");
        let more = [password, ("AWS_REGION", "eu-west-1"), ("DARKROOM_STORAGE_CLOUDFRONT_KEY_SECRET_ID", "unused")];
        let named = Config::named_secrets(&source(&more));
        let region = "eu-west-1".to_owned();
        let word = Named { key: "database.password".to_owned(), id: password.1.to_owned(), region };
        assert_eq!(named, [word, signing.clone()]);
        let nowhere = Config::read(source(&[password])).unwrap_err();
        assert!(nowhere.to_string().contains("DARKROOM_DATABASE_PASSWORD_SECRET_ID: must be an ARN"), "{nowhere}");
        assert!(
            Config::named_secrets(&Source::parse(LEAST, [("DARKROOM_DATABASE_SECRET_ID".into(), "x".into())]).unwrap())
                .is_empty()
        );

        let told = |secret: Result<&str, &str>, env: &[(&str, &str)]| {
            let mut source = source(env);
            let secret = secret.map(secrecy::SecretString::from).map_err(str::to_owned);
            source.tell(signing.clone(), secret);
            Config::read(source)
        };
        let rotated = "ffeeddccbbaa99887766554433221100\n00112233445566778899aabbccddeeff\n";
        let config = told(Ok(rotated), &[]).unwrap();
        let keys: Vec<&str> = config.storage.signing_keys.iter().map(secrecy::ExposeSecret::expose_secret).collect();
        assert_eq!(keys, rotated.lines().collect::<Vec<_>>());
        assert_eq!(config.effective["storage.signing_keys"], "***");
        // What it holds can be wrong, like what a file holds.
        let short = told(Ok("too-short"), &[]).unwrap_err();
        let said = short.to_string();
        assert!(
            short.will_stay() && said.contains("storage.signing_keys: must hold") && !said.contains("too-short"),
            "{said}"
        );
        // A secret that can't be read may be readable at the next start, unless there are other mistakes too; all are reported.
        let away = told(Err("it is away"), &[]).unwrap_err();
        assert!(!away.will_stay(), "{away}");
        assert_eq!(
            away.to_string(),
            "the configuration names what can't be read:\n  storage.signing_keys_secret_id: it is away"
        );
        let both = told(Err("it is away"), &[("DARKROOM_LOG_FORMAT", "xml")]).unwrap_err();
        let said = both.to_string();
        assert!(
            both.will_stay()
                && said.contains("2 mistakes")
                && said.contains("DARKROOM_LOG_FORMAT")
                && said.contains("it is away"),
            "{said}"
        );
        for other in ["DARKROOM_STORAGE_SIGNING_KEYS", "DARKROOM_STORAGE_SIGNING_KEYS_FILE"] {
            let twice = source(&[(other, "x")]);
            assert!(Config::named_secrets(&twice).is_empty(), "{other}: it is not even asked for");
            let said = Config::read(twice).unwrap_err().to_string();
            assert!(said.contains(&format!("{other} and storage.signing_keys_secret_id are both given")), "{said}");
        }
    }

    #[test]
    fn worker_needs_no_signing_key() {
        let s3 = r#"storage = { kind = "s3", bucket = "photos" }
            queue = { kind = "sqs", url = "https://sqs.example/q", dead_letter_url = "https://sqs.example/d" }"#;
        let least = LEAST.lines().filter(|line| !line.contains("storage")).collect::<Vec<_>>().join("\n") + s3;
        let function = |handler| {
            let lambda =
                [("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001"), ("AWS_REGION", "eu-west-1"), ("_HANDLER", handler)];
            read(&least, &lambda)
        };
        for handler in ["develop", "step", "announce", "migrate"] {
            assert!(function(handler).unwrap().storage.signing_keys.is_empty(), "{handler}");
        }
        assert!(function("api").unwrap_err().to_string().contains("storage.signing_keys"));
        // A handler's name is of Lambda only.
        let server = read(&least, &[("AWS_REGION", "eu-west-1"), ("_HANDLER", "develop")]).unwrap_err();
        assert!(server.to_string().contains("storage.signing_keys"), "{server}");
    }

    /// The sample lists each key once, commented out where it has a default, with that default as its value.
    #[test]
    fn the_sample_is_true() {
        let key = r#"signing_keys = ["00112233445566778899aabbccddeeff"]"#;
        let sample = include_str!("../deploy/darkroom.toml").replace(r#"# signing_keys = ["..."]"#, key);
        let shown: String = sample
            .lines()
            .map(|line| line.strip_prefix("#: ").unwrap_or(line))
            .fold(String::new(), |text, line| text + line + "\n");
        let from_sample = read(&shown, &[]).unwrap().effective;
        let required: String = sample.lines().fold(String::new(), |text, line| text + line + "\n");
        let from_defaults = read(&required, &[]).unwrap().effective;
        assert_eq!(from_sample, from_defaults);
        let table: toml::Table = shown.parse().unwrap();
        for key in from_defaults.keys() {
            let (section, name) = key.split_once('.').unwrap();
            assert!(table[section].get(name).is_some(), "{key} is not in the sample");
        }
    }
}
