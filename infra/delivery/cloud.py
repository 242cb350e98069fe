"""The account: what is asked of CloudFormation, S3, SSM, STS and DynamoDB."""

import datetime
import time

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from .environment import Refused

# A stack of this size is made in a quarter of an hour; functions that depend on each other change gradually one after
# the other, and a rollback takes as long as the way there.
DEADLINE_SECONDS = 2 * 3600
# No answer changes faster; a local engine's does.
POLL_SECONDS, FIRST_POLL_SECONDS = 5, 0.1

# How CloudFormation says that a change set is empty.
NO_CHANGES = ("didn't contain changes", "No updates are to be performed", "No changes")

# On these nothing can be deployed any more.
DEAD = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED")
# What CloudFormation says of a resource that failed because another one did.
ECHOES = ("Resource creation cancelled", "Resource update cancelled")


def is_empty(status, reason):
    """Whether a change set failed for having nothing to change, which is what a second deployment hopes for."""
    return status == "FAILED" and any(text in (reason or "") for text in NO_CHANGES)


class Cloud:
    """One region of one account, and a stack's name in it."""

    def __init__(self, region, stack):
        session = boto3.session.Session(region_name=region)
        config = Config(retries={"mode": "standard", "max_attempts": 10})
        client = lambda service: session.client(service, config=config)  # noqa: E731
        self.cfn, self.s3, self.ssm = client("cloudformation"), client("s3"), client("ssm")
        self.dynamodb, self.sts, self.codedeploy = client("dynamodb"), client("sts"), client("codedeploy")
        self.functions = client("lambda")
        self.region, self.stack = region, stack

    def account(self):
        return self.sts.get_caller_identity()["Account"]

    def concurrency(self):
        """Lambda's quota of concurrent executions, of the whole account in this region."""
        return self.functions.get_account_settings()["AccountLimit"]["ConcurrentExecutions"]

    # ------------------------------------------------------------------------------------------------ packages

    def bucket(self, account):
        """The packages' bucket: one an account and region, made when it is not there."""
        name = f"encore-packages-{account}-{self.region}"
        try:
            # Somebody else's bucket of that name would be given our programs.
            self.s3.head_bucket(Bucket=name, ExpectedBucketOwner=account)
            return name
        except ClientError as error:
            if code(error) not in ("404", "NoSuchBucket", "NotFound"):
                raise Refused(f"the bucket {name} cannot be used: {error}") from None
        # The one region that may not be named.
        where = {} if self.region == "us-east-1" else {"LocationConstraint": self.region}
        self.s3.create_bucket(Bucket=name, **({"CreateBucketConfiguration": where} if where else {}))
        self.s3.put_public_access_block(
            Bucket=name,
            PublicAccessBlockConfiguration=dict.fromkeys(
                ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
            ),
        )
        return name

    def upload(self, bucket, account, key, content):
        """Uploads what is not there yet: keys carry their content's hash. Says whether it did."""
        try:
            self.s3.head_object(Bucket=bucket, Key=key, ExpectedBucketOwner=account)
            return False
        except ClientError as error:
            if code(error) not in ("404", "NoSuchKey", "NotFound"):
                raise
        self.s3.put_object(Bucket=bucket, Key=key, Body=content, ExpectedBucketOwner=account)
        return True

    def url(self, bucket, key):
        return f"{self.s3.meta.endpoint_url}/{bucket}/{key}"

    # ------------------------------------------------------------------------------------------------- secrets

    def secret_exists(self, path):
        """Without asking for its value."""
        return bool(self.ssm.get_parameters(Names=[path], WithDecryption=False)["Parameters"])

    def secret(self, path):
        return self.ssm.get_parameter(Name=path, WithDecryption=True)["Parameter"]["Value"]

    def keep_secret(self, path, value, replace=False):
        """Of several that make it at once, one wins; nobody's is written over unless asked for."""
        self.ssm.put_parameter(Name=path, Value=value, Type="SecureString", Overwrite=replace)

    def secrets_under(self, prefix):
        pages = self.ssm.get_paginator("get_parameters_by_path").paginate(Path=prefix, WithDecryption=False)
        return sorted(parameter["Name"] for page in pages for parameter in page["Parameters"])

    def forget_secrets(self, paths):
        for path in paths:
            self.ssm.delete_parameter(Name=path)

    # --------------------------------------------------------------------------------------------------- stack

    def describe(self, name=None):
        """The stack as CloudFormation describes it, `None` when there is none."""
        try:
            stacks = self.cfn.describe_stacks(StackName=name or self.stack)["Stacks"]
        except ClientError as error:
            if code(error) == "ValidationError":
                return None
            raise
        found = stacks[0] if stacks else None
        return None if name is None and found and found["StackStatus"] == "DELETE_COMPLETE" else found

    def change_set(self, name, template_url, parameters, tags):
        """Makes a change set and waits for it. Its changes, or `None` when there are none."""
        described = self.describe()
        status = described["StackStatus"] if described else None
        if status in DEAD:
            raise Refused(f"the stack {self.stack} is {status}: infra/destroy it, then deploy again")
        if status == "UPDATE_ROLLBACK_FAILED":
            raise Refused(
                f"the stack {self.stack} is {status}: put right what its events name, then "
                f"aws cloudformation continue-update-rollback --stack-name {self.stack} --region {self.region}"
            )
        if status and status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS":
            raise Refused(f"the stack {self.stack} is {status}: somebody else is at it")
        exists = status not in (None, "REVIEW_IN_PROGRESS")
        self.cfn.create_change_set(
            StackName=self.stack,
            ChangeSetName=name,
            ChangeSetType="UPDATE" if exists else "CREATE",
            TemplateURL=template_url,
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
            Parameters=parameters,
            Tags=[{"Key": key, "Value": value} for key, value in sorted(tags.items())],
        )
        for _ in polls("the change set"):
            found = self.cfn.describe_change_set(StackName=self.stack, ChangeSetName=name)
            if found["Status"] == "CREATE_COMPLETE":
                return self._changes(name, found)
            if is_empty(found["Status"], found.get("StatusReason")):
                self.cfn.delete_change_set(StackName=self.stack, ChangeSetName=name)
                return None
            if found["Status"] == "FAILED":
                reason = found.get("StatusReason")
                self.discard(name, exists)
                raise Refused(f"the change set failed: {reason}")

    def _changes(self, name, page):
        changes = list(page.get("Changes", []))
        while page.get("NextToken"):
            page = self.cfn.describe_change_set(StackName=self.stack, ChangeSetName=name, NextToken=page["NextToken"])
            changes += page.get("Changes", [])
        return [change["ResourceChange"] for change in changes if "ResourceChange" in change]

    def discard(self, name, exists):
        """Forgets a change set, and with it a stack that consists of nothing else."""
        self.cfn.delete_change_set(StackName=self.stack, ChangeSetName=name)
        if not exists:
            self.cfn.delete_stack(StackName=self.stack)

    def execute(self, name):
        """Applies a change set and waits for its end; refuses with the stack's reasons."""
        began, newest = datetime.datetime.now(datetime.UTC), self._newest_event()
        self.cfn.execute_change_set(StackName=self.stack, ChangeSetName=name)
        for _ in polls("the deployment"):
            if self._newest_event() == newest:
                continue  # It has not begun: the status is that of the time before.
            described = self.describe()
            status = described["StackStatus"] if described else "gone"
            if status in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
                return described
            if not status.endswith("_IN_PROGRESS"):
                reasons = [*self.reasons(since=newest), *self.gradual_failures(since=began)]
                raise Refused("\n  ".join([f"the stack {self.stack} is {status}:", *reasons]))

    def protect(self, on):
        self.cfn.update_termination_protection(StackName=self.stack, EnableTerminationProtection=on)

    def _newest_event(self):
        return next((event["EventId"] for event in self._events()), None)

    def _events(self, name=None):
        pages = self.cfn.get_paginator("describe_stack_events").paginate(StackName=name or self.stack)
        return (event for page in pages for event in page["StackEvents"])

    def reasons(self, since=None, name=None):
        """What went wrong, first things first; what only went wrong with it is left out."""
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
        """Why CodeDeploy went back: the alarm that rang, or what else it says. CloudFormation names the alias only."""
        standing = [r for r in self.resources() if not r["ResourceStatus"].startswith("DELETE")]
        of_type = lambda kind: [r["PhysicalResourceId"] for r in standing if r["ResourceType"] == kind]  # noqa: E731
        found = []
        try:
            for application in of_type("AWS::CodeDeploy::Application"):
                for group in of_type("AWS::CodeDeploy::DeploymentGroup"):
                    ended = self.codedeploy.list_deployments(
                        applicationName=application,
                        deploymentGroupName=group,
                        includeOnlyStatuses=["Failed", "Stopped"],
                        createTimeRange={"start": since},
                    )
                    for each in ended["deployments"]:
                        deployment = self.codedeploy.get_deployment(deploymentId=each)["deploymentInfo"]
                        why = deployment.get("errorInformation", {}).get("message", "no reason given")
                        found.append(f"CodeDeploy {each} ({group}): {why}")
        except ClientError as error:
            # What is known already is worth more than this.
            found.append(f"CodeDeploy does not say why: {error}")
        return found

    def resources(self):
        pages = self.cfn.get_paginator("list_stack_resources").paginate(StackName=self.stack)
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
                table = self.dynamodb.describe_table(TableName=name)["Table"]
            except self.dynamodb.exceptions.ResourceNotFoundException:
                continue
            # DynamoDB counts every six hours only; one item is enough to know now.
            items = self.dynamodb.scan(TableName=name, Limit=1, ConsistentRead=True)["Count"]
            found.append(
                {
                    "name": name,
                    "protected": table.get("DeletionProtectionEnabled", False),
                    "items": max(table.get("ItemCount", 0), items) if items else 0,
                }
            )
        return found

    def unprotect(self, table):
        self.dynamodb.update_table(TableName=table, DeletionProtectionEnabled=False)
        for _ in polls(f"the table {table}"):
            if self.dynamodb.describe_table(TableName=table)["Table"]["TableStatus"] == "ACTIVE":
                return

    def delete(self):
        """Deletes the stack; returns what CloudFormation left standing."""
        described = self.describe()
        self.cfn.delete_stack(StackName=self.stack)
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
            # An engine that forgets a deleted stack altogether.
            if code(error) == "ValidationError":
                return []
            raise
        # A version goes with its function, whatever the template says.
        skipped = [event for event in events if event["ResourceType"] != "AWS::Lambda::Version"]
        return sorted(event.get("PhysicalResourceId", event["LogicalResourceId"]) for event in skipped)


def code(error):
    return error.response.get("Error", {}).get("Code")


def polls(what):
    """Once now, and again and again, less and less often, until it takes too long."""
    deadline, pause = time.monotonic() + DEADLINE_SECONDS, FIRST_POLL_SECONDS
    while time.monotonic() < deadline:
        yield
        time.sleep(pause)
        pause = min(pause * 1.5, POLL_SECONDS)
    raise Refused(f"{what} takes longer than {DEADLINE_SECONDS // 60} minutes; it goes on without being watched")
    raise Refused(f"{what} took longer than {DEADLINE_SECONDS} s")
