//! Notifies the partner of a sale.

use super::once;
use crate::domain::{Delivery, Outcome};
use crate::ports::{GuardDelivery, NotifyPartner};
use contracts::Timestamp;
use contracts::events::Event;
use kit::Fault;

/// Sends the event.
pub async fn notify_partner(
    deliveries: &impl GuardDelivery,
    partner: &impl NotifyPartner,
    event: Event,
    now: Timestamp,
) -> Result<(), Fault> {
    let delivery = Delivery::new("notify-partner", &event.id);
    once(deliveries, &delivery, now, async {
        partner.notify(&event, now).await?;
        Ok(Outcome::sent(None))
    })
    .await
}
