//! The catalogue, and a seat map that follows the stream.

use crate::audit::assert_sound;
use crate::bench::{Bench, hold};
use ::concerts::domain::{Concert, Schedule, SectionKey, Terms};
use ::concerts::dynamo::{Catalogue, SeatMaps};
use ::concerts::handlers::{
    Deps, RebuildDeps, create_concert, create_schedule, get_seat_map, list_concerts, list_schedules, project_seat_map,
    rebuild_seat_map,
};
use ::concerts::ports::{AddConcert, AddSchedule, AskTakenSeats, KeepSeatMap, OpenSchedule, OpenWaitingRoom};
use ::reservations::dynamo::Reservations;
use ::reservations::handlers::{list_taken_seats, release_reservation};
use ::reservations::ports::KeepTerms;
use ::reservations::usecases::cancel_reservation::cancel_reservation;
use ::reservations::usecases::sweep_holds::sweep_holds;
use ::waiting_room::domain::DefaultAdmission;
use ::waiting_room::dynamo::Lines;
use ::waiting_room::ports::OpenLine;
use contracts::Timestamp;
use contracts::steps::{ListTakenSeats, TakenSeats};
use kit::dynamo::{Item, Read, s};
use kit::http::Cursor;
use kit::stream::Record;
use kit::{Fault, Problem, Reply, StepError};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tests::calls::{Ask, users};
use tests::fixture::{HOLD_SECONDS, NOW, concert, place, refused, saga, schedule, step, terms, user};
use tests::proxy::{Fate, Rule};
use tokio::task::JoinSet;

/// The steps of the other contexts themselves, instead of functions invoking each other.
struct Steps {
    lines: Lines,
    reservations: Reservations,
}

impl OpenWaitingRoom for Steps {
    async fn open_waiting_room(&self, concert: &Concert) -> Result<(), Fault> {
        self.lines.open(&concert.id, DefaultAdmission::Open.plan(concert.created_at)).await.map(drop)
    }
}

impl OpenSchedule for Steps {
    async fn open_schedule(&self, schedule: &Schedule) -> Result<(), Fault> {
        self.reservations.keep_terms(&schedule.on_sale()).await
    }
}

fn catalogue(bench: &Bench) -> Catalogue {
    Catalogue::new(bench.proxy.table("concerts"))
}

fn maps(bench: &Bench) -> SeatMaps {
    SeatMaps::new(bench.proxy.table("concerts"))
}

/// The date that everything else here sells, in the catalogue.
async fn with_date(max_per_user: u32) -> Bench {
    let bench = Bench::on_sale(max_per_user).await;
    let terms = terms(max_per_user);
    let date = Schedule {
        refundable_until: None,
        id: schedule(),
        concert: concert(),
        starts_at: terms.starts_at,
        terms: Terms::new(terms.max_per_user, terms.hold_seconds, terms.sections).unwrap(),
    };
    let catalogue = catalogue(&bench);
    catalogue.add_concert(&Concert::new(concert(), "Title", "Artist", "Venue", NOW).unwrap(), None, NOW).await.unwrap();
    catalogue.add_schedule(&date, None, NOW).await.unwrap().unwrap();
    catalogue.show_schedule(&date, "c", NOW).await.unwrap();
    bench
}

/// The states of seats that are not available, as the map shows them.
async fn shown(bench: &Bench) -> BTreeMap<String, String> {
    let call = Ask::at(NOW).path("schedule_id", "date").call();
    let text = get_seat_map(&maps(bench), call).await.unwrap().text.unwrap();
    let map: Value = serde_json::from_str(&text).unwrap();
    let mut taken = BTreeMap::new();
    for section in map["sections"].as_array().unwrap() {
        for seat in section["seats"].as_array().unwrap() {
            if seat["status"] != "available" {
                let text = |name: &str| seat[name].as_str().unwrap().to_owned();
                taken.insert(text("seat_id"), text("status"));
            }
        }
    }
    assert_eq!(map["seats_available"], 400 - taken.len());
    taken
}

/// The same as the reservations table has it.
async fn owned(bench: &Bench) -> BTreeMap<String, String> {
    let items = bench.engine.items("reservations").await;
    let seats = items.iter().filter(|item| item.text("kind").ok() == Some("seat"));
    seats
        .map(|item| {
            let status = if item.text("status").unwrap() == "sold" { "sold" } else { "held" };
            (item.text("seat_id").unwrap().to_owned(), status.to_owned())
        })
        .collect()
}

async fn listed_as_available(bench: &Bench) -> u64 {
    let call = Ask::at(NOW).path("concert_id", "concert").call();
    let list = list_schedules(&catalogue(bench), call).await.unwrap().body.unwrap();
    list["items"][0]["seats_available"].as_u64().unwrap()
}

/// Some buyers' lives: holds, cancellations, payments that succeed and fail, holds that expire.
async fn live(bench: &Bench, seed: u64) -> Timestamp {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut now = NOW;
    for n in 1..=60 {
        now = now.plus_seconds(random.i64(0..20));
        let row = random.u32(1..=3);
        let seats = [format!("A-{row}-{}", random.u32(1..=10)), format!("B-{row}-{}", random.u32(1..=10))];
        let wanted: Vec<&str> = seats[..random.usize(1..=2)].iter().map(String::as_str).collect();
        let buyer = format!("buyer-{n}");
        // Some seats that are let go are kept back for a while.
        let store = bench.returning(["0,0", "5,60"][random.usize(..2)]);
        let Ok(held) = hold(&store, place(&buyer, n, now), &wanted, &format!("r{n}"), now).await else { continue };
        let saga = saga(&held, &format!("p{n}"));
        match random.u8(..5) {
            0 => cancel_reservation(&store, &user(&buyer), &held.id, now).await.unwrap(),
            1 | 2 => {
                bench.begin(&saga, now).await;
                bench.confirm(&saga, now).await;
            }
            3 => {
                bench.begin(&saga, now).await;
                let later = now.plus_seconds(random.i64(0..2 * HOLD_SECONDS));
                release_reservation(&store, step(refused(saga), later)).await.unwrap();
            }
            _ => {}
        }
        if random.u8(..6) == 0 {
            sweep_holds(&store, now).await.unwrap();
        }
    }
    now
}

#[tokio::test]
async fn a_seat_that_was_given_back_is_shown_held_until_it_is_free() {
    let bench = with_date(4).await;
    let store = bench.returning("30,120");
    let held = hold(&store, place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    cancel_reservation(&store, &held.user, &held.id, NOW).await.unwrap();
    let project = async || project_seat_map(&maps(&bench), bench.engine.changes("reservations")).await.unwrap();
    project().await;
    assert_eq!(shown(&bench).await, BTreeMap::from([("A-1-1".to_owned(), "held".to_owned())]));
    assert_eq!(listed_as_available(&bench).await, 399);
    // Nobody tries to take it.
    sweep_holds(&store, NOW.plus_seconds(120)).await.unwrap();
    project().await;
    assert_eq!(shown(&bench).await, BTreeMap::new());
    assert_eq!(listed_as_available(&bench).await, 400);
}

#[tokio::test]
async fn the_seat_map_and_the_counts_follow_the_stream_however_it_is_cut_and_repeated() {
    for seed in 1..=3 {
        let bench = with_date(4).await;
        live(&bench, seed).await;
        let records = bench.engine.changes("reservations");
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut from, maps) = (0, maps(&bench));
        while from < records.len() {
            let to = (from + random.usize(1..=15)).min(records.len());
            let batch = records[from..to].to_vec();
            project_seat_map(&maps, batch.clone()).await.unwrap();
            if random.bool() {
                // Redelivered, after its own or from further back.
                let back = random.usize(..=from);
                project_seat_map(&maps, records[back..to].to_vec()).await.unwrap();
            }
            from = to;
        }
        let owned = owned(&bench).await;
        assert!(owned.len() > 5, "seed {seed} leaves something to see: {owned:?}");
        assert_eq!(shown(&bench).await, owned, "seed {seed}");
        assert_eq!(listed_as_available(&bench).await, 400 - owned.len() as u64, "seed {seed}");
        // All of it once more changes nothing.
        project_seat_map(&maps, records).await.unwrap();
        assert_eq!(shown(&bench).await, owned, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sections_projected_at_once_lose_nothing_of_each_other() {
    let bench = with_date(4).await;
    live(&bench, 7).await;
    let is_of = |record: &Record, section: &str| {
        let image = record.new.as_ref().or(record.old.as_ref()).unwrap();
        image.text("pk").unwrap().starts_with(&format!("SEATS#date#{section}#"))
    };
    let records = bench.engine.changes("reservations");
    let mut shards = JoinSet::new();
    for section in ["A", "B"] {
        let records: Vec<Record> = records.iter().filter(|record| is_of(record, section)).cloned().collect();
        let maps = maps(&bench);
        shards.spawn(async move {
            for batch in records.chunks(3) {
                project_seat_map(&maps, batch.to_vec()).await.unwrap();
            }
        });
    }
    shards.join_all().await;
    let owned = owned(&bench).await;
    assert_eq!(shown(&bench).await, owned);
    assert_eq!(listed_as_available(&bench).await, 400 - owned.len() as u64);
}

#[tokio::test]
async fn a_batch_whose_answers_get_lost_is_projected_all_the_same() {
    let bench = with_date(4).await;
    let end = live(&bench, 3).await;
    bench.proxy.inject(Rule::on("UpdateItem").times(2), Fate::AnswerLost);
    project_seat_map(&maps(&bench), bench.engine.changes("reservations")).await.unwrap();
    assert_eq!(shown(&bench).await, owned(&bench).await);
    assert_sound(&bench, end).await;
}

// ---------------------------------------------------------------- what cannot be read, and rebuilding

/// An item of the concerts table, changed by hand.
async fn change(bench: &Bench, pk: &str, sk: &str, change: impl FnOnce(&mut Item)) {
    let mut item = bench.engine.item("concerts", pk, sk).await.unwrap();
    change(&mut item);
    let table = bench.engine.table("concerts");
    table.client.put_item().table_name(&table.name).set_item(Some(item)).send().await.unwrap();
}

/// What happens between the reading of a section's seats and the writing of its map.
type Meanwhile<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// The step of reservations, without an invocation.
struct Seats<'a> {
    reservations: Reservations,
    meanwhile: Mutex<Option<Meanwhile<'a>>>,
}

impl AskTakenSeats for Seats<'_> {
    async fn ask_taken_seats(&self, key: &SectionKey) -> Result<TakenSeats, Fault> {
        let input = ListTakenSeats { schedule_id: key.schedule.clone(), section: key.section.clone() };
        let taken = list_taken_seats(&self.reservations, step(input, NOW)).await.map_err(|error| match error {
            StepError::Fault(fault) => fault,
            StepError::Refused(reason) => panic!("a list is never refused: {reason}"),
        })?;
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile.await;
        }
        Ok(taken)
    }
}

async fn rebuild_with(bench: &Bench, meanwhile: Option<Meanwhile<'_>>) -> Result<Value, Problem> {
    let seats = Seats { reservations: bench.reservations.clone(), meanwhile: Mutex::new(meanwhile) };
    let deps = RebuildDeps { maps: maps(bench), seats, users: users() };
    let call = Ask::at(NOW).operator("op").path("schedule_id", "date").call();
    rebuild_seat_map(&deps, call).await.map(|reply| reply.body.unwrap())
}

async fn rebuild(bench: &Bench) -> Value {
    rebuild_with(bench, None).await.unwrap()
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_reported_and_the_rest_of_its_batch_is_projected() {
    let bench = with_date(4).await;
    for (n, seat) in ["A-1-1", "A-1-2", "B-1-1"].into_iter().enumerate() {
        bench.reserve(place(&format!("u{n}"), n as u64 + 1, NOW), &[seat], &format!("r{n}"), NOW).await.unwrap();
    }
    let mut records = bench.engine.changes("reservations");
    let seat = |record: &&mut Record| {
        record.new.as_ref().is_some_and(|item| item.get("seat_id").is_some_and(|id| *id == s("A-1-1")))
    };
    let poison = records.iter_mut().find(seat).unwrap();
    poison.new.as_mut().unwrap().insert("status".to_owned(), s("who knows"));
    for _ in 0..2 {
        project_seat_map(&maps(&bench), records.clone()).await.unwrap();
    }
    let held = "held".to_owned();
    assert_eq!(shown(&bench).await, BTreeMap::from([("A-1-2".into(), held.clone()), ("B-1-1".into(), held.clone())]));
    assert_eq!(faults(&bench).await, ["section A of date date"]);
    assert_eq!(rebuild(&bench).await, json!({"schedule_id": "date", "sections": 2, "corrected": ["A"], "left": []}));
    assert_eq!(shown(&bench).await, owned(&bench).await);
}

#[tokio::test]
async fn a_section_whose_map_cannot_be_read_is_reported_left_out_and_made_anew_by_a_rebuild() {
    let bench = with_date(4).await;
    live(&bench, 5).await;
    let records = bench.engine.changes("reservations");
    project_seat_map(&maps(&bench), records[..20].to_vec()).await.unwrap();
    change(&bench, "SCHEDULE#date", "SECTION#A", |map| drop(map.insert("seats".to_owned(), s("?")))).await;
    for _ in 0..2 {
        project_seat_map(&maps(&bench), records[20..].to_vec()).await.unwrap();
    }
    assert_eq!(faults(&bench).await, ["section A of date date"], "one id an hour, however many processes");
    let mut of_b = owned(&bench).await;
    of_b.retain(|seat, _| seat.starts_with("B-"));
    let b = SectionKey { schedule: schedule(), section: "B".to_owned().try_into().unwrap() };
    let map = maps(&bench).sections(&[b]).await.unwrap().maps.remove(0);
    assert_eq!(map.taken().seats as usize, of_b.len(), "B has followed");
    assert_eq!(rebuild(&bench).await["corrected"], json!(["A"]));
    let owned = owned(&bench).await;
    assert_eq!(shown(&bench).await, owned);
    assert_eq!(listed_as_available(&bench).await, 400 - owned.len() as u64);
    assert_eq!(rebuild(&bench).await["corrected"], json!([]), "nothing is left to correct");
}

#[tokio::test]
async fn a_map_that_was_lost_or_restored_from_earlier_is_rebuilt_with_its_counts() {
    let bench = with_date(4).await;
    live(&bench, 6).await;
    let records = bench.engine.changes("reservations");
    project_seat_map(&maps(&bench), records[..10].to_vec()).await.unwrap();
    let earlier = bench.engine.item("concerts", "SCHEDULE#date", "SECTION#A").await.unwrap();
    project_seat_map(&maps(&bench), records[10..].to_vec()).await.unwrap();
    change(&bench, "SCHEDULE#date", "SECTION#A", |map| *map = earlier).await;
    let table = bench.engine.table("concerts");
    let lost = table.client.delete_item().table_name(&table.name);
    lost.key("pk", s("SCHEDULE#date")).key("sk", s("SECTION#B")).send().await.unwrap();
    assert_ne!(shown(&bench).await, owned(&bench).await);
    rebuild(&bench).await;
    let owned = owned(&bench).await;
    assert_eq!(shown(&bench).await, owned);
    assert_eq!(listed_as_available(&bench).await, 400 - owned.len() as u64, "later than what the list had");
    // The stream goes on where it was.
    bench.reserve(place("zoe", 900, NOW), &["B-9-9"], "rz", NOW).await.unwrap();
    let next = bench.engine.changes("reservations")[records.len()..].to_vec();
    project_seat_map(&maps(&bench), next).await.unwrap();
    assert!(shown(&bench).await.contains_key("B-9-9"));
}

#[tokio::test]
async fn a_seat_that_changes_while_its_map_is_rebuilt_is_shown_as_it_is_whoever_writes_first() {
    for first in ["A-1-1", "A-5-5"] {
        let bench = with_date(4).await;
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        project_seat_map(&maps(&bench), bench.engine.changes("reservations")).await.unwrap();
        cancel_reservation(&bench.reservations, &user("alice"), &held.id, NOW).await.unwrap();
        // The projection never hears of that, so that of A-1-1's next hold it learns nothing new.
        let heard = bench.engine.changes("reservations").len();
        let meanwhile = async {
            bench.reserve(place("bob", 2, NOW), &[first], "r2", NOW).await.unwrap();
            project_seat_map(&maps(&bench), bench.engine.changes("reservations")[heard..].to_vec()).await.unwrap();
        };
        rebuild_with(&bench, Some(Box::pin(meanwhile))).await.unwrap();
        assert_eq!(shown(&bench).await, BTreeMap::from([(first.to_owned(), "held".to_owned())]));
        assert_eq!(shown(&bench).await, owned(&bench).await);
        assert_eq!(listed_as_available(&bench).await, 399);
    }
}

#[tokio::test]
async fn only_operators_rebuild_and_only_dates_that_exist() {
    let bench = Bench::on_sale(4).await;
    assert_eq!(rebuild_with(&bench, None).await.unwrap_err().code, "not_found");
    assert!(bench.engine.items("concerts").await.is_empty());
    let seats = Seats { reservations: bench.reservations.clone(), meanwhile: Mutex::default() };
    let deps = RebuildDeps { maps: maps(&bench), seats, users: users() };
    let buyer = Ask::at(NOW).user("alice").path("schedule_id", "date").call();
    assert_eq!(rebuild_seat_map(&deps, buyer).await.unwrap_err().code, "forbidden");
}

#[tokio::test]
async fn a_rebuild_that_reservations_do_not_answer_says_so() {
    let bench = with_date(4).await;
    bench.proxy.inject(Rule::on("Query"), Fate::Failed);
    assert_eq!(rebuild_with(&bench, None).await.unwrap_err().status.as_u16(), 503);
}

/// Where the on-call was told that the map does not follow.
async fn faults(bench: &Bench) -> Vec<String> {
    let found = events(bench).await.into_iter().filter_map(|event| match event.body {
        contracts::events::EventBody::FaultDetected(fault) => Some(fault.detail),
        _ => None,
    });
    found.map(|detail| detail.split(": ").next().unwrap().to_owned()).collect()
}

// ---------------------------------------------------------------- the catalogue

fn deps(bench: &Bench) -> Deps<Catalogue, Steps> {
    let step = Steps { lines: bench.lines(), reservations: bench.reservations.clone() };
    Deps { catalogue: catalogue(bench), step, users: users() }
}

async fn announce(bench: &Bench, title: &str, key: Option<&str>, now: Timestamp) -> Result<Reply, Problem> {
    let mut ask = Ask::at(now).operator("op").json(json!({"title": title, "artist": "Artist", "venue": "Venue"}));
    if let Some(key) = key {
        ask = ask.key(key);
    }
    create_concert(&deps(bench), ask.call()).await
}

async fn schedule_at(bench: &Bench, concert: &str, starts_at: Timestamp, key: &str) -> Result<Reply, Problem> {
    let section = json!({"section": "A", "grade": "VIP", "price": 1000, "rows": 2, "seats_per_row": 5});
    let body = json!({"starts_at": starts_at.rfc3339(), "max_per_user": 4, "sections": [section]});
    let ask = Ask::at(NOW).operator("op").path("concert_id", concert).json(body).key(key);
    create_schedule(&deps(bench), ask.call()).await
}

fn text(reply: &Reply, name: &str) -> String {
    reply.body.as_ref().unwrap()[name].as_str().unwrap().to_owned()
}

/// All pages of a list, as one member of its rows.
async fn pages<F: AsyncFn(Ask) -> Result<Reply, Problem>>(list: F, limit: usize, name: &str) -> Vec<String> {
    let (mut seen, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut ask = Ask::at(NOW).query("limit", &limit.to_string());
        if let Some(cursor) = &cursor {
            ask = ask.query("cursor", cursor);
        }
        let body = list(ask).await.unwrap().body.unwrap();
        let items = body["items"].as_array().unwrap();
        assert!(items.len() <= limit);
        seen.extend(items.iter().map(|item| item[name].as_str().unwrap().to_owned()));
        cursor = body["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return seen;
        }
    }
}

#[tokio::test]
async fn concerts_page_newest_first_and_dates_soonest_first() {
    let bench = Bench::start().await;
    let mut ids = Vec::new();
    for n in 0..7 {
        ids.insert(0, text(&announce(&bench, &format!("T{n}"), None, NOW.plus_millis(n)).await.unwrap(), "concert_id"));
    }
    let store = catalogue(&bench);
    for limit in [1, 3, 7, 8] {
        assert_eq!(pages(async |ask| list_concerts(&store, ask.call()).await, limit, "concert_id").await, ids);
    }
    let of = ids[0].as_str();
    let mut dates = Vec::new();
    for days in [5, 1, 4, 2, 3] {
        let starts_at = NOW.plus_seconds(days * 86_400);
        let id = text(&schedule_at(&bench, of, starts_at, &format!("k{days}")).await.unwrap(), "schedule_id");
        dates.push((days, id));
    }
    dates.sort();
    let soonest: Vec<String> = dates.into_iter().map(|(_, id)| id).collect();
    let list = async |ask: Ask| list_schedules(&store, ask.path("concert_id", of).call()).await;
    for limit in [1, 2, 5, 6] {
        assert_eq!(pages(list, limit, "schedule_id").await, soonest, "pages of {limit}");
    }
}

#[tokio::test]
async fn a_date_that_has_begun_is_listed_no_longer() {
    let bench = Bench::start().await;
    let of = text(&announce(&bench, "T", None, NOW).await.unwrap(), "concert_id");
    let starts_at = NOW.plus_seconds(60);
    schedule_at(&bench, &of, starts_at, "k").await.unwrap();
    let store = catalogue(&bench);
    let listed = async |now| {
        let call = Ask::at(now).path("concert_id", &of).call();
        list_schedules(&store, call).await.unwrap().body.unwrap()["items"].as_array().unwrap().len()
    };
    assert_eq!(listed(starts_at.plus_millis(-1)).await, 1);
    assert_eq!(listed(starts_at).await, 0);
}

#[tokio::test]
async fn what_fails_half_way_is_shown_to_nobody_and_made_whole_by_the_same_request() {
    let bench = Bench::start().await;
    let store = catalogue(&bench);
    let concerts = async || list_concerts(&store, Ask::at(NOW).call()).await.unwrap().body.unwrap()["items"].clone();
    // The concert is written, its line is not.
    bench.proxy.inject(Rule::on("TransactWriteItems").containing("COUNTER"), Fate::Failed);
    assert_eq!(announce(&bench, "T", Some("k"), NOW).await.unwrap_err().status.as_u16(), 503);
    assert_eq!(concerts().await, json!([]));
    bench.proxy.heal();
    let of = text(&announce(&bench, "T", Some("k"), NOW).await.unwrap(), "concert_id");
    assert_eq!(concerts().await[0]["concert_id"], of.as_str());
    let again = text(&announce(&bench, "T", Some("k"), NOW).await.unwrap(), "concert_id");
    assert_eq!(again, of);
    assert_eq!(announce(&bench, "Other", Some("k"), NOW).await.unwrap_err().code, "idempotency_key_reused");
    // The date is written, its terms are not.
    bench.proxy.inject(Rule::on("PutItem").containing("TERMS"), Fate::Failed);
    let starts_at = NOW.plus_seconds(86_400);
    assert_eq!(schedule_at(&bench, &of, starts_at, "k2").await.unwrap_err().status.as_u16(), 503);
    let dates = async || {
        let call = Ask::at(NOW).path("concert_id", &of).call();
        list_schedules(&store, call).await.unwrap().body.unwrap()["items"].as_array().unwrap().len()
    };
    assert_eq!(dates().await, 0);
    bench.proxy.heal();
    schedule_at(&bench, &of, starts_at, "k2").await.unwrap();
    schedule_at(&bench, &of, starts_at, "k2").await.unwrap();
    assert_eq!(dates().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_announcement_ten_times_at_once_makes_one_concert() {
    let bench = Arc::new(Bench::start().await);
    let mut requests = JoinSet::new();
    for _ in 0..10 {
        let bench = Arc::clone(&bench);
        requests.spawn(async move { text(&announce(&bench, "T", Some("k"), NOW).await.unwrap(), "concert_id") });
    }
    let mut ids = requests.join_all().await;
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let listed = list_concerts(&catalogue(&bench), Ask::at(NOW).call()).await.unwrap().body.unwrap();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let bench = Bench::start().await;
    let store = catalogue(&bench);
    let nowhere = Ask::at(NOW).path("concert_id", "nowhere").call();
    assert_eq!(list_schedules(&store, nowhere).await.unwrap_err().code, "not_found");
    let missing = schedule_at(&bench, "nowhere", NOW.plus_seconds(60), "k").await.unwrap_err();
    assert_eq!(missing.code, "not_found");
    let no_map = get_seat_map(&maps(&bench), Ask::at(NOW).path("schedule_id", "nowhere").call()).await;
    assert_eq!(no_map.unwrap_err().code, "not_found");
}

#[tokio::test]
async fn a_cursor_made_up_by_somebody_is_answered_without_a_failure() {
    let bench = Bench::start().await;
    let of = text(&announce(&bench, "T", None, NOW).await.unwrap(), "concert_id");
    schedule_at(&bench, &of, NOW.plus_seconds(60), "k").await.unwrap();
    let store = catalogue(&bench);
    for made_up in ["A", "~", "INFO", "0", "zzz", " "] {
        let ask = Ask::at(NOW).path("concert_id", &of).query("cursor", &Cursor::seal(made_up));
        for outcome in [list_concerts(&store, ask.clone().call()).await, list_schedules(&store, ask.call()).await] {
            let status = outcome.map_or_else(|problem| problem.status.as_u16(), |reply| reply.status.as_u16());
            assert!(status == 200 || status == 400, "{made_up}: {status}");
        }
    }
}

// ---------------------------------------------------------------- what is events

/// The events in the outbox of concerts.
async fn events(bench: &Bench) -> Vec<contracts::events::Event> {
    let items = bench.engine.items("concerts").await;
    let rows = items.iter().filter(|item| item.text("kind").is_ok_and(|kind| kind == "outbox"));
    rows.map(|row| row.document("event").unwrap()).collect()
}

#[tokio::test]
async fn a_date_on_sale_is_published_with_its_seats() {
    let bench = with_date(4).await;
    let events = events(&bench).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].id.as_str(), "date.schedule.opened");
    let contracts::events::EventBody::ScheduleOpened(opened) = &events[0].body else { panic!("{events:?}") };
    assert_eq!((opened.seats_total, opened.starts_at), (400, terms(4).starts_at));
}

#[tokio::test]
async fn a_hold_that_the_map_can_never_show_is_published_once_with_its_seats_and_holds_nothing_up() {
    // On sale, and unknown to the catalogue.
    let bench = Bench::on_sale(4).await;
    bench.reserve(place("alice", 1, NOW), &["A-1-1", "A-1-2"], "r1", NOW).await.unwrap();
    let records = bench.engine.changes("reservations");
    for _ in 0..2 {
        project_seat_map(&maps(&bench), records.clone()).await.unwrap();
    }
    let events = events(&bench).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].id.as_str(), "r1.availability.update_failed");
    let contracts::events::EventBody::AvailabilityUpdateFailed(failed) = &events[0].body else { panic!("{events:?}") };
    assert_eq!((failed.user_id.as_str(), failed.seats.len()), ("alice", 2));
}
