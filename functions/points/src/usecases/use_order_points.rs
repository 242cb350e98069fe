//! An order is to be paid with its user's points, or failed and must not cost any. Do and undo are one function on one
//! queue: which comes first, and how often, is not known.

use crate::domain::Order;
use crate::ports::{SettleOrder, Used};
use contracts::Timestamp;
use contracts::choreography::{OrderSignal, Reaction, reaction_to};
use kit::Fault;

/// How often an order is decided about again after other signal of it came in between. There are but two.
const ATTEMPTS: u32 = 4;

/// Brings the account to where the signal want it, exactly once for each order, and answers, each time it is asked.
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
