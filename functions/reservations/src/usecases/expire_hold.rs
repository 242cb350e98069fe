//! Expires a hold: its seats become free again, at once or, where they are kept back, by `free-seats`. Triggered by the event of the hold, delayed until the hold's end.

use crate::domain::{Booking, EndHold};
use crate::ports::{ScheduleExpiry, WriteEnd};
use contracts::Timestamp;
use contracts::events::CancelReason;
use kit::{Fault, metrics};

/// The longest SQS delays a message, in seconds.
const LONGEST_DELAY_SECONDS: i64 = 900;
/// After how many receives a hold whose end cannot be scheduled is undone: half a minute of retries (R20).
pub const SCHEDULE_ATTEMPTS: u32 = 6;

/// Dependencies of the consumer.
#[derive(Debug)]
pub struct ExpireHold<S, Q> {
    /// The store of holds.
    pub store: S,
    /// Delays messages until a hold's end.
    pub queue: Q,
}

/// A hold, as its delayed message states it.
#[derive(Debug)]
pub struct WaitingHold {
    pub booking: Booking,
    /// The body of the message, to be sent again.
    pub message: String,
    /// How often it was received.
    pub receives: u32,
}

/// Ends the hold if it is over, schedules another check if it is not, and ignores a reservation that is no longer a
/// hold.
pub async fn expire_hold<S: WriteEnd, Q: ScheduleExpiry>(
    deps: &ExpireHold<S, Q>,
    hold: WaitingHold,
    now: Timestamp,
) -> Result<(), Fault> {
    let WaitingHold { booking, message, receives } = hold;
    let remaining = booking.hold_expires_at.millis_since(now);
    if remaining > 0 {
        let scheduled = deps.queue.look_again(&message, delay_of(remaining)).await;
        return match scheduled {
            Err(fault) if receives >= SCHEDULE_ATTEMPTS => undo(deps, &booking, fault, now).await,
            scheduled => scheduled,
        };
    }
    if deps.store.end_hold(&booking, EndHold::Expire, now).await? {
        metrics::count("Expired", 1);
        tracing::info!(reservation = %booking.id, "a hold expired");
    }
    Ok(())
}

/// The delay of a message that is due in so many milliseconds, in seconds: at most as much as SQS delays one. Rounded
/// up, so that it is due when it is redelivered.
pub(super) fn delay_of(remaining_millis: i64) -> i32 {
    let seconds = remaining_millis.saturating_add(999).div_euclid(1000).min(LONGEST_DELAY_SECONDS);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

/// The end of the hold cannot be scheduled: cancels the hold and notifies its user and an administrator. A hold that is
/// being paid or is over already is left as it is.
async fn undo<S: WriteEnd, Q>(
    deps: &ExpireHold<S, Q>,
    booking: &Booking,
    fault: Fault,
    now: Timestamp,
) -> Result<(), Fault> {
    tracing::error!(reservation = %booking.id, error = fault.chain(), "a hold's end cannot be scheduled");
    if deps.store.end_hold(booking, EndHold::Undo(CancelReason::ExpiryNotScheduled), now).await? {
        metrics::count("Cancelled", 1);
    }
    Ok(())
}
