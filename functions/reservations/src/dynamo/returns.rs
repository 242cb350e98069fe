//! Seats that an ended reservation keeps back: how they come to be free.

use super::seats::DateSeats;
use super::{Reservations, reservation_sk, seat_sk, user_pk};
use crate::domain::{Reservation, Status};
use crate::ports::EndReturn;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use contracts::seats::stream;
use contracts::{SeatId, Timestamp};
use futures_util::future::try_join_all;
use kit::Fault;
use kit::dynamo::{PK, SK, at, s};
use kit::fault::{classify, is_condition_failed};

/// What is done here, in a fault.
const DOING: &str = "freeing seats that were given back";

impl EndReturn for Reservations {
    async fn end_return(&self, reservation: &Reservation, now: Timestamp) -> Result<(), Fault> {
        let date = &self.seats_of(&reservation.schedule).await?;
        try_join_all(reservation.seats.iter().map(|seat| self.seat_let_go(date, reservation, seat, now))).await?;
        // Last, so that the sweep finds what was cut off before.
        let done = self
            .table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(PK, user_pk(&reservation.user))
            .key(SK, reservation_sk(&reservation.id))
            .update_expression("REMOVE due_shard, due_at, seats_free_at")
            .condition_expression("#status <> :held AND #status <> :paying AND seats_free_at <= :now")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":held", s(Status::Held.as_str()))
            .expression_attribute_values(":paying", s(Status::Paying.as_str()))
            .expression_attribute_values(":now", at(now))
            .send()
            .await;
        match done {
            Ok(_) => Ok(()),
            // Done before.
            Err(error) if is_condition_failed(&error) => Ok(()),
            Err(error) => Err(classify(DOING, error)),
        }
    }
}

impl Reservations {
    /// Frees a seat that is kept back no longer, unless somebody has taken it since. One write each: nothing else
    /// changes with it.
    async fn seat_let_go(
        &self,
        date: &DateSeats,
        reservation: &Reservation,
        seat: &SeatId,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let freed = self
            .table
            .client
            .delete_item()
            .table_name(&self.table.name)
            .key(PK, date.pk(seat))
            .key(SK, seat_sk(seat))
            .condition_expression("reservation_id = :reservation AND #status = :held AND hold_expires_at <= :now")
            .expression_attribute_names("#status", stream::STATUS)
            .expression_attribute_values(":reservation", s(&reservation.id))
            .expression_attribute_values(":held", s(stream::HELD))
            .expression_attribute_values(":now", at(now))
            .send()
            .await;
        unless_taken(freed.map(drop))
    }
}

fn unless_taken(freed: Result<(), SdkError<DeleteItemError>>) -> Result<(), Fault> {
    match freed {
        Err(error) if is_condition_failed(&error) => Ok(()),
        Err(error) => Err(classify(DOING, error)),
        Ok(()) => Ok(()),
    }
}
