//! The runbook names nothing that does not exist, and everything that pages the on-call has its entry in it.

use crate::code::{Source, path_text};
use crate::none;
use crate::template::{Stacks, Template, logical_id};
use crate::workspace::{contexts, crate_dir, root, rust_files, text};
use contracts::events::EventBody;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Expr, ExprLit, ExprStruct, Item, Lit, Local, Pat, Token};

const PATH: &str = "infra/RUNBOOK.md";

/// Words in backticks that look like names of ours: those of AWS's answers, and a field of a parked message.
const NOT_OURS: [&str; 2] = ["InvalidParameters", "saga.parked_by"];

/// A heading and its text, up to the next one.
#[derive(Default)]
struct Section {
    /// How many `#` it has.
    level: usize,
    title: String,
    /// Its text without shell.
    prose: String,
    /// Rows of its tables without their heads, cell by cell.
    rows: Vec<Vec<String>>,
    /// Shell, with the number of its first line.
    blocks: Vec<(usize, String)>,
}

impl Section {
    /// The anchor that a link to it has.
    fn anchor(&self) -> String {
        let kept = self.title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    }

    /// The names in the first column of its tables.
    fn entries(&self) -> Vec<String> {
        self.rows.iter().flat_map(|row| spans(&row[0])).collect()
    }
}

/// The texts in backticks.
fn spans(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn sections(markdown: &str) -> Vec<Section> {
    let mut found = vec![Section::default()];
    let mut block: Option<(usize, String)> = None;
    for (index, line) in markdown.lines().enumerate() {
        let (trimmed, last) = (line.trim(), found.len() - 1);
        let section = &mut found[last];
        match &mut block {
            Some(_) if trimmed == "```" => section.blocks.extend(block.take()),
            Some((_, shell)) => shell.extend([line, "\n"]),
            None if trimmed.starts_with("```") => block = Some((index + 2, String::new())),
            None if line.starts_with('#') => {
                let title = line.trim_start_matches('#');
                let level = line.len() - title.len();
                found.push(Section { level, title: title.trim().to_owned(), ..Section::default() });
            }
            None => {
                section.prose.extend([line, "\n"]);
                let Some(row) = trimmed.strip_prefix('|').and_then(|row| row.strip_suffix('|')) else { continue };
                if row.chars().all(|c| "-| ".contains(c)) {
                    // What is above the line is the head.
                    section.rows.pop();
                } else {
                    section.rows.push(row.split('|').map(|cell| cell.trim().to_owned()).collect());
                }
            }
        }
    }
    found
}

/// The faults that code reports to the on-call.
fn faults() -> BTreeSet<String> {
    #[derive(Default)]
    struct FaultNames {
        locals: BTreeMap<String, String>,
        faults: BTreeSet<String>,
    }
    impl FaultNames {
        /// The literal at the beginning of an expression.
        fn text(&self, expr: &Expr) -> Option<String> {
            match expr {
                Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
                Expr::MethodCall(call) => self.text(&call.receiver),
                Expr::Path(path) => self.locals.get(&path_text(&path.path)).cloned(),
                Expr::Macro(call) => {
                    let parts = call.mac.parse_body_with(Punctuated::<Expr, Token![,]>::parse_terminated).ok()?;
                    self.text(parts.first()?)
                }
                _ => None,
            }
        }
    }
    impl<'ast> Visit<'ast> for FaultNames {
        fn visit_local(&mut self, local: &'ast Local) {
            if let (Pat::Ident(name), Some(init)) = (&local.pat, &local.init)
                && let Some(text) = self.text(&init.expr)
            {
                self.locals.insert(name.ident.to_string(), text);
            }
            visit::visit_local(self, local);
        }

        fn visit_expr_struct(&mut self, made: &'ast ExprStruct) {
            if path_text(&made.path).ends_with("FaultDetected") {
                let is_name = |field: &&syn::FieldValue| matches!(&field.member, syn::Member::Named(n) if n == "fault");
                let named = made.fields.iter().find(is_name).and_then(|field| self.text(&field.expr));
                let name = named.expect("a fault is named where it is told");
                // The rest names the faulty thing.
                self.faults.extend(name.split(':').next().map(str::to_owned));
            }
            visit::visit_expr_struct(self, made);
        }
    }
    let mut names = FaultNames::default();
    let crates = contexts().into_iter().chain(["kit".to_owned()]);
    for path in crates.flat_map(|name| rust_files(&crate_dir(&name).join("src"))) {
        names.visit_file(&Source::read(&path).production().file);
    }
    names.faults
}

/// The verbs of a command of `cargo local`, by the name of its enum.
fn verbs(of: &str) -> BTreeSet<String> {
    let source = Source::read(&root().join("localstack/src/cli.rs"));
    let verbs = source.file.items.iter().filter_map(|item| match item {
        Item::Enum(verbs) if verbs.ident == of => Some(&verbs.variants),
        _ => None,
    });
    // `SeatMap` is said `seat-map`.
    let said = |name: String| {
        let words = name.chars().enumerate().flat_map(|(place, letter)| {
            let dash = (place > 0 && letter.is_uppercase()).then_some('-');
            dash.into_iter().chain(letter.to_lowercase())
        });
        words.collect::<String>()
    };
    verbs.flatten().map(|verb| said(verb.ident.to_string())).collect()
}

/// The stages that can be deployed.
fn stages() -> BTreeSet<String> {
    let config = text("infra/samconfig.toml");
    let stages = config.lines().filter_map(|line| line.strip_prefix('[')?.strip_suffix(".deploy.parameters]"));
    stages.map(str::to_owned).collect()
}

/// What can be named, without the system's name in front.
struct Names {
    functions: BTreeSet<String>,
    /// Functions that a queue or a stream feeds.
    fed: BTreeSet<String>,
    queues: BTreeSet<String>,
    sagas: BTreeSet<String>,
    /// With their indexes.
    tables: BTreeMap<String, BTreeSet<String>>,
    /// With their descriptions.
    alarms: BTreeMap<String, String>,
    widgets: BTreeSet<String>,
    secrets: BTreeSet<String>,
    parameters: BTreeSet<String>,
    outputs: BTreeSet<String>,
    /// The firewall's rules.
    firewall: BTreeSet<String>,
    /// Other things whose name begins with the system's.
    others: BTreeSet<String>,
    stacks: BTreeSet<String>,
}

impl Names {
    fn of(template: &Template) -> Self {
        let name = |properties: &Value, property: &str| -> Option<String> {
            properties[property]["Fn::Sub"].as_str()?.strip_prefix("${System}-").map(str::to_owned)
        };
        let called = |kind: &str, property: &str| -> BTreeSet<String> {
            template.resources(kind).filter_map(|(_, properties)| name(properties, property)).collect()
        };
        let functions = template.functions();
        let fed = functions.iter().filter(|f| f.triggers().iter().any(|by| ["SQS", "DynamoDB"].contains(&by.kind)));
        let variables = functions.iter().flat_map(|function| function.variables());
        let queues = called("AWS::SQS::Queue", "QueueName");
        let tables = template.resources("AWS::DynamoDB::Table").filter_map(|(_, table)| {
            let indexes = table["GlobalSecondaryIndexes"].as_array().into_iter().flatten();
            let indexes = indexes.filter_map(|index| index["IndexName"].as_str().map(str::to_owned));
            Some((name(table, "TableName")?, indexes.collect()))
        });
        let alarms = ["AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm"];
        let alarms = alarms.into_iter().flat_map(|kind| template.resources(kind)).filter_map(|(_, alarm)| {
            let description = alarm["AlarmDescription"].as_str().unwrap_or_default();
            Some((name(alarm, "AlarmName")?, description.to_owned()))
        });
        let dashboard = crate::metrics::dashboard(template);
        let widgets = dashboard["widgets"].as_array().into_iter().flatten();
        let rules = template.resources("AWS::WAFv2::WebACL").flat_map(|(_, acl)| acl["Rules"].as_array());
        let rules = rules.flatten();
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        Self {
            fed: fed.map(|function| function.handler().to_owned()).collect(),
            functions: called("AWS::Serverless::Function", "FunctionName"),
            // FIFO queues are known without their ending, too.
            queues: queues.iter().flat_map(|name| [name, name.trim_end_matches(".fifo")]).map(str::to_owned).collect(),
            sagas: called("AWS::Serverless::StateMachine", "Name"),
            tables: tables.collect(),
            alarms: alarms.collect(),
            widgets: widgets.filter_map(|widget| widget["properties"]["title"].as_str().map(str::to_owned)).collect(),
            secrets: variables
                .filter_map(|(_, value)| logical_id(&value)?.strip_prefix("parameter/").map(str::to_owned))
                .collect(),
            parameters: owned(template.parameters()),
            outputs: owned(template.outputs()),
            others: [
                ("AWS::Events::EventBus", "Name"),
                ("AWS::SNS::Topic", "TopicName"),
                ("AWS::Serverless::Api", "Name"),
            ]
            .into_iter()
            .flat_map(|(kind, property)| called(kind, property))
            .collect(),
            firewall: rules.filter_map(|rule| rule["Name"].as_str().map(str::to_owned)).collect(),
            stacks: template.stacks().keys().cloned().collect(),
        }
    }

    fn indexes(&self) -> BTreeSet<String> {
        self.tables.values().flatten().cloned().collect()
    }

    /// Everything whose name begins with the system's.
    fn of_system(&self) -> BTreeSet<String> {
        let sets = [&self.functions, &self.queues, &self.sagas, &self.others, &self.stacks].into_iter().flatten();
        sets.chain(self.tables.keys()).chain(self.alarms.keys()).cloned().collect()
    }
}

/// The runbook beside what it is about.
struct Book {
    sections: Vec<Section>,
    names: Names,
    faults: BTreeSet<String>,
}

/// The words of a command, without quotes, brackets and comments.
fn words(shell: &str) -> Vec<&str> {
    let lines = shell.lines().filter(|line| !line.trim_start().starts_with('#'));
    let code = lines.map(|line| line.split_once(" # ").map_or(line, |(code, _)| code));
    let words = code.flat_map(|code| code.split(|c: char| c.is_whitespace() || ";|&()\"'[],".contains(c)));
    words.filter(|word| !word.is_empty()).collect()
}

/// Whether something is a name: neither a placeholder (`QUEUE`) nor a variable (`$1`) nor an option.
fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
}

/// The names that follow a text each time it occurs.
fn names_after<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    let name = |rest: &'a str| {
        rest.split(|c: char| !c.is_ascii_alphanumeric() && !"-.".contains(c)).next().unwrap_or_default()
    };
    text.split(before).skip(1).map(name).map(|name| name.trim_end_matches('.')).filter(|name| !name.is_empty())
}

fn one_way<'a>(what: &str, these: impl IntoIterator<Item = &'a String>, those: &BTreeSet<String>) -> Vec<String> {
    these.into_iter().filter(|name| !those.contains(*name)).map(|name| format!("{what} {name:?}")).collect()
}

impl Book {
    fn new(markdown: &str, template: &Template, faults: BTreeSet<String>) -> Self {
        Self { sections: sections(markdown), names: Names::of(template), faults }
    }

    fn section(&self, title: &str) -> &Section {
        self.sections.iter().find(|section| section.title == title).unwrap_or_else(|| panic!("no section {title}"))
    }

    /// The sections below a heading, up to the next of its level.
    fn below(&self, title: &str) -> impl Iterator<Item = &Section> {
        let level = self.section(title).level;
        let from = self.sections.iter().skip_while(move |section| section.title != title).skip(1);
        from.take_while(move |section| section.level > level)
    }

    /// Alarms against their entries.
    fn wrong_alarms(&self) -> Vec<String> {
        let mut violations = Vec::new();
        let mut entries = BTreeMap::new();
        for section in self.below("Alarms") {
            for name in section.entries() {
                if entries.insert(name.clone(), section.anchor()).is_some() {
                    violations.push(format!("{name} has two entries"));
                }
            }
        }
        for (alarm, description) in &self.names.alarms {
            match entries.remove(alarm) {
                None => violations.push(format!("the alarm {alarm} has no entry")),
                Some(anchor) if description.ends_with(&format!(". See {PATH}#{anchor}")) => {}
                Some(anchor) => {
                    violations.push(format!("the alarm {alarm} does not lead to #{anchor}: {description:?}"))
                }
            }
        }
        violations.extend(entries.keys().map(|name| format!("there is no alarm {name}, which has an entry")));
        violations
    }

    /// Widgets, faults and secrets against the runbook's tables.
    fn wrong_tables(&self) -> Vec<String> {
        let rows = self.section("The dashboard").rows.iter();
        let widgets: BTreeSet<String> = rows.map(|row| row[0].clone()).collect();
        let explained: BTreeSet<String> = self.section("Faults").entries().into_iter().collect();
        let text = self.text();
        let secrets: BTreeSet<String> = names_after(&text, "/$SYSTEM/").map(str::to_owned).collect();
        [
            one_way("the runbook has no widget", &self.names.widgets, &widgets),
            one_way("the dashboard has no widget", &widgets, &self.names.widgets),
            one_way("the runbook has no fault", &self.faults, &explained),
            one_way("nobody tells of the fault", &explained, &self.faults),
            one_way("the runbook does not look at the secret", &self.names.secrets, &secrets),
            one_way("no function reads the secret", &secrets, &self.names.secrets),
        ]
        .concat()
    }

    fn text(&self) -> String {
        let texts = |section: &Section| {
            let shell: String = section.blocks.iter().map(|(_, shell)| shell.as_str()).collect();
            format!("{}{shell}", section.prose)
        };
        self.sections.iter().map(texts).collect()
    }

    /// Names in backticks.
    fn wrong_names(&self) -> Vec<String> {
        let known: BTreeSet<String> =
            [self.names.of_system(), self.names.indexes(), self.names.firewall.clone(), self.faults.clone()]
                .into_iter()
                .flatten()
                .collect();
        let settings: BTreeSet<String> = self.names.parameters.union(&self.names.outputs).cloned().collect();
        let events: BTreeSet<String> = EventBody::TYPES.iter().map(|name| (*name).to_owned()).collect();
        let mut violations = Vec::new();
        for span in self.sections.iter().flat_map(|section| spans(&section.prose)) {
            let made_of = |more: &str| span.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c));
            let of = match () {
                () if NOT_OURS.contains(&span.as_str()) => continue,
                () if is_name(&span) && span.contains('-') && made_of("-*") => &known,
                () if is_name(&span) && span.contains('.') && made_of("._*") => &events,
                () if span.starts_with(char::is_uppercase) && span.contains(char::is_lowercase) && made_of("") => {
                    &settings
                }
                () => continue,
            };
            let is = |name: &String| span.strip_suffix('*').map_or(*name == span, |start| name.starts_with(start));
            if !of.iter().any(is) {
                violations.push(format!("there is no {span}"));
            }
        }
        let of_system = self.names.of_system();
        for name in names_after(&self.text(), "$SYSTEM-") {
            if !of_system.contains(name) {
                violations.push(format!("there is no $SYSTEM-{name}"));
            }
        }
        violations
    }

    /// The arguments of commands.
    fn wrong_commands(&self) -> Vec<String> {
        let names = &self.names;
        let tables: BTreeSet<String> = names.tables.keys().cloned().collect();
        // A queue without a consumer has an alarm of its name.
        let waiting = names.queues.iter().filter(|name| names.alarms.contains_key(name.trim_end_matches(".fifo")));
        let waiting: BTreeSet<String> = waiting.cloned().collect();
        // A command of the runbook or the project, and what its arguments are, one by one.
        let commands: [(&[&str], Vec<BTreeSet<String>>); 17] = [
            (&["log_of"], vec![names.functions.clone()]),
            (&["switch"], vec![names.fed.clone()]),
            (&["sagas"], vec![names.sagas.clone()]),
            (&["warm_up"], vec![tables.clone()]),
            (&["warmth"], vec![tables.clone()]),
            (&["left"], vec![tables.clone(), names.indexes()]),
            (&["stuck"], vec![tables.clone(), names.indexes()]),
            (&["count"], vec![tables]),
            (&["reasons"], vec![names.stacks.clone()]),
            (&["infra/deploy"], vec![stages(), names.stacks.clone()]),
            (&["versions"], vec![names.functions.clone()]),
            (&["back_to"], vec![names.functions.clone()]),
            (&["dlq"], vec![verbs("DlqVerb")]),
            (&["show"], vec![waiting.clone()]),
            (&["redrive"], vec![waiting]),
            (&["cargo", "local"], vec![verbs("Verb")]),
            (&["IndexName", ":"], vec![names.indexes()]),
        ];
        let mut violations = Vec::new();
        let shell = self.sections.iter().flat_map(|section| section.blocks.iter().map(|(_, shell)| shell.clone()));
        let shell: Vec<String> = shell.chain(self.sections.iter().flat_map(|section| spans(&section.prose))).collect();
        for words in shell.iter().map(|shell| words(shell)) {
            for at in 0..words.len() {
                for (command, arguments) in &commands {
                    // A definition has no arguments.
                    let given = words[at..].strip_prefix(*command).filter(|given| given.first() != Some(&"{"));
                    let given = given.unwrap_or_default().iter().zip(arguments);
                    for (word, of) in given.filter(|(word, _)| is_name(word)) {
                        if !of.contains(*word) {
                            violations.push(format!("{} takes no {word}", command.join(" ")));
                        }
                    }
                }
                if let ["left" | "stuck", table, index, ..] = words[at..]
                    && names.tables.get(table).is_some_and(|indexes| !indexes.contains(index))
                {
                    violations.push(format!("{table} has no index {index}"));
                }
            }
        }
        let text = self.text();
        let parameters = names_after(&text, "--parameter ").map(str::to_owned).collect::<Vec<_>>();
        violations.extend(one_way("there is no parameter", &parameters, &names.parameters));
        let outputs = names_after(&text, "OutputKey=='").map(str::to_owned).collect::<Vec<_>>();
        violations.extend(one_way("there is no output", &outputs, &names.outputs));
        violations
    }

    /// Files that are named, also in commands. Links are checked with those of all pages, in papers.rs.
    fn wrong_places(&self) -> Vec<String> {
        let mut violations = Vec::new();
        let whole = self.text();
        for path in whole.split(|c: char| c.is_whitespace() || "`\"'();,".contains(c)) {
            let of_ours = ["infra/", "functions/", "localstack/", "tests/"].iter().any(|dir| path.starts_with(dir));
            if of_ours && !root().join(path.trim_end_matches(['.', ':'])).exists() {
                violations.push(format!("there is no file {path}"));
            }
        }
        violations
    }

    fn wrong(&self) -> Vec<String> {
        [self.wrong_alarms(), self.wrong_tables(), self.wrong_names(), self.wrong_commands(), self.wrong_places()]
            .concat()
    }
}

#[test]
fn the_runbook_has_an_entry_for_whatever_calls_a_person_and_names_nothing_that_is_not_there() {
    none(Book::new(&text(PATH), &Template::read(), faults()).wrong());
}

/// What bash reports of commands that it does not understand.
fn misunderstood(shell: &str) -> Option<String> {
    let bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut bash = bash.expect("bash can be run");
    bash.stdin.take().expect("an input").write_all(shell.as_bytes()).expect("bash reads");
    let done = bash.wait_with_output().expect("bash ends");
    (!done.status.success()).then(|| String::from_utf8_lossy(&done.stderr).into_owned())
}

#[test]
fn every_command_of_the_runbook_is_shell() {
    let sections = sections(&text(PATH));
    let blocks: Vec<&(usize, String)> = sections.iter().flat_map(|section| &section.blocks).collect();
    assert!(blocks.len() > 10, "commands went missing");
    let wrong = |(line, shell): &&(usize, String)| Some(format!("{PATH}:{line}: {}", misunderstood(shell)?));
    none(blocks.iter().filter_map(wrong).collect());
    for broken in ["alarms() { aws", "log_of 'reserve-seats", "for context in a; left a unpublished"] {
        assert!(misunderstood(broken).is_some(), "{broken}");
    }
}

#[test]
fn whatever_the_runbook_or_the_templates_lose_is_found() {
    let (runbook, stacks, faults) = (text(PATH), Stacks::read(), faults());
    let template = stacks.template();
    let found = |runbook: &str, template: &Template| Book::new(runbook, template, faults.clone()).wrong();
    for (part, broken, expected) in [
        ("| `parked-payments` |", "| parked-payments |", "the alarm parked-payments has no entry"),
        ("| `api-errors` |", "| `api-mistakes` |", "there is no alarm api-mistakes"),
        ("| `refund-saga-failed` |", "| `payment-saga-failed` |", "payment-saga-failed has two entries"),
        ("### Seat map", "### The map", "does not lead to #the-map"),
        ("| Errors of functions |", "| Faults of functions |", "the dashboard has no widget \"Faults of functions\""),
        ("| The sale |", "| A sale |", "the runbook has no widget \"The sale\""),
        ("| `charges-stuck` |", "| charges-stuck |", "the runbook has no fault \"charges-stuck\""),
        ("| `orders-stuck` |", "| `orders-late` |", "nobody tells of the fault \"orders-late\""),
        ("\"/$SYSTEM/partner\"", "\"/$SYSTEM/partners\"", "no function reads the secret \"partners\""),
        ("log_of start-payment", "log_of begin-sale", "log_of takes no begin-sale"),
        ("switch push-alimtalk", "switch reserve-seats", "switch takes no reserve-seats"),
        ("sagas refund-saga", "sagas reward-saga", "sagas takes no reward-saga"),
        ("warm_up payments", "warm_up payment", "warm_up takes no payment"),
        ("left payments pending", "left payments due", "payments has no index due"),
        ("stuck orders due", "stuck orders pending", "orders has no index pending"),
        ("back_to use-points", "back_to spend-points", "back_to takes no spend-points"),
        ("count payments payment", "count sales payment", "count takes no sales"),
        ("dlq list", "dlq print", "dlq takes no print"),
        ("dlq show parked-payments", "dlq show hold-expiry", "show takes no hold-expiry"),
        (
            "redrive alimtalk-push-dead-letters",
            "redrive alimtalk-dead-letters",
            "redrive takes no alimtalk-dead-letters",
        ),
        ("reasons payments", "reasons payment", "reasons takes no payment"),
        ("infra/deploy prod items", "infra/deploy prod item", "infra/deploy takes no item"),
        ("infra/deploy prod waiting-room", "infra/deploy production waiting-room", "infra/deploy takes no production"),
        ("$SYSTEM-edge", "$SYSTEM-front", "there is no $SYSTEM-front"),
        ("cargo local audit", "cargo local check", "cargo local takes no check"),
        ("\"IndexName\": \"due\"", "\"IndexName\": \"ended\"", "IndexName : takes no ended"),
        ("$SYSTEM-bus", "$SYSTEM-bush", "there is no $SYSTEM-bush"),
        ("`expire-hold`", "`end-hold`", "there is no end-hold"),
        ("`payment.refund_failed`", "`payment.lost`", "there is no payment.lost"),
        ("`JoinBeforeOpen`", "`JoinEarly`", "there is no JoinEarly"),
        ("--parameter OrderDeadlineSeconds", "--parameter OrderSeconds", "there is no parameter \"OrderSeconds\""),
        ("OutputKey=='ApiUrl'", "OutputKey=='Url'", "there is no output \"Url\""),
        ("infra/destroy", "infra/remove", "there is no file infra/remove"),
    ] {
        assert!(runbook.contains(part), "{part}");
        let found = found(&runbook.replace(part, broken), &template);
        assert!(found.iter().any(|violation| violation.contains(expected)), "{expected:?} not in {found:?}");
    }
    for (part, broken, expected) in [
        (". See infra/RUNBOOK.md#parked-payments", ".", "the alarm parked-payments does not lead to"),
        ("RUNBOOK.md#seat-map", "RUNBOOK.md#api", "the alarm seat-map-lag does not lead to"),
        ("${System}-watch-dead-letters", "${System}-look", "there is no alarm watch-dead-letters"),
        ("\"title\": \"The sale\"", "\"title\": \"Sales\"", "the runbook has no widget \"Sales\""),
        ("/notion", "/pages", "the runbook does not look at the secret \"pages\""),
    ] {
        let found = found(&runbook, &stacks.edited_everywhere(part, broken).template());
        assert!(found.iter().any(|violation| violation.contains(expected)), "{expected:?} not in {found:?}");
    }
}
