//! Tests of the harness: fake services refuse what AWS refuses, and injected faults do what their names say.

use std::{io::ErrorKind, time::Duration};

use chrono::{TimeDelta, Utc};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use sqlx::{
    ConnectOptions, Connection, Row,
    mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlQueryResult, MySqlSslMode},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::harness::{
    aws_api::AwsApi,
    certificates::{Authority, Validity},
    eventually,
    iam::{Key, REGION},
    instance_metadata::{MetadataService, ROLE},
    rds::Rds,
    rogue_database::{Asks, RogueDatabase},
    tcp_proxy::TcpProxy,
};

/// The time in which an event must not happen.
const A_WHILE: Duration = Duration::from_millis(300);

/// The error code of a refused login; 0 for success.
async fn refusal(options: &MySqlConnectOptions) -> u16 {
    match options.connect().await {
        Ok(connection) => {
            connection.close().await.expect("the connection closes");
            0
        }
        Err(error) => number(&error),
    }
}

/// The code of a server error.
#[track_caller]
fn number(error: &sqlx::Error) -> u16 {
    let sqlx::Error::Database(error) = error else { panic!("not the server's: {error}") };
    error.downcast_ref::<MySqlDatabaseError>().number()
}

#[tokio::test]
async fn accepts_valid_token() {
    let rds = Rds::shared().await;
    let database = rds.database().await;
    rds.create_user("good", &format!("ALL ON {}.*", database.name)).await;
    for (key, length) in [(Key::long_lived(), 250..400), (Key::temporary(2100), 2048..3000)] {
        rds.iam().allow(&key, &["good"]);
        let token = key.token(&rds.endpoint(), REGION, "good");
        assert!(length.contains(&token.len()), "{} bytes", token.len());
        let options = rds.options("good").database(&database.name).password(&token);
        let mut connection = options.connect().await.expect("let in");
        let user: String = sqlx::query_scalar("SELECT CAST(USER() AS CHAR)").fetch_one(&mut connection).await.unwrap();
        assert!(user.starts_with("good@"), "{user}");
        let cipher = sqlx::raw_sql("SHOW SESSION STATUS LIKE 'Ssl_cipher'").fetch_one(&mut connection).await.unwrap();
        assert!(!cipher.get_unchecked::<String, _>(1).is_empty(), "in clear");
        let login = rds.iam().logins().into_iter().rfind(|login| login.user == "good").expect("a login");
        assert_eq!((login.bytes, login.verdict.as_str()), (token.len(), "ok"));
        #[expect(clippy::cast_precision_loss, reason = "a time in milliseconds")]
        let now = Utc::now().timestamp_millis() as f64 / 1000.0;
        assert!((now - login.time).abs() < 60.0, "judged at {}", login.time);
    }
}

#[tokio::test]
async fn rejects_altered_token() {
    let rds = Rds::shared().await;
    let (key, endpoint) = (Key::temporary(900), rds.endpoint());
    for user in ["strict", "stricter"] {
        rds.create_user(user, "USAGE ON *.*").await;
    }
    rds.iam().allow(&key, &["strict"]);
    let good = key.token(&endpoint, REGION, "strict");
    let last = if good.ends_with('0') { '1' } else { '0' };
    let resigned = |change: &dyn Fn(&mut Key)| {
        let mut key = key.clone();
        change(&mut key);
        key.token(&endpoint, REGION, "strict")
    };
    let before = Utc::now() - TimeDelta::seconds(901);
    let ahead = Utc::now() + TimeDelta::seconds(400);
    let cases = [
        ("strict", good.clone(), "ok"),
        ("strict", format!("{}{last}", &good[..good.len() - 1]), "signature"),
        ("strict", good.replace("X-Amz-Expires=900", "X-Amz-Expires=901"), "signature"),
        ("strict", resigned(&|key| key.secret.push('x')), "signature"),
        ("strict", resigned(&|key| key.session_token = None), "session token"),
        ("strict", resigned(&|key| key.session_token.as_mut().unwrap().push('x')), "session token"),
        ("strict", resigned(&|key| key.id.push('X')), "unknown key"),
        ("strict", key.token_of(before, &endpoint, REGION, "strict"), "expired"),
        ("strict", key.token_of(ahead, &endpoint, REGION, "strict"), "from the future"),
        ("strict", key.token(&endpoint, "eu-west-2", "strict"), "region"),
        ("strict", key.token("elsewhere:3306", REGION, "strict"), "host"),
        ("strict", key.token(&endpoint, REGION, "stricter"), "another user's"),
        ("stricter", good.clone(), "another user's"),
        ("stricter", key.token(&endpoint, REGION, "stricter"), "not allowed"),
        ("strict", "a password".to_owned(), "no token"),
    ];
    for (user, token, verdict) in cases {
        let number = refusal(&rds.options(user).password(&token)).await;
        assert_eq!(number, if verdict == "ok" { 0 } else { 1045 }, "{verdict}");
        assert_eq!(rds.iam().login_results(user).last().expect("judged"), verdict);
    }
    rds.iam().forget(&key);
    assert_eq!(refusal(&rds.options("strict").password(&good)).await, 1045);
}

#[tokio::test]
async fn requires_tls() {
    let rds = Rds::shared().await;
    let key = Key::long_lived();
    rds.create_user("plain", "USAGE ON *.*").await;
    rds.create_password_user("plain_password", "a password", "USAGE ON *.*").await;
    rds.iam().allow(&key, &["plain"]);
    for (user, password) in
        [("plain", &key.token(&rds.endpoint(), REGION, "plain")[..]), ("plain_password", "a password")]
    {
        let options = rds.options(user).password(password);
        assert_eq!(refusal(&options).await, 0);
        let refused = refusal(&options.ssl_mode(MySqlSslMode::Disabled)).await;
        // Refused by the account or by the server: both require TLS.
        assert!(matches!(refused, 1045 | 3159), "{user}: {refused}");
    }
}

#[tokio::test]
async fn simulates_server_failures() {
    let mut rds = Rds::start().await;
    let (key, database) = (Key::long_lived(), rds.database().await);
    rds.create_user("app", &format!("ALL ON {}.*", database.name)).await;
    rds.iam().allow(&key, &["app"]);
    let token = key.token(&rds.endpoint(), REGION, "app");
    let options = rds.options("app").database(&database.name).password(&token);
    let mut connection = options.connect().await.expect("let in");
    sqlx::query("CREATE TABLE notes (text VARCHAR(20))").execute(&mut connection).await.expect("a table");
    let write = async |connection: &mut _| {
        sqlx::query("INSERT INTO notes VALUES ('x')")
            .execute(connection)
            .await
            .map(|done: MySqlQueryResult| done.rows_affected())
    };

    rds.read_only(true).await;
    assert_eq!(number(&write(&mut connection).await.unwrap_err()), 1290);
    rds.read_only(false).await;
    assert_eq!(write(&mut connection).await.expect("a row"), 1);

    rds.freeze().await;
    assert!(timeout(A_WHILE, connection.ping()).await.is_err(), "an open connection is silent");
    assert!(timeout(A_WHILE, options.connect()).await.is_err(), "a new one too");
    rds.thaw();
    let mut connection = options.connect().await.expect("it goes on");

    rds.kill().await;
    assert!(write(&mut connection).await.is_err());
    assert!(
        matches!(options.connect().await, Err(sqlx::Error::Io(error)) if error.kind() == ErrorKind::ConnectionRefused)
    );
    rds.restart().await;
    let mut connection = options.connect().await.expect("on the same port");
    assert_eq!(write(&mut connection).await.expect("on the same data"), 1);
    assert_eq!(database.count("SELECT COUNT(*) FROM notes").await, 2);

    // These rules would affect other tests on the shared server.
    rds.iam().max_age(1);
    let token = key.token_of(Utc::now() - TimeDelta::seconds(3), &rds.endpoint(), REGION, "app");
    assert_eq!(refusal(&options.clone().password(&token)).await, 1045);
    assert!(write(&mut connection).await.is_ok(), "who is in stays in");
    rds.iam().max_age(900);
    assert_eq!(refusal(&options.clone().password(&token)).await, 0);
    rds.iam().regions(&["eu-west-2"]);
    assert_eq!(refusal(&options.clone().password(&token)).await, 1045);
    let elsewhere = key.token(&rds.endpoint(), "eu-west-2", "app");
    assert_eq!(refusal(&options.clone().password(&elsewhere)).await, 0);
    assert_eq!(rds.iam().login_results("app")[3..], ["expired", "ok", "region", "ok"]);
    assert_eq!(
        rds.settings("app", &database.name).iter().map(|(name, _)| &name[18..]).collect::<Vec<_>>(),
        ["HOST", "PORT", "USER", "NAME", "TLS_CA", "AUTH", "REGION"]
    );
}

#[tokio::test]
async fn replica_lags_and_is_promoted() {
    let source = Rds::start_source().await;
    let mut replica = source.replica().await;
    let (key, database) = (Key::long_lived(), source.database().await);
    source.create_user("app", &format!("ALL ON {}.*", database.name)).await;
    source.iam().allow(&key, &["app"]);
    let token = key.token(&source.endpoint(), REGION, "app");
    let on = |rds: &Rds| rds.options("app").database(&database.name).password(&token);
    let mut writer = on(&source).connect().await.expect("let in");
    sqlx::query("CREATE TABLE notes (number INT PRIMARY KEY)").execute(&mut writer).await.expect("a table");
    let add = async |writer: &mut _, number: i32| {
        sqlx::query("INSERT INTO notes VALUES (?)").bind(number).execute(writer).await.map(drop)
    };
    let seen = async |number: i32| {
        // The user and the database are replicated too.
        let mut reader = on(&replica).connect().await.ok()?;
        let row = sqlx::query_scalar::<_, i32>("SELECT number FROM notes WHERE number = ?").bind(number);
        row.fetch_optional(&mut reader).await.ok().flatten()
    };
    add(&mut writer, 1).await.expect("a row");
    eventually("on the replica", async || seen(1).await).await;
    let mut reader = on(&replica).connect().await.expect("the same token and users");
    assert_eq!(number(&add(&mut reader, 9).await.unwrap_err()), 1290);

    replica.pause_replication().await;
    add(&mut writer, 2).await.expect("a row");
    eventually("fetched", async || replica.has_fetched_all_of(&source).await.then_some(())).await;
    let rows = "SELECT COUNT(*) FROM notes";
    let count = async |reader: &mut _| sqlx::query_scalar::<_, i64>(rows).fetch_one(reader).await.expect("a count");
    assert_eq!(count(&mut reader).await, 1, "held back");
    replica.resume_replication().await;
    eventually("caught up", async || (count(&mut reader).await == 2).then_some(())).await;

    // The proxy acts as a DNS name that changes its target.
    let switch = TcpProxy::start(&source.endpoint()).await;
    let through = on(&source).port(switch.port());
    assert_eq!(refusal(&through).await, 0);
    replica.promote().await;
    switch.point_to(&replica.endpoint());
    let mut promoted = through.connect().await.expect("let in");
    add(&mut promoted, 3).await.expect("it takes writes");
    let mut old = on(&source).connect().await.expect("it is still there");
    assert_eq!((count(&mut promoted).await, count(&mut old).await), (3, 2), "the source knows nothing of it");
}

/// A server that sends one word to each connection and then echoes.
async fn parrot(word: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(word).await?;
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

async fn hear(stream: &mut TcpStream, words: &[u8]) {
    let mut heard = vec![0; words.len()];
    stream.read_exact(&mut heard).await.expect("words");
    assert_eq!(heard, words);
}

#[tokio::test]
async fn tcp_proxy_injects_each_fault() {
    let mut switch = TcpProxy::start(&parrot(b"one").await).await;
    let address = format!("localhost:{}", switch.port());
    let mut first = TcpStream::connect(&address).await.unwrap();
    hear(&mut first, b"one").await;
    let long = vec![b'x'; 300_000];
    let (mut from, mut to) = first.split();
    let mut repeated = vec![0; long.len()];
    let (said, _) = tokio::join!(to.write_all(&long), from.read_exact(&mut repeated));
    said.unwrap();
    assert!(repeated == long, "more than fits at a time");

    switch.point_to(&parrot(b"two").await);
    let mut second = TcpStream::connect(&address).await.unwrap();
    hear(&mut second, b"two").await;
    first.write_all(b"still").await.unwrap();
    hear(&mut first, b"still").await;

    switch.stall(true);
    first.write_all(b"later").await.unwrap();
    let mut third = TcpStream::connect(&address).await.unwrap();
    assert!(timeout(A_WHILE, first.read_u8()).await.is_err(), "no data passes");
    assert!(timeout(A_WHILE, third.read_u8()).await.is_err(), "nor on a new connection");
    switch.stall(false);
    hear(&mut first, b"later").await;
    hear(&mut third, b"two").await;
    assert_eq!((switch.connections(), switch.open()), (3, 3));

    switch.refuse(true).await;
    assert_eq!(TcpStream::connect(&address).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    first.write_all(b"again").await.unwrap();
    hear(&mut first, b"again").await;
    switch.cut();
    for stream in [&mut first, &mut second, &mut third] {
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0, "closed");
    }
    eventually("closed", async || (switch.open() == 0).then_some(())).await;
    switch.refuse(false).await;
    hear(&mut TcpStream::connect(&address).await.unwrap(), b"two").await;

    let mut last = TcpStream::connect(&address).await.unwrap();
    drop(switch);
    eventually("removed", async || TcpStream::connect(&address).await.err()).await;
    eventually("cut", async || matches!(last.read(&mut [0; 8]).await, Ok(0) | Err(_)).then_some(())).await;
}

#[tokio::test]
async fn metadata_service_requires_session() {
    let (first, second) = (Key::temporary(100), Key::temporary(200));
    let metadata = MetadataService::start(&first, TimeDelta::hours(6)).await;
    let (_, url) = metadata.environment().remove(0);
    let http = Client::new();
    let path = "/latest/meta-data/iam/security-credentials/";
    let without = http.get(format!("{url}{path}")).send().await.unwrap();
    assert_eq!(without.status(), StatusCode::UNAUTHORIZED);
    let opened = http.put(format!("{url}/latest/api/token"));
    assert_eq!(opened.try_clone().unwrap().send().await.unwrap().status(), StatusCode::BAD_REQUEST);
    let session = opened.header("x-aws-ec2-metadata-token-ttl-seconds", "21600").send().await.unwrap();
    let session = session.text().await.unwrap();
    let get = async |path: &str| {
        let answer =
            http.get(format!("{url}{path}")).header("x-aws-ec2-metadata-token", &session).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    };
    assert_eq!(get(path).await, (StatusCode::OK, ROLE.to_owned()));
    assert_eq!(get("/latest/meta-data/placement/region").await, (StatusCode::OK, REGION.to_owned()));
    let credentials = async |key: &Key| {
        let document: Value = serde_json::from_str(&get(&format!("{path}{ROLE}")).await.1).expect("JSON");
        assert_eq!(document["AccessKeyId"], key.id);
        assert_eq!(document["SecretAccessKey"], key.secret);
        assert_eq!(document["Token"].as_str(), key.session_token.as_deref());
        let expires: chrono::DateTime<Utc> = document["Expiration"].as_str().unwrap().parse().expect("a time");
        expires - Utc::now()
    };
    assert!(credentials(&first).await > TimeDelta::hours(5));
    metadata.replace(&second, TimeDelta::seconds(20));
    assert!(credentials(&second).await <= TimeDelta::seconds(20));
    metadata.fail(true);
    assert_eq!(get(&format!("{path}{ROLE}")).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    metadata.fail(false);
    assert_eq!(metadata.fetches(), 3);

    let [(_, uri), (_, authorization)] = metadata.container_environment().try_into().unwrap();
    assert_eq!(http.get(&uri).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let document: Value =
        http.get(&uri).header("authorization", authorization).send().await.unwrap().json().await.unwrap();
    assert_eq!(document["AccessKeyId"], second.id);
}

#[tokio::test]
async fn aws_api_requires_signature() {
    let (aws, key) = (AwsApi::start().await, Key::long_lived());
    let [(_, url), _] = aws.environment().try_into().unwrap();
    let [(_, id), _] = key.environment().try_into().unwrap();
    assert_eq!(Key::temporary(50).environment()[2].0, "AWS_SESSION_TOKEN");
    let http = Client::new();
    let signed = |service: &str| {
        let credential = format!("AWS4-HMAC-SHA256 Credential={id}/20260101/{REGION}/{service}/aws4_request, ...");
        http.post(&url).header("authorization", credential)
    };
    let secret = async |name: &str| {
        let request = signed("secretsmanager").header("x-amz-target", "secretsmanager.GetSecretValue");
        let answer = request.body(serde_json::json!({ "SecretId": name }).to_string()).send().await.unwrap();
        let status = answer.status();
        (status.as_u16(), answer.json::<Value>().await.unwrap())
    };
    let identity = async || {
        let form = "Action=GetCallerIdentity&Version=2011-06-15";
        let answer = signed("sts").body(form).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    aws.put_secret("database", "{\"password\":\"first\"}");
    assert_eq!(secret("database").await.1["__type"], "UnrecognizedClientException");
    assert!(identity().await.1.contains("<Code>InvalidClientTokenId</Code>"));
    aws.allow(&key);
    let (status, first) = secret("database").await;
    assert_eq!((status, &first["SecretString"]), (200, &"{\"password\":\"first\"}".into()));
    aws.put_secret("database", "{\"password\":\"second\"}");
    let (_, second) = secret("database").await;
    assert_eq!(second["SecretString"], "{\"password\":\"second\"}");
    assert_ne!(first["VersionId"], second["VersionId"]);
    let (status, absent) = secret("no such secret").await;
    assert_eq!((status, &absent["__type"]), (400, &"ResourceNotFoundException".into()));
    let (status, said) = identity().await;
    assert!(status == 200 && said.contains(&format!(":assumed-role/{ROLE}/")), "{said}");
    let calls = aws.calls();
    assert_eq!(calls.iter().filter(|call| *call == "GetSecretValue").count(), 4);
    assert_eq!(calls.iter().filter(|call| *call == "GetCallerIdentity").count(), 2);
}

#[tokio::test]
async fn rogue_database_records_client_bytes() {
    const SECRET: &str = "what nobody else may hear";
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(folder.path(), "ours"), Authority::new(folder.path(), "theirs"));
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let others = Authority::new(&elsewhere, "others");
    let wrong = [
        ("somebody else's", others.issue(&["localhost"], Validity::Good)),
        ("expired", ours.issue(&["localhost"], Validity::Expired)),
        ("another name's", ours.issue(&["other.darkroom.test"], Validity::Good)),
    ];
    let right = ours.issue(&["localhost", "127.0.0.1"], Validity::Good);
    let tell = async |rogue: &RogueDatabase, mode, authority: &Authority| {
        let options = MySqlConnectOptions::new().host("localhost").port(rogue.port()).username("app");
        let options = options.password(SECRET).ssl_mode(mode).ssl_ca(authority.path()).enable_cleartext_plugin(true);
        options.connect().await.expect_err("the server denies access");
        rogue.settled().await;
        (rogue.received(SECRET), rogue.handshakes())
    };
    for asks in [Asks::AtOnce, Asks::Later] {
        // This shows that the server records credentials, so that their absence below is significant.
        let plain = RogueDatabase::without_tls(asks).await;
        assert_eq!(tell(&plain, MySqlSslMode::Preferred, &ours).await, (true, 0), "{asks:?}");
        let plain = RogueDatabase::without_tls(asks).await;
        assert_eq!(tell(&plain, MySqlSslMode::VerifyIdentity, &ours).await, (false, 0), "{asks:?}");
        for (name, issued) in &wrong {
            let rogue = RogueDatabase::with_tls(issued, asks).await;
            assert_eq!(tell(&rogue, MySqlSslMode::Required, &ours).await, (true, 1), "{asks:?}, {name}");
            let rogue = RogueDatabase::with_tls(issued, asks).await;
            assert_eq!(tell(&rogue, MySqlSslMode::VerifyIdentity, &ours).await, (false, 0), "{asks:?}, {name}");
        }
        // A valid certificate makes it the real server.
        let server = RogueDatabase::with_tls(&right, asks).await;
        assert_eq!(tell(&server, MySqlSslMode::VerifyIdentity, &ours).await, (true, 1), "{asks:?}");
        let server = RogueDatabase::with_tls(&right, asks).await;
        assert_eq!(tell(&server, MySqlSslMode::VerifyIdentity, &theirs).await, (false, 0), "{asks:?}");
    }
}
