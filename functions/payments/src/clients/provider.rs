//! Toss Payments' core API, version 2022-11-16: <https://docs.tosspayments.com/reference>.
//!
//! | call | documented at |
//! | --- | --- |
//! | `POST /v1/payments/confirm` | <https://docs.tosspayments.com/reference#결제-승인> |
//! | `GET /v1/payments/{paymentKey}` | <https://docs.tosspayments.com/reference#paymentkey로-결제-조회> |
//! | `POST /v1/payments/{paymentKey}/cancel` | <https://docs.tosspayments.com/reference#결제-취소> |
//! | errors: `{"code", "message"}` | <https://docs.tosspayments.com/reference/error-codes> |
//! | Basic authorization, `Idempotency-Key` | <https://docs.tosspayments.com/reference/using-api/authorization> |
//!
//! An `Idempotency-Key` has at most 300 characters and counts for 15 days; within them a repeated request gets the
//! answer of the first, or 409 while the first is still in progress. The account at the provider must be used by Encore
//! alone: a payment that another shop confirmed under one of our order ids would be taken for a charge.

use crate::domain::charges::{Charge, Declined, PaymentStatus, ProviderPayment};
use crate::domain::withdrawals::{CancelledPart, Withdrawal};
use crate::ports::charges::PaymentProvider;
use crate::ports::withdrawals::CancelParts;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, header};
use kit::Fault;
use kit::outgoing::{Answer, Client, Request, secret_header};
use kit::secrets::Secret;
use serde::Deserialize;
use serde_json::{Value, json};

/// Codes that do not tell what became of the payment: that it was confirmed before, that another attempt is in
/// progress, that the provider has a temporary fault, or that it does not know our key. Every other code of a 4xx is a
/// rejection.
const UNCLEAR: [&str; 9] = [
    "ALREADY_PROCESSED_PAYMENT",
    "IDEMPOTENT_REQUEST_PROCESSING",
    "FORBIDDEN_CONSECUTIVE_REQUEST",
    "PROVIDER_ERROR",
    "CARD_PROCESSING_ERROR",
    "UNAUTHORIZED_KEY",
    "INVALID_API_KEY",
    "INCORRECT_BASIC_AUTH_FORMAT",
    "INVALID_IDEMPOTENCY_KEY",
];
/// The provider knows no payment of this name.
const NO_SUCH_PAYMENT: &str = "not_found_payment";
/// The longest reason that is kept, in characters.
const MAX_REASON: usize = 64;

/// The secret document in SSM.
#[derive(Clone, Deserialize)]
pub struct ProviderSecret {
    secret_key: String,
}

/// Toss Payments.
#[derive(Debug)]
pub struct TossPayments {
    http: Client,
    url: String,
    secret: Secret<ProviderSecret>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PaymentObject {
    order_id: String,
    total_amount: i64,
    status: String,
    /// Absent or null while nothing was cancelled.
    #[serde(default)]
    cancels: Option<Vec<CancelObject>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CancelObject {
    cancel_amount: i64,
    #[serde(default)]
    cancel_reason: String,
}

impl TossPayments {
    /// The provider at a base URL; with an empty one there is none, and nothing is confirmed or cancelled.
    pub fn new(http: Client, url: String, secret: Secret<ProviderSecret>) -> Self {
        Self { http, url, secret }
    }

    async fn call(
        &self,
        doing: &'static str,
        correlation_id: &str,
        method: Method,
        path: &str,
        once: Option<(String, Value)>,
    ) -> Result<Answer, Fault> {
        if self.url.is_empty() {
            return Err(Fault::unavailable(doing, "no payment provider is configured"));
        }
        let key = self.secret.get().await?.secret_key;
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, secret_header(&format!("Basic {}", STANDARD.encode(format!("{key}:"))))?);
        let text = |value: &str| HeaderValue::from_str(value).map_err(|error| Fault::broken(doing, error));
        headers.insert("x-correlation-id", text(correlation_id)?);
        let mut body = None;
        if let Some((idempotency_key, json)) = once {
            headers.insert("idempotency-key", text(&idempotency_key)?);
            body = Some(json.to_string().into_bytes());
        }
        let url = format!("{}{path}", self.url.trim_end_matches('/'));
        self.http.answer(doing, &Request { method, url, headers, body }).await
    }
}

impl PaymentProvider for TossPayments {
    async fn confirm_payment(&self, charge: &Charge) -> Result<Result<ProviderPayment, Declined>, Fault> {
        let doing = "confirming a payment";
        let body = json!({"paymentKey": charge.payment_key, "orderId": charge.key, "amount": charge.amount});
        let once = Some((charge.id.to_string(), body));
        yes_or_no(doing, &self.call(doing, &charge.correlation_id, Method::POST, "/v1/payments/confirm", once).await?)
    }

    async fn look_up_payment(&self, charge: &Charge) -> Result<Option<ProviderPayment>, Fault> {
        let doing = "looking up a payment";
        let answer = self.call(doing, &charge.correlation_id, Method::GET, &path_of(&charge.payment_key), None).await?;
        match yes_or_no(doing, &answer)? {
            Ok(payment) => Ok(Some(payment)),
            // The provider's own error code; a 404 of anything in between tells nothing.
            Err(Declined(reason)) if reason == NO_SUCH_PAYMENT => Ok(None),
            Err(Declined(reason)) => Err(Fault::unavailable(doing, reason)),
        }
    }

    async fn cancel_payment(&self, charge: &Charge) -> Result<Result<ProviderPayment, Declined>, Fault> {
        let doing = "cancelling a payment";
        let body = json!({"cancelReason": "The points could not be credited"});
        // A new key for each recovery, because under the old one a past refusal would be repeated. All of the money
        // goes back, so it goes back only once.
        let once = Some((format!("{}-cancel-{}", charge.id, charge.recoveries), body));
        let path = format!("{}/cancel", path_of(&charge.payment_key));
        yes_or_no(doing, &self.call(doing, &charge.correlation_id, Method::POST, &path, once).await?)
    }
}

impl CancelParts for TossPayments {
    async fn cancel_part(&self, withdrawal: &Withdrawal) -> Result<Result<Vec<CancelledPart>, Declined>, Fault> {
        let doing = "cancelling a payment in part";
        let body = json!({"cancelReason": withdrawal.cancel_reason(), "cancelAmount": withdrawal.amount});
        // One key for all attempts: a part could be cancelled twice.
        let once = Some((format!("{}-withdraw", withdrawal.id), body));
        let Some(key) = source_of(withdrawal) else { return Err(Fault::broken(doing, "it is not of a charge")) };
        let path = format!("{}/cancel", path_of(key));
        let answer = self.call(doing, &withdrawal.correlation_id, Method::POST, &path, once).await?;
        match read(doing, &answer)? {
            Ok(object) => Ok(Ok(parts_of(object))),
            Err(declined) => Ok(Err(declined)),
        }
    }

    async fn cancelled_parts(&self, withdrawal: &Withdrawal) -> Result<Vec<CancelledPart>, Fault> {
        let doing = "looking up the parts of a payment";
        let Some(key) = source_of(withdrawal) else { return Err(Fault::broken(doing, "it is not of a charge")) };
        let answer = self.call(doing, &withdrawal.correlation_id, Method::GET, &path_of(key), None).await?;
        match read(doing, &answer)? {
            Ok(object) => Ok(parts_of(object)),
            // It has confirmed this payment: an answer that it knows none is no answer.
            Err(Declined(reason)) => Err(Fault::unavailable(doing, reason)),
        }
    }
}

fn source_of(withdrawal: &Withdrawal) -> Option<&str> {
    withdrawal.source.as_ref().map(|source| source.payment_key.as_str())
}

fn parts_of(object: PaymentObject) -> Vec<CancelledPart> {
    let part = |one: CancelObject| CancelledPart { amount: one.cancel_amount, reason: one.cancel_reason };
    object.cancels.unwrap_or_default().into_iter().map(part).collect()
}

fn path_of(payment_key: &str) -> String {
    let mut path = "/v1/payments/".to_owned();
    for byte in payment_key.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            path.push(byte.into());
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

/// The payment in an answer, or the provider's rejection.
fn yes_or_no(doing: &'static str, answer: &Answer) -> Result<Result<ProviderPayment, Declined>, Fault> {
    let object = match read(doing, answer)? {
        Ok(object) => object,
        Err(declined) => return Ok(Err(declined)),
    };
    let status = match object.status.as_str() {
        "READY" | "IN_PROGRESS" => PaymentStatus::Open,
        "DONE" => PaymentStatus::Done,
        "WAITING_FOR_DEPOSIT" | "PARTIAL_CANCELED" => PaymentStatus::Partly,
        "CANCELED" => PaymentStatus::Cancelled,
        "ABORTED" | "EXPIRED" => PaymentStatus::Failed,
        _ => return Err(not_understood(doing, answer)),
    };
    Ok(Ok(ProviderPayment { order_id: object.order_id, amount: object.total_amount, status }))
}

/// An answer that is not understood tells nothing; the payment will be looked up, now or later.
fn not_understood(doing: &'static str, answer: &Answer) -> Fault {
    Fault::unavailable(doing, format!("a {} that is not understood", answer.status))
}

/// The payment as the provider wrote it, or the provider's rejection.
fn read(doing: &'static str, answer: &Answer) -> Result<Result<PaymentObject, Declined>, Fault> {
    if (200..300).contains(&answer.status) {
        return serde_json::from_slice(&answer.body).map(Ok).map_err(|_| not_understood(doing, answer));
    }
    let code = answer.json()["code"].as_str().unwrap_or_default().to_owned();
    let is_name = !code.is_empty() && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !is_name || answer.status == 401 || UNCLEAR.contains(&code.as_str()) {
        return Err(Fault::unavailable(doing, format!("answered {}: {code}", answer.status)));
    }
    Ok(Err(Declined(code.to_ascii_lowercase().chars().take(MAX_REASON).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &Value) -> Answer {
        Answer { status, body: body.to_string().into_bytes() }
    }

    fn read(status: u16, body: Value) -> Result<Result<ProviderPayment, Declined>, Fault> {
        yes_or_no("testing", &answer(status, &body))
    }

    #[test]
    fn the_parts_of_a_payment_that_were_cancelled_are_read() {
        let body = |cancels: Value| json!({"orderId": "o", "totalAmount": 500, "status": "PARTIAL_CANCELED", "cancels": cancels});
        let parts = |cancels| parts_of(super::read("testing", &answer(200, &body(cancels))).unwrap().unwrap());
        assert_eq!(parts(json!(null)), []);
        let one = json!([{"cancelAmount": 100, "cancelReason": "Withdrawal w1", "taxFreeAmount": 0}]);
        assert_eq!(parts(one), [CancelledPart { amount: 100, reason: "Withdrawal w1".into() }]);
    }

    #[test]
    fn a_payment_is_read_and_what_is_not_understood_tells_nothing() {
        let body = |status: &str| json!({"orderId": "order-1", "totalAmount": 500, "status": status, "more": 1});
        let read_status = |status| read(200, body(status)).unwrap().unwrap().status;
        assert_eq!(read_status("DONE"), PaymentStatus::Done);
        assert_eq!(read_status("WAITING_FOR_DEPOSIT"), PaymentStatus::Partly);
        assert_eq!(read_status("EXPIRED"), PaymentStatus::Failed);
        assert!(read(200, body("SOMETHING_NEW")).is_err());
        assert!(read(200, json!({})).is_err());
        assert!(read(302, json!({})).is_err());
    }

    #[test]
    fn a_rejection_counts_unless_it_tells_nothing_about_the_payment() {
        let code = |code: &str| json!({"code": code, "message": "..."});
        assert_eq!(read(403, code("REJECT_CARD_PAYMENT")).unwrap(), Err(Declined("reject_card_payment".into())));
        for unclear in UNCLEAR {
            assert!(read(400, code(unclear)).is_err(), "{unclear}");
        }
        assert!(read(401, code("ANYTHING")).is_err());
        for none in ["", "not a code", "<html>"] {
            assert!(read(400, code(none)).is_err(), "{none:?}");
        }
        assert_eq!(read(400, code(&"X".repeat(500))).unwrap().unwrap_err().0.len(), MAX_REASON);
    }
}
