//! Asynchronous requests: the pending row, its cancellation or rejection, and the reads and writes of the sweep.

use super::holds::{ONE_REQUEST_FEWER, requests_of};
use super::{
    DUE_ROWS, Reservations, WAITING_INDEX, cancelled_event, due_shard, reservation_item, reservation_of,
    reservation_sk, user_pk,
};
use crate::domain::{Booking, MAX_PENDING, PENDING_SECONDS, Reservation, SeatRequest, Status};
use crate::ports::{FindWaiting, Waiting, WritePending};
use aws_sdk_dynamodb::types::Put;
use contracts::events::{CancelReason, EventBody, ReservationRejected};
use contracts::{ConcertId, ReservationId, ScheduleId, Timestamp, UserId};
use kit::Fault;
use kit::dynamo::{Item, PK, Read, SK, at, json, n, s};
use kit::fault::{classify, is_condition_failed};
use kit::idempotency::{Memo, Outcome, Remembering, StoredAnswer};
use kit::sweep::{Cursor, Part, page};

/// A pending reservation to be ended, and how.
struct EndedRequest<'a> {
    id: &'a ReservationId,
    user: &'a UserId,
    schedule: &'a ScheduleId,
    concert: &'a ConcertId,
    correlation_id: &'a str,
    status: Status,
    failure: &'static str,
    event: EventBody,
}

impl WritePending for Reservations {
    async fn write_pending(
        &self,
        request: &SeatRequest,
        reservation: &Reservation,
        memo: Option<&Memo>,
        now: Timestamp,
    ) -> Result<Option<Outcome<StoredAnswer>>, Fault> {
        const DOING: &str = "asking for seats";
        let mut item = reservation_item(reservation);
        item.insert("wish".to_owned(), json(DOING, request)?);
        item.insert("waiting_shard".to_owned(), due_shard(&reservation.id));
        item.insert("waiting_at".to_owned(), at(now.plus_seconds(PENDING_SECONDS)));
        let mut transaction = self.table.transaction(DOING);
        let row = transaction.add(
            Put::builder()
                .table_name(&self.table.name)
                .set_item(Some(item))
                .condition_expression("attribute_not_exists(pk)"),
        )?;
        let counted = transaction.add(
            self.update_of_entitlement(&reservation.user, &reservation.concert)
                .update_expression("ADD #wishes :one")
                .condition_expression("attribute_not_exists(#wishes) OR #wishes < :most")
                .expression_attribute_names("#wishes", requests_of(&reservation.schedule))
                .expression_attribute_values(":one", n(1))
                .expression_attribute_values(":most", n(MAX_PENDING)),
        )?;
        let memo = Remembering::add(&mut transaction, &self.table, memo, now)?;
        let Err(cancelled) = transaction.commit().await? else { return Ok(Some(Outcome::First)) };
        let known = memo.map_or(Ok(Outcome::First), |memo| memo.outcome(&cancelled))?;
        if known != Outcome::First {
            return Ok(Some(known.map(|first| first.answer)));
        }
        match () {
            // The id was generated for this call: an earlier try, whose answer was lost, has written it.
            () if cancelled.failed(row) => Ok(Some(Outcome::First)),
            () if cancelled.failed(counted) => Ok(None),
            () => Err(Fault::contended(DOING)),
        }
    }

    async fn cancel_request(&self, booking: &Booking, reason: CancelReason, now: Timestamp) -> Result<bool, Fault> {
        let ended = EndedRequest {
            id: &booking.id,
            user: &booking.user,
            schedule: &booking.schedule,
            concert: &booking.concert,
            correlation_id: &booking.correlation_id,
            status: Status::Cancelled,
            failure: reason.as_str(),
            event: cancelled_event(booking, reason),
        };
        self.end_request(ended, now).await
    }

    async fn reject_request(&self, request: &SeatRequest, reason: &'static str, now: Timestamp) -> Result<bool, Fault> {
        let concert = &request.token.concert_id;
        let rejected = ReservationRejected {
            reservation_id: request.reservation.clone(),
            user_id: request.user.clone(),
            schedule_id: request.schedule.clone(),
            concert_id: concert.clone(),
            seats: request.seats.as_slice().to_vec(),
            reason: reason.to_owned(),
        };
        let ended = EndedRequest {
            id: &request.reservation,
            user: &request.user,
            schedule: &request.schedule,
            concert,
            correlation_id: &request.correlation_id,
            status: Status::Rejected,
            failure: reason,
            event: EventBody::ReservationRejected(rejected),
        };
        self.end_request(ended, now).await
    }
}

impl Reservations {
    /// pending -> cancelled or rejected. `false` when it is no longer pending.
    async fn end_request(&self, ended: EndedRequest<'_>, now: Timestamp) -> Result<bool, Fault> {
        let EndedRequest { id, user, schedule, concert, correlation_id, status, failure, event } = ended;
        let mut transaction = self.table.transaction("ending a request");
        transaction.add(
            self.update_of_reservation(user, id)
                .update_expression("SET #status = :status, failure = :failure REMOVE waiting_shard, waiting_at, wish")
                .condition_expression("#status = :pending")
                .expression_attribute_values(":pending", s(Status::Pending.as_str()))
                .expression_attribute_values(":status", s(status.as_str()))
                .expression_attribute_values(":failure", s(failure)),
        )?;
        transaction.add(self.event_row(id, correlation_id, event, now)?)?;
        transaction.add(
            self.update_of_entitlement(user, concert)
                .update_expression(format!("SET {ONE_REQUEST_FEWER}"))
                .expression_attribute_names("#wishes", requests_of(schedule))
                .expression_attribute_values(":one", n(1)),
        )?;
        Ok(transaction.commit().await?.is_ok())
    }
}

impl FindWaiting for Reservations {
    async fn waiting(&self, shard: u64, now: Timestamp, after: Option<Cursor>) -> Result<Part<Waiting>, Fault> {
        let waiting = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .index_name(WAITING_INDEX)
            .key_condition_expression("waiting_shard = :shard AND waiting_at <= :now")
            .expression_attribute_values(":shard", s(shard))
            .expression_attribute_values(":now", at(now))
            .limit(DUE_ROWS);
        let read = |item: &Item| Ok(Waiting { reservation: reservation_of(item)?, request: item.document("wish")? });
        page("finding pending reservations", waiting, after, read).await
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
            Err(error) if is_condition_failed(&error) => Ok(()),
            Err(error) => Err(classify("looking after a pending reservation", error)),
        }
    }
}
