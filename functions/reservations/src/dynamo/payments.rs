//! The transitions of the payment saga and of the refund saga, each one transaction over the reservation and its seats.

use super::seats::DateSeats;
use super::{ROUNDS, Reservations, due_shard, event_data, reservation_of, reservation_sk, user_pk};
use crate::domain::{Booking, Status, after_release};
use crate::ports::{Obstacle, Transition, WritePayment, WriteRefund};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodb::types::builders::{DeleteBuilder, UpdateBuilder};
use contracts::events::EventBody;
use contracts::saga::{FailedPayment, PaymentSaga, RefundSaga};
use contracts::seats::stream;
use contracts::{ReservationId, SeatId, Timestamp};
use kit::Fault;
use kit::dynamo::{Cancelled, PK, SK, Slot, Transaction, at, s};
use kit::fault::{classify, is_condition_failed};

/// What the row of an ended reservation says while it keeps its seats back: the sweep finds it by the moment at which
/// they become free.
const KEEPS_SEATS: &str = "seats_free_at = :free_at, due_at = :free_at, due_shard = :shard";

/// An update with the values of [`KEEPS_SEATS`], if seats are kept back.
fn keeping(free_at: Option<Timestamp>, id: &ReservationId, update: UpdateBuilder) -> UpdateBuilder {
    match free_at {
        None => update,
        Some(free_at) => update
            .expression_attribute_values(":free_at", at(free_at))
            .expression_attribute_values(":shard", due_shard(id)),
    }
}

/// The booking in a saga's input.
fn booking_of(saga: &PaymentSaga) -> Booking {
    Booking {
        id: saga.reservation_id.clone(),
        user: saga.user_id.clone(),
        schedule: saga.schedule_id.clone(),
        concert: saga.concert_id.clone(),
        seats: saga.seats.clone(),
        total_price: saga.amount,
        hold_expires_at: saga.hold_expires_at,
        correlation_id: saga.correlation_id.clone(),
    }
}

/// Why a reservation did not leave the status it must have under this payment: it is at the goal already, or not this
/// payment's.
fn settled(
    cancelled: &Cancelled,
    reservation: Slot,
    goal: Status,
    saga: &PaymentSaga,
    doing: &'static str,
) -> Result<Transition, Fault> {
    if !cancelled.failed(reservation) {
        return Err(Fault::broken(doing, "its seats or its owner's count are not as they must be"));
    }
    let found = cancelled.found(reservation).map(reservation_of).transpose()?;
    Ok(match found {
        Some(found) if found.status == goal && found.payment.as_ref() == Some(&saga.payment_id) => Transition::Already,
        _ => Transition::Impossible(Obstacle::NotThisPayment),
    })
}

impl WriteRefund for Reservations {
    async fn refund(&self, saga: &RefundSaga, now: Timestamp) -> Result<Transition, Fault> {
        const DOING: &str = "refunding a reservation";
        let payment = &saga.payment;
        let booking = Booking { correlation_id: saga.refund_correlation_id.clone(), ..booking_of(payment) };
        let free_at = self.free_at(&booking.id, now);
        let date = self.seats_of(&booking.schedule).await?;
        let mut transaction = self.table.transaction(DOING);
        let reservation = transaction.add_identity(keeping(
            free_at,
            &booking.id,
            self.reservation_update(payment)
                .update_expression(match free_at {
                    None => "SET #status = :refunded REMOVE seats_free_at".to_owned(),
                    Some(_) => format!("SET #status = :refunded, {KEEPS_SEATS}"),
                })
                .condition_expression("#status = :paid AND payment_id = :payment")
                .expression_attribute_values(":paid", s(Status::Paid.as_str()))
                .expression_attribute_values(":refunded", s(Status::Refunded.as_str()))
                .expression_attribute_values(":payment", s(&payment.payment_id)),
        ))?;
        transaction.add(self.fewer_tickets(&booking))?;
        let refunded = EventBody::ReservationRefunded(event_data(&booking));
        transaction.add(self.event_row(&booking.id, &booking.correlation_id, refunded, now)?)?;
        match free_at {
            Some(free_at) => self.seats_kept(&mut transaction, &date, payment, stream::SOLD, free_at)?,
            None => {
                for seat in &payment.seats {
                    transaction.add(self.seat_given_back(&date, payment, seat))?;
                }
            }
        }
        match transaction.commit().await? {
            Ok(()) => Ok(Transition::Made),
            Err(cancelled) => settled(&cancelled, reservation, Status::Refunded, payment, DOING),
        }
    }
}

impl Reservations {
    fn reservation_update(&self, saga: &PaymentSaga) -> UpdateBuilder {
        self.update_of_reservation(&saga.user_id, &saga.reservation_id)
    }

    /// Keeps the seats of a saga back until `free_at`.
    fn seats_kept(
        &self,
        transaction: &mut Transaction<'_>,
        date: &DateSeats,
        saga: &PaymentSaga,
        from: &str,
        free_at: Timestamp,
    ) -> Result<(), Fault> {
        let values = [(":held", s(stream::HELD)), (":free_at", at(free_at))];
        let kept = "SET #status = :held, hold_expires_at = :free_at REMOVE payment_id";
        self.seats_move(transaction, date, saga, kept, from, &values)
    }

    /// Moves the seats of a saga from one status to another under its reservation.
    fn seats_move(
        &self,
        transaction: &mut Transaction<'_>,
        date: &DateSeats,
        saga: &PaymentSaga,
        expression: &str,
        from: &str,
        values: &[(&str, AttributeValue)],
    ) -> Result<(), Fault> {
        for seat in &saga.seats {
            let mut moved = self
                .update_of_seat(date, seat)
                .update_expression(expression)
                .condition_expression("reservation_id = :reservation AND #status = :from")
                .expression_attribute_names("#status", stream::STATUS)
                .expression_attribute_values(":reservation", s(&saga.reservation_id))
                .expression_attribute_values(":from", s(from));
            for (name, value) in values {
                moved = moved.expression_attribute_values(*name, value.clone());
            }
            transaction.add(moved)?;
        }
        Ok(())
    }

    /// Frees a sold seat. Repeated late, it must not touch a seat that another user has by then.
    fn seat_given_back(&self, date: &DateSeats, saga: &PaymentSaga, seat: &SeatId) -> DeleteBuilder {
        self.delete_of_seat(date, seat)
            .condition_expression("reservation_id = :reservation AND #status = :sold")
            .expression_attribute_names("#status", stream::STATUS)
            .expression_attribute_values(":reservation", s(&saga.reservation_id))
            .expression_attribute_values(":sold", s(stream::SOLD))
    }

    /// Adds the payment's tombstone to the reservation, which keeps a late `begin-payment` from taking effect. `false`
    /// when the payment has the reservation after all.
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
            Err(error) if is_condition_failed(&error) => Ok(false),
            Err(error) => Err(classify("releasing a reservation", error)),
        }
    }
}

impl WritePayment for Reservations {
    async fn begin(&self, saga: &PaymentSaga, _now: Timestamp) -> Result<Transition, Fault> {
        let date = self.seats_of(&saga.schedule_id).await?;
        let mut transaction = self.table.transaction("beginning a payment");
        // A concurrent writer of the row may be this payment itself.
        let reservation = transaction.add_identity(
            self.reservation_update(saga)
                .update_expression("SET #status = :paying, payment_id = :payment REMOVE due_shard, due_at")
                .condition_expression("#status = :held AND NOT contains(released, :payment)")
                .expression_attribute_values(":held", s(Status::Held.as_str()))
                .expression_attribute_values(":paying", s(Status::Paying.as_str()))
                .expression_attribute_values(":payment", s(&saga.payment_id)),
        )?;
        self.seats_move(
            &mut transaction,
            &date,
            saga,
            "SET #status = :paying, payment_id = :payment",
            stream::HELD,
            &[(":paying", s(stream::PAYING)), (":payment", s(&saga.payment_id))],
        )?;
        let Err(cancelled) = transaction.commit().await? else { return Ok(Transition::Made) };
        if !cancelled.failed(reservation) {
            // It is still our hold, but another user took one of its seats after it was over.
            return Ok(Transition::Impossible(Obstacle::HoldOver));
        }
        let Some(found) = cancelled.found(reservation) else {
            return Ok(Transition::Impossible(Obstacle::NotThisPayment));
        };
        let found = reservation_of(found)?;
        let ours = found.payment.as_ref() == Some(&saga.payment_id);
        Ok(match found.status {
            Status::Paying | Status::Paid if ours => Transition::Already,
            Status::Expired => Transition::Impossible(Obstacle::HoldOver),
            _ => Transition::Impossible(Obstacle::NotThisPayment),
        })
    }

    async fn confirm(&self, saga: &PaymentSaga, now: Timestamp) -> Result<Transition, Fault> {
        const DOING: &str = "confirming a reservation";
        let booking = booking_of(saga);
        let date = self.seats_of(&saga.schedule_id).await?;
        let mut transaction = self.table.transaction(DOING);
        let reservation = transaction.add_identity(
            self.reservation_update(saga)
                .update_expression("SET #status = :paid REMOVE seats_free_at")
                .condition_expression("#status = :paying AND payment_id = :payment")
                .expression_attribute_values(":paying", s(Status::Paying.as_str()))
                .expression_attribute_values(":paid", s(Status::Paid.as_str()))
                .expression_attribute_values(":payment", s(&saga.payment_id)),
        )?;
        // The place is spent, and its token void with it. One that the user took since is not.
        transaction.add(
            self.update_of_entitlement(&saga.user_id, &saga.concert_id)
                .update_expression("SET #spent = if_not_exists(#spent, :now)")
                .condition_expression("attribute_exists(pk)")
                .expression_attribute_names("#spent", format!("spent#{}", saga.queue_position))
                .expression_attribute_values(":now", at(now)),
        )?;
        let paid = EventBody::ReservationPaid(event_data(&booking));
        transaction.add(self.event_row(&booking.id, &booking.correlation_id, paid, now)?)?;
        self.seats_move(
            &mut transaction,
            &date,
            saga,
            "SET #status = :sold REMOVE hold_expires_at",
            stream::PAYING,
            &[(":sold", s(stream::SOLD))],
        )?;
        match transaction.commit().await? {
            Ok(()) => Ok(Transition::Made),
            Err(cancelled) => settled(&cancelled, reservation, Status::Paid, saga, DOING),
        }
    }

    async fn release(&self, failed: &FailedPayment, now: Timestamp) -> Result<Transition, Fault> {
        const DOING: &str = "releasing a reservation";
        let saga = &failed.saga;
        let date = self.seats_of(&saga.schedule_id).await?;
        // As it was quoted. The hold may have been extended since.
        let mut ends_at = saga.hold_expires_at;
        for _ in 0..ROUNDS {
            let mut transaction = self.table.transaction(DOING);
            let reservation = match after_release(ends_at, now) {
                Status::Held => self.back_to_held(&mut transaction, &date, saga)?,
                _ => self.back_to_nobody(&mut transaction, &date, failed, ends_at, now)?,
            };
            let Err(cancelled) = transaction.commit().await? else { return Ok(Transition::Made) };
            if !cancelled.failed(reservation) {
                return Err(Fault::broken(DOING, "its seats are not as they must be"));
            }
            let Some(found) = cancelled.found(reservation) else { return Ok(Transition::Already) };
            let found = reservation_of(found)?;
            // Paid back since, it was paid all the same.
            let ours = found.payment.as_ref() == Some(&saga.payment_id);
            let is_sold = matches!(found.status, Status::Paid | Status::Refunded);
            if is_sold && ours {
                return Ok(Transition::Impossible(Obstacle::NotThisPayment));
            }
            if ours && found.hold_expires_at != ends_at {
                ends_at = found.hold_expires_at;
                continue;
            }
            if self.close_to(saga).await? {
                return Ok(Transition::Already);
            }
        }
        Err(Fault::contended(DOING))
    }
}

impl Reservations {
    fn back_to_held(
        &self,
        transaction: &mut Transaction<'_>,
        date: &DateSeats,
        saga: &PaymentSaga,
    ) -> Result<Slot, Fault> {
        let reservation = transaction.add_identity(
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
                .expression_attribute_values(":shard", due_shard(&saga.reservation_id)),
        )?;
        let values = [(":held", s(stream::HELD))];
        self.seats_move(transaction, date, saga, "SET #status = :held REMOVE payment_id", stream::PAYING, &values)?;
        Ok(reservation)
    }

    fn back_to_nobody(
        &self,
        transaction: &mut Transaction<'_>,
        date: &DateSeats,
        failed: &FailedPayment,
        ends_at: Timestamp,
        now: Timestamp,
    ) -> Result<Slot, Fault> {
        let saga = &failed.saga;
        let booking = Booking { hold_expires_at: ends_at, ..booking_of(saga) };
        // Whoever pays in vain when the hold ends would know this moment, too.
        let free_at = self.free_at(&booking.id, now);
        let reservation = transaction.add_identity(keeping(
            free_at,
            &booking.id,
            self.reservation_update(saga)
                .update_expression(match free_at {
                    None => "SET #status = :expired REMOVE payment_id, seats_free_at ADD released :payments".to_owned(),
                    Some(_) => {
                        format!("SET #status = :expired, {KEEPS_SEATS} REMOVE payment_id ADD released :payments")
                    }
                })
                .condition_expression("#status = :paying AND payment_id = :payment AND hold_expires_at = :ends_at")
                .expression_attribute_values(":ends_at", at(ends_at))
                .expression_attribute_values(":expired", s(Status::Expired.as_str()))
                .expression_attribute_values(":paying", s(Status::Paying.as_str()))
                .expression_attribute_values(":payment", s(&saga.payment_id))
                .expression_attribute_values(":payments", AttributeValue::Ss(vec![saga.payment_id.to_string()])),
        ))?;
        // A payment that failed by our fault until its hold was over is not its user's doing.
        transaction.add(match failed.failure.refusal() {
            Some(_) => self.fewer_tickets_unpaid(&booking, now),
            None => self.fewer_tickets(&booking),
        })?;
        let expired = EventBody::ReservationExpired(event_data(&booking));
        transaction.add(self.event_row(&booking.id, &booking.correlation_id, expired, now)?)?;
        if let Some(free_at) = free_at {
            self.seats_kept(transaction, date, saga, stream::PAYING, free_at)?;
            return Ok(reservation);
        }
        for seat in &saga.seats {
            transaction.add(
                self.delete_of_seat(date, seat)
                    .condition_expression("reservation_id = :reservation AND #status = :paying")
                    .expression_attribute_names("#status", stream::STATUS)
                    .expression_attribute_values(":reservation", s(&saga.reservation_id))
                    .expression_attribute_values(":paying", s(stream::PAYING)),
            )?;
        }
        Ok(reservation)
    }
}
