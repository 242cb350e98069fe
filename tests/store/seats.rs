//! Where the seats of a date are kept: under a key for each block of a section, or, of dates made before there were blocks,
//! under one for all of it.

use crate::audit::assert_sound;
use crate::bench::{Bench, hold};
use crate::returns::WAYS;
use ::reservations::domain::Refusal;
use ::reservations::dynamo::Reservations;
use ::reservations::handlers::{begin_payment, confirm_reservation, list_taken_seats, open_schedule};
use ::reservations::ports::{EndReturn, FindReservation};
use contracts::seats::Section;
use contracts::steps::{ListTakenSeats, OpenSchedule};
use contracts::{ScheduleId, SectionName};
use kit::dynamo::Read;
use std::collections::BTreeSet;
use tests::fixture::{NOW, place, saga, seat, step, terms, user, won};

/// The partitions that seats are in.
async fn partitions(bench: &Bench) -> BTreeSet<String> {
    let items = bench.engine.items("reservations").await;
    let keys = items.iter().map(|item| item.text("pk").unwrap().to_owned());
    keys.filter(|pk| pk.starts_with("SEATS#")).collect()
}

/// The terms of a date that was made by the release before.
fn uncut() -> OpenSchedule {
    OpenSchedule { seats_per_block: None, ..terms(4) }
}

/// The taken seats of section A, held and sold, as a process that has just started lists them.
async fn taken(bench: &Bench) -> [BTreeSet<String>; 2] {
    let asked =
        ListTakenSeats { schedule_id: ScheduleId::parse("date").unwrap(), section: SectionName::parse("A").unwrap() };
    let store = Reservations::new(bench.proxy.table("reservations"));
    let taken = list_taken_seats(&store, step(asked, NOW)).await.unwrap();
    [taken.held, taken.sold].map(|seats| seats.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn buyers_of_different_hundreds_of_a_section_meet_in_no_partition() {
    let bench = Bench::on_sale(4).await;
    for (n, id) in [(1, "A-1-1"), (2, "A-5-20"), (3, "A-6-1"), (4, "B-1-1")] {
        bench.reserve(place(&format!("user-{n}"), n, NOW), &[id], &format!("r{n}"), NOW).await.unwrap();
    }
    let blocks = ["SEATS#date#A#0", "SEATS#date#A#1", "SEATS#date#B#0"].map(str::to_owned);
    assert_eq!(partitions(&bench).await, blocks.into());
    assert_sound(&bench, NOW).await;
}

#[test]
fn a_row_of_any_length_is_cut_into_blocks_and_no_seat_is_in_two() {
    for (rows, seats_per_row, blocks) in
        [(1, 1, 1), (10, 20, 2), (1, 1_000, 10), (1_000, 1, 10), (7, 43, 4), (99, 1, 1)]
    {
        let section = Section::new(SectionName::parse("A").unwrap(), "VIP".to_owned(), won(1), rows, seats_per_row);
        let date = OpenSchedule { sections: vec![section.clone()], ..terms(4) };
        assert_eq!(date.blocks_of(&section.section), Some(blocks), "{rows} x {seats_per_row}");
        let mut sizes = vec![0; blocks as usize];
        for index in 0..section.seats() {
            sizes[date.block_of(&section.seat_at(index).unwrap()).unwrap() as usize] += 1;
        }
        assert!(sizes.iter().all(|size| (1..=100).contains(size)), "{sizes:?}");
    }
    assert_eq!(terms(4).block_of(&seat("A-11-1")), None, "there is no such seat");
    assert_eq!((uncut().block_of(&seat("A-1-1")), uncut().blocks_of(&seat("A-1-1").section)), (None, None));
}

#[tokio::test]
async fn the_seats_of_a_date_of_the_release_before_stay_under_their_key_in_whatever_way_they_go() {
    for delay in ["0,0", "30,120"] {
        for (way, status) in WAYS {
            let bench = Bench::selling(&uncut()).await;
            let store = bench.returning(delay);
            let held = way.walk(&store).await;
            assert_eq!(bench.status(&held).await, status, "{way:?}");
            let ended = store.find(&held.user, &held.id).await.unwrap().unwrap();
            let free = ended.keeps_seats_until();
            let of_date: BTreeSet<String> = ["SEATS#date#A", "SEATS#date#B"].map(str::to_owned).into();
            assert_eq!(partitions(&bench).await, if free.is_some() { of_date } else { BTreeSet::new() }, "{way:?}");
            let free = free.unwrap_or(way.ends_at());
            assert_sound(&bench, free).await;
            store.end_return(&ended, free).await.unwrap();
            assert_eq!(partitions(&bench).await, BTreeSet::new(), "{way:?}");
            hold(&store, place("bob", 2, free), &["A-1-1"], "r2", free).await.unwrap();
            assert_sound(&bench, free).await;
        }
    }
}

#[tokio::test]
async fn a_release_that_cuts_sections_sees_what_is_held_of_a_date_of_the_release_before() {
    let bench = Bench::selling(&uncut()).await;
    bench.reserve(place("alice", 1, NOW), &["A-6-1"], "r1", NOW).await.unwrap();
    // The date is opened again, by a release that cuts sections: terms never change.
    open_schedule(&bench.reservations, step(terms(4), NOW)).await.unwrap();
    let again = Reservations::new(bench.proxy.table("reservations"));
    let taken = hold(&again, place("bob", 2, NOW), &["A-6-1"], "r2", NOW).await;
    assert_eq!(crate::bench::refusal(taken), Refusal::SeatsTaken(vec![seat("A-6-1")]));
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_release_that_knows_no_blocks_finds_no_terms_of_a_date_that_has_them() {
    for (date, is_known) in [(terms(4), false), (uncut(), true)] {
        let bench = Bench::selling(&date).await;
        let row = bench.engine.item("reservations", "SCHEDULE#date", "TERMS").await.unwrap();
        // The release before reads this attribute and fails without it.
        assert_eq!(row.document::<OpenSchedule>("terms").is_ok(), is_known);
    }
}

#[tokio::test]
async fn the_taken_seats_of_a_section_are_those_of_all_its_blocks() {
    for date in [terms(4), uncut()] {
        let bench = Bench::selling(&date).await;
        let sold = bench.reserve(place("alice", 1, NOW), &["A-1-1", "A-9-9"], "r1", NOW).await.unwrap();
        let paying = saga(&sold, "p1");
        begin_payment(&bench.reservations, step(paying.clone(), NOW)).await.unwrap();
        confirm_reservation(&bench.reservations, step(paying, NOW)).await.unwrap();
        bench.reserve(place("bob", 2, NOW), &["A-1-2", "A-10-20", "B-1-1"], "r2", NOW).await.unwrap();
        let expected = [["A-1-2", "A-10-20"], ["A-1-1", "A-9-9"]].map(|ids| ids.map(str::to_owned).into());
        assert_eq!(taken(&bench).await, expected);
    }
}

#[tokio::test]
async fn a_process_reads_once_where_the_seats_of_a_date_are() {
    let bench = Bench::on_sale(4).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let fresh = Reservations::new(bench.proxy.table("reservations"));
    bench.proxy.forget();
    for payment in ["p1", "p1", "p2"] {
        drop(begin_payment(&fresh, step(saga(&held, payment), NOW)).await);
    }
    let reads = bench.proxy.actions().iter().filter(|action| *action == "GetItem").count();
    assert_eq!(reads, 1, "{:?}", bench.proxy.actions());
    assert_eq!(fresh.find(&user("alice"), &held.id).await.unwrap().unwrap().status.as_str(), "paying");
}
