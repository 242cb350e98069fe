//! The gate of a line: how places are let in where an operator caps how many are inside at once.
//!
//! Segments let turns in by the clock alone, whoever has paid or left meanwhile. A cap has to know that. So somebody
//! counts every few seconds and writes a [`Wave`]: all places up to this position are inside from then on. A place's
//! standing still follows from what its token says and the plan, without a read of anything else.
//!
//! The gate counts positions, not turns: none is skipped, so there are as many places between two as their difference.

use super::{AdmissionPlan, PlanChange, Standing, WHOLE};
use crate::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How far the clocks of two functions may be apart, and how long a request may be on its way, in milliseconds. Places are
/// counted as inside for so much longer than they are.
pub const MARGIN_MILLIS: i64 = 10_000;
/// How long a gate keeps a wave that is over, in milliseconds: who asked for seats in time is asked about for ten minutes.
const KEPT_MILLIS: i64 = 900_000;
/// After how long a line in which nothing happens is quiet, in milliseconds.
const QUIET_MILLIS: i64 = 3_600_000;
/// How many waves a gate keeps. With more, two become one.
pub const MAX_WAVES: usize = 130;
/// By how many waves the places change that are inside, at most: so many that those of an hour are kept as they are.
const WAVES_INSIDE: u32 = 120;
/// The shortest and the longest time between two waves, in seconds.
const APART_SECONDS: (u32, u32) = (5, 30);
/// How many places that are nobody's one wave can pass over, besides as many as it lets in.
const PASSED_OVER: u64 = 1_024;
/// Of how many places that wait one look asks whether they are used, at the most.
const ASKED_AT_ONCE: u64 = 8_192;
/// How much of the rate that nobody used one wave can make up for, in seconds.
const BURST_SECONDS: u64 = super::BURST_SECONDS as u64;

/// Lets places in, up to a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    /// The last position it lets in; those before it are inside by the waves before it.
    pub last_position: u64,
    /// From when on.
    pub at: Timestamp,
    /// How long they stay active, in seconds.
    pub active_seconds: u32,
}

impl Wave {
    fn ends_at(&self) -> Timestamp {
        self.at.plus_seconds(i64::from(self.active_seconds))
    }

    /// It and the next one as one, where that puts nobody out and lets nobody in again: both are in force by every clock, or
    /// both over.
    /// Of two in force, the places of the first stay inside as long as those of the other.
    fn joined(&self, next: &Self, now: Timestamp) -> Option<Self> {
        let at = if self.is_over(now) && next.is_over(now) {
            self.at
        } else if next.at.plus_millis(MARGIN_MILLIS) <= now && now.plus_millis(MARGIN_MILLIS) < self.ends_at() {
            next.at
        } else {
            return None;
        };
        let millis = self.ends_at().max(next.ends_at()).millis_since(at).unsigned_abs();
        let active_seconds = u32::try_from(millis.div_ceil(1_000)).unwrap_or(u32::MAX);
        Some(Self { last_position: next.last_position, at, active_seconds })
    }

    /// Whether its places are certainly no longer inside.
    fn is_over(&self, now: Timestamp) -> bool {
        now >= self.ends_at().plus_millis(MARGIN_MILLIS)
    }
}

/// The places whose turns had come when a gate began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// All places up to this position are among them.
    pub position: u64,
    /// How far beyond it the last of them is, where a line has several counters: at least as many as those are.
    pub apart: u64,
    /// How many they are. Gates of an earlier release do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub places: Option<u64>,
    /// How many others, behind `position` up to the last of them, the first wave let in, if it went over all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others: Option<u64>,
}

impl Before {
    /// The last position that may be one of theirs.
    const fn highest(&self) -> u64 {
        self.position.saturating_add(self.apart)
    }

    /// How many they are at the most.
    fn places(&self) -> u64 {
        self.places.unwrap_or(self.highest())
    }
}

/// What a line had given out when its first cap was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenOut {
    /// How many places.
    pub issued: u64,
    /// The last turn.
    pub turn: u64,
}

/// The gate of a line that has, or had, a cap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// How many may be inside at once; without it only the rate counts.
    pub max_active: Option<u32>,
    /// Since when it lets places in. Whoever segments let in before is inside by those.
    pub since: Timestamp,
    /// How many it lets in a minute at the most; 0 pauses.
    pub rate_per_minute: u32,
    /// How long those stay active, in seconds.
    pub active_seconds: u32,
    /// From when on the rate counts.
    pub from_time: Timestamp,
    /// How many places the rate would have let in by then that were not, in millionths.
    pub waited_ppm: u64,
    /// What the line had given out when it was set. Nothing if that could not be counted, or by an earlier release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_out: Option<GivenOut>,
    /// Those inside by segments; known once the first wave is counted.
    #[serde(default)]
    pub before: Option<Before>,
    /// Places up to this position have been inside.
    pub over_position: u64,
    /// By ascending position and time.
    pub waves: Vec<Wave>,
}

/// What the counters of a line say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Every position up to it has been given out.
    pub position: u64,
    /// Those whose turn had come when the gate began.
    pub before: Before,
    /// The positions of others among them: behind [`Before::position`], up to the last.
    pub others: BTreeSet<u64>,
}

impl Gate {
    /// A gate as it begins at `since`, when the next place had waited so many intervals, in millionths.
    pub(super) fn beginning(since: Timestamp, waited_ppm: u64, change: PlanChange) -> Self {
        Self {
            max_active: change.max_active,
            since,
            rate_per_minute: change.rate_per_minute,
            active_seconds: change.active_seconds,
            from_time: since.max(change.opens_at),
            waited_ppm,
            given_out: None,
            before: None,
            over_position: 0,
            waves: Vec::new(),
        }
    }

    /// The standing of a place that segments had not let in.
    pub(super) fn standing(&self, position: u64, issued_at: Timestamp, now: Timestamp) -> Standing {
        if position <= self.over_position {
            return Standing::Expired { active_at: issued_at, expires_at: issued_at };
        }
        let first = self.waves.partition_point(|wave| wave.last_position < position);
        match self.waves.get(first) {
            None => Standing::Waiting { active_at: None },
            Some(wave) => Standing::window(wave.at.max(issued_at), wave.active_seconds, now),
        }
    }

    /// How many places it has let in by `now`.
    pub(super) fn let_in_by(&self, now: Timestamp) -> u64 {
        let Some(before) = self.before else { return 0 };
        let in_force = self.waves.iter().rev().find(|wave| wave.at <= now).map(|wave| wave.last_position);
        in_force.unwrap_or(0).max(self.over_position).saturating_sub(before.places())
    }

    /// Whether a look now and then will do: it has been paused for an hour, opens in more than one, or nobody has waited or
    /// been let in for as long.
    pub fn is_quiet(&self, given: &Given, now: Timestamp) -> bool {
        let last = self.waves.last();
        let position = last.map_or(self.over_position, |wave| wave.last_position).max(given.before.position);
        let (waits, opens_at) = (given.position > position, self.from_time);
        let since = last.map_or(self.since, Wave::ends_at);
        let for_long = |since: Timestamp| since.plus_millis(QUIET_MILLIS) < now;
        match self.rate_per_minute {
            0 => for_long(opens_at) || now.plus_millis(QUIET_MILLIS) < opens_at,
            _ if now.plus_millis(QUIET_MILLIS) < opens_at => for_long(since),
            _ => !waits && for_long(since.max(opens_at)),
        }
    }

    /// How long one wave comes after the other, in seconds.
    fn apart_seconds(&self) -> i64 {
        let (shortest, longest) = APART_SECONDS;
        (self.active_seconds / WAVES_INSIDE).clamp(shortest, longest).into()
    }

    /// How many the rate has room for at `now`, in millionths.
    fn room_ppm(&self, now: Timestamp) -> u64 {
        let rate = u64::from(self.rate_per_minute);
        let waited = u64::try_from(now.millis_since(self.from_time)).unwrap_or(0);
        let more = waited.saturating_mul(rate).saturating_mul(WHOLE) / 60_000;
        let most = (rate * BURST_SECONDS / 60).max(1) * WHOLE;
        self.waited_ppm.saturating_add(more).min(most)
    }

    /// The gate after an operator's change. What it has not let in by then is lost but for the interval that runs.
    pub(super) fn changed(&self, at: Timestamp, change: PlanChange) -> Self {
        Self {
            max_active: change.max_active,
            rate_per_minute: change.rate_per_minute,
            active_seconds: change.active_seconds,
            waited_ppm: self.room_ppm(at).min(WHOLE),
            from_time: at.max(change.opens_at),
            ..self.clone()
        }
    }
}

/// Places that may be inside: those behind one position up to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Inside {
    behind: u64,
    to: u64,
    /// How many of them are at the most.
    most: u64,
}

impl Inside {
    /// How many they are, if those are used.
    fn count(&self, used: &BTreeSet<u64>) -> u64 {
        self.most.min(self.to.saturating_sub(self.behind).saturating_sub(used_between(used, self.behind, self.to)))
    }
}

/// The used places behind one position up to another.
fn used_between(used: &BTreeSet<u64>, behind: u64, to: u64) -> u64 {
    used.range(behind..).skip_while(|one| **one == behind).take_while(|one| **one <= to).count() as u64
}

/// Passes over the places behind `last` until so many are somebody's, and over those that are nobody's behind them. How
/// many are somebody's, and the last position.
fn pass(last: u64, end: u64, most: u64, used: &BTreeSet<u64>) -> (u64, u64) {
    let (mut count, mut passed) = (0, last);
    for nobodys in used.range(last..).skip_while(|one| **one == last).take_while(|one| **one <= end) {
        let people = nobodys - passed - 1;
        if count + people > most {
            break;
        }
        (count, passed) = (count + people, *nobodys);
    }
    let more = end.saturating_sub(passed).min(most - count);
    (count + more, passed + more)
}

/// The first wave passes over those whom segments let in, too: of several counters, places of others are among them.
fn first_wave(given: &Given, end: u64, most: u64, used: &BTreeSet<u64>) -> (u64, u64, Before) {
    let Given { before, others, .. } = given;
    let come = (before.position + 1..=before.highest()).filter(|position| !others.contains(position));
    let nobodys: BTreeSet<u64> = used.iter().copied().chain(come).collect();
    let (let_in, last_position) = pass(before.position, end, most, &nobodys);
    let others = others.difference(used).count() as u64;
    let others = (before.apart > 0 && before.highest() <= last_position).then_some(others);
    (let_in, last_position, Before { others, ..*before })
}

/// A wave that is due.
#[derive(Debug, Clone, Copy)]
struct Due {
    before: Before,
    /// The last position of the wave before it.
    last: u64,
    /// How many the rate has room for, in millionths.
    room: u64,
    /// The last position that it can have.
    end: u64,
}

impl AdmissionPlan {
    /// The places of which the next wave has to know whether they are used: ranges of positions, each without its first
    /// and with its last. `None` where no wave is due, or nobody waits.
    pub fn asked_about(&self, given: &Given, now: Timestamp, at: Timestamp) -> Option<Vec<(u64, u64)>> {
        let gate = self.gate.as_ref()?;
        let due = gate.due(given, now, at)?;
        let counted = match gate.max_active {
            Some(_) => self.inside(gate, due.before, now),
            None => Vec::new(),
        };
        let waiting = (due.last, due.end.min(due.last.saturating_add(ASKED_AT_ONCE)));
        Some(counted.into_iter().map(|inside| (inside.behind, inside.to)).chain([waiting]).collect())
    }

    /// Those who may be inside.
    fn inside(&self, gate: &Gate, before: Before, now: Timestamp) -> Vec<Inside> {
        let mut inside: Vec<Inside> = self.inside_by_segments(gate, before, now).into_iter().collect();
        let mut behind = gate.over_position.max(before.position);
        for wave in &gate.waves {
            let to = wave.last_position;
            if !wave.is_over(now) {
                let most = match before.others {
                    Some(others) if behind <= before.position => to.saturating_sub(before.highest()) + others,
                    _ => to.saturating_sub(behind),
                };
                inside.push(Inside { behind, to, most });
            }
            behind = to;
        }
        inside
    }

    /// Those whom segments let in; `None` once there is nobody.
    ///
    /// Each had a turn of their own. Of those who had been given one by the time the cap was set, no more are inside than
    /// turns up to the last that was given out are not over, each after the time inside of its own segment: turns that came
    /// while nobody stood in line are nobody's. Those who came while it was being set are counted by their places.
    fn inside_by_segments(&self, gate: &Gate, before: Before, now: Timestamp) -> Option<Inside> {
        let come = self.admitted_by(gate.since);
        let last_turn = gate.given_out.map_or(come, |given_out| given_out.turn.min(come));
        let (mut turns, mut lowest, mut is_over) = (0_u64, last_turn, true);
        for (index, segment) in self.segments.iter().enumerate() {
            let next = self.segments.get(index + 1);
            let entered = now.plus_seconds(-i64::from(segment.active_seconds)).plus_millis(-MARGIN_MILLIS);
            let (none, most) = (segment.from_position - 1, next.map_or(u64::MAX, |next| next.from_position - 1));
            let last_by = |at: Timestamp| segment.last_by(at).unwrap_or(none).min(most);
            let over = if next.is_some_and(|next| next.is_in_force(entered)) {
                most
            } else if segment.is_in_force(entered) {
                // Later ones could still be taken then.
                last_by(entered).saturating_sub(segment.turns_in(super::BURST_SECONDS)).max(none)
            } else {
                none
            };
            let last = last_by(gate.since);
            is_over &= last <= last_turn || entered >= gate.since;
            let last = last.min(last_turn);
            if last > over {
                turns += last - over;
                lowest = lowest.min(over);
            }
        }
        let since = match gate.given_out {
            Some(given_out) if !is_over => before.places().saturating_sub(given_out.issued),
            _ => 0,
        };
        let most = turns.saturating_add(since);
        // Within a counter, places are no further apart than turns. Of several, each may be behind another by its next
        // place, and before these came by all of theirs.
        let back =
            (last_turn - lowest).saturating_add(before.apart).saturating_add(since.saturating_mul(before.apart.max(1)));
        (most > 0).then(|| Inside { behind: before.position.saturating_sub(back), to: before.highest(), most })
    }

    /// The plan with the next wave of its gate, which enters at `at`. `None` where nobody more can be let in.
    ///
    /// It lets in those who wait, first come first served, as long as no more are inside than may be, and as many as
    /// the rate has room for: a minute's worth at the most. `used` are the used places among
    /// [`AdmissionPlan::asked_about`]: nobody's. In the first seconds after the gate began it waits for those who were on
    /// their way in.
    pub fn next_wave(&self, given: &Given, used: &BTreeSet<u64>, now: Timestamp, at: Timestamp) -> Option<Self> {
        let gate = self.gate.as_ref()?;
        let Due { before, last, room, end } = gate.due(given, now, at)?;
        let inside = || self.inside(gate, before, now).iter().map(|inside| inside.count(used)).sum();
        let free = gate.max_active.map_or(u64::MAX, |cap| u64::from(cap).saturating_sub(inside()));
        let most = free.min(room / WHOLE);
        if most == 0 {
            return None;
        }
        let (let_in, last_position, before) = match gate.before {
            Some(_) => {
                let (let_in, last_position) = pass(last, end, most, used);
                (let_in, last_position, before)
            }
            None => first_wave(given, end, most, used),
        };
        if last_position == last {
            return None;
        }
        let mut gate = Gate { before: Some(before), from_time: now, waited_ppm: room - let_in * WHOLE, ..gate.clone() };
        // Clocks differ; what a wave said is not unsaid.
        let at = gate.waves.last().map_or(at, |wave| wave.at.max(at));
        gate.waves.push(Wave { last_position, at, active_seconds: gate.active_seconds });
        gate.forget(now);
        Some(Self { version: self.version + 1, gate: Some(gate), ..self.clone() })
    }

    /// When the gate may let in who has so many `ahead`, at the earliest, as far as the rate says. `None` without a gate,
    /// and while it is paused.
    pub fn soonest_by_gate(&self, ahead: u64, now: Timestamp) -> Option<Timestamp> {
        let gate = self.gate.as_ref().filter(|gate| gate.rate_per_minute > 0)?;
        let from = now.max(gate.from_time);
        let wholes = (u128::from(ahead) + 1) * u128::from(WHOLE);
        let lacks = wholes.saturating_sub(gate.room_ppm(from).into());
        let wait = lacks * 60_000 / (u128::from(gate.rate_per_minute) * u128::from(WHOLE));
        Some(from.plus_millis(i64::try_from(wait).unwrap_or(i64::MAX)))
    }
}

impl Gate {
    /// The next wave, if one is due by the clock and somebody waits.
    fn due(&self, given: &Given, now: Timestamp, at: Timestamp) -> Option<Due> {
        let has_begun = now >= self.since.plus_millis(MARGIN_MILLIS) && now >= self.from_time;
        // A look is never exactly as late as it should be.
        let next_at = |last: &Wave| last.at.plus_seconds(self.apart_seconds()).plus_millis(-1_000);
        if self.rate_per_minute == 0 || !has_begun || self.waves.last().is_some_and(|last| at < next_at(last)) {
            return None;
        }
        let before = self.before.unwrap_or(given.before);
        let last = self.waves.last().map_or(self.over_position.max(before.position), |wave| wave.last_position);
        // Where a place is missing among those whom segments let in, it is given out first.
        if given.position <= last || self.before.is_none() && given.position < before.highest() {
            return None;
        }
        let room = self.room_ppm(now);
        let most = self.max_active.map_or(u64::MAX, u64::from).min(room / WHOLE);
        // What is beyond the places that a look can ask about is taken to be somebody's.
        let within = most.saturating_add(PASSED_OVER).min(ASKED_AT_ONCE).max(most);
        let end = given.position.min(last.saturating_add(within));
        (most > 0).then_some(Due { before, last, room, end })
    }

    /// Drops the waves that are long over, and joins two where there are too many.
    fn forget(&mut self, now: Timestamp) {
        let long_ago = now.plus_millis(-KEPT_MILLIS);
        let over = self.waves.iter().take_while(|wave| wave.is_over(long_ago)).count();
        if let Some(last) = self.waves.drain(..over).next_back() {
            self.over_position = last.last_position;
        }
        while self.waves.len() > MAX_WAVES {
            let pairs = self.waves.iter().zip(self.waves.iter().skip(1)).enumerate();
            let joined = pairs.filter_map(|(index, (one, next))| {
                let wave = one.joined(next, now)?;
                Some((!wave.is_over(now), next.at.millis_since(one.at), index, wave))
            });
            // Those that are over first, and of others the two that are closest to each other.
            let closest = joined.min_by_key(|(lasts, apart, index, _)| (*lasts, *apart, *index));
            let Some((_, _, index, wave)) = closest else { return };
            self.waves.splice(index..index + 2, [wave]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Timestamp = Timestamp::from_millis(1_000_000);
    const LEAD_MILLIS: i64 = 2_000;

    fn at(seconds: i64) -> Timestamp {
        OPEN.plus_seconds(seconds)
    }

    fn change(rate_per_minute: u32, max_active: Option<u32>) -> PlanChange {
        PlanChange { opens_at: OPEN, rate_per_minute, active_seconds: 300, max_active }
    }

    /// A line that has had a cap since before its opening, so that its gate begins to let in at the opening.
    fn capped(rate: u32, max_active: u32) -> AdmissionPlan {
        let plan = AdmissionPlan::opening(OPEN, rate, 300);
        plan.changed(0, at(-60), change(rate, Some(max_active))).unwrap()
    }

    /// A line of one counter, of which nobody was inside before the gate.
    fn given(position: u64) -> Given {
        line(position, Before { position: 0, apart: 0, places: None, others: None })
    }

    /// A line that has given out so many places, of which these had come before the gate.
    fn line(position: u64, before: Before) -> Given {
        Given { position, before, others: BTreeSet::new() }
    }

    /// A look at the gate; the plan as it is then.
    fn look(plan: AdmissionPlan, given: Given, used: &BTreeSet<u64>, now: Timestamp) -> AdmissionPlan {
        plan.next_wave(&given, used, now, now.plus_millis(LEAD_MILLIS)).unwrap_or(plan)
    }

    fn is_inside(plan: &AdmissionPlan, position: u64, now: Timestamp) -> bool {
        matches!(plan.standing(position, position, at(-30), now), Standing::Active { .. })
    }

    fn inside(plan: &AdmissionPlan, now: Timestamp) -> Vec<u64> {
        (1..=2_000).filter(|position| is_inside(plan, *position, now)).collect()
    }

    #[test]
    fn no_more_are_inside_than_may_be_and_who_pays_or_leaves_makes_room() {
        let mut used = BTreeSet::new();
        let mut plan = look(capped(6_000, 3), given(10), &used, at(0));
        assert!(inside(&plan, at(1)).len() <= 1, "the first interval has not passed for more");
        plan = look(plan, given(10), &used, at(5));
        assert_eq!(inside(&plan, at(7)), [1, 2, 3]);
        for second in (10..250).step_by(5) {
            plan = look(plan, given(10), &used, at(second));
        }
        assert_eq!(inside(&plan, at(252)), [1, 2, 3], "nobody leaves, nobody enters");
        used.insert(2);
        plan = look(plan, given(10), &used, at(255));
        assert_eq!(inside(&plan, at(257)), [1, 2, 3, 4], "one of them is used");
        // Those whose time is over make room as well, and are not let in again.
        for second in (260..400).step_by(5) {
            plan = look(plan, given(10), &used, at(second));
            let counted: Vec<u64> =
                inside(&plan, at(second + 2)).into_iter().filter(|one| !used.contains(one)).collect();
            assert!(counted.len() <= 3, "{second}: {counted:?}");
        }
        assert_eq!(inside(&plan, at(400)), [4, 5, 6]);
        assert!(matches!(plan.standing(1, 1, OPEN, at(400)), Standing::Expired { .. }));
        assert!(matches!(plan.standing(7, 7, OPEN, at(400)), Standing::Waiting { active_at: None }));
        assert_eq!((plan.come_by(at(400)), plan.ahead_of(9, at(400))), (6, 2));
    }

    #[test]
    fn a_place_that_was_given_up_while_it_waited_takes_no_room() {
        let used = BTreeSet::from([2, 3]);
        let mut plan = capped(6_000, 3);
        for second in (0..30).step_by(5) {
            plan = look(plan, given(10), &used, at(second));
        }
        assert_eq!(inside(&plan, at(30)), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_gate_lets_in_at_the_rate_and_makes_up_for_a_minute_of_it_at_the_most() {
        let none = BTreeSet::new();
        let mut plan = look(capped(60, 1_000), given(500), &none, at(0));
        for second in (5..=60).step_by(5) {
            plan = look(plan, given(500), &none, at(second));
        }
        assert_eq!(inside(&plan, at(62)).len(), 61, "as segments do: one at once, and then one a second");
        // For two minutes nobody looks.
        plan = look(plan, given(500), &none, at(180));
        assert_eq!(inside(&plan, at(182)).len(), 121);
    }

    #[test]
    fn a_gate_that_nobody_looks_at_lets_in_nobody_and_puts_out_nobody() {
        let plan = look(capped(6_000, 50), given(10), &BTreeSet::new(), at(60));
        assert_eq!(inside(&plan, at(62)).len(), 10);
        assert_eq!(inside(&plan, at(361)).len(), 10);
        assert!(inside(&plan, at(363)).is_empty());
    }

    #[test]
    fn a_pause_of_a_gate_lets_in_nobody_and_its_end_no_rush() {
        let none = BTreeSet::new();
        let mut plan = look(capped(60, 1_000), given(500), &none, at(0));
        plan = plan.changed(0, at(10), change(0, Some(1_000))).unwrap();
        for second in (11..600).step_by(5) {
            plan = look(plan, given(500), &none, at(second));
        }
        assert_eq!(inside(&plan, at(100)).len(), 1);
        plan = plan.changed(0, at(600), change(60, Some(1_000))).unwrap();
        plan = look(plan, given(500), &none, at(600));
        assert_eq!(plan.come_by(at(602)), 2, "the one that had waited");
        plan = look(plan, given(500), &none, at(610));
        assert_eq!(plan.come_by(at(612)), 12);
    }

    #[test]
    fn postponing_and_opening_again_lets_in_nobody_by_itself() {
        let none = BTreeSet::new();
        let mut plan = look(capped(1, 1_000), given(500), &none, at(0));
        for second in 1..50 {
            let opens_at = if second % 2 == 0 { OPEN } else { at(86_400) };
            plan = plan.changed(0, at(second), PlanChange { opens_at, ..change(1, Some(1_000)) }).unwrap();
            plan = look(plan, given(500), &none, at(second));
        }
        assert_eq!(plan.come_by(at(60)), 1);
    }

    #[test]
    fn changes_of_a_gate_need_no_segments_and_lifting_the_cap_leaves_the_rate() {
        let mut plan = capped(60, 1);
        let segments = plan.segments.len();
        for round in 0..500 {
            plan = plan.changed(0, at(round), change(60 + round as u32 % 2, Some(1))).unwrap();
        }
        assert_eq!(plan.segments.len(), segments);
        plan = plan.changed(0, at(500), change(60, None)).unwrap();
        plan = look(plan, given(500), &BTreeSet::new(), at(530));
        assert_eq!((plan.max_active(), plan.come_by(at(532))), (None, 31));
    }

    #[test]
    fn whom_segments_let_in_stays_and_counts_as_inside() {
        let none = BTreeSet::new();
        // 60 a minute, 300 s each, until the cap is set: at the opening, a while after it, when some have left.
        for (since, most) in [(0, 3), (100, 40), (100, 110), (600, 310)] {
            let plan = AdmissionPlan::opening(OPEN, 60, 300);
            let mut capped = plan.changed(0, at(since), change(60, Some(most))).unwrap();
            let entered = since as u64 + 1;
            for turn in 1..=entered {
                let (one, other) =
                    (plan.standing(turn, turn, OPEN, at(700)), capped.standing(turn, turn, OPEN, at(700)));
                assert_eq!(one, other, "{turn}");
            }
            let line = line(2_000, Before { position: entered, apart: 0, places: None, others: None });
            assert_eq!(look(capped.clone(), line.clone(), &none, at(since + 5)), capped, "some are on their way in");
            for second in (since + 10..2_000).step_by(5) {
                let before = inside(&capped, at(second + 2)).len();
                capped = look(capped, line.clone(), &none, at(second));
                let inside = inside(&capped, at(second + 2)).len();
                assert!(inside <= before.max(most as usize), "{since} {second}: {inside} are inside, {before} were");
            }
            let inside = inside(&capped, at(2_000)).len();
            assert!(inside >= most as usize * 9 / 10, "{since} {most}: {inside}");
        }
    }

    #[test]
    fn waves_are_joined_so_that_nobody_is_put_out_or_let_in_again() {
        let none = BTreeSet::new();
        // Of an hour nothing is joined that lasts; of four hours, waves that are in force.
        for (active_seconds, every) in [(300, 5), (3_600, 30), (14_400, 30)] {
            let mut plan = capped(12, 100_000);
            let slow = PlanChange { active_seconds, ..change(12, Some(100_000)) };
            plan = plan.changed(0, at(-30), slow).unwrap();
            let mut told: Vec<Standing> = vec![Standing::Waiting { active_at: None }; 300];
            for second in (0..5 * i64::from(active_seconds) / 2).step_by(every) {
                let now = at(second);
                plan = look(plan, given(2_000), &none, now);
                assert!(plan.gate.as_ref().unwrap().waves.len() <= MAX_WAVES);
                for (position, told) in (1..).zip(&mut told) {
                    let standing = plan.standing(position, position, at(-30), now);
                    match *told {
                        Standing::Active { expires_at, .. } if now < expires_at => {
                            assert!(matches!(standing, Standing::Active { .. }), "{position} was put out at {second}");
                        }
                        Standing::Expired { .. } => {
                            assert!(matches!(standing, Standing::Expired { .. }), "{position} is let in at {second}");
                        }
                        _ => {}
                    }
                    if let (Standing::Active { expires_at: was, .. }, Standing::Active { expires_at, .. }) =
                        (*told, standing)
                        && active_seconds <= 3_600
                    {
                        assert_eq!(was, expires_at, "{position} at {second}");
                    }
                    *told = standing;
                }
            }
        }
    }

    #[test]
    fn whose_time_is_over_was_inside_when_they_asked() {
        let none = BTreeSet::new();
        let mut plan = capped(60, 100_000);
        for second in (0..900).step_by(5) {
            plan = look(plan, given(2_000), &none, at(second));
        }
        // Places 1 to 200 came in the first 205 s, and stayed for 300 s.
        for position in 1..=200 {
            let asked = at(205 + position as i64 / 2);
            assert!(matches!(plan.standing(position, position, at(-30), asked), Standing::Active { .. }), "{position}");
            let now = plan.standing(position, position, at(-30), at(900));
            assert!(matches!(now, Standing::Expired { .. }), "{position}: {now:?}");
        }
    }

    #[test]
    fn a_plan_of_the_previous_release_has_no_gate() {
        let plan = AdmissionPlan::opening(OPEN, 60, 300);
        let mut text = serde_json::to_value(&plan).unwrap();
        text.as_object_mut().unwrap().remove("gate").unwrap();
        assert_eq!(serde_json::from_value::<AdmissionPlan>(text).unwrap(), plan);
        let capped = capped(60, 5);
        let text = serde_json::to_string(&look(capped, given(5), &BTreeSet::new(), at(30))).unwrap();
        assert!(serde_json::from_str::<AdmissionPlan>(&text).unwrap().gate.is_some());
    }

    #[test]
    fn places_that_are_nobodys_take_nothing_of_rate_and_cap() {
        for (rate, max_active) in [(6, 50), (6_000, 1)] {
            let nobodys: BTreeSet<u64> = (1..=7).collect();
            let mut plan = capped(rate, max_active);
            for second in (0..=20).step_by(5) {
                plan = look(plan, given(9), &nobodys, at(second));
            }
            assert!(is_inside(&plan, 8, at(25)), "{rate} {max_active}: {:?}", plan.gate);
            assert_eq!(is_inside(&plan, 9, at(25)), max_active > 1, "{rate} {max_active}");
        }
    }

    #[test]
    fn a_wave_passes_over_many_places_that_are_nobodys_and_asks_about_a_bounded_number() {
        let nobodys: BTreeSet<u64> = (1..=1_500).collect();
        let mut plan = capped(6_000, 1);
        for second in (0..=30).step_by(5) {
            let (now, line) = (at(second), given(1_000_000));
            let Some(asked) = plan.asked_about(&line, now, now) else { continue };
            let (behind, to) = *asked.last().unwrap();
            assert!(to - behind <= 1_025, "{behind} {to}");
            let is_asked = |one: &u64| asked.iter().any(|(behind, to)| (behind + 1..=*to).contains(one));
            plan = look(plan, line.clone(), &nobodys.iter().copied().filter(is_asked).collect(), now);
        }
        assert!(is_inside(&plan, 1_501, at(35)) && !is_inside(&plan, 1_502, at(35)), "{:?}", plan.gate);
        let open = capped(1_000_000, 1_000_000);
        let now = at(60);
        let asked = open.asked_about(&given(2_000_000), now, now).unwrap();
        assert!(asked.iter().all(|(behind, to)| to - behind <= 8_192), "{asked:?}");
        assert_eq!(look(open, given(2_000_000), &BTreeSet::new(), now).come_by(at(62)), 1_000_000);
    }

    #[test]
    fn nothing_is_asked_about_where_no_wave_is_due() {
        let plan = capped(60, 3);
        let asked = |plan: &AdmissionPlan, position, second| plan.asked_about(&given(position), at(second), at(second));
        assert_eq!(asked(&plan, 0, 60), None, "nobody waits");
        assert_eq!(asked(&plan, 5, -1), None, "not open");
        assert_eq!(asked(&plan.changed(0, at(0), change(0, Some(3))).unwrap(), 5, 60), None, "paused");
        assert_eq!(asked(&plan, 5, 60), Some(vec![(0, 5)]));
        let waved = look(plan, given(5), &BTreeSet::new(), at(60));
        assert_eq!(asked(&waved, 5, 61), None, "one has just been written");
        assert_eq!(asked(&waved, 5, 70), Some(vec![(0, 3), (3, 5)]));
        let lifted = waved.changed(0, at(70), change(60, None)).unwrap();
        assert_eq!(asked(&lifted, 5, 80), Some(vec![(3, 5)]), "without a cap it does not matter who is inside");
    }

    #[test]
    fn a_gate_that_lets_nobody_in_gets_quiet() {
        let gate = |plan: &AdmissionPlan, position, now| plan.gate.as_ref().unwrap().is_quiet(&given(position), now);
        let open = capped(60, 3);
        assert!(!gate(&open, 5, at(7_200)), "somebody waits");
        assert!(gate(&open, 0, at(7_200)) && !gate(&open, 0, at(3_600)));
        let paused = open.changed(0, at(0), change(0, Some(3))).unwrap();
        assert!(gate(&paused, 5, at(7_200)) && !gate(&paused, 5, at(3_600)));
        let later = PlanChange { opens_at: at(86_400), ..change(60, Some(3)) };
        let later = open.changed(0, at(0), later).unwrap();
        assert!(gate(&later, 5, at(7_200)) && !gate(&later, 5, at(86_400 - 3_600)));
    }

    /// A line of one counter whose first cap was set when it had given out so much.
    fn first_capped(plan: &AdmissionPlan, second: i64, change: PlanChange, given_out: GivenOut) -> AdmissionPlan {
        let mut plan = plan.changed(0, at(second), change).unwrap();
        plan.gate.as_mut().unwrap().given_out = Some(given_out);
        plan
    }

    #[test]
    fn whom_segments_let_in_long_ago_keeps_nobody_out() {
        let plan = AdmissionPlan::opening(OPEN, 6_000, 300);
        let given_out = GivenOut { issued: 100, turn: 100 };
        let mut capped = first_capped(&plan, 3_600, change(6_000, Some(10)), given_out);
        let line = line(101, Before { position: 100, apart: 0, places: Some(100), others: None });
        for second in (3_605..=3_625).step_by(5) {
            capped = look(capped, line.clone(), &BTreeSet::new(), at(second));
        }
        let turn = capped.admitted_by(at(3_602)) + 1;
        let standing = capped.standing(101, turn, at(3_604), at(3_628));
        assert!(matches!(standing, Standing::Active { .. }), "{standing:?} {capped:?}");
    }

    #[test]
    fn each_is_counted_as_inside_for_the_time_of_their_own_segment() {
        let plan = AdmissionPlan::opening(OPEN, 60, 86_400);
        let short = PlanChange { active_seconds: 60, ..change(60, None) };
        let plan = plan.changed(0, at(9), short).unwrap();
        // Ten have a day; ten who came half an hour later had a minute.
        let given_out = GivenOut { issued: 20, turn: 1_820 };
        let capped = first_capped(&plan, 3_600, change(60, Some(12)), given_out);
        let line = line(30, Before { position: 20, apart: 0, places: Some(20), others: None });
        let mut plan = capped;
        for second in (3_610..3_700).step_by(5) {
            plan = look(plan, line.clone(), &BTreeSet::new(), at(second));
        }
        assert_eq!(plan.gate.unwrap().waves.last().map(|wave| wave.last_position), Some(22));
    }

    #[test]
    fn who_came_while_the_cap_was_set_counts_as_inside() {
        let plan = AdmissionPlan::opening(OPEN, 6_000, 300);
        let given_out = GivenOut { issued: 100, turn: 100 };
        let capped = first_capped(&plan, 3_600, change(6_000, Some(10)), given_out);
        // Seven took turns that had come, after the count and before the gate.
        let line = line(120, Before { position: 107, apart: 0, places: Some(107), others: None });
        let capped = look(capped, line, &BTreeSet::from([103]), at(3_610));
        assert_eq!(capped.gate.unwrap().waves[0].last_position, 111, "six are inside, four enter");
    }

    #[test]
    fn places_of_several_counters_that_segments_had_let_in_take_no_room() {
        let plan = AdmissionPlan::opening(OPEN, 6_000, 300);
        let given_out = GivenOut { issued: 200, turn: 230 };
        let mut capped = first_capped(&plan, 3_600, change(6_000, Some(3)), given_out);
        // Of several counters the last places are mixed with two who came behind the gate, and one that is nobody's.
        let before = Before { position: 132, apart: 70, places: Some(200), others: None };
        let line = Given { position: 210, before, others: [140, 141, 150].into() };
        for second in (3_610..3_640).step_by(5) {
            capped = look(capped, line.clone(), &[150, 190].into(), at(second));
        }
        let gate = capped.gate.as_ref().unwrap();
        assert_eq!(gate.waves.last().unwrap().last_position, 203, "two of the mixed ones, and one behind them");
        assert_eq!(capped.come_by(at(3_640)), capped.admitted_by(at(3_640)) + 3);
    }

    #[test]
    fn the_first_wave_waits_for_a_place_that_is_missing_among_those_whom_segments_let_in() {
        let plan = AdmissionPlan::opening(OPEN, 6_000, 300);
        let capped = first_capped(&plan, 3_600, change(6_000, Some(3)), GivenOut { issued: 9, turn: 12 });
        let before = Before { position: 2, apart: 10, places: Some(9), others: None };
        assert_eq!(capped.asked_about(&line(11, before), at(3_620), at(3_620)), None);
        assert!(capped.asked_about(&line(12, before), at(3_620), at(3_620)).is_some());
    }

    #[test]
    fn a_gate_of_the_previous_release_counts_all_turns_that_came_in_time() {
        let plan = AdmissionPlan::opening(OPEN, 60, 300);
        let mut capped = plan.changed(0, at(600), change(60, Some(310))).unwrap();
        let mut text = serde_json::to_value(&capped).unwrap();
        assert!(text["gate"].get("given_out").is_none());
        text["gate"]["before"] = serde_json::json!({"position": 601, "apart": 0});
        assert_eq!(serde_json::from_value::<AdmissionPlan>(text).unwrap().gate.unwrap().before.unwrap().places, None);
        let line = line(700, Before { position: 601, apart: 0, places: Some(601), others: None });
        capped = look(capped, line.clone(), &BTreeSet::new(), at(610));
        assert_eq!(capped.gate, look(capped.clone(), line, &BTreeSet::new(), at(610)).gate, "all of the last minutes");
    }

    #[test]
    fn a_clock_that_is_ahead_makes_nobody_wait_for_ever() {
        let plan = AdmissionPlan::opening(OPEN, 60, 300);
        let mut capped = plan.changed(0, at(600), change(60, Some(5))).unwrap();
        // A process whose clock is ahead, and whose plan is the one before: an idle line's turn that has come.
        let issued_at = at(600).plus_millis(1);
        let turn = plan.lapsed_by(issued_at) + 1;
        let line = line(1, Before { position: 1, apart: 0, places: Some(1), others: None });
        for second in (605..=900).step_by(5) {
            capped = look(capped, line.clone(), &BTreeSet::new(), at(second));
        }
        let standing = capped.standing(1, turn, issued_at, at(700));
        assert!(matches!(standing, Standing::Active { .. }), "{standing:?}");
    }

    #[test]
    fn two_waves_are_joined_once_both_are_in_force_by_every_clock() {
        let wave = |last_position, second| Wave { last_position, at: at(second), active_seconds: 3_600 };
        assert_eq!(wave(1, 0).joined(&wave(2, 5), at(5)), None);
        assert_eq!(wave(1, 0).joined(&wave(2, 5), at(14)), None);
        assert!(wave(1, 0).joined(&wave(2, 5), at(15)).is_some());
    }

    #[test]
    fn who_waits_at_a_gate_enters_at_the_rate_at_the_earliest() {
        let plan = capped(60, 3);
        assert_eq!(plan.soonest_by_gate(0, at(-30)), Some(at(0)));
        assert_eq!(plan.soonest_by_gate(9, at(0)), Some(at(9)));
        assert_eq!(plan.soonest_by_gate(9, at(600)), Some(at(600)), "a minute's worth may enter with the next wave");
        assert_eq!(plan.soonest_by_gate(69, at(600)), Some(at(610)));
        assert_eq!(plan.changed(0, at(0), change(0, Some(3))).unwrap().soonest_by_gate(0, at(9)), None);
        assert_eq!(AdmissionPlan::opening(OPEN, 60, 300).soonest_by_gate(0, at(9)), None);
    }
}
