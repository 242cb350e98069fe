//! A user asks for seats and does not wait: the request is written down, handed on, and decided by `write-reservations`.

use crate::domain::{Reservation, SeatRequest, Status, decide_hold};
use crate::ports::{AskForSeats, LoadSale, WritePending};
use crate::usecases::reserve_seats::{Once, ReserveError};
use contracts::Timestamp;
use kit::idempotency::{Outcome, StoredAnswer};

/// What it came to.
#[derive(Debug)]
pub enum Requested {
    /// The reservation is pending.
    Pending(Reservation),
    /// The same request was answered before.
    AsBefore(StoredAnswer),
}

/// Writes the request down and hands it on: one read, one write, one message. What can be refused already, is. A request that
/// is written and could not be handed on is by the sweep, so the answer does not wait for it.
pub async fn request_reservation<P>(
    store: &P,
    requests: &impl AskForSeats,
    request: &SeatRequest,
    once: Option<Once<'_>>,
    now: Timestamp,
) -> Result<Requested, ReserveError>
where
    P: LoadSale + WritePending,
{
    let sale = store
        .load_sale(&request.schedule, &request.token.concert_id, &request.user, once.map(|once| once.key), now)
        .await?;
    match sale.remembered {
        Outcome::First => {}
        Outcome::Replay(answer) => return Ok(Requested::AsBefore(answer)),
        Outcome::Mismatch => return Err(ReserveError::KeyReused),
    }
    let hold = decide_hold(request, sale.terms.as_ref(), sale.plan.as_ref(), &sale.visits, now)
        .map_err(ReserveError::Refused)?;
    // No hold runs yet.
    let reservation = Reservation { status: Status::Pending, hold_expires_at: now, ..hold.reservation };
    let memo = once.map(|once| once.memo(&reservation));
    let written = store.write_pending(request, &reservation, memo.as_ref(), now).await?;
    match written.ok_or(ReserveError::TooManyPending)? {
        Outcome::First => {}
        Outcome::Replay(answer) => return Ok(Requested::AsBefore(answer)),
        Outcome::Mismatch => return Err(ReserveError::KeyReused),
    }
    if let Err(fault) = requests.ask(request).await {
        tracing::warn!(reservation = %reservation.id, error = fault.chain(), "a request waits for the sweep");
    }
    Ok(Requested::Pending(reservation))
}
