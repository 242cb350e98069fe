//! Failures during a deployment: an interrupt, or a lost answer.

use crate::stages::tools;
use crate::{Account, ISSUER, JWKS, Run, block_on, script};
use serde_json::json;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

/// Three stacks: one is being applied, one waits for it, and of one the change set is being made when the interrupt
/// comes.
const INTERRUPTED: &str = r"
import os, signal, threading
from delivery.rollout import Part, Rollout
begun, discarded, said, applying = [], [], [], threading.Event()
def until(condition):
    while not condition():
        threading.Event().wait(0.01)

class Fake:
    def __init__(self, name):
        self.name = name
    def change_set(self, *_):
        if self.name == 'made':
            applying.wait()
            os.kill(os.getpid(), signal.SIGINT)
            # Of whoever comes too late: what is made now must not be applied.
            until(lambda: rollout.stopped)
        return []
    def discard(self, *_):
        discarded.append(self.name)
    def moment(self):
        return None
    def begin(self, _):
        begun.append(self.name)
    def finish(self, _):
        applying.set()
        threading.Event().wait()

signal.signal(signal.SIGINT, signal.default_int_handler)
part = lambda name, shows: Part(Fake(name), '', {}, {}, 1, shows, shows)
parts = {'applied': part('applied', False), 'made': part('made', False), 'waits': part('waits', True)}
rollout = Rollout('deploy-1', parts, {'applied': (), 'made': (), 'waits': ['applied']}, False, False, said.append)
rollout.prepare()
try:
    rollout.apply()
except KeyboardInterrupt:
    rollout.stop()
finally:
    rollout.discard()
# This one, and the one that watches what is being applied.
until(lambda: threading.active_count() == 2)
print(json.dumps([begun, sorted(discarded), said]))
";

#[test]
fn nothing_is_begun_after_an_interrupt_and_what_was_not_applied_is_thrown_away() {
    let still = "interrupted; CloudFormation is still at applied: when it is done, the same command goes on";
    assert_eq!(tools(INTERRUPTED), json!([["applied"], ["made", "waits"], ["applied: applying", still]]));
}

#[test]
fn a_deployment_that_is_ended_leaves_what_it_reported_as_begun_and_nothing_else() {
    block_on(async {
        let account = Account::open().await;
        let arguments = ["dev", "--yes", "--no-build", "--parameter", JWKS, "--parameter", ISSUER];
        let mut command = script("deploy", &account.scratch, &arguments);
        account.reached_by(&mut command);
        let mut running = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(running.stderr.take().unwrap());
        let mut text = String::new();
        while !text.contains("platform: applying") {
            assert!(lines.read_line(&mut text).unwrap() > 0, "{text}");
        }
        assert!(Command::new("kill").arg(running.id().to_string()).status().unwrap().success());
        lines.read_to_string(&mut text).unwrap();
        let well = running.wait().unwrap().success();
        let run = Run { text, well };
        run.has(false, &["deploy: interrupted"]);
        assert!(!run.text.contains("Traceback"), "{}", run.text);

        // A stack that was not begun would stay in review.
        let settled = async || {
            let ended = account.statuses().await.into_values().all(|status| !status.ends_with("_IN_PROGRESS"));
            ended.then_some(())
        };
        tests::cloud::eventually("what was begun comes to its end", settled).await;
        for stack in account.statuses().await.into_keys() {
            assert!(run.text.contains(&format!("{stack}: applying")), "{stack} is there: {}", run.text);
        }
        account.deploy(&["--yes", "--parameter", JWKS, "--parameter", ISSUER]).has(true, &["edge: done"]);
        account.stack.stop().await.unwrap();
    });
}

/// A stack of a CloudFormation that did what was requested, whose answer was lost, and that gets the request again.
const LOST: &str = r"
import types, boto3
from botocore.exceptions import ClientError
from botocore.stub import ANY, Stubber
from delivery.stack import Stack
cfn = boto3.client('cloudformation', region_name='ap-northeast-2', aws_access_key_id='-', aws_secret_access_key='-')
stack, asked = Stack(types.SimpleNamespace(cfn=cfn), 'encore-dev-items'), Stubber(cfn)
asked.activate()
of = {'StackName': 'encore-dev-items', 'ChangeSetName': 'deploy-1'}
token = 'encore-dev-items-deploy-1'
";

#[test]
fn what_is_requested_twice_because_an_answer_was_lost_is_begun_once_and_watched() {
    let made = tools(&format!(
        "{LOST}
given = {{**of, 'ClientToken': token, **dict.fromkeys(
    ('ChangeSetType', 'TemplateURL', 'Capabilities', 'Parameters', 'Tags'), ANY)}}
asked.add_client_error('create_change_set', 'AlreadyExistsException', expected_params=given)
asked.add_response('describe_change_set', {{'Status': 'CREATE_COMPLETE', 'Changes': []}}, of)
print(json.dumps(stack.change_set('deploy-1', True, 'https://example.com/t.yaml', {{}}, {{}})))"
    ));
    assert_eq!(made, json!([]));

    let applied = |code: &str, execution: &str| {
        tools(&format!(
            "{LOST}
asked.add_client_error('execute_change_set', '{code}', expected_params={{**of, 'ClientRequestToken': token}})
asked.add_response('describe_change_set', {{'Status': 'CREATE_COMPLETE', 'ExecutionStatus': '{execution}'}}, of)
try:
    stack.begin('deploy-1')
    print(json.dumps('begun'))
except ClientError as error:
    print(json.dumps(error.response['Error']['Code']))"
        ))
    };
    assert_eq!(applied("InvalidChangeSetStatus", "EXECUTE_IN_PROGRESS"), "begun");
    assert_eq!(applied("InvalidChangeSetStatus", "EXECUTE_COMPLETE"), "begun");
    assert_eq!(applied("TokenAlreadyExistsException", "EXECUTE_IN_PROGRESS"), "begun");
    assert_eq!(applied("InvalidChangeSetStatus", "OBSOLETE"), "InvalidChangeSetStatus");
    assert_eq!(applied("ChangeSetNotFound", "EXECUTE_IN_PROGRESS"), "ChangeSetNotFound");
}

/// What is left of a production stack whose first deployment failed: CloudFormation could not remove its table, which
/// is protected. The local engine could.
const NEVER_CAME_TO_BE: &str = r"
import types, boto3
from botocore.stub import Stubber
from delivery.environment import Refused
from delivery.stack import Stack
known = dict(region_name='ap-northeast-2', aws_access_key_id='-', aws_secret_access_key='-')
cfn, dynamodb = boto3.client('cloudformation', **known), boto3.client('dynamodb', **known)
stack = Stack(types.SimpleNamespace(cfn=cfn, dynamodb=dynamodb, region='ap-northeast-2'), 'encore-prod-items')
asked, tables = Stubber(cfn), Stubber(dynamodb)
asked.activate(), tables.activate()
name, table = {'StackName': 'encore-prod-items'}, {'TableName': 'encore-prod-items'}
described = {**name, 'StackId': 'arn:it', 'CreationTime': 0, 'StackStatus': 'ROLLBACK_FAILED'}
def holds(items):
    kept = {'LogicalResourceId': 'ItemsTable', 'PhysicalResourceId': 'encore-prod-items', 'LastUpdatedTimestamp': 0}
    kept.update(ResourceType='AWS::DynamoDB::Table', ResourceStatus='DELETE_FAILED')
    asked.add_response('list_stack_resources', {'StackResourceSummaries': [kept]}, name)
    tables.add_response('describe_table', {'Table': {'DeletionProtectionEnabled': True}}, table)
    tables.add_response('scan', {'Count': items}, {**table, 'Limit': 1, 'ConsistentRead': True})
";

#[test]
fn what_is_left_of_a_production_stack_that_never_came_to_be_goes_unless_there_is_data_in_it() {
    let gone = tools(&format!(
        "{NEVER_CAME_TO_BE}
holds(0)
stack.refuse_unready(described)
asked.add_response('describe_stacks', {{'Stacks': [described]}}, name)
holds(0)
tables.add_response('update_table', {{}}, {{**table, 'DeletionProtectionEnabled': False}})
tables.add_response('describe_table', {{'Table': {{'TableStatus': 'ACTIVE'}}}}, table)
asked.add_response('describe_stacks', {{'Stacks': [described]}}, name)
asked.add_response('delete_stack', {{}}, name)
asked.add_client_error('describe_stacks', 'ValidationError')
asked.add_response('describe_stack_events', {{'StackEvents': []}}, {{'StackName': 'arn:it'}})
stack.clear()
asked.assert_no_pending_responses(), tables.assert_no_pending_responses()
print(json.dumps('gone'))"
    ));
    assert_eq!(gone, "gone");

    let refused = tools(&format!(
        "{NEVER_CAME_TO_BE}
def refusal(work):
    try:
        work()
    except Refused as refused:
        return str(refused)
holds(1)
before = refusal(lambda: stack.refuse_unready(described))
asked.add_response('describe_stacks', {{'Stacks': [described]}}, name)
holds(1)
print(json.dumps([before, refusal(stack.clear)]))"
    ));
    let why = "the stack encore-prod-items is ROLLBACK_FAILED, and there is data in encore-prod-items: have it somewhere \
               else, then deploy again";
    assert_eq!(refused, json!([why, why]));
}
