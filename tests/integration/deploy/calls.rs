//! The AWS calls of each process, recorded on the wire, compared with its role: no call is denied, and no permission
//! is unused.

use std::{collections::BTreeSet, time::Duration};

use aws_sdk_sqs::Client as Sqs;
use serde_json::{Value, json};

use crate::{
    aws::lambda::{rest, sample},
    harness::{
        Client, TestServer,
        aws::{Cloud, Part, Role},
        client::id,
        eventually,
        fault_proxy::{Fault, FaultProxy},
        lambda::Function,
        numbered_photo,
        process::{Process, darkroom, run},
    },
};

const PARTS: [Part; 5] = [Part::Storage, Part::Queue, Part::Announce, Part::ReadModel, Part::Workflow];
/// A trivial state machine, because edits are not tested here.
const NOTHING_TO_DO: &str = r#"{"StartAt": "A", "States": {"A": {"Type": "Succeed"}}}"#;

/// Permissions that no recorded call uses, with the user or purpose.
const BY_OTHERS: [(&str, &str); 13] = [
    ("rds-db:connect", "MySQL asks for it at a login; `rds` has that"),
    ("kms:Decrypt", "S3 asks for it when an object is read; `s3` has an encrypted bucket"),
    ("kms:GenerateDataKey", "the same when one is written"),
    ("logs:CreateLogStream", "Lambda writes the function's log"),
    ("logs:PutLogEvents", "the same"),
    ("xray:PutTelemetryRecords", "Lambda tells of traces"),
    ("xray:PutTraceSegments", "the same"),
    ("ec2:AssignPrivateIpAddresses", "Lambda makes the function's interface in the VPC"),
    ("ec2:CreateNetworkInterface", "the same"),
    ("ec2:DeleteNetworkInterface", "the same"),
    ("ec2:DescribeNetworkInterfaces", "the same"),
    ("ec2:DescribeSubnets", "the same"),
    ("ec2:UnassignPrivateIpAddresses", "the same"),
];
/// Such permissions of single roles.
const BY_OTHERS_HERE: [(Role, &str, &str); 11] = [
    (Role::LambdaDevelop, "sqs:ReceiveMessage", "Lambda polls the queue"),
    (Role::LambdaDevelop, "sqs:GetQueueAttributes", "the same"),
    (Role::LambdaDevelop, "sqs:DeleteMessage", "and deletes what is done"),
    (Role::LambdaDevelop, "s3:ListBucket", "S3 asks for it, to answer 404 rather than 403"),
    (Role::LambdaStep, "s3:ListBucket", "the same"),
    (Role::LambdaAnnounce, "s3:ListBucket", "the same"),
    (Role::Operator, "ec2:DescribeInstances", "by hand, to find an instance"),
    (Role::Operator, "ssm:StartSession", "by hand, to enter it"),
    (Role::Operator, "ssm:ResumeSession", "by hand"),
    (Role::Operator, "ssm:TerminateSession", "by hand"),
    (Role::Operator, "ssmmessages:OpenDataChannel", "by hand"),
];

/// A role, and a proxy that records its calls.
struct Witness {
    role: Role,
    proxy: FaultProxy,
    variables: Vec<(String, String)>,
}

impl Witness {
    async fn of(cloud: &Cloud, role: Role) -> Self {
        let proxy = FaultProxy::start(&cloud.emulator.url).await;
        let mut variables = cloud.environment(role);
        variables.retain(|(name, _)| name != "AWS_ENDPOINT_URL");
        variables.push(("AWS_ENDPOINT_URL".to_owned(), proxy.url.clone()));
        Self { role, proxy, variables }
    }

    fn has_called(&self, call: &str) -> bool {
        self.proxy.calls().contains(call)
    }

    /// Asserts that the allowed actions are exactly the recorded ones and the exceptions.
    fn testify(&self) {
        let (called, allowed) = (self.proxy.calls(), self.role.actions());
        let beyond: Vec<_> = called.difference(&allowed).collect();
        assert!(beyond.is_empty(), "{:?} calls {beyond:?}, which it may not", self.role);
        let here = BY_OTHERS_HERE.iter().filter(|(role, ..)| *role == self.role).map(|(_, action, _)| *action);
        let others: BTreeSet<String> =
            BY_OTHERS.iter().map(|(action, _)| *action).chain(here).map(str::to_owned).collect();
        let unused: Vec<_> = allowed.iter().filter(|it| !called.contains(*it) && !others.contains(*it)).collect();
        assert!(unused.is_empty(), "{:?} may do what it never does: {unused:?}; it calls {called:?}", self.role);
    }
}

/// The API under test.
enum Api<'a> {
    Server(&'a str),
    Function(&'a Function),
}

impl Api<'_> {
    async fn ask(&self, method: &str, path: &str, token: &str, content: Option<&Value>) -> (u64, Value) {
        match self {
            Self::Server(url) => {
                let client = Client::new(url, Some(token.to_owned()));
                let mut request = client.request(method.parse().expect("a method"), path);
                if let Some(content) = content {
                    request = request.json(content);
                }
                let answer = client.send(request).await;
                (answer.status.as_u16().into(), answer.json())
            }
            Self::Function(function) => {
                let answer = function.invoke(rest(method, path, token, content)).await.expect("an answer");
                let body = answer["body"].as_str().filter(|body| !body.is_empty());
                (
                    answer["statusCode"].as_u64().expect("a status"),
                    body.map_or(Value::Null, |body| serde_json::from_str(body).expect("JSON")),
                )
            }
        }
    }

    async fn get(&self, path: &str, token: &str) -> Value {
        let (status, answer) = self.ask("GET", path, token, None).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn post(&self, path: &str, token: &str, content: &Value) -> Value {
        let (status, answer) = self.ask("POST", path, token, Some(content)).await;
        assert!(status < 300, "{path}: {status} {answer}");
        answer
    }
}

struct Scene {
    cloud: Cloud,
    server: TestServer,
    host: String,
}

impl Scene {
    async fn set() -> Self {
        let cloud = Cloud::start().await;
        cloud.make_state_machine(NOTHING_TO_DO).await;
        // Provides the database and the identity; other processes do all the work.
        let server = TestServer::start_in(&cloud, &PARTS, "worker.enabled = false").await;
        let host = server.identity.token("host").expect("a token");
        Self { cloud, server, host }
    }

    /// The variables of a process under a role.
    fn variables(&self, witness: &Witness) -> Vec<(String, String)> {
        [self.server.environment(), witness.variables.clone()].concat()
    }

    async fn process(&self, verb: &str, witness: &Witness, more: &[(&str, &str)]) -> Process {
        let own = witness.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Process::start(&self.server, verb, &own.chain(more.iter().copied()).collect::<Vec<_>>()).await
    }

    /// Without secrets, as in the template; functions that serve clients read them.
    async fn function(&self, handler: &str, witness: &Witness) -> Function {
        let mut variables = self.variables(witness);
        variables.retain(|(name, _)| name != "DARKROOM_STORAGE_SIGNING_KEYS");
        if handler == "api" {
            let id = self.cloud.keep("signing", self.server.identity.signing_secret()).await;
            variables.push(("DARKROOM_STORAGE_SIGNING_KEYS_SECRET_ID".to_owned(), id));
        }
        Function::start(handler, &variables).await
    }

    /// Runs every use case of albums, so that API and workers make all their calls; `drive` runs the workers.
    async fn life(&self, api: &Api<'_>, answers: &Witness, works: &Witness, drive: impl AsyncFn()) {
        let host = &*self.host;
        let until = async |what: &str, done: &dyn Fn() -> bool| {
            eventually(what, async || {
                drive().await;
                done().then_some(())
            })
            .await;
        };
        let album = id(&api.post("/v1/albums", host, &json!({ "title": "rights", "review": true })).await);
        let album = format!("/v1/albums/{album}");
        let invite = async |role: &str| {
            let made = api.post(&format!("{album}/invites"), host, &json!({ "role": role })).await;
            (made["token"].as_str().expect("a token").to_owned(), id(&made))
        };
        let ((viewer, viewers), (guest, _)) = (invite("view").await, invite("contribute").await);

        // An upload that becomes a visible photo.
        let photo = self.upload(api, &album, &guest, 1).await;
        let of_photo = format!("/v1/photos/{photo}");
        let ready = async || {
            drive().await;
            let photo = api.get(&of_photo, host).await;
            (photo["state"] == "ready").then_some(photo)
        };
        let ready = eventually("ready", ready).await;
        let thumb = ready["renditions"][0]["url"].as_str().expect("a URL");
        assert_eq!(reqwest::get(thumb).await.expect("an answer").status(), 200);
        let visible = json!({ "visibility": "visible" });
        assert_eq!(api.ask("PATCH", &of_photo, host, Some(&visible)).await.0, 200);
        let pages = async || {
            drive().await;
            let page = api.get(&format!("{album}/photos"), &viewer).await;
            api.get(&album, &viewer).await;
            (page["items"][0]["id"] == photo && answers.has_called("dynamodb:Query")).then_some(())
        };
        eventually("a page from the read model", pages).await;

        // Edits of a guest with different reviews; the token stands for that of a waiting state machine.
        for (review, told) in [("approve", "states:SendTaskSuccess"), ("refuse", "states:SendTaskFailure")] {
            let edit = api
                .post(&format!("{of_photo}/edits"), &guest, &json!({ "filters": [{ "name": "sepia", "amount": 0.5 }] }))
                .await;
            self.jobs_are_done(&drive).await;
            let change =
                format!("UPDATE edits SET task_token = 'a-token' WHERE id = UNHEX('{}')", id(&edit).replace('-', ""));
            assert_eq!(self.server.database.change(change).await, 1);
            let path = format!("{of_photo}/edits/{}", id(&edit));
            assert_eq!(api.ask("PATCH", &path, host, Some(&json!({ "review": review }))).await.0, 200);
            until(told, &|| works.has_called(told)).await;
            // Again, for an execution that already exists.
            if review == "approve" {
                self.jobs_are_done(&drive).await;
                let edit = id(&edit).parse().expect("an id");
                self.server.app.db.enqueue(darkroom::db::jobs::APPLY_EDIT, edit).await.expect("a job");
                until("looked after", &|| works.has_called("states:DescribeExecution")).await;
            }
        }

        // An invalid message, and one that returns because S3 is unreachable.
        let sqs = Sqs::new(&self.cloud.admin());
        sqs.send_message().queue_url(&self.cloud.queue).message_body("nonsense").send().await.expect("sent");
        until("laid aside", &|| works.has_called("sqs:SendMessage")).await;
        works.proxy.every_of("s3", 1, Fault::Status(503));
        self.upload(api, &album, &guest, 2).await;
        until("it comes again", &|| works.has_called("sqs:ChangeMessageVisibility")).await;
        works.proxy.clear_faults();

        // Deletes everything.
        assert_eq!(api.ask("DELETE", &format!("{album}/invites/{viewers}"), host, None).await.0, 204);
        assert_eq!(api.ask("DELETE", &of_photo, host, None).await.0, 204);
        until("its objects are gone", &|| works.has_called("s3:DeleteObject")).await;
        assert_eq!(api.ask("DELETE", &album, host, None).await.0, 204);
    }

    async fn upload(&self, api: &Api<'_>, album: &str, guest: &str, number: u32) -> String {
        let bytes = numbered_photo(number);
        let declaration = json!({ "content_type": "image/jpeg", "bytes": bytes.len() });
        let made = api.post(&format!("{album}/photos"), guest, &declaration).await;
        let sent = self.server.anybody().sending(&made["upload"], bytes).send().await.expect("an answer of S3");
        assert_eq!(sent.status(), 200);
        id(&made["photo"])
    }

    async fn jobs_are_done(&self, drive: &impl AsyncFn()) {
        eventually("no job is left", async || {
            drive().await;
            (self.server.database.count("SELECT COUNT(*) FROM jobs WHERE kind = 'apply_edit'").await == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_use_exactly_their_permissions() {
    let scene = Scene::set().await;
    let (serve, work) = (Witness::of(&scene.cloud, Role::Serve).await, Witness::of(&scene.cloud, Role::Work).await);
    let api = scene.process("serve", &serve, &[("DARKROOM_WORKER_ENABLED", "false")]).await;
    let sweeping = [
        ("DARKROOM_RECONCILER_INTERVAL", "1s"),
        ("DARKROOM_RECONCILER_FULL_SCAN_INTERVAL", "1s"),
        ("DARKROOM_RECONCILER_ORPHAN_GRACE_PERIOD", "0s"),
    ];
    let worker = scene.process("worker", &work, &sweeping).await;
    let s3 = aws_sdk_s3::Client::new(&scene.cloud.admin());
    let left = format!("originals/00/{}", uuid::Uuid::now_v7());
    s3.create_multipart_upload().bucket(&scene.cloud.bucket).key(left).send().await.expect("begun");
    scene
        .life(&Api::Server(&api.url), &serve, &work, async || {
            tokio::time::sleep(Duration::from_millis(50)).await;
        })
        .await;
    for (process, witness, look) in
        [(&api, &serve, "states:DescribeStateMachine"), (&worker, &work, "states:DescribeStateMachine")]
    {
        eventually(look, async || {
            reqwest::get(format!("{}/health", process.operations)).await.ok()?;
            (witness.has_called(look) && witness.has_called("sqs:GetQueueAttributes")).then_some(())
        })
        .await;
    }
    for rare in ["sqs:DeleteMessage", "s3:AbortMultipartUpload", "dynamodb:BatchWriteItem", "sns:Publish"] {
        eventually(rare, async || work.has_called(rare).then_some(())).await;
    }
    serve.testify();
    work.testify();
    assert!(!api.log().contains("AccessDenied") && !worker.log().contains("AccessDenied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_use_exactly_their_permissions() {
    let scene = Scene::set().await;
    let [api, develop, step, announce] = [Role::LambdaApi, Role::LambdaDevelop, Role::LambdaStep, Role::LambdaAnnounce];
    let [api, develop, step, announce] = [
        Witness::of(&scene.cloud, api).await,
        Witness::of(&scene.cloud, develop).await,
        Witness::of(&scene.cloud, step).await,
        Witness::of(&scene.cloud, announce).await,
    ];
    let [answering, developing, stepping, announcing] = [
        scene.function("api", &api).await,
        scene.function("develop", &develop).await,
        scene.function("step", &step).await,
        scene.function("announce", &announce).await,
    ];
    let sqs = Sqs::new(&scene.cloud.admin());
    // Acts as the schedule and the event source.
    let drive = async || {
        announcing.invoke(sample("schedule")).await.expect("it relays");
        let asked = sqs.receive_message().queue_url(&scene.cloud.queue).max_number_of_messages(10);
        let messages = asked.send().await.expect("a queue").messages.unwrap_or_default();
        let record = |message: &aws_sdk_sqs::types::Message| {
            let mut record = sample("sqs")["Records"][0].clone();
            record["messageId"] = message.message_id().into();
            record["receiptHandle"] = message.receipt_handle().into();
            record["body"] = message.body().into();
            record
        };
        let records: Vec<Value> = messages.iter().map(record).collect();
        if records.is_empty() {
            return;
        }
        let answer = developing.invoke(json!({ "Records": records })).await.expect("an answer");
        let again: Vec<&str> = answer["batchItemFailures"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|it| it["itemIdentifier"].as_str())
            .collect();
        for message in messages.iter().filter(|it| !again.contains(&it.message_id().expect("an id"))) {
            let receipt = message.receipt_handle().expect("a receipt");
            sqs.delete_message().queue_url(&scene.cloud.queue).receipt_handle(receipt).send().await.expect("deleted");
        }
    };

    // An edit whose photo is deleted meanwhile, so that its renditions are removed.
    let front = Api::Function(&answering);
    let album =
        format!("/v1/albums/{}", id(&front.post("/v1/albums", &scene.host, &json!({ "title": "steps" })).await));
    let photo = scene.upload(&front, &album, &scene.host, 3).await;
    let of_photo = format!("/v1/photos/{photo}");
    eventually("ready", async || {
        drive().await;
        (front.get(&of_photo, &scene.host).await["state"] == "ready").then_some(())
    })
    .await;
    let edit =
        front.post(&format!("{of_photo}/edits"), &scene.host, &json!({ "filters": [{ "name": "grayscale" }] })).await;
    let edit = id(&edit);
    let take = async |step: &str| stepping.invoke(json!({ "edit_id": edit, "step": step })).await.expect("an outcome");
    take("validate").await;
    step.proxy.every_of("s3", 1, Fault::Delay(Duration::from_secs(2)));
    let delete = async {
        eventually("renditions being written", async || step.has_called("s3:PutObject").then_some(())).await;
        assert_eq!(front.ask("DELETE", &of_photo, &scene.host, None).await.0, 204);
        step.proxy.clear_faults();
    };
    tokio::join!(take("apply"), delete);

    // An upload without a notification.
    let declaration = json!({ "content_type": "image/jpeg", "bytes": numbered_photo(4).len() });
    front.post(&format!("{album}/photos"), &scene.host, &declaration).await;
    scene.server.database.change("UPDATE photos SET sweep_at = '2020-01-01' WHERE state = 'awaiting_upload'").await;

    scene.life(&front, &api, &develop, &drive).await;
    eventually("pages removed", async || {
        drive().await;
        (develop.has_called("dynamodb:BatchWriteItem") && announce.has_called("s3:GetObject")).then_some(())
    })
    .await;
    for witness in [&api, &develop, &step, &announce] {
        witness.testify();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_use_exactly_their_permissions() {
    let scene = Scene::set().await;
    let operator = Witness::of(&scene.cloud, Role::Operator).await;
    let variables = scene.variables(&operator);
    // No other consumer reads the queue.
    let does = async |words: &[&str]| {
        let (code, said, complaints) = run(darkroom(words, &variables)).await;
        assert_eq!(code, 0, "{words:?}: {said}{complaints}");
        said
    };
    does(&["check"]).await;
    // An album that is only in MySQL, and one that is only in the table.
    let host = scene.server.user("host");
    let album = host.album("projected").await;
    host.invite(&album, &json!({ "role": "view" })).await;
    does(&["read-model", "sync"]).await;
    scene.server.database.change("DELETE FROM invites").await;
    scene.server.database.change("DELETE FROM albums").await;
    does(&["read-model", "sync", "--rebuild"]).await;
    let sqs = Sqs::new(&scene.cloud.admin());
    for body in ["once", "twice"] {
        sqs.send_message().queue_url(&scene.cloud.dead_letters).message_body(body).send().await.expect("sent");
    }
    for verb in ["retry", "drop"] {
        let message = eventually("listed", async || {
            does(&["jobs", "list", "--dead"]).await.split_whitespace().next().map(str::to_owned)
        })
        .await;
        does(&["jobs", verb, &message]).await;
    }
    operator.testify();
}
