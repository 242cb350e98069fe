//! Holds: the data a sale is decided on, the write that takes the seats, and the write that frees them.

use super::seats::DateSeats;
use super::terms::terms_of;
use super::{
    DUE_INDEX, DUE_ROWS, ROUNDS, Reservations, cancelled_event, cooling_down, due_shard, event_data, reservation_item,
    reservation_of, seat_sk, unpaid_of,
};
use crate::domain::{Booking, CoolingDown, EndHold, Hold, LetGo, Overdue, Refusal, Reservation, Status, Visit, Visits};
use crate::ports::{EndReturn, EndVisit, FindOverdue, HoldWritten, LoadSale, Origin, Sale, WriteEnd, WriteHold};
use aws_sdk_dynamodb::types::builders::{DeleteBuilder, PutBuilder, UpdateBuilder};
use aws_sdk_dynamodb::types::{KeysAndAttributes, Put};
use contracts::events::{CancelReason, EventBody, FaultDetected};
use contracts::seats::stream;
use contracts::{ConcertId, ScheduleId, SeatId, Timestamp, UserId};
use kit::Fault;
use kit::dynamo::{Cancelled, Item, PK, Read, SK, Slot, at, built, n, s};
use kit::fault::{classify, is_condition_failed};
use kit::idempotency::{self, IdempotencyKey, Memo, Outcome, Remembering};
use kit::sweep::{Cursor, Part, page};
use std::collections::HashMap;

impl LoadSale for Reservations {
    async fn load_sale(
        &self,
        schedule: &ScheduleId,
        concert: &ConcertId,
        user: &UserId,
        key: Option<&IdempotencyKey>,
        now: Timestamp,
    ) -> Result<Sale, Fault> {
        let item_key = |pk: String, sk: String| HashMap::from([(PK.to_owned(), s(pk)), (SK.to_owned(), s(sk))]);
        let mut keys = KeysAndAttributes::builder()
            // A pause of the sale and the end of a visit take effect for the very next request.
            .consistent_read(true)
            .keys(item_key(format!("SCHEDULE#{schedule}"), "TERMS".into()))
            .keys(item_key(format!("CONCERT#{concert}"), "ADMISSION".into()))
            .keys(item_key(format!("USER#{user}"), format!("CONCERT#{concert}")));
        if let Some(key) = key {
            keys = keys.keys(item_key(format!("USER#{user}"), idempotency::sort_key(key)));
        }
        let mut open = Some(HashMap::from([(self.table.name.clone(), built(keys.build())?)]));
        let mut items: Vec<Item> = Vec::new();
        let mut attempt = 0;
        // Under load DynamoDB may leave some keys unprocessed.
        while let Some(keys) = open.take() {
            if attempt == ROUNDS as u32 {
                return Err(Fault::contended("reading a sale"));
            }
            if attempt > 0 {
                tokio::time::sleep(kit::dynamo::jitter(attempt)).await;
            }
            attempt += 1;
            let batch = self.table.client.batch_get_item().set_request_items(Some(keys)).send().await;
            let got = batch.map_err(|error| classify("reading a sale", error))?;
            items.extend(got.responses.unwrap_or_default().into_values().flatten());
            open = got.unprocessed_keys.filter(|keys| !keys.is_empty());
        }
        let mut sale = Sale::default();
        for item in items {
            match item.text(SK)? {
                "TERMS" => {
                    let terms = terms_of(&item)?;
                    self.known.add(&terms);
                    sale.terms = Some(terms);
                }
                "ADMISSION" => sale.plan = Some(item.document("plan")?),
                sk if sk.starts_with("CONCERT#") => {
                    sale.visits = visits_of(&item, schedule)?;
                    sale.visits.let_go.rule = self.unpaid;
                }
                _ => {
                    if let Some(key) = key {
                        sale.remembered = idempotency::recall_at(&item, key, now)?.map(|first| first.answer);
                    }
                }
            }
        }
        Ok(sale)
    }
}

/// The writes of a hold whose failed conditions show why it was not made.
struct HoldSlots<'a> {
    entitlement: Slot,
    reservation: Slot,
    seats: Vec<(Slot, &'a SeatId)>,
    memo: Option<Remembering<'a>>,
}

impl WriteHold for Reservations {
    async fn write_hold(
        &self,
        hold: &Hold,
        origin: Origin,
        memo: Option<&Memo>,
        now: Timestamp,
    ) -> Result<HoldWritten, Fault> {
        let reservation = &hold.reservation;
        let free_at = self.free_at(&reservation.id, reservation.hold_expires_at);
        let date = self.seats_of(&reservation.schedule).await?;
        let mut transaction = self.table.transaction("holding seats");
        let entitlement = transaction.add(self.one_hold_more(hold, origin))?;
        let row = self.held_row(reservation, free_at, origin);
        let row = match origin {
            Origin::New => transaction.add(row)?,
            // Another delivery of the same message may be writing it at the same time.
            Origin::Pending => transaction.add_identity(row)?,
        };
        let mut seats = Vec::with_capacity(reservation.seats.len());
        for seat in &reservation.seats {
            seats.push((transaction.add(self.seat_taken(&date, reservation, free_at, seat, now))?, seat));
        }
        let held = EventBody::ReservationHeld(event_data(&reservation.booking()));
        transaction.add(self.event_row(&reservation.id, &reservation.correlation_id, held, now)?)?;
        let memo = Remembering::add(&mut transaction, &self.table, memo, now)?;
        match transaction.commit().await? {
            Ok(()) => Ok(HoldWritten::Held),
            Err(cancelled) => {
                not_held(hold, origin, &HoldSlots { entitlement, reservation: row, seats, memo }, &cancelled)
            }
        }
    }
}

/// Why a hold was not made.
fn not_held(hold: &Hold, origin: Origin, slots: &HoldSlots<'_>, cancelled: &Cancelled) -> Result<HoldWritten, Fault> {
    match slots.memo.as_ref().map_or(Ok(Outcome::First), |memo| memo.outcome(cancelled))? {
        Outcome::First => {}
        Outcome::Replay(first) => return Ok(HoldWritten::Replay(first.answer)),
        Outcome::Mismatch => return Ok(HoldWritten::KeyReused),
    }
    if cancelled.failed(slots.reservation) {
        return Ok(match origin {
            // The id was generated for this call: an earlier try, whose answer was lost, has written it all.
            Origin::New => HoldWritten::Held,
            Origin::Pending => HoldWritten::NotPending,
        });
    }
    if let Some(entitlement) = cancelled.found(slots.entitlement)
        && visit_changed(entitlement, hold)?
    {
        return Ok(HoldWritten::VisitChanged);
    }
    let taken: Vec<SeatId> =
        slots.seats.iter().filter(|(slot, _)| cancelled.failed(*slot)).map(|(_, seat)| (*seat).clone()).collect();
    Ok(HoldWritten::Refused(match taken.is_empty() {
        false => Refusal::SeatsTaken(taken),
        true => Refusal::TicketLimit { max_per_user: hold.max_per_user },
    }))
}

impl Reservations {
    /// Counts the tickets, on condition of the limit and of the visit that the decision was made on. A request that was
    /// pending is no longer counted as undecided.
    fn one_hold_more(&self, hold: &Hold, origin: Origin) -> UpdateBuilder {
        let reservation = &hold.reservation;
        let count = reservation.seats.len() as i64;
        let entitlement = self
            .update_of_entitlement(&reservation.user, &reservation.concert)
            .expression_attribute_names("#tickets", format!("n#{}", reservation.schedule))
            .expression_attribute_names("#spent", format!("spent#{}", reservation.queue_position))
            .expression_attribute_names("#unpaid", unpaid_of(&reservation.schedule))
            .expression_attribute_values(":unpaid", n(hold.let_go.count))
            .expression_attribute_values(":zero", n(0))
            .expression_attribute_values(":count", n(count))
            .expression_attribute_values(":room", n(i64::from(hold.max_per_user) - count));
        let (entitlement, decided) = match origin {
            Origin::New => (entitlement, String::new()),
            Origin::Pending => (
                entitlement
                    .expression_attribute_names("#wishes", requests_of(&reservation.schedule))
                    .expression_attribute_values(":one", n(1)),
                format!(", {ONE_REQUEST_FEWER}"),
            ),
        };
        let (entitlement, tidied) = without_cooled_down(entitlement, hold);
        match hold.visit {
            Visit::Begins { token_issued_at, ends_at } => entitlement
                .update_expression(format!(
                    "SET #tickets = if_not_exists(#tickets, :zero) + :count, visit_ends_at = :ends_at{decided}{tidied}"
                ))
                .condition_expression(
                    "(attribute_not_exists(#tickets) OR #tickets <= :room) AND attribute_not_exists(#spent) AND \
                     (attribute_not_exists(#unpaid) OR #unpaid = :unpaid) AND \
                     (attribute_not_exists(visit_ends_at) OR visit_ends_at <= :issued_at)",
                )
                .expression_attribute_values(":issued_at", at(token_issued_at))
                .expression_attribute_values(":ends_at", at(ends_at)),
            Visit::Lasts => entitlement
                .update_expression(format!("SET #tickets = if_not_exists(#tickets, :zero) + :count{decided}{tidied}"))
                .condition_expression(
                    "(attribute_not_exists(#tickets) OR #tickets <= :room) AND attribute_not_exists(#spent) AND \
                     (attribute_not_exists(#unpaid) OR #unpaid = :unpaid) AND visit_ends_at > :now",
                )
                .expression_attribute_values(":now", at(hold.asked_at)),
        }
    }

    fn held_row(&self, reservation: &Reservation, free_at: Option<Timestamp>, origin: Origin) -> PutBuilder {
        let mut item = reservation_item(reservation);
        if let Some(free_at) = free_at {
            item.insert("seats_free_at".to_owned(), at(free_at));
        }
        item.insert("due_shard".to_owned(), due_shard(&reservation.id));
        item.insert("due_at".to_owned(), at(reservation.hold_expires_at));
        let row = Put::builder().table_name(&self.table.name).set_item(Some(item));
        match origin {
            Origin::New => row.condition_expression("attribute_not_exists(pk)"),
            Origin::Pending => row
                .condition_expression("#status = :pending")
                .expression_attribute_names("#status", "status")
                .expression_attribute_values(":pending", s(Status::Pending.as_str())),
        }
    }

    fn seat_taken(
        &self,
        date: &DateSeats,
        reservation: &Reservation,
        free_at: Option<Timestamp>,
        seat: &SeatId,
        now: Timestamp,
    ) -> PutBuilder {
        Put::builder()
            .table_name(&self.table.name)
            .item(PK, date.pk(seat))
            .item(SK, seat_sk(seat))
            .item(stream::KIND, s(stream::KIND_SEAT))
            .item(stream::SCHEDULE_ID, s(&reservation.schedule))
            .item(stream::SEAT_ID, s(seat))
            .item(stream::STATUS, s(stream::HELD))
            .item("reservation_id", s(&reservation.id))
            .item("user_id", s(&reservation.user))
            .item("hold_expires_at", at(free_at.unwrap_or(reservation.hold_expires_at)))
            // Free, kept by an expired hold, or kept back for long enough: the write itself takes it over.
            .condition_expression("attribute_not_exists(pk) OR (#status = :held AND hold_expires_at <= :now)")
            .expression_attribute_names("#status", stream::STATUS)
            .expression_attribute_values(":held", s(stream::HELD))
            .expression_attribute_values(":now", at(now))
    }

    /// Keeps a seat of a hold back until `free_at`.
    fn seat_kept(&self, date: &DateSeats, booking: &Booking, seat: &SeatId, free_at: Timestamp) -> UpdateBuilder {
        self.update_of_seat(date, seat)
            .update_expression("SET hold_expires_at = :free_at")
            .condition_expression("reservation_id = :reservation AND #status = :held")
            .expression_attribute_names("#status", stream::STATUS)
            .expression_attribute_values(":reservation", s(&booking.id))
            .expression_attribute_values(":held", s(stream::HELD))
            .expression_attribute_values(":free_at", at(free_at))
    }

    fn seat_freed(&self, date: &DateSeats, booking: &Booking, seat: &SeatId) -> DeleteBuilder {
        self.delete_of_seat(date, seat)
            .condition_expression("reservation_id = :reservation AND #status = :held")
            .expression_attribute_names("#status", stream::STATUS)
            .expression_attribute_values(":reservation", s(&booking.id))
            .expression_attribute_values(":held", s(stream::HELD))
    }
}

/// The attribute of an entitlement that counts its undecided requests for a date.
pub(super) fn requests_of(schedule: &ScheduleId) -> String {
    format!("w#{schedule}")
}

/// Subtracts one from it.
pub(super) const ONE_REQUEST_FEWER: &str = "#wishes = if_not_exists(#wishes, :one) - :one";

/// Removes the seats that a hold's owner let go and could hold again when it was asked for: nobody looks at them any
/// more. The update, and what its expression ends with.
fn without_cooled_down(mut entitlement: UpdateBuilder, hold: &Hold) -> (UpdateBuilder, String) {
    let mut names = Vec::new();
    for one in hold.let_go.cooling_down.iter().filter(|one| one.until <= hold.asked_at) {
        let name = format!("#cooled{}", names.len());
        entitlement =
            entitlement.expression_attribute_names(&name, cooling_down(&hold.reservation.schedule, one.until));
        names.push(name);
    }
    let removed = if names.is_empty() { String::new() } else { format!(" REMOVE {}", names.join(", ")) };
    (entitlement, removed)
}

/// What a user let go of a date, by their entitlement.
fn let_go_of(entitlement: &Item, schedule: &ScheduleId) -> Result<LetGo, Fault> {
    const DOING: &str = "reading what a user let go";
    let count = match entitlement.get(&unpaid_of(schedule)) {
        None => 0,
        Some(count) => count
            .as_n()
            .ok()
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| Fault::broken(DOING, "a count is no number"))?,
    };
    let mut cooling_down = Vec::new();
    let prefix = format!("c#{schedule}#");
    for (name, value) in entitlement {
        let Some(until) = name.strip_prefix(&prefix).and_then(|millis| millis.parse().ok()) else { continue };
        let seats = value.as_ss().map_err(|_| Fault::broken(DOING, "seats are no set"))?;
        let seats = seats.iter().map(|seat| SeatId::parse(seat)).collect::<Result<_, _>>();
        let seats = seats.map_err(|invalid| Fault::broken(DOING, invalid))?;
        cooling_down.push(CoolingDown { until: Timestamp::from_millis(until), seats });
    }
    Ok(LetGo { count, cooling_down, ..LetGo::default() })
}

fn visits_of(entitlement: &Item, schedule: &ScheduleId) -> Result<Visits, Fault> {
    let spent = entitlement.keys().filter_map(|name| name.strip_prefix("spent#")?.parse().ok());
    Ok(Visits {
        last_ends_at: entitlement.maybe_int("visit_ends_at")?.map(Timestamp::from_millis),
        spent: spent.collect(),
        let_go: let_go_of(entitlement, schedule)?,
    })
}

/// Whether the user's visit, or what they let go, is no longer what the decision was made on: another request of theirs
/// reserved or paid meanwhile, or a hold of theirs ended.
fn visit_changed(entitlement: &Item, hold: &Hold) -> Result<bool, Fault> {
    let visits = visits_of(entitlement, &hold.reservation.schedule)?;
    let moved = match hold.visit {
        Visit::Begins { token_issued_at, .. } => visits.last_ends_at.is_some_and(|end| end > token_issued_at),
        Visit::Lasts => visits.last_ends_at.is_none_or(|end| end <= hold.asked_at),
    };
    let let_go = visits.let_go.count != hold.let_go.count;
    Ok(moved || let_go || visits.spent.contains(&hold.reservation.queue_position))
}

/// What becomes of the seats of a hold that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seats {
    /// They are free.
    Freed,
    /// They are kept back until a moment that is chosen now.
    KeptUntil(Timestamp),
    /// They are kept back until the moment that was chosen with the hold.
    KeptOn,
}

/// How the end of a hold went.
enum Ended {
    /// It has ended.
    Now,
    /// It could not end so; this is its row, if there is one.
    Not(Option<Item>),
}

impl WriteEnd for Reservations {
    async fn end_hold(&self, booking: &Booking, end: EndHold, now: Timestamp) -> Result<bool, Fault> {
        let seats = match end {
            EndHold::Undo(_) => Seats::Freed,
            EndHold::Cancel => self.free_at(&booking.id, now).map_or(Seats::Freed, Seats::KeptUntil),
            // What its row says is not known yet; this is what it says while nobody changes the delay.
            EndHold::Expire if self.returns.is_none() => Seats::Freed,
            EndHold::Expire => Seats::KeptOn,
        };
        let Ended::Not(row) = self.try_to_end(booking, end, seats, now).await? else { return Ok(true) };
        let Some(row) = row.filter(|_| end == EndHold::Expire) else { return Ok(false) };
        let found = reservation_of(&row)?;
        match found.overdue(now) {
            Overdue::Hold { keeps_seats } => {
                let seats = if keeps_seats { Seats::KeptOn } else { Seats::Freed };
                Ok(matches!(self.try_to_end(booking, end, seats, now).await?, Ended::Now))
            }
            Overdue::Seats => self.end_return(&found, now).await.map(|()| false),
            Overdue::Nothing => Ok(false),
        }
    }
}

impl Reservations {
    /// Ends a hold in one transaction.
    async fn try_to_end(&self, booking: &Booking, end: EndHold, seats: Seats, now: Timestamp) -> Result<Ended, Fault> {
        const DOING: &str = "ending a hold";
        let body = match end {
            EndHold::Expire => EventBody::ReservationExpired(event_data(booking)),
            EndHold::Cancel => cancelled_event(booking, CancelReason::User),
            EndHold::Undo(reason) => cancelled_event(booking, reason),
        };
        let date = self.seats_of(&booking.schedule).await?;
        let ended = self.hold_ended(booking, end, seats, now);
        // Seats that another user took over after the hold was over are no longer ours to free.
        let mut ours = if seats == Seats::KeptOn { Vec::new() } else { booking.seats.clone() };
        for _ in 0..=booking.seats.len().min(ROUNDS) {
            let mut transaction = self.table.transaction(DOING);
            let reservation = transaction.add_identity(ended.clone())?;
            let count = transaction.add(match end {
                EndHold::Expire | EndHold::Cancel => self.fewer_tickets_unpaid(booking, now),
                // Nobody's doing but ours.
                EndHold::Undo(_) => self.fewer_tickets(booking),
            })?;
            transaction.add(self.event_row(&booking.id, &booking.correlation_id, body.clone(), now)?)?;
            if end == EndHold::Undo(CancelReason::ExpiryNotScheduled) {
                let fault = expiry_not_scheduled(booking);
                transaction.add(self.fault_row(&booking.id, &booking.correlation_id, fault, now)?)?;
            }
            let mut freed = Vec::with_capacity(ours.len());
            for seat in ours {
                let slot = match seats {
                    Seats::KeptUntil(free_at) => transaction.add(self.seat_kept(&date, booking, &seat, free_at))?,
                    Seats::Freed | Seats::KeptOn => transaction.add(self.seat_freed(&date, booking, &seat))?,
                };
                freed.push((slot, seat));
            }
            match transaction.commit().await? {
                Ok(()) => return Ok(Ended::Now),
                Err(cancelled) if cancelled.failed(reservation) => {
                    return Ok(Ended::Not(cancelled.found(reservation).cloned()));
                }
                Err(cancelled) if cancelled.failed(count) => {
                    return Err(Fault::broken(DOING, "its owner's count is not as it must be"));
                }
                Err(cancelled) => {
                    freed.retain(|(slot, _)| !cancelled.failed(*slot));
                    ours = freed.into_iter().map(|(_, seat)| seat).collect();
                }
            }
        }
        Err(Fault::contended(DOING))
    }

    /// The reservation's own row at the end of its hold. While it keeps seats back the sweep finds it by the moment at
    /// which they become free.
    fn hold_ended(&self, booking: &Booking, end: EndHold, seats: Seats, now: Timestamp) -> UpdateBuilder {
        let status = if end == EndHold::Expire { Status::Expired } else { Status::Cancelled };
        let ended = self
            .update_of_reservation(&booking.user, &booking.id)
            .expression_attribute_values(":held", s(Status::Held.as_str()))
            .expression_attribute_values(":ended", s(status.as_str()));
        let ended = match seats {
            Seats::Freed => ended.update_expression("SET #status = :ended REMOVE due_shard, due_at, seats_free_at"),
            Seats::KeptOn => ended.update_expression("SET #status = :ended, due_at = seats_free_at"),
            Seats::KeptUntil(free_at) => ended
                .update_expression("SET #status = :ended, seats_free_at = :free_at, due_at = :free_at")
                .expression_attribute_values(":free_at", at(free_at)),
        };
        let guard = match (end, seats) {
            (EndHold::Undo(_), _) => return ended.condition_expression("#status = :held"),
            (EndHold::Cancel, _) => "#status = :held AND hold_expires_at > :now",
            (EndHold::Expire, Seats::KeptOn) => "#status = :held AND hold_expires_at <= :now AND seats_free_at > :now",
            (EndHold::Expire, _) => {
                "#status = :held AND hold_expires_at <= :now AND \
                 (attribute_not_exists(seats_free_at) OR seats_free_at <= :now)"
            }
        };
        ended.condition_expression(guard).expression_attribute_values(":now", at(now))
    }
}

impl EndVisit for Reservations {
    async fn end_visit(&self, user: &UserId, concert: &ConcertId, at: Timestamp, now: Timestamp) -> Result<(), Fault> {
        let ended = self
            .table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(PK, s(format!("USER#{user}")))
            .key(SK, s(format!("CONCERT#{concert}")))
            .update_expression("SET visit_ends_at = :at")
            // A call that comes late leaves a visit that ended after it as it is.
            .condition_expression("attribute_not_exists(visit_ends_at) OR visit_ends_at <= :at OR visit_ends_at > :now")
            .expression_attribute_values(":at", kit::dynamo::at(at))
            .expression_attribute_values(":now", kit::dynamo::at(now))
            .send()
            .await;
        match ended {
            Err(error) if is_condition_failed(&error) => Ok(()),
            Err(error) => Err(classify("ending a visit", error)),
            Ok(_) => Ok(()),
        }
    }
}

fn expiry_not_scheduled(booking: &Booking) -> FaultDetected {
    FaultDetected {
        fault: "hold-expiry-unscheduled".to_owned(),
        summary: "The end of holds cannot be scheduled; the holds are cancelled".to_owned(),
        detail: format!("reservation {} of date {}", booking.id, booking.schedule),
    }
}

impl FindOverdue for Reservations {
    async fn overdue(&self, shard: u64, now: Timestamp, after: Option<Cursor>) -> Result<Part<Reservation>, Fault> {
        let over = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .index_name(DUE_INDEX)
            .key_condition_expression("due_shard = :shard AND due_at <= :now")
            .expression_attribute_values(":shard", s(shard))
            .expression_attribute_values(":now", at(now))
            .limit(DUE_ROWS);
        page("finding overdue holds", over, after, reservation_of).await
    }
}
