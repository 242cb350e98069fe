//! A user gives up the place they have in a concert's line.

use crate::domain::{MAX_GIVEN_UP, MAX_GIVEN_UP_WAITING};
use crate::ports::{ClaimPlace, EndVisit, GiveUpPlace, ReadPlan, ReadUse};
use contracts::admission::Standing;
use contracts::{ConcertId, Timestamp, UserId};
use kit::Fault;

/// Why the place is not given up.
#[derive(Debug)]
pub enum LeaveError {
    /// There is no line for this concert.
    UnknownConcert,
    /// The user gave up [`MAX_GIVEN_UP_WAITING`] places before and waits, or [`MAX_GIVEN_UP`] and is inside. The turn of each
    /// is nobody's, which costs others time.
    TooMany,
    /// The system failed. Repeating the request completes it.
    Fault(Fault),
}

impl From<Fault> for LeaveError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Gives the place up: reservations no longer accepts its token, its status is `used`, and the next join takes another.
/// No place, or one that is spent or whose time is over, is success.
pub async fn leave_queue(
    line: &(impl ReadPlan + ReadUse + ClaimPlace + GiveUpPlace),
    reservations: &impl EndVisit,
    user: &UserId,
    concert: &ConcertId,
    now: Timestamp,
) -> Result<(), LeaveError> {
    let planned = line.plan(concert, None, now).await?.ok_or(LeaveError::UnknownConcert)?;
    let Some(row) = line.find_place(user, concert).await? else { return Ok(()) };
    let Some(place) = row.place else { return Ok(()) };
    let most = match planned.plan.standing(place.position, place.turn, place.issued_at, now) {
        Standing::Expired { .. } => return Ok(()),
        Standing::Waiting { .. } => MAX_GIVEN_UP_WAITING,
        Standing::Active { .. } => MAX_GIVEN_UP,
    };
    if line.is_spent(concert, place.position, now).await? {
        return Ok(());
    }
    if row.given_up >= most {
        return Err(LeaveError::TooMany);
    }
    // The row comes last: as long as it has the place, a repetition does all of this again.
    reservations.end_visit(user, concert, now).await?;
    line.give_up(concert, place.position).await?;
    line.leave_place(user, concert, &row, now).await?;
    Ok(())
}
