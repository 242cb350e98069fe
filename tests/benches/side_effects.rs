//! What dead external systems cost a sale: join, status and pay with healthy and with hanging ones, in one run.
//!
//! `cargo test -p tests --bench side_effects` (with the profile of the tests: the functions wait, they do not compute).
//! Latencies are of the local cloud, worth only the ratio of the columns.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use local::sink::{Behaviour, Target};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tests::cloud::{Cloud, Sale, Terms, with_cloud};

/// Buyers of each round, one after the other: what is measured is waiting, not queueing.
const BUYERS: usize = 40;
/// Status checks of each buyer.
const CHECKS: usize = 5;
/// Rounds of each kind, taking turns, so that a machine that slows down slows both.
const ROUNDS: usize = 3;

type Times = BTreeMap<&'static str, Vec<Duration>>;

async fn timed<T>(times: &mut Times, what: &'static str, work: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let done = work.await;
    times.entry(what).or_default().push(begun.elapsed());
    done
}

async fn buy(cloud: &'static Cloud, sale: &Sale, seat: &str, times: &mut Times) {
    let buyer = cloud.user("buyer");
    buyer.charge(10_000).await;
    let token = timed(times, "join", buyer.join(sale)).await;
    for _ in 0..CHECKS {
        let checked =
            timed(times, "status", buyer.send("GET", "/queue-status", &[("queue-token", &token)], None)).await;
        assert_eq!(checked.status, 200, "{}", checked.text());
    }
    let held = buyer.reserve(sale, &token, &[seat]).await;
    assert_eq!(held.status, 201, "{}", held.text());
    let reservation = held.json()["reservation_id"].as_str().unwrap().to_owned();
    let paid = timed(times, "pay", buyer.pay(&reservation, "bench")).await;
    assert_eq!(paid.json()["status"], "completed", "{}", paid.text());
}

async fn round(cloud: &'static Cloud, times: &mut Times) {
    let sale = cloud.sale(Terms { rows: 4, seats_per_row: 10, ..Terms::default() }).await;
    for n in 0..BUYERS {
        buy(cloud, &sale, &format!("A-{}-{}", n / 10 + 1, n % 10 + 1), times).await;
    }
}

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100].as_secs_f64() * 1000.0
}

fn main() {
    with_cloud(&[], async |cloud| {
        round(cloud, &mut Times::new()).await; // Warms everything up.
        let (mut healthy, mut hanging) = (Times::new(), Times::new());
        for _ in 0..ROUNDS {
            cloud.sink().behave(Target::All, Behaviour::ok()).await.unwrap();
            round(cloud, &mut healthy).await;
            cloud.sink().behave(Target::All, Behaviour::hang(60)).await.unwrap();
            round(cloud, &mut hanging).await;
        }
        println!("{ROUNDS} rounds of {BUYERS} buyers each way; milliseconds at the client");
        println!("{:<8} {:>5} {:>22} {:>22} {:>7}", "", "calls", "healthy p50 / p99", "hanging p50 / p99", "p50");
        for (what, times) in &mut healthy {
            let other = hanging.get_mut(what).unwrap();
            let (a50, a99) = (percentile(times, 50), percentile(times, 99));
            let (b50, b99) = (percentile(other, 50), percentile(other, 99));
            let calls = times.len();
            println!("{what:<8} {calls:>5} {a50:>12.1} / {a99:>7.1} {b50:>12.1} / {b99:>7.1} {:>6.2}x", b50 / a50);
        }
    });
}
