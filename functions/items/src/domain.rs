//! Merchandise, and what is decided about an order's units.

use contracts::choreography::ParticipantState;
use contracts::orders::{OrderFailure, OrderLine, Pieces};
use contracts::{Invalid, ItemId, OrderId, Timestamp, UserId, Won};

/// The most characters a name has.
pub const MAX_NAME: usize = 200;
/// The highest price of one unit, in won.
pub const MAX_PRICE: i64 = 1_000_000_000;
/// The most units an operator puts on sale at once.
pub const MAX_STOCK: i64 = 1_000_000_000;

/// An article of merchandise as it is sold now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub id: ItemId,
    /// What it is called and what it costs.
    pub label: Label,
    /// How many units are left to sell.
    pub stock: Stock,
    /// Whether it cannot be ordered for now.
    pub is_paused: bool,
    /// When it was added to the catalogue.
    pub created_at: Timestamp,
}

/// What an item is called and costs: what an operator may change of it at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    pub name: String,
    /// The price of one unit.
    pub price: Won,
}

impl Label {
    /// A trimmed name of 1 to [`MAX_NAME`] characters, none of them a control character, and a price of 0 to
    /// [`MAX_PRICE`].
    pub fn new(name: &str, price: i64) -> Result<Self, Invalid> {
        let name = name.trim();
        if !(1..=MAX_NAME).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            return Err(Invalid::new("name", "must have 1 to 200 characters, none of them a control character"));
        }
        let price = Won::new(price).ok().filter(|price| price.get() <= MAX_PRICE);
        let price = price.ok_or(Invalid::new("price", "must be 0 to 1000000000"))?;
        Ok(Self { name: name.to_owned(), price })
    }
}

/// A number of units that an operator puts on sale: 0 to [`MAX_STOCK`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock(u64);

impl Stock {
    /// Parses a number of units.
    pub fn new(pieces: i64) -> Result<Self, Invalid> {
        let wrong = Invalid::new("stock", "must be 0 to 1000000000");
        u64::try_from(pieces).ok().filter(|_| pieces <= MAX_STOCK).map(Self).ok_or(wrong)
    }

    /// A stock read back from the table. It may exceed [`MAX_STOCK`] by what failed orders gave back.
    pub const fn stored(pieces: u64) -> Self {
        Self(pieces)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Units that an operator received, or took away again when below zero: 1 to [`MAX_STOCK`] either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received(i64);

impl Received {
    /// Parses a number of units.
    pub fn new(units: i64) -> Result<Self, Invalid> {
        let wrong = Invalid::new("received", "must be 1 to 1000000000, or -1 to -1000000000 for what is taken away");
        (units != 0 && (-MAX_STOCK..=MAX_STOCK).contains(&units)).then_some(Self(units)).ok_or(wrong)
    }

    /// The number.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// How many units must be left for it.
    pub fn least(self) -> i64 {
        (-self.0).max(0)
    }
}

/// Why units were not received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReceived {
    /// There is no such item, or none any more.
    NoSuchItem,
    /// Fewer units are left than are to be taken away.
    TooFew,
}

/// An order, as far as the stock is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its id: nothing is done twice for it.
    pub id: OrderId,
    pub user: UserId,
    /// What it wants, each item once.
    pub pieces: Vec<Pieces>,
    /// The id of the originating HTTP request.
    pub correlation_id: String,
}

impl Order {
    /// An order with these lines.
    pub fn of(id: OrderId, user: UserId, lines: Vec<OrderLine>, correlation_id: String) -> Self {
        let pieces = lines.into_iter().map(|line| Pieces { item_id: line.item_id, quantity: line.quantity });
        Self { id, user, pieces: pieces.collect(), correlation_id }
    }
}

/// What was done for an order so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub work: ParticipantState,
    /// What was taken for it; nothing, if it was refused or no event of it was consumed.
    pub taken: Vec<Pieces>,
}

impl Job {
    /// No event of the order was consumed.
    pub const NEW: Self = Self { work: ParticipantState::Pending, taken: Vec::new() };
}

/// Why an item's units cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// There are fewer than ordered.
    TooFew,
    /// It is not sold any more.
    Withdrawn,
}

/// Why an order's units were not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The order's failure that it leads to.
    pub reason: OrderFailure,
    /// Which items are the reason.
    pub items: Vec<ItemId>,
}

impl Refusal {
    /// The refusal for what is lacking. A withdrawn item takes precedence over one that ran out: it does not come back.
    pub fn of(lacking: Vec<(ItemId, Lack)>) -> Self {
        let withdrawn = lacking.iter().any(|(_, lack)| *lack == Lack::Withdrawn);
        let (reason, named) = match withdrawn {
            true => (OrderFailure::ItemWithdrawn, Lack::Withdrawn),
            false => (OrderFailure::OutOfStock, Lack::TooFew),
        };
        let items = lacking.into_iter().filter(|(_, lack)| *lack == named).map(|(item, _)| item);
        Self { reason, items: items.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: &str) -> ItemId {
        ItemId::parse(id).unwrap()
    }

    #[test]
    fn a_name_is_trimmed_bounded_and_plain_and_a_price_is_0_to_a_billion() {
        assert_eq!(Label::new("  Poster ", 0).unwrap().name, "Poster");
        assert!(Label::new(&"포".repeat(MAX_NAME), MAX_PRICE).is_ok());
        for bad in ["", " \n", "a\u{7}b", &"x".repeat(MAX_NAME + 1)] {
            assert_eq!(Label::new(bad, 1).unwrap_err().what, "name", "{bad:?}");
        }
        for bad in [-1, MAX_PRICE + 1, i64::MIN, i64::MAX] {
            assert_eq!(Label::new("Poster", bad).unwrap_err().what, "price", "{bad}");
        }
    }

    #[test]
    fn a_stock_is_0_to_a_billion_pieces() {
        for bad in [-1, MAX_STOCK + 1, i64::MIN, i64::MAX] {
            assert!(Stock::new(bad).is_err(), "{bad}");
        }
        assert_eq!(Stock::new(MAX_STOCK).unwrap().get(), 1_000_000_000);
        assert_eq!(Stock::new(0).unwrap().get(), 0);
    }

    #[test]
    fn a_refusal_names_the_items_that_are_its_reason() {
        let (few, gone) = ((item("few"), Lack::TooFew), (item("gone"), Lack::Withdrawn));
        let refusal = Refusal::of(vec![few.clone(), (item("too"), Lack::TooFew)]);
        assert_eq!(refusal, Refusal { reason: OrderFailure::OutOfStock, items: vec![item("few"), item("too")] });
        let refusal = Refusal::of(vec![few, gone]);
        assert_eq!(refusal, Refusal { reason: OrderFailure::ItemWithdrawn, items: vec![item("gone")] });
    }
}
