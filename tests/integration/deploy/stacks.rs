//! The stacks on an emulator: made, updated, ended; and the service on what they made.

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
        api_gateway::{Front, Gateway},
        aws::{Bucket, admin, bootstrap, call, lambda},
        client::id,
        cloudfront::{self, Distribution, KeyGroup, VIEWER},
        eventually, fixture,
        haproxy::Haproxy,
        iam::REGION,
        instance_metadata::Imds,
        numbered,
        process::{Process, darkroom, free_address},
        rds::{HOST, Rds},
        stacks::Estate,
        template,
    },
};

/// What an operator says, and what the script looks up.
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
/// What holds what must not be lost.
const KEPT: [&str; 5] =
    ["AWS::RDS::DBInstance", "AWS::S3::Bucket", "AWS::DynamoDB::Table", "AWS::KMS::Key", "AWS::SecretsManager::Secret"];

/// Begins an installation: the network, the data, and the release's files, of which `bootstrap` is the functions' program.
async fn begin(bootstrap: Vec<u8>, jwks: &str) -> Estate {
    let mut estate = Estate::start(&GIVEN).await;
    let key = rcgen::KeyPair::generate().expect("a key");
    estate.set("Audience", "darkroom");
    estate.set("Jwks", jwks);
    estate.set("CloudFrontPublicKey", key.public_key_pem());
    estate.set("CloudFrontPrivateKey", key.serialize_pem());
    let zone = json!({ "Type": "AWS::Route53::HostedZone", "Properties": { "Name": "example.com" } });
    let id = json!({ "HostedZoneId": { "Value": { "Ref": "Zone" } } });
    estate.apply("zone", json!({ "Resources": { "Zone": zone }, "Outputs": id })).await;
    estate.deploy("network").await;
    estate.deploy("data").await;
    // RDS keeps its master user's secret itself, which the emulator does not do.
    let secret = json!({ "username": "admin", "password": MASTER }).to_string();
    let secret = json!({ "Name": "rds!db-1", "SecretString": secret });
    let secret = call(&estate.emulator, "secretsmanager", "secretsmanager.CreateSecret", &secret).await;
    estate.set("MasterSecretArn", secret["ARN"].as_str().expect("an ARN"));
    let s3 = S3::new(&admin(&estate.emulator).await);
    let document = darkroom::http::gateway::document().to_string();
    for (name, bytes) in [("darkroom-0.1.0.x86_64.zip", bootstrap), ("gateway.json", document.into_bytes())] {
        let put = s3.put_object().bucket(estate.value("Artifacts")).key(format!("releases/0.1.0/{name}"));
        put.body(bytes.into()).send().await.expect("an object");
    }
    estate
}

/// The rest of the stacks.
async fn finish(estate: &mut Estate) {
    for stack in &template::STACKS[2..] {
        if *stack == "edge" {
            let key = estate.secret(estate.value("ApiKeySecretArn")).await;
            estate.set("ApiKey", key);
            estate.set("BucketRegion", REGION);
        }
        estate.deploy(stack).await;
    }
}

/// What holds data, by its logical name.
async fn kept(estate: &Estate) -> BTreeMap<String, String> {
    let all = estate.resources("data").await.into_iter();
    let kept = all.filter(|(_, (kind, _))| KEPT.contains(&kind.as_str())).map(|(name, (_, id))| (name, id));
    kept.collect()
}

#[tokio::test]
async fn creates_updates_and_deletes_stacks() {
    let mut estate = begin(STANDARD.decode(bootstrap()).expect("base64"), r#"{"keys": []}"#).await;
    finish(&mut estate).await;
    let made = kept(&estate).await;
    assert!(made.len() > 6, "{made:?}");

    // What an operator may change later does not make them anew.
    let secret = estate.value("MasterSecretArn").to_owned();
    for (name, value) in [("BackupDays", "21"), ("DeletedPhotosDays", "45"), ("DatabaseClass", "db.r8g.large")] {
        assert!(template::read("data")["Parameters"].get(name).is_some(), "{name}");
        estate.set(name, value);
    }
    estate.deploy("data").await;
    assert_eq!(kept(&estate).await, made);
    estate.set("MasterSecretArn", secret);
    finish(&mut estate).await;

    for stack in template::STACKS.iter().rev() {
        estate.delete(stack).await;
    }
    let admin = admin(&estate.emulator).await;
    let tables = aws_sdk_dynamodb::Client::new(&admin).list_tables().send().await.expect("tables");
    assert!(tables.table_names().contains(&made["Table"]), "{tables:?}");
    let buckets = S3::new(&admin).list_buckets().send().await.expect("buckets");
    let buckets: Vec<_> = buckets.buckets().iter().filter_map(|bucket| bucket.name()).collect();
    assert!(buckets.contains(&estate.value("Bucket")), "photos outlive their stack: {buckets:?}");
}

/// The functions' program: ours, after a file of variables for its handler, which is written once the keys are there. What
/// the emulator would give it (the root's keys, the database that it pretends to have) does not count.
fn program(folder: &Path) -> Vec<u8> {
    let mut package = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    package.start_file("bootstrap", zip::write::SimpleFileOptions::default().unix_permissions(0o755)).expect("a file");
    let script = format!("#!/bin/sh\n. {}/$_HANDLER\nexec {}\n", folder.display(), env!("CARGO_BIN_EXE_darkroom"));
    package.write_all(script.as_bytes()).expect("a script");
    package.finish().expect("a package").into_inner()
}

/// An installation with all that runs in it.
struct Whole {
    estate: Estate,
    rds: Rds,
    identity: Identity,
    instances: Vec<Process>,
    balancer: Haproxy,
    url: String,
    /// A queue that hears what is announced.
    ear: String,
    _gateway: Front,
    _imds: Imds,
    _folder: TempDir,
}

impl Whole {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path();
        let identity = Identity::open(place).expect("an identity");
        let jwks = std::fs::read_to_string(identity.jwks_path()).expect("the key set");
        let mut estate = begin(program(place), &jwks).await;
        estate.set("ReadsByFunction", "yes");
        finish(&mut estate).await;
        let rds = Rds::start().await;
        let ear = estate.ear(estate.value("TopicArn")).await;
        database(&estate, &rds, place).await;

        // Each instance is configured as its launch template does it, with the role's keys from the metadata service.
        let key = estate.key("service", "InstanceRole").await;
        rds.iam().allow(&key, &["darkroom_app"]);
        let imds = Imds::start(&key, TimeDelta::hours(6)).await;
        std::fs::write(place.join("darkroom.toml"), estate.configuration().await).expect("a file");
        let credentials = place.join("credentials");
        std::fs::create_dir(&credentials).expect("a folder");
        for (name, secret) in
            [("storage.cloudfront_key", "CloudFrontKeySecretArn"), ("storage.signing_keys", "SigningKeysSecretArn")]
        {
            std::fs::write(credentials.join(name), estate.secret(estate.value(secret)).await).expect("a file");
        }
        let front = free_address();
        let addresses = [free_address(), free_address()];
        let mut instances = Vec::new();
        for address in &addresses {
            let mut command =
                darkroom(&["--config", place.join("darkroom.toml").to_str().expect("a path"), "serve"], &[]);
            command.envs(elsewhere(&estate, &rds)).envs(imds.environment());
            command.env("CREDENTIALS_DIRECTORY", &credentials);
            instances.push(Process::launch(command, address).await);
        }
        let balancer = Haproxy::start(&front, &addresses).await;
        for nth in 0..addresses.len() {
            balancer.up(nth).await;
        }
        let document = darkroom::http::gateway::document();
        let gateway = Front::of(Gateway {
            document: template::resolve(&template::decide(&document, &["ReadsByFunction"]), &estate.names("VpcLink")),
            service: format!("http://{front}"),
            key: estate.value("ApiKey").to_owned(),
            functions: Some(estate.emulator.clone()),
        });
        let gateway = gateway.await;
        let distribution = Distribution {
            gateway: gateway.url.clone(),
            key: estate.value("ApiKey").to_owned(),
            bucket: Bucket { client: S3::new(&admin(&estate.emulator).await), name: estate.value("Bucket").to_owned() },
            address: "https://photos.example.com".to_owned(),
            keys: KeyGroup(BTreeMap::from([(
                estate.value("CloudFrontKeyId").to_owned(),
                estate.value("CloudFrontPublicKey").to_owned(),
            )])),
        };
        let url = cloudfront::start(distribution).await;
        Self { estate, rds, identity, instances, balancer, url, ear, _gateway: gateway, _imds: imds, _folder: folder }
    }

    fn user(&self, subject: &str) -> Client {
        Client::new(&self.url, Some(self.identity.token(subject).expect("a token")))
    }

    /// What is behind a URL below the domain.
    async fn fetch(&self, url: &str) -> reqwest::Response {
        let path = url.strip_prefix("https://photos.example.com").unwrap_or_else(|| panic!("{url}"));
        reqwest::get(format!("{}{path}", self.url)).await.expect("an answer")
    }

    /// What was announced of an album, in order, up to a number.
    async fn announced(&self, album: &str, last: u64) -> Vec<(u64, String)> {
        let mut all = Vec::new();
        eventually("announced", async || {
            let heard =
                self.estate.heard(&self.ear).await.into_iter().filter(|event| event["data"]["album_id"] == album);
            all.extend(heard.map(|event| {
                (event["data"]["seq"].as_u64().expect("a number"), event["type"].as_str().expect("a type").to_owned())
            }));
            all.last().is_some_and(|(seq, _)| *seq >= last).then_some(())
        })
        .await;
        all
    }
}

/// What is not where the stacks say: AWS itself, and the database. The issuer is the tests'.
fn elsewhere(estate: &Estate, rds: &Rds) -> Vec<(String, String)> {
    let all = [
        ("AWS_ENDPOINT_URL", estate.emulator.url.clone()),
        ("DARKROOM_DATABASE_HOST", HOST.to_owned()),
        ("DARKROOM_DATABASE_PORT", rds.port().to_string()),
        ("DARKROOM_DATABASE_REGION", REGION.to_owned()),
        ("DARKROOM_DATABASE_TLS_CA", rds.ca().display().to_string()),
        // A login takes a process of the stand-in, and a busy machine its time for that.
        ("DARKROOM_DATABASE_ACQUIRE_TIMEOUT", "8s".to_owned()),
        ("DARKROOM_IDENTITY_ISSUER", ISSUER.to_owned()),
        ("DARKROOM_IDENTITY_AUDIENCE", AUDIENCE.to_owned()),
    ];
    all.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Gives each function the keys of its role, lets those in that sign in to the database, and has it made.
async fn database(estate: &Estate, rds: &Rds, folder: &Path) {
    for (handler, role, user) in [
        ("api", "ApiRole", "darkroom_app"),
        ("develop", "DevelopRole", "darkroom_app"),
        ("step", "StepRole", "darkroom_app"),
        ("announce", "AnnounceRole", "darkroom_app"),
        ("migrate", "MigrateRole", "darkroom_migrate"),
    ] {
        let key = estate.key("functions", role).await;
        rds.iam().allow(&key, &[user]);
        let mut variables = [key.environment(), elsewhere(estate, rds)].concat();
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
    let made = lambda(&estate.emulator, "party-migrate", &json!({})).await.expect("a schema");
    assert!(made["applied"].as_u64() > Some(10) && made["pending"] == 0, "{made}");
}

#[tokio::test]
async fn processes_photo_on_deployed_stacks() {
    let mut whole = Whole::start().await;
    let host = whole.user("alice");
    let album = id(&host.post("/v1/albums", &json!({ "title": "Wedding" })).await.expect(201));
    let guest = Client::new(&whole.url, Some(host.invite(&album, &json!({ "role": "contribute" })).await));
    let viewer = Client::new(&whole.url, Some(host.invite(&album, &json!({ "role": "view" })).await));

    // Past the gateway straight to S3, and the thumbnail by CloudFront.
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
    // The pages of viewers come from the table, by the function.
    eventually("on the page", async || {
        let page = viewer.get(&format!("/v1/albums/{album}/photos")).await.expect(200);
        (page["items"].as_array().map(Vec::len) == Some(1)).then_some(())
    })
    .await;

    // One instance is taken out and stopped while photos come: nobody notices.
    whole.balancer.drain(0).await;
    let first = &mut whole.instances[0];
    first.signal(Signal::TERM);
    let mut photos = vec![photo.clone()];
    for number in 1..=6 {
        photos.push(guest.upload(&album, "image/jpeg", &numbered(number)).await);
    }
    assert_eq!(whole.instances[0].ended().await.code(), Some(0), "{}", whole.instances[0].log());
    for photo in &photos {
        assert_eq!(host.settled(photo).await["state"], "ready");
    }

    // An edit is led by the state machine, its steps done by the function.
    let edits = format!("/v1/photos/{photo}/edits");
    let edit = id(&host.post(&edits, &json!({ "filters": [{ "name": "grayscale" }] })).await.expect(202));
    let edit = eventually("an edit", async || {
        let edit = host.get(&format!("{edits}/{edit}")).await.expect(200);
        (edit["state"] == "ready" || edit["state"] == "failed").then_some(edit)
    })
    .await;
    assert_eq!(edit["state"], "ready", "{edit}");

    // What instances leave, the function on its schedule announces and sweeps.
    lambda(&whole.estate.emulator, "party-announce", &json!({})).await.expect("an outbox");
    let last = host.get(&format!("/v1/albums/{album}/events")).await.expect(200)["last"].as_u64().expect("a number");
    let told = whole.announced(&album, last).await;
    assert_eq!(told.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>(), "{told:?}");
    assert_eq!(told.iter().filter(|(_, kind)| kind == "darkroom.photo.ready").count(), photos.len());

    // Who is not known hears so in the service's words, and what is not there in the gateway's.
    Client::new(&whole.url, None).get(&format!("/v1/albums/{album}")).await.expect(401);
    let nowhere = reqwest::get(format!("{}/v2/albums", whole.url)).await.expect("an answer");
    assert_eq!(nowhere.headers()["content-type"], "application/problem+json");
    // Who asked was known to the service by the address that CloudFront saw.
    assert!(whole.instances[1].log().contains(VIEWER), "{}", whole.instances[1].log());
    drop(whole.rds);
}
