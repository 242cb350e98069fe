"""Starts LocalStack for `cargo local --engine localstack`: on the host, without Docker.

LocalStack expects two things of a container: Docker beside it to run functions in, and a Java program as DynamoDB. Here
functions are processes (localstack_lambda.py), and the database is dynoxide, served by `local dynamodb`.

Each patch says what it is for. `check` stops the start where LocalStack is not what the patch was written for.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading

LEAVING = threading.Lock()
PROBLEM = "localstack is not the version that localstack_launcher.py was written for: {} is not as expected"


def check(condition, what):
    if not condition:
        raise SystemExit(PROBLEM.format(what))


def configure(port, work):
    """What LocalStack takes from its environment, before its first module is loaded."""
    os.environ.update(
        GATEWAY_LISTEN=f"127.0.0.1:{port}",
        # Part of the host name of APIs; one with an address in it is no host name.
        LOCALSTACK_HOST=f"localhost:{port}",
        OVERRIDE_IN_DOCKER="0",
        FILESYSTEM_ROOT=os.path.join(work, "localstack"),
        SQS_ENDPOINT_STRATEGY="path",
        PERSISTENCE="0",
        # No fixed ports, nothing from outside, nothing to outside.
        DNS_ADDRESS="0",
        SKIP_SSL_CERT_DOWNLOAD="1",
        DISABLE_EVENTS="1",
        EAGER_SERVICE_LOADING="0",
        LS_LOG="debug" if os.environ.get("LOG_LEVEL") == "DEBUG" else "warn",
        DOCKER_HOST="unix:///nonexistent/docker.sock",
        PROVIDER_OVERRIDE_DYNAMODB="v2",
        PROVIDER_OVERRIDE_DYNAMODBSTREAMS="v2",
        LAMBDA_RUNTIME_EXECUTOR="process",
        LAMBDA_KEEPALIVE_MS="60000",
        # Bounded per function instead, see queue_instead_of_throttling.
        LAMBDA_LIMITS_CONCURRENT_EXECUTIONS="100000",
        LAMBDA_EVENT_SOURCE_MAPPING_POLL_INTERVAL_SEC="0.05",
        LAMBDA_EVENT_SOURCE_MAPPING_MAX_BACKOFF_ON_EMPTY_POLL_SEC="0.25",
        LAMBDA_EVENT_SOURCE_MAPPING_MAX_BACKOFF_ON_ERROR_SEC="2",
        # Seconds before a failed asynchronous call comes again; Lambda's is a minute.
        LAMBDA_RETRY_BASE_DELAY="1",
    )


def start_database(program):
    """Starts dynoxide; says where it listens. It ends when this process does: its standard input ends then."""
    database = subprocess.Popen([program, "dynamodb"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    line = database.stdout.readline().strip()
    if not line.isdigit():
        raise SystemExit(f"the database did not start: {program} dynamodb said {line!r}")
    return database, int(line)


def use_dynoxide(port):
    """Puts dynoxide where LocalStack runs DynamoDB Local.

    The two are alike but for the region in their ARNs: `ddblocal` there, `dynoxide` here.
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


def accept_nulls():
    """Lets a template hold a null, as state machines do (`"ResultPath": null`).

    LocalStack compares the type of a value with `None` where it means the type of `None`.
    """
    from localstack.services.cloudformation.engine.v2.change_set_model import ChangeSetModel

    stock = ChangeSetModel._is_terminal
    check(not stock(None) and stock(""), "ChangeSetModel._is_terminal")
    ChangeSetModel._is_terminal = staticmethod(lambda value: value is None or stock(value))


def transform_first():
    """Lets a template refer to what SAM makes of it, as `!Ref PayCharge.Alias` does.

    LocalStack resolves every reference of the template as it was written to find an `Fn::Transform`, of which we
    have none, and only then lets SAM transform it.
    """
    from localstack.services.cloudformation.engine.v2.change_set_model_transform import ChangeSetModelTransform

    check(callable(getattr(ChangeSetModelTransform, "_execute_local_transforms", None)), "ChangeSetModelTransform")
    ChangeSetModelTransform._execute_local_transforms = lambda self: None


def make_dashboards():
    """Deploys dashboards: LocalStack has them, but not as a type of CloudFormation."""
    from localstack.services.cloudformation import resource_provider as stock

    class Dashboards(stock.ResourceProvider):
        TYPE = "AWS::CloudWatch::Dashboard"
        SCHEMA = {"primaryIdentifier": ["/properties/DashboardName"], "properties": {"DashboardName": {}}}

        def create(self, request):
            model = request.desired_state
            name = model.setdefault("DashboardName", f"{request.stack_name}-{request.logical_resource_id}")
            request.aws_client_factory.cloudwatch.put_dashboard(DashboardName=name, DashboardBody=model["DashboardBody"])
            return stock.ProgressEvent(status=stock.OperationStatus.SUCCESS, resource_model=model)

        update = create

        def delete(self, request):
            names = [request.desired_state["DashboardName"]]
            request.aws_client_factory.cloudwatch.delete_dashboards(DashboardNames=names)
            return stock.ProgressEvent(status=stock.OperationStatus.SUCCESS, resource_model={})

    load = stock.ResourceProviderExecutor.try_load_resource_provider
    check(load(Dashboards.TYPE) is None, "ResourceProviderExecutor: it has dashboards")
    stock.ResourceProviderExecutor.try_load_resource_provider = staticmethod(
        lambda kind: Dashboards() if kind == Dashboards.TYPE else load(kind)
    )


def deploy_quickly():
    """Looks again after 20 ms, not a second, whether a resource is there. It made 100 functions take 3 minutes."""
    from localstack.services.cloudformation.resource_provider import ResourceProviderExecutor

    loop = ResourceProviderExecutor.deploy_loop
    check(loop.__defaults__ is not None and loop.__defaults__[1:] == (1,), "ResourceProviderExecutor.deploy_loop")
    loop.__defaults__ = (loop.__defaults__[0], 0.02)


def identify(nonce):
    """Answers `GET /_encore/engine` with the nonce, so that the driver knows whom it talks to."""
    from localstack.http import Response
    from localstack.services.edge import ROUTER

    body = json.dumps({"nonce": nonce, "pid": os.getpid()})
    ROUTER.add("/_encore/engine", lambda request: Response(body, mimetype="application/json"))


def leave(remove):
    """Ends functions, database and this process, and takes the given directories away.

    Without ceremony: the engine keeps nothing, so there is nothing to save.
    """
    LEAVING.acquire()  # Never released: who comes second waits for the end.
    from localstack_lambda import RuntimeApi

    for executor in list(RuntimeApi.environments.values()):
        process = executor.process
        if process is not None and process.poll() is None:
            process.kill()
    if os.getpgrp() == os.getpid():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)
    for directory in remove:
        shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)


def raise_file_limit():
    """Some hundred connections and processes at a time; the usual soft limit is 1,024 files."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError) as error:  # macOS allows less than it says.
            print(f"the limit of open files stays at {soft}: {error}", file=sys.stderr, flush=True)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--nonce", required=True)
    arguments.add_argument("--database", required=True, help="the program that serves dynoxide as `PROGRAM dynamodb`")
    arguments.add_argument("--attached", action="store_true", help="end when standard input does")
    arguments.add_argument("--remove", action="append", default=[], help="directory to remove at the end")
    options = arguments.parse_args()

    # A session of its own: a Ctrl-C in the terminal that started it is not meant for the engine.
    try:
        os.setsid()
    except PermissionError:
        pass  # Started as a group leader already.

    raise_file_limit()
    configure(options.port, os.environ["TMPDIR"])
    database, database_port = start_database(options.database)

    if options.attached:

        def watch_parent():
            # The parent holds the other end of this pipe and never writes: the end of the file is the end of the
            # parent, however it came.
            while os.read(0, 1024):
                pass
            leave(options.remove)

        threading.Thread(target=watch_parent, daemon=True).start()

    import localstack_lambda
    from localstack.logging.setup import setup_logging_from_config
    from localstack.runtime import current

    setup_logging_from_config()
    use_dynoxide(database_port)
    accept_nulls()
    transform_first()
    make_dashboards()
    deploy_quickly()
    localstack_lambda.install()
    identify(options.nonce)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: leave(options.remove))
    current.initialize_runtime().run()
    leave(options.remove)


if __name__ == "__main__":
    main()
