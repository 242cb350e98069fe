//! Waiting rooms: whose places are, when their turns come, and that none is nobody's.

use super::{Audit, CLOCKS_APART_MILLIS, Invariant};
use crate::audit::snapshot::Line;
use contracts::admission::AdmissionPlan;
use contracts::{ConcertId, Timestamp, UserId};
use std::collections::{BTreeMap, BTreeSet};

/// How many places the counters of a line may be apart.
const COUNTERS_APART: u64 = 64;

/// For how long after it a wave may be known to one of waiting-room and reservations only, in milliseconds.
const WAVE_ON_ITS_WAY_MILLIS: i64 = 10_000;

impl Audit<'_> {
    /// I7, I16: the lines.
    pub(super) fn lines(&mut self) {
        let mut holders: BTreeMap<_, BTreeSet<&UserId>> = BTreeMap::new();
        for reservation in self.snapshot.reservations.values() {
            let place = (&reservation.concert, reservation.queue_position);
            holders.entry(place).or_default().insert(&reservation.user);
        }
        for (concert, line) in &self.snapshot.lines {
            for (user, found) in &line.places {
                if let Some((position, _)) = found.place {
                    holders.entry((concert, position)).or_default().insert(user);
                }
            }
        }
        for ((concert, position), users) in holders {
            if users.len() > 1 {
                self.found(Invariant::I7, format!("place {position} of {concert} was used by {users:?}"));
            }
            let Some(line) = self.snapshot.lines.get(concert) else { continue };
            if !line.has_given_out(position) {
                let counters = format!("{:?} of {:?}", line.counters, line.stripe);
                self.found(Invariant::I7, format!("place {position} of {concert} was never given out: {counters}"));
            }
        }
        for (concert, line) in &self.snapshot.lines {
            self.line(concert, line);
            self.turns(concert, line);
        }
    }

    fn line(&mut self, concert: &ConcertId, line: &Line) {
        let complete = line
            .stripe
            .is_some_and(|stripe| (0..stripe.shards).all(|shard| line.counters.contains_key(&(stripe.number, shard))));
        if !complete {
            let there: Vec<_> = line.counters.keys().collect();
            self.found(Invariant::I7, format!("{concert} has counters {there:?} of {:?}", line.stripe));
        }
        let plan = line.plan.as_ref().map(|plan| plan.version);
        let enforced = self.snapshot.enforced_plans.get(concert).copied();
        // A wave is written here and there one after the other, and both are read one after the other.
        let waves = line.plan.as_ref().and_then(|plan| plan.gate.as_ref()).and_then(|gate| gate.waves.last());
        let is_new = waves.is_some_and(|last| self.snapshot.now < last.at.plus_millis(WAVE_ON_ITS_WAY_MILLIS));
        let apart = plan.zip(enforced).map(|(plan, enforced)| plan.abs_diff(enforced));
        if apart.is_none_or(|apart| apart > u64::from(is_new)) {
            let both = format!("plan {plan:?}, reservations enforces {enforced:?}");
            self.found(Invariant::I7, format!("the waiting room of {concert} has {both}"));
        }
        if !line.is_gated && line.plan.as_ref().is_some_and(|plan| plan.gate.is_some()) {
            self.found(Invariant::I7, format!("the gate of {concert} is not listed, so nobody is let in"));
        }
        for (position, payment) in &line.used {
            if let Some(payment) = payment
                && !self.snapshot.payments.contains_key(payment)
            {
                let by = format!("{payment}, which does not exist");
                self.found(Invariant::I7, format!("place {position} of {concert} was used by {by}"));
            }
        }
    }

    /// Turns that are nobody's cost those behind them time. There are as many as places were given up or lost by requests
    /// that died, and, where a line has several counters, as far as those are apart.
    fn turns(&mut self, concert: &ConcertId, line: &Line) {
        // Behind a gate turns count nothing any more.
        let Some(plan) = line.plan.as_ref().filter(|plan| plan.gate.is_none()) else { return };
        let admitted = plan.admitted_by(self.snapshot.now);
        let mut turns: BTreeMap<u64, Vec<&UserId>> = BTreeMap::new();
        for (user, found) in &line.places {
            if let Some((_, turn)) = found.place.filter(|(_, turn)| *turn > admitted) {
                turns.entry(turn).or_default().push(user);
            }
        }
        for (turn, users) in turns.iter().filter(|(_, users)| users.len() > 1) {
            self.found(Invariant::I16, format!("turn {turn} of {concert} is that of {users:?}"));
        }
        let to_come = line.last_turn().saturating_sub(admitted);
        let vacant: u64 = line.places.values().map(|found| found.vacant + u64::from(found.place.is_none())).sum();
        let shards = line.stripe.map_or(1, |stripe| u64::from(stripe.shards));
        let apart = if shards > 1 { shards * COUNTERS_APART } else { 0 };
        let held: usize = turns.values().map(Vec::len).sum();
        let nobodys = to_come.saturating_sub(held as u64);
        if nobodys > vacant + apart {
            let of = format!("{nobodys} of {to_come} turns to come in {concert} are nobody's");
            self.found(Invariant::I16, format!("{of}, {vacant} places were given up or lost"));
        }
    }
}

/// Why a reservation made at `made` at a turn came before it, if it did.
///
/// A change of the plan never takes an admission back, so the plan in force answers for all times since the segment of
/// the turn. Before that, another plan may have been in force (or in flight to reservations), which is not recorded.
pub(super) fn out_of_turn(plan: &AdmissionPlan, place: (u64, u64), made: Timestamp) -> Option<String> {
    let (position, turn) = place;
    let by_segments = plan.enters_at(turn);
    if let Some(gate) = plan.gate.as_ref().filter(|gate| by_segments.is_none_or(|entry| entry > gate.since)) {
        // Steps whose places are over are forgotten.
        let let_in = gate.waves.iter().find(|wave| position <= wave.last_position);
        return match let_in {
            _ if position <= gate.over_position => None,
            Some(wave) if wave.at <= made.plus_millis(CLOCKS_APART_MILLIS) => None,
            Some(wave) => Some(format!("which was let in at {}", wave.at)),
            None => Some("which was not let in".to_owned()),
        };
    }
    let segment = plan.segments.iter().rev().find(|segment| segment.from_position <= turn)?;
    if plan.version > 1 && made < segment.from_time.plus_millis(CLOCKS_APART_MILLIS) {
        return None;
    }
    match plan.enters_at(turn) {
        Some(entry) if entry <= made => None,
        Some(entry) => Some(format!("whose turn came at {entry}")),
        None => Some("whose turn has not come".to_owned()),
    }
}
