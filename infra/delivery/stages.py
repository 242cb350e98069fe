"""The stages, from infra/samconfig.toml, and the parameters each is deployed with."""

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from .environment import ROOT, Refused

PATH = ROOT / "infra" / "samconfig.toml"

# The stage with real sales.
PRODUCTION = "prod"
# Made by the first deployment and stored in SSM; never written into a file.
QUEUE_TOKEN_KEYS = "QueueTokenKeys"
USER_JWKS = "UserJwks"
# In bytes: a function's settings may have 4,096, and the others take up to 600.
LONGEST_JWKS = 3_000
# What Lambda requires an account to keep for functions that reserve nothing.
UNRESERVED = 100
# Derived by every deployment from everything with which a stack is deployed.
RELEASE = "Release"
# The prefix of all names.
SYSTEM = "System"
GRADUAL = "GradualDeployments"
# min,max: how long a seat that was given back stays held.
RETURN_DELAY, LONGEST_RETURN = "ReturnDelaySeconds", 86_400
# The parameter that names the context to which admission plans are sent before they are in force, its value for none,
# and the context that it must name if that is deployed.
ADMISSION, NOBODY, ENFORCER = "AdmissionEnforcedBy", "nobody", "reservations"
# What a production stage must always have.
PRODUCTION_NEEDS = {"AdmissionDefault": "closed", "OpenCharges": "false", GRADUAL: "true"}


@dataclass(frozen=True)
class Stage:
    """A stage as in samconfig.toml."""

    name: str
    system: str
    region: str
    parameters: dict
    tags: dict

    @property
    def is_production(self):
        return self.name == PRODUCTION

    def stack(self, name):
        """CloudFormation's name of the system's stack of that name."""
        return f"{self.system}-{name}"


def read(name, text=None):
    """The stage of that name."""
    config = tomllib.loads(PATH.read_text() if text is None else text)
    stages = sorted(key for key, value in config.items() if isinstance(value, dict) and "deploy" in value)
    if name not in stages:
        raise Refused(f"samconfig.toml has no stage {name}; it has {', '.join(stages)}")
    common = config[name].get("global", {}).get("parameters", {})
    deploy = {**common, **config[name]["deploy"].get("parameters", {})}
    pairs = lambda key: dict(_pair(text) for text in deploy.get(key, []))  # noqa: E731
    try:
        stage = Stage(name, deploy["system"], deploy["region"], pairs("parameter_overrides"), pairs("tags"))
    except KeyError as missing:
        raise Refused(f"samconfig.toml gives {name} no {missing}") from None
    if stage.parameters.get("Stage") != name:
        raise Refused(f"samconfig.toml gives the stage {name} the parameter Stage={stage.parameters.get('Stage')}")
    return stage


def _pair(text):
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise Refused(f"`{text}` is not of the form Key=Value")
    return key, value


def asked(arguments):
    """`Key=Value` from the command line; for `Key=@file`, the file's content."""
    pairs = dict(_pair(text) for text in arguments)
    for key, value in pairs.items():
        if value.startswith("@"):
            try:
                pairs[key] = Path(value[1:]).read_text().strip()
            except OSError as error:
                raise Refused(f"{key}: {value[1:]} cannot be read: {error.strerror}") from None
    return pairs


def resolve(declared, taken, stage, given, deployed, at_once):
    """The parameters of a deployment: the command line's, then samconfig.toml's, then the templates' defaults. Name ->
    value, the same for every stack that has it; and the names of those without a value from any source.

    `declared` has those of all stacks, `taken` those of the stacks that are deployed now. Only a parameter without a
    default keeps the value it has in the stacks that are `deployed` already (name -> parameters): all others are in a
    file under version control. `at_once` turns gradual deployments off for this deployment.
    """
    for source, values in (("samconfig.toml", stage.parameters), ("the command line", given)):
        for key in sorted(values.keys() - declared.keys()):
            raise Refused(f"{source} has the parameter {key}, which no template does")
        for key in (RELEASE, SYSTEM):
            if key in values:
                raise Refused(f"{source} has the parameter {key}, which every deployment makes itself")
    values = {**stage.parameters, **given, SYSTEM: stage.system}
    for key, description in declared.items():
        if key not in values and "Default" in description:
            values[key] = str(description["Default"])
    wrong = [problem for key, value in values.items() if (problem := _wrong(key, value, declared.get(key, {})))]
    wrong += _unsafe(stage, values)
    if wrong:
        raise Refused("; ".join(wrong))
    if at_once:
        # After the check that this is an exception.
        values[GRADUAL] = "false"
    absent = [key for key in taken if key not in values and key != QUEUE_TOKEN_KEYS]
    kept = {key: value for key in absent if (value := _kept(key, deployed)) is not None}
    return {**values, **kept}, [key for key in absent if key not in kept]


def _kept(key, deployed):
    """The value that the stacks have, `None` if none has one."""
    values = {parameters[key]: name for name, parameters in deployed.items() if key in parameters}
    if len(values) > 1:
        raise Refused(f"{key} is not the same in {' and '.join(values.values())}: give it, --parameter {key}=VALUE")
    return next(iter(values), None)


def unenforced(users, chosen, values, deployed):
    """Why seats would be sold past an admission plan, `None` if they would not: no context needs to enforce it only
    where nothing is sold. `users` are the stacks with the parameter; those deployed now take it from `values`."""
    if ENFORCER not in chosen and ENFORCER not in deployed:
        return None
    of = lambda name: values if name in chosen else deployed.get(name, {})  # noqa: E731
    wrong = [name for name in users if of(name).get(ADMISSION) == NOBODY]
    if not wrong:
        return None
    # Such a stack keeps its old value, whatever is given now.
    too = "".join(f"; name {name}, too" for name in wrong if name not in chosen)
    return f"{ADMISSION}={NOBODY} is for a system without {ENFORCER}: set {ADMISSION}={ENFORCER}{too}"


def left_behind(taken, given, values, deployed):
    """Values that do not reach all stacks that have the parameter, in lines: `taken` has the parameters of the stacks
    that are deployed now, `deployed` those of the others (name -> values)."""
    lines = [f"{key} is given, and no stack that is deployed now has it" for key in given if key not in taken]
    for key, description in taken.items():
        others = [name for name, has in deployed.items() if key in has and has[key] != values.get(key)]
        # What is not shown is not mentioned here, either.
        if others and key != RELEASE and not description.get("NoEcho"):
            lines.append(f"{key} changes in the named stacks only; {', '.join(others)} would go on with the old value")
    return lines


def _wrong(key, value, description):
    """What CloudFormation would refuse in a value, found before."""
    allowed = [str(one) for one in description.get("AllowedValues", [])]
    if allowed and value not in allowed:
        return f"{key}={value} is none of {', '.join(allowed)}"
    pattern = description.get("AllowedPattern")
    if pattern and not re.fullmatch(pattern, value):
        return f"{key}={value} is not of the form {pattern}"
    if key == USER_JWKS and len(value.encode()) > LONGEST_JWKS:
        return f"{key} has {len(value.encode())} bytes, of {LONGEST_JWKS} that fit: leave out x5c and old keys"
    if key == USER_JWKS and not _is_jwks(value):
        return f"{key} is no JWKS document of keys with kid and alg"
    if key == RETURN_DELAY:
        least, most = (int(seconds) for seconds in value.split(","))
        if not least <= most <= LONGEST_RETURN:
            return f"{key}={value} is no min,max of at most {LONGEST_RETURN}"
    if description.get("Type") == "Number":
        try:
            number = float(value)
        except ValueError:
            return f"{key}={value} is no number"
        least, most = description.get("MinValue", number), description.get("MaxValue", number)
        if not least <= number <= most:
            return f"{key}={value} is out of {least} to {most}"
    return None


def _is_jwks(text):
    """With anything else, no function that serves users would start."""
    try:
        keys = json.loads(text)["keys"]
        return bool(keys) and all(isinstance(key["kid"], str) and isinstance(key["alg"], str) for key in keys)
    except (ValueError, KeyError, TypeError):
        return False


def _unsafe(stage, values):
    """Values with which production must not sell."""
    if not stage.is_production:
        return []
    wrong = [
        f"{key}={values.get(key)}: production needs {key}={value}"
        for key, value in PRODUCTION_NEEDS.items()
        if values.get(key) != value
    ]
    for key, value in values.items():
        if key.endswith("Url") and value and not value.startswith("https://"):
            wrong.append(f"{key}={value}: production needs https://")
    return wrong


def lacking(stage, values):
    """What production needs for a deployment, but not for a dry run."""
    if stage.is_production and values.get("AlarmEmail") == "":
        return ["AlarmEmail is empty, and production needs somebody who is told: set it in samconfig.toml"]
    return []


def warnings(values):
    """What a stage with these values does not do; no reason to refuse."""
    effects = {
        "PaymentProviderUrl": "points cannot be charged",
        "AlarmEmail": "alarms are sent to nobody",
        "NotionUrl": "administrators are told of no fault",
        "DataPlatformUrl": "the data platform is told nothing",
        "PartnerUrl": "the partner is told nothing",
        "AlimTalkUrl": "buyers are pushed nothing",
        "CashReceiptUrl": "no cash receipts are issued",
        "UserDirectoryUrl": "nobody's telephone number is known: no pushes, no cash receipts",
    }
    found = [f"{key} is empty: {why}" for key, why in effects.items() if values.get(key) == ""]
    if values.get(RETURN_DELAY) == "0,0":
        found.append(f"{RETURN_DELAY} is 0,0: who gives a seat back hands it to whom they like")
    if values.get("OpenCharges") == "true":
        found.append("OpenCharges is true: anybody charges points without paying")
    return found


def next_release(release, running, status, now):
    """The release under which it is deployed: unchanged, except after a rollback.

    A rollback leaves the versions behind, and Lambda publishes nothing twice; with another name it is something new.
    """
    if running.endswith(release):
        return running
    return f"{int(now.timestamp()):x}{release}" if status == "UPDATE_ROLLBACK_COMPLETE" else release
