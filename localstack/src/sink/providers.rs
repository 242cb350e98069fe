//! What each provider checks and answers.

use super::{Answer, Call, Secrets, Target, now_ms};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

/// How far a webhook's timestamp may be from now: the tolerance of Standard Webhooks' libraries.
const TOLERANCE_SECONDS: i64 = 300;
/// The version of Notion's API that is played.
const NOTION_VERSION: &str = "2022-06-28";

/// How long AlimTalk remembers an idempotency key.
const ALIMTALK_MEMORY: Duration = Duration::from_secs(600);
/// How long a template's code may be at AlimTalk, in characters.
const TEMPLATE_CODE_CHARS: usize = 20;
/// How many recipients AlimTalk takes at once.
const ALIMTALK_RECIPIENTS: usize = 1_000;

/// The state of the providers.
#[derive(Default)]
pub(super) struct Providers {
    payments: HashMap<String, Payment>,
    receipts: HashMap<String, i64>,
    pages: Vec<(String, Value)>,
    made: u64,
}

/// A payment at the payment provider.
struct Payment {
    order_id: String,
    amount: i64,
    status: &'static str,
    /// Amount and reason of each part that was cancelled.
    cancels: Vec<(i64, String)>,
}

/// The refusal of a caller who did not authenticate to a target; `None` if they did.
pub(super) fn proof(secrets: &Secrets, target: Target, call: &Call) -> Option<Answer> {
    let basic = || Some(format!("Basic {}", STANDARD.encode(format!("{}:", secrets.toss))));
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    let authorization = call.header("authorization").map(str::to_owned);
    let proven = match target {
        Target::DataPlatform => is_signed(&secrets.data_platform, call),
        Target::Partner => is_signed(&secrets.partner, call),
        Target::AlimTalk => call.header("x-secret-key") == Some(&secrets.alimtalk),
        Target::Toss => authorization == basic(),
        Target::Notion => authorization == bearer(&secrets.notion),
        Target::Directory => authorization == bearer(&secrets.directory),
        Target::All => false,
    };
    (!proven).then(|| match target {
        // It refuses with status 200.
        Target::AlimTalk => alimtalk_refusal(-1001, "Invalid secretKey."),
        Target::Toss => toss_error(401, "UNAUTHORIZED_KEY"),
        Target::Notion => notion_error(401, "unauthorized", "API token is invalid."),
        Target::Directory => scim_error(401),
        _ => Answer::new(401, json!({"message": "no valid signature"})),
    })
}

/// How long a target remembers an idempotency key; longer than any stack lives when `None`.
pub(super) fn remembers_keys_for(target: Target) -> Option<Duration> {
    (target == Target::AlimTalk).then_some(ALIMTALK_MEMORY)
}

/// What a target answers to a call whose key it knows, having given `first` to the first one.
pub(super) fn again(target: Target, first: Answer) -> Answer {
    match target {
        // It accepted the message, and refuses the repetition: a caller that lost the first answer has to know what
        // that means.
        Target::AlimTalk => {
            let refusal =
                alimtalk_refusal(-1005, "The same 'X-NC-API-IDEMPOTENCY-KEY' was used within the last 10 minute.");
            Answer { accepted: true, ..refusal }
        }
        _ => first,
    }
}

fn alimtalk_refusal(code: i64, message: &str) -> Answer {
    Answer::no(200, json!({"header": {"resultCode": code, "resultMessage": message, "isSuccessful": false}}))
}

fn toss_error(status: u16, code: &str) -> Answer {
    Answer::new(status, json!({"code": code, "message": code}))
}

fn notion_error(status: u16, code: &str, message: &str) -> Answer {
    Answer::new(status, json!({"object": "error", "status": status, "code": code, "message": message}))
}

fn scim_error(status: u16) -> Answer {
    let schemas = ["urn:ietf:params:scim:api:messages:2.0:Error"];
    Answer::new(status, json!({"schemas": schemas, "status": status.to_string()}))
}

/// Whether a call is signed as
/// <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md> states, and not a
/// replay of an old one.
fn is_signed(secret: &str, call: &Call) -> bool {
    let (Some(id), Some(timestamp), Some(signatures)) =
        (call.header("webhook-id"), call.header("webhook-timestamp"), call.header("webhook-signature"))
    else {
        return false;
    };
    let recent = timestamp.parse::<i64>().is_ok_and(|at| (now_ms() / 1000 - at).abs() <= TOLERANCE_SECONDS);
    let key = secret.strip_prefix("whsec_").and_then(|key| STANDARD.decode(key).ok()).unwrap_or_default();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let mut signed = format!("{id}.{timestamp}.").into_bytes();
    signed.extend_from_slice(&call.body);
    let good = |signature: &str| {
        let tag = signature.strip_prefix("v1,").and_then(|tag| STANDARD.decode(tag).ok());
        tag.is_some_and(|tag| hmac::verify(&key, &signed, &tag).is_ok())
    };
    recent && signatures.split(' ').any(good)
}

impl Providers {
    /// A customer paid in the widget. `false` when the body lacks what was paid.
    pub(super) fn register(&mut self, payment_key: &str, body: &Value) -> bool {
        let (Some(order_id), Some(amount)) = (body["order_id"].as_str(), body["amount"].as_i64()) else { return false };
        let payment = Payment { order_id: order_id.to_owned(), amount, status: "IN_PROGRESS", cancels: Vec::new() };
        self.payments.insert(payment_key.to_owned(), payment);
        true
    }

    /// What a provider answers to an authenticated caller.
    pub(super) fn answer(&mut self, secrets: &Secrets, target: Target, call: &Call) -> Answer {
        match target {
            Target::DataPlatform if call.json()["events"].as_array().is_none_or(Vec::is_empty) => {
                Answer::new(400, json!({"message": "no events"}))
            }
            Target::DataPlatform | Target::Partner => Answer::new(204, Value::Null),
            Target::AlimTalk => self.alimtalk(secrets, call),
            Target::Toss => self.toss(call),
            Target::Notion => self.notion(secrets, call),
            Target::Directory => directory(call),
            Target::All => Answer::new(404, Value::Null),
        }
    }

    fn mint(&mut self, prefix: &str) -> String {
        self.made += 1;
        format!("{prefix}{:08}", self.made)
    }

    /// AlimTalk API v2.3, "Send a general message":
    /// <https://docs.nhncloud.com/en/Notification/KakaoTalk%20Bizmessage/en/alimtalk-api-guide/>; result codes:
    /// <https://docs.nhncloud.com/en/Notification/KakaoTalk%20Bizmessage/en/error-code/>
    fn alimtalk(&mut self, secrets: &Secrets, call: &Call) -> Answer {
        let parts: Vec<&str> = call.path.trim_matches('/').split('/').collect();
        let ("POST", ["alimtalk", "v2.3", "appkeys", app, "messages"]) = (call.method.as_str(), parts.as_slice())
        else {
            return Answer::new(404, json!({"message": "no such API"}));
        };
        if *app != secrets.alimtalk_app {
            return alimtalk_refusal(-1000, "Invalid appKey.");
        }
        let body = call.json();
        if body["senderKey"] != secrets.alimtalk_sender.as_str() {
            return alimtalk_refusal(-2017, "Not exist sender.");
        }
        let recipients = body["recipientList"].as_array().cloned().unwrap_or_default();
        let numbers: Vec<&str> = recipients.iter().filter_map(|to| to["recipientNo"].as_str()).collect();
        let is_number =
            |number: &&str| (1..=15).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
        let good = body["templateCode"].as_str().is_some_and(|code| (1..=TEMPLATE_CODE_CHARS).contains(&code.len()))
            && (1..=ALIMTALK_RECIPIENTS).contains(&recipients.len())
            && numbers.len() == recipients.len()
            && numbers.iter().all(is_number);
        if !good {
            return alimtalk_refusal(4, "templateCode or recipientList");
        }
        let results: Vec<Value> = (1..)
            .zip(&numbers)
            .map(|(seq, to)| json!({"recipientSeq": seq, "recipientNo": to, "resultCode": 0, "resultMessage": "SUCCESS"}))
            .collect();
        let request = self.mint("alimtalk-");
        let header = json!({"resultCode": 0, "resultMessage": "SUCCESS", "isSuccessful": true});
        Answer::new(200, json!({"header": header, "message": {"requestId": request, "sendResults": results}}))
    }

    /// Toss Payments core API: <https://docs.tosspayments.com/reference>
    fn toss(&mut self, call: &Call) -> Answer {
        let error = toss_error;
        let body = call.json();
        let parts: Vec<&str> = call.path.trim_matches('/').split('/').collect();
        match (call.method.as_str(), parts.as_slice()) {
            ("POST", ["v1", "payments", "confirm"]) => {
                let key = body["paymentKey"].as_str().unwrap_or_default().to_owned();
                let Some(payment) = self.payments.get_mut(&key) else { return error(404, "NOT_FOUND_PAYMENT") };
                if payment.status != "IN_PROGRESS" {
                    return error(400, "ALREADY_PROCESSED_PAYMENT");
                }
                if body["orderId"] != payment.order_id.as_str() || body["amount"] != payment.amount {
                    return error(400, "INVALID_REQUEST");
                }
                payment.status = "DONE";
                Answer::new(200, payment.json(&key))
            }
            ("POST", ["v1", "payments", key, "cancel"]) => self.toss_cancel(key, &body),
            ("GET", ["v1", "payments", key]) => match self.payments.get(*key) {
                Some(payment) => Answer::new(200, payment.json(key)),
                None => error(404, "NOT_FOUND_PAYMENT"),
            },
            ("POST", ["v1", "cash-receipts"]) => {
                let amount = body["amount"].as_i64().filter(|amount| *amount >= 0);
                let texts = ["orderId", "orderName", "customerIdentityNumber"];
                let whole = texts.iter().all(|name| body[*name].as_str().is_some_and(|text| !text.is_empty()));
                let Some(amount) = amount
                    .filter(|_| whole && ["소득공제", "지출증빙"].contains(&body["type"].as_str().unwrap_or_default()))
                else {
                    return error(400, "INVALID_REQUEST");
                };
                let key = self.mint("receipt-");
                self.receipts.insert(key.clone(), amount);
                Answer::new(
                    200,
                    json!({
                        "receiptKey": key, "orderId": body["orderId"], "orderName": body["orderName"], "type": body["type"],
                        "issueNumber": self.made.to_string(), "amount": amount, "issueStatus": "COMPLETED",
                        "transactionType": "CONFIRM",
                    }),
                )
            }
            ("POST", ["v1", "cash-receipts", key, "cancel"]) => match self.receipts.remove(*key) {
                Some(amount) => Answer::new(
                    200,
                    json!({
                        "receiptKey": key, "amount": amount, "issueStatus": "COMPLETED", "transactionType": "CANCEL",
                    }),
                ),
                None => error(400, "ALREADY_CANCELED_CASH_RECEIPT"),
            },
            _ => error(404, "NOT_FOUND"),
        }
    }

    /// Cancels a payment, or `cancelAmount` of it.
    fn toss_cancel(&mut self, key: &str, body: &Value) -> Answer {
        let error = toss_error;
        let Some(payment) = self.payments.get_mut(key) else { return error(404, "NOT_FOUND_PAYMENT") };
        let Some(reason) = body["cancelReason"].as_str().filter(|reason| !reason.is_empty()) else {
            return error(400, "INVALID_REQUEST");
        };
        if payment.status == "CANCELED" {
            return error(400, "ALREADY_CANCELED_PAYMENT");
        }
        if !["DONE", "PARTIAL_CANCELED"].contains(&payment.status) {
            return error(403, "NOT_CANCELABLE_PAYMENT");
        }
        let left = payment.left();
        let part = if body["cancelAmount"].is_null() { Some(left) } else { body["cancelAmount"].as_i64() };
        let Some(part) = part.filter(|part| (1..=left).contains(part)) else {
            return error(403, "NOT_CANCELABLE_AMOUNT");
        };
        payment.cancels.push((part, reason.to_owned()));
        payment.status = if payment.left() == 0 { "CANCELED" } else { "PARTIAL_CANCELED" };
        Answer::new(200, payment.json(key))
    }

    /// Notion: <https://developers.notion.com/reference/post-page>, `patch-page`, `post-database-query`.
    fn notion(&mut self, secrets: &Secrets, call: &Call) -> Answer {
        let error = notion_error;
        if call.header("notion-version") != Some(NOTION_VERSION) {
            return error(400, "missing_version", "Notion-Version header failed validation");
        }
        let body = call.json();
        let parts: Vec<&str> = call.path.trim_matches('/').split('/').collect();
        match (call.method.as_str(), parts.as_slice()) {
            ("POST", ["v1", "pages"]) => {
                if body["parent"]["database_id"] != secrets.notion_database.as_str() {
                    return error(404, "object_not_found", "Could not find database");
                }
                if !body["properties"].is_object() {
                    return error(400, "validation_error", "body.properties should be an object");
                }
                let id = self.mint("page-");
                self.pages.push((id.clone(), body["properties"].clone()));
                Answer::new(200, page(&id, &body["properties"]))
            }
            ("PATCH", ["v1", "pages", id]) => match self.pages.iter_mut().find(|(known, _)| known == id) {
                Some((_, properties)) => {
                    for (name, value) in body["properties"].as_object().into_iter().flatten() {
                        properties[name] = value.clone();
                    }
                    Answer::new(200, page(id, properties))
                }
                None => error(404, "object_not_found", "Could not find page"),
            },
            ("POST", ["v1", "databases", id, "query"]) if **id == *secrets.notion_database => {
                let conditions = match body["filter"]["and"].as_array() {
                    Some(all) => all.clone(),
                    None if body["filter"].is_object() => vec![body["filter"].clone()],
                    None => Vec::new(),
                };
                let found = self.pages.iter().filter(|(_, page)| conditions.iter().all(|wanted| fits(wanted, page)));
                let results: Vec<Value> = found.map(|(id, properties)| page(id, properties)).collect();
                Answer::new(200, json!({"object": "list", "results": results, "has_more": false, "next_cursor": null}))
            }
            _ => error(400, "invalid_request_url", "Invalid request URL"),
        }
    }
}

/// Whether a page fits one condition of a query's filter: `equals` on a text or a select.
fn fits(wanted: &Value, page: &Value) -> bool {
    let property = &page[wanted["property"].as_str().unwrap_or_default()];
    let text = |kind: &str| {
        let parts = property[kind].as_array().cloned().unwrap_or_default();
        let content = |part: &Value| part["text"]["content"].as_str().unwrap_or_default().to_owned();
        parts.iter().map(content).collect::<String>()
    };
    ["rich_text", "title"].iter().any(|kind| wanted[*kind]["equals"].as_str().is_some_and(|value| text(kind) == value))
        || wanted["select"]["equals"].as_str().is_some_and(|value| property["select"]["name"] == value)
        || wanted["status"]["equals"].as_str().is_some_and(|value| property["status"]["name"] == value)
}

fn page(id: &str, properties: &Value) -> Value {
    json!({"object": "page", "id": id, "url": format!("https://www.notion.so/{id}"), "properties": properties})
}

impl Payment {
    /// How much of it was not cancelled.
    fn left(&self) -> i64 {
        self.amount - self.cancels.iter().map(|(amount, _)| amount).sum::<i64>()
    }

    fn json(&self, key: &str) -> Value {
        let cancel = |(amount, reason): &(i64, String)| json!({"cancelAmount": amount, "cancelReason": reason});
        let cancels: Vec<Value> = self.cancels.iter().map(cancel).collect();
        json!({
            "paymentKey": key, "orderId": self.order_id, "status": self.status, "totalAmount": self.amount,
            "balanceAmount": self.left(), "currency": "KRW", "method": "카드",
            "cancels": if cancels.is_empty() { Value::Null } else { json!(cancels) },
        })
    }
}

/// SCIM 2.0, `GET /Users/{id}`: every user has a made-up number of their own, except `nophone...`; there is no user
/// `ghost...`.
fn directory(call: &Call) -> Answer {
    let Some(id) = call.path.strip_prefix("/Users/").filter(|_| call.method == "GET") else {
        return scim_error(404);
    };
    let id = super::client::decode(id);
    if id.starts_with("ghost") {
        return scim_error(404);
    }
    let sum = id.bytes().fold(7_u64, |sum, byte| (sum * 31 + u64::from(byte)) % 100_000_000);
    let mut user = json!({"schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "id": id, "userName": id});
    if !id.starts_with("nophone") {
        user["phoneNumbers"] = json!([{"value": format!("+8210{sum:08}"), "type": "mobile"}]);
    }
    Answer::new(200, user)
}
