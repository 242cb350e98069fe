//! Transactions cancelled for two reasons at once: one condition failed, and another row met another transaction, so
//! that its condition was not evaluated. What failed then does not tell whose turn it was.

use crate::audit::assert_sound;
use crate::bench::{Bench, key, memo};
use ::reservations::domain::{EndHold, Reservation, decide_hold};
use ::reservations::ports::{HoldWritten, LoadSale, Origin, WriteEnd, WriteHold};
use ::waiting_room::domain::{DefaultAdmission, ShardCount};
use ::waiting_room::dynamo::Lines;
use ::waiting_room::ports::OpenLine;
use contracts::Timestamp;
use serde_json::json;
use tests::fixture::{HOLD_SECONDS, NOW, concert, place, schedule, seat_request, user};
use tests::proxy::{Fate, Rule};

fn next_transaction() -> Rule {
    Rule::on("TransactWriteItems").once()
}

async fn held(bench: &Bench, now: Timestamp) -> Reservation {
    bench.reserve(place("alice", 1, NOW), &["A-1-1", "A-1-2"], "r1", now).await.unwrap()
}

#[tokio::test]
async fn the_same_request_at_once_gets_the_first_answer_and_is_not_refused_for_its_own_seats() {
    let bench = Bench::on_sale(4).await;
    bench.reserve(place("alice", 1, NOW), &["B-1-1"], "r0", NOW).await.unwrap();
    let sale = bench.reservations.load_sale(&schedule(), &concert(), &user("alice"), None, NOW).await.unwrap();
    let memo = memo(key("k", json!({})));
    let mut answers = Vec::new();
    for (id, fate) in [("r1", None), ("r2", Some(Fate::Masked("IDEM#k")))] {
        let request = seat_request(place("alice", 1, NOW), &["A-1-1"], id);
        let hold = decide_hold(&request, sale.terms.as_ref(), sale.plan.as_ref(), &sale.visits, NOW).unwrap();
        if let Some(fate) = fate {
            bench.proxy.inject(next_transaction(), fate);
        }
        answers.push(bench.reservations.write_hold(&hold, Origin::New, Some(&memo), NOW).await.unwrap());
    }
    assert!(matches!(answers[..], [HoldWritten::Held, HoldWritten::Replay(_)]), "{answers:?}");
}

#[tokio::test]
async fn a_hold_that_two_end_at_once_is_ended_once_and_neither_fails() {
    let bench = Bench::on_sale(4).await;
    let hold = held(&bench, NOW).await.booking();
    let after = NOW.plus_seconds(HOLD_SECONDS);
    assert!(bench.reservations.end_hold(&hold, EndHold::Expire, after).await.unwrap());
    bench.proxy.inject(next_transaction(), Fate::Masked("RES#r1"));
    assert!(!bench.reservations.end_hold(&hold, EndHold::Expire, after).await.unwrap());
    assert_sound(&bench, after).await;
}

#[tokio::test]
async fn a_line_that_two_open_at_once_is_opened_once_and_neither_fails() {
    let bench = Bench::start().await;
    let lines = Lines::new(bench.proxy.table("waiting-room"), ShardCount::new(4).unwrap());
    let first = lines.open(&concert(), DefaultAdmission::Open.plan(NOW)).await.unwrap();
    bench.proxy.inject(next_transaction(), Fate::Masked("COUNTER#0"));
    let again = lines.open(&concert(), DefaultAdmission::Open.plan(NOW.plus_seconds(1))).await.unwrap();
    assert_eq!(again, first);
}
