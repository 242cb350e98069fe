//! An operator puts a date on sale.

use crate::domain::Schedule;
use crate::ports::{AddSchedule, NoSuchConcert, OpenSchedule};
use contracts::Timestamp;
use kit::Fault;
use kit::idempotency::{Memo, Outcome};

/// A request to create a date.
#[derive(Debug)]
pub struct CreateSchedule {
    /// The date, with the id it gets if it is created now.
    pub schedule: Schedule,
    /// What is remembered under the caller's key, if there is one.
    pub memo: Option<Memo>,
    /// When the request arrived.
    pub now: Timestamp,
    pub correlation_id: String,
}

/// Why the date was not created.
#[derive(Debug)]
pub enum CreateScheduleError {
    /// The concert does not exist.
    NoSuchConcert,
    /// It starts in the past.
    InThePast,
    /// The key was used for another request.
    KeyReused,
    /// The system failed.
    Fault(Fault),
}

/// Writes the date, has it opened for sale, and only then lists it.
///
/// The order guarantees two things. The date's terms are stored here before a seat of it can be reserved, so the
/// projection never receives a seat it cannot place. And a listed date is on sale. If it fails in between, a retry
/// under the same key completes it.
pub async fn create_schedule(
    catalogue: &impl AddSchedule,
    sale: &impl OpenSchedule,
    ask: CreateSchedule,
) -> Result<Schedule, CreateScheduleError> {
    let schedule = match add(catalogue, &ask).await? {
        Outcome::First => ask.schedule.clone(),
        Outcome::Replay(first) => first,
        Outcome::Mismatch => return Err(CreateScheduleError::KeyReused),
    };
    sale.open_schedule(&schedule).await.map_err(CreateScheduleError::Fault)?;
    catalogue.show_schedule(&schedule, &ask.correlation_id, ask.now).await.map_err(CreateScheduleError::Fault)?;
    Ok(schedule)
}

async fn add(catalogue: &impl AddSchedule, ask: &CreateSchedule) -> Result<Outcome<Schedule>, CreateScheduleError> {
    if ask.schedule.starts_at > ask.now {
        let added = catalogue.add_schedule(&ask.schedule, ask.memo.as_ref(), ask.now).await;
        return added.map_err(CreateScheduleError::Fault)?.map_err(|NoSuchConcert| CreateScheduleError::NoSuchConcert);
    }
    // A retry may belong to a request that was in time.
    let made = match &ask.memo {
        Some(memo) => catalogue.schedule_made(memo, ask.now).await.map_err(CreateScheduleError::Fault)?,
        None => Outcome::First,
    };
    if made == Outcome::First { Err(CreateScheduleError::InThePast) } else { Ok(made) }
}
