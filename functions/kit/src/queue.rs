//! SQS consumers: one message's function lifted to a batch that reports each failure on its own, so that a poison
//! message ends in its dead-letter queue and the rest of the batch goes on.

use crate::Fault;
use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent};
use contracts::Timestamp;
use contracts::events::Event;
use serde::Deserialize;

/// One message.
#[derive(Debug, Clone)]
pub struct Message {
    /// SQS's id of it.
    pub id: String,
    /// Its text.
    pub body: String,
    /// The moment its batch was received.
    pub now: Timestamp,
}

impl Message {
    /// The domain event that a bus rule put on the queue. Anything else is [`Fault::Broken`] and will end in the
    /// dead-letter queue.
    pub fn event(&self) -> Result<Event, Fault> {
        #[derive(Deserialize)]
        struct Delivered {
            detail: Event,
        }
        serde_json::from_str::<Delivered>(&self.body)
            .map(|delivered| delivered.detail)
            .map_err(|error| Fault::broken("reading a delivered event", error))
    }
}

/// Runs a batch through a consumer and logs each outcome.
pub(crate) async fn run<Fut>(name: &str, batch: SqsEvent, handle: impl Fn(Message) -> Fut) -> SqsBatchResponse
where
    Fut: Future<Output = Result<(), Fault>>,
{
    let mut response = SqsBatchResponse::default();
    for record in batch.records {
        let id = record.message_id.unwrap_or_default();
        let now = crate::now();
        let message = Message { id: id.clone(), body: record.body.unwrap_or_default(), now };
        let outcome = handle(message).await;
        let millis = crate::now().millis_since(now);
        match outcome {
            Ok(()) => tracing::info!(consumer = name, outcome = "done", message = id, millis),
            Err(fault) => {
                tracing::error!(consumer = name, outcome = fault.name(), error = fault.chain(), message = id, millis);
                let mut failure = BatchItemFailure::default();
                failure.item_identifier = id;
                response.batch_item_failures.push(failure);
            }
        }
    }
    response
}
