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

    /// It and the next one as one, where that puts nobody out and lets nobody in again: both are in force, or both over.
    /// Of two in force, the places of the first stay inside as long as those of the other.
    fn joined(&self, next: &Self, now: Timestamp) -> Option<Self> {
        let at = if self.is_over(now) && next.is_over(now) {
            self.at
        } else if next.at <= now && now.plus_millis(MARGIN_MILLIS) < self.ends_at() {
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

/// The places that segments had let in when a gate began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// All of them up to this position have been given out.
    pub position: u64,
    /// How far beyond it the last of them is, where a line has several counters.
    pub apart: u64,
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
    /// Those inside by segments; known once the first wave is counted.
    #[serde(default)]
    pub before: Option<Before>,
    /// Places up to this position have been inside.
    pub over_position: u64,
    /// By ascending position and time.
    pub waves: Vec<Wave>,
}

/// What the counters of a line say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// Every position up to it has been given out.
    pub position: u64,
    /// Those whose turn had come when the gate began.
    pub before: Before,
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
        in_force.unwrap_or(0).max(self.over_position).saturating_sub(before.position)
    }

    /// Whether nobody has waited or been let in for an hour.
    pub fn is_quiet(&self, given: Given, now: Timestamp) -> bool {
        let last = self.waves.last();
        let position = last.map_or(self.over_position, |wave| wave.last_position).max(given.before.position);
        let since = last.map_or(self.since, Wave::ends_at).max(self.from_time);
        given.position <= position && since.plus_millis(QUIET_MILLIS) < now
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

impl AdmissionPlan {
    /// The places of which the next wave has to know whether they are used: ranges of positions, each without its first
    /// and with its last.
    pub fn counted_inside(&self, before: Before, now: Timestamp) -> Vec<(u64, u64)> {
        let Some(gate) = &self.gate else { return Vec::new() };
        let before = gate.before.unwrap_or(before);
        let mut counted = Vec::new();
        if let Some(let_in) = self.let_in_before(gate, now) {
            counted.push((before.position.saturating_sub(let_in), before.position.saturating_add(before.apart)));
        }
        let mut from = gate.over_position.max(before.position);
        for wave in &gate.waves {
            if !wave.is_over(now) {
                counted.push((from, wave.last_position));
            }
            from = wave.last_position;
        }
        counted
    }

    /// How many turns came that may be those of people whom segments let in and who are still inside; `None` once there
    /// is nobody.
    fn let_in_before(&self, gate: &Gate, now: Timestamp) -> Option<u64> {
        let first = self.segments.first()?;
        let longest = self.segments.iter().map(|segment| segment.active_seconds).max()?;
        let entered = now.plus_seconds(-i64::from(longest)).plus_millis(-MARGIN_MILLIS);
        let over = if first.is_in_force(entered) { self.lapsed_by(entered) } else { first.from_position - 1 };
        (entered < gate.since).then(|| self.admitted_by(gate.since).saturating_sub(over))
    }

    /// The plan with the next wave of its gate, which enters at `at`. `None` where nobody more can be let in.
    ///
    /// It lets in those who wait, first come first served, as long as no more are inside than may be, and as many as
    /// the rate has room for: a minute's worth at the most. `used` are the used places among
    /// [`AdmissionPlan::counted_inside`]. In the first seconds after the gate began it waits for those who were on their
    /// way in.
    pub fn next_wave(&self, given: Given, used: &BTreeSet<u64>, now: Timestamp, at: Timestamp) -> Option<Self> {
        let gate = self.gate.as_ref()?;
        let has_begun = now >= gate.since.plus_millis(MARGIN_MILLIS) && now >= gate.from_time;
        if gate.rate_per_minute == 0 || !has_begun {
            return None;
        }
        // A look is never exactly as late as it should be.
        if gate.waves.last().is_some_and(|last| at < last.at.plus_seconds(gate.apart_seconds()).plus_millis(-1_000)) {
            return None;
        }
        let before = gate.before.unwrap_or(given.before);
        let last = gate.waves.last().map_or(gate.over_position.max(before.position), |wave| wave.last_position);
        let waiting = given.position.saturating_sub(last);
        let inside: u64 = self
            .counted_inside(before, now)
            .into_iter()
            .map(|(from, to)| {
                to.saturating_sub(from).saturating_sub(used.range(from + 1..=to.max(from + 1)).count() as u64)
            })
            .sum();
        let free = gate.max_active.map_or(u64::MAX, |most| u64::from(most).saturating_sub(inside));
        let room = gate.room_ppm(now);
        let let_in = waiting.min(free).min(room / WHOLE);
        if let_in == 0 {
            return None;
        }
        let mut gate = Gate { before: Some(before), from_time: now, waited_ppm: room - let_in * WHOLE, ..gate.clone() };
        // Clocks differ; what a wave said is not unsaid.
        let at = gate.waves.last().map_or(at, |wave| wave.at.max(at));
        gate.waves.push(Wave { last_position: last + let_in, at, active_seconds: gate.active_seconds });
        gate.forget(now);
        Some(Self { version: self.version + 1, gate: Some(gate), ..self.clone() })
    }
}

impl Gate {
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
        Given { position, before: Before { position: 0, apart: 0 } }
    }

    /// A look at the gate; the plan as it is then.
    fn look(plan: AdmissionPlan, given: Given, used: &BTreeSet<u64>, now: Timestamp) -> AdmissionPlan {
        plan.next_wave(given, used, now, now.plus_millis(LEAD_MILLIS)).unwrap_or(plan)
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
            let line = Given { position: 2_000, before: Before { position: entered, apart: 0 } };
            assert_eq!(look(capped.clone(), line, &none, at(since + 5)), capped, "some are on their way in");
            for second in (since + 10..2_000).step_by(5) {
                let before = inside(&capped, at(second + 2)).len();
                capped = look(capped, line, &none, at(second));
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
}
