//! Charges in the payments table: keys, items and every condition expression.
//!
//! | item | pk | sk | attributes |
//! | --- | --- | --- | --- |
//! | charge | `USER#<user>` | `CHARGE#<key>` | `kind` = `charge`, `status`, `charge_id`, `user_id`, `key`, `amount`, `payment_key`, `requested_at`, `correlation_id`, `recoveries`, `reason` (once refused or cancelling), `balance` and `entry_id` (once credited), `settled_at`, `withdrawn` (see [`super::withdrawals`]), and while open `pending_shard` = `charge-<n>` and `pending_since` (index `pending`) |
//! | charge intent | `USER#<user>` | `CHARGE-INTENT` | `order_id`, `amount`, `expires_at`, `charge_id` (of its last charge), `attempts` (charges begun under it and those before it, until `counted_until`), `ttl` |
//! | claim | `PROVIDER#<payment key>` | `CLAIM` | `charge_id`, `user_id`, `key`; read by the release before alone, should this one be taken back |
//!
//! A charge is never deleted, and replaced only while it is refused: the order id, which is ours and one intent's, is what
//! a provider's payment pays for.

use super::{STUCK, pending};
use crate::domain::charges::{
    CHARGE_OPEN_TOO_LONG_MILLIS, CHARGE_SHARDS, CHARGE_STUCK_MILLIS, Charge, ChargeState, INTENT_REUSED_MILLIS, Intent,
    MAX_ATTEMPTS,
};
use crate::domain::wait_after_recovery;
use crate::ports::charges::{
    FindIntent, FindStuckCharges, FoundIntent, MoveCharge, OpenIntent, OpenedIntent, RecordCharge, RecordedCharge,
};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::builders::{PutBuilder, UpdateBuilder};
use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update};
use contracts::events::{ChargeEvent, Event, EventBody, FaultDetected};
use contracts::steps::CreditedCharge;
use contracts::{Timestamp, UserId, Won};
use kit::Fault;
use kit::dynamo::{Item, PK, Read, SK, TTL, Table, at, n, s};
use kit::fault::{classify, is_condition_failed};
use kit::outbox;
use kit::sweep::{Cursor, Part, page};

/// How long an intent's item is kept after the intent expired, in seconds: a day.
const INTENT_KEPT_SECONDS: i64 = 24 * 3600;
const INTENT: &str = "CHARGE-INTENT";
/// The `source` of this context's events.
const SOURCE: &str = "encore/payments";

/// Charges in their table.
#[derive(Debug, Clone)]
pub struct Charges {
    table: Table,
}

pub(super) fn charge_sk(key: &str) -> AttributeValue {
    s(format!("CHARGE#{key}"))
}

fn user_pk(user: &UserId) -> AttributeValue {
    s(format!("USER#{user}"))
}

/// Where a charge stands in the index while it is open.
fn pending_shard(charge: &Charge) -> AttributeValue {
    s(format!("charge-{}", kit::dynamo::shard_of(charge.id.as_str(), CHARGE_SHARDS)))
}

impl Charges {
    /// Charges in a table.
    pub fn new(table: Table) -> Self {
        Self { table }
    }

    fn event_of(&self, charge: &Charge, body: EventBody, now: Timestamp) -> Result<TransactWriteItem, Fault> {
        let id = charge.id.as_str();
        let event = outbox::event(SOURCE, id, &charge.correlation_id, body, now)?;
        outbox::row(&self.table, &event, id)
    }

    /// The event that a charge does not end, once an hour. All such charges are one fault: when the provider is down,
    /// that is one page.
    fn stuck_event(&self, charge: &Charge, now: Timestamp) -> Result<TransactWriteItem, Fault> {
        let sign = format!("charge-stuck:{}", charge.id);
        let body = EventBody::FaultDetected(FaultDetected {
            fault: "charges-stuck".to_owned(),
            summary: "A charge has been open for more than an hour".to_owned(),
            detail: format!(
                "charge {} of {}: {} since {}, {} recoveries; the provider's payment is {}",
                charge.id,
                charge.user,
                charge.state.as_str(),
                charge.requested_at.rfc3339(),
                charge.recoveries,
                charge.payment_key
            ),
        });
        let id = format!("{sign}.{}.{}", now.millis() / CHARGE_STUCK_MILLIS, body.event_type());
        let event: Event = outbox::event_with_id(id, SOURCE, &sign, &charge.correlation_id, body, now)?;
        outbox::row(&self.table, &event, charge.id.as_str())
    }
}

impl RecordCharge for Charges {
    async fn record_charge(&self, charge: &Charge) -> Result<RecordedCharge, Fault> {
        let row = Put::builder()
            .table_name(&self.table.name)
            .item(PK, user_pk(&charge.user))
            .item(SK, charge_sk(&charge.key))
            .item("kind", s("charge"))
            .item("status", s(charge.state.as_str()))
            .item("charge_id", s(&charge.id))
            .item("user_id", s(&charge.user))
            .item("key", s(&charge.key))
            .item("amount", n(charge.amount.get()))
            .item("payment_key", s(&charge.payment_key))
            .item("requested_at", at(charge.requested_at))
            .item("correlation_id", s(&charge.correlation_id))
            .item("recoveries", n(charge.recoveries))
            .item("pending_shard", pending_shard(charge))
            .item("pending_since", at(charge.requested_at))
            .condition_expression("attribute_not_exists(pk) OR #status = :refused")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":refused", s("refused"))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let mut transaction = self.table.transaction("recording a charge");
        // Once it is recorded, it goes on without its intent.
        let row = transaction.add_identity(row)?;
        transaction.add(self.intent_charged(charge))?;
        transaction.add(self.claimed(charge))?;
        let Err(cancelled) = transaction.commit().await? else { return Ok(RecordedCharge::Now) };
        match cancelled.found(row) {
            Some(row) => Ok(RecordedCharge::Before(Box::new(charge_of(row)?))),
            None => Ok(RecordedCharge::NoIntent),
        }
    }
}

impl Charges {
    /// The write of a claim, by which the release before knows that a payment is used. This one needs none.
    fn claimed(&self, charge: &Charge) -> PutBuilder {
        Put::builder()
            .table_name(&self.table.name)
            .item(PK, s(format!("PROVIDER#{}", charge.payment_key)))
            .item(SK, s("CLAIM"))
            .item("charge_id", s(&charge.id))
            .item("user_id", s(&charge.user))
            .item("key", s(&charge.key))
    }

    /// The write that begins a charge under its user's intent.
    fn intent_charged(&self, charge: &Charge) -> UpdateBuilder {
        Update::builder()
            .table_name(&self.table.name)
            .key(PK, user_pk(&charge.user))
            .key(SK, s(INTENT))
            .update_expression("SET charge_id = :id ADD attempts :one")
            .condition_expression(
                "order_id = :key AND amount = :amount AND expires_at > :now AND \
                 (attribute_not_exists(attempts) OR attempts < :most)",
            )
            .expression_attribute_values(":id", s(&charge.id))
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":key", s(&charge.key))
            .expression_attribute_values(":amount", n(charge.amount.get()))
            .expression_attribute_values(":now", at(charge.requested_at))
            .expression_attribute_values(":most", n(MAX_ATTEMPTS))
    }
}

impl OpenIntent for Charges {
    async fn open_intent(&self, intent: &Intent, now: Timestamp) -> Result<OpenedIntent, Fault> {
        const DOING: &str = "opening a charge intent";
        let Some(found) = self.replace_intent(intent, None, now).await? else { return Ok(OpenedIntent::Now) };
        // The release before counted under each intent and knew no such time.
        let counted_until = Timestamp::from_millis(found.maybe_int("counted_until")?.unwrap_or(0));
        let before = intent_of(&found, &intent.user)?;
        if counted_until >= now {
            return Ok(match found.uint("attempts")? < u64::from(MAX_ATTEMPTS) {
                true => OpenedIntent::Before(before),
                false => OpenedIntent::TooMany { until: counted_until },
            });
        }
        let is_good = before.amount == intent.amount
            && before.expires_at >= now.plus_millis(INTENT_REUSED_MILLIS)
            && !found.contains_key("charge_id");
        if is_good {
            let counted = self.count_anew(&intent.user, counted_until, intent.expires_at).await?;
            return if counted { Ok(OpenedIntent::Before(before)) } else { Err(Fault::contended(DOING)) };
        }
        match self.replace_intent(intent, Some(counted_until), now).await? {
            None => Ok(OpenedIntent::Now),
            Some(_) => Err(Fault::contended(DOING)),
        }
    }
}

impl Charges {
    /// Writes an intent, unless the one there is still good, too many charges were begun under it and those before it, or
    /// the time is over that they are counted for: then returns it. `counted_until` is the end of a time that is over; the
    /// count begins anew.
    async fn replace_intent(
        &self,
        intent: &Intent,
        counted_until: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Option<Item>, Fault> {
        const DOING: &str = "opening a charge intent";
        let replaced = self
            .table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(PK, user_pk(&intent.user))
            .key(SK, s(INTENT))
            .expression_attribute_names("#ttl", TTL)
            .expression_attribute_values(":order", s(&intent.order_id))
            .expression_attribute_values(":amount", n(intent.amount.get()))
            .expression_attribute_values(":expires", at(intent.expires_at))
            .expression_attribute_values(":ttl", n(intent.expires_at.plus_seconds(INTENT_KEPT_SECONDS).ttl_seconds()))
            .expression_attribute_values(":zero", n(0))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let replaced = match counted_until {
            None => replaced
                .update_expression(
                    "SET order_id = :order, amount = :amount, expires_at = :expires, #ttl = :ttl, \
                     attempts = if_not_exists(attempts, :zero), \
                     counted_until = if_not_exists(counted_until, :expires) REMOVE charge_id",
                )
                .condition_expression(
                    "attribute_not_exists(pk) OR attempts < :most AND counted_until >= :now AND \
                     (amount <> :amount OR expires_at < :long OR attribute_exists(charge_id))",
                )
                .expression_attribute_values(":now", at(now))
                .expression_attribute_values(":most", n(MAX_ATTEMPTS))
                .expression_attribute_values(":long", at(now.plus_millis(INTENT_REUSED_MILLIS))),
            Some(ended) => replaced
                .update_expression(
                    "SET order_id = :order, amount = :amount, expires_at = :expires, #ttl = :ttl, \
                     attempts = :zero, counted_until = :expires REMOVE charge_id",
                )
                .condition_expression("attribute_not_exists(counted_until) OR counted_until = :ended")
                .expression_attribute_values(":ended", at(ended)),
        };
        let Err(error) = replaced.send().await else { return Ok(None) };
        let Some(UpdateItemError::ConditionalCheckFailedException(failed)) = error.as_service_error() else {
            return Err(classify(DOING, error));
        };
        failed.item().cloned().map(Some).ok_or_else(|| Fault::broken(DOING, "the open intent is missing"))
    }
}

impl Charges {
    /// Begins to count the charges of a user anew who has an intent that is still good. `false` if somebody else has.
    async fn count_anew(&self, user: &UserId, ended: Timestamp, until: Timestamp) -> Result<bool, Fault> {
        let counted = self
            .table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(PK, user_pk(user))
            .key(SK, s(INTENT))
            .update_expression("SET attempts = :zero, counted_until = :until")
            .condition_expression("attribute_not_exists(counted_until) OR counted_until = :ended")
            .expression_attribute_values(":zero", n(0))
            .expression_attribute_values(":until", at(until))
            .expression_attribute_values(":ended", at(ended))
            .send()
            .await;
        match counted {
            Ok(_) => Ok(true),
            Err(error) if is_condition_failed(&error) => Ok(false),
            Err(error) => Err(classify("opening a charge intent", error)),
        }
    }
}

impl FindIntent for Charges {
    async fn last_intent(&self, user: &UserId) -> Result<Option<FoundIntent>, Fault> {
        const DOING: &str = "reading a charge intent";
        let Some(item) = self.table.read(DOING, user_pk(user), s(INTENT)).await? else { return Ok(None) };
        let intent = intent_of(&item, user)?;
        let charged = match item.contains_key("charge_id") {
            true => self.table.read(DOING, user_pk(user), charge_sk(&intent.order_id)).await?,
            false => None,
        };
        let charged = charged.as_ref().map(charge_of).transpose()?.map(|charge| charge.state);
        Ok(Some(FoundIntent { intent, charged }))
    }
}

/// Reads an intent item.
fn intent_of(item: &Item, user: &UserId) -> Result<Intent, Fault> {
    Ok(Intent {
        user: user.clone(),
        order_id: item.text("order_id")?.to_owned(),
        amount: Won::new(item.int("amount")?).map_err(|error| Fault::broken("reading a charge intent", error))?,
        expires_at: item.moment("expires_at")?,
    })
}

impl MoveCharge for Charges {
    async fn move_charge(
        &self,
        charge: &Charge,
        to: &ChargeState,
        now: Timestamp,
    ) -> Result<Option<Box<Charge>>, Fault> {
        const DOING: &str = "moving a charge on";
        let data = ChargeEvent { charge_id: charge.id.clone(), user_id: charge.user.clone(), amount: charge.amount };
        let mut sets = "SET #status = :to".to_owned();
        let mut update = Update::builder();
        let event = match to {
            ChargeState::Pending | ChargeState::Confirmed => None,
            ChargeState::Credited(credited) => {
                sets.push_str(", entry_id = :entry, balance = :balance");
                update = update
                    .expression_attribute_values(":entry", s(&credited.entry_id))
                    .expression_attribute_values(":balance", n(credited.balance.get()));
                Some(EventBody::ChargeCompleted(data))
            }
            ChargeState::Refused(reason) | ChargeState::Cancelling(reason) | ChargeState::Cancelled(reason) => {
                sets.push_str(", reason = :reason");
                update = update.expression_attribute_values(":reason", s(reason));
                matches!(to, ChargeState::Cancelled(_)).then_some(EventBody::ChargeCancelled(data))
            }
        };
        if to.next_step().is_none() {
            sets.push_str(", settled_at = :now REMOVE pending_shard, pending_since");
            update = update.expression_attribute_values(":now", at(now));
        } else if charge.state.next_step().is_none() {
            sets.push_str(", pending_shard = :shard, pending_since = :now");
            update = update
                .expression_attribute_values(":shard", pending_shard(charge))
                .expression_attribute_values(":now", at(now));
        }
        let update = update
            .table_name(&self.table.name)
            .key(PK, user_pk(&charge.user))
            .key(SK, charge_sk(&charge.key))
            .update_expression(sets)
            // One that was refused may have been replaced by another of its key.
            .condition_expression("#status = :from AND charge_id = :id")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":id", s(&charge.id))
            .expression_attribute_values(":from", s(charge.state.as_str()))
            .expression_attribute_values(":to", s(to.as_str()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let mut transaction = self.table.transaction(DOING);
        let row = transaction.add(update)?;
        if let Some(body) = event {
            transaction.add(self.event_of(charge, body, now)?)?;
        }
        let Err(cancelled) = transaction.commit().await? else { return Ok(None) };
        let found = cancelled.found(row).ok_or_else(|| Fault::broken(DOING, "there is no such charge"))?;
        Ok(Some(Box::new(charge_of(found)?)))
    }
}

impl FindStuckCharges for Charges {
    async fn stuck_charges(&self, shard: u64, now: Timestamp, after: Option<Cursor>) -> Result<Part<Charge>, Fault> {
        let before = now.plus_millis(-CHARGE_OPEN_TOO_LONG_MILLIS);
        page(STUCK, pending(&self.table, s(format!("charge-{shard}")), before), after, charge_of).await
    }

    async fn count_charge_recovery(&self, charge: &Charge, now: Timestamp) -> Result<bool, Fault> {
        // `pending_since` in the future postpones the next check.
        let wait = wait_after_recovery(charge.recoveries) - CHARGE_OPEN_TOO_LONG_MILLIS;
        let update = Update::builder()
            .table_name(&self.table.name)
            .key(PK, user_pk(&charge.user))
            .key(SK, charge_sk(&charge.key))
            .update_expression("SET recoveries = :next, pending_since = :look")
            .condition_expression("#status = :from AND charge_id = :id AND recoveries = :counted")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":id", s(&charge.id))
            .expression_attribute_values(":from", s(charge.state.as_str()))
            .expression_attribute_values(":counted", n(charge.recoveries))
            .expression_attribute_values(":next", n(charge.recoveries + 1))
            .expression_attribute_values(":look", at(now.plus_millis(wait)));
        let mut transaction = self.table.transaction("counting a charge's recovery");
        transaction.add(update)?;
        if now.millis_since(charge.requested_at) > CHARGE_STUCK_MILLIS {
            transaction.add(self.stuck_event(charge, now)?)?;
        }
        Ok(transaction.commit().await?.is_ok())
    }
}

/// Reads a charge item.
pub(super) fn charge_of(item: &Item) -> Result<Charge, Fault> {
    let wrong = |what: &'static str| Fault::broken("reading a charge", what);
    let won = |name: &'static str| Won::new(item.int(name)?).map_err(|_| wrong(name));
    let reason = || item.text("reason").map(str::to_owned);
    let state = match item.text("status")? {
        "pending" => ChargeState::Pending,
        "confirmed" => ChargeState::Confirmed,
        "credited" => ChargeState::Credited(CreditedCharge {
            entry_id: item.text("entry_id")?.to_owned(),
            balance: won("balance")?,
        }),
        "refused" => ChargeState::Refused(reason()?),
        "cancelling" => ChargeState::Cancelling(reason()?),
        "cancelled" => ChargeState::Cancelled(reason()?),
        _ => return Err(wrong("status")),
    };
    Ok(Charge {
        id: item.parsed("charge_id")?,
        user: item.parsed("user_id")?,
        key: item.text("key")?.to_owned(),
        amount: won("amount")?,
        payment_key: item.text("payment_key")?.to_owned(),
        requested_at: item.moment("requested_at")?,
        correlation_id: item.text("correlation_id")?.to_owned(),
        state,
        recoveries: u32::try_from(item.uint("recoveries")?).map_err(|_| wrong("recoveries"))?,
    })
}
