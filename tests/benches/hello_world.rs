//! The smallest Lambda function in Rust: the baseline of cold starts.

use lambda_http::{Error, Request, run, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(|_: Request| async { Ok::<_, std::convert::Infallible>("hello") })).await
}
