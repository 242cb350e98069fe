//! The invariants of the reservations table, read from the table.

use crate::bench::Bench;
use aws_sdk_dynamodb::types::AttributeValue;
use contracts::Timestamp;
use kit::dynamo::{Item, Read, s};
use std::collections::{BTreeMap, BTreeSet};

struct Row<'a> {
    id: &'a str,
    user: &'a str,
    status: &'a str,
    seats: Vec<&'a str>,
    over: bool,
    was_extended: bool,
    /// Whether its seats have ever been held.
    was_held: bool,
}

fn of_kind<'a>(items: &'a [Item], kind: &'a str) -> impl Iterator<Item = &'a Item> {
    items.iter().filter(move |item| item.text("kind").ok() == Some(kind))
}

/// All violations in the reservations table at `now`; empty when all is well.
pub async fn violations(bench: &Bench, now: Timestamp) -> Vec<String> {
    let items = bench.engine.items("reservations").await;
    let rows: Vec<Row<'_>> = of_kind(&items, "reservation")
        .map(|item| Row {
            id: item.text("reservation_id").unwrap(),
            user: item.text("user_id").unwrap(),
            status: item.text("status").unwrap(),
            seats: item["seats"].as_l().unwrap().iter().map(|seat| seat.as_s().unwrap().as_str()).collect(),
            was_extended: item.contains_key("extended_from"),
            over: item.moment("hold_expires_at").unwrap() <= now,
            was_held: item["status"] != s("pending") && !item.contains_key("failure"),
        })
        .collect();
    let mut wrong = seats(&items, &rows);
    wrong.extend(ends(&items));
    wrong.extend(counts(&items, &rows));
    wrong.extend(events(&items, &rows));
    wrong
}

/// I1, I9: every live reservation has all of its seats, and no seat belongs to anything else.
fn seats(items: &[Item], rows: &[Row<'_>]) -> Vec<String> {
    let mut wrong = Vec::new();
    // Seats that were given back and are nobody's yet: their reservation says until when.
    let is_kept_back = |item: &&Item| {
        let of = of_kind(items, "reservation").find(|row| row["reservation_id"] == item["reservation_id"]);
        let ended = ["cancelled", "expired", "refunded"];
        of.is_some_and(|row| {
            ended.contains(&row.text("status").unwrap())
                && item["status"] == s("held")
                && row.get("seats_free_at").is_some_and(|at| *at == item["hold_expires_at"] && row["due_at"] == *at)
        })
    };
    let taken: BTreeMap<&str, (&str, &str)> = of_kind(items, "seat")
        .filter(|item| !is_kept_back(item))
        .map(|item| {
            let text = |name| item.text(name).unwrap();
            (text("seat_id"), (text("reservation_id"), text("status")))
        })
        .collect();
    let as_seat = |status: &str| match status {
        "held" => Some("held"),
        "paying" => Some("paying"),
        "paid" => Some("sold"),
        _ => None,
    };
    for row in rows {
        let Some(wanted) = as_seat(row.status) else { continue };
        for seat in &row.seats {
            // A hold that is over may have lost its seats to another.
            let lost = row.over && wanted == "held" && taken.get(seat).is_none_or(|(owner, _)| *owner != row.id);
            if taken.get(seat) != Some(&(row.id, wanted)) && !lost {
                wrong.push(format!("{} is {} but seat {seat} is {:?}", row.id, row.status, taken.get(seat)));
            }
        }
    }
    for (seat, (owner, status)) in taken {
        let owned = rows.iter().any(|row| row.id == owner && as_seat(row.status) == Some(status));
        if !owned {
            wrong.push(format!("seat {seat} is {status} by {owner}, which is not"));
        }
    }
    wrong
}

/// I1, I9: a hold has one end, in its own row, for the sweep and in its seats, which may be kept back longer.
fn ends(items: &[Item]) -> Vec<String> {
    let mut wrong = Vec::new();
    for row in of_kind(items, "reservation").filter(|row| row["status"] == s("held")) {
        let id = &row["reservation_id"];
        if row.get("due_at") != row.get("hold_expires_at") {
            wrong.push(format!("{id:?} ends and is due at different moments"));
        }
        let until = row.get("seats_free_at").or_else(|| row.get("hold_expires_at"));
        for seat in of_kind(items, "seat").filter(|seat| seat["reservation_id"] == *id) {
            if seat.get("hold_expires_at") != until {
                wrong.push(format!("{:?} is held for another time than {id:?}", seat["seat_id"]));
            }
        }
    }
    wrong
}

/// I9: a user's count is the number of their tickets held, being paid and paid.
fn counts(items: &[Item], rows: &[Row<'_>]) -> Vec<String> {
    let mut live: BTreeMap<String, i64> = BTreeMap::new();
    for row in rows {
        let tickets = if ["held", "paying", "paid"].contains(&row.status) { row.seats.len() as i64 } else { 0 };
        *live.entry(row.user.to_owned()).or_default() += tickets;
    }
    let mut counted: BTreeMap<String, i64> = BTreeMap::new();
    for item in items.iter().filter(|item| item.text("sk").unwrap().starts_with("CONCERT#")) {
        let user = item.text("pk").unwrap().trim_start_matches("USER#").to_owned();
        for (_, value) in item.iter().filter(|(name, _)| name.starts_with("n#")) {
            let AttributeValue::N(digits) = value else { panic!("a count is a number") };
            *counted.entry(user.clone()).or_default() += digits.parse::<i64>().unwrap();
        }
    }
    live.retain(|_, tickets| *tickets != 0);
    counted.retain(|_, tickets| *tickets != 0);
    if live == counted { Vec::new() } else { vec![format!("counts {counted:?} of live tickets {live:?}")] }
}

/// An outbox row exists exactly when its event has happened.
fn events(items: &[Item], rows: &[Row<'_>]) -> Vec<String> {
    let published: BTreeSet<String> = of_kind(items, "outbox")
        .map(|item| item.text("pk").unwrap().trim_start_matches("OUTBOX#").to_owned())
        // The pages for the on-call are published beside what happened.
        .filter(|event| !event.ends_with(".fault.detected"))
        .collect();
    let mut happened = BTreeSet::new();
    for row in rows {
        if row.was_held {
            happened.insert(format!("{}.reservation.held", row.id));
        }
        if row.was_extended {
            happened.insert(format!("{}.reservation.extended", row.id));
        }
        if ["paid", "cancelled", "expired", "rejected", "refunded"].contains(&row.status) {
            happened.insert(format!("{}.reservation.{}", row.id, row.status));
        }
        if row.status == "refunded" {
            happened.insert(format!("{}.reservation.paid", row.id));
        }
    }
    if published == happened { Vec::new() } else { vec![format!("told {published:?} of {happened:?}")] }
}

/// Fails the test when anything is wrong.
pub async fn assert_sound(bench: &Bench, now: Timestamp) {
    assert_eq!(violations(bench, now).await, Vec::<String>::new());
}
