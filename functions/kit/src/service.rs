//! AWS services of which only one or two calls are needed: Lambda, EventBridge, Step Functions, SSM, CloudFormation.
//!
//! An SDK client brings all operations of its service, with some hundred types each, and a third of a cold build was
//! spent on unused ones. Here a call is a plain request on the runtime that the SDK's clients are built on, so that
//! signing, retries, timeouts, clock skew and the classification of errors are the same.

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_runtime::auth::sigv4::{SCHEME_ID, SigV4AuthScheme};
use aws_runtime::auth::{SigV4OperationSigningConfig, SigningOptions};
use aws_runtime::invocation_id::InvocationIdInterceptor;
use aws_runtime::recursion_detection::RecursionDetectionInterceptor;
use aws_runtime::request_info::RequestInfoInterceptor;
use aws_runtime::retries::classifiers::AwsErrorCodeClassifier;
use aws_runtime::service_clock_skew::{ServiceClockSkewClassifier, ServiceClockSkewInterceptor};
use aws_smithy_runtime::client::http::connection_poisoning::ConnectionPoisoningInterceptor;
use aws_smithy_runtime::client::identity::IdentityCache;
use aws_smithy_runtime::client::orchestrator::operation::Operation;
use aws_smithy_runtime::client::retries::classifiers::{HttpStatusCodeClassifier, TransientErrorClassifier};
use aws_smithy_runtime_api::client::auth::static_resolver::StaticAuthSchemeOptionResolver;
use aws_smithy_runtime_api::client::auth::{AuthSchemeOptionResolverParams, SharedAuthScheme};
use aws_smithy_runtime_api::client::behavior_version::BehaviorVersion;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, OrchestratorError, SensitiveOutput};
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponentsBuilder;
use aws_smithy_runtime_api::client::runtime_plugin::StaticRuntimePlugin;
use aws_smithy_runtime_api::http::{Headers, HttpError};
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::Layer;
use aws_smithy_types::error::display::DisplayErrorContext;
use aws_smithy_types::error::metadata::ErrorMetadata;
pub use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::region::{Region, SigningRegion};
use aws_types::{SdkConfig, SigningName};
use http::header::{CONTENT_TYPE, HeaderName, USER_AGENT};
use http::{HeaderValue, Method};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// The characters that a path segment may contain unescaped (RFC 3986, section 2.3).
const UNRESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A service by its protocol.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Its name in endpoints and signatures.
    name: &'static str,
    /// The prefix of an operation's name in `X-Amz-Target`, if its protocol has that.
    target: &'static str,
    content_type: &'static str,
}

/// Lambda. <https://docs.aws.amazon.com/lambda/latest/api/>
pub const LAMBDA: Kind = Kind { name: "lambda", target: "", content_type: "application/json" };
/// EventBridge. <https://docs.aws.amazon.com/eventbridge/latest/APIReference/>
pub const EVENTS: Kind = Kind { name: "events", target: "AWSEvents", content_type: "application/x-amz-json-1.1" };
/// Step Functions. <https://docs.aws.amazon.com/step-functions/latest/apireference/>
pub const STATES: Kind =
    Kind { name: "states", target: "AWSStepFunctions", content_type: "application/x-amz-json-1.0" };
/// Systems Manager. <https://docs.aws.amazon.com/systems-manager/latest/APIReference/>
pub const SSM: Kind = Kind { name: "ssm", target: "AmazonSSM", content_type: "application/x-amz-json-1.1" };
/// CloudFormation, whose protocol is a form. <https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/>
pub const CLOUDFORMATION: Kind =
    Kind { name: "cloudformation", target: "", content_type: "application/x-www-form-urlencoded" };

/// Why a call failed.
pub type Failure = SdkError<Refusal, HttpResponse>;

/// A failure with all its causes, on one line.
pub fn why(failure: &Failure) -> String {
    DisplayErrorContext(failure).to_string()
}

/// A service's error.
#[derive(Debug)]
pub struct Refusal(ErrorMetadata);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refusal {}

impl ProvideErrorMetadata for Refusal {
    fn meta(&self) -> &ErrorMetadata {
        &self.0
    }
}

/// One request. Its body never appears in debug output.
pub struct Request {
    method: Method,
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
}

impl Request {
    /// A request without a body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((HeaderName::from_static(name), HeaderValue::from_static(value)));
        self
    }

    /// With a body.
    #[must_use]
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// A synchronous call of a Lambda function, by its name or ARN.
    pub fn invocation(function: &str, payload: impl Into<Vec<u8>>) -> Self {
        let path = format!("/2015-03-31/functions/{}/invocations", utf8_percent_encode(function, &UNRESERVED));
        Self::new(Method::POST, path).body(payload)
    }

    fn into_http(self, kind: Kind) -> Result<HttpRequest, HttpError> {
        let mut request = http::Request::new(SdkBody::from(self.body));
        *request.method_mut() = self.method;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind.content_type));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("encore/", env!("CARGO_PKG_VERSION"))));
        headers.extend(self.headers);
        let mut request = HttpRequest::try_from(request)?;
        request.set_uri(self.path)?;
        Ok(request)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("method", &self.method).field("path", &self.path).finish_non_exhaustive()
    }
}

/// An answer with a status of 2xx.
pub struct Answer {
    headers: Headers,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

/// A client of one service.
#[derive(Debug, Clone)]
pub struct Service {
    kind: Kind,
    operation: Operation<Request, Answer, Refusal>,
}

impl Service {
    /// A client with this configuration; if it has no endpoint, for the region's own.
    pub fn new(kind: Kind, config: &SdkConfig) -> Self {
        let region = config.region().cloned().unwrap_or_else(|| Region::from_static("us-east-1"));
        let endpoint = config.endpoint_url().map_or_else(|| kind.endpoint(&region), str::to_owned);
        let mut operation = Operation::builder()
            .service_name(kind.name)
            .operation_name("call")
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&endpoint)
            .timeout_config(config.timeout_config().cloned().unwrap_or_else(|| TimeoutConfig::builder().build()))
            .standard_retry(&config.retry_config().cloned().unwrap_or_else(RetryConfig::standard))
            .retry_classifier(TransientErrorClassifier::<Refusal>::new())
            .retry_classifier(AwsErrorCodeClassifier::<Refusal>::new())
            .retry_classifier(HttpStatusCodeClassifier::default())
            .retry_classifier(ServiceClockSkewClassifier::<Refusal>::new())
            .interceptor(ConnectionPoisoningInterceptor::new())
            .interceptor(ServiceClockSkewInterceptor::new())
            .interceptor(RequestInfoInterceptor::new())
            .interceptor(InvocationIdInterceptor::new())
            .interceptor(RecursionDetectionInterceptor::new())
            .runtime_plugin(signing(kind, region, config.credentials_provider()));
        if let Some(client) = config.http_client() {
            operation = operation.http_client(client);
        }
        if let Some(sleep) = config.sleep_impl() {
            operation = operation.sleep_impl(sleep);
        }
        if let Some(time) = config.time_source() {
            operation = operation.time_source(time);
        }
        let operation = operation
            .serializer(move |request: Request| Ok(request.into_http(kind)?))
            .deserializer(move |response| kind.read(response));
        Self { kind, operation: operation.build() }
    }

    /// Calls an operation that takes and returns JSON.
    pub async fn call(&self, operation: &str, input: &impl Serialize) -> Result<Value, Failure> {
        let target = HeaderValue::try_from(format!("{}.{operation}", self.kind.target));
        let target = target.map_err(SdkError::construction_failure)?;
        let body = serde_json::to_vec(input).map_err(SdkError::construction_failure)?;
        let mut request = Request::new(Method::POST, "/").body(body);
        request.headers.push((HeaderName::from_static("x-amz-target"), target));
        let answer = self.send(request).await?;
        read(&answer.body).map_err(unreadable)
    }

    /// Sends a request.
    pub async fn send(&self, request: Request) -> Result<Answer, Failure> {
        self.operation.invoke(request).await
    }
}

impl Kind {
    /// The regional endpoint, in the partitions aws, aws-cn and aws-us-gov.
    /// <https://docs.aws.amazon.com/general/latest/gr/rande.html>
    fn endpoint(self, region: &Region) -> String {
        let china = if region.as_ref().starts_with("cn-") { ".cn" } else { "" };
        format!("https://{}.{region}.amazonaws.com{china}", self.name)
    }

    fn read(self, response: &HttpResponse) -> Result<Answer, OrchestratorError<Refusal>> {
        let body = response.body().bytes().unwrap_or_default().to_vec();
        if response.status().is_success() {
            return Ok(Answer { headers: response.headers().clone(), body });
        }
        Err(OrchestratorError::operation(self.refusal(response.headers().get("x-amzn-errortype"), &body)))
    }

    /// An error's code and message: from a header, from JSON or, for a form, from XML.
    fn refusal(self, header: Option<&str>, body: &[u8]) -> Refusal {
        let json: Value = serde_json::from_slice(body).unwrap_or_default();
        let xml = std::str::from_utf8(body).ok();
        let field = |names: &[&str]| {
            let in_json = names.iter().find_map(|name| json.get(name)?.as_str());
            in_json.or_else(|| names.iter().find_map(|name| element(xml?, name))).map(str::to_owned)
        };
        let code = header.map(str::to_owned).or_else(|| field(&["code", "__type", "Code"]));
        let mut metadata = ErrorMetadata::builder();
        if let Some(code) = code {
            // `namespace#Code`, or `Code:` and an address.
            let code = code.split(':').next().unwrap_or_default();
            metadata = metadata.code(code.rsplit('#').next().unwrap_or_default());
        }
        if let Some(message) = field(&["message", "Message", "errorMessage"]) {
            metadata = metadata.message(message);
        }
        Refusal(metadata.build())
    }
}

/// The text of the first element with a name. For the XML of errors, whose elements of interest have no children.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = xml.split_once(&format!("<{name}>"))?;
    after.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

/// The output in an answer's body; an operation without output has an empty one.
fn read(body: &[u8]) -> Result<Value, serde_json::Error> {
    if body.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(body) }
}

/// The failure for an answer that cannot be parsed: the call may or may not have taken effect.
fn unreadable(error: serde_json::Error) -> Failure {
    // Without the body: a secret may be in it.
    match HttpResponse::try_from(http::Response::new(SdkBody::empty())) {
        Ok(raw) => SdkError::response_error(error, raw),
        Err(error) => SdkError::construction_failure(error),
    }
}

fn signing(kind: Kind, region: Region, credentials: Option<SharedCredentialsProvider>) -> StaticRuntimePlugin {
    let mut options = SigningOptions::default();
    options.double_uri_encode = true;
    options.normalize_uri_path = true;
    let mut config = Layer::new("signing");
    config.store_put(SigV4OperationSigningConfig { signing_options: options, ..Default::default() });
    config.store_put(SigningName::from_static(kind.name));
    config.store_put(SigningRegion::from(region));
    config.store_put(AuthSchemeOptionResolverParams::new(()));
    // An answer may contain a secret: it must not be logged at any level.
    config.store_put(SensitiveOutput);
    let mut components = RuntimeComponentsBuilder::new("signing")
        .with_auth_scheme(SharedAuthScheme::new(SigV4AuthScheme::new()))
        .with_auth_scheme_option_resolver(Some(StaticAuthSchemeOptionResolver::new(vec![SCHEME_ID])))
        .with_identity_cache(Some(IdentityCache::lazy().build()));
    if let Some(credentials) = credentials {
        components.set_identity_resolver(SCHEME_ID, credentials);
    }
    StaticRuntimePlugin::new().with_config(config.freeze()).with_runtime_components(components)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kind: Kind, header: Option<&str>, body: &str) -> (String, String) {
        let refusal = kind.refusal(header, body.as_bytes());
        (refusal.code().unwrap_or_default().to_owned(), refusal.message().unwrap_or_default().to_owned())
    }

    #[test]
    fn an_error_has_its_code_in_the_body_or_in_a_header() {
        let error = |code: &str, message: &str| (code.to_owned(), message.to_owned());
        let body = r#"{"__type": "com.amazonaws.ssm#ParameterNotFound", "message": "no such parameter"}"#;
        assert_eq!(refused(SSM, None, body), error("ParameterNotFound", "no such parameter"));
        let header = Some("TooManyRequestsException:http://internal.amazon.com/coral/com.amazonaws.awslambda/");
        assert_eq!(
            refused(LAMBDA, header, r#"{"Message": "slow down"}"#),
            error("TooManyRequestsException", "slow down")
        );
        let form =
            "<ErrorResponse><Error><Code>ValidationError</Code><Message>no stack</Message></Error></ErrorResponse>";
        assert_eq!(refused(CLOUDFORMATION, None, form), error("ValidationError", "no stack"));
        assert_eq!(refused(EVENTS, None, "<html>"), error("", ""));
    }

    #[test]
    fn an_answer_that_cannot_be_parsed_is_a_failure_and_is_not_shown() {
        assert_eq!(read(b"").unwrap(), Value::Null);
        assert_eq!(read(b"{\"a\": 1}").unwrap()["a"], 1);
        let failure = unreadable(read(b"{\"Value\": \"secret\", ").unwrap_err());
        assert!(matches!(failure, SdkError::ResponseError(_)), "{failure:?}");
        assert!(!format!("{failure:?} {}", why(&failure)).contains("secret"), "{failure:?}");
    }

    #[test]
    fn the_endpoint_is_the_regions() {
        let at = |region| SSM.endpoint(&Region::from_static(region));
        assert_eq!(at("ap-northeast-2"), "https://ssm.ap-northeast-2.amazonaws.com");
        assert_eq!(at("cn-north-1"), "https://ssm.cn-north-1.amazonaws.com.cn");
    }

    #[test]
    fn a_functions_arn_is_one_segment_of_the_path() {
        let request = Request::invocation("arn:aws:lambda:eu-west-1:0:function:points:live", "");
        assert_eq!(
            request.path,
            "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-west-1%3A0%3Afunction%3Apoints%3Alive/invocations"
        );
    }

    #[test]
    fn bodies_never_appear_in_debug_output() {
        let request = format!("{:?}", Request::new(Method::POST, "/").body("secret"));
        let answer = format!("{:?}", Answer { headers: Headers::new(), body: b"secret".to_vec() });
        assert!(!request.contains("secret") && !answer.contains("115, 101"), "{request} {answer}");
    }
}
