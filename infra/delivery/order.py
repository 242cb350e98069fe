"""Runs several things at once, each when what comes before it is done."""

import graphlib
import queue
import threading

from botocore.exceptions import BotoCoreError, ClientError

from .environment import Refused


def run(before, work):
    """Calls `work(name)` for every name of `before`: name -> names that come first.

    After a failure nothing more is begun, and what is running is awaited. Returns name -> result of what was done, and
    name -> error of what failed; what is in neither was not begun.
    """
    sorter = graphlib.TopologicalSorter(before)
    sorter.prepare()
    ended, running, done, failed = queue.SimpleQueue(), 0, {}, {}

    def one(name):
        try:
            ended.put((name, done, work(name)))
        except Exception as error:
            ended.put((name, failed, error))

    while True:
        for name in () if failed else sorter.get_ready():
            # Daemon threads: an interrupt does not wait for what goes on in the account.
            threading.Thread(target=one, args=(name,), daemon=True).start()
            running += 1
        if not running:
            return done, failed
        name, where, result = ended.get()
        running -= 1
        where[name] = result
        sorter.done(name)


def told(names, done, failed):
    """The result for each, in lines."""
    for error in failed.values():
        # A bug of ours: the traceback tells more.
        if not isinstance(error, (Refused, BotoCoreError, ClientError)):
            raise error
    fate = lambda name: f"failed: {failed[name]}" if name in failed else done.get(name, "not begun")  # noqa: E731
    return [f"{name}: {fate(name)}".replace("\n", "\n  ") for name in names]
