"""Makes LocalStack deploy and run the template as AWS does.

LocalStack runs this at its start, in its own process: in Docker from /etc/localstack/init, on the host from here. Each
patch says what it is for. `check` refuses a LocalStack that is not what the patch was written for; the hook of ready.d
then keeps silent, and the driver gives up with this file's error in the engine's log.
"""

import base64
import gzip
import json
import shlex
import time
from datetime import date


def check(condition, what):
    if not condition:
        raise RuntimeError(f"LocalStack is not the version that init/start.d/encore.py was written for: {what}")


def accept_nulls():
    """Lets a template hold a null, as state machines do (`"ResultPath": null`).

    LocalStack compares the type of a value with `None` where it means the type of `None`.
    """
    from localstack.services.cloudformation.engine.v2.change_set_model import ChangeSetModel

    stock = ChangeSetModel._is_terminal
    check(not stock(None) and stock(""), "ChangeSetModel._is_terminal")
    ChangeSetModel._is_terminal = staticmethod(lambda value: value is None or stock(value))


def transform_first():
    """Lets a template refer to what SAM makes of it, as `!Ref PayCharge.Alias` does.

    LocalStack resolves every reference of the template as it was written to find an `Fn::Transform`, of which we
    have none, and only then lets SAM transform it.
    """
    from localstack.services.cloudformation.engine.v2.change_set_model_transform import ChangeSetModelTransform

    check(callable(getattr(ChangeSetModelTransform, "_execute_local_transforms", None)), "ChangeSetModelTransform")
    ChangeSetModelTransform._execute_local_transforms = lambda self: None


def make_what_services_have():
    """Deploys dashboards and metric filters: LocalStack has them, but not as types of CloudFormation."""
    from localstack.services.cloudformation import resource_provider as stock

    def provider(kind, name, service, put, remove):
        class Provider(stock.ResourceProvider):
            TYPE = kind
            SCHEMA = {"primaryIdentifier": [f"/properties/{name}"], "properties": {name: {}}}

            def create(self, request):
                model = request.desired_state
                model.setdefault(name, f"{request.stack_name}-{request.logical_resource_id}")
                put(getattr(request.aws_client_factory, service), model)
                return stock.ProgressEvent(status=stock.OperationStatus.SUCCESS, resource_model=model)

            update = create

            def delete(self, request):
                remove(getattr(request.aws_client_factory, service), request.desired_state)
                return stock.ProgressEvent(status=stock.OperationStatus.SUCCESS, resource_model={})

        return kind, Provider

    def transformation(model):
        told = {name[0].lower() + name[1:]: value for name, value in model.items() if name != "Dimensions"}
        told["dimensions"] = {dimension["Key"]: dimension["Value"] for dimension in model.get("Dimensions", [])}
        return told

    ours = dict(
        [
            provider(
                "AWS::CloudWatch::Dashboard",
                "DashboardName",
                "cloudwatch",
                lambda client, model: client.put_dashboard(
                    DashboardName=model["DashboardName"], DashboardBody=model["DashboardBody"]
                ),
                lambda client, model: client.delete_dashboards(DashboardNames=[model["DashboardName"]]),
            ),
            provider(
                "AWS::Logs::MetricFilter",
                "FilterName",
                "logs",
                lambda client, model: client.put_metric_filter(
                    logGroupName=model["LogGroupName"],
                    filterName=model["FilterName"],
                    filterPattern=model["FilterPattern"],
                    metricTransformations=[transformation(one) for one in model["MetricTransformations"]],
                ),
                lambda client, model: client.delete_metric_filter(
                    logGroupName=model["LogGroupName"], filterName=model["FilterName"]
                ),
            ),
        ]
    )
    load = stock.ResourceProviderExecutor.try_load_resource_provider
    for kind in ours:
        check(load(kind) is None, f"ResourceProviderExecutor: it has {kind}")
    stock.ResourceProviderExecutor.try_load_resource_provider = staticmethod(
        lambda kind: ours[kind]() if isinstance(kind, str) and kind in ours else load(kind)
    )


def keep_versions_and_aliases():
    """Updates an alias in place and leaves a published version as it is.

    LocalStack takes a function that is updated for another one, would make its alias anew, which fails, and remove its
    version. SAM gives a new version a new name.
    """
    from localstack.services.cloudformation.resource_provider import OperationStatus, ProgressEvent
    from localstack.services.lambda_.resource_providers.aws_lambda_version import LambdaVersionProvider
    from localstack.services.lambda_.resource_providers.lambda_alias import LambdaAliasProvider

    def update_alias(self, request):
        model = {**request.previous_state, **request.desired_state}
        names = ("FunctionName", "Name", "FunctionVersion")
        request.aws_client_factory.lambda_.update_alias(**{name: model[name] for name in names})
        return ProgressEvent(status=OperationStatus.SUCCESS, resource_model=model)

    def update_version(self, request):
        return ProgressEvent(status=OperationStatus.SUCCESS, resource_model=dict(request.previous_state))

    for provider, update in ((LambdaAliasProvider, update_alias), (LambdaVersionProvider, update_version)):
        check("createOnlyProperties" in provider.SCHEMA, provider.TYPE)
        provider.SCHEMA = {name: value for name, value in provider.SCHEMA.items() if name != "createOnlyProperties"}
        provider.update = update


def deploy_quickly():
    """Looks again after 20 ms, not a second, whether a resource is there. It made 100 functions take 3 minutes."""
    from localstack.services.cloudformation.resource_provider import ResourceProviderExecutor

    loop = ResourceProviderExecutor.deploy_loop
    check(loop.__defaults__ is not None and loop.__defaults__[1:] == (1,), "ResourceProviderExecutor.deploy_loop")
    loop.__defaults__ = (loop.__defaults__[0], 0.02)


def pass_bodies_on():
    """Hands a request's body to the function byte for byte, whatever its content type says, as API Gateway does.

    LocalStack takes what says it is a form apart and puts it together again.
    """
    from localstack.runtime import get_current_runtime
    from localstack.services.apigateway.next_gen.execute_api.handlers import parse

    check(callable(getattr(parse, "restore_payload", None)), "apigateway parse.restore_payload")

    def read_first(_chain, context, _response):
        if context.request.path.startswith("/_aws/execute-api/"):
            context.request.get_data()  # Kept by the request for whoever asks later.

    get_current_runtime().components.gateway.request_handlers.insert(0, read_first)
    parse.restore_payload = lambda request: request.get_data()


def deliver_logs_as_lambda_does():
    """Hands the lines that a subscription's pattern matches to its function, as an asynchronous call.

    LocalStack hands over every line, waits for the function, and takes the function's failure for its own; and the
    first lines of a stream are lost where there is a subscription, because it fails after it has made the stream.
    """
    from localstack.aws.connect import connect_to
    from localstack.services.logs import provider
    from moto.logs import models

    names = provider.moto_put_log_events.__code__.co_names
    check("get_pattern_matcher" in names and "subscription_filters" in names, "logs.moto_put_log_events")

    def put_log_events(self, log_events):
        self.last_ingestion_time = int(time.time() * 1000)
        self.stored_bytes += sum(len(event["message"]) for event in log_events)
        self.upload_sequence_token += 1
        events = [models.LogEvent(self.last_ingestion_time, event) for event in log_events]
        self.events += events
        for subscription in self.log_group.subscription_filters.values():
            terms = shlex.split(subscription.filter_pattern or "")
            matching = [event for event in events if all(term in event.message for term in terms)]
            if not matching:
                continue
            data = {
                "messageType": "DATA_MESSAGE",
                "owner": self.account_id,
                "logGroup": self.log_group.name,
                "logStream": self.log_stream_name,
                "subscriptionFilters": [subscription.name],
                "logEvents": [
                    {"id": str(event.event_id), "timestamp": event.timestamp, "message": event.message}
                    for event in matching
                ],
            }
            packed = base64.b64encode(gzip.compress(json.dumps(data).encode())).decode()
            connect_to(aws_access_key_id=self.account_id, region_name=self.region).lambda_.invoke(
                FunctionName=subscription.destination_arn,
                InvocationType="Event",
                Payload=json.dumps({"awslogs": {"data": packed}}),
            )
        return f"{self.upload_sequence_token:056d}"

    def create_log_stream(self, name):
        if name in self.streams:
            raise models.ResourceAlreadyExistsException()
        self.streams[name] = models.LogStream(self, name)

    models.LogStream.put_log_events = put_log_events
    models.LogGroup.create_log_stream = create_log_stream


def keep_logs_where_told():
    """Keeps a function's log in the group that it names (`LoggingConfig`), which LocalStack accepts and ignores.

    And writes it there itself. LocalStack calls its own API for each call of a function; that was half of its work.
    """
    from localstack.services.lambda_.invocation import logs
    from localstack.services.lambda_.invocation.execution_environment import ExecutionEnvironment
    from localstack.utils.aws.arns import extract_account_id_from_arn
    from moto.logs.models import logs_backends

    check(callable(getattr(ExecutionEnvironment, "get_log_group_name", None)), "ExecutionEnvironment")
    check("put_log_events" in logs.LogHandler.run_log_loop.__code__.co_names, "LogHandler.run_log_loop")

    def group(self):
        version = self.function_version
        return version.config.logging_config.get("LogGroup") or f"/aws/lambda/{version.id.function_name}"

    def stream(self):
        # Functions share a group, so the stream names the function, as Lambda's do.
        version = self.function_version.id
        return f"{date.today():%Y/%m/%d}/{version.function_name}[{version.qualifier}]{self.id}"

    def write(self, item):
        backend = logs_backends[extract_account_id_from_arn(self.role_arn)][self.region]
        backend.ensure_log_group(item.log_group)
        backend.ensure_log_stream(item.log_group, item.log_stream)
        now = int(time.time() * 1000)
        events = [{"timestamp": now, "message": f"{line}\n"} for line in item.logs.split("\n") if line]
        backend.groups[item.log_group].streams[item.log_stream].put_log_events(events)

    def run_log_loop(self, *_args, **_kwargs):
        while not self._shutdown_event.is_set():
            item = self.log_queue.get()
            if item is logs.QUEUE_SHUTDOWN:
                return
            try:
                write(self, item)
            except Exception as error:
                logs.LOG.warning("%s: %s is lost: %r", item.log_group, item.logs, error)

    ExecutionEnvironment.get_log_group_name = group
    ExecutionEnvironment.get_log_stream_name = stream
    logs.LogHandler.run_log_loop = run_log_loop


accept_nulls()
transform_first()
make_what_services_have()
keep_versions_and_aliases()
deploy_quickly()
pass_bodies_on()
deliver_logs_as_lambda_does()
keep_logs_where_told()
