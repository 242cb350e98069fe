"""What a deployment would do, as a dry run prints it. It contains no secret."""

import collections

from . import expansion, keys, stages


def plan(stage, system, certain, chosen, values, missing, manifest, unpackaged, counts):
    """The plan, in lines. `chosen` has all stacks that may be taken, `certain` those that are taken in any case, and
    `counts` the resources of each stack, by type."""
    lines = [f"stage {stage.name}: system {stage.system} in {stage.region}"]
    if also := [name for name in chosen if name not in certain]:
        lines.append(f"stacks: {', '.join(certain)}; if they are not there or routes change: {', '.join(also)}")
    taken = system.parameters(chosen)
    lines += ["", "parameters", *_parameters(stage, taken, values, missing)]
    secrets = keys.needed(system.secrets(chosen), values)
    lines += ["", "secrets, asked for when they are not in SSM"]
    lines += [f"  {keys.path(stage.system, name)}, or from {keys.variable(name)}" for name in secrets] or ["  none"]
    lines += ["", "packages", *_packages(system.contexts(chosen), manifest, unpackaged)]
    lines += ["", *_resources(chosen, counts)]
    # Of all stacks: the account has one limit of concurrency.
    reserved = system.reserved_concurrency(system.templates, values)
    lines += ["", f"concurrency: {reserved} reserved of the account's by all stacks, {stages.UNRESERVED} have to remain"]
    of_taken = {key: values.get(key) for key in taken}
    warnings = [f"{lack}; it would not be deployed" for lack in stages.lacking(stage, of_taken)]
    warnings += stages.warnings(of_taken)
    for name in chosen:
        if (room := expansion.MOST_RESOURCES - counts[name].total()) <= expansion.MOST_RESOURCES - expansion.NEAR:
            warnings.append(f"there is room for {room} more resources in {name}")
    if warnings:
        lines += ["", "mind", *(f"  {warning}" for warning in warnings)]
    return lines


def _parameters(stage, taken, values, missing):
    for key, description in taken.items():
        if key in missing:
            yield f"  {key} as deployed; the first deployment needs it: --parameter {key}=VALUE or {key}=@FILE"
        elif key == stages.QUEUE_TOKEN_KEYS and key not in values:
            path = keys.path(stage.system, keys.QUEUE_TOKEN_KEYS)
            yield f"  {key} from SSM, {path}; made when it is not there"
        elif key == stages.RELEASE:
            yield f"  {key} made for each stack of its template, programs and parameters"
        elif description.get("NoEcho"):
            yield f"  {key}=(not shown)"
        else:
            yield f"  {key}={values[key]}"


def _packages(contexts, manifest, unpackaged):
    yield from (f"  {problem}: it would be built" for problem in unpackaged)
    for context in contexts:
        if context in manifest and not any(context in problem for problem in unpackaged):
            entry = manifest[context]
            yield f"  {entry['file']} ({entry['bytes']:,} bytes, sha256 {entry['sha256']})"


def _resources(chosen, counts):
    together = collections.Counter()
    for name in chosen:
        together += counts[name]
        yield f"stack {name}: {counts[name].total()} resources, of {expansion.MOST_RESOURCES} that CloudFormation takes"
    yield f"together: {together.total()} resources"
    yield from (f"  {count:4} {kind}" for kind, count in sorted(together.items()))
