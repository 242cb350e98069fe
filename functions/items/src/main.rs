//! The functions of items: handler, trigger, wiring. What starts each and what it may do: `../stack.yaml`.

use items::dynamo::Items;
use items::handlers::{self, Deps};
use kit::outbox::Relay;
use kit::{Boot, MainResult};

#[tokio::main(flavor = "current_thread")]
async fn main() -> MainResult {
    let boot = Boot::start()?;
    let store = Items::new(boot.table()?);
    let admin = |store| -> Result<_, kit::boot::BadSetting> { Ok(Deps { store, users: boot.user_tokens()? }) };
    match boot.handler() {
        // HTTP, anyone
        "list-items" => boot.http(store, handlers::list_items).await,
        "get-item" => boot.http(store, handlers::get_item).await,
        // HTTP, operators
        "create-item" => boot.http(admin(store)?, handlers::create_item).await,
        "change-item" => boot.http(admin(store)?, handlers::change_item).await,
        "pause-item" => boot.http(admin(store)?, handlers::pause_item).await,
        "receive-stock" => boot.http(admin(store)?, handlers::receive_stock).await,
        "withdraw-item" => boot.http(admin(store)?, handlers::withdraw_item).await,
        // A step that orders calls
        "quote-items" => boot.step(store, handlers::quote_items).await,
        // order.placed, order.failed
        "deduct-stock" => boot.queue(store, handlers::deduct_stock).await,
        // Every minute
        "sweep-item-outbox" => boot.schedule(boot.relay("items")?, Relay::sweep_all).await,
        // Stream of the items table
        "relay-items" => boot.stream(boot.relay("items")?, Relay::relay_now).await,
        _ => boot.unknown_handler(),
    }
}
