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
import json
import os
import shutil
import signal
import socketserver
import sys
import threading

import launching
from gate import QUEUE_SECONDS, Gate

# Held by the thread that ends the process. The group's SIGTERM reaches this process too.
LEAVING = threading.Lock()


def check(condition, what):
    """Refuse to start on an engine that is not the one these patches were written for."""
    if not condition:
        sys.exit(f"ministack_launcher: {what} is not what this launcher expects; check the pinned version")


def queue_instead_of_throttling(svc):
    """Bounds the processes of one function and lets further calls wait for one.

    The stock engine starts a process for every concurrent call, which on a laptop means 500
    processes for 500 buyers, or, with a cap, an error for most of them; AWS would simply run them.
    There is one gate per function and none above them: a function that waits for another one holds
    its own gate only, so the two cannot lock each other out.
    """
    for name in ("_acquire_execution_slot", "_release_execution_slot", "_reserved_concurrency", "_inflight_key"):
        check(callable(getattr(svc, name, None)), f"lambda_svc.{name}")
    check(callable(getattr(svc._functions, "get", None)), "lambda_svc._functions")
    check(svc._ACCOUNT_CONCURRENCY_CAP == 0, "lambda_svc._ACCOUNT_CONCURRENCY_CAP")
    per_function = int(os.environ.get("ENCORE_FUNCTION_CONCURRENCY", "8"))
    check(per_function >= 1, "ENCORE_FUNCTION_CONCURRENCY")
    gates, lock, limits = {}, threading.Lock(), {}

    def acquire(func, config):
        # Of the function, whichever of its versions is called; the engine's versions know nothing of it.
        reserved = svc._reserved_concurrency(svc._functions.get(config.get("FunctionName")) or func, config)
        if reserved == 0:  # Somebody switched the function off: that is an answer, not a queue.
            return None, "function"
        key = svc._inflight_key(config)
        limit = per_function if reserved is None else min(reserved, per_function)
        with lock:
            gate = gates.setdefault(key, Gate())
            limits[key] = limit
        if not gate.enter(limit, QUEUE_SECONDS):
            return None, "function"
        return key, None

    def release(key):
        if key is not None:
            with lock:
                gate, limit = gates[key], limits[key]
            gate.leave(limit)

    svc._acquire_execution_slot = acquire
    svc._release_execution_slot = release


def retry_reported_stream_failures(svc):
    """Takes a stream handler's `batchItemFailures` for the failure it reports.

    The stock engine ignores them for streams and moves on, so the records would be lost. Here the
    whole batch comes again, which at-least-once delivery allows.
    """
    stock = svc._execute_function

    def execute(func, event):
        result = stock(func, event)
        records = event.get("Records") if isinstance(event, dict) else None
        if records and isinstance(records[0], dict) and records[0].get("eventSource") == "aws:dynamodb":
            body = result.get("body")
            if not result.get("error") and isinstance(body, dict) and body.get("batchItemFailures"):
                failure = {"errorType": "BatchItemFailures", "errorMessage": json.dumps(body)[:500]}
                return {**result, "error": True, "body": failure}
        return result

    svc._execute_function = execute


def poll_each_stream_on_its_own(svc):
    """Gives every DynamoDB stream mapping its own thread.

    The stock engine runs all of them, and the dispatch of all queues, on one thread, so a slow
    consumer holds up every other one. On AWS they know nothing of each other.
    """
    for name in ("_iter_all_esms", "_poll_dynamodb_streams", "_poll_loop", "_ensure_poller"):
        check(callable(getattr(svc, name, None)), f"lambda_svc.{name}")
    check(isinstance(svc._ESM_IDLE_WAKE_GAP_SECONDS, float), "lambda_svc._ESM_IDLE_WAKE_GAP_SECONDS")
    check(not svc._poller_started, "lambda_svc._poller_started")
    stock_mappings, stock_poll = svc._iter_all_esms, svc._poll_dynamodb_streams
    mine, wakes = threading.local(), {}

    def mappings():
        uuid = getattr(mine, "uuid", None)
        return (row for row in stock_mappings() if uuid is None or row[2]["UUID"] == uuid)

    def follow(uuid, wake):
        mine.uuid = uuid
        while any(True for _ in mappings()):  # Until it is deleted.
            # The limit is for a batch that failed: nothing wakes it, it comes again after its pause of 1 s.
            wake.wait(1)
            wake.clear()
            try:
                while stock_poll():
                    pass
            except Exception as error:
                print(f"stream mapping {uuid}: {error!r}", file=sys.stderr, flush=True)
        wakes.pop(uuid, None)

    def wake_followers():
        for _account, _region, mapping in stock_mappings():
            if "/stream/" not in mapping.get("EventSourceArn", ""):
                continue
            uuid = mapping["UUID"]
            if uuid not in wakes:
                wakes[uuid] = threading.Event()
                threading.Thread(target=follow, args=(uuid, wakes[uuid]), daemon=True).start()
            wakes[uuid].set()
        return False

    svc._iter_all_esms = mappings
    svc._poll_dynamodb_streams = wake_followers
    # Between two looks at the event sources that found nothing to do.
    svc._ESM_IDLE_WAKE_GAP_SECONDS = 0.01


def deliver_late_logs(svc, runtime):
    """Hands over log lines that arrived after their call's answer, once a second.

    The stock engine keeps them for the next call to the same process, which may never come.
    """
    check(callable(getattr(svc, "_emit_lambda_logs", None)), "lambda_svc._emit_lambda_logs")
    check(isinstance(runtime._workers, dict), "lambda_runtime._workers")
    tick = threading.Event()

    def loop():
        while not tick.wait(1):
            for workers in list(runtime._workers.values()):
                for worker in list(workers):
                    if not worker.in_use and not worker._stderr_queue.empty():
                        text = worker._drain_stderr()
                        if text:
                            svc._run_with_function_config_scope(
                                worker.config, svc._emit_lambda_logs, {"config": worker.config}, "late", text, False, 0
                            )

    def guarded():
        while True:
            try:
                loop()
            except Exception as error:
                print(f"late logs: {error!r}", file=sys.stderr, flush=True)

    threading.Thread(target=guarded, daemon=True).start()


def retry_what_log_subscriptions_deliver(svc, logs):
    """Hands the lines of a log subscription over as Lambda does: as an asynchronous call.

    The stock engine calls the subscriber once and never looks at how it went. On AWS a call that fails comes
    again, and what keeps failing goes to the function's destination on failure, so nothing is lost.
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


def run_groups_of_fifo_queues_side_by_side(svc, sqs):
    """Gives a FIFO queue as many batches at a time as any other queue.

    The stock engine runs one batch for the whole queue, so one slow group holds up all of them. On AWS groups
    know nothing of each other. The order within a group is kept all the same: what is received leaves out every
    group of which a message is still out.
    """
    check("inflight_groups" in sqs._collect_fifo.__code__.co_varnames, "sqs._collect_fifo")
    stock = svc._sqs_esm_concurrency
    check(stock.__code__.co_varnames[:4] == ("esm", "func_rec", "config", "queue"), "lambda_svc._sqs_esm_concurrency")
    svc._sqs_esm_concurrency = lambda esm, func_rec, config, queue=None: stock(esm, func_rec, config)


def remove_dead_time(runtime, stepfunctions, eventbridge):
    """Removes waits in which nothing happens (together some 95 ms a call, 150 ms an execution)."""
    # Small answers of the functions' Runtime API wait for a delayed ACK otherwise (40 ms).
    check(hasattr(socketserver.StreamRequestHandler, "disable_nagle_algorithm"), "StreamRequestHandler")
    socketserver.StreamRequestHandler.disable_nagle_algorithm = True

    # After every call the engine waits for log lines: 50 ms when there are none.
    drain = runtime.Worker._drain_stderr_bounded
    check(drain.__defaults__ == (0.050, 0.005, 0.250), "Worker._drain_stderr_bounded")
    drain.__defaults__ = (0.003, 0.001, 0.050)

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
    """Holds functions to the policies of their roles, and takes everybody else for the account's owner.

    The stock engine enforces policies for all callers or for none, and then refuses every key it did
    not issue itself. Here a permission that the template forgets fails as on AWS, and people and
    tools may come with any made-up key.
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


def identify(app, nonce):
    """Answers `GET /_encore/engine` with the nonce, so that the driver knows whom it talks to."""
    body = json.dumps({"nonce": nonce, "pid": os.getpid()}).encode()

    async def asgi(scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/_encore/engine":
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await app(scope, receive, send)

    return asgi


def leave(runtime, remove):
    """Ends the functions and this process, and takes the given directories away.

    Without ceremony: the engine keeps nothing, so there is nothing to save.
    """
    LEAVING.acquire()  # Never released: who comes second waits for the end.
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGTERM)
    for workers in list(runtime._workers.values()):
        for worker in list(workers):
            process = worker._proc
            if process is not None and process.poll() is None:
                process.kill()
    for directory in remove:
        shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)


def main():
    options = launching.options().parse_args()
    launching.own_session()
    os.environ.update(
        GATEWAY_PORT=str(options.port),
        MINISTACK_HOST="127.0.0.1",
        BIND_HOST="127.0.0.1",
        PERSIST_STATE="0",
        S3_PERSIST="0",
        LAMBDA_EXECUTOR="local",
        AUTH="true",  # See enforce_policies_of_functions.
        # Bounded per function instead, see queue_instead_of_throttling.
        LAMBDA_ACCOUNT_CONCURRENCY="0",
        # Surplus environments of a burst poll ten times a second each until they are let go.
        LAMBDA_WARM_TTL_SECONDS=os.environ.get("LAMBDA_WARM_TTL_SECONDS", "60"),
        # These would listen on fixed ports, and the last would tidy up a Docker engine not ours.
        SFTP_ENABLED="0",
        IOT_MTLS_ENABLED="0",
        DOCKER_HOST="unix:///nonexistent/docker.sock",
    )

    from hypercorn.asyncio import serve
    from hypercorn.config import Config
    from ministack import app as engine
    from ministack.core import iam_evaluator
    from ministack.core import lambda_runtime as runtime
    from ministack.services import cloudwatch_logs, eventbridge, lambda_svc, sqs, stepfunctions, sts

    remove_dead_time(runtime, stepfunctions, eventbridge)
    queue_instead_of_throttling(lambda_svc)
    retry_reported_stream_failures(lambda_svc)
    poll_each_stream_on_its_own(lambda_svc)
    deliver_late_logs(lambda_svc, runtime)
    retry_what_log_subscriptions_deliver(lambda_svc, cloudwatch_logs)
    run_groups_of_fifo_queues_side_by_side(lambda_svc, sqs)
    enforce_policies_of_functions(iam_evaluator, sts)

    # Until the event loop takes the signal over.
    signal.signal(signal.SIGTERM, lambda *_: leave(runtime, options.remove))

    if options.attached:
        launching.end_with_parent(lambda: leave(runtime, options.remove))

    launching.raise_file_limit()

    config = Config()
    config.bind = [f"127.0.0.1:{options.port}"]
    config.backlog = 1024
    config.keep_alive_timeout = 75
    config.loglevel = engine.LOG_LEVEL

    async def run():
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, leave, runtime, options.remove)
        # Never set: the signals above end the process.
        await serve(identify(engine.app, options.nonce), config, shutdown_trigger=asyncio.Event().wait)

    asyncio.run(run())


if __name__ == "__main__":
    main()
