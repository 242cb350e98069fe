//! Projects the stream of seats into the seat map.

use crate::domain::{DateKey, SeatChange, SectionKey, Taken, Unreadable, unmapped};
use crate::ports::{KeepSeatMap, ReportUnmapped, ReportUnreadable, Sections};
use contracts::Timestamp;
use kit::{Fault, metrics};
use std::collections::{BTreeMap, HashMap};

/// Tries of a section that another writer wrote first.
const ATTEMPTS: u32 = 5;

/// Applies the changes to the map and the counts, however often and however late they are delivered.
///
/// A seat that can never be placed, because its date, section or seat does not exist, is reported by an event, so that
/// its hold is undone (R25); it blocks nothing.
///
/// Each touched section is read and written once for the whole batch. The counts are published even when nothing
/// changed: the batch may be a redelivery of one that failed between the two.
///
/// What can never be read or written (`unreadable` of the batch, and corrupt sections and counts) is left out and reported:
/// it keeps none of the others from following the seats, and is mended by a rebuild.
pub async fn project_seat_map(
    maps: &(impl KeepSeatMap + ReportUnmapped + ReportUnreadable),
    changes: Vec<SeatChange>,
    mut unreadable: Vec<Unreadable>,
    now: Timestamp,
) -> Result<(), Fault> {
    let mut waiting: BTreeMap<SectionKey, Vec<SeatChange>> = BTreeMap::new();
    for change in changes {
        waiting.entry(change.key.clone()).or_default().push(change);
    }
    let mut taken: HashMap<DateKey, Vec<Taken>> = HashMap::new();
    let mut unplaceable: Vec<SeatChange> = Vec::new();
    for _ in 0..ATTEMPTS {
        if waiting.is_empty() {
            break;
        }
        let keys: Vec<SectionKey> = waiting.keys().cloned().collect();
        let mut lost = BTreeMap::new();
        let Sections { maps: found, broken } = maps.sections(&keys).await?;
        for (key, fault) in broken {
            waiting.remove(&key);
            unreadable.push(Unreadable { key: Some(key), why: fault.chain() });
        }
        for mut map in found {
            let Some(changes) = waiting.remove(&map.key) else { continue };
            let applied = map.apply(&changes);
            let is_counted = applied.changed || map.count_anyway(now);
            match if is_counted { maps.save(&map).await } else { Ok(true) } {
                Ok(true) => {}
                Ok(false) => {
                    lost.insert(map.key, changes);
                    continue;
                }
                Err(Fault::Broken(_)) if is_counted => {
                    unreadable.push(Unreadable { key: Some(map.key), why: "it cannot be written".to_owned() });
                    continue;
                }
                Err(fault) => return Err(fault),
            }
            unplaceable.extend(applied.unknown);
            if map.rev > 0 {
                taken.entry(map.date.clone()).or_default().push(map.taken());
            }
        }
        // What the store left out does not exist, and never will: a date's terms are written before it is sold.
        unplaceable.extend(std::mem::replace(&mut waiting, lost).into_values().flatten());
    }
    if !waiting.is_empty() {
        return Err(Fault::contended("projecting the seat map"));
    }
    for (date, taken) in &taken {
        match maps.publish(date, taken).await {
            Ok(()) => {}
            Err(fault @ Fault::Broken(_)) => {
                let sections = taken.iter().map(|count| count.section.clone());
                let keys = sections.map(|section| SectionKey { schedule: date.schedule.clone(), section });
                unreadable.extend(keys.map(|key| Unreadable { key: Some(key), why: fault.chain() }));
            }
            Err(fault) => return Err(fault),
        }
    }
    for unreadable in &unreadable {
        metrics::count("Broken", 1);
        tracing::error!(place = unreadable.place(), why = unreadable.why, "the seat map does not follow the seats");
        maps.report_unreadable(unreadable, now).await?;
    }
    for unmapped in unmapped(&unplaceable) {
        let (schedule, reservation) = (unmapped.schedule.as_str(), unmapped.holder.reservation.as_str());
        tracing::error!(schedule, reservation, seats = unmapped.seats.len(), "seats that cannot be shown");
        maps.report_unmapped(&unmapped, now).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tests::{change, section_map};
    use crate::domain::{SectionMap, Unmapped};
    use contracts::seats::SeatStatus;
    use std::sync::Mutex;
    use std::task::{Context, Poll, Waker};

    /// One section in memory. `race` lets another writer win that many writes; `cut` fails that many publishes.
    struct One {
        map: Mutex<SectionMap>,
        race: Mutex<u32>,
        cut: Mutex<u32>,
        published: Mutex<Option<Taken>>,
        saves: Mutex<u32>,
        reported: Mutex<Vec<Unmapped>>,
        unreadable: Mutex<Vec<String>>,
    }

    impl One {
        fn new() -> Self {
            Self {
                map: Mutex::new(section_map("A", 2, 5)),
                race: Mutex::new(0),
                cut: Mutex::new(0),
                published: Mutex::new(None),
                saves: Mutex::new(0),
                reported: Mutex::default(),
                unreadable: Mutex::default(),
            }
        }

        fn published(&self) -> u32 {
            self.published.lock().unwrap().as_ref().map_or(0, |taken| taken.seats)
        }
    }

    fn spend(count: &Mutex<u32>) -> bool {
        let mut left = count.lock().unwrap();
        let any = *left > 0;
        *left = left.saturating_sub(1);
        any
    }

    impl KeepSeatMap for One {
        async fn sections(&self, keys: &[SectionKey]) -> Result<Sections, Fault> {
            let map = self.map.lock().unwrap().clone();
            let broken = keys.iter().filter(|key| key.section.as_str() == "P");
            let broken = broken.map(|key| (key.clone(), Fault::broken("reading", "poison"))).collect();
            Ok(Sections { maps: if keys.contains(&map.key) { vec![map] } else { Vec::new() }, broken })
        }

        async fn save(&self, map: &SectionMap) -> Result<bool, Fault> {
            if spend(&self.race) {
                self.map.lock().unwrap().rev += 1;
                return Ok(false);
            }
            let mut stored = self.map.lock().unwrap();
            if stored.rev + 1 != map.rev {
                return Ok(false);
            }
            *stored = map.clone();
            *self.saves.lock().unwrap() += 1;
            Ok(true)
        }

        async fn publish(&self, _: &DateKey, taken: &[Taken]) -> Result<(), Fault> {
            if spend(&self.cut) {
                return Err(Fault::unavailable("publishing", "cut"));
            }
            let mut published = self.published.lock().unwrap();
            let taken = taken[0].clone();
            if published.as_ref().is_none_or(|before| before.rev < taken.rev) {
                *published = Some(taken);
            }
            Ok(())
        }
    }

    impl ReportUnreadable for One {
        async fn report_unreadable(&self, unreadable: &Unreadable, _: Timestamp) -> Result<(), Fault> {
            self.unreadable.lock().unwrap().push(unreadable.place());
            Ok(())
        }
    }

    impl ReportUnmapped for One {
        async fn report_unmapped(&self, unmapped: &Unmapped, _: Timestamp) -> Result<(), Fault> {
            self.reported.lock().unwrap().push(unmapped.clone());
            Ok(())
        }
    }

    fn project(maps: &One, changes: Vec<SeatChange>) -> Result<(), Fault> {
        // Nothing here waits, so a single poll completes it.
        let mut work = std::pin::pin!(project_seat_map(maps, changes, Vec::new(), Timestamp::default()));
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn a_batch_writes_a_section_once_and_publishes_its_count() {
        let maps = One::new();
        let batch = vec![change("A-1-1", SeatStatus::Held, 1), change("A-2-5", SeatStatus::Sold, 2)];
        project(&maps, batch).unwrap();
        assert_eq!((maps.published(), *maps.saves.lock().unwrap()), (2, 1));
    }

    #[test]
    fn a_batch_that_failed_before_its_count_was_published_publishes_it_when_redelivered() {
        let maps = One::new();
        *maps.cut.lock().unwrap() = 1;
        let batch = vec![change("A-1-1", SeatStatus::Held, 1)];
        assert!(project(&maps, batch.clone()).is_err());
        assert_eq!(maps.published(), 0);
        project(&maps, batch).unwrap();
        assert_eq!((maps.published(), *maps.saves.lock().unwrap()), (1, 1), "written once, published late");
    }

    #[test]
    fn a_lost_race_is_retried_a_bounded_number_of_times() {
        let maps = One::new();
        *maps.race.lock().unwrap() = ATTEMPTS - 1;
        project(&maps, vec![change("A-1-1", SeatStatus::Held, 1)]).unwrap();
        assert_eq!(maps.published(), 1);
        *maps.race.lock().unwrap() = ATTEMPTS;
        let outcome = project(&maps, vec![change("A-1-2", SeatStatus::Held, 2)]);
        assert!(matches!(outcome, Err(Fault::Contended(_))));
    }

    #[test]
    fn a_section_that_cannot_be_read_is_reported_and_keeps_no_other_from_following() {
        let maps = One::new();
        let batch = vec![change("P-1-1", SeatStatus::Held, 1), change("A-1-1", SeatStatus::Held, 2)];
        project(&maps, batch).unwrap();
        assert_eq!(maps.published(), 1);
        assert_eq!(*maps.unreadable.lock().unwrap(), ["section P of date s1"]);
        assert!(maps.reported.lock().unwrap().is_empty(), "its hold is not undone: it is the map that is wrong");
    }

    #[test]
    fn a_batch_that_changes_nothing_counts_while_a_rebuild_may_be_in_progress() {
        let maps = One::new();
        let batch = || vec![change("A-1-1", SeatStatus::Available, 1)];
        project(&maps, batch()).unwrap();
        assert_eq!(*maps.saves.lock().unwrap(), 0);
        maps.map.lock().unwrap().rebuilt_until = Some(Timestamp::default().plus_millis(1));
        project(&maps, batch()).unwrap();
        assert_eq!(*maps.saves.lock().unwrap(), 1);
    }

    #[test]
    fn a_seat_that_cannot_be_placed_blocks_nothing_and_is_reported() {
        let maps = One::new();
        let batch = vec![
            change("Z-1-1", SeatStatus::Held, 1),
            change("A-9-9", SeatStatus::Held, 2),
            change("A-1-1", SeatStatus::Held, 3),
        ];
        project(&maps, batch).unwrap();
        assert_eq!(maps.published(), 1);
        let reported: Vec<String> =
            maps.reported.lock().unwrap().iter().flat_map(|un| &un.seats).map(ToString::to_string).collect();
        assert_eq!(reported, ["A-9-9", "Z-1-1"]);
        project(&maps, vec![change("Z-1-1", SeatStatus::Available, 4)]).unwrap();
        assert_eq!(maps.reported.lock().unwrap().len(), 1, "a seat that is free needs no place");
    }
}
