//! The functions of payments: handler, trigger, wiring.

use contracts::saga::TokenExpiry;
use kit::outbox::Relay;
use kit::{Boot, MainResult};
use payments::dynamo::Payments;
use payments::handlers::{self, Deps, StartDeps};
use payments::saga::PaymentSagas;
use payments::usecases::complete_payment::complete_payment;
use payments::usecases::fail_payment::fail_payment;
use payments::usecases::recover_payments::{RecoverPayments, recover_payments};

#[tokio::main(flavor = "current_thread")]
async fn main() -> MainResult {
    let boot = Boot::start()?;
    let payments = Payments::new(boot.table()?);
    match boot.handler() {
        // HTTP
        "start-payment" => {
            let deps = StartDeps {
                payments,
                users: boot.user_tokens()?,
                quotes: boot.step_of("QUOTE_RESERVATION_FUNCTION")?,
                sagas: PaymentSagas::new(boot.sfn(), boot.setting("PAYMENT_SAGA")?),
                token_expiry: boot.setting_or("TOKEN_EXPIRY", TokenExpiry::default())?,
            };
            boot.http(deps, handlers::start_payment).await
        }
        "get-payment" => boot.http(Deps { payments, users: boot.user_tokens()? }, handlers::get_payment).await,
        // Steps of the payment saga
        "complete-payment" => boot.step(payments, complete_payment).await,
        "fail-payment" => boot.step(payments, fail_payment).await,
        // Every minute
        "recover-payments" => {
            let sagas = PaymentSagas::new(boot.sfn(), boot.setting("PAYMENT_SAGA")?);
            boot.schedule(RecoverPayments { payments, sagas }, recover_payments).await
        }
        "sweep-payment-outbox" => boot.schedule(boot.relay("payments")?, Relay::sweep_all).await,
        // The table's stream
        "relay-payments" => boot.stream(boot.relay("payments")?, Relay::relay_now).await,
        _ => boot.unknown_handler(),
    }
}
