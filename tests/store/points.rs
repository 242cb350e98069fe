//! Balance and ledger.

use crate::bench::{Bench, reason};
use ::points::domain::{CREDITED_WITHIN_MILLIS, Charging, Entry, EntryKey, Kind, Movement, Posted, Refusal};
use ::points::dynamo::{Accounts, FULL_ENTRIES, HOT_ENTRIES, SETTLED_MILLIS};
use ::points::handlers::credit_charge;
use ::points::handlers::return_points;
use ::points::handlers::use_points;
use ::points::handlers::{self, Deps};
use ::points::ports::{ListEntries, PostEntry};
use contracts::Timestamp;
use contracts::saga::{Done, ReturnPoints};
use contracts::steps::{ChargeCredit, ChargePaid, CreditCharge, CreditedCharge};
use kit::dynamo::{Item, Read, n, s};
use kit::http::Page;
use kit::{Fault, Problem, Reply, StepError};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tests::calls::{Ask, users};
use tests::fixture::{NOW, saga_of, step, undoing, user, won};
use tests::proxy::{Fate, Rule};
use tokio::task::JoinSet;

const DONE: Done = Done { already: false };
const ALREADY: Done = Done { already: true };

async fn charge(bench: &Bench, who: &str, key: &str, amount: i64) -> Result<Reply, Problem> {
    let deps = bench.charging(Charging::Open, ChargePaid::Pending);
    handlers::charge_points(&deps, Ask::at(NOW).user(who).key(key).json(json!({"amount": amount})).call()).await
}

/// The whole ledger, newest first.
pub async fn ledger(bench: &Bench, who: &str) -> Vec<Entry> {
    let (entries, next) = bench.points.entries(&user(who), &Page { limit: 10_000, after: None }).await.unwrap();
    assert_eq!(next, None);
    entries
}

/// What an entry adds to the balance.
pub fn signed(entry: &Entry) -> i64 {
    let amount = entry.movement.amount.get();
    if entry.movement.kind.adds() { amount } else { -amount }
}

/// I3, and that every entry's balance follows from the one before it.
pub async fn assert_sound(bench: &Bench, who: &str) {
    let entries = ledger(bench, who).await;
    let mut balance = 0;
    for (index, entry) in entries.iter().rev().enumerate() {
        balance += signed(entry);
        assert!(balance >= 0);
        assert_eq!(entry.sequence, index as u64 + 1, "sequences have no gaps");
        assert_eq!(entry.balance_after.get(), balance, "{entry:?}");
    }
    assert_eq!(bench.balance(who).await, balance);
    let keys: BTreeSet<&str> = entries.iter().map(|entry| entry.movement.key.as_str()).collect();
    assert_eq!(keys.len(), entries.len(), "a key moves points once");
}

#[tokio::test]
async fn a_charge_repeated_under_its_key_is_made_once_and_answered_alike() {
    let bench = Bench::start().await;
    let first = charge(&bench, "alice", "k1", 700).await.unwrap();
    charge(&bench, "alice", "k2", 50).await.unwrap();
    let again = charge(&bench, "alice", "k1", 700).await.unwrap();
    assert_eq!((again.status, &again.body), (first.status, &first.body), "the balance as it was then");
    assert_eq!(bench.balance("alice").await, 750);
    charge(&bench, "bob", "k1", 5).await.unwrap();
    assert_eq!(bench.balance("bob").await, 5, "keys are per user");
    assert_sound(&bench, "alice").await;
}

#[tokio::test]
async fn a_key_used_for_another_amount_is_refused() {
    let bench = Bench::start().await;
    charge(&bench, "alice", "k1", 700).await.unwrap();
    let problem = charge(&bench, "alice", "k1", 701).await.unwrap_err();
    assert_eq!((problem.status.as_u16(), problem.code), (422, "idempotency_key_reused"));
    assert_eq!(bench.balance("alice").await, 700);
}

#[tokio::test]
async fn a_charge_whose_answer_got_lost_is_made_once() {
    let bench = Bench::start().await;
    bench.proxy.inject(Rule::on("UpdateItem").once(), Fate::AnswerLost);
    let reply = charge(&bench, "alice", "k1", 700).await.unwrap();
    assert_eq!(reply.body.unwrap()["balance"], 700);
    assert_eq!(bench.proxy.actions().len(), 2);
    assert_sound(&bench, "alice").await;
}

#[tokio::test]
async fn a_balance_never_passes_its_limit() {
    let bench = Bench::start().await;
    let movement = |key: &str, amount| Movement {
        key: EntryKey::charge(key),
        entry_id: key.to_owned(),
        kind: Kind::Charge,
        amount: won(amount),
        reference: key.to_owned(),
        at: NOW,
    };
    let most = contracts::Won::MAX.get();
    assert!(matches!(bench.points.post(&user("alice"), &movement("a", most - 1)).await.unwrap(), Ok(Posted::Now(_))));
    assert_eq!(bench.points.post(&user("alice"), &movement("b", 2)).await.unwrap(), Err(Refusal::BalanceLimit));
    assert!(matches!(bench.points.post(&user("alice"), &movement("c", 1)).await.unwrap(), Ok(Posted::Now(_))));
    assert_sound(&bench, "alice").await;
}

#[tokio::test]
async fn points_are_used_once_for_a_payment_and_returned_once() {
    let bench = Bench::start().await;
    bench.charge("alice", 1_000, "k").await;
    let saga = saga_of("alice", "p1", 300);
    for done in [DONE, ALREADY, ALREADY] {
        assert_eq!(use_points(&bench.points, step(saga.clone(), NOW)).await.unwrap(), done);
        assert_eq!(bench.balance("alice").await, 700);
    }
    for done in [DONE, ALREADY, ALREADY] {
        assert_eq!(return_points(&bench.points, step(undoing(saga.clone()), NOW)).await.unwrap(), done);
        assert_eq!(bench.balance("alice").await, 1_000);
    }
    // A use that arrives after its return must not take anything again.
    assert_eq!(reason(use_points(&bench.points, step(saga, NOW)).await), "reservation_not_payable");
    assert_eq!(bench.balance("alice").await, 1_000);
    assert_sound(&bench, "alice").await;
}

#[tokio::test]
async fn a_return_that_comes_before_its_use_leaves_a_tombstone_for_it() {
    let bench = Bench::start().await;
    let saga = saga_of("alice", "p1", 300);
    for _ in 0..2 {
        assert_eq!(
            return_points(&bench.points, step(undoing(saga.clone()), NOW)).await.unwrap(),
            ALREADY,
            "even without an account"
        );
    }
    bench.charge("alice", 1_000, "k").await;
    assert_eq!(reason(use_points(&bench.points, step(saga, NOW)).await), "reservation_not_payable");
    assert_eq!(bench.balance("alice").await, 1_000);
    use_points(&bench.points, step(saga_of("alice", "p2", 300), NOW)).await.unwrap();
    assert_sound(&bench, "alice").await;
}

#[tokio::test]
async fn a_use_that_arrives_while_its_return_settles_is_returned() {
    let bench = Bench::start().await;
    bench.charge("alice", 1_000, "k").await;
    let saga = saga_of("alice", "p1", 300);
    // The return has found nothing used and is about to write the tombstone when the use arrives.
    let gate = bench.proxy.hold(Rule::on("UpdateItem").containing("SET #void").once());
    let (accounts, input) = (bench.points.clone(), saga.clone());
    let returning = tokio::spawn(async move { return_points(&accounts, step(undoing(input), NOW)).await });
    gate.reached().await;
    use_points(&bench.points, step(saga, NOW)).await.unwrap();
    assert_eq!(bench.balance("alice").await, 700);
    gate.open();
    assert_eq!(returning.await.unwrap().unwrap(), DONE);
    assert_eq!(bench.balance("alice").await, 1_000);
    assert_sound(&bench, "alice").await;
}

#[tokio::test]
async fn a_use_beyond_the_balance_is_refused_and_may_be_tried_again_after_a_charge() {
    let bench = Bench::start().await;
    let saga = || step(saga_of("alice", "p1", 300), NOW);
    assert_eq!(reason(use_points(&bench.points, saga()).await), "insufficient_points");
    bench.charge("alice", 299, "k1").await;
    assert_eq!(reason(use_points(&bench.points, saga()).await), "insufficient_points");
    bench.charge("alice", 1, "k2").await;
    assert_eq!(use_points(&bench.points, saga()).await.unwrap(), DONE);
    assert_eq!(bench.balance("alice").await, 0);
    assert_sound(&bench, "alice").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uses_at_once_never_overdraw() {
    let bench = Bench::start().await;
    bench.charge("alice", 1_000, "k").await;
    let mut uses = JoinSet::new();
    for n in 0..40 {
        let accounts = bench.points.clone();
        uses.spawn(async move {
            match use_points(&accounts, step(saga_of("alice", &format!("p{n}"), 150), NOW)).await {
                Ok(_) => 1,
                Err(StepError::Refused("insufficient_points")) => 0,
                Err(other) => panic!("{other:?}"),
            }
        });
    }
    assert_eq!(uses.join_all().await.into_iter().sum::<i32>(), 6);
    assert_eq!(bench.balance("alice").await, 100);
    assert_sound(&bench, "alice").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_at_once_the_ledger_adds_up_to_the_balance() {
    for seed in 1..=4 {
        let mut random = fastrand::Rng::with_seed(seed);
        let bench = Arc::new(Bench::start().await);
        let mut work = JoinSet::new();
        for _ in 0..120 {
            // Few keys, so that everything is repeated and meets its opposite.
            let (what, id) = (random.u8(..4), random.u32(..12));
            let bench = Arc::clone(&bench);
            work.spawn(async move {
                let saga = saga_of("alice", &format!("p{id}"), 100 + i64::from(id));
                let refusal = match what {
                    0 | 1 => charge(&bench, "alice", &format!("k{id}"), 200).await.err().map(|problem| problem.code),
                    2 => use_points(&bench.points, step(saga, NOW)).await.err().map(error_name),
                    _ => return_points(&bench.points, step(undoing(saga), NOW)).await.err().map(error_name),
                };
                assert!(
                    refusal.is_none_or(|code| ["insufficient_points", "reservation_not_payable"].contains(&code)),
                    "seed {seed}: {refusal:?}"
                );
            });
        }
        work.join_all().await;
        assert_sound(&bench, "alice").await;
        // Nobody got points back that they had not used.
        let mut of_payment: BTreeMap<String, i64> = BTreeMap::new();
        for entry in ledger(&bench, "alice").await.iter().filter(|entry| entry.movement.kind != Kind::Charge) {
            *of_payment.entry(entry.movement.reference.clone()).or_default() += signed(entry);
        }
        assert!(of_payment.values().all(|sum| *sum <= 0), "seed {seed}: {of_payment:?}");
    }
}

fn error_name(error: StepError) -> &'static str {
    match error {
        StepError::Refused(reason) => reason,
        StepError::Fault(fault) => fault.name(),
    }
}

// ---------------------------------------------------------------- charges that are paid for

async fn buy(bench: &Bench, charging: Charging, paid: ChargePaid, key: &str, body: Value) -> Result<Reply, Problem> {
    let deps = bench.charging(charging, paid);
    handlers::charge_points(&deps, Ask::at(NOW).user("alice").key(key).json(body).call()).await
}

#[tokio::test]
async fn a_charge_is_answered_as_its_payment_turns_out() {
    let bench = Bench::start().await;
    let no = |reason: &str| ChargePaid::NotConfirmed { reason: reason.to_owned() };
    for (paid, status, code) in [
        (no("reject_card_payment"), 402, "payment_not_confirmed"),
        (ChargePaid::NoIntent, 409, "charge_intent_not_open"),
        (ChargePaid::KeyReused, 422, "idempotency_key_reused"),
        (ChargePaid::BalanceLimit, 409, "balance_limit_exceeded"),
        (ChargePaid::Pending, 503, "temporarily_unavailable"),
    ] {
        let body = json!({"amount": 500, "payment_key": "pay-1"});
        let problem = buy(&bench, Charging::Paid, paid.clone(), "order-1", body).await.unwrap_err();
        assert_eq!((problem.status.as_u16(), problem.code), (status, code), "{paid:?}");
        assert_eq!(problem.retry_after_seconds.is_some(), status == 503);
    }
    let paid = ChargePaid::Credited(CreditedCharge { entry_id: "c1".to_owned(), balance: won(900) });
    let body = json!({"amount": 500, "payment_key": "pay-1"});
    let reply = buy(&bench, Charging::Paid, paid, "order-1", body).await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.body.unwrap()), (201, json!({"balance": 900, "entry_id": "c1"})));
    assert_eq!(bench.proxy.actions(), Vec::<String>::new(), "payments has it credited");
}

#[tokio::test]
async fn a_payment_is_named_exactly_where_it_is_asked_for() {
    let bench = Bench::start().await;
    let paid = || ChargePaid::Credited(CreditedCharge { entry_id: "c1".to_owned(), balance: won(500) });
    let named = |key: &str| json!({"amount": 500, "payment_key": key});
    for (charging, key, body, status) in [
        (Charging::Paid, "order-1", json!({"amount": 500}), 400),
        (Charging::Paid, "order-1", named(""), 400),
        (Charging::Paid, "order-1", named("a b"), 400),
        (Charging::Paid, "order-1", named(&"k".repeat(201)), 400),
        (Charging::Paid, "order-1", named("../pay-1"), 400),
        (Charging::Open, "order-1", named("pay-1"), 400),
        (Charging::Closed, "order-1", named("pay-1"), 400),
        (Charging::Closed, "order-1", json!({"amount": 500}), 402),
    ] {
        let problem = buy(&bench, charging, paid(), key, body.clone()).await.unwrap_err();
        assert_eq!(problem.status.as_u16(), status, "{charging:?} {key} {body}: {problem:?}");
    }
    assert!(buy(&bench, Charging::Paid, paid(), "order-1", named(&"k".repeat(200))).await.is_ok());
    assert_eq!(bench.balance("alice").await, 0);
}

fn paid_for(key: &str, entry_id: &str, amount: i64) -> CreditCharge {
    CreditCharge {
        user_id: user("alice"),
        key: key.to_owned(),
        entry_id: entry_id.to_owned(),
        amount: won(amount),
        requested_at: NOW,
    }
}

fn refused(reason: &str) -> ChargeCredit {
    ChargeCredit::Refused { reason: reason.to_owned() }
}

#[tokio::test]
async fn a_charge_that_was_paid_for_is_credited_once_and_answered_alike() {
    let bench = Bench::start().await;
    let credited = ChargeCredit::Credited(CreditedCharge { entry_id: "c1".to_owned(), balance: won(500) });
    for _ in 0..3 {
        assert_eq!(credit_charge(&bench.points, step(paid_for("k", "c1", 500), NOW)).await.unwrap(), credited);
        charge(&bench, "alice", "another", 1).await.unwrap();
    }
    for other in [paid_for("k", "c2", 500), paid_for("k", "c1", 501), paid_for("another", "c3", 1)] {
        assert_eq!(credit_charge(&bench.points, step(other, NOW)).await.unwrap(), refused("key_taken"));
    }
    assert_eq!(bench.balance("alice").await, 501);
    assert_sound(&bench, "alice").await;
}

#[tokio::test]
async fn a_charge_refused_once_is_refused_for_good_whatever_room_there_is_later() {
    let bench = Bench::start().await;
    let most = contracts::Won::MAX.get();
    credit_charge(&bench.points, step(paid_for("all", "c0", most), NOW)).await.unwrap();
    // A try that is still in flight when the charge is refused, and the money given back.
    let gate = bench.proxy.hold(Rule::on("UpdateItem").once());
    let accounts = bench.points.clone();
    let late = tokio::spawn(async move { credit_charge(&accounts, step(paid_for("k", "c1", 500), NOW)).await });
    gate.reached().await;
    let answer = credit_charge(&bench.points, step(paid_for("k", "c1", 500), NOW)).await.unwrap();
    assert_eq!(answer, refused("balance_limit"));
    use_points(&bench.points, step(saga_of("alice", "p1", 1_000), NOW)).await.unwrap();
    gate.open();
    assert_eq!(late.await.unwrap().unwrap(), refused("balance_limit"));
    assert_eq!(charge(&bench, "alice", "k", 500).await.unwrap_err().code, "idempotency_key_reused");
    assert_eq!(bench.balance("alice").await, most - 1_000);
    assert_sound(&bench, "alice").await;
}

#[tokio::test]
async fn a_refusal_that_meets_its_own_credit_is_none() {
    let bench = Bench::start().await;
    credit_charge(&bench.points, step(paid_for("all", "c0", contracts::Won::MAX.get()), NOW)).await.unwrap();
    // Refused, and about to write the tombstone, when there is room again and another try gets in.
    let gate = bench.proxy.hold(Rule::on("UpdateItem").containing("SET #void").once());
    let accounts = bench.points.clone();
    let refusing = tokio::spawn(async move { credit_charge(&accounts, step(paid_for("k", "c1", 500), NOW)).await });
    gate.reached().await;
    use_points(&bench.points, step(saga_of("alice", "p1", 1_000), NOW)).await.unwrap();
    let credited = credit_charge(&bench.points, step(paid_for("k", "c1", 500), NOW)).await.unwrap();
    assert!(matches!(credited, ChargeCredit::Credited(_)), "{credited:?}");
    gate.open();
    assert_eq!(refusing.await.unwrap().unwrap(), credited);
    assert_sound(&bench, "alice").await;
}

#[tokio::test]
async fn a_charge_is_credited_only_while_its_key_is_sure_to_be_known() {
    let bench = Bench::start().await;
    let (last, late) = (NOW.plus_millis(CREDITED_WITHIN_MILLIS), NOW.plus_millis(CREDITED_WITHIN_MILLIS + 1));
    credit_charge(&bench.points, step(paid_for("k", "c1", 500), NOW)).await.unwrap();
    // However much comes after it, a repetition finds it, in the archive.
    charges(&bench.points, "many", HOT_ENTRIES as usize + 8, last).await;
    credit_charge(&bench.points, step(paid_for("k", "c1", 500), last)).await.unwrap();
    assert_eq!(bench.balance("alice").await, 500 + HOT_ENTRIES as i64 + 8);
    // After that, the on-call has to decide: the release before may have forgotten it.
    let outcome = credit_charge(&bench.points, step(paid_for("k", "c1", 500), late)).await;
    assert!(matches!(outcome, Err(StepError::Fault(Fault::Broken(_)))), "{outcome:?}");
    assert_sound(&bench, "alice").await;
}

// ---------------------------------------------------------------- history

/// Makes `count` charges of 1 won at a moment.
async fn charges(accounts: &Accounts, name: &str, count: usize, at: Timestamp) {
    for index in 0..count {
        let id = format!("{name}{index}");
        let movement = Movement {
            key: EntryKey::charge(&id),
            entry_id: id.clone(),
            kind: Kind::Charge,
            amount: won(1),
            reference: id,
            at,
        };
        assert!(matches!(accounts.post(&user("alice"), &movement).await.unwrap(), Ok(Posted::Now(_))));
    }
}

/// All of `GET /points/history` in pages, as the ids of its rows.
async fn pages(bench: &Bench, limit: usize) -> Vec<String> {
    let deps = Deps { accounts: bench.points.clone(), users: users() };
    let (mut seen, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut ask = Ask::at(NOW).user("alice").query("limit", &limit.to_string());
        if let Some(cursor) = &cursor {
            ask = ask.query("cursor", cursor);
        }
        let body: Value = handlers::list_point_history(&deps, ask.call()).await.unwrap().body.unwrap();
        let items = body["items"].as_array().unwrap();
        assert!(items.len() <= limit);
        seen.extend(items.iter().map(|item| item["entry_id"].as_str().unwrap().to_owned()));
        cursor = body["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return seen;
        }
        assert_eq!(items.len(), limit, "only the last page is short");
    }
}

#[tokio::test]
async fn history_pages_newest_first_without_gaps_or_repetitions() {
    let bench = Bench::start().await;
    charges(&bench.points, "c", 23, NOW).await;
    let newest_first: Vec<String> = (0..23).rev().map(|index| format!("c{index}")).collect();
    for limit in [1, 7, 22, 23, 24, 100] {
        assert_eq!(pages(&bench, limit).await, newest_first, "pages of {limit}");
    }
}

#[tokio::test]
async fn old_entries_move_to_the_archive_and_stay_in_the_history() {
    let bench = Bench::start().await;
    let old = NOW.plus_millis(-SETTLED_MILLIS - 1);
    charges(&bench.points, "old", HOT_ENTRIES as usize + 40, old).await;
    assert_eq!(archives(&bench).await, 0, "nothing is old yet");
    charges(&bench.points, "new", 10, NOW).await;
    assert!(archives(&bench).await >= 2);
    let account = bench.engine.item("points", "USER#alice", "ACCOUNT").await.unwrap();
    let hot = account.keys().filter(|name| name.starts_with("e#")).count();
    assert_eq!(account["hot"], n(hot as i64));
    assert!(hot <= HOT_ENTRIES as usize, "{hot}");
    assert_sound(&bench, "alice").await;
    let newest_first: Vec<String> = (0..10)
        .rev()
        .map(|index| format!("new{index}"))
        .chain((0..HOT_ENTRIES + 40).rev().map(|index| format!("old{index}")))
        .collect();
    for limit in [9, 32, 100] {
        assert_eq!(pages(&bench, limit).await, newest_first, "pages of {limit}");
    }
}

async fn archives(bench: &Bench) -> usize {
    let items = bench.engine.items("points").await;
    items.iter().filter(|item| item["sk"].as_s().unwrap().starts_with("LEDGER#")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_archive_at_once_move_every_entry_once() {
    let bench = Bench::start().await;
    charges(&bench.points, "old", HOT_ENTRIES as usize + 20, NOW.plus_millis(-SETTLED_MILLIS - 1)).await;
    let mut work = JoinSet::new();
    for n in 0..12 {
        let accounts = bench.points.clone();
        work.spawn(async move { charges(&accounts, &format!("new{n}-"), 2, NOW).await });
    }
    work.join_all().await;
    assert!(archives(&bench).await >= 1);
    assert_sound(&bench, "alice").await;
}

#[tokio::test]
async fn a_movement_is_made_even_when_archiving_fails() {
    let bench = Bench::start().await;
    charges(&bench.points, "old", HOT_ENTRIES as usize, NOW.plus_millis(-SETTLED_MILLIS - 1)).await;
    bench.proxy.inject(Rule::on("TransactWriteItems"), Fate::Throttled);
    charges(&bench.points, "new", 1, NOW).await;
    bench.proxy.heal();
    assert_eq!(archives(&bench).await, 0);
    assert_sound(&bench, "alice").await;
}

#[tokio::test]
async fn any_number_of_recent_movements_leaves_an_account_small_and_their_keys_known() {
    let bench = Bench::start().await;
    for index in 0..60 {
        assert_eq!(charge(&bench, "alice", &format!("c{index}"), 10).await.unwrap().status.as_u16(), 201);
        let saga = saga_of("alice", &format!("p{index}"), 10);
        assert_eq!(use_points(&bench.points, step(saga.clone(), NOW)).await.unwrap(), DONE);
        assert_eq!(return_points(&bench.points, step(undoing(saga), NOW)).await.unwrap(), DONE);
    }
    let account = bench.engine.item("points", "USER#alice", "ACCOUNT").await.unwrap();
    assert!(account.uint("hot").unwrap() < FULL_ENTRIES, "{account:?}");
    assert_sound(&bench, "alice").await;
    let entries = ledger(&bench, "alice").await;
    // Whatever is repeated, be it in the archive or not, moves nothing and is answered as before.
    for index in 0..60 {
        let again = charge(&bench, "alice", &format!("c{index}"), 10).await.unwrap();
        assert_eq!(again.body.unwrap()["balance"], (index + 1) * 10);
        let saga = saga_of("alice", &format!("p{index}"), 10);
        assert_eq!(return_points(&bench.points, step(undoing(saga.clone()), NOW)).await.unwrap(), ALREADY);
        assert_eq!(reason(use_points(&bench.points, step(saga, NOW)).await), "reservation_not_payable");
    }
    assert_eq!(ledger(&bench, "alice").await, entries);
}

#[tokio::test]
async fn what_was_used_comes_back_although_the_use_is_in_the_archive() {
    let bench = Bench::start().await;
    charge(&bench, "alice", "funds", 1_000).await.unwrap();
    let saga = saga_of("alice", "p1", 600);
    use_points(&bench.points, step(saga.clone(), NOW)).await.unwrap();
    charges(&bench.points, "many", FULL_ENTRIES as usize, NOW).await;
    assert!(bench.engine.item("points", "USER#alice", "KEY#use.p1").await.is_some());
    assert_eq!(use_points(&bench.points, step(saga.clone(), NOW)).await.unwrap(), ALREADY);
    assert_eq!(return_points(&bench.points, step(undoing(saga), NOW)).await.unwrap(), DONE);
    assert_eq!(bench.balance("alice").await, 1_000 + FULL_ENTRIES as i64);
    assert_sound(&bench, "alice").await;
}

/// An account as the release before let it grow: with this many recent entries.
async fn grown(bench: &Bench, hot: u64) {
    let table = bench.engine.table("points");
    let mut account = Item::from([
        ("pk".to_owned(), s("USER#alice")),
        ("sk".to_owned(), s("ACCOUNT")),
        ("balance".to_owned(), n(hot)),
        ("seq".to_owned(), n(hot)),
        ("hot".to_owned(), n(hot)),
    ]);
    for index in 1..=hot {
        let key = format!("charge.{index:0>64}");
        let entry = [
            ("id".to_owned(), s("01ARZ3NDEKTSV4RRFFQ69G5FAV")),
            ("kind".to_owned(), s("charge")),
            ("amount".to_owned(), n(1)),
            ("ref".to_owned(), s("01ARZ3NDEKTSV4RRFFQ69G5FAV")),
            ("at".to_owned(), n(NOW.millis())),
        ];
        account.insert(format!("e#{key}"), aws_sdk_dynamodb::types::AttributeValue::M(entry.into()));
        account.insert(format!("b#{key}"), n(index));
        account.insert(format!("s#{key}"), n(index));
    }
    table.client.put_item().table_name(&table.name).set_item(Some(account)).send().await.unwrap();
}

#[tokio::test]
async fn an_account_that_the_release_before_had_locked_takes_charges_and_pays_again() {
    let bench = Bench::start().await;
    grown(&bench, 1_000).await;
    charge(&bench, "alice", "k", 1).await.unwrap();
    let account = bench.engine.item("points", "USER#alice", "ACCOUNT").await.unwrap();
    assert!(account.uint("hot").unwrap() <= FULL_ENTRIES);
    assert_eq!(charge(&bench, "alice", &format!("{:0>64}", 5), 1).await.unwrap().body.unwrap()["balance"], 5, "known");
    use_points(&bench.points, step(saga_of("alice", "p1", 10), NOW)).await.unwrap();
    return_points(&bench.points, step(undoing(saga_of("alice", "p1", 10)), NOW)).await.unwrap();
    assert_eq!(bench.balance("alice").await, 1_001);
}

#[tokio::test]
async fn an_account_that_has_no_room_and_cannot_be_archived_is_a_fault_and_not_a_refusal() {
    let bench = Bench::start().await;
    grown(&bench, FULL_ENTRIES).await;
    bench.proxy.inject(Rule::on("TransactWriteItems"), Fate::Throttled);
    let problem = charge(&bench, "alice", "k", 1).await.unwrap_err();
    assert_eq!(problem.status.as_u16(), 503, "{problem:?}");
    let refused = use_points(&bench.points, step(saga_of("alice", "p1", 10), NOW)).await;
    assert!(matches!(refused, Err(StepError::Fault(_))), "{refused:?}");
    bench.proxy.heal();
    charge(&bench, "alice", "k", 1).await.unwrap();
    assert_eq!(bench.balance("alice").await, FULL_ENTRIES as i64 + 1);
}

#[tokio::test]
async fn a_refund_finds_the_points_of_a_payment_that_is_long_in_the_archive() {
    let bench = Bench::start().await;
    assert_eq!(charge(&bench, "alice", "funds", 1_000).await.unwrap().status.as_u16(), 201);
    use_points(&bench.points, step(saga_of("alice", "p1", 600), NOW)).await.unwrap();
    let later = NOW.plus_millis(SETTLED_MILLIS + 1);
    charges(&bench.points, "later", 40, later).await;
    assert!(archives(&bench).await >= 1);
    let balance = bench.balance("alice").await;
    let refund = ReturnPoints { saga: saga_of("alice", "p1", 600), refund_requested_at: Some(later) };
    for already in [false, true] {
        let done = return_points(&bench.points, step(refund.clone(), later)).await.unwrap();
        assert_eq!(done, Done { already });
        assert_eq!(bench.balance("alice").await, balance + 600);
    }
}
