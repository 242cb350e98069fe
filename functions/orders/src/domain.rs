//! Carts, orders, and the pure decisions about them.

use contracts::choreography::ParticipantState;
use contracts::events::EventBody;
use contracts::orders::{MAX_LINES, OrderFailure, OrderLine, Pieces};
use contracts::steps::QuotedItem;
use contracts::{Invalid, ItemId, OrderId, Timestamp, UserId, Won};
use std::collections::{HashMap, HashSet};

/// The number of partitions of their index over which due orders spread.
pub const DUE_SHARDS: u64 = 16;
/// How long after it was placed, or failed, an order is checked for the first time, in seconds.
pub const FIRST_LOOK_SECONDS: i64 = 60;
/// The longest wait between two publications of the failure of an order, in seconds.
pub const LONGEST_NUDGE_WAIT_SECONDS: i64 = 3600;
/// How long after it was placed an order can be cancelled at most, in seconds: six days. Participants answer into the outbox
/// row of `order.placed`, which is kept for seven.
pub const CANCELLABLE_SECONDS: i64 = 6 * 24 * 3600;
/// At which republication the on-call is paged.
pub const STUCK_NUDGES: u32 = 5;

// ------------------------------------------------------------------------------------------------------------ carts

/// A line of a cart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CartLine {
    /// The line, with the price at the time it was put there.
    pub line: OrderLine,
    /// When it was put there.
    pub put_at: Timestamp,
}

/// A cart as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownCart {
    pub cart: Cart,
    /// Which of its items are not sold any more, as far as that could be found out.
    pub withdrawn: HashSet<ItemId>,
}

/// A user's cart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cart {
    /// Counts its changes: a decision made on an older revision is made again.
    pub rev: u64,
    /// Its lines, each item once, by the item's id.
    pub lines: Vec<CartLine>,
}

impl Cart {
    /// The price of all lines, or `None` past [`Won::MAX`].
    pub fn total(&self) -> Option<Won> {
        total(self.lines.iter().map(|line| &line.line))
    }

    /// The line of an item.
    pub fn line(&self, item: &ItemId) -> Option<&CartLine> {
        self.lines.iter().find(|line| line.line.item_id == *item)
    }

    /// The lines that an order takes out: those of the ordered items, unless they were put there after it was placed.
    pub fn ordered(&self, ordered: &[OrderLine], placed_at: Timestamp) -> Vec<CartLine> {
        let lines = ordered.iter().filter_map(|line| self.line(&line.item_id));
        lines.filter(|line| line.put_at <= placed_at).cloned().collect()
    }

    /// Which of the lines that an order had taken out go back: those whose item the user has not put there again, as
    /// long as there is room.
    pub fn lacking(&self, taken: &[CartLine]) -> Vec<CartLine> {
        let room = MAX_LINES.saturating_sub(self.lines.len());
        taken.iter().filter(|line| self.line(&line.line.item_id).is_none()).take(room).cloned().collect()
    }
}

impl From<Cart> for ShownCart {
    fn from(cart: Cart) -> Self {
        Self { cart, withdrawn: HashSet::new() }
    }
}

fn total<'a>(lines: impl Iterator<Item = &'a OrderLine>) -> Option<Won> {
    let totals: Option<Vec<Won>> = lines.map(OrderLine::total).collect();
    Won::checked_sum(totals?)
}

/// An order as far as its user's cart is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CartOrder {
    pub id: OrderId,
    /// The user of the order and of the cart.
    pub user: UserId,
    pub lines: Vec<OrderLine>,
    /// The time of the event. Lines that were put into the cart after `order.placed` are not part of the order.
    pub said_at: Timestamp,
    /// The id of the originating HTTP request.
    pub correlation_id: String,
}

/// What was done to a cart for an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CartWork {
    /// Where the cart stands with the order; [`ParticipantState::Pending`] if there is no record.
    pub work: ParticipantState,
    /// The lines that were taken out.
    pub taken: Vec<CartLine>,
}

// ----------------------------------------------------------------------------------------------------------- orders

/// A line that a user wants to order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedLine {
    pub pieces: Pieces,
    /// The price of one unit that the user has seen, if they say.
    pub price_seen: Option<Won>,
}

/// What a user wants to order: 1 to [`MAX_LINES`] items, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted(Vec<WantedLine>);

impl Wanted {
    /// Parses the lines of an order.
    pub fn new(lines: Vec<WantedLine>) -> Result<Self, Invalid> {
        if !(1..=MAX_LINES).contains(&lines.len()) {
            return Err(Invalid::new("lines", "must be 1 to 50"));
        }
        let items: HashSet<&ItemId> = lines.iter().map(|line| &line.pieces.item_id).collect();
        if items.len() < lines.len() {
            return Err(Invalid::new("lines", "must have each item once"));
        }
        Ok(Self(lines))
    }

    /// The items.
    pub fn items(&self) -> Vec<ItemId> {
        self.0.iter().map(|line| line.pieces.item_id.clone()).collect()
    }
}

/// The price of a unit that a user goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriceBefore {
    /// What they say that they have seen.
    Seen(Won),
    /// What it cost when it was put into the cart, where they do not say.
    InCart(Won),
}

impl PriceBefore {
    /// The price.
    pub const fn won(self) -> Won {
        match self {
            Self::Seen(won) | Self::InCart(won) => won,
        }
    }
}

/// An ordered item that has another price now than its user goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceChange {
    pub item: ItemId,
    pub before: PriceBefore,
    /// What it costs now.
    pub price: Won,
}

/// Why an order is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// These items are unknown or not sold any more.
    ItemsNotFound(Vec<ItemId>),
    /// These cannot be ordered for now.
    SalePaused(Vec<ItemId>),
    /// Nothing is left of these.
    OutOfStock(Vec<ItemId>),
    /// Of these it is for more units than a user may have.
    ItemLimitExceeded(Vec<ItemId>),
    /// The prices that the user goes by are out of date.
    PriceChanged(Vec<PriceChange>),
    /// The total exceeds what can be paid.
    TooExpensive,
    /// The total exceeds the user's balance.
    InsufficientPoints,
    /// The user has as many pending orders as they may.
    TooManyPending,
}

/// Lines with their price fixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priced {
    /// The lines, in the order of the request.
    pub lines: Vec<OrderLine>,
    pub total: Won,
}

/// A refusal for certain items.
type Because = fn(Vec<ItemId>) -> Refusal;

/// Fixes the prices of the ordered items, as they are now. What is withdrawn is not quoted; what is paused or sold out is, and
/// says so. The order is refused if it goes by another price of one of the items, or if it would be in vain: what is missing,
/// paused, sold out or too many is named before a price.
pub fn fix_prices(wanted: &Wanted, quoted: Vec<QuotedItem>, cart: &Cart) -> Result<Priced, Refusal> {
    let quoted: HashMap<ItemId, QuotedItem> = quoted.into_iter().map(|item| (item.item_id.clone(), item)).collect();
    let quote_of = |line: &WantedLine| quoted.get(&line.pieces.item_id);
    let items = |is_one: &dyn Fn(&WantedLine) -> bool| -> Vec<ItemId> {
        wanted.0.iter().filter(|line| is_one(line)).map(|line| line.pieces.item_id.clone()).collect()
    };
    let is = |line: &WantedLine, what: fn(&QuotedItem, &Pieces) -> bool| {
        quote_of(line).is_some_and(|quote| what(quote, &line.pieces))
    };
    let in_vain: [(Vec<ItemId>, Because); 4] = [
        (items(&|line| quote_of(line).is_none()), Refusal::ItemsNotFound),
        (items(&|line| is(line, |quote, _| quote.paused)), Refusal::SalePaused),
        (items(&|line| is(line, |quote, _| quote.stock == Some(0))), Refusal::OutOfStock),
        (items(&|line| is(line, exceeds_limit)), Refusal::ItemLimitExceeded),
    ];
    if let Some((items, refusal)) = in_vain.into_iter().find(|(items, _)| !items.is_empty()) {
        return Err(refusal(items));
    }
    let changed: Vec<PriceChange> =
        wanted.0.iter().filter_map(|line| price_change(line, quote_of(line)?.price, cart)).collect();
    if !changed.is_empty() {
        return Err(Refusal::PriceChanged(changed));
    }
    let line = |line: &WantedLine| {
        let (QuotedItem { name, price, .. }, Pieces { item_id, quantity }) = (quote_of(line)?, &line.pieces);
        Some(OrderLine { item_id: item_id.clone(), name: name.clone(), price: *price, quantity: *quantity })
    };
    let lines: Vec<OrderLine> = wanted.0.iter().filter_map(line).collect();
    let total = total(lines.iter()).ok_or(Refusal::TooExpensive)?;
    Ok(Priced { lines, total })
}

fn exceeds_limit(quote: &QuotedItem, pieces: &Pieces) -> bool {
    quote.max_per_user.is_some_and(|most| pieces.quantity.get() > most)
}

/// Whether a line goes by another price than today's: the one that its user has seen, if they say; otherwise the one in
/// their cart, if it is there.
fn price_change(line: &WantedLine, price: Won, cart: &Cart) -> Option<PriceChange> {
    let item = &line.pieces.item_id;
    let in_cart = || cart.line(item).map(|line| PriceBefore::InCart(line.line.price));
    let before = line.price_seen.map(PriceBefore::Seen).or_else(in_cart)?;
    (before.won() != price).then(|| PriceChange { item: item.clone(), before, price })
}

/// Why an order failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: OrderFailure,
    /// The items that it is about, if it is about some; the release before did not record them.
    pub items: Vec<ItemId>,
}

impl From<OrderFailure> for Failure {
    fn from(reason: OrderFailure) -> Self {
        Self { reason, items: Vec::new() }
    }
}

/// The status of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Some participants have not answered.
    Pending,
    /// All participants did their part.
    Completed,
    /// A participant refused, or the deadline passed; the others undo their part.
    Failed(Failure),
}

impl Status {
    /// Its name in tables and answers.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Failed(_) => "failed",
        }
    }

    /// Whether it was cancelled: a failure to the participants, which undo their parts, and not to its user.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Failed(failure) if failure.reason == OrderFailure::Cancelled)
    }
}

/// An order. All but its status is fixed when it is placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub id: OrderId,
    pub user: UserId,
    pub lines: Vec<OrderLine>,
    pub total_price: Won,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// The id of the originating HTTP request.
    pub correlation_id: String,
    pub status: Status,
}

/// What follows from a request to cancel an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cancel {
    /// It is cancelled now.
    Now,
    /// It was cancelled before.
    Before,
    /// It failed, or it was placed too long ago.
    Refused,
}

/// Decides whether an order is cancelled that can be for so many seconds after it was placed.
pub fn decide_cancel(order: &Order, within_seconds: i64, now: Timestamp) -> Cancel {
    let until = order.placed_at.plus_seconds(within_seconds.min(CANCELLABLE_SECONDS));
    match &order.status {
        status if status.is_cancelled() => Cancel::Before,
        Status::Pending | Status::Completed if now <= until => Cancel::Now,
        Status::Pending | Status::Completed | Status::Failed(_) => Cancel::Refused,
    }
}

// ---------------------------------------------------------------------------------------------------------- answers

/// A consumer that answers an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Participant {
    /// Takes the units.
    Stock,
    /// Takes the price.
    Points,
    /// Takes the lines out of the cart.
    Cart,
    /// Reports to external systems. An order never depends on it.
    Report,
}

impl Participant {
    /// All participants.
    pub const ALL: [Self; 4] = [Self::Stock, Self::Points, Self::Cart, Self::Report];

    /// Its name in the work state.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Points => "points",
            Self::Cart => "cart",
            Self::Report => "report",
        }
    }
}

/// A participant's answer to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub order: OrderId,
    pub participant: Participant,
    pub did: Did,
}

/// What a participant did about an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Did {
    /// Its part.
    Its,
    /// Nothing, for a reason.
    Refuse(Failure),
    /// Whatever undid its part.
    Undo,
}

impl Did {
    /// Its state in the work state.
    pub const fn work(&self) -> ParticipantState {
        match self {
            Self::Its => ParticipantState::Done,
            Self::Refuse(_) => ParticipantState::Refused,
            Self::Undo => ParticipantState::Undone,
        }
    }
}

impl Answer {
    /// The answer in an event, if it is one.
    pub fn of(event: &EventBody) -> Option<Self> {
        use Participant::{Cart, Points, Report, Stock};
        let (order, participant, did) = match event {
            EventBody::StockDeducted(stock) => (&stock.order_id, Stock, Did::Its),
            EventBody::StockRefused(stock) => {
                let failure = Failure { reason: stock.reason, items: stock.items.clone() };
                (&stock.order_id, Stock, Did::Refuse(failure))
            }
            EventBody::StockRestored(stock) => (&stock.order_id, Stock, Did::Undo),
            EventBody::PointsUsed(points) => (&points.order_id, Points, Did::Its),
            EventBody::PointsRefused(points) => (&points.order_id, Points, Did::Refuse(points.reason.into())),
            EventBody::PointsReturned(points) => (&points.order_id, Points, Did::Undo),
            EventBody::CartCleared(cart) => (&cart.order_id, Cart, Did::Its),
            EventBody::CartRestored(cart) => (&cart.order_id, Cart, Did::Undo),
            EventBody::OrderReported(report) => (&report.order_id, Report, Did::Its),
            _ => return None,
        };
        Some(Self { order: order.clone(), participant, did })
    }
}

/// The states of the participants that an order depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkState {
    pub stock: ParticipantState,
    pub points: ParticipantState,
    pub cart: ParticipantState,
    /// The first refusal, if there is one.
    pub refusal: Option<Failure>,
}

/// What follows from the answers so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Some answers are missing.
    Wait,
    /// All did their part: the order is complete, if it has not failed before.
    Complete,
    /// One refused: the order fails, if it has not yet.
    Fail(Failure),
    /// All have undone their part: nothing is left of the failed order.
    Settle,
}

/// Folds the answers into a verdict.
pub fn fold(state: &WorkState) -> Verdict {
    let works = [state.stock, state.points, state.cart];
    let all = |wanted| works.iter().all(|work| *work == wanted);
    match &state.refusal {
        _ if all(ParticipantState::Done) => Verdict::Complete,
        _ if all(ParticipantState::Undone) => Verdict::Settle,
        Some(failure) if works.contains(&ParticipantState::Refused) => Verdict::Fail(failure.clone()),
        _ => Verdict::Wait,
    }
}

// --------------------------------------------------------------------------------------------------------- due orders

/// An order that waits for answers and is due for a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueOrder {
    pub order: Order,
    /// Since when it is due.
    pub due_at: Timestamp,
    /// How often its failure was published again.
    pub nudges: u32,
    /// When it ended, if it did.
    pub ended_at: Option<Timestamp>,
}

impl DueOrder {
    /// Since when it should be at its end: since its deadline, or since somebody cancelled it after that.
    pub fn over_since(&self, deadline_seconds: i64) -> Timestamp {
        let deadline = self.order.placed_at.plus_seconds(deadline_seconds);
        self.ended_at.map_or(deadline, |ended| ended.max(deadline))
    }
}

/// What to do about a due order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Publish `order.placed` again, and check again at the deadline.
    RepublishPlaced {
        /// The deadline.
        again_at: Timestamp,
    },
    /// The deadline has passed: the order fails.
    TimeOut,
    /// Publish `order.failed` again.
    RepublishFailed {
        /// When to check again.
        again_at: Timestamp,
        /// Whether the on-call is paged, because the order is not settled.
        alert: bool,
    },
    /// Nothing to do: the order is complete.
    Leave,
}

/// Decides what to do about a due order.
pub fn look_after(due: &DueOrder, deadline_seconds: i64, now: Timestamp) -> Look {
    let deadline = due.order.placed_at.plus_seconds(deadline_seconds);
    match due.order.status {
        Status::Pending if now < deadline => Look::RepublishPlaced { again_at: deadline },
        Status::Pending => Look::TimeOut,
        Status::Failed(_) => Look::RepublishFailed {
            again_at: now.plus_seconds(wait_after_nudge(due.nudges)),
            alert: due.nudges + 1 == STUCK_NUDGES,
        },
        Status::Completed => Look::Leave,
    }
}

/// How long after republication number `count`, counted from 0, the next one comes, in seconds: a minute, doubling, at
/// most an hour.
fn wait_after_nudge(count: u32) -> i64 {
    FIRST_LOOK_SECONDS.saturating_mul(1 << count.min(10)).min(LONGEST_NUDGE_WAIT_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use contracts::orders::Quantity;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const WORKS: [ParticipantState; 4] =
        [ParticipantState::Pending, ParticipantState::Done, ParticipantState::Refused, ParticipantState::Undone];

    fn item(id: &str) -> ItemId {
        ItemId::parse(id).unwrap()
    }

    fn won(amount: i64) -> Won {
        Won::new(amount).unwrap()
    }

    fn line(id: &str, price: i64, quantity: i64) -> OrderLine {
        let quantity = Quantity::new(quantity).unwrap();
        OrderLine { item_id: item(id), name: id.to_uppercase(), price: won(price), quantity }
    }

    fn put(id: &str, price: i64, put_at: Timestamp) -> CartLine {
        CartLine { line: line(id, price, 1), put_at }
    }

    fn cart(lines: impl IntoIterator<Item = CartLine>) -> Cart {
        Cart { rev: 1, lines: lines.into_iter().collect() }
    }

    fn pieces(id: &str, quantity: i64) -> WantedLine {
        let pieces = Pieces { item_id: item(id), quantity: Quantity::new(quantity).unwrap() };
        WantedLine { pieces, price_seen: None }
    }

    fn quoted(id: &str, price: i64) -> QuotedItem {
        QuotedItem {
            item_id: item(id),
            name: id.to_uppercase(),
            price: won(price),
            paused: false,
            stock: Some(9),
            max_per_user: None,
        }
    }

    fn order(status: Status) -> Order {
        Order {
            id: OrderId::parse("o1").unwrap(),
            user: UserId::parse("alice").unwrap(),
            lines: vec![line("poster", 100, 2)],
            total_price: won(200),
            placed_at: NOW,
            correlation_id: "request-1".to_owned(),
            status,
        }
    }

    fn states() -> impl Iterator<Item = WorkState> {
        let three = |stock| WORKS.into_iter().flat_map(move |points| WORKS.map(move |cart| (stock, points, cart)));
        let out_of_stock = Failure { reason: OrderFailure::OutOfStock, items: vec![item("poster")] };
        let refusals = [None, Some(out_of_stock), Some(OrderFailure::InsufficientPoints.into())];
        WORKS.into_iter().flat_map(three).flat_map(move |(stock, points, cart)| {
            refusals.clone().map(move |refusal| WorkState { stock, points, cart, refusal })
        })
    }

    #[test]
    fn an_order_is_complete_exactly_when_all_did_their_part() {
        for state in states() {
            let all_done = [state.stock, state.points, state.cart] == [ParticipantState::Done; 3];
            assert_eq!(fold(&state) == Verdict::Complete, all_done, "{state:?}");
        }
    }

    #[test]
    fn an_order_is_settled_exactly_when_all_have_undone_their_part() {
        for state in states() {
            let all_undone = [state.stock, state.points, state.cart] == [ParticipantState::Undone; 3];
            assert_eq!(fold(&state) == Verdict::Settle, all_undone, "{state:?}");
        }
    }

    #[test]
    fn one_refusal_fails_an_order_whatever_the_others_answer() {
        for state in states() {
            let refused = [state.stock, state.points, state.cart].contains(&ParticipantState::Refused);
            let expected = if refused { state.refusal.clone() } else { None };
            let failed = match fold(&state) {
                Verdict::Fail(failure) => Some(failure),
                Verdict::Wait | Verdict::Complete | Verdict::Settle => None,
            };
            assert_eq!(failed, expected, "{state:?}");
        }
    }

    #[test]
    fn an_answer_that_is_still_to_come_is_waited_for_unless_another_refused() {
        for state in states() {
            let works = [state.stock, state.points, state.cart];
            if works.contains(&ParticipantState::Pending) && !works.contains(&ParticipantState::Refused) {
                assert_eq!(fold(&state), Verdict::Wait, "{state:?}");
            }
        }
    }

    #[test]
    fn every_answer_of_every_participant_is_understood_and_nothing_else() {
        let parsed = |json: serde_json::Value| serde_json::from_value::<EventBody>(json).unwrap();
        for (event_type, participant, work) in [
            ("stock.deducted", Participant::Stock, ParticipantState::Done),
            ("stock.refused", Participant::Stock, ParticipantState::Refused),
            ("stock.restored", Participant::Stock, ParticipantState::Undone),
            ("points.used", Participant::Points, ParticipantState::Done),
            ("points.refused", Participant::Points, ParticipantState::Refused),
            ("points.returned", Participant::Points, ParticipantState::Undone),
            ("cart.cleared", Participant::Cart, ParticipantState::Done),
            ("cart.restored", Participant::Cart, ParticipantState::Undone),
            ("order.reported", Participant::Report, ParticipantState::Done),
        ] {
            let schema: serde_json::Value =
                serde_json::from_str(contracts::events::schema_of(event_type).unwrap()).unwrap();
            let example = &schema["examples"][0];
            let answer = Answer::of(&parsed(example.clone())).unwrap();
            assert_eq!((answer.participant, answer.did.work()), (participant, work), "{event_type}");
            assert_eq!(answer.order.as_str(), example["subject"], "{event_type}");
            if let Did::Refuse(Failure { reason, items }) = answer.did {
                assert_eq!(reason.as_str(), example["data"]["reason"]);
                let named = example["data"].get("items").map_or(0, |items| items.as_array().unwrap().len());
                assert_eq!((items.len(), !items.is_empty()), (named, reason.names_items()));
            }
        }
        let others = EventBody::TYPES.iter().filter(|event_type| {
            let schema: serde_json::Value =
                serde_json::from_str(contracts::events::schema_of(event_type).unwrap()).unwrap();
            Answer::of(&parsed(schema["examples"][0].clone())).is_none()
        });
        assert_eq!(others.count(), EventBody::TYPES.len() - 9);
    }

    #[test]
    fn an_order_takes_its_own_lines_and_none_that_was_put_since() {
        let later = NOW.plus_millis(1);
        let cart = cart([put("bag", 1, NOW), put("mug", 1, later), put("poster", 1, NOW)]);
        let ordered = [line("poster", 1, 9), line("mug", 1, 1), line("shirt", 1, 1)];
        assert_eq!(cart.ordered(&ordered, NOW), [put("poster", 1, NOW)]);
        assert_eq!(Cart::default().ordered(&ordered, NOW), []);
    }

    #[test]
    fn a_line_goes_back_unless_its_item_was_put_anew() {
        let later = NOW.plus_millis(1);
        let taken = [put("mug", 1, NOW), put("poster", 1, NOW)];
        assert_eq!(cart([put("mug", 2, later)]).lacking(&taken), [put("poster", 1, NOW)]);
        let full = cart((0..MAX_LINES - 1).map(|n| put(&format!("i{n}"), 1, later)));
        assert_eq!(full.lacking(&taken), [put("mug", 1, NOW)], "as many as there is room for");
    }

    #[test]
    fn an_order_has_1_to_50_items_each_once() {
        let many = |count: usize| Wanted::new((0..count).map(|n| pieces(&format!("i{n}"), 1)).collect());
        assert!(many(0).is_err() && many(MAX_LINES + 1).is_err());
        assert_eq!(many(MAX_LINES).unwrap().items().len(), MAX_LINES);
        assert!(Wanted::new(vec![pieces("a", 1), pieces("a", 2)]).is_err());
    }

    #[test]
    fn an_item_whose_sale_is_paused_cannot_be_ordered() {
        let wanted = Wanted::new(vec![pieces("mug", 1)]).unwrap();
        let paused = QuotedItem { paused: true, ..quoted("mug", 1_000) };
        assert_eq!(fix_prices(&wanted, vec![paused], &Cart::default()), Err(Refusal::SalePaused(vec![item("mug")])));
        assert!(fix_prices(&wanted, vec![quoted("mug", 1_000)], &Cart::default()).is_ok());
    }

    #[test]
    fn prices_are_those_of_now_in_the_order_asked() {
        let wanted = Wanted::new(vec![pieces("poster", 2), pieces("mug", 1)]).unwrap();
        let priced = fix_prices(&wanted, vec![quoted("mug", 30), quoted("poster", 100)], &Cart::default()).unwrap();
        assert_eq!(priced.lines, [line("poster", 100, 2), line("mug", 30, 1)]);
        assert_eq!(priced.total, won(230));
    }

    #[test]
    fn an_item_that_is_gone_is_named_before_a_changed_price() {
        let wanted = Wanted::new(vec![pieces("a", 1), pieces("b", 1), pieces("c", 1)]).unwrap();
        let cart = cart([put("b", 1, NOW)]);
        let refusal = fix_prices(&wanted, vec![quoted("b", 2)], &cart).unwrap_err();
        assert_eq!(refusal, Refusal::ItemsNotFound(vec![item("a"), item("c")]));
    }

    #[test]
    fn a_price_that_moved_either_way_is_named_with_both() {
        let wanted = Wanted::new(vec![pieces("a", 1), pieces("b", 1), pieces("c", 1)]).unwrap();
        let cart = cart([put("a", 5, NOW), put("b", 5, NOW), put("c", 5, NOW), put("d", 1, NOW)]);
        let quote = vec![quoted("a", 6), quoted("b", 4), quoted("c", 5)];
        let change =
            |id: &str, price| PriceChange { item: item(id), before: PriceBefore::InCart(won(5)), price: won(price) };
        let expected = Refusal::PriceChanged(vec![change("a", 6), change("b", 4)]);
        assert_eq!(fix_prices(&wanted, quote, &cart), Err(expected));
    }

    #[test]
    fn the_price_that_a_user_has_seen_counts_and_not_the_one_in_the_cart() {
        let seen = |id: &str, price| WantedLine { price_seen: Some(won(price)), ..pieces(id, 1) };
        let cart = cart([put("a", 5, NOW), put("b", 5, NOW)]);
        let wanted = Wanted::new(vec![seen("a", 6), seen("b", 5), seen("c", 7)]).unwrap();
        let change = |id: &str, before, price| PriceChange {
            item: item(id),
            before: PriceBefore::Seen(won(before)),
            price: won(price),
        };
        let expected = Refusal::PriceChanged(vec![change("b", 5, 4), change("c", 7, 8)]);
        assert_eq!(fix_prices(&wanted, vec![quoted("a", 6), quoted("b", 4), quoted("c", 8)], &cart), Err(expected));
        let priced = fix_prices(&wanted, vec![quoted("a", 6), quoted("b", 5), quoted("c", 7)], &cart);
        assert_eq!(priced.map(|priced| priced.total), Ok(won(18)));
    }

    #[test]
    fn an_order_that_would_be_in_vain_is_told_all_the_items_that_it_is_for() {
        let wanted = Wanted::new(vec![pieces("a", 3), pieces("b", 3), pieces("c", 3)]).unwrap();
        let changed = cart([put("a", 5, NOW)]);
        let items = |ids: &[&str]| ids.iter().map(|id| item(id)).collect::<Vec<_>>();
        let sold_out = |id| QuotedItem { stock: Some(0), ..quoted(id, 1) };
        let limited = |id, most| QuotedItem { max_per_user: Some(most), ..quoted(id, 1) };
        let refusal = |quote| fix_prices(&wanted, quote, &changed).unwrap_err();
        assert_eq!(
            refusal(vec![sold_out("a"), limited("b", 2), sold_out("c")]),
            Refusal::OutOfStock(items(&["a", "c"]))
        );
        let refused = refusal(vec![limited("a", 2), limited("b", 3), limited("c", 1)]);
        assert_eq!(refused, Refusal::ItemLimitExceeded(items(&["a", "c"])));
        // Fewer than ordered, and not said by the release before: that is for the stock to decide.
        let few = |id, stock| QuotedItem { stock, ..quoted(id, 1) };
        let quote = vec![few("a", Some(1)), few("b", None), few("c", Some(2))];
        assert!(fix_prices(&wanted, quote, &Cart::default()).is_ok());
    }

    #[test]
    fn what_costs_more_than_money_can_say_is_refused() {
        let wanted = Wanted::new(vec![pieces("a", 1), pieces("b", 1)]).unwrap();
        let quote = vec![quoted("a", Won::MAX.get()), quoted("b", 1)];
        assert_eq!(fix_prices(&wanted, quote, &Cart::default()), Err(Refusal::TooExpensive));
    }

    #[test]
    fn a_pending_order_is_published_again_once_and_then_fails() {
        let due = |due_at| DueOrder { order: order(Status::Pending), due_at, nudges: 0, ended_at: None };
        let (first, deadline) = (NOW.plus_seconds(FIRST_LOOK_SECONDS), NOW.plus_seconds(300));
        assert_eq!(look_after(&due(first), 300, first), Look::RepublishPlaced { again_at: deadline });
        assert_eq!(look_after(&due(deadline), 300, deadline), Look::TimeOut);
        assert_eq!(look_after(&due(first), 60, first), Look::TimeOut, "there is no time to tell of it again");
    }

    #[test]
    fn a_failure_is_published_again_less_and_less_often_and_pages_the_on_call_once() {
        let failed = |nudges| {
            let order = order(Status::Failed(OrderFailure::TimedOut.into()));
            DueOrder { order, due_at: NOW, nudges, ended_at: Some(NOW) }
        };
        let (waits, alerts): (Vec<i64>, Vec<bool>) = (0..12)
            .map(|nudges| match look_after(&failed(nudges), 300, NOW) {
                Look::RepublishFailed { again_at, alert } => (again_at.millis_since(NOW) / 1000, alert),
                other => panic!("{other:?}"),
            })
            .unzip();
        assert_eq!(waits[..7], [60, 120, 240, 480, 960, 1920, 3600]);
        assert!(waits[7..].iter().all(|wait| *wait == LONGEST_NUDGE_WAIT_SECONDS));
        assert_eq!(alerts.iter().position(|alert| *alert), Some(4));
        assert_eq!(alerts.iter().filter(|alert| **alert).count(), 1);
        assert_eq!(wait_after_nudge(u32::MAX), LONGEST_NUDGE_WAIT_SECONDS);
    }

    #[test]
    fn an_order_can_be_cancelled_until_its_deadline_unless_it_failed() {
        let at = |status: Status, within, seconds| decide_cancel(&order(status), within, NOW.plus_seconds(seconds));
        for status in [Status::Pending, Status::Completed] {
            assert_eq!(at(status.clone(), 60, 60), Cancel::Now);
            assert_eq!(at(status.clone(), 60, 61), Cancel::Refused);
            assert_eq!(at(status.clone(), i64::MAX / 10_000, CANCELLABLE_SECONDS), Cancel::Now);
            assert_eq!(at(status, i64::MAX / 10_000, CANCELLABLE_SECONDS + 1), Cancel::Refused);
        }
        assert_eq!(at(Status::Failed(OrderFailure::Cancelled.into()), 60, 9_999_999), Cancel::Before);
        assert_eq!(at(Status::Failed(OrderFailure::OutOfStock.into()), 60, 1), Cancel::Refused);
    }

    #[test]
    fn an_order_that_is_cancelled_days_after_it_was_placed_is_not_late_by_days() {
        let ended = |reason: OrderFailure, seconds: Option<i64>| {
            let status = if seconds.is_some() { Status::Failed(reason.into()) } else { Status::Pending };
            let ended_at = seconds.map(|seconds| NOW.plus_seconds(seconds));
            DueOrder { order: order(status), due_at: NOW, nudges: 0, ended_at }.over_since(300)
        };
        assert_eq!(ended(OrderFailure::Cancelled, Some(500_000)), NOW.plus_seconds(500_000));
        assert_eq!(ended(OrderFailure::Cancelled, Some(10)), NOW.plus_seconds(300));
        assert_eq!(ended(OrderFailure::TimedOut, None), NOW.plus_seconds(300));
    }

    #[test]
    fn a_completed_order_is_left_alone() {
        let due = DueOrder { order: order(Status::Completed), due_at: NOW, nudges: 0, ended_at: Some(NOW) };
        assert_eq!(look_after(&due, 300, NOW.plus_seconds(900)), Look::Leave);
    }
}
