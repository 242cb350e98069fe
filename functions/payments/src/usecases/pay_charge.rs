//! Step called by points: ensure that a charge is paid for and its points are credited, or that neither happens.

use crate::domain::charges::{Charge, ChargeState, NextStep, is_given_back};
use crate::ports::charges::{CreditPoints, MoveCharge, PaymentProvider, RecordCharge, RecordedCharge};
use contracts::steps::{ChargePaid, PayCharge};
use contracts::{PaymentId, Timestamp};
use kit::ids::Mint;
use kit::{Fault, metrics};
use std::time::Duration;

/// How long one charge may take before the answer is that it is pending: less than the time-out of the function.
pub const TIME_LIMIT: Duration = Duration::from_secs(20);

/// The dependencies of `pay-charge` and of the recovery of charges.
#[derive(Debug)]
pub struct PayCharges<C, P, A> {
    /// Where the charges are.
    pub charges: C,
    /// The payment provider.
    pub provider: P,
    /// The client of points.
    pub points: A,
}

/// Records the charge under its user's intent, then completes it. If the same charge is requested again, it is resumed
/// from where it is; once it is credited or cancelled, the answer stays the same. One that was refused took no money: it
/// is tried again, with this payment or another.
pub async fn pay_charge<C, P, A>(
    deps: &PayCharges<C, P, A>,
    asked: PayCharge,
    now: Timestamp,
) -> Result<ChargePaid, Fault>
where
    C: RecordCharge + MoveCharge,
    P: PaymentProvider,
    A: CreditPoints,
{
    let asked = Charge::asked(PaymentId::mint(now), asked);
    let charge = match deps.charges.record_charge(&asked).await? {
        RecordedCharge::Now => asked,
        RecordedCharge::Before(found) if found.asks_the_same(&asked) => *found,
        RecordedCharge::Before(_) => return Ok(ChargePaid::KeyReused),
        RecordedCharge::NoIntent => return Ok(ChargePaid::NoIntent),
    };
    match tokio::time::timeout(TIME_LIMIT, resume(deps, charge, now)).await {
        Ok(state) => Ok(state?.answer()),
        // The recovery completes it.
        Err(_) => Ok(ChargePaid::Pending),
    }
}

/// Takes a charge from its current state to its end. It may be interrupted and resumed anywhere: every step is
/// idempotent, and each move is made once, by the first writer.
pub async fn resume<C, P, A>(
    deps: &PayCharges<C, P, A>,
    mut charge: Charge,
    now: Timestamp,
) -> Result<ChargeState, Fault>
where
    C: MoveCharge,
    P: PaymentProvider,
    A: CreditPoints,
{
    while let Some(step) = charge.state.next_step() {
        let to = match step {
            NextStep::Confirm => confirm(&deps.provider, &charge, now).await?,
            NextStep::Credit => charge.after_credit(deps.points.credit_points(&charge.credit()).await?),
            NextStep::Cancel => give_back(&deps.provider, &charge).await?,
        };
        charge = moved(&deps.charges, charge, to, now).await?;
    }
    Ok(charge.state)
}

/// The charge after a move: as this call moved it, or whoever came first.
async fn moved(charges: &impl MoveCharge, charge: Charge, to: ChargeState, now: Timestamp) -> Result<Charge, Fault> {
    let Some(found) = charges.move_charge(&charge, &to, now).await? else { return Ok(arrived(charge, to)) };
    if !to.was_paid() || found.state.was_paid() && found.id == charge.id {
        return Ok(*found);
    }
    // The provider has the money, and somebody else took no answer for a no meanwhile.
    if found.id != charge.id && found.payment_key != charge.payment_key {
        let paid = format!("payment {} was confirmed for charge {}, which was replaced", charge.payment_key, charge.id);
        return Err(Fault::broken("confirming a payment", paid));
    }
    match found.state {
        ChargeState::Refused(_) => match charges.move_charge(&found, &to, now).await? {
            None => Ok(arrived(*found, to)),
            Some(again) => Ok(*again),
        },
        _ => Ok(*found),
    }
}

fn arrived(charge: Charge, to: ChargeState) -> Charge {
    if matches!(to, ChargeState::Credited(_)) {
        metrics::count("Charged", 1);
    }
    tracing::info!(charge = %charge.id, from = charge.state.as_str(), to = to.as_str(), "a charge moved on");
    Charge { state: to, ..charge }
}

async fn confirm(provider: &impl PaymentProvider, charge: &Charge, now: Timestamp) -> Result<ChargeState, Fault> {
    let no = match provider.confirm_payment(charge).await {
        Ok(Ok(payment)) => return Ok(charge.after_yes(&payment)),
        Ok(Err(declined)) => Ok(declined),
        // A provider that asks to wait is not called again before.
        Err(fault) if fault.wait().is_some() => return Err(fault),
        Err(fault) => Err(fault),
    };
    let payment = provider.look_up_payment(charge).await?;
    charge.after_no(no, payment.as_ref(), now)
}

async fn give_back(provider: &impl PaymentProvider, charge: &Charge) -> Result<ChargeState, Fault> {
    let ChargeState::Cancelling(reason) = &charge.state else {
        return Err(Fault::broken("cancelling a payment", "its charge is not to be cancelled"));
    };
    let answer = provider.cancel_payment(charge).await;
    let payment = match answer {
        Ok(Ok(ref payment)) => Some(payment.clone()),
        Err(fault) if fault.wait().is_some() => return Err(fault),
        _ => provider.look_up_payment(charge).await?,
    };
    if is_given_back(payment.as_ref()) {
        return Ok(ChargeState::Cancelled(reason.clone()));
    }
    Err(match answer {
        Err(fault) => fault,
        Ok(Err(declined)) => Fault::unavailable("cancelling a payment", declined.0),
        Ok(Ok(_)) => Fault::unavailable("cancelling a payment", "the provider has not given it back"),
    })
}
