//! The steps that other contexts do for this one, asked by invocation.

use crate::ports::{ApplyPlan, Publish};
use contracts::ConcertId;
use contracts::admission::AdmissionPlan;
use contracts::events::Event;
use contracts::steps::{ApplyAdmission, Opened};
use kit::Fault;
use kit::invoke::Step;
use kit::outbox::Bus;

impl ApplyPlan for Step {
    async fn apply(&self, concert: &ConcertId, plan: &AdmissionPlan) -> Result<(), Fault> {
        let input = ApplyAdmission { concert_id: concert.clone(), plan: plan.clone() };
        let Opened {} = self.ask("applying an admission plan", &input).await?;
        Ok(())
    }
}

impl Publish for Bus {
    async fn publish(&self, events: &[Event]) -> Result<(), Fault> {
        self.put_all(events).await
    }
}
