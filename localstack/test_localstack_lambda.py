"""What functions and their callers can rely on when localstack_lambda.py runs them.

    python -m unittest test_localstack_lambda        # with LocalStack's virtual environment, in this directory
"""

import base64
import hashlib
import io
import json
import os
import sys
import tempfile
import threading
import types
import unittest
import zipfile
from concurrent.futures import ThreadPoolExecutor

import localstack_lambda
from localstack.services.lambda_.invocation.executor_endpoint import StatusErrorException
from localstack_lambda import ProcessExecutor, RuntimeApi

# A program that speaks the Runtime API and does what its events ask for.
BOOTSTRAP = f"""#!{sys.executable}
import json, os, sys, time, urllib.request

api = os.environ["AWS_LAMBDA_RUNTIME_API"] + "/2018-06-01/runtime"

def post(path, body):
    urllib.request.urlopen(urllib.request.Request(api + path, json.dumps(body).encode(), method="POST")).read()

match os.environ.get("INIT"):
    case "crash":
        sys.exit(3)
    case "error":
        post("/init/error", {{"errorType": "Broken", "errorMessage": "no configuration"}})
        sys.exit(1)
    case "hang":
        time.sleep(600)

calls = 0
while True:
    with urllib.request.urlopen(api + "/invocation/next") as answer:
        id, event = answer.headers["Lambda-Runtime-Aws-Request-Id"], json.load(answer)
        deadline = int(answer.headers["Lambda-Runtime-Deadline-Ms"])
    calls += 1
    match event["do"]:
        case "answer":
            print("handling", id, flush=True)
            post(f"/invocation/{{id}}/response", {{"calls": calls, "left_ms": deadline - time.time() * 1000}})
        case "environment":
            post(f"/invocation/{{id}}/response", {{"env": dict(os.environ), "directory": os.getcwd()}})
        case "fail":
            post(f"/invocation/{{id}}/error", {{"errorType": "Refused", "errorMessage": "no"}})
        case "crash":
            os._exit(7)
        case "hang":
            time.sleep(600)
"""


class Code:
    """A package, as LocalStack hands it over."""

    def __init__(self, program):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as files:
            files.writestr("bootstrap", program)
        self.bytes = packed.getvalue()
        self.code_sha256 = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
        self.downloads = 0

    def _download_archive_to_file(self, file):
        self.downloads += 1
        file.write(self.bytes)


class Functions(unittest.TestCase):
    def setUp(self):
        work = tempfile.TemporaryDirectory()
        self.addCleanup(work.cleanup)
        before, tempfile.tempdir = tempfile.tempdir, work.name
        self.addCleanup(setattr, tempfile, "tempdir", before)
        self.code = Code(BOOTSTRAP)

    def start(self, timeout=30, **environment):
        version = types.SimpleNamespace(
            id=types.SimpleNamespace(function_name="say", qualifier="$LATEST"),
            config=types.SimpleNamespace(timeout=timeout, code=self.code),
        )
        ProcessExecutor.prepare_version(version)
        executor = ProcessExecutor(os.urandom(4).hex(), version)
        self.addCleanup(executor.stop)
        executor.start(environment)
        return executor

    def call(self, executor, do):
        id = os.urandom(4).hex()
        result = executor.invoke(
            {"invoke-id": id, "invoked-function-arn": "arn", "trace-id": "t", "payload": json.dumps({"do": do})}
        )
        self.assertEqual(result.request_id, id)
        return json.loads(result.payload), result.is_error, result.logs

    def test_one_process_answers_call_after_call(self):
        executor = self.start()
        answers = [self.call(executor, "answer") for _ in range(3)]
        self.assertEqual([answer["calls"] for answer, _, _ in answers], [1, 2, 3])
        self.assertFalse(any(is_error for _, is_error, _ in answers))

    def test_a_call_ends_at_its_functions_timeout(self):
        answer, _, _ = self.call(self.start(timeout=20), "answer")
        self.assertTrue(15_000 < answer["left_ms"] <= 20_000, answer)

    def test_what_a_call_printed_is_its_log_and_only_its(self):
        executor = self.start()
        logs = [self.call(executor, "answer")[2] for _ in range(2)]
        for log in logs:
            lines = log.splitlines()
            self.assertEqual([line.split()[0] for line in lines], ["START", "handling", "END", "REPORT"], log)

    def test_an_error_is_told_as_the_function_told_it(self):
        answer, is_error, _ = self.call(self.start(), "fail")
        self.assertEqual((answer["errorType"], is_error), ("Refused", True))

    def test_a_process_that_ends_fails_its_call_and_the_next_call_has_a_new_one(self):
        executor = self.start()
        self.call(executor, "answer")
        answer, is_error, _ = self.call(executor, "crash")
        self.assertEqual((answer["errorType"], is_error), ("Runtime.ExitError", True))
        self.assertIn("status 7", answer["errorMessage"])
        self.assertEqual(self.call(executor, "answer")[0]["calls"], 1)

    def test_a_call_that_takes_too_long_is_ended_with_its_process(self):
        executor = self.start(timeout=1)
        process = executor.process
        answer, is_error, _ = self.call(executor, "hang")
        self.assertEqual((answer["errorType"], is_error), ("Sandbox.Timedout", True))
        self.assertIsNotNone(process.poll())
        self.assertEqual(self.call(executor, "answer")[0]["calls"], 1)

    def test_a_function_that_cannot_start_says_why(self):
        for init, kind in (("crash", "Runtime.ExitError"), ("error", "Broken")):
            with self.assertRaises(StatusErrorException) as caught, self.assertLogs(localstack_lambda.LOG):
                self.start(INIT=init)
            self.assertEqual(json.loads(caught.exception.payload)["errorType"], kind)

    def test_a_function_that_never_asks_for_an_event_is_given_up(self):
        before, localstack_lambda.INIT_SECONDS = localstack_lambda.INIT_SECONDS, 0.5
        self.addCleanup(setattr, localstack_lambda, "INIT_SECONDS", before)
        with self.assertRaises(StatusErrorException) as caught:
            self.start(INIT="hang")
        self.assertEqual(json.loads(caught.exception.payload)["errorType"], "Runtime.InitTimeout")

    def test_a_function_has_its_own_environment_and_nothing_of_the_developers(self):
        os.environ["AWS_PROFILE"] = "production"
        self.addCleanup(os.environ.pop, "AWS_PROFILE")
        answer, _, _ = self.call(self.start(TABLE="points", MEMORY=256), "environment")
        self.assertEqual((answer["env"]["TABLE"], answer["env"]["MEMORY"]), ("points", "256"))
        self.assertNotIn("AWS_PROFILE", answer["env"])
        self.assertEqual(answer["env"]["LAMBDA_TASK_ROOT"], answer["directory"])

    def test_functions_of_one_package_share_its_program(self):
        directories = {self.call(self.start(), "environment")[0]["directory"] for _ in range(3)}
        self.assertEqual((len(directories), self.code.downloads), (1, 1))

    def test_environments_work_side_by_side(self):
        executors = [self.start() for _ in range(4)]
        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(lambda executor: self.call(executor, "answer"), executors * 1))
        self.assertEqual([answer["calls"] for answer, _, _ in answers], [1, 1, 1, 1])

    def test_a_stopped_environment_leaves_neither_process_nor_address_nor_log(self):
        executor = self.start()
        self.call(executor, "answer")
        executor.stop()
        self.assertIsNotNone(executor.process.poll())
        self.assertNotIn(executor.id, RuntimeApi.environments)
        self.assertFalse(executor.log_path.exists())


class Gate(unittest.TestCase):
    """Calls wait for a free process of their function."""

    def manager(self, per_function, reserved=None):
        class Manager:
            function = types.SimpleNamespace(reserved_concurrent_executions=reserved)
            function_version = types.SimpleNamespace(id=types.SimpleNamespace(unqualified_arn=lambda: "arn"))
            running = most = 0
            lock = threading.Lock()
            full = threading.Event()

            def invoke(self, *, invocation):
                with self.lock:
                    Manager.running += 1
                    Manager.most = max(Manager.most, Manager.running)
                    if Manager.running == per_function:
                        self.full.set()
                self.full.wait(0.2)
                with self.lock:
                    Manager.running -= 1
                return invocation

        localstack_lambda.queue_instead_of_throttling(
            types.SimpleNamespace(LambdaVersionManager=Manager), per_function
        )
        return Manager

    def most_at_once(self, manager):
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda number: manager().invoke(invocation=number), range(20)))
        self.assertEqual(answers, list(range(20)))
        return manager.most

    def test_no_more_than_so_many_run_and_all_are_answered(self):
        self.assertEqual(self.most_at_once(self.manager(3)), 3)

    def test_what_is_reserved_bounds_it_further(self):
        self.assertEqual(self.most_at_once(self.manager(3, reserved=1)), 1)

    def test_a_function_that_is_switched_off_is_asked_at_once(self):
        self.assertEqual(self.manager(3, reserved=0)().invoke(invocation=1), 1)


if __name__ == "__main__":
    unittest.main()
