//! The roles of the templates: bounded, each for one service, without wide permissions. `calls` compares them with
//! what the processes do.

use std::collections::{BTreeMap, BTreeSet};

use darkroom::config::{Config, Source};
use serde_json::{Value, json};

use crate::harness::template;

/// Roles without an account condition: EC2 and API Gateway do not support it, and Synthetics assumes a canary's role
/// before its function exists.
const TELL_NO_ACCOUNT: [(&str, &str); 3] =
    [("gateway", "LogRole"), ("observability", "CanaryRole"), ("service", "InstanceRole")];

/// Statements on `*`, because AWS supports no narrower resource. Each has a comment in its template.
const ABOUT_EVERYTHING: [(&str, &str, &str); 18] = [
    ("functions", "AnnounceRole", "ManageNetworkInterfaces"),
    ("functions", "AnnounceRole", "SendTraces"),
    ("functions", "ApiRole", "ManageNetworkInterfaces"),
    ("functions", "ApiRole", "SendTraces"),
    ("functions", "DevelopRole", "ManageNetworkInterfaces"),
    ("functions", "DevelopRole", "SendReviewDecisions"),
    ("functions", "DevelopRole", "SendTraces"),
    ("functions", "MigrateRole", "ManageNetworkInterfaces"),
    ("functions", "MigrateRole", "SendTraces"),
    ("functions", "StepRole", "ManageNetworkInterfaces"),
    ("functions", "StepRole", "SendTraces"),
    ("messaging", "EditsRole", "SendTraces"),
    ("messaging", "EditsRole", "WriteLogs"),
    ("observability", "CanaryRole", "Metrics"),
    ("service", "OperatorRole", "FindInstances"),
    ("service", "WatchPolicy", "AcceptSessions"),
    ("service", "WatchPolicy", "WriteMetrics"),
    ("service", "WorkPolicy", "SendReviewDecisions"),
];

/// The limit of a function's variables in bytes.
const VARIABLES: usize = 4096;

/// All resources of these types: stack, name, properties.
fn resources(types: &[&str]) -> Vec<(&'static str, String, Value)> {
    let of = |stack| {
        let template = template::read(stack);
        let all = template["Resources"].as_object().expect("resources").clone();
        let wanted = all.into_iter().filter(|(_, it)| types.contains(&it["Type"].as_str().expect("a type")));
        wanted.map(|(name, it)| (stack, name, it["Properties"].clone())).collect::<Vec<_>>()
    };
    template::STACKS.into_iter().filter(|stack| template::path(stack).exists()).flat_map(of).collect()
}

/// All allow statements: stack, resource, statement.
pub(super) fn statements() -> Vec<(&'static str, String, Value)> {
    let mut all = Vec::new();
    for (stack, name, properties) in resources(&["AWS::IAM::Role", "AWS::IAM::ManagedPolicy", "AWS::IAM::Policy"]) {
        let own = properties["Policies"].as_array().into_iter().flatten().map(|policy| &policy["PolicyDocument"]);
        for document in own.chain(properties.get("PolicyDocument")) {
            let listed = document["Statement"].as_array().expect("statements");
            all.extend(listed.iter().map(|statement| (stack, name.clone(), statement.clone())));
        }
    }
    all
}

/// A value or a list as a list.
pub(super) fn each(value: &Value) -> Vec<&Value> {
    value.as_array().map_or_else(|| vec![value], |many| many.iter().collect())
}

#[test]
fn roles_have_boundary_and_one_principal() {
    let boundary = json!({ "Fn::If": ["HasBoundary", { "Ref": "PermissionsBoundary" }, { "Ref": "AWS::NoValue" }] });
    let roles = resources(&["AWS::IAM::Role"]);
    assert!(roles.len() > 8, "{roles:?}");
    for (stack, name, properties) in roles {
        assert_eq!(properties["PermissionsBoundary"], boundary, "{stack}: {name}");
        let trust = properties["AssumeRolePolicyDocument"]["Statement"].as_array().expect("statements");
        let [statement] = &trust[..] else { panic!("{stack}: {name} trusts several") };
        let condition = &statement["Condition"];
        match &statement["Principal"] {
            Value::Object(whom) if whom.len() == 1 && whom.contains_key("Service") => {
                let service = whom["Service"].as_str().unwrap_or_else(|| panic!("{stack}: {name} trusts {whom:?}"));
                let account = &condition["StringEquals"]["aws:SourceAccount"];
                let ours = *account == json!({ "Ref": "AWS::AccountId" });
                assert!(service.ends_with(".amazonaws.com"), "{stack}: {name}");
                assert_ne!(ours, TELL_NO_ACCOUNT.contains(&(stack, &*name)), "{stack}: {name}");
            }
            Value::Object(whom) if name == "OperatorRole" && whom.len() == 1 => {
                assert_eq!(whom["AWS"], json!({ "Ref": "OperatorPrincipal" }));
                let with_mfa = json!({ "Bool": { "aws:MultiFactorAuthPresent": "true" } });
                assert_eq!(template::decide(condition, &["LooksForMfa"]), with_mfa);
            }
            other => panic!("{stack}: {name} trusts {other}"),
        }
    }
}

#[test]
fn policies_are_least_privilege() {
    let mut everything = BTreeSet::new();
    for (stack, name, statement) in statements() {
        assert_eq!(statement["Effect"], "Allow", "{stack}: {name}: {statement}");
        for action in each(&statement["Action"]) {
            let action = action.as_str().expect("a word");
            assert!(!action.contains('*') && action.contains(':'), "{stack}: {name}: {action}");
        }
        if each(&statement["Resource"]).contains(&&json!("*")) {
            everything.insert((stack, name, statement["Sid"].as_str().expect("a name").to_owned()));
        }
    }
    let listed: BTreeSet<_> = ABOUT_EVERYTHING
        .into_iter()
        .map(|(stack, name, statement)| (stack, name.to_owned(), statement.to_owned()))
        .collect();
    assert_eq!(everything, listed);
}

#[test]
fn each_role_has_one_database_user() {
    let mut who = BTreeMap::new();
    for (_, name, statement) in statements() {
        if each(&statement["Action"]).contains(&&json!("rds-db:connect")) {
            let [resource] = each(&statement["Resource"])[..] else { panic!("{name}: {statement}") };
            let text = resource["Fn::Sub"].as_str().expect("a text");
            let before = "arn:${AWS::Partition}:rds-db:${AWS::Region}:${AWS::AccountId}:dbuser:${DatabaseResourceId}/";
            let user = text.strip_prefix(before).unwrap_or_else(|| panic!("{name}: {text}"));
            assert_eq!(who.insert(name, user.to_owned()), None, "one statement each");
        }
    }
    let app = ["AnnounceRole", "ApiRole", "DevelopRole", "OperatorRole", "ServePolicy", "StepRole", "WorkPolicy"];
    let mut expected: BTreeMap<_, _> = app.map(|name| (name.to_owned(), "darkroom_app".to_owned())).into();
    expected.insert("MigrateRole".to_owned(), "darkroom_migrate".to_owned());
    assert_eq!(who, expected);
}

/// Values of parameters and resources with their maximum lengths.
pub(super) fn names() -> BTreeMap<String, String> {
    let arn = |service: &str, name: &str| format!("arn:aws:{service}:ap-southeast-2:123456789012:{name}");
    let secret = |name: &str| arn("secretsmanager", &format!("secret:{name}-AbCdEf"));
    let log = |name: &str| arn("logs", &format!("log-group:{name}:*"));
    let queue = "https://sqs.ap-southeast-2.amazonaws.com/123456789012/photos-of-a-wedding";
    [
        ("AWS::Region", "ap-southeast-2".to_owned()),
        ("AWS::Partition", "aws".to_owned()),
        ("AWS::AccountId", "123456789012".to_owned()),
        ("AWS::NoValue", String::new()),
        ("HasReader", "true".to_owned()),
        ("Arm", "true".to_owned()),
        ("Installation", "photos-of-a-wedding".to_owned()),
        ("Release", "0.1.0".to_owned()),
        ("PackageSha256", "0".repeat(64)),
        ("Artifacts", "photos-of-a-wedding-data-artifacts-1abcdefghijkl".to_owned()),
        ("Domain", "photos.weddings.example.com".to_owned()),
        ("Issuer", "https://cognito-idp.ap-southeast-2.amazonaws.com/ap-southeast-2_AbCdEfGhI".to_owned()),
        ("Audience", "1example23456789abcdefghij".to_owned()),
        ("Jwks", jwks().to_string()),
        ("DatabaseHost", "photos-of-a-wedding.cluster-c9akciq32rfv.ap-southeast-2.rds.amazonaws.com".to_owned()),
        (
            "DatabaseReaderHost",
            "photos-of-a-wedding.cluster-ro-c9akciq32rfv.ap-southeast-2.rds.amazonaws.com".to_owned(),
        ),
        ("DatabaseConnections", "16".to_owned()),
        ("SecretsGeneration", "1".to_owned()),
        ("MasterSecretArn", secret("rds!cluster-11112222-3333-4444-5555-666677778888")),
        ("Bucket", "photos-of-a-wedding-data-photos-1abcdefghijkl".to_owned()),
        ("KeyArn", arn("kms", "key/11112222-3333-4444-5555-666677778888")),
        ("Table", "photos-of-a-wedding-data-Table-1ABCDEFGHIJKL".to_owned()),
        ("TableArn", arn("dynamodb", "table/photos-of-a-wedding-data-Table-1ABCDEFGHIJKL")),
        ("QueueArn", arn("sqs", "photos-of-a-wedding-jobs")),
        ("DeadLetterQueueArn", arn("sqs", "photos-of-a-wedding-dead")),
        ("FailedInvocations.Arn", arn("sqs", "photos-of-a-wedding-functions-dead")),
        ("MissedMinutes.Arn", arn("sqs", "photos-of-a-wedding-schedule-dead")),
        ("CanaryResults.Arn", "arn:aws:s3:::photos-of-a-wedding-observability-canaryresults-1abcdefghijkl".to_owned()),
        ("FlowLogGroup.Arn", log("/photos-of-a-wedding/flow")),
        ("MetricsLog.Arn", log("/photos-of-a-wedding/metrics")),
        ("ServiceLog.Arn", log("/photos-of-a-wedding/service")),
        ("DatabaseResourceId", "cluster-ABCDEFGHIJKL01234".to_owned()),
        ("QueueUrl", format!("{queue}-jobs")),
        ("DeadLetterQueueUrl", format!("{queue}-dead")),
        ("TopicArn", arn("sns", "photos-of-a-wedding-events.fifo")),
        ("StateMachineArn", arn("states", "stateMachine:photos-of-a-wedding-edits")),
        ("StateMachineName", "photos-of-a-wedding-edits".to_owned()),
        ("CloudFrontKeyId", "K2JCJMDEHXQW5F".to_owned()),
        ("CloudFrontKeySecretArn", secret("cloudfront")),
        ("SigningKeysSecretArn", secret("signing")),
        ("SigningKeys.Id", secret("signing")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The key set of an issuer in a key rotation: five RSA keys of 2048 bits; Cognito has two.
fn jwks() -> Value {
    let key = |id: &str| json!({ "alg": "RS256", "e": "AQAB", "kid": id.repeat(44), "kty": "RSA", "n": "x".repeat(342), "use": "sig" });
    let keys = ["a", "b", "c", "d", "e"].map(key);
    json!({ "keys": keys })
}

/// The values of an installation's secrets.
fn secrets() -> [(&'static str, String); 2] {
    [("storage.cloudfront_key", "x".repeat(1704)), ("storage.signing_keys", "k".repeat(64))]
}

#[test]
fn function_variables_are_valid() {
    let (template, names) = (template::read("functions"), names());
    let functions = resources(&["AWS::Lambda::Function"]);
    let functions: Vec<_> = functions.into_iter().filter(|(stack, ..)| *stack == "functions").collect();
    assert_eq!(functions.len(), 5);
    for (_, name, _) in functions {
        let variables = &template["Resources"][&name]["Properties"]["Environment"]["Variables"];
        let variables = template::resolve(variables, &names);
        let mut variables: BTreeMap<String, String> = variables
            .as_object()
            .expect("variables")
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().expect("a text").to_owned()))
            .collect();
        // It would be visible in the function's configuration.
        assert_eq!(variables.values().find(|value| value.contains("{{resolve")), None, "{name}");
        let bytes: usize = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
        println!("{name}: {bytes} bytes of variables");
        assert!(bytes <= VARIABLES, "{name}: {bytes} bytes of variables");
        let bundle = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/rds-ca/global-bundle.pem");
        let ca = variables.insert("DARKROOM_DATABASE_TLS_CA".to_owned(), bundle.to_owned());
        assert_eq!(ca.as_deref(), Some("/var/task/rds-global-bundle.pem"), "in the package");
        let handler = template["Resources"][&name]["Properties"]["Handler"].as_str().expect("a handler");
        let of_lambda =
            [("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001"), ("AWS_REGION", "ap-southeast-2"), ("_HANDLER", handler)];
        variables.extend(of_lambda.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        let mut source = Source::parse("", variables).expect("variables");
        let wanted = Config::named_secrets(&source);
        let fetched: BTreeMap<_, _> = wanted.iter().map(|it| (it.key.clone(), it.id.clone())).collect();
        let signs = [("storage.cloudfront_key", "CloudFrontKeySecretArn"), ("storage.signing_keys", "SigningKeys.Id")];
        let signs = signs.map(|(key, of)| (key.to_owned(), names[of].clone()));
        assert_eq!(fetched, if handler == "api" { signs.into() } else { BTreeMap::new() }, "{name}");
        let secrets = BTreeMap::from(secrets());
        for one in wanted {
            let secret = secrets[&*one.key].clone();
            source.tell(one, Ok(secret.into()));
        }
        Config::read(source).unwrap_or_else(|mistakes| panic!("{name}: {mistakes}"));
    }
}

#[test]
fn instance_configuration_is_valid() {
    let template = template::read("service");
    let data = &template["Resources"]["Template"]["Properties"]["LaunchTemplateData"]["UserData"]["Fn::Base64"];
    let script = template::resolve(data, &names());
    let script = script.as_str().expect("a script");
    assert!(script.len() < 16 * 1024, "what EC2 takes: {}", script.len());
    let file =
        script.split_once("darkroom.toml <<'END'\n").expect("the file").1.split_once("\nEND\n").expect("its end").0;
    let credentials = tempfile::tempdir().unwrap();
    for (name, secret) in secrets() {
        assert!(script.contains(&format!("/etc/darkroom/credentials/{name}\n")));
        std::fs::write(credentials.path().join(name), secret).unwrap();
    }
    let variables = [("CREDENTIALS_DIRECTORY".into(), credentials.path().into())];
    let config = Source::parse(file, variables).and_then(Config::read).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(config.http.front.trusted_hops, 2);
    // bash can read it.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("user-data");
    std::fs::write(&path, script).unwrap();
    let checked = std::process::Command::new("bash").arg("-n").arg(&path).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// Timeouts of one template on which another one or the service depends.
#[test]
fn timeouts_are_consistent() {
    let [messaging, functions, service] = ["messaging", "functions", "service"].map(template::read);
    let of = |template: &Value, resource: &str, property: &str| {
        template["Resources"][resource]["Properties"][property]
            .as_u64()
            .unwrap_or_else(|| panic!("{resource}.{property}"))
    };
    assert_eq!(of(&messaging, "Queue", "VisibilityTimeout"), 6 * of(&functions, "Develop", "Timeout"));
    assert!(of(&functions, "Api", "Timeout") <= 29, "API Gateway waits no longer");
    assert!(of(&functions, "Announce", "Timeout") < 60, "the next minute is another invocation");
    let steps = &messaging["Resources"]["Edits"]["Properties"]["Definition"]["States"];
    for step in ["Validate", "Apply", "File", "Announce", "Fail"] {
        let patience = steps[step]["TimeoutSeconds"].as_u64().expect("seconds");
        assert!(patience >= of(&functions, "Step", "Timeout"), "{step}");
    }
    // systemd kills the service after 45 s; the hook must not time out before.
    let unit = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/darkroom.service")).unwrap();
    let patience: u64 = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap().parse().unwrap();
    let hooks = service["Resources"]["Group"]["Properties"]["LifecycleHookSpecificationList"].as_array().unwrap();
    let hook = hooks.iter().find(|hook| hook["LifecycleHookName"] == "terminating").expect("the hook");
    assert!(hook["HeartbeatTimeout"].as_u64().unwrap() >= 2 * patience);
    let attributes = service["Resources"]["Targets"]["Properties"]["TargetGroupAttributes"].as_array().unwrap();
    let delay = attributes.iter().find(|it| it["Key"] == "deregistration_delay.timeout_seconds").expect("a delay");
    assert!(delay["Value"].as_str().unwrap().parse::<u64>().unwrap() >= 5, "http.shutdown_delay");
}
