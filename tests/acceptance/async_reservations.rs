//! Reservations without waiting (R18): answered at once, decided in turn.

use crate::on_cloud;
use futures_util::future::join_all;
use local::http::Answer;
use local::{LogLine, Logs};
use serde_json::{Value, json};
use tests::cloud::{Ability, Cloud, Sale, Terms, User, code, eventually, skipped, text};
use tests::functions::Functions;

async fn ask(user: &User, sale: &Sale, seats: &[&str], key: Option<&str>) -> Answer {
    let token = user.join(sale).await;
    let mut headers = vec![("queue-token", token.as_str()), ("prefer", "respond-async")];
    headers.extend(key.map(|key| ("idempotency-key", key)));
    let body = json!({"schedule_id": sale.schedule, "seats": seats});
    user.send("POST", "/reservations", &headers, Some(&body)).await
}

/// Requests seats, and expects 202; the reservation's id.
async fn asked(user: &User, sale: &Sale, seats: &[&str]) -> String {
    let accepted = ask(user, sale, seats, None).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    text(&accepted.json(), "reservation_id")
}

/// The reservation once it is decided.
async fn decided(user: &User, id: &str) -> Value {
    eventually("the reservation is decided", async || {
        let found = user.get(&format!("/reservations/{id}")).await.json();
        (found["status"] != "pending").then_some(found)
    })
    .await
}

#[test]
fn a_request_is_accepted_at_once_and_held_soon_after() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let user = cloud.user("alice");
        let accepted = ask(&user, &sale, &["A-1-1", "A-1-2"], None).await;
        assert_eq!(accepted.status, 202, "{}", accepted.text());
        assert_eq!(accepted.headers["preference-applied"], "respond-async");
        assert_eq!(accepted.json()["status"], "pending");
        let id = text(&accepted.json(), "reservation_id");
        assert_eq!(accepted.headers["location"], format!("/reservations/{id}"));
        let held = decided(&user, &id).await;
        assert_eq!((&held["status"], &held["total_price"]), (&"held".into(), &2_000.into()));
        user.charge(2_000).await;
        let paid = user.pay(&id, "pay").await;
        assert_eq!(paid.json()["status"], "completed", "{}", paid.text());
        eventually("both are sold", async || (sale.seat(&user, "A-1-2").await == "sold").then_some(())).await;
    });
}

#[test]
fn of_fifty_who_ask_for_one_seat_one_gets_it_and_the_others_learn_why_not() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms { rows: 1, seats_per_row: 1, ..Terms::default() }).await;
        let one = async |n: u32| {
            let user = cloud.user(&format!("crowd-{n}"));
            let found = decided(&user, &asked(&user, &sale, &["A-1-1"]).await).await;
            match found["status"].as_str() {
                Some("held") => 1,
                _ => {
                    assert_eq!((&found["status"], &found["failure"]), (&"rejected".into(), &"seat_taken".into()));
                    0
                }
            }
        };
        let held: u32 = join_all((0..50).map(one)).await.into_iter().sum();
        assert_eq!(held, 1);
    });
}

#[test]
fn the_same_key_is_the_same_request_and_what_is_impossible_is_refused_at_once() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let user = cloud.user("alice");
        let first = ask(&user, &sale, &["A-2-1"], Some("wish")).await;
        let again = ask(&user, &sale, &["A-2-1"], Some("wish")).await;
        assert_eq!((again.status, again.json()), (first.status, first.json()));
        let other = ask(&user, &sale, &["A-2-2"], Some("wish")).await;
        assert_eq!((other.status.as_u16(), code(&other)), (422, "idempotency_key_reused".into()));
        assert_eq!(again.headers["location"], first.headers["location"]);
        let closed = cloud.concert(Terms::default()).await;
        let nowhere = Sale { schedule: "none".into(), ..sale.clone() };
        for (sale, seats, status, why) in [
            (&sale, vec!["A-1-1", "Z-1-1"], 404, "seat_not_found"),
            (&sale, vec!["A-1-1", "A-1-2", "A-1-3", "A-1-4", "A-1-5"], 409, "ticket_limit_exceeded"),
            (&nowhere, vec!["A-1-1"], 404, "not_found"),
            (&closed, vec!["A-1-1"], 403, "queue_token_not_active"),
        ] {
            let refused = ask(&user, sale, &seats, None).await;
            assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (status, why));
        }
        decided(&user, &text(&first.json(), "reservation_id")).await;
        assert_eq!(user.get("/reservations").await.json()["items"].as_array().map(Vec::len), Some(1));
    });
}

#[test]
fn a_request_with_a_taken_seat_is_rejected_whole_with_the_reason() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let (alice, bob) = (cloud.user("alice"), cloud.user("bob"));
        alice.hold(&sale, &["A-1-1"]).await;
        let id = asked(&bob, &sale, &["A-1-1", "A-1-2"]).await;
        let rejected = decided(&bob, &id).await;
        assert_eq!((&rejected["status"], &rejected["failure"]), (&"rejected".into(), &"seat_taken".into()));
        assert_eq!(rejected.get("hold_expires_at"), None);
        assert_eq!(bob.get("/reservations").await.json()["items"][0], rejected);
        assert_eq!(bob.delete(&format!("/reservations/{id}")).await.status, 409);
        bob.hold(&sale, &["A-1-2"]).await;
    });
}

#[test]
fn a_hold_that_nobody_waited_for_ends_in_time_too() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms { hold_seconds: 1, ..Terms::default() }).await;
        let user = cloud.user("fan");
        let id = asked(&user, &sale, &["A-1-1"]).await;
        eventually("the hold is over", async || (user.reservation_status(&id).await == "expired").then_some(())).await;
        eventually("the map shows it gone", async || (sale.available(&user).await == 50).then_some(())).await;
    });
}

#[test]
fn a_request_can_be_given_up_whether_or_not_it_is_decided() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let user = cloud.user("fickle");
        let mut given_up = Vec::new();
        for seat in ["A-1-1", "A-1-2", "A-1-3", "A-1-4"] {
            let id = asked(&user, &sale, &[seat]).await;
            assert_eq!(user.delete(&format!("/reservations/{id}")).await.status, 204);
            given_up.push(id);
        }
        // Decided behind them, as it is for the same section.
        let last = asked(&user, &sale, &["A-1-5"]).await;
        assert_eq!(decided(&user, &last).await["status"], "held");
        for id in given_up {
            assert_eq!(user.reservation_status(&id).await, "cancelled");
        }
        eventually("the map shows one hold", async || (sale.available(&user).await == 49).then_some(())).await;
    });
}

async fn role_of(cloud: &Cloud, handler: &str) -> String {
    Functions::of(cloud.stack.info()).role(&cloud.stack.info().functions[handler]).await
}

#[test]
fn a_request_that_cannot_be_decided_for_a_moment_does_not_keep_those_behind_it_waiting_for_long() {
    if skipped(Ability::Policies) {
        return;
    }
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let user = cloud.user("patient");
        let role = role_of(cloud, "write-reservations").await;
        let taken = cloud.take_permission(&role, "dynamodb:BatchGetItem").await;
        let mut ids = Vec::new();
        for seat in ["A-1-1", "A-1-2", "A-1-3", "A-1-4"] {
            ids.push(asked(&user, &sale, &[seat]).await);
        }
        let logs = Logs::new(cloud.stack.info(), Some("write-reservations")).unwrap();
        eventually("the first is tried with the others behind it", async || {
            let lines = logs.since(0).await.unwrap();
            let failed = |line: &&LogLine| line.message.contains(&ids[0]) && line.message.contains("Unavailable");
            (lines.iter().filter(failed).count() >= 3).then_some(())
        })
        .await;
        cloud.give_permissions(taken).await;
        for id in ids {
            assert_eq!(decided(&user, &id).await["status"], "held");
        }
    });
}
