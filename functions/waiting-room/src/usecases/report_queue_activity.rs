//! Joins and status checks are told to whoever listens, after the fact (R17).

use crate::ports::Publish;
use contracts::events::Event;
use kit::Fault;

/// Publishes what happened. When the bus does not take it, the lines come again.
pub async fn report_queue_activity(bus: &impl Publish, events: Vec<Event>) -> Result<(), Fault> {
    bus.publish(&events).await
}
