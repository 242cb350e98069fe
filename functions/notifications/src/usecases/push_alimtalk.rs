//! Notifies users on their phones of what happened to their seats and money.

use super::once;
use crate::domain::{Delivery, Outcome, Push};
use crate::ports::{FindPhone, GuardDelivery, SendPush};
use contracts::Timestamp;
use contracts::events::Event;
use kit::Fault;

/// Sends the event's message, if there is one for it and the user has a phone number.
pub async fn push_alimtalk(
    deliveries: &impl GuardDelivery,
    directory: &impl FindPhone,
    provider: &impl SendPush,
    event: Event,
    now: Timestamp,
) -> Result<(), Fault> {
    let delivery = Delivery::new("push-alimtalk", &event.id);
    once(deliveries, &delivery, now, async {
        let Some(push) = Push::of(&event.body) else { return Ok(Outcome::skipped("nothing_to_tell")) };
        if push.is_pointless(now) {
            return Ok(Outcome::skipped("too_late"));
        }
        let Some(phone) = directory.find_phone(&push.user, &event.correlationid).await? else {
            return Ok(Outcome::skipped("no_phone"));
        };
        provider.push(&push, &phone, &event.id, &event.correlationid).await.map(Outcome::sent)
    })
    .await
}
