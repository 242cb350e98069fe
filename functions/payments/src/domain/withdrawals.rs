//! Points that are taken out again: the pure decisions about them.
//!
//! ```text
//! Requested -> Debited -> Paid
//!     |           |
//!     |           +-> PaidOut                      where no charge can be cancelled: an operator pays
//!     |           +-> Returning -> Returned        the provider refused for good
//!     +-> Refused                                  the balance was too low
//! ```
//!
//! The points leave the account before any money moves, and money moves at most once: the provider cancels a part of one
//! credited charge under one key, or one operator's record ends it. So a withdrawal ends with neither points nor debt, or
//! with the points back.

use crate::domain::charges::{Charge, ChargeState};
use contracts::steps::DebitWithdrawal;
use contracts::{PaymentId, Timestamp, UserId, Won};

/// The number of partitions of the index of open withdrawals.
pub const WITHDRAWAL_SHARDS: u64 = 4;
/// How many withdrawals a user may ask for within a day (UTC). Each is a call of the provider, or an operator's work.
pub const MAX_A_DAY: u32 = 10;
/// How old a charge may be whose payment is cancelled in part, in milliseconds: half a year.
pub const CANCELLABLE_MILLIS: i64 = 180 * DAY_MILLIS;
/// How long after its request the provider may be asked to cancel, in milliseconds. It knows a key for 15 days: asked
/// later, it could cancel twice.
pub const ASKED_WITHIN_MILLIS: i64 = 14 * DAY_MILLIS;
/// How long the first request may be in progress before the schedule goes on with a withdrawal, in milliseconds.
pub const IN_PROGRESS_MILLIS: i64 = 60_000;
/// How long a withdrawal may be open before the on-call is paged, in milliseconds.
pub const WITHDRAWAL_STUCK_MILLIS: i64 = 3_600_000;
/// A day, in milliseconds.
pub const DAY_MILLIS: i64 = 24 * 3_600_000;

/// The state of a withdrawal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WithdrawalState {
    /// Recorded. Whether the points are out is not known.
    Requested,
    /// The points are out; the money is not.
    Debited,
    /// The provider gave the money back.
    Paid,
    /// An operator gave the money back.
    PaidOut(Payout),
    /// The money will never be given back, for this reason; the points return.
    Returning(String),
    /// The points are back; the reason is that of `Returning`.
    Returned(String),
    /// The balance was below the amount.
    Refused,
}

/// What an operator recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payout {
    /// The operator.
    pub by: UserId,
    /// What the transfer is called where it was made.
    pub reference: String,
}

/// The next step of a withdrawal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithdrawalStep {
    /// Have points take the amount.
    Debit,
    /// Have the provider cancel a part of this charge's payment.
    Cancel,
    /// Have points give the amount back.
    Return,
}

/// The charge whose payment is cancelled in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its order id, by which its row is found.
    pub order_id: String,
    pub charge_id: PaymentId,
    /// How much was charged.
    pub charged: Won,
    /// The provider's name of its payment.
    pub payment_key: String,
}

/// A withdrawal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawal {
    pub id: PaymentId,
    pub user: UserId,
    pub amount: Won,
    /// The charge that it is taken from; `None` where an operator pays.
    pub source: Option<Source>,
    pub requested_at: Timestamp,
    pub correlation_id: String,
    pub state: WithdrawalState,
    /// How often the schedule went on with it.
    pub attempts: u32,
}

impl WithdrawalState {
    /// Its name in tables.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Debited => "debited",
            Self::Paid => "paid",
            Self::PaidOut(_) => "paid_out",
            Self::Returning(_) => "returning",
            Self::Returned(_) => "returned",
            Self::Refused => "refused",
        }
    }

    /// Its name in answers.
    pub const fn seen(&self) -> &'static str {
        match self {
            Self::Requested | Self::Debited | Self::Returning(_) => "pending",
            Self::Paid | Self::PaidOut(_) => "paid",
            Self::Returned(_) => "returned",
            Self::Refused => "refused",
        }
    }

    /// Whether the charge that it is taken from has the amount again.
    pub const fn frees_source(&self) -> bool {
        matches!(self, Self::Returned(_) | Self::Refused)
    }
}

impl Withdrawal {
    /// The next step; `None` once it has ended, or while an operator has to pay.
    pub const fn next_step(&self) -> Option<WithdrawalStep> {
        match (&self.state, &self.source) {
            (WithdrawalState::Requested, _) => Some(WithdrawalStep::Debit),
            (WithdrawalState::Debited, Some(_)) => Some(WithdrawalStep::Cancel),
            (WithdrawalState::Returning(_), _) => Some(WithdrawalStep::Return),
            _ => None,
        }
    }

    /// Whether an operator has to pay it.
    pub const fn awaits_payout(&self) -> bool {
        matches!((&self.state, &self.source), (WithdrawalState::Debited, None))
    }

    /// The input of points' steps.
    pub fn debit(&self) -> DebitWithdrawal {
        DebitWithdrawal { user_id: self.user.clone(), withdrawal_id: self.id.clone(), amount: self.amount }
    }

    /// What the provider is told to be the reason: by it the cancellation is found in the payment.
    pub fn cancel_reason(&self) -> String {
        format!("Withdrawal {}", self.id)
    }

    /// Whether the provider may still be asked to cancel.
    pub const fn may_be_cancelled(&self, now: Timestamp) -> bool {
        now.millis_since(self.requested_at) < ASKED_WITHIN_MILLIS
    }
}

/// A credited charge, and how much of it was taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChargeRoom {
    pub charge: Charge,
    pub withdrawn: Won,
}

/// The charge that an amount is taken from: the first that has as much left and is not too old.
pub fn choose_source(charges: &[ChargeRoom], amount: Won, now: Timestamp) -> Option<Source> {
    let has_room = |found: &&ChargeRoom| {
        let left = found.charge.amount.checked_sub(found.withdrawn);
        matches!(found.charge.state, ChargeState::Credited(_))
            && now.millis_since(found.charge.requested_at) < CANCELLABLE_MILLIS
            && left.is_some_and(|left| left >= amount)
    };
    charges.iter().find(has_room).map(|found| Source {
        order_id: found.charge.key.clone(),
        charge_id: found.charge.id.clone(),
        charged: found.charge.amount,
        payment_key: found.charge.payment_key.clone(),
    })
}

/// A part of a payment that the provider cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelledPart {
    pub amount: i64,
    /// Why, as it was told.
    pub reason: String,
}

/// Whether the provider cancelled a part of a payment for this withdrawal.
pub fn is_cancelled_for(withdrawal: &Withdrawal, parts: &[CancelledPart]) -> bool {
    let reason = withdrawal.cancel_reason();
    parts.iter().any(|part| part.reason == reason && part.amount == withdrawal.amount.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use contracts::steps::{CreditedCharge, PayCharge};

    const NOW: Timestamp = Timestamp::from_millis(0);

    fn won(amount: i64) -> Won {
        Won::new(amount).unwrap()
    }

    fn room(order: &str, amount: i64, withdrawn: i64) -> ChargeRoom {
        let asked = PayCharge {
            user_id: UserId::parse("alice").unwrap(),
            key: order.into(),
            amount: won(amount),
            payment_key: format!("pay-{order}"),
            requested_at: NOW,
            correlation_id: "request-1".into(),
        };
        let credited = CreditedCharge { entry_id: "c".into(), balance: Won::ZERO };
        let charge = Charge::asked(PaymentId::parse(format!("charge-{order}")).unwrap(), asked);
        ChargeRoom { charge: Charge { state: ChargeState::Credited(credited), ..charge }, withdrawn: won(withdrawn) }
    }

    fn withdrawal(state: WithdrawalState, source: Option<Source>) -> Withdrawal {
        Withdrawal {
            id: PaymentId::parse("w1").unwrap(),
            user: UserId::parse("alice").unwrap(),
            amount: won(400),
            source,
            requested_at: NOW,
            correlation_id: "request-1".into(),
            state,
            attempts: 0,
        }
    }

    #[test]
    fn an_amount_is_taken_from_a_charge_that_has_it_left_and_is_not_too_old() {
        let chosen = |charges: &[ChargeRoom], now| choose_source(charges, won(400), now).map(|source| source.order_id);
        assert_eq!(chosen(&[room("a", 500, 200), room("b", 500, 100), room("c", 900, 0)], NOW), Some("b".into()));
        assert_eq!(chosen(&[room("a", 399, 0), room("b", 500, 101)], NOW), None);
        let old = NOW.plus_millis(CANCELLABLE_MILLIS);
        assert_eq!(chosen(&[room("a", 500, 0)], old), None);
        assert_eq!(chosen(&[room("a", 500, 0)], old.plus_millis(-1)), Some("a".into()));
        let open = ChargeRoom {
            charge: Charge { state: ChargeState::Confirmed, ..room("a", 500, 0).charge },
            ..room("a", 500, 0)
        };
        assert_eq!(chosen(&[open], NOW), None);
    }

    #[test]
    fn every_way_through_a_withdrawal_ends_or_waits_for_an_operator() {
        let source = choose_source(&[room("a", 500, 0)], won(400), NOW);
        let step = |state, source: &Option<Source>| withdrawal(state, source.clone()).next_step();
        assert_eq!(step(WithdrawalState::Requested, &None), Some(WithdrawalStep::Debit));
        assert_eq!(step(WithdrawalState::Debited, &source), Some(WithdrawalStep::Cancel));
        assert_eq!(step(WithdrawalState::Returning("r".into()), &source), Some(WithdrawalStep::Return));
        assert_eq!(step(WithdrawalState::Debited, &None), None);
        assert!(withdrawal(WithdrawalState::Debited, None).awaits_payout());
        let by = Payout { by: UserId::parse("operator").unwrap(), reference: "t-1".into() };
        for over in [WithdrawalState::Paid, WithdrawalState::PaidOut(by), WithdrawalState::Refused] {
            assert_eq!(step(over, &source), None);
        }
    }

    #[test]
    fn a_cancellation_is_this_withdrawals_by_its_reason_and_amount() {
        let withdrawal = withdrawal(WithdrawalState::Debited, None);
        let part = |amount, reason: &str| [CancelledPart { amount, reason: reason.into() }];
        assert!(is_cancelled_for(&withdrawal, &part(400, "Withdrawal w1")));
        assert!(!is_cancelled_for(&withdrawal, &part(400, "Withdrawal w2")));
        assert!(!is_cancelled_for(&withdrawal, &part(300, "Withdrawal w1")));
    }

    #[test]
    fn the_provider_is_not_asked_once_it_may_have_forgotten_the_key() {
        let withdrawal = withdrawal(WithdrawalState::Debited, None);
        assert!(withdrawal.may_be_cancelled(NOW.plus_millis(ASKED_WITHIN_MILLIS - 1)));
        assert!(!withdrawal.may_be_cancelled(NOW.plus_millis(ASKED_WITHIN_MILLIS)));
    }
}
