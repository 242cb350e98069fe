//! A user who buys points for a reservation asks for more time: its hold is extended, once, while their charge intent is
//! open.

use crate::ports::HoldClient;
use crate::ports::charges::FindIntent;
use contracts::steps::{ExtendHold, HoldExtension};
use contracts::{ReservationId, Timestamp, UserId};
use kit::Fault;

/// Why a hold was not extended.
#[derive(Debug)]
pub enum ExtensionError {
    /// This user has no such reservation.
    NotFound,
    /// It is no running hold, or holds are not extended here.
    NotExtendable,
    /// The user has no open charge intent.
    NoIntent,
    /// The system failed.
    Fault(Fault),
}

impl From<Fault> for ExtensionError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// When the hold ends, extended now or before. Without an open intent reservations is asked all the same: it knows what
/// was extended before, while the intent was open.
pub async fn request_extension(
    charges: &impl FindIntent,
    holds: &impl HoldClient,
    user: UserId,
    reservation: ReservationId,
    now: Timestamp,
) -> Result<Timestamp, ExtensionError> {
    let last = charges.last_intent(&user).await?;
    let is_topping_up = last.is_some_and(|last| last.intent.is_open(last.charged.as_ref(), now));
    let ask = ExtendHold { user_id: user, reservation_id: reservation, is_topping_up };
    match holds.extend(&ask).await? {
        HoldExtension::Extended { hold_expires_at } => Ok(hold_expires_at),
        HoldExtension::NotToppingUp => Err(ExtensionError::NoIntent),
        HoldExtension::NotExtendable => Err(ExtensionError::NotExtendable),
        HoldExtension::NotFound => Err(ExtensionError::NotFound),
    }
}
