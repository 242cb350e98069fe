"""infra/destroy: removes a stage. A production stage with data is never removed."""

import argparse
import sys

from . import keys, stages
from .environment import Refused, outcome


def is_production(stage, described, tables):
    """By its name, by what it was deployed as, or by what it holds: one sign is enough."""
    deployed = {p["ParameterKey"]: p.get("ParameterValue") for p in described.get("Parameters", [])}
    protected = any(table["protected"] for table in tables)
    return stage.is_production or deployed.get("Stage") == stages.PRODUCTION or protected


def refuse_data(production, tables):
    """There is no option against this."""
    full = [table for table in tables if table["items"]]
    if production and full:
        held = ", ".join(f"{table['name']} (at least {table['items']:,})" for table in full)
        raise Refused(f"this is a production stage with data in {held}: it is not destroyed")


def destroy(stage, options, say):
    from .cloud import Cloud

    cloud = Cloud(stage.region, stage.stack)
    account = cloud.account()
    described = cloud.describe()
    if described is None:
        say(f"there is no stack {stage.stack} in account {account}, region {stage.region}")
    else:
        tables = cloud.tables()
        production = is_production(stage, described, tables)
        refuse_data(production, tables)
        for table in tables:
            say(f"{table['name']}: {'at least ' + format(table['items'], ',') if table['items'] else 'no'} items")
        confirm(stage, account, options.confirm)
        if described.get("EnableTerminationProtection"):
            cloud.protect(False)
        # Somebody may have written since.
        refuse_data(production, cloud.tables())
        for table in tables:
            if table["protected"]:
                cloud.unprotect(table["name"])
        say(f"deleting {stage.stack}")
        for left in cloud.delete():
            say(f"left standing, because the template says so: {left}")
    paths = cloud.secrets_under(f"/{stage.stack}/")
    if options.with_secrets:
        if described is None:
            confirm(stage, account, options.confirm)
        cloud.forget_secrets(paths)
        paths = []
    for path in paths:
        say(f"left in SSM: {path} (--with-secrets removes it)")


def confirm(stage, account, given):
    """Who destroys a stage writes its name."""
    if given is None:
        if not sys.stdin.isatty():
            raise Refused(f"nobody is there to be asked: --confirm {stage.name}, or run this in a terminal")
        given = input(f"{stage.stack} in account {account} and all its data go. The stage's name, to go on: ").strip()
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
