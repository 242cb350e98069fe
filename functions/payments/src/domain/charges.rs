//! Charges that are paid for at a payment provider: the pure decisions about them.
//!
//! ```text
//! Pending -> Confirmed -> Credited
//!    |           |
//!    |           +-> Cancelling -> Cancelled
//!    +-> Refused, Cancelling
//! ```
//!
//! Money moves at the provider when a payment is confirmed, and points move when it is credited. A charge is confirmed
//! before it is credited, credited only while it is confirmed, and cancelled only once points no longer accepts its
//! credit. So a charge ends with both (credited), or with neither (refused, cancelled).

use contracts::steps::{ChargeCredit, ChargePaid, CreditCharge, CreditedCharge, PayCharge};
use contracts::{ChargeAmount, PaymentId, Timestamp, UserId, Won};
use kit::Fault;

/// The number of partitions of the index of open charges. They are others than payments', so that neither delays the
/// recovery of the other.
pub const CHARGE_SHARDS: u64 = 4;
/// How long a charge may be open before the recovery checks it, in milliseconds: longer than the first request can
/// still be in progress.
pub const CHARGE_OPEN_TOO_LONG_MILLIS: i64 = 60_000;
/// How long a charge may be open before the on-call is paged, in milliseconds.
pub const CHARGE_STUCK_MILLIS: i64 = 3_600_000;
/// How long after its request a charge can still be confirmed, in milliseconds. The provider gives up a payment that is
/// not confirmed after 30 minutes; this is twice as long.
pub const CONFIRMABLE_MILLIS: i64 = 3_600_000;

/// How long a charge intent can be charged, in milliseconds.
pub const INTENT_MILLIS: i64 = 3_600_000;
/// An open intent that can be charged for at least this long is given again, in milliseconds: as long as the provider
/// waits for the confirmation of a payment.
pub const INTENT_REUSED_MILLIS: i64 = 1_800_000;
/// How many charges a user may begin within an hour ([`INTENT_MILLIS`]), whatever became of them. Each is one or two calls
/// of the provider, which everybody shares.
pub const MAX_ATTEMPTS: u32 = 20;

/// The payment is of another order.
const PAYMENT_MISMATCH: &str = "payment_mismatch";
/// The payment is of this order, but not as a whole and at once: another amount, or money that is yet to come.
const PAYMENT_NOT_DONE: &str = "payment_not_done";
/// The payment was given up before it was confirmed.
const PAYMENT_FAILED: &str = "payment_failed";
/// Points' reason: the balance would pass its limit.
const BALANCE_LIMIT: &str = "balance_limit";
/// Points' reason: the key is another charge's.
const KEY_TAKEN: &str = "key_taken";

/// A user's intent to buy points: what binds the provider's payment to its payer before it is paid. The provider's pages
/// are given its order id, and only its user, with its amount, can charge under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    pub user: UserId,
    /// The order id for the provider's pages, made here.
    pub order_id: String,
    pub amount: Won,
    /// Until when it can be charged.
    pub expires_at: Timestamp,
}

impl Intent {
    /// A new intent.
    pub fn new(user: UserId, order_id: String, amount: ChargeAmount, now: Timestamp) -> Self {
        Self { user, order_id, amount: amount.won(), expires_at: now.plus_millis(INTENT_MILLIS) }
    }

    /// Whether points may still come of it at `now`; `charged` is what became of its charge, if one was begun. A charge
    /// that was refused may be begun again.
    pub fn is_open(&self, charged: Option<&ChargeState>, now: Timestamp) -> bool {
        match charged {
            None | Some(ChargeState::Refused(_)) => now < self.expires_at,
            // Once it was begun, it goes on without its intent.
            Some(ChargeState::Pending | ChargeState::Confirmed) => true,
            Some(ChargeState::Credited(_) | ChargeState::Cancelling(_) | ChargeState::Cancelled(_)) => false,
        }
    }
}

/// The state of a charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChargeState {
    /// Recorded. Whether the provider has confirmed is not known.
    Pending,
    /// The provider has the money.
    Confirmed,
    /// The provider has the money, and the user the points.
    Credited(CreditedCharge),
    /// The provider took no money, for a reason with a stable name.
    Refused(String),
    /// The points will never be credited, for this reason; the money goes back.
    Cancelling(String),
    /// The money is back; the reason is that of `Cancelling`.
    Cancelled(String),
}

/// The next step of a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// Have the provider confirm its payment.
    Confirm,
    /// Have points credit it.
    Credit,
    /// Have the provider cancel its payment.
    Cancel,
}

impl ChargeState {
    /// Its name in tables.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::Credited(_) => "credited",
            Self::Refused(_) => "refused",
            Self::Cancelling(_) => "cancelling",
            Self::Cancelled(_) => "cancelled",
        }
    }

    /// The next step; `None` once the charge has ended. Every step leads to a later state, so there are three at most.
    pub const fn next_step(&self) -> Option<NextStep> {
        match self {
            Self::Pending => Some(NextStep::Confirm),
            Self::Confirmed => Some(NextStep::Credit),
            Self::Cancelling(_) => Some(NextStep::Cancel),
            Self::Credited(_) | Self::Refused(_) | Self::Cancelled(_) => None,
        }
    }

    /// Whether the provider is known to have had the money.
    pub const fn was_paid(&self) -> bool {
        matches!(self, Self::Confirmed | Self::Credited(_) | Self::Cancelling(_) | Self::Cancelled(_))
    }

    /// The answer to the request.
    pub fn answer(self) -> ChargePaid {
        match self {
            Self::Pending | Self::Confirmed | Self::Cancelling(_) => ChargePaid::Pending,
            Self::Credited(credited) => ChargePaid::Credited(credited),
            Self::Cancelled(reason) if reason == BALANCE_LIMIT => ChargePaid::BalanceLimit,
            Self::Cancelled(reason) if reason == KEY_TAKEN => ChargePaid::KeyReused,
            Self::Refused(reason) | Self::Cancelled(reason) => ChargePaid::NotConfirmed { reason },
        }
    }
}

/// A charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// Its id: also the ledger entry's, and the idempotency key of the provider's confirmation.
    pub id: PaymentId,
    pub user: UserId,
    /// The caller's idempotency key: also the order id of the intent, and at the provider.
    pub key: String,
    pub amount: Won,
    /// The provider's name of the payment.
    pub payment_key: String,
    /// When it was requested.
    pub requested_at: Timestamp,
    pub correlation_id: String,
    pub state: ChargeState,
    /// How often the recovery has resumed it.
    pub recoveries: u32,
}

impl Charge {
    /// A new charge: everything is fixed here.
    pub fn asked(id: PaymentId, ask: PayCharge) -> Self {
        Self {
            id,
            user: ask.user_id,
            key: ask.key,
            amount: ask.amount,
            payment_key: ask.payment_key,
            requested_at: ask.requested_at,
            correlation_id: ask.correlation_id,
            state: ChargeState::Pending,
            recoveries: 0,
        }
    }

    /// Whether `other`, of the same user and key, requests the same.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        self.amount == other.amount && self.payment_key == other.payment_key
    }

    /// The input of points' `credit-charge`.
    pub fn credit(&self) -> CreditCharge {
        CreditCharge {
            user_id: self.user.clone(),
            key: self.key.clone(),
            entry_id: self.id.to_string(),
            amount: self.amount,
            requested_at: self.requested_at,
        }
    }

    /// The state after the provider confirmed. A confirmed payment of this order that is not the whole of it, paid, goes
    /// back: for example a deposit that is yet to come. One of another order is left alone.
    pub fn after_yes(&self, payment: &ProviderPayment) -> ChargeState {
        if payment.order_id != self.key {
            ChargeState::Refused(PAYMENT_MISMATCH.to_owned())
        } else if payment.amount == self.amount.get() && payment.status == PaymentStatus::Done {
            ChargeState::Confirmed
        } else {
            ChargeState::Cancelling(PAYMENT_NOT_DONE.to_owned())
        }
    }

    /// The state after anything but a confirmation. It is decided by the payment itself, as looked up afterwards: a
    /// rejection may follow a confirmation whose answer was lost, and so may no answer. `no` is the provider's reason,
    /// or the fault that kept it from answering; the fault is returned for as long as a confirmation may still be in
    /// flight.
    pub fn after_no(
        &self,
        no: Result<Declined, Fault>,
        payment: Option<&ProviderPayment>,
        now: Timestamp,
    ) -> Result<ChargeState, Fault> {
        if payment.is_some_and(|payment| payment.order_id != self.key) {
            return Ok(ChargeState::Refused(PAYMENT_MISMATCH.to_owned()));
        }
        let is_over = match payment.map(|payment| (payment, payment.status)) {
            Some((payment, PaymentStatus::Done | PaymentStatus::Partly)) => return Ok(self.after_yes(payment)),
            Some((_, PaymentStatus::Cancelled | PaymentStatus::Failed)) => true,
            Some((_, PaymentStatus::Open)) => now.millis_since(self.requested_at) > CONFIRMABLE_MILLIS,
            // The payer has seen the payment there, so our key may be another shop's: left to the on-call.
            None => false,
        };
        match no {
            Ok(Declined(reason)) => Ok(ChargeState::Refused(reason)),
            Err(_) if is_over => Ok(ChargeState::Refused(PAYMENT_FAILED.to_owned())),
            Err(fault) => Err(fault),
        }
    }

    /// The state after points' answer.
    pub fn after_credit(&self, credit: ChargeCredit) -> ChargeState {
        match credit {
            ChargeCredit::Credited(credited) => ChargeState::Credited(credited),
            ChargeCredit::Refused { reason } => ChargeState::Cancelling(reason),
        }
    }
}

/// Whether the provider has none of a payment's money, after it was asked to give it back.
pub fn is_given_back(payment: Option<&ProviderPayment>) -> bool {
    payment.is_some_and(|payment| matches!(payment.status, PaymentStatus::Cancelled | PaymentStatus::Failed))
}

/// A payment as it is at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderPayment {
    /// The order it is for.
    pub order_id: String,
    /// The amount in won, whatever its status.
    pub amount: i64,
    pub status: PaymentStatus,
}

/// The status of a payment at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentStatus {
    /// Not confirmed yet; it can be.
    Open,
    /// Confirmed: the money was taken.
    Done,
    /// Confirmed, but the money is not, or no longer, there as a whole.
    Partly,
    /// Cancelled as a whole: nothing was taken, or it was given back.
    Cancelled,
    /// Abandoned, by the provider or the payer: nothing was taken.
    Failed,
}

/// The provider's rejection: its reason, a stable snake_case name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declined(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Timestamp = Timestamp::from_millis(1_000);

    fn charge() -> Charge {
        let ask = PayCharge {
            user_id: UserId::parse("alice").unwrap(),
            key: "order-1".into(),
            amount: Won::new(500).unwrap(),
            payment_key: "pay-1".into(),
            requested_at: ASKED,
            correlation_id: "r".into(),
        };
        Charge::asked(PaymentId::parse("c1").unwrap(), ask)
    }

    fn payment(status: PaymentStatus) -> ProviderPayment {
        ProviderPayment { order_id: "order-1".into(), amount: 500, status }
    }

    fn silence() -> Result<Declined, Fault> {
        Err(Fault::unavailable("confirming", "no answer"))
    }

    fn declined() -> Result<Declined, Fault> {
        Ok(Declined("reject_card_payment".into()))
    }

    #[test]
    fn only_the_whole_of_our_order_paid_is_a_yes() {
        use PaymentStatus::*;
        assert_eq!(charge().after_yes(&payment(Done)), ChargeState::Confirmed);
        for wrong in [ProviderPayment { amount: 499, ..payment(Done) }, payment(Partly), payment(Open)] {
            assert!(matches!(charge().after_yes(&wrong), ChargeState::Cancelling(_)), "{wrong:?}");
        }
        // Somebody else's is not ours to give back.
        let another = ProviderPayment { order_id: "order-2".into(), ..payment(Done) };
        assert!(matches!(charge().after_yes(&another), ChargeState::Refused(_)));
    }

    #[test]
    fn money_that_was_taken_for_our_order_is_never_refused_whatever_the_answer_was() {
        for no in [silence, declined] {
            let found = charge().after_no(no(), Some(&payment(PaymentStatus::Done)), ASKED).unwrap();
            assert_eq!(found, ChargeState::Confirmed);
            let short = ProviderPayment { amount: 1, ..payment(PaymentStatus::Done) };
            let found = charge().after_no(no(), Some(&short), ASKED).unwrap();
            assert!(matches!(found, ChargeState::Cancelling(_)));
        }
    }

    #[test]
    fn a_payment_of_another_order_is_refused_and_never_cancelled() {
        for no in [silence, declined] {
            for status in [PaymentStatus::Done, PaymentStatus::Open, PaymentStatus::Partly] {
                let other = ProviderPayment { order_id: "order-2".into(), ..payment(status) };
                let found = charge().after_no(no(), Some(&other), ASKED).unwrap();
                assert_eq!(found, ChargeState::Refused(PAYMENT_MISMATCH.into()));
            }
        }
    }

    #[test]
    fn silence_refuses_nothing_before_the_payment_can_no_longer_be_confirmed() {
        let late = ASKED.plus_millis(CONFIRMABLE_MILLIS + 1);
        for found in [None, Some(payment(PaymentStatus::Open))] {
            assert!(charge().after_no(silence(), found.as_ref(), ASKED.plus_millis(CONFIRMABLE_MILLIS)).is_err());
            match charge().after_no(silence(), found.as_ref(), late) {
                Ok(over) => assert_eq!((over, found.is_some()), (ChargeState::Refused(PAYMENT_FAILED.into()), true)),
                Err(_) => assert!(found.is_none(), "a payment that is not there says nothing"),
            }
            let refused = charge().after_no(declined(), found.as_ref(), ASKED).unwrap();
            assert_eq!(refused, ChargeState::Refused("reject_card_payment".into()));
        }
    }

    #[test]
    fn an_intent_is_open_while_points_may_come_of_it() {
        let (alice, amount) = (UserId::parse("alice").unwrap(), ChargeAmount::new(500).unwrap());
        let intent = Intent::new(alice, "order-1".into(), amount, Timestamp::from_millis(0));
        let last = intent.expires_at.plus_millis(-1);
        let reason = || "reject_card_payment".to_owned();
        assert!(intent.is_open(None, last) && !intent.is_open(None, intent.expires_at));
        assert!(intent.is_open(Some(&ChargeState::Refused(reason())), last));
        assert!(!intent.is_open(Some(&ChargeState::Refused(reason())), intent.expires_at));
        for begun in [ChargeState::Pending, ChargeState::Confirmed] {
            assert!(intent.is_open(Some(&begun), intent.expires_at), "{begun:?}");
        }
        let credited = CreditedCharge { entry_id: "c1".into(), balance: Won::ZERO };
        let over =
            [ChargeState::Credited(credited), ChargeState::Cancelling(reason()), ChargeState::Cancelled(reason())];
        for over in over {
            assert!(!intent.is_open(Some(&over), last), "{over:?}");
        }
    }

    #[test]
    fn every_way_through_a_charge_ends() {
        let credited = CreditedCharge { entry_id: "c1".into(), balance: Won::ZERO };
        let credit = |reason: &str| ChargeCredit::Refused { reason: reason.into() };
        assert_eq!(charge().after_credit(ChargeCredit::Credited(credited.clone())).next_step(), None);
        for (reason, answer) in [(BALANCE_LIMIT, ChargePaid::BalanceLimit), (KEY_TAKEN, ChargePaid::KeyReused)] {
            assert_eq!(charge().after_credit(credit(reason)).next_step(), Some(NextStep::Cancel));
            assert_eq!(ChargeState::Cancelled(reason.into()).answer(), answer);
        }
        for open in [ChargeState::Pending, ChargeState::Confirmed, ChargeState::Cancelling(BALANCE_LIMIT.into())] {
            assert!(open.next_step().is_some());
            assert_eq!(open.answer(), ChargePaid::Pending);
        }
        assert!(is_given_back(Some(&payment(PaymentStatus::Cancelled))));
        assert!(!is_given_back(Some(&payment(PaymentStatus::Partly))) && !is_given_back(None));
    }
}
