//! Holding seats, cancelling, and expiry.

use crate::on_cloud;
use serde_json::json;
use tests::cloud::{Terms, code, eventually, text};

#[test]
fn held_seats_are_the_holders_and_nobody_elses() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let (alice, bob) = (cloud.user("alice"), cloud.user("bob"));
        let token = alice.join(&sale).await;
        let held = alice.reserve(&sale, &token, &["A-1-1", "A-1-2"]).await;
        assert_eq!(held.status, 201, "{}", held.text());
        let held = held.json();
        assert_eq!(held["status"], "held");
        assert_eq!(held["seats"], json!(["A-1-1", "A-1-2"]));
        assert_eq!(held["total_price"], 2_000);
        let reservation = text(&held, "reservation_id");
        assert_eq!(alice.reservation_status(&reservation).await, "held");
        assert_eq!(bob.get(&format!("/reservations/{reservation}")).await.status, 404);
        assert_eq!(bob.delete(&format!("/reservations/{reservation}")).await.status, 404);
        let token = bob.join(&sale).await;
        let taken = bob.reserve(&sale, &token, &["A-1-2", "A-1-3"]).await;
        assert_eq!((taken.status.as_u16(), code(&taken).as_str()), (409, "seat_taken"));
        assert_eq!(taken.json()["seats"], json!(["A-1-2"]));
        eventually("the map shows two holds", async || (sale.available(&bob).await == 48).then_some(())).await;
        assert_eq!(sale.seat(&bob, "A-1-3").await, "available", "all or nothing");
    });
}

#[test]
fn a_cancelled_hold_frees_its_seats_at_once() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms { max_per_user: 1, ..Terms::default() }).await;
        let (alice, bob) = (cloud.user("alice"), cloud.user("bob"));
        let reservation = alice.hold(&sale, &["A-1-1"]).await;
        let path = format!("/reservations/{reservation}");
        assert_eq!(alice.delete(&path).await.status, 204);
        assert_eq!(alice.delete(&path).await.status, 204, "the first answer may have been lost");
        assert_eq!(alice.reservation_status(&reservation).await, "cancelled");
        bob.hold(&sale, &["A-1-1"]).await;
        let body = json!({"reservation_id": reservation});
        let unpayable = alice.send("POST", "/payments", &[("idempotency-key", "k")], Some(&body)).await;
        assert_eq!((unpayable.status.as_u16(), code(&unpayable).as_str()), (409, "reservation_not_payable"));
    });
}

#[test]
fn one_user_has_at_most_so_many_tickets_of_a_date() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms { max_per_user: 2, ..Terms::default() }).await;
        let fan = cloud.user("fan");
        let token = fan.join(&sale).await;
        let too_many = fan.reserve(&sale, &token, &["A-1-1", "A-1-2", "A-1-3"]).await;
        assert_eq!((too_many.status.as_u16(), code(&too_many).as_str()), (409, "ticket_limit_exceeded"));
        assert_eq!(fan.reserve(&sale, &token, &["A-1-1", "A-1-2"]).await.status, 201);
        let one_more = fan.reserve(&sale, &token, &["A-1-3"]).await;
        assert_eq!((one_more.status.as_u16(), code(&one_more).as_str()), (409, "ticket_limit_exceeded"));
    });
}

#[test]
fn a_hold_that_runs_out_is_sold_again_at_once_and_written_off_soon() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms { hold_seconds: 1, max_per_user: 1, ..Terms::default() }).await;
        let (alice, bob) = (cloud.user("alice"), cloud.user("bob"));
        let reservation = alice.hold(&sale, &["A-1-1"]).await;
        let token = bob.join(&sale).await;
        eventually("the seat can be had", async || {
            let answer = bob.reserve(&sale, &token, &["A-1-1"]).await;
            assert!(matches!(answer.status.as_u16(), 201 | 409), "{}", answer.text());
            (answer.status == 201).then_some(())
        })
        .await;
        assert_eq!(alice.reservation_status(&reservation).await, "expired");
        alice.hold(&sale, &["A-1-2"]).await;
    });
}

#[test]
fn a_hold_is_extended_only_for_its_own_user_who_buys_points() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let (alice, bob) = (cloud.user("alice"), cloud.user("bob"));
        let reservation = alice.hold(&sale, &["A-1-1"]).await;
        let path = format!("/reservations/{reservation}/extension");
        // Nobody pays for points on this stage, so nobody has an intent.
        let refused = alice.send("POST", &path, &[], None).await;
        assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (409, "charge_intent_not_open"));
        let others = bob.post(&path, &json!({})).await;
        assert_eq!((others.status.as_u16(), code(&others).as_str()), (404, "not_found"));
        let unknown = alice.post(&path, &json!({"seconds": 9_999})).await;
        assert_eq!((unknown.status.as_u16(), code(&unknown).as_str()), (400, "invalid_request"));
        assert_eq!(cloud.nobody().send("POST", &path, &[], None).await.status, 401);
        assert_eq!(alice.delete(&format!("/reservations/{reservation}")).await.status, 204);
        let ended = alice.post(&path, &json!({})).await;
        assert_eq!((ended.status.as_u16(), code(&ended).as_str()), (409, "hold_not_extendable"));
    });
}

#[test]
fn a_hold_nobody_looks_at_frees_its_seats_by_itself() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms { hold_seconds: 1, ..Terms::default() }).await;
        let fan = cloud.user("fan");
        fan.hold(&sale, &["A-1-1", "A-2-1"]).await;
        eventually("the map shows the hold", async || (sale.seat(&fan, "A-1-1").await == "held").then_some(())).await;
        eventually("the map shows it gone", async || (sale.available(&fan).await == 50).then_some(())).await;
    });
}

#[test]
fn seats_and_dates_that_do_not_exist_cannot_be_held() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let fan = cloud.user("fan");
        let token = fan.join(&sale).await;
        for seat in ["A-6-1", "A-1-11", "B-1-1"] {
            let answer = fan.reserve(&sale, &token, &["A-1-1", seat]).await;
            assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (404, "seat_not_found"), "{seat}");
            assert_eq!(answer.json()["seats"], json!([seat]));
        }
        let body = json!({"schedule_id": "none", "seats": ["A-1-1"]});
        let answer = fan.send("POST", "/reservations", &[("queue-token", &token)], Some(&body)).await;
        assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (404, "not_found"));
        assert_eq!(fan.get("/reservations").await.json()["items"], json!([]));
    });
}

#[test]
fn the_same_key_gives_the_same_hold_and_another_body_is_refused() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let fan = cloud.user("fan");
        let token = fan.join(&sale).await;
        let reserve = async |seat: &str| {
            let headers = [("queue-token", token.as_str()), ("idempotency-key", "once")];
            let body = json!({"schedule_id": sale.schedule, "seats": [seat]});
            fan.send("POST", "/reservations", &headers, Some(&body)).await
        };
        let first = reserve("A-1-1").await;
        assert_eq!(first.status, 201, "{}", first.text());
        assert_eq!(reserve("A-1-1").await.json(), first.json());
        let other = reserve("A-1-2").await;
        assert_eq!((other.status.as_u16(), code(&other).as_str()), (422, "idempotency_key_reused"));
        assert_eq!(fan.get("/reservations").await.json()["items"].as_array().map(Vec::len), Some(1));
    });
}

#[test]
fn reservations_are_listed_newest_first_in_pages() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let fan = cloud.user("fan");
        let token = fan.join(&sale).await;
        let mut made = Vec::new();
        for seat in ["A-1-1", "A-1-2", "A-1-3"] {
            made.push(text(&fan.reserve(&sale, &token, &[seat]).await.json(), "reservation_id"));
        }
        made.reverse();
        let first = fan.get("/reservations?limit=2").await.json();
        let cursor = text(&first, "next_cursor");
        let second = fan.get(&format!("/reservations?limit=2&cursor={cursor}")).await.json();
        let ids = |page: &serde_json::Value| -> Vec<String> {
            page["items"].as_array().unwrap().iter().map(|item| text(item, "reservation_id")).collect()
        };
        assert_eq!([ids(&first), ids(&second)].concat(), made);
        assert!(second.get("next_cursor").is_none());
    });
}

#[test]
fn a_user_who_let_ten_holds_of_a_date_go_gets_no_other_and_others_do() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let (undecided, other) = (cloud.user("undecided"), cloud.user("other"));
        for seat in 1..=10 {
            let reservation = undecided.hold(&sale, &[&format!("A-1-{seat}")]).await;
            assert_eq!(undecided.delete(&format!("/reservations/{reservation}")).await.status, 204);
        }
        let token = undecided.join(&sale).await;
        let refused = undecided.reserve(&sale, &token, &["A-2-1"]).await;
        assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (409, "unpaid_limit_exceeded"));
        assert_eq!(refused.json()["max_unpaid"], 10);
        other.hold(&sale, &["A-2-1"]).await;
        // Another date is another matter.
        undecided.hold(&cloud.sale(Terms::default()).await, &["A-1-1"]).await;
    });
}
