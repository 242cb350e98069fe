//! An order was placed and must be paid with its user's points, or it failed and must not cost any. Do and undo are one
//! function on one queue: which arrives first, and how often, is not known.

use crate::domain::Order;
use crate::ports::{SettleOrder, Used};
use contracts::Timestamp;
use contracts::choreography::{OrderSignal, Reaction, reaction_to};
use kit::Fault;

/// How often an order is decided again after another event of it came in between. There are only two.
const ATTEMPTS: u32 = 4;

/// Brings the account to the state that the signal requires, exactly once for each order, and answers every delivery.
pub async fn use_order_points(
    accounts: &impl SettleOrder,
    signal: OrderSignal,
    order: &Order,
    now: Timestamp,
) -> Result<(), Fault> {
    for _ in 0..ATTEMPTS {
        let job = accounts.job(&order.id).await?;
        let is_settled = match reaction_to(signal, job.work) {
            Reaction::Do => match accounts.use_price(order, now).await? {
                Used::Now => true,
                Used::TooLow => accounts.refuse(order, now).await?,
                Used::Crossed => false,
            },
            Reaction::Undo => accounts.give_back(order, job, now).await?,
            Reaction::AnswerAgain => {
                accounts.republish(&order.id, job.work, now).await?;
                true
            }
            Reaction::Nothing => true,
        };
        if is_settled {
            return Ok(());
        }
    }
    Err(Fault::contended("settling an order"))
}
