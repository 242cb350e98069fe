//! A hold's time is over: its seats are free again. Triggered by the event of the hold, delayed until then.

use crate::domain::{Booking, EndHold};
use crate::ports::{ScheduleExpiry, WriteEnd};
use contracts::Timestamp;
use contracts::events::{CancelReason, Event, EventBody, ReservationEvent};
use kit::queue::Message;
use kit::{Fault, metrics};

/// The longest SQS delays a message, in seconds.
const LONGEST_DELAY_SECONDS: i64 = 900;
/// After how many receives a hold whose end cannot be scheduled is undone: half a minute of tries (R20).
pub const SCHEDULE_ATTEMPTS: u32 = 6;

/// What the consumer is wired with.
#[derive(Debug)]
pub struct ExpireHold<S, Q> {
    /// Where the holds are.
    pub store: S,
    /// Where a message waits for its time.
    pub queue: Q,
}

/// Ends the hold if it is over, has it looked at again if it is not, and leaves alone what is no hold any more.
pub async fn expire_hold<S: WriteEnd, Q: ScheduleExpiry>(
    deps: &ExpireHold<S, Q>,
    message: Message,
) -> Result<(), Fault> {
    let event = message.event()?;
    let EventBody::ReservationHeld(held) = &event.body else {
        return Err(Fault::broken("expiring a hold", "the message is no reservation.held"));
    };
    let remaining = held.hold_expires_at.millis_since(message.now);
    if remaining > 0 {
        // Rounded up, so that it is due when it comes back.
        let seconds = (remaining + 999).div_euclid(1000).min(LONGEST_DELAY_SECONDS);
        let scheduled = deps.queue.look_again(&message.body, i32::try_from(seconds).unwrap_or(i32::MAX)).await;
        return match scheduled {
            Err(fault) if message.receives >= SCHEDULE_ATTEMPTS => undo(deps, held, &event, fault, message.now).await,
            scheduled => scheduled,
        };
    }
    let booking = booking_of(held, event.correlationid.clone());
    if deps.store.end_hold(&booking, EndHold::Expire, message.now).await? {
        metrics::count("Expired", 1);
        tracing::info!(reservation = %held.reservation_id, "a hold expired");
    }
    Ok(())
}

/// The end of the hold cannot be scheduled: the hold is cancelled, its user and an administrator told. One that is being
/// paid or over already needs no end.
async fn undo<S: WriteEnd, Q>(
    deps: &ExpireHold<S, Q>,
    held: &ReservationEvent,
    event: &Event,
    fault: Fault,
    now: Timestamp,
) -> Result<(), Fault> {
    tracing::error!(reservation = %held.reservation_id, error = fault.chain(), "a hold's end cannot be scheduled");
    let booking = booking_of(held, event.correlationid.clone());
    if deps.store.end_hold(&booking, EndHold::Undo(CancelReason::ExpiryNotScheduled), now).await? {
        metrics::count("Cancelled", 1);
    }
    Ok(())
}

/// The hold as its event tells it; the write's conditions decide whether it is still so.
fn booking_of(held: &ReservationEvent, correlation_id: String) -> Booking {
    Booking {
        id: held.reservation_id.clone(),
        user: held.user_id.clone(),
        schedule: held.schedule_id.clone(),
        concert: held.concert_id.clone(),
        seats: held.seats.clone(),
        total_price: held.total_price,
        hold_expires_at: held.hold_expires_at,
        correlation_id,
    }
}
