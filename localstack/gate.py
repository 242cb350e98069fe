"""The gate where LocalStack lets calls of a function wait, instead of refusing them; and how long either engine lets
them wait."""

import collections
import threading

# How long a call waits for a free environment of its function before it is throttled, seconds. Longer than API Gateway
# would (29): a machine that plays the cloud is slow, not full, and 300 orders at once have been seen to wait for 15.
QUEUE_SECONDS = 120


class Gate:
    """Admits at most `limit` callers at a time, the others in order of arrival."""

    def __init__(self):
        self._lock = threading.Lock()
        self._running = 0
        self._waiting = collections.deque()

    def enter(self, limit, seconds):
        with self._lock:
            if self._running < limit and not self._waiting:
                self._running += 1
                return True
            turn = threading.Event()
            self._waiting.append(turn)
        if turn.wait(seconds):
            return True
        with self._lock:
            if turn.is_set():  # Admitted between the timeout and the lock.
                return True
            self._waiting.remove(turn)
            return False

    def leave(self, limit):
        with self._lock:
            self._running -= 1
            while self._waiting and self._running < limit:
                self._running += 1
                self._waiting.popleft().set()
