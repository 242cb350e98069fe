//! The points table. One item per user is balance and recent ledger in one, so that a movement is a single
//! `UpdateItem`: atomic, one round trip, and its result contains the new balance.
//!
//! | item | pk | sk | attributes |
//! | --- | --- | --- | --- |
//! | account | `USER#<user>` | `ACCOUNT` | `balance`, `seq` (entries ever made), `hot` (entries in this item), and for each recent entry `e#<key>` (map: `id`, `kind`, `amount`, `ref`, `at`), `b#<key>` (balance after it), `s#<key>` (its sequence); `v#<reference>` (when a use was voided before it arrived), `v#<key>` (when a charge was refused for good) |
//! | archive | `USER#<user>` | `LEDGER#<sequence of its last entry, 12 digits>` | `entries` (JSON) |
//! | work | `ORDER#<order>` | `WORK` | `work_state` (`done`, `refused`, `undone`), `amount` (what was used), `ttl` |
//! | outbox row | `OUTBOX#<event>` | `OUTBOX` | see [`kit::outbox`] |
//!
//! An entry's key is its idempotency key; it stays in the account while the movement may be retried
//! ([`GUARDED_MILLIS`]), and is archived after that once the account holds more than [`HOT_ENTRIES`].

use crate::domain::{Entry, EntryKey, GUARDED_MILLIS, Job, Kind, Movement, Order, Posted, Refusal, decide};
use crate::ports::{CloseCharge, ListEntries, PostEntry, ReadBalance, ReturnUse, SettleOrder, Used};
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::{UpdateItemError, UpdateItemOutput};
use aws_sdk_dynamodb::types::{
    AttributeValue, Put, ReturnValue, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use contracts::choreography::ParticipantState;
use contracts::events::{EventBody, PointsEvent, PointsRefused};
use contracts::orders::OrderFailure;
use contracts::{OrderId, Timestamp, UserId, Won};
use kit::dynamo::{Item, PK, Read, SK, TTL, Table, at, built, jitter, n, s};
use kit::fault::classify;
use kit::http::Page;
use kit::{Fault, outbox};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// How many entries an account holds before old ones are archived. Every write costs a unit for each KB of the account.
pub const HOT_ENTRIES: u64 = 16;
/// How many voids of uses and charges an account holds before old ones are removed.
pub const HOT_VOIDS: usize = 32;
/// How many voids one write removes.
const FORGOTTEN_AT_ONCE: usize = 100;
/// How long a void of a use or a charge stays at least, in milliseconds: far longer than a hanging call can live.
pub const VOID_MILLIS: i64 = 3600 * 1000;
/// How many recent entries an account holds before charging is refused: an item has at most 400 KB.
pub const MAX_HOT_ENTRIES: u64 = 1_000;
/// How many entries one archiving moves.
const ARCHIVE_ENTRIES: usize = 32;
/// Attempts of a write that conflicts with another one.
const ATTEMPTS: u32 = 5;
/// How long the work of an order is kept, in seconds: 30 days. Its events arrive within 21: an event is kept 7 days in
/// the outbox and 14 in a queue.
const KEPT_SECONDS: i64 = 30 * 24 * 3600;

/// The `source` of this context's events.
const SOURCE: &str = "encore/points";
const ACCOUNT: &str = "ACCOUNT";
const WORK: &str = "WORK";

/// Accounts in the points table.
#[derive(Debug, Clone)]
pub struct Accounts {
    table: Table,
}

impl Accounts {
    /// Accounts in a table.
    pub fn new(table: Table) -> Self {
        Self { table }
    }

    fn update(&self, user: &UserId) -> UpdateItemFluentBuilder {
        self.table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(PK, s(format!("USER#{user}")))
            .key(SK, s(ACCOUNT))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    /// The write of a movement: entry, balance after, sequence, balance; nothing if `guard` does not hold.
    fn posting(&self, user: &UserId, movement: &Movement, guard: Option<&str>) -> UpdateItemFluentBuilder {
        let key = movement.key.as_str();
        let guard = guard.map(str::to_owned);
        let signed = if movement.kind.adds() { movement.amount.get() } else { -movement.amount.get() };
        self.update(user)
            .update_expression(
                "SET #entry = :entry, \
                 #after = if_not_exists(balance, :zero) + :signed, \
                 #sequence = if_not_exists(seq, :zero) + :one, \
                 balance = if_not_exists(balance, :zero) + :signed, \
                 seq = if_not_exists(seq, :zero) + :one, \
                 hot = if_not_exists(hot, :zero) + :one",
            )
            .set_condition_expression(guard)
            .expression_attribute_names("#entry", format!("e#{key}"))
            .expression_attribute_names("#after", format!("b#{key}"))
            .expression_attribute_names("#sequence", format!("s#{key}"))
            .expression_attribute_values(":entry", entry_map(movement))
            .expression_attribute_values(":signed", n(signed))
            .expression_attribute_values(":zero", n(0))
            .expression_attribute_values(":one", n(1))
            .return_values(ReturnValue::AllNew)
    }

    async fn account(&self, user: &UserId) -> Result<Item, Fault> {
        let found = self.table.read("reading an account", s(format!("USER#{user}")), s(ACCOUNT)).await?;
        Ok(found.unwrap_or_default())
    }

    /// Moves the oldest entries out of an account, if it is full.
    async fn archive(&self, user: &UserId, account: &Item, now: Timestamp) -> Result<(), Fault> {
        if account.uint("hot")? <= HOT_ENTRIES {
            return Ok(());
        }
        let mut old: Vec<Entry> = hot_entries(account)?;
        old.retain(|entry| now.millis_since(entry.movement.at) > GUARDED_MILLIS);
        old.sort_by_key(|entry| entry.sequence);
        old.truncate(ARCHIVE_ENTRIES);
        let Some(last) = old.last() else { return Ok(()) };
        let page: Vec<ArchivedEntry> = old.iter().map(ArchivedEntry::from).collect();
        let broken = |error| Fault::broken("archiving entries", error);
        let put = Put::builder()
            .table_name(&self.table.name)
            .item(PK, s(format!("USER#{user}")))
            .item(SK, s(archive_key(last.sequence)))
            .item("entries", kit::dynamo::json("archiving entries", &page)?)
            .condition_expression("attribute_not_exists(pk)")
            .build()
            .map_err(broken)?;
        let mut update = Update::builder()
            .table_name(&self.table.name)
            .key(PK, s(format!("USER#{user}")))
            .key(SK, s(ACCOUNT))
            .expression_attribute_values(":count", n(page.len() as i64));
        let mut removed = Vec::new();
        for (index, entry) in old.iter().enumerate() {
            for prefix in ["e", "b", "s"] {
                update = update.expression_attribute_names(
                    format!("#{prefix}{index}"),
                    format!("{prefix}#{}", entry.movement.key.as_str()),
                );
                removed.push(format!("#{prefix}{index}"));
            }
        }
        let update = update
            .update_expression(format!("SET hot = hot - :count REMOVE {}", removed.join(", ")))
            // Another writer may have archived some of the same entries.
            .condition_expression("attribute_exists(#e0) AND attribute_exists(#last)")
            .expression_attribute_names("#last", format!("e#{}", last.movement.key.as_str()))
            .build()
            .map_err(broken)?;
        let writes =
            vec![TransactWriteItem::builder().put(put).build(), TransactWriteItem::builder().update(update).build()];
        self.table.write_all("archiving entries", writes).await.map(drop)
    }

    /// [`Self::archive`] after a transaction, which does not return the account.
    async fn archive_after(&self, user: &UserId, now: Timestamp) {
        let archived = match self.account(user).await {
            Ok(account) => self.archive(user, &account, now).await,
            Err(fault) => Err(fault),
        };
        warn_if_not(archived);
    }
}

/// The movement is made whether or not archiving succeeds.
fn warn_if_not(archived: Result<(), Fault>) {
    if let Err(fault) = archived {
        tracing::warn!(error = fault.chain(), "entries stay in the account for now");
    }
}

/// Sends a write of an account, and retries it while a transaction holds the account: an order's, or an archiving.
async fn send(write: UpdateItemFluentBuilder) -> Result<UpdateItemOutput, SdkError<UpdateItemError>> {
    for attempt in 1..ATTEMPTS {
        let sent = write.clone().send().await;
        let met = |error: &SdkError<_>| {
            error.as_service_error().is_some_and(UpdateItemError::is_transaction_conflict_exception)
        };
        if !sent.as_ref().is_err_and(met) {
            return sent;
        }
        tokio::time::sleep(jitter(attempt)).await;
    }
    write.send().await
}

impl Accounts {
    /// Writes a void for an entry, unless the entry is there: then returns the account that holds it.
    async fn close(&self, user: &UserId, entry: &str, void: &str, now: Timestamp) -> Result<Option<Item>, Fault> {
        let closing = self
            .update(user)
            .update_expression("SET #void = :at")
            .condition_expression("attribute_not_exists(#made)")
            .expression_attribute_names("#made", entry)
            .expression_attribute_names("#void", void)
            .expression_attribute_values(":at", at(now))
            .return_values(ReturnValue::AllNew);
        match send(closing).await {
            Ok(written) => {
                let account = written.attributes.unwrap_or_default();
                if let Err(fault) = self.forget_voids(user, &account, now).await {
                    tracing::warn!(error = fault.chain(), "what was closed off stays in the account for now");
                }
                Ok(None)
            }
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                    Ok(Some(failed.item().cloned().unwrap_or_default()))
                }
                _ => Err(classify("closing the door to an entry", error)),
            },
        }
    }

    /// Removes voids of which no call can be in flight any more. The account of a user who keeps failing to pay would
    /// otherwise grow without bound.
    async fn forget_voids(&self, user: &UserId, account: &Item, now: Timestamp) -> Result<(), Fault> {
        let voids: Vec<&String> = account.keys().filter(|name| name.starts_with("v#")).collect();
        if voids.len() <= HOT_VOIDS {
            return Ok(());
        }
        let closed_at = |name: &str| match account.get(name) {
            Some(AttributeValue::N(digits)) => digits.parse().map(Timestamp::from_millis).unwrap_or_default(),
            _ => Timestamp::default(),
        };
        let mut old: Vec<&String> =
            voids.into_iter().filter(|name| now.millis_since(closed_at(name)) > VOID_MILLIS).collect();
        // As many as an expression of 4 KB can name.
        old.truncate(FORGOTTEN_AT_ONCE);
        if old.is_empty() {
            return Ok(());
        }
        let mut forget = self.update(user);
        let mut removed = Vec::with_capacity(old.len());
        for (index, name) in old.into_iter().enumerate() {
            forget = forget.expression_attribute_names(format!("#v{index}"), name);
            removed.push(format!("#v{index}"));
        }
        forget
            .update_expression(format!("REMOVE {}", removed.join(", ")))
            .send()
            .await
            .map(drop)
            .map_err(|error| classify("forgetting closed-off uses", error))
    }
}

impl PostEntry for Accounts {
    async fn post(&self, user: &UserId, movement: &Movement) -> Result<Result<Posted, Refusal>, Fault> {
        let guard = if movement.kind.adds() {
            "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND \
             (attribute_not_exists(balance) OR balance <= :limit) AND (attribute_not_exists(hot) OR hot < :full)"
        } else if movement.amount == Won::ZERO {
            "attribute_not_exists(#entry) AND attribute_not_exists(#void)"
        } else {
            "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND balance >= :limit"
        };
        let mut write =
            self.posting(user, movement, Some(guard)).expression_attribute_names("#void", void_name(movement));
        if movement.kind.adds() {
            write = write
                .expression_attribute_values(":limit", n(Won::MAX.get() - movement.amount.get()))
                .expression_attribute_values(":full", n(MAX_HOT_ENTRIES));
        } else if movement.amount != Won::ZERO {
            write = write.expression_attribute_values(":limit", n(movement.amount.get()));
        }
        match send(write).await {
            Ok(written) => {
                let account = written.attributes.unwrap_or_default();
                let entry = hot_entry(&account, &movement.key)?
                    .ok_or_else(|| Fault::broken("posting an entry", "the written entry is missing"))?;
                warn_if_not(self.archive(user, &account, movement.at).await);
                Ok(Ok(Posted::Now(entry)))
            }
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                    let account = failed.item().cloned().unwrap_or_default();
                    settle(&account, movement)
                }
                _ => Err(classify("posting an entry", error)),
            },
        }
    }
}

/// The result of a posting whose condition failed, from the account that made it fail.
fn settle(account: &Item, movement: &Movement) -> Result<Result<Posted, Refusal>, Fault> {
    let returned = format!("e#{}", EntryKey::return_of(&movement.reference).as_str());
    if account.contains_key(&void_name(movement)) || movement.kind == Kind::Use && account.contains_key(&returned) {
        return Ok(Ok(Posted::Undone));
    }
    if let Some(entry) = hot_entry(account, &movement.key)? {
        return Ok(Ok(Posted::Before(entry)));
    }
    let balance = balance_of(account)?;
    match decide(balance, movement) {
        Err(refusal) => Ok(Err(refusal)),
        Ok(_) if movement.kind.adds() => Ok(Err(Refusal::BalanceLimit)),
        Ok(_) => Err(Fault::broken("posting an entry", "the condition refused what the decision allows")),
    }
}

impl ReturnUse for Accounts {
    async fn return_use(&self, user: &UserId, movement: &Movement) -> Result<bool, Fault> {
        let used = format!("e#{}", EntryKey::use_for(&movement.reference).as_str());
        let void = void_name(movement);
        for _ in 0..ATTEMPTS {
            let guard = "attribute_exists(#used) AND attribute_not_exists(#entry)";
            let posting = self.posting(user, movement, Some(guard)).expression_attribute_names("#used", &used);
            let Err(error) = send(posting).await else { return Ok(false) };
            let Some(UpdateItemError::ConditionalCheckFailedException(failed)) = error.as_service_error() else {
                return Err(classify("returning points", error));
            };
            let settled = [format!("e#{}", movement.key.as_str()), void.clone()];
            if failed.item().is_some_and(|account| settled.iter().any(|name| account.contains_key(name))) {
                return Ok(true);
            }
            // Nothing was used. Void it, so that a use that is still in flight is refused. If it arrived between the
            // two writes, it is returned in the next round.
            if self.close(user, &used, &void, movement.at).await?.is_none() {
                return Ok(true);
            }
        }
        Err(Fault::contended("returning points"))
    }

    async fn return_completed(&self, user: &UserId, movement: &Movement) -> Result<bool, Fault> {
        let posted = send(self.posting(user, movement, Some("attribute_not_exists(#entry)"))).await;
        match posted {
            Ok(_) => Ok(false),
            Err(error)
                if error.as_service_error().is_some_and(UpdateItemError::is_conditional_check_failed_exception) =>
            {
                Ok(true)
            }
            Err(error) => Err(classify("returning points", error)),
        }
    }
}

impl CloseCharge for Accounts {
    async fn close_charge(&self, user: &UserId, movement: &Movement) -> Result<Option<Entry>, Fault> {
        let entry = format!("e#{}", movement.key.as_str());
        match self.close(user, &entry, &void_name(movement), movement.at).await? {
            None => Ok(None),
            Some(account) => hot_entry(&account, &movement.key),
        }
    }
}

/// A single write as part of a transaction.
fn within_transaction(write: &UpdateItemFluentBuilder) -> Result<TransactWriteItem, Fault> {
    let guard = write.get_condition_expression().clone();
    let update = Update::builder()
        .set_table_name(write.get_table_name().clone())
        .set_key(write.get_key().clone())
        .set_update_expression(write.get_update_expression().clone())
        .set_condition_expression(guard)
        .set_expression_attribute_names(write.get_expression_attribute_names().clone())
        .set_expression_attribute_values(write.get_expression_attribute_values().clone());
    Ok(TransactWriteItem::builder().update(built(update.build())?).build())
}

fn order_pk(order: &OrderId) -> AttributeValue {
    s(format!("ORDER#{order}"))
}

fn forgotten_at(now: Timestamp) -> AttributeValue {
    n(now.plus_seconds(KEPT_SECONDS).ttl_seconds())
}

fn points_event(order: &Order, amount: Won) -> PointsEvent {
    PointsEvent { order_id: order.id.clone(), user_id: order.user.clone(), amount }
}

impl Accounts {
    /// The write of an order's work where there is none yet.
    fn work_begun(
        &self,
        order: &Order,
        work: ParticipantState,
        used: Won,
        now: Timestamp,
    ) -> Result<TransactWriteItem, Fault> {
        let put = Put::builder()
            .table_name(&self.table.name)
            .item(PK, order_pk(&order.id))
            .item(SK, s(WORK))
            .item("work_state", s(work.as_str()))
            .item("amount", n(used.get()))
            .item(TTL, forgotten_at(now))
            .condition_expression("attribute_not_exists(pk)");
        Ok(TransactWriteItem::builder().put(built(put.build())?).build())
    }

    /// The write that marks an order's work as undone.
    fn work_undone(&self, order: &Order, before: ParticipantState, now: Timestamp) -> Result<TransactWriteItem, Fault> {
        let update = Update::builder()
            .table_name(&self.table.name)
            .key(PK, order_pk(&order.id))
            .key(SK, s(WORK))
            .update_expression("SET work_state = :undone, #ttl = :ttl")
            .condition_expression("work_state = :before")
            .expression_attribute_names("#ttl", TTL)
            .expression_attribute_values(":undone", s(ParticipantState::Undone.as_str()))
            .expression_attribute_values(":before", s(before.as_str()))
            .expression_attribute_values(":ttl", forgotten_at(now));
        Ok(TransactWriteItem::builder().update(built(update.build())?).build())
    }

    /// The write of an answer: its outbox row.
    fn answer(&self, order: &Order, body: EventBody, now: Timestamp) -> Result<TransactWriteItem, Fault> {
        let id = order.id.as_str();
        let event = outbox::event(SOURCE, id, &order.correlation_id, body, now)?;
        outbox::row(&self.table, &event, id)
    }
}

impl SettleOrder for Accounts {
    async fn job(&self, order: &OrderId) -> Result<Job, Fault> {
        const DOING: &str = "reading what was done for an order";
        let Some(row) = self.table.read(DOING, order_pk(order), s(WORK)).await? else { return Ok(Job::NEW) };
        let work = row.text("work_state")?.parse().map_err(|error| Fault::broken(DOING, error))?;
        let used = Won::new(row.int("amount")?).map_err(|error| Fault::broken(DOING, error))?;
        Ok(Job { work, used })
    }

    async fn use_price(&self, order: &Order, now: Timestamp) -> Result<Used, Fault> {
        let used = order.paid(now);
        let posting = if order.price == Won::ZERO {
            // A user who never had points may order what costs none.
            self.posting(&order.user, &used, Some("attribute_not_exists(hot) OR hot < :full"))
        } else {
            // A use and its return stay for a month: failing orders must not fill the account up for everything else.
            let posting = self.posting(&order.user, &used, Some("balance >= :price AND hot < :full"));
            posting.expression_attribute_values(":price", n(order.price.get()))
        };
        let posting = posting.expression_attribute_values(":full", n(MAX_HOT_ENTRIES));
        let answer = EventBody::PointsUsed(points_event(order, order.price));
        let mut transaction = self.table.transaction("using points for an order");
        let work = transaction.add(self.work_begun(order, ParticipantState::Done, order.price, now)?)?;
        transaction.add(within_transaction(&posting)?)?;
        transaction.add(self.answer(order, answer, now)?)?;
        match transaction.commit().await? {
            Ok(()) => {
                self.archive_after(&order.user, now).await;
                Ok(Used::Now)
            }
            Err(cancelled) if cancelled.failed(work) => Ok(Used::Crossed),
            Err(_) => Ok(Used::TooLow),
        }
    }

    async fn refuse(&self, order: &Order, now: Timestamp) -> Result<bool, Fault> {
        let answer = EventBody::PointsRefused(PointsRefused {
            order_id: order.id.clone(),
            user_id: order.user.clone(),
            amount: order.price,
            reason: OrderFailure::InsufficientPoints,
        });
        let refused = self.work_begun(order, ParticipantState::Refused, Won::ZERO, now)?;
        self.table.write_all("refusing points for an order", vec![refused, self.answer(order, answer, now)?]).await
    }

    async fn give_back(&self, order: &Order, job: Job, now: Timestamp) -> Result<bool, Fault> {
        let undone = match job.work {
            ParticipantState::Pending => self.work_begun(order, ParticipantState::Undone, Won::ZERO, now)?,
            before => self.work_undone(order, before, now)?,
        };
        let answer = EventBody::PointsReturned(points_event(order, job.used));
        let mut writes = vec![undone, self.answer(order, answer, now)?];
        if job.work == ParticipantState::Done {
            // Whatever the balance is: no limit may keep back what was used.
            let returned = order.paid_back(job.used, now);
            writes.push(within_transaction(&self.posting(&order.user, &returned, None))?);
        }
        let is_written = self.table.write_all("giving an order's points back", writes).await?;
        if is_written && job.work == ParticipantState::Done {
            self.archive_after(&order.user, now).await;
        }
        Ok(is_written)
    }

    async fn republish(&self, order: &OrderId, work: ParticipantState, now: Timestamp) -> Result<(), Fault> {
        let event = match work {
            ParticipantState::Pending => return Ok(()),
            ParticipantState::Done => "points.used",
            ParticipantState::Refused => "points.refused",
            ParticipantState::Undone => "points.returned",
        };
        outbox::publish_again(&self.table, &format!("{order}.{event}"), now).await
    }
}

impl ReadBalance for Accounts {
    async fn balance(&self, user: &UserId) -> Result<Won, Fault> {
        balance_of(&self.account(user).await?)
    }
}

impl ListEntries for Accounts {
    async fn entries(&self, user: &UserId, page: &Page) -> Result<(Vec<Entry>, Option<String>), Fault> {
        // The cursor is the sequence of the last entry seen.
        let before = match &page.after {
            None => u64::MAX,
            Some(sequence) => sequence.parse().map_err(|error| Fault::broken("reading a cursor", error))?,
        };
        let limit = page.limit as usize;
        let account = self.account(user).await?;
        let archived = account.maybe_int("seq")? > account.maybe_int("hot")?;
        let mut entries = hot_entries(&account)?;
        entries.retain(|entry| entry.sequence < before);
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.sequence));
        let mut archives = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .key_condition_expression("pk = :pk AND begins_with(sk, :ledger)")
            .expression_attribute_values(":pk", s(format!("USER#{user}")))
            .expression_attribute_values(":ledger", s("LEDGER#"))
            .scan_index_forward(false)
            .consistent_read(true)
            .into_paginator()
            .items()
            .send();
        // Entries are archived by the clocks of many functions, so archived and hot ones may interleave: archives are
        // read until none can hold an entry of this page. Most users have none at all.
        while let Some(archive) = if archived { archives.next().await } else { None } {
            let archive: Item = archive.map_err(|error| classify("reading archived entries", error))?;
            let highest = archive.text(SK)?.to_owned();
            if entries.get(limit).is_some_and(|entry| archive_key(entry.sequence).as_str() > highest.as_str()) {
                break;
            }
            let page: Vec<ArchivedEntry> = archive.document("entries")?;
            for archived in page {
                let entry = archived.into_entry()?;
                if entry.sequence < before {
                    entries.push(entry);
                }
            }
            // An entry that was archived between the two reads is in both.
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.sequence));
            entries.dedup_by_key(|entry| entry.sequence);
        }
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next = entries.last().filter(|_| more).map(|entry| entry.sequence.to_string());
        Ok((entries, next))
    }
}

fn balance_of(account: &Item) -> Result<Won, Fault> {
    Won::new(account.maybe_int("balance")?.unwrap_or(0)).map_err(|error| Fault::broken("reading a balance", error))
}

/// The attribute that voids a movement: a charge by its key; a use, and with it its return, by its reference.
fn void_name(movement: &Movement) -> String {
    match movement.kind {
        Kind::Charge => format!("v#{}", movement.key.as_str()),
        Kind::Use | Kind::Refund => format!("v#{}", movement.reference),
    }
}

fn archive_key(sequence: u64) -> String {
    format!("LEDGER#{sequence:012}")
}

fn entry_map(movement: &Movement) -> AttributeValue {
    AttributeValue::M(HashMap::from([
        ("id".to_owned(), s(&movement.entry_id)),
        ("kind".to_owned(), s(movement.kind.as_str())),
        ("amount".to_owned(), n(movement.amount.get())),
        ("ref".to_owned(), s(&movement.reference)),
        ("at".to_owned(), at(movement.at)),
    ]))
}

/// The entry under `key` in an account.
fn hot_entry(account: &Item, key: &EntryKey) -> Result<Option<Entry>, Fault> {
    let Some(AttributeValue::M(map)) = account.get(&format!("e#{}", key.as_str())) else { return Ok(None) };
    let map: &Item = map;
    let wrong = || Fault::broken("reading an entry", "an entry is incomplete");
    let number = |name: String| match account.get(&name) {
        Some(AttributeValue::N(digits)) => digits.parse::<i64>().map_err(|_| wrong()),
        _ => Err(wrong()),
    };
    Ok(Some(Entry {
        movement: Movement {
            key: key.clone(),
            entry_id: map.text("id")?.to_owned(),
            kind: Kind::parse(map.text("kind")?).ok_or_else(wrong)?,
            amount: Won::new(map.int("amount")?).map_err(|_| wrong())?,
            reference: map.text("ref")?.to_owned(),
            at: map.moment("at")?,
        },
        sequence: u64::try_from(number(format!("s#{}", key.as_str()))?).map_err(|_| wrong())?,
        balance_after: Won::new(number(format!("b#{}", key.as_str()))?).map_err(|_| wrong())?,
    }))
}

fn hot_entries(account: &Item) -> Result<Vec<Entry>, Fault> {
    let mut entries = Vec::new();
    for key in account.keys().filter_map(|name| name.strip_prefix("e#")) {
        entries.extend(hot_entry(account, &EntryKey::stored(key))?);
    }
    Ok(entries)
}

/// An entry in an archive.
#[derive(Debug, Serialize, Deserialize)]
struct ArchivedEntry {
    key: String,
    id: String,
    kind: String,
    amount: Won,
    reference: String,
    at: Timestamp,
    sequence: u64,
    balance_after: Won,
}

impl From<&Entry> for ArchivedEntry {
    fn from(entry: &Entry) -> Self {
        let movement = &entry.movement;
        Self {
            key: movement.key.as_str().to_owned(),
            id: movement.entry_id.clone(),
            kind: movement.kind.as_str().to_owned(),
            amount: movement.amount,
            reference: movement.reference.clone(),
            at: movement.at,
            sequence: entry.sequence,
            balance_after: entry.balance_after,
        }
    }
}

impl ArchivedEntry {
    fn into_entry(self) -> Result<Entry, Fault> {
        let kind = Kind::parse(&self.kind).ok_or_else(|| Fault::broken("reading an archived entry", "unknown kind"))?;
        Ok(Entry {
            movement: Movement {
                key: EntryKey::stored(&self.key),
                entry_id: self.id,
                kind,
                amount: self.amount,
                reference: self.reference,
                at: self.at,
            },
            sequence: self.sequence,
            balance_after: self.balance_after,
        })
    }
}
