//! A user with an active queue token holds seats: all of them or none.

use crate::domain::{EndHold, Refusal, Reservation, SeatRequest, Visit, decide_hold};
use crate::ports::{HoldWritten, ListReservations, LoadSale, Origin, WriteEnd, WriteHold};
use contracts::Timestamp;
use kit::idempotency::{IdempotencyKey, Memo, Outcome, StoredAnswer};
use kit::{Fault, metrics};

/// How often the decision is made when other requests of the same user interfere.
const ROUNDS: usize = 4;

/// The outcome of holding seats.
#[derive(Debug)]
pub enum Reserved {
    /// The seats are held.
    Held(Reservation),
    /// The same request was answered before.
    AsBefore(StoredAnswer),
    /// The pending reservation is decided already, or cancelled.
    NotPending,
}

/// A request's key, and the answer that is remembered under it.
#[derive(Clone, Copy)]
pub struct KeyedAnswer<'a> {
    pub key: &'a IdempotencyKey,
    /// Makes the answer from the reservation.
    pub answer: &'a (dyn Fn(&Reservation) -> StoredAnswer + Sync),
}

impl KeyedAnswer<'_> {
    pub(super) fn memo(&self, reservation: &Reservation) -> Memo {
        Memo {
            user: reservation.user.clone(),
            key: self.key.clone(),
            about: reservation.id.to_string(),
            answer: (self.answer)(reservation),
        }
    }
}

/// Why no seats were held.
#[derive(Debug)]
pub enum ReserveError {
    /// A business rule refuses it.
    Refused(Refusal),
    /// The key was used for another request.
    KeyReused,
    /// The user has [`crate::domain::MAX_PENDING`] undecided requests for the date already.
    TooManyPending,
    /// The system failed.
    Fault(Fault),
}

impl From<Fault> for ReserveError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Holds the seats. One read and one write; if the write fails on the ticket limit, the user's own expired holds are
/// ended first and it is tried again, so that no user is refused because of seats they no longer have.
pub async fn reserve_seats<P>(
    store: &P,
    request: &SeatRequest,
    origin: Origin,
    keyed: Option<KeyedAnswer<'_>>,
    now: Timestamp,
) -> Result<Reserved, ReserveError>
where
    P: LoadSale + WriteHold + ListReservations + WriteEnd,
{
    for _ in 0..ROUNDS {
        let key = keyed.map(|keyed| keyed.key);
        let sale = store.load_sale(&request.schedule, &request.token.concert_id, &request.user, key, now).await?;
        match sale.remembered {
            Outcome::First => {}
            Outcome::Replay(answer) => return Ok(Reserved::AsBefore(answer)),
            Outcome::Mismatch => return Err(ReserveError::KeyReused),
        }
        let hold = decide_hold(request, sale.terms.as_ref(), sale.plan.as_ref(), &sale.visits, now)
            .map_err(ReserveError::Refused)?;
        let memo = keyed.map(|keyed| keyed.memo(&hold.reservation));

        let mut written = store.write_hold(&hold, origin, memo.as_ref(), now).await?;
        if matches!(written, HoldWritten::Refused(Refusal::TicketLimit { .. })) {
            let overdue = store.overdue_of(&request.user, &request.schedule, now).await?;
            if !overdue.is_empty() {
                for reservation in &overdue {
                    if store.end_hold(&reservation.booking(), EndHold::Expire, now).await? {
                        metrics::count("Expired", 1);
                    }
                }
                written = store.write_hold(&hold, origin, memo.as_ref(), now).await?;
            }
        }
        match written {
            HoldWritten::Held => {
                metrics::count("Held", hold.reservation.seats.len() as u64);
                if matches!(hold.visit, Visit::Begins { .. }) {
                    metrics::count("Admitted", 1);
                }
                return Ok(Reserved::Held(hold.reservation));
            }
            HoldWritten::Replay(answer) => return Ok(Reserved::AsBefore(answer)),
            HoldWritten::KeyReused => return Err(ReserveError::KeyReused),
            HoldWritten::Refused(refusal) => return Err(ReserveError::Refused(refusal)),
            HoldWritten::NotPending => return Ok(Reserved::NotPending),
            HoldWritten::VisitChanged => {}
        }
    }
    Err(Fault::contended("holding seats").into())
}
