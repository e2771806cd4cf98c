//! The stacks on an emulator: created, updated and deleted; and the service on their resources.

use std::{collections::BTreeMap, io::Write, path::Path};

use aws_sdk_s3::Client as S3;
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::TimeDelta;
use darkroom::dev::identity::{AUDIENCE, ISSUER, Identity};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    aws::rds::granted,
    harness::{
        Client,
        api_gateway::{FakeGateway, Gateway},
        aws::{Bucket, admin, bootstrap, call, lambda},
        client::id,
        cloudfront::{self, Distribution, KeyGroup, VIEWER},
        eventually, fixture,
        haproxy::Haproxy,
        iam::REGION,
        instance_metadata::MetadataService,
        numbered_photo,
        process::{Process, darkroom, free_address},
        rds::{HOST, Rds},
        stacks::Installation,
        template,
    },
};

/// Parameters from the operator and from the script.
const GIVEN: [(&str, &str); 8] = [
    ("Installation", "party"),
    ("Domain", "photos.example.com"),
    ("Release", "0.1.0"),
    ("PackageSha256", "c0cd5ccfdb563a59366e33e73001b78fdb8cca5a6c48e2f90fffcde44b81f1f6"),
    ("Architecture", "x86_64"),
    ("S3PrefixList", "pl-6da54004"),
    ("DynamoDbPrefixList", "pl-6fa54006"),
    ("Issuer", "https://id.example.com/"),
];
/// The master user's password.
const MASTER: &str = "kept-by-rds";
/// The resource types that hold data.
const KEPT: [&str; 5] =
    ["AWS::RDS::DBInstance", "AWS::S3::Bucket", "AWS::DynamoDB::Table", "AWS::KMS::Key", "AWS::SecretsManager::Secret"];

/// Starts an installation: network, data, and the release with `bootstrap` as the functions' program.
async fn begin(bootstrap: Vec<u8>, jwks: &str) -> Installation {
    let mut installation = Installation::start(&GIVEN).await;
    let key = rcgen::KeyPair::generate().expect("a key");
    installation.set("Audience", "darkroom");
    installation.set("Jwks", jwks);
    installation.set("CloudFrontPublicKey", key.public_key_pem());
    installation.set("CloudFrontPrivateKey", key.serialize_pem());
    let zone = json!({ "Type": "AWS::Route53::HostedZone", "Properties": { "Name": "example.com" } });
    let id = json!({ "HostedZoneId": { "Value": { "Ref": "Zone" } } });
    installation.apply("zone", json!({ "Resources": { "Zone": zone }, "Outputs": id })).await;
    installation.deploy("network").await;
    installation.deploy("data").await;
    // RDS manages the master user's secret, the emulator does not.
    let secret = json!({ "username": "admin", "password": MASTER }).to_string();
    let secret = json!({ "Name": "rds!db-1", "SecretString": secret });
    let secret = call(&installation.emulator, "secretsmanager", "secretsmanager.CreateSecret", &secret).await;
    installation.set("MasterSecretArn", secret["ARN"].as_str().expect("an ARN"));
    let s3 = S3::new(&admin(&installation.emulator).await);
    let document = darkroom::http::gateway::document().to_string();
    for (name, bytes) in [("darkroom-0.1.0.x86_64.zip", bootstrap), ("gateway.json", document.into_bytes())] {
        let put = s3.put_object().bucket(installation.value("Artifacts")).key(format!("releases/0.1.0/{name}"));
        put.body(bytes.into()).send().await.expect("an object");
    }
    installation
}

/// Deploys the remaining stacks.
async fn finish(installation: &mut Installation) {
    for stack in &template::STACKS[2..] {
        if *stack == "edge" {
            let key = installation.secret(installation.value("ApiKeySecretArn")).await;
            installation.set("ApiKey", key);
            installation.set("BucketRegion", REGION);
        }
        installation.deploy(stack).await;
    }
}

/// The resources that hold data, by logical id.
async fn kept(installation: &Installation) -> BTreeMap<String, String> {
    let all = installation.resources("data").await.into_iter();
    let kept = all.filter(|(_, (kind, _))| KEPT.contains(&kind.as_str())).map(|(name, (_, id))| (name, id));
    kept.collect()
}

#[tokio::test]
async fn creates_updates_and_deletes_stacks() {
    let mut installation = begin(STANDARD.decode(bootstrap()).expect("base64"), r#"{"keys": []}"#).await;
    finish(&mut installation).await;
    let made = kept(&installation).await;
    assert!(made.len() > 6, "{made:?}");

    // Parameter changes do not replace them.
    let secret = installation.value("MasterSecretArn").to_owned();
    for (name, value) in [("BackupDays", "21"), ("DeletedPhotosDays", "45"), ("DatabaseClass", "db.r8g.large")] {
        assert!(template::read("data")["Parameters"].get(name).is_some(), "{name}");
        installation.set(name, value);
    }
    installation.deploy("data").await;
    assert_eq!(kept(&installation).await, made);
    installation.set("MasterSecretArn", secret);
    finish(&mut installation).await;

    for stack in template::STACKS.iter().rev() {
        installation.delete(stack).await;
    }
    let admin = admin(&installation.emulator).await;
    let tables = aws_sdk_dynamodb::Client::new(&admin).list_tables().send().await.expect("tables");
    assert!(tables.table_names().contains(&made["Table"]), "{tables:?}");
    let buckets = S3::new(&admin).list_buckets().send().await.expect("buckets");
    let buckets: Vec<_> = buckets.buckets().iter().filter_map(|bucket| bucket.name()).collect();
    assert!(buckets.contains(&installation.value("Bucket")), "photos outlive their stack: {buckets:?}");
}

/// The functions' program: reads a file of variables for its handler, which is written once the keys exist, and
/// executes the program. It replaces the emulator's variables (root keys, a nonexistent database).
fn program(folder: &Path) -> Vec<u8> {
    let mut package = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    package.start_file("bootstrap", zip::write::SimpleFileOptions::default().unix_permissions(0o755)).expect("a file");
    let script = format!("#!/bin/sh\n. {}/$_HANDLER\nexec {}\n", folder.display(), env!("CARGO_BIN_EXE_darkroom"));
    package.write_all(script.as_bytes()).expect("a script");
    package.finish().expect("a package").into_inner()
}

/// An installation with its processes.
struct Whole {
    installation: Installation,
    rds: Rds,
    identity: Identity,
    instances: Vec<Process>,
    balancer: Haproxy,
    url: String,
    /// A queue that is subscribed to the notifications.
    subscriber: String,
    _gateway: FakeGateway,
    _imds: MetadataService,
    _folder: TempDir,
}

impl Whole {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path();
        let identity = Identity::open(place).expect("an identity");
        let jwks = std::fs::read_to_string(identity.jwks_path()).expect("the key set");
        let mut installation = begin(program(place), &jwks).await;
        installation.set("ReadsByFunction", "yes");
        finish(&mut installation).await;
        let rds = Rds::start().await;
        let subscriber = installation.subscribe_queue(installation.value("TopicArn")).await;
        database(&installation, &rds, place).await;

        // Each instance has the configuration of its launch template, and the role's keys from the metadata service.
        let key = installation.key("service", "InstanceRole").await;
        rds.iam().allow(&key, &["darkroom_app"]);
        let metadata = MetadataService::start(&key, TimeDelta::hours(6)).await;
        std::fs::write(place.join("darkroom.toml"), installation.configuration().await).expect("a file");
        let credentials = place.join("credentials");
        std::fs::create_dir(&credentials).expect("a folder");
        for (name, secret) in
            [("storage.cloudfront_key", "CloudFrontKeySecretArn"), ("storage.signing_keys", "SigningKeysSecretArn")]
        {
            std::fs::write(credentials.join(name), installation.secret(installation.value(secret)).await)
                .expect("a file");
        }
        let front = free_address();
        let addresses = [free_address(), free_address()];
        let mut instances = Vec::new();
        for address in &addresses {
            let mut command =
                darkroom(&["--config", place.join("darkroom.toml").to_str().expect("a path"), "serve"], &[]);
            command.envs(elsewhere(&installation, &rds)).envs(metadata.environment());
            command.env("CREDENTIALS_DIRECTORY", &credentials);
            instances.push(Process::launch(command, address).await);
        }
        let balancer = Haproxy::start(&front, &addresses).await;
        for nth in 0..addresses.len() {
            balancer.up(nth).await;
        }
        let document = darkroom::http::gateway::document();
        let gateway = FakeGateway::of(Gateway {
            document: template::resolve(
                &template::decide(&document, &["ReadsByFunction"]),
                &installation.names("VpcLink"),
            ),
            service: format!("http://{front}"),
            key: installation.value("ApiKey").to_owned(),
            functions: Some(installation.emulator.clone()),
        });
        let gateway = gateway.await;
        let distribution = Distribution {
            gateway: gateway.url.clone(),
            key: installation.value("ApiKey").to_owned(),
            bucket: Bucket {
                client: S3::new(&admin(&installation.emulator).await),
                name: installation.value("Bucket").to_owned(),
            },
            address: "https://photos.example.com".to_owned(),
            keys: KeyGroup(BTreeMap::from([(
                installation.value("CloudFrontKeyId").to_owned(),
                installation.value("CloudFrontPublicKey").to_owned(),
            )])),
        };
        let url = cloudfront::start(distribution).await;
        Self {
            installation,
            rds,
            identity,
            instances,
            balancer,
            url,
            subscriber,
            _gateway: gateway,
            _imds: metadata,
            _folder: folder,
        }
    }

    fn user(&self, subject: &str) -> Client {
        Client::new(&self.url, Some(self.identity.token(subject).expect("a token")))
    }

    /// Fetches a URL of the domain.
    async fn fetch(&self, url: &str) -> reqwest::Response {
        let path = url.strip_prefix("https://photos.example.com").unwrap_or_else(|| panic!("{url}"));
        reqwest::get(format!("{}{path}", self.url)).await.expect("an answer")
    }

    /// The notifications of an album up to a number, in order.
    async fn announced(&self, album: &str, last: u64) -> Vec<(u64, String)> {
        let mut all = Vec::new();
        eventually("published", async || {
            let heard = self
                .installation
                .receive_all(&self.subscriber)
                .await
                .into_iter()
                .filter(|event| event["data"]["album_id"] == album);
            all.extend(heard.map(|event| {
                (event["data"]["seq"].as_u64().expect("a number"), event["type"].as_str().expect("a type").to_owned())
            }));
            all.last().is_some_and(|(seq, _)| *seq >= last).then_some(())
        })
        .await;
        all
    }
}

/// Settings that differ from the stacks: the endpoints of AWS, the database and the issuer.
fn elsewhere(installation: &Installation, rds: &Rds) -> Vec<(String, String)> {
    let all = [
        ("AWS_ENDPOINT_URL", installation.emulator.url.clone()),
        ("DARKROOM_DATABASE_HOST", HOST.to_owned()),
        ("DARKROOM_DATABASE_PORT", rds.port().to_string()),
        ("DARKROOM_DATABASE_REGION", REGION.to_owned()),
        ("DARKROOM_DATABASE_TLS_CA", rds.ca().display().to_string()),
        // A login starts a process, which is slow on a busy machine.
        ("DARKROOM_DATABASE_ACQUIRE_TIMEOUT", "8s".to_owned()),
        ("DARKROOM_IDENTITY_ISSUER", ISSUER.to_owned()),
        ("DARKROOM_IDENTITY_AUDIENCE", AUDIENCE.to_owned()),
    ];
    all.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Writes each function's role keys, allows the database users, and creates the database.
async fn database(installation: &Installation, rds: &Rds, folder: &Path) {
    for (handler, role, user) in [
        ("api", "ApiRole", "darkroom_app"),
        ("develop", "DevelopRole", "darkroom_app"),
        ("step", "StepRole", "darkroom_app"),
        ("announce", "AnnounceRole", "darkroom_app"),
        ("migrate", "MigrateRole", "darkroom_migrate"),
    ] {
        let key = installation.key("functions", role).await;
        rds.iam().allow(&key, &[user]);
        let mut variables = [key.environment(), elsewhere(installation, rds)].concat();
        if handler == "migrate" && !rds.has_plugin_of_rds() {
            variables.push(("DARKROOM_DATABASE_MASTER_SECRET_ID".to_owned(), String::new()));
        }
        let lines = variables.iter().map(|(name, value)| match value.as_str() {
            "" => format!("unset {name}\n"),
            value => format!("export {name}='{value}'\n"),
        });
        std::fs::write(folder.join(handler), lines.collect::<String>()).expect("a file");
    }
    if rds.has_plugin_of_rds() {
        rds.create_password_user("admin", MASTER, "ALL ON *.*").await;
        rds.run("GRANT CREATE USER ON *.* TO 'admin'@'%' WITH GRANT OPTION").await;
    } else {
        eprintln!("the users are made by hand: the stand-in for RDS on MariaDB has no plugin of RDS's name");
        rds.run("CREATE DATABASE darkroom CHARACTER SET utf8mb4 COLLATE utf8mb4_bin").await;
        for user in ["darkroom_app", "darkroom_migrate"] {
            rds.create_user(user, &granted(user, "darkroom")).await;
        }
    }
    let made = lambda(&installation.emulator, "party-migrate", &json!({})).await.expect("a schema");
    assert!(made["applied"].as_u64() > Some(10) && made["pending"] == 0, "{made}");
}

#[tokio::test]
async fn processes_photo_on_deployed_stacks() {
    let mut whole = Whole::start().await;
    let host = whole.user("alice");
    let album = id(&host.post("/v1/albums", &json!({ "title": "Wedding" })).await.expect(201));
    let guest = Client::new(&whole.url, Some(host.invite(&album, &json!({ "role": "contribute" })).await));
    let viewer = Client::new(&whole.url, Some(host.invite(&album, &json!({ "role": "view" })).await));

    // The upload goes directly to S3, the thumbnail comes by CloudFront.
    let photo = guest.upload(&album, "image/jpeg", &fixture("camera.jpg")).await;
    let ready = host.settled(&photo).await;
    assert_eq!(ready["state"], "ready", "{ready}");
    for rendition in ready["renditions"].as_array().expect("renditions") {
        let url = rendition["url"].as_str().expect("a URL");
        let answer = whole.fetch(url).await;
        assert_eq!(answer.status(), 200, "{url}");
        assert_eq!(answer.headers()["content-type"], "image/jpeg");
        assert_eq!(answer.bytes().await.expect("bytes").len() as u64, rendition["bytes"].as_u64().expect("a length"));
        assert_eq!(whole.fetch(url.split_once('?').expect("a signature").0).await.status(), 403);
    }
    // Viewers' pages come from the table by the function.
    eventually("on the page", async || {
        let page = viewer.get(&format!("/v1/albums/{album}/photos")).await.expect(200);
        (page["items"].as_array().map(Vec::len) == Some(1)).then_some(())
    })
    .await;

    // An instance is deregistered and stopped during uploads without a failed request.
    whole.balancer.drain(0).await;
    let first = &mut whole.instances[0];
    first.signal(Signal::TERM);
    let mut photos = vec![photo.clone()];
    for number in 1..=6 {
        photos.push(guest.upload(&album, "image/jpeg", &numbered_photo(number)).await);
    }
    assert_eq!(whole.instances[0].ended().await.code(), Some(0), "{}", whole.instances[0].log());
    for photo in &photos {
        assert_eq!(host.settled(photo).await["state"], "ready");
    }

    // The state machine runs an edit, with steps in the function.
    let edits = format!("/v1/photos/{photo}/edits");
    let edit = id(&host.post(&edits, &json!({ "filters": [{ "name": "grayscale" }] })).await.expect(202));
    let edit = eventually("an edit", async || {
        let edit = host.get(&format!("{edits}/{edit}")).await.expect(200);
        (edit["state"] == "ready" || edit["state"] == "failed").then_some(edit)
    })
    .await;
    assert_eq!(edit["state"], "ready", "{edit}");

    // The scheduled function publishes and reconciles what instances left.
    lambda(&whole.installation.emulator, "party-announce", &json!({})).await.expect("an outbox");
    let last = host.get(&format!("/v1/albums/{album}/events")).await.expect(200)["last"].as_u64().expect("a number");
    let told = whole.announced(&album, last).await;
    assert_eq!(told.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>(), "{told:?}");
    assert_eq!(told.iter().filter(|(_, kind)| kind == "darkroom.photo.ready").count(), photos.len());

    // The service answers unauthenticated requests, the gateway unknown routes.
    Client::new(&whole.url, None).get(&format!("/v1/albums/{album}")).await.expect(401);
    let nowhere = reqwest::get(format!("{}/v2/albums", whole.url)).await.expect("an answer");
    assert_eq!(nowhere.headers()["content-type"], "application/problem+json");
    // The service logs the viewer's address from CloudFront.
    assert!(whole.instances[1].log().contains(VIEWER), "{}", whole.instances[1].log());
    drop(whole.rds);
}
