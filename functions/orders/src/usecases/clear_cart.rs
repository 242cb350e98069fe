//! An order takes its lines out of its user's cart, or it failed and gives them back. Do and undo are one function on
//! one queue: which arrives first, and how often, is not known.

use crate::domain::CartOrder;
use crate::ports::{KeepCart, Republish};
use contracts::Timestamp;
use contracts::choreography::{OrderSignal, Reaction, reaction_to};
use kit::Fault;

/// How often an order is decided again after the cart changed, or another event of the order came, in between.
const ATTEMPTS: u32 = 4;

/// Brings the cart to the state that the signal requires, exactly once for each order, and answers every delivery.
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
                let answer = if signal == OrderSignal::Failed { "cart.restored" } else { "cart.cleared" };
                store.republish(&order.id, answer, now).await?;
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
