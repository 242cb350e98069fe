//! The ports of concerts, one narrow trait per capability.

use crate::domain::{
    Concert, Date, DateKey, Schedule, SeatMap, SectionKey, SectionMap, Standing, Taken, Unmapped, Unreadable,
};
use contracts::steps::TakenSeats;
use contracts::{ConcertId, ScheduleId, Timestamp};
use kit::Fault;
use kit::http::Page;
use kit::idempotency::{Memo, Outcome};

/// The concert does not exist. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoSuchConcert;

/// A part of a list, and the cursor after its last row if there are more.
pub type Part<T> = (Vec<T>, Option<String>);

/// Writes concerts.
pub trait AddConcert: Send + Sync {
    /// Writes a concert and the memo of its request together. It is not listed yet.
    fn add_concert(
        &self,
        concert: &Concert,
        memo: Option<&Memo>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Outcome<Concert>, Fault>> + Send;

    /// Puts the concert into the catalogue. Idempotent.
    fn show_concert(&self, concert: &Concert) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Reads one concert.
pub trait FindConcert: Send + Sync {
    /// The concert, if it exists.
    fn concert(&self, id: &ConcertId) -> impl Future<Output = Result<Option<Concert>, Fault>> + Send;
}

/// Reads the catalogue.
pub trait ListConcerts: Send + Sync {
    /// A page of concerts, newest first.
    fn concerts(&self, page: &Page) -> impl Future<Output = Result<Part<Concert>, Fault>> + Send;
}

/// Writes dates.
pub trait AddSchedule: Send + Sync {
    /// Writes a date and the memo of its request together. It is not listed yet; its seats can be projected from here
    /// on.
    fn add_schedule(
        &self,
        schedule: &Schedule,
        memo: Option<&Memo>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Result<Outcome<Schedule>, NoSuchConcert>, Fault>> + Send;

    /// The date created under a key, if any.
    fn schedule_made(
        &self,
        memo: &Memo,
        now: Timestamp,
    ) -> impl Future<Output = Result<Outcome<Schedule>, Fault>> + Send;

    /// Puts the date into its concert's list, with its event. Idempotent: a repeat publishes the same event again.
    fn show_schedule(
        &self,
        schedule: &Schedule,
        correlation_id: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Reads the dates of a concert.
pub trait ListDates: Send + Sync {
    /// A page of dates that start after `now`, soonest first; `None` when the concert does not exist.
    fn dates(
        &self,
        concert: &ConcertId,
        now: Timestamp,
        page: &Page,
    ) -> impl Future<Output = Result<Option<Part<Date>>, Fault>> + Send;
}

/// Reads the seat map.
pub trait ReadSeatMap: Send + Sync {
    /// The map of a date, if the date exists.
    fn seat_map(&self, schedule: &ScheduleId) -> impl Future<Output = Result<Option<SeatMap>, Fault>> + Send;
}

/// Keeps the seat map.
pub trait KeepSeatMap: Send + Sync {
    /// The current maps of sections, in no order. A date or section that does not exist is left out.
    fn sections(&self, keys: &[SectionKey]) -> impl Future<Output = Result<Sections, Fault>> + Send;

    /// Writes a section over the revision it was read at; `false`, and nothing written, if another writer has written it
    /// since.
    fn save(&self, map: &SectionMap) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Writes how many seats are taken into the list of dates. A count of an older revision than the stored one changes
    /// nothing.
    fn publish(&self, date: &DateKey, taken: &[Taken]) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// The maps of sections.
#[derive(Debug, Default)]
pub struct Sections {
    pub maps: Vec<SectionMap>,
    /// Those that cannot be read. Only a rebuild mends them; they must not keep the others from following the seats.
    pub broken: Vec<(SectionKey, Fault)>,
}

/// Reads what a rebuild of the seat map starts from.
pub trait PrepareRebuild: Send + Sync {
    /// Has every batch of the stream count as a write of its sections until then. The date, if it exists.
    fn watch_date(
        &self,
        schedule: &ScheduleId,
        until: Timestamp,
    ) -> impl Future<Output = Result<Option<Schedule>, Fault>> + Send;

    /// What there is of a section.
    fn standing(&self, date: &Schedule, key: &SectionKey) -> impl Future<Output = Result<Standing, Fault>> + Send;
}

/// Asks reservations for the seats as they are sold.
pub trait AskTakenSeats: Send + Sync {
    /// The seats of a section that are not free.
    fn ask_taken_seats(&self, key: &SectionKey) -> impl Future<Output = Result<TakenSeats, Fault>> + Send;
}

/// Pages the on-call about what the map does not follow.
pub trait ReportUnreadable: Send + Sync {
    /// Puts the event into the outbox, under one id for each section and hour.
    fn report_unreadable(
        &self,
        unreadable: &Unreadable,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Reports seats that cannot be shown.
pub trait ReportUnmapped: Send + Sync {
    /// Puts the event into the outbox, under one id per reservation.
    fn report_unmapped(&self, unmapped: &Unmapped, now: Timestamp) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Has waiting-room open a line.
pub trait OpenWaitingRoom: Send + Sync {
    /// Returns once the line is open. Idempotent.
    fn open_waiting_room(&self, concert: &Concert) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Has reservations put a date on sale.
pub trait OpenSchedule: Send + Sync {
    /// Returns once its seats can be reserved. Idempotent.
    fn open_schedule(&self, schedule: &Schedule) -> impl Future<Output = Result<(), Fault>> + Send;
}
