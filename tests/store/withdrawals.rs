//! Points that are taken out: whatever fails, wherever, the money is back and the points are out, or neither.

use crate::bench::Bench;
use ::payments::domain::charges::{Charge, ChargeState, Declined, Intent};
use ::payments::domain::withdrawals::{
    ASKED_WITHIN_MILLIS, CANCELLABLE_MILLIS, CancelledPart, DAY_MILLIS, MAX_A_DAY, WITHDRAWAL_STUCK_MILLIS, Withdrawal,
    WithdrawalState,
};
use ::payments::dynamo::charges::Charges;
use ::payments::dynamo::withdrawals::Withdrawals;
use ::payments::handlers::{self, WithdrawDeps, WithdrawalDeps};
use ::payments::ports::charges::{MoveCharge, OpenIntent, RecordCharge};
use ::payments::ports::withdrawals::{CancelParts, DebitPoints, FindWithdrawal, ReturnPoints};
use ::payments::usecases::settle_withdrawals::{SettleWithdrawals, settle_withdrawals};
use ::points::dynamo::Accounts;
use ::points::handlers::{debit_withdrawal, return_withdrawal};
use contracts::steps::{CreditedCharge, DebitWithdrawal, PayCharge, WithdrawalDebit};
use contracts::{ChargeAmount, PaymentId, Timestamp};
use kit::dynamo::{Item, Read, n, s};
use kit::{Fault, Problem, Reply, StepError};
use local::audit::{Tolerances, check, of_items};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tests::calls::{Ask, users};
use tests::fixture::{NOW, step, user, won};
use tests::proxy::{Fate, Rule};
use tokio::task::JoinSet;

/// A charge of so much, in the balance.
const CHARGED: i64 = 1_000;

/// What a provider does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    /// It does nothing and gives no answer.
    Down,
    /// It does what is asked and gives no answer.
    Unanswering,
    /// It refuses for good.
    Refusing,
    /// It did it before, and refuses all the same.
    Lying,
}

/// A provider that cancels parts, once under a key.
#[derive(Debug, Clone)]
struct Provider(Arc<Mutex<(Mood, Vec<CancelledPart>)>>);

impl Provider {
    fn new(mood: Mood) -> Self {
        Self(Arc::new(Mutex::new((mood, Vec::new()))))
    }

    fn set(&self, mood: Mood) {
        self.0.lock().unwrap().0 = mood;
    }

    /// How much it gave back.
    fn given_back(&self) -> i64 {
        self.0.lock().unwrap().1.iter().map(|part| part.amount).sum()
    }
}

fn down() -> Fault {
    Fault::unavailable("calling the provider", "down")
}

impl CancelParts for Provider {
    async fn cancel_part(&self, withdrawal: &Withdrawal) -> Result<Result<Vec<CancelledPart>, Declined>, Fault> {
        let (mood, parts) = &mut *self.0.lock().unwrap();
        let part = CancelledPart { amount: withdrawal.amount.get(), reason: withdrawal.cancel_reason() };
        if matches!(mood, Mood::Well | Mood::Unanswering | Mood::Lying) && !parts.contains(&part) {
            parts.push(part);
        }
        match mood {
            Mood::Well => Ok(Ok(parts.clone())),
            Mood::Down | Mood::Unanswering => Err(down()),
            Mood::Refusing | Mood::Lying => Ok(Err(Declined("not_cancelable_payment".into()))),
        }
    }

    async fn cancelled_parts(&self, _: &Withdrawal) -> Result<Vec<CancelledPart>, Fault> {
        let (mood, parts) = &*self.0.lock().unwrap();
        if matches!(mood, Mood::Down | Mood::Unanswering) { Err(down()) } else { Ok(parts.clone()) }
    }
}

/// Points, asked by the use case itself instead of one function invoking another.
#[derive(Debug, Clone)]
struct Points(Accounts);

fn never_refused(error: StepError) -> Fault {
    match error {
        StepError::Fault(fault) => fault,
        StepError::Refused(_) => panic!("it is answered"),
    }
}

impl DebitPoints for Points {
    async fn debit_points(&self, ask: &DebitWithdrawal) -> Result<WithdrawalDebit, Fault> {
        debit_withdrawal(&self.0, step(ask.clone(), NOW)).await.map_err(never_refused)
    }
}

impl ReturnPoints for Points {
    async fn return_points(&self, ask: &DebitWithdrawal) -> Result<(), Fault> {
        return_withdrawal(&self.0, step(ask.clone(), NOW)).await.map(drop).map_err(never_refused)
    }
}

/// Alice, who has charged points, and what her withdrawals are made with.
struct Desk {
    bench: Bench,
    provider: Provider,
}

impl Desk {
    /// Without points.
    async fn bare() -> Self {
        Self { bench: Bench::start().await, provider: Provider::new(Mood::Well) }
    }

    /// With a charge in her balance.
    async fn new() -> Self {
        let desk = Self::bare().await;
        desk.charge("order-1", NOW).await;
        desk
    }

    fn withdrawals(&self) -> Withdrawals {
        Withdrawals::new(self.bench.proxy.table("payments"))
    }

    /// Brings a charge into the balance as payments and points do it.
    async fn charge(&self, order: &str, now: Timestamp) {
        let charges = Charges::new(self.bench.proxy.table("payments"));
        let intent = Intent::new(user("alice"), order.into(), ChargeAmount::new(CHARGED).unwrap(), now);
        charges.open_intent(&intent, now).await.unwrap();
        let asked = PayCharge {
            user_id: user("alice"),
            key: order.into(),
            amount: won(CHARGED),
            payment_key: format!("pay-{order}"),
            requested_at: now,
            correlation_id: "request-1".into(),
        };
        let id = format!("charge-{order}");
        let charge = Charge::asked(PaymentId::parse(id.clone()).unwrap(), asked.clone());
        charges.record_charge(&charge).await.unwrap();
        let credit = contracts::steps::CreditCharge { entry_id: id.clone(), ..charge.credit() };
        ::points::handlers::credit_charge(&self.bench.points, step(credit, now)).await.unwrap();
        let credited = ChargeState::Credited(CreditedCharge { entry_id: id, balance: won(CHARGED) });
        for (from, to) in [(ChargeState::Pending, ChargeState::Confirmed), (ChargeState::Confirmed, credited)] {
            let from = Charge { state: from, ..charge.clone() };
            assert_eq!(charges.move_charge(&from, &to, now).await.unwrap(), None);
        }
        self.bench.proxy.forget();
    }

    async fn ask(&self, key: &str, amount: i64, now: Timestamp) -> Result<Reply, Problem> {
        let deps =
            WithdrawDeps { withdrawals: self.withdrawals(), users: users(), points: Points(self.bench.points.clone()) };
        let ask = Ask::at(now).user("alice").key(key).json(json!({ "amount": amount }));
        handlers::withdraw_points(&deps, ask.call()).await
    }

    /// The id and the status of what was asked for.
    async fn asked(&self, key: &str, amount: i64) -> (PaymentId, String) {
        let body = self.ask(key, amount, NOW).await.unwrap().body.unwrap();
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        (PaymentId::parse(text("withdrawal_id")).unwrap(), text("status"))
    }

    async fn refused(&self, key: &str, amount: i64) -> (u16, &'static str) {
        let problem = self.ask(key, amount, NOW).await.unwrap_err();
        (problem.status.as_u16(), problem.code)
    }

    async fn settle(&self, now: Timestamp) -> Result<(), Fault> {
        let points = Points(self.bench.points.clone());
        let deps = SettleWithdrawals {
            withdrawals: self.withdrawals(),
            provider: self.provider.clone(),
            debits: points.clone(),
            returns: points,
        };
        settle_withdrawals(&deps, now).await
    }

    async fn state(&self, id: &PaymentId) -> WithdrawalState {
        self.withdrawals().find_withdrawal(&user("alice"), id).await.unwrap().unwrap().state
    }

    async fn balance(&self) -> i64 {
        self.bench.balance("alice").await
    }

    async fn row(&self, sk: &str) -> Item {
        self.bench.engine.item("payments", "USER#alice", sk).await.unwrap()
    }

    /// How much of the charge is taken out by its own row.
    async fn withdrawn(&self) -> i64 {
        self.row("CHARGE#order-1").await.maybe_int("withdrawn").unwrap().unwrap_or(0)
    }

    /// The ledger, the withdrawals and the charges agree.
    async fn assert_sound(&self, now: Timestamp) {
        let payments = self.bench.engine.items("payments").await;
        let mut snapshot = of_items("payments", payments.iter()).unwrap();
        let points = self.bench.engine.items("points").await;
        snapshot.accounts = of_items("points", points.iter()).unwrap().accounts;
        snapshot.now = now;
        let wrong: Vec<String> = check(&snapshot, &Tolerances::default())
            .iter()
            .map(ToString::to_string)
            .filter(|what| ["I3 ", "I2 ", "--"].iter().any(|kind| what.starts_with(kind)) || what.contains("index"))
            .collect();
        assert_eq!(wrong, Vec::<String>::new());
    }
}

fn minutes(count: i64) -> Timestamp {
    NOW.plus_seconds(60 * count)
}

// ---------------------------------------------------------------- by the provider

#[tokio::test]
async fn points_leave_the_account_at_once_and_the_provider_gives_that_part_back_once() {
    let desk = Desk::new().await;
    let (id, status) = desk.asked("k", 400).await;
    assert_eq!(desk.bench.proxy.actions(), ["Query", "TransactWriteItems", "UpdateItem", "TransactWriteItems"]);
    assert_eq!((status.as_str(), desk.balance().await, desk.withdrawn().await), ("pending", 600, 400));
    desk.assert_sound(NOW).await;
    // The same again is the same, before and after its end.
    assert_eq!(desk.asked("k", 400).await, (id.clone(), "pending".to_owned()));
    for minute in 1..4 {
        desk.settle(minutes(minute)).await.unwrap();
        assert_eq!((desk.state(&id).await, desk.balance().await), (WithdrawalState::Paid, 600));
    }
    assert_eq!(desk.asked("k", 400).await, (id.clone(), "paid".to_owned()));
    assert_eq!(desk.provider.given_back(), 400);
    assert_eq!(desk.refused("k", 401).await, (422, "idempotency_key_reused"));
    let event = desk.bench.engine.item("payments", &format!("OUTBOX#{id}.withdrawal.completed"), "OUTBOX").await;
    let data = event.unwrap().document::<Value>("event").unwrap()["data"].clone();
    assert_eq!(data, json!({"withdrawal_id": id, "user_id": "alice", "amount": 400}));
    desk.assert_sound(minutes(4)).await;
}

/// The key's row meets another transaction while the charge has no room any more: the same request is still the same.
#[tokio::test]
async fn a_conflict_on_the_key_is_not_taken_for_a_charge_without_room() {
    let desk = Desk::new().await;
    let (id, _) = desk.asked("k", 700).await;
    desk.bench.proxy.inject(Rule::on("TransactWriteItems").once(), Fate::Masked("IDEM#k"));
    assert_eq!(desk.asked("k", 700).await, (id, "pending".to_owned()));
    assert_eq!((desk.balance().await, desk.withdrawn().await), (300, 700));
    assert_eq!(listed(&desk).await, json!([]));
    desk.assert_sound(NOW).await;
}

#[tokio::test]
async fn never_more_of_a_charge_is_given_back_than_was_charged_however_many_ask_at_once() {
    let desk = Arc::new(Desk::new().await);
    // More points than the charge: they were given, not bought.
    desk.bench.charge("alice", 5_000, "gift").await;
    let mut requests = JoinSet::new();
    for number in 0..8 {
        let desk = Arc::clone(&desk);
        requests.spawn(async move { desk.ask(&format!("k{number}"), 300, NOW).await.is_ok() });
    }
    let asked = requests.join_all().await.into_iter().filter(|asked| *asked).count();
    assert!(asked >= 4, "{asked}");
    for minute in 1..8 {
        desk.settle(minutes(minute)).await.unwrap();
    }
    assert_eq!((desk.provider.given_back(), desk.withdrawn().await), (900, 900));
    assert_eq!(desk.balance().await, 6_000 - 300 * i64::try_from(asked).unwrap());
    desk.assert_sound(minutes(9)).await;
}

#[tokio::test]
async fn a_provider_that_refuses_for_good_gives_the_points_back_and_the_charge_its_room() {
    let desk = Desk::new().await;
    let (id, _) = desk.asked("k", 400).await;
    desk.provider.set(Mood::Refusing);
    for minute in 1..3 {
        desk.settle(minutes(minute)).await.unwrap();
        assert_eq!(desk.state(&id).await, WithdrawalState::Returned("not_cancelable_payment".into()));
        assert_eq!((desk.balance().await, desk.withdrawn().await), (CHARGED, 0));
    }
    let again = desk.ask("k", 400, NOW).await.unwrap().body.unwrap();
    assert_eq!((&again["status"], &again["failure"]), (&json!("returned"), &json!("not_cancelable_payment")));
    desk.assert_sound(minutes(3)).await;
}

#[tokio::test]
async fn a_refusal_is_not_believed_where_the_payment_shows_that_it_was_done() {
    let desk = Desk::new().await;
    let (id, _) = desk.asked("k", 400).await;
    desk.provider.set(Mood::Lying);
    desk.settle(minutes(1)).await.unwrap();
    assert_eq!((desk.state(&id).await, desk.provider.given_back()), (WithdrawalState::Paid, 400));
    desk.assert_sound(minutes(1)).await;
}

#[tokio::test]
async fn a_provider_without_an_answer_is_asked_ever_more_rarely_pages_and_gives_back_once() {
    for mood in [Mood::Down, Mood::Unanswering] {
        let desk = Desk::new().await;
        let (id, _) = desk.asked("k", 400).await;
        desk.provider.set(mood);
        for minute in [2, 4, 7] {
            assert!(desk.settle(minutes(minute)).await.is_err(), "{mood:?} {minute}");
            // Not due again yet.
            desk.settle(minutes(minute)).await.unwrap();
        }
        assert_eq!(desk.row(&format!("WITHDRAWAL#{id}")).await["attempts"], n(3));
        let late = NOW.plus_millis(WITHDRAWAL_STUCK_MILLIS + 60_000);
        assert!(desk.settle(late).await.is_err());
        let pages = desk.bench.engine.items("payments").await;
        let pages = pages.iter().filter(|item| item.text("pk").unwrap().contains("withdrawal-stuck:")).count();
        assert_eq!(pages, 1, "{mood:?}");
        assert_eq!((desk.state(&id).await, desk.balance().await), (WithdrawalState::Debited, 600));
        desk.provider.set(Mood::Well);
        desk.settle(late.plus_seconds(3_600)).await.unwrap();
        assert_eq!((desk.state(&id).await, desk.provider.given_back()), (WithdrawalState::Paid, 400), "{mood:?}");
        desk.assert_sound(late).await;
    }
}

#[tokio::test]
async fn what_the_provider_may_have_forgotten_is_only_looked_up() {
    for (mood, done) in [(Mood::Unanswering, true), (Mood::Down, false)] {
        let desk = Desk::new().await;
        let (id, _) = desk.asked("k", 400).await;
        desk.provider.set(mood);
        assert!(desk.settle(minutes(1)).await.is_err());
        desk.provider.set(Mood::Well);
        let late = NOW.plus_millis(ASKED_WITHIN_MILLIS);
        assert_eq!(desk.settle(late).await.is_ok(), done);
        assert_eq!(desk.provider.given_back(), if done { 400 } else { 0 });
        assert_eq!(desk.state(&id).await, if done { WithdrawalState::Paid } else { WithdrawalState::Debited });
    }
}

#[tokio::test]
async fn whatever_write_fails_before_or_after_its_effect_the_withdrawal_comes_to_one_end() {
    let ends = [(Mood::Well, 400, 600), (Mood::Refusing, 0, CHARGED)];
    for (mood, given_back, balance) in ends {
        for action in ["TransactWriteItems", "UpdateItem", "Query", "GetItem"] {
            for nth in 0..5 {
                for fate in [Fate::Dropped, Fate::AnswerLost] {
                    let desk = Desk::new().await;
                    desk.provider.set(mood);
                    desk.bench.proxy.inject(Rule::on(action).after(nth).once(), fate.clone());
                    let first = desk.ask("k", 400, NOW).await;
                    let settled = desk.settle(minutes(2)).await;
                    desk.bench.proxy.heal();
                    let told = format!("{mood:?} {action} {nth} {fate:?}: {first:?} {settled:?}");
                    // Its user asks again, and the schedule goes on.
                    desk.ask("k", 400, NOW).await.unwrap();
                    desk.settle(minutes(10)).await.unwrap();
                    desk.settle(minutes(30)).await.unwrap();
                    let (_, status) = desk.asked("k", 400).await;
                    assert_eq!(status, if given_back > 0 { "paid" } else { "returned" }, "{told}");
                    assert_eq!((desk.provider.given_back(), desk.balance().await), (given_back, balance), "{told}");
                    desk.assert_sound(minutes(30)).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_balance_that_is_too_low_refuses_for_good_and_leaves_the_charge_its_room() {
    let desk = Desk::new().await;
    for _ in 0..2 {
        assert_eq!(desk.refused("k", CHARGED + 1).await, (409, "insufficient_points"));
    }
    // Of the charge, which has it left, but the points are spent.
    let spent =
        DebitWithdrawal { user_id: user("alice"), withdrawal_id: PaymentId::parse("p9").unwrap(), amount: won(700) };
    Points(desk.bench.points.clone()).debit_points(&spent).await.unwrap();
    assert_eq!(desk.refused("l", 400).await, (409, "insufficient_points"));
    assert_eq!((desk.withdrawn().await, desk.balance().await), (0, 300));
    // Points that come later do not change it.
    desk.bench.charge("alice", 5_000, "gift").await;
    assert_eq!(desk.refused("l", 400).await, (409, "insufficient_points"));
    desk.settle(minutes(1)).await.unwrap();
    assert_eq!((desk.provider.given_back(), desk.balance().await), (0, 5_300));
}

#[tokio::test]
async fn a_user_asks_ten_times_a_day_and_nothing_is_written_beyond() {
    let desk = Desk::new().await;
    for number in 0..MAX_A_DAY {
        desk.asked(&format!("k{number}"), 1).await;
    }
    let problem = desk.ask("more", 1, NOW).await.unwrap_err();
    assert_eq!((problem.status.as_u16(), problem.code), (429, "too_many_withdrawals"));
    assert_eq!(desk.balance().await, CHARGED - i64::from(MAX_A_DAY));
    desk.asked("k0", 1).await;
    desk.ask("tomorrow", 1, NOW.plus_millis(DAY_MILLIS)).await.unwrap();
    desk.assert_sound(NOW).await;
}

#[tokio::test]
async fn amounts_that_are_no_whole_won_within_bounds_are_refused() {
    let desk = Desk::new().await;
    for amount in [0, -1, 1_000_000_001, i64::MAX, i64::MIN] {
        assert_eq!(desk.refused("k", amount).await, (400, "invalid_request"), "{amount}");
    }
    assert_eq!(desk.balance().await, CHARGED);
}

// ---------------------------------------------------------------- by an operator

async fn listed(desk: &Desk) -> Value {
    let deps = WithdrawalDeps { withdrawals: desk.withdrawals(), users: users() };
    let call = Ask::at(NOW).operator("olga").call();
    handlers::list_payouts(&deps, call).await.unwrap().body.unwrap()["items"].clone()
}

async fn pay_out(desk: &Desk, id: &PaymentId, reference: &str) -> Result<Reply, Problem> {
    let deps = WithdrawalDeps { withdrawals: desk.withdrawals(), users: users() };
    let ask = Ask::at(NOW).operator("olga").path("withdrawal_id", id.as_str()).json(json!({ "reference": reference }));
    handlers::record_payout(&deps, ask.call()).await
}

#[tokio::test]
async fn where_no_charge_can_be_cancelled_an_operator_pays_and_records_it_once() {
    let desk = Desk::bare().await;
    desk.bench.charge("alice", 5_000, "gift").await;
    let (id, status) = desk.asked("k", 400).await;
    assert_eq!((status.as_str(), desk.balance().await), ("pending", 4_600));
    // It is not the schedule's.
    desk.settle(minutes(1)).await.unwrap();
    let wanted = json!([{
        "withdrawal_id": id, "user_id": "alice", "amount": 400, "requested_at": NOW.rfc3339(),
    }]);
    assert_eq!(listed(&desk).await, wanted);
    desk.assert_sound(minutes(1)).await;
    for _ in 0..2 {
        let reply = pay_out(&desk, &id, "bank-1").await.unwrap();
        assert_eq!(reply.body.unwrap()["status"], "paid");
    }
    let other = pay_out(&desk, &id, "bank-2").await.unwrap_err();
    assert_eq!((other.status.as_u16(), other.code), (409, "withdrawal_not_payable"));
    assert_eq!(listed(&desk).await, json!([]));
    let row = desk.row(&format!("WITHDRAWAL#{id}")).await;
    assert_eq!((&row["paid_by"], &row["paid_as"]), (&s("olga"), &s("bank-1")));
    let event = desk.bench.engine.item("payments", &format!("OUTBOX#{id}.withdrawal.completed"), "OUTBOX").await;
    assert_eq!(event.unwrap().document::<Value>("event").unwrap()["data"]["actor"], "olga");
    desk.assert_sound(minutes(1)).await;
}

#[tokio::test]
async fn what_the_provider_gives_back_no_operator_pays_and_a_charge_of_half_a_year_is_an_operators() {
    let desk = Desk::new().await;
    let (id, _) = desk.asked("k", 400).await;
    let problem = pay_out(&desk, &id, "bank-1").await.unwrap_err();
    assert_eq!((problem.status.as_u16(), problem.code), (404, "not_found"));
    for bad in ["", "two words", "한", &"x".repeat(65)] {
        assert_eq!(pay_out(&desk, &id, bad).await.unwrap_err().code, "invalid_request", "{bad:?}");
    }
    assert_eq!(listed(&desk).await, json!([]));
    desk.ask("later", 400, NOW.plus_millis(CANCELLABLE_MILLIS)).await.unwrap();
    assert_eq!(listed(&desk).await.as_array().unwrap().len(), 1);
    assert_eq!(desk.withdrawn().await, 400);
}

#[tokio::test]
async fn a_buyer_sees_their_own_withdrawals_and_no_others() {
    let desk = Desk::new().await;
    let (id, _) = desk.asked("k", 400).await;
    let deps = WithdrawalDeps { withdrawals: desk.withdrawals(), users: users() };
    let seen = async |who: &str| {
        handlers::get_withdrawal(&deps, Ask::at(NOW).user(who).path("withdrawal_id", id.as_str()).call()).await
    };
    assert_eq!(seen("alice").await.unwrap().body.unwrap()["status"], "pending");
    assert_eq!(seen("bob").await.unwrap_err().code, "not_found");
}

// ---------------------------------------------------------------- points

#[tokio::test]
async fn a_debit_and_its_refusal_that_cross_agree() {
    let desk = Desk::bare().await;
    let points = Points(desk.bench.points.clone());
    let ask =
        DebitWithdrawal { user_id: user("alice"), withdrawal_id: PaymentId::parse("w1").unwrap(), amount: won(400) };
    // The first finds too little; before it closes the door, points come and a repetition takes them.
    let gate = desk.bench.proxy.hold(Rule::on("UpdateItem").containing("v#w1").after(1).once());
    let slow = async { points.debit_points(&ask).await.unwrap() };
    let quick = async {
        gate.reached().await;
        desk.bench.charge("alice", 1_000, "gift").await;
        let again = points.debit_points(&ask).await.unwrap();
        gate.open();
        again
    };
    let (slow, quick) = tokio::join!(slow, quick);
    assert_eq!((slow, quick), (WithdrawalDebit::Debited, WithdrawalDebit::Debited));
    assert_eq!(desk.balance().await, 600);
}
