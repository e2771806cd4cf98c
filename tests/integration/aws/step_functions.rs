//! Edits run by a worker and by a state machine: the same scenarios, the same results. The emulator runs the
//! definition in `deploy/stacks/messaging.yaml`, whose steps call the program as a function.

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
        numbered_photo, template,
    },
};

/// Who runs the steps of an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Executor {
    Worker,
    StateMachine,
}

const BOTH: [Executor; 2] = [Executor::Worker, Executor::StateMachine];

/// The definition of the state machine with its `DefinitionSubstitutions`.
fn definition(function: &str) -> String {
    let template = template::read("messaging");
    let definition = template["Resources"]["Edits"]["Properties"]["Definition"].to_string();
    let invoke = "arn:aws:states:::lambda:invoke";
    [("Invoke", invoke), ("InvokeAndWait", &format!("{invoke}.waitForTaskToken")), ("StepFunctionArn", function)]
        .into_iter()
        .fold(definition, |text, (name, value)| text.replace(&format!("${{{name}}}"), value))
}

struct EditService {
    cloud: Option<Cloud>,
    server: TestServer,
}

impl EditService {
    async fn start(executor: Executor) -> Self {
        Self::start_with(executor, "").await
    }

    async fn start_with(executor: Executor, settings: &str) -> Self {
        Self::start_within(executor, settings, "604800").await
    }

    /// With a review timeout in seconds for the state machine.
    async fn start_within(executor: Executor, settings: &str, seconds: &str) -> Self {
        match executor {
            Executor::Worker => Self { cloud: None, server: TestServer::start_with(settings).await },
            Executor::StateMachine => {
                let cloud = Cloud::start().await;
                // Functions have no local files, so photos are in the bucket.
                let parts = [Part::Storage, Part::Queue, Part::Workflow];
                let server = TestServer::start_in(&cloud, &parts, settings).await;
                let mut variables = server.environment();
                // The emulator discards the environment at once, so only warnings are logged.
                variables.push(("DARKROOM_LOG_LEVEL".to_owned(), "warn".to_owned()));
                let function = cloud.make_function("step", Role::LambdaStep, &variables).await;
                let definition = definition(&function);
                // The retries would take minutes.
                let definition = definition.replace("\"IntervalSeconds\":2", "\"IntervalSeconds\":1");
                let definition = definition.replace("\"MaxAttempts\":6", "\"MaxAttempts\":1");
                let definition =
                    definition.replace("\"TimeoutSeconds\":604800", &format!("\"TimeoutSeconds\":{seconds}"));
                cloud.make_state_machine(&definition).await;
                Self { cloud: Some(cloud), server }
            }
        }
    }

    /// Creates an album with a photo of a guest; returns host, guest, album and photo.
    async fn photo(&self, review: bool) -> (Client, Client, String, String) {
        let host = self.server.user("alice");
        let album = id(&host.post("/v1/albums", &json!({ "title": "edits", "review": review })).await.expect(201));
        let guest = self.server.bearer(&host.invite(&album, &json!({ "role": "contribute" })).await);
        let photo = guest.upload(&album, "image/jpeg", &numbered_photo(1)).await;
        host.settled(&photo).await;
        (host, guest, album, photo)
    }

    /// Waits for the end of an edit's execution and returns its result.
    async fn ended(&self, edit: &str) -> Ended {
        let (sfn, arn) = (self.step_functions(), self.execution(edit));
        let told = eventually("execution ended", async || {
            // It does not exist until a worker has started it.
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

    /// The history of an edit's execution.
    async fn events_of(&self, edit: &str) -> Vec<HistoryEvent> {
        let call = self.step_functions().get_execution_history().execution_arn(self.execution(edit)).max_results(1000);
        call.send().await.expect("a history").events
    }

    /// Waits until the execution waits for the host; returns the task token.
    async fn token(&self, edit: &str) -> String {
        let query = format!("SELECT task_token FROM edits WHERE id = {}", literal(edit));
        eventually("waiting with a token", async || {
            let row = sqlx::query_scalar(AssertSqlSafe(query.clone()));
            row.fetch_one(&mut self.server.database.connect().await).await.expect("an edit")
        })
        .await
    }

    /// Completes the review task with an outcome.
    async fn tell(&self, token: &str, outcome: &Value) {
        let call = self.step_functions().send_task_success().task_token(token).output(outcome.to_string());
        call.send().await.expect("it is told");
    }

    /// Adds a constraint to the table of edits.
    async fn takes_only(&self, condition: &str) {
        self.server.database.change(format!("ALTER TABLE edits ADD CONSTRAINT refused CHECK ({condition})")).await;
    }

    /// Removes the constraint.
    async fn takes_all(&self) {
        self.server.database.change("ALTER TABLE edits DROP CONSTRAINT refused").await;
    }

    fn step_functions(&self) -> Sfn {
        Sfn::new(&self.cloud.as_ref().expect("a cloud").admin())
    }

    /// The number of executions.
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

/// The number of failed task attempts.
fn failures(events: &[HistoryEvent]) -> usize {
    events.iter().filter(|event| event.r#type == HistoryEventType::TaskFailed).count()
}

/// The result of an execution.
struct Ended {
    status: ExecutionStatus,
    error: Option<String>,
    /// The entered states without `Route`.
    states: Vec<String>,
    /// The number of failed task attempts.
    failures: usize,
}

impl Ended {
    /// Asserts that it failed after these states, with this number of failed attempts.
    #[track_caller]
    fn failed_by(&self, states: &[&str], failures: usize) {
        assert_eq!(self.states, states);
        assert_eq!(self.failures, failures, "failed attempts");
        assert_eq!((&self.status, self.error.as_deref()), (&ExecutionStatus::Failed, Some("EditFailed")));
    }

    /// Asserts that it succeeded after these states, without a failed attempt.
    #[track_caller]
    fn done_by(&self, states: &[&str]) {
        assert_eq!(self.states, states);
        assert_eq!(self.failures, 0, "failed attempts");
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

/// An edit without its ids and times.
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

/// Runs a scenario with both executors, and asserts equal edits and events.
async fn with_both_executors(scenario: impl AsyncFn(&EditService, Executor) -> Vec<Value>) {
    let mut outcomes = Vec::new();
    for executor in BOTH {
        let service = EditService::start(executor).await;
        outcomes.push(scenario(&service, executor).await);
    }
    assert_eq!(outcomes[0], outcomes[1]);
}

async fn events(who: &Client, album: &str) -> Value {
    let told = who.get(&format!("/v1/albums/{album}/events")).await.expect(200);
    told["items"].as_array().expect("a list").iter().map(|event| event["kind"].clone()).collect()
}

#[tokio::test]
async fn edit_becomes_ready() {
    with_both_executors(async |service, executor| {
        let (host, _, album, photo) = service.photo(false).await;
        let filters = json!([{ "name": "rotate", "degrees": 90 }, { "name": "sepia", "amount": 0.5 }]);
        let edit = ask(&host, &photo, &filters).await;
        let made = settled(&host, &photo, &edit).await;
        assert_eq!(made["state"], "ready", "{executor:?}: {made}");
        let fetched = service.server.anybody().get(made["renditions"][0]["url"].as_str().expect("a URL")).await;
        assert_eq!(fetched.status, 200);
        if executor == Executor::StateMachine {
            service.ended(&id(&edit)).await.done_by(&["Validate", "Apply", "File", "Announce", "Done"]);
        }
        vec![outcome(&made), events(&host, &album).await]
    })
    .await;
}

#[tokio::test]
async fn rejects_edit_with_empty_result() {
    with_both_executors(async |service, executor| {
        let (host, _, album, photo) = service.photo(false).await;
        // Crops to 1 % five times.
        let crop = json!({ "name": "crop", "x": 0.0, "y": 0.0, "width": 0.01, "height": 0.01 });
        let edit = ask(&host, &photo, &json!(vec![crop; 5])).await;
        let failed = settled(&host, &photo, &edit).await;
        assert_eq!(failed["state"], "failed", "{executor:?}: {failed}");
        if executor == Executor::StateMachine {
            service.ended(&id(&edit)).await.failed_by(&["Validate", "Fail", "Failed"], 0);
        }
        vec![outcome(&failed), events(&host, &album).await]
    })
    .await;
}

#[tokio::test]
async fn host_decides_on_guest_edit() {
    with_both_executors(async |service, executor| {
        let (host, guest, album, photo) = service.photo(true).await;
        let sepia = json!([{ "name": "sepia", "amount": 0.5 }]);
        let mut outcomes = Vec::new();
        for (review, ends) in [("approve", "ready"), ("refuse", "failed")] {
            let edit = ask(&guest, &photo, &sepia).await;
            assert_eq!(edit["state"], "pending_review");
            if executor == Executor::StateMachine {
                service.token(&id(&edit)).await;
            }
            let path = format!("/v1/photos/{photo}/edits/{}", id(&edit));
            host.patch(&path, &json!({ "review": review })).await.expect(200);
            let settled = settled(&guest, &photo, &edit).await;
            assert_eq!(settled["state"], ends, "{executor:?}: {settled}");
            outcomes.push(outcome(&settled));
            if executor == Executor::StateMachine {
                let ended = service.ended(&id(&edit)).await;
                if review == "approve" {
                    ended.done_by(&["Validate", "Review", "Apply", "File", "Announce", "Done"]);
                } else {
                    assert_eq!(ended.states, ["Validate", "Review", "Refused"]);
                    assert_eq!((ended.status, ended.error.as_deref()), (ExecutionStatus::Failed, Some("Refused")));
                }
                assert_eq!(
                    service.server.database.count("SELECT COUNT(*) FROM edits WHERE task_token IS NOT NULL").await,
                    0
                );
            }
        }
        outcomes.push(events(&host, &album).await);
        outcomes
    })
    .await;
}

/// The decision arrives before the task token exists.
#[tokio::test]
async fn keeps_immediate_review_decision() {
    with_both_executors(async |service, executor| {
        let (host, guest, album, photo) = service.photo(true).await;
        let edit = ask(&guest, &photo, &json!([{ "name": "grayscale" }])).await;
        let path = format!("/v1/photos/{photo}/edits/{}", id(&edit));
        host.patch(&path, &json!({ "review": "approve" })).await.expect(200);
        let made = settled(&guest, &photo, &edit).await;
        if executor == Executor::StateMachine {
            // With or without the review state, depending on timing.
            assert_eq!(service.ended(&id(&edit)).await.status, ExecutionStatus::Succeeded);
        }
        vec![outcome(&made), events(&host, &album).await]
    })
    .await;
}

#[tokio::test]
async fn fails_edit_after_max_attempts() {
    let settings = "worker.max_attempts = 2";
    let service = EditService::start_with(Executor::StateMachine, settings).await;
    let (host, _, album, photo) = service.photo(false).await;
    let cloud = service.cloud.as_ref().expect("a cloud");
    let original = format!("originals/{}/{photo}", &photo[34..]);
    let s3 = aws_sdk_s3::Client::new(&cloud.admin());
    s3.delete_object().bucket(&cloud.bucket).key(original).send().await.expect("its original");
    let edit = ask(&host, &photo, &json!([{ "name": "grayscale" }])).await;
    let failed = settled(&host, &photo, &edit).await;
    assert_eq!((&failed["state"], &failed["fail_reason"]), (&json!("failed"), &json!("the edit could not be made")));
    service.ended(&id(&edit)).await.failed_by(&["Validate", "Apply", "GiveUp", "Fail", "Failed"], 2);
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.failed"]));
}

#[tokio::test]
async fn unreviewed_edit_fails_after_timeout() {
    let service = EditService::start_within(Executor::StateMachine, "", "2").await;
    let (host, guest, album, photo) = service.photo(true).await;
    let edit = ask(&guest, &photo, &json!([{ "name": "grayscale" }])).await;
    let failed = settled(&guest, &photo, &edit).await;
    assert_eq!(failed["fail_reason"], "the host did not review it in time");
    service.ended(&id(&edit)).await.failed_by(&["Validate", "Review", "NobodyDecided", "Fail", "Failed"], 1);
    // Too late: it has failed.
    let path = format!("/v1/photos/{photo}/edits/{}", id(&edit));
    host.patch(&path, &json!({ "review": "approve" })).await.expect(409);
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.failed"]));
}

/// An execution is stopped or aborted: the reconciler finds the edit, and its job reads the result.
#[tokio::test]
async fn aborted_execution_fails_edit() {
    let service = EditService::start(Executor::StateMachine).await;
    let (_, guest, _, photo) = service.photo(true).await;
    for (row, reason) in [
        // While it waits for the host, as at the review timeout.
        ("", "the edit could not be made"),
        ("created_at = '2020-01-01', ", "the host did not review it in time"),
        // And after the host's approval.
        ("state = 'processing', task_token = NULL, ", "the edit could not be made"),
    ] {
        let edit = ask(&guest, &photo, &json!([{ "name": "grayscale" }])).await;
        service.token(&id(&edit)).await;
        let execution = service.execution(&id(&edit));
        service.step_functions().stop_execution().execution_arn(execution).send().await.expect("it is ended");
        let edit_id = literal(&id(&edit));
        service
            .server
            .database
            .change(format!("UPDATE edits SET {row}sweep_at = '2020-01-01' WHERE id = {edit_id}"))
            .await;
        darkroom::jobs::reconciler::run(&service.server.app, false).await.expect("a sweep");
        let failed = settled(&guest, &photo, &edit).await;
        assert_eq!((&failed["state"], &failed["fail_reason"]), (&json!("failed"), &json!(reason)), "{row}");
    }
}

/// Longer than the attempt timeout, 3 s. Timed-out calls still take effect, and execution names are unique.
#[tokio::test]
async fn slow_step_functions_delays_edits() {
    let EditService { cloud, server } = EditService::start_with(Executor::StateMachine, "worker.enabled = false").await;
    let slow = Slow::beside(cloud.as_ref().expect("a cloud"), server).await;
    let host = slow.host();
    let album = host.album("edits").await;
    let photo = slow.server.user("alice").upload(&album, "image/jpeg", &numbered_photo(1)).await;
    host.settled(&photo).await;
    slow.proxy.every_of("states", 1, Fault::Delay(Duration::from_secs(4)));
    let edit = ask(&host, &photo, &json!([{ "name": "grayscale" }])).await;
    tokio::join!(slow.check_tells_of("step_functions"), slow.health_tells_of("step_functions"));
    slow.proxy.clear_faults();
    assert_eq!(settled(&host, &photo, &edit).await["state"], "ready");
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.ready"]));
    let service = EditService { cloud, server: slow.server };
    service.ended(&id(&edit)).await.done_by(&["Validate", "Apply", "File", "Announce", "Done"]);
    assert_eq!(service.executions().await, 1);
}

/// Two workers run the job, which starts one execution.
#[tokio::test]
async fn starts_one_execution_per_edit() {
    let service = EditService::start(Executor::StateMachine).await;
    let (host, _, album, photo) = service.photo(false).await;
    let edit = ask(&host, &photo, &json!([{ "name": "grayscale" }])).await;
    for _ in 0..3 {
        service.server.app.db.enqueue(darkroom::db::jobs::APPLY_EDIT, id(&edit).parse().unwrap()).await.expect("a job");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(settled(&host, &photo, &edit).await["state"], "ready");
    service.ended(&id(&edit)).await.done_by(&["Validate", "Apply", "File", "Announce", "Done"]);
    assert_eq!(service.executions().await, 1);
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.ready"]));
}

/// Each step fails in the function; after the last attempt `GiveUp` follows.
#[tokio::test]
async fn repeated_step_failure_fails_edit() {
    let service = EditService::start(Executor::StateMachine).await;
    let (host, _, album, photo) = service.photo(false).await;
    // The final write of the step fails; `Apply` has its own test.
    for (written, states) in [
        ("step <> 'apply'", &["Validate", "GiveUp", "Fail", "Failed"][..]),
        ("step <> 'announce'", &["Validate", "Apply", "File", "GiveUp", "Fail", "Failed"]),
    ] {
        service.takes_only(&format!("step IS NULL OR {written}")).await;
        let edit = ask(&host, &photo, &json!([{ "name": "grayscale" }])).await;
        let failed = settled(&host, &photo, &edit).await;
        assert_eq!(
            (&failed["state"], &failed["fail_reason"]),
            (&json!("failed"), &json!("the edit could not be made"))
        );
        service.ended(&id(&edit)).await.failed_by(states, 2);
        service.takes_all().await;
    }
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.failed", "edit.failed"]));
}

/// The edit is ready by then, and the event's own job publishes it: there is nothing to fail.
#[tokio::test]
async fn edit_is_ready_if_only_last_step_fails() {
    let service = EditService::start(Executor::StateMachine).await;
    let (host, _, album, photo) = service.photo(false).await;
    service.takes_only("state <> 'ready' OR step IS NOT NULL").await;
    let edit = ask(&host, &photo, &json!([{ "name": "grayscale" }])).await;
    let states = ["Validate", "Apply", "File", "Announce", "GiveUp", "Fail", "Failed"];
    service.ended(&id(&edit)).await.failed_by(&states, 2);
    let made = settled(&host, &photo, &edit).await;
    assert_eq!((&made["state"], &made["fail_reason"]), (&json!("ready"), &Value::Null));
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.ready"]));
    let announced = format!("SELECT COUNT(*) FROM albums WHERE announced_seq = 2 AND id = {}", literal(&album));
    eventually("published", async || {
        (service.server.database.count(AssertSqlSafe(announced.clone())).await == 1).then_some(())
    })
    .await;
}

/// An error in `Fail` is not caught: the execution fails, and the reconciler fails the edit.
#[tokio::test]
async fn reconciler_fails_abandoned_edit() {
    let service = EditService::start(Executor::StateMachine).await;
    let (host, _, album, photo) = service.photo(false).await;
    service.takes_only("state <> 'failed'").await;
    let crop = json!({ "name": "crop", "x": 0.0, "y": 0.0, "width": 0.01, "height": 0.01 });
    let edit = ask(&host, &photo, &json!(vec![crop; 5])).await;
    let ended = service.ended(&id(&edit)).await;
    assert_eq!(ended.states, ["Validate", "Fail"]);
    assert_eq!(ended.failures, 2);
    assert_eq!((ended.status, ended.error.as_deref()), (ExecutionStatus::Failed, Some("Darkroom.step")));
    let path = format!("/v1/photos/{photo}/edits/{}", id(&edit));
    assert_eq!(host.get(&path).await.expect(200)["state"], "processing");
    service.takes_all().await;
    service.server.database.change("UPDATE edits SET sweep_at = '2020-01-01'").await;
    assert_eq!(darkroom::jobs::reconciler::run(&service.server.app, false).await.expect("a sweep").enqueued, 1);
    assert_eq!(settled(&host, &photo, &edit).await["fail_reason"], "the edit could not be made");
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.failed"]));
}

/// Another caller fails the review task; the first time it is retried.
#[tokio::test]
async fn repeated_review_failure_fails_edit() {
    let service = EditService::start(Executor::StateMachine).await;
    let (host, guest, album, photo) = service.photo(true).await;
    let edit = ask(&guest, &photo, &json!([{ "name": "grayscale" }])).await;
    for told in 1..=2 {
        eventually("waiting and notified", async || {
            // On AWS each attempt has its own token; the emulator reuses one.
            let token = service.token(&id(&edit)).await;
            service.step_functions().send_task_failure().task_token(token).error("Somebody").send().await.ok()
        })
        .await;
        eventually("failure received", async || (failures(&service.events_of(&id(&edit)).await) == told).then_some(()))
            .await;
    }
    let failed = settled(&guest, &photo, &edit).await;
    assert_eq!((&failed["state"], &failed["fail_reason"]), (&json!("failed"), &json!("the edit could not be made")));
    service.ended(&id(&edit)).await.failed_by(&["Validate", "Review", "GiveUp", "Fail", "Failed"], 2);
    let path = format!("/v1/photos/{photo}/edits/{}", id(&edit));
    host.patch(&path, &json!({ "review": "approve" })).await.expect(409);
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.failed"]));
}

#[tokio::test]
async fn accepts_restart_rejects_unknown_step() {
    let service = EditService::start(Executor::StateMachine).await;
    let (host, guest, album, photo) = service.photo(true).await;
    let next = |step: &str| json!({ "outcome": "next", "next": { "step": step } });

    let edit = ask(&guest, &photo, &json!([{ "name": "grayscale" }])).await;
    let token = service.token(&id(&edit)).await;
    service.tell(&token, &next("validate")).await;
    // It waits for the host again.
    eventually("waiting again", async || (service.token(&id(&edit)).await != token).then_some(())).await;
    host.patch(&format!("/v1/photos/{photo}/edits/{}", id(&edit)), &json!({ "review": "approve" })).await.expect(200);
    assert_eq!(settled(&guest, &photo, &edit).await["state"], "ready");
    let states = ["Validate", "Review", "Validate", "Review", "Apply", "File", "Announce", "Done"];
    service.ended(&id(&edit)).await.done_by(&states);

    let edit = ask(&guest, &photo, &json!([{ "name": "sepia", "amount": 0.5 }])).await;
    service.tell(&service.token(&id(&edit)).await, &next("dance")).await;
    let failed = settled(&guest, &photo, &edit).await;
    assert_eq!((&failed["state"], &failed["fail_reason"]), (&json!("failed"), &json!("the edit could not be made")));
    service.ended(&id(&edit)).await.failed_by(&["Validate", "Review", "GiveUp", "Fail", "Failed"], 0);
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.ready", "edit.failed"]));
}

#[tokio::test]
async fn ignores_deleted_edit() {
    let service = EditService::start(Executor::StateMachine).await;
    let (host, guest, album, photo) = service.photo(true).await;
    let edit = ask(&guest, &photo, &json!([{ "name": "grayscale" }])).await;
    let token = service.token(&id(&edit)).await;
    host.delete(&format!("/v1/photos/{photo}")).await.expect(204);
    service.tell(&token, &json!({ "outcome": "next", "next": { "step": "apply" } })).await;
    service.ended(&id(&edit)).await.done_by(&["Validate", "Review", "Apply", "Done"]);

    let never = Uuid::now_v7().to_string();
    let machine = &service.cloud.as_ref().expect("a cloud").state_machine;
    let start = service.step_functions().start_execution().state_machine_arn(machine).name(&never);
    start.input(json!({ "edit_id": never }).to_string()).send().await.expect("an execution");
    service.ended(&never).await.done_by(&["Validate", "Done"]);
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "photo.removed"]));
    eventually("renditions removed", async || service.server.stored().await.is_empty().then_some(())).await;
}
