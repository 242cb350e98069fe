"""What the launchers of both engines share: options, session, limits, end."""

import argparse
import contextlib
import os
import sys
import threading


def options():
    """An engine's command line, to be extended."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--nonce", required=True)
    arguments.add_argument("--attached", action="store_true", help="end when standard input does")
    arguments.add_argument("--remove", action="append", default=[], help="directory to remove at the end")
    return arguments


def own_session():
    """A Ctrl-C in the terminal that started the engine is not meant for it."""
    try:
        os.setsid()
    except PermissionError:
        pass  # Started as a group leader already.


def end_with_parent(leave):
    """Exits when the parent ends, however it does."""

    def watch():
        # The parent holds the other end of this pipe and never writes: the end of the file is its end.
        while os.read(0, 1024):
            pass
        leave("who started it has ended")

    threading.Thread(target=watch, daemon=True).start()


def say_why(why):
    """Logs the reason of an end in the engine's log."""
    with contextlib.suppress(Exception):  # Without a log, it ends all the same.
        print(f"the engine ends: {why}", file=sys.stderr, flush=True)


def raise_file_limit():
    """For some hundred connections and processes at a time; the usual soft limit is 1,024 files."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError) as error:  # macOS allows less than its limit states.
            print(f"the limit of open files stays at {soft}: {error}", file=sys.stderr, flush=True)
