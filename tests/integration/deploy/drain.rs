//! Termination of an instance of an Auto Scaling group: `deploy/package/drain` with a fake metadata service, group and
//! systemd, and the real AWS CLI.

use std::{
    fs,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use chrono::TimeDelta;
use tempfile::TempDir;

use crate::harness::{
    eventually,
    iam::Key,
    instance_metadata::{self, INSTANCE, MetadataService},
    process::{KillOnDrop, write_program},
    tools,
};

const GROUP: &str = "darkroom-service";

/// The Auto Scaling group: recorded calls, and whether the lifecycle hook is waiting.
#[derive(Default)]
struct Group {
    told: Mutex<Vec<String>>,
    waits: Mutex<bool>,
}

async fn told(State(group): State<Arc<Group>>, body: Bytes) -> (StatusCode, String) {
    let fields: Vec<(String, String)> = url::form_urlencoded::parse(&body).into_owned().collect();
    let of = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map_or("", |(_, value)| value);
    let action = of("Action");
    assert_eq!(
        (of("AutoScalingGroupName"), of("LifecycleHookName"), of("InstanceId")),
        (GROUP, "terminating", INSTANCE)
    );
    if !*group.waits.lock().unwrap() {
        group.told.lock().unwrap().push(format!("{action}: too early"));
        let error = "<Error><Code>ValidationError</Code><Message>No active Lifecycle Action found</Message></Error>";
        return (StatusCode::BAD_REQUEST, format!("<ErrorResponse>{error}</ErrorResponse>"));
    }
    group.told.lock().unwrap().push(format!("{action} {}", of("LifecycleActionResult")).trim_end().to_owned());
    (StatusCode::OK, format!("<{action}Response><{action}Result/></{action}Response>"))
}

struct DrainScript {
    child: KillOnDrop,
    metadata: MetadataService,
    group: Arc<Group>,
    folder: TempDir,
}

impl DrainScript {
    async fn start() -> Self {
        let key = Key { id: "AKIAINSTANCE".to_owned(), secret: "a secret".to_owned(), session_token: None };
        let metadata = MetadataService::start(&key, TimeDelta::hours(6)).await;
        let group = Arc::<Group>::default();
        let endpoint =
            instance_metadata::serve(Router::new().route("/", post(told)).with_state(Arc::clone(&group))).await;
        let folder = tempfile::tempdir().unwrap();
        let systemctl = folder.path().join("systemctl");
        write_program(&systemctl, "#!/bin/sh\necho \"$@\" >>\"$0.told\"\n");
        let aws = tools::aws_client();
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/package/drain"));
        let path = format!("{}:{}:/usr/bin:/bin", folder.path().display(), aws.parent().unwrap().display());
        command.env_clear().env("PATH", path).envs(metadata.environment()).env("AUTO_SCALING_GROUP", GROUP);
        command.env("AWS_ENDPOINT_URL_AUTO_SCALING", endpoint).env("DARKROOM_DRAIN_PAUSE", "0.05");
        let child = KillOnDrop(command.stdin(Stdio::null()).spawn().unwrap());
        Self { child, metadata, group, folder }
    }

    fn told(&self) -> Vec<String> {
        self.group.told.lock().unwrap().clone()
    }

    /// The recorded systemctl calls.
    fn stopped(&self) -> String {
        fs::read_to_string(self.folder.path().join("systemctl.told")).unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_service_after_deregistration() {
    let mut drain = DrainScript::start().await;
    // An unreachable metadata service has no effect.
    drain.metadata.fail(true);
    drain.metadata.aim("Terminated");
    let begun = drain.metadata.sessions();
    eventually("polled repeatedly", async || (drain.metadata.sessions() > begun + 3).then_some(())).await;
    assert_eq!((drain.told(), drain.stopped()), (vec![], String::new()));
    drain.metadata.fail(false);
    eventually("lifecycle hook polled", async || (drain.told().len() > 1).then_some(())).await;
    assert!(drain.told().iter().all(|told| told == "RecordLifecycleActionHeartbeat: too early"), "{:?}", drain.told());
    assert_eq!(drain.stopped(), "", "the balancer still sends connections");
    *drain.group.waits.lock().unwrap() = true;
    let ended = eventually("exited", async || drain.child.try_wait().unwrap()).await;
    assert!(ended.success());
    assert_eq!(drain.stopped(), "stop darkroom.socket darkroom.service darkroom-worker.service\n");
    let told = drain.told();
    assert_eq!(told[told.len() - 2..], ["RecordLifecycleActionHeartbeat", "CompleteLifecycleAction CONTINUE"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_instance_in_service() {
    let mut drain = DrainScript::start().await;
    eventually("polled", async || (drain.metadata.sessions() > 4).then_some(())).await;
    assert_eq!((drain.told(), drain.stopped()), (vec![], String::new()));
    assert!(drain.child.try_wait().unwrap().is_none());
}
