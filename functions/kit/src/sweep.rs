//! Scheduled runs over what is due in the shards of an index, each within its time.
//!
//! A run begins at a random shard, takes one row of each in turn and pages on until nothing is left or its time is
//! over. A shard that cannot be read, a row that cannot be read, and work that fails or hangs keep none of the others
//! from their turn; what was not reached is said, and is the next run's.

use crate::dynamo::{Item, jitter, readable};
use crate::fault::classify;
use crate::{Fault, metrics};
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use contracts::Timestamp;
use futures_util::future::{Either, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// How much of Lambda's time a run leaves: in it nothing is begun, what is under way may end, and the rest is said.
pub(crate) const RESERVED: Duration = Duration::from_secs(5);
/// How long after its time work that is under way may go on. Less than [`RESERVED`].
const GRACE: Duration = Duration::from_secs(2);
/// How long reading one page may take.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// The time that a run has, by a monotonic clock.
#[derive(Clone)]
pub struct Budget {
    clock: Arc<dyn Fn() -> Duration + Send + Sync>,
    ends: Duration,
}

impl Budget {
    /// This much time from now.
    pub fn of(time: Duration) -> Self {
        let began = Instant::now();
        Self::by(move || began.elapsed(), time)
    }

    /// Until `clock`, which says how much time has passed since the run began, says `time`.
    pub fn by(clock: impl Fn() -> Duration + Send + Sync + 'static, time: Duration) -> Self {
        Self { clock: Arc::new(clock), ends: time }
    }

    /// How much of it is left; zero once it is over.
    pub fn left(&self) -> Duration {
        self.ends.saturating_sub((self.clock)())
    }

    /// Whether nothing may be begun any more.
    pub fn is_over(&self) -> bool {
        self.left().is_zero()
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("left", &self.left()).finish_non_exhaustive()
    }
}

/// One tick of a schedule: when it came, and the time its run has.
#[derive(Debug, Clone)]
pub struct Tick {
    pub now: Timestamp,
    pub budget: Budget,
}

/// A tick whose run may take as long as it wants.
impl From<Timestamp> for Tick {
    fn from(now: Timestamp) -> Self {
        Self { now, budget: Budget::of(Duration::MAX) }
    }
}

impl Tick {
    /// Does one piece of work of the run, which may take up to `limit` and not much longer than the run.
    pub async fn within<T>(
        &self,
        limit: Duration,
        doing: &'static str,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let limit = limit.min(self.budget.left().saturating_add(GRACE));
        tokio::time::timeout(limit, work).await.unwrap_or_else(|late| Err(Fault::unavailable(doing, late)))
    }

    /// All shards, beginning with one that the tick's time picks: as good as any other, and the same again in a test.
    fn shards(&self, count: u64) -> impl Iterator<Item = u64> + use<> {
        // SplitMix64's finalizer: neighbouring milliseconds begin at unrelated shards.
        let mixed = self.now.millis().unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let first = (mixed ^ (mixed >> 31)) % count.max(1);
        (0..count).map(move |shard| (first + shard) % count)
    }
}

/// How fast a run works.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How many rows are worked on at once.
    pub at_once: usize,
    /// The shortest time between the beginnings of two, for what has a quota that sales need, too.
    pub gap: Duration,
}

impl Pace {
    /// This many at once, as fast as it goes.
    pub const fn at_once(at_once: usize) -> Self {
        Self { at_once, gap: Duration::ZERO }
    }

    /// The same with at most `a_second` beginnings each second.
    #[must_use]
    pub const fn at_most(self, a_second: u32) -> Self {
        Self { gap: Duration::from_micros(1_000_000 / a_second as u64), ..self }
    }
}

/// Where the next page of a shard begins.
#[derive(Debug, Clone)]
pub struct Cursor(Item);

/// A page of a shard.
#[derive(Debug, Clone)]
pub struct Part<T> {
    pub rows: Vec<T>,
    /// Where the next one begins, if there may be more.
    pub next: Option<Cursor>,
}

/// Reads the page of a query that begins at a cursor. Rows that cannot be read are reported and left out.
pub async fn page<T>(
    doing: &'static str,
    query: QueryFluentBuilder,
    after: Option<Cursor>,
    read: impl Fn(&Item) -> Result<T, Fault>,
) -> Result<Part<T>, Fault> {
    let got = query.set_exclusive_start_key(after.map(|cursor| cursor.0)).send().await;
    let got = got.map_err(|error| classify(doing, error))?;
    let next = got.last_evaluated_key.filter(|key| !key.is_empty()).map(Cursor);
    Ok(Part { rows: readable(got.items, doing, read).collect(), next })
}

/// The earliest of the moments that a run saw.
#[derive(Debug)]
pub struct Oldest(AtomicI64);

impl Default for Oldest {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MAX))
    }
}

impl Oldest {
    /// Notes a moment.
    pub fn note(&self, moment: Timestamp) {
        self.0.fetch_min(moment.millis(), Ordering::Relaxed);
    }

    /// The earliest that was noted; `now` when none was before it.
    pub fn or(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed)).min(now)
    }
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Swept {
    /// How many rows were worked on without a fault.
    pub done: u64,
    /// How many were worked on and failed.
    pub failed: u64,
    /// How many shards have rows that this run did not come to.
    pub shards_left: u64,
    last_fault: Option<Fault>,
}

impl Swept {
    /// Says in log and metrics what it came to; the last fault, if there was one.
    pub fn say(self, what: &'static str, context: &'static str) -> Result<(), Fault> {
        let Self { done, failed, shards_left, last_fault } = self;
        metrics::gauge("ShardsLeft", "Count", context, shards_left);
        if shards_left > 0 {
            tracing::warn!(sweep = what, done, failed, shards_left, "a run could not come to everything");
        } else if failed > 0 {
            tracing::warn!(sweep = what, done, failed, "a run came to everything, and some of it failed");
        }
        last_fault.map_or(Ok(()), Err)
    }

    fn note(&mut self, fault: Fault) {
        // A fault of our own weighs more than one that passes.
        if !matches!(self.last_fault, Some(Fault::Broken(_))) {
            self.last_fault = Some(fault);
        }
    }
}

/// A shard's turn.
struct Lane<T> {
    shard: u64,
    rows: VecDeque<T>,
    /// Where its next page begins.
    next: Option<Cursor>,
}

/// What a run begins next.
enum Next<T> {
    /// A row, after a wait.
    Work(T, Duration),
    /// The page of a shard.
    Read(u64, Cursor),
}

/// What ended in a run.
enum Ended<T> {
    Worked(Result<(), Fault>),
    Read(u64, Result<Part<T>, Fault>),
}

struct Run<'a, T> {
    tick: &'a Tick,
    pace: Pace,
    lanes: VecDeque<Lane<T>>,
    working: usize,
    reading: u64,
    /// When the last row was, or will be, begun.
    slot: Duration,
    swept: Swept,
}

impl<T> Run<'_, T> {
    /// What to begin now, if there is anything and room for it. Shards take turns, row by row.
    fn next(&mut self) -> Option<Next<T>> {
        while self.working < self.pace.at_once.max(1) && !self.tick.budget.is_over() {
            let Lane { shard, mut rows, next } = self.lanes.pop_front()?;
            match (rows.pop_front(), next) {
                (Some(row), next) => {
                    self.lanes.push_back(Lane { shard, rows, next });
                    self.working += 1;
                    let passed = (self.tick.budget.clock)();
                    self.slot = passed.max(self.slot.saturating_add(self.pace.gap));
                    return Some(Next::Work(row, self.slot.saturating_sub(passed)));
                }
                (None, Some(next)) => {
                    self.reading += 1;
                    return Some(Next::Read(shard, next));
                }
                (None, None) => {}
            }
        }
        None
    }

    fn ended(&mut self, ended: Ended<T>) {
        match ended {
            Ended::Worked(outcome) => {
                self.working -= 1;
                match outcome {
                    Ok(()) => self.swept.done += 1,
                    Err(fault) => {
                        self.swept.failed += 1;
                        self.swept.note(fault);
                    }
                }
            }
            Ended::Read(shard, part) => {
                self.reading -= 1;
                self.take(shard, part);
            }
        }
    }

    fn take(&mut self, shard: u64, part: Result<Part<T>, Fault>) {
        match part {
            Ok(Part { rows, next }) => self.lanes.push_back(Lane { shard, rows: rows.into(), next }),
            Err(fault) => {
                tracing::warn!(shard, error = fault.chain(), "a shard cannot be read");
                self.swept.shards_left += 1;
                self.swept.note(fault);
            }
        }
    }

    fn over(mut self) -> Swept {
        let is_left = |lane: &&Lane<T>| !lane.rows.is_empty() || lane.next.is_some();
        self.swept.shards_left += self.reading + self.lanes.iter().filter(is_left).count() as u64;
        self.swept
    }
}

/// A run over `shards`: `read` gives a shard's page, `work` does a row. `work` bounds itself ([`Tick::within`]) and says
/// which row failed.
pub async fn sweep<T, R, W>(
    tick: &Tick,
    shards: u64,
    pace: Pace,
    read: impl Fn(u64, Option<Cursor>) -> R,
    work: impl Fn(T) -> W,
) -> Swept
where
    R: Future<Output = Result<Part<T>, Fault>>,
    W: Future<Output = Result<(), Fault>>,
{
    let read = |shard, after| tick.within(READ_LIMIT, "reading a shard", read(shard, after));
    let (lanes, slot, swept) = (VecDeque::new(), Duration::ZERO, Swept::default());
    let mut run = Run { tick, pace, lanes, working: 0, reading: 0, slot, swept };
    // The first pages of all are read at once and before anything is done, so that the oldest is known whatever comes.
    let order: Vec<u64> = tick.shards(shards).collect();
    let first = join_all(order.iter().map(|shard| read(*shard, None))).await;
    order.into_iter().zip(first).for_each(|(shard, part)| run.take(shard, part));
    let mut going = FuturesUnordered::new();
    loop {
        while let Some(next) = run.next() {
            going.push(match next {
                Next::Work(row, wait) => {
                    let work = &work;
                    Either::Left(async move {
                        if !wait.is_zero() {
                            tokio::time::sleep(wait + jitter(0).min(pace.gap)).await;
                        }
                        Ended::Worked(work(row).await)
                    })
                }
                Next::Read(shard, after) => {
                    let page = read(shard, Some(after));
                    Either::Right(async move { Ended::Read(shard, page.await) })
                }
            });
        }
        let end = tick.budget.left().saturating_add(GRACE);
        match tokio::time::timeout(end, going.next()).await {
            Ok(None) => return run.over(),
            Ok(Some(ended)) => run.ended(ended),
            // Whatever is under way is dropped, as when a process ends.
            Err(late) => {
                run.swept.failed += run.working as u64;
                run.swept.note(Fault::unavailable("ending a run in its time", late));
                return run.over();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::future::pending;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU64;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const SHARDS: u64 = 4;

    /// A budget by a clock that moves on by a second whenever it is read.
    fn seconds(count: u64) -> Budget {
        let reads = AtomicU64::new(0);
        Budget::by(move || Duration::from_secs(reads.fetch_add(1, Ordering::Relaxed)), Duration::from_secs(count))
    }

    /// Pages of shards, of two rows each: a row is its shard and its place in it.
    async fn two_of(rows: u64, shard: u64, after: Option<Cursor>) -> Result<Part<(u64, u64)>, Fault> {
        let from: u64 = after.map_or(0, |cursor| cursor.0["n"].as_n().unwrap().parse().unwrap());
        let to = (from + 2).min(rows);
        let next = (to < rows).then(|| Cursor(Item::from([("n".to_owned(), crate::dynamo::n(to))])));
        Ok(Part { rows: (from..to).map(|place| (shard, place)).collect(), next })
    }

    #[tokio::test]
    async fn a_run_pages_through_every_shard_and_does_each_row_once() {
        let done = Mutex::new(Vec::new());
        let work = |row| {
            done.lock().unwrap().push(row);
            async { Ok(()) }
        };
        let swept = sweep(&NOW.into(), SHARDS, Pace::at_once(3), |shard, after| two_of(7, shard, after), work).await;
        assert_eq!((swept.done, swept.failed, swept.shards_left), (28, 0, 0));
        let done = done.into_inner().unwrap();
        assert_eq!(done.iter().copied().collect::<BTreeSet<_>>().len(), 28);
        let first: BTreeSet<u64> = done[..4].iter().map(|(shard, _)| *shard).collect();
        assert_eq!(first.len(), 4, "shards take turns: {done:?}");
        swept.say("rows", "test").unwrap();
    }

    #[test]
    fn runs_begin_at_different_shards() {
        let mut begun = BTreeMap::new();
        for second in 0..64 {
            let tick = Tick::from(NOW.plus_seconds(60 * second));
            let order: Vec<u64> = tick.shards(SHARDS).collect();
            assert_eq!(order.iter().copied().collect::<BTreeSet<_>>().len(), 4, "{order:?}");
            *begun.entry(order[0]).or_insert(0) += 1;
        }
        assert!(begun.len() == 4 && begun.values().all(|times| *times >= 6), "{begun:?}");
    }

    #[tokio::test]
    async fn a_run_begins_nothing_when_its_time_is_over_and_says_what_is_left() {
        let tick = Tick { now: NOW, budget: seconds(30) };
        let swept =
            sweep(&tick, SHARDS, Pace::at_once(1), |shard, after| two_of(1_000, shard, after), async |_| Ok(())).await;
        assert!((1..30).contains(&swept.done), "{swept:?}");
        assert_eq!(swept.shards_left, SHARDS);
        swept.say("rows", "test").unwrap();
        let late = Tick { now: NOW, budget: seconds(0) };
        let swept =
            sweep(&late, SHARDS, Pace::at_once(1), |shard, after| two_of(1, shard, after), async |_| Ok(())).await;
        assert_eq!((swept.done, swept.shards_left), (0, SHARDS));
    }

    #[tokio::test]
    async fn neither_what_fails_nor_what_hangs_keeps_the_others_from_their_turn() {
        // Its time never passes, so that only the limits end what hangs.
        let tick = Tick { now: NOW, budget: Budget::by(|| Duration::ZERO, Duration::from_millis(1)) };
        let read = async |shard, after| match shard {
            0 => pending().await,
            1 => Err(Fault::contended("reading")),
            _ => two_of(50, shard, after).await,
        };
        let work = async |row| match row {
            (2, 0) => Err(Fault::broken("working", "poison")),
            (2, 1) => tick.within(Duration::from_secs(60), "working", pending()).await,
            _ => Ok(()),
        };
        let swept = sweep(&tick, SHARDS, Pace::at_once(4), read, work).await;
        assert_eq!((swept.done, swept.failed, swept.shards_left), (98, 2, 2));
        assert!(matches!(swept.say("rows", "test"), Err(Fault::Broken(_))), "what needs a person is not hidden");
    }

    #[test]
    fn rows_are_begun_at_most_so_many_a_second() {
        let tick = Tick { now: NOW, budget: Budget::by(|| Duration::from_secs(1), Duration::MAX) };
        let pace = Pace::at_once(10).at_most(50);
        let (lanes, slot, swept) = (VecDeque::new(), Duration::ZERO, Swept::default());
        let mut run = Run { tick: &tick, pace, lanes, working: 0, reading: 0, slot, swept };
        run.take(0, Ok(Part { rows: (0..20).collect(), next: None }));
        let waits = std::iter::from_fn(|| match run.next()? {
            Next::Work(_, wait) => Some(wait.as_millis()),
            Next::Read(..) => None,
        });
        assert_eq!(waits.collect::<Vec<_>>(), [0, 20, 40, 60, 80, 100, 120, 140, 160, 180], "ten at once");
    }
}
