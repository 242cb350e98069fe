//! Places in line and the plan that admits them.

use crate::bench::{Bench, checking, joining, reason};
use ::payments::handlers::complete_payment;
use ::reservations::domain::Refusal;
use ::reservations::dynamo::Reservations;
use ::reservations::ports::{EndVisit as _, KeepTerms, LoadSale};
use ::reservations::usecases::reserve_seats::ReserveError;
use ::waiting_room::domain::{
    CLAIM_MILLIS, DefaultAdmission, Issued, MAX_GIVEN_UP, MAX_GIVEN_UP_WAITING, ShardCount, Spent, plan_change,
};
use ::waiting_room::dynamo::{Lines, PLAN_LEAD_MILLIS};
use ::waiting_room::handlers::expire_queue_token;
use ::waiting_room::handlers::open_waiting_room;
use ::waiting_room::handlers::restore_queue_token;
use ::waiting_room::handlers::{
    AdmissionDeps, JoinDeps, LeaveDeps, StatusDeps, check_queue_status, expire_queue_tokens, join_queue, leave_queue,
    set_admission,
};
use ::waiting_room::ports::{
    ApplyPlan, Clock, Count, CountEach, EndVisit, GiveUpPlace, IssuePlace, OpenLine, ReadUse, SpendPlace,
};
use ::waiting_room::usecases::admit_places::{Pace, admit_places};
use ::waiting_room::usecases::open_waiting_room::Opening;
use contracts::admission::{AdmissionPlan, MAX_SEGMENTS, QueueTokenClaims, Standing};
use contracts::events::{Event, schema_of};
use contracts::saga::Done;
use contracts::steps::OpenWaitingRoom;
use contracts::{ConcertId, Timestamp, UserId};
use kit::dynamo::{Read, at, n, s};
use kit::queue::Message;
use kit::sweep::{Budget, Tick};
use kit::{Call, Fault, Problem, Reply};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
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

impl EndVisit for Enforced {
    async fn end_visit(&self, user: &UserId, concert: &ConcertId, at: Timestamp) -> Result<(), Fault> {
        self.0.end_visit(user, concert, at, at).await
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
    join_queue(&joining(bench.lines()), ask.path("concert_id", "concert").call()).await
}

async fn leave(bench: &Bench, user: &str, now: Timestamp) -> Result<Reply, Problem> {
    let reservations = Enforced(bench.reservations.clone());
    let deps = LeaveDeps { line: bench.lines(), reservations, users: users() };
    leave_queue(&deps, Ask::at(now).user(user).path("concert_id", "concert").call()).await
}

/// What a user's token says.
fn claims_of(name: &str, token: &str) -> QueueTokenClaims {
    let call = Ask::at(NOW).user(name).header("queue-token", token).call();
    queue_tokens().of(&call, &user(name)).unwrap()
}

/// The position of a user who joins.
async fn position(bench: &Bench, user: &str, now: Timestamp) -> u64 {
    of_body(&join(bench, Ask::at(now).user(user)).await.unwrap(), "position").as_u64().unwrap()
}

fn of_body(reply: &Reply, name: &str) -> Value {
    reply.body.as_ref().unwrap()[name].clone()
}

async fn status(bench: &Bench, token: &str, now: Timestamp) -> Value {
    status_of(bench, "alice", token, now).await
}

async fn status_of(bench: &Bench, user: &str, token: &str, now: Timestamp) -> Value {
    // A process of its own, so that nothing is cached from the last check.
    let deps = checking(bench.lines());
    let call: Call = Ask::at(now).user(user).header("queue-token", token).call();
    check_queue_status(&deps, call).await.unwrap().body.unwrap()
}

/// The next place, of a process and a moment.
async fn issue(lines: &Lines, now: Timestamp) -> Issued {
    lines.issue(&concert(), 0, now).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_have_no_gap_however_many_join_at_once() {
    let bench = with_line(64).await;
    let processes: Vec<Arc<Lines>> = (0..4).map(|_| Arc::new(sharded(&bench, 64))).collect();
    let mut joins = JoinSet::new();
    for n in 0..200 {
        let process = Arc::clone(&processes[n % processes.len()]);
        joins.spawn(async move { issue(&process, NOW).await });
    }
    let places = joins.join_all().await;
    assert_eq!(places.iter().map(|place| place.position).collect::<BTreeSet<u64>>(), (1..=200).collect());
    assert_eq!(places.iter().map(|place| place.turn).collect::<BTreeSet<u64>>(), (1..=200).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_line_gets_more_counters_and_goes_on_where_it_was() {
    let bench = with_line(8).await;
    let processes: Vec<Arc<Lines>> = (0..4).map(|_| Arc::new(sharded(&bench, 8))).collect();
    let mut places = Vec::new();
    // A thousand a second.
    for millis in (0..400).step_by(20) {
        let mut joins = JoinSet::new();
        for n in 0..20 {
            let process = Arc::clone(&processes[n % processes.len()]);
            joins.spawn(async move { issue(&process, NOW.plus_millis(millis)).await });
        }
        places.extend(joins.join_all().await);
    }
    let positions: BTreeSet<u64> = places.iter().map(|place| place.position).collect();
    assert_eq!(positions.len(), 400, "each is given out once");
    assert!(places.iter().all(|place| place.turn == place.position), "nothing was skipped");
    let first = bench.engine.item("waiting-room", "CONCERT#concert", "COUNTER#0").await.unwrap();
    assert_eq!(first.uint("stripe").unwrap(), 1);
    let shards = first.uint("shards").unwrap();
    assert_eq!(shards, 8, "as many as the stage allows: it is not spread again");
    let before = first.uint("after_position").unwrap();
    assert!(before < 300 && (1..=before).all(|position| positions.contains(&position)), "{before}");
    assert!(*positions.last().unwrap() <= 400 + 8 * shards, "the counters stay close together: {positions:?}");
    let counted = bench.lines().count(&concert()).await.unwrap().unwrap();
    assert_eq!((counted.issued, counted.turn), (400, *positions.last().unwrap()));
}

#[tokio::test]
async fn a_throttled_counter_gives_a_line_more_of_them() {
    let bench = with_line(4).await;
    let lines = sharded(&bench, 4);
    assert_eq!(issue(&lines, NOW).await.position, 1);
    bench.proxy.inject(Rule::on("UpdateItem").containing("issued").times(3), Fate::Throttled);
    let position = issue(&lines, NOW).await.position;
    assert!((2..=5).contains(&position), "one of the next four: {position}");
    let first = bench.engine.item("waiting-room", "CONCERT#concert", "COUNTER#0").await.unwrap();
    assert_eq!(first.uint("shards").unwrap(), 4);
}

#[tokio::test]
async fn turns_that_nobody_was_there_for_are_skipped_and_positions_are_not() {
    let bench = with_line(1).await;
    let lines = bench.lines();
    let mut places = Vec::new();
    for lapsed in [0, 0, 10, 10, 11, 30] {
        places.push(lines.issue(&concert(), lapsed, NOW).await.unwrap().unwrap());
    }
    assert_eq!(places.iter().map(|place| place.position).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(places.iter().map(|place| place.turn).collect::<Vec<_>>(), [1, 2, 11, 12, 13, 31]);
}

#[tokio::test]
async fn a_line_of_the_previous_release_goes_on_where_it_was() {
    for shards in [1, 3] {
        let bench = Bench::start().await;
        let plan = DefaultAdmission::Open.plan(NOW);
        for shard in 0..shards {
            let pk = if shard == 0 { "CONCERT#concert".to_owned() } else { format!("CONCERT#concert#{shard}") };
            let item = [
                ("pk", s(pk)),
                ("sk", s(format!("COUNTER#{shard}"))),
                ("issued", n(5)),
                ("shards", n(shards)),
                ("plan", s(serde_json::to_string(&plan).unwrap())),
                ("plan_version", n(1)),
                ("opens_at", at(NOW)),
            ];
            let table = bench.proxy.table("waiting-room");
            let item = item.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
            table.client.put_item().table_name(&table.name).set_item(Some(item)).send().await.unwrap();
        }
        let lines = sharded(&bench, 8);
        let mut positions = BTreeSet::new();
        for n in 0..6 {
            let name = format!("u{n}");
            let deps = joining(sharded(&bench, 8));
            let reply = join_queue(&deps, Ask::at(NOW).user(&name).path("concert_id", "concert").call()).await;
            positions.insert(of_body(&reply.unwrap(), "position").as_u64().unwrap());
            positions.insert(issue(&lines, NOW).await.position);
        }
        assert!(positions.len() == 12 && *positions.first().unwrap() > 5 * shards as u64, "{positions:?}");
        change(&bench, NOW.plus_seconds(1), 0).await.unwrap();
        let late = join(&bench, Ask::at(NOW.plus_seconds(2)).user("late")).await.unwrap();
        assert_eq!(of_body(&late, "status"), "waiting", "{shards}");
    }
}

// ---------------------------------------------------------------- one place a user

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_joins_of_one_user_at_once_take_one_place() {
    let bench = Arc::new(with_line(1).await);
    let mut joins = JoinSet::new();
    for _ in 0..60 {
        let bench = Arc::clone(&bench);
        joins.spawn(async move { join(&bench, Ask::at(NOW).user("alice")).await.unwrap() });
    }
    let replies = joins.join_all().await;
    assert_eq!(replies.iter().filter(|reply| reply.status.as_u16() == 201).count(), 1);
    assert!(replies.iter().all(|reply| of_body(reply, "position") == 1));
    assert_eq!(position(&bench, "bob", NOW).await, 2);
}

#[tokio::test]
async fn a_user_keeps_the_place_until_it_is_spent_expired_or_given_up() {
    let bench = with_line(1).await;
    let first = join(&bench, Ask::at(NOW).user("alice")).await.unwrap();
    let again = join(&bench, Ask::at(NOW.plus_seconds(5)).user("alice")).await.unwrap();
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 200));
    assert_eq!(of_body(&again, "position"), 1);
    assert_eq!(of_body(&again, "expires_at"), of_body(&first, "expires_at"), "asking again gains no time");
    bench.lines().spend(&concert(), 1, &payment("p1")).await.unwrap();
    assert_eq!(position(&bench, "alice", NOW.plus_seconds(6)).await, 2, "spent");
    assert_eq!(position(&bench, "alice", NOW.plus_seconds(7)).await, 2);
    assert_eq!(position(&bench, "alice", NOW.plus_seconds(700)).await, 3, "expired");
    leave(&bench, "alice", NOW.plus_seconds(701)).await.unwrap();
    assert_eq!(position(&bench, "alice", NOW.plus_seconds(702)).await, 4, "given up");
}

#[tokio::test]
async fn a_request_that_dies_between_its_writes_costs_one_place_at_most() {
    for (write, next) in [("issued", 1), ("issued_at = :issued_at", 2)] {
        let bench = with_line(1).await;
        bench.proxy.inject(Rule::on("UpdateItem").containing(write), Fate::Failed);
        assert_eq!(join(&bench, Ask::at(NOW).user("alice")).await.unwrap_err().status.as_u16(), 503);
        bench.proxy.heal();
        let later = NOW.plus_millis(CLAIM_MILLIS);
        assert_eq!(position(&bench, "alice", later).await, next, "{write}");
        assert_eq!(position(&bench, "bob", later).await, next + 1);
    }
}

#[tokio::test]
async fn a_lost_answer_costs_nobody_a_place_except_that_of_the_counter_itself() {
    for (write, expected) in [("claimed_at", 1), ("ADD issued", 2), ("issued_at = :issued_at", 1)] {
        let bench = with_line(1).await;
        bench.proxy.inject(Rule::on("UpdateItem").containing(write).once(), Fate::AnswerLost);
        assert_eq!(position(&bench, "alice", NOW).await, expected, "{write}");
        assert_eq!(position(&bench, "alice", NOW).await, expected, "{write}");
    }
}

#[tokio::test]
async fn a_place_that_is_given_up_is_void_everywhere() {
    let bench = Bench::on_sale(4).await;
    sharded(&bench, 1).open(&concert(), DefaultAdmission::Open.plan(NOW)).await.unwrap();
    let token = of_body(&join(&bench, Ask::at(NOW).user("alice")).await.unwrap(), "token");
    let token = token.as_str().unwrap();
    let claims = claims_of("alice", token);
    bench.reserve(claims.clone(), &["A-1-1"], "r1", NOW).await.unwrap();
    let later = NOW.plus_seconds(2);
    for _ in 0..2 {
        assert_eq!(leave(&bench, "alice", later).await.unwrap().status.as_u16(), 204);
    }
    assert_eq!(status(&bench, token, later).await["status"], "used");
    let refused = bench.reserve(claims, &["A-1-2"], "r2", later).await;
    assert!(matches!(refused, Err(ReserveError::Refused(Refusal::TokenNotActive))), "{refused:?}");
    // The next place is a visit of its own.
    let next = join(&bench, Ask::at(later.plus_millis(1)).user("alice")).await.unwrap();
    let claims = claims_of("alice", of_body(&next, "token").as_str().unwrap());
    bench.reserve(claims, &["A-1-2"], "r3", later.plus_seconds(1)).await.unwrap();
}

#[tokio::test]
async fn a_place_that_is_given_up_while_it_waits_is_void_at_once() {
    let bench = with_line(1).await;
    change(&bench, NOW, 0).await.unwrap();
    let joined = join(&bench, Ask::at(NOW.plus_seconds(1)).user("alice")).await.unwrap();
    let token = of_body(&joined, "token");
    leave(&bench, "alice", NOW.plus_seconds(2)).await.unwrap();
    assert_eq!(status(&bench, token.as_str().unwrap(), NOW.plus_seconds(3)).await["status"], "used");
}

#[tokio::test]
async fn a_place_that_was_given_up_half_is_never_answered_again() {
    let bench = with_line(1).await;
    change(&bench, NOW, 0).await.unwrap();
    assert_eq!(position(&bench, "alice", NOW.plus_seconds(1)).await, 1);
    bench.proxy.inject(Rule::on("UpdateItem").containing("given_up"), Fate::Failed);
    leave(&bench, "alice", NOW.plus_seconds(2)).await.unwrap_err();
    bench.proxy.heal();
    assert_eq!(position(&bench, "alice", NOW.plus_seconds(4)).await, 2, "its token is void already");
}

#[tokio::test]
async fn a_place_that_is_taken_right_after_another_was_given_up_is_worth_something() {
    let bench = Bench::on_sale(4).await;
    sharded(&bench, 1).open(&concert(), DefaultAdmission::Open.plan(NOW)).await.unwrap();
    join(&bench, Ask::at(NOW).user("alice")).await.unwrap();
    leave(&bench, "alice", NOW.plus_seconds(2)).await.unwrap();
    // A request that began before, or on a clock that is behind.
    let next = join(&bench, Ask::at(NOW.plus_seconds(1)).user("alice")).await.unwrap();
    let claims = claims_of("alice", of_body(&next, "token").as_str().unwrap());
    bench.reserve(claims, &["A-1-1"], "r1", NOW.plus_seconds(3)).await.unwrap();
}

#[tokio::test]
async fn a_request_that_was_refused_for_now_locks_nobody_out() {
    let bench = with_line(1).await;
    bench.proxy.inject(Rule::on("UpdateItem").containing("ADD issued"), Fate::Throttled);
    assert_eq!(join(&bench, Ask::at(NOW).user("alice")).await.unwrap_err().status.as_u16(), 503);
    bench.proxy.heal();
    assert_eq!(position(&bench, "alice", NOW.plus_seconds(1)).await, 1);
}

#[tokio::test]
async fn who_comes_too_early_where_that_is_not_possible_claims_nothing() {
    let bench = Bench::start().await;
    let lines = bench.lines();
    lines.open(&concert(), AdmissionPlan::opening(NOW.plus_seconds(2), 600, 600)).await.unwrap();
    let deps = JoinDeps { join_before_open: false, ..joining(lines) };
    let join = async |seconds| {
        let ask = Ask::at(NOW.plus_seconds(seconds)).user("alice").path("concert_id", "concert");
        join_queue(&deps, ask.call()).await
    };
    for _ in 0..2 {
        assert_eq!(join(1).await.unwrap_err().code, "sale_not_open");
    }
    assert_eq!(join(2).await.unwrap().status.as_u16(), 201);
}

#[tokio::test]
async fn a_user_cannot_empty_a_line_by_giving_up_one_place_after_the_other() {
    let bench = with_line(1).await;
    change(&bench, NOW, 0).await.unwrap();
    for given_up in 0..MAX_GIVEN_UP_WAITING {
        position(&bench, "alice", NOW.plus_seconds(1)).await;
        assert_eq!(leave(&bench, "alice", NOW.plus_seconds(2)).await.unwrap().status.as_u16(), 204, "{given_up}");
    }
    let kept = position(&bench, "alice", NOW.plus_seconds(3)).await;
    let problem = leave(&bench, "alice", NOW.plus_seconds(4)).await.unwrap_err();
    assert_eq!((problem.status.as_u16(), problem.code), (409, "place_kept"));
    assert_eq!(position(&bench, "alice", NOW.plus_seconds(5)).await, kept);
    assert_eq!(leave(&bench, "nobody", NOW).await.unwrap().status.as_u16(), 204, "nothing to give up");
}

#[tokio::test]
async fn a_user_inside_can_give_up_more_places_than_one_who_waits_and_not_any_number() {
    let bench = with_line(1).await;
    let mut now = NOW;
    for given_up in 0..MAX_GIVEN_UP {
        assert_eq!(position(&bench, "alice", now).await, given_up + 1);
        now = now.plus_seconds(1);
        assert_eq!(leave(&bench, "alice", now).await.unwrap().status.as_u16(), 204, "{given_up}");
        now = now.plus_seconds(1);
    }
    position(&bench, "alice", now).await;
    assert_eq!(leave(&bench, "alice", now.plus_seconds(1)).await.unwrap_err().code, "place_kept");
}

#[tokio::test]
async fn leaving_after_a_payment_gives_nothing_up() {
    let bench = with_line(1).await;
    position(&bench, "alice", NOW).await;
    bench.lines().spend(&concert(), 1, &payment("p1")).await.unwrap();
    assert_eq!(leave(&bench, "alice", NOW.plus_seconds(1)).await.unwrap().status.as_u16(), 204);
    let row = bench.engine.item("waiting-room", "USER#alice", "LINE#concert").await.unwrap();
    assert_eq!(row.maybe_int("given_up").unwrap().unwrap_or(0), 0, "it counts towards no limit");
    let page = bench.engine.item("waiting-room", "CONCERT#concert#USED#0", "USED#0").await.unwrap();
    assert_eq!(page["used"].as_ss().unwrap(), &["1:p1"]);
    assert_eq!(position(&bench, "alice", NOW.plus_seconds(2)).await, 2);
}

#[tokio::test]
async fn fifty_who_come_to_a_line_that_has_been_empty_enter_at_its_rate() {
    let bench = Bench::start().await;
    let lines = sharded(&bench, 64);
    lines.open(&concert(), AdmissionPlan::opening(NOW, 6, 600)).await.unwrap();
    let now = NOW.plus_seconds(600);
    let deps = joining(lines);
    let mut entries = Vec::new();
    for fan in 0..50 {
        let ask = Ask::at(now).user(&format!("fan{fan}")).path("concert_id", "concert");
        let reply = join_queue(&deps, ask.call()).await.unwrap();
        assert_eq!(of_body(&reply, "position"), fan + 1);
        entries.push((of_body(&reply, "status"), of_body(&reply, "ahead").as_u64().unwrap()));
    }
    let inside = entries.iter().filter(|(status, _)| status == "active").count();
    assert_eq!((entries[0].0.as_str(), inside), (Some("active"), 6), "a minute's worth");
    let ahead: Vec<u64> = entries[6..].iter().map(|(_, ahead)| *ahead).collect();
    assert_eq!(ahead, (0..44).collect::<Vec<_>>(), "places, not numbers");
}

#[tokio::test]
async fn a_status_that_is_checked_far_too_often_is_refused_without_a_read() {
    let bench = with_line(1).await;
    let token = of_body(&join(&bench, Ask::at(NOW).user("alice")).await.unwrap(), "token");
    let deps = checking(bench.lines());
    let check = async || {
        let call = Ask::at(NOW).user("alice").header("queue-token", token.as_str().unwrap()).call();
        check_queue_status(&deps, call).await
    };
    let mut refused = None;
    for _ in 0..50 {
        match check().await {
            Ok(_) => bench.proxy.forget(),
            Err(problem) => refused = Some(problem),
        }
    }
    let refused = refused.unwrap();
    assert_eq!((refused.status.as_u16(), refused.code), (429, "checked_too_often"));
    assert!(refused.retry_after_seconds.is_some());
    assert_eq!(bench.proxy.actions(), Vec::<String>::new());
}

#[tokio::test]
async fn there_is_no_place_in_a_line_that_was_not_opened() {
    let bench = Bench::start().await;
    let problem = join(&bench, Ask::at(NOW).user("alice")).await.unwrap_err();
    assert_eq!((problem.status.as_u16(), problem.code), (404, "not_found"));
    assert!(bench.engine.items("waiting-room").await.is_empty());
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

fn admission(bench: &Bench) -> AdmissionDeps<Lines, Enforced> {
    let reservations = Enforced(bench.reservations.clone());
    AdmissionDeps { line: bench.lines(), reservations, users: users(), lead_millis: 0 }
}

/// An operator's request for a rate.
fn asking(now: Timestamp, rate: u32) -> Call {
    let body = json!({"opens_at": NOW.rfc3339(), "rate_per_minute": rate, "active_seconds": 600});
    Ask::at(now).operator("op").path("concert_id", "concert").json(body).call()
}

async fn change(bench: &Bench, now: Timestamp, rate: u32) -> Result<Reply, Problem> {
    set_admission(&admission(bench), asking(now, rate)).await
}

#[tokio::test]
async fn a_pause_and_a_new_rate_are_in_force_for_waiting_and_reserving_at_once() {
    let bench = with_line(1).await;
    let inside = join(&bench, Ask::at(NOW).user("alice")).await.unwrap();
    change(&bench, NOW.plus_seconds(1), 0).await.unwrap();
    let outside = join(&bench, Ask::at(NOW.plus_seconds(2)).user("bob")).await.unwrap();
    assert_eq!(of_body(&outside, "status"), "waiting");
    assert_eq!(of_body(&outside, "active_at"), Value::Null);
    let token = |reply: &Reply| of_body(reply, "token").as_str().unwrap().to_owned();
    let later = NOW.plus_seconds(3);
    assert_eq!(
        status_of(&bench, "alice", &token(&inside), later).await["status"],
        "active",
        "who is inside stays inside"
    );
    assert_eq!(status_of(&bench, "bob", &token(&outside), later).await["status"], "waiting");
    let turn = claims_of("bob", &token(&outside)).turn();
    assert_eq!(enforced(&bench).await.enters_at(turn), None);
    change(&bench, later, 60).await.unwrap();
    assert_eq!(status_of(&bench, "bob", &token(&outside), later.plus_seconds(1)).await["status"], "active");
    let version = enforced(&bench).await.version;
    change(&bench, later.plus_seconds(5), 60).await.unwrap();
    assert_eq!(enforced(&bench).await.version, version, "what is in force already changes nothing");
}

#[tokio::test]
async fn a_change_is_answered_once_every_process_goes_by_it() {
    let bench = with_line(1).await;
    let token = of_body(&join(&bench, Ask::at(NOW).user("alice")).await.unwrap(), "token");
    change(&bench, NOW, 0).await.unwrap();
    // The second in line, who waits.
    let late = join(&bench, Ask::at(NOW.plus_seconds(1)).user("bob")).await.unwrap();
    let late = of_body(&late, "token");
    let warm = checking(bench.lines());
    let check = async |deps: &StatusDeps<Lines>, user: &str, token: &Value, now: Timestamp| {
        let call = Ask::at(now).user(user).header("queue-token", token.as_str().unwrap()).call();
        of_body(&check_queue_status(deps, call).await.unwrap(), "status")
    };
    let asked = NOW.plus_seconds(10);
    assert_eq!(check(&warm, "bob", &late, asked).await, "waiting");
    let begun = Instant::now();
    let deps = AdmissionDeps { lead_millis: PLAN_LEAD_MILLIS, ..admission(&bench) };
    set_admission(&deps, asking(asked, 60_000)).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(PLAN_LEAD_MILLIS.unsigned_abs()), "{:?}", begun.elapsed());
    let changed_at = enforced(&bench).await.changed_at;
    assert!(changed_at >= asked.plus_millis(PLAN_LEAD_MILLIS));
    // As long as the warm process may go by the plan before, that one and this say the same; then it knows of this.
    for (now, status) in [(asked.plus_millis(999), "waiting"), (changed_at.plus_millis(1), "active")] {
        assert_eq!(check(&warm, "bob", &late, now).await, status, "{now}");
        assert_eq!(check(&checking(bench.lines()), "bob", &late, now).await, status, "{now}");
        assert_eq!(check(&warm, "alice", &token, now).await, "active", "{now}");
    }
}

#[tokio::test]
async fn a_plan_that_has_changed_too_often_is_not_changed_but_can_be_paused_and_resumed() {
    let bench = Bench::start().await;
    let mut plan = AdmissionPlan::opening(NOW, 60, 86_400);
    let mut asked = NOW;
    for round in 1..MAX_SEGMENTS as u32 {
        asked = asked.plus_seconds(60);
        let change = plan_change(NOW, i64::from(60 + round % 2), 86_400, None).unwrap();
        plan = plan.changed(0, asked, change).unwrap();
    }
    bench.lines().open(&concert(), plan).await.unwrap();
    let refused = change(&bench, asked.plus_seconds(60), 7).await.unwrap_err();
    assert_eq!((refused.status.as_u16(), refused.code), (409, "too_many_changes"));
    change(&bench, asked.plus_seconds(61), 0).await.unwrap();
    change(&bench, asked.plus_seconds(62), 60).await.unwrap();
}

#[tokio::test]
async fn a_change_by_a_clock_that_is_far_behind_is_refused_for_now() {
    let bench = with_line(1).await;
    position(&bench, "alice", NOW).await;
    change(&bench, NOW.plus_seconds(60), 30).await.unwrap();
    let refused = change(&bench, NOW.plus_seconds(1), 20).await.unwrap_err();
    assert_eq!(refused.status.as_u16(), 503);
    assert_eq!(enforced(&bench).await.version, 2, "nothing was changed");
    change(&bench, NOW.plus_seconds(55), 20).await.unwrap();
}

#[tokio::test]
async fn a_pause_is_set_while_the_counter_is_throttled() {
    let bench = with_line(1).await;
    bench.proxy.inject(Rule::all().containing("COUNTER#0"), Fate::Throttled);
    let paused = change(&bench, NOW.plus_seconds(1), 0).await.unwrap();
    assert_eq!(paused.status.as_u16(), 200);
    let counts = (of_body(&paused, "admitted"), of_body(&paused, "issued"));
    assert_eq!(counts, (Value::Null, Value::Null), "not known, which is not none");
    bench.proxy.heal();
    let late = join(&bench, Ask::at(NOW.plus_seconds(2)).user("late")).await.unwrap();
    assert_eq!(of_body(&late, "status"), "waiting");
}

#[tokio::test]
async fn a_change_says_who_made_it() {
    let bench = with_line(1).await;
    change(&bench, NOW.plus_seconds(1), 30).await.unwrap();
    let row = bench.engine.item("waiting-room", "OUTBOX#concert.2.admission.changed", "OUTBOX").await.unwrap();
    let event: Value = row.document("event").unwrap();
    assert_eq!(event["data"]["actor"], "op");
}

#[tokio::test]
async fn only_an_operator_changes_a_plan() {
    let bench = with_line(1).await;
    let deps = admission(&bench);
    let ask = Ask::at(NOW).user("alice").path("concert_id", "concert").json(json!({}));
    assert_eq!(set_admission(&deps, ask.call()).await.unwrap_err().code, "forbidden");
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
    let deps = checking(bench.lines());
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

// ---------------------------------------------------------------- a cap on how many are inside

/// A time that passes when somebody waits.
struct Passing(Mutex<Timestamp>);

impl Clock for Passing {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    async fn wait_until(&self, at: Timestamp) {
        let mut now = self.0.lock().unwrap();
        *now = at.max(*now);
    }
}

/// Lets in for so long from `now` on.
async fn admit(bench: &Bench, now: Timestamp, run_millis: i64) -> Result<(), Fault> {
    let clock = Passing(Mutex::new(now));
    let pace = Pace { lead_millis: PLAN_LEAD_MILLIS, run_millis };
    admit_places(&now.into(), &bench.lines(), &Enforced(bench.reservations.clone()), &clock, pace).await
}

async fn cap(bench: &Bench, now: Timestamp, max_active: Value) -> Result<Reply, Problem> {
    let body = json!({"opens_at": NOW.rfc3339(), "rate_per_minute": 6_000, "active_seconds": 600,
        "max_active": max_active});
    let ask = Ask::at(now).operator("op").path("concert_id", "concert").json(body);
    set_admission(&admission(bench), ask.call()).await
}

/// So many users, and their tokens.
async fn joined(bench: &Bench, users: &[String], now: Timestamp) -> Vec<String> {
    let mut tokens = Vec::new();
    for user in users {
        let reply = join(bench, Ask::at(now).user(user)).await.unwrap();
        tokens.push(of_body(&reply, "token").as_str().unwrap().to_owned());
    }
    tokens
}

/// Who of the users is inside, as the status says; reservations says the same.
async fn inside(bench: &Bench, users: &[String], tokens: &[String], now: Timestamp) -> Vec<usize> {
    let plan = enforced(bench).await;
    let mut inside = Vec::new();
    for (index, (user, token)) in users.iter().zip(tokens).enumerate() {
        let status = status_of(bench, user, token, now).await["status"].clone();
        let claims = claims_of(user, token);
        let standing = plan.standing(claims.position, claims.turn(), claims.issued_at, now);
        let is_active = matches!(standing, Standing::Active { .. });
        assert!(status == "used" || is_active == (status == "active"), "{user}: {status}, {standing:?}");
        if status == "active" {
            inside.push(index + 1);
        }
    }
    inside
}

fn fans(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("fan{number}")).collect()
}

#[tokio::test]
async fn no_more_are_inside_than_the_operator_allows_and_who_pays_or_leaves_makes_room() {
    let bench = with_line(1).await;
    let reply = cap(&bench, NOW, json!(2)).await.unwrap();
    assert_eq!(of_body(&reply, "max_active"), 2);
    let users = fans(6);
    let tokens = joined(&bench, &users, NOW.plus_seconds(1)).await;
    let at = |seconds| NOW.plus_seconds(seconds);
    assert_eq!(inside(&bench, &users, &tokens, at(2)).await, Vec::<usize>::new());
    admit(&bench, at(20), 54_000).await.unwrap();
    assert_eq!(inside(&bench, &users, &tokens, at(80)).await, [1, 2]);
    bench.lines().spend(&concert(), 2, &payment("p1")).await.unwrap();
    admit(&bench, at(80), 0).await.unwrap();
    assert_eq!(inside(&bench, &users, &tokens, at(81)).await, [1], "not before every process knows");
    assert_eq!(inside(&bench, &users, &tokens, at(82)).await, [1, 3]);
    leave(&bench, "fan1", at(83)).await.unwrap();
    leave(&bench, "fan4", at(83)).await.unwrap();
    admit(&bench, at(84), 20_000).await.unwrap();
    assert_eq!(inside(&bench, &users, &tokens, at(106)).await, [3, 5], "who gave up while waiting takes no room");
    // When their time is over, the next enters.
    admit(&bench, at(700), 54_000).await.unwrap();
    assert_eq!(inside(&bench, &users, &tokens, at(756)).await, [6]);
    // Asking again with the same values changes nothing; lifting the cap does.
    let version = enforced(&bench).await.version;
    cap(&bench, at(760), json!(2)).await.unwrap();
    assert_eq!(enforced(&bench).await.version, version);
    let reply = cap(&bench, at(761), Value::Null).await.unwrap();
    assert_eq!(of_body(&reply, "max_active"), Value::Null);
}

#[tokio::test]
async fn a_cap_puts_nobody_out_and_counts_those_who_are_inside() {
    let bench = with_line(1).await;
    let users = fans(5);
    let at = |seconds| NOW.plus_seconds(seconds);
    bench.reservations.keep_plan(&concert(), &DefaultAdmission::Open.plan(NOW)).await.unwrap();
    let mut tokens = joined(&bench, &users[..3], NOW).await;
    assert_eq!(inside(&bench, &users[..3], &tokens, at(1)).await, [1, 2, 3]);
    let reply = cap(&bench, at(2), json!(2)).await.unwrap();
    assert_eq!((of_body(&reply, "admitted"), of_body(&reply, "issued")), (json!(3), json!(3)));
    tokens.extend(joined(&bench, &users[3..], at(3)).await);
    admit(&bench, at(20), 54_000).await.unwrap();
    assert_eq!(inside(&bench, &users, &tokens, at(80)).await, [1, 2, 3]);
    bench.lines().spend(&concert(), 1, &payment("p1")).await.unwrap();
    admit(&bench, at(80), 54_000).await.unwrap();
    assert_eq!(inside(&bench, &users, &tokens, at(140)).await, [2, 3], "two are as many as may be");
    bench.lines().spend(&concert(), 2, &payment("p2")).await.unwrap();
    admit(&bench, at(140), 54_000).await.unwrap();
    let within = inside(&bench, &users, &tokens, at(200)).await;
    assert_eq!(within, [3, 4], "{:?}", enforced(&bench).await);
}

#[tokio::test]
async fn a_change_of_the_cap_says_who_made_it() {
    let bench = with_line(1).await;
    cap(&bench, NOW.plus_seconds(1), json!(7)).await.unwrap();
    let row = bench.engine.item("waiting-room", "OUTBOX#concert.2.admission.changed", "OUTBOX").await.unwrap();
    let event: Value = row.document("event").unwrap();
    assert_eq!(
        (event["data"]["actor"].as_str(), &event["data"]["plan"]["gate"]["max_active"]),
        (Some("op"), &json!(7))
    );
    joined(&bench, &fans(3), NOW.plus_seconds(2)).await;
    admit(&bench, NOW.plus_seconds(20), 0).await.unwrap();
    cap(&bench, NOW.plus_seconds(30), json!(8)).await.unwrap();
    let row = bench.engine.item("waiting-room", "OUTBOX#concert.4.admission.changed", "OUTBOX").await.unwrap();
    let later: Value = row.document("event").unwrap();
    assert_eq!(later["data"]["plan"]["gate"]["waves"][0]["last_position"], 3);
    let schema: Value = serde_json::from_str(schema_of("admission.changed").unwrap()).unwrap();
    for event in [event, later] {
        jsonschema::draft202012::options().build(&schema).unwrap().validate(&event).unwrap();
    }
    for wrong in [json!(0), json!(-1), json!(1_000_001), json!("7"), json!(1.5)] {
        let refused = cap(&bench, NOW.plus_seconds(2), wrong.clone()).await.unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.code), (400, "invalid_request"), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runs_at_once_let_in_no_more_than_one() {
    let bench = Arc::new(with_line(1).await);
    cap(&bench, NOW, json!(3)).await.unwrap();
    let users = fans(10);
    let tokens = joined(&bench, &users, NOW.plus_seconds(1)).await;
    let runs = (0..4).map(|_| {
        let bench = Arc::clone(&bench);
        async move { admit(&bench, NOW.plus_seconds(60), 20_000).await }
    });
    for run in runs.collect::<JoinSet<_>>().join_all().await {
        run.unwrap();
    }
    assert_eq!(inside(&bench, &users, &tokens, NOW.plus_seconds(82)).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_wave_that_reservations_did_not_get_is_brought_there_by_the_next_look() {
    let bench = with_line(1).await;
    cap(&bench, NOW, json!(2)).await.unwrap();
    let users = fans(3);
    let tokens = joined(&bench, &users, NOW.plus_seconds(1)).await;
    bench.proxy.inject(Rule::on("PutItem").containing("ADMISSION"), Fate::Failed);
    admit(&bench, NOW.plus_seconds(60), 0).await.unwrap_err();
    bench.proxy.heal();
    admit(&bench, NOW.plus_seconds(61), 0).await.unwrap();
    assert_eq!(inside(&bench, &users, &tokens, NOW.plus_seconds(63)).await, [1, 2]);
}

#[tokio::test]
async fn nobody_waits_for_ever_behind_a_gap_between_counters() {
    let bench = with_line(4).await;
    let lines = sharded(&bench, 4);
    issue(&lines, NOW).await;
    bench.proxy.inject(Rule::on("UpdateItem").containing("issued").times(3), Fate::Throttled);
    issue(&lines, NOW).await;
    bench.proxy.heal();
    cap(&bench, NOW, json!(50)).await.unwrap();
    let users = fans(10);
    let tokens = joined(&bench, &users, NOW.plus_seconds(5)).await;
    admit(&bench, NOW.plus_seconds(60), 54_000).await.unwrap();
    let all: Vec<usize> = (1..=10).collect();
    assert_eq!(inside(&bench, &users, &tokens, NOW.plus_seconds(120)).await, all);
}

#[tokio::test]
async fn a_look_that_fails_once_is_made_good_and_one_that_goes_on_failing_is_told() {
    let bench = with_line(1).await;
    cap(&bench, NOW, json!(2)).await.unwrap();
    let users = fans(3);
    let tokens = joined(&bench, &users, NOW.plus_seconds(1)).await;
    for call in ["Query", "BatchGetItem"] {
        bench.proxy.inject(Rule::on(call).once(), Fate::Failed);
    }
    admit(&bench, NOW.plus_seconds(60), 54_000).await.unwrap();
    assert_eq!(inside(&bench, &users, &tokens, NOW.plus_seconds(116)).await, [1, 2]);
    bench.proxy.inject(Rule::on("Query"), Fate::Failed);
    admit(&bench, NOW.plus_seconds(120), 54_000).await.unwrap_err();
    bench.proxy.heal();
    bench.proxy.inject(Rule::on("BatchGetItem"), Fate::Failed);
    admit(&bench, NOW.plus_seconds(180), 54_000).await.unwrap_err();
}

#[tokio::test]
async fn a_line_in_which_nothing_happens_is_looked_at_once_a_run() {
    let bench = with_line(1).await;
    bench.proxy.forget();
    admit(&bench, NOW, 54_000).await.unwrap();
    assert!(bench.proxy.actions().iter().all(|call| call == "Query"), "there is none with a cap");
    cap(&bench, NOW, json!(2)).await.unwrap();
    let reads = async |now: Timestamp| {
        bench.proxy.forget();
        admit(&bench, now, 54_000).await.unwrap();
        bench.proxy.actions().iter().filter(|call| *call == "BatchGetItem").count()
    };
    assert!(reads(NOW.plus_seconds(60)).await >= 10);
    assert_eq!(reads(NOW.plus_seconds(7_200)).await, 1);
    let users = fans(2);
    let tokens = joined(&bench, &users, NOW.plus_seconds(7_260)).await;
    admit(&bench, NOW.plus_seconds(7_261), 0).await.unwrap();
    assert_eq!(inside(&bench, &users, &tokens, NOW.plus_seconds(7_263)).await, [1, 2]);
}

#[tokio::test]
async fn whom_segments_let_in_long_ago_keeps_nobody_out() {
    for shards in [1, 8] {
        let bench = with_line(shards).await;
        bench.reservations.keep_plan(&concert(), &DefaultAdmission::Open.plan(NOW)).await.unwrap();
        joined(&bench, &fans(3), NOW).await;
        if shards > 1 {
            // It has several counters, whose places are mixed.
            let lines = sharded(&bench, shards);
            bench.proxy.inject(Rule::on("UpdateItem").containing("issued").times(3), Fate::Throttled);
            for _ in 0..20 {
                issue(&lines, NOW).await;
            }
            bench.proxy.heal();
        }
        // They had ten minutes each; an hour later none of them is inside.
        let at = |seconds: i64| NOW.plus_seconds(3_600 + seconds);
        cap(&bench, at(0), json!(2)).await.unwrap();
        let users: Vec<String> = fans(5)[3..].to_vec();
        let tokens = joined(&bench, &users, at(3)).await;
        admit(&bench, at(3), 54_000).await.unwrap();
        assert_eq!(inside(&bench, &users, &tokens, at(60)).await, [1, 2], "{shards}: {:?}", enforced(&bench).await);
    }
}

#[tokio::test]
async fn places_that_are_nobodys_make_nobody_wait() {
    let bench = with_line(1).await;
    cap(&bench, NOW, json!(1)).await.unwrap();
    let users = fans(7);
    let tokens = joined(&bench, &users, NOW.plus_seconds(1)).await;
    for position in 1..=6 {
        bench.lines().give_up(&concert(), position).await.unwrap();
    }
    admit(&bench, NOW.plus_seconds(20), 0).await.unwrap();
    assert_eq!(inside(&bench, &users, &tokens, NOW.plus_seconds(22)).await, [7]);
}

#[tokio::test]
async fn two_runs_at_once_fill_a_gap_once() {
    let bench = with_line(4).await;
    let lines = sharded(&bench, 4);
    issue(&lines, NOW).await;
    bench.proxy.inject(Rule::on("UpdateItem").containing("issued").times(3), Fate::Throttled);
    issue(&lines, NOW).await;
    bench.proxy.heal();
    // Until one counter is ahead of another.
    let gaps = async || {
        let (set, counters) = bench.lines().count_each(&concert()).await.unwrap().unwrap();
        set.gaps(&counters)
    };
    while gaps().await.iter().map(|(_, gap)| gap).sum::<u64>() < 2 {
        issue(&lines, NOW).await;
    }
    cap(&bench, NOW, json!(50)).await.unwrap();
    let held = bench.proxy.hold(Rule::on("UpdateItem").containing(":counted").once());
    let slow = async { admit(&bench, NOW.plus_seconds(60), 20_000).await.unwrap() };
    let quick = async {
        held.reached().await;
        admit(&bench, NOW.plus_seconds(60), 20_000).await.unwrap();
        held.open();
    };
    let before = gaps().await;
    let counted = bench.lines().count(&concert()).await.unwrap().unwrap();
    tokio::join!(slow, quick);
    let filled = bench.lines().count(&concert()).await.unwrap().unwrap().issued - counted.issued;
    assert_eq!((filled, gaps().await), (before.iter().map(|(_, gap)| gap).sum(), vec![]), "{before:?}");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_keeps_no_other_line_standing() {
    let bench = with_line(1).await;
    cap(&bench, NOW, json!(2)).await.unwrap();
    let users = fans(3);
    let tokens = joined(&bench, &users, NOW.plus_seconds(1)).await;
    let table = bench.engine.table("waiting-room");
    let broken = table.client.put_item().table_name(&table.name);
    broken.item("pk", s("GATES")).item("sk", s("LINE#")).send().await.unwrap();
    admit(&bench, NOW.plus_seconds(60), 0).await.unwrap();
    assert_eq!(inside(&bench, &users, &tokens, NOW.plus_seconds(62)).await, [1, 2]);
}

#[tokio::test]
async fn a_paused_gate_asks_for_no_used_places() {
    let bench = with_line(1).await;
    cap(&bench, NOW, json!(2)).await.unwrap();
    joined(&bench, &fans(3), NOW.plus_seconds(1)).await;
    let pages = async |now: Timestamp| {
        bench.proxy.forget();
        admit(&bench, now, 0).await.unwrap();
        bench.proxy.actions().iter().filter(|call| *call == "BatchGetItem").count() - 1
    };
    assert_eq!(pages(NOW.plus_seconds(60)).await, 1);
    let body = json!({"opens_at": NOW.rfc3339(), "rate_per_minute": 0, "active_seconds": 600, "max_active": 2});
    let ask = Ask::at(NOW.plus_seconds(70)).operator("op").path("concert_id", "concert").json(body);
    set_admission(&admission(&bench), ask.call()).await.unwrap();
    assert_eq!(pages(NOW.plus_seconds(80)).await, 0);
}

/// Reservations, of which an answer about the other line never comes.
struct HangsForOther(Reservations);

impl ApplyPlan for HangsForOther {
    async fn apply(&self, concert: &ConcertId, plan: &AdmissionPlan) -> Result<(), Fault> {
        if concert.as_str() == "other" {
            std::future::pending::<()>().await;
        }
        self.0.keep_plan(concert, plan).await
    }
}

#[tokio::test]
async fn a_line_that_hangs_keeps_no_other_from_its_next_look() {
    let bench = with_line(1).await;
    let other = ConcertId::parse("other").unwrap();
    bench.lines().open(&other, DefaultAdmission::Open.plan(NOW)).await.unwrap();
    cap(&bench, NOW, json!(2)).await.unwrap();
    let body = json!({"opens_at": NOW.rfc3339(), "rate_per_minute": 6_000, "active_seconds": 600, "max_active": 2});
    let ask = Ask::at(NOW).operator("op").path("concert_id", "other").json(body);
    set_admission(&admission(&bench), ask.call()).await.unwrap();
    let users = fans(4);
    let tokens = joined(&bench, &users, NOW.plus_seconds(1)).await;
    bench.lines().spend(&concert(), 1, &payment("p1")).await.unwrap();
    // The run has no time, so that what hangs is waited for as short as that goes.
    let tick = Tick { now: NOW, budget: Budget::by(|| Duration::ZERO, Duration::from_millis(1)) };
    let clock = Passing(Mutex::new(NOW.plus_seconds(60)));
    let pace = Pace { lead_millis: PLAN_LEAD_MILLIS, run_millis: 6_000 };
    let (lines, reservations) = (bench.lines(), HangsForOther(bench.reservations.clone()));
    admit_places(&tick, &lines, &reservations, &clock, pace).await.unwrap_err();
    assert_eq!(clock.now(), NOW.plus_seconds(65), "it looked twice");
    assert_eq!(inside(&bench, &users, &tokens, NOW.plus_seconds(120)).await, [2, 3]);
}
