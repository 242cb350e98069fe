//! The auditor: reads the tables of a stack and checks what must never break (tests/README.md, I1 to I10 and I16).
//!
//! The tables are read one after the other, and some data follows other data with a delay (the seat map, used places,
//! events). So a violation counts only if it is still there after [`TimeLimits::settle`].

mod checks;
mod scan;
mod snapshot;

pub use checks::{Finding, Invariant, Tolerances, check};
pub use scan::{of_items, on_their_way};
pub use snapshot::{
    Account, Charge, ChargeStatus, Counter, DateRow, Entitlement, Entry, Item, Job, Line, Order, OrderStatus,
    OutboxRow, Participant, Payment, PaymentStatus, Receipt, Reservation, ReservationStatus, Seat, SeatState,
    SectionMap, Snapshot, Stripe, UserPlace, Withdrawal, WithdrawalStatus,
};

use crate::driver::arguments::Common;
use crate::{Result, StackInfo};
use std::fmt;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The interval between two reads of a snapshot that still has findings.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How many findings of one invariant are printed.
const SHOWN: usize = 20;

/// The time limits of an audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimits {
    /// How long to read again while there are findings.
    pub settle: Duration,
    /// How late things may be.
    pub tolerances: Tolerances,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self { settle: Duration::from_secs(10), tolerances: Tolerances::default() }
    }
}

/// What an audit found.
#[derive(Debug, Clone)]
pub struct Report {
    /// The last snapshot.
    pub snapshot: Snapshot,
    /// What is wrong with it, by invariant.
    pub findings: Vec<Finding>,
    /// How many times the tables were read.
    pub looks: u32,
    /// How long that took.
    pub took: Duration,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// What was found against one invariant.
    pub fn against(&self, invariant: Invariant) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.invariant == invariant)
    }

    /// What there was to check an invariant on.
    fn extent(&self, invariant: Invariant) -> String {
        let snapshot = &self.snapshot;
        let payments = |status| snapshot.payments.values().filter(|payment| payment.status == status).count();
        match invariant {
            Invariant::Shape => format!("{} tables", scan::TABLES.len()),
            Invariant::I1 => format!("{} seats, {} reservations", snapshot.seats.len(), snapshot.reservations.len()),
            Invariant::I2 => {
                let (completed, refunded) = (payments(PaymentStatus::Completed), payments(PaymentStatus::Refunded));
                format!("{completed} completed payments, {refunded} refunded")
            }
            Invariant::I3 => {
                let entries: usize = snapshot.accounts.values().map(|account| account.entries.len()).sum();
                format!(
                    "{} accounts, {entries} entries, {} paid charges",
                    snapshot.accounts.len(),
                    snapshot.charges.len()
                )
            }
            Invariant::I4 => {
                let paying = snapshot.reservations.values().filter(|found| found.status == ReservationStatus::Paying);
                format!("{} being paid", paying.count())
            }
            Invariant::I5 => format!("{} failed payments", payments(PaymentStatus::Failed)),
            Invariant::I6 => format!("{} events, {} deliveries", snapshot.outbox.len(), snapshot.deliveries.len()),
            Invariant::I7 => {
                let counters = snapshot.lines.values().flat_map(|line| line.counters.values());
                let issued: u64 = counters.map(|counter| counter.issued).sum();
                let used: usize = snapshot.lines.values().map(|line| line.used.len()).sum();
                format!("{issued} places, {used} used")
            }
            Invariant::I8 => {
                let orders = snapshot.orders.values().filter(|order| !order.is_quiet()).count();
                let pending = payments(PaymentStatus::Pending) + orders;
                format!("{pending} pending, {} listed as stuck", snapshot.parked.len())
            }
            Invariant::I9 => format!("{} dates, {} seat maps", snapshot.terms.len(), snapshot.maps.len()),
            Invariant::I10 => {
                let orders = |status| snapshot.orders.values().filter(|order| order.status == status).count();
                let (completed, failed) = (orders(OrderStatus::Completed), orders(OrderStatus::Failed));
                format!("{} items, {completed} completed orders, {failed} failed", snapshot.items.len())
            }
            Invariant::I16 => {
                let places = snapshot.lines.values().flat_map(|line| line.places.values());
                format!("{} users with a place", places.filter(|found| found.place.is_some()).count())
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for invariant in Invariant::ALL {
            let found = self.against(invariant).count();
            let verdict = if found == 0 { "ok".to_owned() } else { format!("{found} WRONG") };
            let extent = self.extent(invariant);
            writeln!(f, "  {invariant:<3} {:<50} {verdict:<9} {extent}", invariant.title())?;
            for finding in self.against(invariant).take(SHOWN) {
                writeln!(f, "      - {}", finding.what)?;
            }
            if found > SHOWN {
                writeln!(f, "      - and {} more", found - SHOWN)?;
            }
        }
        Ok(())
    }
}

/// Audits a stack: reads it until there are no findings, or until the time to settle is over.
pub async fn audit(info: &StackInfo, limits: &TimeLimits) -> Result<Report> {
    let begun = Instant::now();
    let mut looks = 0;
    loop {
        let snapshot = scan::snapshot(info).await?;
        looks += 1;
        let findings = check(&snapshot, &limits.tolerances);
        if findings.is_empty() || begun.elapsed() >= limits.settle {
            return Ok(Report { snapshot, findings, looks, took: begun.elapsed() });
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Options of the audit.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The options of every verb.
    #[command(flatten)]
    pub common: Common,
    /// How long to retry while something may only be in flight
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub settle: u64,
    /// How long a hold may stay past its end without having been ended
    #[arg(long, value_name = "SECONDS", default_value_t = 90)]
    pub overdue: u64,
    /// How long an event may wait to be published
    #[arg(long, value_name = "SECONDS", default_value_t = 150)]
    pub unpublished: u64,
    /// How long a payment may be pending without being listed as stuck
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub pending: u64,
    /// How long a failed order may wait to be undone without being listed as stuck
    #[arg(long, value_name = "SECONDS", default_value_t = 1_500)]
    pub undone: u64,
}

impl Args {
    fn limits(&self) -> TimeLimits {
        let seconds = Duration::from_secs;
        TimeLimits {
            settle: seconds(self.settle),
            tolerances: Tolerances {
                overdue: seconds(self.overdue),
                unpublished: seconds(self.unpublished),
                pending: seconds(self.pending),
                undone: seconds(self.undone),
            },
        }
    }
}

/// Audits the running stack of a directory. Fails when anything is wrong.
pub async fn run(args: Args) -> Result<ExitCode> {
    let info = StackInfo::of_running(&args.common.dir()?)?;
    let report = audit(&info, &args.limits()).await?;
    crate::console::print(&report.to_string())?;
    if report.is_clean() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("local: {} violations", report.findings.len());
    Ok(ExitCode::FAILURE)
}
