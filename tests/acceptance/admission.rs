//! The waiting room and the admission plan.

use crate::on_cloud;
use serde_json::json;
use std::time::Duration;
use tests::cloud::{Cloud, Sale, Terms, User, after, code, eventually, eventually_after, text};
use tests::functions::Functions;

async fn set(cloud: &'static Cloud, sale: &Sale, opens_at: &str, rate: u32, active: u32) {
    let path = format!("/admin/concerts/{}/admission", sale.concert);
    let body = json!({"opens_at": opens_at, "rate_per_minute": rate, "active_seconds": active});
    let answer = cloud.operator().put(&path, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

async fn status(user: &User, token: &str) -> serde_json::Value {
    loop {
        let answer = user.send("GET", "/queue-status", &[("queue-token", token)], None).await;
        if answer.status != 429 {
            assert_eq!(answer.status, 200, "{}", answer.text());
            return answer.json();
        }
    }
}

async fn until(user: &User, token: &str, wanted: &str) -> serde_json::Value {
    eventually(wanted, async || {
        let found = status(user, token).await;
        (found["status"] == wanted).then_some(found)
    })
    .await
}

const PAST: &str = "2026-01-01T00:00:00Z";

#[test]
fn everybody_gets_a_place_of_their_own_in_the_order_they_came() {
    on_cloud(async |cloud| {
        let sale = cloud.concert(Terms::default()).await;
        for expected in 1..=5 {
            let joined =
                cloud.user("fan").send("POST", &format!("/concerts/{}/queue-tokens", sale.concert), &[], None).await;
            assert_eq!(joined.status, 201, "{}", joined.text());
            let joined = joined.json();
            assert_eq!(joined["position"], expected);
            assert_eq!(joined["ahead"], expected - 1);
            assert_eq!(joined["status"], "waiting");
        }
    });
}

#[test]
fn places_are_unique_however_many_join_at_once() {
    on_cloud(async |cloud| {
        let sale = cloud.concert(Terms::default()).await;
        let joins: Vec<_> = (0..100)
            .map(|_| {
                let (fan, path) = (cloud.user("fan"), format!("/concerts/{}/queue-tokens", sale.concert));
                tokio::spawn(async move { fan.send("POST", &path, &[], None).await.json()["position"].as_u64() })
            })
            .collect();
        let mut positions = Vec::new();
        for join in joins {
            positions.push(join.await.unwrap().unwrap());
        }
        positions.sort_unstable();
        assert_eq!(positions, (1..=100).collect::<Vec<_>>());
    });
}

#[test]
fn joining_again_answers_with_the_same_place_however_many_ask_at_once() {
    on_cloud(async |cloud| {
        let sale = cloud.concert(Terms::default()).await;
        let path = format!("/concerts/{}/queue-tokens", sale.concert);
        let fan = cloud.user("fan");
        let joins = (0..30).map(|_| {
            let (fan, path) = (fan.clone(), path.clone());
            tokio::spawn(async move { fan.send("POST", &path, &[], None).await })
        });
        let mut created = 0;
        for join in joins.collect::<Vec<_>>() {
            let joined = join.await.unwrap();
            created += usize::from(joined.status == 201);
            assert!([200, 201].contains(&joined.status.as_u16()), "{}", joined.text());
            assert_eq!(joined.json()["position"], 1);
        }
        assert_eq!(created, 1);
        let other = cloud.user("other").send("POST", &path, &[], None).await.json();
        assert_eq!((other["position"].as_u64(), other["ahead"].as_u64()), (Some(2), Some(1)), "nobody is set back");
    });
}

#[test]
fn a_place_can_be_given_up_and_is_void_from_then_on() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let path = format!("/concerts/{}/queue-tokens", sale.concert);
        let fan = cloud.user("fan");
        let token = fan.join(&sale).await;
        until(&fan, &token, "active").await;
        for _ in 0..2 {
            assert_eq!(fan.send("DELETE", &path, &[], None).await.status, 204);
        }
        until(&fan, &token, "used").await;
        let void = fan.reserve(&sale, &token, &["A-1-1"]).await;
        assert_eq!((void.status.as_u16(), code(&void).as_str()), (403, "queue_token_not_active"), "{}", void.text());
        let next = fan.send("POST", &path, &[], None).await;
        assert_eq!((next.status.as_u16(), next.json()["position"].as_u64()), (201, Some(2)), "{}", next.text());
        let token = text(&next.json(), "token");
        assert_eq!(fan.reserve(&sale, &token, &["A-1-1"]).await.status, 201);
        let missing = fan.send("DELETE", "/concerts/none/queue-tokens", &[], None).await;
        assert_eq!((missing.status.as_u16(), code(&missing).as_str()), (404, "not_found"));
        assert_eq!(cloud.nobody().send("DELETE", &path, &[], None).await.status, 401);
    });
}

#[test]
fn a_place_that_is_not_due_cannot_reserve_and_a_due_one_can() {
    on_cloud(async |cloud| {
        let sale = cloud.concert(Terms::default()).await;
        let fan = cloud.user("fan");
        let token = fan.join(&sale).await;
        let early = fan.reserve(&sale, &token, &["A-1-1"]).await;
        assert_eq!((early.status.as_u16(), code(&early).as_str()), (403, "queue_token_not_active"));
        set(cloud, &sale, PAST, 6_000, 600).await;
        let due = fan.reserve(&sale, &token, &["A-1-1"]).await;
        assert_eq!(due.status, 201, "in force for the very next request: {}", due.text());
        until(&fan, &token, "active").await;
    });
}

#[test]
fn a_new_rate_a_pause_and_a_resume_are_in_force_for_everyone_at_once() {
    on_cloud(async |cloud| {
        let sale = cloud.concert(Terms::default()).await;
        set(cloud, &sale, PAST, 60, 600).await;
        let (first, second, third) = (cloud.user("first"), cloud.user("second"), cloud.user("third"));
        let tokens = (first.join(&sale).await, second.join(&sale).await, third.join(&sale).await);
        // A minute's worth of the places that nobody took since January is taken at once; a pause holds for the next who
        // joins.
        set(cloud, &sale, PAST, 0, 600).await;
        let late = cloud.user("late");
        let late_token = late.join(&sale).await;
        let waiting = until(&late, &late_token, "waiting").await;
        assert_eq!(waiting["active_at"], serde_json::Value::Null);
        assert_eq!(until(&third, &tokens.2, "active").await["position"], 3, "who was in stays in");
        set(cloud, &sale, PAST, 6_000, 600).await;
        until(&late, &late_token, "active").await;
        for (user, token) in [(&first, &tokens.0), (&second, &tokens.1)] {
            assert_eq!(status(user, token).await["status"], "active");
        }
    });
}

#[test]
fn nobody_enters_before_the_sale_opens() {
    on_cloud(async |cloud| {
        let sale = cloud.concert(Terms::default()).await;
        set(cloud, &sale, "2098-12-31T00:00:00Z", 1_000_000, 600).await;
        let fan = cloud.user("fan");
        let token = fan.join(&sale).await;
        let found = status(&fan, &token).await;
        assert_eq!(
            (found["status"].as_str(), found["active_at"].as_str()),
            (Some("waiting"), Some("2098-12-31T00:00:00.000Z"))
        );
        assert_eq!(fan.reserve(&sale, &token, &["A-1-1"]).await.status, 403);
    });
}

#[test]
fn time_inside_ends_and_a_new_place_can_be_taken() {
    on_cloud(async |cloud| {
        let sale = cloud.concert(Terms::default()).await;
        set(cloud, &sale, PAST, 6_000, 1).await;
        let fan = cloud.user("fan");
        let token = fan.join(&sale).await;
        until(&fan, &token, "expired").await;
        let over = fan.reserve(&sale, &token, &["A-1-1"]).await;
        assert_eq!((over.status.as_u16(), code(&over).as_str()), (403, "queue_token_not_active"));
        set(cloud, &sale, PAST, 6_000, 600).await;
        fan.hold(&sale, &["A-1-1"]).await;
    });
}

#[test]
fn a_queue_token_is_good_for_its_user_and_concert_only() {
    on_cloud(async |cloud| {
        let (sale, other) = (cloud.sale(Terms::default()).await, cloud.sale(Terms::default()).await);
        let (alice, bob) = (cloud.user("alice"), cloud.user("bob"));
        let token = alice.join(&sale).await;
        let stolen = bob.reserve(&sale, &token, &["A-1-1"]).await;
        assert_eq!((stolen.status.as_u16(), code(&stolen).as_str()), (401, "invalid_queue_token"));
        let elsewhere = alice.reserve(&other, &token, &["A-1-1"]).await;
        assert_eq!((elsewhere.status.as_u16(), code(&elsewhere).as_str()), (401, "invalid_queue_token"));
        let stolen = bob.send("GET", "/queue-status", &[("queue-token", &token)], None).await;
        assert_eq!((stolen.status.as_u16(), code(&stolen).as_str()), (401, "invalid_queue_token"));
        assert_eq!(sale.available(&alice).await, 50);
    });
}

#[test]
fn a_user_is_inside_once_at_a_time() {
    on_cloud(async |cloud| {
        let sale = cloud.concert(Terms::default()).await;
        set(cloud, &sale, PAST, 1_000_000, 6).await;
        let fan = cloud.user("fan");
        let (first, again) = (fan.join(&sale).await, fan.join(&sale).await);
        assert_eq!(fan.reserve(&sale, &first, &["A-1-1"]).await.status, 201);
        assert_eq!(fan.reserve(&sale, &again, &["A-1-2"]).await.status, 201, "the same place");
        until(&fan, &first, "expired").await;
        let over = fan.reserve(&sale, &again, &["A-1-3"]).await;
        assert_eq!((over.status.as_u16(), code(&over).as_str()), (403, "queue_token_not_active"), "{}", over.text());
        let next = fan.join(&sale).await;
        assert_eq!(status(&fan, &next).await["position"], 2);
        assert_eq!(fan.reserve(&sale, &next, &["A-1-3"]).await.status, 201);
    });
}

#[test]
fn only_operators_change_admission_and_only_of_concerts_that_exist() {
    on_cloud(async |cloud| {
        let sale = cloud.concert(Terms::default()).await;
        let path = format!("/admin/concerts/{}/admission", sale.concert);
        let body = json!({"opens_at": PAST, "rate_per_minute": 1, "active_seconds": 60});
        assert_eq!(cloud.nobody().put(&path, &body).await.status, 401);
        assert_eq!(cloud.user("fan").put(&path, &body).await.status, 403);
        assert_eq!(cloud.operator().put("/admin/concerts/none/admission", &body).await.status, 404);
        for bad in [
            json!({"opens_at": PAST, "rate_per_minute": -1, "active_seconds": 60}),
            json!({"opens_at": PAST, "rate_per_minute": 1, "active_seconds": 0}),
            json!({"opens_at": "x", "rate_per_minute": 1, "active_seconds": 60}),
            json!({"opens_at": PAST, "rate_per_minute": 1}),
            json!({"opens_at": PAST, "rate_per_minute": 1, "active_seconds": 60, "x": 1}),
        ] {
            let answer = cloud.operator().put(&path, &bad).await;
            assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (400, "invalid_request"), "{bad}");
        }
        let missing = cloud.user("fan").send("POST", "/concerts/none/queue-tokens", &[], None).await;
        assert_eq!((missing.status.as_u16(), code(&missing).as_str()), (404, "not_found"));
    });
}

#[test]
fn a_sale_spends_the_place_in_line() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let fan = cloud.user("fan");
        fan.charge(10_000).await;
        let token = fan.join(&sale).await;
        let held = fan.reserve(&sale, &token, &["A-1-1"]).await.json();
        let paid = fan.pay(&text(&held, "reservation_id"), "k").await;
        assert_eq!(paid.json()["status"], "completed", "{}", paid.text());
        until(&fan, &token, "used").await;
        let spent = fan.reserve(&sale, &token, &["A-1-2"]).await;
        assert_eq!((spent.status.as_u16(), code(&spent).as_str()), (403, "queue_token_not_active"));
        fan.hold(&sale, &["A-1-2"]).await;
    });
}

#[test]
fn no_more_are_inside_than_the_operator_allows_and_who_leaves_makes_room() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let path = format!("/admin/concerts/{}/admission", sale.concert);
        let body = json!({"opens_at": PAST, "rate_per_minute": 60_000, "active_seconds": 600, "max_active": 2});
        let answer = cloud.operator().put(&path, &body).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["max_active"]), (200, &json!(2)), "{}", answer.text());
        let mut fans = Vec::new();
        for _ in 0..4 {
            let fan = cloud.user("fan");
            let token = fan.join(&sale).await;
            fans.push((fan, token));
        }
        // The schedule begins a run every minute; this one does not wait for it.
        let info = cloud.stack.info();
        let run = tokio::spawn(async { Functions::of(info).invoke(&info.functions["admit-places"], "{}").await });
        let inside = async || {
            let mut inside = Vec::new();
            for (index, (fan, token)) in fans.iter().enumerate() {
                if status(fan, token).await["status"] == "active" {
                    inside.push(index);
                }
            }
            assert!(inside.len() <= 2, "{inside:?} are inside");
            after(Duration::from_millis(500)).await;
            inside
        };
        let takes = Duration::from_secs(20);
        eventually_after("two are inside", takes, async || (inside().await == [0, 1]).then_some(())).await;
        let (seat, other) = (["A-1-1"], ["A-1-2"]);
        assert_eq!(fans[0].0.reserve(&sale, &fans[0].1, &seat).await.status, 201);
        assert_eq!(code(&fans[2].0.reserve(&sale, &fans[2].1, &other).await), "queue_token_not_active");
        let left = fans[1].0.delete(&format!("/concerts/{}/queue-tokens", sale.concert)).await;
        assert_eq!(left.status, 204, "{}", left.text());
        eventually_after("the next is inside", takes, async || (inside().await == [0, 2]).then_some(())).await;
        assert_eq!(fans[2].0.reserve(&sale, &fans[2].1, &other).await.status, 201);
        let (answer, failed) = run.await.unwrap();
        assert!(!failed, "{answer}");
    });
}
