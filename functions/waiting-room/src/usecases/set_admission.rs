//! An operator changes the admission plan of a concert.

use crate::ports::{ApplyPlan, Changed, ReadLine, ReplacePlan};
use contracts::admission::{AdmissionPlan, PlanChange};
use contracts::{ConcertId, Timestamp};
use kit::Fault;

/// How many tries require that no user joined during the change.
const EXACT_TRIES: u32 = 5;
/// How many tries there are in all.
const TRIES: u32 = 10;
/// How many joins per shard the later tries tolerate during the change: what a shard can give out in a second.
const ALLOWANCE: u64 = 1_000;

/// A request to change the plan.
#[derive(Debug)]
pub struct SetAdmission {
    pub concert: ConcertId,
    pub change: PlanChange,
    /// When the request arrived.
    pub now: Timestamp,
    pub correlation_id: String,
}

/// The plan in force after the change.
#[derive(Debug)]
pub struct Admission {
    pub plan: AdmissionPlan,
    /// How many positions have been admitted so far.
    pub admitted: u64,
    /// The highest position given out.
    pub issued: u64,
}

/// Why the change failed.
#[derive(Debug)]
pub enum SetAdmissionError {
    /// This concert has no line.
    UnknownConcert,
    /// The system failed. The plan may have changed without being enforced yet; its event, or a retry of the request,
    /// fixes that.
    Fault(Fault),
}

impl From<Fault> for SetAdmissionError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Changes the plan for all users not admitted yet, and returns once reservations enforces it. Idempotent: a plan in
/// force already is only sent to reservations again.
pub async fn set_admission(
    line: &(impl ReadLine + ReplacePlan),
    reservations: &impl ApplyPlan,
    ask: SetAdmission,
) -> Result<Admission, SetAdmissionError> {
    let change = Changed { correlation_id: &ask.correlation_id, now: ask.now };
    for tried in 0..TRIES {
        // A user who joins between the read and the write may be answered `active`, and must stay so. The first tries
        // require that no user joined; under continuous joins, the later ones count a second's worth as issued.
        let allowance = if tried < EXACT_TRIES { 0 } else { ALLOWANCE };
        let read = line.line(&ask.concert).await?.ok_or(SetAdmissionError::UnknownConcert)?;
        let plan = match read.changed(allowance, ask.now, ask.change) {
            None => read.plan.clone(),
            Some(plan) if line.replace_plan(&ask.concert, &read, allowance, &plan, &change).await? => plan,
            Some(_) => continue,
        };
        reservations.apply(&ask.concert, &plan).await?;
        let issued = read.highest_position(0);
        return Ok(Admission { admitted: plan.admitted_by(ask.now).min(issued), issued, plan });
    }
    Err(Fault::contended("changing an admission plan").into())
}
