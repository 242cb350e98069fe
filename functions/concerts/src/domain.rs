//! Concerts, dates, the terms a date is sold under, and the packed map of a section.

use contracts::seats::{MAX_SEATS_PER_SCHEDULE, SeatStatus, Section};
use contracts::steps::{OpenSchedule, TakenSeats};
use contracts::{ConcertId, Invalid, ReservationId, ScheduleId, SeatId, SectionName, Timestamp, UserId, Won};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The most characters in a title, artist or venue.
pub const MAX_LABEL: usize = 200;
/// The most characters in a grade.
pub const MAX_GRADE: usize = 40;
/// The highest price of a seat, in won.
pub const MAX_PRICE: i64 = 1_000_000_000;
/// The most sections of a date.
pub const MAX_SECTIONS: usize = 100;
/// The highest ticket limit per user and date: a reservation is one transaction.
pub const MAX_PER_USER: u32 = 90;
/// The longest hold, in seconds.
pub const MAX_HOLD_SECONDS: u32 = 3600;
/// How long a hold lasts if not given, in seconds.
pub const DEFAULT_HOLD_SECONDS: u32 = 300;

/// A display text: trimmed, 1 to `most` characters, no control characters.
pub fn label(what: &'static str, text: &str, most: usize) -> Result<String, Invalid> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Invalid::new(what, "must not be empty"));
    }
    if text.chars().count() > most {
        return Err(Invalid::new(what, "is too long"));
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid::new(what, "must not contain control characters"));
    }
    Ok(text.to_owned())
}

/// A concert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concert {
    pub id: ConcertId,
    pub title: String,
    pub artist: String,
    pub venue: String,
    /// When it was announced.
    pub created_at: Timestamp,
}

impl Concert {
    /// A concert announced now.
    pub fn new(id: ConcertId, title: &str, artist: &str, venue: &str, now: Timestamp) -> Result<Self, Invalid> {
        Ok(Self {
            id,
            title: label("title", title, MAX_LABEL)?,
            artist: label("artist", artist, MAX_LABEL)?,
            venue: label("venue", venue, MAX_LABEL)?,
            created_at: now,
        })
    }
}

/// A section of a date, as an operator describes it.
pub fn section(
    section: SectionName,
    grade: &str,
    price: i64,
    rows: u32,
    seats_per_row: u32,
) -> Result<Section, Invalid> {
    let grade = label("grade", grade, MAX_GRADE)?;
    let price = Won::new(price).ok().filter(|price| price.get() <= MAX_PRICE);
    let price = price.ok_or(Invalid::new("price", "must be 0 to 1000000000"))?;
    if rows == 0 || seats_per_row == 0 {
        return Err(Invalid::new("sections", "rows and seats_per_row must be 1 or more"));
    }
    Ok(Section::new(section, grade, price, rows, seats_per_row))
}

/// The terms under which a date is sold. They never change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    max_per_user: u32,
    hold_seconds: u32,
    sections: Vec<Section>,
    seats_total: u32,
}

impl Terms {
    /// Terms within every limit: 1 to [`MAX_SECTIONS`] sections of different names, 1 to
    /// [`MAX_SEATS_PER_SCHEDULE`] seats.
    pub fn new(max_per_user: u32, hold_seconds: u32, sections: Vec<Section>) -> Result<Self, Invalid> {
        if !(1..=MAX_PER_USER).contains(&max_per_user) {
            return Err(Invalid::new("max_per_user", "must be 1 to 90"));
        }
        if !(1..=MAX_HOLD_SECONDS).contains(&hold_seconds) {
            return Err(Invalid::new("hold_seconds", "must be 1 to 3600"));
        }
        if !(1..=MAX_SECTIONS).contains(&sections.len()) {
            return Err(Invalid::new("sections", "must be 1 to 100"));
        }
        let names: BTreeSet<&SectionName> = sections.iter().map(|section| &section.section).collect();
        if names.len() != sections.len() {
            return Err(Invalid::new("sections", "must have different names"));
        }
        let seats = |section: &Section| section.rows.checked_mul(section.seats_per_row).filter(|seats| *seats > 0);
        let seats_total = sections
            .iter()
            .try_fold(0_u32, |sum, section| sum.checked_add(seats(section)?))
            .filter(|seats| *seats <= MAX_SEATS_PER_SCHEDULE)
            .ok_or(Invalid::new("sections", "must have 1 to 100000 seats together"))?;
        Ok(Self { max_per_user, hold_seconds, sections, seats_total })
    }

    /// How many tickets one user may have.
    pub const fn max_per_user(&self) -> u32 {
        self.max_per_user
    }

    /// How long a hold lasts, in seconds.
    pub const fn hold_seconds(&self) -> u32 {
        self.hold_seconds
    }

    /// The sections, in the operator's order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The seats of all sections.
    pub const fn seats_total(&self) -> u32 {
        self.seats_total
    }
}

/// One date of a concert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub id: ScheduleId,
    pub concert: ConcertId,
    /// When it takes place.
    pub starts_at: Timestamp,
    /// How it is sold.
    pub terms: Terms,
    /// Until when a ticket can be refunded; until the start if `None`.
    pub refundable_until: Option<Timestamp>,
}

impl Schedule {
    /// Its key in the list of dates.
    pub fn date(&self) -> DateKey {
        DateKey { concert: self.concert.clone(), starts_at: self.starts_at, schedule: self.id.clone() }
    }

    /// The input with which reservations puts it on sale.
    pub fn on_sale(&self) -> OpenSchedule {
        let limits = (self.terms.max_per_user, self.terms.hold_seconds);
        let (id, concert, sections) = (self.id.clone(), self.concert.clone(), self.terms.sections.clone());
        let refundable_until = self.refundable_until;
        OpenSchedule { refundable_until, ..OpenSchedule::new(id, concert, self.starts_at, limits, sections) }
    }
}

/// The key of a date in the lists of dates: by concert, then by start.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DateKey {
    pub concert: ConcertId,
    /// When it takes place.
    pub starts_at: Timestamp,
    pub schedule: ScheduleId,
}

/// A row in the list of dates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Date {
    pub schedule: ScheduleId,
    /// When it takes place.
    pub starts_at: Timestamp,
    pub seats_total: u32,
    /// How many of them are neither held nor sold.
    pub seats_available: u32,
}

/// A section of a date.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SectionKey {
    pub schedule: ScheduleId,
    pub section: SectionName,
}

/// A position in the stream of seats. Later is greater, among the changes of one seat.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct StreamPosition(String);

impl StreamPosition {
    /// From a text that sorts in the order of the stream.
    pub fn from_sortable(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// That text; empty before the first change.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A change of a seat's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeatChange {
    pub key: SectionKey,
    pub seat: SeatId,
    pub status: SeatStatus,
    /// Its place in the order of the stream.
    pub position: StreamPosition,
    /// Who has or had the seat.
    pub holder: Holder,
}

/// The reservation and the user that have a seat.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    pub reservation: ReservationId,
    /// Its owner.
    pub user: UserId,
}

/// Seats of one reservation that the map can never show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmapped {
    pub holder: Holder,
    /// The date that they name.
    pub schedule: ScheduleId,
    pub seats: Vec<SeatId>,
}

/// The held and sold seats among `changes`, by reservation. A seat that became free needs no place in the map.
pub fn unmapped<'a>(changes: impl IntoIterator<Item = &'a SeatChange>) -> Vec<Unmapped> {
    let mut found: BTreeMap<&Holder, Unmapped> = BTreeMap::new();
    for change in changes {
        if change.status == SeatStatus::Available {
            continue;
        }
        let entry = found.entry(&change.holder).or_insert_with(|| Unmapped {
            holder: change.holder.clone(),
            schedule: change.key.schedule.clone(),
            seats: Vec::new(),
        });
        if !entry.seats.contains(&change.seat) {
            entry.seats.push(change.seat.clone());
        }
    }
    found.into_values().collect()
}

/// The states of a section's seats, 2 bits each, row by row, the first seat in the lowest bits of the first byte: 0
/// available, 1 held, 2 sold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedSeats {
    bytes: Vec<u8>,
    seats: u32,
}

/// The lower bit of each of four seats: held.
const HELD_BITS: u8 = 0b0101_0101;
/// The upper bit of each: sold.
const SOLD_BITS: u8 = 0b1010_1010;

impl PackedSeats {
    /// `seats` free seats.
    pub fn available(seats: u32) -> Self {
        Self { bytes: vec![0; seats.div_ceil(4) as usize], seats }
    }

    /// The bytes of `seats` seats, as returned by [`PackedSeats::as_bytes`].
    pub fn from_bytes(bytes: Vec<u8>, seats: u32) -> Result<Self, Invalid> {
        let wrong = |why| Err(Invalid::new("packed seats", why));
        if bytes.len() != seats.div_ceil(4) as usize {
            return wrong("have another length than their section");
        }
        if bytes.iter().any(|byte| byte & (byte >> 1) & HELD_BITS != 0) {
            return wrong("have a seat that is held and sold");
        }
        let unused = match seats % 4 {
            0 => 0,
            used => u8::MAX << (2 * used),
        };
        if bytes.last().is_some_and(|byte| byte & unused != 0) {
            return wrong("have more seats than their section");
        }
        Ok(Self { bytes, seats })
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The state of the seat at `index`; available beyond the last one.
    pub fn get(&self, index: u32) -> SeatStatus {
        let byte = self.bytes.get(index as usize / 4).copied().unwrap_or(0);
        match (byte >> (2 * (index % 4))) & 0b11 {
            0 => SeatStatus::Available,
            1 => SeatStatus::Held,
            _ => SeatStatus::Sold,
        }
    }

    /// Sets the state of the seat at `index`. Returns whether it changed; an index beyond the last seat changes
    /// nothing.
    pub fn set(&mut self, index: u32, status: SeatStatus) -> bool {
        if index >= self.seats || self.get(index) == status {
            return false;
        }
        let code = match status {
            SeatStatus::Available => 0,
            SeatStatus::Held => 1,
            SeatStatus::Sold => 2,
        };
        let Some(byte) = self.bytes.get_mut(index as usize / 4) else { return false };
        let shift = 2 * (index % 4);
        *byte = *byte & !(0b11 << shift) | code << shift;
        true
    }

    /// How many seats are held.
    pub fn held(&self) -> u32 {
        self.bytes.iter().map(|byte| (byte & HELD_BITS).count_ones()).sum()
    }

    /// How many seats are sold.
    pub fn sold(&self) -> u32 {
        self.bytes.iter().map(|byte| (byte & SOLD_BITS).count_ones()).sum()
    }

    /// How many seats are free.
    pub fn free(&self) -> u32 {
        self.seats - self.held() - self.sold()
    }
}

/// The map of one section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionMap {
    pub key: SectionKey,
    /// The key of its date in the list of dates.
    pub date: DateKey,
    pub section: Section,
    /// The states of its seats.
    pub seats: PackedSeats,
    /// Counts its writes; 0 before the first.
    pub rev: u64,
    /// The revision that it is written over; 0 when there is none.
    pub stored: u64,
    /// Until when a rebuild may be in progress: until then every batch counts as a write, also one that changes nothing,
    /// so that a rebuild which read the seats before it notices.
    pub rebuilt_until: Option<Timestamp>,
}

/// What a rebuild finds of a section.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its map, if it can be read; without revision if it has none.
    pub map: Option<SectionMap>,
    /// The revision to write over.
    pub stored: u64,
    /// The revision of its count in the list of dates.
    pub published: u64,
}

/// A part of the stream or of the map that cannot be read, so that the map does not follow the seats there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Which section, where that can be read.
    pub key: Option<SectionKey>,
    /// Why.
    pub why: String,
}

impl Unreadable {
    /// The section in words.
    pub fn place(&self) -> String {
        match &self.key {
            Some(SectionKey { schedule, section }) => format!("section {section} of date {schedule}"),
            None => "a section that cannot be told".to_owned(),
        }
    }
}

/// The outcome of applying changes to a section's map.
#[derive(Debug, Default)]
pub struct Applied {
    /// Whether the map changed and has the next revision.
    pub changed: bool,
    /// Changes of seats that the section does not have.
    pub unknown: Vec<SeatChange>,
}

impl SectionMap {
    /// Applies a batch of changes: the last one of each seat.
    ///
    /// A stream keeps the order of one seat's changes, and redelivers a batch before it continues; so a redelivery ends
    /// in the same map. There is no order between seats, not even within a section: a busy section's items may be
    /// spread over several shards of the stream, which are independent.
    pub fn apply(&mut self, changes: &[SeatChange]) -> Applied {
        let mut ordered: Vec<&SeatChange> = changes.iter().filter(|change| change.key == self.key).collect();
        ordered.sort_by(|a, b| a.position.cmp(&b.position));
        let mut outcome = Applied::default();
        let mut last: HashMap<u32, SeatStatus> = HashMap::new();
        for change in ordered {
            match self.section.index_of(&change.seat) {
                Some(index) => drop(last.insert(index, change.status)),
                None => outcome.unknown.push(change.clone()),
            }
        }
        for (index, status) in last {
            outcome.changed |= self.seats.set(index, status);
        }
        if outcome.changed {
            self.rev += 1;
        }
        outcome
    }

    /// Counts a batch that changed nothing, where a rebuild may be in progress. Whether it does.
    pub fn count_anyway(&mut self, now: Timestamp) -> bool {
        let counts = self.rebuilt_until.is_some_and(|until| now < until);
        self.rev += u64::from(counts);
        counts
    }

    /// The map of a section of a date by the seats as they are sold, to be written over what was found; and how many seats
    /// that differs from it in, if that could be read. Seats that the section does not have are left out.
    pub fn rebuilt(date: &Schedule, section: &Section, found: &Standing, taken: &TakenSeats) -> (Self, Option<u32>) {
        let mut seats = PackedSeats::available(section.seats());
        let held = taken.held.iter().map(|seat| (seat, SeatStatus::Held));
        for (seat, status) in held.chain(taken.sold.iter().map(|seat| (seat, SeatStatus::Sold))) {
            if let Some(index) = section.index_of(seat) {
                seats.set(index, status);
            }
        }
        let differs = found.map.as_ref().map(|map| {
            let differ = |index: &u32| map.seats.get(*index) != seats.get(*index);
            u32::try_from((0..section.seats()).filter(differ).count()).unwrap_or(u32::MAX)
        });
        let map = Self {
            key: SectionKey { schedule: date.id.clone(), section: section.section.clone() },
            date: date.date(),
            section: section.clone(),
            seats,
            // Later than the published count, or that would never be replaced.
            rev: found.stored.max(found.published).saturating_add(1),
            stored: found.stored,
            rebuilt_until: None,
        };
        (map, differs)
    }

    /// Its count for the list of dates.
    pub fn taken(&self) -> Taken {
        Taken { section: self.key.section.clone(), rev: self.rev, seats: self.seats.held() + self.seats.sold() }
    }
}

/// How many seats of a section are taken, at a revision of its map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub section: SectionName,
    pub rev: u64,
    /// Held and sold seats.
    pub seats: u32,
}

/// The map of a date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeatMap {
    pub schedule: ScheduleId,
    /// Its sections in the operator's order, with the states of their seats.
    pub sections: Vec<(Section, PackedSeats)>,
}

impl SeatMap {
    /// How many seats are free.
    pub fn seats_available(&self) -> u32 {
        self.sections.iter().map(|(_, seats)| seats.free()).sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn block(name: &str, rows: u32, seats_per_row: u32) -> Section {
        section(SectionName::parse(name).unwrap(), "VIP", 100_000, rows, seats_per_row).unwrap()
    }

    pub(crate) fn section_map(name: &str, rows: u32, seats_per_row: u32) -> SectionMap {
        let section = block(name, rows, seats_per_row);
        let schedule = ScheduleId::parse("s1").unwrap();
        SectionMap {
            key: SectionKey { schedule: schedule.clone(), section: section.section.clone() },
            date: DateKey { concert: ConcertId::parse("c1").unwrap(), starts_at: Timestamp::from_millis(1), schedule },
            seats: PackedSeats::available(section.seats()),
            section,
            rev: 0,
            stored: 0,
            rebuilt_until: None,
        }
    }

    pub(crate) fn change(seat: &str, status: SeatStatus, position: u32) -> SeatChange {
        let seat = SeatId::parse(seat).unwrap();
        SeatChange {
            key: SectionKey { schedule: ScheduleId::parse("s1").unwrap(), section: seat.section.clone() },
            seat,
            status,
            position: StreamPosition::from_sortable(format!("{position:0>48}")),
            holder: Holder { reservation: ReservationId::parse("r1").unwrap(), user: UserId::parse("alice").unwrap() },
        }
    }

    const STATES: [SeatStatus; 3] = [SeatStatus::Available, SeatStatus::Held, SeatStatus::Sold];

    #[test]
    fn a_label_is_trimmed_and_has_1_to_its_limit_of_characters() {
        assert_eq!(label("title", "  밤의 콘서트 ", 200).unwrap(), "밤의 콘서트");
        assert!(label("title", &"가".repeat(200), 200).is_ok());
        for bad in ["", "   ", "a\nb", "a\u{0}", &"가".repeat(201)] {
            assert!(label("title", bad, 200).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn terms_stay_within_their_limits() {
        let ok = || vec![block("A", 10, 10)];
        assert_eq!(Terms::new(1, 1, ok()).unwrap().seats_total(), 100);
        assert!(Terms::new(90, 3600, ok()).is_ok());
        for (per_user, hold) in [(0, 300), (91, 300), (4, 0), (4, 3601), (u32::MAX, u32::MAX)] {
            assert!(Terms::new(per_user, hold, ok()).is_err(), "{per_user} {hold}");
        }
        let many = |count| (0..count).map(|i| block(&format!("S{i}"), 1, 1)).collect::<Vec<_>>();
        assert!(Terms::new(4, 300, many(100)).is_ok());
        assert!(Terms::new(4, 300, many(101)).is_err());
        assert!(Terms::new(4, 300, Vec::new()).is_err());
        assert!(Terms::new(4, 300, vec![block("A", 1, 1), block("A", 2, 2)]).is_err());
    }

    #[test]
    fn a_date_has_at_most_100_000_seats_however_they_multiply() {
        let total = |sections: &[(u32, u32)]| {
            let sections = sections.iter().enumerate().map(|(i, (r, n))| block(&format!("S{i}"), *r, *n)).collect();
            Terms::new(4, 300, sections).map(|terms| terms.seats_total())
        };
        assert_eq!(total(&[(100_000, 1)]), Ok(100_000));
        assert_eq!(total(&[(50_000, 1), (1, 50_000)]), Ok(100_000));
        assert!(total(&[(100_000, 1), (1, 1)]).is_err());
        assert!(total(&[(65_536, 65_536)]).is_err(), "wraps around to nothing");
        assert!(total(&[(u32::MAX, 1), (1, 1)]).is_err(), "the sum wraps around");
        assert!(total(&[(u32::MAX, u32::MAX)]).is_err());
    }

    #[test]
    fn a_section_has_rows_seats_and_a_price_within_limits() {
        let with = |price, rows, seats| section(SectionName::parse("A").unwrap(), "R", price, rows, seats);
        assert!(with(0, 1, 1).is_ok());
        assert!(with(MAX_PRICE, 1, 1).is_ok());
        for (price, rows, seats) in [(-1, 1, 1), (MAX_PRICE + 1, 1, 1), (i64::MIN, 1, 1), (1, 0, 1), (1, 1, 0)] {
            assert!(with(price, rows, seats).is_err(), "{price} {rows} {seats}");
        }
    }

    #[test]
    fn bytes_that_no_section_can_have_are_refused() {
        assert!(PackedSeats::from_bytes(vec![0b10_01_00_10], 4).is_ok());
        assert!(PackedSeats::from_bytes(vec![0b00_11_00_00], 4).is_err(), "held and sold");
        assert!(PackedSeats::from_bytes(vec![0b01_00_00_00], 3).is_err(), "a fourth seat");
        assert!(PackedSeats::from_bytes(vec![0, 0], 4).is_err(), "too long");
        assert!(PackedSeats::from_bytes(vec![], 1).is_err(), "too short");
    }

    #[test]
    fn the_largest_section_stays_far_below_the_limit_of_an_item() {
        assert_eq!(PackedSeats::available(MAX_SEATS_PER_SCHEDULE).as_bytes().len(), 25_000);
    }

    #[test]
    fn a_change_that_changes_nothing_costs_no_write() {
        let mut map = section_map("A", 1, 1);
        assert!(map.apply(&[change("A-1-1", SeatStatus::Held, 1)]).changed);
        let held = map.clone();
        assert!(!map.apply(&[change("A-1-1", SeatStatus::Held, 2)]).changed, "it is being paid");
        assert_eq!(map, held);
    }

    #[test]
    fn a_seat_taken_and_freed_within_a_batch_costs_no_write() {
        let mut map = section_map("A", 1, 1);
        let batch = [change("A-1-1", SeatStatus::Held, 1), change("A-1-1", SeatStatus::Available, 2)];
        assert!(!map.apply(&batch).changed);
        assert_eq!(map.seats.free(), 1);
    }

    #[test]
    fn seats_of_one_section_may_be_delivered_by_independent_shards() {
        let mut map = section_map("A", 2, 1);
        map.apply(&[change("A-1-1", SeatStatus::Held, 9)]);
        map.apply(&[change("A-2-1", SeatStatus::Sold, 3)]);
        assert_eq!((map.seats.get(0), map.seats.get(1)), (SeatStatus::Held, SeatStatus::Sold));
    }

    #[test]
    fn a_seat_that_does_not_exist_changes_nothing() {
        let mut map = section_map("A", 2, 2);
        let outcome = map.apply(&[change("A-3-1", SeatStatus::Sold, 1), change("B-1-1", SeatStatus::Sold, 2)]);
        assert!(!outcome.changed);
        assert_eq!(outcome.unknown.len(), 1, "another section's seat is none of its business");
    }

    proptest! {
        #[test]
        fn unpacking_is_the_inverse_of_packing(states in prop::collection::vec(0..3_usize, 0..500)) {
            let mut packed = PackedSeats::available(states.len() as u32);
            for (index, state) in states.iter().enumerate() {
                packed.set(index as u32, STATES[*state]);
            }
            let packed = PackedSeats::from_bytes(packed.as_bytes().to_vec(), states.len() as u32).unwrap();
            for (index, state) in states.iter().enumerate() {
                prop_assert_eq!(packed.get(index as u32), STATES[*state]);
            }
            let count = |state| states.iter().filter(|other| **other == state).count() as u32;
            prop_assert_eq!((packed.free(), packed.held(), packed.sold()), (count(0), count(1), count(2)));
        }

        #[test]
        fn however_batches_are_cut_and_repeated_the_map_ends_the_same(
            changes in prop::collection::vec((1..=3_u32, 1..=3_u32, 0..3_usize), 1..40),
            cuts in prop::collection::vec((0..40_usize, 0..40_usize), 0..20),
        ) {
            let changes: Vec<SeatChange> = changes
                .iter()
                .enumerate()
                .map(|(at, (row, number, state))| change(&format!("A-{row}-{number}"), STATES[*state], at as u32 + 1))
                .collect();
            let mut once = section_map("A", 3, 3);
            once.apply(&changes);
            let mut often = section_map("A", 3, 3);
            let mut delivered = 0;
            for (from, to) in cuts.into_iter().chain([(0, changes.len())]) {
                // A stream delivers everything in order, and may redeliver from any earlier point.
                let to = to.min(changes.len());
                let from = from.min(delivered).min(to);
                often.apply(&changes[from..to]);
                delivered = delivered.max(to);
            }
            prop_assert_eq!(once.seats, often.seats);
        }
    }
}
