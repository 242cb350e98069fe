//! AWS clients for functions: small, with every timeout explicit and every retry bounded.

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use aws_smithy_async::time::SystemTimeSource;
use aws_smithy_http_client::{Builder as HttpBuilder, tls};
use aws_smithy_runtime_api::client::behavior_version::BehaviorVersion;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;
use aws_types::region::Region;
use aws_types::sdk_config::Builder;
use std::env;
use std::time::Duration;

/// AWS endpoints chain to Amazon Trust Services (<https://www.amazontrust.com/repository/>). Trusting only these five
/// roots is stricter than the system's ~140 and saves the 2 ms of CPU that loading those costs in every cold start.
const AMAZON_ROOTS: &[u8] = include_bytes!("amazon_trust_services.pem");

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);
/// How long one try of a call may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(2_500);
/// How long a call may take with all its tries: below every function's own timeout, so that the caller gets an answer.
const OPERATION_TIMEOUT: Duration = Duration::from_millis(6_000);
/// Tries of one call.
const MAX_ATTEMPTS: u32 = 3;

/// The configuration of a function's clients, from Lambda's environment (`AWS_REGION`, `AWS_ACCESS_KEY_ID`, ...).
///
/// A function has nothing but its environment; walking the default provider chain would cost time in a cold start.
/// `AWS_ENDPOINT_URL`, or `AWS_ENDPOINT_URL_<SERVICE>`, points to a local cloud.
pub fn config(service: &str) -> SdkConfig {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let endpoint = set(&format!("AWS_ENDPOINT_URL_{service}")).or_else(|| set("AWS_ENDPOINT_URL"));
    let credentials = Credentials::new(
        set("AWS_ACCESS_KEY_ID").unwrap_or_default(),
        set("AWS_SECRET_ACCESS_KEY").unwrap_or_default(),
        set("AWS_SESSION_TOKEN"),
        None,
        "lambda-environment",
    );
    let region = set("AWS_REGION").unwrap_or_else(|| "us-east-1".to_owned());
    let http = http_client(endpoint.as_deref());
    let mut builder = bounded(SdkConfig::builder())
        .region(Region::new(region))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .http_client(http);
    builder.set_endpoint_url(endpoint);
    builder.build()
}

/// The configuration of a client of a local endpoint over plain HTTP, with made-up credentials. For tests and the local
/// cloud's tools; the same timeouts and retries as a function's.
pub fn local_config(endpoint_url: &str, region: &str) -> SdkConfig {
    bounded(SdkConfig::builder())
        .region(Region::new(region.to_owned()))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new("test", "test", None, None, "local")))
        .http_client(http_client(Some(endpoint_url)))
        .endpoint_url(endpoint_url)
        .build()
}

fn bounded(builder: Builder) -> Builder {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build();
    let retries = RetryConfig::standard()
        .with_max_attempts(MAX_ATTEMPTS)
        .with_initial_backoff(Duration::from_millis(50))
        .with_max_backoff(Duration::from_millis(1_000));
    builder
        .behavior_version(BehaviorVersion::latest())
        .timeout_config(timeouts)
        .retry_config(retries)
        .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
        .time_source(SystemTimeSource::new())
}

fn http_client(endpoint: Option<&str>) -> SharedHttpClient {
    // Plain HTTP needs no TLS stack at all; building one is most of a cold start's CPU.
    if endpoint.is_some_and(|url| url.starts_with("http://")) {
        return HttpBuilder::new().build_http();
    }
    let roots = tls::TrustStore::empty().with_pem_certificate(AMAZON_ROOTS);
    let builder = HttpBuilder::new().tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc));
    match tls::TlsContext::builder().with_trust_store(roots).build() {
        Ok(context) => builder.tls_context(context).build_https(),
        // Only a broken certificate file leads here; the system's roots are then better than no service at all.
        Err(_) => builder.build_https(),
    }
}
