//! The functions of reservations: handler, trigger, wiring.

use kit::boot::BadSetting;
use kit::outbox::Relay;
use kit::{Boot, MainResult};
use reservations::dynamo::{ExpiryQueue, Reservations};
use reservations::handlers::{self, Deps, ReserveDeps};
use reservations::usecases::apply_admission::apply_admission;
use reservations::usecases::begin_payment::begin_payment;
use reservations::usecases::confirm_reservation::confirm_reservation;
use reservations::usecases::expire_hold::{ExpireHold, expire_hold};
use reservations::usecases::open_schedule::open_schedule;
use reservations::usecases::quote_reservation::quote_reservation;
use reservations::usecases::release_reservation::release_reservation;
use reservations::usecases::sweep_holds::sweep_holds;

#[tokio::main(flavor = "current_thread")]
async fn main() -> MainResult {
    let boot = Boot::start()?;
    let store = Reservations::new(boot.table()?);
    let http = |store| -> Result<_, BadSetting> { Ok(Deps { store, users: boot.user_tokens()? }) };
    match boot.handler() {
        // HTTP
        "reserve-seats" => {
            let deps = ReserveDeps { store, users: boot.user_tokens()?, tokens: boot.queue_tokens()? };
            boot.http(deps, handlers::reserve_seats).await
        }
        "get-reservation" => boot.http(http(store)?, handlers::get_reservation).await,
        "list-reservations" => boot.http(http(store)?, handlers::list_reservations).await,
        "cancel-reservation" => boot.http(http(store)?, handlers::cancel_reservation).await,
        // Steps asked while an HTTP request waits
        "open-schedule" => boot.step(store, open_schedule).await,
        "apply-admission" => boot.step(store, apply_admission).await,
        "quote-reservation" => boot.step(store, quote_reservation).await,
        // Steps of the payment saga
        "begin-payment" => boot.step(store, begin_payment).await,
        "confirm-reservation" => boot.step(store, confirm_reservation).await,
        "release-reservation" => boot.step(store, release_reservation).await,
        // reservation.held, by queue
        "expire-hold" => {
            let queue = ExpiryQueue::new(boot.sqs(), boot.setting("QUEUE")?);
            boot.queue(ExpireHold { store, queue }, expire_hold).await
        }
        // Every minute
        "sweep-holds" => boot.schedule(store, sweep_holds).await,
        "sweep-reservation-outbox" => boot.schedule(boot.relay("reservations")?, Relay::sweep_all).await,
        // The table's stream
        "relay-reservations" => boot.stream(boot.relay("reservations")?, Relay::relay_now).await,
        _ => boot.unknown_handler(),
    }
}
