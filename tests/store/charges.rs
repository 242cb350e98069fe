//! Charges that are paid for: whatever fails, wherever, the provider has the money and the user the points, or neither.

use crate::bench::Bench;
use ::payments::clients::provider::TossPayments;
use ::payments::domain::charges::{
    CHARGE_STUCK_MILLIS, Charge, ChargeState, Declined, INTENT_MILLIS, INTENT_REUSED_MILLIS, Intent, MAX_ATTEMPTS,
    ProviderPayment,
};
use ::payments::dynamo::charges::Charges;
use ::payments::handlers::{self, IntentDeps, pay_charge};
use ::payments::ports::charges::{
    CreditPoints, FindStuckCharges, MoveCharge, OpenIntent, OpenedIntent, PaymentProvider, RecordCharge, RecordedCharge,
};
use ::payments::usecases::pay_charge::{PayCharges, resume};
use ::payments::usecases::recover_charges::recover_charges;
use ::points::dynamo::Accounts;
use ::points::handlers::credit_charge;
use ::points::ports::ListEntries;
use contracts::steps::{ChargeCredit, ChargePaid, CreditCharge, PayCharge};
use contracts::{ChargeAmount, PaymentId, Timestamp, Won};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use kit::dynamo::Read;
use kit::http::Page;
use kit::secrets::Secret;
use kit::service::{SSM, Service};
use kit::sweep::{Budget, Cursor, Part};
use kit::{Fault, Problem, Reply, StepError, Tick};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tests::calls::{Ask, users};
use tests::fixture::{NOW, step, user, won};
use tests::proxy::{Fate, Rule};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

// ---------------------------------------------------------------- the provider

/// What a payer's payment does when it is confirmed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Payer {
    Pays,
    /// The card is declined.
    Declined,
    /// A deposit is promised.
    Deposits,
}

#[derive(Debug, Clone)]
struct Paid {
    order: String,
    amount: i64,
    payer: Payer,
    status: &'static str,
}

/// Toss Payments as documented, over HTTP, and the store of the secret that is read for it.
#[derive(Debug, Default)]
struct Toss {
    url: String,
    payments: Mutex<HashMap<String, Paid>>,
    /// The first answers under each idempotency key, refusals too.
    answers: Mutex<HashMap<String, (u16, Value)>>,
    /// Answers that replace what a path's calls do.
    overrides: Mutex<HashMap<String, (u16, Value)>>,
    effects: Mutex<Vec<String>>,
    /// What calls about a payment whose key begins with this do: nothing, for ever.
    hangs_for: Mutex<Option<&'static str>>,
}

impl Toss {
    async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let toss = Arc::new(Self { url, ..Self::default() });
        let served = Arc::clone(&toss);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let toss = Arc::clone(&served);
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let toss = Arc::clone(&toss);
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
                        let hangs_for = *toss.hangs_for.lock().unwrap();
                        if hangs_for.is_some_and(|key| format!("{} {body}", head.uri).contains(key)) {
                            std::future::pending::<()>().await;
                        }
                        let (status, answer) = toss.answer(&head.method, head.uri.path(), &head.headers, &body);
                        let bytes = Bytes::from(answer.to_string());
                        Ok::<_, Infallible>(Response::builder().status(status).body(Full::new(bytes)).unwrap())
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        toss
    }

    /// Our client of it.
    fn client(&self) -> TossPayments {
        let ssm = Service::new(SSM, &kit::aws::local_config(&self.url, "us-east-1"));
        let secret = Secret::new(ssm, "/encore/payment-provider".to_owned());
        TossPayments::new(kit::outgoing::Client::new().unwrap(), self.url.clone(), secret)
    }

    fn offer(&self, key: &str, order: &str, amount: i64, payer: Payer) {
        let paid = Paid { order: order.to_owned(), amount, payer, status: "IN_PROGRESS" };
        self.payments.lock().unwrap().insert(key.to_owned(), paid);
    }

    fn status(&self, key: &str) -> &'static str {
        self.payments.lock().unwrap().get(key).map_or("", |paid| paid.status)
    }

    /// How often money moved under a name: `confirm pay-1`, `cancel pay-1`.
    fn effects(&self, what: &str) -> usize {
        self.effects.lock().unwrap().iter().filter(|effect| *effect == what).count()
    }

    fn override_answer(&self, path: &str, status: u16, code: &str) {
        self.overrides.lock().unwrap().insert(path.to_owned(), (status, json!({"code": code, "message": code})));
    }

    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap, body: &Value) -> (u16, Value) {
        if headers.contains_key("x-amz-target") {
            let value = json!({"secret_key": "test_sk"}).to_string();
            return (200, json!({"Parameter": {"Name": body["Name"], "Type": "SecureString", "Value": value}}));
        }
        // base64("test_sk:")
        if headers.get("authorization").is_none_or(|value| value != "Basic dGVzdF9zazo=") {
            return (401, json!({"code": "UNAUTHORIZED_KEY", "message": "?"}));
        }
        assert!(headers.contains_key("x-correlation-id"));
        if let Some(answer) = self.overrides.lock().unwrap().get(path) {
            return answer.clone();
        }
        let once = headers.get("idempotency-key").map(|key| format!("{path} {}", key.to_str().unwrap()));
        assert_eq!(once.is_some(), method == Method::POST, "what moves money moves it once");
        if let Some(answer) = once.as_ref().and_then(|once| self.answers.lock().unwrap().get(once).cloned()) {
            return answer;
        }
        let answer = self.act(method, path, body);
        if let Some(once) = once {
            self.answers.lock().unwrap().insert(once, answer.clone());
        }
        answer
    }

    fn act(&self, method: &Method, path: &str, body: &Value) -> (u16, Value) {
        let refused = |status: u16, code: &str| (status, json!({"code": code, "message": code}));
        let parts: Vec<&str> = path.trim_start_matches("/v1/payments/").split('/').collect();
        let mut payments = self.payments.lock().unwrap();
        let key = body["paymentKey"].as_str().unwrap_or(parts[0]).to_owned();
        let Some(paid) = payments.get_mut(&key) else { return refused(404, "NOT_FOUND_PAYMENT") };
        let did = |what: &str| self.effects.lock().unwrap().push(format!("{what} {key}"));
        match (method.as_str(), parts.as_slice()) {
            ("GET", [_]) => {}
            ("POST", ["confirm"]) if paid.status != "IN_PROGRESS" => return refused(400, "ALREADY_PROCESSED_PAYMENT"),
            ("POST", ["confirm"]) if body["orderId"] != paid.order.as_str() || body["amount"] != paid.amount => {
                return refused(400, "INVALID_REQUEST");
            }
            ("POST", ["confirm"]) if paid.payer == Payer::Declined => {
                paid.status = "ABORTED";
                return refused(403, "REJECT_CARD_PAYMENT");
            }
            ("POST", ["confirm"]) => {
                paid.status = if paid.payer == Payer::Pays { "DONE" } else { "WAITING_FOR_DEPOSIT" };
                did("confirm");
            }
            ("POST", [_, "cancel"]) if paid.status == "CANCELED" => return refused(400, "ALREADY_CANCELED_PAYMENT"),
            ("POST", [_, "cancel"]) => {
                assert!(body["cancelReason"].as_str().is_some_and(|reason| !reason.is_empty()));
                paid.status = "CANCELED";
                did("cancel");
            }
            _ => return refused(404, "NOT_FOUND"),
        }
        let body = json!({"paymentKey": key, "orderId": paid.order, "totalAmount": paid.amount, "status": paid.status});
        (200, body)
    }
}

// ---------------------------------------------------------------- the line between us and everything else

/// How a call breaks.
#[derive(Debug, Clone, Copy)]
enum Break {
    /// It is not made.
    Before,
    /// It is made, and its answer is lost.
    After,
}

/// All calls of a use case to its neighbours go over this; one of them can be broken.
#[derive(Debug, Default)]
struct Line {
    calls: usize,
    breaks: Option<(usize, Break)>,
    /// Whether the break kills the caller: nothing works after it.
    kills: bool,
    dead: bool,
}

#[derive(Debug, Clone)]
struct Over<T> {
    line: Arc<Mutex<Line>>,
    to: T,
}

impl<T> Over<T> {
    async fn carry<R>(&self, call: impl Future<Output = Result<R, Fault>>) -> Result<R, Fault> {
        let broken = {
            let mut line = self.line.lock().unwrap();
            if line.dead {
                return Err(Fault::unavailable("calling", "dead"));
            }
            line.calls += 1;
            let met = line.breaks.filter(|(at, _)| line.calls == at + 1).map(|(_, broken)| broken);
            line.dead = met.is_some() && line.kills;
            met
        };
        match broken {
            None => call.await,
            Some(Break::Before) => Err(Fault::unavailable("calling", "not made")),
            Some(Break::After) => {
                drop(call.await);
                Err(Fault::unavailable("calling", "the answer is lost"))
            }
        }
    }
}

impl RecordCharge for Over<Charges> {
    async fn record_charge(&self, charge: &Charge) -> Result<RecordedCharge, Fault> {
        self.carry(self.to.record_charge(charge)).await
    }
}

impl MoveCharge for Over<Charges> {
    async fn move_charge(
        &self,
        charge: &Charge,
        to: &ChargeState,
        now: Timestamp,
    ) -> Result<Option<Box<Charge>>, Fault> {
        self.carry(self.to.move_charge(charge, to, now)).await
    }
}

impl FindStuckCharges for Over<Charges> {
    async fn stuck_charges(&self, shard: u64, now: Timestamp, after: Option<Cursor>) -> Result<Part<Charge>, Fault> {
        self.carry(self.to.stuck_charges(shard, now, after)).await
    }

    async fn count_charge_recovery(&self, charge: &Charge, now: Timestamp) -> Result<bool, Fault> {
        self.carry(self.to.count_charge_recovery(charge, now)).await
    }
}

impl PaymentProvider for Over<Arc<TossPayments>> {
    async fn confirm_payment(&self, charge: &Charge) -> Result<Result<ProviderPayment, Declined>, Fault> {
        self.carry(self.to.confirm_payment(charge)).await
    }

    async fn look_up_payment(&self, charge: &Charge) -> Result<Option<ProviderPayment>, Fault> {
        self.carry(self.to.look_up_payment(charge)).await
    }

    async fn cancel_payment(&self, charge: &Charge) -> Result<Result<ProviderPayment, Declined>, Fault> {
        self.carry(self.to.cancel_payment(charge)).await
    }
}

/// Points by its own use case, instead of one function invoking another.
impl CreditPoints for Over<Accounts> {
    async fn credit_points(&self, ask: &CreditCharge) -> Result<ChargeCredit, Fault> {
        let credited = async {
            credit_charge(&self.to, step(ask.clone(), ask.requested_at)).await.map_err(|error| match error {
                StepError::Fault(fault) => fault,
                StepError::Refused(reason) => panic!("a credit is never refused as a step: {reason}"),
            })
        };
        self.carry(credited).await
    }
}

// ---------------------------------------------------------------- the shop

struct Shop {
    bench: Bench,
    toss: Arc<Toss>,
    line: Arc<Mutex<Line>>,
    deps: PayCharges<Over<Charges>, Over<Arc<TossPayments>>, Over<Accounts>>,
}

impl Shop {
    async fn start() -> Self {
        let (bench, toss) = (Bench::start().await, Toss::start().await);
        let line = Arc::new(Mutex::new(Line::default()));
        let deps = PayCharges {
            charges: Over { line: Arc::clone(&line), to: Charges::new(bench.proxy.table("payments")) },
            provider: Over { line: Arc::clone(&line), to: Arc::new(toss.client()) },
            points: Over { line: Arc::clone(&line), to: bench.points.clone() },
        };
        Self { bench, toss, line, deps }
    }

    fn line(&self, breaks: Option<(usize, Break)>, kills: bool) {
        *self.line.lock().unwrap() = Line { breaks, kills, ..Line::default() };
    }

    fn calls(&self) -> usize {
        self.line.lock().unwrap().calls
    }

    /// Opens the intent that a charge is made under.
    async fn intend(&self, ask: &PayCharge) {
        let amount = ChargeAmount::new(ask.amount.get()).unwrap();
        let intent = Intent::new(ask.user_id.clone(), ask.key.clone(), amount, NOW);
        assert_eq!(self.deps.charges.to.open_intent(&intent, NOW).await.unwrap(), OpenedIntent::Now);
    }

    async fn pay(&self, ask: &PayCharge) -> Result<ChargePaid, StepError> {
        pay_charge(&self.deps, step(ask.clone(), NOW)).await
    }

    async fn recover(&self, after_millis: i64) {
        // A recovery that fails is retried a minute later.
        drop(recover_charges(&self.deps, NOW.plus_millis(after_millis)).await);
    }

    async fn item(&self, ask: &PayCharge) -> Option<kit::dynamo::Item> {
        let (pk, sk) = (format!("USER#{}", ask.user_id), format!("CHARGE#{}", ask.key));
        self.bench.engine.item("payments", &pk, &sk).await
    }

    async fn state(&self, ask: &PayCharge) -> String {
        self.item(ask).await.map_or_else(String::new, |item| item.text("status").unwrap().to_owned())
    }

    /// The events that a charge has in the outbox.
    async fn events(&self, ask: &PayCharge) -> Vec<String> {
        let Some(item) = self.item(ask).await else { return Vec::new() };
        let id = item.text("charge_id").unwrap().to_owned();
        let mut types = Vec::new();
        for kind in ["charge.completed", "charge.cancelled"] {
            let row = self.bench.engine.item("payments", &format!("OUTBOX#{id}.{kind}"), "OUTBOX").await;
            types.extend(row.map(|_| kind.to_owned()));
        }
        types
    }

    async fn entries(&self, ask: &PayCharge) -> Vec<Won> {
        let page = Page { limit: 100, after: None };
        let (mut entries, _) = self.bench.points.entries(&ask.user_id, &page).await.unwrap();
        entries.retain(|entry| entry.movement.key.as_str() == format!("charge.{}", ask.key));
        entries.into_iter().map(|entry| entry.movement.amount).collect()
    }
}

fn ask(who: &str, amount: i64) -> PayCharge {
    PayCharge {
        user_id: user(who),
        key: format!("order-{who}"),
        amount: won(amount),
        payment_key: format!("pay-{who}"),
        requested_at: NOW,
        correlation_id: "request-1".to_owned(),
    }
}

/// A way that a charge can go when nothing fails.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scene {
    Good,
    Declined,
    Deposit,
    AnotherAmount,
    NoRoom,
    KeyTaken,
}

const SCENES: [Scene; 6] =
    [Scene::Good, Scene::Declined, Scene::Deposit, Scene::AnotherAmount, Scene::NoRoom, Scene::KeyTaken];

impl Scene {
    async fn set(self, shop: &Shop, who: &str) -> PayCharge {
        let ask = ask(who, 500);
        let payer = match self {
            Self::Declined => Payer::Declined,
            Self::Deposit => Payer::Deposits,
            _ => Payer::Pays,
        };
        let amount = if self == Self::AnotherAmount { 400 } else { 500 };
        shop.intend(&ask).await;
        shop.toss.offer(&ask.payment_key, &ask.key, amount, payer);
        match self {
            Self::NoRoom => {
                let full = CreditCharge {
                    user_id: ask.user_id.clone(),
                    key: "all-there-can-be".to_owned(),
                    entry_id: "e".to_owned(),
                    amount: Won::MAX,
                    requested_at: NOW,
                };
                credit_charge(&shop.bench.points, step(full, NOW)).await.unwrap();
            }
            Self::KeyTaken => shop.bench.charge(who, 7, &ask.key).await,
            _ => {}
        }
        ask
    }

    fn answer(self, entry_id: &str) -> ChargePaid {
        let not_confirmed = |reason: &str| ChargePaid::NotConfirmed { reason: reason.to_owned() };
        match self {
            Self::Good => ChargePaid::Credited(contracts::steps::CreditedCharge {
                entry_id: entry_id.to_owned(),
                balance: won(500),
            }),
            Self::Declined => not_confirmed("reject_card_payment"),
            Self::Deposit => not_confirmed("payment_not_done"),
            Self::AnotherAmount => not_confirmed("invalid_request"),
            Self::NoRoom => ChargePaid::BalanceLimit,
            Self::KeyTaken => ChargePaid::KeyReused,
        }
    }

    /// Money and points moved together or not at all, and every later answer is the same: also that of one that was
    /// refused, which is tried again.
    async fn assert_ended(self, shop: &Shop, ask: &PayCharge, case: &str) {
        // What was recorded has ended without being asked for again. What was not, ends now.
        if let Some(item) = shop.item(ask).await {
            assert!(!item.contains_key("pending_shard"), "{case}: it waits for nothing");
        }
        let first = shop.pay(ask).await.unwrap();
        if self == Self::Declined {
            let reasons = ["reject_card_payment", "payment_failed"];
            let is_declined = |reason: &str| reasons.contains(&reason);
            assert!(matches!(&first, ChargePaid::NotConfirmed { reason } if is_declined(reason)), "{case}: {first:?}");
        }
        let answers = [shop.pay(ask).await.unwrap(), shop.pay(ask).await.unwrap()];
        let item = shop.item(ask).await.unwrap();
        let expected = match self {
            // Where the answer was lost, or it was tried before, the payment itself does not tell who declined it.
            Self::Declined => ChargePaid::NotConfirmed { reason: "payment_failed".to_owned() },
            _ => self.answer(item.text("charge_id").unwrap()),
        };
        assert_eq!(answers, [expected.clone(), expected], "{case}");
        let effects = |what: &str| shop.toss.effects(&format!("{what} {}", ask.payment_key));
        let (confirmed, cancelled) = (effects("confirm"), effects("cancel"));
        let provider = shop.toss.status(&ask.payment_key);
        let entries = shop.entries(ask).await;
        assert!(!item.contains_key("pending_shard"), "{case}: it waits for nothing");
        let events = shop.events(ask).await;
        if self == Self::Good {
            assert_eq!((provider, confirmed, cancelled), ("DONE", 1, 0), "{case}");
            assert_eq!((entries, events), (vec![won(500)], vec!["charge.completed".to_owned()]), "{case}");
            return;
        }
        // What an open charge had put under the key before does not belong to this charge.
        let of_others = if self == Self::KeyTaken { vec![won(7)] } else { Vec::new() };
        assert_eq!(entries, of_others, "{case}");
        assert_eq!(confirmed, cancelled, "{case}: what was taken was given back, once");
        assert!(["CANCELED", "ABORTED", "IN_PROGRESS"].contains(&provider), "{case}: {provider}");
        let is_cancelled = !matches!(self, Self::Declined | Self::AnotherAmount);
        assert_eq!(events, if is_cancelled { vec!["charge.cancelled".to_owned()] } else { Vec::new() }, "{case}");
        assert_eq!(confirmed, usize::from(is_cancelled), "{case}");
    }
}

// ---------------------------------------------------------------- whatever fails

const MINUTE: i64 = 61_000;

/// The recovery's runs until nothing can be open any more.
async fn recover_all(shop: &Shop) {
    for minute in 1..=16 {
        shop.recover(minute * MINUTE).await;
    }
}

#[tokio::test]
async fn every_way_a_charge_can_go_ends_with_both_or_with_neither() {
    let shop = Shop::start().await;
    for scene in SCENES {
        let ask = scene.set(&shop, &format!("{scene:?}")).await;
        shop.pay(&ask).await.unwrap();
        scene.assert_ended(&shop, &ask, &format!("{scene:?}")).await;
    }
}

#[tokio::test]
async fn wherever_a_charge_breaks_it_still_ends_with_both_or_with_neither() {
    let shop = Shop::start().await;
    let mut cases = 0;
    for scene in SCENES {
        shop.line(None, false);
        let undisturbed = scene.set(&shop, &format!("{scene:?}")).await;
        shop.pay(&undisturbed).await.unwrap();
        let calls = shop.calls();
        assert!(calls >= 3, "{scene:?}: {calls}");
        for at in 0..calls {
            for broken in [Break::Before, Break::After] {
                for kills in [false, true] {
                    let case = format!("{scene:?}-{at}-{broken:?}-{kills}");
                    let ask = scene.set(&shop, &case).await;
                    shop.line(Some((at, broken)), kills);
                    let outcome = shop.pay(&ask).await;
                    shop.line(None, false);
                    // Where the payment could be looked up instead, the break had no effect.
                    assert!(outcome.is_err() || !kills, "{case}: {outcome:?}");
                    recover_all(&shop).await;
                    scene.assert_ended(&shop, &ask, &case).await;
                    cases += 1;
                }
            }
        }
    }
    assert!(cases > 80, "{cases}");
}

#[tokio::test]
async fn a_recovery_that_breaks_too_is_recovered() {
    let shop = Shop::start().await;
    for scene in [Scene::Good, Scene::NoRoom] {
        for first in 1..5 {
            for second in 2..7 {
                let case = format!("{scene:?}-{first}-{second}");
                let ask = scene.set(&shop, &case).await;
                shop.line(Some((first, Break::After)), true);
                shop.pay(&ask).await.unwrap_err();
                shop.line(Some((second, Break::After)), true);
                shop.recover(MINUTE).await;
                shop.line(None, false);
                recover_all(&shop).await;
                scene.assert_ended(&shop, &ask, &case).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charge_asked_for_many_times_at_once_moves_money_and_points_once() {
    for scene in [Scene::Good, Scene::NoRoom] {
        let shop = Arc::new(Shop::start().await);
        let ask = scene.set(&shop, "alice").await;
        let mut asked = JoinSet::new();
        for n in 0..12 {
            let (shop, ask) = (Arc::clone(&shop), ask.clone());
            asked.spawn(async move {
                if n % 4 == 3 {
                    shop.recover(MINUTE).await;
                    return;
                }
                // A call that meets another one may fail with a retryable fault, never otherwise.
                match shop.pay(&ask).await {
                    Ok(ChargePaid::Credited(_)) => assert_eq!(scene, Scene::Good),
                    Ok(ChargePaid::BalanceLimit) => assert_eq!(scene, Scene::NoRoom),
                    Err(StepError::Fault(Fault::Contended(_) | Fault::Unavailable(_))) => {}
                    other => panic!("{other:?}"),
                }
            });
        }
        asked.join_all().await;
        recover_all(&shop).await;
        scene.assert_ended(&shop, &ask, &format!("{scene:?}")).await;
    }
}

#[tokio::test]
async fn a_yes_that_the_provider_has_forgotten_giving_is_found_in_the_payment_itself() {
    let shop = Shop::start().await;
    let ask = Scene::Good.set(&shop, "alice").await;
    shop.line(Some((1, Break::After)), true);
    shop.pay(&ask).await.unwrap_err();
    // After 15 days an idempotency key counts no more: the same confirmation is ALREADY_PROCESSED_PAYMENT.
    shop.toss.answers.lock().unwrap().clear();
    shop.line(None, false);
    assert!(matches!(shop.pay(&ask).await.unwrap(), ChargePaid::Credited(_)));
    Scene::Good.assert_ended(&shop, &ask, "forgotten").await;
}

#[tokio::test]
async fn a_cancellation_that_was_refused_for_now_is_retried_until_it_is_made() {
    let shop = Shop::start().await;
    let ask = Scene::NoRoom.set(&shop, "alice").await;
    let cancel = format!("/v1/payments/{}/cancel", ask.payment_key);
    shop.toss.override_answer(&cancel, 403, "NOT_AVAILABLE_BANK");
    shop.pay(&ask).await.unwrap_err();
    shop.recover(MINUTE).await;
    assert_eq!((shop.state(&ask).await.as_str(), shop.toss.status(&ask.payment_key)), ("cancelling", "DONE"));
    shop.toss.overrides.lock().unwrap().clear();
    recover_all(&shop).await;
    Scene::NoRoom.assert_ended(&shop, &ask, "refused for now").await;
}

#[tokio::test]
async fn a_charge_that_stays_open_is_checked_less_and_less_often_and_reported_after_an_hour() {
    let shop = Shop::start().await;
    let (stuck, fine) = (Scene::NoRoom.set(&shop, "alice").await, Scene::Good.set(&shop, "bob").await);
    shop.toss.override_answer(&format!("/v1/payments/{}/cancel", stuck.payment_key), 403, "NOT_AVAILABLE_BANK");
    shop.pay(&stuck).await.unwrap_err();
    let faults = async || {
        let items = shop.bench.engine.items("payments").await;
        let reports = items.iter().filter(|item| item.text("event").is_ok_and(|text| text.contains("charge-stuck:")));
        reports.count()
    };
    let (mut looks, mut last) = (Vec::new(), 0);
    for minute in 1..=60 {
        let before = shop.item(&stuck).await.unwrap().int("recoveries").unwrap();
        shop.recover(minute * MINUTE).await;
        if shop.item(&stuck).await.unwrap().int("recoveries").unwrap() > before {
            looks.push(minute - last);
            last = minute;
        }
        if minute * MINUTE < CHARGE_STUCK_MILLIS {
            assert_eq!(faults().await, 0, "minute {minute}");
        }
    }
    assert!(looks.is_sorted() && looks.len() < 8, "{looks:?}");
    shop.recover(CHARGE_STUCK_MILLIS * 3 / 2).await;
    assert_eq!(faults().await, 1);
    // It holds up no other, and still comes to its end.
    shop.line(Some((1, Break::Before)), true);
    shop.pay(&fine).await.unwrap_err();
    shop.line(None, false);
    shop.recover(MINUTE).await;
    assert_eq!(shop.state(&fine).await, "credited");
    shop.toss.overrides.lock().unwrap().clear();
    shop.recover(CHARGE_STUCK_MILLIS * 3).await;
    Scene::NoRoom.assert_ended(&shop, &stuck, "stuck").await;
}

#[tokio::test]
async fn a_payment_that_cannot_be_confirmed_any_more_is_refused_without_an_answer_of_the_provider() {
    let shop = Shop::start().await;
    let ask = Scene::Good.set(&shop, "alice").await;
    shop.toss.override_answer("/v1/payments/confirm", 500, "UNKNOWN_PAYMENT_ERROR");
    shop.pay(&ask).await.unwrap_err();
    recover_all(&shop).await;
    assert_eq!(shop.state(&ask).await, "pending");
    shop.recover(CHARGE_STUCK_MILLIS * 2).await;
    assert_eq!(shop.state(&ask).await, "refused");
    assert!(shop.entries(&ask).await.is_empty());
    assert_eq!(shop.toss.effects(&format!("confirm {}", ask.payment_key)), 0);
}

#[tokio::test]
async fn a_provider_that_hangs_for_one_accounts_charges_keeps_no_other_from_its_end() {
    let shop = Shop::start().await;
    let of_alice = (0..MAX_ATTEMPTS).map(|n| PayCharge {
        key: format!("order-alice-{n}"),
        payment_key: format!("pay-alice-{n}"),
        ..ask("alice", 500)
    });
    let asks: Vec<PayCharge> = of_alice.chain([ask("bob", 500), ask("carol", 500)]).collect();
    let (of_alice, of_others) = asks.split_at(asks.len() - 2);
    for ask in &asks {
        shop.intend(ask).await;
        shop.toss.offer(&ask.payment_key, &ask.key, 500, Payer::Pays);
        shop.line(Some((1, Break::Before)), true);
        shop.pay(ask).await.unwrap_err();
    }
    shop.line(None, false);
    *shop.toss.hangs_for.lock().unwrap() = Some("pay-alice");
    // A run that never gets older, and has so little time that what hangs is soon cut off.
    let budget = Budget::by(|| Duration::ZERO, Duration::from_millis(1));
    let run = recover_charges(&shop.deps, Tick { now: NOW.plus_millis(MINUTE), budget }).await;
    assert!(matches!(run, Err(Fault::Unavailable(_))), "{run:?}");
    let mut tried = 0;
    for ask in of_alice {
        assert_eq!(shop.state(ask).await, "pending");
        tried += shop.item(ask).await.unwrap().int("recoveries").unwrap();
    }
    assert_eq!(tried, 3, "one account has so many tries in a run");
    for ask in of_others {
        assert_eq!(shop.state(ask).await, "credited");
    }
    // Once it answers again, all come to their end, some in each run.
    *shop.toss.hangs_for.lock().unwrap() = None;
    for run in 2..=13 {
        shop.recover(run * MINUTE).await;
    }
    for ask in &asks {
        assert_eq!(shop.state(ask).await, "credited");
    }
}

#[tokio::test]
async fn a_charge_that_cannot_be_read_keeps_no_other_from_its_end() {
    let shop = Shop::start().await;
    let asks = [Scene::Good.set(&shop, "alice").await, Scene::Good.set(&shop, "bob").await];
    for ask in &asks {
        shop.line(Some((1, Break::Before)), true);
        shop.pay(ask).await.unwrap_err();
    }
    shop.line(None, false);
    let table = shop.bench.engine.table("payments");
    let mut corrupt = shop.item(&asks[0]).await.unwrap();
    corrupt.insert("status".to_owned(), kit::dynamo::s("?"));
    table.client.put_item().table_name(&table.name).set_item(Some(corrupt)).send().await.unwrap();
    shop.recover(MINUTE).await;
    assert_eq!(shop.state(&asks[1]).await, "credited");
}

// ---------------------------------------------------------------- one intent, one payer

/// `POST /points/charge-intents`
async fn open(shop: &Shop, who: &str, amount: i64, now: Timestamp) -> Result<Reply, Problem> {
    let deps = IntentDeps { charges: shop.deps.charges.to.clone(), users: users(), has_provider: true };
    handlers::open_charge_intent(&deps, Ask::at(now).user(who).json(json!({"amount": amount})).call()).await
}

async fn opened(shop: &Shop, who: &str, amount: i64, now: Timestamp) -> (u16, String) {
    let reply = open(shop, who, amount, now).await.unwrap();
    (reply.status.as_u16(), reply.body.unwrap()["order_id"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_user_has_one_open_intent_and_the_same_amount_again_gets_it() {
    let shop = Shop::start().await;
    let (status, first) = opened(&shop, "alice", 500, NOW).await;
    assert_eq!((status, first.len()), (201, 26), "an order id that the provider takes");
    shop.bench.proxy.forget();
    assert_eq!(opened(&shop, "alice", 500, NOW.plus_seconds(60)).await, (200, first.clone()));
    assert_eq!(shop.bench.proxy.actions(), ["UpdateItem"]);
    assert_ne!(opened(&shop, "bob", 500, NOW).await.1, first, "users have their own");
    // Not when it would soon be over, nor for another amount.
    let soon = NOW.plus_millis(INTENT_MILLIS - INTENT_REUSED_MILLIS + 1);
    let (status, second) = opened(&shop, "alice", 500, soon).await;
    assert_eq!(status, 201);
    let (status, third) = opened(&shop, "alice", 501, soon).await;
    assert_eq!(status, 201);
    assert_eq!(std::collections::BTreeSet::from([first, second, third]).len(), 3);
    for bad in [0, -1, contracts::MAX_CHARGE + 1] {
        assert_eq!(open(&shop, "alice", bad, NOW).await.unwrap_err().code, "invalid_request");
    }
}

#[tokio::test]
async fn an_intent_that_was_charged_is_not_given_again() {
    let shop = Shop::start().await;
    let (_, order) = opened(&shop, "alice", 500, NOW).await;
    let ask = PayCharge { key: order.clone(), ..ask("alice", 500) };
    shop.toss.offer(&ask.payment_key, &ask.key, 500, Payer::Pays);
    assert!(matches!(shop.pay(&ask).await.unwrap(), ChargePaid::Credited(_)));
    let (status, next) = opened(&shop, "alice", 500, NOW).await;
    assert_eq!((status, next == order), (201, false));
    assert!(matches!(shop.pay(&ask).await.unwrap(), ChargePaid::Credited(_)), "which is answered as before");
}

#[tokio::test]
async fn without_the_callers_own_open_intent_no_call_reaches_the_provider() {
    let shop = Shop::start().await;
    let alices = ask("alice", 500);
    shop.toss.offer(&alices.payment_key, &alices.key, 500, Payer::Pays);
    assert_eq!(shop.pay(&alices).await.unwrap(), ChargePaid::NoIntent, "none was opened");
    shop.intend(&alices).await;
    shop.intend(&PayCharge { key: "order-of-bob".to_owned(), ..ask("bob", 500) }).await;
    for other in [
        PayCharge { user_id: user("bob"), ..alices.clone() },
        PayCharge { amount: won(501), ..alices.clone() },
        PayCharge { key: "order-2".to_owned(), ..alices.clone() },
        PayCharge { requested_at: NOW.plus_millis(INTENT_MILLIS), ..alices.clone() },
    ] {
        assert_eq!(shop.pay(&other).await.unwrap(), ChargePaid::NoIntent, "{other:?}");
    }
    assert!(shop.item(&alices).await.is_none(), "nothing is written");
    // Who only knows a payment's key cannot have it credited, nor keep its payer from it.
    let theft = PayCharge { key: "order-of-bob".to_owned(), user_id: user("bob"), ..alices.clone() };
    let mismatch = ChargePaid::NotConfirmed { reason: "payment_mismatch".to_owned() };
    assert_eq!(shop.pay(&theft).await.unwrap(), mismatch);
    assert_eq!(shop.toss.status(&alices.payment_key), "IN_PROGRESS", "neither taken nor given back");
    assert!(matches!(shop.pay(&alices).await.unwrap(), ChargePaid::Credited(_)));
    assert_eq!(shop.bench.balance("bob").await, 0);
}

#[tokio::test]
async fn a_charge_pays_for_one_amount_with_one_payment_under_its_key() {
    let shop = Shop::start().await;
    let ask = Scene::Good.set(&shop, "alice").await;
    assert!(matches!(shop.pay(&ask).await.unwrap(), ChargePaid::Credited(_)));
    for other in
        [PayCharge { amount: won(501), ..ask.clone() }, PayCharge { payment_key: "pay-2".to_owned(), ..ask.clone() }]
    {
        assert_eq!(shop.pay(&other).await.unwrap(), ChargePaid::KeyReused);
    }
    Scene::Good.assert_ended(&shop, &ask, "alice").await;
}

#[tokio::test]
async fn a_declined_payment_can_be_paid_again_under_the_same_key() {
    let shop = Shop::start().await;
    let declined = Scene::Declined.set(&shop, "alice").await;
    let no = ChargePaid::NotConfirmed { reason: "reject_card_payment".to_owned() };
    assert_eq!(shop.pay(&declined).await.unwrap(), no);
    let another_card = PayCharge { payment_key: "pay-2".to_owned(), ..declined.clone() };
    shop.toss.offer(&another_card.payment_key, &another_card.key, 500, Payer::Pays);
    assert!(matches!(shop.pay(&another_card).await.unwrap(), ChargePaid::Credited(_)));
    assert_eq!(shop.pay(&declined).await.unwrap(), ChargePaid::KeyReused, "the order is paid");
    assert_eq!(shop.bench.balance("alice").await, 500);
}

#[tokio::test]
async fn a_user_begins_so_many_charges_an_hour_whatever_intents_they_open() {
    let shop = Shop::start().await;
    for n in 0..MAX_ATTEMPTS {
        let (status, order) = opened(&shop, "alice", 500 + i64::from(n), NOW).await;
        assert_eq!(status, 201, "{n}");
        let ask = PayCharge { key: order, amount: won(500 + i64::from(n)), ..ask("alice", 500) };
        assert!(matches!(shop.pay(&ask).await, Ok(ChargePaid::NotConfirmed { .. }) | Err(_)), "nobody paid it");
    }
    let refused = open(&shop, "alice", 500, NOW).await.unwrap_err();
    assert_eq!(
        (refused.status.as_u16(), refused.code, refused.retry_after_seconds),
        (429, "too_many_charges", Some(3_600))
    );
    assert_eq!(opened(&shop, "bob", 500, NOW).await.0, 201, "others may");
    let later = NOW.plus_millis(INTENT_MILLIS + 1);
    let (status, order) = opened(&shop, "alice", 500, later).await;
    assert_eq!(status, 201);
    let ask = PayCharge { key: order, requested_at: later, payment_key: "pay-late".to_owned(), ..ask("alice", 500) };
    shop.toss.offer(&ask.payment_key, &ask.key, 500, Payer::Pays);
    assert!(matches!(shop.pay(&ask).await.unwrap(), ChargePaid::Credited(_)));
}

#[tokio::test]
async fn charges_of_other_days_do_not_count_within_the_hour() {
    let shop = Shop::start().await;
    let day = |n: u32| NOW.plus_seconds(23 * 3_600 * i64::from(n));
    for n in 0..MAX_ATTEMPTS - 1 {
        let amount = 500 + i64::from(n);
        let (_, order) = opened(&shop, "alice", amount, day(n)).await;
        let payment_key = format!("pay-{n}");
        shop.toss.offer(&payment_key, &order, amount, Payer::Pays);
        let ask = PayCharge { key: order, amount: won(amount), requested_at: day(n), payment_key, ..ask("alice", 500) };
        assert!(matches!(shop.pay(&ask).await.unwrap(), ChargePaid::Credited(_)), "{n}");
    }
    let now = day(MAX_ATTEMPTS);
    let (_, order) = opened(&shop, "alice", 900, now).await;
    let first = PayCharge {
        key: order.clone(),
        amount: won(900),
        requested_at: now,
        payment_key: "declined".to_owned(),
        ..ask("alice", 500)
    };
    shop.toss.offer("declined", &order, 900, Payer::Declined);
    assert!(matches!(shop.pay(&first).await.unwrap(), ChargePaid::NotConfirmed { .. }));
    // The second charge of this day, by another card under the same order id.
    shop.toss.offer("good", &order, 900, Payer::Pays);
    let again = PayCharge { payment_key: "good".to_owned(), ..first };
    assert!(matches!(shop.pay(&again).await.unwrap(), ChargePaid::Credited(_)));
}

#[tokio::test]
async fn an_intent_that_is_still_good_is_kept_when_its_count_begins_anew() {
    let shop = Shop::start().await;
    let (_, first) = opened(&shop, "alice", 500, NOW).await;
    // Another amount, and so another intent, that outlives the hour of the first.
    let later = NOW.plus_millis(INTENT_MILLIS - 1);
    let (_, order) = opened(&shop, "alice", 600, later).await;
    assert_ne!(order, first);
    let counted_until = async || {
        shop.bench
            .engine
            .item("payments", "USER#alice", "CHARGE-INTENT")
            .await
            .unwrap()
            .moment("counted_until")
            .unwrap()
    };
    assert_eq!(counted_until().await, NOW.plus_millis(INTENT_MILLIS));
    let now = NOW.plus_millis(INTENT_MILLIS + 1);
    assert_eq!(opened(&shop, "alice", 600, now).await, (200, order), "somebody may be paying under it");
    assert_eq!(counted_until().await, now.plus_millis(INTENT_MILLIS));
}

/// What the release before wrote of a user's intent: it counted the charges under each, and knew no hour.
async fn as_the_release_before_wrote_it(shop: &Shop) {
    let mut intent = shop.bench.engine.item("payments", "USER#alice", "CHARGE-INTENT").await.unwrap();
    for newer in ["attempts", "counted_until"] {
        intent.remove(newer).unwrap();
    }
    let table = shop.bench.engine.table("payments");
    table.client.put_item().table_name(&table.name).set_item(Some(intent)).send().await.unwrap();
}

#[tokio::test]
async fn who_pays_under_an_intent_of_the_release_before_is_credited() {
    let shop = Shop::start().await;
    let (_, order) = opened(&shop, "alice", 500, NOW).await;
    as_the_release_before_wrote_it(&shop).await;
    let ask = PayCharge { key: order, ..ask("alice", 500) };
    shop.toss.offer(&ask.payment_key, &ask.key, 500, Payer::Pays);
    assert!(matches!(shop.pay(&ask).await.unwrap(), ChargePaid::Credited(_)));
    // A charge of the release before is in it, and no end of the hour.
    let (status, next) = opened(&shop, "alice", 500, NOW).await;
    assert_eq!((status, next == ask.key), (201, false));
}

#[tokio::test]
async fn an_intent_of_the_release_before_is_given_again_or_replaced_like_any() {
    let shop = Shop::start().await;
    let (_, order) = opened(&shop, "alice", 500, NOW).await;
    as_the_release_before_wrote_it(&shop).await;
    assert_eq!(opened(&shop, "alice", 500, NOW).await, (200, order.clone()), "somebody may be paying under it");
    as_the_release_before_wrote_it(&shop).await;
    let (status, other) = opened(&shop, "alice", 501, NOW).await;
    assert_eq!((status, other == order), (201, false));
}

#[tokio::test]
async fn a_yes_that_comes_after_somebody_took_no_answer_for_a_no_still_counts() {
    let shop = Shop::start().await;
    for (who, payer) in [("alice", Payer::Pays), ("bob", Payer::Deposits)] {
        let ask = ask(who, 500);
        shop.intend(&ask).await;
        shop.toss.offer(&ask.payment_key, &ask.key, 500, payer);
        let charges = &shop.deps.charges.to;
        let charge = Charge::asked(PaymentId::parse(format!("c-{who}")).unwrap(), ask.clone());
        assert!(matches!(charges.record_charge(&charge).await.unwrap(), RecordedCharge::Now));
        charges.move_charge(&charge, &ChargeState::Refused("maintenance".to_owned()), NOW).await.unwrap();
        // The first call is answered by the provider only now, and dies.
        shop.line(Some((2, Break::After)), true);
        resume(&shop.deps, charge, NOW).await.unwrap_err();
        shop.line(None, false);
        assert_ne!(shop.state(&ask).await, "refused");
        recover_all(&shop).await;
        let (status, balance) = if payer == Payer::Pays { ("DONE", 500) } else { ("CANCELED", 0) };
        assert_eq!((shop.toss.status(&ask.payment_key), shop.bench.balance(who).await), (status, balance));
    }
}

#[tokio::test]
async fn money_that_was_taken_for_a_charge_that_was_replaced_pages_the_on_call() {
    let shop = Shop::start().await;
    let first = ask("alice", 500);
    shop.intend(&first).await;
    shop.toss.offer(&first.payment_key, &first.key, 500, Payer::Pays);
    let charges = &shop.deps.charges.to;
    let charge = Charge::asked(PaymentId::parse("c1").unwrap(), first.clone());
    assert!(matches!(charges.record_charge(&charge).await.unwrap(), RecordedCharge::Now));
    charges.move_charge(&charge, &ChargeState::Refused("maintenance".to_owned()), NOW).await.unwrap();
    let second = PayCharge { payment_key: "pay-2".to_owned(), ..first };
    let replaced = Charge::asked(PaymentId::parse("c2").unwrap(), second);
    assert!(matches!(charges.record_charge(&replaced).await.unwrap(), RecordedCharge::Now));
    let outcome = resume(&shop.deps, charge, NOW).await;
    assert!(matches!(outcome, Err(Fault::Broken(_))), "{outcome:?}");
}

#[tokio::test]
async fn the_release_before_finds_the_payments_of_this_one_used() {
    let shop = Shop::start().await;
    let ask = Scene::Good.set(&shop, "alice").await;
    shop.pay(&ask).await.unwrap();
    let claim = shop.bench.engine.item("payments", &format!("PROVIDER#{}", ask.payment_key), "CLAIM").await.unwrap();
    assert_eq!(claim.text("charge_id").unwrap(), shop.item(&ask).await.unwrap().text("charge_id").unwrap());
}

#[tokio::test]
async fn a_late_step_of_a_refused_charge_does_not_move_the_one_in_its_place() {
    let shop = Shop::start().await;
    let declined = Scene::Declined.set(&shop, "alice").await;
    shop.pay(&declined).await.unwrap();
    let charges = &shop.deps.charges.to;
    let again = Charge::asked(PaymentId::parse("c2").unwrap(), declined.clone());
    assert!(matches!(charges.record_charge(&again).await.unwrap(), RecordedCharge::Now));
    let refused = Charge { state: ChargeState::Pending, ..Charge::asked(PaymentId::parse("c1").unwrap(), declined) };
    let found = charges.move_charge(&refused, &ChargeState::Confirmed, NOW).await.unwrap();
    assert_eq!(found.map(|charge| charge.state), Some(ChargeState::Pending));
    assert!(!charges.count_charge_recovery(&refused, NOW).await.unwrap());
}

#[tokio::test]
async fn a_payment_of_another_order_is_neither_taken_nor_given_back() {
    let shop = Shop::start().await;
    let ask = ask("alice", 500);
    shop.intend(&ask).await;
    shop.toss.offer(&ask.payment_key, "order-of-somebody", 500, Payer::Pays);
    let mismatch = ChargePaid::NotConfirmed { reason: "payment_mismatch".to_owned() };
    assert_eq!(shop.pay(&ask).await.unwrap(), mismatch);
    assert_eq!(shop.toss.status(&ask.payment_key), "IN_PROGRESS");
}

#[tokio::test]
async fn a_charge_whose_record_lost_its_answer_is_recorded_once() {
    let shop = Shop::start().await;
    let ask = Scene::Good.set(&shop, "alice").await;
    shop.bench.proxy.inject(Rule::on("TransactWriteItems"), Fate::AnswerLost);
    shop.pay(&ask).await.unwrap_err();
    shop.bench.proxy.heal();
    recover_all(&shop).await;
    Scene::Good.assert_ended(&shop, &ask, "lost").await;
}

#[tokio::test]
async fn without_a_provider_nothing_is_confirmed_and_nothing_refused() {
    let shop = Shop::start().await;
    let ssm = Service::new(SSM, &kit::aws::local_config(&shop.toss.url, "us-east-1"));
    let nobody = TossPayments::new(kit::outgoing::Client::new().unwrap(), String::new(), Secret::new(ssm, "x".into()));
    let charge = Charge::asked(PaymentId::parse("c1").unwrap(), ask("alice", 500));
    assert!(matches!(nobody.confirm_payment(&charge).await, Err(Fault::Unavailable(_))));
    assert!(matches!(nobody.look_up_payment(&charge).await, Err(Fault::Unavailable(_))));
    assert!(matches!(nobody.cancel_payment(&charge).await, Err(Fault::Unavailable(_))));
}
