"""infra/deploy: brings a stage's stacks up to date with the sources, and shows the changes before it applies them."""

import argparse
import os
import shutil
import sys

from . import expansion, keys, packages, stages
from .environment import TARGET, Refused, out_dir, outcome
from .lint import lint
from .plan import plan
from .system import System


def check_templates(stage, system, values):
    """Expands every stack as CloudFormation would for the stage, and lints the templates as written and as expanded:
    only the latter show whether what SAM adds fits together. Returns the types of each stack's resources with their
    numbers.
    """
    expanded = {}
    for name, template in system.templates.items():
        # The same rewriting as for a real deployment, so that a path that cannot be uploaded is found here.
        whole = template.deployable("packages", dict.fromkeys(template.contexts(), "package.zip"))
        settings = {**dict.fromkeys(template.parameters, ""), **template.values(values)}
        expanded[name] = expansion.expand(whole, settings, stage.region)
    counts = {name: expansion.resources(name, made) for name, made in expanded.items()}
    # Another deployment may be in progress, too.
    shared = TARGET / "deploy" / f"{stage.name}-expanded"
    own = shared.with_suffix(f".{os.getpid()}")
    try:
        paths = expansion.write(own, expanded)
        lint([template.path for template in system.templates.values()], paths)
        shared.mkdir(exist_ok=True)
        for path in paths:
            path.replace(shared / path.name)
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return counts


def parser():
    parser = argparse.ArgumentParser(prog="infra/deploy", description="Deploys a stage of samconfig.toml.")
    parser.add_argument("stage", metavar="STAGE")
    parser.add_argument(
        "stacks", nargs="*", metavar="STACK", help="a context, platform or edge; with what has to go along [default: all]"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything and say what would be done; offline")
    parser.add_argument("--yes", action="store_true", help="apply the change sets without asking")
    parser.add_argument("--no-build", action="store_true", help="deploy what is built already")
    parser.add_argument(
        "--parameter", action="append", default=[], metavar="NAME=VALUE",
        help="a template parameter, for this deployment; NAME=@FILE takes a file's content",
    )  # fmt: skip
    parser.add_argument(
        "--replace-secret", action="append", default=[], metavar="NAME", help="ask for a provider's secret again"
    )
    parser.add_argument(
        "--rotate-queue-token-keys", choices=[*keys.ROTATION],
        help="in three deployments: add a key; use it; 30 days later, forget the others",
    )  # fmt: skip
    parser.add_argument("--allow-data-loss", action="store_true", help="let tables be replaced or removed")
    parser.add_argument(
        "--at-once", action="store_true",
        help="without a canary, which an alarm that rings already would end: for the fix of what it rings for",
    )  # fmt: skip
    out_dir(parser)
    return parser


def check_and_deploy(options, say):
    """First what can be checked without an account; with --dry-run, that alone."""
    stage, system = stages.read(options.stage), System.read()
    # Without an account it is not known what is deployed: everything that may be taken.
    chosen = system.chosen(options.stacks)
    every, taken = system.parameters(system.templates), system.parameters(chosen)
    given = stages.asked(options.parameter)
    values, missing = stages.resolve(every, taken, stage, given, {}, options.at_once)
    if wrong := system.long_names(stage.system):
        raise Refused("; ".join(wrong))
    # As far as it is known without an account.
    if wrong := stages.unenforced(system.users(stages.ADMISSION), chosen, values, {}):
        raise Refused(wrong)
    counts = check_templates(stage, system, values)
    if not options.dry_run:
        from .deployment import Deployment

        return Deployment(stage, system, counts, options, say).run()
    manifest, unpackaged = packages.check(system.contexts(chosen), packages.directory(options.out_dir))
    if unpackaged and options.no_build:
        raise Refused("; ".join(unpackaged))
    # For a system that has everything, as in the sources.
    certain = system.chosen(options.stacks, system.templates, system.routes)
    print("\n".join(plan(stage, system, certain, chosen, values, missing, manifest, unpackaged, counts)))
    say("dry run: nothing was deployed")


def main(arguments=None):
    options = parser().parse_intermixed_args(arguments)
    return outcome("deploy", lambda say: check_and_deploy(options, say))


if __name__ == "__main__":
    sys.exit(main())
