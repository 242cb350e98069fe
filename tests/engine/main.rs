//! The requirements of an engine: it deploys a system's stacks one by one, on either engine; and for the second one,
//! LocalStack, what the local cloud adds to it, and its set-up in Docker.
//!
//! What needs LocalStack itself runs where `ENCORE_ENGINE=localstack` asks for it, as the other suites do.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod refusals;
mod sink;
mod stacks;
mod updates;

use local::http::Client;
use local::{EngineKind, Options, Stack, StackInfo};
use serde_norway::Value;
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Once;
use std::thread;
use tests::cloud::{Ability, block_on, engine, skipped};

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
fn docker_has_the_version_that_is_installed_on_the_host_unless_set_otherwise() {
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
fn what_runs_functions_passes_its_own_tests() {
    let tests = match engine() {
        EngineKind::Ministack => "test_ministack",
        EngineKind::Localstack => "test_localstack_lambda",
    };
    let python = block_on(local::interpreter(engine(), &local::stderr_progress())).unwrap();
    let ran = Command::new(python)
        .args(["-m", "unittest", tests])
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
    // A listener on all addresses would have every address of 127.0.0.0/8.
    connect(Ipv4Addr::new(127, 0, 0, 2)).unwrap_err();
    block_on(stack.stop()).unwrap();
}

/// An API that returns the URL of the external systems, as functions see it.
const API: &str = r#"
Parameters: {PartnerUrl: {Type: String}}
Resources:
  Api: {Type: AWS::ApiGateway::RestApi, Properties: {Name: things}}
  Partner:
    Type: AWS::ApiGateway::Resource
    Properties: {RestApiId: !Ref Api, ParentId: !GetAtt Api.RootResourceId, PathPart: partner}
  Get:
    Type: AWS::ApiGateway::Method
    Properties:
      RestApiId: !Ref Api
      ResourceId: !Ref Partner
      HttpMethod: GET
      AuthorizationType: NONE
      MethodResponses: [{StatusCode: "200"}]
      Integration:
        Type: MOCK
        RequestTemplates: {application/json: '{"statusCode": 200}'}
        IntegrationResponses: [{StatusCode: "200", ResponseTemplates: {application/json: !Ref PartnerUrl}}]
  Deployment: {Type: AWS::ApiGateway::Deployment, DependsOn: Get, Properties: {RestApiId: !Ref Api}}
  V1:
    Type: AWS::ApiGateway::Stage
    Properties: {RestApiId: !Ref Api, DeploymentId: !Ref Deployment, StageName: v1}
"#;

/// A stand-in for Docker that runs the engine on this machine when a container is requested.
const STAND_IN: &str = r#"#!{python}
import os, signal, subprocess, sys, urllib.request
from pathlib import Path

def answers():
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/_encore/engine")
    except OSError:
        return False
    return True

here, engine = Path(__file__).parent, Path(__file__).with_name("engine")
with here.joinpath("calls").open("a") as calls:
    print(*sys.argv[1:], file=calls)
if sys.argv[1:] == ["compose", "version"]:
    sys.exit()
file = Path(sys.argv[5])
if sys.argv[6:] == ["up", "--detach", "--wait"]:
    port, nonce = os.environ["ENCORE_PORT"], os.environ["ENCORE_NONCE"]
    launcher = [sys.executable, file.with_name("localstack_launcher.py"), "--database", "{program}"]
    process = subprocess.Popen(
        [*launcher, "--port", port, "--nonce", nonce],
        env=dict(
            os.environ, TMPDIR=str(here), AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
            AWS_REGION="us-east-1", AWS_DEFAULT_REGION="us-east-1",
        ),
        stdin=subprocess.DEVNULL, stdout=here.joinpath("log").open("w"), stderr=subprocess.STDOUT,
    )
    engine.write_text(f"{process.pid} {port}")
    while not answers():
        assert process.poll() is None, here.joinpath("log").read_text()
elif sys.argv[6:] == ["down", "--volumes"]:
    pid, port = engine.read_text().split()
    os.kill(int(pid), signal.SIGTERM)
    while answers():
        pass
else:
    sys.exit(f"what is {sys.argv[6:]}?")
"#;

/// A stack's directory, and the stand-in for Docker.
struct Docker {
    options: Options,
    path: String,
}

impl Docker {
    /// Without any Docker, where `stand_in` is none.
    fn played_by(stand_in: Option<&str>) -> Self {
        let options = with_template(API);
        let bin = options.dir.join("bin");
        fs::create_dir_all(&bin).unwrap();
        let mut path = bin.to_str().unwrap().to_owned();
        if let Some(text) = stand_in {
            fs::write(bin.join("docker"), text).unwrap();
            fs::set_permissions(bin.join("docker"), fs::Permissions::from_mode(0o755)).unwrap();
            path = format!("{path}:{}", env::var("PATH").unwrap());
        }
        Self { options, path }
    }

    fn local(&self, verb: &str) -> Output {
        let dir = self.options.dir.to_str().unwrap();
        let mut command = Command::new(program());
        command.args([verb, "--engine", "localstack", "--docker", "--target-dir", dir]).env("PATH", &self.path);
        if verb == "up" {
            command.arg("--template").arg(&self.options.template);
        }
        command.output().unwrap()
    }

    /// The message of a failing `up`.
    fn refusal(&self) -> String {
        let refused = self.local("up");
        assert!(!refused.status.success());
        assert!(!self.options.dir.join("engine.json").exists(), "an engine is remembered that there is not");
        String::from_utf8(refused.stderr).unwrap()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        self.local("down");
        fs::remove_dir_all(&self.options.dir).unwrap();
    }
}

/// `cargo local`, beside the tests' own programs.
fn program() -> PathBuf {
    static BUILT: Once = Once::new();
    // On a thread of its own: it is called from within async tests, too.
    BUILT.call_once(|| {
        thread::spawn(|| block_on(local::build(&local::stderr_progress()))).join().unwrap().unwrap();
    });
    env::current_exe().unwrap().ancestors().nth(2).unwrap().join("local")
}

#[test]
fn without_docker_its_name_is_printed() {
    let refusal = Docker::played_by(None).refusal();
    assert!(refusal.contains("docker is not in PATH"), "{refusal}");
}

#[test]
fn the_output_of_a_docker_that_fails_is_shown() {
    let stand_in = "#!/bin/sh\ncase \"$*\" in *' up '*) echo 'no daemon' >&2; exit 1;; esac\n";
    let refusal = Docker::played_by(Some(stand_in)).refusal();
    assert!(refusal.contains("docker compose up failed: no daemon; all it said is in "), "{refusal}");
}

#[test]
fn docker_is_asked_to_start_the_engine_deployed_to_and_asked_to_end_it() {
    if skipped(Ability::LocalStack) {
        return;
    }
    let python = block_on(local::interpreter(EngineKind::Localstack, &local::stderr_progress())).unwrap();
    let stand_in = STAND_IN.replace("{python}", python.to_str().unwrap());
    let docker = Docker::played_by(Some(&stand_in.replace("{program}", program().to_str().unwrap())));
    let up = docker.local("up");
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));

    let info = StackInfo::of_running(&docker.options.dir).unwrap();
    let get = async |url: &str| Client::new().send(http::Method::GET, url, &[], "").await;
    let partner = block_on(get(&format!("{}/partner", info.api_url))).unwrap();
    let sink_port = info.sink_url.strip_prefix("http://127.0.0.1:").unwrap();
    assert_eq!(partner.text(), format!("http://host.docker.internal:{sink_port}/partner"));
    // Containers connect from another address than this machine's own.
    TcpStream::connect(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), sink_port.parse().unwrap()))).unwrap();

    let again = docker.local("up");
    assert!(String::from_utf8_lossy(&again.stderr).contains("as it was"), "{again:?}");
    assert!(docker.local("down").status.success());
    block_on(get(&info.endpoint_url)).unwrap_err();
    let calls = fs::read_to_string(docker.options.dir.join("bin").join("calls")).unwrap();
    let count = |verb: &str| calls.lines().filter(|call| call.ends_with(verb)).count();
    assert_eq!((count("up --detach --wait"), count("down --volumes")), (1, 1), "{calls}");
}
