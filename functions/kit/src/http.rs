//! HTTP in and out: a parsed [`Call`], a [`Reply`], a [`Problem`] (RFC 9457).

use crate::Fault;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contracts::{Invalid, Timestamp};
pub use lambda_http::http::StatusCode;
use lambda_http::http::{HeaderMap, HeaderValue, Response, header};
use lambda_http::request::RequestContext;
use lambda_http::{Body, Request, RequestExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// The largest body accepted, in bytes. Larger ones are answered 413 `payload_too_large`.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// The number of rows in a page of a list if no `limit` is given.
pub const DEFAULT_PAGE: u32 = 20;
/// The most rows in a page of a list.
pub const MAX_PAGE: u32 = 100;
/// The longest `Prefer: wait`, in seconds.
pub const MAX_WAIT_SECONDS: u64 = 10;

/// One request, as a handler sees it.
#[derive(Debug, Clone)]
pub struct Call {
    pub headers: HeaderMap,
    /// The parts of the path named in the route.
    pub path: HashMap<String, String>,
    /// The query; the first value of each name.
    pub query: HashMap<String, String>,
    pub body: Vec<u8>,
    /// Identifies the request in logs and events; answered as `X-Request-Id`.
    pub request_id: String,
    /// When it was received: the only "now" a use case knows.
    pub now: Timestamp,
}

impl Call {
    /// Reads a request of API Gateway.
    pub fn from_lambda(request: Request, now: Timestamp) -> Self {
        let first = |map: lambda_http::aws_lambda_events::query_map::QueryMap| -> HashMap<String, String> {
            let mut firsts = HashMap::new();
            for (name, value) in map.iter() {
                firsts.entry(name.to_owned()).or_insert_with(|| value.to_owned());
            }
            firsts
        };
        let request_id = match request.request_context_ref() {
            Some(RequestContext::ApiGatewayV1(context)) => context.request_id.clone(),
            _ => None,
        };
        let request_id = request_id.or_else(|| request.lambda_context_ref().map(|context| context.request_id.clone()));
        let path = first(request.path_parameters());
        let query = first(request.query_string_parameters());
        let (parts, body) = request.into_parts();
        Self {
            headers: parts.headers,
            path,
            query,
            body: body.to_vec(),
            request_id: request_id.unwrap_or_default(),
            now,
        }
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// 413 `payload_too_large` for a body over [`MAX_BODY_BYTES`], before it is parsed.
    pub fn check_size(&self) -> Result<(), Problem> {
        if self.body.len() <= MAX_BODY_BYTES {
            return Ok(());
        }
        Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", "Body too large")
            .detail(format!("a body has at most {MAX_BODY_BYTES} bytes")))
    }

    /// The body as `T`. Unknown fields, wrong types and anything else that does not fit are 400 `invalid_request`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        self.check_size()?;
        // Serde would also read a struct from an array of its fields in order.
        if self.body.trim_ascii_start().first() != Some(&b'{') {
            return Err(Problem::invalid("body: must be a JSON object"));
        }
        // The error quotes the input: keep at most a little of it.
        let shortened = |error: serde_json::Error| error.to_string().chars().take(200).collect::<String>();
        serde_json::from_slice(&self.body).map_err(|error| Problem::invalid(shortened(error)))
    }

    /// An id from the path; 404 for a text that cannot be one.
    pub fn path_id<T: TryFrom<String>>(&self, name: &str) -> Result<T, Problem> {
        self.path
            .get(name)
            .and_then(|text| T::try_from(text.clone()).ok())
            .ok_or_else(|| Problem::not_found("no such resource"))
    }

    /// `limit` and `cursor` of a list.
    pub fn page(&self) -> Result<Page, Problem> {
        let limit = match self.query.get("limit") {
            None => DEFAULT_PAGE,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=MAX_PAGE).contains(limit))
                .ok_or_else(|| Problem::invalid(format!("limit: must be 1 to {MAX_PAGE}")))?,
        };
        let after = self.query.get("cursor").map(|cursor| Cursor::open(cursor)).transpose()?;
        Ok(Page { limit, after })
    }

    /// [`Call::page`], where the cursor must be a sort key of this list.
    pub fn page_behind(&self, is_ours: impl Fn(&str) -> bool) -> Result<Page, Problem> {
        let page = self.page()?;
        match &page.after {
            Some(key) if !is_ours(key) => Err(Cursor::wrong()),
            _ => Ok(page),
        }
    }

    fn preferences(&self) -> impl Iterator<Item = &str> {
        self.headers
            .get_all("prefer")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|v| v.split(','))
            .map(str::trim)
    }

    /// Whether the caller sent `Prefer: respond-async` (RFC 7240), to be answered before the work is done.
    pub fn prefers_async(&self) -> bool {
        self.preferences().any(|preference| preference.eq_ignore_ascii_case("respond-async"))
    }

    /// Seconds of `Prefer: wait=N` (RFC 7240), at most [`MAX_WAIT_SECONDS`]; 0 without one.
    pub fn prefer_wait_seconds(&self) -> u64 {
        let seconds = |preference: &str| {
            let (name, value) = preference.split_once('=')?;
            let wait = name.trim().eq_ignore_ascii_case("wait");
            wait.then(|| value.trim().trim_matches('"').parse::<u64>().ok()).flatten()
        };
        self.preferences().find_map(seconds).map_or(0, |seconds| seconds.min(MAX_WAIT_SECONDS))
    }
}

/// The requested part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The most rows.
    pub limit: u32,
    /// The sort key of the last row seen, if any.
    pub after: Option<String>,
}

/// Opaque cursors: a sort key in base64url.
#[derive(Debug)]
pub struct Cursor;

impl Cursor {
    /// The cursor that continues after `sort_key`.
    pub fn seal(sort_key: &str) -> String {
        URL_SAFE_NO_PAD.encode(sort_key)
    }

    /// The sort key in a cursor; 400 `invalid_request` when it is none of ours.
    pub fn open(cursor: &str) -> Result<String, Problem> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| Self::wrong())?;
        String::from_utf8(bytes).ok().filter(|key| (1..=512).contains(&key.len())).ok_or_else(Self::wrong)
    }

    fn wrong() -> Problem {
        Problem::invalid("cursor: must be a next_cursor of this list")
    }
}

/// The body of a list.
#[derive(Debug, Serialize)]
pub struct ListBody<T> {
    /// The rows.
    pub items: Vec<T>,
    /// The cursor of the next page, if there are more rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub status: StatusCode,
    /// Its JSON, or nothing.
    pub body: Option<Value>,
    /// Its JSON as text, in place of `body`: for an answer too large to be built as a tree. Never remembered under an
    /// idempotency key.
    pub text: Option<String>,
    /// `Location`, where to follow asynchronous work.
    pub location: Option<String>,
    /// `Preference-Applied`: the preference of the caller that was honoured (RFC 7240).
    pub preference_applied: Option<&'static str>,
}

impl Reply {
    fn with(status: StatusCode, body: impl Serialize) -> Result<Self, Problem> {
        let body =
            serde_json::to_value(body).map_err(|error| Problem::from(Fault::broken("writing an answer", error)))?;
        Ok(Self { status, body: Some(body), text: None, location: None, preference_applied: None })
    }

    /// 200 with a body.
    pub fn ok(body: impl Serialize) -> Result<Self, Problem> {
        Self::with(StatusCode::OK, body)
    }

    /// 200 with a body that is JSON text already.
    pub fn ok_text(text: String) -> Self {
        Self { status: StatusCode::OK, body: None, text: Some(text), location: None, preference_applied: None }
    }

    /// 201 with a body.
    pub fn created(body: impl Serialize) -> Result<Self, Problem> {
        Self::with(StatusCode::CREATED, body)
    }

    /// 202 with a body and the `Location` to poll.
    pub fn accepted(body: impl Serialize, location: String) -> Result<Self, Problem> {
        let mut reply = Self::with(StatusCode::ACCEPTED, body)?;
        reply.location = Some(location);
        Ok(reply)
    }

    /// 204.
    pub fn no_content() -> Self {
        Self { status: StatusCode::NO_CONTENT, body: None, text: None, location: None, preference_applied: None }
    }

    /// The same with `Preference-Applied`.
    #[must_use]
    pub fn preference_applied(mut self, preference: &'static str) -> Self {
        self.preference_applied = Some(preference);
        self
    }

    /// As API Gateway wants it.
    pub fn into_response(self, request_id: &str) -> Response<Body> {
        let text = self.text.or_else(|| self.body.map(|body| body.to_string()));
        let body = text.map_or(Body::Empty, Body::Text);
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        insert(headers, "x-request-id", request_id);
        if let Some(location) = self.location {
            insert(headers, "location", &location);
        }
        if let Some(preference) = self.preference_applied {
            insert(headers, "preference-applied", preference);
        }
        response
    }
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// A refusal or a failure, as `application/problem+json` with a stable `code`.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    /// Stable, snake_case, for programs.
    pub code: &'static str,
    /// Short, for people, the same for every occurrence.
    pub title: &'static str,
    /// About this occurrence, for people.
    pub detail: String,
    /// More members, for example the seats that were taken.
    pub members: Map<String, Value>,
    /// When a retry may help, in seconds.
    pub retry_after_seconds: Option<u32>,
    /// The failure behind it, for the log only.
    pub fault: Option<Fault>,
}

impl Problem {
    /// A problem with its code and title.
    pub fn new(status: StatusCode, code: &'static str, title: &'static str) -> Self {
        Self {
            status,
            code,
            title,
            detail: title.to_owned(),
            members: Map::new(),
            retry_after_seconds: None,
            fault: None,
        }
    }

    /// The same with details of this occurrence. Never contains values of the input, only its shape.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// The same with one more member.
    #[must_use]
    pub fn member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// The same with `Retry-After`.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// 400 `invalid_request`.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", "Invalid request").detail(detail)
    }

    /// 404 `not_found`.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not found").detail(detail)
    }

    /// 409 with its own code.
    pub fn conflict(code: &'static str, title: &'static str) -> Self {
        Self::new(StatusCode::CONFLICT, code, title)
    }

    /// 401 `unauthorized`: no valid user token.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "A valid bearer token is needed")
    }

    /// 403 `forbidden`: a valid user without the needed scope.
    pub fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "The operator scope is needed")
    }

    /// As API Gateway wants it.
    pub fn into_response(self, request_id: &str) -> Response<Body> {
        let mut document = self.members;
        document.insert("type".into(), format!("urn:encore:problem:{}", self.code).into());
        document.insert("title".into(), self.title.into());
        document.insert("status".into(), self.status.as_u16().into());
        document.insert("detail".into(), self.detail.into());
        document.insert("code".into(), self.code.into());
        let mut response = Response::new(Body::Text(Value::Object(document).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        insert(headers, "x-request-id", request_id);
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        Problem::invalid(invalid.to_string())
    }
}

impl From<Fault> for Problem {
    /// A fault never exposes internals: 503 when a retry may help, 500 when it will not.
    fn from(fault: Fault) -> Self {
        let mut problem = match &fault {
            Fault::Contended(_) => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "contended", "Too many at once, try again").retry_after(1)
            }
            Fault::Unavailable(_) => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", "Temporarily unavailable")
                    .retry_after(2)
            }
            Fault::Broken(_) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "Internal error"),
        };
        problem.fault = Some(fault);
        problem
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn call(headers: &[(&'static str, &str)]) -> Call {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Call {
            headers: map,
            path: HashMap::new(),
            query: HashMap::new(),
            body: Vec::new(),
            request_id: "r1".into(),
            now: Timestamp::from_millis(0),
        }
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        #[allow(dead_code)]
        a: u8,
    }

    #[test]
    fn a_body_that_does_not_fit_is_a_problem_with_a_code() {
        for body in ["", "{", "[]", "[1]", "{}", r#"{"a":1,"b":2}"#, r#"{"a":"1"}"#, r#"{"a":256}"#, r#"{"a":1,"a":1}"#]
        {
            let call = Call { body: body.into(), ..call(&[]) };
            let problem = call.json::<Strict>().unwrap_err();
            assert_eq!((problem.status, problem.code), (StatusCode::BAD_REQUEST, "invalid_request"), "{body}");
        }
        let large = Call { body: vec![b' '; MAX_BODY_BYTES + 1], ..call(&[]) };
        assert_eq!(large.json::<Strict>().unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[test]
    fn a_page_is_1_to_100_rows_and_its_cursor_comes_from_us() {
        let with =
            |name: &str, value: &str| Call { query: HashMap::from([(name.to_owned(), value.to_owned())]), ..call(&[]) };
        assert_eq!(call(&[]).page().unwrap().limit, 20);
        assert_eq!(with("limit", "100").page().unwrap().limit, 100);
        for bad in ["0", "101", "-1", "ten", ""] {
            assert!(with("limit", bad).page().is_err(), "{bad:?}");
        }
        assert_eq!(with("cursor", &Cursor::seal("RES#1")).page().unwrap().after.unwrap(), "RES#1");
        assert!(with("cursor", "***").page().is_err());
    }

    #[test]
    fn prefer_wait_is_parsed_and_bounded() {
        for three in ["respond-async, wait=3", "Wait=3", "wait=\"3\"", "wait = 3"] {
            assert_eq!(call(&[("prefer", three)]).prefer_wait_seconds(), 3, "{three}");
        }
        assert_eq!(call(&[("prefer", "wait=9999")]).prefer_wait_seconds(), MAX_WAIT_SECONDS);
        assert_eq!(call(&[("prefer", "wait=soon")]).prefer_wait_seconds(), 0);
    }

    #[test]
    fn a_fault_exposes_no_internals() {
        let problem = Problem::from(Fault::unavailable("writing", "secret-table is gone"));
        let response = problem.into_response("r1");
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
        let Body::Text(text) = response.body() else { panic!("no text") };
        assert!(!text.contains("secret"), "{text}");
    }
}
