//! The items table.
//!
//! | item | pk | sk | attributes |
//! | --- | --- | --- | --- |
//! | item | `ITEM#<item>` | `ITEM` | `name`, `price`, `max_per_user` if there is one, `stock` (left to sell), `sold` (taken by orders and not put back), `received` (`stock + sold`, always), `created_at`, `paused_at` while it cannot be ordered, and once it is `withdrawn_at` |
//! | list row | `ITEMS` | `<item>` | nothing: the item has it all |
//! | bought | `USER#<user>` | `BOUGHT` | `n#<item>` for each limited item: how many units the user's orders took and did not give back |
//! | work | `ORDER#<order>` | `WORK` | `work_state` (`done`, `refused`, `undone`), `pieces` (JSON: what was taken), `counted` (JSON: which of its items are counted in `bought`, if some are), `ttl` |
//! | key | `USER#<user>` | `IDEM#<key>` | see [`kit::idempotency`] |
//! | outbox row | `OUTBOX#<event>` | `OUTBOX` | see [`kit::outbox`] |
//!
//! An item is never deleted: what an order took is put back even if it is not sold any more.

use crate::domain::{Item, Job, Label, Lack, NotReceived, Offer, Order, Portion, Received, Refusal, Shelf, Stock};
use crate::ports::{
    AddItem, ChangeItem, FindItem, FindItems, KeepStock, ListItems, PauseItem, ReceiveStock, Taken, WithdrawItem,
};
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::builders::UpdateBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, Delete, KeysAndAttributes, Put, ReturnValue, ReturnValuesOnConditionCheckFailure,
    TransactWriteItem, Update,
};
use contracts::choreography::ParticipantState;
use contracts::events::{EventBody, StockEvent, StockRefused};
use contracts::orders::{Pieces, Quantity};
use contracts::{ItemId, OrderId, Timestamp, UserId};
use kit::Fault;
use kit::dynamo::{self, PK, Read, SK, TTL, Table, at, built, jitter, n, s};
use kit::fault::{classify, is_condition_failed};
use kit::http::Page;
use kit::idempotency::{self, Memo, Outcome, Remembering, StoredAnswer};
use kit::outbox;
use std::collections::HashMap;

/// The `source` of this context's events.
const SOURCE: &str = "encore/items";
const ITEM: &str = "ITEM";
const ITEMS: &str = "ITEMS";
const WORK: &str = "WORK";
const BOUGHT: &str = "BOUGHT";
/// The prefix of the attribute that counts a limited item, before the item's id.
const COUNT: &str = "n#";
/// The limit of an item that has none, in conditions: a limit is at least 1.
const NO_LIMIT: u32 = 0;

/// How long the work of an order is kept, in seconds: 30 days. Its events arrive within 21: an event is kept 7 days in
/// the outbox and 14 in a queue.
const KEPT_SECONDS: i64 = 30 * 24 * 3600;
/// How long the key of what was received is remembered, in seconds: 30 days. A delivery that a list or a program tells of again
/// on another day must not be added again.
const DELIVERY_KEPT_SECONDS: i64 = 30 * 24 * 3600;
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
            if is_condition_failed(&error) {
                return Ok(None);
            }
            match classify(doing, error) {
                Fault::Contended(_) => tokio::time::sleep(jitter(attempt)).await,
                fault => return Err(fault),
            }
        }
        Err(Fault::contended(doing))
    }

    /// The rows with these keys that are there, a hundred at most, in no order.
    async fn rows(&self, doing: &'static str, mut keys: Vec<dynamo::Item>) -> Result<Vec<dynamo::Item>, Fault> {
        let mut found = Vec::with_capacity(keys.len());
        for attempt in 0..ATTEMPTS {
            if keys.is_empty() {
                return Ok(found);
            }
            if attempt > 0 {
                tokio::time::sleep(jitter(attempt)).await;
            }
            let wanted = built(KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build())?;
            let sent = self.table.client.batch_get_item().request_items(&self.table.name, wanted).send().await;
            let got = sent.map_err(|error| classify(doing, error))?;
            found.extend(got.responses.and_then(|mut of| of.remove(&self.table.name)).unwrap_or_default());
            // Under load DynamoDB may leave keys unprocessed.
            let rest = got.unprocessed_keys.and_then(|mut of| of.remove(&self.table.name));
            keys = rest.map(|rest| rest.keys).unwrap_or_default();
        }
        if keys.is_empty() { Ok(found) } else { Err(Fault::contended(doing)) }
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

fn user_pk(id: &UserId) -> String {
    format!("USER#{id}")
}

fn row_key(pk: String, sk: &str) -> dynamo::Item {
    dynamo::Item::from([(PK.to_owned(), s(pk)), (SK.to_owned(), s(sk))])
}

fn item_key(id: &ItemId) -> dynamo::Item {
    row_key(item_pk(id), ITEM)
}

fn item_row(item: &Item) -> dynamo::Item {
    let units = n(item.stock.get());
    let mut row = dynamo::Item::from([
        (PK.to_owned(), s(item_pk(&item.id))),
        (SK.to_owned(), s(ITEM)),
        ("item_id".to_owned(), s(&item.id)),
        ("name".to_owned(), s(&item.label.name)),
        ("price".to_owned(), n(item.label.price.get())),
        ("stock".to_owned(), units.clone()),
        ("sold".to_owned(), n(0)),
        ("received".to_owned(), units),
        ("created_at".to_owned(), at(item.created_at)),
    ]);
    row.extend(item.label.max_per_user.map(|most| ("max_per_user".to_owned(), n(most.get()))));
    row
}

fn item_of(row: &dynamo::Item) -> Result<Item, Fault> {
    let label = Label::new(row.text("name")?, row.int("price")?);
    let most = row.maybe_int("max_per_user")?;
    let label = label.and_then(|label| label.limited(most));
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
            let update = match label.max_per_user {
                Some(most) => update
                    .update_expression("SET #name = :name, price = :price, max_per_user = :most")
                    .expression_attribute_values(":most", n(most.get())),
                None => update.update_expression("SET #name = :name, price = :price REMOVE max_per_user"),
            };
            update
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
        let until = now.plus_seconds(DELIVERY_KEPT_SECONDS);
        let remembered = Remembering::add_until(&mut transaction, &self.table, memo, now, until)?;
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
        match remembered.outcome(&cancelled)? {
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
        let rows = self.rows("reading items", items.iter().map(item_key).collect()).await?;
        rows.iter().filter(|row| is_sold(row)).map(item_of).collect()
    }
}

/// The row that records what was done for an order.
fn work_row(order: &Order, work: ParticipantState, taken: &[Portion], now: Timestamp) -> Result<dynamo::Item, Fault> {
    const DOING: &str = "writing down what was taken";
    let pieces: Vec<&Pieces> = taken.iter().map(|portion| &portion.pieces).collect();
    let limited = taken.iter().filter(|portion| portion.max_per_user.is_some());
    let counted: Vec<&ItemId> = limited.map(|portion| &portion.pieces.item_id).collect();
    let mut row = row_key(order_pk(&order.id), WORK);
    row.insert("work_state".to_owned(), s(work.as_str()));
    row.insert("pieces".to_owned(), dynamo::json(DOING, &pieces)?);
    if !counted.is_empty() {
        row.insert("counted".to_owned(), dynamo::json(DOING, &counted)?);
    }
    row.insert(TTL.to_owned(), n(now.plus_seconds(KEPT_SECONDS).ttl_seconds()));
    Ok(row)
}

fn job_of(row: &dynamo::Item) -> Result<Job, Fault> {
    const DOING: &str = "reading what was done for an order";
    let work = row.text("work_state")?.parse().map_err(|error| Fault::broken(DOING, error))?;
    // The release before counts nothing.
    let counted = if row.contains_key("counted") { row.document("counted")? } else { Vec::new() };
    Ok(Job { work, taken: row.document("pieces")?, counted })
}

fn bought_of(row: &dynamo::Item) -> Result<HashMap<ItemId, u64>, Fault> {
    const DOING: &str = "reading how many units a user has";
    let counts = row.iter().filter_map(|(name, count)| name.strip_prefix(COUNT).map(|item| (item, count)));
    let read = |(item, count): (&str, &AttributeValue)| {
        let item = ItemId::parse(item).map_err(|error| Fault::broken(DOING, error))?;
        let count = count.as_n().ok().and_then(|digits| digits.parse().ok());
        Ok((item, count.ok_or_else(|| Fault::broken(DOING, "a count is no number"))?))
    };
    counts.map(read).collect()
}

fn stock_event(order: &Order, pieces: &[Pieces]) -> StockEvent {
    StockEvent { order_id: order.id.clone(), user_id: order.user.clone(), pieces: pieces.to_vec() }
}

/// What a line whose condition did not hold lacks, by the item as it was found; nothing, if only its limit is another.
fn lack(found: Option<&dynamo::Item>, pieces: &Pieces) -> Result<Option<Lack>, Fault> {
    let Some(row) = found.filter(|row| is_sold(row)) else { return Ok(Some(Lack::Withdrawn)) };
    Ok((row.int("stock")? < i64::from(pieces.quantity)).then_some(Lack::TooFew))
}

impl Items {
    /// The write that takes a line's units, at the limit that the order was decided under.
    fn deducted(&self, portion: &Portion) -> UpdateBuilder {
        Update::builder()
            .table_name(&self.table.name)
            .set_key(Some(item_key(&portion.pieces.item_id)))
            .update_expression("SET stock = stock - :pieces, sold = sold + :pieces")
            .condition_expression(
                "stock >= :pieces AND attribute_not_exists(withdrawn_at) AND \
                 (attribute_not_exists(max_per_user) OR max_per_user = :limit)",
            )
            .expression_attribute_values(":pieces", n(portion.pieces.quantity.get()))
            .expression_attribute_values(":limit", n(portion.max_per_user.map_or(NO_LIMIT, Quantity::get)))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    /// The write that counts limited units for their user, as far as they may have them; `None` if none is limited.
    fn counted(&self, order: &Order, portions: &[Portion]) -> Option<UpdateBuilder> {
        let limited = portions.iter().filter_map(|portion| Some((&portion.pieces, portion.bought_at_most()?)));
        let mut update = self.bought(order);
        let (mut added, mut within) = (Vec::new(), Vec::new());
        for (index, (pieces, before)) in limited.enumerate() {
            update = update
                .expression_attribute_names(format!("#n{index}"), count_name(&pieces.item_id))
                .expression_attribute_values(format!(":n{index}"), n(pieces.quantity.get()))
                .expression_attribute_values(format!(":m{index}"), n(before));
            added.push(format!("#n{index} :n{index}"));
            within.push(format!("(attribute_not_exists(#n{index}) OR #n{index} <= :m{index})"));
        }
        let update = update
            .update_expression(format!("ADD {}", added.join(", ")))
            .condition_expression(within.join(" AND "))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        (!added.is_empty()).then_some(update)
    }

    /// The write that takes back what [`Self::counted`] counted; `None` if that is nothing.
    fn uncounted(&self, order: &Order, job: &Job) -> Option<UpdateBuilder> {
        let mut update = self.bought(order);
        let mut taken_back = Vec::new();
        for (index, pieces) in job.taken.iter().filter(|pieces| job.counted.contains(&pieces.item_id)).enumerate() {
            update = update
                .expression_attribute_names(format!("#n{index}"), count_name(&pieces.item_id))
                .expression_attribute_values(format!(":n{index}"), n(-i64::from(pieces.quantity)));
            taken_back.push(format!("#n{index} :n{index}"));
        }
        (!taken_back.is_empty()).then_some(update.update_expression(format!("ADD {}", taken_back.join(", "))))
    }

    fn bought(&self, order: &Order) -> UpdateBuilder {
        Update::builder().table_name(&self.table.name).set_key(Some(row_key(user_pk(&order.user), BOUGHT)))
    }
}

fn count_name(item: &ItemId) -> String {
    format!("{COUNT}{item}")
}

impl KeepStock for Items {
    async fn job(&self, order: &OrderId) -> Result<Job, Fault> {
        let found = self.table.read("reading what was done for an order", s(order_pk(order)), s(WORK)).await?;
        found.as_ref().map_or(Ok(Job::NEW), job_of)
    }

    async fn job_and_shelf(&self, order: &Order) -> Result<(Job, Shelf), Fault> {
        let mut keys = vec![row_key(order_pk(&order.id), WORK), row_key(user_pk(&order.user), BOUGHT)];
        keys.extend(order.pieces.iter().map(|pieces| item_key(&pieces.item_id)));
        let (mut job, mut shelf) = (Job::NEW, Shelf::default());
        for row in self.rows("reading what an order finds", keys).await? {
            match row.text(SK)? {
                WORK => job = job_of(&row)?,
                BOUGHT => shelf.bought = bought_of(&row)?,
                _ if is_sold(&row) => {
                    let Item { id, label, stock, .. } = item_of(&row)?;
                    shelf.offers.insert(id, Offer { stock: stock.get(), max_per_user: label.max_per_user });
                }
                _ => {}
            }
        }
        Ok((job, shelf))
    }

    async fn take(&self, order: &Order, portions: &[Portion], now: Timestamp) -> Result<Taken, Fault> {
        let answer = EventBody::StockDeducted(stock_event(order, &order.pieces));
        let mut transaction = self.table.transaction("taking an order's units");
        let mut lines = Vec::with_capacity(portions.len());
        for portion in portions {
            lines.push((transaction.add(self.deducted(portion))?, &portion.pieces));
        }
        let counted = self.counted(order, portions).map(|update| transaction.add(update)).transpose()?;
        let work = transaction.add(self.put_new(work_row(order, ParticipantState::Done, portions, now)?)?)?;
        transaction.add(self.answer(order, answer, now)?)?;
        let Err(cancelled) = transaction.commit().await? else { return Ok(Taken::All) };
        if cancelled.failed(work) {
            return Ok(Taken::Crossed);
        }
        let mut lacking = Vec::new();
        for (line, pieces) in lines.into_iter().filter(|(line, _)| cancelled.failed(*line)) {
            let lack = lack(cancelled.found(line), pieces)?;
            lacking.extend(lack.map(|lack| (pieces.item_id.clone(), lack)));
        }
        if let Some(row) = counted.and_then(|slot| cancelled.found(slot)) {
            let bought = bought_of(row)?;
            let is_over = |portion: &&Portion| {
                let before = bought.get(&portion.pieces.item_id).copied().unwrap_or(0);
                portion.bought_at_most().is_some_and(|most| before > most)
            };
            let over = portions.iter().filter(is_over);
            lacking.extend(over.map(|portion| (portion.pieces.item_id.clone(), Lack::OverLimit)));
        }
        Ok(if lacking.is_empty() { Taken::Crossed } else { Taken::None(Refusal::of(lacking)) })
    }

    async fn refuse(&self, order: &Order, refusal: &Refusal, now: Timestamp) -> Result<bool, Fault> {
        let answer = EventBody::StockRefused(StockRefused {
            order_id: order.id.clone(),
            user_id: order.user.clone(),
            reason: refusal.reason,
            items: refusal.items.clone(),
        });
        let refused = self.put_new(work_row(order, ParticipantState::Refused, &[], now)?)?;
        self.table.write_all("refusing an order's units", vec![refused, self.answer(order, answer, now)?]).await
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
        if let Some(uncounted) = self.uncounted(order, job) {
            writes.push(TransactWriteItem::builder().update(built(uncounted.build())?).build());
        }
        for piece in &job.taken {
            let back = Update::builder()
                .table_name(&self.table.name)
                .key(PK, s(item_pk(&piece.item_id)))
                .key(SK, s(ITEM))
                .update_expression("SET stock = stock + :pieces, sold = sold - :pieces")
                .expression_attribute_values(":pieces", n(piece.quantity.get()));
            writes.push(TransactWriteItem::builder().update(built(back.build())?).build());
        }
        self.table.write_all("putting an order's units back", writes).await
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
