//! A user takes the next place in a concert's line.

use crate::domain::{NotIssued, Place};
use crate::ports::IssuePosition;
use contracts::admission::QueueTokenClaims;
use contracts::{ConcertId, Timestamp, UserId};
use kit::Fault;

/// What is asked.
#[derive(Debug)]
pub struct JoinQueue {
    /// Who joins.
    pub user: UserId,
    /// Which line.
    pub concert: ConcertId,
    /// Whether joining is possible before the sale opens.
    pub before_open: bool,
    /// When it was asked.
    pub now: Timestamp,
}

/// A place taken.
#[derive(Debug)]
pub struct Joined {
    /// The place.
    pub place: Place,
    /// What its token says.
    pub claims: QueueTokenClaims,
}

/// Why not.
#[derive(Debug)]
pub enum JoinError {
    /// No line is kept for this concert.
    UnknownConcert,
    /// The sale opens later, and joining before is off.
    SaleNotOpen {
        /// When it opens.
        opens_at: Timestamp,
    },
    /// The system failed. A position may have been given out to nobody, which harms nobody.
    Fault(Fault),
}

/// Takes the next place. Joining again takes another, later one, which gains nothing: see DECISIONS.md.
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
