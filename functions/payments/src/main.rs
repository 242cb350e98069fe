//! The functions of payments: handler, trigger, wiring. What starts each and what it may do: `../stack.yaml`.

use contracts::saga::TokenExpiry;
use kit::outbox::Relay;
use kit::{Boot, MainResult};
use payments::clients::provider::TossPayments;
use payments::clients::sagas::StateMachine;
use payments::dynamo::Payments;
use payments::dynamo::charges::Charges;
use payments::handlers::{self, Deps, ExtensionDeps, IntentDeps, RefundDeps, StartDeps};
use payments::usecases::pay_charge::PayCharges;
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
            points: boot.function("CREDIT_CHARGE_FUNCTION")?,
        })
    };
    match boot.handler() {
        // HTTP
        "start-payment" => {
            let deps = StartDeps {
                payments,
                users: boot.user_tokens()?,
                quotes: boot.function("QUOTE_RESERVATION_FUNCTION")?,
                sagas: StateMachine::new(boot.sfn(), boot.setting("PAYMENT_SAGA")?),
                token_expiry: boot.setting_or("TOKEN_EXPIRY", TokenExpiry::default())?,
            };
            boot.http(deps, handlers::start_payment).await
        }
        "start-refund" => {
            let deps = RefundDeps {
                payments,
                users: boot.user_tokens()?,
                quotes: boot.function("QUOTE_REFUND_FUNCTION")?,
                sagas: StateMachine::new(boot.sfn(), boot.setting("REFUND_SAGA")?),
            };
            boot.http(deps, handlers::start_refund).await
        }
        "get-payment" => boot.http(Deps { payments, users: boot.user_tokens()? }, handlers::get_payment).await,
        "list-payments" => boot.http(Deps { payments, users: boot.user_tokens()? }, handlers::list_payments).await,
        "open-charge-intent" => {
            let has_provider = !boot.setting_or("PAYMENT_PROVIDER", String::new())?.is_empty();
            let deps = IntentDeps { charges: Charges::new(boot.table()?), users: boot.user_tokens()?, has_provider };
            boot.http(deps, handlers::open_charge_intent).await
        }
        "request-extension" => {
            let holds = boot.function("EXTEND_HOLD_FUNCTION")?;
            let deps = ExtensionDeps { charges: Charges::new(boot.table()?), users: boot.user_tokens()?, holds };
            boot.http(deps, handlers::request_extension).await
        }
        // Steps of the payment saga
        "complete-payment" => boot.step(payments, handlers::complete_payment).await,
        "fail-payment" => boot.step(payments, handlers::fail_payment).await,
        // Steps of the refund saga
        "complete-refund" => boot.step(payments, handlers::complete_refund).await,
        "cancel-refund" => boot.step(payments, handlers::cancel_refund).await,
        // A step that points calls
        "pay-charge" => boot.step(charges(&boot)?, handlers::pay_charge).await,
        // Every minute
        "recover-charges" => boot.schedule(charges(&boot)?, recover_charges).await,
        "recover-payments" => {
            let sagas = StateMachine::new(boot.sfn(), boot.setting("PAYMENT_SAGA")?);
            let refunds = StateMachine::new(boot.sfn(), boot.setting("REFUND_SAGA")?);
            boot.schedule(RecoverPayments { payments, sagas, refunds }, recover_payments).await
        }
        "sweep-payment-outbox" => boot.schedule(boot.relay("payments")?, Relay::sweep_all).await,
        // The table's stream
        "relay-payments" => boot.stream(boot.relay("payments")?, Relay::relay_now).await,
        _ => boot.unknown_handler(),
    }
}
