//! The concerts table: everything that a request reads is in one partition, so that every read is one round trip.
//!
//! | item | pk | sk | attributes |
//! | --- | --- | --- | --- |
//! | catalogue row | `CONCERTS` | `<concert>` | `concert_id`, `title`, `artist`, `venue`, `created_at` |
//! | concert | `CONCERT#<concert>` | `INFO` | the same |
//! | date row | `CONCERT#<concert>` | `DATE#<starts_at, 15 digits>#<schedule>` | `schedule_id`, `starts_at`, `seats_total`, and for each section that ever changed `taken#<section>` (held and sold seats) and `rev#<section>` (the revision of the map they were counted in) |
//! | date | `SCHEDULE#<schedule>` | `INFO` | `schedule_id`, `concert_id`, `starts_at`, `max_per_user`, `hold_seconds`, `seats_total`, `sections` (JSON), `refundable_until` if given, `map_rebuilt_until` once a rebuild of its map was begun |
//! | section map | `SCHEDULE#<schedule>` | `SECTION#<section>` | `seats` (binary, 2 bits a seat), `held`, `sold`, `rev` |
//! | key | `USER#<user>` | `IDEM#<key>` | see [`kit::idempotency`]; a replay reads the answer again by the id |
//! | outbox row | `OUTBOX#<event>` | `OUTBOX` | see [`kit::outbox`] |
//!
//! `INFO` sorts after every `DATE#`: a query of dates that reaches the end of the partition returns it too, which
//! distinguishes a concert without dates from one that does not exist. It sorts before every `SECTION#`. A section
//! without a map has only free seats. A date row without `schedule_id` has counts and is not listed yet.

use crate::domain::{
    Concert, Date, DateKey, PackedSeats, Schedule, SeatMap, SectionKey, SectionMap, Standing, Taken, Terms, Unmapped,
    Unreadable,
};
use crate::ports::{
    AddConcert, AddSchedule, FindConcert, KeepSeatMap, ListConcerts, ListDates, NoSuchConcert, Part, PrepareRebuild,
    ReadSeatMap, ReportUnmapped, ReportUnreadable, Sections,
};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeValue, ConditionCheck, KeysAndAttributes, Put, ReturnValue, ReturnValuesOnConditionCheckFailure,
    TransactWriteItem, Update,
};
use contracts::events::{AvailabilityUpdateFailed, EventBody, FaultDetected, ScheduleOpened};
use contracts::seats::Section;
use contracts::{ConcertId, ScheduleId, SectionName, Timestamp};
use kit::Fault;
use kit::dynamo::{Cancelled, Item, PK, Read, SK, Table, Transaction, at, jitter, json, n, s};
use kit::fault::{classify, is_condition_failed};
use kit::http::Page;
use kit::idempotency::{self, Memo, Outcome, Recalled, Remembering};
use kit::outbox;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// The source of our events.
const SOURCE: &str = "encore/concerts";
const CONCERTS: &str = "CONCERTS";
const INFO: &str = "INFO";
const DATE: &str = "DATE#";
const SECTION: &str = "SECTION#";

/// Until when a rebuild of a date's map may be in progress.
const REBUILT_UNTIL: &str = "map_rebuilt_until";
/// How often the on-call is paged about the same unreadable part, in milliseconds.
const REPORTED_EVERY_MILLIS: i64 = 3_600_000;
/// The most items of a BatchGetItem.
const BATCH_KEYS: usize = 100;
/// Tries of a batch that is answered only in part.
const ATTEMPTS: u32 = 6;
/// How many counts one update publishes: its expressions must stay below 4 KB.
const PUBLISHED_AT_ONCE: usize = 20;

/// Concerts and their dates in the concerts table.
#[derive(Debug, Clone)]
pub struct Catalogue {
    table: Table,
}

/// Seat maps in the concerts table.
#[derive(Debug, Clone)]
pub struct SeatMaps {
    table: Table,
    /// The events about unreadable parts that this process has put into the outbox.
    reported: Arc<Mutex<BTreeSet<String>>>,
}

/// The outcome of an addition whose condition failed.
struct Refused {
    /// What was remembered under its key.
    recalled: Outcome<Recalled>,
    cancelled: Cancelled,
}

impl Catalogue {
    /// The catalogue in a table.
    pub fn new(table: Table) -> Self {
        Self { table }
    }

    async fn schedule(&self, id: &ScheduleId) -> Result<Option<Schedule>, Fault> {
        let item = self.table.read("reading a date", s(schedule_pk(id)), s(INFO)).await?;
        item.as_ref().map(schedule_of).transpose()
    }

    /// The concert created first under the key, by the key's row.
    async fn concert_before(&self, recalled: Outcome<Recalled>) -> Result<Outcome<Concert>, Fault> {
        let id = match recalled {
            Outcome::First => return Ok(Outcome::First),
            Outcome::Mismatch => return Ok(Outcome::Mismatch),
            Outcome::Replay(first) => id_of::<ConcertId>(first)?,
        };
        self.concert(&id).await?.map(Outcome::Replay).ok_or_else(lost)
    }

    async fn schedule_before(&self, recalled: Outcome<Recalled>) -> Result<Outcome<Schedule>, Fault> {
        let id = match recalled {
            Outcome::First => return Ok(Outcome::First),
            Outcome::Mismatch => return Ok(Outcome::Mismatch),
            Outcome::Replay(first) => id_of::<ScheduleId>(first)?,
        };
        self.schedule(&id).await?.map(Outcome::Replay).ok_or_else(lost)
    }

    /// Adds the memo, if there is one, and commits; `Some` if a condition failed.
    async fn add(
        &self,
        mut transaction: Transaction<'_>,
        memo: Option<&Memo>,
        now: Timestamp,
    ) -> Result<Option<Refused>, Fault> {
        let memo = Remembering::add(&mut transaction, &self.table, memo, now)?;
        let Err(cancelled) = transaction.commit().await? else { return Ok(None) };
        let recalled = memo.map_or(Ok(Outcome::First), |memo| memo.outcome(&cancelled))?;
        Ok(Some(Refused { recalled, cancelled }))
    }

    /// The write of an item that must not exist yet.
    fn put_new(&self, doing: &'static str, item: Item) -> Result<TransactWriteItem, Fault> {
        let put = Put::builder()
            .table_name(&self.table.name)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(pk)")
            .build()
            .map_err(|error| Fault::broken(doing, error))?;
        Ok(TransactWriteItem::builder().put(put).build())
    }
}

fn id_of<T: TryFrom<String>>(first: Recalled) -> Result<T, Fault> {
    first.about.and_then(|id| T::try_from(id).ok()).ok_or_else(lost)
}

fn lost() -> Fault {
    Fault::broken("reading what a key remembers", "the key's row names nothing that exists")
}

fn concert_pk(id: &ConcertId) -> String {
    format!("CONCERT#{id}")
}

fn schedule_pk(id: &ScheduleId) -> String {
    format!("SCHEDULE#{id}")
}

/// The sort key of a date row without its prefix, which is also the cursor of the list.
fn date_cursor(starts_at: Timestamp, schedule: &ScheduleId) -> String {
    format!("{:015}#{schedule}", starts_at.millis())
}

fn concert_item(concert: &Concert, pk: String, sk: String) -> Item {
    Item::from([
        (PK.to_owned(), s(pk)),
        (SK.to_owned(), s(sk)),
        ("concert_id".to_owned(), s(&concert.id)),
        ("title".to_owned(), s(&concert.title)),
        ("artist".to_owned(), s(&concert.artist)),
        ("venue".to_owned(), s(&concert.venue)),
        ("created_at".to_owned(), at(concert.created_at)),
    ])
}

fn concert_of(item: &Item) -> Result<Concert, Fault> {
    Ok(Concert {
        id: item.parsed("concert_id")?,
        title: item.text("title")?.to_owned(),
        artist: item.text("artist")?.to_owned(),
        venue: item.text("venue")?.to_owned(),
        created_at: item.moment("created_at")?,
    })
}

fn schedule_item(schedule: &Schedule) -> Result<Item, Fault> {
    let terms = &schedule.terms;
    let mut item = Item::from([
        (PK.to_owned(), s(schedule_pk(&schedule.id))),
        (SK.to_owned(), s(INFO)),
        ("schedule_id".to_owned(), s(&schedule.id)),
        ("concert_id".to_owned(), s(&schedule.concert)),
        ("starts_at".to_owned(), at(schedule.starts_at)),
        ("max_per_user".to_owned(), n(terms.max_per_user())),
        ("hold_seconds".to_owned(), n(terms.hold_seconds())),
        ("seats_total".to_owned(), n(terms.seats_total())),
        ("sections".to_owned(), json("writing a date", &terms.sections())?),
    ]);
    if let Some(until) = schedule.refundable_until {
        item.insert("refundable_until".to_owned(), at(until));
    }
    Ok(item)
}

fn schedule_of(item: &Item) -> Result<Schedule, Fault> {
    let count = |name| u32::try_from(item.uint(name)?).map_err(|error| Fault::broken("reading a date", error));
    let sections: Vec<Section> = item.document("sections")?;
    let terms = Terms::new(count("max_per_user")?, count("hold_seconds")?, sections)
        .map_err(|invalid| Fault::broken("reading a date's terms", invalid))?;
    Ok(Schedule {
        id: item.parsed("schedule_id")?,
        concert: item.parsed("concert_id")?,
        starts_at: item.moment("starts_at")?,
        terms,
        refundable_until: item.maybe_int("refundable_until")?.map(Timestamp::from_millis),
    })
}

impl AddConcert for Catalogue {
    async fn add_concert(
        &self,
        concert: &Concert,
        memo: Option<&Memo>,
        now: Timestamp,
    ) -> Result<Outcome<Concert>, Fault> {
        const DOING: &str = "adding a concert";
        let mut transaction = self.table.transaction(DOING);
        transaction.add(self.put_new(DOING, concert_item(concert, concert_pk(&concert.id), INFO.to_owned()))?)?;
        // The id was generated for this call: if nothing is remembered under the key, an earlier try, whose answer was
        // lost, has written it.
        match self.add(transaction, memo, now).await? {
            Some(refused) => self.concert_before(refused.recalled).await,
            None => Ok(Outcome::First),
        }
    }

    async fn show_concert(&self, concert: &Concert) -> Result<(), Fault> {
        self.table
            .client
            .put_item()
            .table_name(&self.table.name)
            .set_item(Some(concert_item(concert, CONCERTS.to_owned(), concert.id.to_string())))
            .send()
            .await
            .map(drop)
            .map_err(|error| classify("showing a concert", error))
    }
}

impl FindConcert for Catalogue {
    async fn concert(&self, id: &ConcertId) -> Result<Option<Concert>, Fault> {
        let item = self.table.read("reading a concert", s(concert_pk(id)), s(INFO)).await?;
        item.as_ref().map(concert_of).transpose()
    }
}

impl ListConcerts for Catalogue {
    async fn concerts(&self, page: &Page) -> Result<Part<Concert>, Fault> {
        let limit = page.limit as usize;
        let query = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .expression_attribute_values(":pk", s(CONCERTS))
            .scan_index_forward(false)
            // One row more than requested shows whether there are more.
            .limit(page.limit as i32 + 1);
        let query = match &page.after {
            None => query.key_condition_expression("pk = :pk"),
            Some(after) => query
                .key_condition_expression("pk = :pk AND sk < :after")
                .expression_attribute_values(":after", s(after)),
        };
        let got = query.send().await.map_err(|error| classify("listing concerts", error))?;
        let mut concerts = got.items().iter().map(concert_of).collect::<Result<Vec<_>, _>>()?;
        let more = concerts.len() > limit;
        concerts.truncate(limit);
        let next = concerts.last().filter(|_| more).map(|concert| concert.id.to_string());
        Ok((concerts, next))
    }
}

impl AddSchedule for Catalogue {
    async fn add_schedule(
        &self,
        schedule: &Schedule,
        memo: Option<&Memo>,
        now: Timestamp,
    ) -> Result<Result<Outcome<Schedule>, NoSuchConcert>, Fault> {
        const DOING: &str = "adding a date";
        let concert = ConditionCheck::builder()
            .table_name(&self.table.name)
            .key(PK, s(concert_pk(&schedule.concert)))
            .key(SK, s(INFO))
            .condition_expression("attribute_exists(pk)")
            .build()
            .map_err(|error| Fault::broken(DOING, error))?;
        let mut transaction = self.table.transaction(DOING);
        let concert = transaction.add(TransactWriteItem::builder().condition_check(concert).build())?;
        transaction.add(self.put_new(DOING, schedule_item(schedule)?)?)?;
        match self.add(transaction, memo, now).await? {
            None => Ok(Ok(Outcome::First)),
            Some(refused) if refused.recalled == Outcome::First && refused.cancelled.failed(concert) => {
                Ok(Err(NoSuchConcert))
            }
            // As for a concert.
            Some(refused) => self.schedule_before(refused.recalled).await.map(Ok),
        }
    }

    async fn schedule_made(&self, memo: &Memo, now: Timestamp) -> Result<Outcome<Schedule>, Fault> {
        let pk = format!("USER#{}", memo.user);
        let Some(row) = self.table.read("reading a key", s(pk), s(idempotency::sort_key(&memo.key))).await? else {
            return Ok(Outcome::First);
        };
        self.schedule_before(idempotency::recall_at(&row, &memo.key, now)?).await
    }

    async fn show_schedule(&self, schedule: &Schedule, correlation_id: &str, now: Timestamp) -> Result<(), Fault> {
        const DOING: &str = "showing a date";
        let date = schedule.date();
        let shown = Update::builder()
            .table_name(&self.table.name)
            .key(PK, s(concert_pk(&date.concert)))
            .key(SK, s(format!("{DATE}{}", date_cursor(date.starts_at, &date.schedule))))
            // An update, not a put: it keeps the counts, if there are any.
            .update_expression("SET schedule_id = :id, starts_at = :at, seats_total = :total")
            .expression_attribute_values(":id", s(&date.schedule))
            .expression_attribute_values(":at", at(date.starts_at))
            .expression_attribute_values(":total", n(schedule.terms.seats_total()));
        let body = EventBody::ScheduleOpened(ScheduleOpened {
            schedule_id: schedule.id.clone(),
            concert_id: schedule.concert.clone(),
            starts_at: schedule.starts_at,
            seats_total: u64::from(schedule.terms.seats_total()),
        });
        let id = schedule.id.as_str();
        let event = outbox::event(SOURCE, id, correlation_id, body, now)?;
        let mut transaction = self.table.transaction(DOING);
        transaction.add(shown)?;
        transaction.add(outbox::row(&self.table, &event, id)?)?;
        transaction.commit_unconditional().await
    }
}

impl ListDates for Catalogue {
    async fn dates(&self, concert: &ConcertId, now: Timestamp, page: &Page) -> Result<Option<Part<Date>>, Fault> {
        // Every row's key is longer than this one, so those of the next millisecond sort after it.
        let upcoming = format!("{:015}", now.plus_millis(1).millis());
        let after = page.after.as_deref().map_or(upcoming.as_str(), |cursor| cursor.max(&upcoming));
        let limit = page.limit as usize;
        let got = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .key_condition_expression("pk = :pk AND sk > :after")
            .expression_attribute_values(":pk", s(concert_pk(concert)))
            .expression_attribute_values(":after", s(format!("{DATE}{after}")))
            .consistent_read(true)
            .limit(page.limit as i32 + 1)
            .send()
            .await
            .map_err(|error| classify("listing dates", error))?;
        let found = got.items();
        if found.is_empty() {
            return Ok(None);
        }
        let mut cursors = Vec::with_capacity(found.len());
        for item in found {
            // The concert itself ends the list.
            if let Some(cursor) = item.text(SK)?.strip_prefix(DATE) {
                cursors.push((cursor, item));
            }
        }
        let more = cursors.len() > limit;
        cursors.truncate(limit);
        let next = cursors.last().filter(|_| more).map(|(cursor, _)| (*cursor).to_owned());
        let shown = cursors.into_iter().filter(|(_, item)| item.contains_key("schedule_id"));
        let dates = shown.map(|(_, item)| date_of(item)).collect::<Result<Vec<_>, _>>()?;
        Ok(Some((dates, next)))
    }
}

fn date_of(item: &Item) -> Result<Date, Fault> {
    let wrong = || Fault::broken("reading a date's counts", "more seats are taken than there are");
    let total = item.uint("seats_total")?;
    let mut free = total;
    for (name, value) in item.iter().filter(|(name, _)| name.starts_with("taken#")) {
        let AttributeValue::N(digits) = value else {
            return Err(Fault::broken("reading a date's counts", name.as_str()));
        };
        let taken: u64 = digits.parse().map_err(|error| Fault::broken("reading a date's counts", error))?;
        free = free.checked_sub(taken).ok_or_else(wrong)?;
    }
    Ok(Date {
        schedule: item.parsed("schedule_id")?,
        starts_at: item.moment("starts_at")?,
        seats_total: u32::try_from(total).map_err(|_| wrong())?,
        seats_available: u32::try_from(free).map_err(|_| wrong())?,
    })
}

impl SeatMaps {
    /// Seat maps in a table.
    pub fn new(table: Table) -> Self {
        Self { table, reported: Arc::default() }
    }

    /// The items of many keys, in one round trip per [`BATCH_KEYS`] of them.
    async fn items(&self, keys: BTreeSet<(String, String)>) -> Result<HashMap<(String, String), Item>, Fault> {
        const DOING: &str = "reading seat maps";
        let keys: Vec<Item> =
            keys.into_iter().map(|(pk, sk)| Item::from([(PK.to_owned(), s(pk)), (SK.to_owned(), s(sk))])).collect();
        let mut found = HashMap::new();
        for chunk in keys.chunks(BATCH_KEYS) {
            let mut wanted = chunk.to_vec();
            for attempt in 0..ATTEMPTS {
                let request = KeysAndAttributes::builder()
                    .set_keys(Some(wanted))
                    .consistent_read(true)
                    .build()
                    .map_err(|error| Fault::broken(DOING, error))?;
                let sent = self.table.client.batch_get_item().request_items(&self.table.name, request).send().await;
                let got = sent.map_err(|error| classify(DOING, error))?;
                for item in got.responses.and_then(|mut of| of.remove(&self.table.name)).unwrap_or_default() {
                    found.insert((item.text(PK)?.to_owned(), item.text(SK)?.to_owned()), item);
                }
                wanted = got
                    .unprocessed_keys
                    .and_then(|mut of| of.remove(&self.table.name))
                    .map(|rest| rest.keys)
                    .unwrap_or_default();
                if wanted.is_empty() {
                    break;
                }
                tokio::time::sleep(jitter(attempt)).await;
            }
            if !wanted.is_empty() {
                return Err(Fault::contended(DOING));
            }
        }
        Ok(found)
    }
}

fn section_sk(key: &SectionKey) -> String {
    format!("{SECTION}{}", key.section)
}

fn packed(item: &Item, section: &Section) -> Result<PackedSeats, Fault> {
    let Some(AttributeValue::B(bytes)) = item.get("seats") else {
        return Err(Fault::broken("reading a seat map", "its seats are missing"));
    };
    PackedSeats::from_bytes(bytes.as_ref().to_vec(), section.seats())
        .map_err(|invalid| Fault::broken("reading a seat map", invalid))
}

fn section_map(key: &SectionKey, schedule: &Schedule, item: Option<&Item>) -> Result<Option<SectionMap>, Fault> {
    let sections = schedule.terms.sections();
    let Some(section) = sections.iter().find(|section| section.section == key.section) else { return Ok(None) };
    let (seats, rev) = match item {
        None => (PackedSeats::available(section.seats()), 0),
        Some(item) => (packed(item, section)?, item.uint("rev")?),
    };
    let (date, section) = (schedule.date(), section.clone());
    Ok(Some(SectionMap { key: key.clone(), date, section, seats, rev, stored: rev, rebuilt_until: None }))
}

impl ReadSeatMap for SeatMaps {
    async fn seat_map(&self, schedule: &ScheduleId) -> Result<Option<SeatMap>, Fault> {
        let got = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(schedule_pk(schedule)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| classify("reading a seat map", error))?;
        if got.last_evaluated_key.is_some() {
            return Err(Fault::broken("reading a seat map", "it does not fit into one page"));
        }
        let Some((info, maps)) = got.items().split_first() else { return Ok(None) };
        let date = schedule_of(info)?;
        let mut items = HashMap::new();
        for item in maps {
            items.insert(item.text(SK)?, item);
        }
        let sections = date.terms.sections().iter().map(|section| {
            let item = items.get(format!("{SECTION}{}", section.section).as_str());
            let seats = item.map_or_else(|| Ok(PackedSeats::available(section.seats())), |item| packed(item, section));
            Ok((section.clone(), seats?))
        });
        let sections = sections.collect::<Result<Vec<_>, Fault>>()?;
        Ok(Some(SeatMap { schedule: date.id, sections }))
    }
}

impl KeepSeatMap for SeatMaps {
    async fn sections(&self, keys: &[SectionKey]) -> Result<Sections, Fault> {
        let wanted = keys.iter().flat_map(|key| {
            let pk = schedule_pk(&key.schedule);
            [(pk.clone(), INFO.to_owned()), (pk, section_sk(key))]
        });
        let items = self.items(wanted.collect()).await?;
        let mut found = Sections::default();
        for key in keys {
            let pk = schedule_pk(&key.schedule);
            let Some(info) = items.get(&(pk.clone(), INFO.to_owned())) else { continue };
            let map = schedule_of(info).and_then(|date| section_map(key, &date, items.get(&(pk, section_sk(key)))));
            match map {
                Ok(Some(map)) => {
                    let rebuilt_until = info.maybe_int(REBUILT_UNTIL)?.map(Timestamp::from_millis);
                    found.maps.push(SectionMap { rebuilt_until, ..map });
                }
                Ok(None) => {}
                Err(fault) => found.broken.push((key.clone(), fault)),
            }
        }
        Ok(found)
    }

    async fn save(&self, map: &SectionMap) -> Result<bool, Fault> {
        const DOING: &str = "writing a seat map";
        let (rev, before) = (i128::from(map.rev), i128::from(map.stored));
        let write = self
            .table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(PK, s(schedule_pk(&map.key.schedule)))
            .key(SK, s(section_sk(&map.key)))
            .update_expression("SET seats = :seats, held = :held, sold = :sold, rev = :rev")
            .expression_attribute_values(":seats", AttributeValue::B(Blob::new(map.seats.as_bytes())))
            .expression_attribute_values(":held", n(map.seats.held()))
            .expression_attribute_values(":sold", n(map.seats.sold()))
            .expression_attribute_values(":rev", n(rev));
        let write = if map.stored == 0 {
            write.condition_expression("attribute_not_exists(rev)")
        } else {
            write.condition_expression("rev = :before").expression_attribute_values(":before", n(before))
        };
        match write.send().await {
            Ok(_) => Ok(true),
            Err(error) if is_condition_failed(&error) => Ok(false),
            Err(error) => Err(classify(DOING, error)),
        }
    }

    async fn publish(&self, date: &DateKey, taken: &[Taken]) -> Result<(), Fault> {
        for chunk in taken.chunks(PUBLISHED_AT_ONCE) {
            let mut newer: Vec<&Taken> = chunk.iter().collect();
            // Each round drops the counts of which the row has a newer revision, so the loop ends.
            while !newer.is_empty() {
                let Some(row) = self.publish_newer(date, &newer).await? else { break };
                let before = newer.len();
                let mut still = Vec::with_capacity(before);
                for count in newer {
                    if published_rev(&row, &count.section)? < count.rev {
                        still.push(count);
                    }
                }
                if still.len() == before {
                    return Err(Fault::broken("publishing counts", "the condition refused what the row allows"));
                }
                newer = still;
            }
        }
        Ok(())
    }
}

impl PrepareRebuild for SeatMaps {
    async fn watch_date(&self, schedule: &ScheduleId, until: Timestamp) -> Result<Option<Schedule>, Fault> {
        let watched = self
            .table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(PK, s(schedule_pk(schedule)))
            .key(SK, s(INFO))
            .update_expression("SET map_rebuilt_until = :until")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":until", at(until))
            .return_values(ReturnValue::AllNew)
            .send()
            .await;
        match watched {
            Ok(watched) => watched.attributes.as_ref().map(schedule_of).transpose(),
            Err(error) if is_condition_failed(&error) => Ok(None),
            Err(error) => Err(classify("beginning to rebuild a seat map", error)),
        }
    }

    async fn standing(&self, date: &Schedule, key: &SectionKey) -> Result<Standing, Fault> {
        let DateKey { concert, starts_at, schedule } = date.date();
        let map = (schedule_pk(&schedule), section_sk(key));
        let row = (concert_pk(&concert), format!("{DATE}{}", date_cursor(starts_at, &schedule)));
        let items = self.items(BTreeSet::from([map.clone(), row.clone()])).await?;
        let item = items.get(&map);
        let stored = match item {
            Some(item) if item.contains_key("rev") => item.uint("rev")?,
            _ => 0,
        };
        let published = items.get(&row).map_or(Ok(0), |row| published_rev(row, &key.section))?;
        Ok(Standing { map: section_map(key, date, item).unwrap_or(None), stored, published })
    }
}

impl SeatMaps {
    /// Writes all counts if each is newer than the row's; otherwise writes nothing and returns the row.
    async fn publish_newer(&self, date: &DateKey, taken: &[&Taken]) -> Result<Option<Item>, Fault> {
        let mut write = self
            .table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(PK, s(concert_pk(&date.concert)))
            .key(SK, s(format!("{DATE}{}", date_cursor(date.starts_at, &date.schedule))))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let (mut sets, mut guards) = (Vec::new(), Vec::new());
        for (i, count) in taken.iter().enumerate() {
            sets.push(format!("#t{i} = :t{i}, #r{i} = :r{i}"));
            guards.push(format!("(attribute_not_exists(#r{i}) OR #r{i} < :r{i})"));
            write = write
                .expression_attribute_names(format!("#t{i}"), format!("taken#{}", count.section))
                .expression_attribute_names(format!("#r{i}"), format!("rev#{}", count.section))
                .expression_attribute_values(format!(":t{i}"), n(count.seats))
                .expression_attribute_values(format!(":r{i}"), n(i128::from(count.rev)));
        }
        let sent = write
            .update_expression(format!("SET {}", sets.join(", ")))
            .condition_expression(guards.join(" AND "))
            .send()
            .await;
        match sent {
            Ok(_) => Ok(None),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                    Ok(Some(failed.item().cloned().unwrap_or_default()))
                }
                _ => Err(classify("publishing counts", error)),
            },
        }
    }
}

/// The revision of a section's count in a date row; 0 before the first.
fn published_rev(row: &Item, section: &SectionName) -> Result<u64, Fault> {
    match row.get(&format!("rev#{section}")) {
        None => Ok(0),
        Some(AttributeValue::N(digits)) => {
            digits.parse().map_err(|error| Fault::broken("reading a date's counts", error))
        }
        Some(_) => Err(Fault::broken("reading a date's counts", "a revision is no number")),
    }
}

impl ReportUnreadable for SeatMaps {
    async fn report_unreadable(&self, unreadable: &Unreadable, now: Timestamp) -> Result<(), Fault> {
        let place = match &unreadable.key {
            Some(SectionKey { schedule, section }) => format!("{schedule}:{section}"),
            None => "unknown".to_owned(),
        };
        let sign = format!("seat-map-unreadable:{place}");
        let body = EventBody::FaultDetected(FaultDetected {
            fault: "seat-map-unreadable".to_owned(),
            summary: "A seat map does not follow the seats".to_owned(),
            detail: format!("{}: {}", unreadable.place(), unreadable.why),
        });
        let id = format!("{sign}.{}.{}", now.millis() / REPORTED_EVERY_MILLIS, body.event_type());
        // Every batch of a busy section meets it again.
        if !self.reported.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone()) {
            return Ok(());
        }
        let event = outbox::event_with_id(id.clone(), SOURCE, &sign, &outbox::own_correlation(now), body, now)?;
        let mut transaction = self.table.transaction("reporting a seat map that does not follow");
        transaction.add(outbox::row(&self.table, &event, &sign)?)?;
        transaction.commit_unconditional().await.inspect_err(|_| {
            self.reported.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        })
    }
}

impl ReportUnmapped for SeatMaps {
    async fn report_unmapped(&self, unmapped: &Unmapped, now: Timestamp) -> Result<(), Fault> {
        const DOING: &str = "telling of seats that cannot be shown";
        let id = unmapped.holder.reservation.as_str();
        let body = EventBody::AvailabilityUpdateFailed(AvailabilityUpdateFailed {
            reservation_id: unmapped.holder.reservation.clone(),
            user_id: unmapped.holder.user.clone(),
            schedule_id: unmapped.schedule.clone(),
            seats: unmapped.seats.clone(),
            reason: "the date has no such section or seat in the seat map".to_owned(),
        });
        let event = outbox::event(SOURCE, id, &outbox::own_correlation(now), body, now)?;
        let mut transaction = self.table.transaction(DOING);
        transaction.add(outbox::row(&self.table, &event, id)?)?;
        transaction.commit_unconditional().await
    }
}
