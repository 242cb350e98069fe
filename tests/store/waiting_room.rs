//! Places in line and the plan that admits them.

use crate::bench::{Bench, reason};
use ::payments::handlers::complete_payment;
use ::reservations::dynamo::Reservations;
use ::reservations::ports::{KeepTerms, LoadSale};
use ::waiting_room::domain::{DefaultAdmission, ShardCount, Spent};
use ::waiting_room::dynamo::Lines;
use ::waiting_room::handlers::expire_queue_token;
use ::waiting_room::handlers::open_waiting_room;
use ::waiting_room::handlers::restore_queue_token;
use ::waiting_room::handlers::{
    AdmissionDeps, JoinDeps, StatusDeps, check_queue_status, expire_queue_tokens, join_queue, set_admission,
};
use ::waiting_room::ports::{ApplyPlan, IssuePosition, OpenLine, ReadUse, SpendPlace};
use ::waiting_room::usecases::open_waiting_room::Opening;
use contracts::admission::{AdmissionPlan, Standing};
use contracts::events::Event;
use contracts::saga::Done;
use contracts::steps::OpenWaitingRoom;
use contracts::{ConcertId, Timestamp};
use kit::dynamo::Read;
use kit::queue::Message;
use kit::{Call, Fault, Problem, Reply};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use tests::calls::{Ask, queue_tokens, users};
use tests::fixture::{NOW, concert, payment, saga_of, schedule, step, user};
use tests::proxy::{Fate, Rule};
use tokio::task::JoinSet;

const DONE: Done = Done { already: false };
const ALREADY: Done = Done { already: true };

/// The step `apply-admission` itself, instead of one function invoking another.
struct Enforced(Reservations);

impl ApplyPlan for Enforced {
    async fn apply(&self, concert: &ConcertId, plan: &AdmissionPlan) -> Result<(), Fault> {
        self.0.keep_plan(concert, plan).await
    }
}

/// A bench with a line over so many shards.
async fn with_line(shards: u64) -> Bench {
    let bench = Bench::start().await;
    let lines = sharded(&bench, shards);
    lines.open(&concert(), DefaultAdmission::Open.plan(NOW)).await.unwrap();
    bench
}

/// The lines as one more process sees them.
fn sharded(bench: &Bench, shards: u64) -> Lines {
    Lines::new(bench.proxy.table("waiting-room"), ShardCount::new(shards).unwrap())
}

async fn join(bench: &Bench, ask: Ask) -> Result<Reply, Problem> {
    let line = bench.lines();
    let deps = JoinDeps { line, users: users(), queue_tokens: queue_tokens(), join_before_open: true };
    join_queue(&deps, ask.path("concert_id", "concert").call()).await
}

fn of_body(reply: &Reply, name: &str) -> Value {
    reply.body.as_ref().unwrap()[name].clone()
}

async fn status(bench: &Bench, token: &str, now: Timestamp) -> Value {
    // A process of its own, so that nothing is cached from the last check.
    let deps = StatusDeps { line: bench.lines(), users: users(), queue_tokens: queue_tokens() };
    let call: Call = Ask::at(now).user("alice").header("queue-token", token).call();
    check_queue_status(&deps, call).await.unwrap().body.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_are_unique_however_many_join_at_once_and_over_however_many_shards() {
    for shards in [1, 8] {
        let bench = with_line(shards).await;
        let processes: Vec<Arc<Lines>> = (0..4).map(|_| Arc::new(sharded(&bench, shards))).collect();
        let mut joins = JoinSet::new();
        for n in 0..200 {
            let process = Arc::clone(&processes[n % processes.len()]);
            joins.spawn(async move { process.issue(&concert(), None).await.unwrap().unwrap().position });
        }
        let positions: BTreeSet<u64> = joins.join_all().await.into_iter().collect();
        assert_eq!(positions.len(), 200, "{shards} shards");
        if shards == 1 {
            assert_eq!(positions, (1..=200).collect());
        }
        // Shards are taken in turns, so that no user is far behind one who joined at the same time.
        assert!(*positions.last().unwrap() <= 200 + 8 * 8, "{shards} shards: {positions:?}");
    }
}

#[tokio::test]
async fn a_line_opened_over_fewer_shards_than_the_setting_says_now_works_and_is_remembered() {
    let bench = with_line(1).await;
    let lines = sharded(&bench, 16);
    let mut positions = Vec::new();
    for _ in 0..5 {
        positions.push(lines.issue(&concert(), None).await.unwrap().unwrap().position);
    }
    assert_eq!(positions, [1, 2, 3, 4, 5]);
    bench.proxy.forget();
    lines.issue(&concert(), None).await.unwrap().unwrap();
    assert_eq!(bench.proxy.actions(), ["UpdateItem"]);
}

#[tokio::test]
async fn there_is_no_place_in_a_line_that_was_not_opened() {
    let bench = Bench::start().await;
    let problem = join(&bench, Ask::at(NOW).user("alice")).await.unwrap_err();
    assert_eq!((problem.status.as_u16(), problem.code), (404, "not_found"));
    assert!(bench.engine.items("waiting-room").await.is_empty());
}

#[tokio::test]
async fn a_join_repeated_under_its_key_gives_the_first_place_again() {
    let bench = with_line(1).await;
    let ask = || Ask::at(NOW).user("alice").key("k");
    let first = join(&bench, ask()).await.unwrap();
    let again = join(&bench, ask()).await.unwrap();
    assert_eq!((first.status.as_u16(), &first.body), (201, &again.body));
    let bob = join(&bench, Ask::at(NOW).user("bob").key("k")).await.unwrap();
    assert_ne!(of_body(&bob, "position"), of_body(&first, "position"));
}

#[tokio::test]
async fn a_place_whose_answer_got_lost_costs_nothing_but_the_place() {
    let bench = with_line(1).await;
    bench.proxy.inject(Rule::on("UpdateItem").once(), Fate::AnswerLost);
    let reply = join(&bench, Ask::at(NOW).user("alice")).await.unwrap();
    assert_eq!(of_body(&reply, "position"), 2, "the first was given to nobody");
}

#[tokio::test]
async fn opening_a_line_again_changes_nothing_and_applies_the_plan_again() {
    let bench = Bench::start().await;
    let deps = Opening {
        line: bench.lines(),
        reservations: Enforced(bench.reservations.clone()),
        admission: DefaultAdmission::Open,
    };
    let ask = || step(OpenWaitingRoom { concert_id: concert(), created_at: NOW }, NOW);
    // The plan is written, and then reservations does not answer.
    bench.proxy.inject(Rule::on("PutItem"), Fate::Failed);
    open_waiting_room(&deps, ask()).await.unwrap_err();
    bench.proxy.heal();
    join(&bench, Ask::at(NOW).user("alice")).await.unwrap();
    open_waiting_room(&deps, ask()).await.unwrap();
    assert_eq!(enforced(&bench).await.version, 1);
    assert_eq!(of_body(&join(&bench, Ask::at(NOW).user("bob")).await.unwrap(), "position"), 2);
}

/// The plan in force for reserving.
async fn enforced(bench: &Bench) -> AdmissionPlan {
    bench.reservations.load_sale(&schedule(), &concert(), &user("nobody"), None, NOW).await.unwrap().plan.unwrap()
}

async fn change(bench: &Bench, now: Timestamp, rate: u32) -> Result<Reply, Problem> {
    let deps =
        AdmissionDeps { line: bench.lines(), reservations: Enforced(bench.reservations.clone()), users: users() };
    let body = json!({"opens_at": NOW.rfc3339(), "rate_per_minute": rate, "active_seconds": 600});
    let ask = Ask::at(now).operator("op").path("concert_id", "concert").json(body);
    set_admission(&deps, ask.call()).await
}

#[tokio::test]
async fn a_pause_and_a_new_rate_are_in_force_for_waiting_and_reserving_at_once() {
    let bench = with_line(1).await;
    let inside = join(&bench, Ask::at(NOW).user("alice")).await.unwrap();
    change(&bench, NOW.plus_seconds(1), 0).await.unwrap();
    let outside = join(&bench, Ask::at(NOW.plus_seconds(2)).user("alice")).await.unwrap();
    assert_eq!(of_body(&outside, "status"), "waiting");
    assert_eq!(of_body(&outside, "active_at"), Value::Null);
    let token = |reply: &Reply| of_body(reply, "token").as_str().unwrap().to_owned();
    let later = NOW.plus_seconds(3);
    assert_eq!(status(&bench, &token(&inside), later).await["status"], "active", "who is inside stays inside");
    assert_eq!(status(&bench, &token(&outside), later).await["status"], "waiting");
    assert_eq!(enforced(&bench).await.enters_at(2), None);
    change(&bench, later, 60).await.unwrap();
    assert_eq!(status(&bench, &token(&outside), later).await["status"], "active");
    let version = enforced(&bench).await.version;
    change(&bench, later.plus_seconds(5), 60).await.unwrap();
    assert_eq!(enforced(&bench).await.version, version, "what is in force already changes nothing");
}

#[tokio::test]
async fn only_an_operator_changes_a_plan() {
    let bench = with_line(1).await;
    let deps =
        AdmissionDeps { line: bench.lines(), reservations: Enforced(bench.reservations.clone()), users: users() };
    let ask = Ask::at(NOW).user("alice").path("concert_id", "concert").json(json!({}));
    assert_eq!(set_admission(&deps, ask.call()).await.unwrap_err().code, "forbidden");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_who_was_told_to_be_inside_is_put_out_by_a_change_in_a_storm_of_joins() {
    for shards in [1, 4] {
        let bench = Arc::new(with_line(shards).await);
        let mut joins = JoinSet::new();
        for n in 0..4 {
            let lines = sharded(&bench, shards);
            joins.spawn(async move {
                let mut inside = Vec::new();
                for _ in 0..50 {
                    let issued = lines.issue(&concert(), None).await.unwrap().unwrap();
                    let now = NOW.plus_millis(1_000);
                    if matches!(issued.plan.standing(issued.position, now, now), Standing::Active { .. }) {
                        inside.push(issued.position);
                    }
                }
                (n, inside)
            });
        }
        let changed = Arc::clone(&bench);
        let operator = tokio::spawn(async move {
            for rate in [0, 6_000, 1] {
                change(&changed, NOW.plus_millis(1_000), rate).await.unwrap();
            }
        });
        let joined = joins.join_all().await;
        operator.await.unwrap();
        let plan = enforced(&bench).await;
        let now = NOW.plus_millis(1_000);
        for (_, inside) in joined {
            for position in inside {
                let standing = plan.standing(position, now, now);
                assert!(matches!(standing, Standing::Active { .. }), "{shards}: {position} {standing:?} {plan:?}");
            }
        }
    }
}

// ---------------------------------------------------------------- spending a place

#[tokio::test]
async fn a_place_is_spent_once_and_its_status_says_so() {
    let bench = with_line(1).await;
    let token = of_body(&join(&bench, Ask::at(NOW).user("alice")).await.unwrap(), "token");
    let token = token.as_str().unwrap();
    let saga = saga_of("alice", "p1", 100);
    let lines = bench.lines();
    assert_eq!(status(&bench, token, NOW).await["status"], "active");
    for done in [DONE, ALREADY, ALREADY] {
        assert_eq!(expire_queue_token(&lines, step(saga.clone(), NOW)).await.unwrap(), done);
        assert_eq!(status(&bench, token, NOW).await["status"], "used");
    }
    for done in [DONE, ALREADY] {
        assert_eq!(restore_queue_token(&lines, step(saga.clone(), NOW)).await.unwrap(), done);
        assert_eq!(status(&bench, token, NOW).await["status"], "active");
    }
    assert_eq!(reason(expire_queue_token(&lines, step(saga, NOW)).await), "reservation_not_payable");
    assert_eq!(status(&bench, token, NOW).await["status"], "active");
}

#[tokio::test]
async fn restoring_for_one_payment_leaves_what_another_one_spent() {
    let bench = with_line(1).await;
    let lines = bench.lines();
    for id in ["p1", "p2"] {
        assert_eq!(lines.spend(&concert(), 1, &payment(id)).await.unwrap(), Spent::Now);
    }
    restore_queue_token(&lines, step(saga_of("alice", "p2", 100), NOW)).await.unwrap();
    assert!(bench.lines().is_used(&concert(), 1, NOW).await.unwrap());
    restore_queue_token(&lines, step(saga_of("alice", "p1", 100), NOW)).await.unwrap();
    assert!(!bench.lines().is_used(&concert(), 1, NOW).await.unwrap());
}

#[tokio::test]
async fn a_completed_payment_spends_the_place_by_its_event_however_often_it_is_delivered() {
    let bench = with_line(1).await;
    let token = of_body(&join(&bench, Ask::at(NOW).user("alice")).await.unwrap(), "token");
    let saga = saga_of("alice", "p1", 100);
    bench.open_payment(&saga, NOW).await;
    complete_payment(&bench.payments, step(saga, NOW)).await.unwrap();
    let row = bench.engine.item("payments", "OUTBOX#p1.payment.completed", "OUTBOX").await.unwrap();
    let event: Event = row.document("event").unwrap();
    let message = |body: Value| Message::new("m", body.to_string(), NOW);
    for _ in 0..3 {
        expire_queue_tokens(&bench.lines(), message(json!({ "detail": event }))).await.unwrap();
    }
    assert_eq!(status(&bench, token.as_str().unwrap(), NOW).await["status"], "used");
    let poison = expire_queue_tokens(&bench.lines(), message(json!({"detail": {}}))).await;
    assert!(matches!(poison, Err(Fault::Broken(_))), "it ends in the dead-letter queue");
}

#[tokio::test]
async fn a_forged_or_foreign_token_has_no_status() {
    let bench = with_line(1).await;
    let reply = join(&bench, Ask::at(NOW).user("alice")).await.unwrap();
    let token = of_body(&reply, "token").as_str().unwrap().to_owned();
    let deps = StatusDeps { line: bench.lines(), users: users(), queue_tokens: queue_tokens() };
    let (rest, _) = token.rsplit_once('.').unwrap();
    for (who, token) in [("bob", token.as_str()), ("alice", "a.b.c"), ("alice", &format!("{rest}."))] {
        let call = Ask::at(NOW).user(who).header("queue-token", token).call();
        assert_eq!(check_queue_status(&deps, call).await.unwrap_err().code, "invalid_queue_token");
    }
}

#[tokio::test]
async fn a_changed_plan_is_published_with_the_change_and_what_is_in_force_already_is_not() {
    let bench = with_line(4).await;
    let published = async || {
        let items = bench.engine.items("waiting-room").await;
        let rows = items.iter().filter(|item| item.text("kind").is_ok_and(|kind| kind == "outbox"));
        let mut ids: Vec<String> = rows.map(|row| row.text("pk").unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    assert_eq!(published().await, Vec::<String>::new());
    let later = NOW.plus_seconds(1);
    for _ in 0..2 {
        change(&bench, later, 30).await.unwrap();
    }
    assert_eq!(published().await, ["OUTBOX#concert.2.admission.changed"]);
    let version = enforced(&bench).await.version;
    assert_eq!(version, 2);
}
