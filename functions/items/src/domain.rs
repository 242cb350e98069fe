//! Merchandise, and what is decided about an order's units.

use contracts::choreography::ParticipantState;
use contracts::orders::{OrderFailure, OrderLine, Pieces, Quantity};
use contracts::{Invalid, ItemId, OrderId, Timestamp, UserId, Won};
use std::collections::HashMap;

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
    /// What it is called, what it costs and how many of it a user may have.
    pub label: Label,
    /// How many units are left to sell.
    pub stock: Stock,
    /// Whether it cannot be ordered for now.
    pub is_paused: bool,
    /// When it was added to the catalogue.
    pub created_at: Timestamp,
}

/// What an operator may change of an item at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    pub name: String,
    /// The price of one unit.
    pub price: Won,
    /// The most units that a user may have, over all of their orders; any number, if there is none.
    pub max_per_user: Option<Quantity>,
}

impl Label {
    /// A trimmed name of 1 to [`MAX_NAME`] characters, none of them a control character, and a price of 0 to
    /// [`MAX_PRICE`]; no limit.
    pub fn new(name: &str, price: i64) -> Result<Self, Invalid> {
        let name = name.trim();
        if !(1..=MAX_NAME).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            return Err(Invalid::new("name", "must have 1 to 200 characters, none of them a control character"));
        }
        let price = Won::new(price).ok().filter(|price| price.get() <= MAX_PRICE);
        let price = price.ok_or(Invalid::new("price", "must be 0 to 1000000000"))?;
        Ok(Self { name: name.to_owned(), price, max_per_user: None })
    }

    /// The same with a limit of 1 to [`Quantity::MAX`], if one is given.
    pub fn limited(self, max_per_user: Option<i64>) -> Result<Self, Invalid> {
        let wrong = |_| Invalid::new("max_per_user", "must be 1 to 10000");
        Ok(Self { max_per_user: max_per_user.map(|units| Quantity::new(units).map_err(wrong)).transpose()?, ..self })
    }
}

/// A number of units that an operator puts on sale: 0 to [`MAX_STOCK`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock(u64);

impl Stock {
    /// Parses a number of units.
    pub fn new(units: i64) -> Result<Self, Invalid> {
        let wrong = Invalid::new("stock", "must be 0 to 1000000000");
        u64::try_from(units).ok().filter(|_| units <= MAX_STOCK).map(Self).ok_or(wrong)
    }

    /// A stock read back from the table. It may exceed [`MAX_STOCK`] by what failed orders gave back.
    pub const fn stored(units: u64) -> Self {
        Self(units)
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
    /// Which of the items taken count towards their user's limit.
    pub counted: Vec<ItemId>,
}

impl Job {
    /// No event of the order was consumed.
    pub const NEW: Self = Self { work: ParticipantState::Pending, taken: Vec::new(), counted: Vec::new() };
}

/// An ordered item that is sold, as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// How many units are left.
    pub stock: u64,
    /// The most units that a user may have; any number, if there is none.
    pub max_per_user: Option<Quantity>,
}

/// What an order finds: what may have changed by the time its units are taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shelf {
    /// The ordered items that are sold.
    pub offers: HashMap<ItemId, Offer>,
    /// How many units of limited items their user has.
    pub bought: HashMap<ItemId, u64>,
}

/// A line of an order, to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portion {
    pub pieces: Pieces,
    /// The item's limit that it is taken under; not below its own quantity.
    pub max_per_user: Option<Quantity>,
}

impl Portion {
    /// How many units its user may have had before it; `None` where there is no limit.
    pub fn bought_at_most(&self) -> Option<u64> {
        self.max_per_user.map(|most| u64::from(most.get().saturating_sub(self.pieces.quantity.get())))
    }
}

impl Shelf {
    /// What is to be taken for an order, or why it is in vain. What is lacking here is lacking for good, as far as this
    /// order is concerned; what is not is decided by the write.
    pub fn portions(&self, order: &Order) -> Result<Vec<Portion>, Refusal> {
        let lacking: Vec<(ItemId, Lack)> = order
            .pieces
            .iter()
            .filter_map(|pieces| self.lack(pieces).map(|lack| (pieces.item_id.clone(), lack)))
            .collect();
        if !lacking.is_empty() {
            return Err(Refusal::of(lacking));
        }
        let limit = |item: &ItemId| self.offers.get(item).and_then(|offer| offer.max_per_user);
        let portion = |pieces: &Pieces| Portion { max_per_user: limit(&pieces.item_id), pieces: pieces.clone() };
        Ok(order.pieces.iter().map(portion).collect())
    }

    fn lack(&self, Pieces { item_id, quantity }: &Pieces) -> Option<Lack> {
        let units = u64::from(quantity.get());
        let Some(offer) = self.offers.get(item_id) else { return Some(Lack::Withdrawn) };
        let bought = self.bought.get(item_id).copied().unwrap_or(0);
        let is_over = |most: Quantity| bought.saturating_add(units) > u64::from(most.get());
        if offer.max_per_user.is_some_and(is_over) {
            return Some(Lack::OverLimit);
        }
        (offer.stock < units).then_some(Lack::TooFew)
    }
}

/// Why an item's units cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// There are fewer than ordered.
    TooFew,
    /// Their user would have more than anybody may have.
    OverLimit,
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
    /// The refusal for what is lacking. What does not change by waiting takes precedence: a withdrawn item does not come
    /// back, and a limit stays; what ran out may come in again.
    pub fn of(lacking: Vec<(ItemId, Lack)>) -> Self {
        let is_lacking = |wanted: Lack| lacking.iter().any(|(_, lack)| *lack == wanted);
        let (reason, named) = if is_lacking(Lack::Withdrawn) {
            (OrderFailure::ItemWithdrawn, Lack::Withdrawn)
        } else if is_lacking(Lack::OverLimit) {
            (OrderFailure::ItemLimitExceeded, Lack::OverLimit)
        } else {
            (OrderFailure::OutOfStock, Lack::TooFew)
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
        let over = (item("over"), Lack::OverLimit);
        let refusal = Refusal::of(vec![few.clone(), over.clone()]);
        assert_eq!(refusal, Refusal { reason: OrderFailure::ItemLimitExceeded, items: vec![item("over")] });
        let refusal = Refusal::of(vec![few, over, gone]);
        assert_eq!(refusal, Refusal { reason: OrderFailure::ItemWithdrawn, items: vec![item("gone")] });
    }

    #[test]
    fn an_order_is_tried_unless_what_was_read_shows_it_to_be_in_vain() {
        let quantity = |units| Quantity::new(units).unwrap();
        let order = |lines: &[(&str, i64)]| Order {
            id: OrderId::parse("o1").unwrap(),
            user: UserId::parse("alice").unwrap(),
            pieces: lines.iter().map(|(id, n)| Pieces { item_id: item(id), quantity: quantity(*n) }).collect(),
            correlation_id: "request-1".to_owned(),
        };
        let offer = |stock, most: Option<i64>| Offer { stock, max_per_user: most.map(quantity) };
        let shelf = Shelf {
            offers: HashMap::from([(item("free"), offer(5, None)), (item("limited"), offer(9, Some(4)))]),
            bought: HashMap::from([(item("limited"), 3), (item("free"), 99)]),
        };
        let portions = shelf.portions(&order(&[("limited", 1), ("free", 5)])).unwrap();
        assert_eq!(portions.iter().map(Portion::bought_at_most).collect::<Vec<_>>(), [Some(3), None]);
        let reason = |lines: &[(&str, i64)]| shelf.portions(&order(lines)).unwrap_err();
        let refusal = |reason, id| Refusal { reason, items: vec![item(id)] };
        assert_eq!(reason(&[("limited", 1), ("free", 6)]), refusal(OrderFailure::OutOfStock, "free"));
        assert_eq!(reason(&[("limited", 2), ("free", 6)]), refusal(OrderFailure::ItemLimitExceeded, "limited"));
        assert_eq!(reason(&[("gone", 1), ("limited", 9)]), refusal(OrderFailure::ItemWithdrawn, "gone"));
    }

    #[test]
    fn a_limit_is_1_to_10000_or_none() {
        let limited = |units| Label::new("Poster", 1).unwrap().limited(units);
        assert_eq!(limited(None).unwrap().max_per_user, None);
        assert_eq!(limited(Some(4)).unwrap().max_per_user.map(Quantity::get), Some(4));
        for bad in [-1, 0, 10_001] {
            assert_eq!(limited(Some(bad)).unwrap_err().what, "max_per_user", "{bad}");
        }
    }
}
