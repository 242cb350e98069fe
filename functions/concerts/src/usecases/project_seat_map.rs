//! The seat map follows the news of seats.

use crate::domain::{DateKey, SeatChange, SectionKey, SectionMap, Taken};
use crate::ports::KeepSeatMap;
use kit::Fault;
use std::collections::{BTreeMap, HashMap};

/// How often a section is read again after somebody else wrote it first.
const ATTEMPTS: u32 = 5;

/// Brings the map and the counts up to the changes told of, however often and however late they are told.
///
/// Each touched section is read and written once for the whole batch. The counts are published even when there was
/// nothing to change: the batch may be the repetition of one that failed between the two.
pub async fn project_seat_map(maps: &impl KeepSeatMap, changes: Vec<SeatChange>) -> Result<(), Fault> {
    let mut waiting: BTreeMap<SectionKey, Vec<SeatChange>> = BTreeMap::new();
    for change in changes {
        waiting.entry(change.key.clone()).or_default().push(change);
    }
    let mut taken: HashMap<DateKey, Vec<Taken>> = HashMap::new();
    for _ in 0..ATTEMPTS {
        if waiting.is_empty() {
            break;
        }
        let keys: Vec<SectionKey> = waiting.keys().cloned().collect();
        let mut lost = BTreeMap::new();
        for mut map in maps.sections(&keys).await? {
            let Some(changes) = waiting.remove(&map.key) else { continue };
            if apply(&mut map, &changes) && !maps.save(&map).await? {
                lost.insert(map.key, changes);
                continue;
            }
            if map.rev > 0 {
                taken.entry(map.date.clone()).or_default().push(map.taken());
            }
        }
        // What the store left out does not exist, and will not: a date's terms are written before it is sold. One
        // that cannot be placed must not hold up the others for good.
        for (key, changes) in &waiting {
            let (schedule, section) = (key.schedule.as_str(), key.section.as_str());
            tracing::error!(schedule, section, changes = changes.len(), "seats of an unknown date or section");
        }
        waiting = lost;
    }
    if !waiting.is_empty() {
        return Err(Fault::contended("projecting the seat map"));
    }
    for (date, taken) in &taken {
        maps.publish(date, taken).await?;
    }
    Ok(())
}

/// Whether the section's map is another one after the changes.
fn apply(map: &mut SectionMap, changes: &[SeatChange]) -> bool {
    let applied = map.apply(changes);
    for seat in &applied.unknown {
        tracing::error!(schedule = map.key.schedule.as_str(), seat = seat.to_string(), "no such seat in its section");
    }
    applied.changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tests::{change, section_map};
    use contracts::seats::SeatStatus;
    use std::sync::Mutex;
    use std::task::{Context, Poll, Waker};

    /// One section in memory. `race` lets somebody else win that many writes; `cut` fails that many publishes.
    struct One {
        map: Mutex<SectionMap>,
        race: Mutex<u32>,
        cut: Mutex<u32>,
        published: Mutex<Option<Taken>>,
        saves: Mutex<u32>,
    }

    impl One {
        fn new() -> Self {
            Self {
                map: Mutex::new(section_map("A", 2, 5)),
                race: Mutex::new(0),
                cut: Mutex::new(0),
                published: Mutex::new(None),
                saves: Mutex::new(0),
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
        async fn sections(&self, keys: &[SectionKey]) -> Result<Vec<SectionMap>, Fault> {
            let map = self.map.lock().unwrap().clone();
            Ok(if keys.contains(&map.key) { vec![map] } else { Vec::new() })
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

    fn project(maps: &One, changes: Vec<SeatChange>) -> Result<(), Fault> {
        // Nothing here waits, so one poll is the whole of it.
        let mut work = std::pin::pin!(project_seat_map(maps, changes));
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
    fn a_batch_that_failed_before_its_count_was_published_publishes_it_when_repeated() {
        let maps = One::new();
        *maps.cut.lock().unwrap() = 1;
        let batch = vec![change("A-1-1", SeatStatus::Held, 1)];
        assert!(project(&maps, batch.clone()).is_err());
        assert_eq!(maps.published(), 0);
        project(&maps, batch).unwrap();
        assert_eq!((maps.published(), *maps.saves.lock().unwrap()), (1, 1), "written once, published late");
    }

    #[test]
    fn a_lost_race_is_read_again_and_bounded() {
        let maps = One::new();
        *maps.race.lock().unwrap() = ATTEMPTS - 1;
        project(&maps, vec![change("A-1-1", SeatStatus::Held, 1)]).unwrap();
        assert_eq!(maps.published(), 1);
        *maps.race.lock().unwrap() = ATTEMPTS;
        let outcome = project(&maps, vec![change("A-1-2", SeatStatus::Held, 2)]);
        assert!(matches!(outcome, Err(Fault::Contended(_))));
    }

    #[test]
    fn a_seat_that_cannot_be_placed_holds_nothing_up() {
        let maps = One::new();
        let batch = vec![
            change("Z-1-1", SeatStatus::Held, 1),
            change("A-9-9", SeatStatus::Held, 2),
            change("A-1-1", SeatStatus::Held, 3),
        ];
        project(&maps, batch).unwrap();
        assert_eq!(maps.published(), 1);
    }
}
