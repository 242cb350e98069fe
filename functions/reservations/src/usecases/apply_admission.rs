//! Step: a concert's admission plan comes into force for reserving.

use crate::ports::KeepTerms;
use contracts::steps::{ApplyAdmission, Opened};
use kit::{StepCall, StepError};

/// Keeps the plan, unless a newer one is in force.
pub async fn apply_admission(store: &impl KeepTerms, call: StepCall<ApplyAdmission>) -> Result<Opened, StepError> {
    store.keep_plan(&call.input.concert_id, &call.input.plan).await?;
    Ok(Opened {})
}
