"""Runs the functions' processes from the engine's event loop.

The stock engine serves each process's Runtime API by threads of its own, which poll ten times a second, and calls it
from yet another thread. Between them a call changes threads some ten times, and every change waits for the interpreter.
Here all of it is callbacks of one loop: an idle process costs nothing, and a call is one write and one read. A
process's output and its end are read from its pipe.
"""

import asyncio
import collections
import contextlib
import contextvars
import json
import os
import socket
import subprocess
import sys
import threading
import time

from gate import QUEUE_SECONDS
from ministack.core import lambda_runtime as runtime
from ministack.core.responses import _request_account_id, _request_region, new_uuid
from ministack.services import lambda_svc as svc
from ministack_http import Connection

# How many lines of a process are kept until its call is over.
MOST_LINES = 10000
# The longest part of a line that is waited for, bytes: as much as CloudWatch Logs takes for one.
MOST_OF_A_LINE = 256 * 1024
# How often its pipe is read before others get their turn. A pipe holds less, so its whole content is read by then.
MOST_READS = 4
# How long lines between calls are gathered before they are handed over, seconds.
LATE_SECONDS = 1
# How long the answer of a process that has ended may still be in flight, seconds.
GRACE_SECONDS = 0.05
JSON = b"content-type: application/json\r\n"


class Ended(Exception):
    """A process ended, or took too long, before it answered."""

    def __init__(self, message, kind):
        super().__init__(message)
        self.payload = {"errorMessage": message, "errorType": kind}


ENDED = Ended("Runtime exited before returning a response", "Runtime.ExitError")


class Process:
    """A process of a function, from its start to its end, and its side of the Runtime API."""

    def __init__(self, config, log):
        self.config, self.log = config, log
        self.loop = asyncio.get_running_loop()
        self.handle = None  # The subprocess.
        self.over = False
        self.ready = self.loop.create_future()
        self._listener = self._asks = self._call = self._output = None
        self._connections, self._rest = set(), b""

    async def start(self, code_zip, seconds):
        """Starts it, and waits until it asks for its first event."""
        code = await self.loop.run_in_executor(None, code_dir, self.config, code_zip)
        bootstrap = os.path.join(code, "bootstrap")
        if not os.access(bootstrap, os.X_OK):
            missing = "No bootstrap binary found in the deployment package."
            raise runtime.ProvidedRuntimeError(missing, "Runtime.InvalidEntrypoint")
        listening = socket.create_server(("127.0.0.1", 0))
        self._listener = await self.loop.create_server(self._connection, sock=listening)
        if self.over:  # Ended while it started.
            self._listener.close()
            raise RuntimeError("the environment was let go of while it started")
        environment = svc._provided_worker_env(self.config, code, listening.getsockname()[1])
        try:
            self.handle = await self.loop.run_in_executor(None, spawn, bootstrap, code, environment)
        except OSError as error:
            could_not = f"Couldn't execute the bootstrap binary: {error}"
            raise runtime.ProvidedRuntimeError(could_not, "Runtime.InvalidEntrypoint") from error
        if self.over:  # Ended while it started.
            self.loop.run_in_executor(None, reap, self.handle)
        self._output = self.handle.stdout.fileno()
        os.set_blocking(self._output, False)
        self.loop.add_reader(self._output, self._read_output)
        try:
            await asyncio.wait_for(asyncio.shield(self.ready), seconds)
        except asyncio.TimeoutError:
            late = f"bootstrap did not reach the Runtime API within {seconds:g}s"
            raise runtime.ProvidedInitTimeout(late) from None

    def is_running(self):
        return not self.over and self.handle.poll() is None

    async def call(self, event, request_id, trace_id, arn):
        """The kind of its answer, `response` or `error`, and the answer."""
        if self.over:
            raise ENDED
        seconds = self.config.get("Timeout", 30)
        lines = [
            f"lambda-runtime-aws-request-id: {request_id}",
            f"lambda-runtime-deadline-ms: {int((time.time() + seconds) * 1000)}",
            f"lambda-runtime-invoked-function-arn: {arn}",
        ]
        if trace_id:
            lines.append(f"lambda-runtime-trace-id: {trace_id}")
        head = JSON + "".join(f"{line}\r\n" for line in lines).encode()
        answer = self.loop.create_future()
        self._call = (request_id, answer, (head, json.dumps(event).encode()))
        self._hand_over()
        late = f"Task timed out after {seconds}.00 seconds"
        timer = self.loop.call_later(seconds, self._fail, Ended(late, "Sandbox.Timedout"))
        try:
            return await answer
        finally:
            timer.cancel()
            self._call = None

    def _hand_over(self):
        """Gives the call to the process, once there is a call and the process asks for it."""
        if self._call is None or self._asks is None or self._call[2] is None:
            return
        (request_id, answer, (head, payload)), asks = self._call, self._asks
        self._call, self._asks = (request_id, answer, None), None
        asks.respond(200, head, payload)

    def _fail(self, error):
        if self._call is not None and not self._call[1].done():
            self._call[1].set_exception(error)

    def _connection(self):
        connection = Connection(self._serve, self._connections.discard)
        self._connections.add(connection)
        return connection

    def _serve(self, request):
        path = request.target.decode("latin-1")
        if self.over:
            request.respond(500, JSON, b'{"errorMessage":"execution environment stopped"}')
        elif request.method == b"GET" and path.endswith("/runtime/invocation/next"):
            self._asks = request
            if not self.ready.done():
                self.ready.set_result(None)
            self._hand_over()
        elif request.method == b"POST" and path.endswith("/runtime/init/error"):
            request.respond(202, b"", b"")
            if not self.ready.done():
                self.ready.set_exception(RuntimeError(f"init error: {parsed(request.body)}"))
        elif request.method == b"POST" and (match := runtime._INVOCATION_RESULT_RE.search(path)):
            request_id, kind = match.groups()
            if self._call is None or self._call[0] != request_id or self._call[1].done():
                wrong = {"errorMessage": "Invalid request ID", "errorType": "InvalidRequestID"}
                request.respond(400, JSON, json.dumps(wrong).encode())
                return
            request.respond(202, b"", b"")
            # What it wrote before it answered is in the pipe by now.
            self._read_output()
            self._call[1].set_result((kind, parsed(request.body)))
        else:
            request.respond(404, b"", b"")

    def _read_output(self):
        for _ in range(MOST_READS):
            if self._output is None:
                return
            try:
                data = os.read(self._output, 65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._close_output()
                self.loop.call_later(GRACE_SECONDS, self.end)
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            if len(self._rest) > MOST_OF_A_LINE:
                lines.append(self._rest)
                self._rest = b""
            self.log(lines)

    def _close_output(self):
        self.loop.remove_reader(self._output)
        self.handle.stdout.close()
        self._output = None
        if self._rest:
            self.log([self._rest])
            self._rest = b""

    def end(self):
        """Ends it, busy or not."""
        if self.over:
            return
        self.over = True
        if self._output is not None:
            self._read_output()
        if not self.ready.done():
            code = self.handle.poll() if self.handle else None
            self.ready.set_exception(RuntimeError(f"bootstrap exited during init with code {code}"))
            self.ready.exception()  # No caller may be waiting any more.
        self._fail(ENDED)
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            connection.close()
        if self.handle is not None:
            self.loop.run_in_executor(None, reap, self.handle)
        if self._output is not None:
            self._close_output()


class Environment(runtime.Worker):
    """An execution environment as the engine's pool knows it. Serves one call at a time, by one process after another."""

    def __init__(self, func_name, config, code_zip):
        super().__init__(func_name, config, code_zip)
        self._process, self._lines, self._calls, self._late = None, collections.deque(maxlen=MOST_LINES), 0, None
        self._let_go, self._loop = False, asyncio.get_running_loop()

    async def call(self, event, request_id, arn):
        """What `lambda_svc._execute_function` answers."""
        self._calls += 1
        # The engine ends the process of an environment that it discards. During a call it finds none: the call ends
        # first, as on AWS.
        self._proc = None
        try:
            kind, payload = await self._answer(event, request_id, arn)
            if kind == "response":
                return {"body": payload, "log": self._take_lines()}
            if not isinstance(payload, dict):
                payload = {"errorMessage": str(payload), "errorType": "Runtime.HandlerError"}
        except Ended as error:
            payload = error.payload
            self._stop()
        except Exception as error:
            # Not called again: it may have done something before it failed.
            print(f"{self.func_name} could not be run: {error!r}", file=sys.stderr, flush=True)
            payload = {"errorMessage": self._with_log(error), "errorType": getattr(error, "error_type", "Runtime.Unknown")}
            self._stop()
        finally:
            self._calls -= 1
            if self._let_go:
                self._stop()
            elif self._process is not None:
                self._proc = self._process.handle
        return {"body": payload, "error": True, "log": self._take_lines()}

    async def _answer(self, event, request_id, arn):
        if self._process is None or not self._process.is_running():
            try:
                await self._start(runtime._PROVIDED_INIT_TIMEOUT)
            except runtime.ProvidedInitTimeout:
                # Lambda retries once, within the time of the call.
                await self._start(self.config.get("Timeout", 30))
        trace_id = svc._xray_trace_id_for_invocation(self.config)
        process = self._process
        if process is None:
            raise ENDED
        return await process.call(event, request_id, trace_id, arn)

    async def _start(self, seconds):
        self._stop()
        self._process = process = Process(self.config, self._log)
        await process.start(self.code_zip, seconds)
        self._cold = False

    def _stop(self):
        if self._process is not None:
            self._process.end()
        self._process = self._proc = None

    def _discard_tmpdir(self):
        # The engine calls this, in a thread of its own, for an environment that it discards.
        self._loop.call_soon_threadsafe(self._retire)

    def _retire(self):
        self._let_go = True
        if not self._calls:
            self._stop()

    def end(self):
        """Ends it, busy or not."""
        if self._process is not None and self._process.handle is not None:
            self._process.handle.kill()

    def _log(self, lines):
        self._lines.extend(line.rstrip(b"\r").decode("utf-8", "replace") for line in lines)
        if not self._calls and self._late is None:
            self._late = self._loop.call_later(LATE_SECONDS, self._hand_over_late_lines)

    def _take_lines(self):
        text = "\n".join(self._lines)
        self._lines.clear()
        return text

    def _with_log(self, error):
        return f"{error}: {self._take_lines()}" if self._lines and isinstance(error, RuntimeError) else str(error)

    def _hand_over_late_lines(self):
        """The stock engine keeps them for the next call to the same process, which may never come."""
        self._late = None
        if self._lines and not self._calls:
            late = ({"config": self.config}, "late", self._take_lines(), False, 0)
            svc._run_with_function_config_scope(self.config, svc._emit_lambda_logs, *late)


class Turns:
    """Admits at most so many calls of a function at a time, the others in order of arrival."""

    def __init__(self):
        self._running, self._waiting = 0, collections.deque()

    async def enter(self, limit):
        if self._running < limit and not self._waiting:
            self._running += 1
            return True
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await asyncio.wait_for(turn, QUEUE_SECONDS)
        except asyncio.TimeoutError:
            # Admitted at the very moment of the timeout.
            return turn.done() and not turn.cancelled()

    def leave(self, limit):
        self._running -= 1
        while self._waiting and self._running < limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._running += 1
                turn.set_result(True)


class Functions:
    """Calls functions, on the loop."""

    def __init__(self, per_function):
        self._per_function, self._turns = per_function, collections.defaultdict(Turns)
        self._loop, self._thread, self._running = None, None, set()
        self._answer = contextvars.ContextVar("answer", default=None)

    def start(self):
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()

    @staticmethod
    def runs(func):
        """Whether it has a process of its own, and so is run here."""
        return (func.get("config") or func).get("Runtime", "").startswith("provided")

    def go(self, work):
        task = self._loop.create_task(work)
        self._running.add(task)  # The loop itself holds tasks weakly.
        task.add_done_callback(self._ended)

    def _ended(self, task):
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            print(f"{task.get_coro()}: {task.exception()!r}", file=sys.stderr, flush=True)

    def call(self, func, event):
        """The replacement of `lambda_svc._execute_function`, for callers in other threads."""
        if threading.get_ident() != self._thread:
            return asyncio.run_coroutine_threadsafe(self.execute(func, event), self._loop).result()
        answer = self._answer.get()
        if answer is None:
            raise RuntimeError("the loop cannot wait for itself")
        return answer

    @contextlib.contextmanager
    def answered(self, answer):
        """For code of the engine that calls a function and continues on the loop once it is answered."""
        token = self._answer.set(answer)
        try:
            yield
        finally:
            self._answer.reset(token)

    def _limit(self, func, config):
        # Of the function, whichever of its versions is called; the engine's versions know nothing of it.
        reserved = svc._reserved_concurrency(svc._functions.get(config.get("FunctionName")) or func, config)
        return self._per_function if reserved is None else min(reserved, self._per_function)

    async def execute(self, func, event, caller=None):
        """The same, on the loop. `caller` is the connection of the caller, if it has one."""
        config = func.get("config") or func
        account, region = svc._account_region_from_function_config(config)
        tokens = _request_account_id.set(account), _request_region.set(region)
        try:
            return await self._execute(func, config, event, caller)
        finally:
            _request_account_id.reset(tokens[0])
            _request_region.reset(tokens[1])

    async def _execute(self, func, config, event, caller):
        name, request_id = config.get("FunctionName", "unknown"), new_uuid()
        turns, limit = self._turns[svc._inflight_key(config)], self._limit(func, config)
        # The function is switched off: refuse, do not wait.
        entered = limit > 0 and await turns.enter(limit)
        if entered and caller is not None and not caller.is_open():
            # Its client has retried meanwhile: run first, this call would make the new one wait until that is given up,
            # too.
            turns.leave(limit)
            entered = False
        if not entered:
            svc._emit_lambda_metrics(name, duration_ms=0.0, error=False, throttle=True)
            reason = "ReservedFunctionConcurrentInvocationLimitExceeded"
            return svc._throttle_response(reason, f"Rate Exceeded: function {name} at ReservedConcurrentExecutions")
        begun = time.time()
        try:
            func, config = as_it_is_now(name, func, config)
            result = await self._run(name, func, config, event, request_id)
        finally:
            turns.leave(limit)
        took = int((time.time() - begun) * 1000)
        svc._emit_lambda_logs(func, request_id, result.get("log", ""), bool(result.get("error")), took)
        return result

    async def _run(self, name, func, config, event, request_id):
        if not func.get("code_zip"):
            return {"body": {"statusCode": 200, "body": "Mock response - no code deployed"}}
        svc._ensure_reaper_thread()
        version = config.get("Version", "$LATEST")
        environment, _ = runtime.acquire_worker(name, config, func["code_zip"], qualifier=version)
        try:
            return await environment.call(event, request_id, config.get("FunctionArn", ""))
        finally:
            runtime.release_worker(environment)


def as_it_is_now(name, func, config):
    """A function's record and settings, which may have changed while the call waited; those of a version never do."""
    record = svc._functions.get(name)
    if record is None or config.get("Version", "$LATEST") != "$LATEST":
        return func, config
    config = {**record["config"], "FunctionArn": config.get("FunctionArn", "")}
    return {**record, "config": config}, config


def reap_superseded():
    """Ends idle processes of versions that no alias names any more; the stock engine keeps a process of each for
    ever."""
    now, over = time.time(), []
    with runtime._lock:
        for key, environments in list(runtime._workers.items()):
            account, region, name, version = key.split(":")
            func = svc._functions.get_scoped(account, region, name)
            aliases = func.get("aliases", {}).values() if func else ()
            if func and version == "$LATEST" or any(alias.get("FunctionVersion") == version for alias in aliases):
                continue
            if all(not each.in_use and now - each.last_used > runtime._LOCAL_WORKER_TTL for each in environments):
                over += runtime._workers.pop(key)
    runtime.kill_workers(over)


def code_dir(config, code_zip):
    """The directory of a function's unpacked program. The stock engine hashes the whole package each time."""
    known = svc._provided_code_dirs.get(svc._b64_sha_to_hex(config.get("CodeSha256", "")))
    return known if known and os.path.isdir(known) else svc._provided_runtime_code_dir(code_zip)


def spawn(bootstrap, directory, environment):
    # Under the engine's lock: a fork while another package is being unpacked would keep that program open for
    # writing, and it could not be run.
    with svc._provided_code_lock:
        return subprocess.Popen([bootstrap], cwd=directory, env=environment, bufsize=0, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def reap(handle):
    runtime._signal(handle)
    runtime._collect(handle, time.monotonic() + runtime._REAP_GRACE)


def parsed(body):
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", errors="replace")
