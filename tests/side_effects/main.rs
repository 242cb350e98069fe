//! The effects of a sale, through the deployed system to the providers: the stack's sink, which records what it
//! receives and can be set to fail, hang, throttle and lose its answers.
//!
//! Tests that break the providers do so for all: they have the cloud to themselves ([`alone`]); the others share it.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod alerts;
mod audit;
mod charges;
mod consumers;
mod deliveries;
mod faults;
mod orders;
mod undo;

use local::sink::{Behaviour, Delivery, Target};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tests::cloud::{Cloud, Sale, Terms, User, eventually_after, text, with_cloud};

/// Held for writing by a test that breaks something shared. A test that failed leaves it poisoned; the others can still
/// take their turn.
static OUTSIDE: RwLock<()> = RwLock::new(());

/// Since when the providers have been broken, or were, for the test that has the cloud to itself.
static OUTAGE: Mutex<Option<Instant>> = Mutex::new(None);

fn outage() -> MutexGuard<'static, Option<Instant>> {
    OUTAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Charges are paid for on this program's cloud, and seats that are given back are kept for a while.
const PARAMETERS: &[(&str, &str)] = &[("PaymentProviderUrl", "{sink}/toss"), ("ReturnDelaySeconds", "3,4")];

/// Runs a test that breaks nothing.
fn shared<F: Future<Output = ()>>(test: impl FnOnce(&'static Cloud) -> F) {
    let _turn = OUTSIDE.read().unwrap_or_else(PoisonError::into_inner);
    with_cloud(PARAMETERS, test);
}

/// Runs a test that breaks the providers. Whatever it did, they work again afterwards.
fn alone<F: Future<Output = ()>>(test: impl FnOnce(&'static Cloud) -> F) {
    let _turn = OUTSIDE.write().unwrap_or_else(PoisonError::into_inner);
    with_cloud(PARAMETERS, async |cloud| {
        // A test before this one may have failed half-way.
        behave(cloud, Target::All, Behaviour::ok()).await;
        outage().take();
        test(cloud).await;
        behave(cloud, Target::All, Behaviour::ok()).await;
        outage().take();
    });
}

async fn behave(cloud: &Cloud, target: Target, behaviour: Behaviour) {
    if behaviour != Behaviour::ok() {
        outage().get_or_insert_with(Instant::now);
    }
    cloud.sink().behave(target, behaviour).await.unwrap();
}

/// The deliveries of an event that a target accepted.
async fn taken(cloud: &Cloud, target: Target, event: &str) -> Vec<Delivery> {
    let mut deliveries = cloud.sink().deliveries(Some(target), Some(event)).await.unwrap();
    deliveries.retain(|delivery| delivery.accepted);
    deliveries
}

/// Waits until a target has accepted an event. After an outage messages are redelivered up to twice its length later:
/// each wait is at most double those before it together (`kit::queue`: doubling, half of it by chance).
async fn arrived(cloud: &Cloud, target: Target, event: &str) -> Delivery {
    let what = format!("{event} at {target:?}");
    let again = outage().map_or(Duration::ZERO, |since| since.elapsed() * 2);
    eventually_after(&what, again, async || taken(cloud, target, event).await.pop()).await
}

/// Waits until targets have accepted an event.
async fn arrived_at(cloud: &Cloud, targets: &[Target], event: &str) {
    for target in targets {
        arrived(cloud, *target, event).await;
    }
}

/// A paid ticket: its owner, the reservation and the payment.
struct Bought {
    buyer: User,
    reservation: String,
    payment: String,
}

impl Bought {
    fn held(&self) -> String {
        format!("{}.reservation.held", self.reservation)
    }

    fn completed(&self) -> String {
        format!("{}.payment.completed", self.payment)
    }
}

async fn buy(cloud: &'static Cloud, sale: &Sale, seat: &str) -> Bought {
    let buyer = cloud.user("buyer");
    buyer.charge(10_000).await;
    let reservation = buyer.hold(sale, &[seat]).await;
    let paid = buyer.pay(&reservation, "pay").await;
    assert!(paid.status.is_success(), "{}", paid.text());
    let payment = text(&paid.json(), "payment_id");
    let end = buyer.final_payment(&payment).await;
    assert_eq!(end["status"], "completed", "{end}");
    Bought { buyer, reservation, payment }
}

async fn sale(cloud: &'static Cloud) -> Sale {
    cloud.sale(Terms { rows: 20, seats_per_row: 20, ..Terms::default() }).await
}
