//! The seats of a section as they are, for the rebuilding of what follows from them.

use super::{Reservations, section_pk};
use crate::ports::ListTaken;
use contracts::seats::stream;
use contracts::steps::TakenSeats;
use contracts::{ScheduleId, SeatId, SectionName};
use kit::dynamo::{Read, SK, s};
use kit::fault::classify;
use kit::{Fault, metrics};

impl ListTaken for Reservations {
    async fn taken_seats(&self, schedule: &ScheduleId, section: &SectionName) -> Result<TakenSeats, Fault> {
        const DOING: &str = "listing the taken seats of a section";
        let mut pages = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .key_condition_expression("pk = :section AND begins_with(sk, :seat)")
            .projection_expression("sk, #status")
            .expression_attribute_names("#status", stream::STATUS)
            .expression_attribute_values(":section", section_pk(schedule, section))
            .expression_attribute_values(":seat", s("SEAT#"))
            .consistent_read(true)
            .into_paginator()
            .send();
        let mut taken = TakenSeats::default();
        while let Some(page) = pages.next().await {
            for row in page.map_err(|error| classify(DOING, error))?.items() {
                let seat = row.text(SK)?.strip_prefix("SEAT#").map(SeatId::parse);
                match seat {
                    Some(Ok(seat)) if row.text(stream::STATUS).ok() == Some(stream::SOLD) => taken.sold.push(seat),
                    // Whatever its state, a seat that has a row is not free.
                    Some(Ok(seat)) => taken.held.push(seat),
                    _ => {
                        metrics::count("Broken", 1);
                        tracing::error!(row = row.text(SK)?, "the row of a seat has no seat's name");
                    }
                }
            }
        }
        Ok(taken)
    }
}
