"""infra/deploy: brings a stage to what the sources say, and shows what changes before it does."""

import argparse
import collections
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

from . import expansion, keys, packages, stages
from .environment import REQUIREMENTS, TARGET, Refused, out_dir, outcome
from .package import package
from .template import PATH, Template

# More than this that go the same way are counted, not listed.
LISTED = 30


def lint(path, *options):
    """Refuses a template that CloudFormation would refuse. What was found good before is good, and takes no seconds."""
    good = TARGET / "deploy" / f"linted-{packages.sha256(REQUIREMENTS.read_bytes() + path.read_bytes())[:16]}"
    if good.exists():
        return
    linter = Path(sys.executable).with_name("cfn-lint")
    if subprocess.run([linter, *options, "--", str(path)]).returncode != 0:
        raise Refused("the template is not valid; see above")
    good.touch()


def expand(stage, text, values):
    """What CloudFormation makes of the template for a stage: only there is it seen whether what SAM adds fits together."""
    expanded = expansion.expand(text, values, stage.region)
    path = TARGET / "deploy" / f"{stage.name}-expanded.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Another deployment may be at it, too.
    own = path.with_name(f"{os.getpid()}-{path.name}")
    own.write_text(json.dumps(expanded, indent=1))
    try:
        # SAM leaves parameters behind that it has used up.
        lint(own, "--ignore-checks", "W")
    finally:
        own.replace(path)
    return expansion.resources(expanded)


def release(template, manifest, values):
    """The parameter Release: the same for the same template, programs and parameters, and for nothing else.

    The functions of the money path run published versions. CloudFormation publishes one when this changes only, so a
    changed setting that it did not know of would never be run.
    """
    body = Template(template.deployable("packages", packages.files(manifest))).body
    values = {key: value for key, value in values.items() if key != stages.RELEASE}
    return packages.sha256(json.dumps([body, values], sort_keys=True).encode())[:16]


def plan(stage, template, resolved, manifest, unpackaged, secrets, resources):
    """What a deployment does, in lines. No secret is among them."""
    lines = [f"stage {stage.name}: stack {stage.stack} in {stage.region}", "", "parameters"]
    for key, description in template.parameters.items():
        if key in resolved.kept:
            lines.append(f"  {key} as deployed")
        elif key in resolved.missing:
            lines.append(f"  {key} as deployed; the first deployment needs it: --parameter {key}=VALUE or {key}=@FILE")
        elif key == stages.QUEUE_TOKEN_KEYS and key not in resolved.values:
            path = keys.path(stage.stack, keys.QUEUE_TOKEN_KEYS)
            lines.append(f"  {key} from SSM, {path}; made when it is not there")
        elif key == stages.RELEASE:
            lines.append(f"  {key} made of template, programs and parameters")
        elif description.get("NoEcho"):
            lines.append(f"  {key}=(not shown)")
        else:
            lines.append(f"  {key}={resolved.values[key]}")
    lines += ["", "secrets, asked for when they are not in SSM"]
    lines += [f"  {keys.path(stage.stack, name)}, or from {keys.variable(name)}" for name in secrets] or ["  none"]
    lines += ["", "packages"]
    lines += [f"  {problem}: it would be built" for problem in unpackaged]
    for context in template.contexts():
        if context in manifest and not any(context in problem for problem in unpackaged):
            entry = manifest[context]
            lines.append(f"  {entry['file']} ({entry['bytes']:,} bytes, sha256 {entry['sha256']})")
    lines += ["", f"resources: {resources.total()}, of {expansion.MOST_RESOURCES} that CloudFormation takes"]
    lines += [f"  {count:4} {kind}" for kind, count in sorted(resources.items())]
    reserved = template.reserved_concurrency(resolved.values)
    lines += ["", f"concurrency: {reserved} reserved of the account's, {stages.UNRESERVED} have to remain"]
    warnings = [f"{lack}; it would not be deployed" for lack in stages.lacking(stage, resolved.values)]
    warnings += stages.warnings(resolved.values)
    if resources.total() >= expansion.NEAR:
        warnings.append(f"there is room for {expansion.MOST_RESOURCES - resources.total()} more resources")
    if warnings:
        lines += ["", "mind", *(f"  {warning}" for warning in warnings)]
    return lines


def shown(changes):
    """A change set, in lines: what goes and what is replaced first, and of what is much, how much."""
    fates = {"True": " REPLACED", "Conditional": " perhaps replaced"}
    groups = collections.defaultdict(list)
    for change in changes:
        # As CloudFormation says it of modifications only.
        groups[change["Action"], fates.get(change.get("Replacement"), "")].append(change)
    counts = collections.Counter(change["Action"] for change in changes)
    lines = [", ".join(f"{count} to {action.lower()}" for action, count in sorted(counts.items()))]
    rank = {"Remove": 0, "Modify": 1, "Add": 2}
    for action, fate in sorted(groups, key=lambda group: (rank.get(group[0], 1), group[1] != fates["True"], group[1])):
        group = groups[action, fate]
        if len(group) > LISTED and action != "Remove" and fate != fates["True"]:
            types = collections.Counter(change["ResourceType"] for change in group)
            lines += [f"  {action:6} {count} x {kind}{fate}" for kind, count in sorted(types.items())]
        else:
            names = sorted(f"{change['ResourceType']} {change['LogicalResourceId']}" for change in group)
            lines += [f"  {action:6} {name}{fate}" for name in names]
    return lines


def losses(changes):
    """The tables whose data the stack would no longer have."""
    return [
        change["LogicalResourceId"]
        for change in changes
        if change["ResourceType"] == "AWS::DynamoDB::Table"
        and (change["Action"] == "Remove" or change.get("Replacement") in ("True", "Conditional"))
    ]


def as_parameters(resolved, declared):
    """As CloudFormation takes them."""
    values = [
        {"ParameterKey": key, "ParameterValue": resolved.values[key]} for key in declared if key in resolved.values
    ]
    return values + [{"ParameterKey": key, "UsePreviousValue": True} for key in resolved.kept]


def keep_secrets(cloud, stage, names, replaced, say):
    """Has every secret in SSM; asks for what is not there."""
    for name in names:
        path = keys.path(stage.stack, name)
        if name in replaced or not cloud.secret_exists(path):
            cloud.keep_secret(path, keys.obtain(name), replace=name in replaced)
            say(f"kept {path}")


def queue_token_keys(cloud, path, say):
    """The keys that sign queue tokens, made at the first deployment."""
    if not cloud.secret_exists(path):
        cloud.keep_secret(path, keys.new_queue_token_keys())
        say(f"made {path}")
    return cloud.secret(path)


def deploy(stage, template, options, say):
    """Deploys for real. Says whether anything changed."""
    from .cloud import Cloud

    cloud = Cloud(stage.region, stage.stack)
    account = cloud.account()
    say(f"account {account}, region {stage.region}, stack {stage.stack}")
    described = cloud.describe()
    # A stack that was only looked at has no values that could be kept.
    standing = described if described and described["StackStatus"] != "REVIEW_IN_PROGRESS" else {}
    deployed = {p["ParameterKey"]: p.get("ParameterValue") for p in standing.get("Parameters", [])}
    given = stages.asked(options.parameter)
    resolved = stages.resolve(template.parameters, stage, given, deployed, options.at_once)
    if lacking := stages.lacking(stage, resolved.values):
        raise Refused("; ".join(lacking))
    if resolved.missing:
        raise Refused(f"not known yet: {', '.join(resolved.missing)}; give them, --parameter NAME=VALUE or NAME=@file")
    of_template = template.secrets()
    for name in options.replace_secret:
        if name not in of_template:
            raise Refused(f"there is no secret {name}; there are {', '.join(of_template)}")
    reserved = template.reserved_concurrency(resolved.values)
    if reserved and cloud.concurrency() < reserved + stages.UNRESERVED:
        raise Refused(
            f"{reserved} concurrent executions would be reserved and {stages.UNRESERVED} have to remain; the account has "
            f"{cloud.concurrency()} in {stage.region}: raise Lambda's quota first (infra/RUNBOOK.md#before-a-sale)"
        )
    # Whatever asks or may be refused comes before the build, which takes long.
    rotate, keys_path, rotated = options.rotate_queue_token_keys, keys.path(stage.stack, keys.QUEUE_TOKEN_KEYS), None
    if stages.QUEUE_TOKEN_KEYS not in given:
        resolved.values[stages.QUEUE_TOKEN_KEYS] = queue_token_keys(cloud, keys_path, say)
        if rotate:
            rotated = keys.ROTATION[rotate](resolved.values[stages.QUEUE_TOKEN_KEYS])
            resolved.values[stages.QUEUE_TOKEN_KEYS] = rotated
    needed = keys.needed(of_template, resolved.values)
    keep_secrets(cloud, stage, sorted({*needed, *options.replace_secret}), options.replace_secret, say)

    bucket = cloud.bucket(account)
    directory = packages.directory(options.out_dir)
    manifest = package(template.contexts(), directory, not options.no_build)
    kept = {key: deployed[key] for key in resolved.kept}
    made = release(template, manifest, {**resolved.values, **kept})
    now, status = datetime.datetime.now(datetime.UTC), standing.get("StackStatus")
    resolved.values[stages.RELEASE] = stages.next_release(made, deployed.get(stages.RELEASE) or "", status, now)

    for context in template.contexts():
        entry = manifest[context]
        if cloud.upload(bucket, account, entry["file"], (directory / entry["file"]).read_bytes()):
            say(f"uploaded {entry['file']}")
    text = template.deployable(bucket, packages.files(manifest)).encode()
    template_key = f"template-{packages.sha256(text)[:16]}.yaml"
    cloud.upload(bucket, account, template_key, text)

    name = f"deploy-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}"
    parameters = as_parameters(resolved, template.parameters)
    changes = cloud.change_set(name, cloud.url(bucket, template_key), parameters, stage.tags)
    if changes is None:
        say("nothing changed")
    else:
        exists = bool(standing)
        print("\n".join(shown(changes)))
        lost = losses(changes)
        try:
            if lost and not options.allow_data_loss:
                raise Refused(f"{', '.join(lost)} would lose their data; --allow-data-loss takes that on")
            if not options.yes:
                confirm(f"apply this to {stage.stack} in account {account}?")
        except BaseException:
            cloud.discard(name, exists)
            raise
        say("applying")
        if exists and resolved.values.get(stages.GRADUAL) == "true":
            say("the money path changes for a tenth of its calls first; this takes five minutes and more")
        described = cloud.execute(name)
    if rotated:
        # Not before the functions have it: the next step must not be taken from one that never came to be.
        cloud.keep_secret(keys_path, rotated, replace=True)
        say(f"changed {keys_path}")
    if stage.is_production:
        cloud.protect(True)
    path = options.out_dir / "deploy" / f"{stage.name}.json"
    write_outputs(path, stage, account, described, manifest, template_key, cloud.resources())
    return changes is not None


def confirm(question):
    if not sys.stdin.isatty():
        raise Refused("nobody is there to be asked: --yes, or run this in a terminal")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise Refused("not applied")


def write_outputs(path, stage, account, described, manifest, template_key, resources):
    """Where everything is, for whoever works with the stage. Holds no secret."""
    of_type = lambda kind: sorted(r["PhysicalResourceId"] for r in resources if r["ResourceType"] == kind)  # noqa: E731
    outputs = {
        "stage": stage.name,
        "stack": stage.stack,
        "account": account,
        "region": stage.region,
        "outputs": {output["OutputKey"]: output["OutputValue"] for output in described.get("Outputs", [])},
        "packages": {context: entry["program_sha256"] for context, entry in manifest.items()},
        "template": template_key,
        "tables": of_type("AWS::DynamoDB::Table"),
        "queues": of_type("AWS::SQS::Queue"),
        "state_machines": of_type("AWS::StepFunctions::StateMachine"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(outputs, indent=2) + "\n")
    print(path)


def parser():
    parser = argparse.ArgumentParser(prog="infra/deploy", description="Deploys a stage of samconfig.toml.")
    parser.add_argument("stage", metavar="STAGE")
    parser.add_argument("--dry-run", action="store_true", help="check everything and say what would be done; offline")
    parser.add_argument("--yes", action="store_true", help="apply the change set without asking")
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
    """What can be checked without an account, first; with --dry-run, that alone."""
    stage = stages.read(options.stage)
    template = Template.read()
    resolved = stages.resolve(template.parameters, stage, stages.asked(options.parameter), at_once=options.at_once)
    if wrong := template.long_names(stage.stack):
        raise Refused("; ".join(wrong))
    manifest, unpackaged = packages.check(template.contexts(), packages.directory(options.out_dir))
    # The same rewriting as for real, so that a path that could not go along is found here.
    text = template.deployable("packages", dict.fromkeys(template.contexts(), "package.zip"))
    values = {**dict.fromkeys(template.parameters, ""), **resolved.values}
    resources = expand(stage, text, values)
    lint(PATH)
    secrets = keys.needed(template.secrets(), resolved.values)
    if options.dry_run:
        if unpackaged and options.no_build:
            raise Refused("; ".join(unpackaged))
        print("\n".join(plan(stage, template, resolved, manifest, unpackaged, secrets, resources)))
        say("dry run: nothing was deployed")
    else:
        deploy(stage, template, options, say)


def main(arguments=None):
    options = parser().parse_args(arguments)
    return outcome("deploy", lambda say: check_and_deploy(options, say))


if __name__ == "__main__":
    sys.exit(main())
