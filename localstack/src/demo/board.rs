//! How far the sale is: counted by the buyers, watched by the operator, shown to the person at the terminal.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How often the bars are brought up to date.
const REDRAW_EVERY: Duration = Duration::from_millis(200);
/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Counts that only rise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Joined the waiting room.
    pub joined: usize,
    /// Were let in.
    pub admitted: usize,
    /// Were told that admission is paused.
    pub told_of_pause: usize,
    pub holds: usize,
    pub sold: usize,
    /// Buyers who finished.
    pub finished: usize,
}

/// The counts of a sale.
#[derive(Debug)]
pub struct Board {
    counts: watch::Sender<Counts>,
    buyers: usize,
    seats: usize,
}

impl Board {
    /// A board for so many buyers and seats.
    pub fn new(buyers: usize, seats: usize) -> Arc<Self> {
        Arc::new(Self { counts: watch::Sender::new(Counts::default()), buyers, seats })
    }

    /// How many seats there are.
    pub fn seats(&self) -> usize {
        self.seats
    }

    /// One more.
    pub fn joined(&self) {
        self.counts.send_modify(|counts| counts.joined += 1);
    }

    /// One more.
    pub fn admitted(&self) {
        self.counts.send_modify(|counts| counts.admitted += 1);
    }

    /// One more.
    pub fn told_of_pause(&self) {
        self.counts.send_modify(|counts| counts.told_of_pause += 1);
    }

    /// One more.
    pub fn held(&self) {
        self.counts.send_modify(|counts| counts.holds += 1);
    }

    /// So many more.
    pub fn sold(&self, seats: usize) {
        self.counts.send_modify(|counts| counts.sold += seats);
    }

    /// One more.
    pub fn finished(&self) {
        self.counts.send_modify(|counts| counts.finished += 1);
    }

    /// The counts now.
    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Waits until `so` holds, or all buyers finished.
    pub async fn until(&self, so: impl Fn(&Counts) -> bool) {
        let mut counts = self.counts.subscribe();
        // It ends with an error when the board is gone, and then there is nothing to wait for.
        if counts.wait_for(|counts| so(counts) || counts.finished >= self.buyers).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    /// Shows the counts until the task is dropped: bars on a terminal, a line every few seconds elsewhere.
    pub fn show(self: &Arc<Self>) -> Show {
        let board = Arc::clone(self);
        let bars = std::io::stderr().is_terminal().then(|| Bars::new(board.buyers, board.seats));
        let drawn = bars.clone();
        let task = tokio::spawn(async move {
            let begun = Instant::now();
            loop {
                let counts = board.counts();
                match &drawn {
                    Some(bars) => {
                        bars.draw(&counts);
                        sleep(REDRAW_EVERY).await;
                    }
                    None => {
                        sleep(LINE_EVERY).await;
                        eprintln!("demo: {:>3} s  {}", begun.elapsed().as_secs(), board.line());
                    }
                }
            }
        });
        Show { task, bars, board: Arc::clone(self) }
    }

    fn line(&self) -> String {
        let (counts, buyers) = (self.counts(), self.buyers);
        let Counts { joined, admitted, holds, sold, finished, .. } = counts;
        let seats = self.seats;
        format!(
            "{joined}/{buyers} joined, {admitted} admitted, {holds} holds, {sold}/{seats} sold, {finished} finished"
        )
    }
}

/// Progress being shown.
pub struct Show {
    task: JoinHandle<()>,
    bars: Option<Bars>,
    board: Arc<Board>,
}

impl Show {
    /// Prints a line between the bars or lines.
    pub fn say(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.all.suspend(|| eprintln!("demo: {text}")),
            None => eprintln!("demo: {text}"),
        }
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        self.task.abort();
        match &self.bars {
            Some(bars) => {
                bars.draw(&self.board.counts());
                bars.end();
                eprintln!();
            }
            None => eprintln!("demo:        {}", self.board.line()),
        }
    }
}

#[derive(Clone)]
struct Bars {
    all: MultiProgress,
    joined: ProgressBar,
    admitted: ProgressBar,
    sold: ProgressBar,
    finished: ProgressBar,
}

impl Bars {
    fn new(buyers: usize, seats: usize) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("  {prefix:<12} {bar:40.cyan/blue} {pos:>6} of {len:<6} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = |name: &'static str, length: usize| {
            all.add(ProgressBar::new(length as u64)).with_style(style.clone()).with_prefix(name)
        };
        Self {
            joined: bar("joined", buyers),
            admitted: bar("admitted", buyers),
            sold: bar("seats sold", seats),
            finished: bar("finished", buyers),
            all,
        }
    }

    fn draw(&self, counts: &Counts) {
        self.joined.set_position(counts.joined as u64);
        self.admitted.set_position(counts.admitted as u64);
        self.sold.set_position(counts.sold as u64);
        self.sold.set_message(format!("{} holds", counts.holds));
        self.finished.set_position(counts.finished as u64);
    }

    fn end(&self) {
        for bar in [&self.joined, &self.admitted, &self.sold, &self.finished] {
            bar.abandon();
        }
    }
}
