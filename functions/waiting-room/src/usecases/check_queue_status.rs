//! A user checks the status of their queue token.

use crate::domain::{Place, Status};
use crate::ports::{ReadPlan, ReadUse};
use contracts::Timestamp;
use contracts::admission::QueueTokenClaims;
use kit::{Fault, auth};

/// Why there is no status.
#[derive(Debug)]
pub enum StatusError {
    /// The line no longer exists.
    Gone,
    /// The system failed.
    Fault(Fault),
}

/// The status of the token at `now`. Reads no per-user state: the plan decides and, once the place is admitted, the
/// page of spent places.
pub async fn check_queue_status(
    line: &(impl ReadPlan + ReadUse),
    claims: &QueueTokenClaims,
    now: Timestamp,
) -> Result<Place, StatusError> {
    if auth::outlived(claims, now) {
        return Ok(Place::outlived(claims));
    }
    let (concert, position) = (&claims.concert_id, claims.position);
    let plan = line.plan(concert, position, now).await.map_err(StatusError::Fault)?.ok_or(StatusError::Gone)?;
    let place = Place::by_plan(&plan, position, claims.issued_at, now);
    // No user pays before being admitted, and no admitted user waits again.
    if place.status != Status::Waiting && line.is_used(concert, position, now).await.map_err(StatusError::Fault)? {
        return Ok(place.used());
    }
    Ok(place)
}
