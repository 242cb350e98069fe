//! Step called by `create-concert`: opens a line for a new concert.

use crate::domain::DefaultAdmission;
use crate::ports::{ApplyPlan, OpenLine};
use contracts::steps::Applied;
use contracts::{ConcertId, Timestamp};
use kit::Fault;

/// Dependencies of opening.
#[derive(Debug)]
pub struct Opening<L, R> {
    /// The store of lines.
    pub line: L,
    /// Enforces the plan.
    pub reservations: R,
    /// The plan of a new line.
    pub admission: DefaultAdmission,
}

/// Opens the line with the default plan unless it is open already, and ensures that the plan in force is enforced: a
/// retry completes what an earlier try left half done.
pub async fn open_waiting_room(
    deps: &Opening<impl OpenLine, impl ApplyPlan>,
    concert: &ConcertId,
    created_at: Timestamp,
) -> Result<Applied, Fault> {
    let plan = deps.line.open(concert, deps.admission.plan(created_at)).await?;
    deps.reservations.apply(concert, &plan).await?;
    Ok(Applied {})
}
