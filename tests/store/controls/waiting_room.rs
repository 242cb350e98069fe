//! Negative controls of the waiting room; see [`crate::controls`].

use super::controls;
use crate::bench::{Bench, joining};
use ::waiting_room::domain::{CLAIM_MILLIS, DefaultAdmission, Issued, PlaceRow, ShardCount};
use ::waiting_room::dynamo::Lines;
use ::waiting_room::handlers::join_queue;
use ::waiting_room::ports::{
    Changed, ClaimPlace, Claimed, CountEach, FillGap, IssuePlace, NoteTurn, OpenLine, ReadPlan, ReadPlanNow, ReadUse,
    ReplacePlan, RestorePlace, SpendPlace, WriteWave,
};
use contracts::admission::AdmissionPlan;
use kit::dynamo::{Item, Read, s};
use std::collections::BTreeSet;
use tests::calls::Ask;
use tests::fixture::{NOW, concert, payment, user};
use tests::proxy::{Fate, Rule};

/// The operator's request here.
const CHANGE: Changed<'_> = Changed { correlation_id: "c", actor: "op", now: NOW };

/// A place.
const PLACE: Issued = Issued { position: 7, turn: 7, issued_at: NOW };

async fn opened(bench: &Bench) -> Lines {
    let lines = bench.lines();
    lines.open(&concert(), DefaultAdmission::Open.plan(NOW)).await.unwrap();
    lines
}

/// A process that may have so many counters.
fn lines_over(bench: &Bench, shards: u64) -> Lines {
    Lines::new(bench.proxy.table("waiting-room"), ShardCount::new(shards).unwrap())
}

/// Has the line go on over two counters. The process that did it, and the place that it gave out then.
async fn spread(bench: &Bench) -> (Lines, u64) {
    let lines = lines_over(bench, 2);
    bench.proxy.inject(Rule::on("UpdateItem").containing("ADD issued").times(3), Fate::Throttled);
    let position = lines.issue(&concert(), 0, NOW).await.unwrap().unwrap().position;
    (lines, position)
}

/// How many places the counters of the first stripe over several have given out.
async fn counted(bench: &Bench) -> u64 {
    let items = bench.engine.items("waiting-room").await;
    let of_stripe = items.iter().filter(|item| item.text("pk").unwrap().starts_with("CONCERT#concert#1#"));
    of_stripe.map(|counter| counter.uint("issued").unwrap()).sum()
}

async fn first_counter(bench: &Bench) -> Item {
    bench.engine.item("waiting-room", "CONCERT#concert", "COUNTER#0").await.unwrap()
}

async fn row(lines: &Lines) -> PlaceRow {
    lines.find_place(&user("alice"), &concert()).await.unwrap().unwrap()
}

controls! {
    nobody_is_given_a_place_of_counters_that_a_line_has_no_more: "waiting-room/count_one"
    guards "stripe = :stripe AND turn >= :lapsed", |bench| {
        let stale = opened(bench).await;
        let first = stale.issue(&concert(), 0, NOW).await.unwrap().unwrap();
        let (lines, position) = spread(bench).await;
        let mut positions = BTreeSet::from([first.position, position]);
        for _ in 0..6 {
            positions.insert(stale.issue(&concert(), 0, NOW).await.unwrap().unwrap().position);
            positions.insert(lines.issue(&concert(), 0, NOW).await.unwrap().unwrap().position);
        }
        positions.len() != 14
    }

    a_turn_that_has_lapsed_is_not_given_out: "waiting-room/count_one"
    guards "stripe = :stripe AND turn >= :lapsed", |bench| {
        opened(bench).await.issue(&concert(), 10, NOW).await.unwrap().unwrap().turn <= 10
    }

    of_two_who_skip_the_same_turns_each_gets_one: "waiting-room/skip_lapsed"
    guards "stripe = :stripe AND turn < :lapsed", |bench| {
        let lines = opened(bench).await;
        let other = bench.lines();
        let gate = bench.proxy.hold(Rule::on("UpdateItem").containing("SET turn").once());
        let second = async {
            gate.reached().await;
            let place = other.issue(&concert(), 10, NOW).await.unwrap().unwrap();
            gate.open();
            place.turn
        };
        let (first, second) = tokio::join!(async { lines.issue(&concert(), 10, NOW).await.unwrap().unwrap().turn }, second);
        first == second
    }

    a_gap_is_filled_once: "waiting-room/fill_gap"
    guards "stripe = :stripe AND issued = :counted", |bench| {
        opened(bench).await;
        let (lines, _) = spread(bench).await;
        let (set, counters) = lines.count_each(&concert()).await.unwrap().unwrap();
        let before = counted(bench).await;
        for _ in 0..2 {
            lines.fill_gap(&concert(), &set, 0, counters[0], counters[0].turn + 1).await.unwrap();
        }
        counted(bench).await != before + 1
    }

    a_counter_that_counts_is_not_adopted_again: "waiting-room/adopt"
    guards "attribute_exists(issued) AND attribute_not_exists(turn)", |bench| {
        let lines = opened(bench).await;
        let table = bench.proxy.table("waiting-room");
        let old = table.client.update_item().table_name(&table.name).key("pk", s("CONCERT#concert")).key("sk", s("COUNTER#0"));
        old.update_expression("REMOVE turn").send().await.unwrap();
        let other = bench.lines();
        let gate = bench.proxy.hold(Rule::on("UpdateItem").containing("SET turn = issued").once());
        let second = async {
            gate.reached().await;
            let place = other.issue(&concert(), 10, NOW).await.unwrap().unwrap();
            gate.open();
            place.turn
        };
        let (first, second) = tokio::join!(async { lines.issue(&concert(), 10, NOW).await.unwrap().unwrap().turn }, second);
        first == second
    }

    a_line_is_spread_once: "waiting-room/spread"
    guards "stripe = :stripe", |bench| {
        opened(bench).await;
        let slow = lines_over(bench, 4);
        bench.proxy.inject(Rule::on("UpdateItem").containing("ADD issued").times(3), Fate::Throttled);
        let gate = bench.proxy.hold(Rule::on("UpdateItem").containing("SET stripe = :next").once());
        let quick = async {
            gate.reached().await;
            spread(bench).await;
            gate.open();
        };
        let line = concert();
        let (place, ()) = tokio::join!(slow.issue(&line, 0, NOW), quick);
        place.unwrap().unwrap();
        first_counter(bench).await.uint("shards").unwrap() != 2
    }

    a_counter_that_counts_is_not_made_again: "waiting-room/put_counter"
    guards "attribute_not_exists(pk)", |bench| {
        opened(bench).await;
        let slow = lines_over(bench, 2);
        bench.proxy.inject(Rule::on("UpdateItem").containing("ADD issued").times(3), Fate::Throttled);
        let gate = bench.proxy.hold(Rule::on("UpdateItem").containing("issued = :zero"));
        let quick = async {
            gate.reached().await;
            let (lines, _) = {
                bench.proxy.heal();
                spread(bench).await
            };
            for _ in 0..3 {
                lines.issue(&concert(), 0, NOW).await.unwrap().unwrap();
            }
            gate.open();
        };
        let line = concert();
        let (place, ()) = tokio::join!(slow.issue(&line, 0, NOW), quick);
        place.unwrap().unwrap();
        counted(bench).await != 5
    }

    a_user_who_has_a_place_claims_no_other: "waiting-room/claim_place"
    guards "attribute_not_exists(pk)", |bench| {
        opened(bench).await;
        let mut positions = BTreeSet::new();
        for _ in 0..2 {
            let ask = Ask::at(NOW).user("alice").path("concert_id", "concert").call();
            let reply = join_queue(&joining(bench.lines()), ask).await.unwrap();
            positions.insert(reply.body.unwrap()["position"].as_u64().unwrap());
        }
        positions.len() != 1
    }

    of_two_who_claim_over_a_dead_request_one_does: "waiting-room/claim_place"
    guards "claim = :over AND attribute_not_exists(#position)", |bench| {
        let lines = opened(bench).await;
        let (alice, late) = (user("alice"), NOW.plus_millis(CLAIM_MILLIS));
        lines.claim_place(&alice, &concert(), None, "dead", NOW).await.unwrap();
        let dead = row(&lines).await;
        let first = lines.claim_place(&alice, &concert(), Some(&dead), "first", late).await.unwrap();
        let second = lines.claim_place(&alice, &concert(), Some(&dead), "second", late).await.unwrap();
        (first, second) == (Claimed::Mine, Claimed::Mine)
    }

    a_request_that_was_only_slow_keeps_its_place: "waiting-room/claim_place"
    guards "claim = :over AND attribute_not_exists(#position)", |bench| {
        let lines = opened(bench).await;
        let alice = user("alice");
        lines.claim_place(&alice, &concert(), None, "slow", NOW).await.unwrap();
        let seen = row(&lines).await;
        lines.keep_place(&alice, &concert(), "slow", &PLACE, NOW).await.unwrap();
        lines.claim_place(&alice, &concert(), Some(&seen), "quick", NOW.plus_millis(CLAIM_MILLIS)).await.unwrap();
        row(&lines).await.place.is_none()
    }

    only_the_place_that_is_worth_nothing_is_claimed_over: "waiting-room/claim_place"
    guards "claim = :over AND #position = :worthless", |bench| {
        let lines = opened(bench).await;
        let alice = user("alice");
        lines.claim_place(&alice, &concert(), None, "k", NOW).await.unwrap();
        lines.keep_place(&alice, &concert(), "k", &PLACE, NOW).await.unwrap();
        let worthless = PlaceRow { place: Some(Issued { position: 1, ..PLACE }), ..row(&lines).await };
        lines.claim_place(&alice, &concert(), Some(&worthless), "other", NOW).await.unwrap() == Claimed::Mine
    }

    a_claim_with_a_place_is_not_released: "waiting-room/release_claim"
    guards "claim = :claim AND attribute_not_exists(#position)", |bench| {
        let lines = opened(bench).await;
        let alice = user("alice");
        lines.claim_place(&alice, &concert(), None, "k", NOW).await.unwrap();
        lines.keep_place(&alice, &concert(), "k", &PLACE, NOW).await.unwrap();
        lines.release_claim(&alice, &concert(), "k").await.unwrap();
        row(&lines).await.claimed_at == PlaceRow::RELEASED
    }

    a_place_is_kept_for_the_request_that_has_the_claim: "waiting-room/keep_place"
    guards "claim = :claim", |bench| {
        let lines = opened(bench).await;
        let alice = user("alice");
        lines.claim_place(&alice, &concert(), None, "mine", NOW).await.unwrap();
        let place = PLACE;
        lines.keep_place(&alice, &concert(), "late", &place, NOW).await.unwrap() == Claimed::Mine
    }

    a_place_that_was_given_up_twice_at_once_counts_once: "waiting-room/leave_place"
    guards "claim = :claim AND #position = :position", |bench| {
        let lines = opened(bench).await;
        let alice = user("alice");
        lines.claim_place(&alice, &concert(), None, "k", NOW).await.unwrap();
        lines.keep_place(&alice, &concert(), "k", &PLACE, NOW).await.unwrap();
        let seen = row(&lines).await;
        for _ in 0..2 {
            lines.leave_place(&alice, &concert(), &seen, NOW).await.unwrap();
        }
        row(&lines).await.given_up != 1
    }

    of_two_changes_of_a_plan_none_is_lost: "waiting-room/replace_plan"
    guards "attribute_not_exists(pk) OR plan_version <= :read", |bench| {
        let lines = opened(bench).await;
        let read = lines.plan_now(&concert()).await.unwrap().unwrap();
        let next = AdmissionPlan { version: read.version + 1, ..read.clone() };
        assert!(lines.replace_plan(&concert(), read.version, &next, &CHANGE).await.unwrap());
        lines.replace_plan(&concert(), read.version, &next, &CHANGE).await.unwrap()
    }

    of_two_waves_at_once_none_is_lost: "waiting-room/write_wave"
    guards "plan_version = :read", |bench| {
        let lines = opened(bench).await;
        let read = lines.plan_now(&concert()).await.unwrap().unwrap();
        let next = AdmissionPlan { version: read.version + 1, ..read.clone() };
        assert!(lines.write_wave(&concert(), read.version, &next).await.unwrap());
        lines.write_wave(&concert(), read.version, &next).await.unwrap()
    }

    how_far_a_line_is_only_rises: "waiting-room/note_turn"
    guards "attribute_exists(pk) AND (attribute_not_exists(last_turn) OR last_turn < :turn)", |bench| {
        let lines = opened(bench).await;
        for turn in [512, 256] {
            lines.note_turn(&concert(), turn).await;
        }
        bench.lines().plan(&concert(), None, NOW).await.unwrap().unwrap().last_turn != 512
    }

    a_line_opened_again_gives_out_no_position_twice: "waiting-room/open"
    guards "attribute_not_exists(pk)", |bench| {
        let mut positions = Vec::new();
        for _ in 0..2 {
            positions.push(opened(bench).await.issue(&concert(), 0, NOW).await.unwrap().unwrap().position);
        }
        positions != [1, 2]
    }

    a_restored_place_is_not_spent_by_a_late_step: "waiting-room/spend"
    guards "attribute_not_exists(#undone) OR NOT contains(#undone, :payment)", |bench| {
        let lines = bench.lines();
        lines.restore(&concert(), 1, &payment("p1")).await.unwrap();
        lines.spend(&concert(), 1, &payment("p1")).await.unwrap();
        lines.is_used(&concert(), 1, NOW).await.unwrap()
    }
}
