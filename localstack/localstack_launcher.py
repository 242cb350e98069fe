"""Starts LocalStack for `cargo local --engine localstack`: on the host, without Docker.

LocalStack expects two things of a container: Docker beside it to run functions in, and a Java program as DynamoDB. Here
functions are processes (localstack_lambda.py), and the database is dynoxide, served by `local dynamodb`. What is patched
in Docker, too, is in init/start.d.

Each patch says what it is for. `check` stops the start where LocalStack is not what the patch was written for.
"""

import datetime
import gc
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path

import launching

HERE = Path(__file__).resolve().parent
LEAVING = threading.Lock()
PROBLEM = "localstack is not the version that localstack_launcher.py was written for: {} is not as expected"


def check(condition, what):
    if not condition:
        raise SystemExit(PROBLEM.format(what))


def configure(port, work, nonce):
    """The settings that LocalStack takes from its environment, before its first module is loaded."""
    lines = HERE.joinpath("localstack.env").read_text().splitlines()
    os.environ.update(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    os.environ.update(
        ENCORE_NONCE=nonce,  # See init/ready.d.
        GATEWAY_LISTEN=f"127.0.0.1:{port}",
        # Part of the host name of APIs; one with an address in it is no host name.
        LOCALSTACK_HOST=f"localhost:{port}",
        OVERRIDE_IN_DOCKER="0",
        FILESYSTEM_ROOT=os.path.join(work, "localstack"),
        LS_LOG="debug" if os.environ.get("LOG_LEVEL") == "DEBUG" else "warn",
        # No fixed ports, no access from other machines.
        DNS_ADDRESS="0",
        SKIP_SSL_CERT_DOWNLOAD="1",
        DOCKER_HOST="unix:///nonexistent/docker.sock",
        LAMBDA_RUNTIME_EXECUTOR="process",
        # Bounded per function instead, see queue_instead_of_throttling.
        LAMBDA_LIMITS_CONCURRENT_EXECUTIONS="100000",
    )


def collect_seldom():
    """Collects garbage among new objects only.

    The descriptions of the services are a million permanent objects, which Python scanned again and again.
    """

    def keep(phase, told):
        if phase == "stop" and told["generation"] == 2:
            gc.freeze()

    gc.set_threshold(20_000, 10, 10)
    gc.callbacks.append(keep)


def start_database(program):
    """Starts dynoxide; returns its address. It ends with this process, when its standard input ends."""
    database = subprocess.Popen([program, "dynamodb"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    line = database.stdout.readline().strip()
    if not line.isdigit():
        raise SystemExit(f"the database did not start: {program} dynamodb said {line!r}")
    return database, int(line)


def use_dynoxide(port):
    """Puts dynoxide where LocalStack runs DynamoDB Local.

    The two differ in the region of their ARNs only: `ddblocal` there, `dynoxide` here.
    """
    from localstack import config
    from localstack.services.dynamodb import server, utils
    from localstack.services.dynamodb.v2 import provider
    from localstack.services.dynamodbstreams.v2 import provider as streams

    check(callable(getattr(server.DynamodbServer, "start_dynamodb", None)), "DynamodbServer.start_dynamodb")
    check(callable(getattr(server.DynamodbServer, "stop_dynamodb", None)), "DynamodbServer.stop_dynamodb")
    config.DYNAMODB_LOCAL_PORT = port
    server.DynamodbServer.start_dynamodb = lambda self: True
    server.DynamodbServer.stop_dynamodb = lambda self: None

    for name in ("_ddb_local_arn_pattern", "_ddb_local_exception_arn_pattern"):
        pattern = getattr(utils, name).pattern
        check(":ddblocal:" in pattern, f"dynamodb.utils.{name}")
        setattr(utils, name, re.compile(pattern.replace(":ddblocal:", ":dynoxide:")))

    fix = provider.DynamoDBProvider.fix_table_arn
    check("ddblocal" in "".join(map(str, fix.__code__.co_consts)), "DynamoDBProvider.fix_table_arn")
    provider.DynamoDBProvider.fix_table_arn = lambda self, account, region, arn: fix(
        self, account, region, arn.replace(":dynoxide:", ":ddblocal:")
    )

    modify = streams.DynamoDBStreamsProvider.modify_stream_arn_for_ddb_local

    def of_dynoxide(self, arn):
        # A shard iterator comes here, too: DynamoDB Local's begins with an ARN, dynoxide's does not hold any.
        return modify(self, arn).replace(":ddblocal:", ":dynoxide:") if arn.startswith("arn:") else arn

    streams.DynamoDBStreamsProvider.modify_stream_arn_for_ddb_local = of_dynoxide


def read_streams_directly(port):
    """Lets event sources read streams from dynoxide. LocalStack calls its own API, twenty times a second for each
    stream, and that calls dynoxide. Where dynoxide refuses, LocalStack's own call is made, which handles the
    refusal."""
    from localstack.services.lambda_.event_source_mapping.pollers.dynamodb_poller import DynamoDBPoller

    check("get_records" in DynamoDBPoller.get_records.__code__.co_names, "DynamoDBPoller.get_records")
    check("timestamp" in DynamoDBPoller.transform_into_events.__code__.co_names, "DynamoDBPoller.transform_into_events")
    stock, kept = DynamoDBPoller.get_records, threading.local()
    headers = {
        "Content-Type": "application/x-amz-json-1.0",
        "X-Amz-Target": "DynamoDBStreams_20120810.GetRecords",
        "X-Amz-Date": "20250101T000000Z",
        "Authorization": "AWS4-HMAC-SHA256 Credential=x/20250101/x/dynamodb/aws4_request, "
        "SignedHeaders=host, Signature=x",
    }

    def read(request):
        if not hasattr(kept, "connection"):
            kept.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            kept.connection.request("POST", "/", json.dumps(request), headers)
            answer = kept.connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            del kept.connection
            return None
        return json.loads(body) if answer.status == 200 else None

    def get_records(self, iterator):
        told = read({"ShardIterator": iterator, "Limit": self.stream_parameters["BatchSize"]})
        if told is None:
            return stock(self, iterator)
        for record in told["Records"]:
            # Binary values are base64 in the event, too; only times differ.
            made = record["dynamodb"].get("ApproximateCreationDateTime")
            if made is not None:
                record["dynamodb"]["ApproximateCreationDateTime"] = datetime.datetime.fromtimestamp(made, datetime.UTC)
        return told

    DynamoDBPoller.get_records = get_records


def keep_catalog():
    """Keeps the index of the services' descriptions beside the packages that it is made of.

    LocalStack makes it anew at every start in a new directory, by reading all four hundred descriptions.
    """
    from localstack.aws import spec

    check(callable(getattr(spec, "save_service_index_cache", None)), "spec.save_service_index_cache")
    check("_get_catalog_filename" in spec.get_service_catalog.__wrapped__.__code__.co_names, "spec.get_service_catalog")
    stock, place = spec.save_service_index_cache, os.path.join(sys.prefix, spec._get_catalog_filename())

    def save(index, path):
        # Others may start at the same time: they find a whole one or none.
        unfinished = f"{path}.{os.getpid()}"
        made = stock(index, unfinished)
        os.replace(unfinished, path)
        return made

    # Absolute, so that it is in none of the directories where LocalStack looks for it.
    spec._get_catalog_filename = lambda: place
    spec.save_service_index_cache = save


def listen_here_only():
    """Listens on 127.0.0.1, where LocalStack listens on all addresses whatever GATEWAY_LISTEN is; with a backlog for
    500 buyers, where LocalStack's is 50."""
    from localstack.runtime.server import twisted as server

    stock = server.endpoints.TCP4ServerEndpoint

    def endpoint(reactor, port):
        return stock(reactor, port, backlog=1024, interface="127.0.0.1")

    server.endpoints = types.SimpleNamespace(TCP4ServerEndpoint=endpoint)


def leave(remove, why):
    """Logs why, ends functions, database and this process, and removes the given directories.

    Nothing is saved: the engine keeps nothing.
    """
    if not LEAVING.acquire(blocking=False):
        return  # Another thread is ending it, and never releases this. The group's SIGTERM comes here, too.
    launching.say_why(why)
    from localstack_lambda import RuntimeApi

    for executor in list(RuntimeApi.environments.values()):
        process = executor.process
        if process is not None and process.poll() is None:
            process.kill()
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGTERM)
    for directory in remove:
        shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)


def main():
    arguments = launching.options()
    arguments.add_argument("--database", required=True, help="the program that serves dynoxide as `PROGRAM dynamodb`")
    options = arguments.parse_args()

    launching.own_session()
    launching.raise_file_limit()
    collect_seldom()
    configure(options.port, os.environ["TMPDIR"], options.nonce)
    database, database_port = start_database(options.database)

    if options.attached:
        launching.end_with_parent(lambda why: leave(options.remove, why))

    import localstack_lambda
    from localstack import config
    from localstack.logging.setup import setup_logging_from_config
    from localstack.runtime import current

    setup_logging_from_config()
    # Its hooks: start.d, which patches what does not depend on Docker or the host, and ready.d.
    config.dirs.init = str(HERE / "init")
    use_dynoxide(database_port)
    read_streams_directly(database_port)
    keep_catalog()
    listen_here_only()
    localstack_lambda.install({"AWS_ENDPOINT_URL_DYNAMODB": f"http://127.0.0.1:{database_port}"})

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: leave(options.remove, signal.Signals(number).name))
    current.initialize_runtime().run()
    leave(options.remove, "LocalStack does")


if __name__ == "__main__":
    main()
