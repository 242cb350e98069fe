//! `cargo demo`: an on-sale, played over HTTP as real clients would play it, and audited afterwards.
//!
//! An operator opens a concert; buyers join its waiting room, are let in, race for seats, charge points and pay. The
//! operator changes the rate, pauses and resumes meanwhile. Some give their tickets back afterwards, and merchandise is
//! sold. Nothing here looks into the tables until it is over.

mod board;
mod buyers;
mod client;
mod hall;
mod merchandise;
mod outside;
mod refunds;
mod report;

use crate::audit::{self, TimeLimits, Tolerances};
use crate::console;
use crate::driver::arguments::Common;
use crate::files::CargoTarget;
use crate::{Error, Options, Result, Stack, StackInfo, Tokens, up};
use board::Board;
use buyers::{Buyer, BuyerLog, Sale};
use client::{Api, Caller, Plan};
use contracts::{ConcertId, ScheduleId};
use report::{Outcome, Pause};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// How many calls are under way at the most.
const AT_ONCE: usize = 40;
/// How long a hold lasts, in seconds: long enough to pay in, short enough to see seats come back.
const HOLD_SECONDS: u32 = 15;
/// How long people may stay inside, in seconds.
const ACTIVE_SECONDS: u32 = 150;
/// How many tickets one may have.
const MAX_PER_USER: u32 = 4;
/// How many people are let in a minute at the most.
const FASTEST: u32 = 900;
/// And at the least, so that the sale goes on.
const SLOWEST: u32 = 60;
/// With more buyers inside than that, the operator slows down: they would lose their holds before they can pay.
const CROWD: usize = 40;
/// How often the operator looks how crowded it is.
const STEER_EVERY: Duration = Duration::from_secs(5);
/// How late a status check may learn of a pause, in milliseconds.
const STATUS_MAY_BE_LATE_MILLIS: i64 = 1_500;
/// How long a pause lasts at the most, when no buyer asks.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// After how long a sale is given up, for each 600 buyers. It takes a third of that on two idle cores.
const DEADLINE: Duration = Duration::from_secs(300);
/// How long seats may stay held after the last buyer finished, beyond the length of a hold.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// The interval between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Options of the demo.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The options of every verb.
    #[command(flatten)]
    pub common: Common,
    /// How many buyers
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub buyers: u32,
    /// How many seats
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub seats: u32,
    /// How many orders of merchandise after the tickets, all at once, for a third as many units
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(..=20_000))]
    pub orders: u32,
    /// Leave the stack running
    #[arg(long)]
    pub keep: bool,
    /// Buyers of the same characters and wishes again [default: random]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// Plays an on-sale and audits it. Fails when anything is wrong.
pub async fn run(args: Args) -> Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    eprintln!("demo: {} buyers, {} seats, {} orders, --seed {seed}", args.buyers, args.seats, args.orders);
    let cloud = Cloud::start(&args).await?;
    let played = play(&cloud, &args, seed).await;
    let closed = cloud.close().await;
    let clean = played?;
    closed?;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays the sale. Returns whether all went well.
async fn play(cloud: &Cloud, args: &Args, seed: u64) -> Result<bool> {
    let tokens = cloud.tokens()?;
    let operator = Operator::new(&tokens, Api::new(&cloud.info().api_url, AT_ONCE))?;
    let (concert, schedule) = operator.open(args.seats).await?;

    // So many a minute that all are in after little more than a minute, as far as this machine can serve them.
    let rate = (args.buyers * 9 / 10).clamp(300, FASTEST);
    let arrivals = Duration::from_secs(u64::from(args.buyers).div_ceil(100).clamp(2, 60));
    operator.admit(&concert, rate * 3 / 4, arrivals).await?;

    let board = Board::new(args.buyers as usize, args.seats as usize);
    let sale = Arc::new(Sale { api: operator.api.clone(), concert, schedule, board: Arc::clone(&board) });
    let buyers = buyers(args, seed, &tokens, arrivals)?;
    let begun = Instant::now();
    let show = board.show();
    let deadline = DEADLINE * args.buyers.div_ceil(600);
    let played = timeout(deadline, async {
        tokio::try_join!(operator.steer(&sale, args.buyers as usize, rate, &show), visit(&sale, buyers))
    });
    let played = played.await.unwrap_or_else(|_| {
        Err(Error::Engine(format!("the sale is not over after {} s: {:?}", deadline.as_secs(), board.counts())))
    });
    let took = begun.elapsed();
    drop(show);
    let (pause, mut logs) = match played {
        Ok(played) => played,
        Err(error) => {
            console::print(&report::answers(&sale.api.numbers()))?;
            return Err(error);
        }
    };

    let refunds = refunds::give_back(&sale, &mut logs).await?;
    let (map, date) = rest(&sale).await?;
    let merchandise = merchandise::sell(&operator, cloud.info(), &tokens, args.orders).await?;
    let outside = outside::settle(cloud.info()).await?;
    let (numbers, took) = (sale.api.numbers(), took + merchandise.took);
    let outcome = Outcome { logs, numbers, took, map, date, pause, refunds, merchandise, outside };
    console::print(&outcome.summary())?;
    let audited = audit(cloud.info()).await?;
    conclude(&outcome, audited, seed)
}

/// The buyers, each with a token, a character and wishes of their own.
fn buyers(args: &Args, seed: u64, tokens: &Tokens, arrivals: Duration) -> Result<Vec<Buyer>> {
    // A stack that was kept knows the buyers of an earlier run.
    let run = kit::now().millis() / 1_000 % 1_000_000;
    let habits = buyers::habits(seed, args.buyers as usize);
    let mut all = Vec::with_capacity(habits.len());
    for (number, habit) in (1_u64..).zip(habits) {
        let name = format!("buyer-{run}-{number:04}");
        let bearer = tokens.user(&name)?;
        // Neighbouring seeds give unrelated buyers.
        let own = seed.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        all.push(Buyer::new(name, bearer, habit, own, arrivals));
    }
    Ok(all)
}

/// All buyers at once, to the end of the last.
async fn visit(sale: &Arc<Sale>, buyers: Vec<Buyer>) -> Result<Vec<BuyerLog>> {
    let mut visits = JoinSet::new();
    for buyer in buyers {
        visits.spawn(buyer.visit(Arc::clone(sale)));
    }
    let mut logs = Vec::new();
    while let Some(log) = visits.join_next().await {
        logs.push(log.map_err(|e| Error::Engine(format!("a buyer broke down: {e}")))?);
    }
    Ok(logs)
}

/// Waits until no seat is held any more, and reads the end state.
async fn rest(sale: &Sale) -> Result<(client::SeatMap, client::Date)> {
    let limits = Duration::from_secs(u64::from(HOLD_SECONDS)) + DRAIN_LIMIT;
    let begun = Instant::now();
    loop {
        let map = sale.api.seat_map(&sale.schedule).await?;
        let dates = sale.api.schedules(&sale.concert).await?;
        let date = dates.into_iter().find(|date| date.schedule_id == sale.schedule);
        let date = date.ok_or_else(|| Error::Engine("the date is not in the list of dates".to_owned()))?;
        let seats = map.sections.iter().flat_map(|section| &section.seats);
        let held = seats.filter(|seat| seat.status == contracts::seats::SeatStatus::Held).count();
        // The list of dates follows the map.
        if held == 0 && date.seats_available == Some(map.seats_available) || begun.elapsed() > limits {
            return Ok((map, date));
        }
        sleep(POLL_INTERVAL).await;
    }
}

async fn audit(info: &StackInfo) -> Result<audit::Report> {
    // Everything is over: what is not consistent within seconds is not in flight either.
    let tolerance = Duration::from_secs(5);
    let limits = TimeLimits {
        settle: Duration::from_secs(30),
        tolerances: Tolerances { overdue: tolerance, unpublished: tolerance, pending: tolerance, undone: tolerance },
    };
    audit::audit(info, &limits).await
}

/// The verdict.
fn conclude(outcome: &Outcome, audited: audit::Report, seed: u64) -> Result<bool> {
    let unmet = outcome.unmet();
    let mut text =
        format!("Audit of the tables ({} looks, {:.1} s)\n{audited}\n", audited.looks, audited.took.as_secs_f64());
    if !unmet.is_empty() {
        text.push_str("What did not go as it must\n");
        text.extend(unmet.iter().map(|line| format!("  - {line}\n")));
        text.push('\n');
    }
    let clean = unmet.is_empty() && audited.is_clean();
    let verdict = if clean { "All went as it must." } else { "NOT as it must be." };
    console::print(&format!("{text}{verdict} (--seed {seed})\n"))?;
    Ok(clean)
}

/// Who runs the sale.
struct Operator {
    api: Api,
    caller: Caller,
}

impl Operator {
    fn new(tokens: &Tokens, api: Api) -> Result<Self> {
        let caller = Caller { bearer: tokens.operator("operator")?, queue_token: None };
        Ok(Self { api, caller })
    }

    /// Announces a concert and opens a date of it.
    async fn open(&self, seats: u32) -> Result<(ConcertId, ScheduleId)> {
        let run = kit::now();
        let key = |what: &str| format!("{what}-{}", run.millis());
        let concert = self.api.create_concert(&self.caller, &key("concert"), "Encore, the last night").await?;
        let terms = json!({
            "starts_at": run.plus_seconds(30 * 24 * 3_600).rfc3339(),
            "max_per_user": MAX_PER_USER,
            "hold_seconds": HOLD_SECONDS,
            "sections": hall::sections(seats),
        });
        let date = self.api.create_schedule(&self.caller, &key("date"), &concert, terms).await?;
        if date.seats_total != seats {
            return Err(Error::Engine(format!("asked for {seats} seats, got {}", date.seats_total)));
        }
        Ok((concert, date.schedule_id))
    }

    /// Lets people in at a rate, from some time on.
    async fn admit(&self, concert: &ConcertId, rate_per_minute: u32, from_now: Duration) -> Result<client::Admission> {
        let millis = i64::try_from(from_now.as_millis()).unwrap_or(i64::MAX);
        let opens_at = kit::now().plus_millis(millis);
        let plan = Plan { opens_at, rate_per_minute, active_seconds: ACTIVE_SECONDS };
        Ok(self.api.set_admission(&self.caller, concert, plan).await?)
    }

    /// Adjusts the rate until `so` holds: lowers it while it is crowded inside, raises it to `fastest` at the most
    /// while it is not. Returns the last rate.
    async fn pace(
        &self,
        sale: &Sale,
        mut rate: u32,
        fastest: u32,
        show: &board::Show,
        so: impl Fn(&board::Counts) -> bool,
    ) -> Result<u32> {
        let mut before = 0;
        while timeout(STEER_EVERY, sale.board.until(&so)).await.is_err() {
            let counts = sale.board.counts();
            let inside = counts.admitted.saturating_sub(counts.finished);
            let grows = inside > std::mem::replace(&mut before, inside);
            // What was lowered takes effect after those who are inside.
            let crowded = inside > CROWD && grows;
            let (wanted, how) = match inside {
                _ if crowded => ((rate * 2 / 3).max(SLOWEST), "lowers"),
                // Before it opens nobody is inside, and a new plan would open it.
                _ if counts.admitted > 0 && inside < CROWD / 2 => ((rate * 3 / 2).min(fastest), "raises"),
                _ => (rate, "keeps"),
            };
            if wanted != rate {
                rate = wanted;
                self.admit(&sale.concert, rate, Duration::ZERO).await?;
                show.say(&format!("the operator sees {inside} buyers inside and {how} the rate to {rate} a minute"));
            }
        }
        Ok(rate)
    }

    /// Paces the sale. Pauses when 60 percent are in, or the seats are nearly gone, until most of those who wait have
    /// noticed, and resumes. Lets everybody in once next to nothing is left.
    async fn steer(&self, sale: &Sale, buyers: usize, rate: u32, show: &board::Show) -> Result<Option<Pause>> {
        let fastest = rate;
        let nearly_all = (sale.board.seats() * 49 / 50).max(1);
        let enough = |counts: &board::Counts| counts.admitted >= buyers * 6 / 10 || counts.sold >= nearly_all;
        let rate = self.pace(sale, rate * 3 / 4, fastest, show, enough).await?;
        if sale.board.counts().finished >= buyers {
            return Ok(None);
        }
        let paused = self.admit(&sale.concert, 0, Duration::ZERO).await?;
        let from = kit::now().plus_millis(STATUS_MAY_BE_LATE_MILLIS);
        let (admitted, issued) = (paused.admitted.unwrap_or_default(), paused.issued.unwrap_or_default());
        show.say(&format!("the operator pauses: {admitted} of {issued} are in"));
        let waiting = usize::try_from(issued.saturating_sub(admitted)).unwrap_or(usize::MAX);
        let noticed = sale.board.until(|counts| counts.told_of_pause >= waiting * 3 / 4);
        // Those far behind ask seldom, and some may have gone.
        let noticed_enough = timeout(LONGEST_PAUSE, noticed).await.is_ok();
        let to = kit::now();
        self.admit(&sale.concert, rate, Duration::ZERO).await?;
        let told = sale.board.counts().told_of_pause;
        let long = if noticed_enough { "" } else { " and it took long enough" };
        show.say(&format!("the operator resumes: {told} buyers were told to wait{long}"));

        // The last seats may be held by people who let them go.
        self.pace(sale, rate, fastest, show, |counts| counts.sold >= nearly_all).await?;
        if sale.board.counts().admitted < buyers && sale.board.counts().finished < buyers {
            // A buyer who only sees that it is sold out costs little.
            self.admit(&sale.concert, fastest * 4, Duration::ZERO).await?;
            show.say("all but sold out: the operator lets the others in to see it");
        }
        Ok(Some(Pause { from, to: to.max(from) }))
    }
}

/// The local cloud of the demo.
enum Cloud {
    /// Ends with the demo.
    Ours(Box<Stack>),
    /// Stays.
    Kept(Box<StackInfo>, PathBuf),
}

impl Cloud {
    /// Brings a stack up, next to any others.
    async fn start(args: &Args) -> Result<Self> {
        let asked = args.common.options()?;
        let unique = Options::ephemeral("demo");
        let options = match (&args.common.target_dir, args.keep) {
            (Some(_), _) => asked,
            (None, true) => Options { dir: CargoTarget::of_this_program().dir.join(kept_name()), ..asked },
            (None, false) => Options { dir: unique.dir, ephemeral: true, ..asked },
        };
        if args.keep {
            let (info, _) = up(&options).await?;
            return Ok(Self::Kept(Box::new(info), options.dir));
        }
        Stack::start(options).await.map(|stack| Self::Ours(Box::new(stack)))
    }

    fn info(&self) -> &StackInfo {
        match self {
            Self::Ours(stack) => stack.info(),
            Self::Kept(info, _) => info,
        }
    }

    fn tokens(&self) -> Result<Tokens> {
        match self {
            Self::Ours(stack) => Tokens::open(stack.dir()),
            Self::Kept(_, dir) => Tokens::open(dir),
        }
    }

    /// Ends it, or prints how to go on with it.
    async fn close(self) -> Result<()> {
        match self {
            Self::Ours(stack) => stack.stop().await,
            Self::Kept(info, dir) => console::print(&usage(&info, &dir)),
        }
    }
}

/// The directory of a stack that stays, different for each.
fn kept_name() -> String {
    format!("demo-{}", std::process::id())
}

fn usage(info: &StackInfo, dir: &Path) -> String {
    let dir = std::env::current_dir().ok().and_then(|here| dir.strip_prefix(here).ok()).unwrap_or(dir).display();
    let api = &info.api_url;
    format!(
        "\nThe stack goes on running{}.\n  \
         look    curl {api}/concerts\n  \
         act     curl -H \"Authorization: Bearer $(cargo local token --target-dir {dir} --user me)\" {api}/points\n  \
         logs    cargo local logs --target-dir {dir} --follow\n  \
         audit   cargo local audit --target-dir {dir}\n  \
         stop    cargo local down --target-dir {dir}\n",
        info.pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )
}
