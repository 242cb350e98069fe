//! Everything that can happen to a reservation that is paid for, in every order, walked as a graph of states.

use super::picture::{Picture, audit};
use super::world::{Call, Outcome, Part, RESERVATION, Start, World, alice};
use crate::graph::{self, Maze, Numbered, Size};
use crate::stage::{Kept, Rows, Trouble};
use contracts::saga::error_name;
use contracts::steps::{ExtendHold, HoldExtension, Quote, QuoteRefund, QuoteReservation, RefundQuote};
use contracts::{PaymentId, Timestamp};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::{fmt, mem};
use tests::fixture::NOW;
use tests::machine::{End, Machine, Position, TaskError, TaskResult, payment_saga, refund_saga};

/// When it all begins.
const BEGIN: Timestamp = NOW.plus_seconds(10);
/// The rows that a transaction can meet another one on, by a part of their keys.
const ROWS: [&str; 8] =
    ["RES#r1", "RES#r2", "SEAT#A-1-1", "SEAT#A-1-2", "CONCERT#concert", "PAY#p1", "PAY#p2", "IDEM#refund"];

/// What can happen to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mishap {
    /// Its process dies before any of its writes, or it never gets to answer after the last.
    Crashed,
    /// The answer to any of its writes is lost.
    Unanswered,
    /// It hangs: its caller goes on without it, and it takes effect at any later moment, or never.
    Late,
    /// Another call is carried out from beginning to end between its reads and any of its writes.
    Crossed,
    /// A transaction of its own is cancelled for mixed reasons: one of its rows met another transaction.
    Masked,
}

impl Mishap {
    pub const ALL: [Self; 5] = [Self::Crashed, Self::Unanswered, Self::Late, Self::Crossed, Self::Masked];
}

/// What may happen once, at any moment, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wish {
    /// Another payment of the same reservation.
    PayAgain,
    /// The user cancels the reservation.
    Cancel,
    /// Another user wants one of its seats, and tries until it is free.
    TakeOver,
    /// The user wants a payment paid back.
    Refund,
    /// The hold's end passes.
    Time,
    /// The user buys points and wants more time; later the hold's new end passes, too.
    Extend,
}

/// What is walked.
#[derive(Debug, Clone, Copy)]
pub struct Walk {
    pub wishes: &'static [Wish],
    pub mishaps: &'static [Mishap],
    /// The maximum of mishaps on one path.
    pub at_most: u8,
}

/// What can happen next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Token {
    /// A step of an execution.
    Step {
        payment: String,
        is_refund: bool,
        state: String,
        data: String,
    },
    /// Nobody runs a saga that is open: the recovery does.
    Recover {
        payment: String,
        is_refund: bool,
        data: String,
    },
    /// A call that hangs.
    Late(Call),
    /// A payment is requested: first its price is asked.
    Pay {
        payment: String,
    },
    /// The price was told.
    Start {
        payment: String,
        input: String,
        now: Timestamp,
    },
    /// A refund is requested: first it is asked whether it may be.
    Refund {
        payment: String,
    },
    /// It may.
    StartRefund {
        payment: String,
        now: Timestamp,
    },
    Cancel,
    TakeOver {
        reservation: String,
    },
    /// The message about the hold's end is due once that has passed.
    Expire,
    Sweep,
    Time,
    Extend,
    /// The message about the later end.
    ExpireExtended,
    LaterTime,
}

impl Token {
    /// Whether it happens in any case.
    const fn must_happen(&self) -> bool {
        matches!(self, Self::Step { .. } | Self::Recover { .. } | Self::Expire | Self::ExpireExtended | Self::Sweep)
    }

    /// Whether its caller may go on while it hangs. Of the others this says nothing new: they wait as well, or read.
    const fn can_hang(&self) -> bool {
        matches!(self, Self::Step { .. } | Self::Cancel | Self::TakeOver { .. } | Self::Expire | Self::Extend)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step { payment, state, .. } => write!(f, "{state} of {payment}"),
            Self::Late(call) => write!(f, "late, of {:?}: {}", call.now, call.function),
            Self::Recover { payment, .. } => write!(f, "recovery of {payment}"),
            other => write!(f, "{other:?}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// Each part's rows, by number.
    tables: [u32; Part::ALL.len()],
    /// What can happen, by number, rising.
    waiting: Vec<u32>,
    now: Timestamp,
    /// How many mishaps may still happen.
    left: u8,
}

/// The result of a call, by numbers.
#[derive(Debug)]
struct Played {
    rows: u32,
    done: u32,
    other: u32,
    writes: Vec<usize>,
    /// Its transactions that were cancelled, and which of the rows each contains.
    cancelled: Vec<(usize, &'static str)>,
}

/// What a walk saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub size: Size,
    /// How it ended.
    pub ends: BTreeSet<String>,
    /// What each mishap happened to.
    pub struck: BTreeSet<(Mishap, String)>,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ways through {} states to {} ends", self.size.ways, self.size.states, self.ends.len())
    }
}

/// What is answered: a task's result, whose error's name is one of a few.
type Answer = Result<String, (&'static str, String)>;

/// What may wait in a token's place: one of these, each the numbers of tokens.
type Followed = Rc<Vec<Vec<u32>>>;

/// One world, and every call that was ever tried in it.
pub struct Explorer {
    pub world: World,
    machines: [Machine; 2],
    tables: [Kept<Picture>; Part::ALL.len()],
    tokens: Numbered<Token>,
    calls: Numbered<Call>,
    answers: Numbered<Answer>,
    tried: HashMap<(u32, u32, Trouble<u32>), Rc<Played>>,
    called: HashMap<(u32, Timestamp), Rc<Vec<u32>>>,
    followed: HashMap<(u32, u32, Timestamp), Followed>,
    audited: HashMap<([u32; Part::ALL.len()], Timestamp, bool), Rc<Vec<String>>>,
    /// Calls that must not end as they did.
    wrong: Vec<String>,
    root: State,
}

/// What differs between rows by chance, or is never acted on: when something happened, where no decision depends on it.
fn is_by_chance(name: &str) -> bool {
    let told = ["unpublished_shard", "due_shard", "created_at", "event", "settled_at", "refunded_at", "ttl", "at"];
    told.contains(&name) || name.starts_with("spent#") || name.starts_with("v#")
}

impl Explorer {
    /// Begins where a payment of the reservation was started. The user can pay so often.
    pub async fn new(payable: i64) -> Self {
        let mut explorer = Self {
            world: World::new(payable).await,
            machines: [payment_saga(), refund_saga()],
            tables: Default::default(),
            tokens: Numbered::default(),
            calls: Numbered::default(),
            answers: Numbered::default(),
            tried: HashMap::new(),
            called: HashMap::new(),
            followed: HashMap::new(),
            audited: HashMap::new(),
            wrong: Vec::new(),
            root: State { tables: [0; Part::ALL.len()], waiting: Vec::new(), now: BEGIN, left: 0 },
        };
        for part in Part::ALL {
            let rows = explorer.world.stage.rows(part.context()).await;
            explorer.root.tables[part as usize] = explorer.keep(part, rows);
        }
        let mut root = explorer.root.clone();
        root.waiting = vec![explorer.tokens.of(Token::Pay { payment: "p1".to_owned() })];
        for _ in ["its price", "its start"] {
            let token = root.waiting[0];
            let call = explorer.calls_of(token, BEGIN)[0];
            let played = explorer.play(&root, call, Trouble::None).await;
            let next = explorer.follow(token, played.done, BEGIN)[0].clone();
            root = explorer.after(&root, call, &played, &[], &next, 0);
        }
        explorer.root = root;
        explorer
    }

    /// How many calls were really made.
    pub fn calls(&self) -> usize {
        self.tried.len()
    }

    fn keep(&mut self, part: Part, rows: Rows) -> u32 {
        self.tables[part as usize].of(rows, is_by_chance, |rows| Picture::of(part, rows))
    }

    fn token(&self, number: u32) -> Rc<Token> {
        Rc::clone(self.tokens.get(number).unwrap())
    }

    fn part_of(&self, call: u32) -> Part {
        Part::of(&self.calls.get(call).unwrap().function)
    }

    fn picture(&self, state: &State, part: Part) -> &Picture {
        self.tables[part as usize].picture(state.tables[part as usize])
    }

    /// Makes a call on a state's table, or returns the remembered result.
    async fn play(&mut self, state: &State, call: u32, trouble: Trouble<u32>) -> Rc<Played> {
        let part = self.part_of(call);
        let key = (state.tables[part as usize], call, trouble);
        if let Some(played) = self.tried.get(&key) {
            return Rc::clone(played);
        }
        let job = Rc::clone(self.calls.get(call).unwrap());
        let trouble = match &key.2 {
            Trouble::Crossed(nth, other) => Trouble::Crossed(*nth, Call::clone(self.calls.get(*other).unwrap())),
            Trouble::Dies(nth) => Trouble::Dies(*nth),
            Trouble::Unanswered(nth) => Trouble::Unanswered(*nth),
            Trouble::Masked(nth, row) => Trouble::Masked(*nth, row),
            Trouble::None | Trouble::Unpublished => Trouble::None,
        };
        let before = self.tables[part as usize].rows(key.0);
        let outcome = self.world.play(before, &job, &trouble).await;
        let Outcome { rows, done, other, writes, transactions } = outcome;
        let rows = self.keep(part, rows);
        for (job, answer) in [(Some(&*job), &done), (crossing(&trouble), &other)] {
            if let (Some(job), Some(Err(error))) = (job, answer)
                && (error.name == error_name::BROKEN || trouble == Trouble::None && error.name != error_name::REFUSED)
            {
                self.wrong.push(format!("{} failed under {:?}: {error:?}", job.function, key.2));
            }
        }
        let [done, other] = [done, other].map(|answer| self.answer(answer.unwrap_or_else(timed_out)));
        // Where something was written, the last write succeeded.
        let written = writes.last().copied().filter(|_| rows != key.0);
        let is_cancelled = |nth: usize| Some(nth) != written;
        let met = |(nth, body): &(usize, String)| {
            ROWS.into_iter().filter(|row| body.contains(row)).map(|row| (*nth, row)).collect::<Vec<_>>()
        };
        let cancelled = transactions.iter().filter(|(nth, _)| is_cancelled(*nth)).flat_map(met).collect();
        let played = Rc::new(Played { rows, done, other, writes, cancelled });
        self.tried.insert(key, Rc::clone(&played));
        played
    }

    fn answer(&mut self, result: TaskResult) -> u32 {
        self.answers.of(match result {
            Ok(answer) => Ok(answer.to_string()),
            Err(TaskError { name: error_name::REFUSED, message }) => Err((error_name::REFUSED, message)),
            Err(TaskError { name, .. }) => Err((name, String::new())),
        })
    }

    /// The calls of a token that may be made at a time: none, one, or two when it is not known what its clock says.
    fn calls_of(&mut self, token: u32, now: Timestamp) -> Rc<Vec<u32>> {
        if let Some(called) = self.called.get(&(token, now)) {
            return Rc::clone(called);
        }
        let call = |function: &str, input: String| Call { function: function.to_owned(), input, now };
        let reservation_id = || RESERVATION.to_owned().try_into().unwrap();
        let own = || json!(QuoteReservation { user_id: alice(), reservation_id: reservation_id() }).to_string();
        let calls = match &*self.token(token) {
            Token::Step { state, data, .. } => vec![call(state, data.clone())],
            Token::Late(late) if late.now == now => vec![late.clone()],
            // Its process hung, or was begun late.
            Token::Late(late) => vec![late.clone(), Call { now, ..late.clone() }],
            Token::Pay { .. } => vec![call("quote-reservation", own())],
            Token::Start { input, now, .. } => vec![Call { now: *now, ..call("start-payment", input.clone()) }],
            Token::Refund { payment } => {
                let payment_id = PaymentId::parse(payment.clone()).unwrap();
                let ask = QuoteRefund { user_id: alice(), reservation_id: reservation_id(), payment_id };
                vec![call("quote-refund", json!(ask).to_string())]
            }
            Token::StartRefund { payment, now } => {
                vec![Call { now: *now, ..call("start-refund", json!(payment).to_string()) }]
            }
            Token::Cancel => vec![call("cancel-reservation", own())],
            Token::TakeOver { reservation } => vec![call("reserve-seats", json!(reservation).to_string())],
            Token::Expire => vec![call("expire-hold", self.world.held.clone())],
            Token::ExpireExtended => vec![call("expire-hold", self.world.extended.clone())],
            Token::Extend => {
                let ask = ExtendHold { user_id: alice(), reservation_id: reservation_id(), is_topping_up: true };
                vec![call("extend-hold", json!(ask).to_string())]
            }
            Token::Sweep => vec![call("sweep-holds", "null".to_owned())],
            Token::Time | Token::LaterTime | Token::Recover { .. } => Vec::new(),
        };
        let called = Rc::new(calls.into_iter().map(|call| self.calls.of(call)).collect::<Vec<u32>>());
        self.called.insert((token, now), Rc::clone(&called));
        called
    }

    /// What may follow on the answer to a token's call, or on its time-out: each time what waits in its place.
    fn follow(&mut self, token: u32, answer: u32, now: Timestamp) -> Followed {
        let key = (token, answer, now);
        if let Some(followed) = self.followed.get(&key) {
            return Rc::clone(followed);
        }
        let (what, answer) = (self.token(token), Rc::clone(self.answers.get(answer).unwrap()));
        let followed = self.follows(&what, &answer, now);
        let numbered = |next: Vec<Token>| next.into_iter().map(|token| self.tokens.of(token)).collect();
        let followed: Followed = Rc::new(followed.into_iter().map(numbered).collect());
        self.followed.insert(key, Rc::clone(&followed));
        followed
    }

    fn follows(&self, token: &Token, answer: &Answer, now: Timestamp) -> Vec<Vec<Token>> {
        let value = |text: &String| serde_json::from_str::<Value>(text).unwrap();
        match (token, answer) {
            (Token::Step { payment, is_refund, state, data }, answer) => {
                let machine = &self.machines[usize::from(*is_refund)];
                let at = Position { state: state.clone(), data: value(data) };
                let path = &mut Vec::new();
                match answer {
                    Ok(answer) => vec![stand(payment, *is_refund, machine.answered(at, value(answer), path))],
                    Err((name, message)) => {
                        let again = machine.retries(state, name).then(|| vec![token.clone()]);
                        let error = TaskError { name, message: message.clone() };
                        let given_up = stand(payment, *is_refund, machine.given_up(at, &error, path));
                        again.into_iter().chain([given_up]).collect()
                    }
                }
            }
            (Token::Pay { payment }, Ok(quote)) => match serde_json::from_str(quote).unwrap() {
                quote @ Quote::Payable(_) => {
                    let (id, reservation) = (PaymentId::parse(payment.clone()).unwrap(), RESERVATION.to_owned());
                    let start = Start { payment: id, reservation: reservation.try_into().unwrap(), quote };
                    vec![vec![Token::Start { payment: payment.clone(), input: json!(start).to_string(), now }]]
                }
                Quote::NotPayable | Quote::NotFound => vec![vec![token.clone()]],
            },
            (Token::Start { payment, .. } | Token::StartRefund { payment, .. }, Ok(input)) => {
                let is_refund = matches!(token, Token::StartRefund { .. });
                let started = self.machines[usize::from(is_refund)].start(value(input), &mut Vec::new());
                vec![stand(payment, is_refund, started)]
            }
            (Token::Refund { payment }, Ok(quote)) => match serde_json::from_str(quote).unwrap() {
                RefundQuote::Refundable => vec![vec![Token::StartRefund { payment: payment.clone(), now }]],
                RefundQuote::NotRefundable | RefundQuote::TooLate { .. } => vec![vec![token.clone()]],
            },
            // It is being paid: it may be a hold again.
            (Token::Extend, Ok(answer)) => match serde_json::from_str(answer).unwrap() {
                HoldExtension::Extended { .. } => vec![Vec::new()],
                _ => vec![vec![token.clone()]],
            },
            // The client gives up: what was recorded, the recovery brings to an end.
            (Token::Start { .. } | Token::StartRefund { .. }, Err(_)) => vec![Vec::new()],
            (_, Ok(_)) | (Token::Late(_) | Token::Sweep, Err(_)) => vec![Vec::new()],
            // Who tries again asks for another reservation, as far as ids go.
            (Token::TakeOver { .. }, Err((name, _))) if *name != error_name::REFUSED => {
                vec![vec![Token::TakeOver { reservation: "r3".to_owned() }]]
            }
            (_, Err(_)) => vec![vec![token.clone()]],
        }
    }

    /// The state after a call: `rest` still waits, and so does what follows.
    fn after(&self, state: &State, call: u32, played: &Played, rest: &[u32], next: &[u32], left: u8) -> State {
        let mut waiting: Vec<u32> = rest.iter().chain(next).copied().collect();
        waiting.sort_unstable();
        let mut after = State { waiting, left, ..state.clone() };
        after.tables[self.part_of(call) as usize] = played.rows;
        after
    }

    /// What can happen in a state, each once: what waits and is due, and what the schedules find.
    fn enabled(&mut self, state: &State) -> Vec<u32> {
        let (mut enabled, mut runs) = (state.waiting.clone(), Vec::new());
        enabled.dedup();
        enabled.retain(|token| match &**self.tokens.get(*token).unwrap() {
            Token::Step { payment, is_refund, .. } => {
                runs.push((payment.clone(), *is_refund));
                true
            }
            Token::Refund { payment } => self.picture(state, Part::Payments).completed.contains(payment),
            Token::Expire => state.now >= self.world.over,
            Token::ExpireExtended => {
                state.now >= self.world.over_at_last() && self.picture(state, Part::Seats).is_extended
            }
            Token::LaterTime => state.now == self.world.over,
            _ => true,
        });
        if self.picture(state, Part::Seats).due.is_some_and(|due| due <= state.now) {
            enabled.push(self.tokens.of(Token::Sweep));
        }
        let open = &self.picture(state, Part::Payments).open;
        let is_stuck =
            |(payment, is_refund, _): &&(String, bool, String)| !runs.contains(&(payment.clone(), *is_refund));
        let stuck: Vec<_> = open.iter().filter(is_stuck).cloned().collect();
        for (payment, is_refund, data) in stuck {
            enabled.push(self.tokens.of(Token::Recover { payment, is_refund, data }));
        }
        enabled
    }

    /// Whether nothing has to happen any more.
    fn is_settled(&mut self, state: &State) -> bool {
        let enabled = self.enabled(state);
        !enabled.into_iter().any(|token| self.token(token).must_happen())
    }

    /// The successors of a state: by which token, whether by the mishap, and the next state.
    async fn next(&mut self, state: &State, walk: &Walk, seen: &mut Seen) -> Vec<(u32, bool, State)> {
        let mut next = Vec::new();
        for token in self.enabled(state) {
            let rest = without(&state.waiting, token);
            match &*self.token(token) {
                passes @ (Token::Time | Token::LaterTime) => {
                    let over = if *passes == Token::Time { self.world.over } else { self.world.over_at_last() };
                    next.push((token, false, State { now: over, waiting: rest.clone(), ..state.clone() }));
                }
                Token::Recover { payment, is_refund, data } => {
                    let input = serde_json::from_str(data).unwrap();
                    let started = self.machines[usize::from(*is_refund)].start(input, &mut Vec::new());
                    let first = stand(payment, *is_refund, started).into_iter().map(|token| self.tokens.of(token));
                    let mut waiting: Vec<u32> = state.waiting.iter().copied().chain(first).collect();
                    waiting.sort_unstable();
                    next.push((token, false, State { waiting, ..state.clone() }));
                }
                _ => {}
            }
            for &call in &*self.calls_of(token, state.now) {
                let calm = self.play(state, call, Trouble::None).await;
                for follows in &*self.follow(token, calm.done, state.now) {
                    next.push((token, false, self.after(state, call, &calm, &rest, follows, state.left)));
                }
                if state.left == 0 {
                    continue;
                }
                for mishap in walk.mishaps {
                    let struck = self.strike(state, (token, call), &calm, *mishap).await;
                    if !struck.is_empty() {
                        seen.struck.insert((*mishap, self.calls.get(call).unwrap().function.clone()));
                    }
                    next.extend(struck.into_iter().map(|state| (token, true, state)));
                }
            }
        }
        // What changes nothing, but that a mishap less is left, leads nowhere.
        next.retain(|(_, _, after)| {
            (&after.tables, &after.waiting, after.now) != (&state.tables, &state.waiting, state.now)
        });
        next
    }

    /// The successors of a state by a mishap to a call.
    async fn strike(&mut self, state: &State, (token, call): (u32, u32), calm: &Played, mishap: Mishap) -> Vec<State> {
        let left = state.left - 1;
        let rest = without(&state.waiting, token);
        let unknown = self.answer(timed_out());
        let lost = self.follow(token, unknown, state.now);
        let untouched = Played { rows: state.tables[self.part_of(call) as usize], ..played_nothing(unknown) };
        let mut next = Vec::new();
        match mishap {
            Mishap::Crashed => {
                let mut ends = vec![Rc::new(untouched)];
                for &nth in calm.writes.iter().filter(|nth| **nth > 0) {
                    ends.push(self.play(state, call, Trouble::Dies(nth)).await);
                }
                let rows = ends.iter().map(|end| end.rows).chain([calm.rows]).collect::<BTreeSet<_>>();
                for rows in rows {
                    let died = Played { rows, ..played_nothing(unknown) };
                    next.extend(lost.iter().map(|follows| self.after(state, call, &died, &rest, follows, left)));
                }
            }
            Mishap::Unanswered => {
                for &nth in &calm.writes {
                    let played = self.play(state, call, Trouble::Unanswered(nth)).await;
                    next.extend(self.ends(state, (token, call), &played, &rest, left));
                }
            }
            Mishap::Late if self.token(token).can_hang() => {
                let hangs = self.tokens.of(Token::Late(Call::clone(self.calls.get(call).unwrap())));
                for follows in &*lost {
                    let follows: Vec<u32> = follows.iter().copied().chain([hangs]).collect();
                    next.push(self.after(state, call, &untouched, &rest, &follows, left));
                }
            }
            Mishap::Crossed => {
                // What comes before a call's first request comes before the call.
                let writes: Vec<usize> = calm.writes.iter().copied().filter(|nth| *nth > 0).collect();
                let part = self.part_of(call);
                for other in self.enabled(state).into_iter().filter(|_| !writes.is_empty()) {
                    let is_twice = other == token && state.waiting.iter().filter(|found| **found == token).count() < 2;
                    for &crossing in &*self.calls_of(other, state.now) {
                        if is_twice || self.part_of(crossing) != part {
                            continue;
                        }
                        for &nth in &writes {
                            let played = self.play(state, call, Trouble::Crossed(nth, crossing)).await;
                            let others = self.follow(other, played.other, state.now);
                            for then in &*others {
                                let rest: Vec<u32> = without(&rest, other).into_iter().chain(then.clone()).collect();
                                next.extend(self.ends(state, (token, call), &played, &rest, left));
                            }
                        }
                    }
                }
            }
            Mishap::Masked => {
                for (nth, row) in &calm.cancelled {
                    let played = self.play(state, call, Trouble::Masked(*nth, row)).await;
                    next.extend(self.ends(state, (token, call), &played, &rest, left));
                }
            }
            Mishap::Late => {}
        }
        next
    }

    /// The states after a call.
    fn ends(
        &mut self,
        state: &State,
        (token, call): (u32, u32),
        played: &Played,
        rest: &[u32],
        left: u8,
    ) -> Vec<State> {
        let follows = self.follow(token, played.done, state.now);
        follows.iter().map(|follows| self.after(state, call, played, rest, follows, left)).collect()
    }

    /// Walks all paths. A violation is reported with the path that leads there.
    pub async fn walk(&mut self, walk: &Walk) -> Result<Seen, String> {
        let mut root = State { left: walk.at_most, ..self.root.clone() };
        let payment = |id: &str| id.to_owned();
        for wish in walk.wishes {
            let tokens = match wish {
                Wish::PayAgain => vec![Token::Pay { payment: payment("p2") }],
                Wish::Cancel => vec![Token::Cancel],
                Wish::TakeOver => vec![Token::TakeOver { reservation: "r2".to_owned() }],
                Wish::Refund => ["p1", "p2"].map(|id| Token::Refund { payment: payment(id) }).into(),
                Wish::Time => vec![Token::Time, Token::Expire],
                Wish::Extend => vec![Token::Extend, Token::LaterTime, Token::ExpireExtended],
            };
            root.waiting.extend(tokens.into_iter().map(|token| self.tokens.of(token)));
        }
        root.waiting.sort_unstable();
        let mut tickets = Tickets { explorer: self, walk, seen: Seen::default() };
        let size = graph::walk(&mut tickets, root).await?;
        Ok(Seen { size, ..tickets.seen })
    }

    /// The violations in a state.
    fn audit(&mut self, state: &State, is_settled: bool) -> Rc<Vec<String>> {
        let key = (state.tables, state.now, is_settled);
        if let Some(audited) = self.audited.get(&key) {
            return Rc::clone(audited);
        }
        let audited = Rc::new(audit(Part::ALL.map(|part| self.picture(state, part)), state.now, is_settled));
        self.audited.insert(key, Rc::clone(&audited));
        audited
    }
}

/// The call that crosses another one.
const fn crossing(trouble: &Trouble<Call>) -> Option<&Call> {
    match trouble {
        Trouble::Crossed(_, other) => Some(other),
        _ => None,
    }
}

fn timed_out() -> TaskResult {
    Err(TaskError { name: "States.Timeout", message: String::new() })
}

fn played_nothing(unknown: u32) -> Played {
    Played { rows: 0, done: unknown, other: unknown, writes: Vec::new(), cancelled: Vec::new() }
}

/// What waits where an execution stands. One that parks ends: the recovery goes on.
fn stand(payment: &str, is_refund: bool, at: Result<Position, End>) -> Vec<Token> {
    match at {
        Ok(Position { state, data }) if !state.starts_with("Park") => {
            vec![Token::Step { payment: payment.to_owned(), is_refund, state, data: data.to_string() }]
        }
        _ => Vec::new(),
    }
}

fn without(waiting: &[u32], token: u32) -> Vec<u32> {
    let mut rest = waiting.to_vec();
    if let Some(at) = rest.iter().position(|waiting| *waiting == token) {
        rest.remove(at);
    }
    rest
}

/// The states of one walk.
struct Tickets<'a> {
    explorer: &'a mut Explorer,
    walk: &'a Walk,
    seen: Seen,
}

impl Maze for Tickets<'_> {
    type State = State;

    async fn next(&mut self, state: &State) -> Vec<(u32, bool, State)> {
        let mut seen = mem::take(&mut self.seen);
        let next = self.explorer.next(state, self.walk, &mut seen).await;
        self.seen = seen;
        next
    }

    fn wrong(&mut self, state: &State, _: bool) -> Vec<String> {
        let is_settled = self.explorer.is_settled(state);
        if is_settled {
            let [seats, _, payments] = Part::ALL.map(|part| self.explorer.picture(state, part));
            self.seen.ends.insert(format!("{}, {}", seats.status(), payments.status()));
        }
        let mut wrong = mem::take(&mut self.explorer.wrong);
        wrong.extend(self.explorer.audit(state, is_settled).iter().cloned());
        wrong
    }

    fn forbidden(&self, before: &State, after: &State) -> Option<String> {
        let changed = |part: &Part| before.tables[*part as usize] != after.tables[*part as usize];
        let of = |state, part| self.explorer.picture(state, part);
        Part::ALL.into_iter().filter(changed).find_map(|part| of(before, part).forbids(of(after, part)))
    }

    fn about(&self, what: u32) -> String {
        self.explorer.token(what).to_string()
    }
}
