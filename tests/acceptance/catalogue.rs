//! Concerts, dates and seat maps.

use crate::on_cloud;
use serde_json::json;
use tests::cloud::{Terms, code, eventually, text};

#[test]
fn a_concert_can_be_read_by_anyone_as_soon_as_it_is_created() {
    on_cloud(async |cloud| {
        let sale = cloud.concert(Terms::default()).await;
        let nobody = cloud.nobody();
        let concert = nobody.get(&format!("/concerts/{}", sale.concert)).await;
        assert_eq!(concert.status, 200);
        assert_eq!(concert.json()["title"], "Title");
        let dates = nobody.get(&format!("/concerts/{}/schedules", sale.concert)).await.json();
        assert_eq!(dates["items"][0]["schedule_id"], sale.schedule.as_str());
        assert_eq!(dates["items"][0]["seats_total"], 50);
        assert_eq!(dates["items"][0]["seats_available"], 50);
        assert_eq!(sale.available(&nobody).await, 50);
    });
}

#[test]
fn concerts_are_listed_in_pages() {
    on_cloud(async |cloud| {
        for _ in 0..3 {
            cloud.concert(Terms::default()).await;
        }
        let mut seen = Vec::new();
        let mut path = "/concerts?limit=2".to_owned();
        loop {
            let page = cloud.nobody().get(&path).await;
            assert_eq!(page.status, 200, "{}", page.text());
            let page = page.json();
            let items = page["items"].as_array().cloned().unwrap_or_default();
            assert!(items.len() <= 2);
            seen.extend(items.iter().map(|item| text(item, "concert_id")));
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            path = format!("/concerts?limit=2&cursor={cursor}");
        }
        let distinct: std::collections::HashSet<_> = seen.iter().collect();
        assert!(seen.len() >= 3);
        assert_eq!(distinct.len(), seen.len(), "a row came twice");
    });
}

#[test]
fn unknown_concerts_and_dates_are_not_found() {
    on_cloud(async |cloud| {
        let nobody = cloud.nobody();
        for path in ["/concerts/none", "/concerts/none/schedules", "/schedules/none/seats"] {
            let answer = nobody.get(path).await;
            assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (404, "not_found"), "{path}");
            assert_eq!(answer.headers["content-type"], "application/problem+json");
            assert!(answer.headers.contains_key("x-request-id"));
        }
    });
}

#[test]
fn only_operators_create_concerts_and_dates() {
    on_cloud(async |cloud| {
        let concert = json!({"title": "t", "artist": "a", "venue": "v"});
        let refused = cloud.nobody().post("/admin/concerts", &concert).await;
        assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (401, "unauthorized"));
        let refused = cloud.user("fan").post("/admin/concerts", &concert).await;
        assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (403, "forbidden"));
        let date = json!({"starts_at": "2099-01-01T00:00:00Z", "max_per_user": 1,
            "sections": [{"section": "A", "grade": "R", "price": 1, "rows": 1, "seats_per_row": 1}]});
        let missing = cloud.operator().post("/admin/concerts/none/schedules", &date).await;
        assert_eq!((missing.status.as_u16(), code(&missing).as_str()), (404, "not_found"));
    });
}

#[test]
fn a_date_that_makes_no_sense_is_refused() {
    on_cloud(async |cloud| {
        let sale = cloud.concert(Terms::default()).await;
        let path = format!("/admin/concerts/{}/schedules", sale.concert);
        let section = json!({"section": "A", "grade": "R", "price": 1, "rows": 1, "seats_per_row": 1});
        let good = json!({"starts_at": "2099-01-01T00:00:00Z", "max_per_user": 1, "sections": [section]});
        let with = |name: &str, value| {
            let mut body = good.clone();
            body[name] = value;
            body
        };
        let with_section = |name: &str, value| {
            let mut body = good.clone();
            body["sections"][0][name] = value;
            body
        };
        for bad in [
            with("starts_at", json!("2001-01-01T00:00:00Z")),
            with("starts_at", json!("soon")),
            with("max_per_user", json!(0)),
            with("max_per_user", json!(1_000_000)),
            with("hold_seconds", json!(0)),
            with("hold_seconds", json!(3601)),
            with("sections", json!([])),
            with("sections", json!([section, section])),
            with("extra", json!(1)),
            with_section("section", json!("a-b")),
            with_section("price", json!(-1)),
            with_section("price", json!(1.5)),
            with_section("rows", json!(0)),
            with_section("rows", json!(4_000_000_000_u32)),
            with_section("seats_per_row", json!(100_001)),
        ] {
            let answer = cloud.operator().post(&path, &bad).await;
            assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (400, "invalid_request"), "{bad}");
        }
    });
}

#[test]
fn a_stadium_of_50000_seats_is_created_shown_and_sold_from() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms { rows: 250, seats_per_row: 200, ..Terms::default() }).await;
        let fan = cloud.user("fan");
        fan.hold(&sale, &["A-250-200"]).await;
        eventually("the map shows the hold", async || (sale.available(&fan).await == 49_999).then_some(())).await;
        assert_eq!(sale.seat(&fan, "A-250-200").await, "held");
        assert_eq!(sale.seat(&fan, "A-1-1").await, "available");
    });
}

#[test]
fn a_seat_map_is_rebuilt_by_an_operator_and_by_nobody_else() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let fan = cloud.user("fan");
        fan.hold(&sale, &["A-1-1"]).await;
        eventually("the map shows the hold", async || (sale.available(&fan).await == 49).then_some(())).await;
        let path = format!("/admin/schedules/{}/seat-map", sale.schedule);
        let answer = cloud.operator().send("POST", &path, &[], None).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let body = answer.json();
        assert_eq!((&body["schedule_id"], &body["left"]), (&json!(sale.schedule), &json!([])));
        assert_eq!((sale.available(&fan).await, sale.seat(&fan, "A-1-1").await), (49, "held".to_owned()));
        let refused = fan.send("POST", &path, &[], None).await;
        assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (403, "forbidden"));
        let missing = cloud.operator().send("POST", "/admin/schedules/none/seat-map", &[], None).await;
        assert_eq!((missing.status.as_u16(), code(&missing).as_str()), (404, "not_found"));
    });
}

#[test]
fn creating_a_concert_again_under_its_key_gives_the_same_concert() {
    on_cloud(async |cloud| {
        let operator = cloud.operator();
        let body = json!({"title": "t", "artist": "a", "venue": "v"});
        let create =
            async |body| operator.send("POST", "/admin/concerts", &[("idempotency-key", "k")], Some(body)).await;
        let first = create(&body).await;
        let again = create(&body).await;
        assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 201));
        assert_eq!(first.json(), again.json());
        let other = create(&json!({"title": "other", "artist": "a", "venue": "v"})).await;
        assert_eq!((other.status.as_u16(), code(&other).as_str()), (422, "idempotency_key_reused"));
    });
}
