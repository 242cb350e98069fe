"""The system: its stacks as in infra/stacks, their order, and which of them a deployment takes."""

import graphlib

from .environment import ROOT, Refused
from .template import Template

DIRECTORY = ROOT / "infra" / "stacks"
# The stack with what all functions are bound to and what their canaries watch.
PLATFORM = "platform"
# The stack of the API, with the routes of those contexts that are deployed.
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
        """Stack -> which of the other `chosen` ones come first."""
        come_first = lambda template: {*template.needs, *template.after} & {*chosen}  # noqa: E731
        return {name: come_first(self.templates[name]) for name in chosen}

    def chosen(self, named, deployed=(), routes=lambda: {}):
        """The stacks that a deployment takes: the named ones, and those they need that are not `deployed`; with a
        context also the platform, whose boundary and alarms are derived from all contexts, and the API, if its routes
        differ.

        `routes` returns those of the deployed API, as `Template.routes` does.
        """
        if unknown := [name for name in named if name not in self.templates]:
            raise Refused(f"there is no stack {unknown[0]}; there are {', '.join(self.templates)}")
        taken = {*(named or self.templates)}
        # Backwards, so that indirect needs are found, too.
        for name in reversed(self.templates):
            if name in taken:
                taken.update(need for need in self.templates[name].needs if need not in deployed)
        if contexts := [name for name in taken if self.templates[name].contexts()]:
            taken.add(PLATFORM)
            if EDGE not in taken and _rerouted(contexts, self.routes(), routes()):
                taken.add(EDGE)
        return [name for name in self.templates if name in taken]

    def routes(self):
        """Context -> its routes in the API of the sources."""
        return self.templates[EDGE].routes()

    def refuse_routes(self, chosen, deployed, routes):
        """Refuses an API without routes, and one that would change the routes of contexts that are not deployed now."""
        if EDGE not in chosen:
            return
        made = self.templates[EDGE].serving({*deployed, *chosen}).routes()
        if not made:
            raise Refused("edge would be an API without routes, which API Gateway refuses: name a context that has some, too")
        others = [name for name in self.templates if name in deployed and name not in chosen]
        if others := _rerouted(others, made, routes):
            it = "it" if len(others) == 1 else "them"
            raise Refused(f"edge would change the routes of {', '.join(others)}, too: name {it}, too")

    def users(self, parameter):
        """The stacks that have a parameter."""
        return [name for name, template in self.templates.items() if parameter in template.parameters]

    def parameters(self, chosen):
        """Parameter -> its description in the first stack that has it."""
        found = {}
        for name in chosen:
            for key, description in self.templates[name].parameters.items():
                found.setdefault(key, description)
        return found

    def contexts(self, chosen=None):
        """The contexts whose programs the functions run."""
        return sorted({context for name in chosen or self.templates for context in self.templates[name].contexts()})

    def secrets(self, chosen):
        """Name in SSM without the system's prefix -> the parameter with the URL that the secret is for."""
        return dict(sorted(pair for name in chosen for pair in self.templates[name].secrets().items()))

    def reserved_concurrency(self, chosen, values):
        """How many of the account's concurrent executions the functions reserve."""
        return sum(self.templates[name].reserved_concurrency(values) for name in chosen)

    def long_names(self, prefix):
        """Names that AWS would refuse, because the system's name makes them too long."""
        return [wrong for template in self.templates.values() for wrong in template.long_names(prefix)]


def _rerouted(contexts, one, other):
    """The contexts whose routes differ."""
    return [name for name in contexts if one.get(name) != other.get(name)]
