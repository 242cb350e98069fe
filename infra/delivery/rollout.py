"""Brings the stacks of a deployment up to date: one change set each, in their order."""

import threading
import time
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from . import order
from .changes import losses, shown
from .environment import Refused
from .stack import Stack

SAME = "nothing changed"
# How long an interrupt waits for change sets that are being made, so that they can be deleted.
MAKING_SECONDS = 60


@dataclass
class Part:
    """A stack, and its target state."""

    stack: Stack
    template_url: str
    parameters: dict
    tags: dict
    # How many resources it has.
    resources: int
    exists: bool
    # Whether its change set can be made before anything is applied. A new stack is shown by its size, and its change
    # set is made only after confirmation; so is that of a stack that refers to something that is not deployed yet.
    shows: bool
    # The changes of its change set; `None` if there is nothing to change.
    changes: list | None = None
    # Whether its change set is being made.
    making: bool = False
    # Whether there is a change set that was not applied yet.
    pending: bool = False
    # Whether CloudFormation is applying it.
    applying: bool = False


class Rollout:
    """A deployment's parts (stack -> part) and the order they go in (stack -> stacks that come before)."""

    def __init__(self, name, parts, before, allow_data_loss, protect, say):
        self.name, self.parts, self.before, self.say = name, parts, before, say
        self.allow_data_loss, self.protect = allow_data_loss, protect
        # Held to begin something, or to ensure that nothing more is begun.
        self.lock, self.stopped = threading.Lock(), False

    def prepare(self):
        """Makes the change sets that can be made before anything is changed."""
        early = {name: () for name, part in self.parts.items() if part.shows}
        done, failed = order.run(early, lambda name: self._make(self.parts[name]))
        if failed:
            first = f"{len(failed)} of {len(early)} change sets failed, and nothing was changed"
            raise Refused("\n  ".join([first, *order.told(early, done, failed)]))
        self._refuse_losses(self.parts.values())

    def changes(self):
        """Whether there is anything to do."""
        return any(part.changes or not part.shows for part in self.parts.values())

    def lines(self):
        """The planned changes, in lines."""
        lines = []
        for name, part in self.parts.items():
            if not part.exists:
                lines.append(f"{name}: new stack, {part.resources} resources")
            elif not part.shows:
                lines.append(f"{name}: known when {', '.join(self.before[name])} is there, and applied without asking again")
            elif part.changes:
                first, *rest = shown(part.changes)
                lines += [f"{name}: {first}", *rest]
        same = [name for name, part in self.parts.items() if part.shows and not part.changes]
        return lines + ([f"unchanged: {', '.join(same)}"] if same else [])

    def apply(self):
        """Applies the changes. When a stack fails, those in progress are awaited, and no other is begun."""
        done, failed = order.run(self.before, self._bring)
        if failed:
            first = f"{len(failed)} of {len(self.parts)} stacks failed; once it is put right, the same command goes on"
            raise Refused("\n  ".join([first, *order.told(self.parts, done, failed)]))

    def stop(self):
        """After an interrupt: nothing more is begun, and what CloudFormation goes on with is reported."""
        with self.lock:
            self.stopped = True
        if at := [part.stack.name for part in self.parts.values() if part.applying]:
            self.say(f"interrupted; CloudFormation is still at {', '.join(at)}: when it is done, the same command goes on")
        deadline = time.monotonic() + MAKING_SECONDS
        while (making := [part for part in self.parts.values() if part.making]) and time.monotonic() < deadline:
            time.sleep(0.1)
        for part in making:
            self.say(f"the change set {self.name} of {part.stack.name} is being made, and is left")

    def _refuse_stopped(self):
        if self.stopped:
            raise Refused("not begun: interrupted")

    def discard(self):
        """Deletes the change sets that were not applied."""
        for part in self.parts.values():
            if part.pending:
                part.pending = False
                try:
                    part.stack.discard(self.name, part.exists)
                except (BotoCoreError, ClientError) as error:
                    # An earlier error matters more than this one.
                    self.say(f"the change set {self.name} of {part.stack.name} is left: {error}")

    def _bring(self, name):
        try:
            return self._change(name, self.parts[name])
        except Exception:
            self.parts[name].applying = False
            if not self.stopped:
                self.say(f"{name}: failed; what is at it is waited for")
            raise

    def _change(self, name, part):
        if not part.shows:
            self._make(part)
            self._refuse_losses([part])
        if part.pending:
            before = part.stack.moment()
            with self.lock:
                self._refuse_stopped()
                self.say(f"{name}: applying")
                part.pending, part.applying = False, True
                part.stack.begin(self.name)
            part.stack.finish(before)
            part.applying = False
            self.say(f"{name}: done")
        if self.protect:
            part.stack.protect(True)
        return "done" if part.changes else SAME

    def _make(self, part):
        with self.lock:
            self._refuse_stopped()
            part.making = True
        try:
            part.changes = part.stack.change_set(self.name, part.exists, part.template_url, part.parameters, part.tags)
            part.pending = part.changes is not None
        finally:
            part.making = False
        return "could be changed" if part.pending else SAME

    def _refuse_losses(self, parts):
        lost = [table for part in parts for table in losses(part.changes or [])]
        if lost and not self.allow_data_loss:
            raise Refused(f"{', '.join(lost)} would lose their data; --allow-data-loss takes that on")
