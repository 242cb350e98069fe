//! Step that payments calls: a hold whose user buys points for it is extended, once.

use crate::domain::extensions::{Decision, decide_extension};
use crate::ports::{ExtensionWritten, FindReservation, WriteExtension};
use contracts::Timestamp;
use contracts::steps::{ExtendHold, HoldExtension};
use kit::{Fault, metrics};

/// Tries when another write comes between the read and the write.
const ROUNDS: usize = 3;

/// Extends the hold by `seconds`; 0 extends none. Asked for again while the hold runs, it answers the same.
pub async fn extend_hold(
    store: &(impl FindReservation + WriteExtension),
    ask: &ExtendHold,
    seconds: u32,
    now: Timestamp,
) -> Result<HoldExtension, Fault> {
    for _ in 0..ROUNDS {
        let found = store.find(&ask.user_id, &ask.reservation_id).await?;
        let extension = match (decide_extension(found.as_ref(), ask.is_topping_up, seconds, now), &found) {
            (Decision::Answer(answer), _) => return Ok(answer),
            (Decision::Extend(_), None) => return Ok(HoldExtension::NotFound),
            (Decision::Extend(extension), Some(found)) => {
                match store.write_extension(found, &extension, now).await? {
                    ExtensionWritten::Extended => extension,
                    // By somebody else's clock the hold was over, and a seat is theirs.
                    ExtensionWritten::SeatsLost => return Ok(HoldExtension::NotExtendable),
                    ExtensionWritten::Changed => continue,
                }
            }
        };
        metrics::count("Extended", 1);
        tracing::info!(reservation = %ask.reservation_id, until = %extension.until, "a hold was extended");
        return Ok(HoldExtension::Extended { hold_expires_at: extension.until });
    }
    Err(Fault::contended("extending a hold"))
}
