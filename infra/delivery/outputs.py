"""target/deploy/STAGE.json: where everything is, for those who work with the stage. Holds no secret."""

import json


def write(path, stage, account, stacks):
    """Of all stacks of the system that are deployed."""
    resources = [resource for stack in stacks.values() for resource in stack.resources()]
    of_type = lambda kind: sorted(r["PhysicalResourceId"] for r in resources if r["ResourceType"] == kind)  # noqa: E731
    listed = [output for stack in stacks.values() for output in stack.describe().get("Outputs", [])]
    packages = [package for stack in stacks.values() for package in stack.template().packages().items()]
    found = {
        "stage": stage.name,
        "system": stage.system,
        "account": account,
        "region": stage.region,
        "stacks": {name: stack.name for name, stack in stacks.items()},
        "outputs": {output["OutputKey"]: output["OutputValue"] for output in listed},
        "packages": dict(sorted(packages)),
        "tables": of_type("AWS::DynamoDB::Table"),
        "queues": of_type("AWS::SQS::Queue"),
        "state_machines": of_type("AWS::StepFunctions::StateMachine"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(path)
