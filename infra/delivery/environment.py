"""The tools: virtual environments under target/, pinned with hashes, each made on first need.

Runs on any Python that can be found, so nothing here may need more than the standard library.
"""

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "target"
# For every command; and the compilers, twice as large, which only a build needs.
DEPLOY = ROOT / "infra" / "requirements-deploy.txt"
PACKAGE = ROOT / "infra" / "requirements-package.txt"

# tomllib is of 3.11.
OLDEST = (3, 11)


class Refused(Exception):
    """Something that an operator has to fix; its text states what."""


def out_dir(parser):
    """The option for where programs, packages and outputs are; the tools stay under target/."""
    parser.add_argument(
        "--out-dir", type=lambda text: Path(text).resolve(), default=TARGET, metavar="DIR",
        help="where package/ and deploy/ are [default: target/]",
    )  # fmt: skip


def directory(requirements):
    """Each set of pins has its own environment: no run ever sees a half-renewed one."""
    kind = requirements.stem.removeprefix("requirements-")
    return TARGET / f"venv-{kind}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"


def python():
    """A Python that is new enough and can make virtual environments."""
    names = ["python3", "python3.14", "python3.13", "python3.12", "python3.11"]
    script = f"import sys, ensurepip, venv; sys.exit(sys.version_info < {OLDEST})"
    for name in names:
        found = shutil.which(name)
        if found and subprocess.run([found, "-c", script], capture_output=True).returncode == 0:
            return found
    raise Refused(
        f"Python {OLDEST[0]}.{OLDEST[1]} or newer with the modules venv and ensurepip is needed, as python3 in PATH "
        "(Debian and Ubuntu: apt install python3-venv)"
    )


def make(requirements=DEPLOY):
    """An environment's interpreter. If several processes want to make it, one does and the others wait."""
    home = directory(requirements)
    interpreter, complete = home / "bin" / "python", home / "complete"
    if complete.exists() and interpreter.exists():
        return interpreter
    TARGET.mkdir(exist_ok=True)
    with open(home.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (complete.exists() and interpreter.exists()):
            print(f"installing {home.name} under target/ (once)", file=sys.stderr)
            shutil.rmtree(home, ignore_errors=True)
            pip = ["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
            pins = ["--only-binary", ":all:", "--require-hashes", "--requirement", requirements]
            for command in ([python(), "-m", "venv", home], [interpreter, *pip, *pins]):
                if subprocess.run([str(part) for part in command]).returncode != 0:
                    raise Refused("the tools could not be installed; see above")
            complete.touch()
    return interpreter


def outcome(command, work):
    """Does a command's work and returns its exit code. What an operator has to fix is printed to standard error."""
    from botocore.exceptions import BotoCoreError, ClientError

    # SIGTERM interrupts, too, so that the user is informed of what is left.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # In one call: several stacks print at once.
    say = lambda line: print(f"{command}: {line}\n", end="", file=sys.stderr, flush=True)  # noqa: E731
    try:
        work(say)
    except (Refused, BotoCoreError, ClientError) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0


def run(command):
    """Runs `delivery.<command>` inside the environment, in place of this process."""
    try:
        interpreter = make()
    except Refused as refused:
        sys.exit(f"{command}: {refused}")
    variables = dict(os.environ, PYTHONPATH=str(ROOT / "infra"), PYTHONDONTWRITEBYTECODE="1")
    arguments = [str(interpreter), "-m", f"delivery.{command}", *sys.argv[1:]]
    os.execve(interpreter, arguments, variables)
