//! The clients of external systems (the data platform, the partner, the users' directory, the providers of messages and
//! receipts, the administrators' pages) and of the queues of the system.

use crate::domain::{Alert, Phone, Push, Sale};
use crate::ports::{
    CancelReceipt, DeliverEvents, FindPhone, IssueReceipt, KeepPages, LookAtQueue, NotifyPartner, SendPush,
};
use aws_lc_rs::{digest, hmac};
use aws_sdk_sqs::error::ProvideErrorMetadata as _;
use aws_sdk_sqs::types::QueueAttributeName;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use contracts::events::Event;
use contracts::{EventId, Timestamp, UserId};
use http::{HeaderMap, HeaderValue, Method};
use kit::Fault;
use kit::outgoing::{Answer, Client, Request, secret_header};
use kit::secrets::Secret;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// An address below a base URL.
fn below(base: &str, path: &str) -> String {
    format!("{}{path}", base.trim_end_matches('/'))
}

fn post(url: String, body: &Value) -> Request {
    Request { method: Method::POST, url, headers: HeaderMap::new(), body: Some(body.to_string().into_bytes()) }
}

fn plain_header(value: &str) -> Result<HeaderValue, Fault> {
    HeaderValue::from_str(value).map_err(|error| Fault::broken("writing a header", error))
}

/// Sends the id of the originating HTTP request along, for the other side's log. An invalid one is left out.
fn correlate(headers: &mut HeaderMap, correlation: &str) {
    if let Ok(value) = HeaderValue::from_str(correlation) {
        headers.insert("x-correlation-id", value);
    }
}

/// A secret with wrong content: once an operator has fixed it, deliveries go on.
fn bad_secret(what: &'static str) -> Fault {
    Fault::unavailable("using a secret", what)
}

// ------------------------------------------------------------------------------------------------ webhooks

/// The secret that signs webhooks.
#[derive(Clone, Deserialize)]
pub struct Signing {
    /// `whsec_` and the key in base64.
    signing_secret: String,
}

/// A receiver of webhooks as in <https://www.standardwebhooks.com>: signed, with an id that stays the same however
/// often the webhook is sent, and the time of sending, which prevents a replay by others.
#[derive(Debug)]
pub struct Webhook {
    client: Client,
    url: String,
    signing: Secret<Signing>,
}

impl Webhook {
    /// A receiver at a URL.
    pub fn new(client: Client, url: String, signing: Secret<Signing>) -> Self {
        Self { client, url, signing }
    }

    async fn send_signed(
        &self,
        doing: &'static str,
        id: &str,
        correlation: Option<&str>,
        body: &Value,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let secret = self.signing.get().await?.signing_secret;
        let mut request = post(self.url.clone(), body);
        let seconds = now.millis().div_euclid(1000);
        let signature = signature(&secret, id, seconds, request.body.as_deref().unwrap_or_default())?;
        request.headers.insert("webhook-id", plain_header(id)?);
        request.headers.insert("webhook-timestamp", seconds.into());
        request.headers.insert("webhook-signature", plain_header(&signature)?);
        if let Some(correlation) = correlation {
            correlate(&mut request.headers, correlation);
        }
        self.client.send(doing, &request).await.map(drop)
    }
}

/// `v1,` and the HMAC of `<id>.<timestamp>.<body>`. The id must be our own: with one of another's choice, the dots
/// could be moved.
fn signature(secret: &str, id: &str, seconds: i64, body: &[u8]) -> Result<String, Fault> {
    let encoded = secret.strip_prefix("whsec_").unwrap_or(secret);
    let key = STANDARD.decode(encoded).map_err(|_| bad_secret("a signing secret is no base64"))?;
    let mut signing = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
    signing.update(format!("{id}.{seconds}.").as_bytes());
    signing.update(body);
    Ok(format!("v1,{}", STANDARD.encode(signing.sign())))
}

/// The id of a batch is derived from the events in it, so that it stays the same when the batch is sent again.
fn batch_id(events: &[&Event]) -> String {
    if let [event] = events {
        return event.id.to_string();
    }
    let mut ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
    ids.sort_unstable();
    let hash = digest::digest(&digest::SHA256, ids.join("\n").as_bytes());
    format!("batch_{}", URL_SAFE_NO_PAD.encode(hash))
}

impl DeliverEvents for Webhook {
    async fn deliver(&self, events: &[&Event], now: Timestamp) -> Result<(), Fault> {
        let body = json!({ "events": events });
        let alone = if let [event] = events { Some(event.correlationid.as_str()) } else { None };
        self.send_signed("delivering events to the data platform", &batch_id(events), alone, &body, now).await
    }
}

impl NotifyPartner for Webhook {
    async fn notify(&self, event: &Event, now: Timestamp) -> Result<(), Fault> {
        let event_json = serde_json::to_value(event).map_err(|error| Fault::broken("writing an event", error))?;
        let body = json!({
            "type": event.body.event_type(),
            "timestamp": event.time.rfc3339(),
            "data": event_json["data"],
        });
        let (id, correlation) = (event.id.as_str(), Some(event.correlationid.as_str()));
        self.send_signed("notifying the partner", id, correlation, &body, now).await
    }
}

// ------------------------------------------------------------------------------------------------ users' directory

/// The credentials for the directory.
#[derive(Clone, Deserialize)]
pub struct DirectoryAccess {
    token: String,
}

/// The users' directory: SCIM 2.0, `GET /Users/{id}` (RFC 7644, section 3.4.1;
/// <https://www.rfc-editor.org/rfc/rfc7644#section-3.4.1>).
#[derive(Debug)]
pub struct Directory {
    client: Client,
    url: String,
    access: Secret<DirectoryAccess>,
}

impl Directory {
    /// The directory at a base URL.
    pub fn new(client: Client, url: String, access: Secret<DirectoryAccess>) -> Self {
        Self { client, url, access }
    }
}

impl FindPhone for Directory {
    async fn find_phone(&self, user: &UserId, correlation: &str) -> Result<Option<Phone>, Fault> {
        const DOING: &str = "asking the users' directory";
        let token = self.access.get().await?.token;
        let mut headers = HeaderMap::new();
        headers.insert(http::header::AUTHORIZATION, secret_header(&format!("Bearer {token}"))?);
        headers.insert(http::header::ACCEPT, HeaderValue::from_static("application/scim+json"));
        correlate(&mut headers, correlation);
        let url = below(&self.url, &format!("/Users/{}", percent_encoded(user.as_str())));
        let request = Request { method: Method::GET, url, headers, body: None };
        let answer = self.client.answer(DOING, &request).await?;
        match answer.status {
            200 => Ok(phone_of(&answer.json())),
            404 => Ok(None),
            // The body may be about a person.
            status => Err(Fault::broken(DOING, format!("refused with {status}"))),
        }
    }
}

/// The mobile number of a SCIM user (RFC 7643, section 4.1.2): the one with that type, else the primary one, else any.
fn phone_of(user: &Value) -> Option<Phone> {
    let numbers = user["phoneNumbers"].as_array()?;
    let rank = |number: &&Value| match (number["type"] == "mobile", number["primary"] == true) {
        (true, true) => 0,
        (true, false) => 1,
        (false, true) => 2,
        (false, false) => 3,
    };
    let mut numbers: Vec<&Value> = numbers.iter().collect();
    numbers.sort_by_key(rank);
    numbers.into_iter().find_map(|number| Phone::parse(number["value"].as_str()?))
}

/// A path segment with all but unreserved characters (RFC 3986) encoded.
fn percent_encoded(segment: &str) -> String {
    let encoded = segment.bytes().map(|byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    encoded.collect()
}

// ------------------------------------------------------------------------------------------------ AlimTalk

/// The credentials and settings for AlimTalk.
#[derive(Clone, Deserialize)]
pub struct AlimTalkAccess {
    app_key: String,
    secret_key: String,
    sender_key: String,
    /// Template codes by our names of the templates.
    templates: BTreeMap<String, String>,
}

/// NHN Cloud's KakaoTalk Bizmessage, AlimTalk v2.3: `POST /alimtalk/v2.3/appkeys/{appkey}/messages`
/// (<https://docs.nhncloud.com/en/Notification/KakaoTalk%20Bizmessage/en/alimtalk-api-guide/>; result codes:
/// <https://docs.nhncloud.com/en/Notification/KakaoTalk%20Bizmessage/en/error-code/>).
#[derive(Debug)]
pub struct AlimTalk {
    client: Client,
    url: String,
    access: Secret<AlimTalkAccess>,
}

/// The idempotency key was used within the last ten minutes: the message was accepted, and its answer got lost.
const SENT_BEFORE: i64 = -1005;
/// The day's volume is used up.
const VOLUME_EXCEEDED: i64 = -1017;

impl AlimTalk {
    /// The API at a base URL.
    pub fn new(client: Client, url: String, access: Secret<AlimTalkAccess>) -> Self {
        Self { client, url, access }
    }
}

impl SendPush for AlimTalk {
    async fn push(&self, push: &Push, to: &Phone, key: &EventId, correlation: &str) -> Result<Option<String>, Fault> {
        let access = self.access.get().await?;
        let template = access.templates.get(&push.template).ok_or_else(|| bad_secret("a template has no code"))?;
        let parameters: BTreeMap<&str, &str> = push.parameters.iter().map(|(key, value)| (*key, &**value)).collect();
        let body = json!({
            "senderKey": access.sender_key,
            "templateCode": template,
            "recipientList": [{"recipientNo": to.digits(), "templateParameter": parameters}],
        });
        let path = format!("/alimtalk/v2.3/appkeys/{}/messages", percent_encoded(&access.app_key));
        let mut request = post(below(&self.url, &path), &body);
        request.headers.insert("x-secret-key", secret_header(&access.secret_key)?);
        request.headers.insert("x-nc-api-idempotency-key", plain_header(key.as_str())?);
        correlate(&mut request.headers, correlation);
        let answer = self.client.answer(PUSHING, &request).await?;
        taken(&answer)
    }
}

const PUSHING: &str = "sending an AlimTalk message";

/// The result in AlimTalk's answer. A rejection has status 200; its messages may repeat the number and are not kept.
fn taken(answer: &Answer) -> Result<Option<String>, Fault> {
    let json = answer.json();
    let refused = |code: &Value| Fault::broken(PUSHING, format!("refused with {}, result code {code}", answer.status));
    let header = &json["header"];
    match header["resultCode"].as_i64() {
        Some(SENT_BEFORE) => return Ok(None),
        Some(VOLUME_EXCEEDED) => return Err(Fault::unavailable(PUSHING, "the day's volume is used up")),
        _ => {}
    }
    if !(200..300).contains(&answer.status) || header["isSuccessful"] != true {
        return Err(refused(&header["resultCode"]));
    }
    let result = &json["message"]["sendResults"][0]["resultCode"];
    if result.as_i64().is_some_and(|code| code != 0) {
        return Err(refused(result));
    }
    Ok(json["message"]["requestId"].as_str().map(str::to_owned))
}

// ------------------------------------------------------------------------------------------------ cash receipts

/// The credentials for cash receipts.
#[derive(Clone, Deserialize)]
pub struct CashReceiptAccess {
    secret_key: String,
}

/// Toss Payments' cash receipts: `POST /v1/cash-receipts` and `POST /v1/cash-receipts/{receiptKey}/cancel`
/// (<https://docs.tosspayments.com/reference#현금영수증>), with idempotency keys that hold for 15 days
/// (<https://docs.tosspayments.com/reference/using-api/idempotency-key>).
#[derive(Debug)]
pub struct CashReceipts {
    client: Client,
    url: String,
    access: Secret<CashReceiptAccess>,
}

impl CashReceipts {
    /// The API at a base URL.
    pub fn new(client: Client, url: String, access: Secret<CashReceiptAccess>) -> Self {
        Self { client, url, access }
    }

    async fn exchange(
        &self,
        doing: &'static str,
        path: &str,
        body: &Value,
        key: &EventId,
        correlation: &str,
    ) -> Result<Value, Fault> {
        let access = self.access.get().await?;
        let basic = format!("Basic {}", STANDARD.encode(format!("{}:", access.secret_key)));
        let mut request = post(below(&self.url, path), body);
        request.headers.insert(http::header::AUTHORIZATION, secret_header(&basic)?);
        request.headers.insert("idempotency-key", plain_header(key.as_str())?);
        correlate(&mut request.headers, correlation);
        let answer = self.client.answer(doing, &request).await?;
        let json = answer.json();
        let code = json["code"].as_str().unwrap_or_default();
        match answer.status {
            200..300 => Ok(json),
            // The same request is in progress; or, in the provider's words, "try again in a few minutes".
            409 => Err(Fault::unavailable(doing, format!("answered 409: {code}"))),
            // It is cancelled already.
            400 if code.starts_with("ALREADY_CANCELED") => Ok(json),
            400 if code == "PROVIDER_ERROR" => Err(Fault::unavailable(doing, "answered 400: PROVIDER_ERROR")),
            status => Err(Fault::broken(doing, format!("refused with {status}: {code}"))),
        }
    }
}

impl IssueReceipt for CashReceipts {
    async fn issue(&self, sale: &Sale, to: &Phone, key: &EventId, correlation: &str) -> Result<String, Fault> {
        const DOING: &str = "issuing a cash receipt";
        let body = json!({
            "amount": sale.amount,
            "orderId": sale.id.as_str(),
            "orderName": sale.name,
            "customerIdentityNumber": to.digits(),
            "type": "소득공제",
        });
        let issued = self.exchange(DOING, "/v1/cash-receipts", &body, key, correlation).await?;
        if issued["issueStatus"] == "FAILED" {
            return Err(Fault::broken(DOING, format!("it failed: {}", issued["failure"]["code"])));
        }
        let receipt = issued["receiptKey"].as_str();
        receipt.map(str::to_owned).ok_or_else(|| Fault::broken(DOING, "the answer has no receiptKey"))
    }
}

impl CancelReceipt for CashReceipts {
    async fn cancel(&self, receipt: &str, key: &EventId, correlation: &str) -> Result<(), Fault> {
        let path = format!("/v1/cash-receipts/{}/cancel", percent_encoded(receipt));
        self.exchange("cancelling a cash receipt", &path, &json!({}), key, correlation).await.map(drop)
    }
}

// ------------------------------------------------------------------------------------------------ administrators

/// The credentials and settings for Notion.
#[derive(Clone, Deserialize)]
pub struct NotionAccess {
    token: String,
    database_id: String,
}

/// A Notion database (<https://developers.notion.com/reference/post-page>, version 2022-06-28) with the properties
/// `Name` (title), `Fault`, `Detail` (text), `Status` (select: Open, Closed), `Since` (date) and `Count` (number).
#[derive(Debug)]
pub struct Notion {
    client: Client,
    url: String,
    access: Secret<NotionAccess>,
}

/// The most characters of one text (<https://developers.notion.com/reference/request-limits>).
const TEXT_CHARS: usize = 2_000;

impl Notion {
    /// The API at a base URL.
    pub fn new(client: Client, url: String, access: Secret<NotionAccess>) -> Self {
        Self { client, url, access }
    }

    async fn exchange(
        &self,
        doing: &'static str,
        method: Method,
        path: &str,
        token: &str,
        body: &Value,
    ) -> Result<Answer, Fault> {
        let mut request = Request { method, ..post(below(&self.url, path), body) };
        request.headers.insert(http::header::AUTHORIZATION, secret_header(&format!("Bearer {token}"))?);
        request.headers.insert("notion-version", HeaderValue::from_static("2022-06-28"));
        // Notion has no idempotency keys: whether a page was created has to be looked up, and the request not retried.
        let answer = self.client.once(doing, &request).await?;
        // Another writer changed the same thing: "make sure the parameters are up to date and try again".
        if answer.status == 409 { Err(Fault::unavailable(doing, "answered 409")) } else { Ok(answer) }
    }
}

fn told(doing: &'static str, answer: &Answer) -> Result<Value, Fault> {
    let json = answer.json();
    if (200..300).contains(&answer.status) {
        return Ok(json);
    }
    Err(Fault::broken(doing, format!("refused with {}: {} {}", answer.status, json["code"], json["message"])))
}

/// A text of a page.
fn text(content: &str) -> Value {
    let content: String = content.chars().take(TEXT_CHARS).collect();
    json!([{"text": {"content": content}}])
}

impl KeepPages for Notion {
    async fn create_page(&self, alert: &Alert) -> Result<String, Fault> {
        const DOING: &str = "making an administrator's page";
        let access = self.access.get().await?;
        let body = json!({
            "parent": {"database_id": access.database_id},
            "properties": {
                "Name": {"title": text(&alert.summary)},
                "Fault": {"rich_text": text(&alert.fault)},
                "Detail": {"rich_text": text(&alert.detail)},
                "Status": {"select": {"name": "Open"}},
                "Since": {"date": {"start": alert.since.rfc3339()}},
                "Count": {"number": alert.count},
            },
        });
        let page = told(DOING, &self.exchange(DOING, Method::POST, "/v1/pages", &access.token, &body).await?)?;
        page["id"].as_str().map(str::to_owned).ok_or_else(|| Fault::broken(DOING, "the answer has no id"))
    }

    async fn find_page(&self, fault: &str) -> Result<Option<String>, Fault> {
        const DOING: &str = "looking for an administrator's page";
        let access = self.access.get().await?;
        let body = json!({
            "filter": {"and": [
                {"property": "Fault", "rich_text": {"equals": fault}},
                {"property": "Status", "select": {"equals": "Open"}},
            ]},
            "page_size": 1,
        });
        let path = format!("/v1/databases/{}/query", percent_encoded(&access.database_id));
        let found = told(DOING, &self.exchange(DOING, Method::POST, &path, &access.token, &body).await?)?;
        Ok(found["results"][0]["id"].as_str().map(str::to_owned))
    }

    async fn close_page(&self, page: &str, count: Option<u64>) -> Result<(), Fault> {
        const DOING: &str = "closing an administrator's page";
        let access = self.access.get().await?;
        let mut properties = json!({"Status": {"select": {"name": "Closed"}}});
        if let Some(count) = count {
            properties["Count"] = json!({ "number": count });
        }
        let path = format!("/v1/pages/{}", percent_encoded(page));
        let body = json!({ "properties": properties });
        let answer = self.exchange(DOING, Method::PATCH, &path, &access.token, &body).await?;
        if matches!(answer.status, 400 | 404) {
            // An administrator deleted or moved it; the attempts to close it must not go on for ever.
            tracing::warn!(page, status = answer.status, "an administrator's page is not there any more");
            return Ok(());
        }
        told(DOING, &answer).map(drop)
    }
}

// ------------------------------------------------------------------------------------------------ queues

/// SQS's codes for a queue that does not exist: in today's protocol, and in the one for older clients.
const NO_QUEUE: [&str; 2] = ["QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"];

/// The queues of the system. One that does not exist holds nothing: a system may lack some of its contexts.
#[derive(Debug, Clone)]
pub struct Queues {
    client: aws_sdk_sqs::Client,
}

impl Queues {
    /// Queues reached by a client.
    pub fn new(client: aws_sdk_sqs::Client) -> Self {
        Self { client }
    }
}

impl LookAtQueue for Queues {
    async fn waiting(&self, queue: &str) -> Result<u64, Fault> {
        // A message that an operator looks at is not visible for a while, but still in the queue.
        let counts = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        let request = self.client.get_queue_attributes().queue_url(queue).set_attribute_names(Some(counts.to_vec()));
        let attributes = match request.send().await {
            Ok(answer) => answer.attributes.unwrap_or_default(),
            Err(error) if error.code().is_some_and(|code| NO_QUEUE.contains(&code)) => {
                tracing::warn!(queue, "a queue that is watched is not there: its context is not deployed");
                return Ok(0);
            }
            Err(error) => return Err(kit::fault::classify("looking at a queue", error)),
        };
        Ok(counts.iter().filter_map(|name| attributes.get(name)?.parse::<u64>().ok()).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_is_signed_as_the_standards_own_libraries_sign_it() {
        let signed = signature(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_signing_secret_that_is_none_can_be_fixed() {
        assert!(matches!(signature("whsec_*", "id", 0, b""), Err(Fault::Unavailable(_))));
    }

    #[test]
    fn a_users_mobile_number_comes_before_others() {
        let user = json!({"phoneNumbers": [
            {"value": "02-123-4567", "type": "work", "primary": true},
            {"value": "010-0000-0001", "type": "home"},
            {"value": "tel:+82-10-0000-0002", "type": "mobile"},
        ]});
        assert_eq!(phone_of(&user).unwrap().digits(), "01000000002");
        assert_eq!(phone_of(&json!({"phoneNumbers": []})), None);
        assert_eq!(phone_of(&json!({"userName": "alice"})), None);
    }

    #[test]
    fn a_users_name_stays_one_segment_of_a_path() {
        assert_eq!(percent_encoded("a/../b?c=%d@x"), "a%2F..%2Fb%3Fc%3D%25d%40x");
    }

    fn answer(json: &Value) -> Answer {
        Answer { status: 200, body: json.to_string().into_bytes() }
    }

    #[test]
    fn alimtalk_rejects_with_status_200() {
        let header = |code: i64| answer(&json!({"header": {"resultCode": code, "isSuccessful": code == 0}}));
        assert!(taken(&header(0)).is_ok());
        assert!(matches!(taken(&header(-1000)), Err(Fault::Broken(_))));
        assert!(matches!(taken(&header(VOLUME_EXCEEDED)), Err(Fault::Unavailable(_))));
        let recipient = json!({
            "header": {"resultCode": 0, "isSuccessful": true},
            "message": {"requestId": "q", "sendResults": [{"resultCode": -3005}]},
        });
        assert!(matches!(taken(&answer(&recipient)), Err(Fault::Broken(_))));
        assert!(matches!(taken(&answer(&json!({}))), Err(Fault::Broken(_))));
    }

    #[test]
    fn a_message_that_alimtalk_has_already_counts_as_sent() {
        let before = json!({"header": {"resultCode": SENT_BEFORE, "isSuccessful": false}});
        assert_eq!(taken(&answer(&before)).unwrap(), None);
    }
}
