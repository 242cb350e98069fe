//! The outcome of a sale, for a person to read, and what it must be.

use super::buyers::{BuyerLog, End, Fate};
use super::client::{Date, Numbers, SeatMap};
use super::merchandise::Merchandise;
use super::outside::Outside;
use crate::sink::Target;
use contracts::seats::SeatStatus;
use contracts::{SeatId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

/// From how many buyers on everything that can happen must happen.
const MANY_BUYERS: usize = 100;
/// How many lines of a kind of trouble are printed.
const SHOWN: usize = 10;

/// A pause of the admission.
#[derive(Debug, Clone, Copy)]
pub struct Pause {
    /// When it was in force at the latest: a status check may be a second late.
    pub from: Timestamp,
    /// When it was ended at the earliest.
    pub to: Timestamp,
}

/// A sale that is over.
#[derive(Clone)]
pub struct Outcome {
    /// The buyers' logs.
    pub logs: Vec<BuyerLog>,
    /// What the client measured.
    pub numbers: Numbers,
    /// How long it took.
    pub took: Duration,
    /// The seats afterwards.
    pub map: SeatMap,
    /// The date in the list of dates afterwards.
    pub date: Date,
    pub pause: Option<Pause>,
    /// How long it took to give tickets back.
    pub refunds: Vec<Duration>,
    pub merchandise: Merchandise,
    /// What reached the external systems.
    pub outside: Outside,
}

impl Outcome {
    fn ended(&self, end: &End) -> usize {
        self.logs.iter().filter(|log| log.end == *end).count()
    }

    fn count(&self, so: impl Fn(&BuyerLog) -> bool) -> usize {
        self.logs.iter().filter(|log| so(log)).count()
    }

    fn troubles(&self) -> impl Iterator<Item = &str> {
        self.logs.iter().filter_map(|log| match &log.end {
            End::Trouble(what) => Some(what.as_str()),
            _ => None,
        })
    }

    /// Seats of holds with that fate, each with its holder.
    fn seats(&self, fate: Fate) -> impl Iterator<Item = (&SeatId, &str)> {
        self.logs.iter().flat_map(move |log| {
            let holds = log.holds.iter().filter(move |hold| hold.fate == fate);
            holds.flat_map(|hold| hold.seats.iter().map(|seat| (seat, log.name.as_str())))
        })
    }

    fn holds(&self, fate: Fate) -> usize {
        self.logs.iter().flat_map(|log| &log.holds).filter(|hold| hold.fate == fate).count()
    }

    /// How long each decision took that its buyer did not wait for.
    fn decisions(&self) -> impl Iterator<Item = Duration> {
        self.logs.iter().flat_map(|log| log.decisions.iter().copied())
    }

    fn revenue(&self) -> i64 {
        let holds = self.logs.iter().flat_map(|log| &log.holds);
        holds.filter(|hold| hold.fate == Fate::Sold).map(|hold| hold.price).sum()
    }

    /// Seats with one of these fates that others bought later.
    fn sold_again(&self, fate: Fate) -> usize {
        let mut buyers: BTreeMap<&SeatId, &str> = BTreeMap::new();
        buyers.extend(self.seats(Fate::Sold));
        let given_back: BTreeSet<(&SeatId, &str)> = self.seats(fate).collect();
        let again = given_back.iter().filter(|(seat, holder)| buyers.get(seat).is_some_and(|buyer| buyer != holder));
        again.map(|(seat, _)| seat).collect::<BTreeSet<_>>().len()
    }

    fn on_the_map(&self, status: SeatStatus) -> usize {
        self.map.sections.iter().flat_map(|section| &section.seats).filter(|seat| seat.status == status).count()
    }

    /// How many were let in during the pause.
    fn let_in_during_the_pause(&self) -> usize {
        let Some(pause) = self.pause else { return 0 };
        self.count(|log| log.active_at.is_some_and(|at| at > pause.from && at < pause.to))
    }

    /// What did not go as required. Empty when all is well.
    pub fn unmet(&self) -> Vec<String> {
        let mut unmet: Vec<String> = self.troubles().take(SHOWN).map(str::to_owned).collect();
        let more = self.troubles().count().saturating_sub(SHOWN);
        if more > 0 {
            unmet.push(format!("and {more} more buyers in trouble"));
        }
        unmet.extend(self.numbers.faults.iter().cloned());
        let more = self.numbers.fault_count.saturating_sub(self.numbers.faults.len() as u64);
        if more > 0 {
            unmet.push(format!("and {more} more answers with 5xx, or none"));
        }
        let mut must = |holds: bool, what: String| {
            if !holds {
                unmet.push(what);
            }
        };
        let unfinished = self.ended(&End::Unfinished);
        must(unfinished == 0, format!("{unfinished} buyers did not come to an end"));
        let mut owners: BTreeMap<&SeatId, Vec<&str>> = BTreeMap::new();
        for (seat, buyer) in self.seats(Fate::Sold) {
            owners.entry(seat).or_default().push(buyer);
        }
        for (seat, buyers) in owners.iter().filter(|(_, buyers)| buyers.len() > 1) {
            must(false, format!("seat {seat} was sold to {}", buyers.join(" and ")));
        }
        let (tickets, sold, held) =
            (owners.len(), self.on_the_map(SeatStatus::Sold), self.on_the_map(SeatStatus::Held));
        must(tickets > 0, "nothing was sold".to_owned());
        must(tickets == sold, format!("buyers have {tickets} tickets, the seat map shows {sold} sold"));
        must(held == 0, format!("{held} seats are still held, and nobody is there any more"));
        let listed = self.date.seats_available.map(|free| self.date.seats_total as usize - free as usize);
        must(listed == Some(sold + held), format!("the list of dates counts {listed:?} taken seats, not {sold}"));
        let Outside { underway, tallies, took } = &self.outside;
        must(*underway == 0, format!("{underway} messages are still on their way after {:.0} s", took.as_secs_f64()));
        for (target, tally) in tallies {
            let dead = if *target == Target::DataPlatform { self.merchandise.refused_outside } else { 0 };
            must(tally.refused == dead, format!("{target:?} refused {} calls, {dead} of them dead", tally.refused));
        }
        let early = self.let_in_during_the_pause();
        must(early == 0, format!("{early} buyers were let in during the pause"));
        if self.logs.len() >= MANY_BUYERS {
            let no = |what: &str| format!("it did not happen that {what}");
            // Where there is plenty of room, buyers do not compete.
            let crowded = self.logs.len() >= self.date.seats_total as usize;
            must(!crowded || self.numbers.answered("409 seat_taken") > 0, no("two wanted the same seat"));
            must(self.holds(Fate::Expired) > 0, no("a hold ran out"));
            must(self.holds(Fate::Cancelled) > 0, no("a hold was given up"));
            must(self.count(|log| !log.failures.is_empty()) > 0, no("a payment failed and was compensated"));
            must(self.count(|log| log.replays > 0) > 0, no("a request was repeated under its key"));
            must(self.decisions().next().is_some(), no("seats were asked for without waiting"));
            must(!self.refunds.is_empty(), no("a ticket was given back"));
            must(self.pause.is_some(), no("the sale was paused"));
        }
        unmet.extend(self.merchandise.unmet());
        unmet
    }

    /// The summary.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        if self.write(&mut text).is_err() {
            text.push_str("(the summary could not be written)\n");
        }
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        self.write_buyers(text)?;
        self.write_seats(text)?;
        self.write_refusals(text)?;
        self.write_latencies(text)?;
        self.merchandise.write(text)?;
        self.write_outside(text)?;
        self.write_answers(text)?;
        writeln!(text, "\nSeat map  (# sold, o held, . free)\n{}", super::hall::draw(&self.map))
    }

    fn write_buyers(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\nBuyers")?;
        let joined = self.count(|log| log.joined.is_some());
        let admitted = self.count(|log| log.admitted.is_some());
        line(text, "joined", joined, &format!("of {}", self.logs.len()))?;
        line(text, "admitted", admitted, "")?;
        for (end, name) in [
            (End::Tickets, "have tickets"),
            (End::GaveBack, "gave their tickets back"),
            (End::SoldOut, "found it sold out"),
            (End::Broke, "could not afford it"),
            (End::Forgot, "let their hold run out"),
            (End::TimeOver, "ran out of time inside"),
            (End::GaveUp, "gave up after many tries"),
        ] {
            if self.ended(&end) > 0 {
                line(text, name, self.ended(&end), "")?;
            }
        }
        let trouble = self.troubles().count();
        if trouble > 0 {
            line(text, "IN TROUBLE", trouble, "")?;
        }
        Ok(())
    }

    fn write_seats(&self, text: &mut String) -> std::fmt::Result {
        let (sold, total) = (self.on_the_map(SeatStatus::Sold), self.date.seats_total);
        writeln!(text, "\nSeats")?;
        let all = thousands(i64::from(total));
        line(text, "sold", sold, &format!("of {all}, for {} won", thousands(self.revenue())))?;
        line(text, "holds", self.logs.iter().map(|log| log.holds.len()).sum(), "")?;
        line(text, "asked for without waiting", self.decisions().count(), "")?;
        for (fate, name) in [(Fate::Expired, "holds ran out"), (Fate::Cancelled, "holds were given up")] {
            let again = self.sold_again(fate);
            line(text, name, self.holds(fate), &format!("{again} of their seats were sold again to others"))?;
        }
        Ok(())
    }

    fn write_refusals(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\nRefused and compensated")?;
        let mut refusals: BTreeMap<&str, u64> = BTreeMap::new();
        let mut failures: BTreeMap<&str, u64> = BTreeMap::new();
        for log in &self.logs {
            for (code, count) in &log.refusals {
                *refusals.entry(code).or_default() += count;
            }
            for failure in &log.failures {
                *failures.entry(failure).or_default() += 1;
            }
        }
        for (code, count) in refusals {
            line(text, code, count as usize, "refused")?;
        }
        for (failure, count) in failures {
            line(text, failure, count as usize, "payments undone")?;
        }
        let replays: u32 = self.logs.iter().map(|log| log.replays).sum();
        line(text, "same key, same answer", replays as usize, "")?;
        let Some(pause) = self.pause else { return Ok(()) };
        let told = self.count(|log| log.told_of_pause);
        let seconds = pause.to.millis_since(pause.from) as f64 / 1_000.0;
        let early = self.let_in_during_the_pause();
        line(text, "told to wait in a pause", told, &format!("of {seconds:.1} s; {early} were let in during it"))
    }

    fn write_latencies(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\nLatencies                             calls      p50      p95      p99      max")?;
        for (name, route) in &self.numbers.routes {
            latencies(text, name, &route.latencies)?;
        }
        let spans = |from: fn(&BuyerLog) -> Option<tokio::time::Instant>| -> Vec<Duration> {
            let spans = self.logs.iter().filter_map(|log| Some(log.ticket_at?.duration_since(from(log)?)));
            spans.collect()
        };
        latencies(text, "joined -> tickets", &spans(|log| log.joined))?;
        latencies(text, "admitted -> tickets", &spans(|log| log.admitted))?;
        latencies(text, "asked without waiting -> decided", &self.decisions().collect::<Vec<_>>())?;
        latencies(text, "refund asked -> points back", &self.refunds)
    }

    fn write_outside(&self, text: &mut String) -> std::fmt::Result {
        let Outside { tallies, underway, took } = &self.outside;
        let seconds = took.as_secs_f64();
        writeln!(text, "\nOutside                     deliveries  effects   events  refused")?;
        for (target, tally) in tallies {
            let [deliveries, effects, events, refused] =
                [tally.deliveries, tally.effects, tally.events, tally.refused].map(|count| thousands(count as i64));
            let target = format!("{target:?}");
            writeln!(text, "  {target:<24} {deliveries:>11} {effects:>8} {events:>8} {refused:>8}")?;
        }
        writeln!(text, "  {underway} messages are still on their way after {seconds:.0} s of waiting")
    }

    fn write_answers(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\n{}", answers(&self.numbers))?;
        let (requests, seconds) = (self.numbers.requests(), self.took.as_secs_f64());
        let rate = requests as f64 / seconds;
        writeln!(text, "  {requests} requests in {seconds:.1} s: {rate:.0} a second, all of them on this machine")?;
        match self.numbers.mended {
            0 => Ok(()),
            mended => writeln!(text, "  {mended} answers with 429 or 503, mended by trying again"),
        }
    }
}

/// How often each answer came.
pub fn answers(numbers: &Numbers) -> String {
    let mut text = "Answers\n".to_owned();
    for (name, route) in &numbers.routes {
        let answers: Vec<String> = route.answers.iter().map(|(answer, count)| format!("{answer} x {count}")).collect();
        text.push_str(&format!("  {name:<35} {}\n", answers.join(", ")));
    }
    text
}

pub(super) fn line(text: &mut String, name: &str, count: usize, more: &str) -> std::fmt::Result {
    let written = format!("  {name:<27} {:>7}  {more}", thousands(count as i64));
    writeln!(text, "{}", written.trim_end())
}

pub(super) fn latencies(text: &mut String, name: &str, all: &[Duration]) -> std::fmt::Result {
    let mut sorted = all.to_vec();
    sorted.sort();
    let at = |share: f64| percentile(&sorted, share).map_or("-".to_owned(), brief);
    let max = sorted.last().copied().map_or("-".to_owned(), brief);
    let (p50, p95, p99) = (at(0.50), at(0.95), at(0.99));
    writeln!(text, "  {name:<33} {:>7} {p50:>8} {p95:>8} {p99:>8} {max:>8}", sorted.len())
}

/// The smallest value that is not below `share` of all (nearest rank).
fn percentile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

fn brief(duration: Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1_000.0),
        seconds => format!("{seconds:.1} s"),
    }
}

/// A number with a comma after every three digits.
pub fn thousands(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::buyers::{Habit, Hold};
    use crate::sink::Tally;
    use serde_json::json;

    fn log(name: &str, holds: &[(&str, Fate)], end: End) -> BuyerLog {
        let hold =
            |(seat, fate): &(&str, Fate)| Hold { seats: vec![SeatId::parse(seat).unwrap()], price: 10, fate: *fate };
        BuyerLog {
            name: name.to_owned(),
            habit: Habit::Plain,
            joined: None,
            admitted: None,
            active_at: Some(Timestamp::from_millis(100)),
            told_of_pause: false,
            holds: holds.iter().map(hold).collect(),
            refusals: BTreeMap::new(),
            failures: Vec::new(),
            replays: 0,
            decisions: Vec::new(),
            ticket_at: None,
            ticket: None,
            end,
        }
    }

    fn outcome(logs: Vec<BuyerLog>, states: &[&str]) -> Outcome {
        let seats: Vec<_> = (1..)
            .zip(states)
            .map(|(number, status)| json!({"seat_id": format!("A-1-{number}"), "status": status}))
            .collect();
        let section = json!({"section": "A", "grade": "A", "price": 10, "seats": seats});
        let free = states.iter().filter(|status| **status == "available").count();
        Outcome {
            logs,
            numbers: Numbers::default(),
            took: Duration::from_secs(1),
            map: serde_json::from_value(json!({"seats_available": free, "sections": [section]})).unwrap(),
            date: serde_json::from_value(
                json!({"schedule_id": "d", "seats_total": states.len(), "seats_available": free}),
            )
            .unwrap(),
            pause: None,
            refunds: Vec::new(),
            merchandise: Merchandise::default(),
            outside: Outside::default(),
        }
    }

    #[test]
    fn a_sale_that_went_well_has_nothing_unmet() {
        let alice = log("alice", &[("A-1-1", Fate::Expired), ("A-1-2", Fate::Sold)], End::Tickets);
        let bob = log("bob", &[("A-1-1", Fate::Sold)], End::Tickets);
        let sale = outcome(vec![alice, bob], &["sold", "sold", "available"]);
        assert_eq!(sale.unmet(), Vec::<String>::new());
        assert_eq!((sale.sold_again(Fate::Expired), sale.revenue()), (1, 20));
        assert!(sale.summary().contains("1 of their seats were sold again"));
    }

    #[test]
    fn whatever_must_not_happen_is_reported() {
        let sold = |name| log(name, &[("A-1-1", Fate::Sold)], End::Tickets);
        let reports = |sale: Outcome, what: &str| {
            let unmet = sale.unmet();
            assert!(unmet.iter().any(|line| line.contains(what)), "`{what}` is not among {unmet:?}");
        };
        reports(outcome(vec![sold("alice"), sold("bob")], &["sold"]), "A-1-1 was sold to alice and bob");
        reports(outcome(vec![sold("alice")], &["available"]), "buyers have 1 tickets, the seat map shows 0");
        reports(outcome(vec![sold("alice")], &["sold", "held"]), "1 seats are still held");
        reports(outcome(Vec::new(), &["available"]), "nothing was sold");
        reports(outcome(vec![log("alice", &[], End::Unfinished)], &["available"]), "1 buyers did not come to an end");
        reports(outcome(vec![log("alice", &[], End::Trouble("odd".into()))], &["available"]), "odd");
        let mut list_is_late = outcome(vec![sold("alice")], &["sold"]);
        list_is_late.date.seats_available = Some(1);
        reports(list_is_late, "the list of dates counts Some(0)");
        let mut fault = outcome(vec![sold("alice")], &["sold"]);
        (fault.numbers.faults, fault.numbers.fault_count) = (vec!["500".into()], 3);
        reports(fault, "and 2 more answers with 5xx");
        let mut slow = outcome(vec![sold("alice")], &["sold"]);
        slow.outside.underway = 2;
        slow.outside.tallies.insert(Target::Partner, Tally { refused: 3, ..Tally::default() });
        reports(slow.clone(), "2 messages are still on their way");
        reports(slow, "Partner refused 3 calls");
        let mut paused = outcome(vec![sold("alice")], &["sold"]);
        paused.pause = Some(Pause { from: Timestamp::from_millis(99), to: Timestamp::from_millis(101) });
        reports(paused, "1 buyers were let in during the pause");
    }

    #[test]
    fn with_many_buyers_everything_has_to_happen_once() {
        let mut logs: Vec<BuyerLog> = (0..MANY_BUYERS).map(|_| log("x", &[], End::SoldOut)).collect();
        logs[0] = log("alice", &[("A-1-1", Fate::Sold)], End::Tickets);
        assert_eq!(outcome(logs, &["sold"]).unmet().len(), 8);
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let millis: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&millis, 0.5), Some(Duration::from_millis(50)));
        assert_eq!(percentile(&millis, 0.99), Some(Duration::from_millis(99)));
        assert_eq!(percentile(&millis[..1], 0.5), Some(Duration::from_millis(1)));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(
            ["0", "999", "1,000", "-12,345,678"],
            [0, 999, 1_000, -12_345_678].map(thousands).map(|t| t).each_ref().map(String::as_str)
        );
    }
}
