//! The functions of points: handler, trigger, wiring. What starts each and what it may do: `../stack.yaml`.

use kit::outbox::Relay;
use kit::{Boot, MainResult};
use points::domain::Charging;
use points::dynamo::Accounts;
use points::handlers::{self, ChargeDeps, Deps};

#[tokio::main(flavor = "current_thread")]
async fn main() -> MainResult {
    let boot = Boot::start()?;
    let accounts = Accounts::new(boot.table()?);
    let http = |accounts| -> Result<_, kit::boot::BadSetting> { Ok(Deps { accounts, users: boot.user_tokens()? }) };
    match boot.handler() {
        // HTTP
        "charge-points" => {
            // Only whether there is a provider matters here; payments talks to it.
            let has_provider = !boot.setting_or("PAYMENT_PROVIDER", String::new())?.is_empty();
            let deps = ChargeDeps {
                accounts,
                payments: boot.slow_function("PAY_CHARGE_FUNCTION")?,
                charging: Charging::of(has_provider, boot.setting_or("OPEN_CHARGES", false)?),
                users: boot.user_tokens()?,
            };
            boot.http(deps, handlers::charge_points).await
        }
        "get-points" => boot.http(http(accounts)?, handlers::get_points).await,
        "list-point-history" => boot.http(http(accounts)?, handlers::list_point_history).await,
        // Steps of the payment saga
        "use-points" => boot.step(accounts, handlers::use_points).await,
        "return-points" => boot.step(accounts, handlers::return_points).await,
        // A step that orders calls
        "quote-balance" => boot.step(accounts, handlers::quote_balance).await,
        // Steps that payments calls
        "credit-charge" => boot.step(accounts, handlers::credit_charge).await,
        "debit-withdrawal" => boot.step(accounts, handlers::debit_withdrawal).await,
        "return-withdrawal" => boot.step(accounts, handlers::return_withdrawal).await,
        // Queue of events
        "use-order-points" => boot.queue(accounts, handlers::use_order_points).await,
        // Every minute
        "sweep-point-outbox" => boot.schedule(boot.relay("points")?, Relay::sweep_all).await,
        // Stream of the points table
        "relay-points" => boot.stream(boot.relay("points")?, Relay::relay_now).await,
        _ => boot.unknown_handler(),
    }
}
