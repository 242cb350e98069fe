"""infra/destroy: removes a stage's stacks, the API first. A production stage with data is never removed."""

import argparse
import sys

from . import keys, order, stages
from .environment import Refused, outcome
from .system import System


def is_production(stage, described, tables):
    """By its name, by the stage a stack of it was deployed as, or by a protected table: one of them is enough."""
    parameters = [parameter for found in described for parameter in found.get("Parameters", [])]
    deployed = {p.get("ParameterValue") for p in parameters if p["ParameterKey"] == "Stage"}
    protected = any(table["protected"] for table in tables)
    return stage.is_production or stages.PRODUCTION in deployed or protected


def refuse_data(production, tables):
    """No option overrides this."""
    full = [table for table in tables if table["items"]]
    if production and full:
        held = ", ".join(f"{table['name']} (at least {table['items']:,})" for table in full)
        raise Refused(f"this is a production stage with data in {held}: it is not destroyed")


def removal(before):
    """The reverse order: stack -> stacks that go first, from stack -> stacks that come first."""
    return {name: [other for other, first in before.items() if name in first] for name in before}


def destroy(stage, options, say):
    from .cloud import Cloud
    from .stack import Stack, unknown

    cloud, system = Cloud(stage.region), System.read()
    account = cloud.account()
    stacks = {name: Stack(cloud, stage.stack(name)) for name in system.templates}
    described = {name: found for name, stack in stacks.items() if (found := stack.describe())}
    if others := unknown(cloud, stage, stacks.values()):
        raise Refused(
            f"no template is known of {', '.join(others)}, and nothing was destroyed: see "
            "infra/DEPLOY.md#a-context-that-is-removed"
        )
    if not described:
        say(f"there is no stack of {stage.system} in account {account}, region {stage.region}")
    else:
        listed = lambda: [table for name in described for table in stacks[name].tables()]  # noqa: E731
        tables = listed()
        production = is_production(stage, described.values(), tables)
        refuse_data(production, tables)
        for table in tables:
            say(f"{table['name']}: {'at least ' + format(table['items'], ',') if table['items'] else 'no'} items")
        confirm(stage, account, options.confirm)
        # Another client may have written since.
        refuse_data(production, listed())
        at = set()

        def remove(name):
            at.add(name)
            try:
                return delete(stacks[name], described[name], production, say)
            finally:
                at.discard(name)

        try:
            done, failed = order.run(removal(system.before(described)), remove)
        except KeyboardInterrupt:
            deleting = ", ".join(stacks[name].name for name in sorted(at))
            say(f"interrupted at {deleting}: when CloudFormation is done with it, the same command goes on")
            raise
        if failed:
            raise Refused("\n  ".join(["not everything is gone:", *order.told(described, done, failed)]))
    paths = cloud.secrets_under(f"/{stage.system}/")
    if options.with_secrets:
        if not described:
            confirm(stage, account, options.confirm)
        cloud.forget_secrets(paths)
        paths = []
    for path in paths:
        say(f"left in SSM: {path} (--with-secrets removes it)")


def delete(stack, described, production, say):
    """Removes a stack that was checked for data before; checks again, because the stacks before it took their time."""
    tables = stack.tables()
    refuse_data(production, tables)
    if described.get("EnableTerminationProtection"):
        stack.protect(False)
    for table in tables:
        if table["protected"]:
            stack.unprotect(table["name"])
    say(f"deleting {stack.name}")
    for left in stack.delete():
        say(f"left standing, because the template says so: {left}")
    return "gone"


def confirm(stage, account, given):
    """To destroy a stage, its name must be typed."""
    if given is None:
        if not sys.stdin.isatty():
            raise Refused(f"nobody is there to be asked: --confirm {stage.name}, or run this in a terminal")
        given = input(f"{stage.system} in account {account} and all its data go. The stage's name, to go on: ").strip()
    if given != stage.name:
        raise Refused(f"`{given}` is not {stage.name}: nothing was destroyed")


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="infra/destroy", description="Removes a stage of samconfig.toml.")
    parser.add_argument("stage", metavar="STAGE")
    parser.add_argument("--confirm", metavar="STAGE", help="the stage's name again, instead of being asked for it")
    parser.add_argument("--with-secrets", action="store_true", help=f"its secrets, and {keys.QUEUE_TOKEN_KEYS}, too")
    options = parser.parse_args(arguments)
    return outcome("destroy", lambda say: destroy(stages.read(options.stage), options, say))


if __name__ == "__main__":
    sys.exit(main())
