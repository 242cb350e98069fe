//! HTTP, messages and steps in, answers out.

use crate::domain::{Charging, Entry, Order, PaymentKey};
use crate::ports::{CloseCharge, ListEntries, PayClient, PostEntry, ReadBalance, ReturnUse, SettleOrder};
use crate::usecases::charge_points::{self, ChargeError, ChargePoints};
use crate::usecases::{
    credit_charge, debit_withdrawal, return_points, return_withdrawal, use_order_points, use_points,
};
use contracts::events::OrderEvent;
use contracts::saga::{Done, PaymentSaga, ReturnPoints};
use contracts::steps::{
    Applied, BalanceQuote, ChargeCredit, CreditCharge, DebitWithdrawal, QuoteBalance, WithdrawalDebit,
};
use contracts::{ChargeAmount, Timestamp, Won};
use kit::auth::UserTokens;
use kit::http::{Cursor, ListBody, StatusCode};
use kit::idempotency::{self, IdempotencyKey};
use kit::queue::{Message, OrderMessage};
use kit::{Call, Fault, Problem, Reply, StepCall, StepError, ids};
use serde::{Deserialize, Serialize};

/// The dependencies of the handlers that read.
#[derive(Debug)]
pub struct Deps<A> {
    /// Where the accounts are.
    pub accounts: A,
    pub users: UserTokens,
}

/// The dependencies of `charge-points`.
#[derive(Debug)]
pub struct ChargeDeps<A, P> {
    /// Where the accounts are.
    pub accounts: A,
    /// The client that has a charge paid for.
    pub payments: P,
    /// How points are charged on this stage.
    pub charging: Charging,
    pub users: UserTokens,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChargeBody {
    amount: i64,
    #[serde(default)]
    payment_key: Option<String>,
}

#[derive(Debug, Serialize)]
struct ChargedBody {
    balance: Won,
    entry_id: String,
}

/// `POST /points/charges`
pub async fn charge_points<A: PostEntry, P: PayClient>(deps: &ChargeDeps<A, P>, call: Call) -> Result<Reply, Problem> {
    let caller = deps.users.user(&call)?;
    let key = IdempotencyKey::required(&call, "POST /points/charges")?;
    let body: ChargeBody = call.json()?;
    let payment_key = body.payment_key.map(PaymentKey::new).transpose()?;
    let ask = ChargePoints {
        user: caller.user,
        amount: ChargeAmount::new(body.amount)?,
        idempotency_key: key.key,
        entry_id: ids::ulid(call.now),
        now: call.now,
    };
    match (deps.charging, payment_key) {
        (Charging::Paid, Some(payment)) => {
            let paid = charge_points::charge_paid_points(&deps.payments, ask, payment, call.request_id).await?;
            Reply::created(ChargedBody { balance: paid.balance, entry_id: paid.entry_id })
        }
        (Charging::Paid, None) => Err(Problem::invalid("payment_key: is needed, points are paid for here")),
        (Charging::Open | Charging::Closed, Some(_)) => {
            Err(Problem::invalid("payment_key: is of no use, no payment provider is configured"))
        }
        (Charging::Open, None) => {
            let entry = charge_points::charge_points(&deps.accounts, ask).await?;
            Reply::created(ChargedBody { balance: entry.balance_after, entry_id: entry.movement.entry_id })
        }
        (Charging::Closed, None) => Err(not_confirmed("no payment provider is configured")),
    }
}

fn not_confirmed(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::PAYMENT_REQUIRED, "payment_not_confirmed", "The payment is not confirmed").detail(detail)
}

impl From<ChargeError> for Problem {
    fn from(error: ChargeError) -> Self {
        match error {
            ChargeError::KeyReused => idempotency::reused(),
            ChargeError::BalanceLimit => Problem::conflict("balance_limit_exceeded", "The balance would be too large"),
            ChargeError::NoIntent => Problem::conflict(
                "charge_intent_not_open",
                "There is no open charge intent of this order id and amount",
            ),
            ChargeError::NotConfirmed(reason) => not_confirmed(match reason.as_str() {
                "payment_mismatch" => "the payment is not of this Idempotency-Key and amount".to_owned(),
                _ => format!("the payment provider does not confirm it: {reason}"),
            }),
            ChargeError::Pending => Fault::unavailable("charging points", "the payment is on its way").into(),
            ChargeError::Fault(fault) => fault.into(),
        }
    }
}

#[derive(Debug, Serialize)]
struct BalanceBody {
    balance: Won,
}

/// `GET /points`
pub async fn get_points(deps: &Deps<impl ReadBalance>, call: Call) -> Result<Reply, Problem> {
    let caller = deps.users.user(&call)?;
    let balance = deps.accounts.balance(&caller.user).await?;
    Reply::ok(BalanceBody { balance })
}

#[derive(Debug, Serialize)]
struct EntryBody {
    entry_id: String,
    kind: &'static str,
    amount: Won,
    balance_after: Won,
    reference: String,
    #[serde(with = "contracts::time::rfc3339")]
    at: Timestamp,
}

impl From<Entry> for EntryBody {
    fn from(entry: Entry) -> Self {
        let Entry { movement, balance_after, .. } = entry;
        Self {
            entry_id: movement.entry_id,
            kind: movement.kind.as_str(),
            amount: movement.amount,
            balance_after,
            reference: movement.reference,
            at: movement.at,
        }
    }
}

/// `GET /points/history`
pub async fn list_point_history(deps: &Deps<impl ListEntries>, call: Call) -> Result<Reply, Problem> {
    let caller = deps.users.user(&call)?;
    let page = call.page_behind(|sequence| sequence.parse::<u64>().is_ok())?;
    let (entries, next) = deps.accounts.entries(&caller.user, &page).await?;
    Reply::ok(ListBody {
        items: entries.into_iter().map(EntryBody::from).collect(),
        next_cursor: next.map(|key| Cursor::seal(&key)),
    })
}

/// Consumes `order.placed` and `order.failed`.
pub async fn use_order_points(accounts: &impl SettleOrder, message: Message) -> Result<(), Fault> {
    let Some(OrderMessage { signal, order, correlation_id, .. }) = message.order_signal("using points for an order")?
    else {
        return Ok(());
    };
    let OrderEvent { order_id, user_id, total_price, .. } = order;
    let order = Order { id: order_id, user: user_id, price: total_price, correlation_id };
    use_order_points::use_order_points(accounts, signal, &order, message.now).await
}

/// Saga step: take the price of a payment from its user's balance.
pub async fn use_points(accounts: &impl PostEntry, call: StepCall<PaymentSaga>) -> Result<Done, StepError> {
    use_points::use_points(accounts, &call.input, call.now).await
}

/// Saga step, in both sagas: give back what `use-points` took.
pub async fn return_points(accounts: &impl ReturnUse, call: StepCall<ReturnPoints>) -> Result<Done, StepError> {
    Ok(return_points::return_points(accounts, &call.input.saga, call.input.refund_requested_at, call.now).await?)
}

/// Step called by orders: what a user could pay now.
pub async fn quote_balance(
    accounts: &impl ReadBalance,
    call: StepCall<QuoteBalance>,
) -> Result<BalanceQuote, StepError> {
    Ok(BalanceQuote { balance: accounts.balance(&call.input.user_id).await? })
}

/// Step called by payments: put a charge that was paid for into the ledger.
pub async fn credit_charge(
    accounts: &(impl PostEntry + CloseCharge),
    call: StepCall<CreditCharge>,
) -> Result<ChargeCredit, StepError> {
    Ok(credit_charge::credit_charge(accounts, call.input, call.now).await?)
}

/// Step called by payments: points that are taken out leave the account, or never will.
pub async fn debit_withdrawal(
    accounts: &(impl PostEntry + CloseCharge),
    call: StepCall<DebitWithdrawal>,
) -> Result<WithdrawalDebit, StepError> {
    Ok(debit_withdrawal::debit_withdrawal(accounts, &call.input, call.now).await?)
}

/// Step called by payments: points that could not be taken out are back in the account.
pub async fn return_withdrawal(
    accounts: &impl ReturnUse,
    call: StepCall<DebitWithdrawal>,
) -> Result<Applied, StepError> {
    Ok(return_withdrawal::return_withdrawal(accounts, &call.input, call.now).await?)
}
