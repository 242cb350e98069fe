//! An order was placed and takes its units, or it failed and must not have any. Do and undo are one function on one
//! queue: which arrives first, and how often, is not known.

use crate::domain::{Order, Shelf};
use crate::ports::{KeepStock, Taken};
use contracts::Timestamp;
use contracts::choreography::{OrderSignal, Reaction, reaction_to};
use kit::Fault;

/// How often an order is decided again after another event of it, or another limit of an item, came in between.
const ATTEMPTS: u32 = 4;

/// Brings the stock to the state that the signal requires, exactly once for each order, and answers every delivery.
pub async fn deduct_stock(
    store: &impl KeepStock,
    signal: OrderSignal,
    order: &Order,
    now: Timestamp,
) -> Result<(), Fault> {
    for _ in 0..ATTEMPTS {
        let (job, shelf) = match signal {
            OrderSignal::Placed => store.job_and_shelf(order).await?,
            OrderSignal::Failed => (store.job(&order.id).await?, Shelf::default()),
        };
        let is_settled = match reaction_to(signal, job.work) {
            // What is sold out is refused by what was read: those who can have some are not to wait for it.
            Reaction::Do => match shelf.portions(order) {
                Ok(portions) => match store.take(order, &portions, now).await? {
                    Taken::All => true,
                    Taken::None(refusal) => store.refuse(order, &refusal, now).await?,
                    Taken::Crossed => false,
                },
                Err(refusal) => store.refuse(order, &refusal, now).await?,
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
    Err(Fault::contended("deciding about an order's units"))
}
