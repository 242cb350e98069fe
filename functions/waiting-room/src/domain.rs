//! Places in line, their status, and changes of the admission plan.

use contracts::admission::{
    AdmissionPlan, Before, Given, GivenOut, PlanChange, QUEUE_TOKEN_ISSUER, QUEUE_TOKEN_LIFE_SECONDS, QueueTokenClaims,
    Standing,
};
use contracts::{ConcertId, Invalid, Timestamp, UserId};
use std::collections::{BTreeSet, HashMap};
use std::str::FromStr;

/// The most counters a line can have: all are read in one `BatchGetItem` (of at most 100 keys).
pub const MAX_SHARDS: u32 = 64;
/// The fastest admission, in turns a minute.
pub const MAX_RATE_PER_MINUTE: u32 = 1_000_000;
/// The longest time inside, in seconds: a day.
pub const MAX_ACTIVE_SECONDS: i64 = 86_400;
/// The highest cap on how many are inside at once.
pub const MAX_MAX_ACTIVE: i64 = 1_000_000;
/// How many positions share one page of used places.
pub const PAGE_POSITIONS: u64 = 128;
/// How long a request may take from claiming a place to being given one, in milliseconds. After that another may claim.
pub const CLAIM_MILLIS: i64 = 5_000;
/// After how many places that a user gave up in a line one that waits is kept. The turn of each stays empty and costs those
/// behind it time.
pub const MAX_GIVEN_UP_WAITING: u64 = 3;
/// After how many one is kept whose holder is inside. They have had a turn, which nobody else gets.
pub const MAX_GIVEN_UP: u64 = 10;
/// How many places a second one counter gives out before a line gets more of them: less than an item takes.
pub const BUSY_PER_SECOND: i64 = 400;

/// How many tombstones of undone payments a page keeps. A tombstone has to outlive a late try of a step (seconds).
pub const KEPT_TOMBSTONES: usize = 512;

/// The shortest wait between two status checks, in milliseconds.
const SHORTEST_POLL_MILLIS: u64 = 1_000;
/// How long to wait where nothing is to be expected soon, before jitter, in milliseconds.
pub const CALM_POLL_MILLIS: u64 = 30_000;
/// The shortest wait of who waits at a gate, before jitter: as long as looks at it are apart.
const GATE_POLL_MILLIS: u64 = 5_000;
/// The longest wait, before jitter.
const LONGEST_POLL_MILLIS: u64 = 540_000;
/// How many status checks of one place a process answers in a row.
const CHECKS_AT_ONCE: i64 = 20;
/// After how long one more is, in milliseconds.
const CHECK_EVERY_MILLIS: i64 = 1_000;
/// Of how many places a process keeps in mind how often they were checked.
const CHECKED_PLACES: usize = 10_000;

/// The number of counters over which positions are interleaved, 1 to [`MAX_SHARDS`]. Fixed for a [`CounterSet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
pub fn plan_change(
    opens_at: Timestamp,
    rate_per_minute: i64,
    active_seconds: i64,
    max_active: Option<i64>,
) -> Result<PlanChange, Invalid> {
    let within = |value: i64, least: i64, most: i64, wrong: Invalid| {
        u32::try_from(value).ok().filter(|_| (least..=most).contains(&value)).ok_or(wrong)
    };
    let rate = Invalid::new("rate_per_minute", "must be 0 to 1000000");
    let active = Invalid::new("active_seconds", "must be 1 to 86400");
    let cap = Invalid::new("max_active", "must be 1 to 1000000");
    Ok(PlanChange {
        opens_at,
        rate_per_minute: within(rate_per_minute, 0, MAX_RATE_PER_MINUTE.into(), rate)?,
        active_seconds: within(active_seconds, 1, MAX_ACTIVE_SECONDS, active)?,
        max_active: max_active.map(|most| within(most, 1, MAX_MAX_ACTIVE, cap)).transpose()?,
    })
}

/// A place as it was given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Issued {
    /// The position, from 1: what a place is known by. Unique; without gaps while the line has one counter.
    pub position: u64,
    /// The turn, from 1: what the plan is asked about. Turns are skipped that nobody was there for.
    pub turn: u64,
    pub issued_at: Timestamp,
}

/// The row that gives a user no more than one place in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceRow {
    /// The request that the place was, or is being, given to.
    pub claim: String,
    pub claimed_at: Timestamp,
    /// The place; none yet, or none any more.
    pub place: Option<Issued>,
    /// How many places the user gave up.
    pub given_up: u64,
    /// When the last of them was.
    pub left_at: Timestamp,
}

impl PlaceRow {
    /// When the claim of a row was made that no request has any more.
    pub const RELEASED: Timestamp = Timestamp::from_millis(0);

    /// Whether no request is being given a place any more, and none has one.
    pub fn is_free(&self, now: Timestamp) -> bool {
        self.place.is_none() && now.millis_since(self.claimed_at) >= CLAIM_MILLIS
    }

    /// Whether the request that claimed it died before its place was kept.
    pub fn was_abandoned(&self) -> bool {
        self.place.is_none() && self.claimed_at != Self::RELEASED
    }
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
    /// Spent on a payment, or given up.
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
    /// How many turns come before its own.
    pub ahead: u64,
    /// When it enters or entered; unknown while paused.
    pub active_at: Option<Timestamp>,
    /// When its time inside ends or ended.
    pub expires_at: Option<Timestamp>,
}

impl Place {
    /// What the plan makes of a place at `now`. The plan does not know whether it is spent.
    pub fn by_plan(plan: &AdmissionPlan, issued: &Issued, now: Timestamp) -> Self {
        let Issued { position, turn, issued_at } = *issued;
        let calm = |status, active_at, expires_at| Self {
            status,
            position,
            ahead: 0,
            active_at: Some(active_at),
            expires_at: Some(expires_at),
        };
        match plan.standing(position, turn, issued_at, now) {
            Standing::Active { active_at, expires_at } => calm(Status::Active, active_at, expires_at),
            Standing::Expired { active_at, expires_at } => calm(Status::Expired, active_at, expires_at),
            Standing::Waiting { active_at } => Self {
                status: Status::Waiting,
                position,
                ahead: plan.ahead_of(turn, now),
                active_at,
                expires_at: active_at.and_then(|entry| end_of(plan, issued, entry)),
            },
        }
    }

    /// The same place, used.
    #[must_use]
    pub fn used(self) -> Self {
        Self { status: Status::Used, ahead: 0, ..self }
    }

    /// The place of a token that has outlived its `exp`, whatever the plan now in force.
    pub fn outlived(claims: &QueueTokenClaims) -> Self {
        Self {
            status: Status::Expired,
            position: claims.position,
            ahead: 0,
            active_at: claims.active_at,
            expires_at: claims.expires_at,
        }
    }

    /// The claims of a token for this place, signed at `now`.
    pub fn claims(&self, issued: &Issued, user: UserId, concert_id: ConcertId, now: Timestamp) -> QueueTokenClaims {
        QueueTokenClaims {
            iss: QUEUE_TOKEN_ISSUER.to_owned(),
            sub: user,
            concert_id,
            position: issued.position,
            turn: Some(issued.turn),
            issued_at: issued.issued_at,
            active_at: self.active_at,
            expires_at: self.expires_at,
            iat: now.millis().div_euclid(1_000),
            exp: self.expires_at.unwrap_or(now).plus_seconds(QUEUE_TOKEN_LIFE_SECONDS).ttl_seconds(),
        }
    }
}

/// When the active window of a place that enters at `entry` ends.
fn end_of(plan: &AdmissionPlan, issued: &Issued, entry: Timestamp) -> Option<Timestamp> {
    match plan.standing(issued.position, issued.turn, issued.issued_at, entry) {
        Standing::Active { expires_at, .. } | Standing::Expired { expires_at, .. } => Some(expires_at),
        Standing::Waiting { .. } => None,
    }
}

/// How many status checks a second all who wait are told to make together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckBudget(u64);

impl Default for CheckBudget {
    fn default() -> Self {
        Self(2_000)
    }
}

impl FromStr for CheckBudget {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let budget = text.parse().ok().filter(|budget| *budget > 0).map(Self);
        budget.ok_or(Invalid::new("STATUS_CHECKS_PER_SECOND", "must be a whole number from 1"))
    }
}

impl CheckBudget {
    /// When the holder of a place should check it again, in milliseconds from now, where so many wait.
    ///
    /// Everybody who waits can check once in the time that the budget takes for all of them, and no more often than every
    /// [`CALM_POLL_MILLIS`], also during a pause or before the opening; those near the front in time for a turn. As a turn
    /// comes near, it is about half of what remains. Where a gate lets in, whose turn that is is only known a moment
    /// before: who may be next checks four times in the time inside, as far as the budget goes. The jitter follows from the
    /// position, so that users who joined together do not check together.
    pub fn poll_after_millis(self, place: &Place, crowd: Crowd, now: Timestamp) -> u64 {
        let all = crowd.waiting.saturating_mul(1_000) / self.0;
        // Nobody is to sleep through their turn, should a pause end right now: it comes once those ahead are in.
        let by_rate = place.ahead.saturating_mul(60_000) / u64::from(crowd.rate_per_minute.max(1));
        let until = |entry: Timestamp| u64::try_from(entry.millis_since(now)).unwrap_or(0);
        let turn = crowd.soonest_by_gate.map_or(by_rate, until);
        let in_time = turn.saturating_add(u64::from(crowd.active_seconds) * 500);
        let calm = all.min(in_time).clamp(CALM_POLL_MILLIS, LONGEST_POLL_MILLIS);
        let wait = match (place.status, place.active_at) {
            (Status::Waiting, Some(entry)) => (until(entry) / 2).clamp(SHORTEST_POLL_MILLIS, calm),
            (Status::Waiting, None) if crowd.soonest_by_gate.is_some() => {
                // A minute's worth may enter at once, and half as many within the calm wait.
                let next = crowd.waiting.min(u64::from(crowd.rate_per_minute).saturating_mul(3) / 2);
                let quarter = turn.saturating_add(u64::from(crowd.active_seconds) * 250);
                let for_all = (next.saturating_mul(1_000) / self.0).min(LONGEST_POLL_MILLIS);
                quarter.clamp(GATE_POLL_MILLIS, calm).max(for_all)
            }
            (Status::Waiting, None) => calm,
            (Status::Active | Status::Expired | Status::Used, _) => CALM_POLL_MILLIS,
        };
        // Fibonacci hashing: neighbours hash far apart.
        let thousandths = (place.position.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % 1_000;
        wait + wait * thousandths / 9_000
    }
}

/// Refuses status checks of a place that come far sooner than they were told to, within one process.
#[derive(Debug, Default)]
pub struct CheckLimit {
    /// When the next check of each place is due, were they evenly spaced, by user and concert.
    due_at: HashMap<(UserId, ConcertId), Timestamp>,
}

impl CheckLimit {
    /// Counts a check. The error says after how many seconds the next one is answered.
    pub fn check(&mut self, claims: &QueueTokenClaims, now: Timestamp) -> Result<(), u32> {
        let key = (claims.sub.clone(), claims.concert_id.clone());
        let due_at = self.due_at.get(&key).map_or(now, |due_at| now.max(*due_at)).plus_millis(CHECK_EVERY_MILLIS);
        let over = due_at.millis_since(now) - CHECKS_AT_ONCE * CHECK_EVERY_MILLIS;
        if over > 0 {
            return Err(u32::try_from(over / 1_000 + 1).unwrap_or(u32::MAX));
        }
        if self.due_at.len() >= CHECKED_PLACES {
            self.due_at.clear();
        }
        self.due_at.insert(key, due_at);
        Ok(())
    }
}

/// How a line gives out places: by one counter, or by several once it is busy. Each set continues the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterSet {
    /// Counts the sets of a line, from 0.
    pub number: u64,
    /// Over how many counters it interleaves its places.
    pub shards: ShardCount,
    /// The last position of the sets before it.
    pub after_position: u64,
    /// Their last turn.
    pub after_turn: u64,
}

impl CounterSet {
    /// With which every line begins.
    pub const FIRST: Self = Self { number: 0, shards: ShardCount::ONE, after_position: 0, after_turn: 0 };

    /// The only one of lines that an earlier release opened.
    pub const fn of_before(shards: ShardCount) -> Self {
        Self { shards, ..Self::FIRST }
    }

    /// The turn that is the `count`-th (from 1) of a counter.
    pub fn turn(&self, shard: u32, count: u64) -> u64 {
        self.after_turn.saturating_add(self.shards.position(shard, count))
    }

    /// The place that a counter gave out as its `issued`-th, at its `count`-th turn.
    pub fn issued(&self, shard: u32, issued: u64, count: u64, issued_at: Timestamp) -> Issued {
        let position = self.after_position.saturating_add(self.shards.position(shard, issued));
        Issued { position, turn: self.turn(shard, count), issued_at }
    }

    /// How many of a counter's turns are among those up to `lapsed`.
    pub fn lapsed_of(&self, shard: u32, lapsed: u64) -> u64 {
        let shards = u64::from(self.shards.get());
        lapsed.saturating_sub(self.after_turn).saturating_sub(u64::from(shard)).div_ceil(shards)
    }

    /// The last position of so many places of a counter.
    pub fn last_position(&self, shard: u32, issued: u64) -> u64 {
        match issued {
            0 => self.after_position,
            issued => self.after_position.saturating_add(self.shards.position(shard, issued)),
        }
    }

    /// What a gate has to know of what the counters have given out, where so many `turns` had come when it began.
    pub fn given(&self, counters: &[Counted], turns: u64) -> Given {
        let shards = || (0_u32..).zip(counters);
        let next = shards().map(|(shard, counter)| self.last_position(shard, counter.issued.saturating_add(1)));
        let position = next.min().map_or(self.after_position, |next| next.saturating_sub(1));
        let waiting_before = self.after_turn.saturating_sub(turns);
        if waiting_before > 0 {
            let before = self.after_position.saturating_sub(waiting_before);
            let before = Before { position: before, apart: 0, places: Some(before), others: None };
            return Given { position, before, others: BTreeSet::new() };
        }
        let come_of = |(shard, counter): (u32, &Counted)| {
            let to_come = counter.turn.saturating_sub(self.lapsed_of(shard, turns));
            counter.issued.saturating_sub(to_come)
        };
        let places = shards().map(come_of).fold(self.after_position, u64::saturating_add);
        let come = shards().map(|(shard, counter)| self.last_position(shard, come_of((shard, counter))));
        let last = come.clone().max().unwrap_or(self.after_position);
        // Each counter may have given out one more than another of what came in the same time.
        let more = if counters.len() > 1 { counters.len() as u64 } else { 0 };
        let all = come.min().unwrap_or(self.after_position).saturating_sub(more);
        let behind = |(shard, counter): (u32, &Counted)| {
            let (come, issued) = (come_of((shard, counter)), counter.issued);
            let others = (come + 1..=issued).map(move |count| self.last_position(shard, count));
            others.take_while(move |position| *position <= last).collect::<Vec<_>>()
        };
        let others = shards().flat_map(behind).collect();
        Given {
            position,
            before: Before { position: all, apart: last - all, places: Some(places), others: None },
            others,
        }
    }

    /// How many places each counter lacks before the highest position that is given out.
    pub fn gaps(&self, counters: &[Counted]) -> Vec<(u32, u64)> {
        let shards = || (0_u32..).zip(counters);
        let highest = shards().map(|(shard, counter)| self.last_position(shard, counter.issued)).max().unwrap_or(0);
        let lacks = |shard| {
            let behind = highest.saturating_sub(self.after_position).saturating_sub(u64::from(shard));
            behind.div_ceil(u64::from(self.shards.get()))
        };
        let gaps = shards().map(|(shard, counter)| (shard, lacks(shard).saturating_sub(counter.issued)));
        gaps.filter(|(_, gap)| *gap > 0).collect()
    }
}

/// A line's plan, and how far the line is at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    pub plan: AdmissionPlan,
    /// A turn that was given out not long ago.
    pub last_turn: u64,
}

/// Those who wait in a line, and how fast it moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowd {
    /// How many there are, as far as is known.
    pub waiting: u64,
    /// At which rate it moved last.
    pub rate_per_minute: u32,
    pub active_seconds: u32,
    /// When the holder of the place may enter at the earliest, where a gate lets in.
    pub soonest_by_gate: Option<Timestamp>,
}

impl Planned {
    /// Those who wait at `now`, the holder of `turn` among them.
    pub fn crowd(&self, turn: u64, now: Timestamp) -> Crowd {
        let segments = self.plan.segments.iter().rev().map(|segment| segment.rate_per_minute);
        let moving = [self.plan.rate_per_minute()].into_iter().chain(segments).find(|rate| *rate > 0);
        Crowd {
            waiting: self.last_turn.max(turn).saturating_sub(self.plan.come_by(now)),
            rate_per_minute: moving.unwrap_or(MAX_RATE_PER_MINUTE),
            active_seconds: self.plan.active_seconds(),
            soonest_by_gate: self.plan.soonest_by_gate(self.plan.ahead_of(turn, now), now),
        }
    }
}

/// Every how many positions a join writes down how far the line is.
pub const NOTED_EVERY: u64 = 256;

/// What a line, or one of its counters, has given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// How many places.
    pub issued: u64,
    /// The last turn.
    pub turn: u64,
}

impl Counted {
    /// How many of the places are admitted at `at`.
    pub fn admitted(&self, plan: &AdmissionPlan, at: Timestamp) -> u64 {
        self.issued.saturating_sub(self.turn.saturating_sub(plan.come_by(at)))
    }
}

/// Why a plan is not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotChanged {
    /// The requested values are in force already, so that a repeated request changes nothing.
    InForce,
    /// It would need more than [`MAX_SEGMENTS`](contracts::admission::MAX_SEGMENTS).
    TooMany,
}

/// The plan after an operator's change that takes effect at `at`, for a line of which `counted` has been given out; nothing
/// if that is not known.
pub fn changed(
    plan: &AdmissionPlan,
    counted: Option<Counted>,
    at: Timestamp,
    change: PlanChange,
) -> Result<AdmissionPlan, NotChanged> {
    let in_force = PlanChange {
        opens_at: plan.opens_at,
        rate_per_minute: plan.rate_per_minute(),
        active_seconds: plan.active_seconds(),
        max_active: plan.max_active(),
    };
    if change == in_force {
        return Err(NotChanged::InForce);
    }
    let unused = match counted {
        None => 0,
        // Nobody has come yet: as many as could have since the opening.
        Some(Counted { issued: 0, .. }) => {
            let since = u64::try_from(at.millis_since(change.opens_at)).unwrap_or(0);
            since.saturating_mul(u64::from(change.rate_per_minute)) / 60_000 + 1
        }
        Some(counted) => plan.admitted_by(at).saturating_sub(counted.turn),
    };
    let mut after = plan.changed(unused, at, change).ok_or(NotChanged::TooMany)?;
    if let Some(gate) = after.gate.as_mut().filter(|_| plan.gate.is_none()) {
        gate.given_out = counted.map(|Counted { issued, turn }| GivenOut { issued, turn });
    }
    Ok(after)
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
    use crate::dynamo::{FRESH_MILLIS, PLAN_LEAD_MILLIS};
    use proptest::prelude::*;
    use std::collections::HashSet;

    const OPEN: Timestamp = Timestamp::from_millis(1_000_000);

    fn at(seconds: i64) -> Timestamp {
        OPEN.plus_seconds(seconds)
    }

    fn change(rate_per_minute: u32) -> PlanChange {
        PlanChange { opens_at: OPEN, rate_per_minute, active_seconds: 300, max_active: None }
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

    fn issued(turn: u64, issued_at: Timestamp) -> Issued {
        Issued { position: turn, turn, issued_at }
    }

    #[test]
    fn the_default_plan_admits_all_users_or_none() {
        let open = "open".parse::<DefaultAdmission>().unwrap().plan(OPEN);
        assert_eq!(Place::by_plan(&open, &issued(1, OPEN), OPEN).status, Status::Active);
        let closed = "closed".parse::<DefaultAdmission>().unwrap().plan(OPEN);
        assert_eq!(Place::by_plan(&closed, &issued(1, OPEN), at(3_600)).status, Status::Waiting);
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
        for (rate, active) in
            [(-1, 300), (i64::from(MAX_RATE_PER_MINUTE) + 1, 300), (60, 0), (60, MAX_ACTIVE_SECONDS + 1)]
        {
            assert!(plan_change(OPEN, rate, active, None).is_err(), "{rate} {active}");
        }
        assert!(plan_change(OPEN, i64::MAX, i64::MIN, None).is_err());
        assert!(plan_change(OPEN, 0, 1, None).is_ok());
        assert!(plan_change(OPEN, MAX_RATE_PER_MINUTE.into(), MAX_ACTIVE_SECONDS, Some(MAX_MAX_ACTIVE)).is_ok());
    }

    #[test]
    fn a_waiting_place_has_its_entry_and_its_end() {
        let plan = AdmissionPlan::opening(OPEN, 60, 300);
        let place = Place::by_plan(&plan, &issued(100, at(-10)), at(9));
        assert_eq!(place.status, Status::Waiting);
        assert_eq!(place.ahead, 89);
        assert_eq!((place.active_at, place.expires_at), (Some(at(99)), Some(at(399))));
    }

    #[test]
    fn a_place_waiting_during_a_pause_has_no_times() {
        let place = Place::by_plan(&AdmissionPlan::opening(OPEN, 0, 300), &issued(3, OPEN), at(10));
        assert_eq!((place.status, place.ahead), (Status::Waiting, 2));
        assert_eq!((place.active_at, place.expires_at), (None, None));
    }

    #[test]
    fn a_used_place_has_nobody_ahead_and_keeps_its_times() {
        let plan = AdmissionPlan::opening(OPEN, 60, 300);
        let place = Place::by_plan(&plan, &issued(2, OPEN), at(10));
        let used = place.used();
        assert_eq!((place.status, used.status), (Status::Active, Status::Used));
        assert_eq!((used.active_at, used.expires_at), (Some(at(1)), Some(at(301))));
    }

    fn budget(checks: u64) -> CheckBudget {
        checks.to_string().parse().unwrap()
    }

    #[test]
    fn all_who_wait_together_check_within_the_budget_also_during_a_pause() {
        for plan in [AdmissionPlan::opening(OPEN, 0, 300), AdmissionPlan::opening(at(86_400), 600, 300)] {
            for (waiting, checks) in [(500_000, 2_000), (100_000, 1_000), (1_000, 2_000)] {
                let rate: f64 = (1..=waiting)
                    .step_by(97)
                    .map(|turn| {
                        let place = Place::by_plan(&plan, &issued(turn, OPEN), OPEN);
                        let crowd = Crowd { waiting, rate_per_minute: 600, active_seconds: 600, soonest_by_gate: None };
                        let poll = budget(checks).poll_after_millis(&place, crowd, OPEN);
                        assert!(poll >= 30_000, "{waiting} {poll}");
                        97.0 * 1_000.0 / poll as f64
                    })
                    .sum();
                assert!(rate <= checks as f64 * 1.01, "{waiting} who wait make {rate} checks a second, not {checks}");
            }
        }
    }

    #[test]
    fn a_place_is_checked_sooner_as_its_turn_comes_near() {
        let plan = AdmissionPlan::opening(OPEN, 60, 300);
        let poll = |turn, waiting| {
            let place = Place::by_plan(&plan, &issued(turn, at(-10)), OPEN);
            let crowd = Crowd { waiting, rate_per_minute: 60, active_seconds: 600, soonest_by_gate: None };
            budget(2_000).poll_after_millis(&place, crowd, OPEN)
        };
        for turn in [2, 3, 21] {
            let half = ((turn - 1) * 500).max(1_000);
            assert!((half..=half + half / 9 + 1).contains(&poll(turn, 500_000)), "{turn} {}", poll(turn, 500_000));
        }
        assert!((30_000..=33_334).contains(&poll(1_000, 1_000)));
        assert!((250_000..=277_778).contains(&poll(499_000, 500_000)));
        let spread: HashSet<u64> = (1_000..1_100).map(|turn| poll(turn, 1_000)).collect();
        assert!(spread.len() > 80, "only {} different waits", spread.len());
        assert_eq!(poll(1_000, 1_000), poll(1_000, 1_000), "the same place always waits the same");
        assert!("0".parse::<CheckBudget>().is_err() && "x".parse::<CheckBudget>().is_err());
    }

    #[test]
    fn the_waits_in_the_api_description_are_those_that_are_told() {
        let fast = AdmissionPlan::opening(OPEN, 1_000, 600);
        let poll = |plan: &AdmissionPlan, now| {
            let planned = Planned { plan: plan.clone(), last_turn: 4_200 };
            let place = Place::by_plan(plan, &issued(4_200, OPEN), now);
            (place.ahead, CheckBudget::default().poll_after_millis(&place, planned.crowd(4_200, now), now))
        };
        assert_eq!(poll(&fast, OPEN.plus_millis(3_889 * 60 - 1)), (310, 10_093));
        assert_eq!(poll(&fast, OPEN.plus_millis(-60)), (4_199, 32_560));
        assert_eq!(poll(&fast, at(300)), (0, 32_560));
        assert_eq!(poll(&AdmissionPlan::opening(OPEN, 0, 600), OPEN).1, 32_560);
    }

    #[test]
    fn nobody_sleeps_through_their_turn_after_a_pause() {
        let crowd = Crowd { waiting: 500_000, rate_per_minute: 6_000, active_seconds: 120, soonest_by_gate: None };
        let plan = AdmissionPlan::opening(OPEN, 0, 120);
        for turn in [1, 100, 5_000, 20_000, 100_000] {
            let place = Place::by_plan(&plan, &issued(turn, OPEN), OPEN);
            let poll = budget(2_000).poll_after_millis(&place, crowd, OPEN);
            let over = turn * 10 + 120_000;
            assert!(poll < over, "{turn}: asks after {poll} ms, is over after {over}");
        }
    }

    #[test]
    fn nobody_sleeps_through_their_time_inside_at_a_gate() {
        for active_seconds in [10, 20, 30, 60, 600] {
            let plan = AdmissionPlan::opening(OPEN, 600, active_seconds);
            let cap = PlanChange { max_active: Some(1), active_seconds, ..change(600) };
            let plan = changed(&plan, None, at(-60), cap).unwrap();
            let poll = |turn, plan: &AdmissionPlan, now| {
                let planned = Planned { plan: plan.clone(), last_turn: 2_000 };
                let place = Place::by_plan(plan, &issued(turn, OPEN), now);
                assert_eq!((place.status, place.active_at), (Status::Waiting, None));
                budget(2_000).poll_after_millis(&place, planned.crowd(turn, now), now)
            };
            let within = u64::from(active_seconds) * 280;
            // A minute's worth may enter with the next wave, the others at the rate.
            for (turn, soonest) in [(1, 0), (600, 0), (700, 10_000), (900, 30_000)] {
                let poll = poll(turn, &plan, at(60));
                assert!(poll <= within.max(5_556) + soonest * 10 / 9, "{active_seconds} s, {turn}: after {poll} ms");
                assert!((5_000..=33_334).contains(&poll), "{active_seconds} s, {turn}: after {poll} ms");
            }
            assert!(poll(1, &plan, at(-3_600)) >= 30_000, "long before the opening nobody hurries");
            let paused = changed(&plan, None, at(60), PlanChange { rate_per_minute: 0, ..cap }).unwrap();
            assert!(poll(1, &paused, at(61)) >= 30_000, "nor during a pause");
        }
    }

    #[test]
    fn all_who_wait_at_a_gate_check_within_the_budget() {
        for (rate, waiting, checks) in [(1_000_000, 500_000_u64, 2_000), (6_000, 20_000, 500), (60, 1_000, 2_000)] {
            let cap = PlanChange { max_active: Some(5), active_seconds: 10, ..change(rate) };
            let plan = changed(&AdmissionPlan::opening(OPEN, rate, 10), None, at(-60), cap).unwrap();
            let planned = Planned { plan: plan.clone(), last_turn: waiting };
            let rates: f64 = (1..=waiting)
                .step_by(97)
                .map(|turn| {
                    let place = Place::by_plan(&plan, &issued(turn, OPEN), at(60));
                    let poll = budget(checks).poll_after_millis(&place, planned.crowd(turn, at(60)), at(60));
                    97.0 * 1_000.0 / poll as f64
                })
                .sum();
            // Those who may be next, and all the others.
            assert!(rates <= checks as f64 * 2.0, "{rate} {waiting}: {rates} checks a second, not {checks}");
        }
    }

    #[test]
    fn checks_far_beyond_the_told_interval_are_refused_until_time_has_passed() {
        let mut limit = CheckLimit::default();
        let claims = |user: &str| {
            let place = Place::by_plan(&AdmissionPlan::opening(OPEN, 0, 300), &issued(1, OPEN), OPEN);
            place.claims(&issued(1, OPEN), UserId::parse(user).unwrap(), ConcertId::parse("c").unwrap(), OPEN)
        };
        let (alice, bob) = (claims("alice"), claims("bob"));
        for _ in 0..CHECKS_AT_ONCE {
            limit.check(&alice, OPEN).unwrap();
        }
        let wait = limit.check(&alice, OPEN).unwrap_err();
        assert_eq!(limit.check(&bob, OPEN), Ok(()), "nobody else is refused");
        assert_eq!(limit.check(&alice, at(i64::from(wait))), Ok(()));
        // Who asks as told is never refused.
        for minute in 1..100 {
            limit.check(&alice, at(30 * minute)).unwrap();
        }
    }

    #[test]
    fn a_token_lives_30_days_longer_than_its_place() {
        let (alice, concert) = (UserId::parse("alice").unwrap(), ConcertId::parse("c1").unwrap());
        let life = QUEUE_TOKEN_LIFE_SECONDS;
        let seconds = OPEN.millis() / 1_000;
        let plan = AdmissionPlan::opening(OPEN, 60, 300);
        let early = issued(61, at(-10));
        let claims = Place::by_plan(&plan, &early, at(-10)).claims(&early, alice.clone(), concert.clone(), at(-10));
        assert_eq!((claims.iat, claims.exp), (seconds - 10, seconds + 60 + 300 + life));
        assert_eq!((claims.active_at, claims.expires_at), (Some(at(60)), Some(at(360))));
        let paused = issued(61, OPEN);
        let place = Place::by_plan(&AdmissionPlan::opening(OPEN, 0, 300), &paused, OPEN);
        let paused = place.claims(&paused, alice, concert, OPEN);
        assert_eq!(paused.exp, seconds + life);
        assert_eq!(Place::outlived(&paused).status, Status::Expired);
    }

    #[test]
    fn a_plan_that_never_opens_neither_overflows_nor_panics() {
        let plan = AdmissionPlan::opening(Timestamp::MAX, 1, 86_400);
        let place = Place::by_plan(&plan, &issued(u64::MAX, OPEN), OPEN);
        assert_eq!((place.status, place.active_at, place.expires_at), {
            (Status::Waiting, Some(Timestamp::MAX), Some(Timestamp::MAX))
        });
    }

    #[test]
    fn a_counter_set_continues_the_one_before_it_without_a_gap() {
        let shards = ShardCount::new(3).unwrap();
        let counters = CounterSet { number: 1, shards, after_position: 10, after_turn: 100 };
        let given = (0..3).flat_map(|shard| (1..=2).map(move |n| counters.issued(shard, n, n, OPEN)));
        let (positions, turns): (HashSet<u64>, HashSet<u64>) = given.map(|place| (place.position, place.turn)).unzip();
        assert_eq!(positions, (11..=16).collect());
        assert_eq!(turns, (101..=106).collect());
        for lapsed in 95..=120 {
            for shard in 0..3 {
                let skipped = counters.lapsed_of(shard, lapsed);
                assert!(skipped == 0 || counters.turn(shard, skipped) <= lapsed, "{shard} {lapsed}");
                assert!(counters.turn(shard, skipped + 1) > lapsed, "{shard} {lapsed}");
            }
        }
    }

    #[test]
    fn what_several_counters_gave_out_is_known_up_to_the_first_gap() {
        let set = CounterSet { number: 1, shards: ShardCount::new(3).unwrap(), after_position: 10, after_turn: 20 };
        let counters = [(3, 3), (1, 1), (2, 2)].map(|(issued, turn)| Counted { issued, turn });
        // Positions 11, 14, 17; 12; 13, 16.
        assert_eq!(set.given(&counters, 20).position, 14);
        assert_eq!(set.gaps(&counters), [(1, 1)]);
        let level = [(3, 3), (2, 2), (2, 2)].map(|(issued, turn)| Counted { issued, turn });
        assert_eq!((set.given(&level, 20).position, set.gaps(&level)), (17, vec![]));
        // Turns 21 to 24 had come: positions 11 to 14.
        let before = set.given(&level, 24).before;
        assert!(before.position <= 12 && before.position + before.apart == 14, "{before:?}");
        assert_eq!(before.places, Some(14));
        // Of the first counter one has come, of the others all.
        let drifted = [(3, 3), (2, 2), (2, 2)].map(|(issued, turn)| Counted { issued, turn });
        let given = set.given(&drifted, 21);
        assert!(given.others.iter().all(|other| *other <= given.before.position + given.before.apart), "{given:?}");
        assert_eq!(
            set.given(&level, 15).before,
            Before { position: 5, apart: 0, places: Some(5), others: None },
            "five of the first set waited"
        );
        let one = CounterSet::FIRST.given(&[Counted { issued: 7, turn: 9 }], 4);
        let before = Before { position: 2, apart: 0, places: Some(2), others: None };
        assert_eq!(one, Given { position: 7, before, others: BTreeSet::new() });
    }

    #[test]
    fn repeating_a_change_changes_nothing() {
        let before = AdmissionPlan::opening(OPEN, 60, 300);
        let after = changed(&before, None, at(10), change(6)).unwrap();
        assert_eq!(changed(&after, None, at(11), change(6)), Err(NotChanged::InForce));
        assert_eq!(changed(&after, None, at(11), change(7)).unwrap().version, 3);
        assert_eq!(changed(&after, None, at(11), PlanChange { opens_at: at(500), ..change(6) }).unwrap().version, 3);
    }

    #[test]
    fn a_page_drops_only_the_oldest_tombstones() {
        let ids: Vec<String> = (0..KEPT_TOMBSTONES + 2).map(|number| format!("p{number:06}")).rev().collect();
        assert_eq!(forgettable(ids), ["p000000", "p000001"]);
        assert_eq!(forgettable(vec!["p1".into()]), Vec::<String>::new());
    }

    /// One thing that happens in a line.
    #[derive(Debug, Clone)]
    enum Happens {
        /// A user joins through a process whose plan is so old.
        Join { stale_millis: i64 },
        /// A user who joined checks, likewise.
        Check { who: usize, stale_millis: i64 },
        /// An operator changes the rate and the cap, by a clock that is off.
        Change { rate: u32, cap: Option<u32>, off_millis: i64 },
        /// Somebody looks at the gate, by a clock that is off.
        Look { off_millis: i64 },
        /// A user pays or leaves.
        Use { who: usize },
    }

    fn happening() -> impl Strategy<Value = (i64, Happens)> {
        let what = prop_oneof![
            4 => (0..FRESH_MILLIS).prop_map(|stale_millis| Happens::Join { stale_millis }),
            4 => (any::<usize>(), 0..FRESH_MILLIS).prop_map(|(who, stale_millis)| Happens::Check { who, stale_millis }),
            1 => (
                prop::sample::select(vec![0_u32, 1, 6, 60, 600, 6_000]),
                prop::sample::select(vec![None, None, Some(1), Some(3), Some(20)]),
                -300..300_i64,
            )
                .prop_map(|(rate, cap, off_millis)| Happens::Change { rate, cap, off_millis }),
            4 => (-300..300_i64).prop_map(|off_millis| Happens::Look { off_millis }),
            1 => any::<usize>().prop_map(|who| Happens::Use { who }),
        ];
        (prop_oneof![0..50_i64, 0..2_000_i64, 0..90_000_i64], what)
    }

    /// A line while operators change its plan: plans with when they were written, and what users were told.
    struct Scene {
        plans: Vec<(Timestamp, AdmissionPlan)>,
        places: Vec<Issued>,
        /// Until when each was told to be inside.
        inside_until: Vec<Option<Timestamp>>,
        turns: Vec<u64>,
        counters: CounterSet,
        used: BTreeSet<u64>,
    }

    impl Scene {
        fn plan(&self, now: Timestamp, stale_millis: i64) -> &AdmissionPlan {
            let written = self.plans.iter().rev().find(|(at, _)| *at <= now.plus_millis(-stale_millis));
            &written.unwrap_or(&self.plans[0]).1
        }

        fn tell(&mut self, who: usize, now: Timestamp, stale_millis: i64) -> Result<(), TestCaseError> {
            let place = Place::by_plan(self.plan(now, stale_millis), &self.places[who], now);
            let was = self.inside_until[who].filter(|until| now < *until);
            prop_assert!(was.is_none() || place.status == Status::Active, "{who} was put out at {now:?}: {place:?}");
            if place.status == Status::Active {
                self.inside_until[who] = place.expires_at;
            }
            Ok(())
        }

        /// How many are inside, as their holders see it.
        fn inside(&self, plan: &AdmissionPlan, now: Timestamp) -> u64 {
            let places = self.places.iter().filter(|place| !self.used.contains(&place.position));
            places.filter(|place| Place::by_plan(plan, place, now).status == Status::Active).count() as u64
        }

        /// One look at the gate. Nobody enters by it where as many are inside as may be.
        fn look(&mut self, now: Timestamp, clock: Timestamp) -> Result<(), TestCaseError> {
            let plan = self.plans.last().unwrap().1.clone();
            let Some(gate) = &plan.gate else { return Ok(()) };
            let shards = self.counters.shards.get() as usize;
            let issued = |shard: usize| (self.places.len() + shards - 1 - shard) / shards;
            let counted: Vec<Counted> = self
                .turns
                .iter()
                .enumerate()
                .map(|(shard, turn)| Counted { issued: issued(shard) as u64, turn: *turn })
                .collect();
            let given = self.counters.given(&counted, plan.admitted_by(gate.since));
            prop_assert_eq!(given.position, self.places.len() as u64);
            let at = clock.plus_millis(PLAN_LEAD_MILLIS);
            let Some(next) = plan.next_wave(&given, &self.used, clock, at) else { return Ok(()) };
            let at = next.gate.as_ref().unwrap().waves.last().unwrap().at;
            let (before, after) = (self.inside(&plan, at), self.inside(&next, at));
            let most = gate.max_active.map_or(u64::MAX, u64::from);
            prop_assert!(after <= most.max(before), "{after} are inside, {most} may be, {before} were");
            self.plans.push((now, next));
            Ok(())
        }

        fn happen(&mut self, now: Timestamp, what: Happens) -> Result<(), TestCaseError> {
            match what {
                Happens::Join { stale_millis } => {
                    let lapsed = self.plan(now, stale_millis).lapsed_by(now);
                    let shard = self.places.len() as u32 % self.counters.shards.get();
                    let count = &mut self.turns[shard as usize];
                    *count = (*count).max(self.counters.lapsed_of(shard, lapsed)) + 1;
                    let issued = self.places.len() as u64 + 1;
                    let turn = self.counters.turn(shard, *count);
                    self.places.push(Issued { position: issued, turn, issued_at: now });
                    self.inside_until.push(None);
                    self.tell(self.places.len() - 1, now, stale_millis)
                }
                Happens::Check { who, stale_millis } if !self.places.is_empty() => {
                    self.tell(who % self.places.len(), now, stale_millis)
                }
                Happens::Use { who } if !self.places.is_empty() => {
                    self.used.insert(self.places[who % self.places.len()].position);
                    Ok(())
                }
                Happens::Check { .. } | Happens::Use { .. } => Ok(()),
                Happens::Look { off_millis } => self.look(now, now.plus_millis(off_millis)),
                Happens::Change { rate, cap, off_millis } => {
                    let (clock, read) = (now.plus_millis(off_millis), self.plans.last().unwrap().1.clone());
                    let change = PlanChange { max_active: cap, ..change(rate) };
                    let at = clock.plus_millis(PLAN_LEAD_MILLIS);
                    let turn = self.places.iter().map(|place| place.turn).max().unwrap_or(0);
                    let counted = Counted { issued: self.places.len() as u64, turn };
                    if let Ok(plan) = changed(&read, Some(counted), at, change) {
                        self.plans.push((now, plan));
                    }
                    Ok(())
                }
            }
        }
    }

    proptest! {
        /// Operators whose clocks are off change the rate while users join, through processes whose plans are up to a
        /// second old.
        #[test]
        fn nobody_who_was_told_to_be_inside_is_put_out(
            shards in prop::sample::select(vec![1_u64, 8]),
            rate in prop::sample::select(vec![0_u32, 6, 600]),
            happenings in prop::collection::vec(happening(), 1..150),
        ) {
            let counters = CounterSet { shards: ShardCount::new(shards).unwrap(), ..CounterSet::FIRST };
            let mut scene = Scene {
                plans: vec![(OPEN, AdmissionPlan::opening(OPEN, rate, 300))],
                places: Vec::new(),
                inside_until: Vec::new(),
                turns: vec![0; shards as usize],
                counters,
                used: BTreeSet::new(),
            };
            let mut now = OPEN;
            for (after, what) in happenings {
                now = now.plus_millis(after);
                scene.happen(now, what)?;
            }
            if scene.plans.last().unwrap().1.gate.is_some() {
                // And all who wait are let in, once they may.
                let change = Happens::Change { rate: 1_000_000, cap: None, off_millis: 0 };
                scene.happen(now, change)?;
                for second in [20, 30] {
                    scene.happen(now.plus_seconds(second), Happens::Look { off_millis: 0 })?;
                }
                let plan = &scene.plans.last().unwrap().1;
                let waits = |place: &&Issued| Place::by_plan(plan, place, now.plus_seconds(40)).status == Status::Waiting;
                prop_assert_eq!(scene.places.iter().find(waits), None);
                return Ok(());
            }
            // And everybody who waits has a turn that comes, one after the other, once nothing changes any more.
            let plan = changed(&scene.plans.last().unwrap().1, None, now.plus_seconds(3), change(60_000));
            let plan = plan.unwrap_or_else(|_| scene.plans.last().unwrap().1.clone());
            let last = scene.places.iter().map(|place| place.turn).max().unwrap_or(0);
            let waiting = last.saturating_sub(plan.admitted_by(now.plus_seconds(3)));
            prop_assert!(waiting <= scene.places.len() as u64 * shards, "{waiting} turns for {} places", scene.places.len());
        }
    }

    /// A line of one counter and later of several, picked at random; joins by clocks that are off by seconds; gaps that
    /// are filled.
    struct Wild {
        plans: Vec<(Timestamp, AdmissionPlan)>,
        sets: Vec<(CounterSet, Vec<Counted>)>,
        places: Vec<Issued>,
        inside_until: Vec<Option<Timestamp>>,
        used: BTreeSet<u64>,
    }

    impl Wild {
        fn plan(&self, now: Timestamp) -> &AdmissionPlan {
            let written = self.plans.iter().rev().find(|(at, _)| *at <= now);
            &written.unwrap_or(&self.plans[0]).1
        }

        fn join(&mut self, shard: u64, clock: Timestamp, lapsed: u64) -> Issued {
            let (set, counters) = self.sets.last_mut().unwrap();
            let shard = (shard % u64::from(set.shards.get())) as u32;
            let counter = &mut counters[shard as usize];
            counter.turn = counter.turn.max(set.lapsed_of(shard, lapsed)) + 1;
            counter.issued += 1;
            let issued = set.issued(shard, counter.issued, counter.turn, clock);
            self.places.push(issued);
            self.inside_until.push(None);
            issued
        }

        fn spread(&mut self, shards: u64) {
            if self.sets.len() > 1 {
                return;
            }
            let (set, counters) = self.sets.last().unwrap();
            let (issued, turn) = (counters[0].issued, counters[0].turn);
            let next = CounterSet {
                number: set.number + 1,
                shards: ShardCount::new(shards).unwrap(),
                after_position: issued,
                after_turn: turn,
            };
            self.sets.push((next, vec![Counted::default(); shards as usize]));
        }

        fn inside(&self, plan: &AdmissionPlan, now: Timestamp) -> u64 {
            let places = self.places.iter().filter(|place| !self.used.contains(&place.position));
            places.filter(|place| Place::by_plan(plan, place, now).status == Status::Active).count() as u64
        }

        fn look(&mut self, now: Timestamp, fills: bool) -> Result<(), TestCaseError> {
            let plan = self.plans.last().unwrap().1.clone();
            let Some(gate) = &plan.gate else { return Ok(()) };
            let (set, counters) = self.sets.last().unwrap().clone();
            let given = set.given(&counters, plan.admitted_by(gate.since));
            let all: HashSet<u64> = self.places.iter().map(|place| place.position).collect();
            for position in 1..=given.position {
                prop_assert!(all.contains(&position), "{position} was not given out, {given:?}");
            }
            if fills {
                for (shard, gap) in set.gaps(&counters) {
                    for _ in 0..gap {
                        let nobodys = self.join(shard.into(), now, plan.admitted_by(gate.since));
                        self.used.insert(nobodys.position);
                    }
                }
            }
            let at = now.plus_millis(PLAN_LEAD_MILLIS);
            let Some(ranges) = plan.asked_about(&given, now, at) else {
                prop_assert_eq!(plan.next_wave(&given, &self.used, now, at), None);
                return Ok(());
            };
            let is_asked =
                |one: &u64| ranges.iter().any(|(from, to)| (page_of(*from)..=page_of(*to)).contains(&page_of(*one)));
            let used: BTreeSet<u64> = self.used.iter().copied().filter(is_asked).collect();
            let Some(next) = plan.next_wave(&given, &used, now, at) else { return Ok(()) };
            let at = next.gate.as_ref().unwrap().waves.last().unwrap().at;
            let most = gate.max_active.map_or(u64::MAX, u64::from);
            for later in [0, 500, 2_000, 5_000, 9_000] {
                let when = at.plus_millis(later);
                let (before, after) = (self.inside(&plan, when), self.inside(&next, when));
                prop_assert!(
                    after <= most.max(before),
                    "{after} are inside, {most} may be, {before} were; {later} ms later {next:?}"
                );
            }
            self.plans.push((now, next));
            Ok(())
        }

        fn change(&mut self, now: Timestamp, change: PlanChange) {
            let read = self.plans.last().unwrap().1.clone();
            let (set, counters) = self.sets.last().unwrap();
            let mut counted = Counted { issued: set.after_position, turn: set.after_turn };
            for (shard, of) in (0_u32..).zip(counters) {
                counted.issued += of.issued;
                counted.turn = counted.turn.max(if of.turn == 0 { 0 } else { set.turn(shard, of.turn) });
            }
            if let Ok(plan) = changed(&read, Some(counted), now.plus_millis(PLAN_LEAD_MILLIS), change) {
                self.plans.push((now, plan));
            }
        }

        fn happen(&mut self, now: Timestamp, what: Wildly) -> Result<(), TestCaseError> {
            match what {
                Wildly::Join { shard, off_millis } => {
                    let clock = now.plus_millis(off_millis);
                    let lapsed = self.plan(now.plus_millis(-(off_millis.abs() % 1_000))).lapsed_by(clock);
                    self.join(shard, clock, lapsed);
                }
                Wildly::Spread { shards } => self.spread(shards),
                Wildly::Change { rate, cap, active_seconds } => {
                    self.change(now, PlanChange { active_seconds, max_active: cap, ..change(rate) });
                }
                Wildly::Look { fills } => self.look(now, fills)?,
                Wildly::Use { who } if !self.places.is_empty() => {
                    self.used.insert(self.places[who % self.places.len()].position);
                }
                Wildly::Use { .. } => {}
            }
            Ok(())
        }

        fn tell(&mut self, now: Timestamp) -> Result<(), TestCaseError> {
            let plan = self.plan(now).clone();
            for who in 0..self.places.len() {
                let place = Place::by_plan(&plan, &self.places[who], now);
                let was = self.inside_until[who].filter(|until| now.plus_millis(10_000) < *until);
                prop_assert!(
                    was.is_none() || place.status == Status::Active,
                    "{who} {:?} was put out at {now:?}: {place:?} {plan:?}",
                    self.places[who]
                );
                if place.status == Status::Active {
                    self.inside_until[who] = place.expires_at;
                }
            }
            Ok(())
        }
    }

    /// One thing that happens in such a line.
    #[derive(Debug, Clone)]
    enum Wildly {
        Join { shard: u64, off_millis: i64 },
        Spread { shards: u64 },
        Change { rate: u32, cap: Option<u32>, active_seconds: u32 },
        Look { fills: bool },
        Use { who: usize },
    }

    fn wildly() -> impl Strategy<Value = (i64, Wildly)> {
        let off = prop_oneof![Just(0_i64), -900..0_i64, -9_000..9_000_i64];
        let rates = prop::sample::select(vec![0_u32, 6, 60, 600, 6_000]);
        let caps = prop::sample::select(vec![None, Some(1), Some(3), Some(20)]);
        let times = prop::sample::select(vec![5_u32, 60, 300]);
        let what = prop_oneof![
            6 => (any::<u64>(), off).prop_map(|(shard, off_millis)| Wildly::Join { shard, off_millis }),
            1 => prop::sample::select(vec![2_u64, 4, 8]).prop_map(|shards| Wildly::Spread { shards }),
            1 => (rates, caps, times)
                .prop_map(|(rate, cap, active_seconds)| Wildly::Change { rate, cap, active_seconds }),
            4 => any::<bool>().prop_map(|fills| Wildly::Look { fills }),
            2 => any::<usize>().prop_map(|who| Wildly::Use { who }),
        ];
        (prop_oneof![0..50_i64, 0..2_000_i64, 0..90_000_i64], what)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]
        #[test]
        fn no_more_enter_by_a_gate_than_may_be_inside_whatever_clocks_and_counters_do(
            rate in prop::sample::select(vec![0_u32, 6, 600]),
            happenings in prop::collection::vec(wildly(), 1..120),
        ) {
            let mut wild = Wild {
                plans: vec![(OPEN, AdmissionPlan::opening(OPEN, rate, 300))],
                sets: vec![(CounterSet::FIRST, vec![Counted::default()])],
                places: Vec::new(),
                inside_until: Vec::new(),
                used: BTreeSet::new(),
            };
            let mut now = OPEN;
            for (after, what) in happenings {
                now = now.plus_millis(after);
                wild.happen(now, what)?;
                wild.tell(now)?;
            }
        }
    }
}
