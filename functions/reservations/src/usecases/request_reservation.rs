//! A user requests seats asynchronously: the request is recorded, queued, and decided by `write-reservations`.

use crate::domain::{Reservation, SeatRequest, Status, decide_hold};
use crate::ports::{LoadSale, SendRequest, WritePending};
use crate::usecases::reserve_seats::{KeyedAnswer, ReserveError};
use contracts::Timestamp;
use kit::idempotency::{Outcome, StoredAnswer};

/// The outcome of a request.
#[derive(Debug)]
pub enum Requested {
    /// The reservation is pending.
    Pending(Reservation),
    /// The same request was answered before.
    AsBefore(StoredAnswer),
}

/// Records the request and queues it: one read, one write, one message. Refuses at once what can already be refused.
/// The sweep queues a recorded request that could not be queued here, so such a failure does not fail the request.
pub async fn request_reservation<P>(
    store: &P,
    requests: &impl SendRequest,
    request: &SeatRequest,
    keyed: Option<KeyedAnswer<'_>>,
    now: Timestamp,
) -> Result<Requested, ReserveError>
where
    P: LoadSale + WritePending,
{
    let sale = store
        .load_sale(&request.schedule, &request.token.concert_id, &request.user, keyed.map(|keyed| keyed.key), now)
        .await?;
    match sale.remembered {
        Outcome::First => {}
        Outcome::Replay(answer) => return Ok(Requested::AsBefore(answer)),
        Outcome::Mismatch => return Err(ReserveError::KeyReused),
    }
    let hold = decide_hold(request, sale.terms.as_ref(), sale.plan.as_ref(), &sale.visits, now)
        .map_err(ReserveError::Refused)?;
    // There is no hold yet.
    let reservation = Reservation { status: Status::Pending, hold_expires_at: now, ..hold.reservation };
    let memo = keyed.map(|keyed| keyed.memo(&reservation));
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
