//! The holder of a queue token asks what it is worth now.

use crate::domain::{Place, Status};
use crate::ports::{ReadPlan, ReadUse};
use contracts::Timestamp;
use contracts::admission::QueueTokenClaims;
use kit::{Fault, auth};

/// Why there is no answer.
#[derive(Debug)]
pub enum StatusError {
    /// There is no such line any more.
    Gone,
    /// The system failed.
    Fault(Fault),
}

/// What the token is worth at `now`. Reads no per-user state: the plan decides, and, once admitted, the page of spent
/// places.
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
    // Nobody pays before being admitted, and nobody who was admitted waits again.
    if place.status != Status::Waiting && line.is_used(concert, position, now).await.map_err(StatusError::Fault)? {
        return Ok(place.used());
    }
    Ok(place)
}
