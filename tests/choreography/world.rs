//! One table's step at a time: put rows into a context's table, run its real function on them under a fault, see what
//! rows it leaves and what it published.

use crate::routes::Function;
use aws_sdk_dynamodb::types::{AttributeValue, DeleteRequest, PutRequest, WriteRequest};
use contracts::Timestamp;
use contracts::events::Event;
use kit::Fault;
use kit::dynamo::{Item, PK, Read, SK};
use kit::outbox::Relay;
use kit::queue::Message;
use kit::stream::{Change, Record, Sequence};
use notifications::dynamo::Notifications;
use notifications::ports::DeliverEvents;
use orders::dynamo::Orders;
use orders::handlers::SweepDeps;
use points::dynamo::Accounts;
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use tests::bus::{BUS, Bus};
use tests::dynamo::{Engine, table_name};
use tests::proxy::{Fate, Proxy, Rule};

/// A participant's rows: a table, or the half of one that no other context's functions touch, which every call is
/// checked for. The result of a function depends only on these rows and its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    Stock,
    Points,
    Cart,
    Order,
    Report,
}

impl Part {
    pub const ALL: [Self; 5] = [Self::Stock, Self::Points, Self::Cart, Self::Order, Self::Report];

    /// The context of its table.
    pub const fn context(self) -> &'static str {
        match self {
            Self::Stock => "items",
            Self::Points => "points",
            Self::Cart | Self::Order => "orders",
            Self::Report => "notifications",
        }
    }

    /// The part that a function works on.
    pub fn of(function: &Function) -> Self {
        if function.name == "clear-cart" {
            return Self::Cart;
        }
        let of_context = |part: &Self| *part != Self::Cart && part.context() == function.context;
        Self::ALL.into_iter().find(of_context).unwrap_or_else(|| panic!("{function:?} takes no part"))
    }

    /// Whether a row of its table is its own.
    pub fn owns(self, pk: &str, sk: &str) -> bool {
        let is_of_cart = ["CART", "WORK"].contains(&sk) || pk.contains(".cart.");
        match self {
            Self::Cart => is_of_cart,
            Self::Order => !is_of_cart,
            Self::Stock | Self::Points | Self::Report => true,
        }
    }
}

/// The contexts that take part.
const CONTEXTS: [&str; 4] = ["items", "points", "orders", "notifications"];
/// How long the participants may take, in seconds.
pub const DEADLINE_SECONDS: i64 = 300;
/// BatchWriteItem takes this many writes.
const BATCH: usize = 25;

/// The rows of a table by their keys.
pub type Rows = BTreeMap<(String, String), Item>;

/// A function's call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Job {
    pub part: Part,
    pub function: Function,
    /// Its event; `None` if it is scheduled.
    pub event: Option<String>,
    pub now: Timestamp,
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Trouble {
    None,
    /// Its events stay in the outbox: the relay is dead.
    Unpublished,
    /// The process dies right before its nth request.
    Dies(usize),
    /// The nth request is carried out, and its answer is lost.
    Unanswered(usize),
    /// Another call is carried out from beginning to end right before its nth request.
    Crossed(usize, Job),
}

/// The result of a call.
#[derive(Debug)]
pub struct Outcome {
    pub rows: Rows,
    /// What left the outbox, by event id.
    pub published: Vec<Event>,
    /// Whether its message is done; otherwise why not.
    pub done: Result<(), String>,
    /// The same of the call that crossed it.
    pub other: Result<(), String>,
    /// Which of its requests write.
    pub writes: Vec<usize>,
}

/// A data platform that accepts everything.
#[derive(Debug)]
struct Platform;

impl DeliverEvents for Platform {
    async fn deliver(&self, _: &[&Event], _: Timestamp) -> Result<(), Fault> {
        Ok(())
    }
}

/// The tables and functions.
pub struct World {
    pub engine: Engine,
    proxy: Proxy,
    accounts: Accounts,
    items: items::dynamo::Items,
    orders: Orders,
    sweep: SweepDeps<Orders>,
    reports: notifications::handlers::Deps<Notifications, Platform>,
    relays: BTreeMap<&'static str, Relay>,
    _bus: Bus,
    /// A condition that always holds, to see what it prevents.
    pub loosened: Option<&'static str>,
    /// What the tables hold at the moment.
    held: RefCell<BTreeMap<String, Rows>>,
}

impl World {
    pub async fn new() -> Self {
        let (engine, bus) = (Engine::start().await, Bus::start().await);
        let proxy = Proxy::before(&engine).await;
        let relay =
            |context| Relay::new(context, engine.table(context), kit::outbox::Bus::new(bus.client(), BUS.to_owned()));
        Self {
            accounts: Accounts::new(proxy.table("points")),
            items: items::dynamo::Items::new(proxy.table("items")),
            orders: Orders::new(proxy.table("orders")),
            sweep: SweepDeps { store: Orders::new(proxy.table("orders")), deadline_seconds: DEADLINE_SECONDS },
            reports: notifications::handlers::Deps {
                store: Notifications::new(proxy.table("notifications")),
                provider: Platform,
            },
            relays: CONTEXTS.map(|context| (context, relay(context))).into(),
            loosened: None,
            held: RefCell::default(),
            _bus: bus,
            engine,
            proxy,
        }
    }

    /// A table's rows as they are.
    pub async fn rows(&self, context: &str) -> Rows {
        let key = |item: &Item| (item.text(PK).unwrap().to_owned(), item.text(SK).unwrap().to_owned());
        let rows: Rows = self.engine.items(context).await.into_iter().map(|item| (key(&item), item)).collect();
        self.held.borrow_mut().insert(context.to_owned(), rows.clone());
        rows
    }

    /// Makes a table's rows these.
    async fn put(&self, context: &str, rows: &Rows) {
        let held = self.held.borrow_mut().insert(context.to_owned(), rows.clone()).unwrap_or_default();
        let changed = rows.iter().filter(|(key, row)| held.get(key) != Some(row));
        let put = |row: &Item| PutRequest::builder().set_item(Some(row.clone())).build().unwrap();
        let puts = changed.map(|(_, row)| WriteRequest::builder().put_request(put(row)).build());
        let gone = held.keys().filter(|key| !rows.contains_key(key));
        let deletes = gone.map(|(pk, sk)| {
            let delete = DeleteRequest::builder().key(PK, AttributeValue::S(pk.clone()));
            let delete = delete.key(SK, AttributeValue::S(sk.clone())).build().unwrap();
            WriteRequest::builder().delete_request(delete).build()
        });
        let writes: Vec<WriteRequest> = puts.chain(deletes).collect();
        for batch in writes.chunks(BATCH) {
            let client = self.engine.table(context).client;
            client.batch_write_item().request_items(table_name(context), batch.to_vec()).send().await.unwrap();
        }
    }

    /// A part's rows as they are.
    pub async fn rows_of(&self, part: Part) -> Rows {
        let mut rows = self.rows(part.context()).await;
        rows.retain(|(pk, sk), _| part.owns(pk, sk));
        rows
    }

    /// Calls a function on its part's rows, and has the relay publish its events.
    pub async fn play(&self, before: &Rows, job: &Job, trouble: &Trouble) -> Outcome {
        let context = job.part.context();
        self.put(context, before).await;
        self.proxy.forget();
        if let Some(condition) = self.loosened {
            self.proxy.loosen(condition);
        }
        let mut other = Ok(());
        let done = match trouble {
            Trouble::None | Trouble::Unpublished => self.call(job).await,
            Trouble::Unanswered(nth) => {
                self.proxy.inject(Rule::all().after(*nth).once(), Fate::AnswerLost);
                self.call(job).await
            }
            Trouble::Dies(nth) => {
                let gate = self.proxy.hold(Rule::all().after(*nth));
                tokio::select! {
                    end = self.call(job) => panic!("{job:?} ended before its request {nth}: {end:?}"),
                    () = gate.reached() => Err("died".to_owned()),
                }
            }
            Trouble::Crossed(nth, crossing) => {
                let gate = self.proxy.hold(Rule::all().after(*nth).once());
                let mut first = pin!(self.call(job));
                tokio::select! {
                    end = &mut first => panic!("{job:?} ended before its request {nth}: {end:?}"),
                    () = gate.reached() => {}
                }
                other = self.call(crossing).await;
                gate.open();
                first.await
            }
        };
        self.proxy.heal();
        let seen = self.proxy.seen();
        for request in &seen {
            assert!(request.body.to_string().contains(&table_name(context)), "another's table: {job:?}");
            assert_own(job, &request.body);
        }
        let reads = ["GetItem", "BatchGetItem", "Query"];
        let writes = (0..seen.len()).filter(|index| !reads.contains(&seen[*index].action.as_str())).collect();
        let after = self.rows(context).await;
        if *trouble != Trouble::Unpublished {
            self.relay(context, before, &after, job.now).await;
        }
        let rows = self.rows(context).await;
        Outcome { published: published(before, &rows), rows, done, other, writes }
    }

    /// Publishes what is new in the outbox.
    pub async fn relay(&self, context: &str, before: &Rows, after: &Rows, now: Timestamp) {
        let new = after.iter().filter(|(key, _)| !before.contains_key(key)).map(|(_, row)| Record {
            change: Change::Insert,
            new: Some(row.clone()),
            old: None,
            sequence: Sequence::new("1"),
        });
        self.relays[context].relay(new.collect(), now).await.unwrap();
    }

    async fn call(&self, job: &Job) -> Result<(), String> {
        let message = job.event.as_ref().map(|event| {
            let detail: Value = serde_json::from_str(event).unwrap();
            Message::new("message", json!({ "detail": detail }).to_string(), job.now)
        });
        let outcome: Result<(), Fault> = match (job.function.name.as_str(), message) {
            ("deduct-stock", Some(message)) => items::handlers::deduct_stock(&self.items, message).await,
            ("use-order-points", Some(message)) => points::handlers::use_order_points(&self.accounts, message).await,
            ("clear-cart", Some(message)) => orders::handlers::clear_cart(&self.orders, message).await,
            ("track-order", Some(message)) => orders::handlers::track_order(&self.orders, message).await,
            ("deliver-to-data-platform", Some(message)) => {
                notifications::handlers::deliver_to_data_platform(&self.reports, vec![message]).await.remove(0)
            }
            ("sweep-orders", None) => orders::handlers::sweep_orders(&self.sweep, job.now).await,
            (name, None) if name.ends_with("-outbox") => {
                self.relays[job.function.context.as_str()].sweep_all(job.now).await
            }
            (other, _) => panic!("{other} is nobody's part in an order"),
        };
        outcome.map_err(|fault| fault.chain())
    }
}

/// Every row that a request names must be the part's own.
fn assert_own(job: &Job, request: &Value) {
    match request {
        Value::Object(map) => {
            if let (Some(pk), Some(sk)) = (map.get(PK), map.get(SK)) {
                let text = |value: &Value| value["S"].as_str().unwrap().to_owned();
                assert!(job.part.owns(&text(pk), &text(sk)), "another's row: {pk} {sk} by {job:?}");
            }
            map.values().for_each(|value| assert_own(job, value));
        }
        Value::Array(list) => list.iter().for_each(|value| assert_own(job, value)),
        _ => {}
    }
}

/// The events of rows that the relay published in between.
pub fn published(before: &Rows, after: &Rows) -> Vec<Event> {
    let attempts = |row: Option<&Item>| row.and_then(|row| row.int("attempts").ok()).unwrap_or(0);
    let fresh = after.iter().filter(|(key, row)| attempts(Some(row)) > attempts(before.get(key)));
    fresh.map(|(_, row)| row.document("event").unwrap()).collect()
}

/// Rows as a text that is the same for rows which differ by chance only.
pub fn canonical(rows: &Rows) -> String {
    let by_chance = ["unpublished_shard", "due_shard", "lease"];
    let row = |item: &Item| {
        let value = |name: &String, value: &AttributeValue| match value {
            _ if by_chance.contains(&name.as_str()) => json!("by chance"),
            // The public name of a ledger's entry is minted when it is made.
            AttributeValue::M(entry) if name.starts_with("e#") => {
                plain(&AttributeValue::M(entry.clone().into_iter().filter(|(name, _)| name != "id").collect()))
            }
            value => plain(value),
        };
        item.iter().map(|(name, attribute)| (name.clone(), value(name, attribute))).collect::<Map<_, _>>()
    };
    rows.values().map(row).map(Value::from).collect::<Value>().to_string()
}

fn plain(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::S(text) => json!(text),
        AttributeValue::N(digits) => json!([digits]),
        AttributeValue::Bool(yes) => json!(yes),
        AttributeValue::M(map) => {
            map.iter().map(|(name, value)| (name.clone(), plain(value))).collect::<Map<_, _>>().into()
        }
        AttributeValue::L(list) => list.iter().map(plain).collect(),
        AttributeValue::Ss(texts) => json!(texts.iter().collect::<BTreeSet<_>>()),
        other => json!(format!("{other:?}")),
    }
}
