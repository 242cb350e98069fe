//! The admission plan: when each position of the waiting room may enter, and the claims of a queue token.
//!
//! A token contains its position and when it was issued. Everything else follows from the plan and the clock, so a new
//! rate, a pause or a resume moves all waiting users at once without a write per user, and a status check reads no
//! per-user state. Waiting-room owns the plan; reservations enforces a copy.

use crate::{ConcertId, Timestamp, UserId};
use serde::{Deserialize, Serialize};

/// The most segments of a plan. Segments that are over are dropped with every change; beyond this many, the oldest are
/// dropped too, and their positions count as expired.
pub const MAX_SEGMENTS: usize = 50;

/// From one position on: when it enters and how fast the positions behind it follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The first position of this segment, from 1.
    pub from_position: u64,
    /// When that position enters.
    pub from_time: Timestamp,
    /// Positions a minute; 0 pauses.
    pub rate_per_minute: u32,
    /// How long an admitted position stays active, in seconds.
    pub active_seconds: u32,
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

impl AdmissionPlan {
    /// A plan whose first position enters at `opens_at`.
    pub fn opening(opens_at: Timestamp, rate_per_minute: u32, active_seconds: u32) -> Self {
        let first = Segment { from_position: 1, from_time: opens_at, rate_per_minute, active_seconds };
        Self { version: 1, opens_at, segments: vec![first] }
    }

    fn segment_of(&self, position: u64) -> Option<&Segment> {
        self.segments.iter().rev().find(|segment| segment.from_position <= position)
    }

    /// When the plan lets a position enter; `None` while that is unknown (paused) or its segment has been dropped.
    pub fn enters_at(&self, position: u64) -> Option<Timestamp> {
        let segment = self.segment_of(position)?;
        if segment.rate_per_minute == 0 {
            return None;
        }
        let behind = u128::from(position - segment.from_position);
        let wait = behind * 60_000 / u128::from(segment.rate_per_minute);
        Some(segment.from_time.plus_millis(i64::try_from(wait).unwrap_or(i64::MAX)))
    }

    /// The standing at `now` of a token of `position`, issued at `issued_at`.
    ///
    /// Its time starts when the plan admits the position, or when the token was issued if that is later: a place that
    /// was due before a user took it must not be expired from the start.
    pub fn standing(&self, position: u64, issued_at: Timestamp, now: Timestamp) -> Standing {
        let Some(segment) = self.segment_of(position) else {
            return Standing::Expired { active_at: issued_at, expires_at: issued_at };
        };
        let Some(enters_at) = self.enters_at(position) else { return Standing::Waiting { active_at: None } };
        let active_at = enters_at.max(issued_at);
        let expires_at = active_at.plus_seconds(i64::from(segment.active_seconds));
        if now < active_at {
            Standing::Waiting { active_at: Some(active_at) }
        } else if now < expires_at {
            Standing::Active { active_at, expires_at }
        } else {
            Standing::Expired { active_at, expires_at }
        }
    }

    /// How many positions the plan has admitted by `now`, whether or not they were given out.
    pub fn admitted_by(&self, now: Timestamp) -> u64 {
        let Some(first) = self.segments.first() else { return 0 };
        let mut admitted = first.from_position - 1;
        for (index, segment) in self.segments.iter().enumerate() {
            let end = self.segments.get(index + 1).map_or(u64::MAX, |next| next.from_position);
            let elapsed = now.millis_since(segment.from_time);
            if elapsed < 0 || segment.rate_per_minute == 0 {
                continue;
            }
            // enters_at rounds down to the millisecond, so count with that rounding: the largest p with
            // floor(p * 60000 / rate) <= elapsed.
            let rate = u128::from(segment.rate_per_minute);
            let behind = ((elapsed as u128 + 1) * rate).div_ceil(60_000) - 1;
            let last = segment.from_position.saturating_add(u64::try_from(behind).unwrap_or(u64::MAX));
            admitted = admitted.max(last.min(end.saturating_sub(1)));
        }
        admitted
    }

    /// How many positions before `position` are not admitted yet at `now`.
    pub fn ahead_of(&self, position: u64, now: Timestamp) -> u64 {
        position.saturating_sub(1).saturating_sub(self.admitted_by(now))
    }

    /// Removes the segments in which the last place has expired: at the beginning they are dropped, and their places
    /// count as expired; behind a segment that is still needed they become one with an active time of zero.
    fn without_over(&self, segments: Vec<Segment>, now: Timestamp) -> Vec<Segment> {
        let is_over = |segment: &Segment, next: Option<&Segment>| {
            let Some(next) = next else { return false };
            let entered = self.enters_at(next.from_position - 1).unwrap_or(next.from_time).max(next.from_time);
            entered.plus_seconds(i64::from(segment.active_seconds)) < now
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

    /// The plan after an operator's change at `now`, in force for all positions not admitted yet.
    ///
    /// `issued` is the highest position given out. Positions admitted by `now` stay admitted. The new segment starts
    /// behind the last admitted position that was *given out*, not behind unused capacity, so that a pause applies to
    /// the next user who joins.
    pub fn changed(&self, issued: u64, now: Timestamp, change: PlanChange) -> Self {
        let admitted = self.admitted_by(now).min(issued);
        let from_position = admitted + 1;
        let segment = Segment {
            from_position,
            // An opening in the past counts only while no position has been given out.
            from_time: if issued == 0 { change.opens_at } else { change.opens_at.max(now) },
            rate_per_minute: change.rate_per_minute,
            active_seconds: change.active_seconds,
        };
        let mut segments: Vec<Segment> =
            self.segments.iter().filter(|old| old.from_position < from_position).cloned().collect();
        segments.push(segment);
        let mut segments = self.without_over(segments, now);
        let surplus = segments.len().saturating_sub(MAX_SEGMENTS);
        segments.drain(..surplus);
        Self { version: self.version + 1, opens_at: change.opens_at, segments }
    }
}

/// An operator's change of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanChange {
    /// When the sale opens; no further user enters before.
    pub opens_at: Timestamp,
    /// Positions a minute; 0 pauses.
    pub rate_per_minute: u32,
    /// How long an admitted position stays active, in seconds.
    pub active_seconds: u32,
}

/// The claims of a queue token (a JWT signed by waiting-room, HS256, `kid` in the header).
///
/// `active_at` and `expires_at` are as planned when the token was issued; the plan in force decides.
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
    /// When it was issued, epoch milliseconds.
    pub issued_at: Timestamp,
    /// When the plan was to admit it, epoch milliseconds; absent if paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_at: Option<Timestamp>,
    /// When its active window was to end, epoch milliseconds; absent if paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was issued, epoch seconds (RFC 7519).
    pub iat: i64,
    /// When it expires for good, whatever the plan, epoch seconds (RFC 7519).
    pub exp: i64,
}

/// `iss` of a queue token.
pub const QUEUE_TOKEN_ISSUER: &str = "encore/waiting-room";
/// How long a queue token lives, in seconds after its planned active window ends, or after it was issued if that was
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
        assert_eq!(plan.standing(11, issued, at(9)), Standing::Waiting { active_at: Some(at(10)) });
        assert_eq!(plan.standing(11, issued, at(10)), Standing::Active { active_at: at(10), expires_at: at(310) });
        assert_eq!(plan.standing(11, issued, at(310)), Standing::Expired { active_at: at(10), expires_at: at(310) });
    }

    #[test]
    fn a_late_join_gets_the_whole_active_window_from_then() {
        let plan = AdmissionPlan::opening(OPEN, 6000, 300);
        let issued = at(3600);
        assert_eq!(plan.standing(5, issued, issued), Standing::Active { active_at: issued, expires_at: at(3900) });
    }

    #[test]
    fn a_pause_stops_all_positions_not_yet_admitted_and_no_others() {
        let plan = AdmissionPlan::opening(OPEN, 60, 300);
        let paused = plan.changed(100, at(10), PlanChange { opens_at: OPEN, rate_per_minute: 0, active_seconds: 300 });
        assert_eq!(paused.enters_at(11), Some(at(10)), "admitted at the moment of the pause");
        assert_eq!(paused.standing(12, OPEN, at(1000)), Standing::Waiting { active_at: None });
        assert_eq!(paused.admitted_by(at(1000)), 11);
        let resumed =
            paused.changed(100, at(100), PlanChange { opens_at: OPEN, rate_per_minute: 60, active_seconds: 300 });
        assert_eq!(resumed.enters_at(12), Some(at(100)));
        assert_eq!(resumed.enters_at(11), Some(at(10)));
        assert_eq!(resumed.version, 3);
    }

    #[test]
    fn a_pause_stops_the_next_join_even_when_capacity_was_unused() {
        let plan = AdmissionPlan::opening(OPEN, 6000, 300);
        let paused = plan.changed(2, at(60), PlanChange { opens_at: OPEN, rate_per_minute: 0, active_seconds: 300 });
        assert_eq!(paused.standing(3, at(61), at(62)), Standing::Waiting { active_at: None });
        assert!(matches!(paused.standing(2, OPEN, at(62)), Standing::Active { .. }));
    }

    #[test]
    fn a_new_rate_never_revokes_admission_and_moves_all_others() {
        let slow = AdmissionPlan::opening(OPEN, 6, 300);
        let fast = slow.changed(1000, at(60), PlanChange { opens_at: OPEN, rate_per_minute: 600, active_seconds: 60 });
        for position in 1..=slow.admitted_by(at(60)) {
            assert_eq!(fast.enters_at(position), slow.enters_at(position));
        }
        assert_eq!(fast.enters_at(8), Some(at(60)));
        assert_eq!(fast.enters_at(18), Some(at(61)));
    }

    #[test]
    fn opening_later_moves_all_positions_while_none_is_admitted() {
        let plan = AdmissionPlan::opening(at(100), 60, 300);
        let later =
            plan.changed(50, at(10), PlanChange { opens_at: at(200), rate_per_minute: 60, active_seconds: 300 });
        assert_eq!(later.enters_at(1), Some(at(200)));
        assert_eq!(later.segments.len(), 1);
    }

    #[test]
    fn a_position_that_waited_through_a_pause_before_the_opening_gets_its_whole_active_window() {
        let change = |rate| PlanChange { opens_at: OPEN, rate_per_minute: rate, active_seconds: 3 };
        let plan = AdmissionPlan::opening(OPEN, 60, 3).changed(5, at(-1), change(0)).changed(5, at(100), change(60));
        for position in 1..=5 {
            let due = at(100 + position as i64 - 1);
            assert!(matches!(plan.standing(position, at(-10), due), Standing::Active { .. }), "{position}");
        }
        assert_eq!(plan.admitted_by(at(100)), 1, "the pause is not made up for by a rush");
    }

    #[test]
    fn changes_of_the_rate_expel_no_user() {
        let mut plan = AdmissionPlan::opening(OPEN, 60, 600);
        for round in 1..=60_u32 {
            let change = PlanChange { opens_at: OPEN, rate_per_minute: 60 + round, active_seconds: 5 };
            plan = plan.changed(u64::from(round), at(i64::from(round) * 10), change);
        }
        assert!(matches!(plan.standing(1, OPEN, at(599)), Standing::Active { .. }));
        assert!(matches!(plan.standing(30, OPEN, at(599)), Standing::Expired { .. }), "nor let in again");
        assert!(plan.segments.len() <= 4, "{}", plan.segments.len());
    }

    #[test]
    fn a_plan_never_grows_without_bound() {
        let mut plan = AdmissionPlan::opening(OPEN, 60, 300);
        for round in 1..200 {
            plan = plan.changed(
                u64::MAX,
                at(round * 60),
                PlanChange { opens_at: OPEN, rate_per_minute: 60, active_seconds: 300 },
            );
        }
        assert!(plan.segments.len() <= MAX_SEGMENTS);
    }
}
