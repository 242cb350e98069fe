//! Accounts, ledger entries and what may be done to them.

use contracts::choreography::ParticipantState;
use contracts::{Invalid, OrderId, Timestamp, UserId, Won};

/// How long a paid charge may be credited, in milliseconds after it was requested: 29 days. The release before forgot the
/// keys of entries that were 30 days old, so that crediting an older one could be the second time.
pub const CREDITED_WITHIN_MILLIS: i64 = 29 * 24 * 3600 * 1000;

/// The longest name of a payment at the provider, in characters.
pub const MAX_PAYMENT_KEY: usize = 200;

/// How points may be charged on this stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charging {
    /// Against a payment that the payment provider confirms.
    Paid,
    /// By any user, for nothing: local and test stages.
    Open,
    /// Not at all: there is no provider to pay.
    Closed,
}

impl Charging {
    /// Where there is a provider, charges are paid, whatever the other setting is.
    pub const fn of(has_provider: bool, is_open: bool) -> Self {
        match (has_provider, is_open) {
            (true, _) => Self::Paid,
            (false, true) => Self::Open,
            (false, false) => Self::Closed,
        }
    }
}

/// The provider's name of a payment: 1 to [`MAX_PAYMENT_KEY`] of `A-Z a-z 0-9 _ -`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentKey(String);

impl PaymentKey {
    /// Parses a name.
    pub fn new(name: String) -> Result<Self, Invalid> {
        if (1..=MAX_PAYMENT_KEY).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        {
            Ok(Self(name))
        } else {
            Err(Invalid::new("payment_key", "must be 1 to 200 of A-Z a-z 0-9 _ -"))
        }
    }

    /// The name as text.
    pub fn into_text(self) -> String {
        self.0
    }
}

/// Why points moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Added by the user.
    Charge,
    /// Used for something.
    Use,
    /// Given back.
    Refund,
}

impl Kind {
    /// Its name in tables and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Charge => "charge",
            Self::Use => "use",
            Self::Refund => "refund",
        }
    }

    /// Parses the name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Charge, Self::Use, Self::Refund].into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether it adds to the balance.
    pub const fn adds(self) -> bool {
        matches!(self, Self::Charge | Self::Refund)
    }
}

/// What identifies a movement. The same key never moves points twice.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryKey(String);

impl EntryKey {
    /// A charge under the caller's idempotency key.
    pub fn charge(idempotency_key: &str) -> Self {
        Self(format!("charge.{idempotency_key}"))
    }

    /// The use of points for `reference` (a payment or an order).
    pub fn use_for(reference: &str) -> Self {
        Self(format!("use.{reference}"))
    }

    /// The return of the points used for `reference`.
    pub fn return_of(reference: &str) -> Self {
        Self(format!("return.{reference}"))
    }

    /// A key read back from the table.
    pub fn stored(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A movement to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    pub key: EntryKey,
    /// The public id of the entry it makes.
    pub entry_id: String,
    pub kind: Kind,
    /// How much, never negative; the kind says in which direction.
    pub amount: Won,
    /// What for: an id that the requesting context understands.
    pub reference: String,
    pub at: Timestamp,
}

/// A movement that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub movement: Movement,
    /// Its place in the account's ledger, from 1 without gaps.
    pub sequence: u64,
    /// The balance right after it.
    pub balance_after: Won,
}

/// The result of posting a movement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Posted {
    /// It was made now.
    Now(Entry),
    /// An earlier request with the same key had made it; this is what it made.
    Before(Entry),
    /// It must no longer happen: a use whose return came first (or came already), a charge that was refused for good.
    Undone,
}

/// Why a movement was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The balance is below the amount.
    InsufficientPoints,
    /// The balance would pass [`Won::MAX`].
    BalanceLimit,
}

/// Decides a movement against the account as it is. The write repeats this as its condition.
pub fn decide(balance: Won, movement: &Movement) -> Result<Won, Refusal> {
    if movement.kind.adds() {
        balance.checked_add(movement.amount).ok_or(Refusal::BalanceLimit)
    } else {
        balance.checked_sub(movement.amount).ok_or(Refusal::InsufficientPoints)
    }
}

/// An order, as far as points are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its id: nothing is done twice for it.
    pub id: OrderId,
    /// Whose points pay it.
    pub user: UserId,
    pub price: Won,
    /// The id of the originating HTTP request.
    pub correlation_id: String,
}

impl Order {
    /// The movement that pays it.
    pub fn paid(&self, now: Timestamp) -> Movement {
        Movement {
            key: EntryKey::use_for(self.id.as_str()),
            entry_id: format!("{}.use", self.id),
            kind: Kind::Use,
            amount: self.price,
            reference: self.id.to_string(),
            at: now,
        }
    }

    /// The movement that gives back what was used for it.
    pub fn paid_back(&self, used: Won, now: Timestamp) -> Movement {
        Movement {
            key: EntryKey::return_of(self.id.as_str()),
            entry_id: format!("{}.return", self.id),
            kind: Kind::Refund,
            amount: used,
            reference: self.id.to_string(),
            at: now,
        }
    }
}

/// What was done for an order so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    pub work: ParticipantState,
    /// What was used for it; nothing, if it was refused or no event of it was consumed.
    pub used: Won,
}

impl Job {
    /// No event of the order was consumed.
    pub const NEW: Self = Self { work: ParticipantState::Pending, used: Won::ZERO };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn movement(kind: Kind, amount: i64) -> Movement {
        Movement {
            key: EntryKey::use_for("p"),
            entry_id: "e".into(),
            kind,
            amount: Won::new(amount).unwrap(),
            reference: "p".into(),
            at: Timestamp::from_millis(0),
        }
    }

    #[test]
    fn a_provider_is_always_paid_and_nothing_is_free_unless_configured() {
        assert_eq!(Charging::of(true, true), Charging::Paid);
        assert_eq!(Charging::of(true, false), Charging::Paid);
        assert_eq!(Charging::of(false, true), Charging::Open);
        assert_eq!(Charging::of(false, false), Charging::Closed);
    }

    #[test]
    fn a_payment_key_can_be_part_of_a_path_and_is_bounded() {
        for bad in ["", " ", "a b", "키", "a/b", "..", "a?b", "a%2Fb", &"k".repeat(201)] {
            assert!(PaymentKey::new(bad.to_owned()).is_err(), "{bad:?}");
        }
        assert!(PaymentKey::new("k".repeat(200)).is_ok());
    }

    #[test]
    fn a_balance_never_passes_its_limits() {
        assert_eq!(decide(Won::ZERO, &movement(Kind::Use, 1)), Err(Refusal::InsufficientPoints));
        assert_eq!(decide(Won::MAX, &movement(Kind::Charge, 1)), Err(Refusal::BalanceLimit));
        assert_eq!(decide(Won::ZERO, &movement(Kind::Use, 0)), Ok(Won::ZERO));
    }

    #[test]
    fn every_kind_is_read_back_from_its_own_name() {
        for kind in [Kind::Charge, Kind::Use, Kind::Refund] {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(Kind::parse("gift"), None);
    }

    proptest! {
        #[test]
        fn the_sum_of_what_was_posted_is_the_balance(moves in prop::collection::vec((0..3_u8, 0..1000_i64), 0..50)) {
            let (mut balance, mut sum) = (Won::ZERO, 0);
            for (kind, amount) in moves {
                let movement = movement([Kind::Charge, Kind::Use, Kind::Refund][kind as usize], amount);
                if let Ok(after) = decide(balance, &movement) {
                    sum += if movement.kind.adds() { amount } else { -amount };
                    balance = after;
                }
                prop_assert_eq!(balance.get(), sum);
            }
        }
    }
}
