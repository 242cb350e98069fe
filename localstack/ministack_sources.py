"""Delivers queues and streams to functions, from the engine's event loop.

The stock engine scans every queue and stream whenever anything was sent anywhere, and every message of a queue, delayed
ones included: with two thousand holds waiting to expire, that is most of its work. It runs all streams on one thread,
so a slow consumer holds up every other one, and every batch of a queue on a thread of its own. Here a source is read
when something was sent to it or falls due, each on its own, as on AWS.
"""

import asyncio
import sys
import threading
import time

from ministack.core.concurrency import esm_wake
from ministack.core.responses import request_scope
from ministack.services import dynamodb, sqs
from ministack.services import lambda_svc as svc

# The longest time between two scans: for changes without a notification, such as a mapping that was switched on again.
LONGEST_SECONDS = 1
NEVER = float("inf")


class Sources:
    """All event source mappings of queues and of tables' streams."""

    def __init__(self, functions):
        self._functions, self._loop, self._thread = functions, None, None
        self._asked, self._timer = False, None
        # Streams with a batch in progress.
        self._busy = set()
        # Of each queue: its list of messages, how much of it is known, and when the next of these falls due.
        self._queues, self._urls, self._forgotten = {}, {}, 0
        # The queues that the stock engine should read now.
        self._rows = None
        self._stock_poll, self._stock_rows = svc._poll_sqs, svc._iter_all_esms
        self._stock_dispatch, self._stock_receive = svc._dispatch_esm_batch, sqs._receive_messages_for_esm
        # The stock engine's thread goes on reading other sources.
        svc._poll_sqs = svc._poll_dynamodb_streams = lambda: False
        svc._iter_all_esms, svc._dispatch_esm_batch = self._mappings, self._dispatch
        sqs._receive_messages_for_esm = self._receive
        esm_wake.set = self.wake

    def start(self):
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self.wake()

    def wake(self):
        """Something was sent."""
        if threading.get_ident() == self._thread:
            self._ask()
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(self._ask)

    def _ask(self):
        if not self._asked:
            self._asked = True
            self._loop.call_soon(self._look)

    def _look(self):
        self._asked = False
        now = time.time()
        soonest = now + LONGEST_SECONDS
        if now - self._forgotten > LONGEST_SECONDS:  # For messages whose time was changed.
            self._forgotten = now
            self._queues.clear()
        rows = []
        for row in self._stock_rows():
            account, region, mapping = row
            source = mapping.get("EventSourceArn", "")
            try:
                if ":sqs:" in source:
                    due = self._due(account, region, source)
                    if due <= now:  # What is left waits for one of its batches, which scans again.
                        rows.append(row)
                    else:
                        soonest = min(soonest, due)
                elif "/stream/" in source:
                    self._follow(account, region, mapping, source)
            except Exception as error:
                print(f"{source}: {error!r}", file=sys.stderr, flush=True)
        # Each by itself, so that a failure does not keep the others from their turn.
        took = [self._poll([row]) for row in rows]
        if any(took):
            self._ask()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(soonest - now, self._ask)

    # Queues.

    def _due(self, account, region, source):
        """When the next message of a queue may be received."""
        url = self._urls.get(source)
        if url is None:
            url = self._urls[source] = sqs._queue_url_for_account(account, source.rpartition(":")[2])
        queue = sqs._queues.get_scoped(account, region, url)
        messages = queue["messages"] if queue else ()
        known, length, due = self._queues.get(url, (None, 0, NEVER))
        if known is not messages or length > len(messages):  # Some were taken out.
            length, due = 0, NEVER
        if length < len(messages):
            due = min(due, min(message.get("visible_at", 0) for message in messages[length:]))
        self._queues[url] = (messages, len(messages), due)
        return due

    def _poll(self, rows):
        self._rows = rows
        try:
            return self._stock_poll()
        except Exception as error:
            print(f"queues: {error!r}", file=sys.stderr, flush=True)
            return False
        finally:
            self._rows = None

    def _mappings(self):
        if self._rows is not None and threading.get_ident() == self._thread:
            return iter(self._rows)
        return self._stock_rows()

    def _receive(self, url, most):
        received = self._stock_receive(url, most)
        self._queues.pop(url, None)
        return received

    def _dispatch(self, uuid, run, *batch):
        if not self._functions.runs(batch[1]):
            self._stock_dispatch(uuid, run, *batch)
            return
        with svc._esm_inflight_lock:
            svc._esm_inflight[uuid] = svc._esm_inflight.get(uuid, 0) + 1
        self._functions.go(self._run_batch(uuid, run, batch))

    async def _run_batch(self, uuid, run, batch):
        try:
            with self._functions.answered(await self._functions.execute(batch[1], batch[2])):
                run(*batch)
        finally:
            with svc._esm_inflight_lock:
                left = svc._esm_inflight.pop(uuid, 1) - 1
                if left > 0:
                    svc._esm_inflight[uuid] = left
            self._ask()

    # Streams.

    def _follow(self, account, region, mapping, source):
        uuid, table = mapping["UUID"], source.partition("/stream/")[0].rpartition("/")[2]
        records = dynamodb._stream_records.get_scoped(account, region, table)
        if uuid in self._busy or not records or not mapping.get("Enabled", True):
            return
        end = dynamodb._stream_trimmed.get_scoped(account, region, table, 0) + len(records)
        if svc._dynamodb_stream_positions.get_scoped(account, region, uuid) == end:
            return
        with request_scope(account, region):
            if svc._esm_backoff_until.get(uuid, 0) > time.time():
                return
            function, _ = svc._get_func_record_for_qualifier(mapping["FunctionName"], mapping.get("Qualifier"))
            described = dynamodb._tables.get(table)
            if function is None or not described or described.get("LatestStreamArn") != source:
                return
            position = self._position(mapping, table)
            batch = dynamodb.stream_records_since(table, position, mapping.get("BatchSize", 100))
            if not batch:
                return
            after = position + len(batch)
            wanted = svc._apply_filter_criteria(batch, mapping)
            if not wanted:
                self._move(uuid, after)
                self._ask()
                return
            self._busy.add(uuid)
            self._functions.go(self._hand_over(mapping, source, function, wanted, after))

    def _position(self, mapping, table):
        start = dynamodb.stream_start_position(table)
        from_start = mapping.get("StartingPosition", "LATEST") == "TRIM_HORIZON"
        first = start if from_start else dynamodb.stream_end_position(table)
        # What is older than a day is gone.
        position = max(svc._dynamodb_stream_positions.get(mapping["UUID"], first), start)
        self._move(mapping["UUID"], position)
        return position

    @staticmethod
    def _move(uuid, position):
        with svc._dynamodb_stream_positions_lock:
            svc._dynamodb_stream_positions[uuid] = position

    async def _hand_over(self, mapping, source, function, records, after):
        uuid = mapping["UUID"]
        try:
            if self._functions.runs(function):
                result = await self._functions.execute(function, {"Records": records})
            else:
                result = await asyncio.to_thread(svc._execute_function, function, {"Records": records})
            body = result.get("body")
            # The stock engine ignores the answer of a handler that failed, and moves on, so the records would be lost.
            # Here the whole batch is redelivered, which at-least-once delivery allows.
            failed = result.get("error") or isinstance(body, dict) and body.get("batchItemFailures")
            if not failed:
                svc._esm_backoff_until.pop(uuid, None)
                mapping["LastProcessingResult"] = f"OK - {len(records)} records"
                self._move(uuid, after)
                return
            mapping["LastProcessingResult"] = "FAILED"
            most = int(mapping.get("MaximumRecordAgeInSeconds") or 0)
            oldest = min(record["dynamodb"]["ApproximateCreationDateTime"] for record in records)
            if most > 0 and time.time() - oldest > most:
                kind = "MaxRecordAgeExceeded"
                svc._send_ddb_stream_failure_record(mapping, function, records, source, result, kind)
                self._move(uuid, after)
                return
            print(f"{mapping['FunctionName']} failed on {source}: {body}", file=sys.stderr, flush=True)
            svc._esm_backoff_until[uuid] = time.time() + svc._ESM_BACKOFF_SECONDS
        except Exception:
            svc._esm_backoff_until[uuid] = time.time() + svc._ESM_BACKOFF_SECONDS
            raise
        finally:
            self._busy.discard(uuid)
            self._ask()
