//! Handlers: translate HTTP requests and stream records into use cases, and their outcomes into answers.

use crate::domain::{
    self, Concert, DEFAULT_HOLD_SECONDS, Date, Holder, PackedSeats, Schedule, SeatChange, SeatMap, SectionKey,
    StreamPosition, Terms, Unreadable,
};
use crate::ports::{
    AddConcert, AddSchedule, AskTakenSeats, FindConcert, KeepSeatMap, ListConcerts, ListDates, OpenSchedule,
    OpenWaitingRoom, PrepareRebuild, ReadSeatMap, ReportUnmapped, ReportUnreadable,
};
use crate::usecases::create_concert::{self, CreateConcert, CreateConcertError};
use crate::usecases::create_schedule::{self, CreateSchedule, CreateScheduleError};
use crate::usecases::project_seat_map;
use crate::usecases::rebuild_seat_map::{self, Rebuilt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contracts::seats::{SeatStatus, Section, stream};
use contracts::{ConcertId, Invalid, ScheduleId, SeatId, SectionName, Timestamp, UserId, Won};
use kit::auth::UserTokens;
use kit::dynamo::{Item, Read};
use kit::http::{Cursor, ListBody};
use kit::idempotency::{self, IdempotencyKey, Memo, StoredAnswer};
use kit::ids::Mint;
use kit::stream::{Change, Record};
use kit::sweep::Budget;
use kit::{Call, Fault, Problem, Reply, Tick};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a rebuild begins sections: what is left goes into the answer, well within the API's 29 s.
const REBUILD_TIME: Duration = Duration::from_secs(12);

/// Dependencies of the handlers for operators. The public ones need only the store.
#[derive(Debug)]
pub struct Deps<C, N> {
    /// The store of concerts and dates.
    pub catalogue: C,
    /// The step of another context that opens the line or the sale.
    pub step: N,
    pub users: UserTokens,
}

/// Dependencies of `rebuild-seat-map`.
#[derive(Debug)]
pub struct RebuildDeps<M, N> {
    /// The store of seat maps.
    pub maps: M,
    /// The step of reservations that lists taken seats.
    pub seats: N,
    pub users: UserTokens,
}

#[derive(Debug, Serialize)]
struct ConcertBody {
    concert_id: ConcertId,
    title: String,
    artist: String,
    venue: String,
}

impl From<Concert> for ConcertBody {
    fn from(concert: Concert) -> Self {
        let Concert { id, title, artist, venue, .. } = concert;
        Self { concert_id: id, title, artist, venue }
    }
}

/// `GET /concerts`
pub async fn list_concerts(catalogue: &impl ListConcerts, call: Call) -> Result<Reply, Problem> {
    let (concerts, next) = catalogue.concerts(&call.page()?).await?;
    Reply::ok(ListBody {
        items: concerts.into_iter().map(ConcertBody::from).collect(),
        next_cursor: next.map(|key| Cursor::seal(&key)),
    })
}

/// `GET /concerts/{concert_id}`
pub async fn get_concert(catalogue: &impl FindConcert, call: Call) -> Result<Reply, Problem> {
    let id: ConcertId = call.path_id("concert_id")?;
    let concert = catalogue.concert(&id).await?.ok_or_else(no_such_concert)?;
    Reply::ok(ConcertBody::from(concert))
}

fn no_such_concert() -> Problem {
    Problem::not_found("no such concert")
}

#[derive(Debug, Serialize)]
struct DateBody {
    schedule_id: ScheduleId,
    #[serde(with = "contracts::time::rfc3339")]
    starts_at: Timestamp,
    seats_total: u32,
    seats_available: u32,
}

impl From<Date> for DateBody {
    fn from(date: Date) -> Self {
        let Date { schedule, starts_at, seats_total, seats_available } = date;
        Self { schedule_id: schedule, starts_at, seats_total, seats_available }
    }
}

/// `GET /concerts/{concert_id}/schedules`
pub async fn list_schedules(catalogue: &impl ListDates, call: Call) -> Result<Reply, Problem> {
    let id: ConcertId = call.path_id("concert_id")?;
    let (dates, next) = catalogue.dates(&id, call.now, &call.page()?).await?.ok_or_else(no_such_concert)?;
    Reply::ok(ListBody {
        items: dates.into_iter().map(DateBody::from).collect(),
        next_cursor: next.map(|key| Cursor::seal(&key)),
    })
}

/// `GET /schedules/{schedule_id}/seats`: every seat by name, or with `?view=packed` the same in 2 bits per seat.
pub async fn get_seat_map(maps: &impl ReadSeatMap, call: Call) -> Result<Reply, Problem> {
    let id: ScheduleId = call.path_id("schedule_id")?;
    let view = match call.query.get("view").map(String::as_str) {
        None | Some("seats") => named_seats,
        Some("packed") => packed_seats,
        Some(_) => return Err(Problem::invalid("view: must be seats or packed")),
    };
    let map = maps.seat_map(&id).await?.ok_or_else(|| Problem::not_found("no such date"))?;
    Ok(Reply::ok_text(seat_map_text(&map, view)?))
}

/// Writes the seats into a section's object.
type View = fn(&Section, &PackedSeats, &mut String);

/// The answer's JSON, written directly into a string: a tree of 100,000 objects would cost ten times the memory and
/// time. The types of section names and ids allow no characters that need escaping, so seat ids are written as they
/// are.
fn seat_map_text(map: &SeatMap, view: View) -> Result<String, Fault> {
    let mut text = String::with_capacity(256 + map.sections.len() * 128);
    text.push_str(r#"{"schedule_id":"#);
    text.push_str(&quoted(map.schedule.as_str())?);
    text.push_str(r#","seats_available":"#);
    text.push_str(&map.seats_available().to_string());
    text.push_str(r#","sections":["#);
    for (index, (section, seats)) in map.sections.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(r#"{"section":"#);
        text.push_str(&quoted(section.section.as_str())?);
        text.push_str(r#","grade":"#);
        text.push_str(&quoted(&section.grade)?);
        text.push_str(r#","price":"#);
        text.push_str(&section.price.to_string());
        view(section, seats, &mut text);
        text.push('}');
    }
    text.push_str("]}");
    Ok(text)
}

fn quoted(text: &str) -> Result<String, Fault> {
    serde_json::to_string(text).map_err(|error| Fault::broken("writing an answer", error))
}

/// `seats`: a list of `seat_id` and `status`.
fn named_seats(section: &Section, seats: &PackedSeats, text: &mut String) {
    let numbers: Vec<String> = (1..=section.seats_per_row).map(|number| number.to_string()).collect();
    text.reserve(section.seats() as usize * 56);
    text.push_str(r#","seats":["#);
    let mut index = 0;
    for row in 1..=section.rows {
        let start = format!(r#"{{"seat_id":"{}-{row}-"#, section.section);
        for number in &numbers {
            if index > 0 {
                text.push(',');
            }
            text.push_str(&start);
            text.push_str(number);
            text.push_str(match seats.get(index) {
                SeatStatus::Available => r#"","status":"available"}"#,
                SeatStatus::Held => r#"","status":"held"}"#,
                SeatStatus::Sold => r#"","status":"sold"}"#,
            });
            index += 1;
        }
    }
    text.push(']');
}

/// `rows`, `seats_per_row` and `packed`: base64 of 2 bits per seat, row by row, the first seat in the lowest bits of
/// the first byte; 0 available, 1 held, 2 sold.
fn packed_seats(section: &Section, seats: &PackedSeats, text: &mut String) {
    let (rows, seats_per_row) = (section.rows, section.seats_per_row);
    text.push_str(&format!(r#","rows":{rows},"seats_per_row":{seats_per_row},"packed":""#));
    STANDARD.encode_string(seats.as_bytes(), text);
    text.push('"');
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewConcertBody {
    title: String,
    artist: String,
    venue: String,
}

/// What a creating request stores under its key: the id. A replay reads the answer again by it.
fn memo(user: UserId, key: IdempotencyKey, id: &(impl ToString + Serialize)) -> Memo {
    Memo { user, key, about: id.to_string(), answer: StoredAnswer::created(id) }
}

/// `POST /admin/concerts`
pub async fn create_concert<C, N>(deps: &Deps<C, N>, call: Call) -> Result<Reply, Problem>
where
    C: AddConcert,
    N: OpenWaitingRoom,
{
    let caller = deps.users.operator(&call)?;
    let key = IdempotencyKey::of(&call, "POST /admin/concerts")?;
    let body: NewConcertBody = call.json()?;
    let concert = Concert::new(ConcertId::mint(call.now), &body.title, &body.artist, &body.venue, call.now)?;
    let memo = key.map(|key| memo(caller.user, key, &concert.id));
    let ask = CreateConcert { concert, memo, now: call.now };
    let concert = create_concert::create_concert(&deps.catalogue, &deps.step, ask).await?;
    Reply::created(ConcertBody::from(concert))
}

impl From<CreateConcertError> for Problem {
    fn from(error: CreateConcertError) -> Self {
        match error {
            CreateConcertError::KeyReused => idempotency::reused(),
            CreateConcertError::Fault(fault) => fault.into(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewScheduleBody {
    #[serde(with = "contracts::time::rfc3339")]
    starts_at: Timestamp,
    max_per_user: u32,
    #[serde(default = "default_hold_seconds")]
    hold_seconds: u32,
    /// Until the start if not given.
    #[serde(default, with = "contracts::time::rfc3339::option")]
    refundable_until: Option<Timestamp>,
    sections: Vec<NewSectionBody>,
}

fn default_hold_seconds() -> u32 {
    DEFAULT_HOLD_SECONDS
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSectionBody {
    section: SectionName,
    grade: String,
    price: i64,
    rows: u32,
    seats_per_row: u32,
}

impl TryFrom<NewSectionBody> for Section {
    type Error = Invalid;
    fn try_from(body: NewSectionBody) -> Result<Self, Invalid> {
        domain::section(body.section, &body.grade, body.price, body.rows, body.seats_per_row)
    }
}

#[derive(Debug, Serialize)]
struct ScheduleBody {
    schedule_id: ScheduleId,
    concert_id: ConcertId,
    #[serde(with = "contracts::time::rfc3339")]
    starts_at: Timestamp,
    max_per_user: u32,
    hold_seconds: u32,
    seats_total: u32,
    #[serde(with = "contracts::time::rfc3339")]
    refundable_until: Timestamp,
    sections: Vec<SectionBody>,
}

#[derive(Debug, Serialize)]
struct SectionBody {
    section: SectionName,
    grade: String,
    price: Won,
    rows: u32,
    seats_per_row: u32,
}

impl From<Schedule> for ScheduleBody {
    fn from(schedule: Schedule) -> Self {
        let Schedule { id, concert, starts_at, terms, refundable_until } = schedule;
        Self {
            schedule_id: id,
            concert_id: concert,
            starts_at,
            max_per_user: terms.max_per_user(),
            hold_seconds: terms.hold_seconds(),
            seats_total: terms.seats_total(),
            refundable_until: refundable_until.unwrap_or(starts_at),
            sections: terms.sections().iter().map(SectionBody::from).collect(),
        }
    }
}

impl From<&Section> for SectionBody {
    fn from(section: &Section) -> Self {
        Self {
            section: section.section.clone(),
            grade: section.grade.clone(),
            price: section.price,
            rows: section.rows,
            seats_per_row: section.seats_per_row,
        }
    }
}

/// `POST /admin/concerts/{concert_id}/schedules`
pub async fn create_schedule<C, N>(deps: &Deps<C, N>, call: Call) -> Result<Reply, Problem>
where
    C: AddSchedule,
    N: OpenSchedule,
{
    let caller = deps.users.operator(&call)?;
    let concert: ConcertId = call.path_id("concert_id")?;
    let key = IdempotencyKey::of(&call, &format!("POST /admin/concerts/{concert}/schedules"))?;
    let body: NewScheduleBody = call.json()?;
    if body.refundable_until.is_some_and(|until| until > body.starts_at) {
        return Err(Invalid::new("refundable_until", "must not be after starts_at").into());
    }
    let sections = body.sections.into_iter().map(Section::try_from).collect::<Result<Vec<_>, _>>()?;
    let schedule = Schedule {
        id: ScheduleId::mint(call.now),
        concert,
        starts_at: body.starts_at,
        terms: Terms::new(body.max_per_user, body.hold_seconds, sections)?,
        refundable_until: body.refundable_until,
    };
    let memo = key.map(|key| memo(caller.user, key, &schedule.id));
    let ask = CreateSchedule { schedule, memo, now: call.now, correlation_id: call.request_id.clone() };
    let schedule = create_schedule::create_schedule(&deps.catalogue, &deps.step, ask).await?;
    Reply::created(ScheduleBody::from(schedule))
}

impl From<CreateScheduleError> for Problem {
    fn from(error: CreateScheduleError) -> Self {
        match error {
            CreateScheduleError::NoSuchConcert => no_such_concert(),
            CreateScheduleError::InThePast => Invalid::new("starts_at", "must be in the future").into(),
            CreateScheduleError::KeyReused => idempotency::reused(),
            CreateScheduleError::Fault(fault) => fault.into(),
        }
    }
}

#[derive(Debug, Serialize)]
struct RebuiltBody {
    schedule_id: ScheduleId,
    sections: usize,
    corrected: BTreeSet<SectionName>,
    left: BTreeSet<SectionName>,
}

/// `POST /admin/schedules/{schedule_id}/seat-map`
pub async fn rebuild_seat_map<M, N>(deps: &RebuildDeps<M, N>, call: Call) -> Result<Reply, Problem>
where
    M: KeepSeatMap + PrepareRebuild,
    N: AskTakenSeats,
{
    let caller = deps.users.operator(&call)?;
    let schedule: ScheduleId = call.path_id("schedule_id")?;
    let tick = Tick { now: call.now, budget: Budget::of(REBUILD_TIME) };
    let rebuilt = rebuild_seat_map::rebuild_seat_map(&deps.maps, &deps.seats, &schedule, &tick).await?;
    let Rebuilt { sections, corrected, left } = rebuilt.ok_or_else(|| Problem::not_found("no such date"))?;
    let (actor, date) = (caller.user.as_str(), schedule.as_str());
    let (corrections, rest) = (corrected.len(), left.len());
    tracing::info!(actor, schedule = date, sections, corrections, left = rest, "a seat map was rebuilt");
    Reply::ok(RebuiltBody { schedule_id: schedule, sections, corrected, left })
}

/// Consumes the stream of the reservations table. A malformed seat is skipped and reported: it must not block the others.
pub async fn project_seat_map(
    maps: &(impl KeepSeatMap + ReportUnmapped + ReportUnreadable),
    records: Vec<Record>,
) -> Result<(), Fault> {
    let mut changes = Vec::with_capacity(records.len());
    let mut unreadable = Vec::new();
    for record in &records {
        match seat_change(record) {
            Ok(change) => changes.extend(change),
            Err(fault) => {
                tracing::error!(sequence = record.sequence.sortable(), error = fault.chain(), "a malformed seat");
                unreadable.push(Unreadable { key: section_of(record), why: fault.chain() });
            }
        }
    }
    project_seat_map::project_seat_map(maps, changes, unreadable, kit::now()).await
}

/// The section of a seat that cannot be read as a whole.
fn section_of(record: &Record) -> Option<SectionKey> {
    let item = record.new.as_ref().or(record.old.as_ref())?;
    let seat: SeatId = item.parsed(stream::SEAT_ID).ok()?;
    Some(SectionKey { schedule: item.parsed(stream::SCHEDULE_ID).ok()?, section: seat.section })
}

/// The seat change in a record; `None` when the record is of another kind of item.
fn seat_change(record: &Record) -> Result<Option<SeatChange>, Fault> {
    let removed = record.change == Change::Remove;
    let image: Option<&Item> = if removed { record.old.as_ref() } else { record.new.as_ref() };
    let item = image.ok_or_else(|| Fault::broken("reading a seat", "the stream does not carry both images"))?;
    if item.text(stream::KIND).ok() != Some(stream::KIND_SEAT) {
        return Ok(None);
    }
    let status = match item.text(stream::STATUS)? {
        _ if removed => SeatStatus::Available,
        stream::HELD | stream::PAYING => SeatStatus::Held,
        stream::SOLD => SeatStatus::Sold,
        _ => return Err(Fault::broken("reading a seat", "its status is unknown")),
    };
    let seat: SeatId = item.parsed(stream::SEAT_ID)?;
    Ok(Some(SeatChange {
        key: SectionKey { schedule: item.parsed(stream::SCHEDULE_ID)?, section: seat.section.clone() },
        seat,
        status,
        position: StreamPosition::from_sortable(record.sequence.sortable()),
        holder: Holder { reservation: item.parsed(stream::RESERVATION_ID)?, user: item.parsed(stream::USER_ID)? },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tests::block;
    use kit::dynamo::s;
    use kit::stream::Sequence;
    use serde_json::{Value, json};

    /// The size limit of a Lambda answer: <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>.
    const LAMBDA_ANSWER_BYTES: usize = 6 * 1024 * 1024;

    fn map(sections: Vec<Section>) -> SeatMap {
        let sections = sections.into_iter().map(|section| {
            let seats = PackedSeats::available(section.seats());
            (section, seats)
        });
        SeatMap { schedule: ScheduleId::parse("0".repeat(64)).unwrap(), sections: sections.collect() }
    }

    fn json_of(map: &SeatMap, view: View) -> Value {
        serde_json::from_str(&seat_map_text(map, view).unwrap()).unwrap()
    }

    #[test]
    fn a_seat_map_names_every_seat_and_its_state() {
        let mut map = map(vec![block("A", 2, 2), block("R2", 1, 1)]);
        map.sections[0].0.grade = r#"V"I\P 석"#.to_owned();
        map.sections[0].1.set(1, SeatStatus::Held);
        map.sections[0].1.set(2, SeatStatus::Sold);
        let seat = |id, status| json!({"seat_id": id, "status": status});
        assert_eq!(
            json_of(&map, named_seats),
            json!({"schedule_id": "0".repeat(64), "seats_available": 3, "sections": [
                {"section": "A", "grade": r#"V"I\P 석"#, "price": 100_000, "seats": [
                    seat("A-1-1", "available"), seat("A-1-2", "held"), seat("A-2-1", "sold"), seat("A-2-2", "available")
                ]},
                {"section": "R2", "grade": "VIP", "price": 100_000, "seats": [seat("R2-1-1", "available")]},
            ]})
        );
    }

    #[test]
    fn the_packed_view_has_the_same_states() {
        let mut map = map(vec![block("A", 1, 5)]);
        map.sections[0].1.set(1, SeatStatus::Held);
        map.sections[0].1.set(4, SeatStatus::Sold);
        let answer = json_of(&map, packed_seats);
        assert_eq!((&answer["seats_available"], &answer["sections"][0]["seats_per_row"]), (&json!(3), &json!(5)));
        let bytes = STANDARD.decode(answer["sections"][0]["packed"].as_str().unwrap()).unwrap();
        assert_eq!(bytes, [0b00_00_01_00, 0b10]);
    }

    #[test]
    fn the_largest_map_of_the_longest_names_fits_into_an_answer() {
        let largest = [
            map(vec![block("SECTION1", 100_000, 1)]),
            map((0..100)
                .map(|i| Section { grade: "\"".repeat(40), ..block(&format!("SECTIO{i:02}"), 1_000, 1) })
                .collect()),
        ];
        for map in largest {
            let text = seat_map_text(&map, named_seats).unwrap();
            // The answer is sent as a JSON string in a JSON document: every quote and backslash is escaped once more.
            let sent = serde_json::to_string(&text).unwrap().len();
            assert!(sent + 4_096 < LAMBDA_ANSWER_BYTES, "{sent}");
        }
    }

    #[test]
    fn a_map_of_50_000_seats_packs_into_17_kilobytes() {
        let map = map((0..10).map(|i| block(&format!("S{i}"), 50, 100)).collect());
        assert!(seat_map_text(&map, packed_seats).unwrap().len() < 18_000);
    }

    fn record(change: Change, status: &str) -> Record {
        let item = Item::from(
            [
                (stream::KIND, stream::KIND_SEAT),
                (stream::SCHEDULE_ID, "s1"),
                (stream::SEAT_ID, "A-1-2"),
                (stream::STATUS, status),
                (stream::RESERVATION_ID, "r1"),
                (stream::USER_ID, "alice"),
            ]
            .map(|(name, value)| (name.to_owned(), s(value))),
        );
        let (new, old) = if change == Change::Remove { (None, Some(item)) } else { (Some(item), None) };
        Record { change, new, old, sequence: Sequence::new("7") }
    }

    #[test]
    fn a_seat_shows_as_held_while_it_is_paid_and_free_once_its_item_is_gone() {
        let status = |change, status| seat_change(&record(change, status)).unwrap().unwrap().status;
        assert_eq!(status(Change::Insert, stream::HELD), SeatStatus::Held);
        assert_eq!(status(Change::Modify, stream::PAYING), SeatStatus::Held);
        assert_eq!(status(Change::Modify, stream::SOLD), SeatStatus::Sold);
        assert_eq!(status(Change::Remove, stream::SOLD), SeatStatus::Available);
    }

    #[test]
    fn items_that_are_no_seats_are_skipped_and_malformed_seats_are_errors() {
        let mut other = record(Change::Insert, stream::HELD);
        other.new.as_mut().unwrap().insert(stream::KIND.to_owned(), s("outbox"));
        assert_eq!(seat_change(&other).unwrap(), None);
        assert!(seat_change(&record(Change::Insert, "lost")).is_err());
        let mut wrong = record(Change::Insert, stream::HELD);
        wrong.new.as_mut().unwrap().insert(stream::SEAT_ID.to_owned(), s("A-01-2"));
        assert!(seat_change(&wrong).is_err());
        assert!(seat_change(&Record { new: None, ..record(Change::Insert, stream::HELD) }).is_err());
    }
}
