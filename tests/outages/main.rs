//! The deployed system with a part of it broken: a function that may not run, a table that is not there.
//!
//! What is broken is broken for all, so these tests have a cloud of their own and take turns on it. Waiting between
//! retries is skipped in the engine; the number of retries is not changed.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};
use std::sync::Mutex;
use std::sync::PoisonError;
use tests::cloud::{Cloud, Permissions, Sale, Terms, User, code, eventually, text, with_cloud};
use tests::functions::Functions;

static TURN: Mutex<()> = Mutex::new(());

fn alone_on_cloud<F: Future<Output = ()>>(test: impl FnOnce(&'static Cloud) -> F) {
    // A test that failed leaves the turn poisoned; the others can still take theirs.
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    with_cloud(&[], async |cloud| {
        cloud.skip_waits().await;
        test(cloud).await;
    });
}

/// How a function is broken.
#[derive(Debug, Clone, Copy)]
enum Outage {
    /// It may not run at all.
    MayNotRun,
    /// Its table is not there.
    NoTable,
    /// Its role has lost its permissions.
    NoPermission,
}

const OUTAGES: [Outage; 3] = [Outage::MayNotRun, Outage::NoTable, Outage::NoPermission];

/// A function that is broken, until it is healed.
struct Broken {
    handler: &'static str,
    permissions: Option<Permissions>,
}

fn functions(cloud: &Cloud) -> Functions {
    Functions::of(cloud.stack.info())
}

async fn broken(cloud: &Cloud, handler: &'static str, outage: Outage) -> Broken {
    let name = &cloud.stack.info().functions[handler];
    let mut broken = Broken { handler, permissions: None };
    match outage {
        Outage::MayNotRun => functions(cloud).switch_off(name).await,
        Outage::NoTable => set_table(cloud, handler, "encore-no-such-table").await,
        Outage::NoPermission => {
            let role = functions(cloud).role(name).await;
            broken.permissions = Some(cloud.take_permissions(&role).await);
        }
    }
    broken
}

impl Broken {
    async fn heal(self, cloud: &Cloud, table: &str) {
        let name = &cloud.stack.info().functions[self.handler];
        functions(cloud).switch_on(name).await;
        set_table(cloud, self.handler, &cloud.stack.info().tables[table]).await;
        if let Some(permissions) = self.permissions {
            cloud.give_permissions(permissions).await;
        }
    }
}

async fn set_table(cloud: &Cloud, handler: &str, table: &str) {
    set_variable(cloud, handler, "TABLE", table).await;
}

/// Sets a variable of a function; returns the old value.
async fn set_variable(cloud: &Cloud, handler: &str, variable: &str, value: &str) -> String {
    functions(cloud).set_variable(&cloud.stack.info().functions[handler], variable, value).await
}

async fn parked(cloud: &Cloud) -> Vec<Value> {
    let client = aws_sdk_sqs::Client::new(&cloud.stack.info().sdk_config());
    let url = &cloud.stack.info().queues["parked-payments"];
    let got = client.receive_message().queue_url(url).max_number_of_messages(10).send().await.unwrap();
    let mut bodies = Vec::new();
    for message in got.messages() {
        bodies.push(serde_json::from_str(message.body().unwrap()).unwrap());
        client.delete_message().queue_url(url).receipt_handle(message.receipt_handle().unwrap()).send().await.unwrap();
    }
    bodies
}

async fn holder(cloud: &'static Cloud, sale: &Sale, seat: &str) -> (User, String) {
    let fan = cloud.user("fan");
    fan.charge(5_000).await;
    let reservation = fan.hold(sale, &[seat]).await;
    (fan, reservation)
}

#[test]
fn a_forward_step_that_cannot_work_undoes_the_payment_and_the_buyer_can_pay_later() {
    alone_on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let steps =
            [("begin-payment", "reservations"), ("use-points", "points"), ("confirm-reservation", "reservations")];
        let mut number = 0;
        for (step, table) in steps {
            for outage in OUTAGES {
                number += 1;
                let case = format!("{step} {outage:?}");
                let (fan, reservation) = holder(cloud, &sale, &format!("A-1-{number}")).await;
                let broken = broken(cloud, step, outage).await;
                let answer = fan.pay(&reservation, "during").await;
                let ended = fan.final_payment(&text(&answer.json(), "payment_id")).await;
                broken.heal(cloud, table).await;
                assert_eq!(ended["status"], "failed", "{case}");
                assert_eq!(ended["failure"], "temporarily_unavailable", "{case}");
                assert_eq!(fan.balance().await, 5_000, "{case}");
                assert_eq!(fan.reservation_status(&reservation).await, "held", "{case}");
                let paid = fan.pay(&reservation, "after").await;
                assert_eq!(paid.json()["status"], "completed", "{case}: {}", paid.text());
                assert_eq!(fan.balance().await, 4_000, "{case}");
            }
        }
        assert_eq!(parked(cloud).await, Vec::<Value>::new());
    });
}

#[test]
fn a_compensation_that_cannot_work_is_parked_with_everything_needed() {
    alone_on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let steps =
            [("release-reservation", "reservations"), ("return-points", "points"), ("fail-payment", "payments")];
        for (number, (step, table)) in (1..).zip(steps) {
            let outage = OUTAGES[number % OUTAGES.len()];
            let (fan, reservation) = holder(cloud, &sale, &format!("A-2-{number}")).await;
            let confirm = broken(cloud, "confirm-reservation", Outage::MayNotRun).await;
            let undo = broken(cloud, step, outage).await;
            let body = json!({"reservation_id": reservation});
            let accepted = fan.send("POST", "/payments", &[("idempotency-key", "k")], Some(&body)).await.json();
            let found = eventually("the payment is parked", async || parked(cloud).await.pop()).await;
            undo.heal(cloud, table).await;
            confirm.heal(cloud, "reservations").await;
            let saga = &found["saga"];
            assert_eq!(saga["payment_id"], accepted["payment_id"], "{step}");
            assert_eq!(saga["user_id"], fan.id.as_str(), "{step}");
            assert_eq!(saga["reservation_id"], reservation.as_str(), "{step}");
            assert_eq!(saga["amount"], 1_000, "{step}");
            assert!(saga["parked_by"]["Error"].is_string(), "{step}: {found}");
            let still = fan.get(&format!("/payments/{}", text(&accepted, "payment_id"))).await.json();
            assert_eq!(still["status"], "pending", "{step}: nobody is told it ended");
        }
    });
}

#[test]
fn a_sale_that_cannot_be_recorded_stands_and_is_parked() {
    alone_on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let (fan, reservation) = holder(cloud, &sale, "A-3-1").await;
        let broken = broken(cloud, "complete-payment", Outage::NoTable).await;
        let body = json!({"reservation_id": reservation});
        fan.send("POST", "/payments", &[("idempotency-key", "k")], Some(&body)).await;
        eventually("the payment is parked", async || parked(cloud).await.pop()).await;
        broken.heal(cloud, "payments").await;
        assert_eq!(fan.reservation_status(&reservation).await, "paid");
        assert_eq!(fan.balance().await, 4_000);
    });
}

#[test]
fn a_payment_recorded_but_not_started_is_started_by_the_same_request() {
    alone_on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let (fan, reservation) = holder(cloud, &sale, "A-3-2").await;
        let nowhere = "arn:aws:states:us-east-1:000000000000:stateMachine:no-such-saga";
        let saga = set_variable(cloud, "start-payment", "PAYMENT_SAGA", nowhere).await;
        let answer = fan.pay(&reservation, "k").await;
        set_variable(cloud, "start-payment", "PAYMENT_SAGA", &saga).await;
        assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (503, "temporarily_unavailable"));
        assert_eq!(fan.reservation_status(&reservation).await, "held");
        let again = fan.pay(&reservation, "k").await;
        assert_eq!(again.json()["status"], "completed", "{}", again.text());
        assert_eq!(fan.balance().await, 4_000);
    });
}

#[test]
fn without_its_table_a_route_answers_503_with_a_time_to_retry() {
    alone_on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let fan = cloud.user("fan");
        let token = fan.join(&sale).await;
        let broken = broken(cloud, "reserve-seats", Outage::NoTable).await;
        let answer = fan.reserve(&sale, &token, &["A-4-1"]).await;
        broken.heal(cloud, "reservations").await;
        assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (503, "temporarily_unavailable"));
        assert!(answer.headers.contains_key("retry-after"));
        assert!(!answer.text().contains("no-such-table"), "nothing of the inside shows");
        assert_eq!(fan.reserve(&sale, &token, &["A-4-1"]).await.status, 201);
    });
}

#[test]
fn a_token_that_cannot_be_expired_does_not_fail_a_payment() {
    alone_on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let broken = broken(cloud, "expire-queue-tokens", Outage::NoTable).await;
        let (fan, reservation) = holder(cloud, &sale, "A-5-1").await;
        let paid = fan.pay(&reservation, "k").await;
        broken.heal(cloud, "waiting-room").await;
        assert_eq!(paid.json()["status"], "completed", "{}", paid.text());
    });
}

#[test]
fn in_strict_mode_a_token_that_cannot_be_expired_undoes_the_payment() {
    alone_on_cloud(async |cloud| {
        set_variable(cloud, "start-payment", "TOKEN_EXPIRY", "strict").await;
        let sale = cloud.sale(Terms::default()).await;
        let fan = cloud.user("fan");
        fan.charge(5_000).await;
        let token = fan.join(&sale).await;
        let reservation = text(&fan.reserve(&sale, &token, &["A-5-2"]).await.json(), "reservation_id");
        let broken = broken(cloud, "expire-queue-token", Outage::NoTable).await;
        let answer = fan.pay(&reservation, "during").await;
        let ended = fan.final_payment(&text(&answer.json(), "payment_id")).await;
        broken.heal(cloud, "waiting-room").await;
        assert_eq!(ended["status"], "failed");
        assert_eq!(fan.balance().await, 5_000);
        assert_eq!(fan.reservation_status(&reservation).await, "held");
        let paid = fan.pay(&reservation, "after").await;
        assert_eq!(paid.json()["status"], "completed", "{}", paid.text());
        let status = eventually("the token is used", async || {
            let found = fan.send("GET", "/queue-status", &[("queue-token", &token)], None).await.json();
            (found["status"] == "used").then_some(found)
        })
        .await;
        assert_eq!(status["position"], 1);
        set_variable(cloud, "start-payment", "TOKEN_EXPIRY", "event").await;
    });
}
