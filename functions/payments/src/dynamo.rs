//! The payments table: keys, items and every condition expression.
//!
//! | item | pk | sk | attributes |
//! | --- | --- | --- | --- |
//! | payment | `USER#<user>` | `PAY#<payment>` | `kind` = `payment`, `status`, `failure`, `saga` (JSON of the saga's input), `amount`, `reservation_id`, `created_at`, `settled_at`, `recoveries`, once its refund is requested `refund_requested_at`, `refund_correlation_id`, `refunded_at` or `refund_failed_at`, and while a saga is open `pending_shard`, `pending_since` (index `pending`) and `told_at` |
//! | claim on a reservation | `USER#<user>` | `RES#<reservation>` | `kind` = `claim`, `reservation_id`, `payment_id` (whose claim it is, until that payment is decided), `ttl` |
//! | remembered answer | `USER#<user>` | `IDEM#<key>` | see [`kit::idempotency`] |
//! | outbox row | `OUTBOX#<event>` | `OUTBOX` | see [`kit::outbox`] |

pub mod charges;
pub mod withdrawals;

use crate::domain::{PENDING_SHARDS, PENDING_TOO_LONG_MILLIS, Payment, Refund, Status, wait_after_recovery};
use crate::ports::{
    FindPayment, FindStuck, ListPayments, OpenPayment, OpenRefund, RecallAnswer, SettlePayment, SettleRefund, UnderWay,
};
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::builders::{PutBuilder, UpdateBuilder};
use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnValuesOnConditionCheckFailure, Update};
use contracts::events::{
    Event, EventBody, FaultDetected, PaymentCompleted, PaymentFailed, PaymentRefundFailed, PaymentRefunded,
};
use contracts::saga::{PaymentFailure, PaymentSaga, RefundSaga};
use contracts::{PaymentId, Timestamp, UserId};
use kit::Fault;
use kit::dynamo::{Item, PK, Read, SK, TTL, Table, at, n, s};
use kit::http::Page;
use kit::idempotency::{self, IdempotencyKey, Memo, Outcome, Recalled};
use kit::outbox;
use kit::sweep::{Cursor, Part, page};

/// The index of payments with an open saga, and of open charges and withdrawals, by the time of their next check.
pub const PENDING_INDEX: &str = "pending";
/// How many rows of a shard of that index a recovery reads at a time.
const STUCK_ROWS: i32 = 50;
const STUCK: &str = "finding what is stuck";
/// How often a claim on a reservation is looked at while other requests replace it.
const ROUNDS: usize = 4;
/// How long after the end of its hold a reservation's claim is kept, in seconds.
const CLAIMED_SECONDS: i64 = 86_400;
/// The `source` of this context's events.
const SOURCE: &str = "encore/payments";

/// Payments in their table.
#[derive(Debug, Clone)]
pub struct Payments {
    table: Table,
}

fn user_pk(user: &UserId) -> AttributeValue {
    s(format!("USER#{user}"))
}

fn payment_sk(id: &PaymentId) -> AttributeValue {
    s(format!("PAY#{id}"))
}

impl Payments {
    /// Payments in a table.
    pub fn new(table: Table) -> Self {
        Self { table }
    }

    fn update(&self, saga: &PaymentSaga) -> UpdateBuilder {
        Update::builder()
            .table_name(&self.table.name)
            .key(PK, user_pk(&saga.user_id))
            .key(SK, payment_sk(&saga.payment_id))
            .expression_attribute_names("#status", "status")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    /// The write that ends a saga, `from` -> `to`, with the attribute `moment` as its time.
    fn ended(&self, saga: &PaymentSaga, from: Status, to: Status, moment: &str, now: Timestamp) -> UpdateBuilder {
        self.update(saga)
            .update_expression(format!(
                "SET #status = :to, {moment} = :now REMOVE pending_shard, pending_since, told_at"
            ))
            .condition_expression("#status = :from")
            .expression_attribute_values(":from", s(from.as_str()))
            .expression_attribute_values(":to", s(to.as_str()))
            .expression_attribute_values(":now", at(now))
    }

    /// Ends a saga and writes its event, both or neither; returns the status found when it had ended before.
    async fn settle(&self, saga: &PaymentSaga, ended: UpdateBuilder, event: &Event) -> Result<Option<Status>, Fault> {
        const DOING: &str = "settling a payment";
        let mut transaction = self.table.transaction(DOING);
        let payment = transaction.add(ended)?;
        transaction.add(outbox::row(&self.table, event, saga.payment_id.as_str())?)?;
        let Err(cancelled) = transaction.commit().await? else { return Ok(None) };
        let found = cancelled.found(payment).ok_or_else(|| Fault::broken(DOING, "there is no such payment"))?;
        Ok(Some(payment_of(found)?.status))
    }
}

impl OpenPayment for Payments {
    async fn open(
        &self,
        payment: &Payment,
        memo: &Memo,
        now: Timestamp,
    ) -> Result<Result<Outcome<Recalled>, UnderWay>, Fault> {
        const DOING: &str = "recording a payment";
        let saga = &payment.saga;
        let row = Put::builder()
            .table_name(&self.table.name)
            .item(PK, user_pk(&saga.user_id))
            .item(SK, payment_sk(&saga.payment_id))
            .item("kind", s("payment"))
            .item("payment_id", s(&saga.payment_id))
            .item("user_id", s(&saga.user_id))
            .item("reservation_id", s(&saga.reservation_id))
            .item("amount", n(saga.amount.get()))
            .item("status", s(payment.status.as_str()))
            .item("saga", kit::dynamo::json(DOING, saga)?)
            .item("created_at", at(now))
            .item("recoveries", n(payment.recoveries))
            .item("pending_shard", s(pending_shard(&saga.payment_id)))
            .item("pending_since", at(now))
            .condition_expression("attribute_not_exists(pk)");
        // The payment whose claim may be replaced: none but its own at first.
        let mut decided = saga.payment_id.clone();
        for _ in 0..ROUNDS {
            let mut transaction = self.table.transaction(DOING);
            let recorded = transaction.add(row.clone())?;
            let claimed = transaction.add(self.claim(saga, &decided, now))?;
            // What stands in the way may be this very request, being recorded at this moment.
            let remembered = transaction.add_identity(idempotency::remember(&self.table, memo, now))?;
            let Err(cancelled) = transaction.commit().await? else { return Ok(Ok(Outcome::First)) };
            if let Some(row) = cancelled.found(remembered) {
                return idempotency::recall(row, &memo.key).map(Ok);
            }
            let other = match cancelled.found(claimed) {
                Some(claim) if !cancelled.failed(recorded) => claim.parsed("payment_id")?,
                // The id was generated for this very call: an attempt whose answer was lost has written it.
                _ => return Ok(Ok(Outcome::First)),
            };
            match self.find(&saga.user_id, &other).await? {
                Some(found) if found.status == Status::Pending => return Ok(Err(UnderWay(other))),
                _ => decided = other,
            }
        }
        Err(Fault::contended(DOING))
    }
}

impl Payments {
    /// A payment's claim on its reservation: only one is undecided at a time. Nothing takes a claim away; it is replaced
    /// once its payment is `decided`, so whatever brings a payment to its end frees the reservation for another one.
    fn claim(&self, saga: &PaymentSaga, decided: &PaymentId, now: Timestamp) -> PutBuilder {
        // Beyond its end a hold cannot be paid, whatever is claimed.
        let forgotten_at = saga.hold_expires_at.max(now).plus_seconds(CLAIMED_SECONDS);
        Put::builder()
            .table_name(&self.table.name)
            .item(PK, user_pk(&saga.user_id))
            .item(SK, s(format!("RES#{}", saga.reservation_id)))
            .item("kind", s("claim"))
            .item("reservation_id", s(&saga.reservation_id))
            .item("payment_id", s(&saga.payment_id))
            .item(TTL, n(forgotten_at.ttl_seconds()))
            .condition_expression("attribute_not_exists(pk) OR payment_id = :decided")
            .expression_attribute_values(":decided", s(decided))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }
}

impl OpenRefund for Payments {
    async fn open_refund(
        &self,
        payment: &Payment,
        memo: &Memo,
        now: Timestamp,
    ) -> Result<Option<Outcome<Recalled>>, Fault> {
        let saga = &payment.saga;
        let (requested_at, correlation_id) = payment.asked();
        let refunding = self
            .update(saga)
            .update_expression(
                "SET #status = :refunding, refund_requested_at = :requested, refund_correlation_id = :correlation, \
                 recoveries = :recoveries, pending_shard = :shard, pending_since = :requested",
            )
            .condition_expression("#status = :completed")
            .expression_attribute_values(":completed", s(Status::Completed.as_str()))
            .expression_attribute_values(":refunding", s(payment.status.as_str()))
            .expression_attribute_values(":requested", at(requested_at))
            .expression_attribute_values(":correlation", s(correlation_id))
            .expression_attribute_values(":recoveries", n(payment.recoveries))
            .expression_attribute_values(":shard", s(pending_shard(&saga.payment_id)));
        let mut transaction = self.table.transaction("recording a refund");
        transaction.add(refunding)?;
        // The reason that it is not completed may be this very request, being recorded at this moment.
        let remembered = transaction.add_identity(idempotency::remember(&self.table, memo, now))?;
        let Err(cancelled) = transaction.commit().await? else { return Ok(Some(Outcome::First)) };
        cancelled.found(remembered).map(|row| idempotency::recall(row, &memo.key)).transpose()
    }
}

impl RecallAnswer for Payments {
    async fn recall(&self, user: &UserId, key: &IdempotencyKey, now: Timestamp) -> Result<Outcome<Recalled>, Fault> {
        match self.table.read("reading a payment", user_pk(user), s(idempotency::sort_key(key))).await? {
            Some(row) => idempotency::recall_at(&row, key, now),
            None => Ok(Outcome::First),
        }
    }
}

/// The shard of a payment in the index, from its id, so that an update keeps it.
fn pending_shard(id: &PaymentId) -> u64 {
    kit::dynamo::shard_of(id.as_str(), PENDING_SHARDS)
}

impl FindPayment for Payments {
    async fn find(&self, user: &UserId, id: &PaymentId) -> Result<Option<Payment>, Fault> {
        self.table.read("reading a payment", user_pk(user), payment_sk(id)).await?.as_ref().map(payment_of).transpose()
    }
}

impl ListPayments for Payments {
    async fn list(&self, user: &UserId, page: &Page) -> Result<(Vec<Payment>, Option<String>), Fault> {
        let (rows, next) = self.table.page_backwards("listing payments", user_pk(user), "PAY#", page).await?;
        Ok((rows.iter().map(payment_of).collect::<Result<_, _>>()?, next))
    }
}

impl SettlePayment for Payments {
    async fn complete(&self, saga: &PaymentSaga, now: Timestamp) -> Result<Option<Status>, Fault> {
        let ended = self.ended(saga, Status::Pending, Status::Completed, "settled_at", now);
        let body = EventBody::PaymentCompleted(PaymentCompleted {
            payment_id: saga.payment_id.clone(),
            user_id: saga.user_id.clone(),
            reservation_id: saga.reservation_id.clone(),
            schedule_id: saga.schedule_id.clone(),
            concert_id: saga.concert_id.clone(),
            seats: saga.seats.clone(),
            amount: saga.amount,
            queue_position: saga.queue_position,
        });
        let event = outbox::event(SOURCE, saga.payment_id.as_str(), &saga.correlation_id, body, now)?;
        self.settle(saga, ended, &event).await
    }

    async fn fail(&self, saga: &PaymentSaga, failure: PaymentFailure, now: Timestamp) -> Result<Option<Status>, Fault> {
        let ended = self
            .ended(saga, Status::Pending, Status::Failed(failure), "failure = :failure, settled_at", now)
            .expression_attribute_values(":failure", s(failure.as_str()));
        let body = EventBody::PaymentFailed(PaymentFailed {
            payment_id: saga.payment_id.clone(),
            user_id: saga.user_id.clone(),
            reservation_id: saga.reservation_id.clone(),
            failure,
        });
        let event = outbox::event(SOURCE, saga.payment_id.as_str(), &saga.correlation_id, body, now)?;
        self.settle(saga, ended, &event).await
    }
}

impl SettleRefund for Payments {
    async fn complete_refund(&self, refund: &RefundSaga, now: Timestamp) -> Result<Option<Status>, Fault> {
        let saga = &refund.payment;
        let ended = self.ended(saga, Status::Refunding, Status::Refunded, "refunded_at", now);
        let body = EventBody::PaymentRefunded(PaymentRefunded {
            payment_id: saga.payment_id.clone(),
            user_id: saga.user_id.clone(),
            reservation_id: saga.reservation_id.clone(),
            schedule_id: saga.schedule_id.clone(),
            concert_id: saga.concert_id.clone(),
            seats: saga.seats.clone(),
            amount: saga.amount,
        });
        let event = outbox::event(SOURCE, saga.payment_id.as_str(), &refund.refund_correlation_id, body, now)?;
        self.settle(saga, ended, &event).await
    }

    async fn cancel_refund(&self, refund: &RefundSaga, reason: &str, now: Timestamp) -> Result<Option<Status>, Fault> {
        let saga = &refund.payment;
        let ended = self
            .ended(saga, Status::Refunding, Status::Completed, "refund_failed_at", now)
            // A late step must not end a refund that was requested after this one.
            .condition_expression("#status = :from AND refund_requested_at = :requested")
            .expression_attribute_values(":requested", at(refund.refund_requested_at));
        let body = EventBody::PaymentRefundFailed(PaymentRefundFailed {
            payment_id: saga.payment_id.clone(),
            user_id: saga.user_id.clone(),
            reservation_id: saga.reservation_id.clone(),
            reason: reason.to_owned(),
        });
        // A refund of a payment can fail more than once.
        let id = format!("{}.{}.{}", saga.payment_id, refund.refund_requested_at.millis(), body.event_type());
        let subject = saga.payment_id.as_str();
        let event = outbox::event_with_id(id, SOURCE, subject, &refund.refund_correlation_id, body, now)?;
        self.settle(saga, ended, &event).await
    }
}

/// What a shard of the index has that is open since before a moment.
fn pending(table: &Table, shard: AttributeValue, before: Timestamp) -> QueryFluentBuilder {
    table
        .client
        .query()
        .table_name(&table.name)
        .index_name(PENDING_INDEX)
        .key_condition_expression("pending_shard = :shard AND pending_since < :before")
        .expression_attribute_values(":shard", shard)
        .expression_attribute_values(":before", at(before))
        .limit(STUCK_ROWS)
}

impl FindStuck for Payments {
    async fn stuck(&self, shard: u64, now: Timestamp, after: Option<Cursor>) -> Result<Part<Payment>, Fault> {
        let before = now.plus_millis(-PENDING_TOO_LONG_MILLIS);
        page(STUCK, pending(&self.table, s(shard), before), after, payment_of).await
    }

    async fn looked_at(&self, before: &Payment, after: &Payment, now: Timestamp) -> Result<bool, Fault> {
        let counted = after.recoveries > before.recoveries;
        let wait = wait_after_recovery(if counted { before.recoveries } else { 0 });
        let mut sets = "SET recoveries = :after, pending_since = :look".to_owned();
        let mut update = self.update(&before.saga);
        let mut alert = None;
        if after.needs_alert(now) {
            sets.push_str(", told_at = :now");
            update = update.expression_attribute_values(":now", at(now));
            alert = Some(outbox::row(&self.table, &stuck(after, now)?, before.saga.payment_id.as_str())?);
        }
        let update = update
            .update_expression(sets)
            .condition_expression("#status = :open AND recoveries = :before")
            .expression_attribute_values(":open", s(before.status.as_str()))
            .expression_attribute_values(":before", n(before.recoveries))
            .expression_attribute_values(":after", n(after.recoveries))
            // `pending_since` in the future postpones the next check.
            .expression_attribute_values(":look", at(now.plus_millis(wait - PENDING_TOO_LONG_MILLIS)));
        let mut transaction = self.table.transaction("counting a recovery");
        transaction.add(update)?;
        if let Some(alert) = alert {
            transaction.add(alert)?;
        }
        Ok(transaction.commit().await?.is_ok())
    }
}

/// The event that a payment or its refund does not end, once. All of them are one fault, and one page.
fn stuck(payment: &Payment, now: Timestamp) -> Result<Event, Fault> {
    let sign = format!("payment-stuck:{}", payment.saga_name());
    let (asked_at, correlation_id) = payment.asked();
    let body = EventBody::FaultDetected(FaultDetected {
        fault: "payments-stuck".to_owned(),
        summary: "A payment or its refund does not come to an end".to_owned(),
        detail: format!(
            "payment {} of {}: {} since {}, {} recoveries; the execution is {}",
            payment.saga.payment_id,
            payment.saga.user_id,
            payment.status.as_str(),
            asked_at.rfc3339(),
            payment.recoveries,
            payment.execution_name()
        ),
    });
    outbox::event(SOURCE, &sign, correlation_id, body, now)
}

/// Reads a payment item.
pub fn payment_of(item: &Item) -> Result<Payment, Fault> {
    let wrong = |what: &'static str| Fault::broken("reading a payment", what);
    let status = match item.text("status")? {
        "pending" => Status::Pending,
        "completed" => Status::Completed,
        "refunding" => Status::Refunding,
        "refunded" => Status::Refunded,
        "failed" => Status::Failed(PaymentFailure::from_reason(item.text("failure")?)),
        _ => return Err(wrong("status")),
    };
    let refund = match item.get("refund_requested_at") {
        None => None,
        Some(_) => Some(Refund {
            requested_at: item.moment("refund_requested_at")?,
            correlation_id: item.text("refund_correlation_id")?.to_owned(),
        }),
    };
    Ok(Payment {
        saga: item.document("saga")?,
        status,
        refund,
        recoveries: u32::try_from(item.uint("recoveries")?).map_err(|_| wrong("recoveries"))?,
        alerted: item.contains_key("told_at"),
    })
}
