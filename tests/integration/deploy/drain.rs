//! How an instance of an Auto Scaling group goes: `deploy/package/drain`, with the metadata service, the group and systemd stood
//! in for, and the real command line interface of AWS.

use std::{
    fs,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use chrono::TimeDelta;
use tempfile::TempDir;

use crate::harness::{
    eventually,
    iam::Key,
    instance_metadata::{self, INSTANCE, Imds},
    process::write_program,
    tools,
};

const GROUP: &str = "darkroom-service";

/// The group: what it was told, and whether its hook waits already.
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

struct Bed {
    imds: Imds,
    group: Arc<Group>,
    folder: TempDir,
    child: Child,
}

impl Bed {
    async fn start() -> Self {
        let key = Key { id: "AKIAINSTANCE".to_owned(), secret: "a secret".to_owned(), session_token: None };
        let imds = Imds::start(&key, TimeDelta::hours(6)).await;
        let group = Arc::<Group>::default();
        let endpoint =
            instance_metadata::serve(Router::new().route("/", post(told)).with_state(Arc::clone(&group))).await;
        let folder = tempfile::tempdir().unwrap();
        let systemctl = folder.path().join("systemctl");
        write_program(&systemctl, "#!/bin/sh\necho \"$@\" >>\"$0.told\"\n");
        let aws = tools::aws_client();
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/package/drain"));
        let path = format!("{}:{}:/usr/bin:/bin", folder.path().display(), aws.parent().unwrap().display());
        command.env_clear().env("PATH", path).envs(imds.environment()).env("AUTO_SCALING_GROUP", GROUP);
        command.env("AWS_ENDPOINT_URL_AUTO_SCALING", endpoint).env("DARKROOM_DRAIN_PAUSE", "0.05");
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        Self { imds, group, folder, child }
    }

    fn told(&self) -> Vec<String> {
        self.group.told.lock().unwrap().clone()
    }

    /// What systemd was told.
    fn stopped(&self) -> String {
        fs::read_to_string(self.folder.path().join("systemctl.told")).unwrap_or_default()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_service_after_deregistration() {
    let mut bed = Bed::start().await;
    // A metadata service that is away means nothing.
    bed.imds.fail(true);
    bed.imds.aim("Terminated");
    let begun = bed.imds.sessions();
    eventually("it looks again and again", async || (bed.imds.sessions() > begun + 3).then_some(())).await;
    assert_eq!((bed.told(), bed.stopped()), (vec![], String::new()));
    bed.imds.fail(false);
    eventually("it asks whether the hook waits", async || (bed.told().len() > 1).then_some(())).await;
    assert!(bed.told().iter().all(|told| told == "RecordLifecycleActionHeartbeat: too early"), "{:?}", bed.told());
    assert_eq!(bed.stopped(), "", "the balancer still sends connections");
    *bed.group.waits.lock().unwrap() = true;
    let ended = eventually("it ends", async || bed.child.try_wait().unwrap()).await;
    assert!(ended.success());
    assert_eq!(bed.stopped(), "stop darkroom.socket darkroom.service darkroom-worker.service\n");
    let told = bed.told();
    assert_eq!(told[told.len() - 2..], ["RecordLifecycleActionHeartbeat", "CompleteLifecycleAction CONTINUE"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_instance_in_service() {
    let mut bed = Bed::start().await;
    eventually("it has looked", async || (bed.imds.sessions() > 4).then_some(())).await;
    assert_eq!((bed.told(), bed.stopped()), (vec![], String::new()));
    assert!(bed.child.try_wait().unwrap().is_none());
}
