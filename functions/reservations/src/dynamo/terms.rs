//! Copies of what concerts and waiting-room decide: a date's terms and a concert's admission plan.

use super::Reservations;
use crate::domain::Terms;
use crate::ports::{FindTerms, KeepTerms};
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use contracts::admission::AdmissionPlan;
use contracts::{ConcertId, ScheduleId};
use kit::Fault;
use kit::dynamo::{Item, PK, Read, SK, json, n, s};
use kit::fault::{classify, is_condition_failed};

/// The attribute with the terms of a date whose sections are not cut into blocks.
const TERMS: &str = "terms";
/// The same of one whose sections are. A release that does not know blocks would find such a date's seats free: it finds no
/// terms, and sells nothing of it.
const BLOCK_TERMS: &str = "block_terms";

/// Reads the terms of a date.
pub(super) fn terms_of(item: &Item) -> Result<Terms, Fault> {
    item.document(if item.contains_key(BLOCK_TERMS) { BLOCK_TERMS } else { TERMS })
}

impl FindTerms for Reservations {
    async fn terms(&self, schedule: &ScheduleId) -> Result<Option<Terms>, Fault> {
        let found = self.table.read("reading terms", s(format!("SCHEDULE#{schedule}")), s("TERMS")).await?;
        found.as_ref().map(terms_of).transpose()
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
            .item(if terms.seats_per_block.is_some() { BLOCK_TERMS } else { TERMS }, json("keeping terms", terms)?)
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
            .item("plan", json("keeping a plan", plan)?)
            .item("version", n(plan.version))
            .condition_expression("attribute_not_exists(pk) OR version < :version")
            .expression_attribute_values(":version", n(plan.version))
            .send()
            .await;
        unless_condition_failed("keeping a plan", kept.map(drop))
    }
}

fn unless_condition_failed(doing: &'static str, written: Result<(), SdkError<PutItemError>>) -> Result<(), Fault> {
    match written {
        Err(error) if is_condition_failed(&error) => Ok(()),
        Err(error) => Err(classify(doing, error)),
        Ok(()) => Ok(()),
    }
}
