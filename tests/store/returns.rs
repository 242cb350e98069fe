//! Seats that come back: whoever lets one go cannot hand it to whom they like.

use crate::audit::assert_sound;
use crate::bench::{Bench, hold, refusal};
use ::reservations::domain::{EndHold, Refusal, Reservation};
use ::reservations::dynamo::Reservations;
use ::reservations::handlers::{
    begin_payment, confirm_reservation, free_seats, refund_reservation, release_reservation,
};
use ::reservations::ports::{EndReturn, FindReservation, ScheduleExpiry, WriteEnd};
use ::reservations::usecases::cancel_reservation::cancel_reservation;
use ::reservations::usecases::free_seats::FreeSeats;
use ::reservations::usecases::sweep_holds::sweep_holds;
use contracts::Timestamp;
use contracts::events::{CancelReason, Event};
use contracts::saga::RefundSaga;
use kit::Fault;
use kit::dynamo::Read;
use kit::queue::Message;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Mutex;
use tests::fixture::{HOLD_SECONDS, NOW, place, refused, saga, seat, step, user};
use tests::proxy::{Fate, Rule};

const DELAY: &str = "30,120";

fn hold_end() -> Timestamp {
    NOW.plus_seconds(HOLD_SECONDS)
}

/// The ways in which a user can let a seat go when they like, and when they have it out of their hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Cancelled,
    Refunded,
    RanOut,
    PaidInVain,
}

pub const WAYS: [(Way, &str); 4] = [
    (Way::Cancelled, "cancelled"),
    (Way::Refunded, "refunded"),
    (Way::RanOut, "expired"),
    (Way::PaidInVain, "expired"),
];

impl Way {
    pub fn ends_at(self) -> Timestamp {
        match self {
            Self::Cancelled => NOW.plus_seconds(10),
            Self::Refunded => NOW.plus_seconds(3_600),
            Self::RanOut => hold_end(),
            // The payment was asked for just before the hold was over.
            Self::PaidInVain => hold_end().plus_seconds(1),
        }
    }

    /// Alice has two seats and lets them go.
    pub async fn walk(self, store: &Reservations) -> Reservation {
        let held = hold(store, place("alice", 1, NOW), &["A-1-1", "B-1-1"], "r1", NOW).await.unwrap();
        self.let_go(store, &held).await;
        held
    }

    async fn let_go(self, store: &Reservations, held: &Reservation) {
        let (paying, at) = (saga(held, "p1"), self.ends_at());
        match self {
            Self::Cancelled => cancel_reservation(store, &held.user, &held.id, at).await.unwrap(),
            Self::RanOut => sweep_holds(store, at).await.unwrap(),
            Self::PaidInVain => {
                begin_payment(store, step(paying.clone(), hold_end().plus_millis(-1))).await.unwrap();
                release_reservation(store, step(refused(paying), at)).await.unwrap();
            }
            Self::Refunded => {
                begin_payment(store, step(paying.clone(), NOW)).await.unwrap();
                confirm_reservation(store, step(paying.clone(), NOW)).await.unwrap();
                let refund =
                    RefundSaga { payment: paying, refund_requested_at: at, refund_correlation_id: "refund".into() };
                refund_reservation(store, step(refund, at)).await.unwrap();
            }
        }
    }
}

async fn row(bench: &Bench) -> kit::dynamo::Item {
    bench.engine.item("reservations", "USER#alice", "RES#r1").await.unwrap()
}

/// Alice's reservation as the store reads it.
async fn found(bench: &Bench) -> Reservation {
    let id = contracts::ReservationId::parse("r1").unwrap();
    bench.reservations.find(&user("alice"), &id).await.unwrap().unwrap()
}

/// When the seats that alice let go become free.
async fn free_at(bench: &Bench) -> Timestamp {
    found(bench).await.keeps_seats_until().expect("it keeps its seats")
}

async fn bob(store: &Reservations, id: &str, now: Timestamp) -> Result<Reservation, Refusal> {
    let grabbed = hold(store, place("bob", 2, now), &["A-1-1"], id, now).await;
    grabbed.map_err(|error| refusal(Err(error)))
}

#[tokio::test]
async fn a_seat_that_is_let_go_is_nobodys_until_a_moment_between_the_bounds_in_whatever_way() {
    for (way, status) in WAYS {
        let bench = Bench::on_sale(2).await;
        let store = bench.returning(DELAY);
        let held = way.walk(&store).await;
        assert_eq!(bench.status(&held).await, status, "{way:?}: for its owner it has ended");
        let taken = Err(Refusal::SeatsTaken(vec![seat("A-1-1")]));
        for (n, after) in [0, 1, 15_000, 29_999].into_iter().enumerate() {
            let now = way.ends_at().plus_millis(after);
            // A function of the release before goes by the same row.
            for (store, release) in [(&store, "new"), (&bench.reservations, "old")] {
                let got = bob(store, &format!("{release}{n}"), now).await;
                assert_eq!(got.map(|_| ()), taken.clone().map(|_: ()| ()), "{way:?} {after} ms later");
            }
            assert_sound(&bench, now).await;
        }
        // The owner's limit of two is not used up by what they let go.
        let alice = hold(&store, place("alice", 3, way.ends_at()), &["A-2-1", "A-2-2"], "r9", way.ends_at()).await;
        assert!(alice.is_ok(), "{way:?}: {alice:?}");
        let moment = free_at(&bench).await;
        assert!((way.ends_at().plus_seconds(30)..=way.ends_at().plus_seconds(120)).contains(&moment), "{way:?}");
        assert!(bob(&store, "early", moment.plus_millis(-1)).await.is_err(), "{way:?}");
        bob(&store, "r2", moment).await.unwrap();
        assert_sound(&bench, moment).await;
    }
}

#[tokio::test]
async fn a_hold_that_ran_out_and_was_not_ended_yet_is_not_taken_over_at_a_known_moment_either() {
    let bench = Bench::on_sale(4).await;
    let store = bench.returning(DELAY);
    hold(&store, place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    for after in [0, 1_000, 29_999] {
        assert!(bob(&store, "early", hold_end().plus_millis(after)).await.is_err(), "{after} ms later");
    }
    bob(&store, "r2", hold_end().plus_seconds(120)).await.unwrap();
    assert_sound(&bench, hold_end().plus_seconds(120)).await;
    // Ended late, it counts its tickets down and leaves the next holder alone.
    sweep_holds(&store, hold_end().plus_seconds(120)).await.unwrap();
    assert_eq!(bench.seat("A-1-1").await, Some(("r2".into(), "held".into())));
    assert_sound(&bench, hold_end().plus_seconds(120)).await;
}

#[tokio::test]
async fn no_two_returns_have_the_same_delay() {
    let bench = Bench::on_sale(4).await;
    let store = bench.returning(DELAY);
    let mut delays = BTreeSet::new();
    for n in 1..=20 {
        let (who, id) = (format!("user-{n}"), format!("r{n}"));
        let held = hold(&store, place(&who, n, NOW), &[&format!("A-1-{n}")], &id, NOW).await.unwrap();
        cancel_reservation(&store, &held.user, &held.id, NOW).await.unwrap();
        let cancelled = store.find(&held.user, &held.id).await.unwrap().unwrap();
        delays.insert(cancelled.keeps_seats_until().unwrap().millis_since(NOW));
    }
    assert!(delays.len() > 15, "{delays:?}");
    assert!(delays.iter().all(|delay| (30_000..=120_000).contains(delay)), "{delays:?}");
}

#[tokio::test]
async fn what_the_system_undoes_is_free_at_once_because_nobody_can_make_it() {
    let bench = Bench::on_sale(4).await;
    let store = bench.returning(DELAY);
    let held = hold(&store, place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let undo = EndHold::Undo(CancelReason::AvailabilityNotUpdated);
    assert!(store.end_hold(&held.booking(), undo, NOW).await.unwrap());
    assert_eq!((bench.seat("A-1-1").await, found(&bench).await.keeps_seats_until()), (None, None));
    bob(&store, "r2", NOW).await.unwrap();
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_payment_that_fails_in_time_gives_the_hold_back_with_the_moment_it_had() {
    let bench = Bench::on_sale(4).await;
    let store = bench.returning(DELAY);
    let held = hold(&store, place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let before = row(&bench).await;
    begin_payment(&store, step(saga(&held, "p1"), NOW)).await.unwrap();
    release_reservation(&store, step(refused(saga(&held, "p1")), NOW)).await.unwrap();
    let after = row(&bench).await;
    assert_eq!(after["seats_free_at"], before["seats_free_at"]);
    assert_eq!(after["due_at"], kit::dynamo::at(hold_end()));
    assert!(bob(&store, "early", hold_end().plus_seconds(29)).await.is_err());
    assert_sound(&bench, hold_end()).await;
}

// ---------------------------------------------------------------- becoming free

/// The delays that were asked for.
#[derive(Debug, Default)]
struct Delays(Mutex<Vec<i32>>);

impl ScheduleExpiry for &Delays {
    async fn look_again(&self, _: &str, delay_seconds: i32) -> Result<(), Fault> {
        self.0.lock().unwrap().push(delay_seconds);
        Ok(())
    }
}

/// The message that the rule for an event puts on the queue.
async fn message(bench: &Bench, what: &str, now: Timestamp) -> Message {
    let pk = format!("OUTBOX#r1.reservation.{what}");
    let row = bench.engine.item("reservations", &pk, "OUTBOX").await.unwrap();
    let event: Event = row.document("event").unwrap();
    Message::new("m", json!({ "detail": event }).to_string(), now)
}

#[tokio::test]
async fn seats_that_were_let_go_are_freed_by_the_event_of_their_end_when_their_moment_has_come() {
    for (way, what) in WAYS {
        let bench = Bench::on_sale(4).await;
        let store = bench.returning(DELAY);
        way.walk(&store).await;
        let moment = free_at(&bench).await;
        let delays = Delays::default();
        let deps = FreeSeats { store: store.clone(), queue: &delays };
        for (early_by_millis, delay) in [(1_000_000, 900), (2_500, 3), (1, 1)] {
            free_seats(&deps, message(&bench, what, moment.plus_millis(-early_by_millis)).await).await.unwrap();
            assert_eq!(delays.0.lock().unwrap().pop(), Some(delay), "{way:?}");
        }
        assert!(bench.seat("A-1-1").await.is_some() && bench.seat("B-1-1").await.is_some(), "{way:?}");
        for round in ["first", "again"] {
            free_seats(&deps, message(&bench, what, moment).await).await.unwrap();
            assert_eq!((bench.seat("A-1-1").await, bench.seat("B-1-1").await), (None, None), "{way:?} {round}");
            let row = row(&bench).await;
            let left = ["due_at", "due_shard", "seats_free_at"].into_iter().find(|name| row.contains_key(*name));
            assert_eq!(left, None, "{way:?} {round}");
            assert_sound(&bench, moment).await;
        }
        assert!(delays.0.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn where_nothing_is_kept_back_the_event_of_an_end_changes_nothing() {
    for (way, what) in WAYS {
        let bench = Bench::on_sale(4).await;
        way.walk(&bench.reservations).await;
        assert_eq!((bench.seat("A-1-1").await, bench.seat("B-1-1").await), (None, None), "{way:?}");
        let delays = Delays::default();
        let deps = FreeSeats { store: bench.reservations.clone(), queue: &delays };
        let message = message(&bench, what, way.ends_at()).await;
        bench.proxy.forget();
        free_seats(&deps, message).await.unwrap();
        assert_eq!(bench.proxy.actions(), ["GetItem"], "{way:?}");
        assert!(delays.0.lock().unwrap().is_empty());
        assert_sound(&bench, way.ends_at()).await;
    }
}

#[tokio::test]
async fn seats_whose_message_is_lost_are_freed_by_the_sweep_and_not_before() {
    for (way, _) in WAYS {
        let bench = Bench::on_sale(4).await;
        let store = bench.returning(DELAY);
        way.walk(&store).await;
        let moment = free_at(&bench).await;
        sweep_holds(&store, moment.plus_millis(-1)).await.unwrap();
        assert!(bench.seat("A-1-1").await.is_some(), "{way:?}");
        sweep_holds(&store, moment).await.unwrap();
        assert_eq!((bench.seat("A-1-1").await, bench.seat("B-1-1").await), (None, None), "{way:?}");
        assert_sound(&bench, moment).await;
        bench.proxy.forget();
        sweep_holds(&store, moment).await.unwrap();
        assert!(bench.proxy.actions().iter().all(|action| action == "Query"), "{way:?}: it is found no more");
    }
}

#[tokio::test]
async fn freeing_that_was_cut_off_anywhere_is_finished_later() {
    for cut in 0..3 {
        let bench = Bench::on_sale(4).await;
        let store = bench.returning(DELAY);
        Way::Cancelled.walk(&store).await;
        let moment = free_at(&bench).await;
        let ended = found(&bench).await;
        let last = if cut == 2 { Rule::on("UpdateItem") } else { Rule::on("DeleteItem").after(cut) };
        bench.proxy.inject(last, Fate::Dropped);
        assert!(store.end_return(&ended, moment).await.is_err(), "{cut}");
        bench.proxy.heal();
        assert_sound(&bench, moment).await;
        sweep_holds(&store, moment).await.unwrap();
        assert_eq!((bench.seat("A-1-1").await, bench.seat("B-1-1").await), (None, None), "{cut}");
        assert_sound(&bench, moment).await;
    }
}

#[tokio::test]
async fn seats_that_somebody_took_at_their_moment_stay_theirs() {
    for (way, _) in WAYS {
        let bench = Bench::on_sale(4).await;
        let store = bench.returning(DELAY);
        way.walk(&store).await;
        let moment = free_at(&bench).await;
        bob(&store, "r2", moment).await.unwrap();
        store.end_return(&found(&bench).await, moment).await.unwrap();
        assert_eq!(bench.seat("A-1-1").await, Some(("r2".into(), "held".into())), "{way:?}");
        assert_eq!(bench.seat("B-1-1").await, None, "{way:?}");
        assert_sound(&bench, moment).await;
    }
}

// ---------------------------------------------------------------- two releases, two settings

#[tokio::test]
async fn rows_of_a_system_with_another_delay_or_none_come_to_the_same_end() {
    for (way, _) in WAYS {
        for (held_by, ended_by) in [(DELAY, "0,0"), ("0,0", DELAY), ("600,900", DELAY)] {
            let bench = Bench::on_sale(4).await;
            let held = hold(&bench.returning(held_by), place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
            let store = bench.returning(ended_by);
            way.let_go(&store, &held).await;
            let row = format!("{way:?} {held_by} {ended_by}");
            assert_sound(&bench, way.ends_at()).await;
            // By then whatever was kept back is free, by the sweep of either.
            let late = way.ends_at().plus_seconds(901);
            sweep_holds(&store, late).await.unwrap();
            assert_eq!(bench.seat("A-1-1").await, None, "{row}");
            assert_sound(&bench, late).await;
        }
    }
}

#[tokio::test]
async fn an_end_costs_one_round_trip_whether_or_not_seats_are_kept_back() {
    for delay in ["0,0", DELAY] {
        for (way, _) in WAYS {
            let bench = Bench::on_sale(4).await;
            let store = bench.returning(delay);
            let held = hold(&store, place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
            bench.proxy.forget();
            way.let_go(&store, &held).await;
            let actions = bench.proxy.actions();
            let writes = actions.iter().filter(|action| *action == "TransactWriteItems").count();
            let steps = match way {
                Way::Cancelled | Way::RanOut => 1,
                Way::PaidInVain => 2,
                Way::Refunded => 3,
            };
            assert_eq!(writes, steps, "{delay} {way:?}: {actions:?}");
        }
    }
}
