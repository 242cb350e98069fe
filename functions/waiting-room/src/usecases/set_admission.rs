//! An operator changes the admission plan of a concert.

use crate::ports::{ApplyPlan, Changed, ReadLine, ReplacePlan};
use contracts::admission::{AdmissionPlan, PlanChange};
use contracts::{ConcertId, Timestamp};
use kit::Fault;

/// How often a change insists that nobody joined while it was made.
const EXACT_TRIES: u32 = 5;
/// How often it is tried in all.
const TRIES: u32 = 10;
/// How many may have joined at each shard while a change is made in a storm of joins: what a shard can give out in a
/// second.
const ALLOWANCE: u64 = 1_000;

/// What is asked.
#[derive(Debug)]
pub struct SetAdmission {
    /// Whose line.
    pub concert: ConcertId,
    /// What changes.
    pub change: PlanChange,
    /// When it was asked.
    pub now: Timestamp,
    /// The request.
    pub correlation_id: String,
}

/// The plan in force after it.
#[derive(Debug)]
pub struct Admission {
    /// The plan.
    pub plan: AdmissionPlan,
    /// How many positions are admitted by now.
    pub admitted: u64,
    /// The highest position given out.
    pub issued: u64,
}

/// Why not.
#[derive(Debug)]
pub enum SetAdmissionError {
    /// No line is kept for this concert.
    UnknownConcert,
    /// The system failed. The plan may have changed without being enforced yet; its event, or repeating the request,
    /// mends that.
    Fault(Fault),
}

impl From<Fault> for SetAdmissionError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Changes the plan for everybody not admitted yet, and returns once reservations enforces it. Repeating it is
/// harmless: what is in force already is only made sure to be enforced.
pub async fn set_admission(
    line: &(impl ReadLine + ReplacePlan),
    reservations: &impl ApplyPlan,
    ask: SetAdmission,
) -> Result<Admission, SetAdmissionError> {
    let change = Changed { correlation_id: &ask.correlation_id, now: ask.now };
    for tried in 0..TRIES {
        // Whoever joins between reading and writing may be told that they are inside, and must stay so. First insist
        // that nobody did; where they never stop coming, count a second's worth of them as issued.
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
