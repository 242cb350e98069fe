//! The items table.
//!
//! | item | pk | sk | attributes |
//! | --- | --- | --- | --- |
//! | item | `ITEM#<item>` | `ITEM` | `name`, `price`, `stock` (left to sell), `sold` (taken by orders and not put back), `received` (`stock + sold`, always), `created_at`, `paused_at` while it cannot be ordered, and once it is `withdrawn_at` |
//! | list row | `ITEMS` | `<item>` | nothing: the item has it all |
//! | work | `ORDER#<order>` | `WORK` | `work_state` (`done`, `refused`, `undone`), `pieces` (JSON: what was taken), `ttl` |
//! | key | `USER#<user>` | `IDEM#<key>` | see [`kit::idempotency`] |
//! | outbox row | `OUTBOX#<event>` | `OUTBOX` | see [`kit::outbox`] |
//!
//! An item is never deleted: what an order took is put back even if it is not sold any more.

use crate::domain::{Item, Job, Label, Lack, NotReceived, Order, Received, Refusal, Stock};
use crate::ports::{
    AddItem, ChangeItem, FindItem, FindItems, KeepStock, ListItems, PauseItem, ReceiveStock, Taken, WithdrawItem,
};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{
    Delete, KeysAndAttributes, Put, ReturnValue, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use contracts::choreography::ParticipantState;
use contracts::events::{EventBody, StockEvent, StockRefused};
use contracts::orders::Pieces;
use contracts::{ItemId, OrderId, Timestamp};
use kit::Fault;
use kit::dynamo::{self, PK, Read, SK, TTL, Table, at, built, jitter, n, s};
use kit::fault::classify;
use kit::http::Page;
use kit::idempotency::{self, Memo, Outcome, Remembering, StoredAnswer};
use kit::outbox;
use std::collections::HashMap;

/// The `source` of this context's events.
const SOURCE: &str = "encore/items";
const ITEM: &str = "ITEM";
const ITEMS: &str = "ITEMS";
const WORK: &str = "WORK";

/// How long the work of an order is kept, in seconds: 30 days. Its events arrive within 21: an event is kept 7 days in
/// the outbox and 14 in a queue.
const KEPT_SECONDS: i64 = 30 * 24 * 3600;
/// Attempts of a write that conflicts with a transaction, or of a batch that was answered in part.
const ATTEMPTS: u32 = 8;

/// The items table.
#[derive(Debug, Clone)]
pub struct Items {
    table: Table,
}

impl Items {
    /// The items in a table.
    pub fn new(table: Table) -> Self {
        Self { table }
    }

    /// The write of a row that is not there yet.
    fn put_new(&self, row: dynamo::Item) -> Result<TransactWriteItem, Fault> {
        let put = Put::builder()
            .table_name(&self.table.name)
            .set_item(Some(row))
            .condition_expression("attribute_not_exists(pk)");
        Ok(TransactWriteItem::builder().put(built(put.build())?).build())
    }

    /// Changes an item that is sold; returns the item after it, or `None` where there is none. Retried while an order
    /// takes units of it: the operator of a hot item must get through.
    async fn change(
        &self,
        doing: &'static str,
        item: &ItemId,
        set: impl Fn(UpdateItemFluentBuilder) -> UpdateItemFluentBuilder,
    ) -> Result<Option<Item>, Fault> {
        for attempt in 0..ATTEMPTS {
            let update = self.table.client.update_item().table_name(&self.table.name);
            let sent = set(update.key(PK, s(item_pk(item))).key(SK, s(ITEM)))
                .condition_expression("attribute_exists(pk) AND attribute_not_exists(withdrawn_at)")
                .return_values(ReturnValue::AllNew)
                .send()
                .await;
            let error = match sent {
                Ok(changed) => return changed.attributes.as_ref().map(item_of).transpose(),
                Err(error) => error,
            };
            if error.as_service_error().is_some_and(UpdateItemError::is_conditional_check_failed_exception) {
                return Ok(None);
            }
            match classify(doing, error) {
                Fault::Contended(_) => tokio::time::sleep(jitter(attempt)).await,
                fault => return Err(fault),
            }
        }
        Err(Fault::contended(doing))
    }

    /// The write of an answer: its outbox row.
    fn answer(&self, order: &Order, body: EventBody, now: Timestamp) -> Result<TransactWriteItem, Fault> {
        let id = order.id.as_str();
        let event = outbox::event(SOURCE, id, &order.correlation_id, body, now)?;
        outbox::row(&self.table, &event, id)
    }
}

fn item_pk(id: &ItemId) -> String {
    format!("ITEM#{id}")
}

fn order_pk(id: &OrderId) -> String {
    format!("ORDER#{id}")
}

fn item_row(item: &Item) -> dynamo::Item {
    let pieces = n(item.stock.get());
    dynamo::Item::from([
        (PK.to_owned(), s(item_pk(&item.id))),
        (SK.to_owned(), s(ITEM)),
        ("item_id".to_owned(), s(&item.id)),
        ("name".to_owned(), s(&item.label.name)),
        ("price".to_owned(), n(item.label.price.get())),
        ("stock".to_owned(), pieces.clone()),
        ("sold".to_owned(), n(0)),
        ("received".to_owned(), pieces),
        ("created_at".to_owned(), at(item.created_at)),
    ])
}

fn item_of(row: &dynamo::Item) -> Result<Item, Fault> {
    let label = Label::new(row.text("name")?, row.int("price")?);
    Ok(Item {
        id: row.parsed("item_id")?,
        label: label.map_err(|invalid| Fault::broken("reading an item", invalid))?,
        stock: Stock::stored(row.uint("stock")?),
        is_paused: row.contains_key("paused_at"),
        created_at: row.moment("created_at")?,
    })
}

fn is_sold(row: &dynamo::Item) -> bool {
    !row.contains_key("withdrawn_at")
}

impl AddItem for Items {
    async fn add_item(&self, item: &Item, memo: Option<&Memo>, now: Timestamp) -> Result<Outcome<StoredAnswer>, Fault> {
        let listed = Put::builder().table_name(&self.table.name).item(PK, s(ITEMS)).item(SK, s(&item.id));
        let mut transaction = self.table.transaction("adding an item");
        transaction.add(self.put_new(item_row(item))?)?;
        transaction.add(listed)?;
        let Some(memo) = memo else {
            // The id was generated for this very call: an attempt whose answer was lost has written it.
            return transaction.commit().await.map(|_| Outcome::First);
        };
        let remembered = transaction.add(idempotency::remember(&self.table, memo, now))?;
        let Err(cancelled) = transaction.commit().await? else { return Ok(Outcome::First) };
        match cancelled.found(remembered) {
            Some(row) => Ok(idempotency::recall(row, &memo.key)?.map(|first| first.answer)),
            None => Ok(Outcome::First),
        }
    }
}

impl ChangeItem for Items {
    async fn relabel(&self, item: &ItemId, label: &Label) -> Result<Option<Item>, Fault> {
        let set = |update: UpdateItemFluentBuilder| {
            update
                .update_expression("SET #name = :name, price = :price")
                .expression_attribute_names("#name", "name")
                .expression_attribute_values(":name", s(&label.name))
                .expression_attribute_values(":price", n(label.price.get()))
        };
        self.change("changing an item", item, set).await
    }
}

impl PauseItem for Items {
    async fn pause(&self, item: &ItemId, is_paused: bool, now: Timestamp) -> Result<Option<Item>, Fault> {
        let set = |update: UpdateItemFluentBuilder| match is_paused {
            true => update
                .update_expression("SET paused_at = if_not_exists(paused_at, :now)")
                .expression_attribute_values(":now", at(now)),
            false => update.update_expression("REMOVE paused_at"),
        };
        self.change("pausing an item", item, set).await
    }
}

impl ReceiveStock for Items {
    async fn receive(
        &self,
        item: &ItemId,
        units: Received,
        memo: &Memo,
        now: Timestamp,
    ) -> Result<Result<Outcome<StoredAnswer>, NotReceived>, Fault> {
        let mut transaction = self.table.transaction("receiving stock");
        let remembered = Remembering::add(&mut transaction, &self.table, Some(memo), now)?;
        let stocked = Update::builder()
            .table_name(&self.table.name)
            .key(PK, s(item_pk(item)))
            .key(SK, s(ITEM))
            .update_expression("SET stock = stock + :units, received = received + :units")
            .condition_expression("attribute_not_exists(withdrawn_at) AND stock >= :least")
            .expression_attribute_values(":units", n(units.get()))
            .expression_attribute_values(":least", n(units.least()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let stocked = transaction.add(stocked)?;
        let Err(cancelled) = transaction.commit().await? else { return Ok(Ok(Outcome::First)) };
        match remembered.map_or(Ok(Outcome::First), |memo| memo.outcome(&cancelled))? {
            Outcome::First => Ok(Err(match cancelled.found(stocked) {
                Some(row) if is_sold(row) => NotReceived::TooFew,
                _ => NotReceived::NoSuchItem,
            })),
            known => Ok(Ok(known.map(|first| first.answer))),
        }
    }
}

impl WithdrawItem for Items {
    async fn withdraw(&self, item: &ItemId, now: Timestamp) -> Result<bool, Fault> {
        let marked = Update::builder()
            .table_name(&self.table.name)
            .key(PK, s(item_pk(item)))
            .key(SK, s(ITEM))
            .update_expression("SET withdrawn_at = if_not_exists(withdrawn_at, :now)")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":now", at(now));
        let unlisted = Delete::builder().table_name(&self.table.name).key(PK, s(ITEMS)).key(SK, s(item));
        let writes = vec![
            TransactWriteItem::builder().update(built(marked.build())?).build(),
            TransactWriteItem::builder().delete(built(unlisted.build())?).build(),
        ];
        self.table.write_all("withdrawing an item", writes).await
    }
}

impl FindItem for Items {
    async fn find_item(&self, item: &ItemId) -> Result<Option<Item>, Fault> {
        let row = self.table.read("reading an item", s(item_pk(item)), s(ITEM)).await?;
        row.as_ref().filter(|row| is_sold(row)).map(item_of).transpose()
    }
}

impl ListItems for Items {
    async fn list_items(&self, page: &Page) -> Result<(Vec<Item>, Option<String>), Fault> {
        let limit = page.limit as usize;
        let query = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .expression_attribute_values(":pk", s(ITEMS))
            .scan_index_forward(false)
            .consistent_read(true)
            // One more than requested shows whether there is more.
            .limit(page.limit as i32 + 1);
        let query = match &page.after {
            None => query.key_condition_expression("pk = :pk"),
            Some(after) => query
                .key_condition_expression("pk = :pk AND sk < :after")
                .expression_attribute_values(":after", s(after)),
        };
        let got = query.send().await.map_err(|error| classify("listing items", error))?;
        let mut ids = got.items().iter().map(|row| row.parsed(SK)).collect::<Result<Vec<ItemId>, _>>()?;
        let more = ids.len() > limit;
        ids.truncate(limit);
        let next = ids.last().filter(|_| more).map(ItemId::to_string);
        let mut found: HashMap<ItemId, Item> =
            self.find_items(&ids).await?.into_iter().map(|item| (item.id.clone(), item)).collect();
        Ok((ids.iter().filter_map(|id| found.remove(id)).collect(), next))
    }
}

impl FindItems for Items {
    async fn find_items(&self, items: &[ItemId]) -> Result<Vec<Item>, Fault> {
        const DOING: &str = "reading items";
        let key = |id| dynamo::Item::from([(PK.to_owned(), s(item_pk(id))), (SK.to_owned(), s(ITEM))]);
        let mut wanted: Vec<dynamo::Item> = items.iter().map(key).collect();
        let mut found = Vec::with_capacity(wanted.len());
        for attempt in 0..ATTEMPTS {
            if wanted.is_empty() {
                return Ok(found);
            }
            if attempt > 0 {
                tokio::time::sleep(jitter(attempt)).await;
            }
            let keys = built(KeysAndAttributes::builder().set_keys(Some(wanted)).consistent_read(true).build())?;
            let sent = self.table.client.batch_get_item().request_items(&self.table.name, keys).send().await;
            let got = sent.map_err(|error| classify(DOING, error))?;
            let rows = got.responses.and_then(|mut of| of.remove(&self.table.name)).unwrap_or_default();
            for row in rows.iter().filter(|row| is_sold(row)) {
                found.push(item_of(row)?);
            }
            let rest = got.unprocessed_keys.and_then(|mut of| of.remove(&self.table.name));
            wanted = rest.map(|rest| rest.keys).unwrap_or_default();
        }
        if wanted.is_empty() { Ok(found) } else { Err(Fault::contended(DOING)) }
    }
}

/// The row that records what was done for an order.
fn work_row(order: &Order, work: ParticipantState, taken: &[Pieces], now: Timestamp) -> Result<dynamo::Item, Fault> {
    Ok(dynamo::Item::from([
        (PK.to_owned(), s(order_pk(&order.id))),
        (SK.to_owned(), s(WORK)),
        ("work_state".to_owned(), s(work.as_str())),
        ("pieces".to_owned(), dynamo::json("writing down what was taken", &taken)?),
        (TTL.to_owned(), n(now.plus_seconds(KEPT_SECONDS).ttl_seconds())),
    ]))
}

fn stock_event(order: &Order, pieces: &[Pieces]) -> StockEvent {
    StockEvent { order_id: order.id.clone(), user_id: order.user.clone(), pieces: pieces.to_vec() }
}

/// What a line whose condition did not hold lacks, by the item as it was found.
fn lack(found: Option<&dynamo::Item>) -> Lack {
    if found.is_some_and(is_sold) { Lack::TooFew } else { Lack::Withdrawn }
}

impl KeepStock for Items {
    async fn job(&self, order: &OrderId) -> Result<Job, Fault> {
        const DOING: &str = "reading what was done for an order";
        let Some(row) = self.table.read(DOING, s(order_pk(order)), s(WORK)).await? else { return Ok(Job::NEW) };
        let work = row.text("work_state")?.parse().map_err(|error| Fault::broken(DOING, error))?;
        Ok(Job { work, taken: row.document("pieces")? })
    }

    async fn take(&self, order: &Order, now: Timestamp) -> Result<Taken, Fault> {
        let answer = EventBody::StockDeducted(stock_event(order, &order.pieces));
        let mut transaction = self.table.transaction("taking an order's pieces");
        let mut lines = Vec::with_capacity(order.pieces.len());
        for piece in &order.pieces {
            let deducted = Update::builder()
                .table_name(&self.table.name)
                .key(PK, s(item_pk(&piece.item_id)))
                .key(SK, s(ITEM))
                .update_expression("SET stock = stock - :pieces, sold = sold + :pieces")
                .condition_expression("stock >= :pieces AND attribute_not_exists(withdrawn_at)")
                .expression_attribute_values(":pieces", n(piece.quantity.get()))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            lines.push((transaction.add(deducted)?, piece));
        }
        let work = transaction.add(self.put_new(work_row(order, ParticipantState::Done, &order.pieces, now)?)?)?;
        transaction.add(self.answer(order, answer, now)?)?;
        let Err(cancelled) = transaction.commit().await? else { return Ok(Taken::All) };
        if cancelled.failed(work) {
            return Ok(Taken::Crossed);
        }
        let failed = lines.into_iter().filter(|(line, _)| cancelled.failed(*line));
        let lacking = failed.map(|(line, piece)| (piece.item_id.clone(), lack(cancelled.found(line))));
        Ok(Taken::None(Refusal::of(lacking.collect())))
    }

    async fn refuse(&self, order: &Order, refusal: &Refusal, now: Timestamp) -> Result<bool, Fault> {
        let answer = EventBody::StockRefused(StockRefused {
            order_id: order.id.clone(),
            user_id: order.user.clone(),
            reason: refusal.reason,
            items: refusal.items.clone(),
        });
        let refused = self.put_new(work_row(order, ParticipantState::Refused, &[], now)?)?;
        self.table.write_all("refusing an order's pieces", vec![refused, self.answer(order, answer, now)?]).await
    }

    async fn restore(&self, order: &Order, job: &Job, now: Timestamp) -> Result<bool, Fault> {
        let answer = EventBody::StockRestored(stock_event(order, &job.taken));
        let undone = if job.work == ParticipantState::Pending {
            self.put_new(work_row(order, ParticipantState::Undone, &[], now)?)?
        } else {
            let undone = Update::builder()
                .table_name(&self.table.name)
                .key(PK, s(order_pk(&order.id)))
                .key(SK, s(WORK))
                .update_expression("SET work_state = :undone, #ttl = :ttl")
                .condition_expression("work_state = :before")
                .expression_attribute_names("#ttl", TTL)
                .expression_attribute_values(":undone", s(ParticipantState::Undone.as_str()))
                .expression_attribute_values(":before", s(job.work.as_str()))
                .expression_attribute_values(":ttl", n(now.plus_seconds(KEPT_SECONDS).ttl_seconds()));
            TransactWriteItem::builder().update(built(undone.build())?).build()
        };
        let mut writes = vec![undone, self.answer(order, answer, now)?];
        for piece in &job.taken {
            let back = Update::builder()
                .table_name(&self.table.name)
                .key(PK, s(item_pk(&piece.item_id)))
                .key(SK, s(ITEM))
                .update_expression("SET stock = stock + :pieces, sold = sold - :pieces")
                .expression_attribute_values(":pieces", n(piece.quantity.get()));
            writes.push(TransactWriteItem::builder().update(built(back.build())?).build());
        }
        self.table.write_all("putting an order's pieces back", writes).await
    }

    async fn republish(&self, order: &OrderId, work: ParticipantState, now: Timestamp) -> Result<(), Fault> {
        let event = match work {
            ParticipantState::Pending => return Ok(()),
            ParticipantState::Done => "stock.deducted",
            ParticipantState::Refused => "stock.refused",
            ParticipantState::Undone => "stock.restored",
        };
        outbox::publish_again(&self.table, &format!("{order}.{event}"), now).await
    }
}
