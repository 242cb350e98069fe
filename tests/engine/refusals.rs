//! The messages of `cargo local up` when it fails: one line, with what to do. On either engine.
//!
//! The program runs from a target directory of the test's own, with a Python that the test provides.

use crate::{TEMPLATE, program, with_template};
use local::EngineKind;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

const ENGINES: [EngineKind; 2] = [EngineKind::Ministack, EngineKind::Localstack];

/// The progress that is printed before the refusal.
const PROGRESS: [&str; 2] = ["local: installing the engine for ", "local: starting "];

/// A Python with the version that a test gives it, which is its own virtual environment.
const PYTHON: &str = r#"#!/bin/sh
case "$*" in
  -c*) echo {version}; {venv};;
  "-m venv "*) /bin/mkdir -p "$3/bin" && /bin/cp "$0" "$3/bin/python";;
  "-m pip "*) {pip};;
  *_launcher.py*) {engine};;
esac
"#;

/// A machine that brings a stack up.
struct Machine {
    root: PathBuf,
    kind: EngineKind,
}

impl Machine {
    /// Without any Python.
    fn new(kind: EngineKind) -> Self {
        let machine = Self { root: with_template(TEMPLATE).dir, kind };
        let bin = machine.root.join("target").join("debug");
        for dir in [&bin, &machine.root.join("bin"), &machine.stack()] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::hard_link(program(), bin.join("local")).unwrap();
        // This is how the program recognises cargo's directory.
        fs::write(machine.root.join("target").join("CACHEDIR.TAG"), "").unwrap();
        machine
    }

    /// With one that does what it is given.
    fn with_python(kind: EngineKind, answers: &[(&str, &str)]) -> Self {
        let machine = Self::new(kind);
        let mut text = PYTHON.to_owned();
        for (what, how) in answers {
            text = text.replace(&format!("{{{what}}}"), how);
        }
        for (what, how) in [("version", "3.13"), ("venv", "echo venv"), ("pip", "exit 0"), ("engine", "exit 1")] {
            text = text.replace(&format!("{{{what}}}"), how);
        }
        let python = machine.root.join("bin").join("python3");
        fs::write(&python, text).unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        machine
    }

    fn stack(&self) -> PathBuf {
        self.root.join("stack")
    }

    /// The output of a verb, line by line, when it fails.
    fn fails(&self, verb: &str, more: &[&str]) -> Vec<String> {
        let mut command = Command::new(self.root.join("target").join("debug").join("local"));
        command.args([verb, "--engine", &self.kind.to_string()]);
        if !more.contains(&"--target-dir") {
            command.arg("--target-dir").arg(self.stack());
        }
        if verb == "up" {
            command.arg("--no-build").arg("--template").arg(self.root.join("template.yaml"));
        }
        // No pyenv.
        command.args(more).env("PATH", self.root.join("bin")).env("HOME", &self.root).env_remove("PYENV_ROOT");
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{text}");
        text.lines().map(str::to_owned).collect()
    }

    /// Fails unless `up` prints one line beside the progress, with all of `parts` in it.
    fn refuses(&self, more: &[&str], parts: &[&str]) {
        let lines = self.fails("up", more);
        let other = lines.iter().filter(|line| !PROGRESS.iter().any(|start| line.starts_with(start)));
        let other: Vec<&String> = other.collect();
        assert!(other.len() == 1 && parts.iter().all(|part| other[0].contains(part)), "{parts:?} of {lines:#?}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.root).unwrap();
    }
}

#[test]
fn a_machine_without_a_fitting_python_gets_the_version_to_install() {
    for kind in ENGINES {
        Machine::new(kind).refuses(&[], &["is needed for the local cloud", "install one"]);
        let old = Machine::with_python(kind, &[("version", "3.10")]);
        old.refuses(&[], &["or newer", "install one", "python3 is 3.10"]);
        let bare = Machine::with_python(kind, &[("venv", "exit 1")]);
        bare.refuses(&[], &["lacks the modules venv and ensurepip", "apt install python3-venv"]);
    }
    let new = Machine::with_python(EngineKind::Localstack, &[("version", "3.14")]);
    new.refuses(&[], &["Python 3.13 or newer, older than 3.14, is needed", "pyenv install 3.13", "python3 is 3.14"]);
}

#[test]
fn packages_that_cannot_be_installed_are_a_line_and_a_log() {
    let pip = "echo 'WARNING: Retrying after connection broken'; echo 'ERROR: No matching distribution' >&2; exit 1";
    for kind in ENGINES {
        let offline = Machine::with_python(kind, &[("pip", pip)]);
        let parts = ["for which PyPI has to be reached", "ERROR: No matching distribution; all it said is in ", ".log"];
        offline.refuses(&[], &parts);
        // A partial installation is not taken for a whole one.
        offline.refuses(&[], &parts);
    }
}

#[test]
fn an_engine_that_ends_at_once_is_a_line_its_log_and_how_to_have_another() {
    let broken = "echo 'Traceback (most recent call last):'; echo \"ModuleNotFoundError: No module named 'x'\"; exit 1";
    let other = "echo 'it is not the version that the launcher was written for' >&2; exit 1";
    for kind in ENGINES {
        for (engine, line) in [
            (broken, "ended at once: ModuleNotFoundError: No module named 'x'; its log is "),
            (other, "ended at once: it is not the version that the launcher was written for; its log is "),
            ("exit 1", "ended at once: it printed nothing; its log is "),
        ] {
            let machine = Machine::with_python(kind, &[("engine", engine)]);
            let again = format!("remove {}", machine.root.join("target").join("venv-").display());
            machine.refuses(&[], &[&kind.to_string(), line, "engine.log; to have it installed anew, ", &again]);
        }
    }
}

#[test]
fn a_port_that_is_taken_is_refused_before_anything_is_done() {
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let ours = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port().to_string();
    let (other_port, our_port) = (port(&other), port(&ours));
    let serve = |listener: TcpListener, answer: &'static str| {
        thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                assert!(connection.read(&mut [0; 1_024]).unwrap() > 0);
                connection.write_all(answer.as_bytes()).unwrap();
            }
        })
    };
    serve(other, "220 smtp.example\r\n");
    serve(ours, "HTTP/1.1 200 OK\r\ncontent-length: 22\r\n\r\n{\"nonce\":\"n\",\"pid\":42}");
    for kind in ENGINES {
        // There is no Python to call either.
        let machine = Machine::new(kind);
        let taken = [&*format!("the port {other_port} is taken by another program"), "say another --port"];
        machine.refuses(&["--port", &other_port], &taken);
        let taken =
            [&*format!("the port {our_port} is taken by another local stack"), "process 42", "say another --port"];
        machine.refuses(&["--port", &our_port], &taken);
    }
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let machine = Machine::new(EngineKind::Ministack);
    let parts = ["/dev/null/stack", "choose a directory that you may write to", "--target-dir"];
    machine.refuses(&["--target-dir", "/dev/null/stack"], &parts);
}

#[test]
fn a_program_that_is_missing_or_half_written_is_named() {
    for kind in ENGINES {
        let machine = Machine::with_python(kind, &[]);
        let function = "
  Function: {Type: AWS::Serverless::Function, Properties: {CodeUri: ../../target/lambda/items/}}
";
        fs::write(machine.root.join("template.yaml"), format!("{TEMPLATE}{function}")).unwrap();
        machine.refuses(&[], &["there is no program", "/target/debug/items", "leave out --no-build"]);
        fs::write(machine.root.join("target").join("debug").join("items"), "").unwrap();
        machine.refuses(&[], &["/target/debug/items is half-written", "cargo clean --package items"]);
    }
}

#[test]
fn a_file_of_the_stack_that_is_half_written_is_named_and_does_not_hinder_its_end() {
    for kind in ENGINES {
        let machine = Machine::with_python(kind, &[]);
        let file = |name: &str| machine.stack().join(name);
        fs::write(file("stack.json"), "{\"engine\":").unwrap();
        machine.refuses(&[], &["stack.json is damaged", "remove it and start again"]);
        fs::write(file("engine.json"), "{\"kind\":").unwrap();
        machine.refuses(&[], &["engine.json is damaged", "cargo local down --target-dir"]);
        // The engine that it named is recognised by its arguments.
        let launched = format!("--port 1 --nonce x --remove {}", machine.stack().join("tmp").display());
        let mut engine = Command::new("sh")
            .args(["-c", "read line", "a_launcher.py"])
            .args(launched.split(' '))
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let down = Command::new(program()).args(["down", "--target-dir"]).arg(machine.stack()).output().unwrap();
        assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
        assert_eq!(String::from_utf8_lossy(&down.stderr), "local: stopped\n");
        assert!(!engine.wait().unwrap().success() && !file("engine.json").exists() && !file("stack.json").exists());
    }
}
