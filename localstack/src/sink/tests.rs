//! What the sink answers, and that it ends with its stack.

use super::*;
use crate::http::Client as Http;

async fn sink() -> (Attached, Secrets, Client, Http) {
    let secrets = Secrets::new().unwrap();
    let sink = Attached::start(secrets.clone()).await.unwrap();
    let client = Client::new(sink.url());
    (sink, secrets, client, Http::new())
}

fn signed(secret: &str, id: &str, at: i64, body: &str) -> Vec<(&'static str, String)> {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
    let tag = aws_lc_rs::hmac::sign(&key, format!("{id}.{at}.{body}").as_bytes());
    vec![
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", at.to_string()),
        ("webhook-signature", format!("v1,{}", STANDARD.encode(tag))),
    ]
}

async fn post(http: &Http, url: &str, headers: &[(&str, String)], body: &str) -> Result<crate::http::Answer> {
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    http.send(Method::POST, url, &headers, body.to_owned()).await
}

#[tokio::test]
async fn a_webhook_is_taken_only_with_a_fresh_signature_of_what_it_says() {
    let (sink, secrets, client, http) = sink().await;
    let url = format!("{}/partner", sink.url());
    let now = now_ms() / 1000;
    let send = async |headers: &[(&str, String)], body| post(&http, &url, headers, body).await.unwrap().status.as_u16();
    assert_eq!(send(&signed(&secrets.partner, "e1", now, "{}"), "{}").await, 204);
    assert_eq!(send(&signed(&secrets.partner, "e1", now, "{}"), "{ }").await, 401, "another body");
    assert_eq!(send(&signed(&secrets.partner, "e1", now - 301, "{}"), "{}").await, 401, "an old one");
    assert_eq!(send(&signed(&secrets.data_platform, "e1", now, "{}"), "{}").await, 401, "another's secret");
    assert_eq!(send(&[], "{}").await, 401);
    let tally = client.summary().await.unwrap()[&Target::Partner];
    assert_eq!((tally.deliveries, tally.effects, tally.refused), (1, 1, 4));
}

#[tokio::test]
async fn a_call_repeated_under_its_key_has_no_second_effect() {
    let (sink, secrets, client, http) = sink().await;
    let url = format!("{}/toss/v1/cash-receipts", sink.url());
    let body = r#"{"amount":1,"orderId":"o","orderName":"n","customerIdentityNumber":"010","type":"소득공제"}"#;
    let headers = |key: &str| {
        let basic = format!("Basic {}", STANDARD.encode(format!("{}:", secrets.toss)));
        [("authorization", basic), ("idempotency-key", key.to_owned())]
    };
    let first = post(&http, &url, &headers("k1"), body).await.unwrap().json();
    assert_eq!(post(&http, &url, &headers("k1"), body).await.unwrap().json(), first);
    assert_ne!(post(&http, &url, &headers("k2"), body).await.unwrap().json(), first);
    let tally = client.summary().await.unwrap()[&Target::Toss];
    assert_eq!((tally.deliveries, tally.effects), (3, 2));
    let deliveries = client.deliveries(Some(Target::Toss), Some("k1")).await.unwrap();
    assert_eq!(deliveries.iter().map(|delivery| delivery.repeated).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn a_payment_is_confirmed_once_and_as_it_was_paid() {
    let (sink, secrets, client, http) = sink().await;
    client.register_payment("p/1", "order-1", 500).await.unwrap();
    let basic = [("authorization", format!("Basic {}", STANDARD.encode(format!("{}:", secrets.toss))))];
    let confirm = async |body: Value| {
        let url = format!("{}/toss/v1/payments/confirm", sink.url());
        let answer = post(&http, &url, &basic, &body.to_string()).await.unwrap();
        (answer.status.as_u16(), answer.json())
    };
    let asked = |order: &str, amount: i64| json!({"paymentKey": "p/1", "orderId": order, "amount": amount});
    assert_eq!(confirm(asked("order-2", 500)).await.0, 400);
    assert_eq!(confirm(asked("order-1", 501)).await.0, 400);
    let (status, payment) = confirm(asked("order-1", 500)).await;
    assert_eq!((status, &payment["status"], &payment["totalAmount"]), (200, &"DONE".into(), &500.into()));
    assert_eq!(confirm(asked("order-1", 500)).await.1["code"], "ALREADY_PROCESSED_PAYMENT");
}

#[tokio::test]
async fn targets_fail_throttle_and_lose_answers_as_they_are_set() {
    let (sink, secrets, client, http) = sink().await;
    let url = format!("{}/partner", sink.url());
    let send = async |id: &str| post(&http, &url, &signed(&secrets.partner, id, now_ms() / 1000, "{}"), "{}").await;
    client.behave(Target::Partner, Behaviour::fail(503).times(1)).await.unwrap();
    assert_eq!(send("a").await.unwrap().status, 503);
    assert_eq!(send("a").await.unwrap().status, 204);
    client.behave(Target::All, Behaviour::throttle(7)).await.unwrap();
    let throttled = send("b").await.unwrap();
    assert_eq!((throttled.status.as_u16(), &throttled.headers["retry-after"]), (429, &"7".parse().unwrap()));
    client.behave(Target::All, Behaviour::lose_answer()).await.unwrap();
    assert!(send("c").await.is_err());
    client.behave(Target::All, Behaviour::ok()).await.unwrap();
    assert_eq!(send("c").await.unwrap().status, 204);
    let lost = client.deliveries(None, Some("c")).await.unwrap();
    assert_eq!(lost.iter().map(|delivery| delivery.repeated).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn everybody_has_a_telephone_number_but_those_who_have_none() {
    let (sink, secrets, _, http) = sink().await;
    let bearer = format!("Bearer {}", secrets.directory);
    let ask = async |id: &str| {
        let url = format!("{}/directory/Users/{id}", sink.url());
        http.send(Method::GET, &url, &[("authorization", &bearer)], "").await.unwrap()
    };
    let number = ask("alice").await.json()["phoneNumbers"][0]["value"].as_str().unwrap().to_owned();
    assert!(number.starts_with("+8210") && number.len() == 13, "{number}");
    assert_eq!(ask("nophone-1").await.json()["phoneNumbers"], Value::Null);
    assert_eq!(ask("ghost-1").await.status, 404);
}
