//! The admission plan: when each place of the waiting room may enter, and the claims of a queue token.
//!
//! A token contains its turn and when it was issued. Everything else follows from the plan and the clock, so a new
//! rate, a pause or a resume moves all waiting users at once without a write per user, and a status check reads no
//! per-user state. Waiting-room owns the plan; reservations enforces a copy.
//!
//! Turns are numbered from 1 in the order of admission. Those that came while nobody stood in line are skipped when the
//! next user joins ([`AdmissionPlan::lapsed_by`]), so turns still to come are somebody's, except those of places that were
//! given up or lost.

mod gate;

use crate::{ConcertId, Timestamp, UserId};
pub use gate::{Before, Gate, Given, GivenOut, MARGIN_MILLIS, MAX_WAVES, Wave};
use serde::{Deserialize, Serialize};

/// The most segments of a plan. Segments that are over are dropped with every change. A change that would need more is
/// refused: dropping a segment that counts would put users out.
pub const MAX_SEGMENTS: usize = 200;
/// How many segments more a plan may have for pauses and their ends.
const PAUSES: usize = 20;
/// How much unused capacity a crowd can use up at once, in seconds: a minute's worth of turns.
pub const BURST_SECONDS: u32 = 60;
/// A whole interval between two turns, in the unit of [`Segment::waited_ppm`].
const WHOLE: u64 = 1_000_000;

/// From one turn on: when it comes and how fast the turns behind it follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The first turn of this segment, from 1. The name is older than the difference between turns and positions.
    pub from_position: u64,
    /// From when on its turns come.
    pub from_time: Timestamp,
    /// Turns a minute; 0 pauses.
    pub rate_per_minute: u32,
    /// How long an admitted place stays active, in seconds.
    pub active_seconds: u32,
    /// How many intervals the first turn had waited when the segment began, in millionths. With a whole one it comes at
    /// once; with more, those behind it do as well.
    #[serde(default = "whole")]
    pub waited_ppm: u64,
    /// Since when the segment is in force, which is earlier than `from_time` where that is an opening to come. The epoch
    /// where that was not written down: then since `from_time`.
    #[serde(default)]
    pub since: Timestamp,
}

const fn whole() -> u64 {
    WHOLE
}

impl Segment {
    /// When a turn of this segment comes; `None` while paused.
    fn comes_at(&self, turn: u64) -> Option<Timestamp> {
        if self.rate_per_minute == 0 {
            return None;
        }
        let wholes = u128::from(turn - self.from_position + 1) * u128::from(WHOLE);
        let wait =
            wholes.saturating_sub(self.waited()) * 60_000 / (u128::from(self.rate_per_minute) * u128::from(WHOLE));
        Some(self.from_time.plus_millis(i64::try_from(wait).unwrap_or(i64::MAX)))
    }

    /// The last of its turns that has come by `now`, as if no segment followed.
    fn last_by(&self, now: Timestamp) -> Option<u64> {
        let elapsed = u128::try_from(now.millis_since(self.from_time)).ok()?;
        if self.rate_per_minute == 0 {
            return None;
        }
        // `comes_at` rounds down to the millisecond, so count with that rounding: the most turns n with
        // floor((n * WHOLE - waited) * 60000 / (rate * WHOLE)) <= elapsed.
        let within = (elapsed + 1) * u128::from(self.rate_per_minute) * u128::from(WHOLE) + self.waited() * 60_000;
        let turns = within.div_ceil(60_000 * u128::from(WHOLE)) - 1;
        let behind = u64::try_from(turns).unwrap_or(u64::MAX).checked_sub(1)?;
        Some(self.from_position.saturating_add(behind))
    }

    fn waited(&self) -> u128 {
        u128::from(self.waited_ppm)
    }

    /// How many of its intervals pass in so many milliseconds, in millionths.
    fn waited_in(&self, millis: i64) -> u64 {
        let millis = u64::try_from(millis).unwrap_or(0);
        millis.saturating_mul(u64::from(self.rate_per_minute)).saturating_mul(WHOLE) / 60_000
    }

    fn is_in_force(&self, now: Timestamp) -> bool {
        now >= if self.since == Timestamp::default() { self.from_time } else { self.since }
    }

    /// How many of its turns make up for so many seconds.
    fn turns_in(&self, seconds: u32) -> u64 {
        u64::from(self.rate_per_minute) * u64::from(seconds) / 60
    }
}

/// The plan of one concert, ordered by `from_position`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionPlan {
    /// Counts the changes; a copy is replaced only by a higher version.
    pub version: u64,
    /// When the sale opens, as last set by an operator.
    pub opens_at: Timestamp,
    /// The segments, by ascending `from_position`; never empty.
    pub segments: Vec<Segment>,
    /// When the last change takes effect; the epoch before the first.
    #[serde(default)]
    pub changed_at: Timestamp,
    /// Where an operator has set a cap once: it lets in whom the segments have not, and those are paused.
    #[serde(default)]
    pub gate: Option<Gate>,
}

/// The standing of a queue token at a given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not yet; `active_at` is unknown while admission is paused.
    Waiting {
        /// When the plan admits it, if nothing changes.
        active_at: Option<Timestamp>,
    },
    /// Inside, until `expires_at` (exclusive).
    Active {
        /// When it was admitted.
        active_at: Timestamp,
        /// When that ends.
        expires_at: Timestamp,
    },
    /// Its time is over.
    Expired {
        /// When it was admitted.
        active_at: Timestamp,
        /// When that ended.
        expires_at: Timestamp,
    },
}

impl Standing {
    /// The standing at `now` of a place that enters at `active_at`.
    fn window(active_at: Timestamp, active_seconds: u32, now: Timestamp) -> Self {
        let expires_at = active_at.plus_seconds(i64::from(active_seconds));
        if now < active_at {
            Self::Waiting { active_at: Some(active_at) }
        } else if now < expires_at {
            Self::Active { active_at, expires_at }
        } else {
            Self::Expired { active_at, expires_at }
        }
    }
}

impl AdmissionPlan {
    /// A plan whose first turn comes at `opens_at`.
    pub fn opening(opens_at: Timestamp, rate_per_minute: u32, active_seconds: u32) -> Self {
        let (from_time, since) = (opens_at, Timestamp::default());
        let first = Segment { from_position: 1, from_time, rate_per_minute, active_seconds, waited_ppm: WHOLE, since };
        Self { version: 1, opens_at, segments: vec![first], changed_at: Timestamp::default(), gate: None }
    }

    fn segment_of(&self, turn: u64) -> Option<&Segment> {
        self.segments.iter().rev().find(|segment| segment.from_position <= turn)
    }

    /// When the plan lets a turn enter; `None` while that is unknown (paused) or its segment has been dropped.
    pub fn enters_at(&self, turn: u64) -> Option<Timestamp> {
        self.segment_of(turn)?.comes_at(turn)
    }

    /// The standing at `now` of a place, given out at `issued_at`.
    ///
    /// Its time starts when the plan admits the turn, or when the place was given out if that is later: one that
    /// was due before a user took it must not be expired from the start. Whose turn had not come when a gate began, that
    /// one lets in, whatever the clock said by which the place was given out.
    pub fn standing(&self, position: u64, turn: u64, issued_at: Timestamp, now: Timestamp) -> Standing {
        let Some(segment) = self.segment_of(turn) else {
            return Standing::Expired { active_at: issued_at, expires_at: issued_at };
        };
        let comes_at = segment.comes_at(turn);
        match (&self.gate, comes_at) {
            (Some(gate), comes_at) if comes_at.is_none_or(|comes_at| comes_at > gate.since) => {
                gate.standing(position, issued_at, now)
            }
            (_, None) => Standing::Waiting { active_at: None },
            (_, Some(comes_at)) => Standing::window(comes_at.max(issued_at), segment.active_seconds, now),
        }
    }

    /// The last turn that has come by `now`, whether or not somebody took it.
    pub fn admitted_by(&self, now: Timestamp) -> u64 {
        let Some(first) = self.segments.first() else { return 0 };
        let next = self.segments.iter().skip(1).map(|next| next.from_position).chain([u64::MAX]);
        let last_of = |(segment, next): (&Segment, u64)| Some(segment.last_by(now)?.min(next.saturating_sub(1)));
        self.segments.iter().zip(next).filter_map(last_of).max().unwrap_or(0).max(first.from_position - 1)
    }

    /// The last turn that is inside, or was, by `now`: by the segments, or let in by the gate behind those.
    pub fn come_by(&self, now: Timestamp) -> u64 {
        self.admitted_by(now).saturating_add(self.gate.as_ref().map_or(0, |gate| gate.let_in_by(now)))
    }

    /// How many turns before `turn` have not come yet at `now`.
    pub fn ahead_of(&self, turn: u64, now: Timestamp) -> u64 {
        turn.saturating_sub(1).saturating_sub(self.come_by(now))
    }

    /// At which rate the line moves, in turns a minute.
    pub fn rate_per_minute(&self) -> u32 {
        let last = self.segments.last().map_or(0, |last| last.rate_per_minute);
        self.gate.as_ref().map_or(last, |gate| gate.rate_per_minute)
    }

    /// How long who is admitted from now on stays active, in seconds.
    pub fn active_seconds(&self) -> u32 {
        let last = self.segments.last().map_or(0, |last| last.active_seconds);
        self.gate.as_ref().map_or(last, |gate| gate.active_seconds)
    }

    /// How many may be inside at once.
    pub fn max_active(&self) -> Option<u32> {
        self.gate.as_ref().and_then(|gate| gate.max_active)
    }

    /// The last turn that is no longer given out at `now`: those that came more than [`BURST_SECONDS`] ago, and those of
    /// earlier segments, have lapsed.
    pub fn lapsed_by(&self, now: Timestamp) -> u64 {
        let Some(last) = self.segments.last() else { return 0 };
        // A change that is not in force yet takes nothing away: until then the segment before it counts.
        let begun = self.segments.iter().rev().find(|segment| segment.is_in_force(now)).unwrap_or(last);
        self.admitted_by(now).saturating_sub(begun.turns_in(BURST_SECONDS)).max(begun.from_position - 1)
    }

    /// Removes the segments in which the last place has expired: at the beginning they are dropped, and their places
    /// count as expired; behind a segment that is still needed they become one with an active time of zero.
    fn without_over(&self, segments: Vec<Segment>, now: Timestamp) -> Vec<Segment> {
        let is_over = |segment: &Segment, next: Option<&Segment>| {
            let Some(next) = next else { return false };
            let entered = self.enters_at(next.from_position - 1).unwrap_or(next.from_time).max(next.from_time);
            entered.plus_seconds(i64::from(segment.active_seconds)).plus_millis(MARGIN_MILLIS) < now
        };
        let mut kept: Vec<Segment> = Vec::with_capacity(segments.len());
        for (index, segment) in segments.iter().enumerate() {
            if !is_over(segment, segments.get(index + 1)) {
                kept.push(segment.clone());
            } else if kept.last().is_some_and(|last| last.active_seconds > 0) {
                kept.push(Segment { rate_per_minute: u32::MAX, active_seconds: 0, ..segment.clone() });
            }
        }
        kept
    }

    /// The plan after an operator's change that takes effect at `at`, or when the change before it did if that is later:
    /// clocks differ, and what a plan said is not unsaid. `None` if it would need more than [`MAX_SEGMENTS`] ([`PAUSES`]
    /// more for a pause or its end).
    ///
    /// Turns that have come by then stay as they are. The next one takes along what it has waited of its interval, so
    /// that repeated changes neither admit anybody nor make anybody wait anew. Where so many turns went by `unused`, as
    /// many come at once, at most [`BURST_SECONDS`]' worth.
    ///
    /// From the first change with a cap on, the segments are paused, and a [`Gate`] lets in at the rate.
    pub fn changed(&self, unused: u64, at: Timestamp, change: PlanChange) -> Option<Self> {
        let since = self.changed_at.max(at);
        let PlanChange { opens_at, rate_per_minute, active_seconds, max_active } = change;
        if let Some(gate) = &self.gate {
            let gate = Some(gate.changed(since, change));
            return Some(Self { version: self.version + 1, opens_at, changed_at: since, gate, ..self.clone() });
        }
        if max_active.is_some() {
            let paused = self.changed(0, at, PlanChange { rate_per_minute: 0, max_active: None, ..change })?;
            let waited_ppm = paused.segments.last().map_or(WHOLE, |last| last.waited_ppm);
            return Some(Self { gate: Some(Gate::beginning(since, waited_ppm, change)), ..paused });
        }
        let from_position = self.admitted_by(since) + 1;
        let from_time = opens_at.max(since);
        let mut segment =
            Segment { from_position, from_time, rate_per_minute, active_seconds, waited_ppm: WHOLE, since };
        if unused > 0 {
            segment.waited_ppm = unused.min(segment.turns_in(BURST_SECONDS).max(1)) * WHOLE;
        } else if from_position > 1 {
            // Until the sale opens, one waits as well.
            let more = segment.waited_in(from_time.millis_since(since));
            segment.waited_ppm = self.waited(from_position, since).saturating_add(more).min(WHOLE);
        }
        let mut segments: Vec<Segment> =
            self.segments.iter().filter(|old| old.from_position < from_position).cloned().collect();
        segments.push(segment);
        let segments = self.without_over(segments, since);
        let plan = Self { version: self.version + 1, opens_at, segments, changed_at: since, gate: None };
        // A pause, and its end, have room of their own.
        let resumes = self.segments.last().is_some_and(|last| last.rate_per_minute == 0);
        let most = if rate_per_minute == 0 || resumes { MAX_SEGMENTS + PAUSES } else { MAX_SEGMENTS };
        (plan.segments.len() <= most).then_some(plan)
    }

    /// How much of its interval a turn that has not come has waited at a moment, in millionths.
    fn waited(&self, turn: u64, at: Timestamp) -> u64 {
        let Some(segment) = self.segment_of(turn) else { return WHOLE };
        let Some(comes_at) = segment.comes_at(turn) else { return segment.waited_ppm.min(WHOLE) };
        // Rounded so that repeated changes never bring a turn forward.
        WHOLE.saturating_sub(segment.waited_in(comes_at.millis_since(at)) + 1)
    }
}

/// An operator's change of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanChange {
    /// When the sale opens; no further user enters before.
    pub opens_at: Timestamp,
    /// Turns a minute; 0 pauses.
    pub rate_per_minute: u32,
    /// How long an admitted place stays active, in seconds.
    pub active_seconds: u32,
    /// How many may be inside at once; `None` for as many as the rate admits.
    pub max_active: Option<u32>,
}

/// The claims of a queue token (a JWT signed by waiting-room, HS256, `kid` in the header).
///
/// `active_at` and `expires_at` are as planned when the token was signed; the plan in force decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueTokenClaims {
    /// The issuer: [`QUEUE_TOKEN_ISSUER`].
    pub iss: String,
    /// The user it was issued to.
    pub sub: UserId,
    /// The concert it was issued for.
    pub concert_id: ConcertId,
    /// The position in line, from 1, unique within the concert.
    pub position: u64,
    /// The turn that the plan is asked about. Tokens of earlier releases have none: it was the position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<u64>,
    /// When the place was given out, epoch milliseconds.
    pub issued_at: Timestamp,
    /// When the plan was to admit it, as of when this token was signed, epoch milliseconds; absent if paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_at: Option<Timestamp>,
    /// When its active window was to end, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When this token was signed, epoch seconds (RFC 7519).
    pub iat: i64,
    /// When it expires for good, whatever the plan, epoch seconds (RFC 7519).
    pub exp: i64,
}

impl QueueTokenClaims {
    /// The turn that the plan is asked about.
    pub fn turn(&self) -> u64 {
        self.turn.unwrap_or(self.position)
    }
}

/// `iss` of a queue token.
pub const QUEUE_TOKEN_ISSUER: &str = "encore/waiting-room";
/// How long a queue token lives, in seconds after its planned active window ends, or after it was signed if that was
/// unknown: 30 days. The plan decides when it is active; this only has to outlast every pause and postponement.
pub const QUEUE_TOKEN_LIFE_SECONDS: i64 = 30 * 24 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Timestamp = Timestamp::from_millis(1_000_000);

    fn at(seconds: i64) -> Timestamp {
        OPEN.plus_seconds(seconds)
    }

    #[test]
    fn positions_enter_one_after_the_other_at_the_rate() {
        let plan = AdmissionPlan::opening(OPEN, 60, 300);
        assert_eq!(plan.enters_at(1), Some(OPEN));
        assert_eq!(plan.enters_at(61), Some(at(60)));
        assert_eq!(plan.admitted_by(at(-1)), 0);
        assert_eq!(plan.admitted_by(OPEN), 1);
        assert_eq!(plan.admitted_by(at(60)), 61);
        assert_eq!(plan.ahead_of(100, at(60)), 38);
    }

    #[test]
    fn the_count_of_admitted_agrees_with_each_position_at_every_rate() {
        for rate in [1, 7, 60, 999, 6000, 100_000] {
            let plan = AdmissionPlan::opening(OPEN, rate, 300);
            for millis in (0..5_000).step_by(7) {
                let now = OPEN.plus_millis(millis);
                let admitted = plan.admitted_by(now);
                assert!(plan.enters_at(admitted).is_some_and(|enters| enters <= now), "{rate} {millis}");
                assert!(plan.enters_at(admitted + 1).is_some_and(|enters| enters > now), "{rate} {millis}");
            }
        }
    }

    #[test]
    fn a_token_is_waiting_then_active_then_expired() {
        let plan = AdmissionPlan::opening(OPEN, 60, 300);
        let issued = at(-10);
        assert_eq!(plan.standing(11, 11, issued, at(9)), Standing::Waiting { active_at: Some(at(10)) });
        assert_eq!(plan.standing(11, 11, issued, at(10)), Standing::Active { active_at: at(10), expires_at: at(310) });
        assert_eq!(
            plan.standing(11, 11, issued, at(310)),
            Standing::Expired { active_at: at(10), expires_at: at(310) }
        );
    }

    #[test]
    fn a_late_join_gets_the_whole_active_window_from_then() {
        let plan = AdmissionPlan::opening(OPEN, 6000, 300);
        let issued = at(3600);
        assert_eq!(plan.standing(5, 5, issued, issued), Standing::Active { active_at: issued, expires_at: at(3900) });
    }

    /// The plan after a change while people wait.
    fn changed(plan: &AdmissionPlan, at: Timestamp, rate_per_minute: u32) -> AdmissionPlan {
        plan.changed(0, at, PlanChange { opens_at: OPEN, rate_per_minute, active_seconds: 300, max_active: None })
            .unwrap()
    }

    #[test]
    fn a_pause_stops_all_turns_not_yet_admitted_and_no_others() {
        let plan = AdmissionPlan::opening(OPEN, 60, 300);
        let paused = changed(&plan, at(10), 0);
        assert_eq!(paused.enters_at(11), Some(at(10)), "admitted at the moment of the pause");
        assert_eq!(paused.standing(12, 12, OPEN, at(1000)), Standing::Waiting { active_at: None });
        assert_eq!(paused.admitted_by(at(1000)), 11);
        let resumed = changed(&paused, at(100), 60);
        assert_eq!(resumed.enters_at(12), Some(at(101)));
        assert_eq!(resumed.enters_at(11), Some(at(10)));
        assert_eq!(resumed.version, 3);
    }

    #[test]
    fn a_pause_stops_the_next_join_even_when_capacity_was_unused() {
        let plan = AdmissionPlan::opening(OPEN, 6000, 300);
        let paused = changed(&plan, at(60), 0);
        let next = paused.lapsed_by(at(61)) + 1;
        assert_eq!(paused.standing(next, next, at(61), at(62)), Standing::Waiting { active_at: None });
        assert!(matches!(paused.standing(2, 2, OPEN, at(62)), Standing::Active { .. }));
    }

    #[test]
    fn a_new_rate_never_revokes_admission_and_moves_all_others() {
        let slow = AdmissionPlan::opening(OPEN, 6, 300);
        let fast = changed(&slow, at(60), 600);
        for turn in 1..=slow.admitted_by(at(60)) {
            assert_eq!(fast.enters_at(turn), slow.enters_at(turn));
        }
        assert_eq!(fast.enters_at(8), Some(at(60).plus_millis(100)));
        assert_eq!(fast.enters_at(18), Some(at(61).plus_millis(100)));
    }

    #[test]
    fn a_change_takes_along_what_the_next_turn_has_waited_and_admits_nobody_by_itself() {
        let mut plan = AdmissionPlan::opening(OPEN, 1, 300);
        // The next turn comes after a minute. Half of it has passed when the rate doubles: half of 30 seconds are left.
        assert_eq!(changed(&plan, at(30), 2).enters_at(2), Some(at(45)));
        for second in 1..60 {
            plan = changed(&plan, at(second), 1 + (second % 2) as u32 * 119);
            assert!(plan.admitted_by(at(second)) <= 1 + second as u64, "{second}: {plan:?}");
        }
        let mut toggled = AdmissionPlan::opening(OPEN, 1, 300);
        for second in 1..30 {
            toggled = changed(&changed(&toggled, at(second), 0), at(second), 1);
        }
        assert_eq!(toggled.admitted_by(at(59)), 1, "thirty changes have admitted nobody");
        let off = toggled.enters_at(2).unwrap().millis_since(at(60));
        assert!((0..=60).contains(&off), "nor made anybody wait: {off} ms");
    }

    #[test]
    fn opening_later_moves_all_turns_while_none_is_admitted() {
        let plan = AdmissionPlan::opening(at(100), 60, 300);
        let change = PlanChange { opens_at: at(200), rate_per_minute: 60, active_seconds: 300, max_active: None };
        let later = plan.changed(0, at(10), change).unwrap();
        assert_eq!(later.enters_at(1), Some(at(200)));
        assert_eq!(later.segments.len(), 1);
    }

    #[test]
    fn a_turn_that_waited_through_a_pause_before_the_opening_gets_its_whole_active_window() {
        let plan = changed(&changed(&AdmissionPlan::opening(OPEN, 60, 3), at(-1), 0), at(100), 60);
        for turn in 1..=5 {
            let due = at(100 + turn as i64 - 1);
            assert!(matches!(plan.standing(turn, turn, at(-10), due), Standing::Active { .. }), "{turn}");
        }
        assert_eq!(plan.admitted_by(at(100)), 1, "the pause is not made up for by a rush");
    }

    #[test]
    fn capacity_that_nobody_used_is_made_up_for_up_to_a_minute() {
        let plan = AdmissionPlan::opening(OPEN, 6, 300);
        // Ten minutes after the opening fifty come to an empty line.
        let first = plan.lapsed_by(at(600)) + 1;
        let inside = (first..first + 50).filter(|turn| plan.enters_at(*turn).is_some_and(|enters| enters <= at(600)));
        assert_eq!(inside.count(), 6, "a minute's worth");
        assert_eq!(plan.enters_at(first + 6), Some(at(610)), "the others at the rate");
        // The same where the operator opens the empty line then, ten minutes in the past.
        let change = PlanChange { opens_at: OPEN, rate_per_minute: 6, active_seconds: 300, max_active: None };
        let opened = AdmissionPlan::opening(OPEN, 0, 300).changed(61, at(600), change).unwrap();
        let inside = (1..=50).filter(|turn| opened.enters_at(*turn).is_some_and(|enters| enters <= at(600)));
        assert_eq!(inside.count(), 6);
        assert_eq!(opened.enters_at(7), Some(at(610)));
    }

    #[test]
    fn nobody_enters_before_an_opening_that_was_postponed_whatever_went_by_unused() {
        let tomorrow = at(86_400);
        for (rate, unused) in [(600, 3_540_000), (600, 0), (0, 3_540_000)] {
            let change =
                PlanChange { opens_at: tomorrow, rate_per_minute: rate, active_seconds: 600, max_active: None };
            let later = AdmissionPlan::opening(OPEN, 60_000, 600).changed(unused, at(3_600), change).unwrap();
            let paused = changed(&later, at(3_700), 0);
            for (plan, now) in [(&later, at(3_601)), (&paused.changed(0, at(3_800), change).unwrap(), at(3_801))] {
                let next = plan.lapsed_by(now) + 1;
                for turn in [next, next + 1, next + 700] {
                    assert!(matches!(plan.standing(turn, turn, now, now), Standing::Waiting { .. }), "{rate} {turn}");
                }
            }
        }
    }

    #[test]
    fn a_change_gives_away_no_more_than_went_by_unused() {
        let mut plan = AdmissionPlan::opening(OPEN, 600, 600);
        for (second, unused) in [(600, 20), (603, 0), (606, 5)] {
            let before = plan.admitted_by(at(second));
            let change = PlanChange {
                opens_at: OPEN,
                rate_per_minute: 600 - second as u32 % 2,
                active_seconds: 600,
                max_active: None,
            };
            plan = plan.changed(unused, at(second), change).unwrap();
            assert_eq!(plan.admitted_by(at(second)), before + unused, "{second}");
        }
    }

    #[test]
    fn a_change_by_a_clock_that_is_behind_takes_effect_after_the_one_before_it() {
        let plan = changed(&AdmissionPlan::opening(OPEN, 60, 300), at(30), 0);
        let late = changed(&plan, at(10), 60);
        assert_eq!(late.changed_at, at(30));
        assert_eq!(late.admitted_by(at(30)), plan.admitted_by(at(30)));
    }

    #[test]
    fn changes_of_the_rate_expel_no_user() {
        let mut plan = AdmissionPlan::opening(OPEN, 60, 600);
        for round in 1..=60_u32 {
            let change =
                PlanChange { opens_at: OPEN, rate_per_minute: 60 + round, active_seconds: 5, max_active: None };
            plan = plan.changed(0, at(i64::from(round) * 10), change).unwrap();
        }
        assert!(matches!(plan.standing(1, 1, OPEN, at(599)), Standing::Active { .. }));
        assert!(matches!(plan.standing(30, 30, OPEN, at(599)), Standing::Expired { .. }), "nor let in again");
        assert!(plan.segments.len() <= 5, "{}", plan.segments.len());
    }

    #[test]
    fn a_plan_that_would_grow_too_long_is_not_changed() {
        let mut plan = AdmissionPlan::opening(OPEN, 60, 86_400);
        for round in 1..MAX_SEGMENTS as i64 {
            let change = PlanChange { opens_at: OPEN, rate_per_minute: 60, active_seconds: 86_400, max_active: None };
            plan = plan.changed(0, at(round * 60), change).unwrap();
        }
        assert_eq!(plan.segments.len(), MAX_SEGMENTS);
        let change = PlanChange { opens_at: OPEN, rate_per_minute: 1, active_seconds: 1, max_active: None };
        assert_eq!(plan.changed(0, at(20_000), change), None);
        for pause in 0..PAUSES as i64 / 2 {
            let from = at(20_000 + 2 * pause);
            plan = plan.changed(0, from, PlanChange { rate_per_minute: 0, ..change }).expect("a pause is");
            plan = plan.changed(0, from.plus_seconds(1), change).expect("and its end");
        }
        assert!(plan.changed(0, at(200_000), change).is_some(), "once places are over, it is");
    }
}
