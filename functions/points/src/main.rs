//! The functions of points: handler, trigger, wiring.

use kit::{Boot, MainResult};
use points::dynamo::Accounts;
use points::handlers::{self, Deps};
use points::usecases::{return_points::return_points, use_points::use_points};

#[tokio::main(flavor = "current_thread")]
async fn main() -> MainResult {
    let boot = Boot::start()?;
    let accounts = Accounts::new(boot.table()?);
    let http = |accounts| -> Result<_, kit::boot::BadSetting> { Ok(Deps { accounts, users: boot.user_tokens()? }) };
    match boot.handler() {
        // HTTP
        "charge-points" => boot.http(http(accounts)?, handlers::charge_points).await,
        "get-points" => boot.http(http(accounts)?, handlers::get_points).await,
        "list-point-history" => boot.http(http(accounts)?, handlers::list_point_history).await,
        // Steps of the payment saga
        "use-points" => boot.step(accounts, use_points).await,
        "return-points" => boot.step(accounts, return_points).await,
        _ => boot.unknown_handler(),
    }
}
