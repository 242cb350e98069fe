//! Step asked by `create-concert`: keep a line for a new concert.

use crate::domain::DefaultAdmission;
use crate::ports::{ApplyPlan, OpenLine};
use contracts::steps::{OpenWaitingRoom, Opened};
use kit::{StepCall, StepError};

/// What opening is wired with.
#[derive(Debug)]
pub struct Opening<L, R> {
    /// Where the lines are.
    pub line: L,
    /// Who enforces the plan.
    pub reservations: R,
    /// The plan of a new line.
    pub admission: DefaultAdmission,
}

/// Opens the line with the default plan unless it is open, and makes sure that the plan in force is enforced: a repeat
/// heals what an earlier try left half done.
pub async fn open_waiting_room(
    deps: &Opening<impl OpenLine, impl ApplyPlan>,
    call: StepCall<OpenWaitingRoom>,
) -> Result<Opened, StepError> {
    let OpenWaitingRoom { concert_id, created_at } = call.input;
    let plan = deps.line.open(&concert_id, deps.admission.plan(created_at)).await?;
    deps.reservations.apply(&concert_id, &plan).await?;
    Ok(Opened {})
}
