//! Every order of delivery, walked as a graph of states.

use crate::graph::{self, Maze, Numbered, Size};
use crate::picture::Picture;
use crate::routes::{Function, Routes};
use crate::stage::{Kept, Rows, Trouble};
use crate::world::{Job, Part, RECEIPTS, World, published};
use contracts::Timestamp;
use contracts::events::Event;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::{fmt, mem};
use tests::fixture::NOW;

/// How old a row of the outbox must be for its sweep, in milliseconds, as [`kit::outbox`] has it.
const OVERDUE_MILLIS: i64 = 60_000;
/// The status of an order that was cancelled.
const CANCELLED: &str = "failed: cancelled";
/// How often the schedule runs, in milliseconds.
const TICK_MILLIS: i64 = 60_000;

/// What can happen to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mishap {
    /// It never arrives.
    Lost,
    /// It arrives twice, one after the other or both at once.
    Doubled,
    /// Its consumer dies before or after any of its writes; it is redelivered.
    Crashed,
    /// The answer to any of its consumer's writes is lost.
    Unanswered,
    /// Another message is handled from beginning to end between its consumer's reads and any of its writes.
    Crossed,
    /// What its consumer publishes stays in the outbox.
    Unpublished,
}

impl Mishap {
    pub const ALL: [Self; 6] =
        [Self::Lost, Self::Doubled, Self::Crashed, Self::Unanswered, Self::Crossed, Self::Unpublished];
}

/// What is walked.
#[derive(Debug, Clone, Copy)]
pub struct Walk {
    /// What may happen, to any message, at any moment.
    pub mishaps: &'static [Mishap],
    /// The maximum of mishaps on one path.
    pub at_most: u8,
    /// The time that it may be at any moment: the orders are swept then.
    pub swept_at: Option<Timestamp>,
    /// Whether the order's user cancels it, at any moment.
    pub is_cancelled: bool,
    /// Functions that are dead all the time.
    pub dead: &'static [&'static str],
}

/// The state before the order, and the content of the order.
#[derive(Debug, Clone)]
pub struct Facts {
    pub stock: i64,
    pub pieces: i64,
    pub balance: i64,
    pub price: i64,
    pub cart: BTreeMap<String, i64>,
    pub cart_without: BTreeMap<String, i64>,
}

/// A message and its consumer, or a scheduled call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Waiting {
    part: Part,
    function: Function,
    event: Option<(String, String)>,
    not_before: Option<Timestamp>,
}

impl Waiting {
    /// A description for people: the event's type and the function.
    fn about(&self) -> (String, String) {
        let event = self.event.as_ref().map_or("the clock", |(event_type, _)| event_type);
        (event.to_owned(), self.function.name.clone())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// Each part's rows, by number.
    tables: [u32; Part::ALL.len()],
    /// What is in flight, by number, rising.
    waiting: Vec<u32>,
    now: Timestamp,
    /// How many mishaps may still happen.
    left: u8,
}

/// The result of a call, by numbers.
#[derive(Debug, Clone)]
struct Played {
    rows: u32,
    published: Vec<u32>,
    done: bool,
    other: bool,
    writes: Vec<usize>,
}

/// What a walk saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub size: Size,
    /// How the order ended.
    pub ends: BTreeSet<String>,
    /// (event, function), of everything that was delivered.
    pub delivered: BTreeSet<(String, String)>,
    /// The same for what each mishap happened to.
    pub struck: BTreeSet<(Mishap, (String, String))>,
    /// (event, function, the function's state of the order before): which event came first.
    pub met: BTreeSet<(String, String, String)>,
}

/// One world, and every call that was ever tried in it.
pub struct Explorer {
    pub world: World,
    pub facts: Facts,
    routes: Routes,
    tables: [Kept<Picture>; Part::ALL.len()],
    waiting: Numbered<Waiting>,
    tried: HashMap<(u32, Job, Trouble<Job>), Rc<Played>>,
    root: State,
}

impl Explorer {
    /// Begins where the order was placed and its event has left the outbox. `before` is the orders' table before that.
    /// The stock is told of a rival's order as well, if there is one.
    pub async fn new(world: World, facts: Facts, before: &Rows, rival: Option<Event>) -> Self {
        let mut explorer = Self {
            world,
            facts,
            routes: Routes::read(),
            tables: Default::default(),
            waiting: Numbered::default(),
            tried: HashMap::new(),
            root: State { tables: [0; Part::ALL.len()], waiting: Vec::new(), now: NOW, left: 0 },
        };
        let placed = explorer.world.stage.rows("orders").await;
        explorer.world.relay("orders", before, &placed, NOW).await;
        let rival = rival.map(|event| {
            let text = Some(("order.placed".to_owned(), serde_json::to_string(&event).unwrap()));
            let function = explorer.routes.listeners("order.placed").find(|function| function.context == "items");
            Waiting { part: Part::Stock, function: function.unwrap().clone(), event: text, not_before: None }
        });
        let rival = rival.map(|waiting| explorer.waiting.of(waiting));
        for part in Part::ALL {
            let rows = explorer.world.rows_of(part).await;
            if part == Part::Order {
                explorer.root.waiting = explorer.messages(published(before, &rows));
                explorer.root.waiting.extend(rival);
                explorer.root.waiting.sort_unstable();
            }
            explorer.root.tables[part as usize] = explorer.keep(part, rows);
        }
        explorer
    }

    /// How many calls were really made.
    pub fn calls(&self) -> usize {
        self.tried.len()
    }

    fn keep(&mut self, part: Part, rows: Rows) -> u32 {
        let is_by_chance = |name: &str| ["unpublished_shard", "due_shard", "lease"].contains(&name);
        self.tables[part as usize].of(rows, is_by_chance, Picture::of)
    }

    fn waiting(&self, message: u32) -> &Waiting {
        self.waiting.get(message).unwrap()
    }

    /// The messages that events become.
    fn messages(&mut self, events: Vec<Event>) -> Vec<u32> {
        let mut messages = Vec::new();
        for event in events {
            let event_type = event.body.event_type();
            let text = serde_json::to_string(&event).unwrap();
            let listeners: Vec<Function> = self.routes.listeners(event_type).cloned().collect();
            for function in listeners {
                let event = Some((event_type.to_owned(), text.clone()));
                let part = Part::of(&function);
                messages.push(self.waiting.of(Waiting { part, function, event, not_before: None }));
            }
        }
        messages
    }

    fn job(&self, waiting: u32, now: Timestamp) -> Job {
        let Waiting { part, function, event, not_before } = self.waiting(waiting);
        let now = not_before.map_or(now, |earliest| now.max(earliest));
        Job { part: *part, function: function.clone(), event: event.as_ref().map(|(_, text)| text.clone()), now }
    }

    /// Makes a call on a state's table, or returns the remembered result.
    async fn play(&mut self, state: &State, job: &Job, trouble: Trouble<Job>) -> Rc<Played> {
        let index = job.part as usize;
        let key = (state.tables[index], job.clone(), trouble);
        if let Some(played) = self.tried.get(&key) {
            return Rc::clone(played);
        }
        let before = self.tables[index].rows(key.0);
        let outcome = self.world.play(before, job, &key.2).await;
        if let (Err(why), Trouble::None) = (&outcome.done, &key.2) {
            assert!([Part::Report, Part::Receipt].contains(&job.part), "{job:?} fails without a reason: {why}");
        }
        let rows = self.keep(job.part, outcome.rows);
        let published = self.messages(outcome.published);
        let (done, other, writes) = (outcome.done.is_ok(), outcome.other.is_ok(), outcome.writes);
        let played = Rc::new(Played { rows, published, done, other, writes });
        self.tried.insert(key, Rc::clone(&played));
        played
    }

    fn picture(&self, state: &State, part: Part) -> &Picture {
        self.tables[part as usize].picture(state.tables[part as usize])
    }

    /// The state after a call: `kept` still waits, and so do the published events.
    fn after(&self, state: &State, job: &Job, played: &Played, kept: Vec<u32>, walk: &Walk, left: u8) -> State {
        let mut next = State { waiting: kept, now: state.now.max(job.now), left, ..state.clone() };
        next.tables[job.part as usize] = played.rows;
        let is_dead = |message: &&u32| walk.dead.contains(&self.waiting(**message).function.name.as_str());
        next.waiting.extend(played.published.iter().filter(|message| !is_dead(message)));
        next.waiting.sort_unstable();
        next
    }

    /// The successors of a state: which waiting message, whether by the mishap, and the next state.
    async fn next(&mut self, state: &State, walk: &Walk, seen: &mut Seen) -> Vec<(u32, bool, State)> {
        let mut next = Vec::new();
        let mut distinct = state.waiting.clone();
        distinct.dedup();
        for &message in &distinct {
            let job = self.job(message, state.now);
            let about = self.waiting(message).about();
            let calm = self.play(state, &job, Trouble::None).await;
            let rest = without(&state.waiting, message);
            if calm.done {
                let work = self.picture(state, job.part).work.clone();
                seen.met.insert((about.0.clone(), about.1.clone(), work));
                seen.delivered.insert(about.clone());
                next.push((message, false, self.after(state, &job, &calm, rest.clone(), walk, state.left)));
            }
            if state.left > 0 {
                for mishap in walk.mishaps {
                    let struck = self.strike(state, walk, message, &job, &calm, *mishap).await;
                    if !struck.is_empty() {
                        seen.struck.insert((*mishap, about.clone()));
                    }
                    next.extend(struck.into_iter().map(|state| (message, true, state)));
                }
            }
        }
        if next.iter().all(|(_, is_mishap, _)| *is_mishap) {
            next.extend(self.tick(state).map(|state| (u32::MAX, false, state)));
        }
        next
    }

    /// The successors of a state by a mishap to a message.
    async fn strike(
        &mut self,
        state: &State,
        walk: &Walk,
        message: u32,
        job: &Job,
        calm: &Played,
        mishap: Mishap,
    ) -> Vec<State> {
        let left = state.left - 1;
        let rest = without(&state.waiting, message);
        let kept = |is_done: bool| if is_done { rest.clone() } else { state.waiting.clone() };
        let mut next = Vec::new();
        match mishap {
            Mishap::Lost if can_be_lost(job) => next.push(State { waiting: rest, left, ..state.clone() }),
            Mishap::Doubled => {
                next.push(self.after(state, job, calm, kept(false), walk, left));
                for &nth in &calm.writes {
                    let both = self.play(state, job, Trouble::Crossed(nth, job.clone())).await;
                    let again = [both.done, both.other].into_iter().filter(|is_done| !is_done).map(|_| message);
                    let still = rest.iter().copied().chain(again).collect();
                    next.push(self.after(state, job, &both, still, walk, left));
                }
            }
            Mishap::Crashed => {
                for &nth in &calm.writes {
                    let died = self.play(state, job, Trouble::Dies(nth)).await;
                    next.push(self.after(state, job, &died, kept(false), walk, left));
                }
                next.push(self.after(state, job, calm, kept(false), walk, left));
            }
            Mishap::Unanswered => {
                for &nth in &calm.writes {
                    let unanswered = self.play(state, job, Trouble::Unanswered(nth)).await;
                    next.push(self.after(state, job, &unanswered, kept(unanswered.done), walk, left));
                }
            }
            Mishap::Crossed => {
                let mut others = rest.clone();
                others.dedup();
                others.retain(|other| {
                    let other = self.waiting(*other);
                    other.part == job.part && !other.function.name.ends_with("-outbox")
                });
                for other in others {
                    let crossing = self.job(other, state.now);
                    for &nth in &calm.writes {
                        let crossed = self.play(state, job, Trouble::Crossed(nth, crossing.clone())).await;
                        let still = kept(crossed.done);
                        let still = if crossed.other { without(&still, other) } else { still };
                        let after = self.after(state, job, &crossed, still, walk, left);
                        next.push(State { now: after.now.max(crossing.now), ..after });
                    }
                }
            }
            Mishap::Unpublished if !calm.published.is_empty() => {
                let unpublished = self.play(state, job, Trouble::Unpublished).await;
                next.push(self.after(state, job, &unpublished, rest, walk, left));
            }
            Mishap::Lost | Mishap::Unpublished => {}
        }
        next
    }

    /// Nothing can be done before the schedule runs again: the calls that then find something to do. `None` if nothing
    /// is left for them either.
    fn tick(&mut self, state: &State) -> Option<State> {
        let overdue = |since: &Timestamp| since.plus_millis(OVERDUE_MILLIS + 1);
        let mut calls: Vec<(Timestamp, Part, Function)> = Vec::new();
        for part in Part::ALL {
            let picture = self.picture(state, part);
            if let Some(at) = picture.waiting_since.iter().map(overdue).min() {
                calls.push((at, part, self.routes.scheduled(part.context(), "outbox").clone()));
            }
            if let Some(at) = picture.due {
                calls.push((at, part, self.routes.scheduled(part.context(), "sweep-orders").clone()));
            }
        }
        let time_limit = (!state.waiting.is_empty()).then(|| state.now.plus_millis(1));
        let first = calls.iter().map(|(at, ..)| *at).chain(time_limit).min()?.max(state.now.plus_millis(1));
        let ticks = (first.millis_since(NOW) + TICK_MILLIS - 1) / TICK_MILLIS;
        let now = NOW.plus_millis(ticks * TICK_MILLIS);
        let mut next = State { now, ..state.clone() };
        for (at, part, function) in calls {
            if at <= now {
                next.waiting.push(self.waiting.of(Waiting { part, function, event: None, not_before: Some(now) }));
            }
        }
        next.waiting.sort_unstable();
        Some(next)
    }

    /// Walks all paths from the order's beginning to its ends. A violation is reported with the path that leads there.
    pub async fn walk(&mut self, walk: &Walk) -> Result<Seen, String> {
        let mut root = State { left: walk.at_most, ..self.root.clone() };
        root.waiting.retain(|message| !walk.dead.contains(&self.waiting(*message).function.name.as_str()));
        if let Some(at) = walk.swept_at {
            let function = self.routes.scheduled("orders", "sweep-orders").clone();
            root.waiting.push(self.waiting.of(Waiting {
                part: Part::Order,
                function,
                event: None,
                not_before: Some(at),
            }));
        }
        if walk.is_cancelled {
            let function = Function { name: "cancel-order".into(), context: "orders".into() };
            root.waiting.push(self.waiting.of(Waiting { part: Part::Order, function, event: None, not_before: None }));
        }
        root.waiting.sort_unstable();
        let mut orders = Orders { explorer: self, walk, seen: Seen::default() };
        let size = graph::walk(&mut orders, root).await?;
        let seen = Seen { size, ..orders.seen };
        self.all_were_notified(walk, &seen).map(|()| seen)
    }

    /// I6: every published event has reached every consumer that the rules route it to.
    fn all_were_notified(&self, walk: &Walk, seen: &Seen) -> Result<(), String> {
        for (event, _) in &seen.delivered {
            for Function { name, .. } in
                self.routes.listeners(event).filter(|to| !walk.dead.contains(&to.name.as_str()))
            {
                if !seen.delivered.contains(&(event.clone(), name.clone())) {
                    return Err(format!("I6: {event} never reached {name}"));
                }
            }
        }
        Ok(())
    }

    /// The violations in a state, or at the end of all.
    fn wrong(&self, state: &State, walk: &Walk, is_end: bool) -> Vec<String> {
        let facts = &self.facts;
        let pictures = Part::ALL.map(|part| self.picture(state, part));
        let [stock, points, cart, order, _, receipt] = pictures;
        let mut wrong: Vec<String> = pictures.iter().flat_map(|picture| picture.wrong.clone()).collect();
        let mut must = |holds: bool, what: &str| {
            if !holds {
                wrong.push(what.to_owned());
            }
        };
        let taken = |sold: i64, paid: i64| stock.sold - stock.rival == sold && points.balance == facts.balance - paid;
        let answered = |work: &str| ["stock", "points", "cart"].iter().all(|name| order.answers[*name] == work);
        let (is_completed, is_failed) = (order.status == "completed", order.status.starts_with("failed"));
        must(stock.stock + stock.sold == facts.stock, "units appear or vanish");
        must(stock.bought == stock.limited, "a limit does not count what its user has");
        must(
            order.is_pending == (order.status == "pending"),
            "it is counted as pending and is not, or is and is not counted",
        );
        must(points.entries.windows(2).all(|pair| pair[0] != pair[1]), "an effect came twice");
        let published = |kind: &str| order.events.iter().any(|event| event == kind);
        let ends = (published("order.completed"), published("order.failed"));
        // What is cancelled may have been completed.
        let may_differ = order.status == CANCELLED;
        must(
            ends.1 == is_failed && (ends.0 == is_completed || may_differ),
            "the order's end is not what was said of it",
        );
        if is_completed {
            must(taken(facts.pieces, facts.price), "I10: complete without all its debits");
            must(cart.cart == facts.cart_without, "complete, and its lines are in the cart");
            must(answered("done"), "complete, and not everybody has done their part");
        }
        let has_receipt = receipt.is_issued && !receipt.is_receipt_cancelled;
        must(is_failed || !receipt.is_receipt_cancelled, "its receipt is cancelled, and it is not");
        if is_end && !walk.dead.contains(&RECEIPTS) {
            must(has_receipt == is_completed, "I6: its receipt is not what became of it");
        }
        if is_end {
            must(is_completed || is_failed, "it never ended");
            must(order.due.is_none(), "it is looked after for ever");
            must(pictures.iter().all(|picture| picture.waiting_since.is_empty()), "an event was never said");
        }
        if is_end && is_failed {
            must(taken(0, 0), "I10: failed, and not without debits");
            must(cart.cart == facts.cart, "failed, and the cart is not as it was");
            must([stock, points, cart].iter().all(|part| part.work == "undone"), "somebody's part is not undone");
            must(answered("undone"), "somebody has not said so");
        }
        wrong
    }
}

/// The orders of delivery of one walk.
struct Orders<'a> {
    explorer: &'a mut Explorer,
    walk: &'a Walk,
    seen: Seen,
}

impl Maze for Orders<'_> {
    type State = State;

    async fn next(&mut self, state: &State) -> Vec<(u32, bool, State)> {
        let mut seen = mem::take(&mut self.seen);
        let next = self.explorer.next(state, self.walk, &mut seen).await;
        self.seen = seen;
        next
    }

    fn wrong(&mut self, state: &State, is_last: bool) -> Vec<String> {
        if is_last {
            self.seen.ends.insert(self.explorer.picture(state, Part::Order).status.clone());
        }
        self.explorer.wrong(state, self.walk, is_last)
    }

    fn forbidden(&self, before: &State, after: &State) -> Option<String> {
        let [before, after] = [before, after].map(|state| &self.explorer.picture(state, Part::Order).status);
        let is_cancelled = before == "completed" && after == CANCELLED;
        (before != after && before != "pending" && !is_cancelled).then(|| format!("{before} became {after}"))
    }

    fn about(&self, what: u32) -> String {
        let about = self.explorer.waiting.get(what).map(|waiting| waiting.about());
        let (event, function) = about.unwrap_or_else(|| ("time".to_owned(), "passes".to_owned()));
        format!("{event} -> {function}")
    }
}

/// Nothing is asked of a receipt twice: a message for it that a queue lost would be missed by nobody.
fn can_be_lost(job: &Job) -> bool {
    job.event.is_some() && job.part != Part::Receipt
}

fn without(waiting: &[u32], message: u32) -> Vec<u32> {
    let mut rest = waiting.to_vec();
    let at = rest.iter().position(|waiting| *waiting == message).unwrap();
    rest.remove(at);
    rest
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ways through {} states, ends {:?}", self.size.ways, self.size.states, self.ends)
    }
}
