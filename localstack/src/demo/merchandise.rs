//! After the tickets, merchandise: all fans order at once, more than there is, some without the points for it, and the
//! data platform is dead all the while.

use super::client::{Answer, Api, Caller, Cart, CartLine, Item, Order};
use super::report::{self, thousands};
use super::{Operator, outside};
use crate::{Error, Result, StackInfo, Tokens};
use contracts::ItemId;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// The price of a unit, in won.
const PRICE: i64 = 15_000;
/// How many orders are placed for each unit in stock.
const ORDERS_A_PIECE: u32 = 3;
/// How long an order may be pending, or what it took may be missing, before a fan calls it broken.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// The pause before the first poll of an order; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two polls.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// From how many orders on every kind of end must occur.
const MANY_ORDERS: usize = 100;
/// How many lines of trouble are printed.
const SHOWN: usize = 10;

/// A merchandise sale that is over.
#[derive(Debug, Clone, Default)]
pub struct Merchandise {
    /// The end of each fan.
    pub ends: Vec<End>,
    /// How many units there were.
    pub stock: i64,
    /// How many are left.
    pub left: i64,
    /// How many calls the data platform left unanswered while it was dead.
    pub refused_outside: u64,
    /// Whether there are external systems.
    pub has_outside: bool,
    /// How long it took until all orders were final.
    pub took: Duration,
}

/// The end of a fan's visit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// How many units were wanted.
    pub pieces: i64,
    /// The points that are gone, in won.
    pub spent: i64,
    /// How long the order was pending.
    pub pending: Duration,
    /// The outcome of the order.
    pub fate: Fate,
}

/// The outcome of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is completed.
    Completed,
    /// It failed, for this reason.
    Failed(String),
    /// It was not placed, for this reason.
    Refused(String),
    /// The contract was violated.
    Trouble(String),
}

/// Sells. `orders` of them are placed at once, for a third as many units.
pub async fn sell(operator: &Operator, info: &StackInfo, tokens: &Tokens, orders: u32) -> Result<Merchandise> {
    if orders == 0 {
        return Ok(Merchandise::default());
    }
    let (api, stock) = (&operator.api, i64::from(orders.div_ceil(ORDERS_A_PIECE)));
    let run = kit::now().millis();
    let made = api.create_item(&operator.caller, &format!("item-{run}"), "Light stick", PRICE, stock).await?;
    let item = Arc::new(made.item_id);
    let mut fans = Vec::new();
    for number in 0..i64::from(orders) {
        let name = format!("fan-{}-{number:04}", run / 1_000 % 1_000_000);
        let caller = Caller { bearer: tokens.user(&name)?, queue_token: None };
        fans.push(Fan::new(api.clone(), Arc::clone(&item), name, caller, number));
    }
    let ready = all(fans.into_iter().map(Fan::prepare)).await?;

    eprintln!("demo: {orders} orders at once for {stock} pieces, and the data platform is dead");
    let dead = outside::Dead::begin(info).await?;
    let sold = serve(api, &item, stock, ready).await;
    let has_outside = dead.is_some();
    // Whatever the outcome: a stack that stays is left in order.
    let refused_outside = match dead {
        Some(dead) => dead.end().await?,
        None => 0,
    };
    Ok(Merchandise { refused_outside, has_outside, ..sold? })
}

/// All fans order, wait for the end of it, and check the result.
async fn serve(api: &Api, item: &ItemId, stock: i64, fans: Vec<Result<Fan, End>>) -> Result<Merchandise> {
    let begun = Instant::now();
    let ordered = all(fans.into_iter().map(|fan| async { fan?.order().await })).await?;
    let took = begun.elapsed();
    let ends = all(ordered.into_iter().map(|ordered| async {
        let (Ok(end) | Err(end)) = async { ordered?.look_after().await }.await;
        end
    }))
    .await?;
    let completed: i64 = ends.iter().filter(|end| end.fate == Fate::Completed).map(|end| end.pieces).sum();
    let left = until(|item: &Item| completed + item.stock == stock, || api.item(item)).await?.stock;
    Ok(Merchandise { ends, stock, left, took, ..Merchandise::default() })
}

/// All at once, to the end of the last.
async fn all<T: Send + 'static>(
    each: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Result<Vec<T>> {
    let mut running: JoinSet<T> = each.collect();
    let mut ended = Vec::new();
    while let Some(one) = running.join_next().await {
        ended.push(one.map_err(|e| Error::Engine(format!("a fan broke down: {e}")))?);
    }
    Ok(ended)
}

/// Polls until `so` holds, or the time limit is over. Returns the last value.
async fn until<T, E, F: Future<Output = Result<T, E>>>(so: impl Fn(&T) -> bool, look: impl Fn() -> F) -> Result<T, E> {
    let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
    loop {
        let seen = look().await?;
        if so(&seen) || begun.elapsed() > TIME_LIMIT {
            return Ok(seen);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A customer of the merchandise.
struct Fan {
    api: Api,
    item: Arc<ItemId>,
    name: String,
    caller: Caller,
    pieces: i64,
    /// The points charged, in won.
    points: i64,
    /// Whether the units go into the cart first.
    uses_cart: bool,
}

impl Fan {
    /// One in five wants two units, one in ten is short of a won, one in three has a cart.
    fn new(api: Api, item: Arc<ItemId>, name: String, caller: Caller, number: i64) -> Self {
        let pieces = 1 + i64::from(number % 5 == 0);
        let points = if number % 10 == 7 { pieces * PRICE - 1 } else { pieces * PRICE + number };
        Self { api, item, name, caller, pieces, points, uses_cart: number % 3 == 0 }
    }

    fn price(&self) -> i64 {
        self.pieces * PRICE
    }

    fn can_pay(&self) -> bool {
        self.points >= self.price()
    }

    /// Whether an order may be refused, or fail, for this reason.
    fn may_end_by(&self, reason: &str) -> bool {
        reason == "out_of_stock" || reason == "insufficient_points" && !self.can_pay()
    }

    /// A violation of the contract.
    fn trouble(&self, what: impl std::fmt::Display) -> End {
        let fate = Fate::Trouble(format!("{}: {what}", self.name));
        End { pieces: self.pieces, spent: 0, pending: Duration::ZERO, fate }
    }

    /// The answer, which must not be a refusal.
    fn expect<T>(&self, answer: Answer<T>) -> Result<T, End> {
        answer.map_err(|refused| self.trouble(refused))
    }

    /// Charges points, and fills the cart if there is one.
    async fn prepare(self) -> Result<Self, End> {
        let key = format!("{}-points", self.name);
        self.expect(self.api.charge(&self.caller, &key, self.points).await)?;
        if self.uses_cart {
            let cart = self.expect(self.api.put_in_cart(&self.caller, &self.item, self.pieces).await)?;
            if cart.lines != self.in_cart() {
                return Err(self.trouble(format!("put {} pieces into the cart, and it has {cart:?}", self.pieces)));
            }
        }
        Ok(self)
    }

    /// The cart of a fan whose order took nothing.
    fn in_cart(&self) -> Vec<CartLine> {
        let line = CartLine { item_id: (*self.item).clone(), quantity: self.pieces };
        if self.uses_cart { vec![line] } else { Vec::new() }
    }

    /// Orders, and waits for the end of it.
    async fn order(self) -> Result<Ordered, End> {
        let (api, caller) = (&self.api, &self.caller);
        let key = format!("{}-order", self.name);
        let begun = Instant::now();
        let placed = match api.place_order(caller, &key, &self.item, self.pieces).await {
            Err(refused) if refused.status == 409 && self.may_end_by(&refused.code) => {
                return Ok(Ordered { pending: Duration::ZERO, fate: Fate::Refused(refused.code), fan: self });
            }
            answer => self.expect(answer)?,
        };
        if placed.total_price != self.price() {
            return Err(self.trouble(format!("ordered for {} and is charged {}", self.price(), placed.total_price)));
        }
        sleep(FIRST_PAUSE).await;
        let id = &placed.order_id;
        let ended = self.expect(until(|order: &Order| order.status != "pending", || api.order(caller, id)).await)?;
        let pending = begun.elapsed();
        let fate = match (ended.status.as_str(), ended.failure) {
            ("completed", None) if self.can_pay() => Fate::Completed,
            ("failed", Some(reason)) if self.may_end_by(&reason) => Fate::Failed(reason),
            (status, failure) => {
                let (after, had) = (pending.as_secs(), self.points);
                return Err(self.trouble(format!("{id} is {status} ({failure:?}) after {after} s, with {had} points")));
            }
        };
        Ok(Ordered { fan: self, pending, fate })
    }
}

/// A fan whose order is final.
struct Ordered {
    fan: Fan,
    pending: Duration,
    fate: Fate,
}

impl Ordered {
    /// Checks that points and cart match the order's end. Undoing may take a moment.
    async fn look_after(self) -> Result<End, End> {
        let Self { fan, pending, fate } = self;
        let (api, caller) = (&fan.api, &fan.caller);
        let (spent, in_cart) = match fate {
            Fate::Completed => (fan.price(), Vec::new()),
            _ => (0, fan.in_cart()),
        };
        let must = fan.points - spent;
        let balance = fan.expect(until(|balance| *balance == must, || api.balance(caller)).await)?;
        if balance != must {
            return Err(fan.trouble(format!("the order is {fate:?}, there are {balance} points and not {must}")));
        }
        if fan.uses_cart {
            let cart = fan.expect(until(|cart: &Cart| cart.lines == in_cart, || api.cart(caller)).await)?;
            if cart.lines != in_cart {
                return Err(fan.trouble(format!("the order is {fate:?}, the cart has {cart:?}")));
            }
        }
        Ok(End { pieces: fan.pieces, spent, pending, fate })
    }
}

impl Merchandise {
    fn troubles(&self) -> impl Iterator<Item = &str> {
        self.ends.iter().filter_map(|end| match &end.fate {
            Fate::Trouble(what) => Some(what.as_str()),
            _ => None,
        })
    }

    fn completed(&self) -> impl Iterator<Item = &End> {
        self.ends.iter().filter(|end| end.fate == Fate::Completed)
    }

    fn pieces(&self) -> i64 {
        self.completed().map(|end| end.pieces).sum()
    }

    fn spent(&self) -> i64 {
        self.ends.iter().map(|end| end.spent).sum()
    }

    /// How many orders failed, and how many were refused, by reason.
    fn failed(&self) -> [BTreeMap<&str, usize>; 2] {
        let mut by_reason = [BTreeMap::new(), BTreeMap::new()];
        for end in &self.ends {
            let (of, reason) = match &end.fate {
                Fate::Failed(reason) => (0, reason),
                Fate::Refused(reason) => (1, reason),
                Fate::Completed | Fate::Trouble(_) => continue,
            };
            *by_reason[of].entry(reason.as_str()).or_default() += 1;
        }
        by_reason
    }

    /// What did not go as required. Empty when all is well.
    pub fn unmet(&self) -> Vec<String> {
        let mut unmet: Vec<String> = self.troubles().take(SHOWN).map(str::to_owned).collect();
        let more = self.troubles().count().saturating_sub(SHOWN);
        if more > 0 {
            unmet.push(format!("and {more} more fans in trouble"));
        }
        let mut must = |holds: bool, what: String| {
            if !holds {
                unmet.push(what);
            }
        };
        let (sold, left, stock) = (self.pieces(), self.left, self.stock);
        must(sold + left == stock, format!("{sold} pieces are sold and {left} left of {stock}"));
        let (spent, cost) = (self.spent(), sold * PRICE);
        must(spent == cost, format!("{sold} pieces cost {cost} won, {spent} were spent"));
        if self.ends.len() >= MANY_ORDERS {
            let no = |what: &str| format!("it did not happen that {what}");
            let failed = self.failed();
            let happened = |what| failed.iter().any(|reasons| reasons.contains_key(what));
            must(sold > 0, no("an order completed"));
            must(happened("out_of_stock"), no("an order came too late"));
            must(happened("insufficient_points"), no("somebody could not pay an order"));
            must(!self.has_outside || self.refused_outside > 0, no("the data platform was dead"));
        }
        unmet
    }

    /// The summary.
    pub fn write(&self, text: &mut String) -> std::fmt::Result {
        if self.ends.is_empty() {
            return Ok(());
        }
        writeln!(text, "\nMerchandise, with the data platform dead")?;
        let seconds = self.took.as_secs_f64();
        report::line(text, "orders at once", self.ends.len(), &format!("all of them final after {seconds:.1} s"))?;
        let sold = format!("{} of {} pieces, {} left", self.pieces(), thousands(self.stock), self.left);
        report::line(text, "completed", self.completed().count(), &sold)?;
        for (reasons, what) in self.failed().into_iter().zip(["failed and undone", "refused at once"]) {
            for (reason, count) in reasons {
                report::line(text, reason, count, what)?;
            }
        }
        let troubles = self.troubles().count();
        if troubles > 0 {
            report::line(text, "IN TROUBLE", troubles, "")?;
        }
        let spent = usize::try_from(self.spent()).unwrap_or(0);
        report::line(text, "won spent", spent, "and every other won is where it was")?;
        let pending: Vec<_> = self.ends.iter().map(|end| end.pending).filter(|time| !time.is_zero()).collect();
        report::latencies(text, "order placed -> final", &pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(pieces: i64, fate: Fate) -> End {
        let spent = if fate == Fate::Completed { pieces * PRICE } else { 0 };
        End { pieces, spent, pending: Duration::from_secs(2), fate }
    }

    fn sale(ends: Vec<End>, stock: i64, left: i64) -> Merchandise {
        Merchandise { ends, stock, left, refused_outside: 1, has_outside: true, took: Duration::from_secs(9) }
    }

    fn mixed() -> Vec<End> {
        let short = || Fate::Refused("insufficient_points".into());
        let late = || Fate::Failed("out_of_stock".into());
        vec![end(2, Fate::Completed), end(1, Fate::Completed), end(1, short()), end(2, late()), end(1, late())]
    }

    #[test]
    fn a_sale_that_went_well_is_summed_up_and_has_nothing_unmet() {
        let sale = sale(mixed(), 4, 1);
        assert_eq!(sale.unmet(), Vec::<String>::new());
        let mut text = String::new();
        sale.write(&mut text).unwrap();
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for expected in [
            "orders at once 5 all of them final after 9.0 s",
            "completed 2 3 of 4 pieces, 1 left",
            "insufficient_points 1 refused at once",
            "out_of_stock 2 failed and undone",
            "won spent 45,000 and every other won is where it was",
        ] {
            assert!(lines.iter().any(|line| line == expected), "`{expected}` is not in {text}");
        }
    }

    #[test]
    fn whatever_must_not_happen_to_orders_is_reported() {
        let reports = |sale: Merchandise, what: &str| {
            let unmet = sale.unmet();
            assert!(unmet.iter().any(|line| line.contains(what)), "`{what}` is not among {unmet:?}");
        };
        reports(sale(mixed(), 4, 2), "3 pieces are sold and 2 left of 4");
        let mut cheap = mixed();
        cheap[0].spent -= 1;
        reports(sale(cheap, 4, 1), "3 pieces cost 45000 won, 44999 were spent");
        reports(sale(vec![end(1, Fate::Trouble("odd".into()))], 0, 0), "odd");
        let many = (0..MANY_ORDERS).map(|_| end(1, Fate::Failed("timed_out".into()))).collect();
        let quiet = Merchandise { refused_outside: 0, ..sale(many, 4, 4) };
        assert_eq!(quiet.unmet().len(), 4, "{:?}", quiet.unmet());
    }

    #[test]
    fn a_sale_of_nothing_is_not_mentioned() {
        let (nothing, mut text) = (Merchandise::default(), String::new());
        nothing.write(&mut text).unwrap();
        assert!(text.is_empty() && nothing.unmet().is_empty());
    }

    #[test]
    fn fans_are_of_every_kind() {
        let fan = |number| {
            let item = Arc::new(ItemId::parse("i").unwrap());
            Fan::new(Api::new("", 1), item, String::new(), Caller::default(), number)
        };
        let fans: Vec<Fan> = (0..300).map(fan).collect();
        let count = |so: fn(&Fan) -> bool| fans.iter().filter(|fan| so(fan)).count();
        assert_eq!(count(|fan| fan.points < fan.price()), 30);
        assert_eq!(count(|fan| fan.uses_cart), 100);
        assert_eq!(count(|fan| fan.pieces == 2), 60);
        assert!(count(|fan| fan.uses_cart && fan.points < fan.price()) > 0);
    }
}
