//! Reservations that nobody waits for (R18): answered at once, decided in turn.

use crate::on_cloud;
use futures_util::future::join_all;
use local::http::Answer;
use serde_json::{Value, json};
use tests::cloud::{Sale, Terms, User, code, eventually, text};

async fn ask(user: &User, sale: &Sale, seats: &[&str], key: Option<&str>) -> Answer {
    let token = user.join(sale).await;
    let mut headers = vec![("queue-token", token.as_str()), ("prefer", "respond-async")];
    headers.extend(key.map(|key| ("idempotency-key", key)));
    let body = json!({"schedule_id": sale.schedule, "seats": seats});
    user.send("POST", "/reservations", &headers, Some(&body)).await
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
fn a_wish_is_accepted_at_once_and_held_soon_after() {
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
            let accepted = ask(&user, &sale, &["A-1-1"], None).await;
            assert_eq!(accepted.status, 202, "{}", accepted.text());
            let found = decided(&user, &text(&accepted.json(), "reservation_id")).await;
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
fn the_same_key_is_the_same_wish_and_what_is_impossible_is_refused_at_once() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let user = cloud.user("alice");
        let first = ask(&user, &sale, &["A-2-1"], Some("wish")).await;
        let again = ask(&user, &sale, &["A-2-1"], Some("wish")).await;
        assert_eq!((again.status, again.json()), (first.status, first.json()));
        let other = ask(&user, &sale, &["A-2-2"], Some("wish")).await;
        assert_eq!((other.status.as_u16(), code(&other)), (422, "idempotency_key_reused".into()));
        let nowhere = ask(&user, &sale, &["Z-1-1"], None).await;
        assert_eq!((nowhere.status.as_u16(), code(&nowhere)), (404, "seat_not_found".into()));
        decided(&user, &text(&first.json(), "reservation_id")).await;
    });
}
