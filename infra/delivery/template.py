"""The SAM template of a stack: its parameters, contexts, secrets and routes; and the template as it is uploaded."""

import json
import re

import yaml

from .environment import Refused

# `CodeUri: ../../target/lambda/<context>/`, alone on its line.
CODE = re.compile(r"^(?P<key>\s*CodeUri:\s*)\S*target/lambda/(?P<context>[a-z0-9-]+)/?\s*$", re.M)
# What that is replaced with.
PACKAGE = re.compile(r"s3://[^/\s]+/(?P<file>(?P<context>[a-z0-9-]+)-[0-9a-f]{16}\.zip)")
DEFINITION = re.compile(r"^(?P<indent>\s*)DefinitionUri:\s*(?P<file>\S+)\s*$", re.M)

# The largest template that CloudFormation takes from a bucket, in bytes.
LARGEST = 1_000_000
# The longest names, where the system's name is part of them.
NAME_LENGTHS = {"FunctionName": 64, "Name": 64, "RoleName": 64, "TableName": 255, "QueueName": 80}
# The key of an operation of the API under which its function is.
INTEGRATION = "x-amazon-apigateway-integration"
# The prefix of physical names.
PREFIX = "${System}"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML with CloudFormation's short forms."""


def _long_form(loader, tag, node):
    construct = {
        yaml.ScalarNode: loader.construct_scalar,
        yaml.SequenceNode: lambda n: loader.construct_sequence(n, deep=True),
        yaml.MappingNode: lambda n: loader.construct_mapping(n, deep=True),
    }[type(node)]
    value = construct(node)
    if tag == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {tag if tag in ("Ref", "Condition") else f"Fn::{tag}": value}


_Loader.add_multi_constructor("!", _long_form)
# `2010-09-09` is a version, not a date.
_Loader.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_scalar)


class Template:
    """A template, parsed beside its text: the text is what is uploaded, comments and all."""

    def __init__(self, text, path=None):
        self.text, self.path = text, path
        self.body = yaml.load(text, Loader=_Loader)
        self.parameters = self.body.get("Parameters", {})
        self.resources = self.body.get("Resources", {})
        encore = self.body.get("Metadata", {}).get("Encore", {})
        # Which stack it is, what has to be deployed before it, and what precedes it in the same deployment.
        self.stack, self.needs, self.after = encore.get("Stack"), encore.get("Needs", []), encore.get("After", [])

    @classmethod
    def read(cls, path):
        return cls(path.read_text(), path)

    def contexts(self):
        """The contexts whose programs the functions run."""
        return sorted({match["context"] for match in CODE.finditer(self.text)})

    def packages(self):
        """Context -> package, in a template that was deployed."""
        return {match["context"]: match["file"] for match in PACKAGE.finditer(self.text)}

    def values(self, values):
        """Those of the system's parameters that this stack has."""
        return {key: values[key] for key in self.parameters if key in values}

    def reserved_concurrency(self, values):
        """How many of the account's concurrent executions the functions reserve, with these parameters."""
        holds = {
            "IsProduction": values.get("Stage") == "prod",
            "IsReserved": values.get("ReservedConcurrency", "0") != "0",
        }
        total = 0
        for resource in self.resources.values():
            reserved = (resource.get("Properties") or {}).get("ReservedConcurrentExecutions")
            if isinstance(reserved, dict) and "Fn::If" in reserved:
                condition, there, _ = reserved["Fn::If"]
                reserved = there if holds[condition] else None
            if isinstance(reserved, dict) and "Ref" in reserved:
                reserved = values[reserved["Ref"]]
            total += int(reserved or 0)
        return total

    def secrets(self):
        """Name in SSM without the system's prefix -> the parameter with the URL that the secret is for.

        A function with `X_SECRET` also has `X_URL`: neither is of use without the other.
        """
        found = {}
        for resource in self.resources.values():
            properties = resource.get("Properties", {})
            variables = properties.get("Environment", {}).get("Variables", {}) if isinstance(properties, dict) else {}
            for name, value in variables.items():
                path = value.get("Fn::Sub", "") if isinstance(value, dict) else ""
                if name.endswith("_SECRET") and path.startswith(f"/{PREFIX}/"):
                    url = variables.get(name.removesuffix("_SECRET") + "_URL")
                    if not isinstance(url, dict) or "Ref" not in url:
                        raise Refused(f"the template gives {name} without a URL parameter that it belongs to")
                    found[path.rsplit("/", 1)[1]] = url["Ref"]
        return found

    def long_names(self, prefix):
        """Names that AWS would refuse, because the system's name makes them too long."""
        wrong = []
        for logical_id, resource in self.resources.items():
            for key, most in NAME_LENGTHS.items():
                name = (resource.get("Properties") or {}).get(key)
                name = name.get("Fn::Sub") if isinstance(name, dict) else name
                full = name.replace(PREFIX, prefix) if isinstance(name, str) else ""
                if len(full) > most:
                    wrong.append(f"{logical_id} would be called {full}, {len(full)} letters of {most} allowed")
        return wrong

    # -------------------------------------------------------------------------------------------------- routes

    def routes(self):
        """Context -> its routes in the API: method, path, and the called function."""
        found = {}
        for path, operations in self._paths().items():
            for method, operation in operations.items():
                for context in _tags(operation):
                    uri = operation.get(INTEGRATION, {}).get("uri")
                    found.setdefault(context, set()).add((method, path, json.dumps(uri, sort_keys=True)))
        return found

    def serving(self, contexts):
        """With the routes of these contexts only: for the others there is no function to answer."""
        if self.routes().keys() <= {*contexts}:
            return self
        less = Template(json.dumps(self.body), self.path)
        paths = less._paths()
        for name, path in list(paths.items()):
            kept = {method: operation for method, operation in path.items() if _tags(operation) <= {*contexts}}
            # What is left of a path without a context's operation has nothing to answer with.
            paths[name] = kept
            if not _tags(*kept.values()):
                del paths[name]
        less.text = json.dumps(less.body)
        return less

    def _paths(self):
        for resource in self.resources.values():
            if resource["Type"] == "AWS::Serverless::Api":
                return resource["Properties"].get("DefinitionBody", {}).get("paths", {})
        return {}

    # -------------------------------------------------------------------------------------------------- upload

    def deployable(self, bucket, keys):
        """The template with packages in place of paths, and with the definitions of state machines."""

        def package(match):
            if match["context"] not in keys:
                raise Refused(f"the context {match['context']} is not packaged")
            return f"{match['key']}s3://{bucket}/{keys[match['context']]}"

        def definition(match):
            # JSON is YAML. Inside the template, a changed state machine shows in the change set.
            machine = json.loads((self.path.parent / match["file"]).read_text())
            return f"{match['indent']}Definition: {json.dumps(machine)}"

        made = Template(DEFINITION.sub(definition, CODE.sub(package, self.text)))
        for resource in made.resources.values():
            properties = resource.get("Properties") or {}
            for key in ("CodeUri", "DefinitionUri", "ContentUri"):
                value = properties.get(key, "s3://")
                if isinstance(value, str) and not value.startswith("s3://"):
                    raise Refused(f"the template's {key} {value} is a path that a deployment cannot take along")
        if (size := len(made.text.encode())) > LARGEST:
            raise Refused(f"the template has {size} bytes; CloudFormation takes {LARGEST}")
        return made


def _tags(*operations):
    return {tag for operation in operations if isinstance(operation, dict) for tag in operation.get("tags", [])}
