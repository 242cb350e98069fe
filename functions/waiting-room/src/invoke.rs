//! Steps of other contexts that the waiting room asks for.

use crate::ports::ApplyPlan;
use contracts::ConcertId;
use contracts::admission::AdmissionPlan;
use contracts::steps::{ApplyAdmission, Opened};
use kit::Fault;
use kit::invoke::Step;

/// Reservations, which enforces the plan.
#[derive(Debug, Clone)]
pub struct Reservations {
    apply_admission: Step,
}

impl Reservations {
    /// Reservations behind its step `apply-admission`.
    pub fn new(apply_admission: Step) -> Self {
        Self { apply_admission }
    }
}

impl ApplyPlan for Reservations {
    async fn apply(&self, concert: &ConcertId, plan: &AdmissionPlan) -> Result<(), Fault> {
        let ask = ApplyAdmission { concert_id: concert.clone(), plan: plan.clone() };
        self.apply_admission.ask::<_, Opened>("applying an admission plan", &ask).await.map(|Opened {}| ())
    }
}
