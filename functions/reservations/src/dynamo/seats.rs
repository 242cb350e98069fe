//! Where the seats of a date are kept, and which are taken.
//!
//! A partition key serves 1,000 write units a second, whatever a table was warmed to, and a seat costs six until it is sold:
//! a section under one key sells 166 tickets a second. So a date's terms cut its sections into blocks of so many seats,
//! row by row, each under a key of its own. A date's seats never move: releases before this one, and dates of theirs, have a
//! section under one key.

use super::Reservations;
use crate::domain::Terms;
use crate::ports::{FindTerms as _, ListTaken};
use aws_sdk_dynamodb::types::AttributeValue;
use contracts::seats::stream;
use contracts::steps::TakenSeats;
use contracts::{ScheduleId, SeatId, SectionName};
use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter};
use kit::dynamo::{Read, SK, s};
use kit::fault::classify;
use kit::{Fault, metrics};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many blocks of a section are read at once.
const BLOCKS_AT_ONCE: usize = 16;
/// How many dates a process remembers the seats of.
const KNOWN_DATES: usize = 256;

/// Where the seats of a date are.
#[derive(Debug, Clone)]
pub(super) struct DateSeats(Arc<Terms>);

impl DateSeats {
    /// The partition of a seat.
    pub fn pk(&self, seat: &SeatId) -> AttributeValue {
        self.partition(&seat.section, self.0.block_of(seat))
    }

    /// The partitions of a section.
    fn partitions(&self, section: &SectionName) -> Vec<AttributeValue> {
        match self.0.blocks_of(section) {
            None => vec![self.partition(section, None)],
            Some(blocks) => (0..blocks).map(|block| self.partition(section, Some(block))).collect(),
        }
    }

    fn partition(&self, section: &SectionName, block: Option<u32>) -> AttributeValue {
        let schedule = &self.0.schedule_id;
        s(block.map_or_else(
            || format!("SEATS#{schedule}#{section}"),
            |block| format!("SEATS#{schedule}#{section}#{block}"),
        ))
    }
}

/// What a process remembers of dates: their terms never change.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownSeats(Arc<Mutex<HashMap<ScheduleId, DateSeats>>>);

impl KnownSeats {
    fn get(&self, schedule: &ScheduleId) -> Option<DateSeats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(schedule).cloned()
    }

    /// Remembers the seats of a date, if it does not yet.
    pub fn add(&self, terms: &Terms) -> DateSeats {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_DATES {
            known.clear();
        }
        known.entry(terms.schedule_id.clone()).or_insert_with(|| DateSeats(Arc::new(terms.clone()))).clone()
    }
}

impl Reservations {
    /// Where the seats of a date are: read once a process and date.
    pub(super) async fn seats_of(&self, schedule: &ScheduleId) -> Result<DateSeats, Fault> {
        if let Some(known) = self.known.get(schedule) {
            return Ok(known);
        }
        let terms = self.terms(schedule).await?;
        let terms = terms.ok_or_else(|| Fault::broken("finding the seats of a date", "it has no terms"))?;
        Ok(self.known.add(&terms))
    }

    /// The seats of a partition that are taken.
    async fn taken_in(&self, partition: AttributeValue) -> Result<TakenSeats, Fault> {
        let mut pages = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .key_condition_expression("pk = :seats AND begins_with(sk, :seat)")
            .projection_expression("sk, #status")
            .expression_attribute_names("#status", stream::STATUS)
            .expression_attribute_values(":seats", partition)
            .expression_attribute_values(":seat", s("SEAT#"))
            .consistent_read(true)
            .into_paginator()
            .send();
        let mut taken = TakenSeats::default();
        while let Some(page) = pages.next().await {
            for row in page.map_err(|error| classify("listing the taken seats of a section", error))?.items() {
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

impl ListTaken for Reservations {
    async fn taken_seats(&self, schedule: &ScheduleId, section: &SectionName) -> Result<TakenSeats, Fault> {
        let partitions = self.seats_of(schedule).await?.partitions(section);
        let mut parts = iter(partitions).map(|partition| self.taken_in(partition)).buffered(BLOCKS_AT_ONCE);
        let mut taken = TakenSeats::default();
        while let Some(part) = parts.try_next().await? {
            taken.held.extend(part.held);
            taken.sold.extend(part.sold);
        }
        Ok(taken)
    }
}
