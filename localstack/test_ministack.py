"""What functions and their callers can rely on when ministack_launcher.py runs them.

    python -m unittest test_ministack        # with the engine's virtual environment, in this directory
"""

import asyncio
import contextlib
import errno
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor

import boto3
import uvloop
from botocore.config import Config
from ministack_http import PAUSE_SECONDS, Listener

ACCOUNT, REGION = "000000000000", "us-east-1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/tests"
# So many calls of a function at a time.
AT_ONCE = 2
# The time limit of what takes milliseconds, seconds.
TIME_LIMIT = 30

# A program that speaks the Runtime API, does what its events ask for and keeps them in a file.
BOOTSTRAP = f"""#!{sys.executable}
import json, os, sys, time, urllib.request

api = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/2018-06-01/runtime"

def post(path, body):
    urllib.request.urlopen(urllib.request.Request(api + path, json.dumps(body).encode(), method="POST")).read()

def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)

match os.environ.get("INIT"):
    case "crash":
        print("no configuration", flush=True)
        sys.exit(3)
    case "error":
        post("/init/error", {{"errorType": "Broken", "errorMessage": "no configuration"}})
        sys.exit(1)

calls = 0
while True:
    with urllib.request.urlopen(api + "/invocation/next") as answer:
        id, event = answer.headers["Lambda-Runtime-Aws-Request-Id"], json.load(answer)
        left = int(answer.headers["Lambda-Runtime-Deadline-Ms"]) - time.time() * 1000
    calls += 1
    with open(os.environ["SEEN"], "a") as seen:
        seen.write(json.dumps(event) + "\\n")
    records = event.get("Records", [])
    failed = []
    for record in records:
        text = record.get("body") or record["dynamodb"]["Keys"]["id"]["S"]
        if text.startswith("wait for "):
            wait_for(text.removeprefix("wait for "))
        elif text.startswith("fail unless ") and not os.path.exists(text.removeprefix("fail unless ")):
            failed.append({{"itemIdentifier": record.get("messageId") or record["dynamodb"]["SequenceNumber"]}})
    match event.get("do"):
        case "fail":
            post(f"/invocation/{{id}}/error", {{"errorType": "Refused", "errorMessage": "no"}})
            continue
        case "crash":
            os._exit(7)
        case "hang":
            time.sleep(600)
        case "wait":
            wait_for(event["for"])
    print("handling", id, flush=True)
    post(f"/invocation/{{id}}/response", {{"calls": calls, "left_ms": left, "batchItemFailures": failed}})
    if event.get("do") == "say something afterwards":
        time.sleep(0.2)
        print("afterwards", flush=True)
"""


def until(so, seconds=TIME_LIMIT):
    """The result of `so` as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := so()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not so after {seconds} s")
        time.sleep(0.02)
    return found


class Engine:
    """An engine, on a port of its own."""

    def __init__(self):
        self.directory = tempfile.TemporaryDirectory()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {
            "PATH": os.environ["PATH"], "TMPDIR": self.directory.name, "AWS_ENDPOINT_URL": self.url,
            "MINISTACK_REGION": REGION, "LOG_LEVEL": "WARNING", "ENCORE_FUNCTION_CONCURRENCY": str(AT_ONCE),
        }
        launcher = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ministack_launcher.py")
        self.process = subprocess.Popen([sys.executable, launcher, "--port", str(self.port), "--nonce", "tests",
                                         "--attached"], env=environment, stdin=subprocess.PIPE)
        until(self.answers)

    def answers(self):
        try:
            return urllib.request.urlopen(f"{self.url}/_encore/engine", timeout=TIME_LIMIT).status == 200
        except OSError:
            assert self.process.poll() is None, "the engine ended"
            return False

    def client(self, service):
        once = Config(retries={"max_attempts": 1, "mode": "standard"}, read_timeout=60, max_pool_connections=20)
        return boto3.client(service, endpoint_url=self.url, region_name=REGION, config=once,
                            aws_access_key_id="test", aws_secret_access_key="test")

    def end(self):
        self.process.stdin.close()
        self.process.wait(TIME_LIMIT)
        self.directory.cleanup()


def setUpModule():
    global ENGINE
    ENGINE = Engine()
    anybody = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
    ENGINE.client("iam").create_role(RoleName="tests", AssumeRolePolicyDocument=json.dumps(anybody))


def tearDownModule():
    ENGINE.end()


class Function:
    """A deployed BOOTSTRAP."""

    made = 0

    def __init__(self, timeout=60, **environment):
        Function.made += 1
        self.name = f"function-{Function.made}"
        self.seen_in = os.path.join(ENGINE.directory.name, f"{self.name}.seen")
        self.client, self.logs = ENGINE.client("lambda"), ENGINE.client("logs")
        package = io.BytesIO()
        with zipfile.ZipFile(package, "w") as zipped:
            info = zipfile.ZipInfo("bootstrap")
            info.external_attr = 0o755 << 16
            zipped.writestr(info, BOOTSTRAP)
        self.client.create_function(
            FunctionName=self.name, Runtime="provided.al2023", Role=ROLE, Handler="x", Timeout=timeout,
            Code={"ZipFile": package.getvalue()}, Environment={"Variables": {"SEEN": self.seen_in, **environment}},
        )

    def call(self, **event):
        """Its answer, and how it failed."""
        answer = self.client.invoke(FunctionName=self.name, Payload=json.dumps(event))
        return json.load(answer["Payload"]), answer.get("FunctionError")

    def seen(self):
        """Every event that it received."""
        try:
            with open(self.seen_in) as file:
                return [json.loads(line) for line in file]
        except FileNotFoundError:
            return []

    def texts(self):
        """The content of the records that it received, each as often as it was delivered."""
        records = [record for event in self.seen() for record in event["Records"]]
        return [record.get("body") or record["dynamodb"]["Keys"]["id"]["S"] for record in records]

    def log(self):
        events = self.logs.filter_log_events(logGroupName=f"/aws/lambda/{self.name}")["events"]
        return [event["message"] for event in events]


def signal(name):
    """A file that functions wait for, not there yet."""
    return os.path.join(ENGINE.directory.name, name)


def give(path):
    with open(path, "w"):
        pass


class Calls(unittest.TestCase):
    def test_a_process_serves_one_call_after_another_and_knows_its_time(self):
        function = Function(timeout=20)
        (first, _), (second, failed) = function.call(), function.call()
        self.assertEqual((first["calls"], second["calls"], failed), (1, 2, None))
        self.assertTrue(15_000 < second["left_ms"] <= 20_000, second)

    def test_what_it_prints_is_logged_with_the_call_and_what_it_prints_later_too(self):
        function = Function()
        function.call(do="say something afterwards")
        log = function.log()
        kinds = [line.split(" ")[0] for line in log]
        self.assertEqual(kinds, ["START", "handling", "END", "REPORT"])
        until(lambda: "afterwards" in function.log())

    def test_a_failure_is_told_as_the_function_tells_it_and_the_process_goes_on(self):
        function = Function()
        function.call()
        self.assertEqual(function.call(do="fail"), ({"errorType": "Refused", "errorMessage": "no"}, "Unhandled"))
        self.assertEqual(function.call()[0]["calls"], 3)

    def test_a_process_that_ends_fails_its_call_and_the_next_one_has_another(self):
        function = Function()
        payload, failed = function.call(do="crash")
        self.assertEqual((payload["errorType"], failed), ("Runtime.ExitError", "Unhandled"))
        self.assertEqual(function.call()[0]["calls"], 1)

    def test_a_call_that_takes_too_long_ends_with_its_process(self):
        function = Function(timeout=1)
        payload, failed = function.call(do="hang")
        self.assertEqual((payload["errorType"], failed), ("Sandbox.Timedout", "Unhandled"))
        self.assertEqual(payload["errorMessage"], "Task timed out after 1.00 seconds")
        self.assertEqual(function.call()[0]["calls"], 1)

    def test_a_process_that_does_not_start_fails_the_call_and_says_why(self):
        payload, failed = Function(INIT="crash").call()
        self.assertEqual(failed, "Unhandled")
        self.assertIn("exited during init with code 3: no configuration", payload["errorMessage"])
        payload, failed = Function(INIT="error").call()
        self.assertIn("'errorType': 'Broken'", payload["errorMessage"])

    def test_more_calls_than_processes_wait_their_turn(self):
        function, go = Function(), signal("go")
        with ThreadPoolExecutor(6) as pool:
            calls = [pool.submit(function.call, do="wait", **{"for": go}) for _ in range(6)]
            until(lambda: len(function.seen()) == AT_ONCE)
            give(go)
            self.assertEqual([call.result()[1] for call in calls], [None] * 6)
        self.assertEqual(len(function.seen()), 6)

    def test_a_call_that_was_given_up_while_it_waited_is_not_run(self):
        function, go = Function(), signal("given-up")
        with ThreadPoolExecutor(AT_ONCE + 1) as pool:
            calls = [pool.submit(function.call, do="wait", **{"for": go}) for _ in range(AT_ONCE)]
            until(lambda: len(function.seen()) == AT_ONCE)
            body = b'{"of": "nobody"}'
            with socket.create_connection(("127.0.0.1", ENGINE.port), TIME_LIMIT) as gone:
                head = f"POST /2015-03-31/functions/{function.name}/invocations HTTP/1.1\r\nhost: 127.0.0.1:{ENGINE.port}\r\n"
                gone.sendall(f"{head}{owner_of('lambda')}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
                # What was sent to the engine later is answered, so this has arrived.
                until(ENGINE.answers)
            calls.append(pool.submit(function.call, of="somebody"))
            until(ENGINE.answers)
            give(go)
            for call in calls:
                self.assertIsNone(call.result()[1])
        self.assertEqual([event["of"] for event in function.seen() if "of" in event], ["somebody"])

    def test_a_call_that_runs_while_its_function_changes_comes_to_its_end(self):
        function, go = Function(), signal("changed")
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(function.call, do="wait", **{"for": go})
            until(function.seen)
            function.client.update_function_configuration(FunctionName=function.name, Timeout=50)
            give(go)
            self.assertEqual(call.result()[1], None)
        self.assertEqual(function.call()[0]["calls"], 1, "the next one has a process of its own")

    def test_a_function_that_is_switched_off_is_refused_and_not_queued(self):
        function = Function()
        function.client.put_function_concurrency(FunctionName=function.name, ReservedConcurrentExecutions=0)
        with self.assertRaises(function.client.exceptions.TooManyRequestsException):
            function.call()

    def test_a_function_that_changes_while_it_runs_answers_as_what_it_is_then(self):
        function = Function()
        function.call()
        function.client.update_function_configuration(FunctionName=function.name, Environment={
            "Variables": {"SEEN": function.seen_in + "-2"}})
        function.call()
        self.assertEqual((len(function.seen()), os.path.exists(function.seen_in + "-2")), (1, True))


class Queue:
    """A queue that a function reads."""

    made = 0

    def __init__(self, function, **attributes):
        Queue.made += 1
        self.client = ENGINE.client("sqs")
        name = f"queue-{Queue.made}" + (".fifo" if attributes.get("FifoQueue") else "")
        self.url = self.client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        function.client.create_event_source_mapping(
            FunctionName=function.name, EventSourceArn=f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}", BatchSize=1,
            FunctionResponseTypes=["ReportBatchItemFailures"],
        )

    def send(self, text, **more):
        self.client.send_message(QueueUrl=self.url, MessageBody=text, **more)

    def is_empty(self):
        kinds = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
        counts = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=kinds)["Attributes"]
        return all(counts[kind] == "0" for kind in kinds)


class Queues(unittest.TestCase):
    def test_a_message_is_handed_over_once_and_is_gone(self):
        function = Function()
        queue = Queue(function)
        queue.send("one")
        until(queue.is_empty)
        self.assertEqual(function.texts(), ["one"])

    def test_a_message_that_waits_for_its_time_comes_when_it_is_due_though_nothing_else_does(self):
        function = Function()
        queue = Queue(function)
        sent = time.time()
        queue.send("later", DelaySeconds=2)
        until(queue.is_empty)
        self.assertEqual(function.texts(), ["later"])
        self.assertGreaterEqual(time.time() - sent, 2)

    def test_a_message_that_failed_comes_again_and_those_beside_it_do_not(self):
        function, repaired = Function(), signal("repaired")
        queue = Queue(function, VisibilityTimeout="1")
        for text in ("good", f"fail unless {repaired}", "better"):
            queue.send(text)
        until(lambda: len(function.texts()) >= 5)
        give(repaired)
        until(queue.is_empty)
        self.assertEqual([function.texts().count(text) for text in ("good", "better")], [1, 1])

    def test_groups_of_a_fifo_queue_do_not_wait_for_each_other_and_keep_their_order(self):
        function, go = Function(), signal("group")
        queue = Queue(function, FifoQueue="true", ContentBasedDeduplication="true")
        queue.send(f"wait for {go}", MessageGroupId="a")
        queue.send("second", MessageGroupId="a")
        queue.send("other", MessageGroupId="b")
        until(lambda: "other" in function.texts())
        self.assertNotIn("second", function.texts())
        give(go)
        until(queue.is_empty)
        self.assertIn("second", function.texts())


class Table:
    """A table whose stream functions read."""

    made = 0

    def __init__(self):
        Table.made += 1
        self.name, self.client = f"table-{Table.made}", ENGINE.client("dynamodb")
        made = self.client.create_table(
            TableName=self.name, BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
        )
        self.stream = made["TableDescription"]["LatestStreamArn"]

    def read_by(self, function, **more):
        function.client.create_event_source_mapping(
            FunctionName=function.name, EventSourceArn=self.stream, StartingPosition="TRIM_HORIZON",
            FunctionResponseTypes=["ReportBatchItemFailures"], **more)

    def put(self, id):
        self.client.put_item(TableName=self.name, Item={"id": {"S": id}})


class Streams(unittest.TestCase):
    def test_records_come_in_their_order_and_once(self):
        table, function = Table(), Function()
        table.put("before")
        table.read_by(function, BatchSize=2)
        for number in range(5):
            table.put(str(number))
        until(lambda: len(function.texts()) >= 6)
        self.assertEqual(function.texts(), ["before", "0", "1", "2", "3", "4"])

    def test_a_batch_of_which_something_failed_comes_again_before_what_is_behind_it(self):
        table, function, repaired = Table(), Function(), signal("stream-repaired")
        table.read_by(function, BatchSize=1)
        bad = f"fail unless {repaired}"
        table.put(bad)
        table.put("behind")
        until(lambda: function.texts().count(bad) >= 2)
        self.assertNotIn("behind", function.texts())
        give(repaired)
        until(lambda: "behind" in function.texts())

    def test_a_slow_reader_holds_up_no_other_one(self):
        table, slow, quick, go = Table(), Function(), Function(), signal("stream-go")
        table.read_by(slow)
        table.read_by(quick, BatchSize=1)
        table.put(f"wait for {go}")
        until(slow.seen)
        give_up = f"wait for {go}"
        other = Table()
        other.read_by(quick)
        other.put("other")
        until(lambda: "other" in quick.texts())
        give(go)
        until(lambda: give_up in quick.texts())

    def test_what_a_filter_leaves_out_is_not_handed_over_and_holds_up_nothing(self):
        table, function = Table(), Function()
        wanted = {"dynamodb": {"Keys": {"id": {"S": [{"prefix": "wanted"}]}}}}
        table.read_by(function, FilterCriteria={"Filters": [{"Pattern": json.dumps(wanted)}]})
        table.put("other")
        table.put("wanted")
        until(lambda: function.texts() == ["wanted"])


def owner_of(service):
    scope = f"test/20300101/{REGION}/{service}/aws4_request"
    return f"authorization: AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"


OWNER = owner_of("s3")


class Http(unittest.TestCase):
    """What clients can rely on."""

    def setUp(self):
        self.socket = socket.create_connection(("127.0.0.1", ENGINE.port), TIME_LIMIT)
        self.answers = self.socket.makefile("rb")
        self.addCleanup(self.socket.close)
        self.addCleanup(self.answers.close)

    def head(self):
        """Status and headers of the next answer."""
        status = int(self.answers.readline().split(b" ")[1])
        headers = {}
        while line := self.answers.readline().strip():
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        return status, headers

    def answer(self):
        status, headers = self.head()
        return status, self.answers.read(int(headers.get(b"content-length", 0)))

    def send(self, *lines, body=b""):
        self.socket.sendall("".join(f"{line}\r\n" for line in (*lines, "host: 127.0.0.1", "")).encode() + body)

    def test_requests_sent_one_behind_the_other_are_answered_in_their_order(self):
        self.send("GET /_encore/engine HTTP/1.1")
        self.send("GET /_ministack/nothing HTTP/1.1")
        self.send("GET /_encore/engine HTTP/1.1")
        (first, body), (_, other), (last, _) = self.answer(), self.answer(), self.answer()
        self.assertEqual((first, last, json.loads(body)["nonce"]), (200, 200, "tests"))
        self.assertNotIn(b"nonce", other)

    def test_a_client_that_waits_to_be_told_to_go_on_is_told(self):
        self.send("PUT /bucket-http HTTP/1.1", "expect: 100-continue", "content-length: 0")
        self.assertEqual(self.head()[0], 100)
        self.assertEqual(self.answer()[0], 200)

    def test_a_body_in_pieces_arrives_whole_and_a_head_has_no_body(self):
        self.send("PUT /bucket-pieces HTTP/1.1", "content-length: 0")
        self.assertEqual(self.answer()[0], 200)
        self.send("PUT /bucket-pieces/key HTTP/1.1", OWNER, "transfer-encoding: chunked",
                  body=b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        self.assertEqual(self.answer()[0], 200)
        self.send("HEAD /bucket-pieces/key HTTP/1.1", OWNER)
        self.assertEqual(self.head()[1][b"content-length"], b"5")
        self.send("GET /bucket-pieces/key HTTP/1.1", OWNER)
        self.assertEqual(self.answer(), (200, b"abcde"))

    def test_a_request_that_wants_another_protocol_is_refused_and_not_carried_out(self):
        self.send("PUT /bucket-upgrade HTTP/1.1", OWNER, "connection: Upgrade", "upgrade: h2c", "content-length: 2", body=b"{}")
        self.assertEqual(self.head()[0], 400)
        self.assertEqual(self.answers.read(), b"")
        with self.assertRaises(ENGINE.client("s3").exceptions.ClientError):
            ENGINE.client("s3").head_bucket(Bucket="bucket-upgrade")

    def test_what_is_no_http_is_refused_and_a_client_that_wants_to_close_is_let_go(self):
        self.send("GET /_encore/engine HTTP/1.1", "connection: close")
        self.assertEqual(self.answer()[0], 200)
        self.assertEqual(self.answers.read(), b"")
        with socket.create_connection(("127.0.0.1", ENGINE.port), TIME_LIMIT) as other:
            other.sendall(b"nonsense\r\n\r\n")
            self.assertTrue(other.makefile("rb").read().startswith(b"HTTP/1.1 400 "))


class Crowd(unittest.TestCase):
    """Clients that connect at the same moment."""

    def test_a_crowd_that_connects_at_once_is_taken_in_before_the_loop_does_much_else(self):
        # As many as any system lets wait.
        size, taken = 100, []

        class Client(asyncio.Protocol):
            def connection_made(self, transport):
                taken.append(transport)

        async def rounds():
            listener = Listener(Client, 0, backlog=size)
            for _ in range(size):
                client = socket.socket()
                self.addCleanup(client.close)
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", listener.port))
            count = 0
            while len(taken) < size:
                count += 1
                await asyncio.sleep(0)
            for transport in taken:
                transport.abort()
            return count

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            self.assertLess(runner.run(asyncio.wait_for(rounds(), TIME_LIMIT)), size / 10)

    def test_without_a_file_left_no_connection_is_taken_for_a_while_and_then_again(self):
        async def tries():
            listener, loop = Listener(asyncio.Protocol, 0, backlog=1), asyncio.get_running_loop()
            real, full_until, taken = listener._socket, loop.time() + 3 * PAUSE_SECONDS, loop.create_future()

            class Full:
                fileno = real.fileno

                def accept(self):
                    if loop.time() < full_until:
                        raise OSError(errno.EMFILE, "no file is left")
                    if not taken.done():
                        taken.set_result(None)
                    return real.accept()

            listener._socket = Full()
            with socket.create_connection(("127.0.0.1", listener.port)), contextlib.redirect_stderr(io.StringIO()) as said:
                await taken
            return said.getvalue().count("no file is left")

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            self.assertIn(runner.run(asyncio.wait_for(tries(), TIME_LIMIT)), range(1, 5))


if __name__ == "__main__":
    unittest.main()
