//! Withdrawals in the payments table: keys, items and every condition expression.
//!
//! | item | pk | sk | attributes |
//! | --- | --- | --- | --- |
//! | withdrawal | `USER#<user>` | `WITHDRAWAL#<id>` | `kind` = `withdrawal`, `status`, `withdrawal_id`, `user_id`, `amount`, `requested_at`, `correlation_id`, `attempts`; where a charge's payment is cancelled in part `order_id`, `charge_id`, `charged`, `payment_key`; `reason` (once returning), `paid_by` and `paid_as` (once an operator paid), `settled_at`; while open `pending_shard` = `withdrawal-<n>`, or `payout` where an operator has to pay, and `pending_since` (index `pending`) |
//! | charge | `USER#<user>` | `CHARGE#<key>` | see [`super::charges`]; here `withdrawn`: how much of it was taken out, or is being |
//! | count of a day | `USER#<user>` | `WITHDRAWALS#<day>` | `asked` (how many withdrawals), `ttl` |
//! | owner of a payout | `PAYOUT#<id>` | `OWNER` | `user_id`, `withdrawal_id`: whose an operator's payout is |

use super::{STUCK, pending};
use crate::domain::charges::ChargeState;
use crate::domain::wait_after_recovery;
use crate::domain::withdrawals::{
    ChargeRoom, DAY_MILLIS, IN_PROGRESS_MILLIS, MAX_A_DAY, Payout, Source, WITHDRAWAL_SHARDS, WITHDRAWAL_STUCK_MILLIS,
    Withdrawal, WithdrawalState,
};
use crate::dynamo::charges::{charge_of, charge_sk};
use crate::ports::withdrawals::{
    FindOpenWithdrawals, FindPayouts, FindWithdrawal, MoveWithdrawal, RecordWithdrawal, RecordedWithdrawal,
};
use aws_sdk_dynamodb::types::builders::{PutBuilder, UpdateBuilder};
use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update};
use contracts::events::{EventBody, FaultDetected, WithdrawalCompleted, WithdrawalReturned};
use contracts::{PaymentId, Timestamp, UserId, Won};
use kit::Fault;
use kit::dynamo::{Item, PK, Read, SK, TTL, Table, at, n, s};
use kit::fault::classify;
use kit::idempotency::{self, Memo, Outcome};
use kit::outbox;
use kit::sweep::{Cursor, Part, page};

/// The `source` of this context's events.
const SOURCE: &str = "encore/payments";
/// Where a withdrawal stands in the index while an operator has to pay it.
const PAYOUT: &str = "payout";
/// How many of a user's last charges are looked at.
const CHARGES: i32 = 100;

/// Withdrawals in their table.
#[derive(Debug, Clone)]
pub struct Withdrawals {
    table: Table,
}

fn user_pk(user: &UserId) -> AttributeValue {
    s(format!("USER#{user}"))
}

fn withdrawal_sk(id: &PaymentId) -> AttributeValue {
    s(format!("WITHDRAWAL#{id}"))
}

fn payout_pk(id: &PaymentId) -> AttributeValue {
    s(format!("PAYOUT#{id}"))
}

/// Where a withdrawal stands in the index while it is open.
fn pending_shard(id: &PaymentId) -> AttributeValue {
    s(format!("withdrawal-{}", kit::dynamo::shard_of(id.as_str(), WITHDRAWAL_SHARDS)))
}

impl Withdrawals {
    /// Withdrawals in a table.
    pub fn new(table: Table) -> Self {
        Self { table }
    }

    fn update_of_withdrawal(&self, withdrawal: &Withdrawal) -> UpdateBuilder {
        Update::builder()
            .table_name(&self.table.name)
            .key(PK, user_pk(&withdrawal.user))
            .key(SK, withdrawal_sk(&withdrawal.id))
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":from", s(withdrawal.state.as_str()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    fn update_of_source(&self, user: &UserId, source: &Source) -> UpdateBuilder {
        Update::builder()
            .table_name(&self.table.name)
            .key(PK, user_pk(user))
            .key(SK, charge_sk(&source.order_id))
            .expression_attribute_values(":charge", s(&source.charge_id))
    }

    fn recorded_row(&self, withdrawal: &Withdrawal) -> PutBuilder {
        let row = Put::builder()
            .table_name(&self.table.name)
            .item(PK, user_pk(&withdrawal.user))
            .item(SK, withdrawal_sk(&withdrawal.id))
            .item("kind", s("withdrawal"))
            .item("status", s(withdrawal.state.as_str()))
            .item("withdrawal_id", s(&withdrawal.id))
            .item("user_id", s(&withdrawal.user))
            .item("amount", n(withdrawal.amount.get()))
            .item("requested_at", at(withdrawal.requested_at))
            .item("correlation_id", s(&withdrawal.correlation_id))
            .item("attempts", n(withdrawal.attempts))
            .item("pending_shard", pending_shard(&withdrawal.id))
            .item("pending_since", at(withdrawal.requested_at.plus_millis(IN_PROGRESS_MILLIS)));
        match &withdrawal.source {
            None => row,
            Some(source) => row
                .item("order_id", s(&source.order_id))
                .item("charge_id", s(&source.charge_id))
                .item("charged", n(source.charged.get()))
                .item("payment_key", s(&source.payment_key)),
        }
    }

    /// Takes the amount from what is left of its charge.
    fn source_taken(&self, withdrawal: &Withdrawal, source: &Source) -> UpdateBuilder {
        let room = source.charged.get() - withdrawal.amount.get();
        self.update_of_source(&withdrawal.user, source)
            .update_expression("SET withdrawn = if_not_exists(withdrawn, :zero) + :amount")
            .condition_expression(
                "#status = :credited AND charge_id = :charge AND \
                 (attribute_not_exists(withdrawn) OR withdrawn <= :room)",
            )
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":credited", s("credited"))
            .expression_attribute_values(":zero", n(0))
            .expression_attribute_values(":amount", n(withdrawal.amount.get()))
            .expression_attribute_values(":room", n(room))
    }

    /// Leaves the amount there again.
    fn source_freed(&self, withdrawal: &Withdrawal, source: &Source) -> UpdateBuilder {
        self.update_of_source(&withdrawal.user, source)
            .update_expression("SET withdrawn = withdrawn - :amount")
            .condition_expression("charge_id = :charge AND withdrawn >= :amount")
            .expression_attribute_values(":amount", n(withdrawal.amount.get()))
    }

    /// One more of the day.
    fn counted(&self, withdrawal: &Withdrawal) -> UpdateBuilder {
        let day = withdrawal.requested_at.millis().div_euclid(DAY_MILLIS);
        let forgotten_at = withdrawal.requested_at.plus_millis(2 * DAY_MILLIS);
        Update::builder()
            .table_name(&self.table.name)
            .key(PK, user_pk(&withdrawal.user))
            .key(SK, s(format!("WITHDRAWALS#{day}")))
            .update_expression("SET asked = if_not_exists(asked, :zero) + :one, #ttl = :ttl")
            .condition_expression("attribute_not_exists(asked) OR asked < :most")
            .expression_attribute_names("#ttl", TTL)
            .expression_attribute_values(":zero", n(0))
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":most", n(MAX_A_DAY))
            .expression_attribute_values(":ttl", n(forgotten_at.ttl_seconds()))
    }

    /// Whose it is, for the operator who pays it.
    fn owned(&self, withdrawal: &Withdrawal) -> PutBuilder {
        Put::builder()
            .table_name(&self.table.name)
            .item(PK, payout_pk(&withdrawal.id))
            .item(SK, s("OWNER"))
            .item("user_id", s(&withdrawal.user))
            .item("withdrawal_id", s(&withdrawal.id))
    }

    /// The event of an end that has one.
    fn event_of(
        &self,
        withdrawal: &Withdrawal,
        to: &WithdrawalState,
        now: Timestamp,
    ) -> Result<Option<TransactWriteItem>, Fault> {
        let (withdrawal_id, user_id, amount) = (withdrawal.id.clone(), withdrawal.user.clone(), withdrawal.amount);
        let body = match to {
            WithdrawalState::Paid => {
                EventBody::WithdrawalCompleted(WithdrawalCompleted { withdrawal_id, user_id, amount, actor: None })
            }
            WithdrawalState::PaidOut(payout) => {
                let actor = Some(payout.by.clone());
                EventBody::WithdrawalCompleted(WithdrawalCompleted { withdrawal_id, user_id, amount, actor })
            }
            WithdrawalState::Returned(reason) => {
                let reason = reason.clone();
                EventBody::WithdrawalReturned(WithdrawalReturned { withdrawal_id, user_id, amount, reason })
            }
            _ => return Ok(None),
        };
        let id = withdrawal.id.as_str();
        let event = outbox::event(SOURCE, id, &withdrawal.correlation_id, body, now)?;
        outbox::row(&self.table, &event, id).map(Some)
    }

    /// The event that a withdrawal does not end, once an hour. All such withdrawals are one fault.
    fn stuck_event(&self, withdrawal: &Withdrawal, now: Timestamp) -> Result<TransactWriteItem, Fault> {
        let sign = format!("withdrawal-stuck:{}", withdrawal.id);
        let body = EventBody::FaultDetected(FaultDetected {
            fault: "withdrawals-stuck".to_owned(),
            summary: "A withdrawal of points has been open for more than an hour".to_owned(),
            detail: format!(
                "withdrawal {} of {}: {} since {}, {} attempts; the provider's payment is {}",
                withdrawal.id,
                withdrawal.user,
                withdrawal.state.as_str(),
                withdrawal.requested_at.rfc3339(),
                withdrawal.attempts,
                withdrawal.source.as_ref().map_or("none", |source| &source.payment_key)
            ),
        });
        let id = format!("{sign}.{}.{}", now.millis() / WITHDRAWAL_STUCK_MILLIS, body.event_type());
        let event = outbox::event_with_id(id, SOURCE, &sign, &withdrawal.correlation_id, body, now)?;
        outbox::row(&self.table, &event, withdrawal.id.as_str())
    }
}

impl RecordWithdrawal for Withdrawals {
    async fn last_charges(&self, user: &UserId) -> Result<Vec<ChargeRoom>, Fault> {
        const DOING: &str = "reading charges";
        let got = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .key_condition_expression("pk = :user AND begins_with(sk, :charge)")
            .expression_attribute_values(":user", user_pk(user))
            .expression_attribute_values(":charge", charge_sk(""))
            .scan_index_forward(false)
            .consistent_read(true)
            .limit(CHARGES)
            .send()
            .await
            .map_err(|error| classify(DOING, error))?;
        let mut charges = Vec::new();
        for item in got.items() {
            let withdrawn =
                Won::new(item.maybe_int("withdrawn")?.unwrap_or(0)).map_err(|error| Fault::broken(DOING, error))?;
            charges.push(ChargeRoom { charge: charge_of(item)?, withdrawn });
        }
        charges.retain(|found| matches!(found.charge.state, ChargeState::Credited(_)));
        Ok(charges)
    }

    async fn record_withdrawal(
        &self,
        withdrawal: &Withdrawal,
        memo: &Memo,
        now: Timestamp,
    ) -> Result<RecordedWithdrawal, Fault> {
        const DOING: &str = "recording a withdrawal";
        let mut transaction = self.table.transaction(DOING);
        let remembered = transaction.add_identity(idempotency::remember(&self.table, memo, now))?;
        let row = self.recorded_row(withdrawal).condition_expression("attribute_not_exists(pk)");
        transaction.add(row)?;
        let counted = transaction.add(self.counted(withdrawal))?;
        match &withdrawal.source {
            None => transaction.add(self.owned(withdrawal))?,
            Some(source) => transaction.add(self.source_taken(withdrawal, source))?,
        };
        let Err(cancelled) = transaction.commit().await? else { return Ok(RecordedWithdrawal::Now) };
        if let Some(row) = cancelled.found(remembered) {
            return match idempotency::recall(row, &memo.key)? {
                Outcome::Replay(first) => match first.about.map(PaymentId::parse) {
                    Some(Ok(id)) => Ok(RecordedWithdrawal::Before(id)),
                    _ => Err(Fault::broken(DOING, "a remembered answer names no withdrawal")),
                },
                Outcome::Mismatch => Ok(RecordedWithdrawal::KeyReused),
                Outcome::First => Err(Fault::contended(DOING)),
            };
        }
        Ok(if cancelled.failed(counted) { RecordedWithdrawal::TooMany } else { RecordedWithdrawal::NoRoom })
    }
}

impl FindWithdrawal for Withdrawals {
    async fn find_withdrawal(&self, user: &UserId, id: &PaymentId) -> Result<Option<Withdrawal>, Fault> {
        let found = self.table.read("reading a withdrawal", user_pk(user), withdrawal_sk(id)).await?;
        found.as_ref().map(withdrawal_of).transpose()
    }
}

impl MoveWithdrawal for Withdrawals {
    async fn move_withdrawal(
        &self,
        withdrawal: &Withdrawal,
        to: &WithdrawalState,
        now: Timestamp,
    ) -> Result<Option<Box<Withdrawal>>, Fault> {
        const DOING: &str = "moving a withdrawal on";
        let after = Withdrawal { state: to.clone(), ..withdrawal.clone() };
        let mut sets = "SET #status = :to".to_owned();
        let mut update = self.update_of_withdrawal(withdrawal).expression_attribute_values(":now", at(now));
        match to {
            WithdrawalState::Returning(reason) | WithdrawalState::Returned(reason) => {
                sets.push_str(", reason = :reason");
                update = update.expression_attribute_values(":reason", s(reason));
            }
            WithdrawalState::PaidOut(payout) => {
                sets.push_str(", paid_by = :by, paid_as = :reference");
                update = update
                    .expression_attribute_values(":by", s(&payout.by))
                    .expression_attribute_values(":reference", s(&payout.reference));
            }
            _ => {}
        }
        if after.awaits_payout() {
            sets.push_str(", pending_shard = :shard, pending_since = :now");
            update = update.expression_attribute_values(":shard", s(PAYOUT));
        } else if after.next_step().is_some() {
            sets.push_str(", pending_since = :now");
        } else {
            sets.push_str(", settled_at = :now REMOVE pending_shard, pending_since");
        }
        let update = update
            .update_expression(sets)
            .condition_expression("#status = :from")
            .expression_attribute_values(":to", s(to.as_str()));
        let mut transaction = self.table.transaction(DOING);
        let row = transaction.add_identity(update)?;
        if let Some(source) = withdrawal.source.as_ref().filter(|_| to.frees_source()) {
            transaction.add(self.source_freed(withdrawal, source))?;
        }
        if let Some(event) = self.event_of(withdrawal, to, now)? {
            transaction.add(event)?;
        }
        let Err(cancelled) = transaction.commit().await? else { return Ok(None) };
        let found = cancelled.found(row).filter(|_| cancelled.failed(row));
        let found = found.ok_or_else(|| Fault::broken(DOING, "it, or its charge, is not as it must be"))?;
        Ok(Some(Box::new(withdrawal_of(found)?)))
    }
}

impl FindOpenWithdrawals for Withdrawals {
    async fn open_withdrawals(
        &self,
        shard: u64,
        now: Timestamp,
        after: Option<Cursor>,
    ) -> Result<Part<Withdrawal>, Fault> {
        page(STUCK, pending(&self.table, s(format!("withdrawal-{shard}")), now), after, withdrawal_of).await
    }

    async fn count_attempt(&self, withdrawal: &Withdrawal, now: Timestamp) -> Result<bool, Fault> {
        // `pending_since` in the future postpones the next check.
        let look = now.plus_millis(wait_after_recovery(withdrawal.attempts));
        let mut transaction = self.table.transaction("counting an attempt of a withdrawal");
        transaction.add(
            self.update_of_withdrawal(withdrawal)
                .update_expression("SET attempts = :next, pending_since = :look")
                .condition_expression("#status = :from AND attempts = :counted")
                .expression_attribute_values(":counted", n(withdrawal.attempts))
                .expression_attribute_values(":next", n(withdrawal.attempts.saturating_add(1)))
                .expression_attribute_values(":look", at(look)),
        )?;
        if now.millis_since(withdrawal.requested_at) > WITHDRAWAL_STUCK_MILLIS {
            transaction.add(self.stuck_event(withdrawal, now)?)?;
        }
        Ok(transaction.commit().await?.is_ok())
    }
}

impl FindPayouts for Withdrawals {
    async fn payouts(&self, limit: u32) -> Result<Vec<Withdrawal>, Fault> {
        const DOING: &str = "listing withdrawals to pay out";
        let got = pending(&self.table, s(PAYOUT), Timestamp::MAX)
            .limit(i32::try_from(limit).unwrap_or(i32::MAX))
            .send()
            .await
            .map_err(|error| classify(DOING, error))?;
        Ok(kit::dynamo::readable(got.items, DOING, withdrawal_of).collect())
    }

    async fn owner(&self, id: &PaymentId) -> Result<Option<UserId>, Fault> {
        let found = self.table.read("finding whose a withdrawal is", payout_pk(id), s("OWNER")).await?;
        found.map(|item| item.parsed("user_id")).transpose()
    }
}

/// Reads a withdrawal item.
fn withdrawal_of(item: &Item) -> Result<Withdrawal, Fault> {
    let wrong = |what: &'static str| Fault::broken("reading a withdrawal", what);
    let reason = || item.text("reason").map(str::to_owned);
    let state = match item.text("status")? {
        "requested" => WithdrawalState::Requested,
        "debited" => WithdrawalState::Debited,
        "paid" => WithdrawalState::Paid,
        "paid_out" => WithdrawalState::PaidOut(Payout {
            by: item.parsed("paid_by")?,
            reference: item.text("paid_as")?.to_owned(),
        }),
        "returning" => WithdrawalState::Returning(reason()?),
        "returned" => WithdrawalState::Returned(reason()?),
        "refused" => WithdrawalState::Refused,
        _ => return Err(wrong("status")),
    };
    let source = match item.contains_key("charge_id") {
        false => None,
        true => Some(Source {
            order_id: item.text("order_id")?.to_owned(),
            charge_id: item.parsed("charge_id")?,
            charged: Won::new(item.int("charged")?).map_err(|_| wrong("charged"))?,
            payment_key: item.text("payment_key")?.to_owned(),
        }),
    };
    Ok(Withdrawal {
        id: item.parsed("withdrawal_id")?,
        user: item.parsed("user_id")?,
        amount: Won::new(item.int("amount")?).map_err(|_| wrong("amount"))?,
        source,
        requested_at: item.moment("requested_at")?,
        correlation_id: item.text("correlation_id")?.to_owned(),
        state,
        attempts: u32::try_from(item.uint("attempts")?).map_err(|_| wrong("attempts"))?,
    })
}
