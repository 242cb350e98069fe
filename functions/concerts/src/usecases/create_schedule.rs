//! An operator puts a date on sale.

use crate::domain::Schedule;
use crate::ports::{AddSchedule, NoSuchConcert, OpenSchedule};
use contracts::Timestamp;
use kit::Fault;
use kit::idempotency::{Memo, Outcome};

/// What is asked.
#[derive(Debug)]
pub struct CreateSchedule {
    /// The date, under the id it gets if it is made now.
    pub schedule: Schedule,
    /// What is remembered under the caller's key, if there is one.
    pub memo: Option<Memo>,
    /// When it was asked.
    pub now: Timestamp,
    /// The request.
    pub correlation_id: String,
}

/// Why not.
#[derive(Debug)]
pub enum CreateScheduleError {
    /// There is no such concert.
    NoSuchConcert,
    /// It starts before it could be sold.
    InThePast,
    /// The key was used for another request.
    KeyReused,
    /// The system failed.
    Fault(Fault),
}

/// Writes the date, has it opened for sale, and only then shows it.
///
/// The order carries two promises. The date's terms are here before a seat of it can be reserved, so the projection
/// never hears of a seat it cannot place. And a date that is listed can be bought. What fails in between is made up
/// for by the same request under the same key.
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
    // A repeated request may have been in time when it came first.
    let made = match &ask.memo {
        Some(memo) => catalogue.schedule_made(memo, ask.now).await.map_err(CreateScheduleError::Fault)?,
        None => Outcome::First,
    };
    if made == Outcome::First { Err(CreateScheduleError::InThePast) } else { Ok(made) }
}
