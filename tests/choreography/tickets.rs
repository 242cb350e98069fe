//! One reservation, under everything that can happen to it while it is paid for.
//!
//! Two payments of it at once, the user's cancellation, refunds, the hold's end and its sweep, and another user who
//! takes a seat at the first moment it is free: each at any moment, or never. The sagas go as their definitions say: a
//! step that fails is tried again or given up. What all that leaves is audited in every state, and in every state in
//! which nothing has to happen any more, everything must be settled.

mod explorer;
mod picture;
mod world;

use explorer::{Explorer, Mishap, Seen, Walk, Wish};
use std::slice;
use std::time::Instant;

/// Everything may happen, and no mishap.
const CALM: Walk = Walk {
    wishes: &[Wish::PayAgain, Wish::Cancel, Wish::TakeOver, Wish::Refund, Wish::Time],
    mishaps: &[],
    at_most: 0,
};
/// The steps that can be undone, and those that undo them.
const STEPS: [&str; 10] = [
    "BeginPayment",
    "UsePoints",
    "ConfirmReservation",
    "CompletePayment",
    "ReleaseReservation",
    "ReturnPoints",
    "FailPayment",
    "RefundReservation",
    "CompleteRefund",
    "expire-hold",
];

/// Walks, and prints what it saw.
async fn walk(explorer: &mut Explorer, walk: Walk) -> Seen {
    let begun = Instant::now();
    let seen = explorer.walk(&walk).await.unwrap_or_else(|wrong| panic!("{walk:?}: {wrong}"));
    let took = begun.elapsed();
    println!("{} of {:?}: {seen}; {} calls so far, {took:.1?}", walk.at_most, walk.mishaps, explorer.calls());
    seen
}

/// Walks with each of the mishaps, which must strike what it can.
async fn walk_with_each(explorer: &mut Explorer, mishaps: &'static [Mishap]) {
    let calm = walk(explorer, CALM).await;
    for mishap in mishaps {
        let seen = walk(explorer, Walk { mishaps: slice::from_ref(mishap), at_most: 1, ..CALM }).await;
        assert!(seen.ends.is_superset(&calm.ends) && seen.size.ways > calm.size.ways, "{mishap:?}");
        let struck: &[&str] = match mishap {
            Mishap::Crashed | Mishap::Unanswered | Mishap::Late => &STEPS,
            Mishap::Crossed => &["ReleaseReservation", "cancel-reservation", "sweep-holds", "reserve-seats"],
            Mishap::Masked => &["BeginPayment", "ReleaseReservation", "expire-hold", "reserve-seats"],
        };
        for function in struck {
            assert!(seen.struck.contains(&(*mishap, (*function).to_owned())), "{mishap:?} spared {function}");
        }
    }
}

#[tokio::test]
async fn a_reservation_is_wholly_paid_or_not_at_all_whatever_happens_at_any_moment() {
    walk_with_each(&mut Explorer::new(2).await, &Mishap::ALL).await;
}

#[tokio::test]
async fn a_user_who_can_pay_once_pays_once_whatever_happens_at_any_moment() {
    walk_with_each(&mut Explorer::new(1).await, &[Mishap::Late]).await;
}

#[tokio::test]
async fn any_two_mishaps_leave_a_reservation_that_is_paid_for_once_wholly_paid_or_not_at_all() {
    let mut explorer = Explorer::new(2).await;
    let wishes = &[Wish::Cancel, Wish::TakeOver, Wish::Refund, Wish::Time];
    walk(&mut explorer, Walk { wishes, mishaps: &Mishap::ALL, at_most: 2 }).await;
}

#[tokio::test]
async fn any_two_late_calls_leave_a_reservation_that_is_paid_for_twice_wholly_paid_or_not_at_all() {
    let mut explorer = Explorer::new(2).await;
    let wishes = &[Wish::PayAgain, Wish::TakeOver, Wish::Time];
    walk(&mut explorer, Walk { wishes, mishaps: &[Mishap::Late], at_most: 2 }).await;
}

/// Everything may happen to a hold that is extended. A payment that was quoted before may fail after.
const EXTENDED: Walk =
    Walk { wishes: &[Wish::Cancel, Wish::TakeOver, Wish::Time, Wish::Extend], mishaps: &[], at_most: 0 };

#[tokio::test]
async fn a_hold_that_is_extended_at_any_moment_runs_to_one_end_whatever_happens_once() {
    let mut explorer = Explorer::new(0).await;
    let calm = walk(&mut explorer, EXTENDED).await;
    for mishap in &[Mishap::Unanswered, Mishap::Late, Mishap::Crossed] {
        let seen = walk(&mut explorer, Walk { mishaps: slice::from_ref(mishap), at_most: 1, ..EXTENDED }).await;
        assert!(seen.ends.is_superset(&calm.ends), "{mishap:?}");
        let is_struck = seen.struck.contains(&(*mishap, "extend-hold".to_owned()));
        assert!(is_struck, "{mishap:?} spared the extension");
    }
}

/// What the conditions prevent happens without them, and the walk sees it.
#[tokio::test]
async fn a_sale_without_one_of_its_guards_is_found_out() {
    let late = Walk { mishaps: &[Mishap::Late], at_most: 1, ..CALM };
    let crossed = Walk { mishaps: &[Mishap::Crossed], at_most: 1, ..CALM };
    let guards = [
        // begin, confirm and release, refund
        ("#status = :held AND NOT contains(released, :payment)", late),
        ("#status = :paying AND payment_id = :payment", CALM),
        ("#status = :paid AND payment_id = :payment", late),
        ("reservation_id = :reservation AND #status = :from", CALM),
        // expire, cancel, take over
        (
            "#status = :held AND hold_expires_at <= :now AND \
             (attribute_not_exists(seats_free_at) OR seats_free_at <= :now)",
            CALM,
        ),
        ("#status = :held AND hold_expires_at > :now", crossed),
        ("reservation_id = :reservation AND #status = :held", CALM),
        ("attribute_not_exists(pk) OR (#status = :held AND hold_expires_at <= :now)", CALM),
        // use, return
        (
            "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND balance >= :limit AND hot < :full AND \
             (attribute_not_exists(archives) OR archives = :archives)",
            late,
        ),
        (
            "attribute_exists(#used) AND attribute_not_exists(#entry) AND \
             (attribute_not_exists(archives) OR archives = :archives)",
            CALM,
        ),
        // complete and fail
        ("#status = :from", late),
    ];
    let mut spared = Vec::new();
    for (guard, walk) in guards {
        let mut explorer = Explorer::new(2).await;
        explorer.world.stage.loosened = Some(guard);
        match explorer.walk(&walk).await {
            Err(wrong) => println!("without {guard}: {wrong}"),
            Ok(seen) => spared.push(format!("{guard}: {seen}")),
        }
    }
    assert!(spared.is_empty(), "nothing goes wrong without {spared:#?}");
}
