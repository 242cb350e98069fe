//! Queues that reservations sends to itself.

use crate::domain::Wish;
use crate::ports::{AskForSeats, ScheduleExpiry};
use kit::Fault;
use kit::fault::classify;
use serde_json::json;

/// The message that asks for seats: in the shape of a delivered event, so that logs and dead letters say whose it is.
pub fn message_of(wish: &Wish) -> String {
    json!({ "detail": wish }).to_string()
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
            .message_body(message_of(wish))
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
