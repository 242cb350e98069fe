//! An operator changes the admission plan of a concert.

use crate::domain::{self, Counted, NotChanged};
use crate::ports::{ApplyPlan, Changed, Clock, Count, ReadPlanNow, ReplacePlan};
use contracts::ConcertId;
use contracts::admission::{AdmissionPlan, PlanChange};
use kit::Fault;
use std::time::Duration;

/// How long the counters of a line are waited for.
const COUNT_LIMIT: Duration = Duration::from_millis(500);
/// How far the clocks of two functions may be apart, in milliseconds.
const CLOCKS_APART_MILLIS: i64 = 10_000;
/// How often it is tried when other operators change the plan at the same time.
const TRIES: u32 = 10;

/// The input.
#[derive(Debug)]
pub struct SetAdmission {
    pub concert: ConcertId,
    pub change: PlanChange,
    pub correlation_id: String,
    /// The operator.
    pub actor: String,
}

/// The plan in force after it.
#[derive(Debug)]
pub struct Admission {
    pub plan: AdmissionPlan,
    /// How many places are admitted when it takes effect; `None` if the line could not be counted.
    pub admitted: Option<u64>,
    /// How many places have been given out, likewise.
    pub issued: Option<u64>,
}

/// Why the plan is not changed.
#[derive(Debug)]
pub enum SetAdmissionError {
    /// There is no line for this concert.
    UnknownConcert,
    /// There were too many changes whose places are still inside.
    TooManyChanges,
    /// The system failed. The plan may have changed without being enforced yet; its event, or repeating the request,
    /// fixes that.
    Fault(Fault),
}

impl From<Fault> for SetAdmissionError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Changes the plan for all places not admitted by the time it takes effect: after `lead_millis`, when every process knows
/// of it. Returns once reservations has it and it is in force. It is idempotent: if the requested values are in force
/// already, it only makes sure that they are enforced.
pub async fn set_admission(
    line: &(impl ReadPlanNow + Count + ReplacePlan),
    reservations: &impl ApplyPlan,
    clock: &impl Clock,
    lead_millis: i64,
    ask: SetAdmission,
) -> Result<Admission, SetAdmissionError> {
    for _ in 0..TRIES {
        let (read, counted) = tokio::join!(line.plan_now(&ask.concert), count(line, &ask.concert));
        let read = read?.ok_or(SetAdmissionError::UnknownConcert)?;
        let now = clock.now();
        // No user must be told one thing by a process that knows of the change and another by one that does not. Where
        // nobody has joined, there is nobody to be told.
        let nobody = counted.is_some_and(|counted| counted.issued == 0);
        let lead = if nobody { 0 } else { lead_millis };
        let at = now.plus_millis(lead);
        let plan = match domain::changed(&read, counted, at, ask.change) {
            Err(NotChanged::InForce) => read,
            Err(NotChanged::TooMany) => return Err(SetAdmissionError::TooManyChanges),
            Ok(plan) if plan.changed_at.millis_since(at) > CLOCKS_APART_MILLIS => {
                let why = "the change before it takes effect much later than this clock says";
                return Err(Fault::unavailable("changing an admission plan", why).into());
            }
            Ok(plan) => {
                let change = Changed { correlation_id: &ask.correlation_id, actor: &ask.actor, now };
                if !line.replace_plan(&ask.concert, read.version, &plan, &change).await? {
                    continue;
                }
                let (concert, actor, version) = (ask.concert.as_str(), ask.actor.as_str(), plan.version);
                tracing::info!(concert, actor, version, change = ?ask.change, "an operator changed the plan");
                plan
            }
        };
        reservations.apply(&ask.concert, &plan).await?;
        clock.wait_until(plan.changed_at.min(at)).await;
        let admitted = counted.map(|counted| counted.admitted(&plan, at));
        return Ok(Admission { admitted, issued: counted.map(|counted| counted.issued), plan });
    }
    Err(Fault::contended("changing an admission plan").into())
}

/// What the line has given out. That only decides how many enter at once, so counters that cannot be read, or not in time,
/// must not keep a pause from being set.
async fn count(line: &impl Count, concert: &ConcertId) -> Option<Counted> {
    match tokio::time::timeout(COUNT_LIMIT, line.count(concert)).await {
        Ok(Ok(counted)) => counted,
        Ok(Err(fault)) => {
            tracing::warn!(error = fault.chain(), "a plan is changed without knowing how many wait");
            None
        }
        Err(_) => {
            tracing::warn!("a plan is changed without knowing how many wait");
            None
        }
    }
}
