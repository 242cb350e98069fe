//! Points that are paid for: the money at the provider and the points in the balance, both or neither (R14).

use crate::{alone, arrived, behave, shared};
use aws_sdk_dynamodb::types::AttributeValue;
use local::http::Answer;
use local::sink::{Behaviour, Delivery, Target};
use serde_json::{Value, json};
use tests::cloud::{Cloud, Terms, User, code, eventually, text, unique};
use tests::functions::Functions;

/// A payment that its payer has completed in the provider's own pages.
struct Payment {
    order: String,
    payment_key: String,
    amount: i64,
}

impl Payment {
    async fn of(cloud: &Cloud, payer: &User, amount: i64) -> Self {
        let payment = Self { order: payer.charge_intent(amount).await, payment_key: unique("payment"), amount };
        cloud.sink().register_payment(&payment.payment_key, &payment.order, amount).await.unwrap();
        payment
    }

    fn body(&self) -> Value {
        json!({"amount": self.amount, "payment_key": self.payment_key})
    }

    /// How many requests for this payment the provider accepted that were no repetitions.
    async fn effects(&self, cloud: &Cloud, what: &str) -> usize {
        let came = cloud.sink().deliveries(Some(Target::Toss), Some(&self.payment_key)).await.unwrap();
        let is_effect = |one: &&Delivery| one.path.ends_with(what) && one.status == 200 && !one.repeated;
        came.iter().filter(is_effect).count()
    }
}

async fn charge(user: &User, key: &str, body: &Value) -> Answer {
    user.send("POST", "/points/charges", &[("idempotency-key", key)], Some(body)).await
}

#[test]
fn a_charge_is_confirmed_with_the_provider_and_in_the_balance_once() {
    shared(async |cloud| {
        let (alice, bob) = (cloud.user("alice"), cloud.user("bob"));
        let payment = Payment::of(cloud, &alice, 5_000).await;
        let first = charge(&alice, &payment.order, &payment.body()).await;
        assert_eq!(first.status, 201, "{}", first.text());
        assert_eq!(first.json()["balance"], 5_000);
        assert_eq!(charge(&alice, &payment.order, &payment.body()).await.json(), first.json());
        // The same payment pays for nothing else, whoever sends it.
        for (thief, key) in [(&bob, payment.order.as_str()), (&alice, "another-order")] {
            let refused = charge(thief, key, &payment.body()).await;
            assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (409, "charge_intent_not_open"));
        }
        let bobs = bob.charge_intent(payment.amount).await;
        let refused = charge(&bob, &bobs, &payment.body()).await;
        assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (402, "payment_not_confirmed"));
        assert_eq!((alice.balance().await, bob.balance().await), (5_000, 0));
        assert_eq!(payment.effects(cloud, "/confirm").await, 1);
        let came = cloud.sink().deliveries(Some(Target::Toss), Some(&payment.payment_key)).await.unwrap();
        assert!(came.iter().all(|one| one.correlation_id.is_some()), "{came:?}");
    });
}

#[test]
fn what_nobody_has_paid_is_not_charged() {
    shared(async |cloud| {
        let user = cloud.user("user");
        let unpaid = json!({"amount": 5_000, "payment_key": unique("unpaid")});
        let refused = charge(&user, "an-order", &unpaid).await;
        assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (409, "charge_intent_not_open"));
        let refused = charge(&user, &user.charge_intent(5_000).await, &unpaid).await;
        assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (402, "payment_not_confirmed"));
        // Paid, but less than the charge.
        let payment = Payment::of(cloud, &user, 100).await;
        let body = json!({"amount": 5_000, "payment_key": payment.payment_key});
        assert_eq!(charge(&user, &payment.order, &body).await.status, 409);
        assert_eq!(charge(&user, &user.charge_intent(5_000).await, &body).await.status, 402);
        for (key, body) in [
            ("an-order", json!({"amount": 5_000})),
            ("an-order", json!({"amount": 5_000, "payment_key": "p/../q"})),
            ("an-order", json!({"amount": 5_000, "payment_key": ""})),
        ] {
            let invalid = charge(&user, key, &body).await;
            assert_eq!((invalid.status.as_u16(), code(&invalid).as_str()), (400, "invalid_request"), "{body}");
        }
        assert_eq!(user.balance().await, 0);
        assert_eq!(payment.effects(cloud, "/confirm").await, 0);
    });
}

#[test]
fn who_buys_points_for_a_hold_gets_more_time_once_and_pays_with_them() {
    shared(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let user = cloud.user("user");
        let reservation = user.hold(&sale, &["A-1-1"]).await;
        let path = format!("/reservations/{reservation}");
        let ends = async || user.get(&path).await.json()["hold_expires_at"].as_str().unwrap().to_owned();
        let end = |text: &str| contracts::Timestamp::parse_rfc3339(text).unwrap();
        let before = ends().await;
        let extend = async || user.send("POST", &format!("{path}/extension"), &[], None).await;
        let refused = extend().await;
        assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (409, "charge_intent_not_open"));
        let payment = Payment::of(cloud, &user, 5_000).await;
        let extended = extend().await;
        assert_eq!(extended.status, 200, "{}", extended.text());
        assert_eq!(extended.json()["hold_expires_at"], ends().await);
        assert_eq!(end(&ends().await).millis_since(end(&before)), 300_000);
        assert_eq!(charge(&user, &payment.order, &payment.body()).await.status, 201);
        // The points are there: the same answer again.
        assert_eq!(extend().await.json(), extended.json());
        arrived(cloud, Target::DataPlatform, &format!("{reservation}.reservation.extended")).await;
        let paid = user.pay(&reservation, "pay").await;
        let end = user.final_payment(&text(&paid.json(), "payment_id")).await;
        assert_eq!(end["status"], "completed", "{end}");
    });
}

/// Waits until a withdrawal has come to this end. The schedule of every minute is not waited for.
async fn ended(cloud: &Cloud, user: &User, id: &str, end: &str) {
    let info = cloud.stack.info();
    let path = format!("/points/withdrawals/{id}");
    let what = format!("withdrawal {id} is {end}");
    eventually(&what, async || {
        let run = Functions::of(info).invoke(&info.functions["settle-withdrawals"], "{}").await;
        assert!(!run.1, "{run:?}");
        (user.get(&path).await.json()["status"] == end).then_some(())
    })
    .await;
}

async fn withdraw(user: &User, key: &str, amount: i64) -> Answer {
    let headers = [("idempotency-key", key)];
    user.send("POST", "/points/withdrawals", &headers, Some(&json!({ "amount": amount }))).await
}

#[test]
fn points_that_are_taken_out_go_back_to_the_payment_they_came_from() {
    shared(async |cloud| {
        let user = cloud.user("user");
        let payment = Payment::of(cloud, &user, 5_000).await;
        assert_eq!(charge(&user, &payment.order, &payment.body()).await.status, 201);
        let asked = withdraw(&user, "out", 3_000).await;
        assert_eq!(asked.status, 202, "{}", asked.text());
        assert_eq!(user.balance().await, 2_000);
        let id = text(&asked.json(), "withdrawal_id");
        ended(cloud, &user, &id, "paid").await;
        assert_eq!(payment.effects(cloud, "/cancel").await, 1);
        assert_eq!(text(&withdraw(&user, "out", 3_000).await.json(), "withdrawal_id"), id);
        arrived(cloud, Target::DataPlatform, &format!("{id}.withdrawal.completed")).await;
        let low = withdraw(&user, "more", 2_001).await;
        assert_eq!((low.status.as_u16(), code(&low).as_str()), (409, "insufficient_points"));
        // The rest of the charge, and no more of it.
        let rest = withdraw(&user, "rest", 2_000).await;
        ended(cloud, &user, &text(&rest.json(), "withdrawal_id"), "paid").await;
        assert_eq!((payment.effects(cloud, "/cancel").await, user.balance().await), (2, 0));
    });
}

#[test]
fn a_confirmation_whose_answer_is_lost_is_found_and_credited() {
    alone(async |cloud| {
        let user = cloud.user("user");
        let payment = Payment::of(cloud, &user, 5_000).await;
        behave(cloud, Target::Toss, Behaviour::lose_answer().only("/confirm")).await;
        let charged = charge(&user, &payment.order, &payment.body()).await;
        assert_eq!(charged.status, 201, "{}", charged.text());
        assert_eq!(user.balance().await, 5_000);
        assert_eq!(payment.effects(cloud, "/confirm").await, 1);
    });
}

#[test]
fn a_provider_that_is_down_is_retried_and_takes_the_money_once() {
    alone(async |cloud| {
        let user = cloud.user("user");
        let payment = Payment::of(cloud, &user, 5_000).await;
        behave(cloud, Target::Toss, Behaviour::fail(503)).await;
        let unavailable = charge(&user, &payment.order, &payment.body()).await;
        assert_eq!(
            (unavailable.status.as_u16(), code(&unavailable).as_str()),
            (503, "temporarily_unavailable"),
            "{}",
            unavailable.text()
        );
        assert_eq!(user.balance().await, 0);
        behave(cloud, Target::Toss, Behaviour::ok()).await;
        assert_eq!(charge(&user, &payment.order, &payment.body()).await.status, 201);
        assert_eq!(user.balance().await, 5_000);
        assert_eq!(payment.effects(cloud, "/confirm").await, 1);
    });
}

#[test]
fn money_for_which_there_is_no_room_in_the_balance_is_given_back() {
    shared(async |cloud| {
        let user = cloud.user("rich");
        let info = cloud.stack.info();
        let tables = aws_sdk_dynamodb::Client::new(&info.sdk_config());
        let number = |number: i64| AttributeValue::N(number.to_string());
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let user_key = text(&format!("USER#{}", user.id));
        let account = tables
            .put_item()
            .table_name(&info.tables["points"])
            .item("pk", user_key.clone())
            .item("sk", text("ACCOUNT"))
            .item("balance", number(contracts::Won::MAX.get()))
            .item("seq", number(0))
            .item("hot", number(0));
        account.send().await.unwrap();
        let payment = Payment::of(cloud, &user, 5_000).await;
        for _ in 0..2 {
            let refused = charge(&user, &payment.order, &payment.body()).await;
            assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (409, "balance_limit_exceeded"));
        }
        assert_eq!((payment.effects(cloud, "/confirm").await, payment.effects(cloud, "/cancel").await), (1, 1));
        // The balance was made up: a later audit would find no ledger for it.
        let account = tables.delete_item().table_name(&info.tables["points"]);
        account.key("pk", user_key).key("sk", text("ACCOUNT")).send().await.unwrap();
    });
}
