//! Edits led by a worker and by a state machine: the same scenarios, the same outcome. The state machine runs in the emulator by
//! the definition in `deploy/stacks/messaging.yaml`, and its steps are done by the real program as a function.

use std::time::Duration;

use aws_sdk_sfn::{
    Client as Sfn,
    types::{ExecutionStatus, HistoryEvent, HistoryEventType},
};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{
    chaos::slow_aws::Slow,
    harness::{
        Client, TestServer,
        aws::{Cloud, Part, Role},
        client::id,
        database::literal,
        eventually,
        fault_proxy::Fault,
        numbered, template,
    },
};

/// Who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Led {
    ByWorker,
    ByStateMachine,
}

const BOTH: [Led; 2] = [Led::ByWorker, Led::ByStateMachine];

/// The state machine's definition, with what `DefinitionSubstitutions` puts in.
fn definition(function: &str) -> String {
    let template = template::read("messaging");
    let definition = template["Resources"]["Edits"]["Properties"]["Definition"].to_string();
    let invoke = "arn:aws:states:::lambda:invoke";
    [("Invoke", invoke), ("InvokeAndWait", &format!("{invoke}.waitForTaskToken")), ("StepFunctionArn", function)]
        .into_iter()
        .fold(definition, |text, (name, value)| text.replace(&format!("${{{name}}}"), value))
}

struct Bed {
    cloud: Option<Cloud>,
    server: TestServer,
}

impl Bed {
    async fn start(led: Led) -> Self {
        Self::start_with(led, "").await
    }

    async fn start_with(led: Led, settings: &str) -> Self {
        Self::start_within(led, settings, "604800").await
    }

    /// The same with a host who has so many seconds to decide, where a state machine waits for that.
    async fn start_within(led: Led, settings: &str, seconds: &str) -> Self {
        match led {
            Led::ByWorker => Self { cloud: None, server: TestServer::start_with(settings).await },
            Led::ByStateMachine => {
                let cloud = Cloud::start().await;
                // A function has no files of its own, so photos are in the bucket.
                let parts = [Part::Storage, Part::Queue, Part::Workflow];
                let server = TestServer::start_in(&cloud, &parts, settings).await;
                let mut variables = server.environment();
                // An environment of Lambda is thrown away at once here; nothing else is to be heard from it.
                variables.push(("DARKROOM_LOG_LEVEL".to_owned(), "warn".to_owned()));
                let function = cloud.make_function("step", Role::LambdaStep, &variables).await;
                let definition = definition(&function);
                // Its tries would take minutes.
                let definition = definition.replace("\"IntervalSeconds\":2", "\"IntervalSeconds\":1");
                let definition = definition.replace("\"MaxAttempts\":6", "\"MaxAttempts\":1");
                let definition =
                    definition.replace("\"TimeoutSeconds\":604800", &format!("\"TimeoutSeconds\":{seconds}"));
                cloud.make_state_machine(&definition).await;
                Self { cloud: Some(cloud), server }
            }
        }
    }

    /// An album with a photo that a guest has added: host, guest, album, photo.
    async fn photo(&self, review: bool) -> (Client, Client, String, String) {
        let host = self.server.user("alice");
        let album = id(&host.post("/v1/albums", &json!({ "title": "edits", "review": review })).await.expect(201));
        let guest = self.server.bearer(&host.invite(&album, &json!({ "role": "contribute" })).await);
        let photo = guest.upload(&album, "image/jpeg", &numbered(1)).await;
        host.settled(&photo).await;
        (host, guest, album, photo)
    }

    /// Waits until the execution of an edit has ended; answers how.
    async fn ended(&self, edit: &str) -> Ended {
        let (sfn, arn) = (self.step_functions(), self.execution(edit));
        let told = eventually("the execution has ended", async || {
            // Until a worker has begun it, there is none.
            let told = sfn.describe_execution().execution_arn(&arn).send().await.ok()?;
            (told.status != ExecutionStatus::Running).then_some(told)
        })
        .await;
        let events = self.events_of(edit).await;
        let failures = failures(&events);
        let entered = events.into_iter().filter_map(|event| Some(event.state_entered_event_details?.name));
        let states = entered.filter(|name| name != "Route").collect();
        Ended { status: told.status, error: told.error, states, failures }
    }

    /// What has happened in the execution of an edit.
    async fn events_of(&self, edit: &str) -> Vec<HistoryEvent> {
        let call = self.step_functions().get_execution_history().execution_arn(self.execution(edit)).max_results(1000);
        call.send().await.expect("a history").events
    }

    /// Waits until the execution of an edit waits for the host; answers its token.
    async fn token(&self, edit: &str) -> String {
        let query = format!("SELECT task_token FROM edits WHERE id = {}", literal(edit));
        eventually("it waits with a token", async || {
            let row = sqlx::query_scalar(AssertSqlSafe(query.clone()));
            row.fetch_one(&mut self.server.database.connect().await).await.expect("an edit")
        })
        .await
    }

    /// Tells an execution that waits in the host's stead: what comes next.
    async fn tell(&self, token: &str, outcome: &Value) {
        let call = self.step_functions().send_task_success().task_token(token).output(outcome.to_string());
        call.send().await.expect("it is told");
    }

    /// From now on the database takes no edit of which this is not true.
    async fn takes_only(&self, condition: &str) {
        self.server.database.change(format!("ALTER TABLE edits ADD CONSTRAINT refused CHECK ({condition})")).await;
    }

    /// From now on it takes all of them again.
    async fn takes_all(&self) {
        self.server.database.change("ALTER TABLE edits DROP CONSTRAINT refused").await;
    }

    fn step_functions(&self) -> Sfn {
        Sfn::new(&self.cloud.as_ref().expect("a cloud").admin())
    }

    /// How many executions there were.
    async fn executions(&self) -> usize {
        let machine = &self.cloud.as_ref().expect("a cloud").state_machine;
        let listed = self.step_functions().list_executions().state_machine_arn(machine).send().await;
        listed.expect("a list").executions.len()
    }

    /// The ARN of an edit's execution.
    fn execution(&self, edit: &str) -> String {
        let machine = &self.cloud.as_ref().expect("a cloud").state_machine;
        format!("{}:{edit}", machine.replace(":stateMachine:", ":execution:"))
    }
}

/// How many tries of tasks failed.
fn failures(events: &[HistoryEvent]) -> usize {
    events.iter().filter(|event| event.r#type == HistoryEventType::TaskFailed).count()
}

/// How an execution has ended.
struct Ended {
    status: ExecutionStatus,
    /// The error that it failed with.
    error: Option<String>,
    /// The states that it went through, less `Route`.
    states: Vec<String>,
    /// How many tries of its tasks failed.
    failures: usize,
}

impl Ended {
    /// It went through these states, with so many failed tries, to the state `Failed`.
    #[track_caller]
    fn failed_by(&self, states: &[&str], failures: usize) {
        assert_eq!(self.states, states);
        assert_eq!(self.failures, failures, "failed tries");
        assert_eq!((&self.status, self.error.as_deref()), (&ExecutionStatus::Failed, Some("EditFailed")));
    }

    /// It went through these states, without a failed try, to the state `Done`.
    #[track_caller]
    fn done_by(&self, states: &[&str]) {
        assert_eq!(self.states, states);
        assert_eq!(self.failures, 0, "failed tries");
        assert_eq!((&self.status, self.error.as_deref()), (&ExecutionStatus::Succeeded, None));
    }
}

async fn ask(who: &Client, photo: &str, filters: &Value) -> Value {
    who.post(&format!("/v1/photos/{photo}/edits"), &json!({ "filters": filters })).await.expect(202)
}

async fn settled(who: &Client, photo: &str, edit: &Value) -> Value {
    eventually("ready or failed", async || {
        let edit = who.get(&format!("/v1/photos/{photo}/edits/{}", id(edit))).await.expect(200);
        matches!(edit["state"].as_str(), Some("ready" | "failed")).then_some(edit)
    })
    .await
}

/// What an edit came to, without what differs from one to the next.
fn outcome(edit: &Value) -> Value {
    let mut edit = edit.clone();
    for field in ["id", "photo_id", "created_at", "ready_at"] {
        edit[field] = edit[field].is_null().into();
    }
    for rendition in edit["renditions"].as_array_mut().expect("a list") {
        rendition["url"] = Value::Null;
    }
    edit
}

/// Runs a scenario under both; answers what the edits and the album's events came to under each, which is the same.
async fn under_both(scenario: impl AsyncFn(&Bed, Led) -> Vec<Value>) {
    let mut outcomes = Vec::new();
    for led in BOTH {
        let bed = Bed::start(led).await;
        outcomes.push(scenario(&bed, led).await);
    }
    assert_eq!(outcomes[0], outcomes[1]);
}

async fn events(who: &Client, album: &str) -> Value {
    let told = who.get(&format!("/v1/albums/{album}/events")).await.expect(200);
    told["items"].as_array().expect("a list").iter().map(|event| event["kind"].clone()).collect()
}

#[tokio::test]
async fn edit_becomes_ready() {
    under_both(async |bed, led| {
        let (host, _, album, photo) = bed.photo(false).await;
        let filters = json!([{ "name": "rotate", "degrees": 90 }, { "name": "sepia", "amount": 0.5 }]);
        let edit = ask(&host, &photo, &filters).await;
        let made = settled(&host, &photo, &edit).await;
        assert_eq!(made["state"], "ready", "{led:?}: {made}");
        let fetched = bed.server.anybody().get(made["renditions"][0]["url"].as_str().expect("a URL")).await;
        assert_eq!(fetched.status, 200);
        if led == Led::ByStateMachine {
            bed.ended(&id(&edit)).await.done_by(&["Validate", "Apply", "File", "Announce", "Done"]);
        }
        vec![outcome(&made), events(&host, &album).await]
    })
    .await;
}

#[tokio::test]
async fn rejects_edit_with_empty_result() {
    under_both(async |bed, led| {
        let (host, _, album, photo) = bed.photo(false).await;
        // One percent of one percent, five times over.
        let crop = json!({ "name": "crop", "x": 0.0, "y": 0.0, "width": 0.01, "height": 0.01 });
        let edit = ask(&host, &photo, &json!(vec![crop; 5])).await;
        let failed = settled(&host, &photo, &edit).await;
        assert_eq!(failed["state"], "failed", "{led:?}: {failed}");
        if led == Led::ByStateMachine {
            bed.ended(&id(&edit)).await.failed_by(&["Validate", "Fail", "Failed"], 0);
        }
        vec![outcome(&failed), events(&host, &album).await]
    })
    .await;
}

#[tokio::test]
async fn host_decides_on_guest_edit() {
    under_both(async |bed, led| {
        let (host, guest, album, photo) = bed.photo(true).await;
        let sepia = json!([{ "name": "sepia", "amount": 0.5 }]);
        let mut outcomes = Vec::new();
        for (review, ends) in [("approve", "ready"), ("refuse", "failed")] {
            let edit = ask(&guest, &photo, &sepia).await;
            assert_eq!(edit["state"], "pending_review");
            if led == Led::ByStateMachine {
                bed.token(&id(&edit)).await;
            }
            let path = format!("/v1/photos/{photo}/edits/{}", id(&edit));
            host.patch(&path, &json!({ "review": review })).await.expect(200);
            let settled = settled(&guest, &photo, &edit).await;
            assert_eq!(settled["state"], ends, "{led:?}: {settled}");
            outcomes.push(outcome(&settled));
            if led == Led::ByStateMachine {
                let ended = bed.ended(&id(&edit)).await;
                if review == "approve" {
                    ended.done_by(&["Validate", "Review", "Apply", "File", "Announce", "Done"]);
                } else {
                    assert_eq!(ended.states, ["Validate", "Review", "Refused"]);
                    assert_eq!((ended.status, ended.error.as_deref()), (ExecutionStatus::Failed, Some("Refused")));
                }
                assert_eq!(
                    bed.server.database.count("SELECT COUNT(*) FROM edits WHERE task_token IS NOT NULL").await,
                    0
                );
            }
        }
        outcomes.push(events(&host, &album).await);
        outcomes
    })
    .await;
}

/// The decision is there before there is a token to tell the state machine with.
#[tokio::test]
async fn keeps_immediate_review_decision() {
    under_both(async |bed, led| {
        let (host, guest, album, photo) = bed.photo(true).await;
        let edit = ask(&guest, &photo, &json!([{ "name": "grayscale" }])).await;
        let path = format!("/v1/photos/{photo}/edits/{}", id(&edit));
        host.patch(&path, &json!({ "review": "approve" })).await.expect(200);
        let made = settled(&guest, &photo, &edit).await;
        if led == Led::ByStateMachine {
            // By way of the review or past it, as it happens.
            assert_eq!(bed.ended(&id(&edit)).await.status, ExecutionStatus::Succeeded);
        }
        vec![outcome(&made), events(&host, &album).await]
    })
    .await;
}

#[tokio::test]
async fn fails_edit_after_max_attempts() {
    let settings = "worker.max_attempts = 2";
    let bed = Bed::start_with(Led::ByStateMachine, settings).await;
    let (host, _, album, photo) = bed.photo(false).await;
    let cloud = bed.cloud.as_ref().expect("a cloud");
    let original = format!("originals/{}/{photo}", &photo[34..]);
    let s3 = aws_sdk_s3::Client::new(&cloud.admin());
    s3.delete_object().bucket(&cloud.bucket).key(original).send().await.expect("its original");
    let edit = ask(&host, &photo, &json!([{ "name": "grayscale" }])).await;
    let failed = settled(&host, &photo, &edit).await;
    assert_eq!((&failed["state"], &failed["fail_reason"]), (&json!("failed"), &json!("the edit could not be made")));
    bed.ended(&id(&edit)).await.failed_by(&["Validate", "Apply", "GiveUp", "Fail", "Failed"], 2);
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.failed"]));
}

#[tokio::test]
async fn unreviewed_edit_fails_after_timeout() {
    let bed = Bed::start_within(Led::ByStateMachine, "", "2").await;
    let (host, guest, album, photo) = bed.photo(true).await;
    let edit = ask(&guest, &photo, &json!([{ "name": "grayscale" }])).await;
    let failed = settled(&guest, &photo, &edit).await;
    assert_eq!(failed["fail_reason"], "the host did not review it in time");
    bed.ended(&id(&edit)).await.failed_by(&["Validate", "Review", "NobodyDecided", "Fail", "Failed"], 1);
    // Too late: it has failed, and says so.
    let path = format!("/v1/photos/{photo}/edits/{}", id(&edit));
    host.patch(&path, &json!({ "review": "approve" })).await.expect(409);
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.failed"]));
}

/// Somebody ends an execution, or it breaks off: the sweep finds the edit, and its job finds what became of it.
#[tokio::test]
async fn aborted_execution_fails_edit() {
    let bed = Bed::start(Led::ByStateMachine).await;
    let (_, guest, _, photo) = bed.photo(true).await;
    for (row, reason) in [
        // While it waits for the host; so it does when all the time for that is over.
        ("", "the edit could not be made"),
        ("created_at = '2020-01-01', ", "the host did not review it in time"),
        // And after the host has agreed.
        ("state = 'processing', task_token = NULL, ", "the edit could not be made"),
    ] {
        let edit = ask(&guest, &photo, &json!([{ "name": "grayscale" }])).await;
        bed.token(&id(&edit)).await;
        let execution = bed.execution(&id(&edit));
        bed.step_functions().stop_execution().execution_arn(execution).send().await.expect("it is ended");
        let edit_id = literal(&id(&edit));
        bed.server.database.change(format!("UPDATE edits SET {row}sweep_at = '2020-01-01' WHERE id = {edit_id}")).await;
        darkroom::jobs::reconciler::run(&bed.server.app, false).await.expect("a sweep");
        let failed = settled(&guest, &photo, &edit).await;
        assert_eq!((&failed["state"], &failed["fail_reason"]), (&json!("failed"), &json!(reason)), "{row}");
    }
}

/// Past the 3 s of a try. What was given up arrives all the same, and of a name there is one execution.
#[tokio::test]
async fn slow_step_functions_delays_edits() {
    let Bed { cloud, server } = Bed::start_with(Led::ByStateMachine, "worker.enabled = false").await;
    let slow = Slow::beside(cloud.as_ref().expect("a cloud"), server).await;
    let host = slow.host();
    let album = host.album("edits").await;
    let photo = slow.server.user("alice").upload(&album, "image/jpeg", &numbered(1)).await;
    host.settled(&photo).await;
    slow.proxy.every_of("states", 1, Fault::Delay(Duration::from_secs(4)));
    let edit = ask(&host, &photo, &json!([{ "name": "grayscale" }])).await;
    tokio::join!(slow.check_tells_of("step_functions"), slow.health_tells_of("step_functions"));
    slow.proxy.heal();
    assert_eq!(settled(&host, &photo, &edit).await["state"], "ready");
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.ready"]));
    let bed = Bed { cloud, server: slow.server };
    bed.ended(&id(&edit)).await.done_by(&["Validate", "Apply", "File", "Announce", "Done"]);
    assert_eq!(bed.executions().await, 1);
}

/// The job comes twice, from two workers: there is one execution.
#[tokio::test]
async fn starts_one_execution_per_edit() {
    let bed = Bed::start(Led::ByStateMachine).await;
    let (host, _, album, photo) = bed.photo(false).await;
    let edit = ask(&host, &photo, &json!([{ "name": "grayscale" }])).await;
    for _ in 0..3 {
        bed.server.app.db.enqueue(darkroom::db::jobs::APPLY_EDIT, id(&edit).parse().unwrap()).await.expect("a job");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(settled(&host, &photo, &edit).await["state"], "ready");
    bed.ended(&id(&edit)).await.done_by(&["Validate", "Apply", "File", "Announce", "Done"]);
    assert_eq!(bed.executions().await, 1);
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.ready"]));
}

/// Each step is done by the function and fails in it; the last of its tries leads to `GiveUp`.
#[tokio::test]
async fn repeated_step_failure_fails_edit() {
    let bed = Bed::start(Led::ByStateMachine).await;
    let (host, _, album, photo) = bed.photo(false).await;
    // What the step writes at its end is refused; `Apply` has a test of its own.
    for (written, states) in [
        ("step <> 'apply'", &["Validate", "GiveUp", "Fail", "Failed"][..]),
        ("step <> 'announce'", &["Validate", "Apply", "File", "GiveUp", "Fail", "Failed"]),
    ] {
        bed.takes_only(&format!("step IS NULL OR {written}")).await;
        let edit = ask(&host, &photo, &json!([{ "name": "grayscale" }])).await;
        let failed = settled(&host, &photo, &edit).await;
        assert_eq!(
            (&failed["state"], &failed["fail_reason"]),
            (&json!("failed"), &json!("the edit could not be made"))
        );
        bed.ended(&id(&edit)).await.failed_by(states, 2);
        bed.takes_all().await;
    }
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.failed", "edit.failed"]));
}

/// By then it is ready, and whoever sees the album learns of it by the event's own job: there is nothing to give up.
#[tokio::test]
async fn edit_is_ready_if_only_last_step_fails() {
    let bed = Bed::start(Led::ByStateMachine).await;
    let (host, _, album, photo) = bed.photo(false).await;
    bed.takes_only("state <> 'ready' OR step IS NOT NULL").await;
    let edit = ask(&host, &photo, &json!([{ "name": "grayscale" }])).await;
    let states = ["Validate", "Apply", "File", "Announce", "GiveUp", "Fail", "Failed"];
    bed.ended(&id(&edit)).await.failed_by(&states, 2);
    let made = settled(&host, &photo, &edit).await;
    assert_eq!((&made["state"], &made["fail_reason"]), (&json!("ready"), &Value::Null));
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.ready"]));
    let announced = format!("SELECT COUNT(*) FROM albums WHERE announced_seq = 2 AND id = {}", literal(&album));
    eventually("announced", async || {
        (bed.server.database.count(AssertSqlSafe(announced.clone())).await == 1).then_some(())
    })
    .await;
}

/// `Fail` has nobody to catch it: the execution breaks off, and the sweep sees to the edit.
#[tokio::test]
async fn reconciler_fails_abandoned_edit() {
    let bed = Bed::start(Led::ByStateMachine).await;
    let (host, _, album, photo) = bed.photo(false).await;
    bed.takes_only("state <> 'failed'").await;
    let crop = json!({ "name": "crop", "x": 0.0, "y": 0.0, "width": 0.01, "height": 0.01 });
    let edit = ask(&host, &photo, &json!(vec![crop; 5])).await;
    let ended = bed.ended(&id(&edit)).await;
    assert_eq!(ended.states, ["Validate", "Fail"]);
    assert_eq!(ended.failures, 2);
    assert_eq!((ended.status, ended.error.as_deref()), (ExecutionStatus::Failed, Some("Darkroom.step")));
    let path = format!("/v1/photos/{photo}/edits/{}", id(&edit));
    assert_eq!(host.get(&path).await.expect(200)["state"], "processing");
    bed.takes_all().await;
    bed.server.database.change("UPDATE edits SET sweep_at = '2020-01-01'").await;
    assert_eq!(darkroom::jobs::reconciler::run(&bed.server.app, false).await.expect("a sweep").enqueued, 1);
    assert_eq!(settled(&host, &photo, &edit).await["fail_reason"], "the edit could not be made");
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.failed"]));
}

/// Somebody else than the service has a say in the execution, and ends the wait in error; the first time it waits anew.
#[tokio::test]
async fn repeated_review_failure_fails_edit() {
    let bed = Bed::start(Led::ByStateMachine).await;
    let (host, guest, album, photo) = bed.photo(true).await;
    let edit = ask(&guest, &photo, &json!([{ "name": "grayscale" }])).await;
    for told in 1..=2 {
        eventually("it waits and is told", async || {
            // To AWS each try has a token of its own; the emulator has one for all.
            let token = bed.token(&id(&edit)).await;
            bed.step_functions().send_task_failure().task_token(token).error("Somebody").send().await.ok()
        })
        .await;
        eventually("it has heard", async || (failures(&bed.events_of(&id(&edit)).await) == told).then_some(())).await;
    }
    let failed = settled(&guest, &photo, &edit).await;
    assert_eq!((&failed["state"], &failed["fail_reason"]), (&json!("failed"), &json!("the edit could not be made")));
    bed.ended(&id(&edit)).await.failed_by(&["Validate", "Review", "GiveUp", "Fail", "Failed"], 2);
    let path = format!("/v1/photos/{photo}/edits/{}", id(&edit));
    host.patch(&path, &json!({ "review": "approve" })).await.expect(409);
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.failed"]));
}

#[tokio::test]
async fn accepts_restart_rejects_unknown_step() {
    let bed = Bed::start(Led::ByStateMachine).await;
    let (host, guest, album, photo) = bed.photo(true).await;
    let next = |step: &str| json!({ "outcome": "next", "next": { "step": step } });

    let edit = ask(&guest, &photo, &json!([{ "name": "grayscale" }])).await;
    let token = bed.token(&id(&edit)).await;
    bed.tell(&token, &next("validate")).await;
    // The host is waited for once more.
    eventually("it waits anew", async || (bed.token(&id(&edit)).await != token).then_some(())).await;
    host.patch(&format!("/v1/photos/{photo}/edits/{}", id(&edit)), &json!({ "review": "approve" })).await.expect(200);
    assert_eq!(settled(&guest, &photo, &edit).await["state"], "ready");
    let states = ["Validate", "Review", "Validate", "Review", "Apply", "File", "Announce", "Done"];
    bed.ended(&id(&edit)).await.done_by(&states);

    let edit = ask(&guest, &photo, &json!([{ "name": "sepia", "amount": 0.5 }])).await;
    bed.tell(&bed.token(&id(&edit)).await, &next("dance")).await;
    let failed = settled(&guest, &photo, &edit).await;
    assert_eq!((&failed["state"], &failed["fail_reason"]), (&json!("failed"), &json!("the edit could not be made")));
    bed.ended(&id(&edit)).await.failed_by(&["Validate", "Review", "GiveUp", "Fail", "Failed"], 0);
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.ready", "edit.failed"]));
}

#[tokio::test]
async fn ignores_deleted_edit() {
    let bed = Bed::start(Led::ByStateMachine).await;
    let (host, guest, album, photo) = bed.photo(true).await;
    let edit = ask(&guest, &photo, &json!([{ "name": "grayscale" }])).await;
    let token = bed.token(&id(&edit)).await;
    host.delete(&format!("/v1/photos/{photo}")).await.expect(204);
    bed.tell(&token, &json!({ "outcome": "next", "next": { "step": "apply" } })).await;
    bed.ended(&id(&edit)).await.done_by(&["Validate", "Review", "Apply", "Done"]);

    let never = Uuid::now_v7().to_string();
    let machine = &bed.cloud.as_ref().expect("a cloud").state_machine;
    let start = bed.step_functions().start_execution().state_machine_arn(machine).name(&never);
    start.input(json!({ "edit_id": never }).to_string()).send().await.expect("an execution");
    bed.ended(&never).await.done_by(&["Validate", "Done"]);
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "photo.removed"]));
    eventually("without its pictures", async || bed.server.stored().await.is_empty().then_some(())).await;
}
