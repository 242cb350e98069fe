//! HTTP in and out. The steps need no translation: their input is the published saga.

use crate::domain::{ChargeAmount, Entry};
use crate::ports::{ListEntries, PostEntry, ReadBalance};
use crate::usecases::charge_points::{self, ChargeError, ChargePoints};
use contracts::{Timestamp, Won};
use kit::auth::UserTokens;
use kit::http::{Cursor, ListBody};
use kit::idempotency::{self, IdempotencyKey};
use kit::{Call, Problem, Reply, ids};
use serde::{Deserialize, Serialize};

/// What the handlers of this context are wired with.
#[derive(Debug)]
pub struct Deps<A> {
    /// Where the accounts are.
    pub accounts: A,
    /// Who calls.
    pub users: UserTokens,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChargeBody {
    amount: i64,
}

#[derive(Debug, Serialize)]
struct ChargedBody {
    balance: Won,
    entry_id: String,
}

/// `POST /points/charges`
pub async fn charge_points(deps: &Deps<impl PostEntry>, call: Call) -> Result<Reply, Problem> {
    let caller = deps.users.user(&call)?;
    let key = IdempotencyKey::required(&call, "POST /points/charges")?;
    let body: ChargeBody = call.json()?;
    let ask = ChargePoints {
        user: caller.user,
        amount: ChargeAmount::new(body.amount)?,
        idempotency_key: key.key,
        entry_id: ids::ulid(call.now),
        now: call.now,
    };
    let entry = charge_points::charge_points(&deps.accounts, ask).await?;
    Reply::created(ChargedBody { balance: entry.balance_after, entry_id: entry.movement.entry_id })
}

impl From<ChargeError> for Problem {
    fn from(error: ChargeError) -> Self {
        match error {
            ChargeError::KeyReused => idempotency::reused(),
            ChargeError::BalanceLimit => Problem::conflict("balance_limit_exceeded", "The balance would be too large"),
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
