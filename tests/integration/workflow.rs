//! Edits led by a worker and by a state machine: the same scenarios, the same outcome. The state machine runs in the emulator by
//! the definition in `deploy/stacks/messaging.yaml`, and its steps are done by the real program as a function.

use std::time::Duration;

use aws_sdk_sfn::Client as Sfn;
use serde_json::{Value, json};

use crate::support::{
    Client, TestServer,
    client::id,
    cloud::{Cloud, Part, Role},
    eventually, numbered, template,
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

    /// Waits until the execution of an edit has ended; answers the names of the states that it went through.
    async fn history(&self, edit: &str) -> Option<Vec<String>> {
        let cloud = self.cloud.as_ref()?;
        let sfn = Sfn::new(&cloud.admin());
        let arn = format!("{}:{edit}", cloud.state_machine.replace(":stateMachine:", ":execution:"));
        eventually("the execution has ended", async || {
            let told = sfn.describe_execution().execution_arn(&arn).send().await.expect("an execution");
            (told.status.as_str() != "RUNNING").then_some(())
        })
        .await;
        let told = sfn.get_execution_history().execution_arn(&arn).max_results(1000).send().await.expect("a history");
        let entered = told.events.into_iter().filter_map(|event| Some(event.state_entered_event_details?.name));
        Some(entered.filter(|name| name != "Route").collect())
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
async fn an_edit_becomes_ready() {
    under_both(async |bed, led| {
        let (host, _, album, photo) = bed.photo(false).await;
        let filters = json!([{ "name": "rotate", "degrees": 90 }, { "name": "sepia", "amount": 0.5 }]);
        let edit = ask(&host, &photo, &filters).await;
        let made = settled(&host, &photo, &edit).await;
        assert_eq!(made["state"], "ready", "{led:?}: {made}");
        let fetched = bed.server.anybody().get(made["renditions"][0]["url"].as_str().expect("a URL")).await;
        assert_eq!(fetched.status, 200);
        if let Some(states) = bed.history(&id(&edit)).await {
            assert_eq!(states, ["Validate", "Apply", "File", "Announce", "Done"]);
        }
        vec![outcome(&made), events(&host, &album).await]
    })
    .await;
}

#[tokio::test]
async fn what_leaves_nothing_of_a_photo_fails() {
    under_both(async |bed, led| {
        let (host, _, album, photo) = bed.photo(false).await;
        // One percent of one percent, five times over.
        let crop = json!({ "name": "crop", "x": 0.0, "y": 0.0, "width": 0.01, "height": 0.01 });
        let edit = ask(&host, &photo, &json!(vec![crop; 5])).await;
        let failed = settled(&host, &photo, &edit).await;
        assert_eq!(failed["state"], "failed", "{led:?}: {failed}");
        if let Some(states) = bed.history(&id(&edit)).await {
            assert_eq!(states, ["Validate", "Fail", "Failed"]);
        }
        vec![outcome(&failed), events(&host, &album).await]
    })
    .await;
}

#[tokio::test]
async fn the_host_decides_on_a_guests_edit() {
    under_both(async |bed, led| {
        let (host, guest, album, photo) = bed.photo(true).await;
        let sepia = json!([{ "name": "sepia", "amount": 0.5 }]);
        let mut outcomes = Vec::new();
        for (review, ends) in [("approve", "ready"), ("refuse", "failed")] {
            let edit = ask(&guest, &photo, &sepia).await;
            assert_eq!(edit["state"], "pending_review");
            if led == Led::ByStateMachine {
                eventually("it waits with a token", async || {
                    let waiting = "SELECT COUNT(*) FROM edits WHERE task_token IS NOT NULL";
                    (bed.server.database.count(waiting).await == 1).then_some(())
                })
                .await;
            }
            let path = format!("/v1/photos/{photo}/edits/{}", id(&edit));
            host.patch(&path, &json!({ "review": review })).await.expect(200);
            let settled = settled(&guest, &photo, &edit).await;
            assert_eq!(settled["state"], ends, "{led:?}: {settled}");
            outcomes.push(outcome(&settled));
            if let Some(states) = bed.history(&id(&edit)).await {
                let wanted: &[&str] = match review {
                    "approve" => &["Validate", "Review", "Apply", "File", "Announce", "Done"],
                    _ => &["Validate", "Review", "Refused"],
                };
                assert_eq!(states, wanted);
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
async fn a_decision_that_comes_at_once_is_not_lost() {
    under_both(async |bed, _| {
        let (host, guest, album, photo) = bed.photo(true).await;
        let edit = ask(&guest, &photo, &json!([{ "name": "grayscale" }])).await;
        let path = format!("/v1/photos/{photo}/edits/{}", id(&edit));
        host.patch(&path, &json!({ "review": "approve" })).await.expect(200);
        let made = settled(&guest, &photo, &edit).await;
        bed.history(&id(&edit)).await;
        vec![outcome(&made), events(&host, &album).await]
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_made_fails_after_its_tries() {
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
    let states = bed.history(&id(&edit)).await.expect("an execution");
    assert_eq!(states, ["Validate", "Apply", "GiveUp", "Fail", "Failed"]);
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.failed"]));
}

#[tokio::test]
async fn what_nobody_decides_on_fails_in_the_end() {
    let bed = Bed::start_within(Led::ByStateMachine, "", "2").await;
    let (host, guest, album, photo) = bed.photo(true).await;
    let edit = ask(&guest, &photo, &json!([{ "name": "grayscale" }])).await;
    let failed = settled(&guest, &photo, &edit).await;
    assert_eq!(failed["fail_reason"], "nobody looked at it in time");
    let states = bed.history(&id(&edit)).await.expect("an execution");
    assert_eq!(states, ["Validate", "Review", "NobodyDecided", "Fail", "Failed"]);
    // Too late: it has failed, and says so.
    let path = format!("/v1/photos/{photo}/edits/{}", id(&edit));
    host.patch(&path, &json!({ "review": "approve" })).await.expect(409);
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.failed"]));
}

/// Somebody ends an execution, or it breaks off: the sweep finds the edit, and its job finds what became of it.
#[tokio::test]
async fn an_edit_whose_execution_was_ended_fails() {
    let bed = Bed::start(Led::ByStateMachine).await;
    let (_, guest, _, photo) = bed.photo(true).await;
    let edit = ask(&guest, &photo, &json!([{ "name": "grayscale" }])).await;
    let cloud = bed.cloud.as_ref().expect("a cloud");
    eventually("it waits", async || {
        let waiting = "SELECT COUNT(*) FROM edits WHERE task_token IS NOT NULL";
        (bed.server.database.count(waiting).await == 1).then_some(())
    })
    .await;
    let sfn = Sfn::new(&cloud.admin());
    let arn = format!("{}:{}", cloud.state_machine.replace(":stateMachine:", ":execution:"), id(&edit));
    sfn.stop_execution().execution_arn(&arn).send().await.expect("it is ended");
    // Nobody waits for the host any more; what was agreed to can't be made.
    bed.server
        .database
        .change("UPDATE edits SET state = 'processing', task_token = NULL, sweep_at = '2020-01-01'")
        .await;
    darkroom::worker::sweep::run(&bed.server.app, false).await.expect("a sweep");
    let failed = settled(&guest, &photo, &edit).await;
    assert_eq!(failed["fail_reason"], "the edit could not be made");
}

/// The job comes twice, from two workers: there is one execution.
#[tokio::test]
async fn of_an_edit_there_is_one_execution() {
    let bed = Bed::start(Led::ByStateMachine).await;
    let (host, _, album, photo) = bed.photo(false).await;
    let edit = ask(&host, &photo, &json!([{ "name": "grayscale" }])).await;
    for _ in 0..3 {
        bed.server.app.db.enqueue(darkroom::db::jobs::Kind::Edit, id(&edit).parse().unwrap()).await.expect("a job");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(settled(&host, &photo, &edit).await["state"], "ready");
    bed.history(&id(&edit)).await;
    let cloud = bed.cloud.as_ref().expect("a cloud");
    let sfn = Sfn::new(&cloud.admin());
    let listed = sfn.list_executions().state_machine_arn(&cloud.state_machine).send().await.expect("a list");
    assert_eq!(listed.executions.len(), 1);
    assert_eq!(events(&host, &album).await, json!(["photo.ready", "edit.ready"]));
}
