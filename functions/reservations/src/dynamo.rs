//! The reservations table: keys, items and every condition expression, in one file per kind of write.
//!
//! | item | pk | sk | attributes |
//! | --- | --- | --- | --- |
//! | terms | `SCHEDULE#<schedule>` | `TERMS` | `block_terms` (JSON of [`Terms`](crate::domain::Terms)), or `terms` where they cut sections into no blocks |
//! | plan | `CONCERT#<concert>` | `ADMISSION` | `plan` (JSON), `version` |
//! | seat | `SEATS#<schedule>#<section>#<block>` (of a date whose terms cut sections into no blocks `SEATS#<schedule>#<section>`) | `SEAT#<seat>` | `kind` = `seat`, `schedule_id`, `seat_id`, `status` (`held` \| `paying` \| `sold`), `reservation_id`, `user_id`, `hold_expires_at` (until when nobody else can have it, unless it is sold), `payment_id` |
//! | reservation | `USER#<user>` | `RES#<reservation>` | `kind` = `reservation`, `status`, `reservation_id`, `user_id`, `schedule_id`, `concert_id`, `seats` (list), `total_price`, `queue_position`, `hold_expires_at`, `created_at`, `correlation_id`, `payment_id` (the payment that has it), `released` (set of the payments that gave it back), `failure` (why its request was rejected or cancelled); `seats_free_at` (until when its seats are kept back after its end, where they are), `extended_from` (when its hold would have ended, where that was extended); while held or keeping seats back `due_shard`, `due_at` (index `due`); while pending `waiting_shard`, `waiting_at` (index `waiting`) and `wish` (JSON of the request) |
//! | entitlement | `USER#<user>` | `CONCERT#<concert>` | `n#<schedule>` (tickets held, being paid and paid), `w#<schedule>` (undecided requests), `u#<schedule>` (holds that ended unpaid), `c#<schedule>#<moment>` (set of the seats let go that the user cannot hold again until then), `visit_ends_at`, `spent#<position>` (when that place was spent) |
//! | remembered answer | `USER#<user>` | `IDEM#<key>` | see [`kit::idempotency`] |
//! | outbox row | `OUTBOX#<event>` | `OUTBOX` | see [`kit::outbox`] |
//!
//! A free seat has no item. One that is kept back has that of its last holder, `held`. Buyers of different seats never write
//! the same item, and of seats in different blocks not even the same partition (see [`seats`]).

mod extensions;
mod holds;
mod payments;
mod requests;
mod returns;
mod seats;
mod terms;

use crate::domain::{Booking, DUE_SHARDS, Reservation, ReturnDelay, Status, UnpaidRule};
use crate::ports::{FindReservation, ListReservations, RaiseAlert};
use aws_sdk_dynamodb::types::builders::{DeleteBuilder, UpdateBuilder};
use aws_sdk_dynamodb::types::{AttributeValue, Delete, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update};
use contracts::events::{CancelReason, EventBody, FaultDetected, ReservationCancelled, ReservationEvent};
use contracts::{ConcertId, PaymentId, ReservationId, ScheduleId, SeatId, Timestamp, UserId, Won};
use kit::Fault;
use kit::dynamo::{Item, PK, Read, SK, Table, at, n, s};
use kit::fault::classify;
use kit::http::Page;
use kit::outbox;
use seats::{DateSeats, KnownSeats};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

/// The index of pending reservations by the time of their next check: partition `waiting_shard`, sort `waiting_at`.
pub const WAITING_INDEX: &str = "waiting";
/// The index of holds by their end: partition `due_shard`, sort `due_at`.
pub const DUE_INDEX: &str = "due";
/// How many rows of a shard a sweep reads at a time.
const DUE_ROWS: i32 = 100;
/// How many of a user's last reservations are looked through for holds that are over: everybody can ask for it again and
/// again, and the sweep ends all of them.
const OVERDUE_ROWS: i32 = 100;
/// Tries of a contended read or write.
const ROUNDS: usize = 4;
/// The source of our events.
const SOURCE: &str = "encore/reservations";

/// Reservations in their table.
#[derive(Debug, Clone)]
pub struct Reservations {
    table: Table,
    returns: ReturnDelay,
    unpaid: UnpaidRule,
    known: KnownSeats,
}

fn user_pk(user: &UserId) -> AttributeValue {
    s(format!("USER#{user}"))
}

fn reservation_sk(id: &ReservationId) -> AttributeValue {
    s(format!("RES#{id}"))
}

fn entitlement_sk(concert: &ConcertId) -> AttributeValue {
    s(format!("CONCERT#{concert}"))
}

/// The attribute of an entitlement that counts the holds for a date that ended unpaid.
fn unpaid_of(schedule: &ScheduleId) -> String {
    format!("u#{schedule}")
}

/// The attribute of an entitlement with the seats of a date that its user cannot hold again until a moment.
fn cooling_down(schedule: &ScheduleId, until: Timestamp) -> String {
    format!("c#{schedule}#{}", until.millis())
}

fn seat_sk(seat: &SeatId) -> AttributeValue {
    s(format!("SEAT#{seat}"))
}

/// The shard of a reservation in the indexes, derived from its id.
fn due_shard(id: &ReservationId) -> AttributeValue {
    s(kit::dynamo::shard_of(id.as_str(), DUE_SHARDS))
}

impl Reservations {
    /// Reservations in a table. Seats that are given back are free at once.
    pub fn new(table: Table) -> Self {
        Self { table, returns: ReturnDelay::default(), unpaid: UnpaidRule::default(), known: KnownSeats::default() }
    }

    /// The same, where users may let so much go unpaid.
    #[must_use]
    pub fn allowing(self, unpaid: UnpaidRule) -> Self {
        Self { unpaid, ..self }
    }

    /// The same, where seats that are given back are kept for a while.
    #[must_use]
    pub fn returning(self, returns: ReturnDelay) -> Self {
        Self { returns, ..self }
    }

    /// When the seats of a reservation become free that are given back at `since`; `None` if that is at once.
    ///
    /// The moment must not be known to anybody. It is drawn with keys that the operating system gave this process: what
    /// the generator of ids brings next could be worked out from the ids that it made.
    fn free_at(&self, id: &ReservationId, since: Timestamp) -> Option<Timestamp> {
        self.returns.after(since, RandomState::new().hash_one(id.as_str()))
    }

    fn update_of(&self, pk: AttributeValue, sk: AttributeValue) -> UpdateBuilder {
        Update::builder()
            .table_name(&self.table.name)
            .key(PK, pk)
            .key(SK, sk)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    fn update_of_reservation(&self, user: &UserId, id: &ReservationId) -> UpdateBuilder {
        self.update_of(user_pk(user), reservation_sk(id)).expression_attribute_names("#status", "status")
    }

    fn update_of_entitlement(&self, user: &UserId, concert: &ConcertId) -> UpdateBuilder {
        self.update_of(user_pk(user), entitlement_sk(concert))
    }

    fn update_of_seat(&self, seats: &DateSeats, seat: &SeatId) -> UpdateBuilder {
        self.update_of(seats.pk(seat), seat_sk(seat))
    }

    fn delete_of_seat(&self, seats: &DateSeats, seat: &SeatId) -> DeleteBuilder {
        Delete::builder().table_name(&self.table.name).key(PK, seats.pk(seat)).key(SK, seat_sk(seat))
    }

    /// Subtracts the tickets of a hold that its user let go unpaid: it is counted, and its seats cool down for them.
    fn fewer_tickets_unpaid(&self, booking: &Booking, now: Timestamp) -> UpdateBuilder {
        const COUNTED: &str = "SET #tickets = #tickets - :count, #unpaid = if_not_exists(#unpaid, :none) + :one";
        let fewer = self
            .fewer_tickets(booking)
            .update_expression(COUNTED)
            .expression_attribute_names("#unpaid", unpaid_of(&booking.schedule))
            .expression_attribute_values(":none", n(0))
            .expression_attribute_values(":one", n(1));
        match self.unpaid.cool_down_seconds {
            0 => fewer,
            seconds => fewer
                .update_expression(format!("{COUNTED} ADD #cooling :seats"))
                .expression_attribute_names(
                    "#cooling",
                    cooling_down(&booking.schedule, now.plus_seconds(seconds.into())),
                )
                .expression_attribute_values(
                    ":seats",
                    AttributeValue::Ss(booking.seats.iter().map(ToString::to_string).collect()),
                ),
        }
    }

    /// Subtracts a booking's tickets from its user's count.
    fn fewer_tickets(&self, booking: &Booking) -> UpdateBuilder {
        self.update_of_entitlement(&booking.user, &booking.concert)
            .update_expression("SET #tickets = #tickets - :count")
            .condition_expression("#tickets >= :count")
            .expression_attribute_names("#tickets", format!("n#{}", booking.schedule))
            .expression_attribute_values(":count", n(booking.seats.len() as i64))
    }

    /// The outbox row of the event that pages the on-call, once per reservation.
    fn fault_row(
        &self,
        id: &ReservationId,
        correlation_id: &str,
        fault: FaultDetected,
        now: Timestamp,
    ) -> Result<TransactWriteItem, Fault> {
        let subject = fault.fault.clone();
        let body = EventBody::FaultDetected(fault);
        let event_id = format!("{id}.{}", body.event_type());
        let event = outbox::event_with_id(event_id, SOURCE, &subject, correlation_id, body, now)?;
        outbox::row(&self.table, &event, id.as_str())
    }

    fn event_row(
        &self,
        id: &ReservationId,
        correlation_id: &str,
        body: EventBody,
        now: Timestamp,
    ) -> Result<TransactWriteItem, Fault> {
        let event = outbox::event(SOURCE, id.as_str(), correlation_id, body, now)?;
        outbox::row(&self.table, &event, id.as_str())
    }
}

impl FindReservation for Reservations {
    async fn find(&self, user: &UserId, id: &ReservationId) -> Result<Option<Reservation>, Fault> {
        self.table
            .read("reading a reservation", user_pk(user), reservation_sk(id))
            .await?
            .as_ref()
            .map(reservation_of)
            .transpose()
    }
}

impl ListReservations for Reservations {
    async fn list(&self, user: &UserId, page: &Page) -> Result<(Vec<Reservation>, Option<String>), Fault> {
        let (rows, next) = self.table.page_backwards("listing reservations", user_pk(user), "RES#", page).await?;
        Ok((rows.iter().map(reservation_of).collect::<Result<_, _>>()?, next))
    }

    async fn overdue_of(
        &self,
        user: &UserId,
        schedule: &ScheduleId,
        now: Timestamp,
    ) -> Result<Vec<Reservation>, Fault> {
        let got = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .key_condition_expression("pk = :user AND begins_with(sk, :reservation)")
            .filter_expression("#status = :held AND schedule_id = :schedule AND hold_expires_at <= :now")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":user", user_pk(user))
            .expression_attribute_values(":reservation", s("RES#"))
            .expression_attribute_values(":held", s(Status::Held.as_str()))
            .expression_attribute_values(":schedule", s(schedule))
            .expression_attribute_values(":now", at(now))
            .scan_index_forward(false)
            .consistent_read(true)
            .limit(OVERDUE_ROWS)
            .send()
            .await
            .map_err(|error| classify("finding overdue holds", error))?;
        got.items.unwrap_or_default().iter().map(reservation_of).collect()
    }
}

impl RaiseAlert for Reservations {
    async fn raise_alert(&self, reservation: &Reservation, fault: FaultDetected, now: Timestamp) -> Result<(), Fault> {
        let mut transaction = self.table.transaction("raising an alert");
        transaction.add(self.fault_row(&reservation.id, &reservation.correlation_id, fault, now)?)?;
        transaction.commit_unconditional().await
    }
}

fn reservation_item(reservation: &Reservation) -> Item {
    let seats = reservation.seats.iter().map(s).collect();
    HashMap::from([
        (PK.to_owned(), user_pk(&reservation.user)),
        (SK.to_owned(), reservation_sk(&reservation.id)),
        ("kind".to_owned(), s("reservation")),
        ("reservation_id".to_owned(), s(&reservation.id)),
        ("user_id".to_owned(), s(&reservation.user)),
        ("schedule_id".to_owned(), s(&reservation.schedule)),
        ("concert_id".to_owned(), s(&reservation.concert)),
        ("seats".to_owned(), AttributeValue::L(seats)),
        ("total_price".to_owned(), n(reservation.total_price.get())),
        ("queue_position".to_owned(), n(reservation.queue_position)),
        ("status".to_owned(), s(reservation.status.as_str())),
        ("hold_expires_at".to_owned(), at(reservation.hold_expires_at)),
        ("created_at".to_owned(), at(reservation.created_at)),
        ("correlation_id".to_owned(), s(&reservation.correlation_id)),
    ])
}

/// Reads a reservation item.
pub fn reservation_of(item: &Item) -> Result<Reservation, Fault> {
    let wrong = |what: &'static str| Fault::broken("reading a reservation", what);
    let Some(AttributeValue::L(list)) = item.get("seats") else { return Err(wrong("seats")) };
    let mut seats = Vec::with_capacity(list.len());
    for seat in list {
        let text = seat.as_s().map_err(|_| wrong("seats"))?;
        seats.push(SeatId::parse(text).map_err(|_| wrong("seats"))?);
    }
    let payment = item.get("payment_id").and_then(|id| id.as_s().ok()).cloned();
    Ok(Reservation {
        id: item.parsed("reservation_id")?,
        user: item.parsed("user_id")?,
        schedule: item.parsed("schedule_id")?,
        concert: item.parsed("concert_id")?,
        seats,
        total_price: Won::new(item.int("total_price")?).map_err(|_| wrong("total_price"))?,
        queue_position: item.uint("queue_position")?,
        status: Status::parse(item.text("status")?).ok_or_else(|| wrong("status"))?,
        hold_expires_at: item.moment("hold_expires_at")?,
        created_at: item.moment("created_at")?,
        correlation_id: item.text("correlation_id")?.to_owned(),
        payment: payment.map(PaymentId::parse).transpose().map_err(|_| wrong("payment_id"))?,
        releases: item.get("released").and_then(|payments| payments.as_ss().ok()).map_or(0, Vec::len),
        failure: item.get("failure").and_then(|failure| failure.as_s().ok()).cloned(),
        seats_free_at: item.maybe_int("seats_free_at")?.map(Timestamp::from_millis),
        is_extended: item.contains_key("extended_from"),
    })
}

fn cancelled_event(booking: &Booking, reason: CancelReason) -> EventBody {
    EventBody::ReservationCancelled(ReservationCancelled { reservation: event_data(booking), reason })
}

fn event_data(booking: &Booking) -> ReservationEvent {
    ReservationEvent {
        reservation_id: booking.id.clone(),
        user_id: booking.user.clone(),
        schedule_id: booking.schedule.clone(),
        concert_id: booking.concert.clone(),
        seats: booking.seats.clone(),
        total_price: booking.total_price,
        hold_expires_at: booking.hold_expires_at,
    }
}
