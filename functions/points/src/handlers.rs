//! HTTP and messages in and out. The steps need no translation: their input is the published saga.

use crate::domain::{ChargeAmount, Charging, Entry, Order, PaymentKey};
use crate::ports::{AskPayment, ListEntries, PostEntry, ReadBalance, SettleOrder};
use crate::usecases::charge_points::{self, ChargeError, ChargePoints};
use crate::usecases::use_order_points;
use contracts::choreography::{OrderSignal, is_forgotten};
use contracts::events::OrderEvent;
use contracts::{Timestamp, Won};
use kit::auth::UserTokens;
use kit::http::{Cursor, ListBody, StatusCode};
use kit::idempotency::{self, IdempotencyKey};
use kit::queue::Message;
use kit::{Call, Fault, Problem, Reply, ids};
use serde::{Deserialize, Serialize};

/// What the handlers that read are wired with.
#[derive(Debug)]
pub struct Deps<A> {
    /// Where the accounts are.
    pub accounts: A,
    /// Who calls.
    pub users: UserTokens,
}

/// What `charge-points` is wired with.
#[derive(Debug)]
pub struct ChargeDeps<A, P> {
    /// Where the accounts are.
    pub accounts: A,
    /// Who sees to it that a charge is paid for.
    pub payments: P,
    /// How points are charged on this stage.
    pub charging: Charging,
    /// Who calls.
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
pub async fn charge_points<A: PostEntry, P: AskPayment>(deps: &ChargeDeps<A, P>, call: Call) -> Result<Reply, Problem> {
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
            ChargeError::KeyTooShort => Problem::invalid(
                "Idempotency-Key: must be the order id of the payment, which has 6 to 64 of A-Z a-z 0-9 _ -",
            ),
            ChargeError::NotConfirmed(reason) => not_confirmed(match reason.as_str() {
                "payment_key_used" => "the payment was used for another charge".to_owned(),
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

/// An order was placed, or failed.
pub async fn use_order_points(accounts: &impl SettleOrder, message: Message) -> Result<(), Fault> {
    let event = message.event()?;
    let (signal, order) = OrderSignal::of(event.body).ok_or_else(|| {
        Fault::broken("using points for an order", "the message is no order.placed and no order.failed")
    })?;
    if signal == OrderSignal::Placed && is_forgotten(event.time, message.now) {
        return Ok(());
    }
    let OrderEvent { order_id, user_id, total_price, .. } = order;
    let order = Order { id: order_id, user: user_id, price: total_price, correlation_id: event.correlationid };
    use_order_points::use_order_points(accounts, signal, &order, message.now).await
}
