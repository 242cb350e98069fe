"""The system: its stacks as infra/stacks has them, the order they go in, and which of them a deployment takes."""

import graphlib

from .environment import ROOT, Refused
from .template import Template

DIRECTORY = ROOT / "infra" / "stacks"
# The stack of the API, which has the routes of those contexts that are deployed.
EDGE = "edge"


class System:
    """Stack -> template, in the order they are deployed."""

    def __init__(self, templates):
        for name, template in templates.items():
            if template.stack != name:
                raise Refused(f"infra/stacks/{name}.yaml has no Metadata.Encore.Stack, or another: {template.stack}")
            if unknown := sorted({*template.needs, *template.after} - templates.keys()):
                raise Refused(f"infra/stacks/{name}.yaml comes after {', '.join(unknown)}, of which there is no template")
        try:
            order = [*graphlib.TopologicalSorter({n: t.needs + t.after for n, t in templates.items()}).static_order()]
        except graphlib.CycleError as error:
            raise Refused(f"infra/stacks: {' waits for '.join(reversed(error.args[1]))}") from None
        self.templates = {name: templates[name] for name in order}

    @classmethod
    def read(cls, directory=DIRECTORY):
        return cls({path.stem: Template.read(path) for path in sorted(directory.glob("*.yaml"))})

    def before(self, chosen):
        """Stack -> which of the others that are `chosen`, too, come first."""
        come_first = lambda template: {*template.needs, *template.after} & {*chosen}  # noqa: E731
        return {name: come_first(self.templates[name]) for name in chosen}

    def chosen(self, named, deployed=(), served=lambda: ()):
        """What a deployment takes: what is named, what that needs and is not `deployed`, and the API for a new context.

        `served` says which contexts the deployed API has routes of: one that is deployed and not served was begun by a
        deployment that did not come to its end.
        """
        if unknown := [name for name in named if name not in self.templates]:
            raise Refused(f"there is no stack {unknown[0]}; there are {', '.join(self.templates)}")
        taken = {*(named or self.templates)}
        contexts = [name for name in taken if self.templates[name].contexts()]
        if EDGE not in taken and contexts:
            routed = self.templates[EDGE].served()
            if not routed.intersection(contexts) <= {*served()}:
                taken.add(EDGE)
        # Backwards, so that what is needed by something that is only needed itself is found, too.
        for name in reversed(self.templates):
            if name in taken:
                taken.update(need for need in self.templates[name].needs if need not in deployed)
        return [name for name in self.templates if name in taken]

    def users(self, parameter):
        """The stacks that have a parameter."""
        return [name for name, template in self.templates.items() if parameter in template.parameters]

    def parameters(self, chosen):
        """Parameter -> what is said of it, by whichever stack says it first."""
        found = {}
        for name in chosen:
            for key, description in self.templates[name].parameters.items():
                found.setdefault(key, description)
        return found

    def contexts(self, chosen=None):
        """The contexts whose programs the functions run."""
        return sorted({context for name in chosen or self.templates for context in self.templates[name].contexts()})

    def secrets(self, chosen):
        """Name in SSM without the system's prefix -> the parameter whose URL the secret is for."""
        return dict(sorted(pair for name in chosen for pair in self.templates[name].secrets().items()))

    def reserved_concurrency(self, chosen, values):
        """How many concurrent executions the functions reserve of the account's."""
        return sum(self.templates[name].reserved_concurrency(values) for name in chosen)

    def long_names(self, prefix):
        """Names that AWS would refuse, because the system's name makes them too long."""
        return [wrong for template in self.templates.values() for wrong in template.long_names(prefix)]
