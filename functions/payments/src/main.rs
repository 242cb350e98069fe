//! The functions of payments: handler, trigger, wiring.

use contracts::saga::TokenExpiry;
use kit::outbox::Relay;
use kit::{Boot, MainResult};
use payments::charge_dynamo::Charges;
use payments::dynamo::Payments;
use payments::handlers::{self, Deps, StartDeps};
use payments::provider::TossPayments;
use payments::saga::PaymentSagas;
use payments::usecases::complete_payment::complete_payment;
use payments::usecases::fail_payment::fail_payment;
use payments::usecases::pay_charge::{PayCharges, pay_charge};
use payments::usecases::recover_charges::recover_charges;
use payments::usecases::recover_payments::{RecoverPayments, recover_payments};

#[tokio::main(flavor = "current_thread")]
async fn main() -> MainResult {
    let boot = Boot::start()?;
    let payments = Payments::new(boot.table()?);
    let charges = |boot: &Boot| -> Result<_, Box<dyn std::error::Error + Send + Sync>> {
        let url = boot.setting_or("PAYMENT_PROVIDER_URL", String::new())?;
        let secret = boot.secret("PAYMENT_PROVIDER_SECRET")?;
        Ok(PayCharges {
            charges: Charges::new(boot.table()?),
            provider: TossPayments::new(kit::outgoing::Client::new()?, url, secret),
            points: boot.step_of("CREDIT_CHARGE_FUNCTION")?,
        })
    };
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
        // A step that points asks
        "pay-charge" => boot.step(charges(&boot)?, pay_charge).await,
        // Every minute
        "recover-charges" => boot.schedule(charges(&boot)?, recover_charges).await,
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
