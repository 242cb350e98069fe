//! An order takes its lines out of its user's cart, or failed and gives them back. Do and undo are one function on one
//! queue: which comes first, and how often, is not known.

use crate::domain::CartOrder;
use crate::ports::{KeepCart, Republish};
use contracts::Timestamp;
use contracts::choreography::{OrderSignal, Reaction, reaction_to};
use kit::Fault;

/// How often it is decided again after the cart or other signal of the order came in between.
const ATTEMPTS: u32 = 4;

/// Brings the cart to where the signal want it, exactly once for each order, and answers, each time it is asked.
pub async fn clear_cart(
    store: &(impl KeepCart + Republish),
    signal: OrderSignal,
    order: &CartOrder,
    now: Timestamp,
) -> Result<(), Fault> {
    for _ in 0..ATTEMPTS {
        let (before, cart) = store.cart_work(order).await?;
        let is_settled = match reaction_to(signal, before.work) {
            Reaction::Do => {
                let lines = cart.ordered(&order.lines, order.said_at);
                store.take_lines(order, &cart, &lines, now).await?
            }
            Reaction::Undo => {
                let lines = cart.lacking(&before.taken);
                store.put_lines_back(order, &before, &cart, &lines, now).await?
            }
            Reaction::AnswerAgain => {
                let said = if signal == OrderSignal::Failed { "cart.restored" } else { "cart.cleared" };
                store.republish(&order.id, said, now).await?;
                true
            }
            Reaction::Nothing => true,
        };
        if is_settled {
            return Ok(());
        }
    }
    Err(Fault::contended("clearing a cart"))
}
