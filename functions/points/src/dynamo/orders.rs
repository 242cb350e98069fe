//! What an order does to an account, written with the order's work and its answer.

use super::archive::{FULL_ENTRIES, is_full};
use super::{ATTEMPTS, Accounts, balance_of, warn_if_not};
use crate::domain::{Job, Order};
use crate::ports::{SettleOrder, Used};
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, Put, TransactWriteItem, Update};
use contracts::choreography::ParticipantState;
use contracts::events::{EventBody, PointsEvent, PointsRefused};
use contracts::orders::OrderFailure;
use contracts::{OrderId, Timestamp, UserId, Won};
use kit::dynamo::{PK, Read, SK, TTL, built, n, s};
use kit::{Fault, outbox};

/// How long the work of an order is kept, in seconds: 30 days. Its events arrive within 21: an event is kept 7 days in
/// the outbox and 14 in a queue.
const KEPT_SECONDS: i64 = 30 * 24 * 3600;
/// The `source` of this context's events.
const SOURCE: &str = "encore/points";
const WORK: &str = "WORK";

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
    /// The write that uses an order's price.
    fn price_used(&self, order: &Order, now: Timestamp) -> UpdateItemFluentBuilder {
        let used = order.paid(now);
        let posting = if order.price == Won::ZERO {
            // A user who never had points may order what costs none.
            self.posting(&order.user, &used, Some("attribute_not_exists(hot) OR hot < :full"))
        } else {
            let posting = self.posting(&order.user, &used, Some("balance >= :price AND hot < :full"));
            posting.expression_attribute_values(":price", n(order.price.get()))
        };
        posting.expression_attribute_values(":full", n(FULL_ENTRIES))
    }

    /// Archives after a transaction, which does not return the account.
    async fn archive_after(&self, user: &UserId, now: Timestamp) {
        let archived = match self.account(user).await {
            Ok(account) => self.archive(user, &account, now).await.map(drop),
            Err(fault) => Err(fault),
        };
        warn_if_not(archived);
    }

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
        for _ in 0..ATTEMPTS {
            let answer = EventBody::PointsUsed(points_event(order, order.price));
            let mut transaction = self.table.transaction("using points for an order");
            let work = transaction.add(self.work_begun(order, ParticipantState::Done, order.price, now)?)?;
            transaction.add(within_transaction(&self.price_used(order, now))?)?;
            transaction.add(self.answer(order, answer, now)?)?;
            match transaction.commit().await? {
                Ok(()) => {
                    self.archive_after(&order.user, now).await;
                    return Ok(Used::Now);
                }
                Err(cancelled) if cancelled.failed(work) => return Ok(Used::Crossed),
                Err(_) => {
                    let account = self.account(&order.user).await?;
                    if balance_of(&account)? < order.price {
                        return Ok(Used::TooLow);
                    }
                    if is_full(&account)? {
                        self.make_room(&order.user, account, now).await?;
                    }
                }
            }
        }
        Err(Fault::contended("using points for an order"))
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
