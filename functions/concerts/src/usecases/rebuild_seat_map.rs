//! Rebuilds the seat map of a date from the seats as they are sold, also while they are being sold.

use crate::domain::{Schedule, SectionKey, SectionMap};
use crate::ports::{AskTakenSeats, KeepSeatMap, PrepareRebuild};
use contracts::seats::Section;
use contracts::{ScheduleId, SectionName};
use kit::dynamo::jitter;
use kit::sweep::{Pace, Part, sweep};
use kit::{Fault, Tick};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How many sections are rebuilt at once.
const AT_ONCE: usize = 8;
/// Tries of a section that the projection wrote meanwhile.
const ATTEMPTS: u32 = 12;
/// How long a section may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long every batch of the stream counts as a write, in seconds: longer than a rebuild takes.
const WATCHED_SECONDS: i64 = 300;

/// The outcome of a rebuild.
#[derive(Debug)]
pub struct Rebuilt {
    /// How many sections the date has.
    pub sections: usize,
    /// The sections whose map was another one.
    pub corrected: BTreeSet<SectionName>,
    /// The sections that were not rebuilt, in this time or because of a fault: once more.
    pub left: BTreeSet<SectionName>,
}

/// Rebuilds all sections of a date; `None` if there is no such date.
///
/// The projection goes on meanwhile, and neither overwrites what the other knows and it does not: a section's revision is
/// read before its seats, and the map is written over that revision only. Whatever the projection was told in between has
/// a later revision (from `watch_date` on also what changes nothing), so the section is read again. Whatever it is told
/// later, it adds to the new map; whatever it had been told before, the seats show.
pub async fn rebuild_seat_map(
    maps: &(impl KeepSeatMap + PrepareRebuild),
    seats: &impl AskTakenSeats,
    schedule: &ScheduleId,
    tick: &Tick,
) -> Result<Option<Rebuilt>, Fault> {
    let until = tick.now.plus_seconds(WATCHED_SECONDS);
    let Some(date) = maps.watch_date(schedule, until).await? else { return Ok(None) };
    let date = &date;
    let all: Vec<&Section> = date.terms.sections().iter().collect();
    let left = all.iter().map(|section| section.section.clone()).collect();
    let outcome = &Mutex::new(Rebuilt { sections: all.len(), corrected: BTreeSet::new(), left });
    let all = &all;
    let read = |_, _| async move { Ok(Part { rows: all.clone(), next: None }) };
    let work = |section: &'_ Section| {
        let section = section.clone();
        async move {
            let rebuilding = rebuild_section(maps, seats, date, &section);
            let differs = tick.within(LIMIT, "rebuilding a section", rebuilding).await.inspect_err(|fault| {
                let (schedule, section) = (date.id.as_str(), section.section.as_str());
                tracing::warn!(schedule, section, error = fault.chain(), "a section could not be rebuilt");
            })?;
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            outcome.left.remove(&section.section);
            if differs {
                outcome.corrected.insert(section.section);
            }
            Ok(())
        }
    };
    sweep(tick, 1, Pace::at_once(AT_ONCE), read, work).await.say("seat-map", "concerts").or_else(|fault| {
        // Some of it is an answer, too: it says what is left.
        let outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if outcome.left.len() == outcome.sections { Err(fault) } else { Ok(()) }
    })?;
    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
    let none = Rebuilt { sections: 0, corrected: BTreeSet::new(), left: BTreeSet::new() };
    Ok(Some(std::mem::replace(&mut *outcome, none)))
}

/// Whether the section's map was another one.
async fn rebuild_section(
    maps: &(impl KeepSeatMap + PrepareRebuild),
    seats: &impl AskTakenSeats,
    date: &Schedule,
    section: &Section,
) -> Result<bool, Fault> {
    let key = SectionKey { schedule: date.id.clone(), section: section.section.clone() };
    let mut has_changed = false;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(jitter(attempt)).await;
        }
        // In this order: what the seats do not show yet is told to the projection later than this revision.
        let found = maps.standing(date, &key).await?;
        let taken = seats.ask_taken_seats(&key).await?;
        let (map, differs) = SectionMap::rebuilt(date, section, &found, &taken);
        if differs == Some(0) && found.stored == 0 && found.published == 0 {
            return Ok(has_changed);
        }
        if !maps.save(&map).await? {
            continue;
        }
        maps.publish(&map.date, &[map.taken()]).await?;
        has_changed |= differs != Some(0);
        // What the projection was told while it could not read the map, it has skipped: once more, from a map it can read.
        if differs.is_some() {
            return Ok(has_changed);
        }
    }
    Err(Fault::contended("rebuilding a section"))
}
