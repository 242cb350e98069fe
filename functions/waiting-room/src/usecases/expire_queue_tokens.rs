//! After a payment completed: spend the place it was made from.

use crate::domain::Spent;
use crate::ports::SpendPlace;
use contracts::events::PaymentCompleted;
use kit::Fault;

/// Spends the place. Repeated, or after the payment was undone, it changes nothing.
pub async fn expire_queue_tokens(line: &impl SpendPlace, paid: PaymentCompleted) -> Result<Spent, Fault> {
    line.spend(&paid.concert_id, paid.queue_position, &paid.payment_id).await
}
