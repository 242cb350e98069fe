"""Makes LocalStack deploy and run the stacks as AWS does.

LocalStack runs this at its start, in its own process: in Docker from /etc/localstack/init, on the host from here. Each
patch states what it is for. `check` refuses a LocalStack that is not what the patch was written for; the hook of
ready.d then does not answer, and the driver gives up with this file's error in the engine's log.
"""

import base64
import gzip
import heapq
import io
import itertools
import json
import re
import shlex
import threading
import time
import types
import uuid
from datetime import date
from functools import lru_cache


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

    LocalStack resolves every reference of the template as it was written to find an `Fn::Transform`, of which we have
    none, and only then lets SAM transform it.
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

            def update(self, request):
                # Where there is one of that name already, LocalStack may add a second.
                remove(getattr(request.aws_client_factory, service), request.previous_state)
                return self.create(request)

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


def replace_only_what_must_be():
    """Replaces a resource when a property that cannot be changed has another value.

    LocalStack also replaces a resource when such a property names one that is updated: a stage because its API is, an
    alias because its function is. The new one collides with the old one, or is deleted with it.
    """
    from localstack.services.cloudformation.engine.v2.change_set_model import is_nothing
    from localstack.services.cloudformation.engine.v2.change_set_model_executor import ChangeSetModelExecutor

    stock = ChangeSetModelExecutor._execute_resource_change
    check("requires_replacement" in stock.__code__.co_names, "ChangeSetModelExecutor._execute_resource_change")

    def execute(self, name, before, after):
        changed = None
        if not is_nothing(before) and not is_nothing(after):
            was, wanted = before.properties.properties, after.properties.properties
            changed = {key for key in {*was, *wanted} if was.get(key) != wanted.get(key)}
            provider = self.resource_provider_executor.try_load_resource_provider(after.resource_type)
            fixed = getattr(provider, "SCHEMA", {}).get("createOnlyProperties", [])
            after.requires_replacement = any(f"/properties/{key}" in fixed for key in changed)
        # For fail_by_name.
        self.resource_provider_executor.changed = changed
        stock(self, name, before, after)

    ChangeSetModelExecutor._execute_resource_change = execute


def updates(provider, stock=False):
    """The decorated function is how a provider updates an existing resource, where LocalStack does not, or (`stock`)
    not well.

    It gets the old and the new properties, with what only the service knows (ids), and returns what else there is to
    remember.
    """
    from localstack.services.cloudformation.resource_provider import OperationStatus, ProgressEvent

    pretends = "NotImplementedError" in provider.update.__code__.co_names
    check(pretends != stock, f"{provider.TYPE}: its update")

    def decorate(change):
        def update(self, request):
            was, schema = request.previous_state, self.SCHEMA
            kept = [*schema.get("readOnlyProperties", []), *schema.get("createOnlyProperties", [])]
            kept = {path.removeprefix("/properties/") for path in (*kept, *schema["primaryIdentifier"])}
            model = {**{name: was[name] for name in was if name in kept}, **request.desired_state}
            model.update(change(request, was, model) or {})
            return ProgressEvent(status=OperationStatus.SUCCESS, resource_model=model)

        provider.update = update

    return decorate


def told(model, *names):
    """These properties under the names of API Gateway and the logs."""
    return {f"{name[0].lower()}{name[1:]}": model[name] for name in names if name in model}


def update_apis():
    """Reads an API's changed Body, and has its stage serve the new deployment."""
    from localstack.services.apigateway.resource_providers import (
        aws_apigateway_deployment,
        aws_apigateway_gatewayresponse,
        aws_apigateway_restapi,
        aws_apigateway_stage,
    )

    def patches(was, model, *names):
        for name in names:
            if was.get(name) != model.get(name):
                value = model.get(name)
                text = str(value).lower() if isinstance(value, bool) else str(value or "")
                yield {"op": "replace", "path": f"/{name[0].lower()}{name[1:]}", "value": text}

    @updates(aws_apigateway_restapi.ApiGatewayRestApiProvider)
    def api(request, was, model):
        client, id = request.aws_client_factory.apigateway, {"restApiId": model["RestApiId"]}
        if was.get("Body") != model.get("Body"):
            parameters = {"basepath": "ignore", **model.get("Parameters", {})}
            client.put_rest_api(**id, mode="overwrite", parameters=parameters, body=json.dumps(model["Body"]))
        if changes := list(patches(was, model, "Name", "Description", "MinimumCompressionSize")):
            client.update_rest_api(**id, patchOperations=changes)
        roots = [item["id"] for item in client.get_resources(**id)["items"] if item["path"] == "/"]
        return {"RootResourceId": roots[0]} if roots else {}

    @updates(aws_apigateway_deployment.ApiGatewayDeploymentProvider)
    def deployment(request, was, model):
        changes = list(patches(was, model, "Description"))
        which = told(model, "RestApiId", "DeploymentId")
        request.aws_client_factory.apigateway.update_deployment(**which, patchOperations=changes)

    @updates(aws_apigateway_stage.ApiGatewayStageProvider)
    def stage(request, was, model):
        changes = list(patches(was, model, "DeploymentId", "Description", "TracingEnabled"))
        old, new = was.get("Variables") or {}, model.get("Variables") or {}
        changes += [{"op": "remove", "path": f"/variables/{name}"} for name in old if name not in new]
        changes += [{"op": "replace", "path": f"/variables/{name}", "value": new[name]} for name in new]
        which = told(model, "RestApiId", "StageName")
        request.aws_client_factory.apigateway.update_stage(**which, patchOperations=changes)

    @updates(aws_apigateway_gatewayresponse.ApiGatewayGatewayResponseProvider)
    def gateway_response(request, was, model):
        names = ("RestApiId", "ResponseType", "StatusCode", "ResponseParameters", "ResponseTemplates")
        request.aws_client_factory.apigateway.put_gateway_response(**told(model, *names))


def update_rules():
    """Updates event rules, and deletes them on their own bus: LocalStack looks for them on the default one, and they
    stay."""
    from localstack.services.cloudformation.resource_provider import OperationStatus, ProgressEvent
    from localstack.services.events.resource_providers.aws_events_rule import EventsRuleProvider, extract_rule_name

    check("EventBusName" not in EventsRuleProvider.delete.__code__.co_consts, "EventsRuleProvider.delete")
    check("NotImplementedError" in EventsRuleProvider.update.__code__.co_names, "EventsRuleProvider.update")

    def remove(events, model, kept=None):
        """Removes its targets except those of `kept`; without `kept`, all of them and the rule."""
        bus, name = {"EventBusName": model.get("EventBusName", "default")}, extract_rule_name(model["Id"])
        targets = [target["Id"] for target in events.list_targets_by_rule(Rule=name, **bus)["Targets"]]
        if gone := [target for target in targets if target not in (kept or ())]:
            events.remove_targets(Rule=name, Ids=gone, Force=True, **bus)
        if kept is None:
            events.delete_rule(Name=name, **bus)

    def delete(self, request):
        remove(request.aws_client_factory.events, request.desired_state)
        return ProgressEvent(status=OperationStatus.SUCCESS, resource_model=request.desired_state)

    def update(self, request):
        was, model = request.previous_state, request.desired_state
        model["Name"] = extract_rule_name(was["Id"])
        # A schedule's clock goes on for ever: once its rule is gone it finds nothing to call.
        timed = "ScheduleExpression" in was or "ScheduleExpression" in model
        kept = None if timed else [target["Id"] for target in model.get("Targets") or []]
        remove(request.aws_client_factory.events, was, kept)
        return self.create(request)

    EventsRuleProvider.delete, EventsRuleProvider.update = delete, update


def update_what_is_watched():
    """Updates alarms, log groups and their subscriptions; keeps lines for as long as a group states, which LocalStack
    ignores."""
    from localstack.services.cloudwatch.resource_providers import aws_cloudwatch_alarm, aws_cloudwatch_compositealarm
    from localstack.services.logs.resource_providers import aws_logs_loggroup, aws_logs_subscriptionfilter

    def puts(provider, name):
        """An update does what its creation does."""

        def update(self, request):
            request.desired_state.setdefault(name, request.previous_state[name])
            return self.create(request)

        check("NotImplementedError" in provider.update.__code__.co_names, f"{provider.TYPE}: its update")
        provider.update = update

    puts(aws_cloudwatch_alarm.CloudWatchAlarmProvider, "AlarmName")
    puts(aws_cloudwatch_compositealarm.CloudWatchCompositeAlarmProvider, "AlarmName")
    puts(aws_logs_subscriptionfilter.LogsSubscriptionFilterProvider, "LogGroupName")

    Groups = aws_logs_loggroup.LogsLogGroupProvider
    stock = Groups.create
    check("put_retention_policy" not in stock.__code__.co_names, f"{Groups.TYPE}: its create")

    def create(self, request):
        event = stock(self, request)
        if days := event.resource_model.get("RetentionInDays"):
            name = event.resource_model["LogGroupName"]
            request.aws_client_factory.logs.put_retention_policy(logGroupName=name, retentionInDays=int(days))
        return event

    Groups.create = create

    @updates(Groups)
    def group(request, was, model):
        logs, which = request.aws_client_factory.logs, told(model, "LogGroupName")
        if days := model.get("RetentionInDays"):
            logs.put_retention_policy(**which, retentionInDays=int(days))
        else:
            logs.delete_retention_policy(**which)


def update_roles():
    """Updates roles and managed policies. LocalStack updates those roles only whose managed policies change, by making
    them anew."""
    from localstack.services.iam.resource_providers import aws_iam_managedpolicy, aws_iam_role

    @updates(aws_iam_managedpolicy.IAMManagedPolicyProvider)
    def managed_policy(request, was, model):
        iam, arn = request.aws_client_factory.iam, {"PolicyArn": model["Id"]}
        for version in iam.list_policy_versions(**arn)["Versions"]:
            if not version["IsDefaultVersion"]:  # There may be five.
                iam.delete_policy_version(**arn, VersionId=version["VersionId"])
        iam.create_policy_version(**arn, PolicyDocument=json.dumps(model["PolicyDocument"]), SetAsDefault=True)

    @updates(aws_iam_role.IAMRoleProvider, stock=True)
    def role(request, was, model):
        iam, role = request.aws_client_factory.iam, {"RoleName": model["RoleName"]}
        iam.update_assume_role_policy(**role, PolicyDocument=json.dumps(model["AssumeRolePolicyDocument"]))
        new = {policy["PolicyName"]: json.dumps(policy["PolicyDocument"]) for policy in model.get("Policies", [])}
        for name in {policy["PolicyName"] for policy in was.get("Policies", [])} - new.keys():
            iam.delete_role_policy(**role, PolicyName=name)
        for name, document in new.items():
            iam.put_role_policy(**role, PolicyName=name, PolicyDocument=document)
        old, new = set(was.get("ManagedPolicyArns", [])), set(model.get("ManagedPolicyArns", []))
        for arn in old - new:
            iam.detach_role_policy(**role, PolicyArn=arn)
        for arn in new - old:
            iam.attach_role_policy(**role, PolicyArn=arn)
        if boundary := model.get("PermissionsBoundary"):
            iam.put_role_permissions_boundary(**role, PermissionsBoundary=boundary)


def update_functions():
    """Updates functions without waiting, aliases and the destinations of failed calls; a published version stays as it
    is.

    LocalStack's own update uploads a program that is there already, and polls once a second until it is done. It has no
    update of the others. SAM gives a new version a new name.
    """
    from localstack.services.lambda_.resource_providers import (
        aws_lambda_eventinvokeconfig,
        aws_lambda_function,
        aws_lambda_version,
        lambda_alias,
    )

    @updates(aws_lambda_function.LambdaFunctionProvider, stock=True)
    def function(request, was, model):
        client, name = request.aws_client_factory.lambda_, {"FunctionName": model["FunctionName"]}

        def settle():
            while (now := client.get_function_configuration(**name))["LastUpdateStatus"] == "InProgress":
                time.sleep(0.02)
            if now["LastUpdateStatus"] != "Successful":
                raise ValueError(now.get("LastUpdateStatusReason"))

        program, reserved = {"Code", "Architectures"}, {"ReservedConcurrentExecutions"}
        settings = CHANGEABLE["AWS::Lambda::Function"] - program - reserved
        if any(was.get(key) != model.get(key) for key in program):
            client.update_function_code(**name, **aws_lambda_function._get_lambda_code_param(model, _include_arch=True))
            settle()
        if any(was.get(key) != model.get(key) for key in settings):
            new = {key: model[key] for key in settings if key in model}
            new |= {key: int(new[key]) for key in ("MemorySize", "Timeout") if key in new}
            if "Environment" in new:
                variables = new["Environment"].get("Variables", {})
                new["Environment"] = {"Variables": {key: str(value) for key, value in variables.items()}}
            client.update_function_configuration(**name, **new)
            settle()

    @updates(lambda_alias.LambdaAliasProvider)
    def alias(request, was, model):
        names = ("FunctionName", "Name", "FunctionVersion")
        request.aws_client_factory.lambda_.update_alias(**{name: model[name] for name in names})

    @updates(aws_lambda_version.LambdaVersionProvider)
    def version(request, was, model):
        pass

    @updates(aws_lambda_eventinvokeconfig.LambdaEventInvokeConfigProvider)
    def event_invoke_config(request, was, model):
        new = {name: value for name, value in model.items() if name != "Id"}
        request.aws_client_factory.lambda_.put_function_event_invoke_config(**new)


def update_tables():
    """Adds and removes a table's indexes, and switches its TTL on and off. LocalStack updates no table."""
    from localstack.services.dynamodb.resource_providers.aws_dynamodb_table import DynamoDBTableProvider

    @updates(DynamoDBTableProvider)
    def table(request, was, model):
        client, name = request.aws_client_factory.dynamodb, {"TableName": model["TableName"]}
        old = {index["IndexName"]: index for index in was.get("GlobalSecondaryIndexes") or []}
        new = {index["IndexName"]: index for index in model.get("GlobalSecondaryIndexes") or []}
        if other := [index for index in old if index in new and old[index] != new[index]]:
            raise ValueError(f"its index {other[0]} is another one now, and needs another name")
        for index in old.keys() - new.keys():
            client.update_table(**name, GlobalSecondaryIndexUpdates=[{"Delete": {"IndexName": index}}])
        for index in new.keys() - old.keys():
            attributes = {"AttributeDefinitions": model["AttributeDefinitions"]}
            client.update_table(**name, **attributes, GlobalSecondaryIndexUpdates=[{"Create": new[index]}])
        old, new = was.get("TimeToLiveSpecification"), model.get("TimeToLiveSpecification")
        if old != new:
            client.update_time_to_live(**name, TimeToLiveSpecification=new or {**old, "Enabled": False})


# The properties of a type that an update of LocalStack's, or of ours above, can change; of other types: all. And those
# that LocalStack ignores also when it creates a resource: a stage's limits, a function's reserved concurrency, a
# table's protection.
CHANGEABLE = {
    "AWS::ApiGateway::Deployment": {"Description"},
    "AWS::ApiGateway::RestApi": {"Body", "Description", "MinimumCompressionSize", "Name"},
    "AWS::ApiGateway::Stage": {"DeploymentId", "Description", "MethodSettings", "TracingEnabled", "Variables"},
    "AWS::DynamoDB::Table": {
        *("AttributeDefinitions", "GlobalSecondaryIndexes", "TimeToLiveSpecification"),
        *("DeletionProtectionEnabled", "PointInTimeRecoverySpecification"),
    },
    "AWS::IAM::ManagedPolicy": {"PolicyDocument"},
    "AWS::IAM::Role": {"AssumeRolePolicyDocument", "ManagedPolicyArns", "PermissionsBoundary", "Policies"},
    "AWS::Lambda::Alias": {"FunctionVersion"},
    "AWS::Lambda::EventSourceMapping": {
        *("BatchSize", "BisectBatchOnFunctionError", "DestinationConfig", "Enabled", "FilterCriteria", "FunctionName"),
        *("FunctionResponseTypes", "MaximumBatchingWindowInSeconds", "MaximumRecordAgeInSeconds"),
        *("MaximumRetryAttempts", "ParallelizationFactor", "ScalingConfig"),
    },
    "AWS::Lambda::Function": {
        *("Architectures", "Code", "DeadLetterConfig", "Description", "Environment", "Handler", "Layers"),
        *("LoggingConfig", "MemorySize", "ReservedConcurrentExecutions", "Role", "Runtime", "Timeout", "TracingConfig"),
    },
    "AWS::Logs::LogGroup": {"DeletionProtectionEnabled", "RetentionInDays"},
    "AWS::SNS::Topic": {"DisplayName"},
    "AWS::StepFunctions::StateMachine": {
        *("Definition", "DefinitionString", "DefinitionSubstitutions", "LoggingConfiguration"),
    },
}
# Properties of functions, mappings and state machines that LocalStack keeps when a template no longer has them.
LASTING = {
    *("DeadLetterConfig", "Description", "Environment", "Layers", "LoggingConfig", "MemorySize", "Timeout"),
    *("TracingConfig", "BisectBatchOnFunctionError", "DestinationConfig", "Enabled", "FilterCriteria"),
    *("FunctionResponseTypes", "MaximumBatchingWindowInSeconds", "MaximumRecordAgeInSeconds", "MaximumRetryAttempts"),
    *("ParallelizationFactor", "ScalingConfig", "LoggingConfiguration", "PermissionsBoundary"),
}


def fail_by_name():
    """Fails an update that LocalStack cannot make.

    It reports success, whether it has no update of the type, or one that lacks the property; and it takes what an
    update has not found for success, too.
    """
    from localstack.services.cloudformation import resource_provider as stock

    execute_stock = stock.ResourceProviderExecutor.execute_action
    check("check_not_found_exception" in execute_stock.__code__.co_names, "ResourceProviderExecutor.execute_action")

    def failed(why):
        return stock.ProgressEvent(status=stock.OperationStatus.FAILED, resource_model={}, message=why)

    def impossible(names):
        what = ", ".join(sorted(names))
        return failed(f"LocalStack cannot change its {what}; to have everything made anew: cargo local down, then up")

    def execute(self, provider, payload):
        request = stock.convert_payload(self.stack_name, self.stack_id, payload)
        if payload["action"] != "Modify" or request.previous_state is None:
            return execute_stock(self, provider, payload)
        changed = self.changed or set()
        known = CHANGEABLE.get(request.resource_type, changed)
        gone = {name for name in changed & LASTING if request.desired_state.get(name) is None}
        if request.resource_type in CHANGEABLE and (unknown := changed - known | gone):
            return impossible(unknown)
        try:
            return provider.update(request)
        except NotImplementedError:
            return impossible(changed)
        except Exception as error:
            return failed(str(error))

    stock.ResourceProviderExecutor.execute_action = execute


def undo_failed_updates():
    """Rolls a failed update back, and leaves the stack on the template that it had.

    LocalStack leaves it half done, forgets the resources that it did not get to, takes the new template for deployed,
    and calls the stack ROLLBACK_COMPLETE, as one whose creation failed.
    """
    from localstack.aws.api.cloudformation import ChangeSetType, StackStatus
    from localstack.services.cloudformation.engine.v2 import change_set_model_executor as engine

    Executor = engine.ChangeSetModelExecutor
    check("_deferred_actions" in Executor.execute.__code__.co_names, "ChangeSetModelExecutor.execute")
    check("deploy_loop" in Executor._execute_resource_action.__code__.co_names, "_execute_resource_action")
    stock_execute, stock_process, stock_action = Executor.execute, Executor.process, Executor._execute_resource_action
    stock_change = Executor._execute_resource_change

    def action(self, **told):
        event, added = stock_action(self, **told), told["action"] == engine.ChangeAction.Add
        if event.status != engine.OperationStatus.SUCCESS or told["action"] == engine.ChangeAction.Remove:
            return event
        back = {"before_properties": engine.PreprocProperties(event.resource_model), "after_properties": self.written}
        back["action"] = engine.ChangeAction.Remove if added else engine.ChangeAction.Modify

        def undo():
            self.resource_provider_executor.changed = None
            again = stock_action(self, **{**told, **back})
            self.undone &= again.status == engine.OperationStatus.SUCCESS
            named = {name: told[name] for name in ("logical_resource_id", "resource_type")}
            self._process_event(action=back["action"], event_status=again.status, reason=again.message, **named)

        self.undoing.append(engine.Deferred(f"undo {told['logical_resource_id']}", undo))
        return event

    def change(self, name, before, after):
        # As in its template: the remembered state of a resource has properties that cannot be set again.
        self.written = None if engine.is_nothing(before) else before.properties
        stock_change(self, name, before, after)

    def process(self):
        self.undoing, self.undone = [], True
        try:
            stock_process(self)
        except Exception:
            if is_update(self):
                self._deferred_actions[:] = self.undoing
            raise

    def is_update(self):
        deleting = self._change_set.stack.status == StackStatus.DELETE_IN_PROGRESS
        return self._change_set.change_set_type == ChangeSetType.UPDATE and not deleting

    def execute(self):
        updates, stack, change_set = is_update(self), self._change_set.stack, self._change_set
        resources = stack.resolved_resources
        result = stock_execute(self)
        if updates and result.failure_message:
            result.resources = resources
            for name in ("resolved_parameters", "template", "processed_template", "template_body"):
                setattr(change_set, name, getattr(stack, name))
            status = StackStatus.UPDATE_ROLLBACK_COMPLETE if self.undone else StackStatus.UPDATE_ROLLBACK_FAILED
            stack.set_stack_status(status, result.failure_message)
        return result

    Executor.execute, Executor.process = execute, process
    Executor._execute_resource_change, Executor._execute_resource_action = change, action
    # LocalStack gives no reason where a resource waits for one that failed.
    engine.TriggerRollback.__str__ = lambda self: f"it waits for {self.logical_resource_id}, which failed"


def import_gateway_responses():
    """Keeps the gateway responses of an API's Body, and removes those that it no longer has.

    LocalStack ignores them.
    """
    from localstack.aws.api.apigateway import BadRequestException
    from localstack.services.apigateway.helpers import OpenAPIExt, get_apigateway_store
    from localstack.services.apigateway.legacy import provider
    from localstack.services.apigateway.next_gen.execute_api import gateway_response as gateway

    stock = provider.import_api_from_openapi_spec
    check("GATEWAY_RESPONSES" not in stock.__code__.co_names, "apigateway import_api_from_openapi_spec")

    def read(rest_api, context, open_api_spec, mode):
        responses = {}
        for kind, told in (open_api_spec.get(OpenAPIExt.GATEWAY_RESPONSES) or {}).items():
            if kind not in gateway.DEFAULT_GATEWAY_RESPONSES:
                raise BadRequestException(f"there is no gateway response {kind}")
            status = told.get("statusCode")
            responses[kind] = gateway.build_gateway_response(
                kind,
                status_code=None if status is None else str(status),
                response_parameters=told.get("responseParameters"),
                response_templates=told.get("responseTemplates"),
                default_response=False,
            )
        answer = stock(rest_api, context=context, open_api_spec=open_api_spec, mode=mode)
        # A new object, not the same one changed: a deployment has those of its day.
        get_apigateway_store(context=context).rest_apis[rest_api.id].gateway_responses = responses
        return answer

    provider.import_api_from_openapi_spec = read


def answer_with_gateway_responses():
    """Answers in the API's own name as its gateway responses state.

    LocalStack takes their status only. A template knows variables and nothing else; as on AWS, it does not know the
    status, because no integration has answered.
    """
    from localstack.services.apigateway.next_gen.execute_api.gateway_response import get_gateway_response_or_default
    from localstack.services.apigateway.next_gen.execute_api.handlers import gateway_exception

    handler = gateway_exception.GatewayExceptionHandler
    stock = handler.create_exception_response
    check("responseTemplates" not in stock.__code__.co_consts, "GatewayExceptionHandler.create_exception_response")
    variable = re.compile(r"\$(?:\{(context(?:\.\w+)+)\}|(context(?:\.\w+)+))")

    def value(name, exception, context):
        message = exception.message
        own = {
            "context.error.message": message or "",
            "context.error.messageString": json.dumps(message),
            "context.error.responseType": exception.type,
            "context.status": "",
        }
        if name in own:
            return own[name]
        found = context.context_variables
        for part in name.split(".")[1:]:
            found = found.get(part, "") if isinstance(found, dict) else ""
        return str(found)

    def source(told, exception, context):
        if told.startswith("'"):
            return told.strip("'")
        if told.startswith("context."):
            return value(told, exception, context)
        if told.startswith("method.request.header."):
            return context.invocation_request["headers"].get(told.removeprefix("method.request.header."))
        return None

    def create(self, exception, context):
        response = stock(self, exception, context)
        told = get_gateway_response_or_default(exception.type, context.deployment.rest_api.gateway_responses)
        template = told["responseTemplates"].get("application/json", "")
        if template != '{"message":$context.error.messageString}':  # The default, which the stock code handles better.
            response.data = variable.sub(lambda match: value(match[1] or match[2], exception, context), template)
        for name, what in told["responseParameters"].items():
            header = source(what, exception, context)
            if header is not None:
                response.headers[name.removeprefix("gatewayresponse.header.")] = header
        return response

    handler.create_exception_response = create


def deploy_quickly():
    """Polls every 20 ms, not every second, whether a resource is there. The default made 100 functions take 3 minutes.

    And each poll of a function made a client of S3, to sign an address of its program that nothing asks for.
    """
    from localstack.services.cloudformation.resource_provider import ResourceProviderExecutor
    from localstack.services.lambda_.invocation.lambda_models import S3Code

    loop = ResourceProviderExecutor.deploy_loop
    check(loop.__defaults__ is not None and loop.__defaults__[1:] == (1,), "ResourceProviderExecutor.deploy_loop")
    loop.__defaults__ = (loop.__defaults__[0], 0.02)

    check("client" in S3Code.generate_presigned_url.__code__.co_names, "S3Code.generate_presigned_url")
    S3Code.generate_presigned_url = lambda self, endpoint_url: f"{endpoint_url}/{self.s3_bucket}/{self.s3_key}"


def pass_bodies_on():
    """Hands a request's body to the function byte for byte, whatever its content type is, as API Gateway does.

    LocalStack takes a form apart and puts it together again.
    """
    from localstack.runtime import get_current_runtime
    from localstack.services.apigateway.next_gen.execute_api.handlers import parse

    check(callable(getattr(parse, "restore_payload", None)), "apigateway parse.restore_payload")

    def read_first(_chain, context, _response):
        if context.request.path.startswith("/_aws/execute-api/"):
            context.request.get_data()  # Cached by the request for later readers.

    get_current_runtime().components.gateway.request_handlers.insert(0, read_first)
    parse.restore_payload = lambda request: request.get_data()


def deliver_logs_as_lambda_does():
    """Delivers the lines that a subscription's pattern matches to its function, as an asynchronous call.

    LocalStack delivers every line, waits for the function, and takes the function's failure for its own; and the first
    lines of a stream are lost where there is a subscription, because it fails after it has made the stream.
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


def wait_for_messages():
    """Lets an event source poll its queue when there is something in it.

    LocalStack calls its own API to poll, some times a second for each queue; and after a poll that found something, it
    does not poll again for a second.
    """
    from localstack.services.lambda_.event_source_mapping.esm_worker import EsmWorker
    from localstack.services.lambda_.event_source_mapping.pollers.sqs_poller import SqsPoller
    from localstack.services.sqs.models import sqs_stores
    from localstack.utils.aws.arns import parse_arn

    stock_poll, stock_loop, stock_hooks = SqsPoller.poll_events, EsmWorker.poller_loop, SqsPoller._register_client_hooks
    check("receive_message" in stock_poll.__code__.co_names, "SqsPoller.poll_events")
    check("_shutdown_event" in stock_loop.__code__.co_names, "EsmWorker.poller_loop")
    check("source_client" in stock_hooks.__code__.co_names, "SqsPoller._register_client_hooks")

    def arrivals(poller):
        """The object that its queue puts receivable messages or groups in."""
        arn = parse_arn(poller.source_arn)
        queue = sqs_stores[arn["account"]][arn["region"]].queues.get(arn["resource"])
        return getattr(queue, "visible", None) or getattr(queue, "message_group_queue", None)

    def poll_events(self):
        waiting = arrivals(self)
        # With a batching window it waits by itself.
        if waiting is None or self.maximum_batching_window:
            return stock_poll(self)
        with waiting.not_empty:
            if not waiting._qsize():
                waiting.not_empty.wait(0.5)
            found = waiting._qsize()
        # The source may have been switched off meanwhile.
        if found and not self.leaving.is_set():
            stock_poll(self)

    def poller_loop(self, *args, **kwargs):
        self.poller.leaving = self._shutdown_event
        stock_loop(self, *args, **kwargs)

    def register_client_hooks(self):
        # Event sources share a client, and each call of it went through the hooks of all of them.
        if not hasattr(self.source_client, "has_hooks"):
            self.source_client.has_hooks = True
            stock_hooks(self)

    SqsPoller.leaving = threading.Event()
    SqsPoller.poll_events, EsmWorker.poller_loop = poll_events, poller_loop
    SqsPoller._register_client_hooks = register_client_hooks


def be_on_time():
    """Checks ten times a second for messages whose delay or visibility timeout is over, where LocalStack checks
    once."""
    from localstack.services.sqs import provider

    Worker = provider.QueueUpdateWorker
    check({1, "sqs-queue-update-worker"} <= {*Worker.start.__code__.co_consts}, "QueueUpdateWorker.start")

    def start(self):
        with self.mutex:
            if not self.thread:
                self.scheduler = provider.Scheduler()
                self.scheduler.schedule(self.do_update_all_queues, period=0.1)
                self.thread = provider.start_thread(lambda *_: self.scheduler.run(), name="sqs-queue-update-worker")

    Worker.start = start


def look_at_alarms_directly():
    """Reads an alarm where it is stored, and data of its metric only where there ever was any.

    LocalStack calls its own API half a dozen times to read an alarm: when it is made, and then once a period.
    """
    from localstack.services.cloudwatch import alarm_scheduler
    from localstack.services.cloudwatch.cloudwatch_database_helper import CloudwatchDatabase
    from localstack.services.cloudwatch.models import cloudwatch_stores
    from localstack.utils.aws.arns import parse_arn

    stock_collect, stock_add = alarm_scheduler.collect_metric_data, CloudwatchDatabase.add_metric_data
    code = stock_collect.__code__
    check("get_metric_data" in code.co_names and "collected_periods" in code.co_varnames, "collect_metric_data")
    details = alarm_scheduler.get_metric_alarm_details_for_alarm_arn
    check("describe_alarms" in details.__code__.co_names, "get_metric_alarm_details_for_alarm_arn")
    told = set()

    def add(self, account_id, region, namespace, metric_data):
        told.update((namespace, metric.get("MetricName")) for metric in metric_data)
        return stock_add(self, account_id, region, namespace, metric_data)

    def collect(alarm, client):
        if (alarm.get("Namespace"), alarm["MetricName"]) in told:
            return stock_collect(alarm, client)
        periods = alarm["EvaluationPeriods"]
        return [None] * (periods + max(periods // 3, 2))

    def read(alarm_arn):
        arn = parse_arn(alarm_arn)
        kept = cloudwatch_stores[arn["account"]][arn["region"]].alarms.get(alarm_arn)
        return dict(kept.alarm) if kept else None

    CloudwatchDatabase.add_metric_data, alarm_scheduler.collect_metric_data = add, collect
    alarm_scheduler.get_metric_alarm_details_for_alarm_arn = read


def remember_content_types():
    """Parses each content type once, where Twisted makes an e-mail of it for every request to read it off that."""
    from twisted.web import http

    check("_parseContentType" in http.Request.requestReceived.__code__.co_names, "twisted.web.http._parseContentType")
    check(http._parseContentType(b"Text/Plain; a=b") == b"text/plain", "twisted.web.http._parseContentType")
    http._parseContentType = lru_cache(maxsize=256)(http._parseContentType)


def one_clock_for_idle_functions():
    """Ends idle functions from one thread, where LocalStack starts one after every call."""
    from localstack.services.lambda_.invocation import execution_environment

    check(execution_environment.Timer is threading.Timer, "execution_environment.Timer")
    due, changed, count = [], threading.Condition(), itertools.count()

    class Timer:
        def __init__(self, interval, function):
            self.interval, self.function = interval, function

        def start(self):
            with changed:
                heapq.heappush(due, (time.monotonic() + self.interval, next(count), self))
                if due[0][2] is self:
                    changed.notify()

        def cancel(self):
            self.function = None

    def run():
        while True:
            with changed:
                while not due or due[0][0] > time.monotonic():
                    changed.wait(due[0][0] - time.monotonic() if due else None)
                function = heapq.heappop(due)[2].function
            if function is not None:
                threading.Thread(target=function, daemon=True).start()

    threading.Thread(target=run, daemon=True, name="idle-functions").start()
    execution_environment.Timer = Timer


def call_functions_directly():
    """Hands an internal call (API Gateway, event sources, rules, state machines) to Lambda's provider.

    LocalStack makes a signed request of it and takes that apart again, which was more work than all the rest of a call.
    """
    from botocore.response import StreamingBody
    from localstack.aws.api import ServiceException
    from localstack.aws.client import GatewayShortCircuit
    from localstack.services.lambda_.api_utils import function_locators_from_arn
    from localstack.services.lambda_.provider import LambdaProvider
    from localstack.utils.xray.trace_header import TraceHeader

    stock_init, stock_modify = LambdaProvider.__init__, GatewayShortCircuit.modify_client
    check("before-send.*.*" in stock_modify.__code__.co_consts, "GatewayShortCircuit.modify_client")
    check("lambda_service" in LambdaProvider.invoke.__code__.co_names, "LambdaProvider.invoke")
    providers = []

    def init(self):
        stock_init(self)
        providers[:] = [self]

    def invoke(client, stock, told):
        known = {"FunctionName", "Payload", "InvocationType", "Qualifier", "_ServicePrincipal", "_SourceArn"}
        name, _, account, region = function_locators_from_arn(told.get("FunctionName", ""))
        if not (providers and name and account and region) or not told.keys() <= known:
            return stock(**told)
        payload, id = told.get("Payload") or b"", str(uuid.uuid4())
        context = types.SimpleNamespace(
            account_id=account,
            region=region,
            request_id=id,
            operation=client.meta.service_model.operation_model("Invoke"),
            request=types.SimpleNamespace(user_agent=types.SimpleNamespace(string="")),
            trace_context={"aws_trace_header": TraceHeader().ensure_root_exists()},
        )
        try:
            answer = providers[0].invoke(
                context,
                function_name=told["FunctionName"],
                invocation_type=told.get("InvocationType"),
                payload=io.BytesIO(payload.encode() if isinstance(payload, str) else payload),
                qualifier=told.get("Qualifier"),
            )
        except ServiceException as error:
            said = {"Error": {"Code": error.code, "Message": error.message}, "message": error.message}
            said["ResponseMetadata"] = {"RequestId": id, "HTTPStatusCode": error.status_code}
            raise client.exceptions.from_code(error.code)(said, "Invoke") from error
        body = answer.get("Payload") or b""
        body = body.encode() if isinstance(body, str) else body
        metadata = {"RequestId": id, "HTTPStatusCode": answer["StatusCode"], "HTTPHeaders": {}, "RetryAttempts": 0}
        return {**answer, "Payload": StreamingBody(io.BytesIO(body), len(body)), "ResponseMetadata": metadata}

    def modify(client, gateway):
        stock_modify(client, gateway)
        if client.meta.service_model.service_name == "lambda":
            stock = client.invoke
            client.invoke = lambda **told: invoke(client, stock, told)

    LambdaProvider.__init__, GatewayShortCircuit.modify_client = init, staticmethod(modify)


def share_parsers():
    """Makes one parser per service description, where LocalStack makes one for each client: its table of routes and
    shapes is most of a client's first call."""
    from localstack.aws import skeleton
    from localstack.aws.handlers import service as handlers
    from localstack.aws.protocol import parser

    stock, made = parser.create_parser, {}
    check(handlers.create_parser is stock and skeleton.create_parser is stock, "create_parser")

    def create_parser(service, protocol=None):
        # The client's description is kept, so that no other gets its address.
        key = (id(service._service_description), protocol)
        if key not in made:
            made[key] = (stock(service, protocol), service)
        return made[key][0]

    handlers.create_parser = skeleton.create_parser = create_parser


def read_endpoints_once():
    """Reads the list of all regions' endpoints once, where botocore reads it for every session, and LocalStack makes a
    session for every service to ask for its regions."""
    from botocore.loaders import JSONFileLoader

    stock, lock, read = JSONFileLoader.load_file, threading.Lock(), {}
    check("_load_file" in stock.__code__.co_names, "JSONFileLoader.load_file")

    def load_file(self, file_path):
        if not file_path.endswith("endpoints"):
            return stock(self, file_path)
        with lock:
            if file_path not in read:
                read[file_path] = stock(self, file_path)
            return read[file_path]

    JSONFileLoader.load_file = load_file


def stay_in_a_role():
    """Assumes a role once per caller, where LocalStack assumes it, and makes a client of it, for each task of a state
    machine."""
    from localstack.aws.connect import ClientFactory

    stock, lock, assumed = ClientFactory.with_assumed_role, threading.Lock(), {}
    check("assume_role" in stock.__code__.co_names, "ClientFactory.with_assumed_role")

    def with_assumed_role(self, *, session_name=None, **told):
        key = (id(self), *sorted(told.items(), key=lambda item: item[0]))
        with lock:
            found = assumed.get(key)
        if found is None:
            found = stock(self, session_name=session_name, **told)
            with lock:
                assumed[key] = found
        return found

    ClientFactory.with_assumed_role = with_assumed_role


def tell_only_who_listens():
    """Formats the log record of a call only where its logger is enabled."""
    import logging

    from localstack.aws.handlers.logging import ResponseLogger

    stock = ResponseLogger._log
    check("aws_logger" in stock.__code__.co_varnames, "ResponseLogger._log")
    names = ("request.aws", "request.http", "request.internal.aws", "request.internal.http")
    loggers = [logging.getLogger(f"localstack.{name}") for name in names]

    def log(self, context, response):
        if any(logger.isEnabledFor(logging.INFO) for logger in loggers):
            stock(self, context, response)

    ResponseLogger._log = log


accept_nulls()
transform_first()
make_what_services_have()
replace_only_what_must_be()
update_apis()
update_rules()
update_what_is_watched()
update_roles()
update_functions()
update_tables()
fail_by_name()
undo_failed_updates()
import_gateway_responses()
answer_with_gateway_responses()
deploy_quickly()
pass_bodies_on()
deliver_logs_as_lambda_does()
keep_logs_where_told()
wait_for_messages()
look_at_alarms_directly()
remember_content_types()
one_clock_for_idle_functions()
call_functions_directly()
stay_in_a_role()
tell_only_who_listens()
be_on_time()
share_parsers()
read_endpoints_once()
