//! A user checks the status of their queue token.

use crate::domain::{Crowd, Issued, Place};
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
    pub crowd: Option<Crowd>,
}

/// The status of the token at `now`. Reads no per-user state: the plan decides, and the page of spent places.
pub async fn check_queue_status(
    line: &(impl ReadPlan + ReadUse),
    claims: &QueueTokenClaims,
    now: Timestamp,
) -> Result<Checked, StatusError> {
    if auth::outlived(claims, now) {
        return Ok(Checked { place: Place::outlived(claims), crowd: None });
    }
    let (concert, position) = (&claims.concert_id, claims.position);
    let planned =
        line.plan(concert, Some(position), now).await.map_err(StatusError::Fault)?.ok_or(StatusError::Gone)?;
    let issued = Issued { position, turn: claims.turn(), issued_at: claims.issued_at };
    let place = Place::by_plan(&planned.plan, &issued, now);
    let crowd = Some(planned.crowd(issued.turn, now));
    // Who waits may have given the place up.
    if line.is_used(concert, position, now).await.map_err(StatusError::Fault)? {
        return Ok(Checked { place: place.used(), crowd });
    }
    Ok(Checked { place, crowd })
}
