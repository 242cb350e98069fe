//! The functions of orders: handler, trigger, wiring. What starts each and what it may do: `../stack.yaml`.

use kit::boot::BadSetting;
use kit::outbox::Relay;
use kit::{Boot, MainResult};
use orders::dynamo::Orders;
use orders::handlers::{self, CancelDeps, CartDeps, Deps, PlaceDeps, SweepDeps};
use orders::usecases::sweep_orders::sweep_orders;
use std::time::Duration;

/// How long an answer is waited for that can be done without.
const ADVICE: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> MainResult {
    let boot = Boot::start()?;
    let store = Orders::new(boot.table()?);
    let http = |store| -> Result<_, BadSetting> { Ok(Deps { store, users: boot.user_tokens()? }) };
    let items = || boot.function("QUOTE_ITEMS_FUNCTION");
    match boot.handler() {
        // HTTP
        "get-cart" => {
            let deps = CartDeps { store, items: items()?.within(ADVICE), users: boot.user_tokens()? };
            boot.http(deps, handlers::get_cart).await
        }
        "put-cart-item" => {
            let deps = CartDeps { store, items: items()?, users: boot.user_tokens()? };
            boot.http(deps, handlers::put_cart_item).await
        }
        "remove-cart-item" => boot.http(http(store)?, handlers::remove_cart_item).await,
        "place-order" => {
            let deps = PlaceDeps {
                store,
                items: items()?,
                points: boot.function("QUOTE_BALANCE_FUNCTION")?.within(ADVICE),
                most_pending: boot.setting_or("MAX_PENDING_ORDERS", 20)?,
                users: boot.user_tokens()?,
            };
            boot.http(deps, handlers::place_order).await
        }
        "list-orders" => boot.http(http(store)?, handlers::list_orders).await,
        "get-order" => boot.http(http(store)?, handlers::get_order).await,
        "cancel-order" => {
            let within_seconds = boot.setting_or("ORDER_CANCEL_SECONDS", 1_800)?;
            let most = boot.setting_or("MAX_CANCELLED_ORDERS", 10)?;
            let deps = CancelDeps { store, within_seconds, most, users: boot.user_tokens()? };
            boot.http(deps, handlers::cancel_order).await
        }
        // HTTP, operators
        "cancel-any-order" => boot.http(http(store)?, handlers::cancel_any_order).await,
        // order.placed, order.failed, by queue
        "clear-cart" => boot.queue(store, handlers::clear_cart).await,
        // All answers of participants, by queue
        "track-order" => boot.queue(store, handlers::track_order).await,
        // Every minute
        "sweep-orders" => {
            let deadline_seconds = boot.setting_or("ORDER_DEADLINE_SECONDS", 300)?;
            boot.schedule(SweepDeps { store, deadline_seconds }, sweep_orders).await
        }
        "sweep-order-outbox" => boot.schedule(boot.relay("orders")?, Relay::sweep_all).await,
        // The table's stream
        "relay-orders" => boot.stream(boot.relay("orders")?, Relay::relay_now).await,
        _ => boot.unknown_handler(),
    }
}
