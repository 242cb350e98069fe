//! Queues that reservations sends to itself.

use crate::domain::SeatRequest;
use crate::ports::{ScheduleExpiry, SendRequest};
use kit::Fault;
use kit::fault::classify;
use serde_json::json;

/// The message that requests seats: shaped like a delivered event, so that logs and dead letters show which request it
/// is.
pub fn message_of(request: &SeatRequest) -> String {
    json!({ "detail": request }).to_string()
}

/// The queue of requests: FIFO within a section of a date.
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

impl SendRequest for RequestQueue {
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

/// A queue that delays messages until a hold's end, or until seats are kept back no longer.
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
