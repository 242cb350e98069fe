"""Starts ministack as Encore's local cloud.

ministack is used as published and pinned. What this file changes, it changes by patching, because
the stock engine is made for a handful of calls at a time: it sleeps in places where nothing needs
waiting for, and it refuses calls where AWS would run them. Every patch first checks that the thing
it replaces is still there, so that a new version of the engine fails here, at the start, with a
name, and not later with wrong numbers.

    python ministack_launcher.py --port N --nonce TEXT [--attached] [--remove DIR]...

The environment carries the rest (TMPDIR, AWS_ENDPOINT_URL, ENCORE_FUNCTION_CONCURRENCY, LOG_LEVEL).
"""

import asyncio
import functools
import gc
import json
import os
import shutil
import signal
import sys
import threading

import launching
import uvloop
from ministack_http import CALLER, Connection, Listener

# Held by the thread that ends the process. The group's SIGTERM reaches this process too.
LEAVING = threading.Lock()


def check(condition, what):
    """Refuse to start on an engine that is not the one these patches were written for."""
    if not condition:
        sys.exit(f"ministack_launcher: {what} is not what this launcher expects; check the pinned version")


def run_functions_on_the_loop(svc, runtime, gateway, functions):
    """Runs functions from the event loop, so many of one function at a time, and lets further calls wait.

    See ministack_functions.py for the loop. As to the calls: the stock engine starts a process for every concurrent
    call, which on a laptop means 500 processes for 500 buyers, or, with a cap, an error for most of them; AWS would
    simply run them. There is one queue per function and none above them: a function that waits for another one holds
    its own place only, so the two cannot lock each other out.
    """
    for name in ("_reserved_concurrency", "_inflight_key", "_throttle_response", "_emit_lambda_logs",
                 "_emit_lambda_metrics", "_provided_worker_env", "_provided_runtime_code_dir", "_b64_sha_to_hex",
                 "_xray_trace_id_for_invocation", "_ensure_reaper_thread", "_run_with_function_config_scope",
                 "reap_idle_workers"):
        check(callable(getattr(svc, name, None)), f"lambda_svc.{name}")
    for name in ("acquire_worker", "release_worker", "_signal", "_collect"):
        check(callable(getattr(runtime, name, None)), f"lambda_runtime.{name}")
    check("ProvidedWorker" in runtime._worker_class_for.__code__.co_names, "lambda_runtime._worker_class_for")
    check("_discard_tmpdir" in runtime.kill_workers.__code__.co_names, "lambda_runtime.kill_workers")
    check("_execute_function_with_config_scope" in svc._invoke.__code__.co_names, "lambda_svc._invoke")
    check("run_reentrant" in gateway._call_lambda_raw.__code__.co_names, "apigateway_v1._call_lambda_raw")
    import ministack_functions

    stock_execute, stock_reentrant, stock_reap = svc._execute_function, svc.run_reentrant, svc.reap_idle_workers

    def execute(func, event):
        return functions.call(func, event) if functions.runs(func) else stock_execute(func, event)

    async def reentrant(fn, *args, **kwargs):
        # Code that calls functions from the loop does so in a thread, because the stock function blocks.
        if fn is svc._execute_function_with_config_scope and functions.runs(args[0]):
            task, connection = CALLER.get()
            return await functions.execute(*args, connection if task is asyncio.current_task() else None)
        return await stock_reentrant(fn, *args, **kwargs)

    def reap():
        ministack_functions.reap_superseded()
        return stock_reap()

    svc._execute_function, svc.reap_idle_workers = execute, reap
    svc.run_reentrant = gateway.run_reentrant = reentrant


def serve_event_sources_on_the_loop(svc, sqs, dynamodb, esm_wake, functions):
    """Delivers queues and streams to functions from the event loop, see ministack_sources.py."""
    used = {
        svc: ("_iter_all_esms", "_poll_sqs", "_run_sqs_batch", "_poll_dynamodb_streams", "_dispatch_esm_batch",
              "_apply_filter_criteria", "_get_func_record_for_qualifier", "_send_ddb_stream_failure_record"),
        sqs: ("_queue_url_for_account", "_receive_messages_for_esm"),
        dynamodb: ("stream_records_since", "stream_start_position", "stream_end_position"),
    }
    for module, names in used.items():
        for name in names:
            check(callable(getattr(module, name, None)), f"{module.__name__}.{name}")
    check(svc._poll_sqs.__code__.co_names.count("_iter_all_esms") == 1, "lambda_svc._poll_sqs")
    check(svc._run_sqs_batch.__code__.co_varnames[:3] == ("esm", "func_rec", "event"), "lambda_svc._run_sqs_batch")
    check({"_poll_sqs", "_poll_dynamodb_streams"} <= set(svc._poll_loop.__code__.co_names), "lambda_svc._poll_loop")
    check(svc._esm_wake is esm_wake and not svc._poller_started, "lambda_svc._esm_wake")
    for store in (dynamodb._stream_records, dynamodb._stream_trimmed, svc._dynamodb_stream_positions, sqs._queues):
        check(callable(getattr(store, "get_scoped", None)), "the stores of streams and queues")
    import ministack_sources

    return ministack_sources.Sources(functions)


def retry_what_log_subscriptions_deliver(svc, logs):
    """Delivers the lines of a log subscription as Lambda does: as an asynchronous call.

    The stock engine calls the subscriber once and ignores the result. On AWS a call that fails is retried, and what
    keeps failing goes to the function's destination on failure, so nothing is lost.
    """
    check(callable(getattr(svc, "invoke_async_with_retry", None)), "lambda_svc.invoke_async_with_retry")
    name = "_execute_function_with_config_scope"
    check(name in logs._fanout_to_subscription_filters.__code__.co_names, "logs._fanout_to_subscription_filters")
    stock = getattr(svc, name)

    def execute(func, event):
        if isinstance(event, dict) and set(event) == {"awslogs"}:
            return svc.invoke_async_with_retry(func, event)
        return stock(func, event)

    setattr(svc, name, execute)


def take_from_queues_what_can_run(svc, sqs, at_once):
    """Takes no more batches from a queue than its function runs at once, and as many from a FIFO queue as from any
    other.

    A received message counts as tried and is invisible in its queue, so none may be received that would only wait.

    The stock engine runs one batch for the whole queue, so one slow group holds up all of them. On AWS groups are
    independent. The order within a group is kept all the same: a receive leaves out every group with a message in
    flight.
    """
    check("inflight_groups" in sqs._collect_fifo.__code__.co_varnames, "sqs._collect_fifo")
    stock = svc._sqs_esm_concurrency
    check(stock.__code__.co_varnames[:4] == ("esm", "func_rec", "config", "queue"), "lambda_svc._sqs_esm_concurrency")
    svc._sqs_esm_concurrency = lambda esm, func_rec, config, queue=None: min(stock(esm, func_rec, config), at_once)


def remove_dead_time(stepfunctions, eventbridge):
    """Removes waits in which nothing happens (150 ms an execution)."""
    # A state machine execution sleeps before its first state.
    run = stepfunctions._run_execution
    check(run.__code__.co_consts.count(0.15) == 1, "stepfunctions._run_execution")
    run.__code__ = run.__code__.replace(
        co_consts=tuple(0.0 if const == 0.15 else const for const in run.__code__.co_consts)
    )

    # How late a `rate(...)` rule may fire, seconds.
    check(eventbridge._SCHEDULER_TICK_INTERVAL == 10, "eventbridge._SCHEDULER_TICK_INTERVAL")
    eventbridge._SCHEDULER_TICK_INTERVAL = 1


def enforce_policies_of_functions(evaluator, sts):
    """Enforces the policies of the functions' roles, and takes every other caller for the account's owner.

    The stock engine enforces policies for all callers or for none, and then refuses every key it did not issue itself.
    Here a permission that the template lacks fails as on AWS, and people and tools may use any made-up key.
    """
    check(callable(getattr(evaluator, "enforce", None)), "iam_evaluator.enforce")
    check(callable(getattr(evaluator, "check_credentials", None)), "iam_evaluator.check_credentials")
    check(hasattr(sts, "_sessions"), "sts._sessions")
    stock_enforce, stock_check = evaluator.enforce, evaluator.check_credentials

    def enforce(access_key_id, *args, **kwargs):
        return stock_enforce(access_key_id, *args, **kwargs) if access_key_id in sts._sessions else None

    def check_credentials(access_key_id, *args, **kwargs):
        return stock_check(access_key_id, *args, **kwargs) if access_key_id in sts._sessions else None

    evaluator.enforce, evaluator.check_credentials = enforce, check_credentials


def read_policies_once(evaluator):
    """Caches a parsed policy for as long as its text stays the same.

    The stock engine parses every policy of a role, and its boundary, anew for every call of a function.
    """
    check(callable(getattr(evaluator, "parse_policy_document", None)), "iam_evaluator.parse_policy_document")
    stock = evaluator.parse_policy_document
    known = functools.lru_cache(maxsize=4096)(stock)
    evaluator.parse_policy_document = lambda text: (known if isinstance(text, str) else stock)(text)


def import_all_that_a_body_says(gateway):
    """Keeps what an API's Body states of an integration beside its type, method and URI, and its gateway responses.

    The stock engine drops the rest: the role that the integration calls with, what a mock answers (a preflight, with
    its headers), and what the gateway answers in the API's name. API Gateway keeps all of it, and refuses what it
    cannot read.
    """
    for name in ("_put_integration", "_put_integration_response", "_put_gateway_response", "_delete_rest_api"):
        check(callable(getattr(gateway, name, None)), f"apigateway_v1.{name}")
    check("credentials" not in gateway._import_operation.__code__.co_consts, "apigateway_v1._import_operation")
    check("_put_gateway_response" not in gateway._import_rest_api.__code__.co_names, "apigateway_v1._import_rest_api")
    stock_operation, stock_api = gateway._import_operation, gateway._import_rest_api

    def accepted(what, answer):
        status, _headers, body = answer
        if status >= 400:
            raise ValueError(f"{what}: {json.loads(body).get('message')}")

    def import_operation(api, resource, method, operation, *security):
        stock_operation(api, resource, method, operation, *security)
        integration = (operation or {}).get("x-amazon-apigateway-integration")
        if not integration:
            return
        # An extension has in lower case what the API has in capitals.
        capitals = ("type", "passthroughBehavior", "connectionType", "contentHandling")
        told = {name: value.upper() if name in capitals else value for name, value in integration.items()}
        accepted("integration", gateway._put_integration(api, resource, method, told))
        for pattern, response in (integration.get("responses") or {}).items():
            said = {**response, "selectionPattern": "" if pattern == "default" else pattern}
            status = str(response.get("statusCode", "200"))
            accepted("response", gateway._put_integration_response(api, resource, method, status, said))

    def import_api(spec, base=None):
        api = stock_api(spec, base)
        try:
            for kind, response in (spec.get("x-amazon-apigateway-gateway-responses") or {}).items():
                accepted(f"gateway response {kind}", gateway._put_gateway_response(api, kind, response))
        except ValueError:
            gateway._delete_rest_api(api)
            raise
        return api

    gateway._import_operation, gateway._import_rest_api = import_operation, import_api


def update_apis_in_place(gateway, provisioners):
    """Reads a changed Body into the existing API, which keeps its id, and so its URL.

    The stock engine makes another API of it.
    """
    stores = ("_resources", "_authorizers_v1", "_models", "_gateway_responses")
    for name in stores:
        check(hasattr(gateway, name), f"apigateway_v1.{name}")
    handlers = provisioners._RESOURCE_HANDLERS["AWS::ApiGateway::RestApi"]
    check(handlers.get("update_with_logical_id") is True, "provisioners._RESOURCE_HANDLERS[RestApi]")
    stock = handlers["update"]
    check("_apigw_rest_api_create" in stock.__code__.co_names, "provisioners._apigw_rest_api_update")

    def update(id, old, new, stack, logical_id=None):
        body = new.get("Body")
        if isinstance(body, dict) and body != old.get("Body") and id in gateway._rest_apis:
            fresh, _ = handlers["create"](logical_id or id, new, stack)
            for name in stores:
                store = getattr(gateway, name)
                store[id] = store[fresh]
            gateway._delete_rest_api(fresh)
            old = {**old, "Body": body}
        return stock(id, old, new, stack, logical_id)

    handlers["update"] = update


def answer_for_functions_that_fail(gateway):
    """Answers 502 and the API's DEFAULT_5XX for a function that ended or failed, as API Gateway does.

    The stock engine shows the caller the function's error.
    """
    check("_lambda_proxy_response" in gateway._invoke_lambda_proxy_v1.__code__.co_names, "_invoke_lambda_proxy_v1")
    check("_GatewayError" in gateway._handle_execute_in_scope.__code__.co_names, "_handle_execute_in_scope")
    stock_invoke, stock_response = gateway._invoke_lambda_proxy_v1, gateway._lambda_proxy_response
    stock_answer = gateway._gateway_error_response

    class Failed(Exception):
        pass

    def response(result):
        answer, error = stock_response(result)
        if error:
            raise Failed
        return answer, None

    async def invoke(*args, **kwargs):
        try:
            return await stock_invoke(*args, **kwargs)
        except Failed:
            error = gateway._gw_error("DEFAULT_5XX", "Internal server error")
            error.status = 502
            return error

    def answer(error, request):
        status, headers, body = stock_answer(error, request)
        # DEFAULT_5XX has a status of its own only if the API gives it one; the engine takes 500.
        return (getattr(error, "status", 500) if status == 500 else status), headers, body

    gateway._lambda_proxy_response, gateway._invoke_lambda_proxy_v1 = response, invoke
    gateway._gateway_error_response = answer


def enforce_roles_of_integrations(gateway, evaluator, iam):
    """Enforces the role that an integration calls its function with.

    The stock engine calls whatever it is given. API Gateway has to be trusted by the role, and the role has to allow
    the call; otherwise it answers 500, and so does this, so that a function that the role lacks fails here, too.
    """
    used = ("EvalContext", "evaluate", "evaluate_resource_policy", "_gather_role_policies", "_permissions_boundary")
    for name in used:
        check(callable(getattr(evaluator, name, None)), f"iam_evaluator.{name}")
    check(callable(getattr(gateway, "_extract_lambda_ref_from_integration_uri", None)), "apigateway_v1")
    stock = gateway._invoke_lambda_proxy_v1

    def may(role, function, account, region):
        name = role.rsplit("/", 1)[-1]
        record = iam._roles.get(name)
        if record is None:
            return False

        def asking(action, resource):
            return evaluator.EvalContext(f"arn:aws:sts::{account}:assumed-role/{name}/api", "AssumedRole", account,
                                         action, resource, region)

        trust = record["AssumeRolePolicyDocument"]
        trusted = evaluator.evaluate_resource_policy(trust, asking("sts:AssumeRole", "*"), "apigateway.amazonaws.com")
        policies = evaluator._gather_role_policies(name, account)
        limits = evaluator._permissions_boundary(iam._roles, name, account)
        allowed = evaluator.evaluate(asking("lambda:InvokeFunction", function), policies, *limits)
        return trusted.decision == allowed.decision == "Allow"

    async def invoke(integration, *args, owner_account_id=None, owner_region=None, **kwargs):
        role = integration.get("credentials")
        function = gateway._extract_lambda_ref_from_integration_uri(integration.get("uri", ""))
        if role and not may(role, function, owner_account_id, owner_region):
            print(f"API Gateway may not call {function} as {role}", file=sys.stderr, flush=True)
            return gateway._gw_error("API_CONFIGURATION_ERROR", "Internal server error")
        owner = {"owner_account_id": owner_account_id, "owner_region": owner_region}
        return await stock(integration, *args, **owner, **kwargs)

    gateway._invoke_lambda_proxy_v1 = invoke


def bound_roles(iam, provisioners):
    """Keeps the boundary that a template gives a role, and refuses a missing boundary.

    The stock engine ignores it, so neither a permission beyond the boundary nor a wrong name would be noticed here.
    """
    check(callable(getattr(iam, "_boundary_policy_error", None)), "iam._boundary_policy_error")
    handlers = provisioners._RESOURCE_HANDLERS["AWS::IAM::Role"]
    for name in ("create", "update"):
        check("PermissionsBoundary" not in handlers[name].__code__.co_consts, f"provisioners._iam_role_{name}")
    stock_create, stock_update = handlers["create"], handlers["update"]

    def bounded(properties, provision):
        boundary = properties.get("PermissionsBoundary")
        if boundary and iam._boundary_policy_error(boundary):
            raise ValueError(f"Scope ARN: {boundary} does not exist or is not attachable.")
        name, attributes = provision()
        iam._roles[name]["PermissionsBoundary"] = boundary
        return name, attributes

    handlers["create"] = lambda id, new, stack: bounded(new, lambda: stock_create(id, new, stack))
    handlers["update"] = lambda id, old, new, *more: bounded(new, lambda: stock_update(id, old, new, *more))


def collect_rarely():
    """Collects garbage after every 20,000 new objects, and never among what was imported.

    The default is after every 700, and among everything each time that it grew by a quarter.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def identify(app, nonce):
    """Answers `GET /_encore/engine` with the nonce, so that the driver can identify it."""
    body = json.dumps({"nonce": nonce, "pid": os.getpid()}).encode()

    async def asgi(scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/_encore/engine":
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await app(scope, receive, send)

    return asgi


def leave(runtime, remove, why):
    """Logs why, ends the functions and this process, and removes the given directories.

    Nothing is saved: the engine keeps nothing.
    """
    if not LEAVING.acquire(blocking=False):
        return  # Another thread is ending it, and never releases this. The group's SIGTERM comes here, too.
    launching.say_why(why)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGTERM)
    for workers in list(runtime._workers.values()):
        for worker in list(workers):
            end = getattr(worker, "end", None) or (lambda process=worker._proc: process and process.kill())
            end()
    for directory in remove:
        shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)


def configure(port):
    """Settings of the stock engine, which it reads as it is imported."""
    os.environ.update(
        GATEWAY_PORT=str(port),
        MINISTACK_HOST="127.0.0.1",
        BIND_HOST="127.0.0.1",
        PERSIST_STATE="0",
        S3_PERSIST="0",
        LAMBDA_EXECUTOR="local",
        AUTH="true",  # See enforce_policies_of_functions.
        # Bounded per function instead, see run_functions_on_the_loop.
        LAMBDA_ACCOUNT_CONCURRENCY="0",
        # Surplus environments of a burst keep their memory until they are let go.
        LAMBDA_WARM_TTL_SECONDS=os.environ.get("LAMBDA_WARM_TTL_SECONDS", "60"),
        # These would listen on fixed ports, and the last would tidy up a Docker engine that is not ours.
        SFTP_ENABLED="0",
        IOT_MTLS_ENABLED="0",
        DOCKER_HOST="unix:///nonexistent/docker.sock",
    )


def main():
    options = launching.options().parse_args()
    launching.own_session()
    configure(options.port)

    from ministack import app as engine
    from ministack.core import iam_evaluator
    from ministack.core import lambda_runtime as runtime
    from ministack.core.concurrency import esm_wake
    from ministack.services import apigateway_v1, cloudwatch_logs, dynamodb, eventbridge, iam, lambda_svc, sqs
    from ministack.services import stepfunctions, sts
    from ministack.services.cloudformation import provisioners

    import ministack_front
    import ministack_functions

    at_once = int(os.environ.get("ENCORE_FUNCTION_CONCURRENCY", "8"))
    functions = ministack_functions.Functions(at_once)
    runtime.ProvidedWorker = ministack_functions.Environment
    remove_dead_time(stepfunctions, eventbridge)
    run_functions_on_the_loop(lambda_svc, runtime, apigateway_v1, functions)
    sources = serve_event_sources_on_the_loop(lambda_svc, sqs, dynamodb, esm_wake, functions)
    retry_what_log_subscriptions_deliver(lambda_svc, cloudwatch_logs)
    take_from_queues_what_can_run(lambda_svc, sqs, at_once)
    enforce_policies_of_functions(iam_evaluator, sts)
    read_policies_once(iam_evaluator)
    bound_roles(iam, provisioners)
    import_all_that_a_body_says(apigateway_v1)
    update_apis_in_place(apigateway_v1, provisioners)
    answer_for_functions_that_fail(apigateway_v1)
    enforce_roles_of_integrations(apigateway_v1, iam_evaluator, iam)

    # Until the event loop takes the signal over.
    signal.signal(signal.SIGTERM, lambda number, _: leave(runtime, options.remove, signal.Signals(number).name))

    if options.attached:
        launching.end_with_parent(lambda why: leave(runtime, options.remove, why))

    launching.raise_file_limit()

    for name in ministack_front.USED:
        check(hasattr(engine, name), f"app.{name}")
    collect_rarely()
    front = ministack_front.Front(identify(engine.app, options.nonce), options.port)

    async def run():
        loop = asyncio.get_running_loop()
        functions.start()
        sources.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, leave, runtime, options.remove, number.name)
        await front.start()
        Listener(lambda: Connection(front.serve), options.port, backlog=4096)
        # Never set: the signals above end the process.
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


if __name__ == "__main__":
    main()
