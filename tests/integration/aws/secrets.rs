//! Settings from Secrets Manager: read once at start-up, with a clear error if that fails.

use rustix::process::Signal;
use serde_json::json;

use crate::{
    aws::lambda::rest,
    harness::{
        TestServer,
        aws::{Cloud, Part, Role, call},
        eventually,
        lambda::Function,
        process::{Process, darkroom, free_address, run},
    },
};

const SIGNING: &str = "DARKROOM_STORAGE_SIGNING_KEYS_SECRET_ID";

/// An account with a server, and variables for other processes, which contain no secret.
async fn stage() -> (Cloud, TestServer, Vec<(String, String)>) {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, &[Part::Storage, Part::Queue], "worker.enabled = false").await;
    let mut variables = [server.environment(), cloud.environment(Role::LambdaApi)].concat();
    variables.retain(|(name, _)| name != "DARKROOM_STORAGE_SIGNING_KEYS");
    (cloud, server, variables)
}

fn with(variables: &[(String, String)], more: &[(&str, &str)]) -> Vec<(String, String)> {
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    variables.iter().cloned().chain(more).collect()
}

#[tokio::test]
async fn reads_settings_from_secrets_manager() {
    let (cloud, server, variables) = stage().await;
    let host = server.user("host");
    for title in ["first", "second"] {
        host.album(title).await;
    }
    // The current signing key and the previous one.
    let keys = format!("{}\n{}\n", server.identity.signing_secret(), "an-older-key-of-thirty-two-characters");
    let signing = cloud.keep("signing", &keys).await;
    let pem = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    let cloudfront = cloud.keep("cloudfront", &pem).await;
    let variables = with(
        &variables,
        &[
            (SIGNING, &signing),
            ("DARKROOM_STORAGE_CLOUDFRONT_URL", "https://photos.example"),
            ("DARKROOM_STORAGE_CLOUDFRONT_KEY_ID", "K2JCJMDEHXQW5F"),
            ("DARKROOM_STORAGE_CLOUDFRONT_KEY_SECRET_ID", &cloudfront),
        ],
    );
    let function = Function::start("api", &variables).await;
    let token = server.identity.token("host").expect("a token");
    let page = host.get("/v1/albums?limit=1").await.expect(200);
    let mut rest = rest("GET", "/v1/albums", &token, None);
    rest["multiValueQueryStringParameters"] = json!({ "cursor": [page["next_cursor"]] });
    let answer = function.invoke(rest).await.expect("an answer");
    assert_eq!(answer["statusCode"], 200, "the server's cursor: {answer}");
    assert!(answer["body"].as_str().is_some_and(|body| body.contains("first")), "{answer}");
    assert!(!function.log().contains(server.identity.signing_secret()));
}

/// Certificates are renewed even if Secrets Manager is unreachable or the secret is deleted.
#[tokio::test]
async fn reload_reads_no_secret() {
    let (cloud, server, variables) = stage().await;
    let signing = cloud.keep("signing", &format!("{}\n", server.identity.signing_secret())).await;
    let variables = with(&variables, &[(SIGNING, &signing)]);
    let process = Process::launch(darkroom(&["serve"], &variables), &free_address()).await;
    let gone = json!({ "SecretId": signing, "ForceDeleteWithoutRecovery": true });
    call(&cloud.emulator, "secretsmanager", "secretsmanager.DeleteSecret", &gone).await;
    process.signal(Signal::HUP);
    eventually("read again", async || process.log().contains("the configuration was read again").then_some(())).await;
    // Start-up reads secrets.
    let (ended, _, complaint) = run(darkroom(&["serve"], &variables)).await;
    assert!(ended == 1 && complaint.contains(SIGNING), "{ended}: {complaint}");
}

#[tokio::test]
async fn names_unreadable_secret_before_binding() {
    let (cloud, server, variables) = stage().await;
    let taken = server.url.strip_prefix("http://").expect("an address");
    let missing = format!("signing-{}-nowhere", cloud.unique);
    let forbidden = cloud.keep("forbidden", "nobody-may-read-this-but-the-owner").await;
    let short = cloud.keep("signing", "short-and-secret").await;
    let blank = cloud.keep(&format!("signing-{}-blank", cloud.unique), "\n").await;
    let bytes = json!({ "Name": format!("signing-{}-bytes", cloud.unique), "SecretBinary": "AAECAw==" });
    let bytes = call(&cloud.emulator, "secretsmanager", "secretsmanager.CreateSecret", &bytes).await;
    let bytes = bytes["ARN"].as_str().expect("an ARN");
    let nowhere = ("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
    for (id, more, code, words) in [
        (&*missing, None, 1, [&*missing, "are the name, the region"]),
        (&forbidden, None, 1, ["AccessDenied", "does the role allow this action"]),
        (&blank, None, 1, [&blank, "holds no text"]),
        (bytes, None, 1, [bytes, "holds no text"]),
        (&short, Some(nowhere), 1, [&short, "is there a route to it"]),
        (&short, None, 64, ["storage.signing_keys: must hold", "32 characters"]),
        // With other mistakes, which are not retried.
        (&missing, Some(("DARKROOM_LOG_LEVEL", "=")), 64, ["log.level", "are the name, the region"]),
        (
            &short,
            Some(("DARKROOM_STORAGE_SIGNING_KEYS", "given")),
            64,
            ["DARKROOM_STORAGE_SIGNING_KEYS and ", "are both given"],
        ),
    ] {
        let variables =
            with(&variables, &[&[(SIGNING, id), ("DARKROOM_HTTP_LISTEN", taken)], more.as_slice()].concat());
        let (ended, said, complaint) = run(darkroom(&["serve"], &variables)).await;
        assert!(ended == code && said.is_empty(), "{id}: {ended}: {said}{complaint}");
        let setting = if code == 64 { words[0] } else { SIGNING };
        for word in [setting, words[0], words[1]] {
            assert!(complaint.contains(word), "{id}: no {word}: {complaint}");
        }
        for value in ["short-and-secret", "nobody-may-read-this"] {
            assert!(!complaint.contains(value), "{id}: {complaint}");
        }
    }

    // `darkroom check` and the Lambda initialization report the same.
    let variables = with(&variables, &[(SIGNING, &forbidden)]);
    let (ended, _, complaint) = run(darkroom(&["check"], &variables)).await;
    assert!(ended == 1 && complaint.contains(SIGNING), "{ended}: {complaint}");
    let mut function = Function::start("api", &variables).await;
    assert_eq!(function.ended().await.code(), Some(1), "{}", function.log());
    let told = function.init_error().expect("reported to Lambda");
    assert!(told["errorMessage"].as_str().is_some_and(|said| said.contains(SIGNING)), "{told}");
    // Another function serves no clients and needs no signing key.
    let mut variables = variables;
    variables.retain(|(name, _)| name != SIGNING);
    let mut function = Function::start("develop", &variables).await;
    let done = function.invoke(json!({ "Records": [] })).await;
    assert_eq!(done, Ok(json!({ "batchItemFailures": [] })), "{}", function.log());
    assert_eq!(function.stop().await.code(), Some(0));
}
