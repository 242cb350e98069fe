//! The buyers: who they are, what they do, and the log each keeps of it.
//!
//! A buyer's character and choices follow from the seed; what happens to them does not, because it is a race.

use super::board::Board;
use super::client::{Answer, Api, Caller, Joined, Payment, Place, PlaceStatus, Refused, Reservation};
use super::hall::{self, Choice};
use contracts::seats::SeatStatus;
use contracts::{ConcertId, PaymentId, ReservationId, ScheduleId, SeatId, Timestamp};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a buyer waits between two status checks at the most: the demo is an evening in two minutes.
const LONGEST_POLL: Duration = Duration::from_secs(5);
/// One in so many tries for seats does not wait for the decision.
const IMPATIENCE: u32 = 5;
/// How often a buyer tries for seats that another buyer gets.
const TRIES: u32 = 5;
/// How often a buyer who finds no free seat polls again, while some are held and may come back.
const HOPES: u32 = 3;
/// How often a buyer starts again after losing a hold.
const ROUNDS: u32 = 3;
/// How often a payment is tried that the system, not the buyer, failed.
const PAYMENTS: u32 = 3;
/// How long a request to pay waits for the end of it, in seconds, for those who wait.
const PAY_WAIT_SECONDS: u64 = 8;
/// How long a reservation that the buyer does not wait for may take before they call it broken.
const DECISION_LIMIT: Duration = Duration::from_secs(60);
/// How long a payment may take before a buyer calls it broken.
const PAYMENT_LIMIT: Duration = Duration::from_secs(60);
/// How long a place may count as unused after the payment. It is spent by an event.
const SPENDING_LIMIT: Duration = Duration::from_secs(30);
/// Points are charged in whole multiples of this, in won.
const CHARGE_STEP: i64 = 10_000;

/// The kind of a buyer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Habit {
    /// Holds, charges, pays.
    Plain,
    /// Charges half of the price, fails to pay, charges the rest and pays.
    Short,
    /// Has no money: fails to pay and gives the seats up.
    Broke,
    /// Holds seats and lets the hold run out.
    Forgetful,
    /// Gives the first hold up and takes other seats.
    Fickle,
    /// Sends everything twice under the same key.
    Nervous,
    /// Pays twice at once, under two keys.
    Impatient,
    /// Tries to reserve before their turn.
    Pushy,
}

/// Of 25 buyers, so many are of each kind.
const DECK: [(Habit, usize); 8] = [
    (Habit::Plain, 14),
    (Habit::Short, 2),
    (Habit::Broke, 1),
    (Habit::Forgetful, 2),
    (Habit::Fickle, 1),
    (Habit::Nervous, 2),
    (Habit::Impatient, 1),
    (Habit::Pushy, 2),
];

/// How it ended for a buyer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// With tickets.
    Tickets,
    /// Had tickets, and gave them back.
    GaveBack,
    /// Nothing was left.
    SoldOut,
    /// No money.
    Broke,
    /// Forgot to pay.
    Forgot,
    /// The time inside was over before there was a ticket.
    TimeOver,
    /// Lost too many races or holds.
    GaveUp,
    /// Something happened that must not.
    Trouble(String),
    /// It has not.
    #[default]
    Unfinished,
}

/// The outcome of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Sold.
    Sold,
    /// Sold, and given back.
    Refunded,
    /// Ran out.
    Expired,
    /// Given up.
    Cancelled,
    /// Left to its time.
    Open,
}

/// A hold, as its owner remembers it.
#[derive(Clone, Debug)]
pub struct Hold {
    pub seats: Vec<SeatId>,
    /// Their price.
    pub price: i64,
    /// Its outcome.
    pub fate: Fate,
}

/// What a buyer who has paid has.
#[derive(Clone)]
pub struct Ticket {
    pub owner: Caller,
    pub reservation: ReservationId,
    /// What paid for it.
    pub payment: PaymentId,
    pub price: i64,
    /// The points its owner has left.
    pub balance: i64,
}

/// What happened to a buyer.
#[derive(Clone)]
pub struct BuyerLog {
    pub name: String,
    /// What kind of buyer.
    pub habit: Habit,
    /// When they joined.
    pub joined: Option<Instant>,
    /// When they learned that it was their turn.
    pub admitted: Option<Instant>,
    /// When they were let in, according to the system.
    pub active_at: Option<Timestamp>,
    /// Whether they were told that admission is paused.
    pub told_of_pause: bool,
    pub holds: Vec<Hold>,
    /// Refusals by code.
    pub refusals: BTreeMap<String, u64>,
    /// Why payments of theirs failed.
    pub failures: Vec<String>,
    /// Answers that were repeated unchanged, as promised for the same key.
    pub replays: u32,
    /// How long the decisions took that they did not wait for.
    pub decisions: Vec<Duration>,
    /// When they had their tickets.
    pub ticket_at: Option<Instant>,
    /// The tickets they finished with.
    pub ticket: Option<Ticket>,
    pub end: End,
}

/// What all buyers have in common.
pub struct Sale {
    pub api: Api,
    pub concert: ConcertId,
    pub schedule: ScheduleId,
    /// Where progress is shown.
    pub board: Arc<Board>,
}

/// A buyer.
pub struct Buyer {
    caller: Caller,
    /// Makes keys unique to the buyer and the run.
    key: String,
    keys: u32,
    rng: Rng,
    party: usize,
    arrives_after: Duration,
    /// Points charged and not used.
    balance: i64,
    /// Whether the habit has been played.
    habit_done: bool,
    log: BuyerLog,
}

/// The outcome of an attempt to pay.
enum Paid {
    Completed,
    /// The hold is gone.
    HoldLost,
    NoMoney,
    /// The system failed and gave everything back.
    TryAgain,
}

/// A character for every buyer, in the same proportions for every 25 of them.
pub fn habits(seed: u64, buyers: usize) -> Vec<Habit> {
    let mut rng = Rng::with_seed(seed);
    let mut habits = Vec::with_capacity(buyers);
    while habits.len() < buyers {
        let mut deck: Vec<Habit> = DECK.iter().flat_map(|(habit, count)| vec![*habit; *count]).collect();
        rng.shuffle(&mut deck);
        habits.extend(deck);
    }
    habits.truncate(buyers);
    habits
}

impl Buyer {
    /// The buyer of that number, who comes some time within `arrivals`.
    pub fn new(name: String, bearer: String, habit: Habit, seed: u64, arrivals: Duration) -> Self {
        let mut rng = Rng::with_seed(seed);
        let party = match rng.u32(..100) {
            0..70 => 1,
            70..92 => 2,
            _ => 3,
        };
        let arrives_after = arrivals.mul_f64(rng.f64());
        let log = BuyerLog {
            name: name.clone(),
            habit,
            joined: None,
            admitted: None,
            active_at: None,
            told_of_pause: false,
            holds: Vec::new(),
            refusals: BTreeMap::new(),
            failures: Vec::new(),
            replays: 0,
            decisions: Vec::new(),
            ticket_at: None,
            ticket: None,
            end: End::default(),
        };
        Self {
            caller: Caller { bearer, queue_token: None },
            key: name,
            keys: 0,
            rng,
            party,
            arrives_after,
            balance: 0,
            habit_done: false,
            log,
        }
    }

    /// Everything a buyer does, to the end of it.
    pub async fn visit(mut self, sale: Arc<Sale>) -> BuyerLog {
        let (Ok(end) | Err(end)) = self.try_for_tickets(&sale).await;
        self.log.end = end;
        sale.board.finished();
        self.log
    }

    async fn try_for_tickets(&mut self, sale: &Sale) -> Result<End, End> {
        sleep(self.arrives_after).await;
        let joined = self.join(sale).await?;
        self.wait_for_turn(sale, joined.place).await?;
        for _ in 0..ROUNDS {
            let Some(reservation) = self.take_seats(sale).await? else { return Ok(End::SoldOut) };
            let habit = if self.habit_done { Habit::Plain } else { self.log.habit };
            self.habit_done = true;
            match habit {
                Habit::Forgetful => {
                    self.let_it_run_out(sale, &reservation).await?;
                    return Ok(End::Forgot);
                }
                Habit::Fickle => {
                    self.cancel(sale, &reservation).await?;
                    continue;
                }
                _ => {}
            }
            match self.buy(sale, &reservation, habit).await? {
                Paid::Completed => {
                    self.close(Fate::Sold);
                    self.log.ticket_at = Some(Instant::now());
                    sale.board.sold(reservation.seats.len());
                    if habit == Habit::Nervous {
                        self.look_twice(sale, &reservation).await?;
                    }
                    return Ok(End::Tickets);
                }
                Paid::NoMoney => {
                    self.cancel(sale, &reservation).await?;
                    return Ok(End::Broke);
                }
                Paid::HoldLost => self.close(Fate::Expired),
                Paid::TryAgain => return Ok(End::GaveUp),
            }
        }
        Ok(End::GaveUp)
    }

    /// A key that was not used before.
    fn next_key(&mut self) -> String {
        self.keys += 1;
        format!("{}-{}", self.key, self.keys)
    }

    /// A violation of the contract.
    fn trouble(&self, what: impl std::fmt::Display) -> End {
        End::Trouble(format!("{} ({:?}): {what}", self.log.name, self.log.habit))
    }

    fn refused(&mut self, refused: &Refused) {
        *self.log.refusals.entry(refused.code.clone()).or_default() += 1;
    }

    /// The answer, which must not be a refusal.
    fn expect<T>(&self, answer: Answer<T>) -> Result<T, End> {
        answer.map_err(|refused| self.trouble(refused))
    }

    fn same_again(&mut self, what: &str, same: bool) -> Result<(), End> {
        if !same {
            return Err(self.trouble(format!("the same key gave another {what}")));
        }
        self.log.replays += 1;
        Ok(())
    }

    async fn join(&mut self, sale: &Sale) -> Result<Joined, End> {
        self.log.joined = Some(Instant::now());
        let key = (self.log.habit == Habit::Nervous).then(|| self.next_key());
        let joined = self.expect(sale.api.join(&self.caller, &sale.concert, key.as_deref()).await)?;
        if let Some(key) = key {
            let again = self.expect(sale.api.join(&self.caller, &sale.concert, Some(&key)).await)?;
            self.same_again("place in line", again.place.position == joined.place.position)?;
        }
        self.caller.queue_token = Some(joined.token.clone());
        sale.board.joined();
        Ok(joined)
    }

    /// Polls, at the interval it is given, until it is their turn.
    async fn wait_for_turn(&mut self, sale: &Sale, place: Place) -> Result<(), End> {
        if self.log.habit == Habit::Pushy && place.status == PlaceStatus::Waiting {
            self.push(sale).await?;
        }
        self.wait_until_active(sale, place).await?;
        self.log.admitted = Some(Instant::now());
        sale.board.admitted();
        Ok(())
    }

    async fn wait_until_active(&mut self, sale: &Sale, mut place: Place) -> Result<(), End> {
        loop {
            match place.status {
                PlaceStatus::Active => {
                    self.log.active_at = place.active_at;
                    return Ok(());
                }
                PlaceStatus::Expired => return Err(End::TimeOver),
                PlaceStatus::Used => return Err(self.trouble("the place is used before anything was bought")),
                PlaceStatus::Waiting => {}
            }
            if place.active_at.is_none() && !self.log.told_of_pause {
                self.log.told_of_pause = true;
                sale.board.told_of_pause();
            }
            sleep(Duration::from_millis(place.poll_after_ms).min(LONGEST_POLL)).await;
            place = self.expect(sale.api.queue_status(&self.caller).await)?;
        }
    }

    /// Reserves before their turn, which must be refused.
    async fn push(&mut self, sale: &Sale) -> Result<(), End> {
        let Some(choice) = self.choose(sale, 1).await?.0 else { return Ok(()) };
        let key = self.next_key();
        match sale.api.reserve(&self.caller, &key, &sale.schedule, &choice.seats).await {
            Err(refused) if refused.code == "queue_token_not_active" => {
                self.refused(&refused);
                Ok(())
            }
            Err(refused) => Err(self.trouble(refused)),
            // Unless it became their turn meanwhile.
            Ok(early) => {
                let place = self.expect(sale.api.queue_status(&self.caller).await)?;
                if place.status == PlaceStatus::Active {
                    return self.expect(sale.api.cancel(&self.caller, &early.reservation_id).await);
                }
                Err(self.trouble(format!("got {} before their turn", early.reservation_id)))
            }
        }
    }

    /// Their favourite of what is free, and whether more may become free.
    async fn choose(&mut self, sale: &Sale, party: usize) -> Result<(Option<Choice>, bool), End> {
        let map = self.expect(sale.api.seat_map(&sale.schedule).await)?;
        let held = map.sections.iter().flat_map(|section| &section.seats).any(|seat| seat.status == SeatStatus::Held);
        Ok((hall::choose(&map, party, &mut self.rng), held))
    }

    /// Thinks, as people do, for some seconds.
    async fn think(&mut self, least: f64, most: f64) {
        sleep(Duration::from_secs_f64(least + (most - least) * self.rng.f64())).await;
    }

    /// Polls, chooses and reserves until they have seats, or there are none.
    async fn take_seats(&mut self, sale: &Sale) -> Result<Option<Reservation>, End> {
        let mut hopes = 0;
        for _ in 0..TRIES {
            let choice = match self.choose(sale, self.party).await? {
                (Some(choice), _) => choice,
                (None, true) if hopes < HOPES => {
                    hopes += 1;
                    self.think(2.0, 4.0).await;
                    continue;
                }
                (None, _) => return Ok(None),
            };
            let key = self.next_key();
            let waits = self.rng.u32(..IMPATIENCE) != 0;
            let reserved = if waits {
                sale.api.reserve(&self.caller, &key, &sale.schedule, &choice.seats).await
            } else {
                self.ask_for(sale, &key, &choice).await?
            };
            let refused = match reserved {
                Ok(reservation) => {
                    self.reserved(sale, &key, &choice, &reservation).await?;
                    return Ok(Some(reservation));
                }
                Err(refused) => refused,
            };
            match refused.code.as_str() {
                "seat_taken" => {
                    let named = refused.seats.iter().all(|id| choice.seats.iter().any(|seat| seat.to_string() == *id));
                    // The answer to a request that was not waited for has the reason only.
                    if waits && (refused.seats.is_empty() || !named) {
                        return Err(self.trouble(format!("{refused} does not name the seats")));
                    }
                    self.refused(&refused);
                    self.think(0.2, 1.0).await;
                }
                "hold_expired" => self.refused(&refused),
                // Their time is over; or they were let in by a plan that a pause had just replaced.
                "queue_token_not_active" => {
                    self.refused(&refused);
                    self.think(1.0, 1.5).await;
                    let place = self.expect(sale.api.queue_status(&self.caller).await)?;
                    self.wait_until_active(sale, place).await?;
                }
                _ => return Err(self.trouble(refused)),
            }
        }
        Err(End::GaveUp)
    }

    /// Requests seats and polls until that is decided.
    async fn ask_for(&mut self, sale: &Sale, key: &str, choice: &Choice) -> Result<Answer<Reservation>, End> {
        let mut found = match sale.api.ask_for(&self.caller, key, &sale.schedule, &choice.seats).await {
            Ok(asked) => asked,
            Err(refused) => return Ok(Err(refused)),
        };
        let begun = Instant::now();
        let mut pause = Duration::from_millis(300);
        while found.status == "pending" {
            if begun.elapsed() > DECISION_LIMIT {
                let id = &found.reservation_id;
                return Err(self.trouble(format!("nobody decided on {id} within {DECISION_LIMIT:?}")));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
            found = self.expect(sale.api.reservation(&self.caller, &found.reservation_id).await)?;
        }
        self.log.decisions.push(begun.elapsed());
        if found.status == "rejected" {
            let code = found.failure.unwrap_or_default();
            return Ok(Err(Refused { status: 202, code, route: "POST /reservations (async)", seats: Vec::new() }));
        }
        if found.status == "expired" {
            // It was theirs, and expired before the next poll.
            let code = "hold_expired".to_owned();
            return Ok(Err(Refused { status: 202, code, route: "POST /reservations (async)", seats: Vec::new() }));
        }
        Ok(Ok(found))
    }

    async fn reserved(&mut self, sale: &Sale, key: &str, choice: &Choice, got: &Reservation) -> Result<(), End> {
        let held = got.status == "held" && got.hold_expires_at.is_some();
        if got.seats != choice.seats || got.total_price != choice.price || !held {
            return Err(self.trouble(format!("asked for {choice:?}, got {got:?}")));
        }
        self.log.holds.push(Hold { seats: got.seats.clone(), price: got.total_price, fate: Fate::Open });
        sale.board.held();
        if self.log.habit == Habit::Nervous {
            let again = self.expect(sale.api.reserve(&self.caller, key, &sale.schedule, &choice.seats).await)?;
            self.same_again("reservation", again.reservation_id == got.reservation_id)?;
        }
        Ok(())
    }

    fn close(&mut self, fate: Fate) {
        if let Some(hold) = self.log.holds.last_mut() {
            hold.fate = fate;
        }
    }

    async fn let_it_run_out(&mut self, sale: &Sale, reservation: &Reservation) -> Result<(), End> {
        loop {
            let remaining = reservation.hold_expires_at.map_or(0, |until| until.millis_since(kit::now()));
            // Two clocks agree to the millisecond only by chance.
            sleep(Duration::from_millis(u64::try_from(remaining).unwrap_or(0) + 100)).await;
            let seen = self.expect(sale.api.reservation(&self.caller, &reservation.reservation_id).await)?;
            match seen.status.as_str() {
                "expired" => {
                    self.close(Fate::Expired);
                    return Ok(());
                }
                "held" => {}
                other => return Err(self.trouble(format!("a hold that nobody paid is {other}"))),
            }
        }
    }

    async fn cancel(&mut self, sale: &Sale, reservation: &Reservation) -> Result<(), End> {
        match sale.api.cancel(&self.caller, &reservation.reservation_id).await {
            Ok(()) => self.close(Fate::Cancelled),
            // It ran out first.
            Err(refused) if refused.code == "reservation_not_cancellable" => {
                self.refused(&refused);
                self.close(Fate::Expired);
            }
            Err(refused) => return Err(self.trouble(refused)),
        }
        Ok(())
    }

    /// Charges and pays, according to the habit.
    async fn buy(&mut self, sale: &Sale, reservation: &Reservation, habit: Habit) -> Result<Paid, End> {
        let missing = reservation.total_price - self.balance;
        match habit {
            Habit::Broke => {}
            Habit::Short => self.charge(sale, missing / 2, false).await?,
            _ => self.charge(sale, missing, habit == Habit::Nervous).await?,
        }
        if habit == Habit::Impatient {
            return self.pay_twice(sale, reservation).await;
        }
        for _ in 0..PAYMENTS {
            match self.pay(sale, reservation, habit == Habit::Nervous).await? {
                Paid::NoMoney if habit == Habit::Short => {
                    self.charge(sale, reservation.total_price - self.balance, false).await?;
                }
                Paid::TryAgain => {}
                done => return Ok(done),
            }
        }
        Ok(Paid::TryAgain)
    }

    /// Charges at least that much, if that is anything.
    async fn charge(&mut self, sale: &Sale, least: i64, twice: bool) -> Result<(), End> {
        if least <= 0 {
            return Ok(());
        }
        let amount = (least + CHARGE_STEP - 1) / CHARGE_STEP * CHARGE_STEP;
        let key = self.next_key();
        let charged = self.expect(sale.api.charge(&self.caller, &key, amount).await)?;
        if twice {
            let again = self.expect(sale.api.charge(&self.caller, &key, amount).await)?;
            self.same_again("charge", again == charged)?;
        }
        self.balance += amount;
        if charged.balance != self.balance {
            return Err(self.trouble(format!("has {} points and is told of {}", self.balance, charged.balance)));
        }
        Ok(())
    }

    async fn pay(&mut self, sale: &Sale, reservation: &Reservation, twice: bool) -> Result<Paid, End> {
        let key = self.next_key();
        let wait = self.wait_seconds();
        let (api, id) = (&sale.api, &reservation.reservation_id);
        let started = if twice {
            let (one, other) =
                tokio::join!(api.pay(&self.caller, &key, id, wait), api.pay(&self.caller, &key, id, wait));
            if let (Ok(one), Ok(other)) = (&one, &other) {
                self.same_again("payment", one.payment_id == other.payment_id)?;
            }
            one.or(other)
        } else {
            api.pay(&self.caller, &key, id, wait).await
        };
        let ended = self.end_of(sale, started).await?;
        self.judge(sale, reservation, ended).await
    }

    async fn pay_twice(&mut self, sale: &Sale, reservation: &Reservation) -> Result<Paid, End> {
        let keys = [self.next_key(), self.next_key()];
        let id = &reservation.reservation_id;
        let [one, other] = &keys;
        let (one, other) =
            tokio::join!(sale.api.pay(&self.caller, one, id, 0), sale.api.pay(&self.caller, other, id, 0));
        let ended = [self.end_of(sale, one).await?, self.end_of(sale, other).await?];
        let is_completed = |end: &Answer<Payment>| matches!(end, Ok(payment) if payment.status == "completed");
        let [one, other] = ended;
        // Of two at once one is refused, unless the other has ended by then.
        let (ended, beside) = if is_completed(&other) || one.is_err() { (other, one) } else { (one, other) };
        if is_completed(&beside) {
            return Err(self.trouble(format!("two payments of {id} completed")));
        }
        match beside {
            Ok(payment) => self.log.failures.push(payment.failure.unwrap_or_default()),
            Err(refused) => self.refused(&refused),
        }
        self.judge(sale, reservation, ended).await
    }

    /// One in six waits within the request, which keeps one of the few environments of its function busy meanwhile; the
    /// others poll the payment.
    fn wait_seconds(&mut self) -> u64 {
        if self.rng.u32(..6) == 0 { PAY_WAIT_SECONDS } else { 0 }
    }

    /// The payment once it is final, or the refusal to start it.
    async fn end_of(&mut self, sale: &Sale, started: Answer<Payment>) -> Result<Answer<Payment>, End> {
        let mut payment = match started {
            Ok(payment) => payment,
            Err(refused) if ["reservation_not_payable", "payment_under_way"].contains(&refused.code.as_str()) => {
                return Ok(Err(refused));
            }
            Err(refused) => return Err(self.trouble(refused)),
        };
        let begun = Instant::now();
        let mut pause = Duration::from_millis(400);
        while payment.status == "pending" {
            if begun.elapsed() > PAYMENT_LIMIT {
                let id = &payment.payment_id;
                return Err(self.trouble(format!("the payment {id} has no end after {PAYMENT_LIMIT:?}")));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
            payment = self.expect(sale.api.payment(&self.caller, &payment.payment_id).await)?;
        }
        Ok(Ok(payment))
    }

    async fn judge(&mut self, sale: &Sale, reservation: &Reservation, ended: Answer<Payment>) -> Result<Paid, End> {
        let payment = match ended {
            Ok(payment) => payment,
            Err(refused) => {
                self.refused(&refused);
                return Ok(Paid::HoldLost);
            }
        };
        if payment.status == "completed" {
            return self.spent(sale, reservation, payment).await;
        }
        let failure = payment.failure.unwrap_or_default();
        self.log.failures.push(failure.clone());
        // Whatever the reason, no points may be missing.
        self.check_balance(sale).await?;
        match failure.as_str() {
            "insufficient_points" if self.balance < reservation.total_price => Ok(Paid::NoMoney),
            "hold_expired" | "reservation_not_payable" => Ok(Paid::HoldLost),
            "temporarily_unavailable" => Ok(Paid::TryAgain),
            other => Err(self.trouble(format!("a payment failed with `{other}` and {} points", self.balance))),
        }
    }

    async fn spent(&mut self, sale: &Sale, reservation: &Reservation, payment: Payment) -> Result<Paid, End> {
        self.balance -= reservation.total_price;
        self.log.ticket = Some(Ticket {
            owner: self.caller.clone(),
            reservation: reservation.reservation_id.clone(),
            payment: payment.payment_id,
            price: reservation.total_price,
            balance: self.balance,
        });
        // Buyers who did something unusual check that it was paid once.
        if self.log.habit != Habit::Plain {
            self.check_balance(sale).await?;
        }
        Ok(Paid::Completed)
    }

    async fn check_balance(&mut self, sale: &Sale) -> Result<(), End> {
        let balance = self.expect(sale.api.balance(&self.caller).await)?;
        if balance == self.balance {
            return Ok(());
        }
        Err(self.trouble(format!("must have {} points and has {balance}", self.balance)))
    }

    /// Checks that the reservation is paid, and waits until the place in line counts as used.
    async fn look_twice(&mut self, sale: &Sale, reservation: &Reservation) -> Result<(), End> {
        let seen = self.expect(sale.api.reservation(&self.caller, &reservation.reservation_id).await)?;
        if seen.status != "paid" {
            return Err(self.trouble(format!("has paid, but the reservation is {}", seen.status)));
        }
        let begun = Instant::now();
        loop {
            let place = self.expect(sale.api.queue_status(&self.caller).await)?;
            if place.status == PlaceStatus::Used {
                return Ok(());
            }
            if begun.elapsed() > SPENDING_LIMIT {
                return Err(self.trouble(format!("has paid, but the place in line is {:?}", place.status)));
            }
            sleep(Duration::from_secs(1)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_25_buyers_are_of_the_same_kinds_whatever_the_seed() {
        let kinds = |habits: &[Habit]| {
            let mut sorted = habits.to_vec();
            sorted.sort();
            sorted
        };
        assert_eq!(DECK.iter().map(|(_, count)| count).sum::<usize>(), 25);
        let (one, two) = (habits(1, 60), habits(2, 60));
        assert_ne!(one, two);
        assert_eq!(one, habits(1, 60));
        assert_eq!(kinds(&one[..25]), kinds(&two[25..50]));
        assert_eq!(one.len(), 60);
    }
}
