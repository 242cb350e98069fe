//! One table's step at a time: run a context's real function on rows of its table under a fault, see what rows it
//! leaves and what it published.

use crate::routes::Function;
use crate::stage::{Rows, Stage, Trouble};
use contracts::events::Event;
use contracts::{EventId, OrderId, Timestamp, UserId};
use kit::Fault;
use kit::dynamo::{Item, Read};
use kit::outbox::Relay;
use kit::queue::Message;
use kit::stream::{Change, Record, Sequence};
use notifications::domain::{Phone, Sale};
use notifications::dynamo::Notifications;
use notifications::ports::{CancelReceipt, DeliverEvents, FindPhone, IssueReceipt};
use orders::domain::CANCELLABLE_SECONDS;
use orders::dynamo::Orders;
use orders::handlers::SweepDeps;
use orders::usecases::cancel_order::{CancelAsk, CancelError, cancel_order};
use points::dynamo::Accounts;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tests::bus::{BUS, Bus};
use tests::fixture::user;

/// A participant's rows: a table, or the half of one that no other context's functions touch, which every call is
/// checked for. The result of a function depends only on these rows and its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    Stock,
    Points,
    Cart,
    Order,
    Report,
    Receipt,
}

/// The consumer that issues and cancels the receipt of an order.
pub const RECEIPTS: &str = "issue-order-receipt";

impl Part {
    pub const ALL: [Self; 6] = [Self::Stock, Self::Points, Self::Cart, Self::Order, Self::Report, Self::Receipt];

    /// The context of its table.
    pub const fn context(self) -> &'static str {
        match self {
            Self::Stock => "items",
            Self::Points => "points",
            Self::Cart | Self::Order => "orders",
            Self::Report | Self::Receipt => "notifications",
        }
    }

    /// The part that a function works on.
    pub fn of(function: &Function) -> Self {
        match function.name.as_str() {
            "clear-cart" => return Self::Cart,
            RECEIPTS => return Self::Receipt,
            _ => {}
        }
        let of_context = |part: &Self| *part != Self::Cart && part.context() == function.context;
        Self::ALL.into_iter().find(of_context).unwrap_or_else(|| panic!("{function:?} takes no part"))
    }

    /// Whether a row of its table is its own.
    pub fn owns(self, pk: &str, sk: &str) -> bool {
        let is_of_cart = ["CART", "WORK"].contains(&sk) || pk.contains(".cart.");
        let is_of_receipt = sk == "RECEIPT" || pk.contains(RECEIPTS);
        match self {
            Self::Cart => is_of_cart,
            Self::Order => !is_of_cart,
            Self::Report => !is_of_receipt,
            Self::Receipt => is_of_receipt,
            Self::Stock | Self::Points => true,
        }
    }
}

/// The contexts that take part.
const CONTEXTS: [&str; 4] = ["items", "points", "orders", "notifications"];
/// How long the participants may take, in seconds.
pub const DEADLINE_SECONDS: i64 = 300;

/// A function's call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Job {
    pub part: Part,
    pub function: Function,
    /// Its event; `None` if it is scheduled.
    pub event: Option<String>,
    pub now: Timestamp,
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

/// A directory that knows everybody, and a provider that issues and cancels what it is asked to.
#[derive(Debug)]
struct Office;

impl FindPhone for Office {
    async fn find_phone(&self, _: &UserId, _: &str) -> Result<Option<Phone>, Fault> {
        Ok(Phone::parse("01012345678"))
    }
}

impl IssueReceipt for Office {
    async fn issue(&self, _: &Sale, _: &Phone, key: &EventId, _: &str) -> Result<String, Fault> {
        Ok(format!("receipt of {key}"))
    }
}

impl CancelReceipt for Office {
    async fn cancel(&self, _: &str, _: &EventId, _: &str) -> Result<(), Fault> {
        Ok(())
    }
}

/// The tables and functions.
pub struct World {
    pub stage: Stage,
    accounts: Accounts,
    items: items::dynamo::Items,
    orders: Orders,
    sweep: SweepDeps<Orders>,
    reports: notifications::handlers::Deps<Notifications, Platform>,
    receipts: notifications::handlers::PersonalDeps<Notifications, Office, Office>,
    relays: BTreeMap<&'static str, Relay>,
    _bus: Bus,
    /// The order that can be cancelled.
    pub order: Option<OrderId>,
}

impl World {
    pub async fn new() -> Self {
        let (stage, bus) = (Stage::new().await, Bus::start().await);
        let proxy = &stage.proxy;
        let relay = |context| {
            Relay::new(context, stage.engine.table(context), kit::outbox::Bus::new(bus.client(), BUS.to_owned()))
        };
        Self {
            accounts: Accounts::new(proxy.table("points")),
            items: items::dynamo::Items::new(proxy.table("items")),
            orders: Orders::new(proxy.table("orders")),
            sweep: SweepDeps { store: Orders::new(proxy.table("orders")), deadline_seconds: DEADLINE_SECONDS },
            reports: notifications::handlers::Deps {
                store: Notifications::new(proxy.table("notifications")),
                provider: Platform,
            },
            receipts: notifications::handlers::PersonalDeps {
                store: Notifications::new(proxy.table("notifications")),
                provider: Office,
                directory: Office,
            },
            relays: CONTEXTS.map(|context| (context, relay(context))).into(),
            order: None,
            _bus: bus,
            stage,
        }
    }

    /// A part's rows as they are.
    pub async fn rows_of(&self, part: Part) -> Rows {
        let mut rows = self.stage.rows(part.context()).await;
        rows.retain(|(pk, sk), _| part.owns(pk, sk));
        rows
    }

    /// Calls a function on its part's rows, and has the relay publish its events.
    pub async fn play(&self, before: &Rows, job: &Job, trouble: &Trouble<Job>) -> Outcome {
        let (context, part) = (job.part.context(), job.part);
        // All functions in one future would be too much for a stack.
        let call = async |job: &Job| Box::pin(self.call(job)).await;
        let made = self.stage.play(context, before, (job, trouble), call, |pk, sk| part.owns(pk, sk)).await;
        let after = self.stage.rows(context).await;
        if *trouble != Trouble::Unpublished {
            self.relay(context, before, &after, job.now).await;
        }
        let rows = self.stage.rows(context).await;
        let writes = made.writes();
        let (done, other) = (made.done.unwrap_or_else(|| Err("died".to_owned())), made.other.unwrap_or(Ok(())));
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
            (RECEIPTS, Some(message)) => notifications::handlers::issue_order_receipt(&self.receipts, message).await,
            ("cancel-order", None) => {
                let (order, buyer, now) = (self.order.clone().unwrap(), user("alice"), job.now);
                let (within_seconds, most) = (CANCELLABLE_SECONDS, Some(1));
                let ask = CancelAsk { order, by: buyer.clone(), buyer, within_seconds, most, now };
                match cancel_order(&self.orders, ask).await {
                    Ok(_) | Err(CancelError::NotCancellable) => Ok(()),
                    Err(CancelError::Fault(fault)) => Err(fault),
                    Err(CancelError::NotFound | CancelError::TooMany) => panic!("the order is there, and the only one"),
                }
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

/// The events of rows that the relay published in between.
pub fn published(before: &Rows, after: &Rows) -> Vec<Event> {
    let attempts = |row: Option<&Item>| row.and_then(|row| row.int("attempts").ok()).unwrap_or(0);
    let fresh = after.iter().filter(|(key, row)| attempts(Some(row)) > attempts(before.get(key)));
    fresh.map(|(_, row)| row.document("event").unwrap()).collect()
}
