//! The functions of payments: handler, trigger, wiring. What starts each and what it may do: `../stack.yaml`.

use contracts::saga::TokenExpiry;
use kit::invoke::Function;
use kit::outbox::Relay;
use kit::{Boot, MainResult};
use payments::clients::provider::TossPayments;
use payments::clients::sagas::StateMachine;
use payments::dynamo::Payments;
use payments::dynamo::charges::Charges;
use payments::dynamo::withdrawals::Withdrawals;
use payments::handlers::{self, Deps, ExtensionDeps, IntentDeps, RefundDeps, StartDeps, WithdrawDeps, WithdrawalDeps};
use payments::usecases::pay_charge::PayCharges;
use payments::usecases::recover_charges::recover_charges;
use payments::usecases::recover_payments::{RecoverPayments, recover_payments};
use payments::usecases::settle_withdrawals::{SettleWithdrawals, settle_withdrawals};

#[tokio::main(flavor = "current_thread")]
async fn main() -> MainResult {
    let boot = Boot::start()?;
    let payments = Payments::new(boot.table()?);
    match boot.handler() {
        // HTTP
        "start-payment" => boot.http(starting(&boot, payments)?, handlers::start_payment).await,
        "start-refund" => boot.http(refunding(&boot, payments)?, handlers::start_refund).await,
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
        "withdraw-points" => {
            let points = boot.function("DEBIT_WITHDRAWAL_FUNCTION")?;
            let withdrawals = Withdrawals::new(boot.table()?);
            boot.http(WithdrawDeps { withdrawals, users: boot.user_tokens()?, points }, handlers::withdraw_points).await
        }
        "get-withdrawal" => boot.http(withdrawals(&boot)?, handlers::get_withdrawal).await,
        "list-payouts" => boot.http(withdrawals(&boot)?, handlers::list_payouts).await,
        "record-payout" => boot.http(withdrawals(&boot)?, handlers::record_payout).await,
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
        "settle-withdrawals" => boot.schedule(settling(&boot)?, settle_withdrawals).await,
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

/// What a function is wired with.
type Wired<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn starting(boot: &Boot, payments: Payments) -> Wired<StartDeps<Payments, Function, StateMachine>> {
    Ok(StartDeps {
        payments,
        users: boot.user_tokens()?,
        quotes: boot.function("QUOTE_RESERVATION_FUNCTION")?,
        sagas: StateMachine::new(boot.sfn(), boot.setting("PAYMENT_SAGA")?),
        token_expiry: boot.setting_or("TOKEN_EXPIRY", TokenExpiry::default())?,
    })
}

fn refunding(boot: &Boot, payments: Payments) -> Wired<RefundDeps<Payments, Function, StateMachine>> {
    Ok(RefundDeps {
        payments,
        users: boot.user_tokens()?,
        quotes: boot.function("QUOTE_REFUND_FUNCTION")?,
        sagas: StateMachine::new(boot.sfn(), boot.setting("REFUND_SAGA")?),
    })
}

fn provider(boot: &Boot) -> Wired<TossPayments> {
    let url = boot.setting_or("PAYMENT_PROVIDER_URL", String::new())?;
    let secret = boot.secret("PAYMENT_PROVIDER_SECRET")?;
    Ok(TossPayments::new(kit::outgoing::Client::new()?, url, secret))
}

fn charges(boot: &Boot) -> Wired<PayCharges<Charges, TossPayments, Function>> {
    let points = boot.function("CREDIT_CHARGE_FUNCTION")?;
    Ok(PayCharges { charges: Charges::new(boot.table()?), provider: provider(boot)?, points })
}

fn withdrawals(boot: &Boot) -> Wired<WithdrawalDeps<Withdrawals>> {
    Ok(WithdrawalDeps { withdrawals: Withdrawals::new(boot.table()?), users: boot.user_tokens()? })
}

fn settling(boot: &Boot) -> Wired<SettleWithdrawals<Withdrawals, TossPayments, Function, Function>> {
    Ok(SettleWithdrawals {
        withdrawals: Withdrawals::new(boot.table()?),
        provider: provider(boot)?,
        debits: boot.function("DEBIT_WITHDRAWAL_FUNCTION")?,
        returns: boot.function("RETURN_WITHDRAWAL_FUNCTION")?,
    })
}
