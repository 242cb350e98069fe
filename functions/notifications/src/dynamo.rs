//! The notifications table: what was delivered, which receipts exist, and which faults are open.
//!
//! | item | pk | sk | attributes |
//! | --- | --- | --- | --- |
//! | delivery | `DELIVERY#<consumer>#<event id>` | `DELIVERY` | while claimed: `lease`, `claimed_until`; once done: `outcome`, `reference`, `done_at`; `ttl` |
//! | receipt | `RECEIPT#<payment>`, `RECEIPT#ORDER#<order>` | `RECEIPT` | `begun`, `receipt_key`, `refunded_by`, `cancelled` |
//! | alert | `ALERT#<fault>` | `ALERT` | `alert` (JSON), `rev`, `ttl` |
//! | outbox row | `OUTBOX#<event>` | `OUTBOX` | see [`kit::outbox`] |

use crate::domain::{Alert, Claim, Delivery, LEASE_MILLIS, Lease, Outcome, Page, Receipt, Report, SaleId};
use crate::ports::{GuardDelivery, KeepAlerts, KeepReceipts};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnValue, ReturnValuesOnConditionCheckFailure};
use contracts::events::EventBody;
use contracts::{EventId, Timestamp};
use kit::dynamo::{Item, PK, Read, SK, TTL, Table, at, n, s};
use kit::fault::{classify, is_condition_failed};
use kit::{Fault, outbox};
use serde::{Deserialize, Serialize};

/// How long deliveries and alerts are kept, in seconds: longer than SQS keeps a message (14 days), so that a
/// redelivered one finds its result.
const KEPT_SECONDS: i64 = 30 * 86_400;

/// The `source` of this context's events.
const SOURCE: &str = "encore/notifications";
const DELIVERY: &str = "DELIVERY";
const RECEIPT: &str = "RECEIPT";
const ALERT: &str = "ALERT";

/// The notifications table.
#[derive(Debug, Clone)]
pub struct Notifications {
    table: Table,
}

impl Notifications {
    /// Notifications in a table.
    pub fn new(table: Table) -> Self {
        Self { table }
    }

    /// Writes the record of a finished delivery together with the event of its report.
    async fn write_reported(&self, done: Item, report: &Report, now: Timestamp) -> Result<(), Fault> {
        let order = report.order.order_id.as_str();
        let body = EventBody::OrderReported(report.order.clone());
        let event = outbox::event(SOURCE, order, &report.correlation_id, body, now)?;
        let mut transaction = self.table.transaction(FINISHING);
        transaction.add(Put::builder().table_name(&self.table.name).set_item(Some(done)))?;
        transaction.add(outbox::row(&self.table, &event, order)?)?;
        transaction.commit_unconditional().await
    }

    fn update_receipt(&self, sale: &SaleId) -> UpdateItemFluentBuilder {
        self.table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(PK, s(receipt_pk(sale)))
            .key(SK, s(RECEIPT))
            .return_values(ReturnValue::AllNew)
    }
}

/// An id has no `#`, so no order's key is a payment's.
fn receipt_pk(sale: &SaleId) -> String {
    match sale {
        SaleId::Payment(payment) => format!("{RECEIPT}#{payment}"),
        SaleId::Order(order) => format!("{RECEIPT}#ORDER#{order}"),
    }
}

const FINISHING: &str = "writing down a delivery";

fn delivery_key(delivery: &Delivery) -> AttributeValue {
    s(format!("{DELIVERY}#{}#{}", delivery.consumer, delivery.event))
}

impl GuardDelivery for Notifications {
    async fn claim(&self, delivery: &Delivery, now: Timestamp) -> Result<Claim, Fault> {
        let lease = kit::ids::ulid(now);
        let put = self
            .table
            .client
            .put_item()
            .table_name(&self.table.name)
            .item(PK, delivery_key(delivery))
            .item(SK, s(DELIVERY))
            .item("lease", s(&lease))
            .item("claimed_until", at(now.plus_millis(LEASE_MILLIS)))
            .item(TTL, n(now.plus_seconds(KEPT_SECONDS).ttl_seconds()))
            // A row that is done has no `claimed_until`, so it cannot be claimed any more. The row has this very lease
            // if the answer to this write was lost and the write is sent again.
            .condition_expression("attribute_not_exists(pk) OR claimed_until <= :now OR lease = :lease")
            .expression_attribute_values(":now", at(now))
            .expression_attribute_values(":lease", s(&lease))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match put {
            Ok(_) => Ok(Claim::Mine(Lease(lease))),
            Err(error) => match error.as_service_error() {
                Some(PutItemError::ConditionalCheckFailedException(found)) => {
                    let is_done = found.item().is_some_and(|item| item.contains_key("done_at"));
                    Ok(if is_done { Claim::Done } else { Claim::Elsewhere })
                }
                _ => Err(classify("claiming a delivery", error)),
            },
        }
    }

    async fn finish(&self, delivery: &Delivery, outcome: &Outcome, now: Timestamp) -> Result<(), Fault> {
        let done = Item::from([
            (PK.to_owned(), delivery_key(delivery)),
            (SK.to_owned(), s(DELIVERY)),
            ("outcome".to_owned(), s(outcome.what)),
            ("reference".to_owned(), s(outcome.reference.as_deref().unwrap_or_default())),
            ("done_at".to_owned(), at(now)),
            (TTL.to_owned(), n(now.plus_seconds(KEPT_SECONDS).ttl_seconds())),
        ]);
        // Unconditional: it is done, even if another handler has claimed it since.
        if let Some(report) = &outcome.report {
            return self.write_reported(done, report, now).await;
        }
        let put = self.table.client.put_item().table_name(&self.table.name).set_item(Some(done)).send().await;
        put.map(drop).map_err(|error| classify(FINISHING, error))
    }

    async fn release(&self, delivery: &Delivery, lease: &Lease) -> Result<(), Fault> {
        let deleted = self
            .table
            .client
            .delete_item()
            .table_name(&self.table.name)
            .key(PK, delivery_key(delivery))
            .key(SK, s(DELIVERY))
            .condition_expression("lease = :lease")
            .expression_attribute_values(":lease", s(&lease.0))
            .send()
            .await;
        match deleted {
            Ok(_) => Ok(()),
            Err(error) if is_condition_failed(&error) => Ok(()),
            Err(error) => Err(classify("giving a claim back", error)),
        }
    }
}

impl KeepReceipts for Notifications {
    async fn begin_receipt(&self, sale: &SaleId) -> Result<Option<Receipt>, Fault> {
        let begun = self
            .update_receipt(sale)
            .update_expression("SET begun = :yes")
            // A receipt that was begun before the refund has to be issued, so that it can be cancelled.
            .condition_expression("attribute_not_exists(refunded_by) OR attribute_exists(begun)")
            .expression_attribute_values(":yes", AttributeValue::Bool(true))
            .send()
            .await;
        match begun {
            Ok(answer) => receipt(answer.attributes).map(Some),
            Err(error) if is_condition_failed(&error) => Ok(None),
            Err(error) => Err(classify("beginning a receipt", error)),
        }
    }

    async fn keep_key(&self, sale: &SaleId, key: &str) -> Result<Receipt, Fault> {
        let kept = self
            .update_receipt(sale)
            .update_expression("SET receipt_key = :key")
            .expression_attribute_values(":key", s(key))
            .send()
            .await;
        receipt(kept.map_err(|error| classify("keeping a receipt", error))?.attributes)
    }

    async fn keep_refund(&self, sale: &SaleId, by: &EventId) -> Result<Receipt, Fault> {
        let kept = self
            .update_receipt(sale)
            .update_expression("SET refunded_by = :event")
            .expression_attribute_values(":event", s(by))
            .send()
            .await;
        receipt(kept.map_err(|error| classify("keeping a refund", error))?.attributes)
    }

    async fn keep_cancelled(&self, sale: &SaleId) -> Result<Receipt, Fault> {
        let kept = self
            .update_receipt(sale)
            .update_expression("SET cancelled = :yes")
            .expression_attribute_values(":yes", AttributeValue::Bool(true))
            .send()
            .await;
        receipt(kept.map_err(|error| classify("keeping a cancellation", error))?.attributes)
    }
}

fn receipt(item: Option<Item>) -> Result<Receipt, Fault> {
    let item = item.unwrap_or_default();
    let has = |name: &str| item.contains_key(name);
    Ok(Receipt {
        key: has("receipt_key").then(|| item.text("receipt_key").map(str::to_owned)).transpose()?,
        refunded_by: has("refunded_by").then(|| item.parsed("refunded_by")).transpose()?,
        cancelled: has("cancelled"),
    })
}

/// An alert as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    summary: String,
    detail: String,
    open: bool,
    since: Timestamp,
    seen_at: Timestamp,
    closed_at: Timestamp,
    count: u64,
    page: KeptPage,
    retired: Option<String>,
    claimed_until: Option<Timestamp>,
}

/// A page's state as it is stored.
#[derive(Debug, Serialize, Deserialize)]
enum KeptPage {
    #[serde(rename = "untold")]
    None,
    #[serde(rename = "telling")]
    Creating,
    #[serde(rename = "told")]
    Open(String),
    #[serde(rename = "over")]
    Closed,
}

impl KeepAlerts for Notifications {
    async fn find_alert(&self, fault: &str) -> Result<Option<Alert>, Fault> {
        let found = self.table.read("reading an alert", s(format!("{ALERT}#{fault}")), s(ALERT)).await?;
        let Some(item) = found else { return Ok(None) };
        let kept: Kept = item.document("alert")?;
        Ok(Some(Alert {
            fault: fault.to_owned(),
            summary: kept.summary,
            detail: kept.detail,
            open: kept.open,
            since: kept.since,
            seen_at: kept.seen_at,
            closed_at: kept.closed_at,
            count: kept.count,
            page: match kept.page {
                KeptPage::None => Page::None,
                KeptPage::Creating => Page::Creating,
                KeptPage::Open(page) => Page::Open(page),
                KeptPage::Closed => Page::Closed,
            },
            retired: kept.retired,
            claimed_until: kept.claimed_until,
            rev: item.uint("rev")?,
        }))
    }

    async fn replace_alert(&self, alert: &Alert) -> Result<bool, Fault> {
        let kept = Kept {
            summary: alert.summary.clone(),
            detail: alert.detail.clone(),
            open: alert.open,
            since: alert.since,
            seen_at: alert.seen_at,
            closed_at: alert.closed_at,
            count: alert.count,
            page: match &alert.page {
                Page::None => KeptPage::None,
                Page::Creating => KeptPage::Creating,
                Page::Open(page) => KeptPage::Open(page.clone()),
                Page::Closed => KeptPage::Closed,
            },
            retired: alert.retired.clone(),
            claimed_until: alert.claimed_until,
        };
        let put = self
            .table
            .client
            .put_item()
            .table_name(&self.table.name)
            .item(PK, s(format!("{ALERT}#{}", alert.fault)))
            .item(SK, s(ALERT))
            .item("alert", kit::dynamo::json("keeping an alert", &kept)?)
            .item("rev", n(alert.rev))
            .item(TTL, n(alert.seen_at.max(alert.closed_at).plus_seconds(KEPT_SECONDS).ttl_seconds()))
            .condition_expression("attribute_not_exists(pk) OR rev = :before")
            .expression_attribute_values(":before", n(alert.rev.saturating_sub(1)))
            .send()
            .await;
        match put {
            Ok(_) => Ok(true),
            Err(error) if is_condition_failed(&error) => Ok(false),
            Err(error) => Err(classify("keeping an alert", error)),
        }
    }
}
