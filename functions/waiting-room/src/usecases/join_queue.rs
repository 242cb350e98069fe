//! A user takes the next place in a concert's line, or finds the one they have.

use crate::domain::{Crowd, Issued, NOTED_EVERY, Place, PlaceRow, Planned, Status};
use crate::ports::{Backoff, ClaimPlace, Claimed, IssuePlace, NoteTurn, ReadPlan, ReadUse};
use contracts::admission::{AdmissionPlan, QueueTokenClaims};
use contracts::{ConcertId, Timestamp, UserId};
use kit::Fault;

/// How often a join looks whether another request of its user has been given the place.
const TRIES: u32 = 12;

/// The input.
#[derive(Debug)]
pub struct JoinQueue {
    pub user: UserId,
    pub concert: ConcertId,
    /// Unique to the request.
    pub claim: String,
    /// Whether joining is possible before the sale opens.
    pub before_open: bool,
    /// When it was requested.
    pub now: Timestamp,
}

/// The user's place.
#[derive(Debug)]
pub struct Joined {
    pub place: Place,
    /// The claims of its token.
    pub claims: QueueTokenClaims,
    pub crowd: Crowd,
    /// Whether it was given out by this request.
    pub is_new: bool,
}

/// Why there is no place.
#[derive(Debug)]
pub enum JoinError {
    /// There is no line for this concert.
    UnknownConcert,
    /// The sale opens later, and joining before is off.
    SaleNotOpen {
        /// When it opens.
        opens_at: Timestamp,
    },
    /// The system failed. A place may have been given out that nobody has: at most one for each write that was lost.
    Fault(Fault),
}

impl From<Fault> for JoinError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Gives the user a place: the one they have while it is worth something, or else the next one.
///
/// A place is claimed before it is given out and kept after it, so that requests of one user at the same time give out
/// one, and a crash between two of these writes wastes one at most.
pub async fn join_queue<L>(line: &L, ask: JoinQueue) -> Result<Joined, JoinError>
where
    L: ReadPlan + ReadUse + ClaimPlace + IssuePlace + NoteTurn + Backoff,
{
    let (planned, mut found) = match ask.before_open && line.knows(&ask.concert) {
        // Once a second the plan is read again, beside the claim.
        true => {
            let (plan, found) = tokio::join!(plan_of(line, &ask), look(line, &ask));
            (plan?, found?)
        }
        false => (plan_of(line, &ask).await?, look(line, &ask).await?),
    };
    let plan = &planned.plan;
    // A place is issued after the user gave up another, whatever this request's clock says.
    let mut now = ask.now;
    for attempt in 1..=TRIES {
        let row = match found {
            Claimed::Mine => {
                let issued = issue(line, plan, &ask, now).await?;
                let until = Place::by_plan(plan, &issued, now).expires_at.unwrap_or(now).max(plan.opens_at);
                match line.keep_place(&ask.user, &ask.concert, &ask.claim, &issued, until).await? {
                    Claimed::Mine => {
                        if issued.position.is_multiple_of(NOTED_EVERY) {
                            line.note_turn(&ask.concert, issued.turn).await;
                        }
                        return Ok(joined(&planned, issued, ask, true));
                    }
                    Claimed::Taken(row) => row,
                }
            }
            Claimed::Taken(row) => row,
        };
        now = now.max(row.left_at);
        found = match row.place {
            Some(place) if is_worth_something(line, plan, place, &ask).await? => {
                return Ok(joined(&planned, place, ask, false));
            }
            Some(_) => claim(line, &ask, Some(&row)).await?,
            None if row.is_free(ask.now) => claim(line, &ask, Some(&row)).await?,
            None => {
                line.back_off(attempt).await;
                match line.find_place(&ask.user, &ask.concert).await? {
                    Some(row) => Claimed::Taken(row),
                    None => claim(line, &ask, None).await?,
                }
            }
        };
    }
    Err(Fault::contended("joining a line").into())
}

async fn plan_of(line: &impl ReadPlan, ask: &JoinQueue) -> Result<Planned, JoinError> {
    let planned = line.plan(&ask.concert, None, ask.now).await?.ok_or(JoinError::UnknownConcert)?;
    let opens_at = planned.plan.opens_at;
    if ask.before_open || opens_at <= ask.now { Ok(planned) } else { Err(JoinError::SaleNotOpen { opens_at }) }
}

/// Claims the place of a user who has none, as far as this process knows. One who joined before is looked up: asking
/// again costs a read and no write.
async fn look(line: &impl ClaimPlace, ask: &JoinQueue) -> Result<Claimed, Fault> {
    if line.has_joined(&ask.user, &ask.concert)
        && let Some(row) = line.find_place(&ask.user, &ask.concert).await?
    {
        return Ok(Claimed::Taken(row));
    }
    claim(line, ask, None).await
}

async fn claim(line: &impl ClaimPlace, ask: &JoinQueue, over: Option<&PlaceRow>) -> Result<Claimed, Fault> {
    line.claim_place(&ask.user, &ask.concert, over, &ask.claim, ask.now).await
}

/// Gives out a place. If that certainly did not happen, the claim is released, so that the client's next try is not held
/// up by it.
async fn issue(
    line: &(impl IssuePlace + ClaimPlace),
    plan: &AdmissionPlan,
    ask: &JoinQueue,
    now: Timestamp,
) -> Result<Issued, JoinError> {
    match line.issue(&ask.concert, plan.lapsed_by(now), now).await {
        Ok(issued) => issued.ok_or(JoinError::UnknownConcert),
        Err(fault) => {
            if matches!(fault, Fault::Contended(_))
                && let Err(other) = line.release_claim(&ask.user, &ask.concert, &ask.claim).await
            {
                tracing::warn!(error = other.chain(), "a claim stays until it is too old");
            }
            Err(fault.into())
        }
    }
}

async fn is_worth_something(
    line: &impl ReadUse,
    plan: &AdmissionPlan,
    place: Issued,
    ask: &JoinQueue,
) -> Result<bool, Fault> {
    match Place::by_plan(plan, &place, ask.now).status {
        // One that was given up is marked before the row forgets it.
        Status::Waiting | Status::Active => line.is_used(&ask.concert, place.position, ask.now).await.map(|used| !used),
        Status::Expired | Status::Used => Ok(false),
    }
}

fn joined(planned: &Planned, issued: Issued, ask: JoinQueue, is_new: bool) -> Joined {
    let place = Place::by_plan(&planned.plan, &issued, ask.now);
    let crowd = planned.crowd(issued.turn, ask.now);
    Joined { place, claims: place.claims(&issued, ask.user, ask.concert, ask.now), crowd, is_new }
}
