//! Queues that reservations sends to itself.

use crate::domain::SeatRequest;
use crate::ports::{AskForSeats, ScheduleExpiry};
use kit::Fault;
use kit::fault::classify;
use serde_json::json;

/// The message that asks for seats: in the shape of a delivered event, so that logs and dead letters say whose it is.
pub fn message_of(request: &SeatRequest) -> String {
    json!({ "detail": request }).to_string()
}

/// The queue of requests: first in, first out, within a section of a date.
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
    async fn ask(&self, request: &SeatRequest) -> Result<(), Fault> {
        let section = request.seats.as_slice().first().map(|seat| seat.section.to_string()).unwrap_or_default();
        self.client
            .send_message()
            .queue_url(&self.url)
            .message_body(message_of(request))
            .message_group_id(format!("{}/{section}", request.schedule))
            .message_deduplication_id(request.reservation.as_str())
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
