//! Steps of other contexts, called by invocation, and the event bus.

use crate::ports::{ApplyPlan, EndVisit, Publish};
use contracts::admission::AdmissionPlan;
use contracts::events::Event;
use contracts::steps::{self, Applied, ApplyAdmission};
use contracts::{ConcertId, Timestamp, UserId};
use kit::Fault;
use kit::invoke::Function;
use kit::outbox::Bus;

/// The component that enforces admission plans.
#[derive(Debug)]
pub enum Enforcer {
    /// The context reservations, called with each plan.
    Reservations(Function),
    /// None in this system: the waiting room is deployed alone, and the seller checks the queue token's status.
    Nobody,
}

impl ApplyPlan for Enforcer {
    async fn apply(&self, concert: &ConcertId, plan: &AdmissionPlan) -> Result<(), Fault> {
        let Self::Reservations(step) = self else { return Ok(()) };
        let input = ApplyAdmission { concert_id: concert.clone(), plan: plan.clone() };
        let Applied {} = step.call_function("applying an admission plan", &input).await?;
        Ok(())
    }
}

impl EndVisit for Enforcer {
    async fn end_visit(&self, user: &UserId, concert: &ConcertId, at: Timestamp) -> Result<(), Fault> {
        let Self::Reservations(step) = self else { return Ok(()) };
        let input = steps::EndVisit { user_id: user.clone(), concert_id: concert.clone(), at };
        let Applied {} = step.call_function("ending a visit", &input).await?;
        Ok(())
    }
}

impl Publish for Bus {
    async fn publish(&self, events: &[Event]) -> Result<(), Fault> {
        self.put_all(events).await
    }
}
