//! What concerts needs from outside, one narrow trait per capability.

use crate::domain::{Concert, Date, DateKey, Schedule, SeatMap, SectionKey, SectionMap, Taken, Unmapped};
use contracts::{ConcertId, ScheduleId, Timestamp};
use kit::Fault;
use kit::http::Page;
use kit::idempotency::{Memo, Outcome};

/// There is no such concert. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoSuchConcert;

/// A part of a list, and the cursor behind its last row if there is more.
pub type Part<T> = (Vec<T>, Option<String>);

/// Writes concerts.
pub trait AddConcert: Send + Sync {
    /// Writes a concert and the key it was asked for under, together. Nobody is shown it yet.
    fn add_concert(
        &self,
        concert: &Concert,
        memo: Option<&Memo>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Outcome<Concert>, Fault>> + Send;

    /// Puts the concert into the catalogue; nothing changes if it is there.
    fn show_concert(&self, concert: &Concert) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Reads one concert.
pub trait FindConcert: Send + Sync {
    /// The concert, if there is one.
    fn concert(&self, id: &ConcertId) -> impl Future<Output = Result<Option<Concert>, Fault>> + Send;
}

/// Reads the catalogue.
pub trait ListConcerts: Send + Sync {
    /// Concerts, newest first.
    fn concerts(&self, page: &Page) -> impl Future<Output = Result<Part<Concert>, Fault>> + Send;
}

/// Writes dates.
pub trait AddSchedule: Send + Sync {
    /// Writes a date and the key it was asked for under, together. Nobody is shown it yet; its seats can be told of
    /// from here on.
    fn add_schedule(
        &self,
        schedule: &Schedule,
        memo: Option<&Memo>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Result<Outcome<Schedule>, NoSuchConcert>, Fault>> + Send;

    /// What was made, or not, under a key.
    fn schedule_made(
        &self,
        memo: &Memo,
        now: Timestamp,
    ) -> impl Future<Output = Result<Outcome<Schedule>, Fault>> + Send;

    /// Puts the date into its concert's list, with the event; nothing changes if it is there.
    fn show_schedule(
        &self,
        schedule: &Schedule,
        correlation_id: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Reads the dates of a concert.
pub trait ListDates: Send + Sync {
    /// Dates that start after `now`, soonest first; `None` when there is no such concert.
    fn dates(
        &self,
        concert: &ConcertId,
        now: Timestamp,
        page: &Page,
    ) -> impl Future<Output = Result<Option<Part<Date>>, Fault>> + Send;
}

/// Reads the seat map.
pub trait ReadSeatMap: Send + Sync {
    /// The map of a date, if there is such a date.
    fn seat_map(&self, schedule: &ScheduleId) -> impl Future<Output = Result<Option<SeatMap>, Fault>> + Send;
}

/// Keeps the seat map.
pub trait KeepSeatMap: Send + Sync {
    /// The maps of sections as they are now, in no order. A date or section that does not exist is left out.
    fn sections(&self, keys: &[SectionKey]) -> impl Future<Output = Result<Vec<SectionMap>, Fault>> + Send;

    /// Writes a section's next revision; `false`, and nothing written, if somebody else has.
    fn save(&self, map: &SectionMap) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Tells the list of dates how many seats are taken. A count of an older revision than the one there changes
    /// nothing.
    fn publish(&self, date: &DateKey, taken: &[Taken]) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Tells of seats that cannot be shown.
pub trait ReportUnmapped: Send + Sync {
    /// Puts the event into the outbox, once for each reservation.
    fn report_unmapped(&self, unmapped: &Unmapped, now: Timestamp) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Asks waiting-room to keep a line.
pub trait OpenWaitingRoom: Send + Sync {
    /// Returns once the line is open. Idempotent.
    fn open_waiting_room(&self, concert: &Concert) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Asks reservations to sell a date.
pub trait OpenSchedule: Send + Sync {
    /// Returns once its seats can be reserved. Idempotent.
    fn open_schedule(&self, schedule: &Schedule) -> impl Future<Output = Result<(), Fault>> + Send;
}
