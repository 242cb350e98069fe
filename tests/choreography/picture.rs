//! The content of a part's rows about the order, in the terms of the invariants.

use crate::stage::Rows;
use aws_sdk_dynamodb::types::AttributeValue;
use contracts::Timestamp;
use contracts::orders::Pieces;
use kit::dynamo::{Item, Read};
use serde_json::Value;
use std::collections::BTreeMap;

/// The partition of the work for another order, which only the stock is told of.
pub const RIVAL: &str = "ORDER#rival";

/// A part's rows, looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// Units left and units sold, over all items.
    pub stock: i64,
    pub sold: i64,
    /// Units sold of limited items, and units of them that users have, as the limits count them.
    pub limited: i64,
    pub bought: i64,
    /// Units that the other order took.
    pub rival: i64,
    /// The user's balance, and the keys of the ledger's entries but the first.
    pub balance: i64,
    pub entries: Vec<String>,
    /// What the cart holds, by item.
    pub cart: BTreeMap<String, i64>,
    /// The order's status, with the reason of a failure.
    pub status: String,
    /// The part's own state of the order; empty if it never received it.
    pub work: String,
    /// The state of each participant in the order's row.
    pub answers: BTreeMap<String, String>,
    /// Whether it is counted as pending.
    pub is_pending: bool,
    /// Whether the order's receipt was issued, and whether it was cancelled.
    pub is_issued: bool,
    pub is_receipt_cancelled: bool,
    /// The events that were ever published, by type.
    pub events: Vec<String>,
    /// Since when rows of the outbox are pending, and when the order is checked again.
    pub waiting_since: Vec<Timestamp>,
    pub due: Option<Timestamp>,
    /// Violations.
    pub wrong: Vec<String>,
}

impl Picture {
    /// Reads rows, which must be consistent on their own: I3, and the stock's half of I10.
    pub fn of(rows: &Rows) -> Self {
        let mut picture = Self::default();
        for ((pk, sk), row) in rows {
            match sk.as_str() {
                "ITEM" => picture.item(row),
                "ACCOUNT" => picture.account(row),
                "CART" => picture.cart(row),
                "BOUGHT" => picture.bought(row),
                "WORK" if pk == RIVAL => picture.rival(row),
                "WORK" => picture.work = row.text("work_state").unwrap().to_owned(),
                "RECEIPT" => {
                    picture.is_issued = row.contains_key("receipt_key");
                    picture.is_receipt_cancelled = row.contains_key("cancelled");
                }
                "PENDING" => picture.is_pending = row.contains_key("orders"),
                "OUTBOX" => picture.outbox(row),
                _ if sk.starts_with("ORDER#") => picture.order(row),
                _ => assert!(known(pk, sk), "a row that nobody looks at: {pk} {sk}"),
            }
        }
        picture
    }

    fn item(&mut self, row: &Item) {
        let [stock, sold, received] = ["stock", "sold", "received"].map(|name| row.int(name).unwrap());
        if stock < 0 || sold < 0 || received != stock + sold {
            self.wrong.push(format!("I10: {stock} left, {sold} sold of {received}"));
        }
        self.stock += stock;
        self.sold += sold;
        self.limited += if row.contains_key("max_per_user") { sold } else { 0 };
    }

    fn bought(&mut self, row: &Item) {
        let counts = row.keys().filter(|name| name.starts_with("n#"));
        self.bought += counts.map(|name| row[name].as_n().unwrap().parse::<i64>().unwrap()).sum::<i64>();
    }

    fn rival(&mut self, row: &Item) {
        let pieces: Vec<Pieces> = row.document("pieces").unwrap();
        self.rival += pieces.iter().map(|pieces| i64::from(pieces.quantity)).sum::<i64>();
    }

    fn account(&mut self, row: &Item) {
        self.balance = row.int("balance").unwrap();
        let mut sum = 0;
        for (name, value) in row.iter().filter(|(name, _)| name.starts_with("e#")) {
            let entry = value.as_m().unwrap();
            let amount = entry.int("amount").unwrap();
            sum += if entry.text("kind").unwrap() == "use" { -amount } else { amount };
            self.entries.push(name.split(['#', '.']).nth(1).unwrap().to_owned());
        }
        self.entries.sort();
        if self.balance < 0 || sum != self.balance {
            self.wrong.push(format!("I3: the ledger makes {sum}, the balance is {}", self.balance));
        }
    }

    fn cart(&mut self, row: &Item) {
        for (name, line) in row.iter().filter(|(name, _)| name.starts_with("l#")) {
            self.cart.insert(name[2..].to_owned(), line.as_m().unwrap().int("quantity").unwrap());
        }
    }

    fn outbox(&mut self, row: &Item) {
        let event: Value = row.document("event").unwrap();
        self.events.push(event["type"].as_str().unwrap().to_owned());
        if let Some(AttributeValue::M(answers)) = row.get("work_state") {
            self.answers = answers.iter().map(|(name, work)| (name.clone(), work.as_s().unwrap().clone())).collect();
        }
        if row.text("publish_state").unwrap() == "pending" {
            self.waiting_since.push(row.moment("created_at").unwrap());
            if !row.contains_key("unpublished_shard") {
                self.wrong.push("an event that the sweep cannot find".to_owned());
            }
        }
    }

    fn order(&mut self, row: &Item) {
        let failure = row.text("failure").map(|failure| format!(": {failure}")).unwrap_or_default();
        self.status = format!("{}{failure}", row.text("status").unwrap());
        self.due = row.contains_key("due_shard").then(|| row.moment("due_at").unwrap());
    }
}

/// Rows that are no part of the order: the shop's list, answers under idempotency keys, deliveries to external systems.
fn known(pk: &str, sk: &str) -> bool {
    pk == "ITEMS" || sk.starts_with("IDEM#") || sk.starts_with("CANCELLED#") || sk == "DELIVERY"
}
