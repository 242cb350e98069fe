//! Negative controls of concerts; see [`crate::controls`].

use super::controls;
use crate::bench::Bench;
use ::concerts::domain::{Concert, Schedule, SectionKey, Taken, Terms};
use ::concerts::dynamo::{Catalogue, SeatMaps};
use ::concerts::ports::{AddConcert, AddSchedule, FindConcert, KeepSeatMap, PrepareRebuild};
use contracts::SectionName;
use contracts::seats::SeatStatus;
use kit::dynamo::n;
use tests::fixture::{NOW, concert, schedule, terms};

fn date() -> Schedule {
    let terms = terms(4);
    Schedule {
        refundable_until: None,
        id: schedule(),
        concert: concert(),
        starts_at: terms.starts_at,
        terms: Terms::new(terms.max_per_user, terms.hold_seconds, terms.sections).unwrap(),
    }
}

fn titled(title: &str) -> Concert {
    Concert::new(concert(), title, "Artist", "Venue", NOW).unwrap()
}

/// A catalogue with the concert and its date.
async fn catalogue(bench: &Bench) -> Catalogue {
    let catalogue = Catalogue::new(bench.proxy.table("concerts"));
    catalogue.add_concert(&titled("First"), None, NOW).await.unwrap();
    catalogue.add_schedule(&date(), None, NOW).await.unwrap().unwrap();
    catalogue
}

fn section_a() -> SectionKey {
    SectionKey { schedule: schedule(), section: SectionName::parse("A").unwrap() }
}

/// Whether of two projections that start from the same map the later one overwrites the earlier one.
async fn loses_an_update(maps: &SeatMaps) -> bool {
    let mut one = maps.sections(&[section_a()]).await.unwrap().maps.remove(0);
    let mut other = one.clone();
    one.rev += 1;
    other.rev += 1;
    one.seats.set(1, SeatStatus::Sold);
    other.seats.set(2, SeatStatus::Sold);
    assert!(maps.save(&one).await.unwrap());
    maps.save(&other).await.unwrap();
    let kept = maps.sections(&[section_a()]).await.unwrap().maps.remove(0);
    kept.seats.get(1) != SeatStatus::Sold
}

controls! {
    a_concert_is_never_overwritten: "concerts/put_new"
    guards "attribute_not_exists(pk)", |bench| {
        let catalogue = Catalogue::new(bench.proxy.table("concerts"));
        for title in ["First", "Second"] {
            let _added = catalogue.add_concert(&titled(title), None, NOW).await;
        }
        catalogue.concert(&concert()).await.unwrap() != Some(titled("First"))
    }

    a_date_needs_its_concert: "concerts/add_schedule"
    guards "attribute_exists(pk)", |bench| {
        let catalogue = Catalogue::new(bench.proxy.table("concerts"));
        catalogue.add_schedule(&date(), None, NOW).await.unwrap().is_ok()
    }

    the_first_writer_of_a_map_is_not_overwritten: "concerts/save"
    guards "attribute_not_exists(rev)", |bench| {
        catalogue(bench).await;
        loses_an_update(&SeatMaps::new(bench.proxy.table("concerts"))).await
    }

    a_later_writer_of_a_map_is_not_overwritten: "concerts/save"
    guards "rev = :before", |bench| {
        catalogue(bench).await;
        let maps = SeatMaps::new(bench.proxy.table("concerts"));
        let mut first = maps.sections(&[section_a()]).await.unwrap().maps.remove(0);
        first.rev += 1;
        assert!(maps.save(&first).await.unwrap());
        loses_an_update(&maps).await
    }

    a_date_that_does_not_exist_is_not_made_by_the_rebuilding_of_its_map: "concerts/watch_date"
    guards "attribute_exists(pk)", |bench| {
        let maps = SeatMaps::new(bench.proxy.table("concerts"));
        let _date = maps.watch_date(&schedule(), NOW).await;
        !bench.engine.items("concerts").await.is_empty()
    }

    a_count_is_never_replaced_by_an_older_one: "concerts/publish_newer"
    guards "(attribute_not_exists(#r0) OR #r0 < :r0)" from "guards.join(\" AND \")", |bench| {
        catalogue(bench).await;
        let maps = SeatMaps::new(bench.proxy.table("concerts"));
        for (rev, seats) in [(2, 20), (1, 10)] {
            let taken = Taken { section: section_a().section, rev, seats };
            maps.publish(&date().date(), &[taken]).await.unwrap();
        }
        let items = bench.engine.items("concerts").await;
        let row = items.iter().find(|item| item.contains_key("taken#A")).unwrap();
        row["taken#A"] != n(20)
    }
}
