//! A user takes the next place in a concert's line.

use crate::domain::{NotIssued, Place};
use crate::ports::IssuePosition;
use contracts::admission::QueueTokenClaims;
use contracts::{ConcertId, Timestamp, UserId};
use kit::Fault;

/// A request to join.
#[derive(Debug)]
pub struct JoinQueue {
    pub user: UserId,
    pub concert: ConcertId,
    /// Whether joining is possible before the sale opens.
    pub before_open: bool,
    /// When the request arrived.
    pub now: Timestamp,
}

/// The place taken.
#[derive(Debug)]
pub struct Joined {
    pub place: Place,
    /// The claims of its token.
    pub claims: QueueTokenClaims,
}

/// Why the user could not join.
#[derive(Debug)]
pub enum JoinError {
    /// This concert has no line.
    UnknownConcert,
    /// The sale opens later, and joining before it opens is off.
    SaleNotOpen {
        /// When it opens.
        opens_at: Timestamp,
    },
    /// The system failed. A position may have been given out without an answer: a harmless gap.
    Fault(Fault),
}

/// Takes the next place. Joining again takes another, later one, which gives no advantage: see DECISIONS.md.
pub async fn join_queue(line: &impl IssuePosition, ask: JoinQueue) -> Result<Joined, JoinError> {
    let opened_by = (!ask.before_open).then_some(ask.now);
    match line.issue(&ask.concert, opened_by).await.map_err(JoinError::Fault)? {
        Ok(issued) => {
            let place = Place::by_plan(&issued.plan, issued.position, ask.now, ask.now);
            Ok(Joined { place, claims: place.claims(ask.user, ask.concert, ask.now) })
        }
        Err(NotIssued::UnknownConcert) => Err(JoinError::UnknownConcert),
        Err(NotIssued::NotOpen { opens_at }) => Err(JoinError::SaleNotOpen { opens_at }),
    }
}
