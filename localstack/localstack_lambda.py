"""LocalStack's Lambda without Docker: a function is a plain process that runs its `bootstrap`.

LocalStack runs functions in containers and lets the executor be replaced; this is the replacement. It serves the
Runtime API (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html), one server for all functions: each
environment has its own path below it.
"""

import contextlib
import http
import json
import logging
import os
import queue
import signal
import socketserver
import subprocess
import tempfile
import threading
import time
import uuid
import zipfile
from collections import defaultdict
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path

from gate import QUEUE_SECONDS, Gate
from localstack import config
from localstack.aws.api.lambda_ import TooManyRequestsException
from localstack.services.lambda_.invocation.executor_endpoint import StatusErrorException
from localstack.services.lambda_.invocation.lambda_models import InvocationResult
from localstack.services.lambda_.invocation.runtime_executor import RuntimeExecutor

# How long a function may take to ask for its first event, seconds. Lambda allows ten; a machine busy with 500
# buyers needs more.
INIT_SECONDS = 60
# What a function inherits of the engine's environment. Nothing of the developer's.
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "RUST_BACKTRACE")


def failure(kind, message):
    """A failure as Lambda reports it to callers."""
    return json.dumps({"errorType": kind, "errorMessage": message}).encode()


class Call:
    """One event on its way through an environment."""

    def __init__(self, payload, timeout):
        self.id = payload["invoke-id"]
        self.arn = payload["invoked-function-arn"]
        self.trace = payload["trace-id"]
        self.body = payload["payload"].encode()
        self.deadline = time.time() + timeout
        self.answer = Future()  # (body, whether it is an error)

    def settle(self, body, is_error):
        # A second result (an answer after the deadline, the end of a process after its answer) is ignored.
        with contextlib.suppress(Exception):
            self.answer.set_result((body, is_error))


class RuntimeApi(socketserver.StreamRequestHandler):
    """The Runtime API of all functions.

    It does not use http.server's handler: that parses the headers of a request as those of an e-mail, which took longer
    than everything else; and there are two requests for every event.
    """

    # A small answer would wait for a delayed ACK (40 ms).
    disable_nagle_algorithm = True
    environments = {}

    @classmethod
    def address(cls):
        """The address it listens on; starts it on first use."""
        with _SERVER_LOCK:
            if not hasattr(cls, "_server"):
                cls._server = Server(("127.0.0.1", 0), cls)
                threading.Thread(target=cls._server.serve_forever, daemon=True, name="runtime-api").start()
            host, port = cls._server.server_address[:2]
            return f"{host}:{port}"

    def handle(self):
        while line := self.rfile.readline():
            method, self.path, _ = line.decode("latin-1").split(" ", 2)
            self.headers = {}
            while (line := self.rfile.readline()).strip():
                name, _, value = line.decode("latin-1").partition(":")
                self.headers[name.lower()] = value.strip()
            match method:
                case "GET":
                    self.do_GET()
                case "POST":
                    self.do_POST()
                case _:
                    self.say(405)
            if self.headers.get("connection", "").lower() == "close":
                return

    def do_GET(self):
        environment, _, rest = self.path.lstrip("/").partition("/")
        executor = self.environments.get(environment)
        if executor is None or rest != "2018-06-01/runtime/invocation/next":
            return self.say(404)
        call = executor.next_call()
        if call is None:
            return self.say(410)
        self.say(
            200,
            call.body,
            {
                "Content-Type": "application/json",
                "Lambda-Runtime-Aws-Request-Id": call.id,
                "Lambda-Runtime-Deadline-Ms": str(int(call.deadline * 1000)),
                "Lambda-Runtime-Invoked-Function-Arn": call.arn,
                "Lambda-Runtime-Trace-Id": call.trace,
            },
        )

    def do_POST(self):
        body = self.read_body()
        environment, _, rest = self.path.lstrip("/").partition("/")
        executor = self.environments.get(environment)
        parts = rest.split("/")[2:]  # Without `2018-06-01/runtime`.
        if executor is None:
            return self.say(404)
        match parts:
            case ["init", "error"]:
                executor.could_not_start(body)
            case ["invocation", call, "response"]:
                executor.answered(call, body, False)
            case ["invocation", call, "error"]:
                executor.answered(call, body, True)
            case _:
                return self.say(404)
        self.say(202, b'{"status":"OK"}', {"Content-Type": "application/json"})

    def read_body(self):
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def say(self, status, body=b"", headers=None):
        lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        # One write for head and body.
        self.wfile.write("\r\n".join([*lines, "\r\n"]).encode("latin-1") + body)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 1024

    def handle_error(self, request, client_address):
        pass  # A function that ended while it was answered.


_SERVER_LOCK = threading.Lock()


LOG = logging.getLogger(__name__)
_CODE_LOCK = threading.Lock()


def unzipped(code):
    """The directory of a function's program. Functions of one package share it; LocalStack has a copy for each."""
    path = Path(tempfile.gettempdir(), "code", code.code_sha256.replace("/", "_"))
    with _CODE_LOCK:
        if not path.exists():
            new = path.with_name(f"{path.name}.new")
            with tempfile.TemporaryFile() as archive:
                code._download_archive_to_file(archive)
                with zipfile.ZipFile(archive) as files:
                    files.extractall(new)
            new.joinpath("bootstrap").chmod(0o755)
            new.rename(path)
    return path


class ProcessExecutor(RuntimeExecutor):
    """One environment of a function: one process, one call at a time."""

    shared_environment = {}

    def __init__(self, id, function_version):
        super().__init__(id, function_version)
        self.environment = {}
        self.process = None
        self.started = None
        self.calls = queue.SimpleQueue()
        self.call = None
        self.log_path = Path(tempfile.gettempdir(), "logs", f"{function_version.id.function_name}-{id}")
        self.log_read = 0

    # Called by LocalStack.

    def start(self, env_vars):
        RuntimeApi.environments[self.id] = self
        self.environment = {name: str(value) for name, value in env_vars.items()}
        self.spawn()

    def stop(self):
        RuntimeApi.environments.pop(self.id, None)
        self.kill()
        self.calls.put(None)
        self.log_path.unlink(missing_ok=True)

    def invoke(self, payload):
        if self.process is None or self.process.poll() is not None:
            self.spawn()  # It ended after, or by, its last call. Lambda starts a new one, too.
        timeout = self.function_version.config.timeout
        self.call = call = Call(payload, timeout)
        begun = time.time()
        self.calls.put(call)
        try:
            body, is_error = call.answer.result(timeout)
        except FutureTimeoutError:
            self.kill()
            body, is_error = failure("Sandbox.Timedout", f"RequestId: {call.id} Error: Task timed out after {timeout}.00 seconds"), True
        self.call = None
        took = (time.time() - begun) * 1000
        logs = (
            f"START RequestId: {call.id} Version: {self.function_version.id.qualifier}\n{self.read_log()}"
            f"END RequestId: {call.id}\nREPORT RequestId: {call.id}\tDuration: {took:.2f} ms\n"
        )
        return InvocationResult(call.id, body, is_error, logs)

    def get_address(self):
        return "127.0.0.1"

    def get_endpoint_from_executor(self):
        return "127.0.0.1"

    def get_runtime_endpoint(self):
        return f"http://{RuntimeApi.address()}/{self.id}"

    def get_logs(self):
        with contextlib.suppress(FileNotFoundError):
            return self.log_path.read_text(errors="replace")
        return ""

    @classmethod
    def prepare_version(cls, function_version):
        unzipped(function_version.config.code)

    @classmethod
    def cleanup_version(cls, function_version):
        pass

    # Called by the Runtime API.

    def next_call(self):
        if not self.started.done():
            self.started.set_result(None)
        return self.calls.get()

    def answered(self, id, body, is_error):
        call = self.call
        if call is not None and call.id == id:
            call.settle(body, is_error)

    def could_not_start(self, body):
        if not self.started.done():
            self.started.set_exception(StatusErrorException("the function could not start", payload=body))

    # The process.

    def spawn(self):
        code = unzipped(self.function_version.config.code)
        self.calls = queue.SimpleQueue()
        self.started = started = Future()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        # A file, not a pipe: no reader is needed, and what was written before an answer is complete with it.
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [code / "bootstrap"],
                cwd=code,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **inherited,
                    **self.shared_environment,
                    **self.environment,
                    "LAMBDA_TASK_ROOT": str(code),
                    # Lambda gives host and port; lambda_runtime takes a URL as well.
                    "AWS_LAMBDA_RUNTIME_API": self.get_runtime_endpoint(),
                },
            )
        threading.Thread(target=self.watch, args=(self.process, started), daemon=True).start()
        try:
            started.result(INIT_SECONDS)
        except FutureTimeoutError:
            self.kill()
            raise StatusErrorException(
                "the function did not start",
                payload=failure("Runtime.InitTimeout", f"no first /next within {INIT_SECONDS} s"),
            ) from None
        except StatusErrorException:
            LOG.warning("%s said: %s", self.function_version.id.function_name, self.read_log())
            raise

    def watch(self, process, started):
        """Notifies the waiting call when the process ended."""
        status = process.wait()
        message = f"RequestId: {getattr(self.call, 'id', uuid.UUID(int=0))} Error: Runtime exited with status {status}"
        with contextlib.suppress(Exception):  # It had started.
            started.set_exception(
                StatusErrorException("the function ended at its start", payload=failure("Runtime.ExitError", message))
            )
        call = self.call
        if call is not None and process is self.process:
            call.settle(failure("Runtime.ExitError", message), True)

    def kill(self):
        process = self.process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        # Its request for the next call, if any, waits for an event that will not come.
        self.calls.put(None)

    def read_log(self):
        """The output since the last call."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(self.log_read)
                text = log.read()
        except FileNotFoundError:
            return ""
        self.log_read += len(text)
        text = text.decode(errors="replace")
        return text if not text or text.endswith("\n") else text + "\n"


def share_packages(provider, models):
    """Stores a package once; LocalStack stores it again for each function made of it.

    A package's key in its bucket has the hash of its content, so a key is the same package for ever.
    """
    stock, lock, packages = provider.store_s3_bucket_archive, threading.Lock(), {}

    def store(archive_bucket, archive_key, archive_version, **function):
        key = (archive_bucket, archive_key, archive_version)
        with lock:
            if key not in packages:
                packages[key] = stock(*key, **function)
            return packages[key]

    provider.store_s3_bucket_archive = store
    # Another function may use it; the engine keeps nothing that outlives it.
    models.S3Code.destroy = lambda self: None


class Snapshots(dict):
    """A dictionary that may be added to while its values are iterated."""

    def values(self):
        return list(super().values())


def queue_instead_of_throttling(version_manager, per_function):
    """Bounds the processes of one function and lets further calls wait for one.

    As with ministack: a process for every concurrent call would be 500 processes for 500 buyers. One gate per function,
    so that a function that waits for another holds its own gate only.
    """
    stock, gates = version_manager.LambdaVersionManager.invoke, defaultdict(Gate)

    def invoke(self, *, invocation):
        reserved = getattr(self.function, "reserved_concurrent_executions", None)
        if reserved == 0:  # The function is switched off: refuse, do not wait.
            return stock(self, invocation=invocation)
        gate = gates[self.function_version.id.unqualified_arn()]
        limit = per_function if reserved is None else min(reserved, per_function)
        if not gate.enter(limit, QUEUE_SECONDS):
            raise TooManyRequestsException("Rate Exceeded.")
        try:
            return stock(self, invocation=invocation)
        finally:
            gate.leave(limit)

    version_manager.LambdaVersionManager.invoke = invoke


def install(environment):
    """Makes LocalStack run functions as processes, with this environment beside their own."""
    from localstack.services.lambda_ import provider
    from localstack.services.lambda_.invocation import (
        assignment,
        lambda_models,
        runtime_executor,
        version_manager,
    )
    from localstack.services.lambda_.invocation.plugins import RuntimeExecutorPlugin
    from plux import PluginSpec

    class ProcessExecutorPlugin(RuntimeExecutorPlugin):
        name = "process"

        def load(self, *args, **kwargs):
            return ProcessExecutor

    class Finder:
        def find_plugins(self):
            return [PluginSpec(RuntimeExecutorPlugin.namespace, "process", ProcessExecutorPlugin)]

    # The plug-in point, without a package to be installed for it.
    runtime_executor.EXECUTOR_PLUGIN_MANAGER.finder = Finder()
    config.LAMBDA_RUNTIME_EXECUTOR = "process"

    stock = assignment.AssignmentService.__init__

    def init(self):
        stock(self)
        self.environments.default_factory = Snapshots

    assignment.AssignmentService.__init__ = init
    ProcessExecutor.shared_environment = environment
    for name in ("record_cw_metric_invocation", "record_cw_metric_error"):
        # A thread and a call for every call, for metrics that nothing here reads.
        setattr(version_manager, name, lambda **_: None)
    share_packages(provider, lambda_models)
    queue_instead_of_throttling(version_manager, int(os.environ.get("ENCORE_FUNCTION_CONCURRENCY", "8")))
