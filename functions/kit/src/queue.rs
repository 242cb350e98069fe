//! SQS consumers: runs a handler of single messages over a batch, with one of three outcomes for every message.
//!
//! - It succeeded: the message is deleted.
//! - It can never succeed ([`Fault::Broken`]: a poison message, or refused by a called system): it goes to the dead
//!   letters at once, with the reason as message attributes, and blocks nothing.
//! - It may succeed later ([`Fault::Contended`], [`Fault::Unavailable`]): it is retried at growing intervals, or when
//!   the called system asks for it (`Retry-After`); after [`GIVE_UP_AFTER`] receives it goes to the dead letters too.
//!
//! Messages of a batch are handled concurrently, so that one that hangs does not block the others; those of a FIFO
//! queue in order. Messages of a process that dies are redelivered after the queue's visibility timeout, and SQS itself
//! moves those that keep killing processes to the dead letters.

use crate::fault::classify;
use crate::{Fault, metrics};
use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use aws_sdk_sqs::types::MessageAttributeValue;
use contracts::Timestamp;
use contracts::choreography::{OrderSignal, is_forgotten};
use contracts::events::{Event, OrderEvent};
use futures_util::future::join_all;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant};

/// After how many receives a message that may still succeed is given up: with [`LONGEST_WAIT`], about six hours.
pub const GIVE_UP_AFTER: u32 = 100;
/// The longest wait between two tries of a message.
pub const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// The longest wait between two tries of a message of a FIFO queue: its whole group waits with it.
const LONGEST_ORDERED_WAIT: Duration = Duration::from_secs(10);
/// The longest wait after contention with another writer.
const LONGEST_CONTENDED_WAIT: Duration = Duration::from_secs(4);
/// The longest `Retry-After` that is honoured: with a longer one, a message's retention could end before it is given
/// up.
const LONGEST_ASKED_WAIT: Duration = Duration::from_secs(3600);
/// How much of an error is kept with a dead letter, in characters.
const ERROR_CHARS: usize = 1_000;

/// One message.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its id in SQS.
    pub id: String,
    pub body: String,
    /// When its batch was received.
    pub now: Timestamp,
    /// How often it has been received, including this time.
    pub receives: u32,
    /// When it was sent.
    pub sent_at: Timestamp,
    receipt: String,
    /// Its group, on a FIFO queue.
    group: Option<String>,
}

/// What a message says of an order.
#[derive(Debug)]
pub struct OrderMessage {
    pub signal: OrderSignal,
    pub order: OrderEvent,
    /// When it happened.
    pub time: Timestamp,
    pub correlation_id: String,
}

impl Message {
    /// A message received for the first time.
    pub fn new(id: &str, body: impl Into<String>, now: Timestamp) -> Self {
        let body = body.into();
        Self { id: id.to_owned(), body, now, receives: 1, sent_at: now, receipt: String::new(), group: None }
    }

    /// The same, received for the `receives`th time.
    #[must_use]
    pub const fn received_times(mut self, receives: u32) -> Self {
        self.receives = receives;
        self
    }

    fn received(message: SqsMessage, now: Timestamp) -> Self {
        let attribute = |name: &str| message.attributes.get(name).cloned();
        let group = attribute("MessageGroupId");
        let sent_at = attribute("SentTimestamp").and_then(|millis| millis.parse().ok());
        Self {
            receives: attribute("ApproximateReceiveCount").and_then(|count| count.parse().ok()).unwrap_or(1),
            sent_at: sent_at.map_or(now, Timestamp::from_millis),
            group,
            id: message.message_id.unwrap_or_default(),
            body: message.body.unwrap_or_default(),
            receipt: message.receipt_handle.unwrap_or_default(),
            now,
        }
    }

    /// The domain event that a bus rule put on the queue. Anything else is [`Fault::Broken`] and goes to the
    /// dead-letter queue.
    pub fn event(&self) -> Result<Event, Fault> {
        self.detail("reading a delivered event")
    }

    /// What happened to an order; `None` if it was placed too long ago to be acted on.
    pub fn order_signal(&self, operation: &'static str) -> Result<Option<OrderMessage>, Fault> {
        let event = self.event()?;
        let Some((signal, order)) = OrderSignal::of(event.body) else {
            return Err(Fault::broken(operation, "the message is no order.placed and no order.failed"));
        };
        let too_old = signal == OrderSignal::Placed && is_forgotten(event.time, self.now);
        let (time, correlation_id) = (event.time, event.correlationid);
        Ok((!too_old).then_some(OrderMessage { signal, order, time, correlation_id }))
    }

    /// The `detail` of a message shaped like a delivered event, as in [`Message::event`].
    pub fn detail<T: DeserializeOwned>(&self, doing: &'static str) -> Result<T, Fault> {
        #[derive(Deserialize)]
        struct Delivered<T> {
            detail: T,
        }
        serde_json::from_str::<Delivered<T>>(&self.body)
            .map(|delivered| delivered.detail)
            .map_err(|error| Fault::broken(doing, error))
    }

    /// The ids that are logged of a message, as far as it can be parsed.
    fn about(&self) -> About {
        #[derive(Deserialize, Default)]
        struct Delivered {
            #[serde(default)]
            detail: About,
        }
        serde_json::from_str::<Delivered>(&self.body).unwrap_or_default().detail
    }
}

/// Which event a message carries, and the request behind it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct About {
    id: String,
    correlationid: String,
}

/// What to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Done,
    Later(Duration),
    DeadLetter,
}

fn verdict(outcome: &Result<(), Fault>, receives: u32, ordered: bool, random: f64) -> Verdict {
    let Err(fault) = outcome else { return Verdict::Done };
    if matches!(fault, Fault::Broken(_)) || receives >= GIVE_UP_AFTER {
        return Verdict::DeadLetter;
    }
    let longest = match fault {
        Fault::Contended(_) => LONGEST_CONTENDED_WAIT,
        _ if ordered => LONGEST_ORDERED_WAIT,
        _ => LONGEST_WAIT,
    };
    let doubling = Duration::from_secs(1_u64 << receives.saturating_sub(1).min(20)).min(longest);
    // Half of it is fixed, the other half random, so that messages that failed together are not retried together.
    let asked = fault.wait().unwrap_or_default().min(LONGEST_ASKED_WAIT);
    Verdict::Later(asked.max(doubling.mul_f64(0.5 + random / 2.0)))
}

/// The queue that a consumer reads, and its dead-letter queue.
#[derive(Debug, Clone)]
pub struct Queue {
    client: aws_sdk_sqs::Client,
    url: String,
    dead_letters: String,
}

impl Queue {
    /// A queue and its dead-letter queue by their URLs.
    pub fn new(client: aws_sdk_sqs::Client, url: String, dead_letters: String) -> Self {
        Self { client, url, dead_letters }
    }

    /// Carries a verdict out. `true` when SQS may delete the message.
    async fn settle(&self, consumer: &str, message: &Message, outcome: Result<(), Fault>) -> bool {
        let about = message.about();
        let (received_at, millis) = (message.now.millis(), crate::now().millis_since(message.now));
        let (id, event, correlation) = (&message.id, &about.id, &about.correlationid);
        let verdict = verdict(&outcome, message.receives, message.group.is_some(), fastrand::f64());
        let Err(fault) = outcome else {
            tracing::info!(consumer, outcome = "done", message = id, event, correlation, received_at, millis);
            return true;
        };
        let error = fault.chain();
        match verdict {
            Verdict::Done => true,
            Verdict::Later(wait) => {
                let (receives, wait_seconds) = (message.receives, wait.as_secs());
                let name = fault.name();
                tracing::warn!(
                    consumer,
                    outcome = name,
                    error,
                    message = id,
                    event,
                    correlation,
                    receives,
                    wait_seconds,
                    received_at,
                    millis
                );
                // SQS's own age metric leaves out messages that were received more than three times.
                metrics::waited("RetryAge", metrics::oldest([message.sent_at].into_iter(), message.now));
                self.retry_later(consumer, message, wait).await;
                false
            }
            Verdict::DeadLetter => match self.dead_letter(consumer, message, &fault, correlation).await {
                Ok(()) => {
                    metrics::count("DeadLettered", 1);
                    tracing::error!(
                        consumer,
                        outcome = "dead-lettered",
                        error,
                        message = id,
                        event,
                        correlation,
                        received_at,
                        millis
                    );
                    true
                }
                Err(failed) => {
                    let failed = failed.chain();
                    tracing::error!(consumer, error, failed, message = id, event, "a dead letter could not be kept");
                    false
                }
            },
        }
    }

    async fn retry_later(&self, consumer: &str, message: &Message, wait: Duration) {
        let delayed = self
            .client
            .change_message_visibility()
            .queue_url(&self.url)
            .receipt_handle(&message.receipt)
            .visibility_timeout(i32::try_from(wait.as_secs()).unwrap_or(i32::MAX))
            .send()
            .await;
        if let Err(error) = delayed {
            // It is redelivered anyway, after the queue's visibility timeout.
            let error = classify("delaying a message", error).chain();
            tracing::warn!(consumer, error, message = message.id, "a retry keeps the queue's pace");
        }
    }

    /// Puts a message into the dead letters, with the reason, for an operator to look at.
    async fn dead_letter(
        &self,
        consumer: &str,
        message: &Message,
        fault: &Fault,
        correlation: &str,
    ) -> Result<(), Fault> {
        let error: String = fault.chain().chars().take(ERROR_CHARS).collect();
        let mut send = self.client.send_message().queue_url(&self.dead_letters).message_body(&message.body);
        for (name, value) in [
            ("reason", fault.name()),
            ("error", &error),
            ("consumer", consumer),
            ("message_id", &message.id),
            ("sent_at", &message.sent_at.millis().to_string()),
            ("receives", &message.receives.to_string()),
            ("correlation_id", correlation),
        ] {
            // SQS refuses empty attributes.
            if !value.is_empty() {
                let value = MessageAttributeValue::builder().data_type("String").string_value(sayable(value)).build();
                send = send
                    .message_attributes(name, value.map_err(|error| Fault::broken("keeping a dead letter", error))?);
            }
        }
        if let Some(group) = &message.group {
            // Deduplicated by this message's own id: one that is redriven and fails again within minutes must not be
            // dropped as a duplicate.
            send = send.message_group_id(group).message_deduplication_id(&message.id);
        }
        send.send().await.map(drop).map_err(|error| classify("keeping a dead letter", error))
    }
}

/// A text without the characters that SQS does not accept: a provider's answer may contain any.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>
fn sayable(text: &str) -> String {
    let is_taken =
        |c: char| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..);
    text.chars().map(|c| if is_taken(c) { c } else { '\u{FFFD}' }).collect()
}

/// Runs a batch through a consumer of single messages. `time_limit` is how long a message may take.
pub(crate) async fn run<Fut>(
    queue: &Queue,
    name: &str,
    batch: SqsEvent,
    time_limit: Duration,
    handle: impl Fn(Message) -> Fut,
) -> SqsBatchResponse
where
    Fut: Future<Output = Result<(), Fault>>,
{
    let messages = received(batch);
    let started = Instant::now();
    let one = async |message: &Message| {
        // Messages of a FIFO queue share the time, one after the other.
        let left = time_limit.saturating_sub(started.elapsed());
        let outcome = tokio::time::timeout(left, handle(message.clone())).await;
        let outcome = outcome.unwrap_or_else(|late| Err(Fault::unavailable("handling a message in time", late)));
        queue.settle(name, message, outcome).await
    };
    let mut response = SqsBatchResponse::default();
    if messages.iter().any(|message| message.group.is_some()) {
        let mut blocked = Vec::new();
        for message in &messages {
            let group = message.group.clone();
            // A message behind a failed one of its group must not overtake it. SQS delivers nothing of a group while
            // any of its messages is in flight: returned at once, it blocks the group no longer than the failed one
            // does.
            let done = if blocked.contains(&group) {
                queue.retry_later(name, message, Duration::ZERO).await;
                false
            } else {
                one(message).await
            };
            if !done {
                blocked.push(group);
                response.batch_item_failures.push(failure(message));
            }
        }
    } else {
        let settled = join_all(messages.iter().map(&one)).await;
        let failed = messages.iter().zip(settled).filter(|(_, done)| !done);
        response.batch_item_failures.extend(failed.map(|(message, _)| failure(message)));
    }
    response
}

/// Runs a batch through a consumer that takes it as a whole and returns an outcome for each message, in order.
pub(crate) async fn run_whole<Fut>(
    queue: &Queue,
    name: &str,
    batch: SqsEvent,
    time_limit: Duration,
    handle: impl FnOnce(Vec<Message>) -> Fut,
) -> SqsBatchResponse
where
    Fut: Future<Output = Vec<Result<(), Fault>>>,
{
    let messages = received(batch);
    let late = |_| Err(Fault::unavailable("handling a batch", "no answer in time"));
    let mut outcomes = match tokio::time::timeout(time_limit, handle(messages.clone())).await {
        Ok(outcomes) => outcomes,
        Err(_) => messages.iter().map(late).collect(),
    };
    // A message without an outcome was not handled.
    outcomes.resize_with(messages.len(), || late(&messages[0]));
    let settled =
        join_all(messages.iter().zip(outcomes).map(|(message, outcome)| queue.settle(name, message, outcome)));
    let mut response = SqsBatchResponse::default();
    let failed = messages.iter().zip(settled.await).filter(|(_, done)| !done);
    response.batch_item_failures.extend(failed.map(|(message, _)| failure(message)));
    response
}

fn received(batch: SqsEvent) -> Vec<Message> {
    let now = crate::now();
    batch.records.into_iter().map(|message| Message::received(message, now)).collect()
}

fn failure(message: &Message) -> BatchItemFailure {
    let mut failure = BatchItemFailure::default();
    failure.item_identifier.clone_from(&message.id);
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable() -> Result<(), Fault> {
        Err(Fault::unavailable("testing", "down"))
    }

    #[test]
    fn a_message_that_can_never_succeed_is_a_dead_letter_at_once() {
        assert_eq!(verdict(&Err(Fault::broken("testing", "poison")), 1, false, 0.0), Verdict::DeadLetter);
    }

    #[test]
    fn a_message_that_may_succeed_is_retried_with_backoff_and_not_for_ever() {
        let wait = |receives, random| verdict(&unavailable(), receives, false, random);
        assert_eq!(wait(1, 1.0), Verdict::Later(Duration::from_secs(1)));
        assert_eq!(wait(4, 1.0), Verdict::Later(Duration::from_secs(8)));
        assert_eq!(wait(4, 0.0), Verdict::Later(Duration::from_secs(4)));
        assert_eq!(wait(GIVE_UP_AFTER - 1, 1.0), Verdict::Later(LONGEST_WAIT));
        assert_eq!(wait(GIVE_UP_AFTER, 1.0), Verdict::DeadLetter);
        let ordered = verdict(&unavailable(), GIVE_UP_AFTER - 1, true, 1.0);
        assert_eq!(ordered, Verdict::Later(LONGEST_ORDERED_WAIT), "its group waits with it");
    }

    #[test]
    fn retry_after_is_honoured_up_to_a_limit() {
        let asked = |seconds| Err(Fault::unavailable("testing", "429").retry_after(Some(Duration::from_secs(seconds))));
        assert_eq!(verdict(&asked(30), 1, false, 0.0), Verdict::Later(Duration::from_secs(30)));
        assert_eq!(verdict(&asked(86_400), 1, false, 0.0), Verdict::Later(LONGEST_ASKED_WAIT));
    }

    #[test]
    fn a_delivered_event_is_read_and_anything_else_is_poison() {
        assert!(matches!(Message::new("m", "{}", Timestamp::default()).event(), Err(Fault::Broken(_))));
        assert!(matches!(Message::new("m", "no json", Timestamp::default()).event(), Err(Fault::Broken(_))));
    }
}
