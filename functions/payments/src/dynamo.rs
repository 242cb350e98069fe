//! The payments table: keys, items and every condition expression.
//!
//! | item | pk | sk | attributes |
//! | --- | --- | --- | --- |
//! | payment | `USER#<user>` | `PAY#<payment>` | `kind` = `payment`, `status`, `failure`, `saga` (JSON of the saga's input), `amount`, `reservation_id`, `created_at`, `recoveries`, and while pending `pending_shard` and `pending_since` (index `pending`) |
//! | remembered answer | `USER#<user>` | `IDEM#<key>` | see [`kit::idempotency`] |
//! | outbox row | `OUTBOX#<event>` | `OUTBOX` | see [`kit::outbox`] |

use crate::domain::{PENDING_TOO_LONG_MILLIS, Payment, Status, wait_after_recovery};
use crate::ports::{FindPayment, FindStuck, OpenPayment, Opened, SettlePayment};
use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update};
use contracts::events::{EventBody, PaymentCompleted, PaymentFailed};
use contracts::saga::{PaymentFailure, PaymentSaga};
use contracts::{PaymentId, Timestamp, UserId};
use kit::Fault;
use kit::dynamo::{Item, PK, Read, SK, Table, TransactError, at, built, classify, n, s};
use kit::idempotency::{self, IdempotencyKey, StoredAnswer};
use kit::outbox;

/// The index of pending payments by the moment the recovery should look at them.
pub const PENDING_INDEX: &str = "pending";
/// Over how many partitions of that index payments spread.
const PENDING_SHARDS: u64 = 4;
/// How many stuck payments of a shard one run of the recovery takes.
const STUCK_PAGE: i32 = 50;
/// Who speaks in our events.
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

    /// pending -> `status` with an event, both or neither; the status found when it was not pending.
    async fn settle(
        &self,
        saga: &PaymentSaga,
        status: Status,
        body: EventBody,
        now: Timestamp,
    ) -> Result<Option<Status>, Fault> {
        let mut settled = Update::builder()
            .table_name(&self.table.name)
            .key(PK, user_pk(&saga.user_id))
            .key(SK, payment_sk(&saga.payment_id))
            .condition_expression("#status = :pending")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":pending", s(Status::Pending.as_str()))
            .expression_attribute_values(":status", s(status.as_str()))
            .expression_attribute_values(":now", at(now))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        settled = match status {
            Status::Failed(failure) => settled
                .update_expression(
                    "SET #status = :status, settled_at = :now, failure = :failure REMOVE pending_shard, pending_since",
                )
                .expression_attribute_values(":failure", s(failure.as_str())),
            _ => settled
                .update_expression("SET #status = :status, settled_at = :now REMOVE pending_shard, pending_since"),
        };
        let id = saga.payment_id.as_str();
        let event = outbox::event(SOURCE, id, &saga.correlation_id, body, now)?;
        let writes = vec![
            TransactWriteItem::builder().update(built(settled.build())?).build(),
            outbox::row(&self.table, &event, id)?,
        ];
        match self.table.transact("settling a payment", writes).await {
            Ok(()) => Ok(None),
            Err(TransactError::Fault(fault)) => Err(fault),
            Err(TransactError::Conditions(failed)) => {
                let found =
                    failed.found(0).ok_or_else(|| Fault::broken("settling a payment", "there is no such payment"))?;
                Ok(Some(payment_of(found)?.status))
            }
        }
    }
}

impl OpenPayment for Payments {
    async fn open(
        &self,
        payment: &Payment,
        key: &IdempotencyKey,
        answer: &StoredAnswer,
        now: Timestamp,
    ) -> Result<Opened, Fault> {
        let saga = &payment.saga;
        let put = Put::builder()
            .table_name(&self.table.name)
            .item(PK, user_pk(&saga.user_id))
            .item(SK, payment_sk(&saga.payment_id))
            .item("kind", s("payment"))
            .item("payment_id", s(&saga.payment_id))
            .item("user_id", s(&saga.user_id))
            .item("reservation_id", s(&saga.reservation_id))
            .item("amount", n(saga.amount.get()))
            .item("status", s(payment.status.as_str()))
            .item("saga", kit::dynamo::json("recording a payment", saga)?)
            .item("created_at", at(now))
            .item("recoveries", n(payment.recoveries))
            .item("pending_shard", s(pending_shard(&saga.payment_id)))
            .item("pending_since", at(now))
            .condition_expression("attribute_not_exists(pk)")
            .build();
        let writes = vec![
            TransactWriteItem::builder().put(built(put)?).build(),
            idempotency::remember(&self.table, &saga.user_id, key, answer, now)?,
        ];
        match self.table.transact("recording a payment", writes).await {
            Ok(()) => Ok(Opened::Now),
            Err(TransactError::Fault(fault)) => Err(fault),
            Err(TransactError::Conditions(failed)) => match failed.found(1) {
                Some(row) => opened_before(row, key),
                // The id was minted for this very call: a try whose answer was lost has written it.
                None => Ok(Opened::Now),
            },
        }
    }

    async fn recall(&self, user: &UserId, key: &IdempotencyKey, now: Timestamp) -> Result<Option<Opened>, Fault> {
        match self.table.read("reading a payment", user_pk(user), s(idempotency::sort_key(key))).await? {
            Some(row) if row.moment("forgotten_at")? > now => opened_before(&row, key).map(Some),
            _ => Ok(None),
        }
    }
}

fn opened_before(row: &Item, key: &IdempotencyKey) -> Result<Opened, Fault> {
    Ok(idempotency::recall(row, key)?.map_or(Opened::KeyReused, Opened::Before))
}

/// The shard of a payment in the index, from its id, so that a rewrite keeps it.
fn pending_shard(id: &PaymentId) -> u64 {
    id.as_str().bytes().map(u64::from).sum::<u64>() % PENDING_SHARDS
}

impl FindPayment for Payments {
    async fn find(&self, user: &UserId, id: &PaymentId) -> Result<Option<Payment>, Fault> {
        self.table.read("reading a payment", user_pk(user), payment_sk(id)).await?.as_ref().map(payment_of).transpose()
    }
}

impl SettlePayment for Payments {
    async fn complete(&self, saga: &PaymentSaga, now: Timestamp) -> Result<Option<Status>, Fault> {
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
        self.settle(saga, Status::Completed, body, now).await
    }

    async fn fail(&self, saga: &PaymentSaga, failure: PaymentFailure, now: Timestamp) -> Result<Option<Status>, Fault> {
        let body = EventBody::PaymentFailed(PaymentFailed {
            payment_id: saga.payment_id.clone(),
            user_id: saga.user_id.clone(),
            reservation_id: saga.reservation_id.clone(),
            failure,
        });
        self.settle(saga, Status::Failed(failure), body, now).await
    }
}

impl FindStuck for Payments {
    async fn stuck(&self, now: Timestamp) -> Result<Vec<Payment>, Fault> {
        let mut found = Vec::new();
        for shard in 0..PENDING_SHARDS {
            let got = self
                .table
                .client
                .query()
                .table_name(&self.table.name)
                .index_name(PENDING_INDEX)
                .key_condition_expression("pending_shard = :shard AND pending_since < :before")
                .expression_attribute_values(":shard", s(shard))
                .expression_attribute_values(":before", at(now.plus_millis(-PENDING_TOO_LONG_MILLIS)))
                .limit(STUCK_PAGE)
                .send()
                .await
                .map_err(|error| classify("finding stuck payments", error))?;
            for item in got.items.unwrap_or_default() {
                match payment_of(&item) {
                    Ok(payment) => found.push(payment),
                    // One row that cannot be read must not keep the others from their end.
                    Err(fault) => tracing::error!(error = fault.chain(), "a payment cannot be read"),
                }
            }
        }
        Ok(found)
    }

    async fn count_recovery(&self, payment: &Payment, now: Timestamp) -> Result<bool, Fault> {
        // `pending_since` in the future is how the index waits.
        let next_look = now.plus_millis(wait_after_recovery(payment.recoveries) - PENDING_TOO_LONG_MILLIS);
        let counted = self
            .table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(PK, user_pk(&payment.saga.user_id))
            .key(SK, payment_sk(&payment.saga.payment_id))
            .update_expression("SET recoveries = :next, pending_since = :look")
            .condition_expression("#status = :pending AND recoveries = :now_counted")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":pending", s(Status::Pending.as_str()))
            .expression_attribute_values(":now_counted", n(payment.recoveries))
            .expression_attribute_values(":next", n(payment.recoveries + 1))
            .expression_attribute_values(":look", at(next_look))
            .send()
            .await;
        match counted {
            Ok(_) => Ok(true),
            Err(error) => match error.as_service_error() {
                Some(failed) if failed.is_conditional_check_failed_exception() => Ok(false),
                _ => Err(classify("counting a recovery", error)),
            },
        }
    }
}

/// Reads a payment item.
pub fn payment_of(item: &Item) -> Result<Payment, Fault> {
    let wrong = |what: &'static str| Fault::broken("reading a payment", what);
    let status = match item.text("status")? {
        "pending" => Status::Pending,
        "completed" => Status::Completed,
        "refunded" => Status::Refunded,
        "failed" => Status::Failed(PaymentFailure::from_reason(item.text("failure")?)),
        _ => return Err(wrong("status")),
    };
    Ok(Payment {
        saga: item.document("saga")?,
        status,
        recoveries: u32::try_from(item.uint("recoveries")?).map_err(|_| wrong("recoveries"))?,
    })
}
