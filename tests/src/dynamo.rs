//! DynamoDB inside the test's process, with the tables that `infra/stacks` define, so that a key, an index or a stream
//! which a store needs and its stack forgets is a failing test.

use crate::workspace;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::Builder;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use dynoxide::types::AttributeValue as Stored;
use dynoxide::{Database, server};
use kit::dynamo::{Item, Table};
use kit::stream::{Change, Record, Sequence};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// The system's name in table names.
pub const STACK: &str = "encore";
/// Every context with a table.
pub const CONTEXTS: [&str; 8] =
    ["waiting-room", "concerts", "reservations", "points", "payments", "items", "orders", "notifications"];

/// How long an answer may take.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// How long a retry waits at most, the first time.
const AT_ONCE: Duration = Duration::from_millis(1);

/// A database of its own, gone when dropped.
pub struct Engine {
    database: Database,
    url: String,
    tables: Tables,
    _stop: oneshot::Sender<()>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts it with all tables of the stacks, on a free port.
    pub async fn start() -> Self {
        let database = local::database::in_memory().expect("a database in memory");
        for table in tables() {
            database.create_table(request(table)).expect("the stack's table can be created");
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound port"));
        let (stop, stopped) = oneshot::channel::<()>();
        let served = server::serve_with_shutdown(listener, database.clone(), async move {
            // An error means that the engine was dropped, which is the signal.
            drop(stopped.await);
        });
        tokio::spawn(async move { served.await.expect("the engine serves") });
        Self { database, tables: Tables::at(&url), url, _stop: stop }
    }

    /// Its endpoint.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A context's table, reached without a proxy.
    pub fn table(&self, context: &str) -> Table {
        self.tables.of(context)
    }

    /// Every item of a context's table.
    pub async fn items(&self, context: &str) -> Vec<Item> {
        let table = self.table(context);
        let pages = table.client.scan().table_name(&table.name).consistent_read(true).into_paginator().items().send();
        pages.collect::<Result<Vec<_>, _>>().await.expect("a scan")
    }

    /// One item of a context's table.
    pub async fn item(&self, context: &str, pk: &str, sk: &str) -> Option<Item> {
        let table = self.table(context);
        let got = table
            .client
            .get_item()
            .table_name(&table.name)
            .key("pk", AttributeValue::S(pk.to_owned()))
            .key("sk", AttributeValue::S(sk.to_owned()))
            .consistent_read(true)
            .send();
        got.await.expect("a read").item
    }

    /// Everything that the stream of a context's table has had so far, oldest first.
    pub fn changes(&self, context: &str) -> Vec<Record> {
        let database = &self.database;
        let streams = database.list_streams(request(json!({ "TableName": table_name(context) }))).expect("streams");
        let arn = &streams.streams.first().expect("the stack gives the table a stream").stream_arn;
        let stream = database.describe_stream(request(json!({ "StreamArn": arn }))).expect("a stream");
        assert_eq!(stream.stream_description.stream_view_type, "NEW_AND_OLD_IMAGES");
        let mut records = Vec::new();
        for shard in &stream.stream_description.shards {
            let from = json!({"StreamArn": arn, "ShardId": shard.shard_id, "ShardIteratorType": "TRIM_HORIZON"});
            let mut next = database.get_shard_iterator(request(from)).expect("an iterator").shard_iterator;
            while let Some(iterator) = next {
                let got = database.get_records(request(json!({ "ShardIterator": iterator }))).expect("records");
                if got.records.is_empty() {
                    break;
                }
                records.extend(got.records.into_iter().map(record_of));
                next = got.next_shard_iterator;
            }
        }
        records
    }
}

/// The contexts' tables behind one endpoint: the engine's or a proxy's.
#[derive(Debug, Clone)]
pub struct Tables {
    client: Client,
}

impl Tables {
    /// The tables behind an endpoint, with a function's own retries, which come at once. Not with its timeouts: a machine
    /// that is busy with other things must not look like a table that does not answer.
    pub fn at(endpoint: &str) -> Self {
        let time_limit =
            TimeoutConfig::builder().connect_timeout(TIME_LIMIT).operation_attempt_timeout(TIME_LIMIT).build();
        let own = kit::aws::local_config(endpoint, "us-east-1");
        let retries = own.retry_config().expect("a function's retries").clone().with_initial_backoff(AT_ONCE);
        let config = Builder::from(&own).timeout_config(time_limit).retry_config(retries).build();
        Self { client: Client::from_conf(config) }
    }

    /// A context's table.
    pub fn of(&self, context: &str) -> Table {
        Table::new(self.client.clone(), table_name(context))
    }
}

/// The name of a context's table.
pub fn table_name(context: &str) -> String {
    assert!(CONTEXTS.contains(&context), "{context} has no table");
    format!("{STACK}-{context}")
}

fn request<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).expect("a request of DynamoDB")
}

/// A resource that a stack defines.
#[derive(Debug)]
pub struct Resource {
    pub stack: String,
    /// Its type and properties.
    pub definition: Value,
}

/// The resources of all stacks, each stack's in its order.
pub fn resources() -> &'static [Resource] {
    static RESOURCES: LazyLock<Vec<Resource>> = LazyLock::new(|| {
        let mut files: Vec<PathBuf> = fs::read_dir(workspace("infra/stacks"))
            .expect("the stacks' directory")
            .map(|entry| entry.expect("a file").path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "yaml"))
            .collect();
        files.sort();
        files.iter().flat_map(|file| resources_of(file)).collect()
    });
    &RESOURCES
}

fn resources_of(file: &Path) -> Vec<Resource> {
    let stack = file.file_stem().and_then(|name| name.to_str()).expect("a stack's name");
    let text = fs::read_to_string(file).expect("the stack's template");
    let template = Template::deserialize(serde_norway::Deserializer::from_str(&text)).expect("a template");
    let all = template.resources.into_iter();
    all.map(|(_, resource)| Resource { stack: stack.to_owned(), definition: plain(resource) }).collect()
}

/// `CreateTable` requests, one for each table of the stacks.
fn tables() -> Vec<Value> {
    let tables = resources().iter().filter(|resource| resource.definition["Type"] == "AWS::DynamoDB::Table");
    let tables: Vec<Value> = tables.map(|resource| create_table(&resource.definition["Properties"])).collect();
    let mut names: Vec<&str> = tables.iter().filter_map(|table| table["TableName"].as_str()).collect();
    let mut expected = CONTEXTS.map(table_name);
    names.sort_unstable();
    expected.sort_unstable();
    assert_eq!(names, expected, "the stacks' tables");
    tables
}

#[derive(Deserialize)]
struct Template {
    #[serde(rename = "Resources")]
    resources: serde_norway::Mapping,
}

/// YAML as JSON. Of CloudFormation's functions only `!Sub` of the system's name is evaluated, which is all that the
/// structure of a table needs; the others are left as their argument.
fn plain(yaml: impl Into<serde_norway::Value>) -> Value {
    use serde_norway::Value as Yaml;
    match yaml.into() {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => value.into(),
        Yaml::Number(value) => serde_json::to_value(value).expect("a number"),
        Yaml::String(text) => text.replace("${System}", STACK).into(),
        Yaml::Sequence(values) => values.into_iter().map(plain).collect(),
        Yaml::Mapping(pairs) => pairs
            .into_iter()
            .map(|(name, value)| (plain(name).as_str().expect("a name").to_owned(), plain(value)))
            .collect::<Map<_, _>>()
            .into(),
        Yaml::Tagged(tagged) => plain(tagged.value),
    }
}

/// The properties of a table that `CreateTable` accepts.
fn create_table(properties: &Value) -> Value {
    let mut request = Map::new();
    for name in ["TableName", "BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes"] {
        if let Some(value) = properties.get(name) {
            request.insert(name.to_owned(), value.clone());
        }
    }
    if let Some(view) = properties.pointer("/StreamSpecification/StreamViewType") {
        request.insert("StreamSpecification".to_owned(), json!({"StreamEnabled": true, "StreamViewType": view}));
    }
    request.into()
}

fn record_of(record: dynoxide::actions::get_records::Record) -> Record {
    let image = |item: dynoxide::types::Item| item.into_iter().map(|(name, value)| (name, value_of(value))).collect();
    Record {
        change: serde_json::from_value::<Change>(record.event_name.into()).expect("a kind of change"),
        new: record.dynamodb.new_image.map(image),
        old: record.dynamodb.old_image.map(image),
        sequence: Sequence::new(&record.dynamodb.sequence_number),
    }
}

fn value_of(value: Stored) -> AttributeValue {
    match value {
        Stored::S(text) => AttributeValue::S(text),
        Stored::N(digits) => AttributeValue::N(digits),
        Stored::B(bytes) => AttributeValue::B(Blob::new(bytes)),
        Stored::BOOL(yes) => AttributeValue::Bool(yes),
        Stored::NULL(yes) => AttributeValue::Null(yes),
        Stored::SS(texts) => AttributeValue::Ss(texts),
        Stored::NS(digits) => AttributeValue::Ns(digits),
        Stored::BS(many) => AttributeValue::Bs(many.into_iter().map(Blob::new).collect()),
        Stored::L(list) => AttributeValue::L(list.into_iter().map(value_of).collect()),
        Stored::M(map) => AttributeValue::M(map.into_iter().map(|(name, value)| (name, value_of(value))).collect()),
    }
}
