//! Ten stacks side by side: none contains another, each declares what it uses, and their order has no cycle.

use crate::none;
use crate::releases::watched_by_canaries;
use crate::template::{Stacks, Template, each, logical_id};
use crate::workspace::contexts;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The stack that all others need.
const PLATFORM: &str = "platform";
/// The stack in front of all others.
const EDGE: &str = "edge";

/// How many functions may read the stream of a table; more would be throttled:
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Streams.html>.
const MOST_READERS: usize = 2;

fn object(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, member)| (name.as_str(), member))
}

fn names(value: &Value) -> BTreeSet<String> {
    object(value).map(|(name, _)| name.to_owned()).collect()
}

fn listed(value: &Value) -> BTreeSet<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The logical ids that a value uses: resources and parameters, and conditions.
#[derive(Default)]
struct Used {
    ids: BTreeSet<String>,
    conditions: BTreeSet<String>,
}

impl Used {
    fn by<'a>(values: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut used = Self::default();
        for value in values {
            each(value, &mut |value| used.look(value));
        }
        used
    }

    fn look(&mut self, value: &Value) {
        let first = |path: &str| path.split('.').next().unwrap_or_default().to_owned();
        self.ids.extend(["Ref", "Fn::GetAtt"].iter().filter_map(|key| value[key].as_str().map(first)));
        let text = value["Fn::Sub"].as_str().unwrap_or_default();
        self.ids.extend(text.split("${").skip(1).filter_map(|rest| Some(first(rest.split_once('}')?.0))));
        self.ids.extend(value["DependsOn"].as_str().map(str::to_owned));
        let conditions = [&value["Fn::If"][0], &value["Condition"], &value["Fn::Condition"]];
        self.conditions.extend(conditions.into_iter().filter_map(Value::as_str).map(str::to_owned));
    }

    /// With what the used conditions use themselves.
    fn through(mut self, conditions: &Value) -> Self {
        let mut open: Vec<String> = self.conditions.iter().cloned().collect();
        while let Some(name) = open.pop() {
            let more = Self::by([&conditions[name]]);
            self.ids.extend(more.ids);
            open.extend(more.conditions.into_iter().filter(|name| self.conditions.insert(name.clone())));
        }
        self
    }
}

/// Violations in what a stack declares and refers to.
fn wrong_references(template: &Template) -> Vec<String> {
    let mut violations = Vec::new();
    for (stack, document) in template.stacks() {
        let sections = ["Globals", "Resources", "Outputs"].map(|section| &document[section]);
        let used = Used::by(sections).through(&document["Conditions"]);
        let compared = Used::by([&document["Rules"]]);
        let (parameters, conditions) = (names(&document["Parameters"]), names(&document["Conditions"]));
        let known: BTreeSet<String> = parameters.union(&names(&document["Resources"])).cloned().collect();
        let foreign = used.ids.union(&compared.ids).filter(|id| !id.starts_with("AWS::") && !known.contains(*id));
        violations.extend(foreign.map(|id| format!("{stack} refers to {id}, which it does not have")));
        let unknown = used.conditions.difference(&conditions);
        violations.extend(unknown.map(|name| format!("{stack} goes by the condition {name}, which it does not have")));
        let idle = parameters.difference(&used.ids);
        violations.extend(idle.map(|name| format!("{stack} has the parameter {name} and does not use it")));
        let idle = conditions.difference(&used.conditions);
        violations.extend(idle.map(|name| format!("{stack} has the condition {name} and does not use it")));
        if !parameters.contains("System") {
            violations.push(format!("{stack} does not say which system it is of"));
        }
    }
    violations
}

/// What locks stacks to each other, or cannot be deployed alone.
fn locks(template: &Template) -> Vec<String> {
    let mut violations = Vec::new();
    for (stack, document) in template.stacks() {
        each(document, &mut |value| {
            for import in ["Fn::ImportValue", "Fn::GetStackOutput"].iter().filter(|import| !value[**import].is_null()) {
                violations.push(format!("{stack} takes {} by {import}: name it instead", value[import]));
            }
        });
        for (name, output) in object(&document["Outputs"]) {
            if !output["Export"].is_null() {
                violations.push(format!("{stack} exports {name}, which nobody could change then"));
            }
        }
        for (id, resource) in object(&document["Resources"]) {
            if ["AWS::CloudFormation::Stack", "AWS::Serverless::Application"]
                .iter()
                .any(|kind| resource["Type"] == *kind)
            {
                violations.push(format!("{id} of {stack} is a stack in a stack"));
            }
        }
    }
    violations
}

#[test]
fn a_stack_refers_to_what_it_has_declares_what_it_uses_and_is_locked_to_no_other() {
    let template = Template::read();
    none([wrong_references(&template), locks(&template)].concat());
    let expected: BTreeSet<String> = contexts().into_iter().chain([PLATFORM, EDGE].map(str::to_owned)).collect();
    assert_eq!(template.stacks().keys().cloned().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn a_reference_into_another_stack_and_a_declaration_for_nothing_are_found() {
    let stacks = Stacks::read();
    for (part, broken) in [
        ("EVENT_BUS: !Sub ${System}-bus", "EVENT_BUS: !Ref Bus"),
        ("TABLE: !Ref ItemsTable", "TABLE: !GetAtt PointsTable.Name"),
        ("!Sub ${PointsTable.Arn}/index/unpublished", "!Sub ${OrdersTable.Arn}/index/unpublished"),
        ("DependsOn: JoinQueueLogsPermission", "DependsOn: GetCartLogsPermission"),
        ("!If [IsProduction, 90, 14]", "!If [IsTraced, 90, 14]"),
        ("Condition: HasAlarmEmail", "Condition: HasNotion"),
        ("        STAGE: !Ref Stage\n", "        STAGE: !Ref Area\n"),
        // These are not used.
        ("\nParameters:\n", "\nParameters:\n  QueueShards: { Type: Number }\n"),
        ("\nConditions:\n", "\nConditions:\n  IsIdle: !Equals [!Ref Stage, idle]\n"),
        ("        LOG_LEVEL: !Ref LogLevel\n", ""),
        ("      Endpoint: !Ref AlarmEmail\n", "      Endpoint: !ImportValue alarm-email\n"),
        ("    Value: !Ref Api\n", "    Value: !Ref Api\n    Export: { Name: api }\n"),
        ("Type: AWS::SNS::Subscription", "Type: AWS::CloudFormation::Stack"),
    ] {
        let template = stacks.edited(part, broken).template();
        assert!(![wrong_references(&template), locks(&template)].concat().is_empty(), "{part}");
    }
}

/// Declarations that differ between stacks: a stage gives each the same values.
fn declared_otherwise(template: &Template) -> Vec<String> {
    let mut first: BTreeMap<(&str, &str), (&str, &Value)> = BTreeMap::new();
    let mut violations = Vec::new();
    for (stack, document) in template.stacks() {
        for section in ["Parameters", "Conditions", "Rules"] {
            for (name, declared) in object(&document[section]) {
                let (other, before) = *first.entry((section, name)).or_insert((stack, declared));
                if before != declared {
                    violations.push(format!("{name} is something else in {stack} than in {other}"));
                }
            }
        }
    }
    violations
}

#[test]
fn a_parameter_and_a_condition_are_the_same_in_every_stack_that_has_them() {
    let stacks = Stacks::read();
    none(declared_otherwise(&stacks.template()));
    for (part, broken) in [
        ("Default: info", "Default: debug"),
        ("IsProduction: !Equals [!Ref Stage, prod]", "IsProduction: !Equals [!Ref Stage, production]"),
    ] {
        assert!(!declared_otherwise(&stacks.edited(part, broken).template()).is_empty(), "{part}");
    }
}

/// What CloudFormation or a service looks up when a stack is made: it has to exist before.
const LOOKED_FOR: [&str; 4] =
    ["AWS::Events::EventBus", "AWS::IAM::ManagedPolicy", "AWS::IAM::Role", "AWS::SSM::Parameter"];

/// Violations in which stacks must come before which, as they state it.
fn wrong_order(template: &Template) -> Vec<String> {
    let mut violations = Vec::new();
    let stacks: BTreeSet<&String> = template.stacks().keys().collect();
    let mut before: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (stack, document) in template.stacks() {
        let encore = &document["Metadata"]["Encore"];
        let (needs, after) = (listed(&encore["Needs"]), listed(&encore["After"]));
        if encore["Stack"] != stack.as_str() {
            violations.push(format!("{stack} says it is {}", encore["Stack"]));
        }
        let unknown = needs.union(&after).filter(|name| !stacks.contains(name));
        violations.extend(unknown.map(|name| format!("{stack} waits for {name}, which is no stack")));
        let in_it = |id: &str| template.stack_of(id) == stack;
        let namings = template.namings().iter().filter(|naming| in_it(&naming.from) && !in_it(&naming.to));
        let looked_for = namings.filter(|naming| LOOKED_FOR.contains(&template.kind_of(&naming.to)));
        let mut expected: BTreeSet<String> =
            looked_for.map(|naming| template.stack_of(&naming.to).to_owned()).collect();
        // Every deployed stack is watched.
        expected.extend((stack != PLATFORM).then(|| PLATFORM.to_owned()));
        violations.extend(expected.difference(&needs).map(|name| format!("{stack} does not say that it needs {name}")));
        violations.extend(needs.difference(&expected).map(|name| format!("{stack} needs {name} for nothing")));
        // Nothing may be called that does not exist yet, or that has another shape yet.
        let called = template.routes().into_iter().filter_map(|route| route.function());
        let called = called.filter(|_| stack == EDGE).map(|id| template.stack_of(&id).to_owned());
        let early = called.filter(|name| !after.contains(name)).collect::<BTreeSet<_>>();
        violations.extend(early.into_iter().map(|name| format!("{stack} does not come after {name}, which it calls")));
        before.insert(stack, needs.union(&after).cloned().collect());
    }
    violations.extend(circle(before));
    violations
}

/// The stacks that wait for each other.
fn circle(mut before: BTreeMap<&str, BTreeSet<String>>) -> Option<String> {
    while let Some(free) = before.iter().find(|(_, names)| names.is_empty()).map(|(stack, _)| (*stack).to_owned()) {
        before.remove(free.as_str());
        before.values_mut().for_each(|names| names.retain(|name| *name != free));
    }
    let waiting: Vec<&str> = before.into_keys().collect();
    (!waiting.is_empty()).then(|| format!("these wait for each other: {}", waiting.join(", ")))
}

#[test]
fn a_stack_states_which_come_before_it_and_their_order_goes_in_no_circle() {
    let template = Template::read();
    none(wrong_order(&template));
    let needs = |stack: &str| listed(&template.stacks()[stack]["Metadata"]["Encore"]["Needs"]);
    // The one that reads another's stream.
    assert!(needs("concerts").contains("reservations") && needs("reservations").len() == 1);
}

#[test]
fn a_stack_that_comes_too_early_or_waits_for_nothing_is_found() {
    let stacks = Stacks::read();
    let metadata = |stack: &str, needs: &str| format!("{{ Stack: {stack}, Needs: [{needs}], After: [");
    for (stack, needs, broken) in [
        ("concerts", "platform, reservations", "platform"),
        ("concerts", "platform, reservations", "reservations"),
        ("items", "platform", ""),
        ("items", "platform", "platform, points"),
        ("items", "platform", "platform, stock"),
        ("platform", "", "edge"),
        ("reservations", "platform", "platform, concerts"),
        ("edge", "platform", ""),
    ] {
        let template = stacks.edited(&metadata(stack, needs), &metadata(stack, broken)).template();
        assert!(!wrong_order(&template).is_empty(), "{stack} needs {broken}");
    }
    for (part, broken) in [("After: [concerts, items,", "After: [concerts,"), ("Stack: orders,", "Stack: order,")] {
        assert!(!wrong_order(&stacks.edited(part, broken).template()).is_empty(), "{part}");
    }
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(circle(BTreeMap::from([("a", names(&["b"])), ("b", names(&[]))])), None);
    assert!(circle(BTreeMap::from([("a", names(&["b"])), ("b", names(&["c"])), ("c", names(&["b"]))])).is_some());
}

/// Tables whose stream has too many readers.
fn crowded_streams(template: &Template) -> Vec<String> {
    let mut readers: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for function in template.functions() {
        for trigger in function.triggers().iter().filter(|trigger| trigger.kind == "DynamoDB") {
            let table = logical_id(&trigger.properties["Stream"]).unwrap_or_default();
            readers.entry(table).or_default().push(function.id);
        }
    }
    let crowded = readers
        .into_iter()
        .filter(|(table, readers)| readers.len() > MOST_READERS || template.kind_of(table) != "AWS::DynamoDB::Table");
    crowded.map(|(table, readers)| format!("the stream of {table:?} is read by {}", readers.join(", "))).collect()
}

#[test]
fn no_stream_of_a_table_has_more_than_two_readers() {
    let stacks = Stacks::read();
    none(crowded_streams(&stacks.template()));
    for stream in ["!Sub \"{{resolve:ssm:/${System}/streams/reservations}}\"", "!GetAtt ReservationsTable.StreamArn"] {
        let third = stacks.edited("Stream: !GetAtt PointsTable.StreamArn", &format!("Stream: {stream}"));
        assert_eq!(crowded_streams(&third.template()).len(), 1, "{stream}");
    }
    let of_none = stacks.edited("Stream: !GetAtt PointsTable.StreamArn", "Stream: !Ref NowhereStream");
    assert_eq!(crowded_streams(&of_none.template()).len(), 1);
}

/// Alarms in another stack than what they watch.
fn misplaced_alarms(template: &Template) -> Vec<String> {
    let watched = watched_by_canaries(template);
    let all = contexts();
    let mut violations = Vec::new();
    for (id, alarm) in template.resources("AWS::CloudWatch::Alarm") {
        let dimensions = alarm["Dimensions"].as_array().into_iter().flatten();
        let of = dimensions.filter_map(|dimension| match dimension["Name"].as_str() {
            Some("Context") => dimension["Value"].as_str().map(str::to_owned),
            _ => Some(template.stack_of(&logical_id(&dimension["Value"])?).to_owned()),
        });
        let of = of.into_iter().find(|stack| all.contains(stack));
        // Alarms of no context are of all; and those that canaries watch exist before the canaries.
        let home = of.filter(|_| !watched.contains(id)).unwrap_or_else(|| PLATFORM.to_owned());
        if template.stack_of(id) != home {
            violations.push(format!("{id} is in {}, and what it watches in {home}", template.stack_of(id)));
        }
    }
    violations
}

#[test]
fn an_alarm_stands_where_what_it_watches_does_and_what_canaries_watch_in_the_platform() {
    let stacks = Stacks::read();
    let template = stacks.template();
    none(misplaced_alarms(&template));
    let watched = watched_by_canaries(&template);
    let expected = ["ApiErrorsAlarm", "BrokenAlarm", "CrashesAlarm", "ParkedPaymentsAlarm"];
    assert_eq!(watched.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    for (part, broken) in [
        ("Value: !Ref ProjectSeatMap", "Value: !Sub \"${System}-parked-payments\""),
        ("{ Name: Context, Value: items }", "{ Name: Context, Value: points }"),
        (", { Name: Context, Value: items }", ""),
        ("- !Sub ${System}-broken", "- !Sub ${System}-payment-age"),
    ] {
        let edited = if part.starts_with("Value") {
            stacks.edited(&format!("Name: FunctionName, {part}"), &format!("Name: QueueName, {broken}"))
        } else {
            stacks.edited(part, broken)
        };
        assert_eq!(misplaced_alarms(&edited.template()).len(), 1, "{part}");
    }
}

/// Resources that are named where they could be referred to: CloudFormation would not make them first.
fn named_at_home(template: &Template) -> Vec<String> {
    let at_home = template
        .namings()
        .iter()
        .filter(|naming| template.stack_of(&naming.from) == template.stack_of(&naming.to) && naming.from != naming.to);
    let may =
        |from: &str, to: &str| NAMED_AT_HOME.iter().any(|(by, kind)| *by == from && *kind == template.kind_of(to));
    let found = at_home.filter(|naming| !may(&naming.from, &naming.to));
    found.map(|naming| format!("{} names {}, which is in its own stack: refer to it", naming.from, naming.to)).collect()
}

/// Resources that name others of their own stack, and may: they are not looked up when the stack is made.
const NAMED_AT_HOME: [(&str, &str); 2] = [
    // All queues of the system, in one list.
    ("WatchDeadLetters", "AWS::SQS::Queue"),
    // An alarm is the same in every stack.
    ("ParkedPaymentsAlarm", "AWS::SNS::Topic"),
];

#[test]
fn what_is_in_the_same_stack_is_referred_to_and_not_named() {
    let stacks = Stacks::read();
    none(named_at_home(&stacks.template()));
    let name =
        "!Sub arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:${System}-complete-payment:live";
    let edited = stacks.edited("CompletePayment: !Ref CompletePayment.Alias", &format!("CompletePayment: {name}"));
    assert_eq!(named_at_home(&edited.template()).len(), 1);
}
