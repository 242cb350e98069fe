//! The second engine, LocalStack: what the local cloud adds to it, and its set-up in Docker.
//!
//! What needs LocalStack itself runs where `ENCORE_ENGINE=localstack` asks for it, as the other suites do.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use local::{EngineKind, Options, Stack};
use serde_norway::Value;
use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::cloud::{Ability, block_on, skipped};

fn localstack() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("localstack")
}

fn compose() -> Value {
    serde_norway::from_str(&fs::read_to_string(localstack().join("compose.yaml")).unwrap()).unwrap()
}

/// The settings' names and values, comments left out.
fn settings() -> Vec<(String, String)> {
    let text = fs::read_to_string(localstack().join("localstack.env")).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once('=').unwrap()).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn docker_has_the_version_that_is_installed_on_the_host_unless_told_otherwise() {
    let pins = fs::read_to_string(localstack().join("requirements-localstack.txt")).unwrap();
    let pinned = pins.lines().find_map(|line| line.strip_prefix("localstack-core==")).unwrap();
    let version = pinned.split([' ', '\\']).next().unwrap();
    let image = format!("localstack/localstack:${{LOCALSTACK_IMAGE_TAG:-{version}}}");
    assert_eq!(compose()["services"]["localstack"]["image"], Value::from(image));
}

#[test]
fn docker_and_the_host_share_their_settings_and_hooks() {
    let service = &compose()["services"]["localstack"];
    assert_eq!(service["env_file"], Value::from("localstack.env"));
    let mounted: Vec<&str> = service["volumes"].as_sequence().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    assert!(mounted.contains(&"./init:/etc/localstack/init:ro"), "{mounted:?}");
    let names: BTreeSet<String> = settings().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), settings().len(), "a setting is there twice");
    let own = service["environment"].as_mapping().unwrap();
    let twice: Vec<_> = own.keys().filter(|name| names.contains(name.as_str().unwrap())).collect();
    assert!(twice.is_empty(), "compose.yaml says otherwise than localstack.env: {twice:?}");
}

#[test]
fn docker_opens_its_port_to_this_machine_only() {
    let compose = compose();
    let ports = compose["services"]["localstack"]["ports"].as_sequence().unwrap();
    assert!(ports.iter().all(|port| port.as_str().unwrap().starts_with("127.0.0.1:")), "{ports:?}");
}

#[test]
fn what_runs_functions_does_as_its_own_tests_say() {
    if skipped(Ability::LocalStack) {
        return;
    }
    let python = block_on(local::interpreter(EngineKind::Localstack, &local::stderr_progress())).unwrap();
    let ran = Command::new(python)
        .args(["-m", "unittest", "test_localstack_lambda"])
        .current_dir(localstack())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// A stack of one table and of a resource that LocalStack does not know.
const TEMPLATE: &str = "
Resources:
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      TableName: !Sub ${AWS::StackName}-things-of-all
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{AttributeName: PK, AttributeType: S}]
      KeySchema: [{AttributeName: PK, KeyType: HASH}]
";
const UNKNOWN: &str = "
  Group:
    Type: AWS::XRay::Group
    Properties: {GroupName: things}
";

fn with_template(text: &str) -> Options {
    let mut options = Options::ephemeral("test-engine");
    fs::create_dir_all(&options.dir).unwrap();
    options.engine = EngineKind::Localstack;
    options.template = options.dir.join("template.yaml");
    options.build = false;
    fs::write(&options.template, text).unwrap();
    options
}

#[test]
fn a_resource_that_the_engine_only_pretends_to_deploy_fails_the_deployment_by_name() {
    if skipped(Ability::LocalStack) {
        return;
    }
    let failed = block_on(Stack::start(with_template(&format!("{TEMPLATE}{UNKNOWN}")))).unwrap_err().to_string();
    assert!(failed.contains("Group (AWS::XRay::Group)") && failed.contains("fallback"), "{failed}");
}

#[test]
fn the_engine_listens_on_this_machines_own_address_only() {
    if skipped(Ability::LocalStack) {
        return;
    }
    let stack = block_on(Stack::start(with_template(TEMPLATE))).unwrap();
    let port = stack.info().endpoint_url.rsplit(':').next().unwrap().parse().unwrap();
    let connect = |host: Ipv4Addr| TcpStream::connect(SocketAddr::from((host, port)));
    connect(Ipv4Addr::LOCALHOST).unwrap();
    // Every address of 127.0.0.0/8 is this machine's where one listens on all of them.
    connect(Ipv4Addr::new(127, 0, 0, 2)).unwrap_err();
    block_on(stack.stop()).unwrap();
}
