"""One stack: calls to CloudFormation for it, and to CodeDeploy and DynamoDB for what it contains."""

import datetime
import json
import time

from botocore.exceptions import ClientError

from .cloud import code
from .environment import Refused
from .stages import SYSTEM
from .template import Template

# A stack of this size is created in a quarter of an hour; functions that depend on each other are replaced gradually
# one after the other, and a rollback takes as long as the deployment.
DEADLINE_SECONDS = 2 * 3600
# On AWS no status changes faster; on a local engine it does.
POLL_SECONDS, FIRST_POLL_SECONDS = 5, 0.1

# The errors for a change set that is being applied already, perhaps because the answer to the first call was lost.
ALREADY = ("InvalidChangeSetStatus", "TokenAlreadyExistsException")
# CloudFormation's reasons for an empty change set.
NO_CHANGES = ("didn't contain changes", "No updates are to be performed", "No changes")

# In these states the stack accepts no deployment any more.
DEAD = ("CREATE_FAILED", "DELETE_FAILED")
# The states after a failed first deployment: nothing but a name is left, or what could not be removed, for example
# protected tables.
NEVER_CAME_TO_BE = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED")
# CloudFormation's reasons for a resource that failed because another one did.
ECHOES = ("Resource creation cancelled", "Resource update cancelled")


def is_deployed(described):
    """Whether a deployment was ever completed, and no removal was begun since."""
    status = described["StackStatus"] if described else ""
    return status == "CREATE_COMPLETE" or status.startswith(("UPDATE_", "IMPORT_"))


def unknown(cloud, stage, known):
    """The names of the system's stacks that are none of the `known`: their templates were once in the sources.

    Recognized by the parameter that all have, because another system's name may begin with this one's.
    """
    names = {stack.name for stack in known}
    pages = cloud.cfn.get_paginator("describe_stacks").paginate()
    others = [stack for page in pages for stack in page["Stacks"] if stack["StackName"] not in names]
    return sorted(
        stack["StackName"]
        for stack in others
        if stack["StackName"].startswith(stage.stack(""))
        and any(
            (parameter["ParameterKey"], parameter.get("ParameterValue")) == (SYSTEM, stage.system)
            for parameter in stack.get("Parameters", [])
        )
    )


def is_empty(status, reason):
    """Whether a change set failed because there is nothing to change, as in a repeated deployment."""
    return status == "FAILED" and any(text in (reason or "") for text in NO_CHANGES)


class Stack:
    """One stack, by its name."""

    def __init__(self, cloud, name):
        self.cloud, self.cfn, self.name = cloud, cloud.cfn, name

    def describe(self, stack_id=None):
        """The stack as CloudFormation describes it, `None` when there is none."""
        try:
            stacks = self.cfn.describe_stacks(StackName=stack_id or self.name)["Stacks"]
        except ClientError as error:
            if code(error) == "ValidationError":
                return None
            raise
        return next((stack for stack in stacks if stack["StackStatus"] != "DELETE_COMPLETE"), None)

    def refuse_unready(self, described):
        """Refuses a stack onto which nothing can be deployed now."""
        status = described["StackStatus"] if described else ""
        if status in NEVER_CAME_TO_BE:
            self.refuse_data(status, self.tables())
        at = f"--stack-name {self.name} --region {self.cloud.region}"
        if status in DEAD:
            raise Refused(
                f"the stack {self.name} is {status}: put right what its events name, then aws cloudformation delete-stack "
                f"{at}, then deploy again"
            )
        if status == "UPDATE_ROLLBACK_FAILED":
            raise Refused(
                f"the stack {self.name} is {status}: put right what its events name, then "
                f"aws cloudformation continue-update-rollback {at}"
            )
        if status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS":
            raise Refused(f"the stack {self.name} is {status}: somebody else is at it")

    def template(self):
        """The template with which it was deployed."""
        body = self.cfn.get_template(StackName=self.name, TemplateStage="Original")["TemplateBody"]
        return Template(body if isinstance(body, str) else json.dumps(body))

    # ------------------------------------------------------------------------------------------------- changes

    def change_set(self, name, exists, template_url, parameters, tags):
        """Makes a change set and waits for it. Returns its changes, or `None` if there are none."""
        if not exists:
            self.clear()
        try:
            self.cfn.create_change_set(
                StackName=self.name,
                ChangeSetName=name,
                ChangeSetType="UPDATE" if exists else "CREATE",
                ClientToken=self._token(name),
                TemplateURL=template_url,
                Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
                Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
                Tags=[{"Key": key, "Value": value} for key, value in sorted(tags.items())],
            )
        except ClientError as error:
            # The name is unique: the answer to an earlier attempt was lost, and this is its change set.
            if code(error) != "AlreadyExistsException":
                raise
        for _ in polls("the change set"):
            found = self.cfn.describe_change_set(StackName=self.name, ChangeSetName=name)
            if found["Status"] == "CREATE_COMPLETE":
                return self._changes(name, found)
            if is_empty(found["Status"], found.get("StatusReason")):
                self.cfn.delete_change_set(StackName=self.name, ChangeSetName=name)
                return None
            if found["Status"] == "FAILED":
                reason = found.get("StatusReason")
                self.discard(name, exists)
                raise Refused(f"the change set failed: {reason}")

    def _changes(self, name, page):
        changes = list(page.get("Changes", []))
        while page.get("NextToken"):
            page = self.cfn.describe_change_set(StackName=self.name, ChangeSetName=name, NextToken=page["NextToken"])
            changes += page.get("Changes", [])
        return [change["ResourceChange"] for change in changes if "ResourceChange" in change]

    def discard(self, name, exists):
        """Deletes a change set, and a stack that consists of nothing else."""
        self.cfn.delete_change_set(StackName=self.name, ChangeSetName=name)
        if not exists:
            self.cfn.delete_stack(StackName=self.name)

    def _token(self, name):
        """By this CloudFormation recognizes a call that is retried because its answer was lost."""
        return f"{self.name}-{name}"

    def moment(self):
        """The current time, and the newest event."""
        return datetime.datetime.now(datetime.UTC), self._newest_event()

    def begin(self, name):
        """Begins to apply a change set."""
        try:
            self.cfn.execute_change_set(StackName=self.name, ChangeSetName=name, ClientRequestToken=self._token(name))
        except ClientError as error:
            if code(error) not in ALREADY or not self._is_begun(name):
                raise

    def _is_begun(self, name):
        found = self.cfn.describe_change_set(StackName=self.name, ChangeSetName=name)
        return found.get("ExecutionStatus", "").startswith("EXECUTE_")

    def finish(self, before):
        """Waits for the end of what was begun after the moment `before`; refuses with the stack's reasons."""
        began, newest = before
        for _ in polls("the deployment"):
            if self._newest_event() == newest:
                continue  # It has not begun: the status is still the earlier one.
            described = self.describe()
            status = described["StackStatus"] if described else "gone"
            if status in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
                return described
            if not status.endswith("_IN_PROGRESS"):
                reasons = [*self.reasons(since=newest), *self.gradual_failures(since=began)]
                raise Refused("\n  ".join([f"the stack {self.name} is {status}:", *reasons]))

    def protect(self, on):
        self.cfn.update_termination_protection(StackName=self.name, EnableTerminationProtection=on)

    def _newest_event(self):
        return next((event["EventId"] for event in self._events()), None)

    def _events(self, name=None):
        pages = self.cfn.get_paginator("describe_stack_events").paginate(StackName=name or self.name)
        return (event for page in pages for event in page["StackEvents"])

    def reasons(self, since=None, name=None):
        """The failures, oldest first; those that only follow from others are left out."""
        found = []
        for event in self._events(name):
            if event["EventId"] == since:
                break
            if event.get("ResourceStatus", "").endswith("FAILED"):
                why = event.get("ResourceStatusReason", "no reason given")
                if why.startswith(ECHOES):
                    continue
                found.append(f"{event['LogicalResourceId']} ({event['ResourceType']}): {why}")
        return found[::-1] or ["no event says why"]

    def gradual_failures(self, since):
        """Why CodeDeploy rolled back: the alarm, or whatever reason it gives. CloudFormation only names the alias."""
        standing = [r for r in self.resources() if not r["ResourceStatus"].startswith("DELETE")]
        of_type = lambda kind: [r["PhysicalResourceId"] for r in standing if r["ResourceType"] == kind]  # noqa: E731
        found = []
        try:
            for application in of_type("AWS::CodeDeploy::Application"):
                for group in of_type("AWS::CodeDeploy::DeploymentGroup"):
                    ended = self.cloud.codedeploy.list_deployments(
                        applicationName=application,
                        deploymentGroupName=group,
                        includeOnlyStatuses=["Failed", "Stopped"],
                        createTimeRange={"start": since},
                    )
                    for each in ended["deployments"]:
                        deployment = self.cloud.codedeploy.get_deployment(deploymentId=each)["deploymentInfo"]
                        why = deployment.get("errorInformation", {}).get("message", "no reason given")
                        found.append(f"CodeDeploy {each} ({group}): {why}")
        except ClientError as error:
            # What is known already is more important than this.
            found.append(f"CodeDeploy does not say why: {error}")
        return found

    def resources(self):
        pages = self.cfn.get_paginator("list_stack_resources").paginate(StackName=self.name)
        return [resource for page in pages for resource in page["StackResourceSummaries"]]

    # ----------------------------------------------------------------------------------------------------- end

    def tables(self):
        """The stack's tables: name, whether they are protected, whether anything is in them."""
        found = []
        for resource in self.resources():
            gone = resource["ResourceStatus"] in ("DELETE_COMPLETE", "DELETE_SKIPPED")
            name = resource.get("PhysicalResourceId")
            if resource["ResourceType"] != "AWS::DynamoDB::Table" or gone or not name:
                continue
            try:
                table = self.cloud.dynamodb.describe_table(TableName=name)["Table"]
            except self.cloud.dynamodb.exceptions.ResourceNotFoundException:
                continue
            # DynamoDB updates its count every six hours only; one item is enough to know now.
            items = self.cloud.dynamodb.scan(TableName=name, Limit=1, ConsistentRead=True)["Count"]
            found.append(
                {
                    "name": name,
                    "protected": table.get("DeletionProtectionEnabled", False),
                    "items": max(table.get("ItemCount", 0), items) if items else 0,
                }
            )
        return found

    def refuse_data(self, status, tables):
        if full := [table["name"] for table in tables if table["items"]]:
            there = f"the stack {self.name} is {status}, and there is data in {', '.join(full)}"
            raise Refused(f"{there}: have it somewhere else, then deploy again")

    def clear(self):
        """Removes what is left of a stack whose first deployment failed."""
        status = (self.describe() or {}).get("StackStatus")
        if status not in NEVER_CAME_TO_BE:
            return
        tables = self.tables()
        self.refuse_data(status, tables)
        for table in tables:
            if table["protected"]:
                self.unprotect(table["name"])
        self.delete()

    def unprotect(self, table):
        self.cloud.dynamodb.update_table(TableName=table, DeletionProtectionEnabled=False)
        for _ in polls(f"the table {table}"):
            if self.cloud.dynamodb.describe_table(TableName=table)["Table"]["TableStatus"] == "ACTIVE":
                return

    def delete(self):
        """Deletes the stack; returns what CloudFormation retained."""
        described = self.describe()
        self.cfn.delete_stack(StackName=self.name)
        for _ in polls("the deletion"):
            # By id: a deleted stack has no name.
            status = (self.describe(described["StackId"]) or {}).get("StackStatus", "DELETE_COMPLETE")
            if status == "DELETE_COMPLETE":
                return self._left(described["StackId"])
            if not status.endswith("_IN_PROGRESS"):
                raise Refused("\n  ".join([f"the stack is {status}:", *self.reasons(name=described["StackId"])]))

    def _left(self, stack_id):
        try:
            events = [e for e in self._events(stack_id) if e.get("ResourceStatus") == "DELETE_SKIPPED"]
        except ClientError as error:
            # On an engine that does not keep deleted stacks.
            if code(error) == "ValidationError":
                return []
            raise
        # A version is deleted with its function, whatever the template states.
        skipped = [event for event in events if event["ResourceType"] != "AWS::Lambda::Version"]
        return sorted(event.get("PhysicalResourceId", event["LogicalResourceId"]) for event in skipped)


def polls(what):
    """Yields now, and again and again, less and less often, until the deadline."""
    deadline, pause = time.monotonic() + DEADLINE_SECONDS, FIRST_POLL_SECONDS
    while time.monotonic() < deadline:
        yield
        time.sleep(pause)
        pause = min(pause * 1.5, POLL_SECONDS)
    raise Refused(f"{what} takes longer than {DEADLINE_SECONDS // 60} minutes; it goes on without being watched")
