//! The orders table: keys, items and every condition expression.
//!
//! | item | pk | sk | attributes |
//! | --- | --- | --- | --- |
//! | cart | `USER#<user>` | `CART` | `rev`, `listed` (set of the items in it), for each line `l#<item>` (map: `name`, `price`, `quantity`, `put_at`) |
//! | pending orders | `USER#<user>` | `PENDING` | `orders` (set of the ids of the user's pending orders) |
//! | cancelled orders | `USER#<user>` | `CANCELLED#<day>` | `orders` (set of the ids of the orders that the user cancelled on that day of Korea's), `ttl` |
//! | order | `USER#<user>` | `ORDER#<order>` | `kind` = `order`, `order_id`, `user_id`, `status`, `failure`, `failed_items` (JSON, if it is about some), `cancelled_by`, `lines` (JSON), `total_price`, `placed_at`, `correlation_id`, `nudges`, `ended_at`, `settled_at`, while it waits for answers `due_shard` and `due_at` (index `due`) |
//! | the cart's work | `ORDER#<order>` | `WORK` | `work_state` (`done`, `undone`), `l#<item>` for each line that was taken out, `ttl` |
//! | remembered answer | `USER#<user>` | `IDEM#<key>` | see [`kit::idempotency`] |
//! | outbox row | `OUTBOX#<event>` | `OUTBOX` | see [`kit::outbox`]; that of `order.placed` has `work_state` (map: `stock`, `points`, `cart`, `report`), `refusal` and `refused_items` (JSON) too |

use crate::domain::{
    Answer, Cart, CartLine, CartOrder, CartWork, DUE_SHARDS, Did, DueOrder, FIRST_LOOK_SECONDS, Failure, Order,
    Participant, Status, WorkState,
};
use crate::ports::{
    CancelOrder, Cancelled, ChangeCart, EndOrder, FindBuyer, FindCart, FindDue, FindOrder, KeepAnswers, KeepCart,
    ListOrders, OpenOrder, PutOff, Republish, SettleOrder, TooManyPending,
};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::builders::UpdateBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, KeysAndAttributes, Put, ReturnValue, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use contracts::choreography::ParticipantState;
use contracts::events::{CartEvent, Event, EventBody, FaultDetected, OrderEvent, OrderFailed};
use contracts::orders::{MAX_LINES, OrderFailure, OrderLine, Pieces, Quantity};
use contracts::{ItemId, OrderId, Timestamp, UserId, Won};
use kit::Fault;
use kit::dynamo::{self, Item, PK, Read, SK, Slot, TTL, Table, Transaction, at, built, jitter, n, s};
use kit::fault::{classify, is_condition_failed};
use kit::http::Page;
use kit::idempotency::{self, IdempotencyKey, Memo, Outcome, StoredAnswer};
use kit::outbox;
use kit::sweep::{Cursor, Part, page};

/// The index of orders that wait for answers, by the time of their next check.
pub const DUE_INDEX: &str = "due";
/// How many due orders the sweep reads at a time.
const DUE_ROWS: i32 = 100;
/// The `source` of this context's events.
const SOURCE: &str = "encore/orders";
const CART: &str = "CART";
const WORK: &str = "WORK";
const PENDING: &str = "PENDING";
const CANCELLED: &str = "CANCELLED";
/// How long the orders that were cancelled on a day are kept, in seconds: a day, and one for clocks.
const CANCELLED_KEPT_SECONDS: i64 = 2 * 24 * 3600;
/// What the clocks in Korea are ahead of UTC, in seconds.
const KOREA_SECONDS: i64 = 9 * 3600;
/// The prefix of a cart line's attribute, before the item's id.
const LINE: &str = "l#";
/// How long the cart's work of an order is kept, in seconds: 30 days. Its events arrive within 21: an event is kept 7
/// days in the outbox and 14 in a queue.
const KEPT_SECONDS: i64 = 30 * 24 * 3600;
/// Attempts of a write that conflicts with a transaction, or of a batch that was answered in part.
const ATTEMPTS: u32 = 8;

/// Carts and orders in their table.
#[derive(Debug, Clone)]
pub struct Orders {
    table: Table,
}

fn user_pk(user: &UserId) -> AttributeValue {
    s(format!("USER#{user}"))
}

/// The sort key of an order, and the partition key of the cart's work for it.
fn order_key(id: &OrderId) -> AttributeValue {
    s(format!("ORDER#{id}"))
}

fn put(row: Put) -> TransactWriteItem {
    TransactWriteItem::builder().put(row).build()
}

fn update(row: Update) -> TransactWriteItem {
    TransactWriteItem::builder().update(row).build()
}

impl Orders {
    /// Carts and orders in a table.
    pub fn new(table: Table) -> Self {
        Self { table }
    }

    fn update(&self, pk: AttributeValue, sk: AttributeValue) -> UpdateBuilder {
        Update::builder().table_name(&self.table.name).key(PK, pk).key(SK, sk)
    }

    /// A write of the cart by its user, retried while an order takes lines out of it. `None` when the condition failed.
    async fn change_cart(
        &self,
        user: &UserId,
        change: impl Fn(UpdateItemFluentBuilder) -> UpdateItemFluentBuilder,
    ) -> Result<Option<Cart>, Fault> {
        const DOING: &str = "changing a cart";
        for attempt in 0..ATTEMPTS {
            let update = self.table.client.update_item().table_name(&self.table.name);
            let update = update.key(PK, user_pk(user)).key(SK, s(CART)).return_values(ReturnValue::AllNew);
            let error = match change(update).expression_attribute_values(":one", n(1)).send().await {
                Ok(changed) => return cart_of(&changed.attributes.unwrap_or_default()).map(Some),
                Err(error) => error,
            };
            if is_condition_failed(&error) {
                return Ok(None);
            }
            match classify(DOING, error) {
                Fault::Contended(_) => tokio::time::sleep(jitter(attempt)).await,
                fault => return Err(fault),
            }
        }
        Err(Fault::contended(DOING))
    }

    /// The row that records what was done to the cart for an order for which nothing was done yet.
    fn first_work(
        &self,
        order: &CartOrder,
        work: ParticipantState,
        taken: &[CartLine],
        now: Timestamp,
    ) -> Result<TransactWriteItem, Fault> {
        let row = Put::builder()
            .table_name(&self.table.name)
            .set_item(Some(taken.iter().map(line_attribute).collect()))
            .item(PK, order_key(&order.id))
            .item(SK, s(WORK))
            .item("work_state", s(work.as_str()))
            .item(TTL, n(now.plus_seconds(KEPT_SECONDS).ttl_seconds()))
            .condition_expression("attribute_not_exists(pk)");
        Ok(put(built(row.build())?))
    }

    /// A change of the cart's lines, on the condition that the cart is as it was read.
    fn cart_lines(
        &self,
        order: &CartOrder,
        cart: &Cart,
        lines: &[CartLine],
        back: bool,
    ) -> Result<TransactWriteItem, Fault> {
        let mut row = self
            .update(user_pk(&order.user), s(CART))
            .condition_expression("rev = :rev")
            .expression_attribute_values(":rev", n(cart.rev))
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":items", items_of(lines));
        let mut names = Vec::with_capacity(lines.len());
        for (index, line) in lines.iter().enumerate() {
            let (name, value) = line_attribute(line);
            row = row.expression_attribute_names(format!("#l{index}"), name);
            if back {
                row = row.expression_attribute_values(format!(":l{index}"), value);
                names.push(format!("#l{index} = :l{index}"));
            } else {
                names.push(format!("#l{index}"));
            }
        }
        let names = names.join(", ");
        let expression = if back {
            format!("SET {names} ADD rev :one, listed :items")
        } else {
            format!("REMOVE {names} ADD rev :one DELETE listed :items")
        };
        Ok(update(built(row.update_expression(expression).build())?))
    }

    /// The write of an event of the cart: its outbox row.
    fn cart_row(&self, order: &CartOrder, body: EventBody, now: Timestamp) -> Result<TransactWriteItem, Fault> {
        let id = order.id.as_str();
        outbox::row(&self.table, &outbox::event(SOURCE, id, &order.correlation_id, body, now)?, id)
    }

    /// The write that ends a pending order.
    fn ended(&self, order: &Order, to: &Status, and: &str, now: Timestamp) -> UpdateBuilder {
        self.update(user_pk(&order.user), order_key(&order.id))
            .update_expression(format!("SET #status = :to, ended_at = :now{and}"))
            .condition_expression("#status = :pending")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":pending", s(Status::Pending.as_str()))
            .expression_attribute_values(":to", s(to.as_str()))
            .expression_attribute_values(":now", at(now))
    }

    /// Ends an order, writes its event and makes room for another pending one, all or nothing.
    async fn end(&self, order: &Order, ended: UpdateBuilder, body: EventBody, now: Timestamp) -> Result<bool, Fault> {
        let event = event_of(order, body, now)?;
        let not_pending = self.not_pending(&order.user, vec![order.id.to_string()]);
        let writes = vec![
            update(built(ended.build())?),
            outbox::row(&self.table, &event, order.id.as_str())?,
            update(built(not_pending.build())?),
        ];
        self.table.write_all("ending an order", writes).await
    }

    /// The write that counts orders as pending no longer, which changes nothing for those that are not counted.
    fn not_pending(&self, user: &UserId, orders: Vec<String>) -> UpdateBuilder {
        self.update(user_pk(user), s(PENDING))
            .update_expression("DELETE orders :orders")
            .expression_attribute_values(":orders", AttributeValue::Ss(orders))
    }

    /// Counts those orders as pending no longer that have ended without that: by a function of the release before.
    /// Returns whether there were any.
    async fn forget_ended(&self, user: &UserId, listed: &Item) -> Result<bool, Fault> {
        const DOING: &str = "looking for orders that are pending no longer";
        let mut ended: Vec<String> = match listed.get("orders") {
            Some(AttributeValue::Ss(orders)) => orders.clone(),
            _ => return Err(Fault::broken(DOING, "no order is listed where there are too many")),
        };
        let key = |order: &String| row_key(user_pk(user), s(format!("ORDER#{order}")));
        for row in self.rows(DOING, ended.iter().map(key).collect()).await? {
            if row.text("status")? == Status::Pending.as_str() {
                let pending = row.text("order_id")?;
                ended.retain(|order| order != pending);
            }
        }
        if ended.is_empty() {
            return Ok(false);
        }
        let writes = vec![update(built(self.not_pending(user, ended).build())?)];
        self.table.write_all(DOING, writes).await
    }

    /// The rows with these keys that are there, a hundred at most, in no order.
    async fn rows(&self, doing: &'static str, mut keys: Vec<Item>) -> Result<Vec<Item>, Fault> {
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
            found.extend(got.responses.unwrap_or_default().into_values().flatten());
            // Under load DynamoDB may leave keys unprocessed.
            let rest = got.unprocessed_keys.and_then(|mut of| of.remove(&self.table.name));
            keys = rest.map(|rest| rest.keys).unwrap_or_default();
        }
        if keys.is_empty() { Ok(found) } else { Err(Fault::contended(doing)) }
    }
}

fn row_key(pk: AttributeValue, sk: AttributeValue) -> Item {
    Item::from([(PK.to_owned(), pk), (SK.to_owned(), sk)])
}

fn event_of(order: &Order, body: EventBody, now: Timestamp) -> Result<Event, Fault> {
    outbox::event(SOURCE, order.id.as_str(), &order.correlation_id, body, now)
}

fn event_data(order: &Order) -> OrderEvent {
    OrderEvent {
        order_id: order.id.clone(),
        user_id: order.user.clone(),
        lines: order.lines.clone(),
        total_price: order.total_price,
    }
}

fn cart_event(order: &CartOrder, lines: &[CartLine]) -> CartEvent {
    let pieces = |line: &CartLine| Pieces { item_id: line.line.item_id.clone(), quantity: line.line.quantity };
    CartEvent { order_id: order.id.clone(), user_id: order.user.clone(), pieces: lines.iter().map(pieces).collect() }
}

fn items_of(lines: &[CartLine]) -> AttributeValue {
    AttributeValue::Ss(lines.iter().map(|line| line.line.item_id.to_string()).collect())
}

fn line_attribute(CartLine { line, put_at }: &CartLine) -> (String, AttributeValue) {
    let value = Item::from([
        ("name".to_owned(), s(&line.name)),
        ("price".to_owned(), n(line.price.get())),
        ("quantity".to_owned(), n(line.quantity.get())),
        ("put_at".to_owned(), at(*put_at)),
    ]);
    (format!("{LINE}{}", line.item_id), AttributeValue::M(value))
}

/// The cart's lines in an item.
fn lines_of(row: &Item) -> Result<Vec<CartLine>, Fault> {
    const DOING: &str = "reading a cart";
    let mut lines = Vec::new();
    for (name, value) in row {
        let Some(item) = name.strip_prefix(LINE) else { continue };
        let value = value.as_m().map_err(|_| Fault::broken(DOING, "a line is no map"))?;
        let line = OrderLine {
            item_id: ItemId::parse(item).map_err(|error| Fault::broken(DOING, error))?,
            name: value.text("name")?.to_owned(),
            price: Won::new(value.int("price")?).map_err(|error| Fault::broken(DOING, error))?,
            quantity: Quantity::new(value.int("quantity")?).map_err(|error| Fault::broken(DOING, error))?,
        };
        lines.push(CartLine { line, put_at: value.moment("put_at")? });
    }
    lines.sort_by(|one, other| one.line.item_id.cmp(&other.line.item_id));
    Ok(lines)
}

fn cart_of(row: &Item) -> Result<Cart, Fault> {
    Ok(Cart { rev: row.uint("rev")?, lines: lines_of(row)? })
}

impl FindCart for Orders {
    async fn find_cart(&self, user: &UserId) -> Result<Cart, Fault> {
        let found = self.table.read("reading a cart", user_pk(user), s(CART)).await?;
        found.as_ref().map(cart_of).transpose().map(Option::unwrap_or_default)
    }
}

impl ChangeCart for Orders {
    async fn put_line(&self, user: &UserId, line: &CartLine) -> Result<Option<Cart>, Fault> {
        let (name, value) = line_attribute(line);
        let change = |update: UpdateItemFluentBuilder| {
            update
                .update_expression("SET #line = :line ADD rev :one, listed :items")
                .condition_expression("attribute_not_exists(listed) OR contains(listed, :item) OR size(listed) < :most")
                .expression_attribute_names("#line", &name)
                .expression_attribute_values(":line", value.clone())
                .expression_attribute_values(":item", s(&line.line.item_id))
                .expression_attribute_values(":items", items_of(std::slice::from_ref(line)))
                .expression_attribute_values(":most", n(MAX_LINES as i64))
        };
        self.change_cart(user, change).await
    }

    async fn remove_line(&self, user: &UserId, item: &ItemId) -> Result<(), Fault> {
        let change = |update: UpdateItemFluentBuilder| {
            update
                .update_expression("REMOVE #line ADD rev :one DELETE listed :items")
                .expression_attribute_names("#line", format!("{LINE}{item}"))
                .expression_attribute_values(":items", AttributeValue::Ss(vec![item.to_string()]))
        };
        self.change_cart(user, change).await.map(drop)
    }
}

impl OpenOrder for Orders {
    async fn checkout(
        &self,
        user: &UserId,
        key: &IdempotencyKey,
        now: Timestamp,
    ) -> Result<(Outcome<StoredAnswer>, Cart), Fault> {
        let keys = [s(CART), s(idempotency::sort_key(key))].map(|sk| row_key(user_pk(user), sk));
        let (mut remembered, mut cart) = (Outcome::First, Cart::default());
        for row in self.rows("reading what an order needs", keys.into()).await? {
            if row.text(SK)? == CART {
                cart = cart_of(&row)?;
            } else {
                remembered = idempotency::recall_at(&row, key, now)?.map(|first| first.answer);
            }
        }
        Ok((remembered, cart))
    }

    async fn open_order(
        &self,
        order: &Order,
        memo: &Memo,
        most_pending: u32,
    ) -> Result<Result<Outcome<StoredAnswer>, TooManyPending>, Fault> {
        let mut is_second_try = false;
        loop {
            let (transaction, slots) = self.opening(order, memo, most_pending)?;
            let Err(cancelled) = transaction.commit().await? else { return Ok(Ok(Outcome::First)) };
            if let Some(row) = cancelled.found(slots.remembered) {
                return Ok(Ok(idempotency::recall(row, &memo.key)?.map(|first| first.answer)));
            }
            let Some(listed) = cancelled.found(slots.pending) else {
                // The id was generated for this very call: an attempt whose answer was lost has written it.
                return Ok(Ok(Outcome::First));
            };
            if is_second_try || !self.forget_ended(&order.user, listed).await? {
                return Ok(Err(TooManyPending));
            }
            is_second_try = true;
        }
    }
}

/// The writes that tell why an order was not opened.
struct OpeningSlots {
    remembered: Slot,
    pending: Slot,
}

impl Orders {
    fn opening(&self, order: &Order, memo: &Memo, most_pending: u32) -> Result<(Transaction<'_>, OpeningSlots), Fault> {
        const DOING: &str = "placing an order";
        let (id, now) = (order.id.as_str(), order.placed_at);
        let row = Put::builder()
            .table_name(&self.table.name)
            .item(PK, user_pk(&order.user))
            .item(SK, order_key(&order.id))
            .item("kind", s("order"))
            .item("order_id", s(&order.id))
            .item("user_id", s(&order.user))
            .item("status", s(order.status.as_str()))
            .item("lines", dynamo::json(DOING, &order.lines)?)
            .item("total_price", n(order.total_price.get()))
            .item("placed_at", at(now))
            .item("correlation_id", s(&order.correlation_id))
            .item("nudges", n(0))
            .item("due_shard", s(due_shard(&order.id)))
            .item("due_at", at(now.plus_seconds(FIRST_LOOK_SECONDS)))
            .condition_expression("attribute_not_exists(pk)");
        let event = event_of(order, EventBody::OrderPlaced(event_data(order)), now)?;
        let not_yet =
            |participant: Participant| (participant.as_str().to_owned(), s(ParticipantState::Pending.as_str()));
        let work_state = AttributeValue::M(Participant::ALL.into_iter().map(not_yet).collect());
        let pending = self
            .update(user_pk(&order.user), s(PENDING))
            .update_expression("ADD orders :order")
            .condition_expression("attribute_not_exists(orders) OR size(orders) < :most")
            .expression_attribute_values(":order", AttributeValue::Ss(vec![id.to_owned()]))
            .expression_attribute_values(":most", n(most_pending))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let mut transaction = self.table.transaction(DOING);
        transaction.add(row)?;
        transaction.add(outbox::row_with(&self.table, &event, id, [("work_state", work_state)])?)?;
        // Whoever is refused for too many has not been accepted under this key.
        let remembered = transaction.add_identity(idempotency::remember(&self.table, memo, now))?;
        let pending = transaction.add(pending)?;
        Ok((transaction, OpeningSlots { remembered, pending }))
    }
}

/// The shard of an order in the index, from its id.
fn due_shard(id: &OrderId) -> u64 {
    kit::dynamo::shard_of(id.as_str(), DUE_SHARDS)
}

/// Why an order failed, from the attributes that its reason and its items are in.
fn failure_of(row: &Item, reason: &'static str, items: &'static str) -> Result<Failure, Fault> {
    let text = row.text(reason)?.into();
    let reason: OrderFailure =
        serde_json::from_value(text).map_err(|error| Fault::broken("reading why an order failed", error))?;
    // The stock refuses an order once: so the items are those of this reason if it is about any.
    let is_named = reason.names_items() && row.contains_key(items);
    Ok(Failure { reason, items: if is_named { row.document(items)? } else { Vec::new() } })
}

/// Reads an order item.
pub fn order_of(row: &Item) -> Result<Order, Fault> {
    let wrong = |what: &'static str| Fault::broken("reading an order", what);
    let status = match row.text("status")? {
        "pending" => Status::Pending,
        "completed" => Status::Completed,
        "failed" => Status::Failed(failure_of(row, "failure", "failed_items")?),
        _ => return Err(wrong("status")),
    };
    Ok(Order {
        id: row.parsed("order_id")?,
        user: row.parsed("user_id")?,
        lines: row.document("lines")?,
        total_price: Won::new(row.int("total_price")?).map_err(|_| wrong("total_price"))?,
        placed_at: row.moment("placed_at")?,
        correlation_id: row.text("correlation_id")?.to_owned(),
        status,
    })
}

impl FindOrder for Orders {
    async fn find_order(&self, user: &UserId, id: &OrderId) -> Result<Option<Order>, Fault> {
        self.table.read("reading an order", user_pk(user), order_key(id)).await?.as_ref().map(order_of).transpose()
    }
}

impl ListOrders for Orders {
    async fn list_orders(&self, user: &UserId, page: &Page) -> Result<(Vec<Order>, Option<String>), Fault> {
        let (rows, next) = self.table.page_backwards("listing orders", user_pk(user), "ORDER#", page).await?;
        Ok((rows.iter().map(order_of).collect::<Result<_, _>>()?, next))
    }
}

impl KeepCart for Orders {
    async fn cart_work(&self, order: &CartOrder) -> Result<(CartWork, Cart), Fault> {
        const DOING: &str = "reading what was done for an order";
        let (row, cart) =
            tokio::try_join!(self.table.read(DOING, order_key(&order.id), s(WORK)), self.find_cart(&order.user))?;
        let Some(row) = row else { return Ok((CartWork { work: ParticipantState::Pending, taken: Vec::new() }, cart)) };
        let work = row.text("work_state")?.parse().map_err(|error| Fault::broken(DOING, error))?;
        Ok((CartWork { work, taken: lines_of(&row)? }, cart))
    }

    async fn take_lines(
        &self,
        order: &CartOrder,
        cart: &Cart,
        lines: &[CartLine],
        now: Timestamp,
    ) -> Result<bool, Fault> {
        let answer = EventBody::CartCleared(cart_event(order, lines));
        let mut writes =
            vec![self.first_work(order, ParticipantState::Done, lines, now)?, self.cart_row(order, answer, now)?];
        if !lines.is_empty() {
            writes.push(self.cart_lines(order, cart, lines, false)?);
        }
        self.table.write_all("taking lines out of a cart", writes).await
    }

    async fn put_lines_back(
        &self,
        order: &CartOrder,
        before: &CartWork,
        cart: &Cart,
        lines: &[CartLine],
        now: Timestamp,
    ) -> Result<bool, Fault> {
        let undone = if before.work == ParticipantState::Pending {
            self.first_work(order, ParticipantState::Undone, &[], now)?
        } else {
            let row = self
                .update(order_key(&order.id), s(WORK))
                .update_expression("SET work_state = :undone, #ttl = :ttl")
                .condition_expression("work_state = :before")
                .expression_attribute_names("#ttl", TTL)
                .expression_attribute_values(":undone", s(ParticipantState::Undone.as_str()))
                .expression_attribute_values(":before", s(before.work.as_str()))
                .expression_attribute_values(":ttl", n(now.plus_seconds(KEPT_SECONDS).ttl_seconds()));
            update(built(row.build())?)
        };
        let answer = EventBody::CartRestored(cart_event(order, lines));
        let mut writes = vec![undone, self.cart_row(order, answer, now)?];
        if !lines.is_empty() {
            writes.push(self.cart_lines(order, cart, lines, true)?);
        }
        self.table.write_all("putting lines back into a cart", writes).await
    }
}

impl Republish for Orders {
    async fn republish(&self, order: &OrderId, event_type: &str, now: Timestamp) -> Result<(), Fault> {
        outbox::publish_again(&self.table, &format!("{order}.{event_type}"), now).await
    }
}

impl KeepAnswers for Orders {
    async fn note_answer(&self, answer: &Answer) -> Result<Option<(Order, WorkState)>, Fault> {
        const DOING: &str = "noting an answer to an order";
        let (pk, sk) = outbox::key(&format!("{}.order.placed", answer.order));
        let row = self
            .table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(PK, pk)
            .key(SK, sk)
            .expression_attribute_names("#participant", answer.participant.as_str())
            .expression_attribute_values(":did", s(answer.did.work().as_str()))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        // Undone is final, however late the answer arrives that it undid.
        let row = match &answer.did {
            Did::Undo => row.condition_expression("attribute_exists(work_state)"),
            Did::Its | Did::Refuse(_) => row
                .condition_expression("work_state.#participant = :pending")
                .expression_attribute_values(":pending", s(ParticipantState::Pending.as_str())),
        };
        let row = match &answer.did {
            Did::Refuse(Failure { reason, items }) if items.is_empty() => row
                .update_expression("SET work_state.#participant = :did, refusal = if_not_exists(refusal, :reason)")
                .expression_attribute_values(":reason", s(reason.as_str())),
            Did::Refuse(Failure { reason, items }) => row
                .update_expression(
                    "SET work_state.#participant = :did, refusal = if_not_exists(refusal, :reason), \
                     refused_items = :items",
                )
                .expression_attribute_values(":reason", s(reason.as_str()))
                .expression_attribute_values(":items", dynamo::json(DOING, items)?),
            Did::Its | Did::Undo => row.update_expression("SET work_state.#participant = :did"),
        };
        let found = match row.send().await {
            Ok(noted) => noted.attributes,
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => failed.item().cloned(),
                _ => return Err(classify(DOING, error)),
            },
        };
        found.filter(|row| !row.is_empty()).as_ref().map(tracked_of).transpose()
    }
}

/// The order and its work state, from the outbox row of `order.placed`.
fn tracked_of(row: &Item) -> Result<(Order, WorkState), Fault> {
    const DOING: &str = "reading an order's work state";
    let event: Event = row.document("event")?;
    let EventBody::OrderPlaced(placed) = event.body else {
        return Err(Fault::broken(DOING, "its row is no order.placed"));
    };
    let works = row.get("work_state").and_then(|works| works.as_m().ok());
    let works = works.ok_or_else(|| Fault::broken(DOING, "there is none"))?;
    let work = |of: Participant| works.text(of.as_str())?.parse().map_err(|error| Fault::broken(DOING, error));
    let state = WorkState {
        stock: work(Participant::Stock)?,
        points: work(Participant::Points)?,
        cart: work(Participant::Cart)?,
        refusal: row.get("refusal").map(|_| failure_of(row, "refusal", "refused_items")).transpose()?,
    };
    let order = Order {
        id: placed.order_id,
        user: placed.user_id,
        lines: placed.lines,
        total_price: placed.total_price,
        placed_at: event.time,
        correlation_id: event.correlationid,
        status: Status::Pending,
    };
    Ok((order, state))
}

impl EndOrder for Orders {
    async fn complete(&self, order: &Order, now: Timestamp) -> Result<bool, Fault> {
        let ended = self.ended(order, &Status::Completed, " REMOVE due_shard, due_at", now);
        self.end(order, ended, EventBody::OrderCompleted(event_data(order)), now).await
    }

    async fn fail(&self, order: &Order, failure: &Failure, now: Timestamp) -> Result<bool, Fault> {
        let Failure { reason, items } = failure;
        let and = match items.is_empty() {
            true => ", failure = :reason, due_at = :look",
            false => ", failure = :reason, due_at = :look, failed_items = :items",
        };
        let mut ended = self
            .ended(order, &Status::Failed(failure.clone()), and, now)
            .expression_attribute_values(":reason", s(reason.as_str()))
            .expression_attribute_values(":look", at(now.plus_seconds(FIRST_LOOK_SECONDS)));
        if !items.is_empty() {
            ended = ended.expression_attribute_values(":items", dynamo::json("ending an order", items)?);
        }
        let body = OrderFailed { order: event_data(order), reason: *reason, actor: None };
        self.end(order, ended, EventBody::OrderFailed(body), now).await
    }
}

impl CancelOrder for Orders {
    async fn cancel(&self, order: &Order, by: &UserId, most: Option<u32>, now: Timestamp) -> Result<Cancelled, Fault> {
        let reason = OrderFailure::Cancelled;
        let cancelled = self
            .update(user_pk(&order.user), order_key(&order.id))
            // A completed order is not looked after any more: from here on it is, until all have undone their part.
            .update_expression(
                "SET #status = :failed, failure = :reason, cancelled_by = :by, ended_at = :now, nudges = :none, \
                 due_shard = :shard, due_at = :look",
            )
            .condition_expression("#status IN (:pending, :completed)")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":pending", s(Status::Pending.as_str()))
            .expression_attribute_values(":completed", s(Status::Completed.as_str()))
            .expression_attribute_values(":failed", s(Status::Failed(reason.into()).as_str()))
            .expression_attribute_values(":reason", s(reason.as_str()))
            .expression_attribute_values(":by", s(by))
            .expression_attribute_values(":now", at(now))
            .expression_attribute_values(":none", n(0))
            .expression_attribute_values(":shard", s(due_shard(&order.id)))
            .expression_attribute_values(":look", at(now.plus_seconds(FIRST_LOOK_SECONDS)));
        let body = OrderFailed { order: event_data(order), reason, actor: Some(by.clone()) };
        let mut transaction = self.table.transaction("cancelling an order");
        // Whether it is one too many means nothing while the order itself was not looked at.
        let ended = transaction.add_identity(cancelled)?;
        transaction.add(outbox::row(
            &self.table,
            &event_of(order, EventBody::OrderFailed(body), now)?,
            order.id.as_str(),
        )?)?;
        transaction.add(self.not_pending(&order.user, vec![order.id.to_string()]))?;
        let counted = most.map(|most| transaction.add(self.counted(order, most, now))).transpose()?;
        let Err(refused) = transaction.commit().await? else { return Ok(Cancelled::Now) };
        let is_one_too_many = counted.is_some_and(|slot| refused.failed(slot)) && !refused.failed(ended);
        Ok(if is_one_too_many { Cancelled::TooMany } else { Cancelled::Crossed })
    }
}

impl Orders {
    /// The write that counts an order among those that its user cancels today.
    fn counted(&self, order: &Order, most: u32, now: Timestamp) -> UpdateBuilder {
        let day: String = now.plus_seconds(KOREA_SECONDS).rfc3339().chars().take_while(|c| *c != 'T').collect();
        self.update(user_pk(&order.user), s(format!("{CANCELLED}#{day}")))
            .update_expression("SET #ttl = :ttl ADD orders :order")
            .condition_expression("attribute_not_exists(orders) OR size(orders) < :most")
            .expression_attribute_names("#ttl", TTL)
            .expression_attribute_values(":ttl", n(now.plus_seconds(CANCELLED_KEPT_SECONDS).ttl_seconds()))
            .expression_attribute_values(":order", AttributeValue::Ss(vec![order.id.to_string()]))
            .expression_attribute_values(":most", n(most))
    }
}

impl FindBuyer for Orders {
    async fn find_buyer(&self, id: &OrderId) -> Result<Option<UserId>, Fault> {
        let (pk, sk) = outbox::key(&format!("{id}.order.placed"));
        let row = self.table.read("finding out whose an order is", pk, sk).await?;
        row.map(|row| tracked_of(&row).map(|(order, _)| order.user)).transpose()
    }
}

impl SettleOrder for Orders {
    async fn settle(&self, order: &Order, now: Timestamp) -> Result<(), Fault> {
        const DOING: &str = "settling a failed order";
        let settled = self
            .table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(PK, user_pk(&order.user))
            .key(SK, order_key(&order.id))
            .update_expression("SET settled_at = if_not_exists(settled_at, :now) REMOVE due_shard, due_at")
            .condition_expression("#status = :failed")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":failed", s("failed"))
            .expression_attribute_values(":now", at(now))
            .send()
            .await;
        match settled {
            Ok(_) => Ok(()),
            Err(error) if is_condition_failed(&error) => {
                Err(Fault::broken(DOING, "everybody has undone their part of an order that has not failed"))
            }
            Err(error) => Err(classify(DOING, error)),
        }
    }
}

impl FindDue for Orders {
    async fn due_orders(&self, shard: u64, now: Timestamp, after: Option<Cursor>) -> Result<Part<DueOrder>, Fault> {
        let due = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .index_name(DUE_INDEX)
            .key_condition_expression("due_shard = :shard AND due_at <= :now")
            .expression_attribute_values(":shard", s(shard))
            .expression_attribute_values(":now", at(now))
            .limit(DUE_ROWS);
        page("finding orders to look after", due, after, due_of).await
    }

    async fn put_off(&self, due: &DueOrder, put_off: PutOff, now: Timestamp) -> Result<(), Fault> {
        let row = self
            .update(user_pk(&due.order.user), order_key(&due.order.id))
            .update_expression("SET due_at = :until, nudges = :nudges")
            // Any change of the order since it was read has moved or removed this.
            .condition_expression("due_at = :before")
            .expression_attribute_values(":before", at(due.due_at))
            .expression_attribute_values(":until", at(put_off.until))
            .expression_attribute_values(":nudges", n(put_off.nudges));
        let mut writes = vec![update(built(row.build())?)];
        if put_off.alert {
            writes.push(outbox::row(&self.table, &stuck(due, put_off.nudges, now)?, due.order.id.as_str())?);
        }
        self.table.write_all("putting off the next look at an order", writes).await.map(drop)
    }
}

fn due_of(row: &Item) -> Result<DueOrder, Fault> {
    let nudges = u32::try_from(row.uint("nudges")?);
    Ok(DueOrder {
        order: order_of(row)?,
        due_at: row.moment("due_at")?,
        nudges: nudges.map_err(|error| Fault::broken("reading a due order", error))?,
        ended_at: row.contains_key("ended_at").then(|| row.moment("ended_at")).transpose()?,
    })
}

/// The event that a failed order is not settled. All such orders are one fault, and one page.
fn stuck(due: &DueOrder, nudges: u32, now: Timestamp) -> Result<Event, Fault> {
    let order = &due.order;
    let sign = format!("order-undo-stuck:{}", order.id);
    let body = EventBody::FaultDetected(FaultDetected {
        fault: "orders-stuck".to_owned(),
        summary: "A failed order is not undone by everybody".to_owned(),
        detail: format!(
            "order {} of {}, placed {}, was said to have failed {nudges} times more; its work state says who has not answered",
            order.id,
            order.user,
            order.placed_at.rfc3339()
        ),
    });
    outbox::event(SOURCE, &sign, &order.correlation_id, body, now)
}
