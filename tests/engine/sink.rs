//! The lifetime of the sink beside a detached stack: as long as its engine exists, whatever that does meanwhile. And
//! its log states why it ended.

use crate::{API, program, with_template};
use http::Method;
use local::http::Client;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tests::cloud::{block_on, engine, eventually_after};

/// More checks of the engine than a sink needs to find that it is gone.
const MANY_LOOKS: u64 = 8;

/// Longer than elsewhere: the machine may be busy with other engines.
async fn until(what: &str, so: impl AsyncFn() -> bool) {
    eventually_after(what, Duration::from_secs(90), async || so().await.then_some(())).await;
}

fn signal(name: &str, pid: u64) {
    assert!(Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap().success());
}

/// The directory of a detached stack.
struct Dir(PathBuf);

impl Dir {
    fn read(&self, file: &str) -> Value {
        serde_json::from_slice(&fs::read(self.0.join(file)).unwrap()).unwrap()
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.0.join(file), text).unwrap();
    }

    /// The reason in the sink's log, if it ended.
    fn end(&self) -> Option<String> {
        let log = fs::read_to_string(self.0.join("sink.log")).unwrap();
        log.lines().find_map(|line| line.split_once("it ends: ")).map(|(_, why)| why.to_owned())
    }

    /// What the sink reports of itself.
    async fn sink(&self) -> Option<Value> {
        let url = format!("{}/_sink", self.read("sink.json")["url"].as_str().unwrap());
        Some(Client::new().send(Method::GET, &url, &[], "").await.ok()?.json())
    }

    /// Waits until the sink has checked for its engine so often that it would have ended if that counted as gone.
    async fn goes_on(&self) {
        let looks = async || {
            let report = self.sink().await;
            report.unwrap_or_else(|| panic!("the sink ended: {:?}", self.end()))["engine_looks"].as_u64().unwrap()
        };
        let before = looks().await;
        until("it looks", async || looks().await >= before + MANY_LOOKS).await;
    }

    /// Waits until the sink is gone, and returns why.
    async fn ends(&self) -> String {
        until("it ends", async || self.end().is_some()).await;
        until("it is gone", async || self.sink().await.is_none()).await;
        self.end().unwrap()
    }
}

/// A sink beside a process that plays an engine.
struct Beside {
    dir: Dir,
    engine: Child,
    sink: Child,
}

impl Beside {
    /// A process, or a project as `docker`, a script, shows it.
    async fn start(docker: Option<&str>) -> Self {
        let dir = with_template("").dir;
        let mut path = std::env::var("PATH").unwrap();
        if let Some(script) = docker {
            fs::write(dir.join("docker"), script).unwrap();
            fs::set_permissions(dir.join("docker"), fs::Permissions::from_mode(0o755)).unwrap();
            path = format!("{}:{path}", dir.display());
        }
        // It waits for a line that does not come, and has its name on its command line.
        let engine =
            Command::new("sh").args(["-c", "read line", "of-this-name"]).stdin(Stdio::piped()).spawn().unwrap();
        let dir = Dir(dir);
        dir.write("engine.json", &remembered(&engine, "of-this-name", docker.is_some()));
        let mut command = Command::new(program());
        command.args(["sink", "--target-dir"]).arg(&dir.0).env("PATH", path);
        let log = fs::File::create(dir.0.join("sink.log")).unwrap();
        let sink = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        until("the sink is there", async || dir.0.join("sink.json").exists() && dir.sink().await.is_some()).await;
        Self { dir, engine, sink }
    }

    fn pid(&self) -> u64 {
        self.engine.id().into()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        for child in [&mut self.engine, &mut self.sink] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        fs::remove_dir_all(&self.dir.0).unwrap();
    }
}

/// The `engine.json` of an engine. Nothing answers at its port.
fn remembered(engine: &Child, nonce: &str, in_docker: bool) -> String {
    let mut engine = json!({"kind": "localstack", "pid": engine.id(), "nonce": nonce, "port": 1});
    if in_docker {
        engine.as_object_mut().unwrap().remove("pid");
        engine["project"] = json!("a-project");
    }
    engine.to_string()
}

#[test]
fn a_sink_outlives_the_silence_of_its_engine_and_not_its_engine() {
    block_on(async {
        let mut beside = Beside::start(None).await;
        signal("STOP", beside.pid());
        beside.dir.goes_on().await;
        signal("CONT", beside.pid());
        beside.dir.goes_on().await;
        // A zombie: there still is a process of this number.
        beside.engine.kill().unwrap();
        let why = beside.dir.ends().await;
        assert!(why.starts_with(&format!("localstack, process {}, is gone", beside.pid())), "{why}");
    });
}

#[test]
fn another_process_of_the_engines_number_is_not_the_engine() {
    block_on(async {
        let dir = Dir(with_template("").dir);
        // This program's command line does not have the engine's name.
        dir.write("engine.json", &json!({"pid": std::process::id(), "nonce": "of-this-name", "port": 1}).to_string());
        let log = fs::File::create(dir.0.join("sink.log")).unwrap();
        let mut sink = Command::new(program()).args(["sink", "--target-dir"]).arg(&dir.0).stderr(log).spawn().unwrap();
        until("it ends", async || dir.end().is_some()).await;
        assert!(sink.wait().unwrap().success() && dir.end().unwrap().contains("is gone"), "{:?}", dir.end());
        fs::remove_dir_all(&dir.0).unwrap();
    });
}

#[test]
fn half_of_engine_json_says_nothing_and_none_of_it_ends_the_sink() {
    block_on(async {
        let beside = Beside::start(None).await;
        let whole = beside.dir.read("engine.json").to_string();
        beside.dir.write("engine.json", &whole[..whole.len() / 2]);
        beside.dir.goes_on().await;
        beside.dir.write("engine.json", "");
        beside.dir.goes_on().await;
        fs::remove_file(beside.dir.0.join("engine.json")).unwrap();
        let why = beside.dir.ends().await;
        assert!(why.starts_with("no engine is up in "), "{why}");
    });
}

#[test]
fn a_sink_leaves_an_engine_that_took_the_place_of_its_own_to_that_ones_sink() {
    block_on(async {
        let beside = Beside::start(None).await;
        beside.dir.write("engine.json", &remembered(&beside.engine, "of-another-name", false));
        let why = beside.dir.ends().await;
        assert!(why.contains("has another engine now"), "{why}");
    });
}

#[test]
fn a_sink_that_is_ended_logs_by_what() {
    block_on(async {
        let beside = Beside::start(None).await;
        signal("TERM", beside.sink.id().into());
        assert_eq!(beside.dir.ends().await, "it was told to, by SIGTERM");

        let beside = Beside::start(None).await;
        let named = beside.dir.read("sink.json");
        let url = format!("{}/_sink/{}", named["url"].as_str().unwrap(), named["nonce"].as_str().unwrap());
        Client::new().send(Method::DELETE, &url, &[], "").await.unwrap();
        assert_eq!(beside.dir.ends().await, "it was told to, over HTTP");
    });
}

#[test]
fn in_docker_an_engine_is_gone_when_docker_lists_none() {
    // Lists the content of the file beside it, and fails without it.
    let docker = "#!/bin/sh\ncase \"$*\" in *' ps '*) cat \"${0%/*}/containers\";; *) exit 1;; esac\n";
    block_on(async {
        let beside = Beside::start(Some(docker)).await;
        beside.dir.goes_on().await;
        beside.dir.write("containers", "0123456789ab\n");
        beside.dir.goes_on().await;
        beside.dir.write("containers", "\n");
        let why = beside.dir.ends().await;
        assert!(why.starts_with("localstack, in Docker as a-project, is gone"), "{why}");
    });
}

#[test]
fn the_sink_of_a_stack_answers_while_its_engine_does_not() {
    let options = with_template(API);
    let dir = Dir(options.dir.clone());
    let local = |verb: &str| {
        let mut command = Command::new(program());
        command.args([verb, "--engine", &engine().to_string(), "--target-dir"]).arg(&options.dir);
        if verb == "up" {
            command.arg("--no-build").arg("--template").arg(&options.template);
        }
        command.output().unwrap()
    };
    let up = local("up");
    block_on(async {
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        let pid = dir.read("engine.json")["pid"].as_u64().unwrap();
        signal("STOP", pid);
        dir.goes_on().await;
        signal("CONT", pid);
        let url = dir.read("stack.json")["endpoint_url"].as_str().unwrap().to_owned();
        Client::new().send(Method::GET, &format!("{url}/_encore/engine"), &[], "").await.unwrap();
        signal("KILL", pid);
        let why = dir.ends().await;
        assert!(why.contains(&format!("process {pid}, is gone")), "{why}");
    });
    assert!(local("down").status.success());
    fs::remove_dir_all(&dir.0).unwrap();
}
