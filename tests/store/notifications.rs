//! Consumers: one effect for each event, whatever fails.

use crate::bench::Bench;
use ::notifications::clients::{self, AlimTalk, CashReceipts, Directory, Notion, Webhook};
use ::notifications::domain::{LEASE_MILLIS, QUIET_MILLIS};
use ::notifications::dynamo::Notifications;
use ::notifications::handlers::{
    Deps, PersonalDeps, WatchDeps, alert_administrator, deliver_to_data_platform, issue_cash_receipt,
    issue_order_receipt, notify_partner, push_alimtalk, watch_dead_letters,
};
use ::notifications::ports::LookAtQueue;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contracts::Timestamp;
use contracts::events::{Event, schema_of};
use kit::Fault;
use kit::dynamo::Read;
use kit::outbox::Relay;
use kit::outgoing::Client;
use kit::queue::Message;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;
use tests::bus::{BUS, Bus};
use tests::outside::{Heard, Outside};
use tests::proxy::{Fate, Proxy, Rule};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// The key of the Standard Webhooks libraries' own tests.
const SIGNING: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Every secret here, in the forms in which it could leak.
const SECRETS: [&str; 6] =
    ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "alim-secret", "alim-app", "toss-secret", "notion-token", "scim-token"];

/// The consumers, the providers, and a network between them.
pub struct Desk<'a> {
    bench: &'a Bench,
    outside: Outside,
    network: Proxy,
}

impl<'a> Desk<'a> {
    pub async fn beside(bench: &'a Bench) -> Self {
        let outside = Outside::start().await;
        Self { bench, network: Proxy::start(outside.url()).await, outside }
    }

    pub fn store(&self) -> Notifications {
        Notifications::new(self.bench.proxy.table("notifications"))
    }

    fn url(&self) -> String {
        self.network.url().to_owned()
    }

    pub fn webhook(&self, path: &str) -> Deps<Notifications, Webhook> {
        let secret = self.outside.secret("/encore/signing", json!({"signing_secret": SIGNING}));
        let provider = Webhook::new(Client::new().unwrap(), format!("{}{path}", self.url()), secret);
        Deps { store: self.store(), provider }
    }

    fn directory(&self) -> Directory {
        let secret = self.outside.secret("/encore/user-directory", json!({"token": "scim-token"}));
        Directory::new(Client::new().unwrap(), self.url(), secret)
    }

    fn alimtalk(&self) -> PersonalDeps<Notifications, AlimTalk, Directory> {
        let templates =
            ["reservation_held", "reservation_expired", "payment_completed", "order_completed", "order_failed"]
                .map(|name| (name, name));
        let secret = self.outside.secret(
            "/encore/alimtalk",
            json!({
                "app_key": "alim-app", "secret_key": "alim-secret", "sender_key": "sender",
                "templates": std::collections::BTreeMap::from(templates),
            }),
        );
        let provider = AlimTalk::new(Client::new().unwrap(), self.url(), secret);
        PersonalDeps { store: self.store(), provider, directory: self.directory() }
    }

    pub fn receipts(&self) -> PersonalDeps<Notifications, CashReceipts, Directory> {
        let secret = self.outside.secret("/encore/cash-receipt", json!({"secret_key": "toss-secret"}));
        let provider = CashReceipts::new(Client::new().unwrap(), self.url(), secret);
        PersonalDeps { store: self.store(), provider, directory: self.directory() }
    }

    fn notion(&self) -> Deps<Notifications, Notion> {
        let secret = self.outside.secret("/encore/notion", json!({"token": "notion-token", "database_id": "db"}));
        Deps { store: self.store(), provider: Notion::new(Client::new().unwrap(), self.url(), secret) }
    }

    fn watch(&self, queues: Queues) -> WatchDeps<Notifications, Notion, Queues> {
        let Deps { store, provider } = self.notion();
        let urls = queues.0.lock().unwrap().iter().map(|(name, _)| format!("http://sqs/1/{name}")).collect();
        WatchDeps { store, pages: Some(provider), look: queues, queues: urls }
    }

    /// The requests that providers received whose method and path contain this.
    pub fn heard(&self, what: &str) -> Vec<Heard> {
        self.outside.heard(what)
    }

    /// The status and the count of each page.
    pub fn pages(&self) -> Vec<(String, i64)> {
        let pages = self.outside.pages().into_iter();
        let read = |page: Value| {
            (page["Status"]["select"]["name"].as_str().unwrap().to_owned(), page["Count"]["number"].as_i64().unwrap())
        };
        pages.map(read).collect()
    }
}

/// Queues by name, and how many messages each holds.
#[derive(Debug)]
struct Queues(Mutex<Vec<(String, u64)>>);

impl Queues {
    fn holding(queues: &[(&str, u64)]) -> Self {
        Self(Mutex::new(queues.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()))
    }

    fn set(&self, queue: &str, count: u64) {
        let mut queues = self.0.lock().unwrap();
        queues.iter_mut().find(|(name, _)| name == queue).unwrap().1 = count;
    }
}

impl LookAtQueue for Queues {
    async fn waiting(&self, queue: &str) -> Result<u64, Fault> {
        let queues = self.0.lock().unwrap();
        let (_, count) = queues.iter().find(|(name, _)| queue.ends_with(name.as_str())).unwrap();
        if *count == u64::MAX { Err(Fault::unavailable("looking", "no answer")) } else { Ok(*count) }
    }
}

/// The example of an event type, under an id of its own.
fn event(kind: &str, id: &str) -> Event {
    let schema: Value = serde_json::from_str(schema_of(kind).unwrap()).unwrap();
    let mut example = schema["examples"][0].clone();
    example["id"] = id.into();
    serde_json::from_value(example).unwrap()
}

fn message(event: &Event, now: Timestamp) -> Message {
    Message::new("m", json!({ "detail": event }).to_string(), now)
}

/// A message of an example event, received a second after it happened.
pub fn example(kind: &str) -> Message {
    let event = event(kind, &format!("{kind}.1"));
    message(&event, event.time.plus_seconds(1))
}

/// A message of the example order's end: completed, or failed for a reason.
pub fn order_ended(reason: Option<&str>) -> Message {
    let Some(reason) = reason else { return example("order.completed") };
    let failed = event("order.failed", "order.failed.1");
    let mut json = serde_json::to_value(&failed).unwrap();
    json["data"]["reason"] = reason.into();
    Message::new("m", json!({ "detail": json }).to_string(), failed.time.plus_seconds(1))
}

fn later(message: &Message, millis: i64) -> Message {
    Message::new(&message.id, message.body.clone(), message.now.plus_millis(millis))
}

fn fault(name: &str, id: &str, at: Timestamp) -> Message {
    let mut event = event("fault.detected", id);
    event.time = at;
    let mut json = serde_json::to_value(&event).unwrap();
    json["data"]["fault"] = name.into();
    Message::new("m", json!({ "detail": json }).to_string(), at)
}

fn alarm(state: &str, id: &str, at: Timestamp) -> Message {
    let body = json!({
        "id": id, "source": "aws.cloudwatch", "time": at.rfc3339(),
        "detail": {"alarmName": "encore-x-dead-letters", "state": {"value": state, "reason": "r"}},
    });
    Message::new("m", body.to_string(), at)
}

const NOW: Timestamp = tests::fixture::NOW;

fn is_broken(outcome: &Result<(), Fault>) -> bool {
    matches!(outcome, Err(Fault::Broken(_)))
}

fn is_contended(outcome: &Result<(), Fault>) -> bool {
    matches!(outcome, Err(Fault::Contended(_)))
}

fn is_unavailable(outcome: &Result<(), Fault>) -> bool {
    matches!(outcome, Err(Fault::Unavailable(_)))
}

/// Receives a message as often as SQS would, at the times it would, until it is done.
async fn until_done<Fut>(message: &Message, handle: impl Fn(Message) -> Fut)
where
    Fut: Future<Output = Result<(), Fault>>,
{
    for receive in 0..10 {
        match handle(later(message, receive * LEASE_MILLIS)).await {
            Ok(()) => return,
            Err(Fault::Broken(_)) => panic!("it is a dead letter"),
            Err(_) => {}
        }
    }
    panic!("it is never done");
}

// ------------------------------------------------------------------------------------------------ once

#[tokio::test]
async fn a_message_that_comes_twice_has_one_effect() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.alimtalk();
    let message = example("payment.completed");
    for _ in 0..3 {
        push_alimtalk(&deps, message.clone()).await.unwrap();
    }
    push_alimtalk(&deps, later(&message, 13 * 86_400_000)).await.unwrap();
    assert_eq!(desk.heard("alimtalk").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_at_once_one_has_an_effect() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.webhook("/partner");
    let message = example("payment.completed");
    let gate = desk.network.hold(Rule::all().containing("payment.completed"));
    let all = futures(10, || notify_partner(&deps, message.clone()));
    let opened = async {
        gate.reached().await;
        gate.open();
    };
    let (outcomes, ()) = tokio::join!(all, opened);
    assert!(outcomes.iter().all(|outcome| outcome.is_ok() || is_contended(outcome)), "{outcomes:?}");
    for _ in 0..10 {
        notify_partner(&deps, message.clone()).await.unwrap();
    }
    assert_eq!(desk.heard("/partner").len(), 1);
}

async fn futures<Fut: Future>(count: usize, one: impl Fn() -> Fut) -> Vec<Fut::Output> {
    futures_util::future::join_all((0..count).map(|_| one())).await
}

#[tokio::test]
async fn a_crash_between_effect_and_record_repeats_the_call_under_its_key() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.alimtalk();
    let message = example("payment.completed");
    bench.proxy.inject(Rule::on("PutItem").containing("done_at"), Fate::Dropped);
    assert!(is_unavailable(&push_alimtalk(&deps, message.clone()).await));
    bench.proxy.heal();
    assert!(is_contended(&push_alimtalk(&deps, message.clone()).await), "its claim holds");
    push_alimtalk(&deps, later(&message, LEASE_MILLIS)).await.unwrap();
    let heard = desk.heard("alimtalk");
    let keys: BTreeSet<&str> = heard.iter().map(|heard| heard.header("x-nc-api-idempotency-key")).collect();
    assert_eq!((heard.len(), keys), (2, BTreeSet::from(["payment.completed.1"])));
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_still_its_owners() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    bench.proxy.inject(Rule::on("PutItem").containing("claimed_until").once(), Fate::AnswerLost);
    notify_partner(&desk.webhook("/partner"), example("payment.completed")).await.unwrap();
    assert_eq!(desk.heard("/partner").len(), 1);
}

#[tokio::test]
async fn a_call_whose_answer_was_lost_is_retried_under_the_same_key() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.receipts();
    desk.network.inject(Rule::all().containing("orderId").times(3), Fate::AnswerLost);
    until_done(&example("payment.completed"), |message| issue_cash_receipt(&deps, message)).await;
    let heard = desk.heard("/v1/cash-receipts");
    assert!(heard.iter().all(|heard| heard.header("idempotency-key") == "payment.completed.1"));
    assert_eq!(heard.len(), 4);
}

#[tokio::test]
async fn a_provider_that_was_down_is_notified_once_when_it_is_back() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.webhook("/partner");
    let message = example("payment.completed");
    desk.outside.refuse("/partner", 503, None, 6);
    for _ in 0..3 {
        // Its claim was given back: the next receive need not wait for it to end.
        assert!(is_unavailable(&notify_partner(&deps, message.clone()).await));
    }
    for _ in 0..3 {
        notify_partner(&deps, message.clone()).await.unwrap();
    }
    assert_eq!(desk.heard("/partner").len(), 7);
}

#[tokio::test]
async fn a_refusal_is_final_at_once() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.webhook("/partner");
    desk.outside.refuse("/partner", 422, None, 1);
    assert!(is_broken(&notify_partner(&deps, example("payment.completed")).await));
    assert_eq!(desk.heard("/partner").len(), 1);
    // Redriven by an operator, it is delivered.
    notify_partner(&deps, example("payment.completed")).await.unwrap();
}

#[tokio::test]
async fn a_provider_that_sets_a_time_to_retry_is_not_called_before() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.alimtalk();
    desk.outside.refuse("/alimtalk", 429, Some(30), 1);
    let refused = push_alimtalk(&deps, example("payment.completed")).await.unwrap_err();
    assert_eq!(refused.wait(), Some(Duration::from_secs(30)));
    assert_eq!(desk.heard("/alimtalk").len(), 1);
}

#[tokio::test]
async fn no_secret_shows_in_debug_output_or_errors() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let (push, receipts, partner, notion) = (desk.alimtalk(), desk.receipts(), desk.webhook("/partner"), desk.notion());
    let mut shown = String::new();
    for status in [401, 500] {
        desk.outside.refuse("POST", status, None, usize::MAX);
        let paid = || example("payment.completed");
        let outcomes = [
            push_alimtalk(&push, paid()).await,
            issue_cash_receipt(&receipts, paid()).await,
            notify_partner(&partner, paid()).await,
            alert_administrator(&notion, fault("f", &format!("f.{status}"), NOW)).await,
        ];
        for outcome in outcomes {
            let fault = outcome.unwrap_err();
            shown += &format!("{fault:?} {}", fault.chain());
        }
    }
    shown += &format!("{push:?} {receipts:?} {partner:?} {notion:?}");
    for secret in SECRETS.into_iter().chain(["1012345678"]) {
        assert!(!shown.contains(secret), "{secret} in {shown}");
        assert!(!shown.contains(&STANDARD.encode(format!("{secret}:"))));
    }
}

// ------------------------------------------------------------------------------------------------ data platform

async fn deliver(desk: &Desk<'_>, messages: Vec<Message>) -> Vec<Result<(), Fault>> {
    deliver_to_data_platform(&desk.webhook("/data-platform"), messages).await
}

fn event_ids(heard: &Heard) -> Vec<&str> {
    heard.body["events"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap()).collect()
}

fn verify(heard: &Heard) {
    let key = STANDARD.decode(SIGNING.trim_start_matches("whsec_")).unwrap();
    let mut signed = format!("{}.{}.", heard.header("webhook-id"), heard.header("webhook-timestamp")).into_bytes();
    signed.extend_from_slice(&heard.bytes);
    let signature = STANDARD.decode(heard.header("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key), &signed, &signature).unwrap();
}

#[tokio::test]
async fn a_batch_is_one_signed_request_with_each_event_once() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let events = ["a", "b", "c", "b"].map(|id| message(&event("reservation.held", id), NOW));
    assert!(deliver(&desk, events.to_vec()).await.iter().all(Result::is_ok));
    let heard = desk.heard("/data-platform");
    assert_eq!(heard.len(), 1);
    assert_eq!(event_ids(&heard[0]), ["a", "b", "c"]);
    verify(&heard[0]);
    assert_eq!(heard[0].header("webhook-timestamp"), (NOW.millis() / 1000).to_string());
    // In another order, after a failure, it is the same batch.
    let bench = Bench::start().await;
    let again = Desk::beside(&bench).await;
    again.outside.refuse("/data-platform", 500, None, 2);
    let reversed = || events.iter().rev().cloned().collect::<Vec<_>>();
    assert!(deliver(&again, reversed()).await.iter().all(is_unavailable));
    assert!(deliver(&again, reversed()).await.iter().all(Result::is_ok));
    let ids = again.heard("/data-platform").into_iter().map(|heard| heard.header("webhook-id").to_owned());
    assert_eq!(ids.collect::<BTreeSet<_>>(), BTreeSet::from([heard[0].header("webhook-id").to_owned()]));
}

#[tokio::test]
async fn of_a_batch_only_what_is_poison_or_refused_is_given_up() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let mut messages: Vec<Message> =
        (0..9).map(|id| message(&event("payment.completed", &format!("e{id}")), NOW)).collect();
    messages.insert(4, Message::new("m", "no event", NOW));
    desk.outside.refuse("\"e7\"", 400, None, usize::MAX);
    let outcomes = deliver(&desk, messages).await;
    let broken: Vec<usize> = (0..10).filter(|index| is_broken(&outcomes[*index])).collect();
    assert_eq!(broken, [4, 8]);
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 8);
    let heard = desk.heard("/data-platform");
    assert_eq!(heard.len(), 1 + 9);
    for alone in &heard[1..] {
        verify(alone);
        assert_eq!(event_ids(alone), [alone.header("webhook-id")]);
    }
}

#[tokio::test]
async fn an_event_delivered_in_one_batch_is_left_out_of_the_next() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let messages = |ids: &[&str]| ids.iter().map(|id| message(&event("payment.completed", id), NOW)).collect();
    deliver(&desk, messages(&["a", "b"])).await;
    assert!(deliver(&desk, messages(&["b", "c"])).await.iter().all(Result::is_ok));
    assert!(deliver(&desk, messages(&["a", "b", "c"])).await.iter().all(Result::is_ok));
    let sent: Vec<Vec<String>> = desk
        .heard("/data-platform")
        .iter()
        .map(|heard| event_ids(heard).into_iter().map(str::to_owned).collect())
        .collect();
    assert_eq!(sent, [vec!["a", "b"], vec!["c"]]);
}

#[tokio::test]
async fn who_asks_for_their_place_in_line_leaves_nothing_in_the_table() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let messages = ["a", "b"].map(|id| message(&event("queue.checked", id), NOW)).to_vec();
    assert!(deliver(&desk, messages).await.iter().all(Result::is_ok));
    assert_eq!(desk.heard("/data-platform").len(), 1);
    assert!(bench.engine.items("notifications").await.is_empty());
}

/// The example of `order.placed`, of an order of its own.
fn placed(order: &str) -> Message {
    let mut event = serde_json::to_value(event("order.placed", &format!("{order}.order.placed"))).unwrap();
    event["subject"] = order.into();
    event["data"]["order_id"] = order.into();
    Message::new("m", json!({ "detail": event }).to_string(), NOW)
}

/// The events in the outbox, by their ids.
async fn events(bench: &Bench) -> Vec<Event> {
    let rows = bench.engine.items("notifications").await;
    let rows = rows.iter().filter(|item| item.contains_key("publish_state"));
    let mut events: Vec<Event> = rows.map(|row| row.document("event").unwrap()).collect();
    events.sort_by(|one, other| one.id.cmp(&other.id));
    events
}

#[tokio::test]
async fn an_order_that_the_data_platform_has_taken_is_reported_once() {
    let (bench, bus) = (Bench::start().await, Bus::start().await);
    let desk = Desk::beside(&bench).await;
    let other = message(&event("order.completed", "o1.order.completed"), NOW);
    let batch = vec![placed("o1"), other, placed("o2"), placed("o1")];
    for _ in 0..2 {
        assert!(deliver(&desk, batch.clone()).await.iter().all(Result::is_ok));
    }
    assert_eq!(desk.heard("/data-platform").len(), 1);
    let events = events(&bench).await;
    let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids, ["o1.order.reported", "o2.order.reported"]);
    let placed = event("order.placed", "o1.order.placed");
    assert_eq!((events[0].source.as_str(), events[0].subject.as_str()), ("encore/notifications", "o1"));
    assert_eq!(events[0].correlationid, placed.correlationid);
    let json = serde_json::to_value(&events[0]).unwrap();
    assert_eq!(json["data"], json!({"order_id": "o1", "user_id": "alice"}));

    let to_bus = kit::outbox::Bus::new(bus.client(), BUS.to_owned());
    let relay = Relay::new("notifications", bench.proxy.table("notifications"), to_bus);
    relay.relay(bench.engine.changes("notifications"), NOW).await.unwrap();
    assert_eq!(BTreeSet::from_iter(bus.ids()), ids.iter().map(|id| (*id).to_owned()).collect());
    assert_eq!(relay.sweep(NOW.plus_seconds(61)).await.unwrap(), 0);
}

#[tokio::test]
async fn an_order_that_the_data_platform_has_not_taken_is_not_reported() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    desk.outside.refuse("/data-platform", 500, None, 2);
    assert!(deliver(&desk, vec![placed("o1")]).await.iter().all(is_unavailable));
    desk.outside.refuse("o2.order.placed", 400, None, usize::MAX);
    let outcomes = deliver(&desk, vec![placed("o1"), placed("o2")]).await;
    assert!(outcomes[0].is_ok() && is_broken(&outcomes[1]), "{outcomes:?}");
    let events: Vec<String> = events(&bench).await.into_iter().map(|event| event.id.to_string()).collect();
    assert_eq!(events, ["o1.order.reported"]);
}

#[tokio::test]
async fn an_order_is_reported_exactly_when_its_delivery_is_written_down() {
    for fate in [Fate::Dropped, Fate::AnswerLost, Fate::Failed, Fate::Conflicted] {
        let bench = Bench::start().await;
        let desk = Desk::beside(&bench).await;
        bench.proxy.inject(Rule::on("TransactWriteItems"), fate.clone());
        assert!(deliver(&desk, vec![placed("o1")]).await[0].is_err(), "{fate:?}");
        bench.proxy.heal();
        let is_done = bench.engine.items("notifications").await.iter().any(|item| item.contains_key("done_at"));
        assert_eq!(events(&bench).await.len(), usize::from(is_done), "{fate:?}");
        assert_eq!(is_done, matches!(fate, Fate::AnswerLost));
        let again = later(&placed("o1"), LEASE_MILLIS);
        assert!(deliver(&desk, vec![again]).await[0].is_ok(), "{fate:?}");
        assert_eq!(events(&bench).await.len(), 1, "{fate:?}");
    }
}

#[tokio::test]
async fn the_partner_gets_type_time_and_data_under_the_events_id() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    notify_partner(&desk.webhook("/partner"), example("payment.completed")).await.unwrap();
    let heard = desk.heard("/partner").remove(0);
    verify(&heard);
    let event = event("payment.completed", "payment.completed.1");
    assert_eq!(heard.header("webhook-id"), "payment.completed.1");
    assert_eq!(heard.header("x-correlation-id"), event.correlationid);
    assert_eq!(heard.body["type"], "payment.completed");
    assert_eq!(heard.body["timestamp"], event.time.rfc3339());
    assert_eq!(heard.body["data"]["amount"], 300_000);
}

// ------------------------------------------------------------------------------------------------ pushes

#[tokio::test]
async fn a_push_goes_to_the_number_in_the_directory_with_its_template() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    push_alimtalk(&desk.alimtalk(), example("reservation.held")).await.unwrap();
    let asked = desk.heard("/Users/").remove(0);
    assert_eq!((asked.what.as_str(), asked.header("authorization")), ("GET /Users/alice", "Bearer scim-token"));
    let sent = desk.heard("/alimtalk").remove(0);
    assert_eq!(sent.what, "POST /alimtalk/v2.3/appkeys/alim-app/messages");
    assert_eq!(sent.header("x-secret-key"), "alim-secret");
    assert_eq!((&sent.body["senderKey"], &sent.body["templateCode"]), (&json!("sender"), &json!("reservation_held")));
    let to = &sent.body["recipientList"][0];
    assert_eq!(to["recipientNo"], "01012345678");
    assert_eq!(to["templateParameter"]["hold_ends_at"], "2026-11-20 20:05");
}

#[tokio::test]
async fn the_end_of_an_order_is_sent_to_its_user() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.alimtalk();
    for kind in ["order.completed", "order.failed", "order.placed", "order.failed"] {
        push_alimtalk(&deps, example(kind)).await.unwrap();
    }
    let sent = desk.heard("/alimtalk");
    let templates: Vec<&str> = sent.iter().map(|sent| sent.body["templateCode"].as_str().unwrap()).collect();
    assert_eq!(templates, ["order_completed", "order_failed"]);
    let parameters = |sent: &Heard| sent.body["recipientList"][0]["templateParameter"].clone();
    let order = json!({"order": "01K9Z3ORDER0000000000000A0", "items": "Poster 2개", "price": "30,000원"});
    assert_eq!(parameters(&sent[0]), order);
    assert_eq!(parameters(&sent[1])["reason"], "재고 부족");
}

#[tokio::test]
async fn nothing_is_sent_to_who_has_no_number_nor_when_it_is_too_late() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.alimtalk();
    push_alimtalk(&deps, later(&example("reservation.held"), 300_000)).await.unwrap();
    assert_eq!(desk.heard("/Users/").len(), 0);
    desk.outside.refuse("/Users/", 404, None, 1);
    push_alimtalk(&deps, example("payment.completed")).await.unwrap();
    assert_eq!((desk.heard("/Users/").len(), desk.heard("/alimtalk").len()), (1, 0));
    let outcomes: BTreeSet<String> =
        bench.engine.items("notifications").await.iter().map(|item| item["outcome"].as_s().unwrap().clone()).collect();
    assert_eq!(outcomes, BTreeSet::from(["no_phone".to_owned(), "too_late".to_owned()]));
    push_alimtalk(&deps, later(&example("reservation.expired"), 86_400_000)).await.unwrap();
    assert_eq!(desk.heard("/alimtalk").len(), 1, "late, and still news");
}

// ------------------------------------------------------------------------------------------------ cash receipts

#[tokio::test]
async fn a_receipt_is_issued_and_cancelled_once() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.receipts();
    for kind in ["payment.completed", "payment.completed", "payment.refunded", "payment.refunded"] {
        issue_cash_receipt(&deps, example(kind)).await.unwrap();
    }
    let heard = desk.heard("cash-receipts");
    let what: Vec<&str> = heard.iter().map(|heard| heard.what.as_str()).collect();
    let expected = ["POST /v1/cash-receipts", "POST /v1/cash-receipts/receipt-2/cancel"];
    assert_eq!(what, expected);
    assert_eq!(heard[0].header("authorization"), format!("Basic {}", STANDARD.encode("toss-secret:")));
    assert_eq!(
        heard[0].body,
        json!({
            "amount": 300_000, "orderId": "01K9Z3PAYMENT0000000000A00", "orderName": "공연 티켓 2매",
            "customerIdentityNumber": "01012345678", "type": "소득공제",
        })
    );
    let keys: Vec<&str> = heard.iter().map(|heard| heard.header("idempotency-key")).collect();
    assert_eq!(keys, ["payment.completed.1", "payment.refunded.1"]);
}

#[tokio::test]
async fn a_refund_that_comes_first_keeps_the_receipt_from_being_issued() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.receipts();
    issue_cash_receipt(&deps, example("payment.refunded")).await.unwrap();
    issue_cash_receipt(&deps, example("payment.completed")).await.unwrap();
    assert_eq!(desk.heard("cash-receipts").len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_that_crosses_the_issuing_ends_with_a_cancelled_receipt() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.receipts();
    let gate = desk.network.hold(Rule::all().containing("orderId"));
    let issuing = issue_cash_receipt(&deps, example("payment.completed"));
    let refunding = async {
        gate.reached().await;
        issue_cash_receipt(&deps, example("payment.refunded")).await.unwrap();
        assert_eq!(desk.heard("/cancel").len(), 0, "there is none yet");
        gate.open();
    };
    tokio::join!(issuing, refunding).0.unwrap();
    assert_eq!(desk.heard("/cancel").len(), 1);
    assert_eq!(desk.heard("/cancel")[0].header("idempotency-key"), "payment.refunded.1");
}

#[tokio::test]
async fn a_receipt_whose_issuer_died_is_cancelled_after_its_refund() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.receipts();
    bench.proxy.inject(Rule::on("UpdateItem").containing("receipt_key"), Fate::Dropped);
    assert!(is_unavailable(&issue_cash_receipt(&deps, example("payment.completed")).await));
    bench.proxy.heal();
    issue_cash_receipt(&deps, example("payment.refunded")).await.unwrap();
    issue_cash_receipt(&deps, example("payment.completed")).await.unwrap();
    assert_eq!(desk.heard("/cancel").len(), 1);
}

#[tokio::test]
async fn a_cancellation_that_fails_is_retried() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.receipts();
    issue_cash_receipt(&deps, example("payment.completed")).await.unwrap();
    desk.outside.refuse("/cancel", 409, None, 1);
    assert!(is_unavailable(&issue_cash_receipt(&deps, example("payment.refunded")).await));
    issue_cash_receipt(&deps, example("payment.refunded")).await.unwrap();
    assert_eq!(desk.heard("/cancel").len(), 2);
}

#[tokio::test]
async fn the_receipt_of_an_order_is_issued_and_cancelled_once() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.receipts();
    for reason in [None, None, Some("cancelled"), Some("cancelled"), None] {
        issue_order_receipt(&deps, order_ended(reason)).await.unwrap();
    }
    let heard = desk.heard("cash-receipts");
    let what: Vec<&str> = heard.iter().map(|heard| heard.what.as_str()).collect();
    assert_eq!(what, ["POST /v1/cash-receipts", "POST /v1/cash-receipts/receipt-2/cancel"]);
    assert_eq!(
        heard[0].body,
        json!({
            "amount": 30_000, "orderId": "01K9Z3ORDER0000000000000A0", "orderName": "Poster 2개",
            "customerIdentityNumber": "01012345678", "type": "소득공제",
        })
    );
    let keys: Vec<&str> = heard.iter().map(|heard| heard.header("idempotency-key")).collect();
    assert_eq!(keys, ["order.completed.1", "order.failed.1"]);
}

#[tokio::test]
async fn a_cancellation_that_comes_first_keeps_the_receipt_of_an_order_from_being_issued() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.receipts();
    issue_order_receipt(&deps, order_ended(Some("cancelled"))).await.unwrap();
    issue_order_receipt(&deps, order_ended(None)).await.unwrap();
    assert_eq!(desk.heard("cash-receipts").len(), 0);
}

#[tokio::test]
async fn an_order_that_failed_by_itself_has_no_receipt_and_leaves_no_row_for_one() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    for reason in ["out_of_stock", "item_withdrawn", "item_limit_exceeded", "insufficient_points", "timed_out"] {
        let message = order_ended(Some(reason));
        let message = Message::new("m", message.body.replace("order.failed.1", reason), message.now);
        issue_order_receipt(&desk.receipts(), message).await.unwrap();
    }
    assert_eq!(desk.heard("").len(), 0);
    let rows = bench.engine.items("notifications").await;
    assert_eq!(rows.len(), 5, "the deliveries");
    assert!(rows.iter().all(|row| row.text("outcome").unwrap() == "nothing_sold"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_that_crosses_the_issuing_ends_with_a_cancelled_receipt() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.receipts();
    let gate = desk.network.hold(Rule::all().containing("orderId"));
    let issuing = issue_order_receipt(&deps, order_ended(None));
    let cancelling = async {
        gate.reached().await;
        issue_order_receipt(&deps, order_ended(Some("cancelled"))).await.unwrap();
        assert_eq!(desk.heard("/cancel").len(), 0, "there is none yet");
        gate.open();
    };
    tokio::join!(issuing, cancelling).0.unwrap();
    assert_eq!(desk.heard("/cancel").len(), 1);
    assert_eq!(desk.heard("/cancel")[0].header("idempotency-key"), "order.failed.1");
}

#[tokio::test]
async fn a_payment_and_an_order_of_one_id_have_each_their_receipt() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.receipts();
    let order = order_ended(Some("cancelled"));
    let body = order.body.replace("01K9Z3ORDER0000000000000A0", "01K9Z3PAYMENT0000000000A00");
    issue_order_receipt(&deps, Message::new("m", body, order.now)).await.unwrap();
    issue_cash_receipt(&deps, example("payment.completed")).await.unwrap();
    assert_eq!(desk.heard("cash-receipts").len(), 1);
}

/// Each write and each request that the receipt of an order takes fails, before or after it is done.
#[tokio::test]
async fn the_receipt_of_an_order_comes_to_its_end_whatever_fails() {
    let fates: [fn() -> Fate; 2] = [|| Fate::Dropped, || Fate::AnswerLost];
    for (fate, count) in fates.into_iter().flat_map(|fate| (0..4).map(move |count| (fate, count))) {
        let bench = Bench::start().await;
        let desk = Desk::beside(&bench).await;
        let deps = desk.receipts();
        for reason in [None, Some("cancelled")] {
            bench.proxy.inject(Rule::all().after(count).times(3), fate());
            desk.network.inject(Rule::all().after(count).times(3), fate());
            until_done(&order_ended(reason), |message| issue_order_receipt(&deps, message)).await;
            bench.proxy.heal();
            desk.network.heal();
        }
        let keys: BTreeSet<String> =
            desk.heard("cash-receipts").iter().map(|heard| heard.header("idempotency-key").to_owned()).collect();
        let told = format!("{:?} after {count}", fate());
        assert_eq!(keys, BTreeSet::from(["order.completed.1", "order.failed.1"].map(str::to_owned)), "{told}");
        let rows = bench.engine.items("notifications").await;
        let receipt = rows.iter().find(|row| row.text("sk").unwrap() == "RECEIPT").unwrap();
        assert!(receipt.contains_key("cancelled"), "{told}");
        assert!(rows.iter().all(|row| !row.contains_key("claimed_until")), "{told}");
    }
}

// ------------------------------------------------------------------------------------------------ administrators

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_with_many_signs_at_once_is_one_page() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.notion();
    let signs: Vec<Message> = (0..10).map(|id| fault("f", &format!("f.{id}"), NOW)).collect();
    let mut open = signs;
    for _ in 0..20 {
        let outcomes = futures_util::future::join_all(open.iter().map(|sign| alert_administrator(&deps, sign.clone())));
        let outcomes = outcomes.await;
        assert!(outcomes.iter().all(|outcome| outcome.is_ok() || is_contended(outcome)), "{outcomes:?}");
        let again = open.into_iter().zip(outcomes).filter(|(_, outcome)| outcome.is_err());
        open = again.map(|(sign, _)| sign).collect();
    }
    assert_eq!(open.len(), 0);
    assert_eq!(desk.heard("POST /v1/pages").len(), 1);
    assert_eq!(counted(&desk).await, 10);
    let page = desk.heard("POST /v1/pages").remove(0);
    assert_eq!((page.header("notion-version"), page.header("authorization")), ("2022-06-28", "Bearer notion-token"));
    assert_eq!(page.body["parent"]["database_id"], "db");
    assert_eq!(page.body["properties"]["Since"]["date"]["start"], NOW.rfc3339());
}

/// How many signs the one alert has counted.
pub async fn counted(desk: &Desk<'_>) -> i64 {
    let items = desk.bench.engine.items("notifications").await;
    let alerts: Vec<_> = items.iter().filter_map(|item| item.get("alert")).collect();
    assert_eq!(alerts.len(), 1);
    let alert: Value = serde_json::from_str(alerts[0].as_s().unwrap()).unwrap();
    alert["count"].as_i64().unwrap()
}

#[tokio::test]
async fn a_page_whose_maker_died_is_found_not_made_again() {
    for is_heard in [false, true] {
        let bench = Bench::start().await;
        let desk = Desk::beside(&bench).await;
        let deps = desk.notion();
        if is_heard {
            // It is made, and cannot be recorded.
            bench.proxy.inject(Rule::on("PutItem").containing("page-"), Fate::Dropped);
        } else {
            // It is made, and its answer is lost.
            desk.network.inject(Rule::all().containing("parent"), Fate::AnswerLost);
        }
        let sign = fault("f", "f.1", NOW);
        let died = alert_administrator(&deps, sign.clone()).await;
        assert!(is_unavailable(&died), "{died:?}");
        bench.proxy.heal();
        desk.network.heal();
        until_done(&sign, |sign| alert_administrator(&deps, sign)).await;
        assert_eq!((desk.heard("POST /v1/pages").len(), desk.heard("/query").len()), (1, 1));
        assert_eq!(counted(&desk).await, 1, "what was counted is not counted again");
    }
}

#[tokio::test]
async fn an_alarm_opens_a_page_and_closes_it_and_opens_another_the_next_time() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.notion();
    let at = |seconds| NOW.plus_seconds(seconds);
    for (state, id, seconds) in
        [("ALARM", "1", 0), ("INSUFFICIENT_DATA", "2", 1), ("ALARM", "3", 2), ("OK", "4", 3), ("OK", "5", 4)]
    {
        alert_administrator(&deps, alarm(state, id, at(seconds))).await.unwrap();
    }
    assert_eq!(desk.pages(), [("Closed".to_owned(), 2)]);
    alert_administrator(&deps, alarm("ALARM", "6", at(5))).await.unwrap();
    assert_eq!(desk.pages(), [("Closed".to_owned(), 2), ("Open".to_owned(), 1)]);
}

#[tokio::test]
async fn an_alarm_that_arrives_after_its_end_opens_nothing() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.notion();
    alert_administrator(&deps, alarm("OK", "2", NOW.plus_seconds(1))).await.unwrap();
    alert_administrator(&deps, alarm("ALARM", "1", NOW)).await.unwrap();
    assert_eq!(desk.pages(), []);
}

#[tokio::test]
async fn a_fault_that_is_not_closed_is_a_new_page_after_a_quiet_day() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.notion();
    for (id, at) in [("1", NOW), ("2", NOW.plus_seconds(60)), ("3", NOW.plus_seconds(61).plus_millis(QUIET_MILLIS))] {
        alert_administrator(&deps, fault("f", id, at)).await.unwrap();
    }
    let status: Vec<String> = desk.pages().into_iter().map(|(status, _)| status).collect();
    assert_eq!(status, ["Closed", "Open"]);
}

#[tokio::test]
async fn what_lies_in_a_dead_letter_queue_is_a_fault_until_it_is_gone() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.watch(Queues::holding(&[("encore-a-dead-letters", 0), ("encore-parked-payments", 2)]));
    let tick = |minutes: i64| watch_dead_letters(&deps, NOW.plus_seconds(60 * minutes));
    for minute in 0..3 {
        tick(minute).await.unwrap();
    }
    assert_eq!(desk.pages(), [("Open".to_owned(), 2)]);
    deps.look.set("encore-parked-payments", 5);
    tick(3).await.unwrap();
    deps.look.set("encore-parked-payments", 0);
    tick(4).await.unwrap();
    assert_eq!(desk.pages(), [("Closed".to_owned(), 5)]);
    bench.proxy.forget();
    tick(5).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["GetItem", "GetItem"], "empty queues cost a read");
}

#[tokio::test]
async fn a_queue_and_its_alarm_are_one_fault() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.watch(Queues::holding(&[("encore-x-dead-letters", 1)]));
    alert_administrator(&desk.notion(), alarm("ALARM", "1", NOW)).await.unwrap();
    watch_dead_letters(&deps, NOW.plus_seconds(30)).await.unwrap();
    assert_eq!(desk.pages(), [("Open".to_owned(), 1)]);
}

#[tokio::test]
async fn a_queue_that_does_not_answer_holds_up_no_other_and_is_reported() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.watch(Queues::holding(&[("encore-gone-dead-letters", u64::MAX), ("encore-b-dead-letters", 1)]));
    assert!(is_unavailable(&watch_dead_letters(&deps, NOW).await));
    assert_eq!(desk.pages(), [("Open".to_owned(), 1)]);
}

/// SQS, as far as it is asked what a queue holds: it gives this answer to every call.
async fn queues_of_sqs(status: &str, header: &str, body: &str) -> clients::Queues {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let kind = "content-type: application/x-amz-json-1.0\r\nconnection: close";
    let answer = format!("HTTP/1.1 {status}\r\n{kind}\r\n{header}content-length: {}\r\n\r\n{body}", body.len());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut received = Vec::new();
            // A request is complete when its body, a JSON object, is.
            while !received.ends_with(b"}") && stream.read_buf(&mut received).await.is_ok_and(|read| read > 0) {}
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    clients::Queues::new(aws_sdk_sqs::Client::new(&kit::aws::local_config(&url, "us-east-1")))
}

#[tokio::test]
async fn a_queue_that_is_not_there_is_empty_and_any_other_answer_of_sqs_is_a_fault() {
    let url = "https://sqs.us-east-1.amazonaws.com/000000000000/encore-a-dead-letters";
    let counts = json!({"Attributes": {
        "ApproximateNumberOfMessages": "2", "ApproximateNumberOfMessagesNotVisible": "1",
        "ApproximateNumberOfMessagesDelayed": "0",
    }});
    let there = queues_of_sqs("200 OK", "", &counts.to_string()).await;
    assert_eq!(there.waiting(url).await.unwrap(), 3);
    let refusing = |header: &'static str, code: &str| {
        let body = json!({"__type": format!("com.amazonaws.sqs#{code}"), "message": "no"}).to_string();
        async move { queues_of_sqs("400 Bad Request", header, &body).await.waiting(url).await }
    };
    let as_before = "x-amzn-query-error: AWS.SimpleQueueService.NonExistentQueue;Sender\r\n";
    for (header, code) in [("", "QueueDoesNotExist"), (as_before, "QueueDoesNotExist")] {
        assert_eq!(refusing(header, code).await.unwrap(), 0, "{header}");
    }
    for code in ["AccessDeniedException", "InvalidAddress", "InvalidSecurity"] {
        assert!(matches!(refusing("", code).await, Err(Fault::Unavailable(_))), "{code}");
    }
}

#[tokio::test]
async fn a_page_that_could_not_be_made_is_made_at_the_next_look() {
    let bench = Bench::start().await;
    let desk = Desk::beside(&bench).await;
    let deps = desk.watch(Queues::holding(&[("encore-b-dead-letters", 1)]));
    desk.outside.refuse("/v1/pages", 503, None, 1);
    assert!(is_unavailable(&watch_dead_letters(&deps, NOW).await));
    watch_dead_letters(&deps, NOW.plus_seconds(60)).await.unwrap();
    assert_eq!(desk.pages(), [("Open".to_owned(), 1)]);
}
