"""The account: calls to S3, SSM, STS and Lambda, and the clients that a stack uses itself."""

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from .environment import Refused


class Cloud:
    """One region of one account."""

    def __init__(self, region):
        session = boto3.session.Session(region_name=region)
        config = Config(retries={"mode": "standard", "max_attempts": 10})
        client = lambda service: session.client(service, config=config)  # noqa: E731
        self.cfn, self.s3, self.ssm = client("cloudformation"), client("s3"), client("ssm")
        self.dynamodb, self.sts, self.codedeploy = client("dynamodb"), client("sts"), client("codedeploy")
        self.functions = client("lambda")
        self.region = region

    def account(self):
        return self.sts.get_caller_identity()["Account"]

    def concurrency(self):
        """Lambda's quota of concurrent executions, of the whole account in this region."""
        return self.functions.get_account_settings()["AccountLimit"]["ConcurrentExecutions"]

    # ------------------------------------------------------------------------------------------------ packages

    def bucket(self, account):
        """The packages' bucket: one for each account and region, created when it does not exist."""
        name = f"encore-packages-{account}-{self.region}"
        try:
            # Another account's bucket of that name would receive our programs.
            self.s3.head_bucket(Bucket=name, ExpectedBucketOwner=account)
            return name
        except ClientError as error:
            if code(error) not in ("404", "NoSuchBucket", "NotFound"):
                raise Refused(f"the bucket {name} cannot be used: {error}") from None
        # The one region that must not be named.
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
        """Uploads what is not there yet: keys contain the hash of the content. Returns whether it did."""
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
        """Without reading its value."""
        return bool(self.ssm.get_parameters(Names=[path], WithDecryption=False)["Parameters"])

    def secret(self, path):
        return self.ssm.get_parameter(Name=path, WithDecryption=True)["Parameter"]["Value"]

    def keep_secret(self, path, value, replace=False):
        """Of several processes that create it at once, one wins; only `replace` overwrites an existing value."""
        self.ssm.put_parameter(Name=path, Value=value, Type="SecureString", Overwrite=replace)

    def secrets_under(self, prefix):
        pages = self.ssm.get_paginator("get_parameters_by_path").paginate(Path=prefix, WithDecryption=False)
        return sorted(parameter["Name"] for page in pages for parameter in page["Parameters"])

    def forget_secrets(self, paths):
        for path in paths:
            self.ssm.delete_parameter(Name=path)


def code(error):
    return error.response.get("Error", {}).get("Code")
