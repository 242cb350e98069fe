//! The extension of a hold: one transaction over the reservation and its seats.

use super::seats::DateSeats;
use super::{Reservations, event_data};
use crate::domain::extensions::Extension;
use crate::domain::{Booking, Reservation, Status};
use crate::ports::{ExtensionWritten, WriteExtension};
use aws_sdk_dynamodb::types::builders::UpdateBuilder;
use contracts::events::EventBody;
use contracts::seats::stream;
use contracts::{SeatId, Timestamp};
use kit::Fault;
use kit::dynamo::{at, s};

impl WriteExtension for Reservations {
    async fn write_extension(
        &self,
        reservation: &Reservation,
        extension: &Extension,
        now: Timestamp,
    ) -> Result<ExtensionWritten, Fault> {
        let booking = Booking { hold_expires_at: extension.until, ..reservation.booking() };
        let date = self.seats_of(&reservation.schedule).await?;
        let mut transaction = self.table.transaction("extending a hold");
        // Whose turn it is, is said by the row: a payment, the end of the hold or the same request may come first.
        let row = transaction.add_identity(self.hold_extended(reservation, extension, now))?;
        for seat in &reservation.seats {
            transaction.add(self.seat_extended(&date, reservation, seat, extension))?;
        }
        let extended = EventBody::ReservationExtended(event_data(&booking));
        transaction.add(self.event_row(&booking.id, &booking.correlation_id, extended, now)?)?;
        Ok(match transaction.commit().await? {
            Ok(()) => ExtensionWritten::Extended,
            Err(cancelled) if cancelled.failed(row) => ExtensionWritten::Changed,
            Err(_) => ExtensionWritten::SeatsLost,
        })
    }
}

impl Reservations {
    /// The reservation's own row. The sweep finds it by the end that it has now.
    fn hold_extended(&self, reservation: &Reservation, extension: &Extension, now: Timestamp) -> UpdateBuilder {
        const EXTENDED: &str = "SET hold_expires_at = :until, due_at = :until, extended_from = :from";
        let extended = self
            .update_of_reservation(&reservation.user, &reservation.id)
            .condition_expression("#status = :held AND hold_expires_at > :now AND attribute_not_exists(extended_from)")
            .expression_attribute_values(":held", s(Status::Held.as_str()))
            .expression_attribute_values(":now", at(now))
            .expression_attribute_values(":from", at(extension.from))
            .expression_attribute_values(":until", at(extension.until));
        match extension.seats_free_at {
            None => extended.update_expression(EXTENDED),
            Some(free_at) => extended
                .update_expression(format!("{EXTENDED}, seats_free_at = :free_at"))
                .expression_attribute_values(":free_at", at(free_at)),
        }
    }

    /// A seat, as long as it is the reservation's.
    fn seat_extended(
        &self,
        date: &DateSeats,
        reservation: &Reservation,
        seat: &SeatId,
        extension: &Extension,
    ) -> UpdateBuilder {
        self.update_of_seat(date, seat)
            .update_expression("SET hold_expires_at = :until")
            .condition_expression("reservation_id = :reservation AND #status = :held")
            .expression_attribute_names("#status", stream::STATUS)
            .expression_attribute_values(":reservation", s(&reservation.id))
            .expression_attribute_values(":held", s(stream::HELD))
            .expression_attribute_values(":until", at(extension.seats_until()))
    }
}
