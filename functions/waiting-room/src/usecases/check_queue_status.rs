//! A user checks the status of their queue token.

use crate::domain::{Issued, Place, Status};
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

/// What a token is worth.
#[derive(Debug)]
pub struct Checked {
    pub place: Place,
    /// How many wait.
    pub waiting: u64,
}

/// The status of the token at `now`. Reads no per-user state: the plan decides and, once the place is admitted, the
/// page of spent places.
pub async fn check_queue_status(
    line: &(impl ReadPlan + ReadUse),
    claims: &QueueTokenClaims,
    now: Timestamp,
) -> Result<Checked, StatusError> {
    if auth::outlived(claims, now) {
        return Ok(Checked { place: Place::outlived(claims), waiting: 0 });
    }
    let (concert, position) = (&claims.concert_id, claims.position);
    let planned =
        line.plan(concert, Some(position), now).await.map_err(StatusError::Fault)?.ok_or(StatusError::Gone)?;
    let issued = Issued { position, turn: claims.turn(), issued_at: claims.issued_at };
    let place = Place::by_plan(&planned.plan, &issued, now);
    let waiting = planned.waiting(issued.turn, now);
    // No user pays before being admitted, and no admitted user waits again.
    if place.status != Status::Waiting && line.is_used(concert, position, now).await.map_err(StatusError::Fault)? {
        return Ok(Checked { place: place.used(), waiting });
    }
    Ok(Checked { place, waiting })
}
