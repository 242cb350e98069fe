//! I3, I8: points that are taken out: the ledger against what was given back.

use super::{Audit, ChargeStatus, Invariant, Withdrawal, WithdrawalStatus};
use contracts::PaymentId;
use std::collections::BTreeMap;

impl Audit<'_> {
    /// I3, I8: a withdrawal's points are out exactly when its money is, or will be; and something brings it to its end.
    pub(super) fn withdrawal(&mut self, id: &PaymentId, withdrawal: &Withdrawal) {
        use WithdrawalStatus as Status;
        let who = format!("withdrawal {id} of {}", withdrawal.user);
        let (status, amount) = (withdrawal.status, withdrawal.amount);
        let account = self.snapshot.accounts.get(&withdrawal.user);
        let keys = [format!("use.{id}"), format!("return.{id}")];
        let moved: i64 = account
            .into_iter()
            .flat_map(|account| &account.entries)
            .filter(|entry| keys.contains(&entry.key))
            .map(|entry| entry.adds)
            .sum();
        let fits = match status {
            Status::Debited | Status::Paid | Status::PaidOut => moved == -amount,
            // Between the entry and its record.
            Status::Requested | Status::Returning => moved == -amount || moved == 0,
            Status::Returned | Status::Refused => moved == 0,
        };
        if !fits || amount <= 0 {
            self.found(Invariant::I3, format!("{who} is {status:?} with {amount}, the ledger has {moved}"));
        }
        let is_payout = status == Status::Debited && withdrawal.charge.is_none();
        let is_open =
            matches!(status, Status::Requested | Status::Returning) || status == Status::Debited && !is_payout;
        if (withdrawal.in_schedule_index, withdrawal.in_payout_index) != (is_open, is_payout) {
            self.found(Invariant::I8, format!("{who} is {status:?}, the index says otherwise"));
        }
        let stuck = format!("withdrawal-stuck:{id}.");
        let is_listed =
            self.snapshot.outbox.range(stuck.clone()..).next().is_some_and(|(id, _)| id.starts_with(&stuck));
        if is_open && self.late(withdrawal.requested_at, self.tolerances.pending) && !is_listed {
            self.found(Invariant::I8, format!("{who} is {status:?} since {}", withdrawal.requested_at));
        }
    }

    /// I3: never more of a charge is taken out than was charged, and it is counted there.
    pub(super) fn withdrawn(&mut self) {
        let mut taken: BTreeMap<&PaymentId, i64> = BTreeMap::new();
        for withdrawal in self.snapshot.withdrawals.values() {
            let is_back = matches!(withdrawal.status, WithdrawalStatus::Returned | WithdrawalStatus::Refused);
            if let Some(charge) = withdrawal.charge.as_ref().filter(|_| !is_back) {
                let sum = taken.entry(charge).or_default();
                *sum = sum.saturating_add(withdrawal.amount);
            }
        }
        for (id, charge) in &self.snapshot.charges {
            let sum = taken.remove(id).unwrap_or(0);
            let fits = charge.status == ChargeStatus::Credited || sum == 0;
            if sum != charge.withdrawn || sum > charge.amount || !fits {
                let (says, of) = (charge.withdrawn, charge.amount);
                self.found(Invariant::I3, format!("of charge {id} {sum} of {of} are taken out, counted are {says}"));
            }
        }
        for (id, sum) in taken {
            self.found(Invariant::I3, format!("{sum} are taken out of charge {id}, which there is not"));
        }
    }
}
