//! Step: a date goes on sale under its terms. No seat is written: a seat nobody has, has no item.

use crate::ports::KeepTerms;
use contracts::steps::{OpenSchedule, Opened};
use kit::{StepCall, StepError};

/// Keeps the terms.
pub async fn open_schedule(store: &impl KeepTerms, call: StepCall<OpenSchedule>) -> Result<Opened, StepError> {
    store.keep_terms(&call.input).await?;
    Ok(Opened {})
}
