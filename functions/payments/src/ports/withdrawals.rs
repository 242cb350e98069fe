//! What withdrawals need from other components, one narrow trait per capability.

use crate::domain::charges::Declined;
use crate::domain::withdrawals::{CancelledPart, ChargeRoom, Withdrawal, WithdrawalState};
use contracts::steps::{DebitWithdrawal, WithdrawalDebit};
use contracts::{PaymentId, Timestamp, UserId};
use kit::Fault;
use kit::idempotency::Memo;
use kit::sweep::{Cursor, Part};

/// A provider that cancels payments in part.
pub trait CancelParts: Send + Sync {
    /// Gives a withdrawal's amount back, once, however often this is called within 15 days. Returns all parts of the
    /// payment that were cancelled. After a fault it may have been given back.
    fn cancel_part(
        &self,
        withdrawal: &Withdrawal,
    ) -> impl Future<Output = Result<Result<Vec<CancelledPart>, Declined>, Fault>> + Send;

    /// The parts of the payment that were cancelled.
    fn cancelled_parts(
        &self,
        withdrawal: &Withdrawal,
    ) -> impl Future<Output = Result<Vec<CancelledPart>, Fault>> + Send;
}

/// The client of points, which takes the points of withdrawals.
pub trait DebitPoints: Send + Sync {
    /// Takes the points once, or refuses for good.
    fn debit_points(&self, ask: &DebitWithdrawal) -> impl Future<Output = Result<WithdrawalDebit, Fault>> + Send;
}

/// The client of points, which gives the points of withdrawals back.
pub trait ReturnPoints: Send + Sync {
    /// Gives the points back once.
    fn return_points(&self, ask: &DebitWithdrawal) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// The result of recording a withdrawal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordedWithdrawal {
    /// It is recorded.
    Now,
    /// The same request recorded this one before.
    Before(PaymentId),
    /// The key was used for another request.
    KeyReused,
    /// The user has asked for too many today.
    TooMany,
    /// Less is left of the charge than it was when it was chosen: choose again.
    NoRoom,
}

/// Records withdrawals.
pub trait RecordWithdrawal: Send + Sync {
    /// The user's last charges that are in the balance, newest first, with what is left of each.
    fn last_charges(&self, user: &UserId) -> impl Future<Output = Result<Vec<ChargeRoom>, Fault>> + Send;

    /// The withdrawal, what it takes from its charge, the user's count of the day and the remembered answer: all or
    /// nothing.
    fn record_withdrawal(
        &self,
        withdrawal: &Withdrawal,
        memo: &Memo,
        now: Timestamp,
    ) -> impl Future<Output = Result<RecordedWithdrawal, Fault>> + Send;
}

/// Reads withdrawals.
pub trait FindWithdrawal: Send + Sync {
    /// The withdrawal, if this user has it.
    fn find_withdrawal(
        &self,
        user: &UserId,
        id: &PaymentId,
    ) -> impl Future<Output = Result<Option<Withdrawal>, Fault>> + Send;
}

/// Changes the state of withdrawals.
pub trait MoveWithdrawal: Send + Sync {
    /// Moves a withdrawal from its state to another, with the event that belongs to it; what it took from its charge is
    /// left there again, where nothing was given back. Returns it as it is now if another writer moved it first.
    fn move_withdrawal(
        &self,
        withdrawal: &Withdrawal,
        to: &WithdrawalState,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Box<Withdrawal>>, Fault>> + Send;
}

/// Finds withdrawals that have not ended.
pub trait FindOpenWithdrawals: Send + Sync {
    /// A page of those of one of [`WITHDRAWAL_SHARDS`](crate::domain::withdrawals::WITHDRAWAL_SHARDS) that are due at
    /// `now`, oldest first.
    fn open_withdrawals(
        &self,
        shard: u64,
        now: Timestamp,
        after: Option<Cursor>,
    ) -> impl Future<Output = Result<Part<Withdrawal>, Fault>> + Send;

    /// Counts an attempt, sets the time of the next, and pages the on-call when it takes too long. `false` when another
    /// run did, or the withdrawal has moved on.
    fn count_attempt(
        &self,
        withdrawal: &Withdrawal,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Finds withdrawals that operators pay.
pub trait FindPayouts: Send + Sync {
    /// The oldest that wait, at most `limit`.
    fn payouts(&self, limit: u32) -> impl Future<Output = Result<Vec<Withdrawal>, Fault>> + Send;

    /// The user of a withdrawal that an operator pays, or paid.
    fn owner(&self, id: &PaymentId) -> impl Future<Output = Result<Option<UserId>, Fault>> + Send;
}
