"""A change set, as it is shown before it is applied."""

import collections

# More than this that go the same way are counted, not listed.
LISTED = 10


def shown(changes):
    """Its changes, in lines: removals and replacements first, and long groups as counts."""
    fates = {"True": " REPLACED", "Conditional": " perhaps replaced"}
    groups = collections.defaultdict(list)
    for change in changes:
        # CloudFormation states this for modifications only.
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
