//! Lines whose places are let in under a cap.

use super::{Lines, is_refused, page_of, plan_key, used_places};
use crate::domain::PAGE_POSITIONS;
use crate::ports::{FindGated, ReadUsed, WriteWave};
use aws_sdk_dynamodb::types::Put;
use aws_sdk_dynamodb::types::builders::PutBuilder;
use contracts::ConcertId;
use contracts::admission::AdmissionPlan;
use futures_util::future::try_join_all;
use kit::Fault;
use kit::dynamo::{PK, Read, SK, n, readable, s};
use kit::fault::classify;
use std::collections::BTreeSet;

/// The partition that lists them.
const GATES: &str = "GATES";
/// How many keys a `BatchGetItem` takes.
const KEYS_AT_ONCE: usize = 100;

impl Lines {
    /// The row by which a line with a gate is found.
    pub(super) fn gated_line(&self, concert: &ConcertId) -> PutBuilder {
        Put::builder().table_name(&self.table.name).item(PK, s(GATES)).item(SK, s(format!("LINE#{concert}")))
    }
}

impl FindGated for Lines {
    async fn gated(&self) -> Result<Vec<ConcertId>, Fault> {
        const DOING: &str = "finding lines with a gate";
        let pages = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .key_condition_expression("pk = :gates")
            .expression_attribute_values(":gates", s(GATES))
            .into_paginator()
            .items()
            .send();
        let rows: Result<Vec<_>, _> = pages.collect().await;
        let concert = |row: &kit::dynamo::Item| {
            let line = row.text(SK)?.strip_prefix("LINE#").unwrap_or_default().to_owned();
            ConcertId::parse(&line).map_err(|wrong| Fault::broken(DOING, wrong))
        };
        // A row that cannot be read must not keep the other lines standing.
        Ok(readable(Some(rows.map_err(|error| classify(DOING, error))?), DOING, concert).collect())
    }
}

impl ReadUsed for Lines {
    async fn used_of(&self, concert: &ConcertId, ranges: &[(u64, u64)]) -> Result<BTreeSet<u64>, Fault> {
        let of = |(from, to): &(u64, u64)| page_of(*from)..=page_of(*to);
        let pages: BTreeSet<u64> = ranges.iter().flat_map(of).collect();
        let keys: Vec<_> = pages.into_iter().map(|page| super::page_key(concert, page * PAGE_POSITIONS)).collect();
        // Eventually consistent: a place that is used and does not look like it is counted as inside a little longer.
        let reads = keys.chunks(KEYS_AT_ONCE).map(|keys| self.get("reading used places", keys.to_vec(), false));
        let mut used = BTreeSet::new();
        for page in try_join_all(reads).await?.into_iter().flatten() {
            let of_page = used_places(&page)?;
            used.extend(of_page.spent);
            used.extend(of_page.left);
        }
        Ok(used)
    }
}

impl WriteWave for Lines {
    async fn write_wave(&self, concert: &ConcertId, read: u64, plan: &AdmissionPlan) -> Result<bool, Fault> {
        const DOING: &str = "letting places in";
        let (pk, sk) = plan_key(concert);
        let written = self
            .update(pk, sk)
            .update_expression("SET #plan = :plan, plan_version = :version")
            .condition_expression("plan_version = :read")
            .expression_attribute_names("#plan", "plan")
            .expression_attribute_values(":plan", kit::dynamo::json(DOING, plan)?)
            .expression_attribute_values(":version", n(plan.version))
            .expression_attribute_values(":read", n(read))
            .send()
            .await;
        match written {
            Ok(_) => Ok(true),
            Err(error) if is_refused(&error) => Ok(false),
            Err(error) => Err(classify(DOING, error)),
        }
    }
}
