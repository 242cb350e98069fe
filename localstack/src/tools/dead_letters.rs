//! Messages that no consumer could handle: showing and redriving them.
//!
//! Our consumers move a message there themselves and give the reason in its attributes; EventBridge does likewise with
//! its own names; what SQS itself moved, because it was received too often, has no reason. Redriving is idempotent: the
//! message goes to its queue first and leaves the dead letters after, and consumers tolerate duplicates. A failed
//! asynchronous call that Lambda keeps has no queue to go to: its function is called again.

use crate::Result;
use crate::error::Error;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::DisplayErrorContext;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName, QueueAttributeName};
use kit::service::{LAMBDA, Request, Service};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// How long a message that is read stays invisible to others, in seconds, should it not be put back at once.
const LOOK_SECONDS: i32 = 30;
/// How many empty answers in a row mean that a queue has no more. SQS answers from a part of its servers.
const EMPTY_ANSWERS: u32 = 3;
/// How many messages are shown at the most.
const SHOWN: usize = 1_000;

/// A queue of dead letters, or of parked work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadLetterQueue {
    /// Its name without the stack's prefix.
    pub name: String,
    /// How many messages it holds, about.
    pub messages: u64,
    /// The queue that its messages came from, if they can be redriven there.
    pub source: Option<String>,
}

/// A message in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeadLetter {
    /// SQS's id of it.
    pub id: String,
    /// Why it is here, in a word.
    pub reason: String,
    /// The full error.
    pub error: String,
    /// The consumer that could not handle it.
    pub consumer: Option<String>,
    /// How often it had been received.
    pub receives: Option<u32>,
    /// The correlation id: the request that began it all.
    pub correlation_id: Option<String>,
    /// The event it carries, if any.
    pub event_id: Option<String>,
    /// When it was put here, epoch milliseconds.
    pub dead_since_ms: i64,
    /// The message itself.
    pub body: String,
    #[serde(skip)]
    receipt: String,
    #[serde(skip)]
    group: Option<String>,
}

/// The outcome of a redrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Redriven {
    /// How many messages went back to their queue.
    pub sent: usize,
    pub left: usize,
}

/// The dead letters of a stack.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    client: Client,
    lambda: Service,
    prefix: String,
}

fn failed<E: std::error::Error>(doing: &str, error: E) -> Error {
    Error::Engine(format!("{doing}: {}", DisplayErrorContext(&error)))
}

impl DeadLetters {
    /// Those of the stack of that name, in the cloud that the configuration names.
    pub fn new(config: &aws_types::SdkConfig, stack: &str) -> Self {
        let lambda = Service::new(LAMBDA, config);
        Self { client: Client::new(config), lambda, prefix: format!("{stack}-") }
    }

    /// Every queue of the stack, by its name without the prefix: URL and attributes.
    async fn queues(&self) -> Result<BTreeMap<String, (String, HashMap<QueueAttributeName, String>)>> {
        let mut urls = Vec::new();
        let mut pages = self.client.list_queues().queue_name_prefix(&self.prefix).into_paginator().items().send();
        while let Some(url) = pages.next().await {
            urls.push(url.map_err(|e| failed("listing queues", e))?);
        }
        let mut queues = BTreeMap::new();
        for url in urls {
            let got =
                self.client.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::All).send();
            let got = got.await.map_err(|e| failed("reading a queue", e))?;
            let name = url.rsplit('/').next().and_then(|name| name.strip_prefix(&self.prefix)).unwrap_or_default();
            queues.insert(name.to_owned(), (url.clone(), got.attributes.unwrap_or_default()));
        }
        Ok(queues)
    }

    /// All queues of dead letters and parked work, empty ones too.
    pub async fn list(&self) -> Result<Vec<DeadLetterQueue>> {
        let queues = self.queues().await?;
        let mut found = Vec::new();
        for (name, (_, attributes)) in &queues {
            if !is_dead_letter_queue(name) {
                continue;
            }
            let count =
                |attribute| attributes.get(&attribute).and_then(|n: &String| n.parse::<u64>().ok()).unwrap_or(0);
            let messages = count(QueueAttributeName::ApproximateNumberOfMessages)
                + count(QueueAttributeName::ApproximateNumberOfMessagesNotVisible);
            let source = attributes.get(&QueueAttributeName::QueueArn).and_then(|arn| {
                let leads_here = |(_, attributes): &&(String, HashMap<QueueAttributeName, String>)| {
                    attributes
                        .get(&QueueAttributeName::RedrivePolicy)
                        .is_some_and(|policy| dead_letter_target(policy).as_ref() == Some(arn))
                };
                queues.iter().find(|(_, queue)| leads_here(queue)).map(|(name, _)| name.clone())
            });
            found.push(DeadLetterQueue { name: name.clone(), messages, source });
        }
        Ok(found)
    }

    async fn url(&self, name: &str) -> Result<String> {
        let full = format!("{}{name}", self.prefix);
        let got = self.client.get_queue_url().queue_name(&full).send().await;
        let got = got.map_err(|_| Error::Usage(format!("there is no queue {name}; see: cargo local dlq list")))?;
        got.queue_url.ok_or_else(|| Error::Usage(format!("there is no queue {name}")))
    }

    /// Receives messages, each once, until there are no more; they turn invisible.
    async fn look(&self, url: &str) -> Result<Vec<DeadLetter>> {
        let mut letters: BTreeMap<String, DeadLetter> = BTreeMap::new();
        let mut empty = 0;
        while empty < EMPTY_ANSWERS && letters.len() < SHOWN {
            let got = self
                .client
                .receive_message()
                .queue_url(url)
                .max_number_of_messages(10)
                .visibility_timeout(LOOK_SECONDS)
                .wait_time_seconds(0)
                .message_attribute_names("All")
                .message_system_attribute_names(MessageSystemAttributeName::All)
                .send()
                .await
                .map_err(|e| failed("looking at dead letters", e))?;
            let messages = got.messages.unwrap_or_default();
            empty = if messages.is_empty() { empty + 1 } else { 0 };
            letters.extend(messages.iter().map(letter).map(|letter| (letter.id.clone(), letter)));
        }
        let mut letters: Vec<DeadLetter> = letters.into_values().collect();
        letters.sort_by_key(|letter| letter.dead_since_ms);
        Ok(letters)
    }

    async fn put_back(&self, url: &str, letters: &[DeadLetter]) -> Result<()> {
        for letter in letters {
            let shown = self.client.change_message_visibility().queue_url(url).receipt_handle(&letter.receipt);
            shown.visibility_timeout(0).send().await.map_err(|e| failed("putting a dead letter back", e))?;
        }
        Ok(())
    }

    /// The messages of a queue. They stay where they are.
    pub async fn show(&self, name: &str) -> Result<Vec<DeadLetter>> {
        let url = self.url(name).await?;
        let letters = self.look(&url).await?;
        self.put_back(&url, &letters).await?;
        Ok(letters)
    }

    /// Sends messages back to the queue they came from: one, by its id, or all. A message that is not there (any more)
    /// is no error, so this is idempotent.
    pub async fn redrive(&self, name: &str, message: Option<&str>) -> Result<Redriven> {
        let queue = self.list().await?.into_iter().find(|queue| queue.name == name);
        let queue =
            queue.ok_or_else(|| Error::Usage(format!("{name} holds no dead letters; see: cargo local dlq list")))?;
        if name.starts_with("parked-") {
            let instead = "its work is taken up again by the recovery; each message says what is open";
            return Err(Error::Usage(format!("{name} has no queue to send to: {instead}")));
        }
        let url = self.url(name).await?;
        let source = match &queue.source {
            Some(source) => Some(self.url(source).await?),
            None => None,
        };
        let (wanted, others): (Vec<DeadLetter>, Vec<DeadLetter>) =
            self.look(&url).await?.into_iter().partition(|letter| message.is_none_or(|id| letter.id == id));
        self.put_back(&url, &others).await?;
        for (index, letter) in wanted.iter().enumerate() {
            let sent = match &source {
                Some(source) => self.send_to(source, letter).await,
                None => self.call_again(letter).await,
            };
            if let Err(error) = sent {
                self.put_back(&url, wanted.get(index..).unwrap_or_default()).await?;
                return Err(error);
            }
            let delete = self.client.delete_message().queue_url(&url).receipt_handle(&letter.receipt);
            delete.send().await.map_err(|e| failed("removing a dead letter", e))?;
        }
        Ok(Redriven { sent: wanted.len(), left: others.len() })
    }
}

impl DeadLetters {
    async fn send_to(&self, source: &str, letter: &DeadLetter) -> Result<()> {
        let mut send = self.client.send_message().queue_url(source).message_body(&letter.body);
        if let Some(group) = &letter.group {
            // By the letter's own id: with the first one's, SQS would drop the message as a duplicate for minutes.
            send = send.message_group_id(group).message_deduplication_id(&letter.id);
        }
        send.send().await.map(drop).map_err(|e| failed("sending a dead letter again", e))
    }

    /// Calls the function again whose asynchronous call a letter keeps. If it fails again, Lambda keeps it again.
    async fn call_again(&self, letter: &DeadLetter) -> Result<()> {
        if lost_batch(&letter.body).is_some() {
            let instead = "rebuild what follows from the stream (cargo local seat-map rebuild) and delete the letter";
            return Err(Error::Usage(format!(
                "{} names records of a stream and does not hold them: {instead}",
                letter.id
            )));
        }
        let (function, payload) = kept_call(&letter.body).ok_or_else(|| {
            Error::Usage(format!("{} is no call that Lambda kept; see: cargo local dlq show", letter.id))
        })?;
        let call = Request::invocation(&function, payload).header("x-amz-invocation-type", "Event");
        self.lambda.send(call).await.map(drop).map_err(|e| failed("calling a function again", e))
    }
}

/// Function and payload in what Lambda sends to the destination of a failed asynchronous call.
/// <https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html>
fn kept_call(body: &str) -> Option<(String, String)> {
    let record: Value = serde_json::from_str(body).ok()?;
    let arn = record["requestContext"]["functionArn"].as_str()?;
    // Whichever version failed, the current one is called.
    let function = arn.split(':').nth(6).unwrap_or(arn);
    record.get("requestPayload").map(|payload| (function.to_owned(), payload.to_string()))
}

/// Why a batch of a stream was given up, and which records, in what Lambda sends to the destination of its source.
/// <https://docs.aws.amazon.com/lambda/latest/dg/services-dynamodb-errors.html>
fn lost_batch(body: &str) -> Option<(String, String)> {
    let letter: Value = serde_json::from_str(body).ok()?;
    let batch = letter.get("DDBStreamBatchInfo")?;
    let text = |name: &str| batch[name].as_str().unwrap_or("?").to_owned();
    let records = format!(
        "{} records of {}, {} to {}",
        batch["batchSize"],
        text("shardId"),
        text("startSequenceNumber"),
        text("endSequenceNumber")
    );
    Some((letter["requestContext"]["condition"].as_str().unwrap_or("?").to_owned(), records))
}

fn is_dead_letter_queue(name: &str) -> bool {
    let name = name.strip_suffix(".fifo").unwrap_or(name);
    name.ends_with("-dead-letters") || name.starts_with("parked-")
}

fn dead_letter_target(policy: &str) -> Option<String> {
    let policy: Value = serde_json::from_str(policy).ok()?;
    policy["deadLetterTargetArn"].as_str().map(str::to_owned)
}

fn letter(message: &Message) -> DeadLetter {
    let attribute = |name: &str| {
        let value = message.message_attributes.as_ref()?.get(name)?.string_value()?;
        (!value.is_empty()).then(|| value.to_owned())
    };
    let system = |name: MessageSystemAttributeName| message.attributes.as_ref()?.get(&name).cloned();
    let body = message.body().unwrap_or_default().to_owned();
    let event_id = serde_json::from_str::<Value>(&body).ok();
    let event_id = event_id.and_then(|body| body["detail"]["id"].as_str().map(str::to_owned));
    // EventBridge names its reasons itself.
    let (given_up, records) = lost_batch(&body).unzip();
    let reason = attribute("reason").or_else(|| attribute("ERROR_CODE")).or(given_up);
    let error = attribute("error").or_else(|| attribute("ERROR_MESSAGE")).or(records);
    let group = system(MessageSystemAttributeName::MessageGroupId);
    DeadLetter {
        id: message.message_id().unwrap_or_default().to_owned(),
        reason: reason.unwrap_or_else(|| "ReceivedTooOften".to_owned()),
        error: error.unwrap_or_else(|| "its consumer never said how it went".to_owned()),
        consumer: attribute("consumer").or_else(|| attribute("TARGET_ARN")),
        receives: attribute("receives").and_then(|count| count.parse().ok()),
        correlation_id: attribute("correlation_id"),
        event_id,
        dead_since_ms: system(MessageSystemAttributeName::SentTimestamp).and_then(|ms| ms.parse().ok()).unwrap_or(0),
        body,
        receipt: message.receipt_handle().unwrap_or_default().to_owned(),
        group,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_sqs::types::MessageAttributeValue;

    #[test]
    fn a_letter_states_why_it_is_there_whatever_put_it_there() {
        let with = |pairs: &[(&str, &str)]| {
            let value =
                |text: &str| MessageAttributeValue::builder().data_type("String").string_value(text).build().unwrap();
            let attributes = pairs.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect();
            let body = r#"{"detail":{"id":"p1.payment.completed"}}"#;
            letter(&Message::builder().message_id("m").body(body).set_message_attributes(Some(attributes)).build())
        };
        let ours =
            with(&[("reason", "Broken"), ("error", "refused with 422"), ("consumer", "notify"), ("receives", "3")]);
        assert_eq!(
            (ours.reason.as_str(), ours.receives, ours.event_id.as_deref()),
            ("Broken", Some(3), Some("p1.payment.completed"))
        );
        assert_eq!(with(&[("ERROR_CODE", "NO_PERMISSIONS")]).reason, "NO_PERMISSIONS");
        assert_eq!(with(&[]).reason, "ReceivedTooOften");
    }

    #[test]
    fn a_batch_of_a_stream_that_was_given_up_says_why_and_which_records() {
        let body = r#"{"requestContext": {"condition": "RetryAttemptsExhausted"}, "DDBStreamBatchInfo": {"batchSize": 2,
            "shardId": "shardId-1", "startSequenceNumber": "10", "endSequenceNumber": "11"}}"#;
        let letter = letter(&Message::builder().message_id("m").body(body).build());
        assert_eq!(letter.reason, "RetryAttemptsExhausted");
        assert_eq!(letter.error, "2 records of shardId-1, 10 to 11");
        assert!(kept_call(body).is_none() && lost_batch("{}").is_none());
    }

    #[test]
    fn a_call_that_lambda_kept_is_known_with_its_function_and_payload() {
        let record = r#"{"requestContext": {"functionArn": "arn:aws:lambda:us-east-1:1:function:encore-report:$LATEST"},
            "requestPayload": {"awslogs": {"data": "x"}}, "responsePayload": {}}"#;
        let payload = r#"{"awslogs":{"data":"x"}}"#;
        assert_eq!(kept_call(record), Some(("encore-report".to_owned(), payload.to_owned())));
        for other in ["", "{}", r#"{"detail": {}}"#] {
            assert_eq!(kept_call(other), None);
        }
    }

    #[test]
    fn queues_of_dead_letters_and_parked_work_are_known_by_their_names() {
        for (name, is) in
            [("x-dead-letters", true), ("x-dead-letters.fifo", true), ("parked-payments", true), ("x", false)]
        {
            assert_eq!(is_dead_letter_queue(name), is, "{name}");
        }
        assert_eq!(
            dead_letter_target(r#"{"deadLetterTargetArn":"arn:q","maxReceiveCount":5}"#).as_deref(),
            Some("arn:q")
        );
    }
}
