//! The refund of a reservation: the seats free for anybody, once, and nobody else's touched.

use crate::audit::assert_sound;
use crate::bench::{Bench, reason};
use ::reservations::domain::Reservation;
use ::reservations::handlers::quote_refund;
use ::reservations::handlers::refund_reservation;
use ::reservations::handlers::release_reservation;
use ::reservations::ports::KeepTerms;
use contracts::saga::{Done, RefundSaga, ReleaseOutcome};
use contracts::steps::{OpenSchedule, QuoteRefund, RefundQuote};
use tests::fixture::{NOW, concert, place, plan, refused, saga, step, terms, user};
use tokio::task::JoinSet;

async fn sold(bench: &Bench) -> Reservation {
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1", "B-1-1"], "r1", NOW).await.unwrap();
    bench.begin(&saga(&held, "p1"), NOW).await;
    bench.confirm(&saga(&held, "p1"), NOW).await;
    held
}

fn refund(reservation: &Reservation, payment: &str) -> RefundSaga {
    RefundSaga {
        payment: saga(reservation, payment),
        refund_requested_at: NOW,
        refund_correlation_id: "request-of-the-refund".into(),
    }
}

#[tokio::test]
async fn a_refunded_reservation_gives_its_seats_back_once() {
    let bench = Bench::on_sale(4).await;
    let sold = sold(&bench).await;
    let first = refund_reservation(&bench.reservations, step(refund(&sold, "p1"), NOW)).await.unwrap();
    assert_eq!(first, Done { already: false });
    assert_eq!((bench.seat("A-1-1").await, bench.status(&sold).await.as_str()), (None, "refunded"));
    assert_sound(&bench, NOW).await;
    // Bob grabs a seat at that very moment; the step, repeated, leaves it alone.
    bench.reserve(place("bob", 2, NOW), &["A-1-1"], "r2", NOW).await.unwrap();
    let again = refund_reservation(&bench.reservations, step(refund(&sold, "p1"), NOW)).await.unwrap();
    assert_eq!(again, Done { already: true });
    assert_eq!(bench.seat("A-1-1").await, Some(("r2".into(), "held".into())));
    assert_sound(&bench, NOW).await;
}

/// A recovered execution of the payment's saga can still run when its refund does: it finds the sale made, and goes
/// forward. Told otherwise, it would try for minutes, be parked, and call somebody.
#[tokio::test]
async fn a_release_after_the_sale_was_paid_back_reports_that_it_was_paid() {
    let bench = Bench::on_sale(4).await;
    let sold = sold(&bench).await;
    refund_reservation(&bench.reservations, step(refund(&sold, "p1"), NOW)).await.unwrap();
    let release = release_reservation(&bench.reservations, step(refused(saga(&sold, "p1")), NOW)).await.unwrap();
    assert_eq!(release.outcome, ReleaseOutcome::AlreadyPaid);
    let of_another = release_reservation(&bench.reservations, step(refused(saga(&sold, "p2")), NOW)).await.unwrap();
    assert_eq!(of_another.outcome, ReleaseOutcome::Released);
    assert_eq!(bench.status(&sold).await, "refunded");
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn only_the_payment_that_paid_refunds() {
    let bench = Bench::on_sale(4).await;
    let sold = sold(&bench).await;
    for other in [refund(&sold, "p2"), {
        let mut forged = refund(&sold, "p1");
        forged.payment.user_id = user("mallory");
        forged
    }] {
        let refused = refund_reservation(&bench.reservations, step(other, NOW)).await;
        assert_eq!(reason(refused), "reservation_not_refundable");
    }
    assert_eq!(bench.status(&sold).await, "paid");
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn refunds_and_buyers_at_once_never_share_a_seat() {
    let bench = Bench::on_sale(4).await;
    let sold = sold(&bench).await;
    let mut racing = JoinSet::new();
    for n in 0..10 {
        let (store, saga) = (bench.reservations.clone(), refund(&sold, "p1"));
        racing.spawn(async move { refund_reservation(&store, step(saga, NOW)).await.map(drop).ok() });
        let store = bench.reservations.clone();
        racing.spawn(async move {
            let buyer = place(&format!("buyer-{n}"), 10 + n, NOW);
            let request = tests::fixture::seat_request(buyer, &["A-1-1"], &format!("grab-{n}"));
            let origin = ::reservations::ports::Origin::New;
            ::reservations::usecases::reserve_seats::reserve_seats(&store, &request, origin, None, NOW)
                .await
                .map(drop)
                .ok()
        });
    }
    racing.join_all().await;
    assert_eq!(bench.status(&sold).await, "refunded");
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn what_is_paid_can_be_refunded_until_the_deadline_of_its_date() {
    let bench = Bench::start().await;
    let until = NOW.plus_seconds(60);
    bench.reservations.keep_terms(&OpenSchedule { refundable_until: Some(until), ..terms(4) }).await.unwrap();
    bench.reservations.keep_plan(&concert(), &plan()).await.unwrap();
    let sold = sold(&bench).await;
    let ask = |payment: &str| QuoteRefund {
        user_id: user("alice"),
        reservation_id: sold.id.clone(),
        payment_id: contracts::PaymentId::parse(payment).unwrap(),
    };
    let quote = async |ask, now| quote_refund(&bench.reservations, step(ask, now)).await.unwrap();
    assert_eq!(quote(ask("p1"), NOW).await, RefundQuote::Refundable);
    assert_eq!(quote(ask("p2"), NOW).await, RefundQuote::NotRefundable);
    assert_eq!(quote(ask("p1"), until).await, RefundQuote::TooLate { until });
    let somebody_elses = QuoteRefund { user_id: user("mallory"), ..ask("p1") };
    assert_eq!(quote(somebody_elses, NOW).await, RefundQuote::NotRefundable);
}
