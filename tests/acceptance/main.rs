//! The deployed system over HTTP.
//!
//! One local cloud serves the whole program; it starts with the first test and ends with the process.

// A panic is how a test fails.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod admission;
mod async_reservations;
mod catalogue;
mod contention;
mod holds;
mod hostile;
mod items;
mod orders;
mod payments;
mod points;
mod refunds;

use tests::cloud::{Cloud, with_cloud};

/// Runs a test against this program's cloud.
fn on_cloud<F: Future<Output = ()>>(test: impl FnOnce(&'static Cloud) -> F) {
    with_cloud(&[("AdmissionDefault", "closed")], test);
}
