"""Finds locally what CloudFormation would refuse in a template."""

import subprocess
import sys
from pathlib import Path

from . import packages
from .environment import DEPLOY, TARGET, Refused


def lint(written, expanded):
    """Refuses templates that CloudFormation would refuse: as they are written, and as the transform makes them.

    A template that passed before is not linted again. The linter's start takes most of the time, so all templates with
    the same options share one.
    """
    fresh = [[path for path in paths if not _good(path).exists()] for paths in (written, expanded)]
    # SAM leaves behind parameters that it has used up.
    linters = [_start(paths, *options) for paths, options in zip(fresh, ((), ("--ignore-checks", "W"))) if paths]
    if any([linter.wait() for linter in linters]):
        raise Refused("the templates are not valid; see above")
    for path in sum(fresh, []):
        _good(path).touch()


def _good(path):
    return TARGET / "deploy" / f"linted-{packages.sha256(DEPLOY.read_bytes() + path.read_bytes())[:16]}"


def _start(paths, *options):
    return subprocess.Popen([Path(sys.executable).with_name("cfn-lint"), *options, "--", *paths])
