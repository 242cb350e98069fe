//! The functions of reservations and their wiring. Triggers and permissions: `../stack.yaml`.

use kit::boot::BadSetting;
use kit::outbox::Relay;
use kit::{Boot, MainResult};
use reservations::clients::{ExpiryQueue, RequestQueue};
use reservations::domain::{ReturnDelay, UnpaidRule};
use reservations::dynamo::Reservations;
use reservations::handlers::{self, Deps, ExtendDeps, ReserveDeps};
use reservations::usecases::expire_hold::ExpireHold;
use reservations::usecases::free_seats::FreeSeats;
use reservations::usecases::sweep_holds::sweep_holds;
use reservations::usecases::sweep_reservations::{SweepReservations, sweep_reservations};

#[tokio::main(flavor = "current_thread")]
async fn main() -> MainResult {
    let boot = Boot::start()?;
    let returns = boot.setting_or("RETURN_DELAY_SECONDS", ReturnDelay::default())?;
    let default = UnpaidRule::default();
    let unpaid = UnpaidRule {
        most: boot.setting_or("UNPAID_HOLDS_PER_DATE", default.most)?,
        cool_down_seconds: boot.setting_or("SEAT_COOL_DOWN_SECONDS", default.cool_down_seconds)?,
    };
    let store = Reservations::new(boot.table()?).returning(returns).allowing(unpaid);
    let http = |store| -> Result<_, BadSetting> { Ok(Deps { store, users: boot.user_tokens()? }) };
    match boot.handler() {
        // HTTP
        "reserve-seats" => {
            let requests = RequestQueue::new(boot.sqs(), boot.setting("RESERVATION_REQUESTS")?);
            let deps = ReserveDeps { store, requests, users: boot.user_tokens()?, tokens: boot.queue_tokens()? };
            boot.http(deps, handlers::reserve_seats).await
        }
        "get-reservation" => boot.http(http(store)?, handlers::get_reservation).await,
        "list-reservations" => boot.http(http(store)?, handlers::list_reservations).await,
        "cancel-reservation" => boot.http(http(store)?, handlers::cancel_reservation).await,
        // Steps called within an HTTP request
        "open-schedule" => boot.step(store, handlers::open_schedule).await,
        "apply-admission" => boot.step(store, handlers::apply_admission).await,
        "end-visit" => boot.step(store, handlers::end_visit).await,
        "quote-reservation" => boot.step(store, handlers::quote_reservation).await,
        "quote-refund" => boot.step(store, handlers::quote_refund).await,
        "extend-hold" => {
            // The template always says; without it no hold is extended.
            let extension_seconds = boot.setting_or("HOLD_EXTENSION_SECONDS", 0)?;
            boot.step(ExtendDeps { store, extension_seconds }, handlers::extend_hold).await
        }
        "list-taken-seats" => boot.step(store, handlers::list_taken_seats).await,
        // Steps of the payment saga
        "begin-payment" => boot.step(store, handlers::begin_payment).await,
        "confirm-reservation" => boot.step(store, handlers::confirm_reservation).await,
        "release-reservation" => boot.step(store, handlers::release_reservation).await,
        // A step of the refund saga
        "refund-reservation" => boot.step(store, handlers::refund_reservation).await,
        // Asynchronous requests, by queue
        "write-reservations" => boot.queue(store, handlers::write_reservations).await,
        // availability.update_failed, by queue
        "roll-back-reservation" => boot.queue(store, handlers::roll_back_reservation).await,
        // admission.changed, by queue
        "apply-admissions" => boot.queue(store, handlers::apply_admissions).await,
        // reservation.held, reservation.extended, by queue
        "expire-hold" => {
            let queue = ExpiryQueue::new(boot.sqs(), boot.setting("QUEUE")?);
            boot.queue(ExpireHold { store, queue }, handlers::expire_hold).await
        }
        // reservation.cancelled, reservation.expired, reservation.refunded, by queue
        "free-seats" => {
            let queue = ExpiryQueue::new(boot.sqs(), boot.setting("QUEUE")?);
            boot.queue(FreeSeats { store, queue }, handlers::free_seats).await
        }
        // Every minute
        "sweep-holds" => boot.schedule(store, sweep_holds).await,
        "sweep-reservations" => {
            let requests = RequestQueue::new(boot.sqs(), boot.setting("RESERVATION_REQUESTS")?);
            boot.schedule(SweepReservations { store, requests }, sweep_reservations).await
        }
        "sweep-reservation-outbox" => boot.schedule(boot.relay("reservations")?, Relay::sweep_all).await,
        // The table's stream
        "relay-reservations" => boot.stream(boot.relay("reservations")?, Relay::relay_now).await,
        _ => boot.unknown_handler(),
    }
}
