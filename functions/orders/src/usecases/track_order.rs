//! Folds the participants' answers into the order: once all have done their part it is complete, once one has refused
//! it fails.

use crate::domain::{Answer, Verdict, fold};
use crate::ports::{EndOrder, KeepAnswers, SettleOrder};
use contracts::Timestamp;
use kit::{Fault, metrics};

/// Records an answer and acts on all answers so far. Every write is guarded, so the order of the answers and their
/// repetition make no difference, and one that comes after the end only changes the work state.
pub async fn track_order(
    orders: &(impl KeepAnswers + EndOrder + SettleOrder),
    answer: &Answer,
    now: Timestamp,
) -> Result<(), Fault> {
    let Some((order, state)) = orders.note_answer(answer).await? else {
        tracing::warn!(order = %answer.order, "an answer came after its order was forgotten");
        return Ok(());
    };
    match fold(&state) {
        Verdict::Wait => {}
        Verdict::Complete => {
            if orders.complete(&order, now).await? {
                metrics::count("OrdersCompleted", 1);
            }
        }
        Verdict::Fail(failure) => {
            if orders.fail(&order, &failure, now).await? {
                metrics::count("OrdersFailed", 1);
            }
        }
        Verdict::Settle => orders.settle(&order, now).await?,
    }
    Ok(())
}
