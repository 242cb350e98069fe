"""What CloudFormation makes of a SAM template, computed locally: how many resources, of which types."""

import collections
import json
import logging
import os
from types import SimpleNamespace

from .environment import Refused

# CloudFormation's quota, which cannot be raised. Conditions do not matter: what is declared counts.
MOST_RESOURCES = 500
# From here on there is a warning.
NEAR = 475


def expand(template, values, region):
    """A deployable template without SAM's transform. The argument cannot be used afterwards."""
    # The translator looks for the region there; elsewhere it would need a call.
    os.environ["AWS_DEFAULT_REGION"] = region
    logging.getLogger("samtranslator").setLevel(logging.ERROR)
    from samtranslator.model.exceptions import InvalidDocumentException
    from samtranslator.translator.transform import transform

    try:
        # No managed policy is looked up by name: the template has its own.
        return transform(template.body, dict(values), SimpleNamespace(load=dict))
    except InvalidDocumentException as error:
        raise Refused("; ".join(cause.message for cause in error.causes)) from None


def resources(name, expanded):
    """The types of the resources of an expanded template, each with its number."""
    counts = collections.Counter(resource["Type"] for resource in expanded["Resources"].values())
    if counts.total() > MOST_RESOURCES:
        raise Refused(f"the stack {name} has {counts.total()} resources; CloudFormation takes {MOST_RESOURCES}")
    return counts


def write(directory, expanded):
    """Writes expanded templates, stack -> template; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{name}.json" for name in expanded]
    for path, template in zip(paths, expanded.values()):
        path.write_text(json.dumps(template, indent=1))
    return paths
