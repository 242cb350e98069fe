"""A real deployment: what is deployed, what should be, and how it gets there."""

import datetime
import functools
import json
import secrets
import sys

from . import keys, outputs, packages, stages
from .cloud import Cloud
from .environment import Refused
from .package import package
from .rollout import SAME, Part, Rollout
from .stack import Stack, is_deployed, unknown
from .system import EDGE


class Deployment:
    """Of a stage's system, or of some of its stacks. `counts` has the number of resources of each stack."""

    def __init__(self, stage, system, counts, options, say):
        self.stage, self.system, self.counts, self.options, self.say = stage, system, counts, options, say
        self.given = stages.asked(options.parameter)
        self.cloud = Cloud(stage.region)
        self.account = self.cloud.account()
        say(f"account {self.account}, region {stage.region}, system {stage.system}")
        self.look()
        self.settle()

    def look(self):
        """What is deployed, and which stacks this deployment takes."""
        self.stacks = {name: Stack(self.cloud, self.stage.stack(name)) for name in self.system.templates}
        described = {name: stack.describe() for name, stack in self.stacks.items()}
        self.deployed = {name: found for name, found in described.items() if is_deployed(found)}
        routes = functools.cache(lambda: self.stacks[EDGE].template().routes() if EDGE in self.deployed else {})
        self.chosen = self.system.chosen(self.options.stacks, self.deployed, routes)
        for name in self.chosen:
            self.stacks[name].refuse_unready(described[name])
        if EDGE in self.chosen:
            self.system.refuse_routes(self.chosen, self.deployed, routes())
        for name in unknown(self.cloud, self.stage, self.stacks.values()):
            self.say(f"mind: no template is known of the stack {name}: see infra/DEPLOY.md#a-context-that-is-removed")
        # From before there was a stack for each context. It contains all the names that are needed now.
        if Stack(self.cloud, self.stage.system).describe():
            whole = f"there is a stack {self.stage.system} with everything in it"
            raise Refused(f"{whole}: see infra/DEPLOY.md#a-stage-that-is-one-stack")

    def settle(self):
        """The parameters. Whatever may be refused comes before any question, and before the build, which takes long."""
        stage, system, options = self.stage, self.system, self.options
        has = {name: _parameters(found) for name, found in self.deployed.items()}
        taken, every = system.parameters(self.chosen), system.parameters(system.templates)
        self.values, missing = stages.resolve(every, taken, stage, self.given, has, options.at_once)
        if lacking := stages.lacking(stage, {key: self.values.get(key) for key in taken}):
            raise Refused("; ".join(lacking))
        if missing:
            raise Refused(f"not known yet: {', '.join(missing)}; give them, --parameter NAME=VALUE or NAME=@file")
        known = system.secrets(system.templates)
        if unknown := [name for name in options.replace_secret if name not in known]:
            raise Refused(f"there is no secret {unknown[0]}; there are {', '.join(known)}")
        if wrong := stages.unenforced(system.users(stages.ADMISSION), self.chosen, self.values, has):
            raise Refused(wrong)
        self.refuse_split_keys()
        self.refuse_too_little_concurrency()
        rest = {name: parameters for name, parameters in has.items() if name not in self.chosen}
        for line in stages.left_behind(taken, self.given, self.values, rest):
            self.say(f"mind: {line}")

    def refuse_split_keys(self):
        """Keys of queue tokens change everywhere at once: a token that one stack signs is accepted by others."""
        changed = self.options.rotate_queue_token_keys or stages.QUEUE_TOKEN_KEYS in self.given
        users = [name for name in self.system.users(stages.QUEUE_TOKEN_KEYS) if name in {*self.deployed, *self.chosen}]
        left = [name for name in users if name not in self.chosen]
        if changed and (left or not users):
            users, left = ", ".join(users) or "no stack that is there", ", ".join(left) or "one that has them"
            raise Refused(f"{stages.QUEUE_TOKEN_KEYS} change in {users} together: name {left}, too")

    def refuse_too_little_concurrency(self):
        reserved = self.system.reserved_concurrency({*self.deployed, *self.chosen}, self.values)
        if reserved and self.cloud.concurrency() < reserved + stages.UNRESERVED:
            raise Refused(
                f"{reserved} concurrent executions would be reserved and {stages.UNRESERVED} have to remain; the account "
                f"has {self.cloud.concurrency()} in {self.stage.region}: raise Lambda's quota first "
                "(infra/RUNBOOK.md#before-a-sale)"
            )

    def run(self):
        rotated = self.settle_keys()
        rollout = self.rollout(*self.upload())
        try:
            rollout.prepare()
            if rollout.changes():
                print("\n".join(rollout.lines()))
                if not self.options.yes:
                    confirm(f"apply this to {self.stage.system} in account {self.account}?")
                self.tell_of_canaries(rollout)
            else:
                self.say(SAME)
            rollout.apply()
        except KeyboardInterrupt:
            rollout.stop()
            raise
        finally:
            rollout.discard()
        if rotated:
            # Not before all functions have it: the next rotation step must not start from one that was never deployed.
            self.cloud.keep_secret(self.keys_path(), rotated, replace=True)
            self.say(f"changed {self.keys_path()}")
        standing = [name for name in self.stacks if name in self.deployed or name in self.chosen]
        path = self.options.out_dir / "deploy" / f"{self.stage.name}.json"
        outputs.write(path, self.stage, self.account, {name: self.stacks[name] for name in standing})

    def settle_keys(self):
        """Stores every needed secret in SSM, asks for missing ones, and passes the keys of queue tokens to the stacks
        that use them.

        Returns the document to store from then on, if the keys change.
        """
        of_stacks = self.system.secrets(self.chosen)
        needed = {*keys.needed(of_stacks, self.values), *self.options.replace_secret}
        for name in sorted(needed):
            path, replace = keys.path(self.stage.system, name), name in self.options.replace_secret
            if replace or not self.cloud.secret_exists(path):
                self.cloud.keep_secret(path, keys.obtain(name), replace)
                self.say(f"kept {path}")
        taken = any(stages.QUEUE_TOKEN_KEYS in self.system.templates[name].parameters for name in self.chosen)
        if stages.QUEUE_TOKEN_KEYS in self.given or not taken:
            return None
        document, rotated = self.queue_token_keys(), None
        if step := self.options.rotate_queue_token_keys:
            rotated = keys.ROTATION[step](document)
        self.values[stages.QUEUE_TOKEN_KEYS] = rotated or document
        return rotated

    def keys_path(self):
        return keys.path(self.stage.system, keys.QUEUE_TOKEN_KEYS)

    def queue_token_keys(self):
        """The keys that sign queue tokens, made at the first deployment."""
        if not self.cloud.secret_exists(self.keys_path()):
            self.cloud.keep_secret(self.keys_path(), keys.new_queue_token_keys())
            self.say(f"made {self.keys_path()}")
        return self.cloud.secret(self.keys_path())

    def upload(self):
        """Builds and packs the programs of the stacks, and uploads them to the packages' bucket. Returns the bucket and
        the package of each context."""
        bucket, directory = self.cloud.bucket(self.account), packages.directory(self.options.out_dir)
        contexts = self.system.contexts(self.chosen)
        manifest = package(contexts, directory, not self.options.no_build)
        for context in contexts:
            file = manifest[context]["file"]
            if self.cloud.upload(bucket, self.account, file, (directory / file).read_bytes()):
                self.say(f"uploaded {file}")
        return bucket, packages.files(manifest)

    def rollout(self, bucket, files):
        now = datetime.datetime.now(datetime.UTC)
        parts = {name: self.part(name, bucket, files, now) for name in self.chosen}
        before = self.system.before(self.chosen)
        protect, allow = self.stage.is_production, self.options.allow_data_loss
        # A unique name: a change set with it is our own.
        name = f"deploy-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        return Rollout(name, parts, before, allow, protect, self.say)

    def part(self, name, bucket, files, now):
        """A stack's deployment, with its template uploaded."""
        template = self.system.templates[name].serving({*self.deployed, *self.chosen})
        exists, values = name in self.deployed, template.values(self.values)
        if stages.RELEASE in values:
            made, found = release(template, files, values), self.deployed.get(name)
            running = _parameters(found).get(stages.RELEASE, "")
            values[stages.RELEASE] = stages.next_release(made, running, found and found["StackStatus"], now)
        text = template.deployable(bucket, files).text.encode()
        key = f"{name}-template-{packages.sha256(text)[:16]}.yaml"
        self.cloud.upload(bucket, self.account, key, text)
        shows = exists and all(need in self.deployed for need in template.needs)
        url, tags = self.cloud.url(bucket, key), self.stage.tags
        return Part(self.stacks[name], url, values, tags, self.counts[name].total(), exists, shows)

    def tell_of_canaries(self, rollout):
        changing = [part for part in rollout.parts.values() if part.exists and part.changes]
        publishing = any(stages.RELEASE in part.parameters for part in changing)
        if publishing and self.values.get(stages.GRADUAL) == "true":
            self.say("the money path changes for a tenth of its calls first; this takes five minutes and more")


def release(template, files, values):
    """The parameter Release of a stack: the same for the same template, programs and parameters, and for nothing else.

    The functions of the money path run published versions. CloudFormation publishes one only when this parameter
    changes, so a changed setting that it did not cover would never be run.
    """
    body = template.deployable("packages", files).body
    values = {key: value for key, value in values.items() if key != stages.RELEASE}
    return packages.sha256(json.dumps([body, values], sort_keys=True).encode())[:16]


def _parameters(described):
    """The parameters with which a stack was deployed."""
    found = (described or {}).get("Parameters", [])
    return {parameter["ParameterKey"]: parameter.get("ParameterValue", "") for parameter in found}


def confirm(question):
    if not sys.stdin.isatty():
        raise Refused("nobody is there to be asked: --yes, or run this in a terminal")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise Refused("not applied")
