//! The way to AWS: `infra/package`, `infra/deploy` and `infra/destroy`, run as an operator runs them.
//!
//! They deploy to a local engine. The programs are stand-ins, the smallest that pass for programs for arm64: the tests
//! prove what happens to a program, not the program.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod interrupts;
mod keys;
mod stacks;
mod stages;

use aws_sdk_dynamodb::types::AttributeValue;
use kit::aws::local_config;
use kit::service::{SSM, Service};
use local::query::Query;
use local::{Options, Stack};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use tests::workspace;

/// The region of every stage.
const REGION: &str = "ap-northeast-2";
/// Must not be in any output.
const SECRET: &str = "dont-print-me-2718281828";
const JWKS: &str = r#"UserJwks={"keys":[{"kid":"k1","alg":"RS256"}]}"#;
const ISSUER: &str = "UserTokenIssuer=https://issuer.example";
/// `e_machine` in an ELF file's header.
const ARM64: u16 = 0xB7;
const X86_64: u16 = 0x3E;

/// A directory of one test, removed when the test is over.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("delivery-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// With a stand-in for each context's program.
    fn built() -> Self {
        let scratch = Self::new();
        for context in contexts() {
            scratch.program(&context, &elf(ARM64, &context));
        }
        scratch
    }

    fn program(&self, context: &str, content: &[u8]) {
        let dir = self.0.join("package").join(context);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("bootstrap"), content).unwrap();
    }

    /// The scripts and what they deploy are those of the workspace, until a test changes something.
    fn sources(&self) -> PathBuf {
        let own = self.0.join("sources");
        if own.exists() { own } else { workspace("") }
    }

    /// Changes a file under `infra/` of this test's own sources. The tools are the workspace's.
    fn change(&self, file: &str, change: impl FnOnce(String) -> String) {
        let own = self.0.join("sources");
        if !own.exists() {
            fs::create_dir(&own).unwrap();
            let copied = Command::new("cp").arg("-R").arg(workspace("infra")).arg(&own).status().unwrap();
            assert!(copied.success());
            std::os::unix::fs::symlink(workspace("target"), own.join("target")).unwrap();
        }
        let path = own.join("infra").join(file);
        let before = fs::read_to_string(&path).unwrap();
        let after = change(before.clone());
        assert!(before != after, "{file} is as it was");
        fs::write(path, after).unwrap();
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&fs::read(self.0.join(path)).unwrap()).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

/// The header of a program for a machine, and a name that distinguishes it.
fn elf(machine: u16, name: &str) -> Vec<u8> {
    let mut program = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0".to_vec();
    program.extend(machine.to_le_bytes());
    program.extend(name.bytes());
    program
}

/// The contexts are the crates of functions/ with a program.
fn contexts() -> Vec<String> {
    let entries = fs::read_dir(workspace("functions")).unwrap().map(|entry| entry.unwrap());
    let mut found: Vec<String> = entries
        .filter(|entry| entry.path().join("src/main.rs").exists())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    found.sort();
    found
}

/// One of the scripts, in an environment that knows no account, no home and no terminal.
fn script(name: &str, scratch: &Scratch, arguments: &[&str]) -> Command {
    static TOOLS: Once = Once::new();
    // They are installed on first need, which may depend on the environment.
    TOOLS.call_once(|| {
        let installed = Command::new(workspace("infra/package")).arg("--help").output().unwrap();
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    });
    let mut command = Command::new(scratch.sources().join("infra").join(name));
    command.args(arguments).stdin(Stdio::null()).env_clear().env("HOME", &scratch.0);
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("AWS_EC2_METADATA_DISABLED", "true");
    if name != "destroy" {
        command.arg("--out-dir").arg(&scratch.0);
    }
    command
}

/// The output of a run, and whether it succeeded.
struct Run {
    text: String,
    well: bool,
}

impl Run {
    fn by(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = [String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)].concat();
        assert!(!text.contains("Traceback"), "{text}");
        assert!(!text.contains(SECRET), "a secret was printed: {text}");
        Self { text, well: status.success() }
    }

    fn has(&self, well: bool, parts: &[&str]) {
        assert_eq!(self.well, well, "{}", self.text);
        for part in parts {
            assert!(self.text.contains(part), "`{part}` is not said: {}", self.text);
        }
    }
}

fn run(name: &str, scratch: &Scratch, arguments: &[&str]) -> Run {
    Run::by(script(name, scratch, arguments))
}

/// A local engine with nothing of ours in it.
struct Account {
    stack: Stack,
    scratch: Scratch,
}

impl Account {
    async fn open() -> Self {
        let scratch = Scratch::built();
        let template = scratch.0.join("empty.yaml");
        fs::write(&template, "Resources: {Queue: {Type: AWS::SQS::Queue}}\n").unwrap();
        let options = Options { template, build: false, ..Options::ephemeral("delivery") };
        Self { stack: Stack::start(options).await.unwrap(), scratch }
    }

    fn run(&self, name: &str, arguments: &[&str]) -> Run {
        let mut command = script(name, &self.scratch, arguments);
        self.reached_by(&mut command);
        Run::by(command)
    }

    /// Lets a script work with this account.
    fn reached_by(&self, command: &mut Command) {
        command
            .env("AWS_ENDPOINT_URL", &self.stack.info().endpoint_url)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("ENCORE_SECRET_NOTION", format!(r#"{{"token": "{SECRET}", "database_id": "d"}}"#));
    }

    fn deploy(&self, more: &[&str]) -> Run {
        let notion = ["--parameter", "NotionUrl=https://notion.example"];
        self.run("deploy", &[&["dev", "--no-build"], &notion[..], more].concat())
    }

    fn cloudformation(&self) -> Query {
        Query::new(&local_config(&self.stack.info().endpoint_url, REGION))
    }

    fn dynamo(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::new(&local_config(&self.stack.info().endpoint_url, REGION))
    }

    fn ssm(&self) -> Service {
        Service::new(SSM, &local_config(&self.stack.info().endpoint_url, REGION))
    }

    /// Those of these parameters that exist.
    async fn kept(&self, names: &[&str]) -> Vec<Value> {
        let asked = json!({ "Names": names, "WithDecryption": true });
        self.ssm().call("GetParameters", &asked).await.unwrap()["Parameters"].as_array().unwrap().clone()
    }

    async fn described(&self, stack: &str) -> Option<Value> {
        self.cloudformation().stack(stack).await.ok()
    }

    async fn status_of(&self, stack: &str) -> Option<String> {
        Some(self.described(stack).await?["StackStatus"].as_str()?.to_owned())
    }

    /// The change sets of a stack of the stage `dev` that were neither applied nor discarded.
    async fn change_sets(&self, stack: &str) -> Vec<String> {
        let stack = format!("encore-dev-{stack}");
        let all = self.cloudformation().list("ListChangeSets", &stack, "Summaries").await.unwrap();
        let open = all.iter().filter(|set| set["ExecutionStatus"] == "AVAILABLE");
        open.map(|set| set["ChangeSetName"].as_str().unwrap().to_owned()).collect()
    }

    /// The status of each existing stack of the stage `dev`.
    async fn statuses(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for stack in stages::stacks() {
            if let Some(status) = self.status_of(&format!("encore-dev-{stack}")).await {
                found.insert(stack, status);
            }
        }
        found
    }

    /// The value of a parameter that a stack of the stage `dev` was last deployed with.
    async fn parameter(&self, stack: &str, name: &str) -> String {
        let described = self.described(&format!("encore-dev-{stack}")).await.unwrap();
        let parameters = described["Parameters"].as_array().unwrap();
        let found = parameters.iter().find(|parameter| parameter["ParameterKey"] == name);
        found.unwrap()["ParameterValue"].as_str().unwrap().to_owned()
    }
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}

// ----------------------------------------------------------------------------------------------------- packages

#[test]
fn the_same_programs_give_the_same_zips_wherever_and_whenever() {
    let (one, other) = (Scratch::built(), Scratch::built());
    run("package", &one, &["--no-build"]).has(true, &[]);
    run("package", &other, &["--no-build"]).has(true, &[]);
    let manifest = one.json("package/manifest.json");
    assert_eq!(manifest, other.json("package/manifest.json"));
    assert_eq!(manifest.as_object().unwrap().len(), contexts().len());
    for entry in manifest.as_object().unwrap().values() {
        let zip =
            |scratch: &Scratch| fs::read(scratch.0.join("package").join(entry["file"].as_str().unwrap())).unwrap();
        assert!(zip(&one) == zip(&other), "{entry}");
    }

    other.program("points", &elf(ARM64, "changed"));
    run("package", &other, &["--no-build"]).has(true, &[]);
    let changed = other.json("package/manifest.json");
    for context in contexts() {
        assert_eq!(manifest[&context] != changed[&context], context == "points", "{context}");
    }
}

#[test]
fn what_lambda_could_not_run_is_not_packed() {
    let scratch = Scratch::built();
    scratch.program("points", &elf(X86_64, "points"));
    run("package", &scratch, &["--no-build"]).has(false, &["points", "not built for arm64"]);
    run("package", &scratch, &["--no-build", "--arch", "x86_64", "points"]).has(true, &["points-"]);
    run("package", &scratch, &["--no-build", "--arch", "x86_64", "items"])
        .has(false, &["items", "not built for x86_64"]);
    scratch.program("points", b"#!/bin/sh\nexec something else\n");
    run("package", &scratch, &["--no-build"]).has(false, &["points", "no program"]);
    fs::remove_dir_all(scratch.0.join("package/points")).unwrap();
    run("package", &scratch, &["--no-build"]).has(false, &["points is not built"]);
    run("package", &scratch, &["--no-build", "elsewhere"]).has(false, &["no context elsewhere"]);
}

// ------------------------------------------------------------------------------------------------------ dry run

#[test]
fn a_dry_run_of_every_stage_makes_no_call_and_prints_no_secret() {
    let scratch = Scratch::built();
    run("package", &scratch, &["--no-build"]).has(true, &[]);
    // Any call that is made in spite of everything arrives here.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    for stage in stages::all() {
        let secret = format!("QueueTokenKeys={SECRET}");
        let mut command = script("deploy", &scratch, &[&stage.name, "--dry-run", "--parameter", &secret]);
        for variable in ["AWS_ENDPOINT_URL", "HTTP_PROXY", "HTTPS_PROXY"] {
            command.env(variable, &address);
        }
        command.env("ENCORE_SECRET_NOTION", SECRET).env("ENCORE_SECRET_PAYMENT_PROVIDER", SECRET);
        let output = Run::by(command);
        output.has(
            true,
            &["dry run: nothing was deployed", "AWS::DynamoDB::Table", "QueueTokenKeys=(not shown)", "points-"],
        );
        output.has(true, &[&format!("system encore-{}", stage.name)]);
        for stack in stages::stacks() {
            let line = output.text.lines().find(|line| line.starts_with(&format!("stack {stack}: ")));
            assert!(
                line.is_some_and(|line| line.ends_with("resources, of 500 that CloudFormation takes")),
                "{}",
                output.text
            );
        }
        for (name, value) in &stage.parameters {
            output.has(true, &[&format!("  {name}={value}\n")]);
        }
    }
    assert!(listener.accept().is_err(), "somebody was asked");
    let mind = ["482 reserved of the account's", "AlarmEmail is empty", "it would not be deployed"];
    run("deploy", &scratch, &["prod", "--dry-run"]).has(true, &mind);
}

/// From this many resources on, a stack has no room for what comes next: CloudFormation takes 500.
const ROOM: u32 = 350;

#[test]
fn every_stack_has_room_and_the_guide_says_how_much() {
    let output = run("deploy", &Scratch::new(), &["prod", "--dry-run"]);
    let counted: BTreeMap<String, u32> = output
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("stack ")?.split_once(" resources, of 500")?.0.split_once(": "))
        .map(|(stack, count)| (stack.to_owned(), count.parse().unwrap()))
        .collect();
    assert_eq!(counted.keys().cloned().collect::<BTreeSet<_>>(), stages::stacks(), "{}", output.text);
    let full: Vec<_> = counted.iter().filter(|(_, count)| **count > ROOM).collect();
    assert!(full.is_empty(), "split a context before it passes {ROOM} resources: {full:?}");
    let guide = fs::read_to_string(workspace("infra/DEPLOY.md")).unwrap();
    let stated: BTreeMap<String, u32> = guide
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "))
        .filter_map(|(stack, count)| Some((stack.to_owned(), count.parse().ok()?)))
        .filter(|(stack, _)| counted.contains_key(stack))
        .collect();
    assert_eq!(stated, counted, "infra/DEPLOY.md, the table of stacks");
}

#[test]
fn a_deployment_that_cannot_be_is_refused_with_the_name_of_what_is_wrong() {
    let scratch = Scratch::new();
    let jwks = scratch.0.join("jwks.json");
    fs::write(&jwks, r#"{"keys": [{"kid": "without alg"}]}"#).unwrap();
    let jwks = format!("UserJwks=@{}", jwks.display());
    let long =
        format!("UserJwks={{\"keys\": [{{\"kid\": \"1\", \"alg\": \"RS256\", \"x5c\": \"{}\"}}]}}", "x".repeat(3000));
    for (stage, parameter, why) in [
        ("dev", "NoSuchThing=1", "NoSuchThing"),
        ("dev", "OpenCharges", "Key=Value"),
        ("dev", "OpenCharges=maybe", "OpenCharges=maybe is none of true, false"),
        ("dev", "OrderDeadlineSeconds=5", "OrderDeadlineSeconds=5 is out of 240 to 3600"),
        ("dev", "ReturnDelaySeconds=30", "ReturnDelaySeconds=30 is not of the form"),
        ("dev", "ReturnDelaySeconds=300,30", "ReturnDelaySeconds=300,30 is no min,max of at most 86400"),
        ("dev", "ReturnDelaySeconds=0,99999", "ReturnDelaySeconds=0,99999 is no min,max of at most 86400"),
        ("dev", "MaxCancelledOrders=0", "MaxCancelledOrders=0 is out of 1 to 1000"),
        ("dev", "MaxPendingOrders=0", "MaxPendingOrders=0 is out of 1 to 100"),
        ("dev", "AdmissionEnforcedBy=nobody", "AdmissionEnforcedBy=nobody is for a system without reservations"),
        ("dev", "QueueShards=many", "QueueShards=many is no number"),
        ("dev", "UserJwks=@no-such-file", "UserJwks: no-such-file cannot be read"),
        ("dev", &jwks, "UserJwks is no JWKS"),
        ("dev", &long, "leave out x5c"),
        // It is generated.
        ("dev", "Release=1", "Release"),
        ("dev", "System=encore-prod", "System"),
        ("prod", "OpenCharges=true", "OpenCharges=true: production needs OpenCharges=false"),
        ("prod", "AdmissionDefault=open", "AdmissionDefault=open: production needs AdmissionDefault=closed"),
        ("prod", "GradualDeployments=false", "GradualDeployments=false: production needs GradualDeployments=true"),
        ("prod", "PartnerUrl=http://partner.example", "PartnerUrl=http://partner.example: production needs https://"),
        ("nowhere", "LogLevel=info", "no stage nowhere; it has dev, prod, staging"),
    ] {
        run("deploy", &scratch, &[stage, "--dry-run", "--parameter", parameter]).has(false, &[why]);
    }
}

#[test]
fn programs_that_are_not_packed_or_were_changed_since_are_named() {
    let scratch = Scratch::built();
    run("package", &scratch, &["--no-build"]).has(true, &[]);
    let zip = scratch.json("package/manifest.json")["items"]["file"].as_str().unwrap().to_owned();
    fs::write(scratch.0.join("package").join(&zip), "something else").unwrap();
    let zip_of_points = scratch.json("package/manifest.json")["points"]["file"].as_str().unwrap().to_owned();
    fs::remove_file(scratch.0.join("package").join(zip_of_points)).unwrap();
    let wrong = [format!("{zip} is not what the manifest says"), "points is not packaged".to_owned()];
    let wrong: Vec<&str> = wrong.iter().map(String::as_str).collect();
    run("deploy", &scratch, &["dev", "--dry-run"]).has(true, &wrong);
    run("deploy", &scratch, &["dev", "--dry-run", "--no-build"]).has(false, &wrong);
}

// ------------------------------------------------------------------------------------------------ for real

#[test]
fn production_is_not_deployed_without_an_address_for_alarms() {
    block_on(async {
        let account = Account::open().await;
        let production = ["prod", "--yes", "--no-build", "--parameter", JWKS, "--parameter", ISSUER];
        account.run("deploy", &production).has(false, &["AlarmEmail"]);
        assert_eq!(account.status_of("encore-prod-platform").await, None);
        // The next refusal is another one.
        let with_email = [&production[..], &["--parameter", "AlarmEmail=on-call@example.com"]].concat();
        let output = account.run("deploy", &with_email);
        output.has(false, &[]);
        assert!(!output.text.contains("AlarmEmail"), "{}", output.text);
    });
}

#[test]
fn a_stage_is_deployed_once_changed_when_asked_and_destroyed() {
    block_on(async {
        let account = Account::open().await;
        account.deploy(&["--yes"]).has(false, &["UserJwks", "UserTokenIssuer"]);
        assert!(account.statuses().await.is_empty());

        let output = account.deploy(&["--yes", "--parameter", JWKS, "--parameter", ISSUER]);
        output.has(true, &["points: new stack", "made /encore-dev/queue-token-keys", "kept /encore-dev/notion"]);
        stacks::in_order(&output, &["platform: done", "reservations: done", "concerts: applying", "edge: applying"]);
        let created = |status: &str| stages::stacks().into_iter().map(|name| (name, status.to_owned())).collect();
        let created: BTreeMap<String, String> = created("CREATE_COMPLETE");
        assert_eq!(account.statuses().await, created);
        let outputs = account.scratch.json("deploy/dev.json");
        assert_eq!(outputs["system"], "encore-dev");
        assert_eq!(outputs["stacks"]["items"], "encore-dev-items");
        assert_eq!(outputs["packages"].as_object().unwrap().len(), contexts().len());
        assert!(outputs["outputs"]["ApiUrl"].as_str().unwrap().contains(REGION), "{outputs}");
        assert!(outputs["tables"].as_array().unwrap().iter().any(|name| name == "encore-dev-points"), "{outputs}");
        let names = ["/encore-dev/notion", "/encore-dev/queue-token-keys"];
        let kept = account.kept(&names).await;
        assert_eq!(kept.len(), 2);
        for secret in kept {
            assert_eq!(secret["Type"], "SecureString");
            assert!(!outputs.to_string().contains(secret["Value"].as_str().unwrap()));
        }

        let release = account.parameter("points", "Release").await;

        // A given value is kept, and a generated one is not generated again.
        account.deploy(&["--yes"]).has(true, &["nothing changed"]);

        let changed = ["--parameter", "LogLevel=warn"];
        let shown = ["to modify", "AWS::Lambda::Function", "nobody is there to be asked"];
        account.deploy(&changed).has(false, &shown);
        assert_eq!(account.statuses().await, created);
        assert!(account.change_sets("points").await.is_empty(), "a change set is left");
        account
            .deploy(&[&["--yes"], &changed[..]].concat())
            .has(true, &["points: ", "to modify", "unchanged: platform, edge"]);
        // Otherwise the functions of the money path would go on with the settings they had.
        assert_ne!(account.parameter("points", "Release").await, release);
        assert_eq!(account.statuses().await["points"], "UPDATE_COMPLETE");

        account.run("destroy", &["dev"]).has(false, &["nobody is there to be asked"]);
        account.run("destroy", &["dev", "--confirm", "prod"]).has(false, &["nothing was destroyed"]);
        assert_eq!(account.statuses().await.len(), stages::stacks().len());
        let output = account.run("destroy", &["dev", "--confirm", "dev"]);
        output.has(true, &["left in SSM: /encore-dev/queue-token-keys"]);
        let deleting = |stack: &str| format!("deleting encore-dev-{stack}\n");
        let order = ["edge", "concerts", "reservations", "platform"].map(deleting);
        stacks::in_order(&output, &order.each_ref().map(String::as_str));
        assert!(account.statuses().await.is_empty());
        account.run("destroy", &["dev", "--confirm", "dev", "--with-secrets"]).has(true, &["there is no stack"]);
        assert!(account.kept(&names).await.is_empty());
        account.stack.stop().await.unwrap();
    });
}

#[test]
fn a_production_stage_is_not_destroyed_while_there_is_data_in_it() {
    block_on(async {
        let account = Account::open().await;
        let template = "
Parameters: {Stage: {Type: String}}
Resources:
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      TableName: encore-prod-points
      BillingMode: PAY_PER_REQUEST
      DeletionProtectionEnabled: true
      AttributeDefinitions: [{AttributeName: pk, AttributeType: S}]
      KeySchema: [{AttributeName: pk, KeyType: HASH}]
";
        let cloudformation = account.cloudformation();
        cloudformation.create("encore-prod-points", template, &[("Stage", "prod")]).await.unwrap();
        let empty = "Resources: {Queue: {Type: AWS::SQS::Queue}}";
        cloudformation.create("encore-prod-edge", empty, &[]).await.unwrap();
        for stack in ["encore-prod-points", "encore-prod-edge"] {
            let done = async || (account.status_of(stack).await? == "CREATE_COMPLETE").then_some(());
            tests::cloud::eventually("the stack is there", done).await;
        }
        let dynamo = account.dynamo();
        let key = AttributeValue::S("account#alice".to_owned());
        dynamo.put_item().table_name("encore-prod-points").item("pk", key.clone()).send().await.unwrap();

        let destroy = ["prod", "--confirm", "prod", "--with-secrets"];
        account.run("destroy", &destroy).has(false, &["encore-prod-points (at least 1)", "not destroyed"]);
        let found = dynamo.scan().table_name("encore-prod-points").send().await.unwrap();
        assert_eq!(found.count(), 1);
        // Stacks without data stay, too: it is one stage.
        assert_eq!(account.status_of("encore-prod-edge").await.as_deref(), Some("CREATE_COMPLETE"));

        dynamo.delete_item().table_name("encore-prod-points").key("pk", key).send().await.unwrap();
        account.run("destroy", &destroy).has(true, &["deleting encore-prod-edge", "deleting encore-prod-points"]);
        assert_eq!(account.status_of("encore-prod-points").await, None);
        account.stack.stop().await.unwrap();
    });
}
