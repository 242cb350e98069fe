//! Reservations and the pure decisions about them.

pub mod extensions;

use contracts::admission::{AdmissionPlan, QueueTokenClaims, Standing};
use contracts::events::CancelReason;
use contracts::seats::Section;
use contracts::steps::{OpenSchedule, PayableReservation, Quote, RefundQuote};
use contracts::{ConcertId, Invalid, PaymentId, ReservationId, ScheduleId, SeatId, Timestamp, UserId, Won};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::str::FromStr;

/// How many undecided requests a user may have for a date. Requests of a section are decided one after another, so a
/// user who floods it would delay all others.
pub const MAX_PENDING: u32 = 20;
/// The most seats in one reservation. A DynamoDB transaction takes 100 writes, and a reservation needs up to four
/// besides its seats; the rest is headroom.
pub const MAX_SEATS: usize = 90;

/// How many payments may have released a reservation. Each leaves its id on the item as a tombstone, which keeps a late
/// `begin-payment` from taking effect.
pub const MAX_RELEASES: usize = 50;

/// The seats of a request: 1 to [`MAX_SEATS`], without duplicates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<SeatId>", into = "Vec<SeatId>")]
pub struct SeatList(Vec<SeatId>);

impl TryFrom<Vec<SeatId>> for SeatList {
    type Error = Invalid;

    fn try_from(seats: Vec<SeatId>) -> Result<Self, Invalid> {
        Self::new(seats)
    }
}

impl From<SeatList> for Vec<SeatId> {
    fn from(list: SeatList) -> Self {
        list.0
    }
}

impl SeatList {
    /// Parses the request.
    pub fn new(seats: Vec<SeatId>) -> Result<Self, Invalid> {
        if seats.is_empty() {
            return Err(Invalid::new("seats", "must name at least one seat"));
        }
        if seats.len() > MAX_SEATS {
            return Err(Invalid::new("seats", "must name at most 90 seats"));
        }
        let distinct: HashSet<&SeatId> = seats.iter().collect();
        if distinct.len() != seats.len() {
            return Err(Invalid::new("seats", "must not name a seat twice"));
        }
        Ok(Self(seats))
    }

    /// The seats, in the order requested.
    pub fn as_slice(&self) -> &[SeatId] {
        &self.0
    }
}

/// The status of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Requested, not yet decided.
    Pending,
    /// Its seats are kept until its hold ends.
    Held,
    /// A payment has it; the hold's end no longer matters.
    Paying,
    /// Its seats are sold.
    Paid,
    /// Cancelled by its owner, or undone by the system.
    Cancelled,
    /// Its hold expired.
    Expired,
    /// Requested and refused.
    Rejected,
    /// Paid back.
    Refunded,
}

impl Status {
    /// All of them.
    pub const ALL: [Status; 8] = [
        Self::Pending,
        Self::Held,
        Self::Paying,
        Self::Paid,
        Self::Cancelled,
        Self::Expired,
        Self::Rejected,
        Self::Refunded,
    ];

    /// Its name in tables and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Held => "held",
            Self::Paying => "paying",
            Self::Paid => "paid",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
            Self::Refunded => "refunded",
        }
    }

    /// Parses the name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

/// A reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    pub id: ReservationId,
    /// Its owner.
    pub user: UserId,
    pub schedule: ScheduleId,
    pub concert: ConcertId,
    /// Its seats, in the order requested.
    pub seats: Vec<SeatId>,
    /// The price of all of them.
    pub total_price: Won,
    /// The position in line it was made with.
    pub queue_position: u64,
    pub status: Status,
    /// When its hold ends or ended.
    pub hold_expires_at: Timestamp,
    /// When it was requested, which is when its place in line had to be active.
    pub created_at: Timestamp,
    /// The request that made it.
    pub correlation_id: String,
    /// The payment that has it, also once it is refunded.
    pub payment: Option<PaymentId>,
    /// How many payments released it.
    pub releases: usize,
    /// Why it was rejected, if it was: a code of `POST /reservations`, or `timed_out`.
    pub failure: Option<String>,
    /// When its seats become free after its end, if they are kept back and nobody has freed them yet: chosen with the
    /// hold for its end, and anew when they are given back otherwise.
    pub seats_free_at: Option<Timestamp>,
    /// Whether its hold was extended.
    pub is_extended: bool,
}

/// What is left to do about a reservation whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// Its hold is to be ended. Its seats are still kept back, or become free with it.
    Hold {
        /// Whether they are.
        keeps_seats: bool,
    },
    /// It has ended, and the seats that it kept back are to become free.
    Seats,
    /// Nothing.
    Nothing,
}

impl Reservation {
    /// Its status as the API shows it: a hold past its end is expired, whether or not that is written yet.
    pub fn visible_status(&self, now: Timestamp) -> Status {
        if self.status == Status::Held && now >= self.hold_expires_at { Status::Expired } else { self.status }
    }

    /// Until when it keeps its seats back although it has ended; `None` once they are free.
    pub fn keeps_seats_until(&self) -> Option<Timestamp> {
        let ended = matches!(self.status, Status::Cancelled | Status::Expired | Status::Refunded);
        self.seats_free_at.filter(|_| ended)
    }

    /// What is left to do about it.
    pub fn overdue(&self, now: Timestamp) -> Overdue {
        match self.keeps_seats_until() {
            Some(free_at) if free_at <= now => Overdue::Seats,
            None if self.status == Status::Held && self.hold_expires_at <= now => {
                Overdue::Hold { keeps_seats: self.seats_free_at.is_some_and(|free_at| free_at > now) }
            }
            _ => Overdue::Nothing,
        }
    }

    /// The data needed to end it.
    pub fn booking(&self) -> Booking {
        Booking {
            id: self.id.clone(),
            user: self.user.clone(),
            schedule: self.schedule.clone(),
            concert: self.concert.clone(),
            seats: self.seats.clone(),
            total_price: self.total_price,
            hold_expires_at: self.hold_expires_at,
            correlation_id: self.correlation_id.clone(),
        }
    }
}

/// The longest time for which a seat that was given back may be kept, in seconds: a day.
pub const MAX_RETURN_DELAY_SECONDS: u32 = 86_400;

/// For how long a seat that a user gave back, or let go, stays held before anybody can have it (`min,max`, in seconds).
/// Each time it is another moment in between: whoever knew it could hand the seat to an account of their choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReturnDelay {
    min_seconds: u32,
    max_seconds: u32,
}

impl ReturnDelay {
    /// A delay of `min_seconds` to `max_seconds`; none at all for 0 and 0.
    pub fn new(min_seconds: u32, max_seconds: u32) -> Result<Self, Invalid> {
        match min_seconds <= max_seconds && max_seconds <= MAX_RETURN_DELAY_SECONDS {
            true => Ok(Self { min_seconds, max_seconds }),
            false => Err(Invalid::new("RETURN_DELAY_SECONDS", "must be min,max, in seconds, at most 86400")),
        }
    }

    /// Whether there is none.
    pub const fn is_none(self) -> bool {
        self.max_seconds == 0
    }

    /// When a seat that is given back at `since` becomes free, by a random number; `None` if that is at once.
    pub fn after(self, since: Timestamp, random: u64) -> Option<Timestamp> {
        let span_millis = u64::from(self.max_seconds - self.min_seconds) * 1_000;
        let millis = u64::from(self.min_seconds) * 1_000 + random % (span_millis + 1);
        (!self.is_none()).then(|| since.plus_millis(i64::try_from(millis).unwrap_or(i64::MAX)))
    }
}

impl FromStr for ReturnDelay {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let seconds: Option<(u32, u32)> =
            text.split_once(',').and_then(|(min, max)| Some((min.trim().parse().ok()?, max.trim().parse().ok()?)));
        // Without two numbers: what `new` refuses.
        let (min, max) = seconds.unwrap_or((1, 0));
        Self::new(min, max)
    }
}

/// A user's seats of a date, with their price and the end of the hold: what the write that frees them and its event
/// need. The event of a hold and the input of a saga contain the same data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booking {
    pub id: ReservationId,
    /// Its owner.
    pub user: UserId,
    pub schedule: ScheduleId,
    pub concert: ConcertId,
    /// Its seats, in the order requested.
    pub seats: Vec<SeatId>,
    /// The price of all of them.
    pub total_price: Won,
    /// When its hold ends or ended.
    pub hold_expires_at: Timestamp,
    /// The request that the events belong to.
    pub correlation_id: String,
}

/// The terms a date is sold under, as concerts set them.
pub type Terms = OpenSchedule;

/// A request to hold seats; also the form in which an asynchronous request is stored and sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SeatRequest {
    #[serde(rename = "user_id")]
    pub user: UserId,
    /// The verified queue token.
    pub token: QueueTokenClaims,
    #[serde(rename = "schedule_id")]
    pub schedule: ScheduleId,
    pub seats: SeatList,
    /// The id of the reservation to be made.
    #[serde(rename = "id")]
    pub reservation: ReservationId,
    /// The HTTP request.
    #[serde(rename = "correlationid")]
    pub correlation_id: String,
    /// When it was requested, which is when the token must have been active.
    pub asked_at: Timestamp,
}

/// The number of shards of the indexes in which the sweeps find what is due.
pub const DUE_SHARDS: u64 = 16;
/// How long a reservation may be pending before its request is sent again, in seconds.
pub const PENDING_SECONDS: i64 = 30;
/// How long a reservation may be pending at all, in seconds: users do not wait longer for a seat.
pub const PENDING_TOO_LONG_SECONDS: i64 = 600;
/// The reason for which one that was pending for too long is rejected.
pub const TIMED_OUT: &str = "timed_out";

/// Why seats are not held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No such date.
    ScheduleNotFound,
    /// These seats do not exist.
    SeatsNotFound(Vec<SeatId>),
    /// The token is not for this concert.
    WrongConcert,
    /// The token is not active: still waiting, expired, or spent.
    TokenNotActive,
    /// The date has begun.
    SaleClosed,
    /// More tickets than one user may have for this date.
    TicketLimit {
        /// The limit.
        max_per_user: u32,
    },
    /// Other users have these.
    SeatsTaken(Vec<SeatId>),
    /// Too many of the user's holds for this date ended without being paid.
    UnpaidLimit {
        /// How many may.
        most: u32,
    },
    /// The user let these go a moment ago.
    SeatsCoolingDown {
        seats: Vec<SeatId>,
        /// For how long the same user cannot hold them again, in seconds.
        cool_down_seconds: u32,
    },
}

impl Refusal {
    /// Its stable name: the `code` of the problem, the `failure` of a rejected reservation.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::ScheduleNotFound => "not_found",
            Self::SeatsNotFound(_) => "seat_not_found",
            Self::WrongConcert => "invalid_queue_token",
            Self::TokenNotActive => "queue_token_not_active",
            Self::SaleClosed => "sale_closed",
            Self::TicketLimit { .. } => "ticket_limit_exceeded",
            Self::SeatsTaken(_) => "seat_taken",
            Self::UnpaidLimit { .. } => "unpaid_limit_exceeded",
            Self::SeatsCoolingDown { .. } => "seat_cooling_down",
        }
    }
}

/// A hold that may be written: the reservation, and the conditions under which it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    pub reservation: Reservation,
    /// How many tickets its owner may have for the date.
    pub max_per_user: u32,
    /// The visit that it belongs to.
    pub visit: Visit,
    /// When it was requested.
    pub asked_at: Timestamp,
    /// What its owner had let go of the date when this was decided.
    pub let_go: LetGo,
}

/// What a user may let go unpaid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpaidRule {
    /// How many holds for a date may be cancelled or run out.
    pub most: u32,
    /// For how long the same user cannot hold the same seats again, in seconds.
    pub cool_down_seconds: u32,
}

impl Default for UnpaidRule {
    /// As much as they like.
    fn default() -> Self {
        Self { most: u32::MAX, cool_down_seconds: 0 }
    }
}

/// Seats that a user let go, and until when the user cannot hold them again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoolingDown {
    pub until: Timestamp,
    pub seats: Vec<SeatId>,
}

/// What a user let go of a date without paying.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LetGo {
    /// What is allowed.
    pub rule: UnpaidRule,
    /// How many holds.
    pub count: u32,
    /// The seats of the last ones, also those whose time is over.
    pub cooling_down: Vec<CoolingDown>,
}

impl LetGo {
    /// Whether its user may hold these seats at `now`.
    pub fn allows(&self, seats: &[SeatId], now: Timestamp) -> Result<(), Refusal> {
        if self.count >= self.rule.most {
            return Err(Refusal::UnpaidLimit { most: self.rule.most });
        }
        let cooling: HashSet<&SeatId> =
            self.cooling_down.iter().filter(|one| one.until > now).flat_map(|one| &one.seats).collect();
        let seats: Vec<SeatId> = seats.iter().filter(|seat| cooling.contains(seat)).cloned().collect();
        match seats.is_empty() {
            true => Ok(()),
            false => Err(Refusal::SeatsCoolingDown { seats, cool_down_seconds: self.rule.cool_down_seconds }),
        }
    }
}

/// A user's time inside a sale. There is one at a time: it begins with the first hold and ends when its token expires,
/// or when the user gives the place up. A token issued before the end of a visit is void once that visit is over. A sale
/// spends the position that was paid from, and leaves a place that the user took since as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// This hold begins one.
    Begins {
        /// When the token was issued: not before the end of the previous visit.
        token_issued_at: Timestamp,
        /// When the visit ends.
        ends_at: Timestamp,
    },
    /// The user is inside already.
    Lasts,
}

/// A user's visits to a concert so far, and what they let go of the date that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Visits {
    /// When the last one ends or ended; `None` before the first.
    pub last_ends_at: Option<Timestamp>,
    /// The positions in line that were spent by a sale.
    pub spent: Vec<u64>,
    /// What was let go unpaid.
    pub let_go: LetGo,
}

/// Decides whether a hold begins a visit or belongs to the current one, for a token that expires at `token_expires_at`.
pub fn decide_visit(
    visits: &Visits,
    token: &QueueTokenClaims,
    token_expires_at: Timestamp,
    now: Timestamp,
) -> Result<Visit, Refusal> {
    if visits.spent.contains(&token.position) {
        return Err(Refusal::TokenNotActive);
    }
    match visits.last_ends_at {
        Some(end) if now < end => Ok(Visit::Lasts),
        Some(end) if token.issued_at < end => Err(Refusal::TokenNotActive),
        _ => Ok(Visit::Begins { token_issued_at: token.issued_at, ends_at: token_expires_at }),
    }
}

/// Decides whether seats may be held, as far as that can be known before the write. Seats and limits are conditions of
/// the write itself. The token must have been active at the time of the request; the hold runs from `now`.
pub fn decide_hold(
    request: &SeatRequest,
    terms: Option<&Terms>,
    plan: Option<&AdmissionPlan>,
    visits: &Visits,
    now: Timestamp,
) -> Result<Hold, Refusal> {
    let terms = terms.ok_or(Refusal::ScheduleNotFound)?;
    if terms.concert_id != request.token.concert_id {
        return Err(Refusal::WrongConcert);
    }
    let plan = plan.ok_or(Refusal::TokenNotActive)?;
    let token = &request.token;
    let Standing::Active { expires_at, .. } =
        plan.standing(token.position, token.turn(), token.issued_at, request.asked_at)
    else {
        return Err(Refusal::TokenNotActive);
    };
    let visit = decide_visit(visits, &request.token, expires_at, request.asked_at)?;
    if now >= terms.starts_at {
        return Err(Refusal::SaleClosed);
    }
    let seats = request.seats.as_slice();
    let section_of =
        |seat: &SeatId| -> Option<&Section> { terms.sections.iter().find(|section| section.index_of(seat).is_some()) };
    let unknown: Vec<SeatId> = seats.iter().filter(|seat| section_of(seat).is_none()).cloned().collect();
    if !unknown.is_empty() {
        return Err(Refusal::SeatsNotFound(unknown));
    }
    visits.let_go.allows(seats, now)?;
    let limit = Refusal::TicketLimit { max_per_user: terms.max_per_user };
    if seats.len() > terms.max_per_user as usize {
        return Err(limit);
    }
    // Prices are bounded so that this sum always fits; if it did not, such a reservation would be impossible anyway.
    let total_price =
        Won::checked_sum(seats.iter().filter_map(section_of).map(|section| section.price)).ok_or(limit)?;
    Ok(Hold {
        reservation: Reservation {
            id: request.reservation.clone(),
            user: request.user.clone(),
            schedule: request.schedule.clone(),
            concert: terms.concert_id.clone(),
            seats: seats.to_vec(),
            total_price,
            queue_position: request.token.position,
            status: Status::Held,
            hold_expires_at: now.plus_seconds(i64::from(terms.hold_seconds)),
            created_at: request.asked_at,
            correlation_id: request.correlation_id.clone(),
            payment: None,
            releases: 0,
            failure: None,
            seats_free_at: None,
            is_extended: false,
        },
        max_per_user: terms.max_per_user,
        visit,
        asked_at: request.asked_at,
        let_go: visits.let_go.clone(),
    })
}

/// What a user's reservation costs, if it can be paid at `now`.
pub fn quote(reservation: Option<&Reservation>, now: Timestamp) -> Quote {
    match reservation {
        None => Quote::NotFound,
        Some(found) if found.releases >= MAX_RELEASES => Quote::NotPayable,
        Some(found) if found.visible_status(now) == Status::Held => Quote::Payable(PayableReservation {
            schedule_id: found.schedule.clone(),
            concert_id: found.concert.clone(),
            seats: found.seats.clone(),
            total_price: found.total_price,
            hold_expires_at: found.hold_expires_at,
            queue_position: found.queue_position,
        }),
        Some(_) => Quote::NotPayable,
    }
}

/// Why a hold is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndHold {
    /// It is over.
    Expire,
    /// Its owner cancels it.
    Cancel,
    /// The system cannot honour it: it is undone, whether or not it is over.
    Undo(CancelReason),
}

/// What to do about a reservation that has been pending for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PendingDecision {
    /// Its message may be lost: send it again.
    AskAgain,
    /// It has been pending for too long: reject it.
    GiveUp,
}

/// Decides about a reservation that is still pending.
pub fn decide_pending(created_at: Timestamp, now: Timestamp) -> PendingDecision {
    if now.millis_since(created_at) > PENDING_TOO_LONG_SECONDS * 1_000 {
        PendingDecision::GiveUp
    } else {
        PendingDecision::AskAgain
    }
}

/// Whether a paid reservation can be refunded by the payment that paid it, until `deadline`.
pub fn quote_refund(
    reservation: Option<&Reservation>,
    payment: &PaymentId,
    deadline: Timestamp,
    now: Timestamp,
) -> RefundQuote {
    match reservation {
        Some(found) if found.status == Status::Paid && found.payment.as_ref() == Some(payment) => {
            if now < deadline {
                RefundQuote::Refundable
            } else {
                RefundQuote::TooLate { until: deadline }
            }
        }
        _ => RefundQuote::NotRefundable,
    }
}

/// The status of a reservation released by a failed payment: held again, if the hold is not over.
pub fn after_release(hold_expires_at: Timestamp, now: Timestamp) -> Status {
    if now < hold_expires_at { Status::Held } else { Status::Expired }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contracts::SectionName;
    use contracts::admission::QUEUE_TOKEN_ISSUER;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn seat(id: &str) -> SeatId {
        SeatId::parse(id).unwrap()
    }

    fn terms() -> Terms {
        let section = Section::new(SectionName::parse("A").unwrap(), "VIP".into(), Won::new(150_000).unwrap(), 2, 5);
        let (schedule, concert) = (ScheduleId::parse("s").unwrap(), ConcertId::parse("c").unwrap());
        Terms::new(schedule, concert, NOW.plus_seconds(86_400), (2, 300), vec![section])
    }

    fn request(seats: &[&str]) -> SeatRequest {
        SeatRequest {
            user: UserId::parse("alice").unwrap(),
            token: QueueTokenClaims {
                iss: QUEUE_TOKEN_ISSUER.into(),
                sub: UserId::parse("alice").unwrap(),
                concert_id: ConcertId::parse("c").unwrap(),
                position: 1,
                turn: None,
                issued_at: NOW,
                active_at: None,
                expires_at: None,
                iat: 0,
                exp: 0,
            },
            schedule: ScheduleId::parse("s").unwrap(),
            seats: SeatList::new(seats.iter().map(|id| seat(id)).collect()).unwrap(),
            reservation: ReservationId::parse("r").unwrap(),
            correlation_id: "q".into(),
            asked_at: NOW,
        }
    }

    fn plan() -> AdmissionPlan {
        AdmissionPlan::opening(NOW, 60, 600)
    }

    #[test]
    fn a_seat_list_is_never_empty_repeated_or_larger_than_a_transaction() {
        assert!(SeatList::new(vec![]).is_err());
        assert!(SeatList::new(vec![seat("A-1-1"), seat("A-1-1")]).is_err());
        let many = |count| (1..=count).map(|number| seat(&format!("A-1-{number}"))).collect::<Vec<_>>();
        assert!(SeatList::new(many(MAX_SEATS)).is_ok());
        assert!(SeatList::new(many(MAX_SEATS + 1)).is_err());
    }

    #[test]
    fn a_hold_costs_the_sum_of_its_seats_and_lasts_as_long_as_its_terms_state() {
        let hold =
            decide_hold(&request(&["A-1-1", "A-2-5"]), Some(&terms()), Some(&plan()), &Visits::default(), NOW).unwrap();
        assert_eq!(hold.reservation.total_price.get(), 300_000);
        assert_eq!(hold.reservation.hold_expires_at, NOW.plus_seconds(300));
        assert_eq!(hold.reservation.status, Status::Held);
        assert_eq!(hold.visit, Visit::Begins { token_issued_at: NOW, ends_at: NOW.plus_seconds(600) });
    }

    #[test]
    fn a_hold_requested_in_time_and_written_late_runs_from_the_write() {
        let late = NOW.plus_seconds(3_000);
        let hold = decide_hold(&request(&["A-1-1"]), Some(&terms()), Some(&plan()), &Visits::default(), late).unwrap();
        assert_eq!(hold.reservation.hold_expires_at, late.plus_seconds(300));
        assert_eq!(hold.reservation.created_at, NOW);
    }

    #[test]
    fn a_pending_reservation_is_sent_again_and_finally_given_up() {
        assert_eq!(decide_pending(NOW, NOW.plus_seconds(PENDING_TOO_LONG_SECONDS)), PendingDecision::AskAgain);
        assert_eq!(decide_pending(NOW, NOW.plus_seconds(PENDING_TOO_LONG_SECONDS + 1)), PendingDecision::GiveUp);
    }

    #[test]
    fn only_what_this_payment_paid_is_refunded_and_only_until_the_deadline() {
        let payment = PaymentId::parse("p").unwrap();
        let quote = |status, paid_by: &str, now| {
            let payment_id = Some(PaymentId::parse(paid_by).unwrap());
            let found = Reservation { payment: payment_id, ..reservation(status) };
            quote_refund(Some(&found), &payment, NOW.plus_seconds(10), now)
        };
        for status in Status::ALL {
            let refundable = quote(status, "p", NOW) == RefundQuote::Refundable;
            assert_eq!(refundable, status == Status::Paid, "{status:?}");
        }
        assert_eq!(quote(Status::Paid, "other", NOW), RefundQuote::NotRefundable);
        let until = NOW.plus_seconds(10);
        assert_eq!(quote(Status::Paid, "p", until), RefundQuote::TooLate { until });
        assert_eq!(quote_refund(None, &payment, until, NOW), RefundQuote::NotRefundable);
    }

    #[test]
    fn every_reason_to_refuse_is_distinguished() {
        let decide = |request: &SeatRequest, terms: Option<&Terms>, plan: Option<&AdmissionPlan>, now| {
            decide_hold(request, terms, plan, &Visits::default(), now).unwrap_err()
        };
        let good = request(&["A-1-1"]);
        assert_eq!(decide(&good, None, Some(&plan()), NOW), Refusal::ScheduleNotFound);
        assert_eq!(decide(&good, Some(&terms()), None, NOW), Refusal::TokenNotActive);
        let mut foreign = good.clone();
        foreign.token.concert_id = ConcertId::parse("other").unwrap();
        assert_eq!(decide(&foreign, Some(&terms()), Some(&plan()), NOW), Refusal::WrongConcert);
        let mut waiting = good.clone();
        waiting.token.position = 2;
        assert_eq!(decide(&waiting, Some(&terms()), Some(&plan()), NOW), Refusal::TokenNotActive);
        let late = SeatRequest { asked_at: NOW.plus_seconds(600), ..good.clone() };
        assert_eq!(decide(&late, Some(&terms()), Some(&plan()), NOW.plus_seconds(600)), Refusal::TokenNotActive);
        let begun = Terms { starts_at: NOW, ..terms() };
        assert_eq!(decide(&good, Some(&begun), Some(&plan()), NOW), Refusal::SaleClosed);
        assert_eq!(
            decide(&request(&["A-1-1", "A-3-1", "B-1-1"]), Some(&terms()), Some(&plan()), NOW),
            Refusal::SeatsNotFound(vec![seat("A-3-1"), seat("B-1-1")])
        );
        assert_eq!(
            decide(&request(&["A-1-1", "A-1-2", "A-1-3"]), Some(&terms()), Some(&plan()), NOW),
            Refusal::TicketLimit { max_per_user: 2 }
        );
    }

    #[test]
    fn a_user_is_inside_once_at_a_time_however_often_they_joined() {
        let visit = |last_ends_at, issued_at, now| {
            let token = QueueTokenClaims { issued_at, ..request(&["A-1-1"]).token };
            decide_visit(
                &Visits { last_ends_at, spent: vec![7], ..Visits::default() },
                &token,
                NOW.plus_seconds(900),
                now,
            )
        };
        let begins = |issued| Ok(Visit::Begins { token_issued_at: issued, ends_at: NOW.plus_seconds(900) });
        let end = NOW.plus_seconds(600);
        assert_eq!(visit(None, NOW, NOW), begins(NOW));
        assert_eq!(visit(Some(end), NOW, end.plus_millis(-1)), Ok(Visit::Lasts));
        assert_eq!(visit(Some(end), end.plus_millis(-1), end), Err(Refusal::TokenNotActive));
        assert_eq!(visit(Some(end), end, end), begins(end));
    }

    #[test]
    fn a_spent_place_stays_spent_even_while_its_user_is_inside_with_another() {
        let end = NOW.plus_seconds(600);
        let token = request(&["A-1-1"]).token;
        let visits = Visits { last_ends_at: Some(end), spent: vec![token.position], ..Visits::default() };
        assert_eq!(decide_visit(&visits, &token, end, NOW), Err(Refusal::TokenNotActive));
    }

    fn reservation(status: Status) -> Reservation {
        let hold = decide_hold(&request(&["A-1-1"]), Some(&terms()), Some(&plan()), &Visits::default(), NOW).unwrap();
        Reservation { status, ..hold.reservation }
    }

    #[test]
    fn only_a_running_hold_can_be_paid() {
        let end = NOW.plus_seconds(300);
        for status in Status::ALL {
            let payable = matches!(quote(Some(&reservation(status)), end.plus_millis(-1)), Quote::Payable(_));
            assert_eq!(payable, status == Status::Held, "{status:?}");
        }
        assert_eq!(quote(Some(&reservation(Status::Held)), end), Quote::NotPayable);
        assert_eq!(quote(None, NOW), Quote::NotFound);
        let tried_often = Reservation { releases: MAX_RELEASES, ..reservation(Status::Held) };
        assert_eq!(quote(Some(&tried_often), NOW), Quote::NotPayable);
    }

    #[test]
    fn a_hold_past_its_end_is_seen_as_expired_before_that_is_written() {
        let held = reservation(Status::Held);
        assert_eq!(held.visible_status(NOW.plus_seconds(299)), Status::Held);
        assert_eq!(held.visible_status(NOW.plus_seconds(300)), Status::Expired);
        assert_eq!(reservation(Status::Paying).visible_status(NOW.plus_seconds(999)), Status::Paying);
    }

    #[test]
    fn a_seat_given_back_is_kept_for_a_time_between_two_bounds_that_no_two_returns_share() {
        let delay: ReturnDelay = "30,120".parse().unwrap();
        let mut seen = HashSet::new();
        for random in (0..2_000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).chain([0, 90_000, u64::MAX]) {
            let free_at = delay.after(NOW, random).unwrap();
            assert!((NOW.plus_seconds(30)..=NOW.plus_seconds(120)).contains(&free_at), "{free_at:?}");
            seen.insert(free_at.millis());
        }
        assert!(seen.len() > 1_900, "{}", seen.len());
        assert_eq!(
            (delay.after(NOW, 0), delay.after(NOW, 90_000)),
            (Some(NOW.plus_seconds(30)), Some(NOW.plus_seconds(120)))
        );
        assert_eq!("0,0".parse::<ReturnDelay>().unwrap().after(NOW, 7), None);
        assert_eq!("5,5".parse::<ReturnDelay>().unwrap().after(NOW, 7), Some(NOW.plus_seconds(5)));
        assert_eq!("0,86400".parse(), ReturnDelay::new(0, 86_400));
        for wrong in ["", "30", "120,30", "0,86401", "-1,5", "1;5", "1,5,9", "a,b"] {
            assert!(wrong.parse::<ReturnDelay>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_overdue_is_a_hold_or_the_seats_that_an_ended_reservation_kept() {
        let end = NOW.plus_seconds(300);
        let kept = |status| Reservation { seats_free_at: Some(end.plus_seconds(60)), ..reservation(status) };
        assert_eq!(kept(Status::Held).overdue(end.plus_millis(-1)), Overdue::Nothing);
        assert_eq!(kept(Status::Held).overdue(end), Overdue::Hold { keeps_seats: true });
        assert_eq!(kept(Status::Held).overdue(end.plus_seconds(60)), Overdue::Hold { keeps_seats: false });
        assert_eq!(reservation(Status::Held).overdue(end), Overdue::Hold { keeps_seats: false });
        for status in Status::ALL {
            let ended = matches!(status, Status::Cancelled | Status::Expired | Status::Refunded);
            let wanted = if ended { Overdue::Seats } else { Overdue::Nothing };
            if status != Status::Held {
                assert_eq!(kept(status).overdue(end.plus_seconds(60)), wanted, "{status:?}");
                assert_eq!(kept(status).overdue(end.plus_seconds(59)), Overdue::Nothing, "{status:?}");
                assert_eq!(reservation(status).overdue(end.plus_seconds(60)), Overdue::Nothing, "{status:?}");
            }
        }
    }

    #[test]
    fn who_let_too_much_go_or_just_these_seats_may_not_hold_them() {
        let rule = UnpaidRule { most: 3, cool_down_seconds: 60 };
        let cooling = |until, id| CoolingDown { until, seats: vec![seat(id)] };
        let (past, soon) = (NOW, NOW.plus_seconds(1));
        let let_go = |count| {
            let cooling_down = vec![cooling(past, "A-1-1"), cooling(soon, "A-1-2"), cooling(soon, "A-1-3")];
            LetGo { rule, count, cooling_down }
        };
        let hold = |count, seats: &[&str]| {
            let visits = Visits { let_go: let_go(count), ..Visits::default() };
            decide_hold(&request(seats), Some(&terms()), Some(&plan()), &visits, NOW).map(|hold| hold.let_go.count)
        };
        assert_eq!(hold(2, &["A-1-1", "A-1-4"]), Ok(2));
        assert_eq!(hold(3, &["A-1-4"]), Err(Refusal::UnpaidLimit { most: 3 }));
        let cooling = Refusal::SeatsCoolingDown { seats: vec![seat("A-1-2")], cool_down_seconds: 60 };
        assert_eq!(hold(0, &["A-1-4", "A-1-2"]), Err(cooling));
        assert_eq!(let_go(0).allows(&[seat("A-1-2")], soon), Ok(()));
    }

    #[test]
    fn every_status_is_read_back_from_its_own_name() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
    }
}
