//! `deploy/deploy` as its user runs it, with the real AWS CLI, mostly on small templates with the features of the real
//! ones.

use std::{
    fs::File,
    io::Write,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use crate::harness::{
    aws::ACCOUNT,
    aws_account::{Account, finish, script},
    eventually,
    iam::REGION,
    process::{darkroom, run},
    stacks, template,
};

const NETWORK: (&str, &str) = (
    "network",
    "
Parameters:
  Installation:
    Type: String
    Default: darkroom
  Colour:
    Type: String
    Default: red
  S3PrefixList:
    Type: String
Resources:
  News:
    Type: AWS::SNS::Topic
    Properties:
      DisplayName: !Sub ${Installation} ${Colour} ${S3PrefixList}
Outputs:
  NewsArn:
    Value: !Ref News
",
);

const DATA: (&str, &str) = (
    "data",
    "
Parameters:
  Domain:
    Type: String
  HostedZoneId:
    Type: String
  NewsArn:
    Type: String
  CloudFrontPublicKey:
    Type: String
  CloudFrontPrivateKey:
    Type: String
    NoEcho: true
  TableName:
    Type: String
    Default: ''
  DeletionProtection:
    Type: String
    Default: 'yes'
  FirstCreation:
    Type: String
    Default: 'no'
Conditions:
  Named: !Not [!Equals [!Ref TableName, '']]
  Protected: !And [!Equals [!Ref DeletionProtection, 'yes'], !Equals [!Ref FirstCreation, 'no']]
Resources:
  Key:
    Type: AWS::SecretsManager::Secret
    Properties:
      Name: key
      Description: !Sub ${Domain} ${HostedZoneId} ${NewsArn}
      SecretString: !Ref CloudFrontPrivateKey
  PublicKey:
    Type: AWS::SSM::Parameter
    Properties:
      Name: public-key
      Type: String
      Value: !Ref CloudFrontPublicKey
  Bucket:
    Type: AWS::S3::Bucket
    DeletionPolicy: RetainExceptOnCreate
    UpdateReplacePolicy: Retain
    Properties:
      VersioningConfiguration:
        Status: Enabled
  Photos:
    Type: AWS::DynamoDB::Table
    DeletionPolicy: RetainExceptOnCreate
    UpdateReplacePolicy: Retain
    Properties:
      TableName: !If [Named, !Ref TableName, !Ref AWS::NoValue]
      BillingMode: PAY_PER_REQUEST
      DeletionProtectionEnabled: !If [Protected, true, false]
      AttributeDefinitions:
        - AttributeName: pk
          AttributeType: S
      KeySchema:
        - AttributeName: pk
          KeyType: HASH
Outputs:
  Artifacts:
    Value: !Ref Bucket
  Table:
    Value: !Ref Photos
",
);

const FUNCTIONS: (&str, &str) = (
    "functions",
    "
Parameters:
  Installation:
    Type: String
  Artifacts:
    Type: String
  Release:
    Type: String
  Architecture:
    Type: String
    Default: arm64
  Jwks:
    Type: String
    Default: ''
Resources:
  Role:
    Type: AWS::IAM::Role
    Properties:
      AssumeRolePolicyDocument:
        Statement:
          - Effect: Allow
            Principal:
              Service: lambda.amazonaws.com
            Action: sts:AssumeRole
  Migrate:
    Type: AWS::Lambda::Function
    Properties:
      FunctionName: !Sub ${Installation}-migrate
      Runtime: provided.al2023
      Architectures:
        - !Ref Architecture
      Handler: migrate
      Role: !GetAtt Role.Arn
      Code:
        S3Bucket: !Ref Artifacts
        S3Key: !Sub releases/${Release}/darkroom-${Release}.x86_64.zip
      Environment:
        Variables:
          DARKROOM_IDENTITY__JWKS: !Ref Jwks
",
);

const SERVICE: (&str, &str) = (
    "service",
    "
Parameters:
  PackageSha256:
    Type: String
Resources:
  Package:
    Type: AWS::SNS::Topic
    Properties:
      TopicName: package
      DisplayName: !Ref PackageSha256
Outputs:
  AutoScalingGroup:
    Value: the-group
",
);

const GATEWAY: (&str, &str) = (
    "gateway",
    "
Parameters:
  AccountLogs:
    Type: String
    Default: 'yes'
Resources:
  Api:
    Type: AWS::ApiGateway::RestApi
    Properties:
      Name: api
  Health:
    Type: AWS::ApiGateway::Method
    Properties:
      RestApiId: !Ref Api
      ResourceId: !GetAtt Api.RootResourceId
      HttpMethod: GET
      AuthorizationType: NONE
      Integration:
        Type: MOCK
  First:
    Type: AWS::ApiGateway::Deployment
    DependsOn: Health
    Properties:
      RestApiId: !Ref Api
      Description: first
  Live:
    Type: AWS::ApiGateway::Stage
    Properties:
      RestApiId: !Ref Api
      DeploymentId: !Ref First
      StageName: live
      Description: !Ref AccountLogs
  ApiKey:
    Type: AWS::SecretsManager::Secret
    Properties:
      Name: api-key
      SecretString: what CloudFront shows
Outputs:
  RestApiId:
    Value: !Ref Api
  Stage:
    Value: !Ref Live
  ApiKeySecretArn:
    Value: !Ref ApiKey
",
);

const EDGE: (&str, &str) = (
    "edge",
    "
Parameters:
  ApiKey:
    Type: String
    NoEcho: true
  BucketRegion:
    Type: String
Resources:
  Header:
    Type: AWS::SSM::Parameter
    Properties:
      Name: header
      Type: String
      Value: !Sub ${ApiKey}, ${BucketRegion}
",
);

/// The output of `list-change-sets` for a stack.
fn change_sets_that_wait(account: &Account, stack: &str) -> String {
    let query = "Summaries[?ExecutionStatus=='AVAILABLE'].ChangeSetName";
    account.aws(&["cloudformation", "list-change-sets", "--stack-name", stack, "--query", query])
}

/// Creates the release 1.2.3, whose function `migrate` returns `answers`.
fn make_release(account: &Account, answers: &str) {
    let mut package = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .unix_permissions(0o755);
    package.start_file("bootstrap", options).expect("a file");
    let program = format!(
        "#!/bin/sh
api=http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation
while head=$(curl -fsS -o /dev/null -D - $api/next); do
  id=$(echo \"$head\" | tr -d '\\r' | sed -n 's/^lambda-runtime-aws-request-id: //Ip')
  curl -fsS -d '{{\"errorMessage\": \"the server is gone\"}}' $api/$id/{answers}
done
"
    );
    package.write_all(program.as_bytes()).expect("a script");
    let package = package.finish().expect("a package").into_inner();
    account.put("artifacts/darkroom-1.2.3.x86_64.zip", package);
    account.put("artifacts/darkroom-1.2.3-1.x86_64.rpm", "a package");
    account.put("artifacts/gateway.json", "{}");
}

#[tokio::test]
async fn second_deployment_changes_nothing() {
    let account = Account::with(&[NETWORK, DATA, FUNCTIONS, GATEWAY, EDGE]).await;
    make_release(&account, "response");
    let keys = account.put("jwks.json", "{\"keys\": [\n  {\"kid\": \"a\\\\b\"}\n]}\n");
    let said = account.deploy(&["--jwks", &keys]).ended(0);
    assert!(said.starts_with(&format!("darkroom in {REGION}, account {ACCOUNT}, as ")), "{said}");
    assert!(said.contains("CREATE_COMPLETE              News (SNS::Topic)"), "no progress: {said}");
    assert!(said.contains("data: created; enabling deletion protection"), "{said}");
    assert!(said.ends_with("Done: https://photos.example.com\n"), "{said}");
    let stacks = "darkroom-data UPDATE_COMPLETE\ndarkroom-functions CREATE_COMPLETE\ndarkroom-gateway CREATE_COMPLETE\n\
                  darkroom-network CREATE_COMPLETE";
    assert_eq!(account.stacks(REGION), stacks);
    assert_eq!(account.stacks("us-east-1"), "darkroom-edge CREATE_COMPLETE");

    // Passed, looked-up and created values.
    let topic = account.aws(&["sns", "list-topics", "--query", "Topics[0].TopicArn"]);
    let name =
        account.aws(&["sns", "get-topic-attributes", "--topic-arn", &topic, "--query", "Attributes.DisplayName"]);
    assert!(name.starts_with("darkroom red pl-"), "{name}");
    let zone = account.aws(&["route53", "list-hosted-zones", "--query", "HostedZones[0].Id"]);
    let about = account.aws(&["secretsmanager", "describe-secret", "--secret-id", "key", "--query", "Description"]);
    assert_eq!(about, format!("photos.example.com {} {topic}", zone.trim_start_matches("/hostedzone/")));
    let private = account.aws(&["secretsmanager", "get-secret-value", "--secret-id", "key", "--query", "SecretString"]);
    assert!(private.starts_with("-----BEGIN PRIVATE KEY-----\n"), "no key, or its lines are lost");
    assert!(!said.contains("PRIVATE KEY"), "the key is shown");
    let private = account.put("private.pem", private);
    let public = account.aws(&["ssm", "get-parameter", "--name", "public-key", "--query", "Parameter.Value"]);
    let mut openssl = Command::new("openssl");
    openssl.args(["pkey", "-pubout", "-in", &private]);
    assert_eq!(finish(openssl).ended(0).trim(), public, "two halves of one key");
    let environment = "Environment.Variables.DARKROOM_IDENTITY__JWKS";
    let function =
        ["lambda", "get-function-configuration", "--function-name", "darkroom-migrate", "--query", environment];
    assert_eq!(account.aws(&function), "{\"keys\": [  {\"kid\": \"a\\\\b\"}]}");
    let header = ["ssm", "get-parameter", "--region", "us-east-1", "--name", "header", "--query", "Parameter.Value"];
    assert_eq!(account.aws(&header), format!("what CloudFront shows, {REGION}"));
    assert!(!said.contains("what CloudFront shows"), "the key is shown");
    let api = account.aws(&["apigateway", "get-rest-apis", "--query", "items[0].id"]);
    let deployments = ["apigateway", "get-deployments", "--rest-api-id", &api, "--query", "length(items)"];
    assert_eq!(account.aws(&deployments), "2", "the snapshot that comes with the stack, and one of the release");
    let artifacts = account.aws(&["s3api", "list-buckets", "--query", "Buckets[0].Name"]);
    let keys = account.aws(&["s3api", "list-objects-v2", "--bucket", &artifacts, "--query", "Contents[].Key"]);
    assert_eq!(keys, "releases/1.2.3/darkroom-1.2.3.x86_64.zip\treleases/1.2.3/gateway.json");

    // Without the options of the first run and without the release files, which are in the bucket.
    std::fs::remove_dir_all(account.folder.path().join("artifacts")).expect("they are removed");
    let mut again = account.script();
    again.args(["--domain", "photos.example.com", "--release", "1.2.3"]);
    let said = finish(again).ended(0);
    for stack in ["network", "data", "functions", "gateway", "edge"] {
        assert!(said.contains(&format!("{stack}: no changes\n")), "{said}");
    }
    assert!(!said.contains("upload") && !said.contains("published"), "{said}");
    assert_eq!(account.aws(&deployments), "2");
    assert_eq!(account.stacks(REGION), stacks);

    // The name of the edge is global, so deployments of other regions must not change or delete it.
    let elsewhere = |arguments: &[&str]| {
        let mut command = account.command(&script());
        command.args(arguments).args(["--region", "us-west-2"]);
        finish(command).ended(1)
    };
    for arguments in [&["--domain", "photos.example.com", "--release", "1.2.3"][..], &["destroy", "--yes", "--yes"]] {
        let said = elsewhere(arguments);
        let why = format!("darkroom-edge belongs to the installation of that name in {REGION}: --region {REGION}, or");
        assert!(said.contains(&why), "{said}");
    }
    assert_eq!(account.stacks("us-east-1"), "darkroom-edge CREATE_COMPLETE");
    assert_eq!(account.stacks("us-west-2"), "");

    // CloudFormation reads the gateway's document when it creates a change set, and a dry run does not upload it.
    let mut next = account.script();
    next.args(["--domain", "photos.example.com", "--release", "1.2.4", "--dry-run"]);
    std::fs::create_dir(account.folder.path().join("artifacts")).expect("a folder");
    for name in ["darkroom-1.2.4.x86_64.zip", "darkroom-1.2.4-1.x86_64.rpm", "gateway.json"] {
        account.put(&format!("artifacts/{name}"), "the next release");
    }
    let said = finish(next).ended(0);
    assert!(said.contains("functions: changes: "), "{said}");
    assert!(said.contains("gateway: can't be planned before the release is uploaded\nedge: no changes\n"), "{said}");

    // Releases are immutable.
    account.put("artifacts/gateway.json", "{\"other\": true}");
    let said = account.deploy(&[]).ended(1);
    assert!(said.contains("release 1.2.3 is uploaded already, with another gateway.json"), "{said}");
    // Not even if another process uploads it between the check and the upload.
    account.answers("  *head-object*gateway.json*) echo 'An error occurred (404)' >&2; exit 254 ;;\n");
    let said = account.deploy(&[]).ended(1);
    assert!(said.contains("another process has just uploaded gateway.json of release 1.2.3: run again"), "{said}");
    let object = ["s3api", "head-object", "--bucket", &artifacts, "--key", "releases/1.2.3/gateway.json"];
    assert_eq!(account.aws(&[&object[..], &["--query", "ContentLength"]].concat()), "2", "what was there first");
}

/// A template for the emulator. Its names of load balancers and secrets differ from AWS's, so patterns are removed; and
/// it reads included documents before it substitutes parameters.
fn real(stack: &str) -> String {
    let mut template = stacks::known(template::read(stack));
    for parameter in template["Parameters"].as_object_mut().expect("parameters").values_mut() {
        parameter.as_object_mut().expect("a parameter").remove("AllowedPattern");
    }
    let resources = &mut template["Resources"];
    match stack {
        "data" => resources["ArtifactsBucket"]["Properties"]["BucketName"] = "artifacts".into(),
        // The emulator has no instances to wait for.
        "service" => resources["Group"]["Properties"]["MinSize"] = "0".into(),
        "gateway" => {
            let location = &mut resources["Api"]["Properties"]["Body"]["Fn::Transform"]["Parameters"]["Location"];
            assert_eq!(*location, json!({ "Fn::Sub": "s3://${Artifacts}/releases/${Release}/gateway.json" }));
            *location = "s3://artifacts/releases/1.2.3/gateway.json".into();
        }
        _ => {}
    }
    // The emulator does not parse these without quotes.
    let text = yaml_serde::to_string(&template).expect("YAML");
    [": yes", ": no", "- yes", "- no"].iter().fold(text, |text, bare| {
        let (sign, word) = bare.split_at(2);
        text.replace(&format!("{bare}\n"), &format!("{sign}'{word}'\n"))
    })
}

#[tokio::test]
async fn deploys_real_stacks_idempotently() {
    let templates: Vec<_> = template::STACKS.iter().map(|stack| (*stack, real(stack))).collect();
    let templates: Vec<_> = templates.iter().map(|(stack, text)| (*stack, text.as_str())).collect();
    let account = Account::with(&templates).await;
    make_release(&account, "response");
    let (_, document, _) = run(darkroom(&["openapi", "--gateway"], &[])).await;
    account.put("artifacts/gateway.json", document);
    let keys = account.put("jwks.json", "{\"keys\": []}");
    let options = ["--issuer", "https://id.example.com", "--audience", "darkroom", "--jwks", &keys];
    account.deploy(&options).ended(0);

    let said = account.deploy(&options).ended(0);
    for stack in template::STACKS {
        assert!(said.contains(&format!("\n{stack}: no changes\n")), "{said}");
    }
    let query = "SecurityGroups[?GroupName=='default' && (IpPermissions || IpPermissionsEgress)].GroupId";
    let vpc = account.aws(&["ec2", "describe-vpcs", "--query", "Vpcs[?!IsDefault].VpcId"]);
    let filter = format!("Name=vpc-id,Values={vpc}");
    let open = account.aws(&["ec2", "describe-security-groups", "--filters", &filter, "--query", query]);
    assert_eq!(open, "", "the group that comes with the VPC lets somebody through");

    account.destroy(&["--yes", "--yes"]).ended(0);
    assert_eq!(account.stacks(REGION), "darkroom-data UPDATE_COMPLETE\ndarkroom-network CREATE_COMPLETE");
}

#[tokio::test]
async fn dry_run_changes_nothing() {
    let account = Account::with(&[NETWORK, DATA]).await;
    let said = account.deploy(&["--dry-run"]).ended(0);
    assert!(said.contains("network: changes: 1\n  Add     News (SNS::Topic)\n"), "{said}");
    assert!(said.contains("data: can't be planned before there is a value for NewsArn\n"), "{said}");
    assert!(said.ends_with("Nothing was changed.\n"), "{said}");
    assert_eq!(account.stacks(REGION), "");
    // A user who may create change sets only with CloudFormation's role needs it in a dry run too.
    account.answers("");
    let role = format!("arn:aws:iam::{ACCOUNT}:role/cloudformation");
    account.deploy(&["--dry-run", "--service-role", &role]).ended(0);
    let calls = account.called(&["create-change-set", "delete-stack"]);
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert!(calls.iter().all(|call| call.contains(&format!("--role-arn {role}"))), "{calls:?}");

    account.deploy(&["--only", "network"]).ended(0);
    account.put("colour", "deep\n\"blue\"");
    let parameters = account.put("parameters", "# Seen from afar\n\nColour=@colour\n");
    let said = account.deploy(&["--dry-run", "--parameters", &parameters]).ended(0);
    assert!(said.contains("network: changes: 1\n  Modify  News (SNS::Topic)\n"), "{said}");
    assert!(said.contains("  Add     Photos (DynamoDB::Table)\n"), "{said}");
    assert!(said.contains("  followed by an update that enables deletion protection\n"), "{said}");
    assert_eq!(account.stacks(REGION), "darkroom-network CREATE_COMPLETE");
    assert_eq!(change_sets_that_wait(&account, "darkroom-network"), "");

    let said = account.deploy(&["--only", "network", "--parameters", &parameters]).ended(0);
    assert!(said.contains("UPDATE_COMPLETE"), "{said}");
    let query = ["--query", "Stacks[0].Parameters[?ParameterKey=='Colour'].ParameterValue"];
    let colour =
        account.aws(&[&["cloudformation", "describe-stacks", "--stack-name", "darkroom-network"][..], &query].concat());
    assert_eq!(colour, "deep\n\"blue\"");
    let said = account.deploy(&["--dry-run", "--only", "network"]).ended(0);
    assert!(said.contains("network: no changes\n"), "what was given once is kept: {said}");
}

#[tokio::test]
async fn refuses_to_replace_data_stores() {
    let account = Account::with(&[NETWORK, DATA]).await;
    account.deploy(&[]).ended(0);
    let table = account.aws(&["dynamodb", "list-tables", "--query", "TableNames"]);
    let parameters = account.put("parameters", "TableName=another-table\n");
    let said = account.deploy(&["--parameters", &parameters]).ended(1);
    assert!(said.contains("  Modify  Photos (DynamoDB::Table), replaced\n"), "{said}");
    assert!(said.contains("data: refused: this would replace or delete resources with data: Photos."), "{said}");
    assert_eq!(account.aws(&["dynamodb", "list-tables", "--query", "TableNames"]), table);
    assert_eq!(change_sets_that_wait(&account, "darkroom-data"), "");

    let without = DATA.1.replace("  Photos:\n", "  Others:\n").replace("!Ref Photos", "!Ref Others");
    account.put("data.yaml", without);
    let said = account.deploy(&[]).ended(1);
    assert!(said.contains("  Remove  Photos (DynamoDB::Table)\n"), "{said}");

    account.put("data.yaml", DATA.1);
    account.deploy(&["--parameters", &parameters, "--allow-replacement"]).ended(0);
    let tables = account.aws(&["dynamodb", "list-tables", "--query", "TableNames"]);
    assert!(tables.contains("another-table") && tables.contains(&table), "the old one is kept: {tables}");
}

#[tokio::test]
async fn allows_in_place_changes() {
    let called = |name: &str| {
        format!(
            "
Resources:
  News:
    Type: AWS::SNS::Topic
    Properties:
      DisplayName: {name}
  Photos:
    Type: AWS::DynamoDB::Table
    Properties:
      TableName: !GetAtt News.TopicName
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions:
        - AttributeName: pk
          AttributeType: S
      KeySchema:
        - AttributeName: pk
          KeyType: HASH
"
        )
    };
    let account = Account::with(&[("data", &called("old"))]).await;
    account.deploy(&[]).ended(0);
    let table = account.aws(&["dynamodb", "list-tables", "--query", "TableNames"]);
    account.put("data.yaml", called("new"));
    let said = account.deploy(&[]).ended(0);
    assert!(said.contains("  Modify  News (SNS::Topic)\n"), "{said}");
    assert!(said.contains("  Modify  Photos (DynamoDB::Table), may be replaced\n"), "{said}");
    assert_eq!(account.aws(&["dynamodb", "list-tables", "--query", "TableNames"]), table);
}

#[tokio::test]
async fn recreates_failed_first_creation() {
    let account = Account::with(&[NETWORK]).await;
    let broken = NETWORK.1.replace(
        "Outputs:\n",
        "  Letters:
    Type: AWS::SNS::Topic
    DependsOn: News
    Properties:
      DisplayName: '{{resolve:secretsmanager:nowhere}}'
Outputs:
",
    );
    account.put("network.yaml", &broken);
    let said = account.deploy(&[]).ended(1);
    assert!(said.contains("deploy: network: ROLLBACK_COMPLETE, because of Letters (AWS::SNS::Topic): "), "{said}");
    assert_eq!(account.stacks(REGION), "darkroom-network ROLLBACK_COMPLETE");

    account.put("network.yaml", NETWORK.1);
    let said = account.deploy(&[]).ended(0);
    assert!(said.contains("network: its creation failed earlier: deleting and creating it again\n"), "{said}");
    assert_eq!(account.stacks(REGION), "darkroom-network CREATE_COMPLETE");

    // A failed update is rolled back, and the next run continues.
    account.put("network.yaml", &broken);
    let said = account.deploy(&[]).ended(1);
    assert!(said.contains("network: UPDATE_ROLLBACK_COMPLETE, because of Letters (AWS::SNS::Topic): "), "{said}");
    account.put("network.yaml", NETWORK.1);
    account.deploy(&[]).ended(0);
}

#[tokio::test]
async fn protects_stack_after_first_creation() {
    let account = Account::with(&[NETWORK, DATA]).await;
    let broken = DATA.1.replace(
        "Outputs:\n",
        "  Letters:
    Type: AWS::SNS::Topic
    DependsOn: [Bucket, Photos]
    Properties:
      DisplayName: '{{resolve:secretsmanager:nowhere}}'
Outputs:
",
    );
    account.put("data.yaml", broken);
    let said = account.deploy(&[]).ended(1);
    assert!(said.contains("deploy: data: ROLLBACK_COMPLETE, because of Letters (AWS::SNS::Topic): "), "{said}");
    assert_eq!(account.aws(&["s3api", "list-buckets", "--query", "length(Buckets)"]), "0");
    assert_eq!(account.aws(&["dynamodb", "list-tables", "--query", "length(TableNames)"]), "0");

    // After an interruption the next run adds the protection.
    account.put("data.yaml", DATA.1);
    account.answers("  *create-change-set*darkroom-data*UPDATE*) echo stopped >&2; exit 254 ;;\n");
    account.deploy(&[]).ended(1);
    let table = account.aws(&["dynamodb", "list-tables", "--query", "TableNames"]);
    let protected =
        ["dynamodb", "describe-table", "--table-name", &table, "--query", "Table.DeletionProtectionEnabled"];
    assert_eq!(account.aws(&protected), "False");
    account.answers("");
    let said = account.deploy(&[]).ended(0);
    assert!(said.contains("data: changes: 1\n  Modify  Photos (DynamoDB::Table)\n"), "{said}");
    assert_eq!(account.aws(&protected), "True");
    let said = account.deploy(&[]).ended(0);
    assert!(said.contains("data: no changes\n"), "{said}");
}

#[tokio::test]
async fn reports_mistakes_before_any_change() {
    let account = Account::with(&[NETWORK, DATA, FUNCTIONS]).await;
    for (arguments, what) in [
        (&["--region"][..], "--region needs a value"),
        (&["--region", REGION], "--domain is needed"),
        (&["--region", REGION, "--domain", "nowhere"], "--domain nowhere: expected a name such as"),
        (
            &["--region", REGION, "--domain", "a.b", "--installation", "Mine"],
            "--installation Mine: use 2 to 21 lower-case letters",
        ),
        (
            &["--region", REGION, "--domain", "a.b", "--architecture", "sparc"],
            "--architecture sparc: expected arm64 or x86_64",
        ),
        (&["--region", REGION, "--domain", "a.b", "--only", "cellar"], "--only cellar: expected one of network data"),
        (&["--region", REGION, "--domain", "a.b", "--issuer", "https://a.b"], "--issuer requires --audience"),
        (&["--region", REGION, "--domain", "a.b", "--colour", "red"], "unknown argument --colour"),
        (&["--region", REGION, "--domain", "a.b", "destroy"], "unknown argument destroy"),
    ] {
        let mut command = account.command(&script());
        command.args(arguments);
        let said = finish(command).ended(64);
        assert!(said.contains(what), "{arguments:?}: {said}");
    }
    let parameters =
        account.put("parameters", "Color=red\nDomain=a.b\nColour\nTableName=a\nTableName=b\nJwks=@nowhere.pem\n");
    let said = account.deploy(&["--parameters", &parameters]).ended(1);
    let mistakes = [
        "  line 1: no template has a parameter Color\n",
        "  line 2: Domain is given twice\n",
        "  line 3: not KEY=VALUE\n",
        "  line 5: TableName is given twice\n",
        &format!("  line 6: {}/nowhere.pem cannot be read\n", account.folder.path().display()),
    ];
    assert!(said.ends_with(&mistakes.concat()), "{said}");

    let said = account.deploy(&[]).ended(1);
    assert!(said.contains("darkroom-1.2.3.x86_64.zip is not there, and the release has not been uploaded"), "{said}");
    let said = account.deploy(&["--domain", "photos.example.org"]).ended(1);
    assert!(said.contains("no public hosted zone of this account has photos.example.org in it"), "{said}");
    let mut stranger = account.script();
    stranger.args(["--domain", "photos.example.com"]).env("AWS_ACCESS_KEY_ID", "AKIANOBODYNOBODYNOBO");
    let said = finish(stranger).ended(1);
    assert!(said.contains("The security token included in the request is invalid"), "{said}");
    assert_eq!(account.stacks(REGION), "");
}

#[tokio::test]
async fn installs_packages_for_architecture() {
    let account = Account::with(&[NETWORK, DATA, FUNCTIONS]).await;
    make_release(&account, "response");
    let deploy = |arguments: &[&str]| {
        let mut command = account.script();
        command.args(["--domain", "photos.example.com", "--release", "1.2.3", "--dry-run"]).args(arguments);
        finish(command)
    };
    deploy(&[]).ended(0);
    let said = deploy(&["--architecture", "arm64"]).ended(1);
    assert!(said.contains("darkroom-1.2.3.aarch64.zip is not there"), "{said}");
    assert!(
        said.contains("The packages are built for x86_64: use --architecture x86_64, or build on arm64\n"),
        "{said}"
    );
    account.put("artifacts/darkroom-1.2.3.aarch64.zip", "a package");
    std::fs::remove_file(account.folder.path().join("artifacts/darkroom-1.2.3.x86_64.zip")).expect("it is removed");
    let said = deploy(&[]).ended(0);
    assert!(said.ends_with("Nothing was changed.\n"), "of two architectures arm64: {said}");
}

#[tokio::test]
async fn keeps_existing_api_gateway_log_role() {
    for (role, logs) in [("another-stack-LogRole-1", "no"), ("darkroom-gateway-LogRole-1", "yes")] {
        let account = Account::with(&[DATA, GATEWAY]).await;
        account.put("artifacts/gateway.json", "{}");
        let parameters = account.put("parameters", "NewsArn=none\n");
        account.answers(&format!("  *get-account*) echo arn:aws:iam::{ACCOUNT}:role/{role} ;;\n"));
        account.deploy(&["--parameters", &parameters]).ended(0);
        let api = account.aws(&["apigateway", "get-rest-apis", "--query", "items[0].id"]);
        let stage =
            ["apigateway", "get-stage", "--rest-api-id", &api, "--stage-name", "live", "--query", "description"];
        assert_eq!(account.aws(&stage), logs, "{role}");
    }
}

#[tokio::test]
async fn failed_migration_ends_deployment() {
    let account = Account::with(&[NETWORK, DATA, FUNCTIONS, GATEWAY]).await;
    make_release(&account, "error");
    let said = account.deploy(&[]).ended(1);
    assert!(said.contains("migrate: Unhandled: "), "{said}");
    assert!(said.contains("the server is gone"), "{said}");
    assert!(!account.stacks(REGION).contains("gateway"), "it went on");
}

#[tokio::test]
async fn replaces_outdated_instances() {
    let account = Account::with(&[NETWORK, DATA, SERVICE]).await;
    make_release(&account, "response");
    // The emulator has no instances.
    account.answers(
        "  *start-instance-refresh*) touch $0.started; echo the-refresh ;;
  *describe-instance-refreshes*the-refresh*) if rm $0.slow 2>/dev/null; then printf 'InProgress\\t50\\twaiting for instances to launch\\n'; else cat $0.end; fi ;;
  *describe-instance-refreshes*) echo None ;;
  *describe-auto-scaling-groups*InService*) cat $0.there ;;
  *describe-auto-scaling-groups*) cat $0.group ;;
  *describe-scaling-activities*) echo 'the lifecycle action was abandoned' ;;
",
    );
    let started = account.folder.path().join("aws.started");
    account.put("aws.group", "7\t7 7\n");
    account.put("aws.there", "2\t2\n");
    account.deploy(&[]).ended(0);
    assert!(!started.exists(), "all are of the newest");
    let topic = account.aws(&["sns", "list-topics", "--query", "Topics[?ends_with(TopicArn,':package')].TopicArn"]);
    let name = ["sns", "get-topic-attributes", "--topic-arn", &topic, "--query", "Attributes.DisplayName"];
    let sum = "c0cd5ccfdb563a59366e33e73001b78fdb8cca5a6c48e2f90fffcde44b81f1f6";
    assert_eq!(account.aws(&name), sum, "of the package, for instances to check");

    account.put("aws.group", "8\t7 8\n");
    account.put("aws.slow", "");
    account.put("aws.end", "Successful\t100\t-\n");
    let said = account.deploy(&[]).ended(0);
    let waits = "InProgress, 50 %: waiting for instances to launch\n";
    assert!(started.exists() && said.contains(waits) && said.contains("Successful, 100 %\n"), "{said}");

    account.put("aws.end", "Failed\t50\tno instance became healthy\n");
    let said = account.deploy(&[]).ended(1);
    assert!(
        said.contains("instances: Failed: no instance became healthy. The other instances keep serving."),
        "{said}"
    );

    // New instances do not become healthy, so the deployment does not succeed.
    account.put("aws.group", "8\t\n");
    account.put("aws.there", "2\t1\n");
    account.stand_in("sleep", "#!/bin/sh\n");
    let said = account.deploy(&[]).ended(1);
    assert!(
        said.contains("instances: 1 in service, at least 2 required: the lifecycle action was abandoned. "),
        "{said}"
    );
    assert!(!said.contains("Done"), "{said}");
}

#[tokio::test]
async fn destroy_confirms_and_keeps_data() {
    let account = Account::with(&[NETWORK, DATA, FUNCTIONS, GATEWAY, EDGE]).await;
    make_release(&account, "response");
    account.deploy(&[]).ended(0);
    let all = account.stacks(REGION);
    let said = account.destroy(&[]).ended(1);
    assert!(said.contains("confirmation needs a terminal"), "{said}");

    // A terminal with input.
    let answering = |answers: &str| {
        let mut command = account.command("/usr/bin/script".as_ref());
        command.args(["-qec", &format!("{} destroy --region {REGION}", script().display()), "/dev/null"]);
        let path = account.put("answers", answers);
        command.stdin(File::open(path).expect("answers"));
        finish(command)
    };
    let said = answering("production\nyes\n").ended(1);
    assert!(said.contains("the name does not match: nothing was deleted"), "{said}");
    let said = answering("darkroom\nno\n").ended(1);
    assert!(said.contains("Delete: edge gateway functions\r\nKeep: network data ("), "{said}");
    assert!(said.contains("nothing was deleted"), "{said}");
    assert_eq!(account.stacks(REGION), all);
    answering("darkroom\nyes\n").ended(0);
    assert_eq!(account.stacks(REGION), "darkroom-data UPDATE_COMPLETE\ndarkroom-network CREATE_COMPLETE");
    assert_eq!(account.stacks("us-east-1"), "");

    // Data is deleted only without protection.
    let said = account.destroy(&["--delete-data", "--yes", "--yes"]).ended(1);
    assert!(said.contains("protected against deletion: "), "{said}");
    let parameters = account.put("parameters", "DeletionProtection=no\n");
    account.deploy(&["--only", "data", "--parameters", &parameters]).ended(0);
    let said = account.destroy(&["--delete-data", "--dry-run"]).ended(0);
    assert!(said.contains("Delete: data network\nAll photos and users will be deleted permanently."), "{said}");
    account.destroy(&["--delete-data", "--yes", "--yes"]).ended(0);
    assert_eq!(account.stacks(REGION), "");
    assert_eq!(account.aws(&["s3api", "list-buckets", "--query", "length(Buckets)"]), "0");
    assert_eq!(account.aws(&["dynamodb", "list-tables", "--query", "length(TableNames)"]), "0");
    let said = account.destroy(&["--yes", "--yes"]).ended(0);
    assert!(said.contains("There is nothing to delete."), "{said}");
}

/// AWS refuses these deletions, the emulator does not.
#[tokio::test]
async fn destroy_removes_blocking_resources() {
    let users = "
Resources:
  Users:
    Type: AWS::Cognito::UserPool
    DeletionPolicy: Retain
    UpdateReplacePolicy: Retain
  Domain:
    Type: AWS::Cognito::UserPoolDomain
    Properties:
      UserPoolId: !Ref Users
      Domain: darkroom-sign-in
";
    let balancer = "
Resources:
  Balancer:
    Type: AWS::ElasticLoadBalancingV2::LoadBalancer
    Properties:
      LoadBalancerAttributes:
        - Key: deletion_protection.enabled
          Value: 'true'
Outputs:
  BalancerArn:
    Value: !Ref Balancer
";
    let account = Account::with(&[("data", users), ("service", balancer)]).await;
    make_release(&account, "response");
    account.deploy(&[]).ended(0);
    account.answers("");
    account.destroy(&["--yes", "--yes", "--delete-data"]).ended(0);
    let words = ["modify-load-balancer-attributes", "delete-stack", "delete-user-pool"];
    let calls = account.called(&words);
    let before = |first: &str, second: &str| {
        let at = |what: &str| calls.iter().position(|call| call.contains(what)).unwrap_or_else(|| panic!("{calls:?}"));
        assert!(at(first) < at(second), "{calls:?}");
    };
    before("Key=deletion_protection.enabled,Value=false", "darkroom-service/");
    before("delete-user-pool-domain", "delete-user-pool --");
    assert_eq!(account.stacks(REGION), "");
}

#[tokio::test]
async fn resumes_interrupted_deployment() {
    let account = Account::with(&[NETWORK]).await;
    let slow = NETWORK.1.replace(
        "Outputs:\n",
        "  Word:
    Type: AWS::CloudFormation::WaitConditionHandle
  Condition:
    Type: AWS::CloudFormation::WaitCondition
    Properties:
      Handle: !Ref Word
      Timeout: '3600'
Outputs:
",
    );
    account.put("network.yaml", slow);
    // In its own process group, which the interrupt reaches as from a terminal.
    let start = |log: &str| {
        let mut command = account.script();
        command.args(["--domain", "photos.example.com"]).process_group(0).stdin(Stdio::null());
        let log = File::create(account.folder.path().join(log)).expect("a log");
        command.stdout(log.try_clone().expect("a log")).stderr(log).spawn().expect("bash")
    };
    let said = |log: &str| std::fs::read_to_string(account.folder.path().join(log)).expect("a log");
    let mut first = start("first");
    eventually("in flight", async || said("first").contains("CREATE_IN_PROGRESS           Condition").then_some(()))
        .await;
    let group = Pid::from_raw(first.id().try_into().expect("a process id")).expect("a process id");
    kill_process_group(group, Signal::INT).expect("it exists");
    let ended = eventually("interrupted", async || first.try_wait().expect("a child")).await;
    assert_eq!(ended.code(), Some(130), "{}", said("first"));
    let told = "deploy: interrupted while changing network, which continues. Run it again to go on.\n";
    assert!(said("first").ends_with(told), "{}", said("first"));

    let mut second = start("second");
    eventually("waiting", async || said("second").contains("network: waiting, it is CREATE_IN_PROGRESS").then_some(()))
        .await;
    let resource = ["cloudformation", "describe-stack-resource", "--stack-name", "darkroom-network"];
    let id = ["--logical-resource-id", "Word", "--query", "StackResourceDetail.PhysicalResourceId"];
    let url = account.aws(&[&resource[..], &id[..]].concat());
    let word = "{\"Status\": \"SUCCESS\", \"UniqueId\": \"1\", \"Data\": \"\", \"Reason\": \"\"}";
    let mut curl = Command::new("curl");
    curl.args(["-fsS", "-X", "PUT", "-H", "content-type:", "--data-binary", word, &url]);
    finish(curl).ended(0);
    let ended = eventually("done", async || second.try_wait().expect("a child")).await;
    assert_eq!(ended.code(), Some(0), "{}", said("second"));
    assert!(said("second").contains("network: no changes\n"), "{}", said("second"));
}

#[test]
fn parses_templates_like_cloudformation() {
    for stack in template::STACKS {
        let read = template::read(stack);
        for section in ["Parameters", "Outputs"] {
            let mut command = Command::new("bash");
            let function = "source <(sed -n '/^section()/,/^}/p' \"$1\"); stacks=$2; section \"$3\" \"$4\"";
            let stacks = template::path(stack);
            command
                .args(["-c", function, "bash"])
                .arg(script())
                .arg(stacks.parent().expect("a folder"))
                .args([stack, section]);
            let mut rows: Vec<_> = finish(command).ended(0).lines().map(ToOwned::to_owned).collect();
            rows.sort();
            let no_fields = serde_json::Map::new();
            let fields = read[section].as_object().unwrap_or(&no_fields);
            let has = |field: &Value| if field.get("Default").is_some() { "default" } else { "needed" };
            let mut expected: Vec<_> = fields.iter().map(|(name, field)| format!("{name} {}", has(field))).collect();
            expected.sort();
            assert_eq!(rows, expected, "{section} of {stack}");
        }
    }
}
