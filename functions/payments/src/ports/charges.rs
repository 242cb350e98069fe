//! What charges need from other components, one narrow trait per capability.

use crate::domain::charges::{Charge, ChargeState, Declined, Intent, ProviderPayment};
use contracts::steps::{ChargeCredit, CreditCharge};
use contracts::{Timestamp, UserId};
use kit::Fault;
use kit::sweep::{Cursor, Part};

/// A provider of payments.
pub trait PaymentProvider: Send + Sync {
    /// Confirms the payment of a charge: the money is taken, once, however often this is called. After a fault it may
    /// have been taken.
    fn confirm_payment(
        &self,
        charge: &Charge,
    ) -> impl Future<Output = Result<Result<ProviderPayment, Declined>, Fault>> + Send;

    /// The payment of a charge as it is; `None` when there is none.
    fn look_up_payment(&self, charge: &Charge) -> impl Future<Output = Result<Option<ProviderPayment>, Fault>> + Send;

    /// Gives all the money of a charge back, once.
    fn cancel_payment(
        &self,
        charge: &Charge,
    ) -> impl Future<Output = Result<Result<ProviderPayment, Declined>, Fault>> + Send;
}

/// The client of points, which credits charges.
pub trait CreditPoints: Send + Sync {
    /// Credits once, or refuses for good.
    fn credit_points(&self, ask: &CreditCharge) -> impl Future<Output = Result<ChargeCredit, Fault>> + Send;
}

/// The result of opening a charge intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenedIntent {
    /// It is open.
    Now,
    /// The user has one open that is as good: this one.
    Before(Intent),
    /// The user began too many charges. Nothing was written.
    TooMany {
        /// Until when.
        until: Timestamp,
    },
}

/// Opens charge intents.
pub trait OpenIntent: Send + Sync {
    /// Opens an intent in place of the user's last one, unless that one is of the same amount, was not charged and can
    /// be for long enough: so a user has one, and who asks again gets the same.
    fn open_intent(&self, intent: &Intent, now: Timestamp) -> impl Future<Output = Result<OpenedIntent, Fault>> + Send;
}

/// A user's last intent, and what became of the charge that was begun under it, if one was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundIntent {
    pub intent: Intent,
    /// The state of its charge.
    pub charged: Option<ChargeState>,
}

/// Reads charge intents.
pub trait FindIntent: Send + Sync {
    /// The user's last one.
    fn last_intent(&self, user: &UserId) -> impl Future<Output = Result<Option<FoundIntent>, Fault>> + Send;
}

/// The result of recording a charge.
#[derive(Debug)]
pub enum RecordedCharge {
    /// It is recorded.
    Now,
    /// The user and key have a charge that was not refused, as it is now.
    Before(Box<Charge>),
    /// The user has no open intent of this key and amount, or began too many charges. Nothing was written.
    NoIntent,
}

/// Records charges.
pub trait RecordCharge: Send + Sync {
    /// The charge, under the user's open intent. It replaces one of the same key that was refused.
    fn record_charge(&self, charge: &Charge) -> impl Future<Output = Result<RecordedCharge, Fault>> + Send;
}

/// Changes the state of charges.
pub trait MoveCharge: Send + Sync {
    /// Moves a charge from its state to another, with the event that belongs to it. Returns the charge as it is now if
    /// another writer moved it first.
    fn move_charge(
        &self,
        charge: &Charge,
        to: &ChargeState,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Box<Charge>>, Fault>> + Send;
}

/// Finds charges that do not end.
pub trait FindStuckCharges: Send + Sync {
    /// A page of those of one of [`CHARGE_SHARDS`](crate::domain::charges::CHARGE_SHARDS) due for a check at `now`, oldest
    /// first.
    fn stuck_charges(
        &self,
        shard: u64,
        now: Timestamp,
        after: Option<Cursor>,
    ) -> impl Future<Output = Result<Part<Charge>, Fault>> + Send;

    /// Counts a recovery, sets the time of the next check, and pages the on-call when it takes too long. `false` when
    /// another run did, or the charge has moved on.
    fn count_charge_recovery(
        &self,
        charge: &Charge,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}
