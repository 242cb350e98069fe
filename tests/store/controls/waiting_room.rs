//! Negative controls of the waiting room; see [`crate::controls`].

use super::controls;
use ::waiting_room::domain::DefaultAdmission;
use ::waiting_room::handlers::{JoinDeps, join_queue};
use ::waiting_room::ports::{
    Changed, IssuePosition, OpenLine, ReadLine, ReadUse, ReplacePlan, RestorePlace, SpendPlace,
};
use contracts::admission::AdmissionPlan;
use std::collections::BTreeSet;
use tests::calls::{Ask, queue_tokens, users};
use tests::fixture::{NOW, concert, payment};

/// The correlation id and time of plan changes here.
const CHANGE: Changed<'_> = Changed { correlation_id: "c", now: NOW };

controls! {
    nobody_joins_a_line_that_is_not_there: "waiting-room/increment"
    guards "attribute_exists(pk)", |bench| {
        let _issued = bench.lines().issue(&concert(), None).await;
        !bench.engine.items("waiting-room").await.is_empty()
    }

    nobody_joins_before_the_sale_opens_where_that_is_off: "waiting-room/increment"
    guards "attribute_exists(pk) AND opens_at <= :now", |bench| {
        let lines = bench.lines();
        lines.open(&concert(), DefaultAdmission::Open.plan(NOW.plus_seconds(1))).await.unwrap();
        lines.issue(&concert(), Some(NOW)).await.unwrap().is_ok()
    }

    a_join_repeated_under_its_key_gives_the_first_place: "waiting-room/remember"
    guards "attribute_not_exists(pk) OR forgotten_at <= :now" from "put.condition_expression", |bench| {
        let line = bench.lines();
        line.open(&concert(), DefaultAdmission::Open.plan(NOW)).await.unwrap();
        let deps = JoinDeps { line, users: users(), queue_tokens: queue_tokens(), join_before_open: true };
        let mut positions = BTreeSet::new();
        for _ in 0..2 {
            let ask = Ask::at(NOW).user("alice").path("concert_id", "concert").key("k").call();
            let reply = join_queue(&deps, ask).await.unwrap();
            positions.insert(reply.body.unwrap()["position"].as_u64().unwrap());
        }
        positions.len() != 1
    }

    a_plan_made_from_old_counts_is_not_put_in_force: "waiting-room/replace_plan"
    guards "plan_version = :read AND issued <= :ceiling", |bench| {
        let lines = bench.lines();
        let opened = lines.open(&concert(), DefaultAdmission::Open.plan(NOW)).await.unwrap();
        let read = lines.line(&concert()).await.unwrap().unwrap();
        lines.issue(&concert(), None).await.unwrap().unwrap();
        let next = AdmissionPlan { version: opened.version + 1, ..opened };
        lines.replace_plan(&concert(), &read, 0, &next, &CHANGE).await.unwrap()
    }

    of_two_changes_of_a_plan_none_is_lost: "waiting-room/replace_plan"
    guards "plan_version = :read AND issued <= :ceiling", |bench| {
        let lines = bench.lines();
        let opened = lines.open(&concert(), DefaultAdmission::Open.plan(NOW)).await.unwrap();
        let read = lines.line(&concert()).await.unwrap().unwrap();
        let next = AdmissionPlan { version: opened.version + 1, ..opened };
        assert!(lines.replace_plan(&concert(), &read, 0, &next, &CHANGE).await.unwrap());
        lines.replace_plan(&concert(), &read, 0, &next, &CHANGE).await.unwrap()
    }

    a_line_opened_again_gives_out_no_position_twice: "waiting-room/open"
    guards "attribute_not_exists(pk)", |bench| {
        let lines = bench.lines();
        let mut positions = Vec::new();
        for _ in 0..2 {
            lines.open(&concert(), DefaultAdmission::Open.plan(NOW)).await.unwrap();
            positions.push(lines.issue(&concert(), None).await.unwrap().unwrap().position);
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
