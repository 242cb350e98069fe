//! An order was placed and takes its units, or it failed and must not have any. Do and undo are one function on one
//! queue: which arrives first, and how often, is not known.

use crate::domain::Order;
use crate::ports::{KeepStock, Taken};
use contracts::Timestamp;
use contracts::choreography::{OrderSignal, Reaction, reaction_to};
use kit::Fault;

/// How often an order is decided again after another event of it came in between. There are only two.
const ATTEMPTS: u32 = 4;

/// Brings the stock to the state that the signal requires, exactly once for each order, and answers every delivery.
pub async fn deduct_stock(
    store: &impl KeepStock,
    signal: OrderSignal,
    order: &Order,
    now: Timestamp,
) -> Result<(), Fault> {
    for _ in 0..ATTEMPTS {
        let job = store.job(&order.id).await?;
        let is_settled = match reaction_to(signal, job.work) {
            Reaction::Do => match store.take(order, now).await? {
                Taken::All => true,
                Taken::None(refusal) => store.refuse(order, &refusal, now).await?,
                Taken::Crossed => false,
            },
            Reaction::Undo => store.restore(order, &job, now).await?,
            Reaction::AnswerAgain => {
                store.republish(&order.id, job.work, now).await?;
                true
            }
            Reaction::Nothing => true,
        };
        if is_settled {
            return Ok(());
        }
    }
    Err(Fault::contended("deciding about an order's pieces"))
}
