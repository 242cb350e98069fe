//! Places in line, their status, and changes of the admission plan.

use contracts::admission::{
    AdmissionPlan, PlanChange, QUEUE_TOKEN_ISSUER, QUEUE_TOKEN_LIFE_SECONDS, QueueTokenClaims, Standing,
};
use contracts::{ConcertId, Invalid, Timestamp, UserId};
use std::str::FromStr;

/// The most counter shards a line can have. All of them are rewritten in one transaction (of at most 100 writes) when
/// the plan changes.
pub const MAX_SHARDS: u32 = 64;
/// The fastest admission, in positions a minute.
pub const MAX_RATE_PER_MINUTE: i64 = 1_000_000;
/// The longest time inside, in seconds: a day.
pub const MAX_ACTIVE_SECONDS: i64 = 86_400;
/// How many positions share one page of used places.
pub const PAGE_POSITIONS: u64 = 128;
/// How many tombstones of undone payments a page keeps. A tombstone has to outlive a late try of a step (seconds).
pub const KEPT_TOMBSTONES: usize = 512;

/// The poll interval while no change is expected, in milliseconds.
const CALM_POLL_MILLIS: u64 = 30_000;
/// The poll interval while admission is paused.
const PAUSED_POLL_MILLIS: u64 = 5_000;
/// The shortest poll interval, in milliseconds.
const SHORTEST_POLL_MILLIS: i64 = 1_000;
/// The longest poll interval before jitter: with full jitter (a ninth) it is [`CALM_POLL_MILLIS`].
const LONGEST_POLL_MILLIS: i64 = 27_000;

/// The number of counters over which a line's positions are interleaved, 1 to [`MAX_SHARDS`]. Fixed when the line is
/// opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardCount(u32);

impl ShardCount {
    /// One counter: the order of positions is the order of joining.
    pub const ONE: Self = Self(1);

    /// Parses a number of shards.
    pub fn new(count: u64) -> Result<Self, Invalid> {
        u32::try_from(count)
            .ok()
            .filter(|count| (1..=MAX_SHARDS).contains(count))
            .map(Self)
            .ok_or(Invalid::new("QUEUE_SHARDS", "must be 1 to 64"))
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The position of the `count`-th place (from 1) of `shard` (from 0). Two shards never give the same one.
    pub fn position(self, shard: u32, count: u64) -> u64 {
        let before = count.saturating_sub(1).saturating_mul(u64::from(self.0));
        before.saturating_add(u64::from(shard)).saturating_add(1)
    }
}

impl FromStr for ShardCount {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.parse().map_err(|_| Invalid::new("QUEUE_SHARDS", "must be 1 to 64")).and_then(Self::new)
    }
}

/// The plan of a concert for which no operator has set one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DefaultAdmission {
    /// All users are admitted: 60,000 a minute, ten minutes each.
    #[default]
    Open,
    /// No user is admitted until an operator changes the plan.
    Closed,
}

impl DefaultAdmission {
    /// The plan of a concert created at `created_at`.
    pub fn plan(self, created_at: Timestamp) -> AdmissionPlan {
        let rate_per_minute = match self {
            Self::Open => 60_000,
            Self::Closed => 0,
        };
        AdmissionPlan::opening(created_at, rate_per_minute, 600)
    }
}

impl FromStr for DefaultAdmission {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "open" => Ok(Self::Open),
            "closed" => Ok(Self::Closed),
            _ => Err(Invalid::new("ADMISSION_DEFAULT", "must be open or closed")),
        }
    }
}

/// The component that enforces admission plans. It receives a new plan before the change is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EnforcedBy {
    /// The context reservations.
    #[default]
    Reservations,
    /// None in this system: the waiting room is deployed alone.
    Nobody,
}

impl FromStr for EnforcedBy {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "reservations" => Ok(Self::Reservations),
            "nobody" => Ok(Self::Nobody),
            _ => Err(Invalid::new("ADMISSION_ENFORCED_BY", "must be reservations or nobody")),
        }
    }
}

/// Parses an operator's change of the plan.
pub fn plan_change(opens_at: Timestamp, rate_per_minute: i64, active_seconds: i64) -> Result<PlanChange, Invalid> {
    let within = |value: i64, least: i64, most: i64, wrong: Invalid| {
        u32::try_from(value).ok().filter(|_| (least..=most).contains(&value)).ok_or(wrong)
    };
    let rate = Invalid::new("rate_per_minute", "must be 0 to 1000000");
    let active = Invalid::new("active_seconds", "must be 1 to 86400");
    Ok(PlanChange {
        opens_at,
        rate_per_minute: within(rate_per_minute, 0, MAX_RATE_PER_MINUTE, rate)?,
        active_seconds: within(active_seconds, 1, MAX_ACTIVE_SECONDS, active)?,
    })
}

/// A position given out, with the plan then in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The position, from 1.
    pub position: u64,
    pub plan: AdmissionPlan,
}

/// Why no position was given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotIssued {
    /// This concert has no line.
    UnknownConcert,
    /// Joining before the sale opens is off, and the sale has not opened.
    NotOpen {
        /// When it opens.
        opens_at: Timestamp,
    },
}

/// The status of a place in line at a given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Not admitted yet.
    Waiting,
    /// Inside.
    Active,
    /// Was inside.
    Expired,
    /// Spent on a payment.
    Used,
}

impl Status {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Used => "used",
        }
    }
}

/// A place in line, as its holder sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub status: Status,
    /// The position, from 1.
    pub position: u64,
    /// How many positions enter before it.
    pub ahead: u64,
    /// When it enters or entered; unknown while paused.
    pub active_at: Option<Timestamp>,
    /// When its time inside ends or ended.
    pub expires_at: Option<Timestamp>,
    /// When to poll again, in milliseconds from now.
    pub poll_after_millis: u64,
}

impl Place {
    /// The place that the plan gives `position`, issued at `issued_at`, at `now`. The plan does not know whether it is
    /// spent.
    pub fn by_plan(plan: &AdmissionPlan, position: u64, issued_at: Timestamp, now: Timestamp) -> Self {
        let calm = |status, active_at, expires_at| Self {
            status,
            position,
            ahead: 0,
            active_at: Some(active_at),
            expires_at: Some(expires_at),
            poll_after_millis: CALM_POLL_MILLIS,
        };
        match plan.standing(position, issued_at, now) {
            Standing::Active { active_at, expires_at } => calm(Status::Active, active_at, expires_at),
            Standing::Expired { active_at, expires_at } => calm(Status::Expired, active_at, expires_at),
            Standing::Waiting { active_at } => Self {
                status: Status::Waiting,
                position,
                ahead: plan.ahead_of(position, now),
                active_at,
                expires_at: active_at.and_then(|entry| end_of(plan, position, issued_at, entry)),
                poll_after_millis: active_at
                    .map_or(PAUSED_POLL_MILLIS, |entry| poll_after_millis(position, entry.millis_since(now))),
            },
        }
    }

    /// The same place, spent.
    #[must_use]
    pub fn used(self) -> Self {
        Self { status: Status::Used, ahead: 0, poll_after_millis: CALM_POLL_MILLIS, ..self }
    }

    /// The place of a token that has outlived its `exp`, whatever the plan now in force.
    pub fn outlived(claims: &QueueTokenClaims) -> Self {
        Self {
            status: Status::Expired,
            position: claims.position,
            ahead: 0,
            active_at: claims.active_at,
            expires_at: claims.expires_at,
            poll_after_millis: CALM_POLL_MILLIS,
        }
    }

    /// The claims of the token for this place, issued at `now`.
    pub fn claims(&self, user: UserId, concert_id: ConcertId, now: Timestamp) -> QueueTokenClaims {
        QueueTokenClaims {
            iss: QUEUE_TOKEN_ISSUER.to_owned(),
            sub: user,
            concert_id,
            position: self.position,
            issued_at: now,
            active_at: self.active_at,
            expires_at: self.expires_at,
            iat: now.millis().div_euclid(1_000),
            exp: self.expires_at.unwrap_or(now).plus_seconds(QUEUE_TOKEN_LIFE_SECONDS).ttl_seconds(),
        }
    }
}

/// When the active window of a place that enters at `entry` ends.
fn end_of(plan: &AdmissionPlan, position: u64, issued_at: Timestamp, entry: Timestamp) -> Option<Timestamp> {
    match plan.standing(position, issued_at, entry) {
        Standing::Active { expires_at, .. } | Standing::Expired { expires_at, .. } => Some(expires_at),
        Standing::Waiting { .. } => None,
    }
}

/// About half of the remaining time: polls become more frequent as the turn comes near, and a turn that a faster rate
/// brings forward is noticed early. The jitter follows from the position, so that users who joined together do not poll
/// together.
fn poll_after_millis(position: u64, remaining_millis: i64) -> u64 {
    let half = (remaining_millis / 2).clamp(SHORTEST_POLL_MILLIS, LONGEST_POLL_MILLIS).unsigned_abs();
    // Fibonacci hashing: neighbours hash far apart.
    let thousandths = (position.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % 1_000;
    half + half * thousandths / 9_000
}

/// The line of a concert as read for a change: the plan in force and the counts of all shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub plan: AdmissionPlan,
    /// How many places each shard has given out; never empty.
    pub issued: Vec<u64>,
}

impl Line {
    /// The highest position given out when each shard may have given out `allowance` more; 0 if none.
    pub fn highest_position(&self, allowance: u64) -> u64 {
        let shards = ShardCount(u32::try_from(self.issued.len()).unwrap_or(u32::MAX));
        let highest_of = |(shard, issued): (u32, &u64)| match issued.saturating_add(allowance) {
            0 => 0,
            count => shards.position(shard, count),
        };
        (0..).zip(&self.issued).map(highest_of).max().unwrap_or(0)
    }

    /// The plan after a change at `now`; `None` when the requested values are in force already, so that a repeated
    /// request changes nothing.
    pub fn changed(&self, allowance: u64, now: Timestamp, change: PlanChange) -> Option<AdmissionPlan> {
        let in_force = self.plan.opens_at == change.opens_at
            && self.plan.segments.last().is_some_and(|last| {
                (last.rate_per_minute, last.active_seconds) == (change.rate_per_minute, change.active_seconds)
            });
        (!in_force).then(|| self.plan.changed(self.highest_position(allowance), now, change))
    }
}

/// The page that records whether a position is spent.
pub const fn page_of(position: u64) -> u64 {
    position / PAGE_POSITIONS
}

/// The outcome of spending a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// It is spent now.
    Now,
    /// This payment had spent it before.
    Before,
    /// The payment was undone first: it must no longer spend the place.
    Undone,
}

/// The tombstones that a page with too many can drop: all but the newest [`KEPT_TOMBSTONES`]. Payment ids sort by the
/// time they were generated.
pub fn forgettable(mut tombstones: Vec<String>) -> Vec<String> {
    tombstones.sort_unstable();
    tombstones.truncate(tombstones.len().saturating_sub(KEPT_TOMBSTONES));
    tombstones
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const OPEN: Timestamp = Timestamp::from_millis(1_000_000);

    fn at(seconds: i64) -> Timestamp {
        OPEN.plus_seconds(seconds)
    }

    fn change(rate_per_minute: u32) -> PlanChange {
        PlanChange { opens_at: OPEN, rate_per_minute, active_seconds: 300 }
    }

    #[test]
    fn positions_of_all_shards_are_unique_and_without_gaps() {
        for shards in [1, 2, 3, 64] {
            let count = ShardCount::new(shards).unwrap();
            let positions: HashSet<u64> =
                (0..count.get()).flat_map(|shard| (1..=100).map(move |n| count.position(shard, n))).collect();
            assert_eq!(positions.len() as u64, shards * 100);
            assert_eq!(positions.iter().min(), Some(&1));
            assert_eq!(positions.iter().max(), Some(&(shards * 100)));
        }
    }

    #[test]
    fn one_shard_gives_places_in_join_order() {
        assert_eq!((1..=5).map(|n| ShardCount::ONE.position(0, n)).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_line_has_1_to_64_shards() {
        for bad in ["0", "65", "-1", "two", "", "18446744073709551616"] {
            assert!(bad.parse::<ShardCount>().is_err(), "{bad:?}");
        }
        assert_eq!("64".parse::<ShardCount>().unwrap().get(), 64);
    }

    #[test]
    fn the_default_plan_admits_all_users_or_none() {
        let open = "open".parse::<DefaultAdmission>().unwrap().plan(OPEN);
        assert_eq!(Place::by_plan(&open, 1, OPEN, OPEN).status, Status::Active);
        let closed = "closed".parse::<DefaultAdmission>().unwrap().plan(OPEN);
        assert_eq!(Place::by_plan(&closed, 1, OPEN, at(3_600)).status, Status::Waiting);
        assert!("ajar".parse::<DefaultAdmission>().is_err());
    }

    #[test]
    fn reservations_enforces_plans_unless_the_stage_sets_nobody() {
        assert_eq!(EnforcedBy::default(), "reservations".parse().unwrap());
        assert_eq!(EnforcedBy::Nobody, "nobody".parse().unwrap());
        assert!("somebody".parse::<EnforcedBy>().is_err());
    }

    #[test]
    fn a_change_outside_its_limits_is_refused() {
        for (rate, active) in [(-1, 300), (MAX_RATE_PER_MINUTE + 1, 300), (60, 0), (60, MAX_ACTIVE_SECONDS + 1)] {
            assert!(plan_change(OPEN, rate, active).is_err(), "{rate} {active}");
        }
        assert!(plan_change(OPEN, i64::MAX, i64::MIN).is_err());
        assert!(plan_change(OPEN, 0, 1).is_ok());
        assert!(plan_change(OPEN, MAX_RATE_PER_MINUTE, MAX_ACTIVE_SECONDS).is_ok());
    }

    #[test]
    fn a_waiting_place_has_its_entry_and_its_end() {
        let plan = AdmissionPlan::opening(OPEN, 60, 300);
        let place = Place::by_plan(&plan, 100, at(-10), at(9));
        assert_eq!(place.status, Status::Waiting);
        assert_eq!(place.ahead, 89);
        assert_eq!((place.active_at, place.expires_at), (Some(at(99)), Some(at(399))));
    }

    #[test]
    fn a_place_waiting_during_a_pause_has_no_times_and_polls_every_five_seconds() {
        let place = Place::by_plan(&AdmissionPlan::opening(OPEN, 0, 300), 3, OPEN, at(10));
        assert_eq!((place.status, place.ahead), (Status::Waiting, 2));
        assert_eq!((place.active_at, place.expires_at, place.poll_after_millis), (None, None, PAUSED_POLL_MILLIS));
    }

    #[test]
    fn a_used_place_has_nobody_ahead_and_keeps_its_times() {
        let plan = AdmissionPlan::opening(OPEN, 60, 300);
        let place = Place::by_plan(&plan, 2, OPEN, at(10));
        let used = place.used();
        assert_eq!((place.status, used.status), (Status::Active, Status::Used));
        assert_eq!((used.active_at, used.expires_at), (Some(at(1)), Some(at(301))));
    }

    #[test]
    fn the_poll_interval_is_about_half_the_wait_between_1_and_30_seconds() {
        for position in [1, 2, 3, 1_000, u64::MAX] {
            for remaining in [i64::MIN, -1, 0, 1, 1_999, 10_000, 60_000, i64::MAX] {
                let poll = poll_after_millis(position, remaining);
                assert!((1_000..=30_000).contains(&poll), "{position} {remaining} {poll}");
            }
            let poll = poll_after_millis(position, 20_000);
            assert!((10_000..=11_200).contains(&poll), "{poll}");
            assert_eq!(poll, poll_after_millis(position, 20_000), "the same place always waits the same");
        }
        let spread: HashSet<u64> = (1..=100).map(|position| poll_after_millis(position, 60_000)).collect();
        assert!(spread.len() > 80, "only {} different waits", spread.len());
    }

    #[test]
    fn a_token_lives_30_days_longer_than_its_place() {
        let (alice, concert) = (UserId::parse("alice").unwrap(), ConcertId::parse("c1").unwrap());
        let life = QUEUE_TOKEN_LIFE_SECONDS;
        let seconds = OPEN.millis() / 1_000;
        let plan = AdmissionPlan::opening(OPEN, 60, 300);
        let claims = Place::by_plan(&plan, 61, at(-10), at(-10)).claims(alice.clone(), concert.clone(), at(-10));
        assert_eq!((claims.iat, claims.exp), (seconds - 10, seconds + 60 + 300 + life));
        assert_eq!((claims.active_at, claims.expires_at), (Some(at(60)), Some(at(360))));
        let paused = Place::by_plan(&AdmissionPlan::opening(OPEN, 0, 300), 61, OPEN, OPEN).claims(alice, concert, OPEN);
        assert_eq!(paused.exp, seconds + life);
        assert_eq!(Place::outlived(&paused).status, Status::Expired);
    }

    #[test]
    fn a_plan_that_never_opens_neither_overflows_nor_panics() {
        let plan = AdmissionPlan::opening(Timestamp::MAX, 1, 86_400);
        let place = Place::by_plan(&plan, u64::MAX, OPEN, OPEN);
        assert_eq!((place.status, place.active_at, place.expires_at), {
            (Status::Waiting, Some(Timestamp::MAX), Some(Timestamp::MAX))
        });
    }

    #[test]
    fn the_highest_position_is_that_of_the_fullest_shard() {
        let line = |issued: &[u64]| Line { plan: AdmissionPlan::opening(OPEN, 60, 300), issued: issued.into() };
        assert_eq!(line(&[0]).highest_position(0), 0);
        assert_eq!(line(&[7]).highest_position(0), 7);
        assert_eq!(line(&[2, 3, 2]).highest_position(0), 8, "(3 - 1) * 3 + 1 + 1");
        assert_eq!(line(&[2, 3, 2]).highest_position(1_000), 8 + 3 * 1_000);
        assert_eq!(line(&[0, 0]).highest_position(10), 20);
    }

    #[test]
    fn repeating_a_change_changes_nothing() {
        let before = Line { plan: AdmissionPlan::opening(OPEN, 60, 300), issued: vec![100] };
        let plan = before.changed(0, at(10), change(6)).unwrap();
        let after = Line { plan, issued: vec![120] };
        assert_eq!(after.changed(0, at(11), change(6)), None);
        assert_eq!(after.changed(0, at(11), change(7)).unwrap().version, 3);
        assert_eq!(after.changed(0, at(11), PlanChange { opens_at: at(500), ..change(6) }).unwrap().version, 3);
    }

    #[test]
    fn an_active_place_stays_active_even_if_it_was_taken_during_the_change() {
        let line = Line { plan: AdmissionPlan::opening(OPEN, 60_000, 300), issued: vec![2] };
        let strict = line.changed(0, at(60), change(0)).unwrap();
        assert_eq!(Place::by_plan(&strict, 3, at(60), at(61)).status, Status::Waiting);
        let lenient = line.changed(1_000, at(60), change(0)).unwrap();
        assert_eq!(Place::by_plan(&lenient, 1_002, at(60), at(61)).status, Status::Active);
        assert_eq!(Place::by_plan(&lenient, 1_003, at(60), at(61)).status, Status::Waiting);
    }

    #[test]
    fn a_page_drops_only_the_oldest_tombstones() {
        let ids: Vec<String> = (0..KEPT_TOMBSTONES + 2).map(|number| format!("p{number:06}")).rev().collect();
        assert_eq!(forgettable(ids), ["p000000", "p000001"]);
        assert_eq!(forgettable(vec!["p1".into()]), Vec::<String>::new());
    }
}
