//! A plan changed: reservations enforces it. `set-admission` asks for the same while its caller waits; this is for the
//! one that died before it could.

use crate::ports::KeepTerms;
use contracts::events::EventBody;
use kit::Fault;
use kit::queue::Message;

/// Puts the plan in force, unless a newer one is.
pub async fn apply_admissions(store: &impl KeepTerms, message: Message) -> Result<(), Fault> {
    let event = message.event()?;
    let EventBody::AdmissionChanged(changed) = &event.body else {
        return Err(Fault::broken("applying a plan", "the message is no admission.changed"));
    };
    store.keep_plan(&changed.concert_id, &changed.plan).await
}
