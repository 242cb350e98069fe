//! Reads a stack's tables and queues into a [`Snapshot`].

use super::snapshot::{
    Account, Charge, ChargeStatus, Counter, DateRow, Entitlement, Entry, Item as Merchandise, Job, Line, Order,
    OrderStatus, OutboxRow, Participant, Payment, PaymentStatus, Receipt, Reservation, ReservationStatus, Seat,
    SeatState, SectionMap, Snapshot, Stripe, UserPlace, Withdrawal, WithdrawalStatus,
};
use crate::{Error, Result, StackInfo};
use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, QueueAttributeName};
use contracts::admission::AdmissionPlan;
use contracts::choreography::ParticipantState;
use contracts::events::{Event, EventBody, schema_of};
use contracts::orders::{OrderFailure, OrderLine, Pieces};
use contracts::seats::stream;
use contracts::steps::OpenSchedule;
use contracts::{
    ConcertId, ItemId, OrderId, PaymentId, ReservationId, ScheduleId, SeatId, SectionName, Timestamp, UserId, Won,
};
use kit::Fault;
use kit::dynamo::{Item, PK, Read, SK};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// The tables, in the order of a sale: sold seats are read after payments, and the effects of an order after its end.
pub(super) const TABLES: [(&str, ReadItem); 8] = [
    ("payments", payments_item),
    ("orders", orders_item),
    ("points", points_item),
    ("items", items_item),
    ("reservations", reservations_item),
    ("waiting-room", waiting_room_item),
    ("concerts", concerts_item),
    ("notifications", notifications_item),
];
/// The queue of payments that the on-call has to finish.
const PARKED: &str = "parked-payments";
/// The suffix of queues that hold what could not be handled.
const DEAD_LETTERS: &str = "-dead-letters";
/// How long a parked message is invisible while the others are read, in seconds. Reading removes nothing.
const LOOK_SECONDS: i32 = 30;
/// Rounds of reading parked messages: ten each.
const PARKED_ROUNDS: usize = 100;

/// Puts an item where it belongs in a snapshot.
pub(super) type ReadItem = fn(&Item, &mut Snapshot) -> Result<(), Fault>;

/// Reads everything.
pub async fn snapshot(info: &StackInfo) -> Result<Snapshot> {
    let config = info.sdk_config();
    let client = aws_sdk_dynamodb::Client::new(&config);
    let mut snapshot = Snapshot::default();
    for (context, read) in TABLES {
        let table = info
            .tables
            .get(context)
            .ok_or_else(|| Error::Usage(format!("the stack {} has no table {context}", info.stack)))?;
        let mut items = client.scan().table_name(table).consistent_read(true).into_paginator().items().send();
        while let Some(item) = items.next().await {
            let item = item.map_err(|e| failed(&format!("reading the table {table}"), &DisplayErrorContext(e)))?;
            take(&item, read, table, &mut snapshot);
        }
    }
    let queues = aws_sdk_sqs::Client::new(&config);
    for (name, url) in &info.queues {
        if name == PARKED {
            read_parked(&queues, url, &mut snapshot).await?;
        } else if holds_dead_letters(name) {
            snapshot.dead_letters.insert(name.clone(), messages_in(&queues, url).await?);
        }
    }
    snapshot.now = kit::now();
    Ok(snapshot)
}

/// Reads an item, or says why it cannot be read.
fn take(item: &Item, read: ReadItem, table: &str, snapshot: &mut Snapshot) {
    if let Err(fault) = read(item, snapshot) {
        let key = |name| item.get(name).and_then(|key| key.as_s().ok()).map_or("?", String::as_str);
        snapshot.unreadable.push(format!("{table} {} / {}: {}", key(PK), key(SK), fault.chain()));
    }
}

/// Reads items of a context's table that are at hand, as [`check`](super::check) needs them; `None` if there is no such
/// context.
pub fn of_items<'a>(context: &str, items: impl IntoIterator<Item = &'a Item>) -> Option<Snapshot> {
    let (table, read) = TABLES.into_iter().find(|(name, _)| *name == context)?;
    let mut snapshot = Snapshot::default();
    for item in items {
        take(item, read, table, &mut snapshot);
    }
    Some(snapshot)
}

fn failed(doing: &str, why: &dyn std::fmt::Display) -> Error {
    Error::Engine(format!("{doing}: {why}"))
}

/// How many messages are in flight to their consumers.
pub async fn on_their_way(info: &StackInfo) -> Result<u64> {
    let queues = aws_sdk_sqs::Client::new(&info.sdk_config());
    let mut all = 0;
    for (_, url) in info.queues.iter().filter(|(name, _)| *name != PARKED && !holds_dead_letters(name)) {
        all += messages_in(&queues, url).await?;
    }
    Ok(all)
}

fn holds_dead_letters(queue: &str) -> bool {
    queue.trim_end_matches(".fifo").ends_with(DEAD_LETTERS)
}

async fn messages_in(queues: &aws_sdk_sqs::Client, url: &str) -> Result<u64> {
    let counted = [
        QueueAttributeName::ApproximateNumberOfMessages,
        QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        QueueAttributeName::ApproximateNumberOfMessagesDelayed,
    ];
    let asked = queues.get_queue_attributes().queue_url(url).set_attribute_names(Some(counted.to_vec())).send().await;
    let answer = asked.map_err(|e| failed(&format!("counting the messages of {url}"), &DisplayErrorContext(e)))?;
    let numbers = answer.attributes.unwrap_or_default();
    Ok(counted.iter().filter_map(|name| numbers.get(name)?.parse::<u64>().ok()).sum())
}

/// The body of a parked message, see `ParkPayment` and `ParkRefund` in the state machines.
#[derive(Deserialize)]
struct Parked {
    saga: ParkedSaga,
}

#[derive(Deserialize)]
struct ParkedSaga {
    payment_id: PaymentId,
}

async fn read_parked(queues: &aws_sdk_sqs::Client, url: &str, snapshot: &mut Snapshot) -> Result<()> {
    if messages_in(queues, url).await? == 0 {
        return Ok(());
    }
    let mut seen = Vec::new();
    for _ in 0..PARKED_ROUNDS {
        let looked = queues
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(10)
            .visibility_timeout(LOOK_SECONDS)
            .send()
            .await
            .map_err(|e| failed("reading parked payments", &DisplayErrorContext(e)))?;
        if looked.messages().is_empty() {
            break;
        }
        for message in looked.messages() {
            seen.extend(message.receipt_handle().map(str::to_owned));
            match serde_json::from_str::<Parked>(message.body().unwrap_or_default()) {
                Ok(parked) => {
                    snapshot.parked.insert(parked.saga.payment_id);
                }
                Err(error) => snapshot.unreadable.push(format!("a message in {url}: {error}")),
            }
        }
    }
    // The on-call works on them: make them visible again at once.
    for batch in seen.chunks(10) {
        let mut back = queues.change_message_visibility_batch().queue_url(url);
        for (index, handle) in batch.iter().enumerate() {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(index.to_string())
                .receipt_handle(handle)
                .visibility_timeout(0)
                .build()
                .map_err(|e| failed("putting parked payments back", &e))?;
            back = back.entries(entry);
        }
        back.send().await.map_err(|e| failed("putting parked payments back", &DisplayErrorContext(e)))?;
    }
    Ok(())
}

fn wrong(what: impl Into<String>) -> Fault {
    Fault::broken("auditing an item", what.into())
}

fn parse<T: TryFrom<String>>(text: &str, what: &str) -> Result<T, Fault> {
    T::try_from(text.to_owned()).map_err(|_| wrong(format!("`{text}` is no {what}")))
}

/// Inserts a value under a new key: every key stands for one thing.
fn put_new<K: Ord + std::fmt::Debug, V>(map: &mut BTreeMap<K, V>, key: K, value: V) -> Result<(), Fault> {
    match map.entry(key) {
        std::collections::btree_map::Entry::Occupied(there) => Err(wrong(format!("{:?} is there twice", there.key()))),
        std::collections::btree_map::Entry::Vacant(free) => {
            free.insert(value);
            Ok(())
        }
    }
}

/// Attributes whose names start with `prefix`, with the rest of their names.
fn prefixed<'a>(item: &'a Item, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a AttributeValue)> {
    item.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value)))
}

fn number(value: &AttributeValue, what: &str) -> Result<i64, Fault> {
    value.as_n().ok().and_then(|digits| digits.parse().ok()).ok_or_else(|| wrong(format!("{what} is no number")))
}

fn maybe_moment(item: &Item, name: &'static str) -> Result<Option<Timestamp>, Fault> {
    Ok(item.maybe_int(name)?.map(Timestamp::from_millis))
}

fn maybe_payment(item: &Item) -> Result<Option<PaymentId>, Fault> {
    if item.contains_key("payment_id") { item.parsed("payment_id").map(Some) } else { Ok(None) }
}

fn strings<'a>(item: &'a Item, name: &str) -> Result<&'a [String], Fault> {
    match item.get(name) {
        None => Ok(&[]),
        Some(AttributeValue::Ss(strings)) => Ok(strings),
        Some(_) => Err(wrong(format!("{name} is no set of strings"))),
    }
}

/// What every table may have besides its own: remembered answers and events. `false` for anything else.
fn common_item(item: &Item, snapshot: &mut Snapshot) -> Result<bool, Fault> {
    let (pk, sk) = (item.text(PK)?, item.text(SK)?);
    if pk.starts_with("USER#") && sk.starts_with("IDEM#") {
        item.text("fingerprint")?;
        item.document::<Value>("answer")?;
        return Ok(true);
    }
    let Some(event) = pk.strip_prefix("OUTBOX#") else { return Ok(false) };
    let published = match item.text("publish_state")? {
        "published" => true,
        "pending" => false,
        other => return Err(wrong(format!("publish_state is {other}"))),
    };
    if published == item.contains_key("unpublished_shard") {
        return Err(wrong("its place in the index of unpublished events contradicts its state"));
    }
    let document: Value = item.document("event")?;
    if document["id"] != event || item.text("transaction_key")?.is_empty() {
        return Err(wrong("its event is another one, or of no transaction"));
    }
    let created_at = item.moment("created_at")?;
    let row = OutboxRow {
        event_type: document["type"].as_str().unwrap_or_default().to_owned(),
        wrong: against_catalogue(&document),
        published,
        // A malformed time is a violation of the schema.
        happened_at: document["time"].as_str().and_then(|at| Timestamp::parse_rfc3339(at).ok()).unwrap_or(created_at),
        created_at,
    };
    put_new(&mut snapshot.outbox, event.to_owned(), row)?;
    Ok(true)
}

/// The violations of the catalogue: by the schema of the event's type, or else by the type that reads it.
fn against_catalogue(event: &Value) -> Vec<String> {
    static SCHEMAS: LazyLock<BTreeMap<&str, jsonschema::Validator>> = LazyLock::new(|| {
        let compiled = EventBody::TYPES.iter().filter_map(|name| {
            let schema = serde_json::from_str(schema_of(name)?).ok()?;
            let options = jsonschema::draft202012::options().should_validate_formats(true);
            Some((*name, options.build(&schema).ok()?))
        });
        compiled.collect()
    });
    let Some(schema) = event["type"].as_str().and_then(|name| SCHEMAS.get(name)) else {
        return vec![format!("{} is no type of the catalogue", event["type"])];
    };
    let wrong: Vec<String> =
        schema.iter_errors(event).map(|error| format!("{}: {error}", error.instance_path())).collect();
    match Event::deserialize(event) {
        Err(error) if wrong.is_empty() => vec![error.to_string()],
        _ => wrong,
    }
}

/// An item whose attributes are those of a published type; `documents` are JSON in a string.
fn published<T: DeserializeOwned>(item: &Item, documents: &[&'static str]) -> Result<T, Fault> {
    let mut fields = serde_json::Map::new();
    for (name, value) in item {
        let field = match value {
            AttributeValue::S(_) if documents.contains(&name.as_str()) => continue,
            AttributeValue::S(text) => Value::from(text.as_str()),
            AttributeValue::N(_) => Value::from(number(value, name)?),
            _ => continue,
        };
        fields.insert(name.clone(), field);
    }
    for name in documents {
        fields.insert((*name).to_owned(), item.document(name)?);
    }
    serde_json::from_value(Value::Object(fields)).map_err(|error| Fault::broken("auditing an item", error))
}

fn unknown(item: &Item) -> Fault {
    wrong(format!("no kind of item has such a key ({} attributes)", item.len()))
}

fn reservations_item(item: &Item, snapshot: &mut Snapshot) -> Result<(), Fault> {
    let (pk, sk) = (item.text(PK)?, item.text(SK)?);
    if let (Some(schedule), "TERMS") = (pk.strip_prefix("SCHEDULE#"), sk) {
        let terms: OpenSchedule =
            item.document(if item.contains_key("block_terms") { "block_terms" } else { "terms" })?;
        return put_new(&mut snapshot.terms, parse(schedule, "date")?, terms);
    }
    if let (Some(concert), "ADMISSION") = (pk.strip_prefix("CONCERT#"), sk) {
        return put_new(&mut snapshot.enforced_plans, parse(concert, "concert")?, item.uint("version")?);
    }
    if let (Some(place), Some(seat)) = (pk.strip_prefix("SEATS#"), sk.strip_prefix("SEAT#")) {
        return seat_item(item, place, seat, snapshot);
    }
    if let (Some(user), Some(id)) = (pk.strip_prefix("USER#"), sk.strip_prefix("RES#")) {
        return reservation_item(item, user, id, snapshot);
    }
    if let (Some(user), Some(concert)) = (pk.strip_prefix("USER#"), sk.strip_prefix("CONCERT#")) {
        let mut entitlement = Entitlement::default();
        for (schedule, count) in prefixed(item, "n#") {
            entitlement.tickets.insert(parse(schedule, "date")?, number(count, "a count of tickets")?);
        }
        for (position, at) in prefixed(item, "spent#") {
            let position = position.parse().map_err(|_| wrong(format!("spent#{position}")))?;
            entitlement.spent.insert(position, Timestamp::from_millis(number(at, "the time of spending")?));
        }
        return put_new(&mut snapshot.entitlements, (parse(user, "user")?, parse(concert, "concert")?), entitlement);
    }
    if common_item(item, snapshot)? { Ok(()) } else { Err(unknown(item)) }
}

fn seat_item(item: &Item, place: &str, seat: &str, snapshot: &mut Snapshot) -> Result<(), Fault> {
    let id: SeatId = parse(seat, "seat")?;
    let schedule: ScheduleId = item.parsed(stream::SCHEDULE_ID)?;
    let section = format!("{schedule}#{}", id.section);
    let block = place.strip_prefix(&section).and_then(|rest| match rest.strip_prefix('#') {
        None => rest.is_empty().then_some(None),
        Some(block) => block.parse().ok().map(Some),
    });
    // The stream, and with it the seat map, uses the attributes; the writes use the key.
    let same = item.text(stream::KIND)? == stream::KIND_SEAT && item.text(stream::SEAT_ID)? == seat;
    let Some(block) = block.filter(|_| same) else {
        return Err(wrong("its key and its attributes name different seats"));
    };
    let state = match item.text(stream::STATUS)? {
        stream::HELD => SeatState::Held,
        stream::PAYING => SeatState::Paying,
        stream::SOLD => SeatState::Sold,
        other => return Err(wrong(format!("status is {other}"))),
    };
    let seat = Seat {
        block,
        state,
        reservation: item.parsed("reservation_id")?,
        user: item.parsed("user_id")?,
        hold_expires_at: maybe_moment(item, "hold_expires_at")?,
        payment: maybe_payment(item)?,
    };
    put_new(&mut snapshot.seats, (schedule, id), seat)
}

fn reservation_item(item: &Item, user: &str, id: &str, snapshot: &mut Snapshot) -> Result<(), Fault> {
    if item.text("user_id")? != user || item.text("reservation_id")? != id {
        return Err(wrong("its key and its attributes name different reservations"));
    }
    let status = match item.text("status")? {
        "pending" => ReservationStatus::Pending,
        "held" => ReservationStatus::Held,
        "paying" => ReservationStatus::Paying,
        "paid" => ReservationStatus::Paid,
        "cancelled" => ReservationStatus::Cancelled,
        "expired" => ReservationStatus::Expired,
        "rejected" => ReservationStatus::Rejected,
        "refunded" => ReservationStatus::Refunded,
        other => return Err(wrong(format!("status is {other}"))),
    };
    let Some(AttributeValue::L(list)) = item.get("seats") else { return Err(wrong("seats is no list")) };
    let seat = |value: &AttributeValue| parse::<SeatId>(value.as_s().map_or("?", String::as_str), "seat");
    let reservation = Reservation {
        user: item.parsed("user_id")?,
        schedule: item.parsed("schedule_id")?,
        concert: item.parsed("concert_id")?,
        seats: list.iter().map(seat).collect::<Result<_, _>>()?,
        total_price: item.int("total_price")?,
        queue_position: item.uint("queue_position")?,
        status,
        hold_expires_at: item.moment("hold_expires_at")?,
        created_at: item.moment("created_at")?,
        payment: maybe_payment(item)?,
        due_at: if item.contains_key("due_shard") { maybe_moment(item, "due_at")? } else { None },
        seats_free_at: maybe_moment(item, "seats_free_at")?,
        extended_from: maybe_moment(item, "extended_from")?,
        in_waiting_index: item.contains_key("waiting_shard") && item.contains_key("waiting_at"),
        withdrawn: item.contains_key("failure"),
    };
    if reservation.in_waiting_index {
        item.document::<Value>("wish")?;
    }
    put_new(&mut snapshot.reservations, item.parsed::<ReservationId>("reservation_id")?, reservation)
}

fn points_item(item: &Item, snapshot: &mut Snapshot) -> Result<(), Fault> {
    let (pk, sk) = (item.text(PK)?, item.text(SK)?);
    if let (Some(order), "WORK") = (pk.strip_prefix("ORDER#"), sk) {
        item.uint("amount")?;
        return job_item(item, order, Participant::Points, Vec::new(), snapshot);
    }
    let Some(user) = pk.strip_prefix("USER#") else {
        return if common_item(item, snapshot)? { Ok(()) } else { Err(unknown(item)) };
    };
    let user: UserId = parse(user, "user")?;
    if sk == "ACCOUNT" {
        let account = snapshot.accounts.entry(user).or_default();
        account.balance = item.maybe_int("balance")?.unwrap_or(0);
        account.sequence = unsigned(item.maybe_int("seq")?.unwrap_or(0), "seq")?;
        account.hot = unsigned(item.maybe_int("hot")?.unwrap_or(0), "hot")?;
        for (closed, at) in prefixed(item, "v#") {
            number(at, "the time of closing off")?;
            account.closed.insert(closed.to_owned());
        }
        return hot_entries(item, account);
    }
    if sk.starts_with("LEDGER#") {
        let account = snapshot.accounts.entry(user).or_default();
        for archived in item.document::<Vec<ArchivedEntry>>("entries")? {
            account.entries.push(Entry {
                adds: signed(&archived.kind, archived.amount.get())?,
                key: archived.key,
                id: archived.id,
                balance_after: archived.balance_after.get(),
                sequence: archived.sequence,
                archived: true,
            });
        }
        return Ok(());
    }
    if let Some(key) = sk.strip_prefix("KEY#") {
        item.text("page")?;
        snapshot.accounts.entry(user).or_default().archived_keys.insert(key.to_owned());
        return Ok(());
    }
    if common_item(item, snapshot)? { Ok(()) } else { Err(unknown(item)) }
}

#[derive(Deserialize)]
struct ArchivedEntry {
    key: String,
    id: String,
    kind: String,
    amount: Won,
    sequence: u64,
    balance_after: Won,
}

fn unsigned(value: i64, what: &str) -> Result<u64, Fault> {
    u64::try_from(value).map_err(|_| wrong(format!("{what} is {value}")))
}

fn signed(kind: &str, amount: i64) -> Result<i64, Fault> {
    match kind {
        "charge" | "refund" => Ok(amount),
        "use" => Ok(-amount),
        other => Err(wrong(format!("an entry's kind is {other}"))),
    }
}

fn hot_entries(item: &Item, account: &mut Account) -> Result<(), Fault> {
    for (key, map) in prefixed(item, "e#") {
        let AttributeValue::M(map) = map else { return Err(wrong(format!("the entry {key} is no map"))) };
        let map: &Item = map;
        let beside = |prefix: &str| {
            let name = format!("{prefix}#{key}");
            item.get(&name).ok_or_else(|| wrong(format!("{name} is missing"))).and_then(|value| number(value, &name))
        };
        account.entries.push(Entry {
            key: key.to_owned(),
            id: map.text("id")?.to_owned(),
            adds: signed(map.text("kind")?, map.int("amount")?)?,
            balance_after: beside("b")?,
            sequence: unsigned(beside("s")?, "a sequence")?,
            archived: false,
        });
    }
    Ok(())
}

fn payments_item(item: &Item, snapshot: &mut Snapshot) -> Result<(), Fault> {
    let (pk, sk) = (item.text(PK)?, item.text(SK)?);
    if let (Some(user), Some(id)) = (pk.strip_prefix("USER#"), sk.strip_prefix("PAY#")) {
        let payment = Payment {
            saga: item.document("saga")?,
            status: match item.text("status")? {
                "pending" => PaymentStatus::Pending,
                "completed" => PaymentStatus::Completed,
                "failed" => PaymentStatus::Failed,
                "refunding" => PaymentStatus::Refunding,
                "refunded" => PaymentStatus::Refunded,
                other => return Err(wrong(format!("status is {other}"))),
            },
            amount: item.int("amount")?,
            created_at: item.moment("created_at")?,
            refund_requested_at: maybe_moment(item, "refund_requested_at")?,
            refunded_at: maybe_moment(item, "refunded_at")?,
            in_recovery_index: is_pending(item, ""),
        };
        let saga = &payment.saga;
        let same = saga.user_id.as_str() == user
            && saga.payment_id.as_str() == id
            && item.text("reservation_id")? == saga.reservation_id.as_str();
        if !same {
            return Err(wrong("its key, its attributes and its saga speak of different payments"));
        }
        return put_new(&mut snapshot.payments, saga.payment_id.clone(), payment);
    }
    if let (Some(_), Some(reservation)) = (pk.strip_prefix("USER#"), sk.strip_prefix("RES#")) {
        item.parsed::<PaymentId>("payment_id")?;
        let same = item.text("reservation_id")? == reservation;
        return if same { Ok(()) } else { Err(wrong("its key and its attributes name different reservations")) };
    }
    if let (Some(user), Some(key)) = (pk.strip_prefix("USER#"), sk.strip_prefix("CHARGE#")) {
        return charge_item(item, user, key, snapshot);
    }
    if let (Some(user), Some(id)) = (pk.strip_prefix("USER#"), sk.strip_prefix("WITHDRAWAL#")) {
        return withdrawal_item(item, user, id, snapshot);
    }
    if pk.starts_with("USER#") && sk.starts_with("WITHDRAWALS#") {
        return item.uint("asked").and(item.uint("ttl")).map(drop);
    }
    if let (Some(id), "OWNER") = (pk.strip_prefix("PAYOUT#"), sk) {
        item.parsed::<UserId>("user_id")?;
        let same = item.text("withdrawal_id")? == id;
        return if same { Ok(()) } else { Err(wrong("its key and its attributes name different withdrawals")) };
    }
    if pk.starts_with("USER#") && sk == "CHARGE-INTENT" {
        item.text("order_id")?;
        item.uint("amount")?;
        item.moment("expires_at")?;
        return Ok(());
    }
    // The release before had them; nothing goes by them any more.
    if pk.starts_with("PROVIDER#") && sk == "CLAIM" {
        return Ok(());
    }
    if common_item(item, snapshot)? { Ok(()) } else { Err(unknown(item)) }
}

/// Whether an item is in the index of what is pending, in a shard with this prefix: payments and charges share the
/// index, and each has a recovery that reads its own shards.
fn is_pending(item: &Item, shards: &str) -> bool {
    let shard = item.text("pending_shard").ok().and_then(|shard| shard.strip_prefix(shards));
    shard.is_some_and(|number| number.parse::<u64>().is_ok()) && item.contains_key("pending_since")
}

fn charge_item(item: &Item, user: &str, key: &str, snapshot: &mut Snapshot) -> Result<(), Fault> {
    if item.text("user_id")? != user || item.text("key")? != key {
        return Err(wrong("its key and its attributes name different charges"));
    }
    let charge = Charge {
        user: item.parsed("user_id")?,
        key: key.to_owned(),
        amount: item.int("amount")?,
        payment_key: item.text("payment_key")?.to_owned(),
        status: match item.text("status")? {
            "pending" => ChargeStatus::Pending,
            "confirmed" => ChargeStatus::Confirmed,
            "credited" => ChargeStatus::Credited,
            "refused" => ChargeStatus::Refused,
            "cancelling" => ChargeStatus::Cancelling,
            "cancelled" => ChargeStatus::Cancelled,
            other => return Err(wrong(format!("status is {other}"))),
        },
        requested_at: item.moment("requested_at")?,
        in_recovery_index: is_pending(item, "charge-"),
        withdrawn: item.maybe_int("withdrawn")?.unwrap_or(0),
    };
    put_new(&mut snapshot.charges, item.parsed("charge_id")?, charge)
}

fn withdrawal_item(item: &Item, user: &str, id: &str, snapshot: &mut Snapshot) -> Result<(), Fault> {
    if item.text("user_id")? != user || item.text("withdrawal_id")? != id {
        return Err(wrong("its key and its attributes name different withdrawals"));
    }
    let charge = item.contains_key("charge_id").then(|| item.parsed("charge_id")).transpose()?;
    if charge.is_some() {
        item.text("order_id").and(item.text("payment_key")).and(item.uint("charged"))?;
    }
    let withdrawal = Withdrawal {
        user: item.parsed("user_id")?,
        amount: item.int("amount")?,
        charge,
        status: match item.text("status")? {
            "requested" => WithdrawalStatus::Requested,
            "debited" => WithdrawalStatus::Debited,
            "paid" => WithdrawalStatus::Paid,
            "paid_out" => item.text("paid_by").and(item.text("paid_as")).map(|_| WithdrawalStatus::PaidOut)?,
            "returning" => item.text("reason").map(|_| WithdrawalStatus::Returning)?,
            "returned" => item.text("reason").map(|_| WithdrawalStatus::Returned)?,
            "refused" => WithdrawalStatus::Refused,
            other => return Err(wrong(format!("status is {other}"))),
        },
        requested_at: item.moment("requested_at")?,
        in_schedule_index: is_pending(item, "withdrawal-"),
        in_payout_index: item.text("pending_shard").is_ok_and(|shard| shard == "payout"),
    };
    put_new(&mut snapshot.withdrawals, item.parsed("withdrawal_id")?, withdrawal)
}

fn notifications_item(item: &Item, snapshot: &mut Snapshot) -> Result<(), Fault> {
    let (pk, sk) = (item.text(PK)?, item.text(SK)?);
    if let (Some(delivery), "DELIVERY") = (pk.strip_prefix("DELIVERY#"), sk) {
        let (consumer, event) = delivery.split_once('#').ok_or_else(|| unknown(item))?;
        let done_at = maybe_moment(item, "done_at")?;
        match done_at {
            Some(_) => item.text("outcome").map(drop)?,
            None => item.text("lease").and(item.moment("claimed_until")).map(drop)?,
        }
        return put_new(&mut snapshot.deliveries, (consumer.to_owned(), event.to_owned()), done_at);
    }
    if let (Some(sale), "RECEIPT") = (pk.strip_prefix("RECEIPT#"), sk) {
        let has = |name| item.contains_key(name);
        let receipt = Receipt { issued: has("receipt_key"), cancelled: has("cancelled") };
        return match sale.strip_prefix("ORDER#") {
            Some(order) => put_new(&mut snapshot.order_receipts, parse(order, "order")?, receipt),
            None => put_new(&mut snapshot.receipts, parse(sale, "payment")?, receipt),
        };
    }
    if pk.starts_with("ALERT#") && sk == "ALERT" {
        item.uint("rev")?;
        return item.document::<Value>("alert").map(drop);
    }
    if common_item(item, snapshot)? { Ok(()) } else { Err(unknown(item)) }
}

/// What a participant recorded of its work for an order.
fn job_item(
    item: &Item,
    order: &str,
    participant: Participant,
    pieces: Vec<Pieces>,
    snapshot: &mut Snapshot,
) -> Result<(), Fault> {
    let work = work_of(item.get("work_state").ok_or_else(|| wrong("work without a state"))?)?;
    if work == ParticipantState::Pending || !item.contains_key("ttl") {
        return Err(wrong("work that nobody did, or that is kept for ever"));
    }
    let counted = if item.contains_key("counted") { item.document("counted")? } else { Vec::new() };
    put_new(&mut snapshot.jobs, (parse(order, "order")?, participant), Job { work, pieces, counted })
}

fn items_item(item: &Item, snapshot: &mut Snapshot) -> Result<(), Fault> {
    let (pk, sk) = (item.text(PK)?, item.text(SK)?);
    if let (Some(id), "ITEM") = (pk.strip_prefix("ITEM#"), sk) {
        if item.text("item_id")? != id || item.text("name")?.is_empty() {
            return Err(wrong("its key and its attributes name different items, or it has no name"));
        }
        item.uint("price")?;
        if item.maybe_int("max_per_user")?.is_some_and(|most| most < 1) {
            return Err(wrong("nobody may have any of it"));
        }
        maybe_moment(item, "withdrawn_at")?;
        let merchandise = Merchandise {
            stock: item.int("stock")?,
            sold: item.int("sold")?,
            received: item.int("received")?,
            created_at: item.moment("created_at")?,
        };
        return put_new(&mut snapshot.items, parse(id, "item")?, merchandise);
    }
    if pk == "ITEMS" {
        return parse::<ItemId>(sk, "item").map(drop);
    }
    if let (Some(user), "BOUGHT") = (pk.strip_prefix("USER#"), sk) {
        for (id, count) in prefixed(item, "n#") {
            let whose = (parse(user, "user")?, parse(id, "item")?);
            put_new(&mut snapshot.bought, whose, number(count, "a count")?)?;
        }
        return Ok(());
    }
    if let (Some(order), "WORK") = (pk.strip_prefix("ORDER#"), sk) {
        return job_item(item, order, Participant::Stock, item.document("pieces")?, snapshot);
    }
    if common_item(item, snapshot)? { Ok(()) } else { Err(unknown(item)) }
}

fn orders_item(item: &Item, snapshot: &mut Snapshot) -> Result<(), Fault> {
    let (pk, sk) = (item.text(PK)?, item.text(SK)?);
    if let (Some(user), Some(id)) = (pk.strip_prefix("USER#"), sk.strip_prefix("ORDER#")) {
        return order_item(item, user, id, snapshot);
    }
    if pk.starts_with("USER#") && sk == "CART" {
        return cart_item(item);
    }
    if pk.starts_with("USER#") && (sk == "PENDING" || sk.starts_with("CANCELLED#") && item.contains_key("ttl")) {
        return strings(item, "orders")?.iter().try_for_each(|id| parse::<OrderId>(id, "order").map(drop));
    }
    if let (Some(order), "WORK") = (pk.strip_prefix("ORDER#"), sk) {
        return job_item(item, order, Participant::Cart, Vec::new(), snapshot);
    }
    if let Some(order) = pk.strip_prefix("OUTBOX#").and_then(|event| event.strip_suffix(".order.placed")) {
        let Some(AttributeValue::M(states)) = item.get("work_state") else {
            return Err(wrong("order.placed without a work_state"));
        };
        let state = |(name, work): (&String, &AttributeValue)| Ok((name.clone(), work_of(work)?));
        let states = states.iter().map(state).collect::<Result<_, Fault>>()?;
        put_new(&mut snapshot.work_states, parse(order, "order")?, states)?;
    }
    if common_item(item, snapshot)? { Ok(()) } else { Err(unknown(item)) }
}

fn work_of(value: &AttributeValue) -> Result<ParticipantState, Fault> {
    let text = value.as_s().map_or("?", String::as_str);
    text.parse().map_err(|_| wrong(format!("`{text}` is no state of work")))
}

fn order_item(item: &Item, user: &str, id: &str, snapshot: &mut Snapshot) -> Result<(), Fault> {
    let status = match item.text("status")? {
        "pending" => OrderStatus::Pending,
        "completed" => OrderStatus::Completed,
        "failed" => OrderStatus::Failed,
        other => return Err(wrong(format!("status is {other}"))),
    };
    if (status == OrderStatus::Failed) != item.contains_key("failure") {
        return Err(wrong("it failed without a reason, or has one and did not"));
    }
    if let Some(AttributeValue::S(failure)) = item.get("failure") {
        let reason = OrderFailure::deserialize(Value::String(failure.clone()));
        reason.map_err(|_| wrong(format!("failure is {failure}")))?;
    }
    let due_at = maybe_moment(item, "due_at")?;
    if due_at.is_some() != item.contains_key("due_shard") {
        return Err(wrong("the index of what is due has half of it"));
    }
    let order = Order {
        user: parse(user, "user")?,
        status,
        lines: item.document::<Vec<OrderLine>>("lines")?,
        total_price: item.int("total_price")?,
        placed_at: item.moment("placed_at")?,
        due_at,
    };
    put_new(&mut snapshot.orders, parse(id, "order")?, order)
}

fn cart_item(item: &Item) -> Result<(), Fault> {
    item.uint("rev")?;
    let mut lines = BTreeSet::new();
    for (id, line) in prefixed(item, "l#") {
        parse::<ItemId>(id, "item")?;
        lines.insert(id);
        let AttributeValue::M(line) = line else { return Err(wrong(format!("the line {id} is no map"))) };
        let line: &Item = line;
        let is_line = !line.text("name")?.is_empty() && line.uint("quantity")? > 0;
        line.uint("price").and(line.moment("put_at"))?;
        if !is_line {
            return Err(wrong(format!("the line {id} is of nothing")));
        }
    }
    // The number of lines is guarded by the list.
    let listed: BTreeSet<&str> = strings(item, "listed")?.iter().map(String::as_str).collect();
    if listed == lines { Ok(()) } else { Err(wrong("its lines are not those that are listed")) }
}

fn waiting_room_item(item: &Item, snapshot: &mut Snapshot) -> Result<(), Fault> {
    let (pk, sk) = (item.text(PK)?, item.text(SK)?);
    if let (Some(concert), Some(shard)) = (pk.strip_prefix("CONCERT#"), sk.strip_prefix("COUNTER#")) {
        return counter_item(item, concert, shard, snapshot);
    }
    if let (Some(concert), "PLAN") = (pk.strip_prefix("CONCERT#").and_then(|rest| rest.strip_suffix("#PLAN")), sk) {
        let plan: AdmissionPlan = item.document("plan")?;
        if item.uint("plan_version")? != plan.version {
            return Err(wrong("plan_version is not the plan's"));
        }
        line(snapshot, concert)?.plan = Some(plan);
        return Ok(());
    }
    if let ("GATES", Some(concert)) = (pk, sk.strip_prefix("LINE#")) {
        line(snapshot, concert)?.is_gated = true;
        return Ok(());
    }
    if let (Some(user), Some(concert)) = (pk.strip_prefix("USER#"), sk.strip_prefix("LINE#")) {
        return place_item(item, user, concert, snapshot);
    }
    if let Some((concert, _)) = pk.strip_prefix("CONCERT#").and_then(|rest| rest.split_once("#USED#")) {
        let mut used = Vec::new();
        for entry in strings(item, "used")? {
            let (position, payment) = entry.split_once(':').ok_or_else(|| wrong(format!("used has {entry}")))?;
            let position = position.parse().map_err(|_| wrong(format!("used has {entry}")))?;
            let payment = if payment == "left" { None } else { Some(parse::<PaymentId>(payment, "payment")?) };
            used.push((position, payment));
        }
        line(snapshot, concert)?.used.extend(used);
        return Ok(());
    }
    if common_item(item, snapshot)? { Ok(()) } else { Err(unknown(item)) }
}

fn counter_item(item: &Item, concert: &str, shard: &str, snapshot: &mut Snapshot) -> Result<(), Fault> {
    let number: u32 = shard.parse().map_err(|_| unknown(item))?;
    let stripe = item.uint("stripe")?;
    // All but the first have their stripe and number in the partition key too; those of earlier releases only the number.
    let concert = match (stripe, number) {
        (0, 0) => concert,
        (0, _) => concert.strip_suffix(&format!("#{number}")).ok_or_else(|| unknown(item))?,
        // The first counter counts the first places, and says which stripe the line is in.
        (_, 0) if item.contains_key("shards") => concert,
        _ => concert.strip_suffix(&format!("#{stripe}#{number}")).ok_or_else(|| unknown(item))?,
    };
    let counter = Counter { issued: item.uint("issued")?, turn: item.uint("turn")? };
    let is_first = item.contains_key("shards");
    let line = line(snapshot, concert)?;
    if is_first && number == 0 {
        line.stripe = Some(Stripe {
            number: stripe,
            shards: u32::try_from(item.uint("shards")?).map_err(|_| wrong("shards"))?,
            after_position: item.uint("after_position")?,
            after_turn: item.uint("after_turn")?,
        });
    }
    put_new(&mut line.counters, (if is_first { 0 } else { stripe }, number), counter)
}

fn place_item(item: &Item, user: &str, concert: &str, snapshot: &mut Snapshot) -> Result<(), Fault> {
    item.text("claim")?;
    item.moment("claimed_at")?;
    let place = match item.contains_key("position") {
        true => {
            item.moment("issued_at")?;
            Some((item.uint("position")?, item.uint("turn")?))
        }
        false => None,
    };
    let vacant = |name| unsigned(item.maybe_int(name)?.unwrap_or(0), name);
    let place = UserPlace { place, vacant: vacant("given_up")? + vacant("lost")? };
    put_new(&mut line(snapshot, concert)?.places, parse(user, "user")?, place)
}

fn line<'a>(snapshot: &'a mut Snapshot, concert: &str) -> Result<&'a mut Line, Fault> {
    Ok(snapshot.lines.entry(parse::<ConcertId>(concert, "concert")?).or_default())
}

fn concerts_item(item: &Item, snapshot: &mut Snapshot) -> Result<(), Fault> {
    let (pk, sk) = (item.text(PK)?, item.text(SK)?);
    if pk == "CONCERTS" || pk.starts_with("CONCERT#") && sk == "INFO" {
        item.parsed::<ConcertId>("concert_id")?;
        return Ok(());
    }
    if let (Some(schedule), "INFO") = (pk.strip_prefix("SCHEDULE#"), sk) {
        let date: OpenSchedule = published(item, &["sections"])?;
        return put_new(&mut snapshot.dates, parse(schedule, "date")?, date);
    }
    if let (Some(schedule), Some(section)) = (pk.strip_prefix("SCHEDULE#"), sk.strip_prefix("SECTION#")) {
        let Some(AttributeValue::B(bytes)) = item.get("seats") else { return Err(wrong("seats are no bytes")) };
        let map = SectionMap { seats: bytes.as_ref().to_vec(), held: item.int("held")?, sold: item.int("sold")? };
        let key = (parse::<ScheduleId>(schedule, "date")?, parse::<SectionName>(section, "section")?);
        return put_new(&mut snapshot.maps, key, map);
    }
    if let (true, Some(date)) = (pk.starts_with("CONCERT#"), sk.strip_prefix("DATE#")) {
        let schedule = date.split_once('#').map_or(date, |(_, schedule)| schedule);
        let mut row = DateRow { seats_total: item.maybe_int("seats_total")?, ..DateRow::default() };
        for (section, taken) in prefixed(item, "taken#") {
            row.taken.insert(parse(section, "section")?, number(taken, "a count of taken seats")?);
        }
        return put_new(&mut snapshot.date_rows, parse(schedule, "date")?, row);
    }
    if common_item(item, snapshot)? { Ok(()) } else { Err(unknown(item)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kit::dynamo::{n, s};

    fn item(attributes: &[(&str, AttributeValue)]) -> Item {
        attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn seat() -> Item {
        item(&[
            ("pk", s("SEATS#d#A")),
            ("sk", s("SEAT#A-1-2")),
            ("kind", s("seat")),
            ("schedule_id", s("d")),
            ("seat_id", s("A-1-2")),
            ("status", s("sold")),
            ("reservation_id", s("r")),
            ("user_id", s("alice")),
            ("payment_id", s("p")),
        ])
    }

    fn with(mut item: Item, name: &str, value: AttributeValue) -> Item {
        item.insert(name.to_owned(), value);
        item
    }

    #[test]
    fn a_seat_is_read_and_never_under_another_key_than_its_own() {
        let mut snapshot = Snapshot::default();
        reservations_item(&seat(), &mut snapshot).unwrap();
        let read = snapshot.seats.values().next().unwrap();
        assert_eq!((read.block, read.state, read.hold_expires_at), (None, SeatState::Sold, None));
        let of_block = with(with(seat(), "pk", s("SEATS#d#A#1")), "sk", s("SEAT#A-9-9"));
        reservations_item(&with(of_block, "seat_id", s("A-9-9")), &mut snapshot).unwrap();
        assert_eq!(snapshot.seats.pop_last().unwrap().1.block, Some(1));
        for wrong in [
            seat(),
            with(seat(), "seat_id", s("A-1-3")),
            with(seat(), "pk", s("SEATS#d#B")),
            with(seat(), "pk", s("SEATS#d#A#0")),
            with(seat(), "pk", s("SEATS#d#A#x")),
            with(seat(), "pk", s("SEATS#d#A0")),
            with(seat(), "schedule_id", s("other")),
            with(seat(), "kind", s("reservation")),
            with(seat(), "status", s("gone")),
            with(seat(), "sk", s("SEAT#A-01-2")),
            with(seat(), "payment_id", n(7)),
        ] {
            assert!(reservations_item(&wrong, &mut snapshot).is_err(), "{wrong:?}");
        }
        assert_eq!(snapshot.seats.len(), 1);
    }

    #[test]
    fn an_account_is_read_with_its_ledger() {
        let entry = |kind: &str, amount: i64| {
            AttributeValue::M(item(&[("kind", s(kind)), ("amount", n(amount)), ("id", s("e")), ("ref", s("p"))]))
        };
        let account = item(&[
            ("pk", s("USER#alice")),
            ("sk", s("ACCOUNT")),
            ("balance", n(60)),
            ("seq", n(2)),
            ("hot", n(2)),
            ("e#charge.k", entry("charge", 100)),
            ("b#charge.k", n(100)),
            ("s#charge.k", n(1)),
            ("e#use.p", entry("use", 40)),
            ("b#use.p", n(60)),
            ("s#use.p", n(2)),
            ("v#q", n(1)),
        ]);
        let mut snapshot = Snapshot::default();
        points_item(&account, &mut snapshot).unwrap();
        let mut adds: Vec<i64> = snapshot.accounts.values().flat_map(|found| &found.entries).map(|e| e.adds).collect();
        adds.sort_unstable();
        assert_eq!(adds, [-40, 100]);
        assert!(snapshot.accounts.values().all(|found| found.closed.iter().eq(["q"])));
        let mut cut = account.clone();
        cut.remove("s#use.p");
        assert!(points_item(&cut, &mut Snapshot::default()).is_err(), "an entry without its sequence");
        let odd = with(account, "e#use.p", entry("gift", 40));
        assert!(points_item(&odd, &mut Snapshot::default()).is_err(), "a kind nobody knows");
        let key = item(&[("pk", s("USER#alice")), ("sk", s("KEY#use.p")), ("page", s("LEDGER#000000000002"))]);
        points_item(&key, &mut snapshot).unwrap();
        assert!(snapshot.accounts.values().all(|found| found.archived_keys.iter().eq(["use.p"])));
    }

    /// A row with the example of a type.
    fn outbox_row() -> Item {
        let schema: Value = serde_json::from_str(schema_of("payment.failed").unwrap()).unwrap();
        let mut event = schema["examples"][0].clone();
        event["id"] = "e".into();
        item(&[
            ("pk", s("OUTBOX#e")),
            ("sk", s("OUTBOX")),
            ("event", s(event.to_string())),
            ("transaction_key", s("t")),
            ("publish_state", s("published")),
            ("created_at", n(1)),
        ])
    }

    #[test]
    fn an_event_is_held_against_the_schema_of_its_type() {
        let read = |row: &Item| {
            let mut snapshot = Snapshot::default();
            common_item(row, &mut snapshot).map(|_| snapshot.outbox.into_values().next().unwrap())
        };
        let good = read(&outbox_row()).unwrap();
        assert_eq!((good.event_type.as_str(), good.wrong), ("payment.failed", Vec::new()));
        let mut event: Value = outbox_row().document("event").unwrap();
        event["data"]["telephone"] = "010-1234-5678".into();
        event["time"] = "yesterday".into();
        let wrong = read(&with(outbox_row(), "event", s(event.to_string()))).unwrap().wrong;
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        // Whatever a schema accepts has to be readable.
        let mut unread: Value = outbox_row().document("event").unwrap();
        unread["time"] = "1969-12-31T23:59:59Z".into();
        assert_eq!(read(&with(outbox_row(), "event", s(unread.to_string()))).unwrap().wrong.len(), 1);
        event["type"] = "payment.forgotten".into();
        assert_eq!(read(&with(outbox_row(), "event", s(event.to_string()))).unwrap().wrong.len(), 1);
        event["id"] = "other".into();
        assert!(read(&with(outbox_row(), "event", s(event.to_string()))).is_err());
    }

    #[test]
    fn deliveries_receipts_and_alerts_are_read() {
        let delivery = item(&[("pk", s("DELIVERY#push-alimtalk#p.payment.completed")), ("sk", s("DELIVERY"))]);
        let claimed = with(with(delivery.clone(), "lease", s("l")), "claimed_until", n(9));
        let done = with(with(delivery.clone(), "outcome", s("sent")), "done_at", n(9));
        let receipt = item(&[("pk", s("RECEIPT#p")), ("sk", s("RECEIPT")), ("receipt_key", s("k"))]);
        let of_order = item(&[("pk", s("RECEIPT#ORDER#o")), ("sk", s("RECEIPT")), ("cancelled", s("k"))]);
        let alert = item(&[("pk", s("ALERT#f")), ("sk", s("ALERT")), ("alert", s("{}")), ("rev", n(1))]);
        let mut snapshot = Snapshot::default();
        for row in [&done, &receipt, &of_order, &alert] {
            notifications_item(row, &mut snapshot).unwrap();
        }
        let key = ("push-alimtalk".to_owned(), "p.payment.completed".to_owned());
        assert_eq!(snapshot.deliveries[&key], Some(Timestamp::from_millis(9)));
        assert_eq!(snapshot.receipts.into_values().next(), Some(Receipt { issued: true, cancelled: false }));
        let of_order = snapshot.order_receipts.into_iter().next().unwrap();
        assert_eq!((of_order.0.as_str(), of_order.1), ("o", Receipt { issued: false, cancelled: true }));
        assert!(notifications_item(&claimed, &mut Snapshot::default()).is_ok());
        assert!(notifications_item(&delivery, &mut Snapshot::default()).is_err(), "neither claimed nor done");
    }

    #[test]
    fn a_charge_is_read_and_never_under_another_key_than_its_own() {
        let charge = item(&[
            ("pk", s("USER#alice")),
            ("sk", s("CHARGE#k")),
            ("user_id", s("alice")),
            ("key", s("k")),
            ("charge_id", s("p")),
            ("amount", n(5)),
            ("payment_key", s("toss")),
            ("status", s("confirmed")),
            ("requested_at", n(1)),
            ("pending_shard", s("charge-1")),
            ("pending_since", n(1)),
        ]);
        let mut snapshot = Snapshot::default();
        payments_item(&charge, &mut snapshot).unwrap();
        let read = snapshot.charges.values().next().unwrap();
        assert_eq!((read.status, read.amount, read.in_recovery_index), (ChargeStatus::Confirmed, 5, true));
        for shard in ["1", "charge-", "charge-x"] {
            let mut snapshot = Snapshot::default();
            payments_item(&with(charge.clone(), "pending_shard", s(shard)), &mut snapshot).unwrap();
            assert!(!snapshot.charges[&PaymentId::parse("p").unwrap()].in_recovery_index, "{shard}");
        }
        for (name, value) in [("key", s("x")), ("user_id", s("bob")), ("status", s("lost")), ("amount", s("5"))] {
            assert!(payments_item(&with(charge.clone(), name, value), &mut Snapshot::default()).is_err(), "{name}");
        }
    }

    #[test]
    fn merchandise_is_read_and_never_under_another_key_than_its_own() {
        let row = item(&[
            ("pk", s("ITEM#i")),
            ("sk", s("ITEM")),
            ("item_id", s("i")),
            ("name", s("Poster")),
            ("price", n(5)),
            ("stock", n(7)),
            ("sold", n(3)),
            ("received", n(10)),
            ("created_at", n(1)),
        ]);
        let mut snapshot = Snapshot::default();
        items_item(&row, &mut snapshot).unwrap();
        let read = snapshot.items.values().next().unwrap();
        assert_eq!((read.stock, read.sold, read.received), (7, 3, 10));
        assert!(items_item(&item(&[("pk", s("ITEMS")), ("sk", s("i"))]), &mut snapshot).is_ok());
        let bought = item(&[("pk", s("USER#alice")), ("sk", s("BOUGHT")), ("n#i", n(2))]);
        items_item(&bought, &mut snapshot).unwrap();
        assert_eq!(snapshot.bought.into_values().collect::<Vec<_>>(), [2]);
        assert!(items_item(&with(bought, "n#i", s("two")), &mut Snapshot::default()).is_err());
        let bad = [("item_id", s("x")), ("name", s("")), ("price", n(-1)), ("sold", s("3")), ("max_per_user", n(0))];
        for (name, value) in bad {
            assert!(items_item(&with(row.clone(), name, value), &mut Snapshot::default()).is_err(), "{name}");
        }
    }

    /// An order's own row.
    fn order_row() -> Item {
        item(&[
            ("pk", s("USER#alice")),
            ("sk", s("ORDER#o")),
            ("status", s("pending")),
            ("lines", s(r#"[{"item_id":"i","name":"Poster","price":5,"quantity":2}]"#)),
            ("total_price", n(10)),
            ("placed_at", n(1)),
            ("due_at", n(2)),
            ("due_shard", s("7")),
        ])
    }

    #[test]
    fn an_order_is_read_with_its_reason_if_it_failed() {
        let read = |row: &Item| {
            let mut snapshot = Snapshot::default();
            orders_item(row, &mut snapshot).map(|()| snapshot.orders.into_values().next().unwrap())
        };
        let order = read(&order_row()).unwrap();
        assert_eq!((order.status, order.lines.len(), order.is_quiet()), (OrderStatus::Pending, 1, false));
        let failed = with(order_row(), "status", s("failed"));
        let mut undone = with(failed.clone(), "failure", s("timed_out"));
        assert!(!read(&undone).unwrap().is_quiet());
        undone.remove("due_at");
        assert!(read(&undone).is_err(), "half in the index");
        undone.remove("due_shard");
        assert!(read(&undone).unwrap().is_quiet());
        for wrong in [
            failed.clone(),
            with(failed, "failure", s("bored")),
            with(order_row(), "failure", s("timed_out")),
            with(order_row(), "status", s("lost")),
            with(order_row(), "lines", s("[{}]")),
        ] {
            assert!(read(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_cart_is_read_line_by_line() {
        let line = item(&[("name", s("Poster")), ("price", n(5)), ("quantity", n(2)), ("put_at", n(1))]);
        let cart = |line: Item| {
            let cart = item(&[("pk", s("USER#alice")), ("sk", s("CART")), ("rev", n(1))]);
            with(with(cart, "l#i", AttributeValue::M(line)), "listed", AttributeValue::Ss(vec!["i".into()]))
        };
        let read = |row: &Item| orders_item(row, &mut Snapshot::default());
        assert!(read(&cart(line.clone())).is_ok());
        for (name, value) in [("name", s("")), ("price", n(-1)), ("quantity", n(0)), ("put_at", s("now"))] {
            assert!(read(&cart(with(line.clone(), name, value))).is_err(), "{name}");
        }
        assert!(read(&with(cart(line.clone()), "rev", s("x"))).is_err());
        assert!(read(&with(cart(line.clone()), "listed", AttributeValue::Ss(vec!["i".into(), "j".into()]))).is_err());
        assert!(read(&with(cart(line.clone()), "l#j", AttributeValue::M(line))).is_err(), "not listed");
    }

    #[test]
    fn lists_of_a_users_orders_are_read_and_those_of_a_day_are_not_kept_for_ever() {
        let list = |sk: &str, id: &str| {
            let row = item(&[("pk", s("USER#alice")), ("sk", s(sk))]);
            with(row, "orders", AttributeValue::Ss(vec![id.into()]))
        };
        let read = |row: &Item| orders_item(row, &mut Snapshot::default());
        assert!(read(&list("PENDING", "o")).is_ok() && read(&list("PENDING", "not one")).is_err());
        let of_day = list("CANCELLED#2026-11-29", "o");
        assert!(read(&of_day).is_err());
        assert!(read(&with(of_day, "ttl", n(1))).is_ok());
    }

    #[test]
    fn work_for_an_order_is_read_where_it_was_done_and_as_orders_recorded_it() {
        let work = item(&[("pk", s("ORDER#o")), ("sk", s("WORK")), ("work_state", s("done")), ("ttl", n(1))]);
        let pieces = with(work.clone(), "pieces", s(r#"[{"item_id":"i","quantity":2}]"#));
        let points = with(work.clone(), "amount", n(10));
        let mut snapshot = Snapshot::default();
        orders_item(&work, &mut snapshot).unwrap();
        items_item(&pieces, &mut snapshot).unwrap();
        points_item(&points, &mut snapshot).unwrap();
        assert!(Participant::ALL.into_iter().eq(snapshot.jobs.keys().map(|(_, participant)| *participant)));
        assert!(snapshot.jobs.values().all(|job| job.work == ParticipantState::Done));
        for wrong in [work.clone(), with(pieces.clone(), "work_state", s("pending")), with(pieces, "pieces", s("2"))] {
            assert!(items_item(&wrong, &mut Snapshot::default()).is_err(), "{wrong:?}");
        }
        let mut kept = work;
        kept.remove("ttl");
        assert!(orders_item(&kept, &mut Snapshot::default()).is_err(), "kept for ever");

        let schema: Value = serde_json::from_str(schema_of("order.placed").unwrap()).unwrap();
        let mut event = schema["examples"][0].clone();
        event["id"] = "o.order.placed".into();
        let placed = with(with(outbox_row(), "event", s(event.to_string())), "pk", s("OUTBOX#o.order.placed"));
        assert!(orders_item(&placed, &mut Snapshot::default()).is_err(), "no work state");
        let work_state = |work: &str| AttributeValue::M(item(&[("stock", s(work)), ("data_platform", s("pending"))]));
        orders_item(&with(placed.clone(), "work_state", work_state("undone")), &mut snapshot).unwrap();
        assert_eq!(snapshot.work_states[&contracts::OrderId::parse("o").unwrap()]["stock"], ParticipantState::Undone);
        assert!(orders_item(&with(placed, "work_state", work_state("bored")), &mut Snapshot::default()).is_err());
    }

    #[test]
    fn an_event_is_pending_exactly_while_the_sweep_can_find_it() {
        let row = |state: &str| with(outbox_row(), "publish_state", s(state));
        let read = |row: Item| common_item(&row, &mut Snapshot::default());
        assert!(read(row("published")).unwrap());
        assert!(read(with(row("pending"), "unpublished_shard", s("0"))).unwrap());
        assert!(read(row("pending")).is_err());
        assert!(read(with(row("published"), "unpublished_shard", s("0"))).is_err());
    }

    #[test]
    fn an_item_that_no_table_documents_is_no_item_of_ours() {
        let stray = item(&[("pk", s("X#1")), ("sk", s("Y"))]);
        for (table, read) in TABLES {
            assert!(read(&stray, &mut Snapshot::default()).is_err(), "{table}");
            assert!(read(&Item::new(), &mut Snapshot::default()).is_err(), "{table}");
        }
    }

    #[test]
    fn a_line_of_several_counters_is_one_line() {
        let plan = AdmissionPlan::opening(Timestamp::from_millis(5), 60, 60);
        let planned = |version| {
            item(&[
                ("pk", s("CONCERT#c#PLAN")),
                ("sk", s("PLAN")),
                ("plan", s(serde_json::to_string(&plan).unwrap())),
                ("plan_version", n(version)),
            ])
        };
        let counter = |pk: &str, sk: &str, stripe: i64| {
            item(&[("pk", s(pk)), ("sk", s(sk)), ("issued", n(3)), ("turn", n(4)), ("stripe", n(stripe))])
        };
        let mut first = counter("CONCERT#c", "COUNTER#0", 1);
        first
            .extend([("shards", n(2)), ("after_position", n(3)), ("after_turn", n(4))].map(|(k, v)| (k.to_owned(), v)));
        let mut snapshot = Snapshot::default();
        waiting_room_item(&planned(1), &mut snapshot).unwrap();
        waiting_room_item(&first, &mut snapshot).unwrap();
        for shard in 0..2 {
            let (pk, sk) = (format!("CONCERT#c#1#{shard}"), format!("COUNTER#{shard}"));
            waiting_room_item(&counter(&pk, &sk, 1), &mut snapshot).unwrap();
        }
        let line = snapshot.lines.values().next().unwrap();
        assert_eq!((snapshot.lines.len(), line.counters.len(), line.plan.as_ref()), (1, 3, Some(&plan)));
        assert_eq!((line.has_given_out(9), line.has_given_out(10), line.last_turn()), (true, false, 12));
        assert!(waiting_room_item(&counter("CONCERT#c", "COUNTER#1", 1), &mut snapshot).is_err());
        assert!(waiting_room_item(&planned(2), &mut Snapshot::default()).is_err());
    }

    #[test]
    fn a_users_place_is_read_with_what_became_of_those_before() {
        let row = item(&[
            ("pk", s("USER#alice")),
            ("sk", s("LINE#c")),
            ("claim", s("k")),
            ("claimed_at", n(5)),
            ("given_up", n(2)),
            ("lost", n(1)),
        ]);
        let mut snapshot = Snapshot::default();
        waiting_room_item(&row, &mut snapshot).unwrap();
        let places = &snapshot.lines.values().next().unwrap().places;
        assert_eq!(places.values().next(), Some(&UserPlace { place: None, vacant: 3 }));
    }
}
