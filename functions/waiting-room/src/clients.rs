//! The steps that other contexts do for this one, asked by invocation.

use crate::ports::{ApplyPlan, Publish};
use contracts::ConcertId;
use contracts::admission::AdmissionPlan;
use contracts::events::Event;
use contracts::steps::{ApplyAdmission, Opened};
use kit::Fault;
use kit::invoke::Step;
use kit::outbox::Bus;

/// Who enforces admission plans.
#[derive(Debug)]
pub enum Enforcer {
    /// The context reservations, which is asked to.
    Reservations(Step),
    /// Nobody in this system: the waiting room is deployed alone, and whoever sells asks for the queue token's status.
    Nobody,
}

impl ApplyPlan for Enforcer {
    async fn apply(&self, concert: &ConcertId, plan: &AdmissionPlan) -> Result<(), Fault> {
        let Self::Reservations(step) = self else { return Ok(()) };
        let input = ApplyAdmission { concert_id: concert.clone(), plan: plan.clone() };
        let Opened {} = step.ask("applying an admission plan", &input).await?;
        Ok(())
    }
}

impl Publish for Bus {
    async fn publish(&self, events: &[Event]) -> Result<(), Fault> {
        self.put_all(events).await
    }
}
