//! The reservations table: keys, items and every condition expression.
//!
//! | item | pk | sk | attributes |
//! | --- | --- | --- | --- |
//! | terms | `SCHEDULE#<schedule>` | `TERMS` | `terms` (JSON of [`Terms`]) |
//! | plan | `CONCERT#<concert>` | `ADMISSION` | `plan` (JSON), `version` |
//! | seat | `SEATS#<schedule>#<section>` | `SEAT#<seat>` | `kind` = `seat`, `schedule_id`, `seat_id`, `status` (`held` \| `paying` \| `sold`), `reservation_id`, `user_id`, `hold_expires_at`, `payment_id` |
//! | reservation | `USER#<user>` | `RES#<reservation>` | `kind` = `reservation`, `status`, its data, and while held `due_shard` and `due_at` (index `due`); while pending those of index `waiting` and `wish` (JSON of the wish) |
//! | entitlement | `USER#<user>` | `CONCERT#<concert>` | `n#<schedule>` (tickets held, being paid and paid), `w#<schedule>` (undecided requests), `visit_ends_at`, `spent#<position>` (when that place was spent) |
//! | remembered answer | `USER#<user>` | `IDEM#<key>` | see [`kit::idempotency`] |
//! | outbox row | `OUTBOX#<event>` | `OUTBOX` | see [`kit::outbox`] |
//!
//! A seat nobody has, has no item. Seats spread over one partition per section, so that buyers of different seats
//! never meet.

use crate::domain::{
    DUE_SHARDS, EndHold, Hold, MAX_PENDING, PENDING_SECONDS, Refusal, Reservation, SeatList, Status, Terms, Visit,
    Visits, Wish, Withdrawal, after_release,
};
use crate::ports::{
    AskForSeats, FindOverdue, FindReservation, FindTerms, FindWaiting, HoldWritten, KeepTerms, ListReservations,
    LoadSale, Obstacle, Origin, Remembered, Sale, ScheduleExpiry, TellFault, Transition, Waiting, WriteEnd, WriteHold,
    WritePayment, WritePending, WriteRefund,
};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, Delete, KeysAndAttributes, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use contracts::admission::{AdmissionPlan, QueueTokenClaims};
use contracts::events::{
    CancelReason, EventBody, FaultDetected, ReservationCancelled, ReservationEvent, ReservationRejected,
};
use contracts::saga::{PaymentSaga, RefundSaga};
use contracts::seats::stream;
use contracts::{ConcertId, PaymentId, ReservationId, ScheduleId, SeatId, Timestamp, UserId, Won};
use kit::Fault;
use kit::dynamo::{FailedConditions, Item, PK, Read, SK, Table, TransactError, at, built, classify, n, readable, s};
use kit::http::Page;
use kit::idempotency::{self, IdempotencyKey, StoredAnswer};
use kit::outbox;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The index of pending reservations by the moment somebody should look after them.
pub const WAITING_INDEX: &str = "waiting";
/// The index of holds by the moment they are over: partition `due_shard`, sort `due_at`.
pub const DUE_INDEX: &str = "due";
/// How many rows of a shard one sweep looks at: more than it gets done in its time, so that those it cannot get done do
/// not hide the others.
const DUE_ROWS: usize = 2_000;
/// Rounds of a write whose guards have to be looked at again.
const ROUNDS: usize = 4;
/// Who speaks in our events.
const SOURCE: &str = "encore/reservations";

/// Reservations in their table.
#[derive(Debug, Clone)]
pub struct Reservations {
    table: Table,
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

fn seat_pk(schedule: &ScheduleId, seat: &SeatId) -> AttributeValue {
    s(format!("SEATS#{schedule}#{}", seat.section))
}

fn seat_sk(seat: &SeatId) -> AttributeValue {
    s(format!("SEAT#{seat}"))
}

fn put(put: Put) -> TransactWriteItem {
    TransactWriteItem::builder().put(put).build()
}

fn update(update: Update) -> TransactWriteItem {
    TransactWriteItem::builder().update(update).build()
}

fn delete(delete: Delete) -> TransactWriteItem {
    TransactWriteItem::builder().delete(delete).build()
}

impl Reservations {
    /// Reservations in a table.
    pub fn new(table: Table) -> Self {
        Self { table }
    }

    fn update_of(&self, pk: AttributeValue, sk: AttributeValue) -> aws_sdk_dynamodb::types::builders::UpdateBuilder {
        Update::builder()
            .table_name(&self.table.name)
            .key(PK, pk)
            .key(SK, sk)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    /// Takes tickets off a user's count again.
    fn fewer_tickets(&self, reservation: &Reservation) -> Result<TransactWriteItem, Fault> {
        let count = n(reservation.seats.len() as i64);
        built(
            self.update_of(user_pk(&reservation.user), entitlement_sk(&reservation.concert))
                .update_expression("SET #tickets = #tickets - :count")
                .condition_expression("#tickets >= :count")
                .expression_attribute_names("#tickets", format!("n#{}", reservation.schedule))
                .expression_attribute_values(":count", count)
                .build(),
        )
        .map(update)
    }

    /// The event that calls a person, told once for each reservation.
    fn fault_row(
        &self,
        reservation: &Reservation,
        fault: FaultDetected,
        now: Timestamp,
    ) -> Result<TransactWriteItem, Fault> {
        let subject = fault.fault.clone();
        let body = EventBody::FaultDetected(fault);
        let id = format!("{}.{}", reservation.id, body.event_type());
        let event = outbox::event_with_id(id, SOURCE, &subject, &reservation.correlation_id, body, now)?;
        outbox::row(&self.table, &event, reservation.id.as_str())
    }

    fn event_row(
        &self,
        reservation: &Reservation,
        body: EventBody,
        now: Timestamp,
    ) -> Result<TransactWriteItem, Fault> {
        let id = reservation.id.as_str();
        let event = outbox::event(SOURCE, id, &reservation.correlation_id, body, now)?;
        outbox::row(&self.table, &event, id)
    }
}

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
            // A pause of the sale and the end of a hold are in force for the very next request.
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
        // Under load DynamoDB may leave keys for another round.
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
                "TERMS" => sale.terms = Some(item.document("terms")?),
                "ADMISSION" => sale.plan = Some(item.document("plan")?),
                sk if sk.starts_with("CONCERT#") => {
                    sale.visits = visits_of(&item)?;
                }
                _ => {
                    if let Some(key) = key
                        && item.moment("forgotten_at")? > now
                    {
                        sale.remembered = remembered(&item, key)?;
                    }
                }
            }
        }
        Ok(sale)
    }
}

/// The attribute of an entitlement that counts its undecided requests for a date.
fn wishes(schedule: &ScheduleId) -> String {
    format!("w#{schedule}")
}

/// Counts one of them off.
const ONE_WISH_FEWER: &str = "#wishes = if_not_exists(#wishes, :one) - :one";

fn remembered(row: &Item, key: &IdempotencyKey) -> Result<Remembered, Fault> {
    Ok(idempotency::recall(row, key)?.map_or(Remembered::OtherRequest, Remembered::Answer))
}

impl WriteHold for Reservations {
    async fn write_hold(
        &self,
        hold: &Hold,
        origin: Origin,
        answer: Option<(&IdempotencyKey, &StoredAnswer)>,
        now: Timestamp,
    ) -> Result<HoldWritten, Fault> {
        let reservation = &hold.reservation;
        let count = reservation.seats.len() as i64;
        let entitlement = self
            .update_of(user_pk(&reservation.user), entitlement_sk(&reservation.concert))
            .expression_attribute_names("#tickets", format!("n#{}", reservation.schedule))
            .expression_attribute_names("#spent", format!("spent#{}", reservation.queue_position))
            .expression_attribute_values(":zero", n(0))
            .expression_attribute_values(":count", n(count))
            .expression_attribute_values(":room", n(i64::from(hold.max_per_user) - count));
        // The limit, and the visit the decision was made on.
        // What was asked for asynchronously is not undecided any more.
        let (entitlement, decided) = match origin {
            Origin::New => (entitlement, String::new()),
            Origin::Pending => (
                entitlement
                    .expression_attribute_names("#wishes", wishes(&reservation.schedule))
                    .expression_attribute_values(":one", n(1)),
                format!(", {ONE_WISH_FEWER}"),
            ),
        };
        let entitlement = match hold.visit {
            Visit::Begins { token_issued_at, ends_at } => entitlement
                .update_expression(format!(
                    "SET #tickets = if_not_exists(#tickets, :zero) + :count, visit_ends_at = :ends_at{decided}"
                ))
                .condition_expression(
                    "(attribute_not_exists(#tickets) OR #tickets <= :room) AND attribute_not_exists(#spent) AND \
                     (attribute_not_exists(visit_ends_at) OR visit_ends_at <= :issued_at)",
                )
                .expression_attribute_values(":issued_at", at(token_issued_at))
                .expression_attribute_values(":ends_at", at(ends_at)),
            Visit::Lasts => entitlement
                .update_expression(format!("SET #tickets = if_not_exists(#tickets, :zero) + :count{decided}"))
                .condition_expression(
                    "(attribute_not_exists(#tickets) OR #tickets <= :room) AND attribute_not_exists(#spent) AND \
                     visit_ends_at > :now",
                )
                .expression_attribute_values(":now", at(hold.asked_at)),
        };
        let entitlement = built(entitlement.build())?;
        let row = Put::builder().table_name(&self.table.name).set_item(Some(held_item(reservation)));
        let row = match origin {
            Origin::New => row.condition_expression("attribute_not_exists(pk)"),
            Origin::Pending => row
                .condition_expression("#status = :pending")
                .expression_attribute_names("#status", "status")
                .expression_attribute_values(":pending", s(Status::Pending.as_str())),
        };
        let mut writes = vec![update(entitlement), put(built(row.build())?)];
        let first_seat = writes.len();
        for seat in &reservation.seats {
            let taken = Put::builder()
                .table_name(&self.table.name)
                .set_item(Some(seat_item(reservation, seat)))
                // Free, or kept by a hold that is over: the write itself takes it over.
                .condition_expression("attribute_not_exists(pk) OR (#status = :held AND hold_expires_at <= :now)")
                .expression_attribute_names("#status", stream::STATUS)
                .expression_attribute_values(":held", s(stream::HELD))
                .expression_attribute_values(":now", at(now))
                .build();
            writes.push(put(built(taken)?));
        }
        let after_seats = writes.len();
        writes.push(self.event_row(reservation, EventBody::ReservationHeld(event_data(reservation)), now)?);
        let remembering = writes.len();
        if let Some((key, answer)) = answer {
            writes.push(idempotency::remember(&self.table, &reservation.user, key, answer, now)?);
        }
        let failed = match self.table.transact("holding seats", writes).await {
            Ok(()) => return Ok(HoldWritten::Held),
            Err(TransactError::Fault(fault)) => return Err(fault),
            Err(TransactError::Conditions(failed)) => failed,
        };
        if let (true, Some((key, _))) = (failed.failed(remembering), answer) {
            let row =
                failed.found(remembering).ok_or_else(|| Fault::broken("holding seats", "the key's row is missing"))?;
            return Ok(HoldWritten::Remembered(remembered(row, key)?));
        }
        match origin {
            // The id was minted for this very call: a try whose answer was lost has written it all.
            Origin::New if failed.failed(1) => return Ok(HoldWritten::Held),
            Origin::Pending if failed.failed(1) => return Ok(HoldWritten::NotPending),
            // Nobody looked at the reservation itself: the same message may be writing it elsewhere.
            Origin::Pending if failed.conflicted(1) => return Err(Fault::contended("holding seats")),
            _ => {}
        }
        if let Some(entitlement) = failed.found(0)
            && visit_changed(entitlement, hold)?
        {
            return Ok(HoldWritten::VisitChanged);
        }
        let taken: Vec<SeatId> = failed
            .indexes()
            .into_iter()
            .filter(|index| (first_seat..after_seats).contains(index))
            .filter_map(|index| reservation.seats.get(index - first_seat).cloned())
            .collect();
        if !taken.is_empty() {
            return Ok(HoldWritten::Refused(Refusal::SeatsTaken(taken)));
        }
        Ok(HoldWritten::Refused(Refusal::TicketLimit { max_per_user: hold.max_per_user }))
    }
}

fn visits_of(entitlement: &Item) -> Result<Visits, Fault> {
    let spent = entitlement.keys().filter_map(|name| name.strip_prefix("spent#")?.parse().ok());
    Ok(Visits {
        last_ends_at: entitlement.maybe_int("visit_ends_at")?.map(Timestamp::from_millis),
        spent: spent.collect(),
    })
}

/// Whether the user's visit is another one than the decision was made on: they reserved or paid elsewhere meanwhile.
fn visit_changed(entitlement: &Item, hold: &Hold) -> Result<bool, Fault> {
    let visits = visits_of(entitlement)?;
    let moved = match hold.visit {
        Visit::Begins { token_issued_at, .. } => visits.last_ends_at.is_some_and(|end| end > token_issued_at),
        Visit::Lasts => visits.last_ends_at.is_none_or(|end| end <= hold.asked_at),
    };
    Ok(moved || visits.spent.contains(&hold.reservation.queue_position))
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
        let limit = page.limit as usize;
        // One more than asked tells whether there is a next page.
        let upper = page.after.clone().unwrap_or_else(|| "RES#~".to_owned());
        let got = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .key_condition_expression("pk = :user AND sk BETWEEN :first AND :upper")
            .expression_attribute_values(":user", user_pk(user))
            .expression_attribute_values(":first", s("RES#"))
            .expression_attribute_values(":upper", s(&upper))
            .scan_index_forward(false)
            .consistent_read(true)
            .limit(i32::try_from(limit + 2).unwrap_or(i32::MAX))
            .send()
            .await
            .map_err(|error| classify("listing reservations", error))?;
        let mut rows: Vec<Item> = got.items.unwrap_or_default();
        // BETWEEN includes the row the cursor stands on.
        rows.retain(|row| row.get(SK) != Some(&s(&upper)));
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = match rows.last() {
            Some(last) if more => Some(last.text(SK)?.to_owned()),
            _ => None,
        };
        let reservations = rows.iter().map(reservation_of).collect::<Result<_, _>>()?;
        Ok((reservations, next))
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
            .send()
            .await
            .map_err(|error| classify("finding overdue holds", error))?;
        got.items.unwrap_or_default().iter().map(reservation_of).collect()
    }
}

impl WriteEnd for Reservations {
    async fn end_hold(&self, reservation: &Reservation, end: EndHold, now: Timestamp) -> Result<bool, Fault> {
        let (status, guard, body) = match end {
            EndHold::Expire => (
                Status::Expired,
                "#status = :held AND hold_expires_at <= :now",
                EventBody::ReservationExpired(event_data(reservation)),
            ),
            EndHold::Cancel => (
                Status::Cancelled,
                "#status = :held AND hold_expires_at > :now",
                cancelled(reservation, CancelReason::User),
            ),
            EndHold::Undo(reason) => (Status::Cancelled, "#status = :held", cancelled(reservation, reason)),
        };
        let ended = built(
            self.update_of(user_pk(&reservation.user), reservation_sk(&reservation.id))
                .update_expression("SET #status = :ended, ended_at = :now REMOVE due_shard, due_at")
                .condition_expression(guard)
                .expression_attribute_names("#status", "status")
                .expression_attribute_values(":held", s(Status::Held.as_str()))
                .expression_attribute_values(":ended", s(status.as_str()))
                .expression_attribute_values(":now", at(now))
                .build(),
        )?;
        // Seats that somebody took over after the hold was over are no longer ours to free.
        let mut ours = reservation.seats.clone();
        for _ in 0..=reservation.seats.len().min(ROUNDS) {
            let mut writes = vec![
                update(ended.clone()),
                self.fewer_tickets(reservation)?,
                self.event_row(reservation, body.clone(), now)?,
            ];
            if end == EndHold::Undo(CancelReason::ExpiryNotScheduled) {
                writes.push(self.fault_row(reservation, expiry_not_scheduled(reservation), now)?);
            }
            let first_seat = writes.len();
            for seat in &ours {
                let freed = Delete::builder()
                    .table_name(&self.table.name)
                    .key(PK, seat_pk(&reservation.schedule, seat))
                    .key(SK, seat_sk(seat))
                    .condition_expression("reservation_id = :reservation AND #status = :held")
                    .expression_attribute_names("#status", stream::STATUS)
                    .expression_attribute_values(":reservation", s(&reservation.id))
                    .expression_attribute_values(":held", s(stream::HELD))
                    .build();
                writes.push(delete(built(freed)?));
            }
            match self.table.transact("ending a hold", writes).await {
                Ok(()) => return Ok(true),
                Err(TransactError::Fault(fault)) => return Err(fault),
                Err(TransactError::Conditions(failed)) if failed.failed(0) => return Ok(false),
                Err(TransactError::Conditions(failed)) if failed.failed(1) => {
                    return Err(Fault::broken("ending a hold", "its owner's count is not as it must be"));
                }
                Err(TransactError::Conditions(failed)) => ours = without_failed(&ours, &failed, first_seat),
            }
        }
        Err(Fault::contended("ending a hold"))
    }
}

fn cancelled(reservation: &Reservation, reason: CancelReason) -> EventBody {
    EventBody::ReservationCancelled(ReservationCancelled { reservation: event_data(reservation), reason })
}

fn without_failed(seats: &[SeatId], failed: &FailedConditions, first_seat: usize) -> Vec<SeatId> {
    seats
        .iter()
        .enumerate()
        .filter(|(index, _)| !failed.failed(first_seat + index))
        .map(|(_, seat)| seat.clone())
        .collect()
}

impl FindOverdue for Reservations {
    async fn overdue(&self, shard: u64, now: Timestamp) -> Result<Vec<Reservation>, Fault> {
        const DOING: &str = "finding overdue holds";
        let mut pages = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .index_name(DUE_INDEX)
            .key_condition_expression("due_shard = :shard AND due_at <= :now")
            .expression_attribute_values(":shard", s(shard))
            .expression_attribute_values(":now", at(now))
            .into_paginator()
            .send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| classify(DOING, error))?;
            found.extend(readable(page.items, DOING, reservation_of));
            if found.len() >= DUE_ROWS {
                break;
            }
        }
        Ok(found)
    }
}

impl WritePending for Reservations {
    async fn write_pending(
        &self,
        wish: &Wish,
        reservation: &Reservation,
        answer: Option<(&IdempotencyKey, &StoredAnswer)>,
        now: Timestamp,
    ) -> Result<Option<Remembered>, Fault> {
        let mut item = reservation_item(reservation);
        item.insert("wish".to_owned(), kit::dynamo::json("asking for seats", &WireWish::from(wish))?);
        item.insert("waiting_shard".to_owned(), due_shard(&reservation.id));
        item.insert("waiting_at".to_owned(), at(now.plus_seconds(PENDING_SECONDS)));
        let row = Put::builder()
            .table_name(&self.table.name)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(pk)")
            .build();
        let counted = self
            .update_of(user_pk(&reservation.user), entitlement_sk(&reservation.concert))
            .update_expression("ADD #wishes :one")
            .condition_expression("attribute_not_exists(#wishes) OR #wishes < :most")
            .expression_attribute_names("#wishes", wishes(&reservation.schedule))
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":most", n(MAX_PENDING))
            .build();
        let mut writes = vec![put(built(row)?), update(built(counted)?)];
        if let Some((key, answer)) = answer {
            writes.push(idempotency::remember(&self.table, &reservation.user, key, answer, now)?);
        }
        match (self.table.transact("asking for seats", writes).await, answer) {
            (Ok(()), _) => Ok(Some(Remembered::Nothing)),
            (Err(TransactError::Fault(fault)), _) => Err(fault),
            (Err(TransactError::Conditions(failed)), Some((key, _))) if failed.failed(2) => {
                let row = failed.found(2);
                let row = row.ok_or_else(|| Fault::broken("asking for seats", "the key's row is missing"))?;
                remembered(row, key).map(Some)
            }
            // The id was minted for this very call: a try whose answer was lost has written it.
            (Err(TransactError::Conditions(failed)), _) if failed.failed(0) => Ok(Some(Remembered::Nothing)),
            (Err(TransactError::Conditions(failed)), _) if failed.failed(1) => Ok(None),
            (Err(TransactError::Conditions(_)), _) => Err(Fault::contended("asking for seats")),
        }
    }

    async fn withdraw(&self, reservation: &Reservation, withdrawal: Withdrawal, now: Timestamp) -> Result<bool, Fault> {
        let (status, failure, body) = match withdrawal {
            Withdrawal::Cancel(reason) => (Status::Cancelled, reason.as_str(), cancelled(reservation, reason)),
            Withdrawal::Reject(reason) => (
                Status::Rejected,
                reason,
                EventBody::ReservationRejected(ReservationRejected {
                    reservation_id: reservation.id.clone(),
                    user_id: reservation.user.clone(),
                    schedule_id: reservation.schedule.clone(),
                    concert_id: reservation.concert.clone(),
                    seats: reservation.seats.clone(),
                    reason: reason.to_owned(),
                }),
            ),
        };
        let withdrawn = built(
            self.update_of(user_pk(&reservation.user), reservation_sk(&reservation.id))
                .update_expression(
                    "SET #status = :status, failure = :failure, ended_at = :now REMOVE waiting_shard, waiting_at, wish",
                )
                .condition_expression("#status = :pending")
                .expression_attribute_names("#status", "status")
                .expression_attribute_values(":pending", s(Status::Pending.as_str()))
                .expression_attribute_values(":status", s(status.as_str()))
                .expression_attribute_values(":failure", s(failure))
                .expression_attribute_values(":now", at(now))
                .build(),
        )?;
        let counted = self
            .update_of(user_pk(&reservation.user), entitlement_sk(&reservation.concert))
            .update_expression(format!("SET {ONE_WISH_FEWER}"))
            .expression_attribute_names("#wishes", wishes(&reservation.schedule))
            .expression_attribute_values(":one", n(1))
            .build();
        let writes = vec![update(withdrawn), self.event_row(reservation, body, now)?, update(built(counted)?)];
        match self.table.transact("withdrawing a reservation", writes).await {
            Ok(()) => Ok(true),
            Err(TransactError::Conditions(_)) => Ok(false),
            Err(TransactError::Fault(fault)) => Err(fault),
        }
    }
}

impl FindWaiting for Reservations {
    async fn waiting(&self, shard: u64, now: Timestamp) -> Result<Vec<Waiting>, Fault> {
        const DOING: &str = "finding pending reservations";
        let mut pages = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .index_name(WAITING_INDEX)
            .key_condition_expression("waiting_shard = :shard AND waiting_at <= :now")
            .expression_attribute_values(":shard", s(shard))
            .expression_attribute_values(":now", at(now))
            .into_paginator()
            .send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| classify(DOING, error))?;
            found.extend(readable(page.items, DOING, |item| {
                let wish = item.document::<WireWish>("wish")?.into_wish()?;
                Ok(Waiting { reservation: reservation_of(item)?, wish })
            }));
            if found.len() >= DUE_ROWS {
                break;
            }
        }
        Ok(found)
    }

    async fn look_later(&self, reservation: &Reservation, later: Timestamp) -> Result<(), Fault> {
        let moved = self
            .table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(PK, user_pk(&reservation.user))
            .key(SK, reservation_sk(&reservation.id))
            .update_expression("SET waiting_at = :later")
            .condition_expression("#status = :pending")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":pending", s(Status::Pending.as_str()))
            .expression_attribute_values(":later", at(later))
            .send()
            .await;
        match moved {
            Ok(_) => Ok(()),
            Err(error) => match error.as_service_error() {
                Some(failed) if failed.is_conditional_check_failed_exception() => Ok(()),
                _ => Err(classify("looking after a pending reservation", error)),
            },
        }
    }
}

impl TellFault for Reservations {
    async fn tell_fault(&self, reservation: &Reservation, fault: FaultDetected, now: Timestamp) -> Result<(), Fault> {
        let row = self.fault_row(reservation, fault, now)?;
        match self.table.transact("telling a fault", vec![row]).await {
            Ok(()) | Err(TransactError::Conditions(_)) => Ok(()),
            Err(TransactError::Fault(fault)) => Err(fault),
        }
    }
}

impl FindTerms for Reservations {
    async fn terms(&self, schedule: &ScheduleId) -> Result<Option<Terms>, Fault> {
        let found = self.table.read("reading terms", s(format!("SCHEDULE#{schedule}")), s("TERMS")).await?;
        found.map(|item| item.document("terms")).transpose()
    }
}

impl WriteRefund for Reservations {
    async fn refund(&self, saga: &RefundSaga, now: Timestamp) -> Result<Transition, Fault> {
        let (payment, mut reservation) = (&saga.payment, reservation_in(&saga.payment));
        reservation.correlation_id.clone_from(&saga.refund_correlation_id);
        let refunded = built(
            self.reservation_update(payment)
                .update_expression("SET #status = :refunded, refunded_at = :now")
                .condition_expression("#status = :paid AND payment_id = :payment")
                .expression_attribute_values(":paid", s(Status::Paid.as_str()))
                .expression_attribute_values(":refunded", s(Status::Refunded.as_str()))
                .expression_attribute_values(":payment", s(&payment.payment_id))
                .expression_attribute_values(":now", at(now))
                .build(),
        )?;
        let body = EventBody::ReservationRefunded(event_data(&reservation));
        let mut writes =
            vec![update(refunded), self.fewer_tickets(&reservation)?, self.event_row(&reservation, body, now)?];
        for seat in &payment.seats {
            let freed = Delete::builder()
                .table_name(&self.table.name)
                .key(PK, seat_pk(&payment.schedule_id, seat))
                .key(SK, seat_sk(seat))
                // Repeated late, it must not touch whoever has the seat by then.
                .condition_expression("reservation_id = :reservation AND #status = :sold")
                .expression_attribute_names("#status", stream::STATUS)
                .expression_attribute_values(":reservation", s(&payment.reservation_id))
                .expression_attribute_values(":sold", s(stream::SOLD))
                .build();
            writes.push(delete(built(freed)?));
        }
        let failed = match self.table.transact("refunding a reservation", writes).await {
            Ok(()) => return Ok(Transition::Made),
            Err(TransactError::Fault(fault)) => return Err(fault),
            Err(TransactError::Conditions(failed)) => failed,
        };
        if failed.conflicted(0) {
            return Err(Fault::contended("refunding a reservation"));
        }
        if !failed.failed(0) {
            return Err(Fault::broken(
                "refunding a reservation",
                "its seats or its owner's count are not as they must be",
            ));
        }
        let found = failed.found(0).map(reservation_of).transpose()?;
        Ok(match found {
            Some(found) if found.status == Status::Refunded && found.payment.as_ref() == Some(&payment.payment_id) => {
                Transition::Already
            }
            _ => Transition::Impossible(Obstacle::NotThisPayment),
        })
    }
}

impl KeepTerms for Reservations {
    async fn keep_terms(&self, terms: &Terms) -> Result<(), Fault> {
        let kept = self
            .table
            .client
            .put_item()
            .table_name(&self.table.name)
            .item(PK, s(format!("SCHEDULE#{}", terms.schedule_id)))
            .item(SK, s("TERMS"))
            .item("kind", s("terms"))
            .item("terms", kit::dynamo::json("keeping terms", terms)?)
            // Terms never change: holds were made under them.
            .condition_expression("attribute_not_exists(pk)")
            .send()
            .await;
        unless_condition_failed("keeping terms", kept.map(drop))
    }

    async fn keep_plan(&self, concert: &ConcertId, plan: &AdmissionPlan) -> Result<(), Fault> {
        let kept = self
            .table
            .client
            .put_item()
            .table_name(&self.table.name)
            .item(PK, s(format!("CONCERT#{concert}")))
            .item(SK, s("ADMISSION"))
            .item("kind", s("admission"))
            .item("plan", kit::dynamo::json("keeping a plan", plan)?)
            .item("version", n(plan.version))
            .condition_expression("attribute_not_exists(pk) OR version < :version")
            .expression_attribute_values(":version", n(plan.version))
            .send()
            .await;
        unless_condition_failed("keeping a plan", kept.map(drop))
    }
}

fn unless_condition_failed(
    doing: &'static str,
    written: Result<(), aws_sdk_dynamodb::error::SdkError<PutItemError>>,
) -> Result<(), Fault> {
    match written {
        Err(error) if error.as_service_error().is_some_and(PutItemError::is_conditional_check_failed_exception) => {
            Ok(())
        }
        Err(error) => Err(classify(doing, error)),
        Ok(()) => Ok(()),
    }
}

impl Reservations {
    /// The seats of a saga moving from one state to another under its reservation.
    fn seats_move(
        &self,
        saga: &PaymentSaga,
        expression: &str,
        from: &str,
        values: &[(&str, AttributeValue)],
    ) -> Result<Vec<TransactWriteItem>, Fault> {
        let mut writes = Vec::with_capacity(saga.seats.len());
        for seat in &saga.seats {
            let mut moved = self
                .update_of(seat_pk(&saga.schedule_id, seat), seat_sk(seat))
                .update_expression(expression)
                .condition_expression("reservation_id = :reservation AND #status = :from")
                .expression_attribute_names("#status", stream::STATUS)
                .expression_attribute_values(":reservation", s(&saga.reservation_id))
                .expression_attribute_values(":from", s(from));
            for (name, value) in values {
                moved = moved.expression_attribute_values(*name, value.clone());
            }
            writes.push(update(built(moved.build())?));
        }
        Ok(writes)
    }

    fn reservation_update(&self, saga: &PaymentSaga) -> aws_sdk_dynamodb::types::builders::UpdateBuilder {
        self.update_of(user_pk(&saga.user_id), reservation_sk(&saga.reservation_id))
            .expression_attribute_names("#status", "status")
    }

    /// Marks that a payment gave the reservation back, so that a begin of it that is still on its way changes nothing.
    /// `false` when the payment has the reservation after all.
    async fn close_to(&self, saga: &PaymentSaga) -> Result<bool, Fault> {
        let closed = self
            .table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(PK, user_pk(&saga.user_id))
            .key(SK, reservation_sk(&saga.reservation_id))
            .update_expression("ADD released :payments")
            .condition_expression(
                "attribute_exists(pk) AND (attribute_not_exists(payment_id) OR payment_id <> :payment)",
            )
            .expression_attribute_values(":payments", AttributeValue::Ss(vec![saga.payment_id.to_string()]))
            .expression_attribute_values(":payment", s(&saga.payment_id))
            .send()
            .await;
        match closed {
            Ok(_) => Ok(true),
            Err(error) => match error.as_service_error() {
                Some(failed) if failed.is_conditional_check_failed_exception() => Ok(false),
                _ => Err(classify("releasing a reservation", error)),
            },
        }
    }
}

impl WritePayment for Reservations {
    async fn begin(&self, saga: &PaymentSaga, _now: Timestamp) -> Result<Transition, Fault> {
        let begun = built(
            self.reservation_update(saga)
                .update_expression("SET #status = :paying, payment_id = :payment REMOVE due_shard, due_at")
                .condition_expression("#status = :held AND NOT contains(released, :payment)")
                .expression_attribute_values(":held", s(Status::Held.as_str()))
                .expression_attribute_values(":paying", s(Status::Paying.as_str()))
                .expression_attribute_values(":payment", s(&saga.payment_id))
                .build(),
        )?;
        let mut writes = vec![update(begun)];
        writes.extend(self.seats_move(
            saga,
            "SET #status = :paying, payment_id = :payment",
            stream::HELD,
            &[(":paying", s(stream::PAYING)), (":payment", s(&saga.payment_id))],
        )?);
        let failed = match self.table.transact("beginning a payment", writes).await {
            Ok(()) => return Ok(Transition::Made),
            Err(TransactError::Fault(fault)) => return Err(fault),
            Err(TransactError::Conditions(failed)) => failed,
        };
        if !failed.failed(0) {
            if failed.conflicted(0) {
                // Nobody looked at the reservation itself: it may be this payment's already.
                return Err(Fault::contended("beginning a payment"));
            }
            // It is still our hold, but a seat of it went to somebody else after it was over.
            return Ok(Transition::Impossible(Obstacle::HoldOver));
        }
        let Some(found) = failed.found(0) else { return Ok(Transition::Impossible(Obstacle::NotThisPayment)) };
        let reservation = reservation_of(found)?;
        let ours = reservation.payment.as_ref() == Some(&saga.payment_id);
        Ok(match reservation.status {
            Status::Paying | Status::Paid if ours => Transition::Already,
            Status::Expired => Transition::Impossible(Obstacle::HoldOver),
            _ => Transition::Impossible(Obstacle::NotThisPayment),
        })
    }

    async fn confirm(&self, saga: &PaymentSaga, now: Timestamp) -> Result<Transition, Fault> {
        let reservation = reservation_in(saga);
        let confirmed = built(
            self.reservation_update(saga)
                .update_expression("SET #status = :paid, paid_at = :now")
                .condition_expression("#status = :paying AND payment_id = :payment")
                .expression_attribute_values(":paying", s(Status::Paying.as_str()))
                .expression_attribute_values(":paid", s(Status::Paid.as_str()))
                .expression_attribute_values(":payment", s(&saga.payment_id))
                .expression_attribute_values(":now", at(now))
                .build(),
        )?;
        // The place is spent and the visit over: whatever the user got in line before this moment is void.
        let spent = built(
            self.update_of(user_pk(&saga.user_id), entitlement_sk(&saga.concert_id))
                .update_expression("SET visit_ends_at = :now, #spent = if_not_exists(#spent, :now)")
                .condition_expression("attribute_exists(pk)")
                .expression_attribute_names("#spent", format!("spent#{}", saga.queue_position))
                .expression_attribute_values(":now", at(now))
                .build(),
        )?;
        let paid = EventBody::ReservationPaid(event_data(&reservation));
        let mut writes = vec![update(confirmed), update(spent), self.event_row(&reservation, paid, now)?];
        writes.extend(self.seats_move(
            saga,
            "SET #status = :sold REMOVE hold_expires_at",
            stream::PAYING,
            &[(":sold", s(stream::SOLD))],
        )?);
        let failed = match self.table.transact("confirming a reservation", writes).await {
            Ok(()) => return Ok(Transition::Made),
            Err(TransactError::Fault(fault)) => return Err(fault),
            Err(TransactError::Conditions(failed)) => failed,
        };
        if failed.conflicted(0) {
            return Err(Fault::contended("confirming a reservation"));
        }
        if !failed.failed(0) {
            return Err(Fault::broken(
                "confirming a reservation",
                "its seats or its owner's count are not as they must be",
            ));
        }
        let found = failed.found(0).map(reservation_of).transpose()?;
        Ok(match found {
            Some(found) if found.status == Status::Paid && found.payment.as_ref() == Some(&saga.payment_id) => {
                Transition::Already
            }
            _ => Transition::Impossible(Obstacle::NotThisPayment),
        })
    }

    async fn release(&self, saga: &PaymentSaga, now: Timestamp) -> Result<Transition, Fault> {
        for _ in 0..ROUNDS {
            let writes = match after_release(saga.hold_expires_at, now) {
                Status::Held => self.back_to_held(saga)?,
                _ => self.back_to_nobody(saga, now)?,
            };
            let failed = match self.table.transact("releasing a reservation", writes).await {
                Ok(()) => return Ok(Transition::Made),
                Err(TransactError::Fault(fault)) => return Err(fault),
                Err(TransactError::Conditions(failed)) => failed,
            };
            if failed.conflicted(0) {
                continue;
            }
            if !failed.failed(0) {
                return Err(Fault::broken("releasing a reservation", "its seats are not as they must be"));
            }
            let Some(found) = failed.found(0) else { return Ok(Transition::Already) };
            let reservation = reservation_of(found)?;
            if reservation.status == Status::Paid && reservation.payment.as_ref() == Some(&saga.payment_id) {
                return Ok(Transition::Impossible(Obstacle::NotThisPayment));
            }
            if self.close_to(saga).await? {
                return Ok(Transition::Already);
            }
        }
        Err(Fault::contended("releasing a reservation"))
    }
}

impl Reservations {
    fn back_to_held(&self, saga: &PaymentSaga) -> Result<Vec<TransactWriteItem>, Fault> {
        let released = built(
            self.reservation_update(saga)
                .update_expression(
                    "SET #status = :held, due_shard = :shard, due_at = hold_expires_at REMOVE payment_id \
                     ADD released :payments",
                )
                .condition_expression("#status = :paying AND payment_id = :payment")
                .expression_attribute_values(":held", s(Status::Held.as_str()))
                .expression_attribute_values(":paying", s(Status::Paying.as_str()))
                .expression_attribute_values(":payment", s(&saga.payment_id))
                .expression_attribute_values(":payments", AttributeValue::Ss(vec![saga.payment_id.to_string()]))
                .expression_attribute_values(":shard", due_shard(&saga.reservation_id))
                .build(),
        )?;
        let mut writes = vec![update(released)];
        writes.extend(self.seats_move(
            saga,
            "SET #status = :held REMOVE payment_id",
            stream::PAYING,
            &[(":held", s(stream::HELD))],
        )?);
        Ok(writes)
    }

    fn back_to_nobody(&self, saga: &PaymentSaga, now: Timestamp) -> Result<Vec<TransactWriteItem>, Fault> {
        let reservation = reservation_in(saga);
        let released = built(
            self.reservation_update(saga)
                .update_expression("SET #status = :expired, ended_at = :now REMOVE payment_id ADD released :payments")
                .condition_expression("#status = :paying AND payment_id = :payment")
                .expression_attribute_values(":expired", s(Status::Expired.as_str()))
                .expression_attribute_values(":paying", s(Status::Paying.as_str()))
                .expression_attribute_values(":payment", s(&saga.payment_id))
                .expression_attribute_values(":payments", AttributeValue::Ss(vec![saga.payment_id.to_string()]))
                .expression_attribute_values(":now", at(now))
                .build(),
        )?;
        let expired = EventBody::ReservationExpired(event_data(&reservation));
        let mut writes =
            vec![update(released), self.fewer_tickets(&reservation)?, self.event_row(&reservation, expired, now)?];
        for seat in &saga.seats {
            let freed = Delete::builder()
                .table_name(&self.table.name)
                .key(PK, seat_pk(&saga.schedule_id, seat))
                .key(SK, seat_sk(seat))
                .condition_expression("reservation_id = :reservation AND #status = :paying")
                .expression_attribute_names("#status", stream::STATUS)
                .expression_attribute_values(":reservation", s(&saga.reservation_id))
                .expression_attribute_values(":paying", s(stream::PAYING))
                .build();
            writes.push(delete(built(freed)?));
        }
        Ok(writes)
    }
}

fn due_shard(id: &ReservationId) -> AttributeValue {
    let sum: u64 = id.as_str().bytes().map(u64::from).sum();
    s(sum % DUE_SHARDS)
}

fn seat_item(reservation: &Reservation, seat: &SeatId) -> Item {
    HashMap::from([
        (PK.to_owned(), seat_pk(&reservation.schedule, seat)),
        (SK.to_owned(), seat_sk(seat)),
        (stream::KIND.to_owned(), s(stream::KIND_SEAT)),
        (stream::SCHEDULE_ID.to_owned(), s(&reservation.schedule)),
        (stream::SEAT_ID.to_owned(), s(seat)),
        (stream::STATUS.to_owned(), s(stream::HELD)),
        ("reservation_id".to_owned(), s(&reservation.id)),
        ("user_id".to_owned(), s(&reservation.user)),
        ("hold_expires_at".to_owned(), at(reservation.hold_expires_at)),
    ])
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

/// A hold, in the index of holds by their end.
fn held_item(reservation: &Reservation) -> Item {
    let mut item = reservation_item(reservation);
    item.insert("due_shard".to_owned(), due_shard(&reservation.id));
    item.insert("due_at".to_owned(), at(reservation.hold_expires_at));
    item
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
    })
}

/// The reservation as a saga knows it.
fn reservation_in(saga: &PaymentSaga) -> Reservation {
    Reservation {
        id: saga.reservation_id.clone(),
        user: saga.user_id.clone(),
        schedule: saga.schedule_id.clone(),
        concert: saga.concert_id.clone(),
        seats: saga.seats.clone(),
        total_price: saga.amount,
        queue_position: saga.queue_position,
        status: Status::Paying,
        hold_expires_at: saga.hold_expires_at,
        created_at: saga.requested_at,
        correlation_id: saga.correlation_id.clone(),
        payment: Some(saga.payment_id.clone()),
        releases: 0,
        failure: None,
    }
}

fn event_data(reservation: &Reservation) -> ReservationEvent {
    ReservationEvent {
        reservation_id: reservation.id.clone(),
        user_id: reservation.user.clone(),
        schedule_id: reservation.schedule.clone(),
        concert_id: reservation.concert.clone(),
        seats: reservation.seats.clone(),
        total_price: reservation.total_price,
        hold_expires_at: reservation.hold_expires_at,
    }
}

fn expiry_not_scheduled(reservation: &Reservation) -> FaultDetected {
    FaultDetected {
        fault: "hold-expiry-unscheduled".to_owned(),
        summary: "The end of holds cannot be scheduled; the holds are cancelled".to_owned(),
        detail: format!("reservation {} of date {}", reservation.id, reservation.schedule),
    }
}

/// A wish, in its message and in the pending reservation.
#[derive(Debug, Serialize, Deserialize)]
struct WireWish {
    user_id: UserId,
    token: QueueTokenClaims,
    schedule_id: ScheduleId,
    seats: Vec<SeatId>,
    #[serde(rename = "id")]
    reservation_id: ReservationId,
    #[serde(rename = "correlationid")]
    correlation_id: String,
    asked_at: Timestamp,
}

/// What a wish is sent as: in the shape of a delivered event, so that logs and dead letters say whose it is.
#[derive(Debug, Serialize, Deserialize)]
struct SentWish {
    detail: WireWish,
}

/// The message that asks for seats.
pub fn message_of(wish: &Wish) -> Result<String, Fault> {
    serde_json::to_string(&SentWish { detail: wish.into() }).map_err(|error| Fault::broken("asking for seats", error))
}

/// What a message asks for. Anything that is no wish is [`Fault::Broken`].
pub fn wish_of(message: &str) -> Result<Wish, Fault> {
    let sent: SentWish = serde_json::from_str(message).map_err(|error| Fault::broken("reading a wish", error))?;
    sent.detail.into_wish()
}

impl From<&Wish> for WireWish {
    fn from(wish: &Wish) -> Self {
        Self {
            user_id: wish.user.clone(),
            token: wish.token.clone(),
            schedule_id: wish.schedule.clone(),
            seats: wish.seats.as_slice().to_vec(),
            reservation_id: wish.reservation.clone(),
            correlation_id: wish.correlation_id.clone(),
            asked_at: wish.asked_at,
        }
    }
}

impl WireWish {
    fn into_wish(self) -> Result<Wish, Fault> {
        Ok(Wish {
            user: self.user_id,
            token: self.token,
            schedule: self.schedule_id,
            seats: SeatList::new(self.seats).map_err(|error| Fault::broken("reading a wish", error))?,
            reservation: self.reservation_id,
            correlation_id: self.correlation_id,
            asked_at: self.asked_at,
        })
    }
}

/// The queue of wishes: first in, first out, within a section of a date.
#[derive(Debug, Clone)]
pub struct RequestQueue {
    client: aws_sdk_sqs::Client,
    url: String,
}

impl RequestQueue {
    /// A queue by its URL.
    pub fn new(client: aws_sdk_sqs::Client, url: String) -> Self {
        Self { client, url }
    }
}

impl AskForSeats for RequestQueue {
    async fn ask(&self, wish: &Wish) -> Result<(), Fault> {
        let section = wish.seats.as_slice().first().map(|seat| seat.section.to_string()).unwrap_or_default();
        self.client
            .send_message()
            .queue_url(&self.url)
            .message_body(message_of(wish)?)
            .message_group_id(format!("{}/{section}", wish.schedule))
            .message_deduplication_id(wish.reservation.as_str())
            .send()
            .await
            .map(drop)
            .map_err(|error| classify("asking for seats", error))
    }
}

/// The queue in which holds wait for their end.
#[derive(Debug, Clone)]
pub struct ExpiryQueue {
    client: aws_sdk_sqs::Client,
    url: String,
}

impl ExpiryQueue {
    /// A queue by its URL.
    pub fn new(client: aws_sdk_sqs::Client, url: String) -> Self {
        Self { client, url }
    }
}

impl ScheduleExpiry for ExpiryQueue {
    async fn look_again(&self, message: &str, delay_seconds: i32) -> Result<(), Fault> {
        self.client
            .send_message()
            .queue_url(&self.url)
            .message_body(message)
            .delay_seconds(delay_seconds)
            .send()
            .await
            .map(drop)
            .map_err(|error| classify("delaying a hold's expiry", error))
    }
}
