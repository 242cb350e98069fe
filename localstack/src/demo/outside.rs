//! The effects of a sale on external systems: waits for them, and reads them from the sink that plays those.

use crate::audit::on_their_way;
use crate::sink::{Behaviour, Client, Tally, Target};
use crate::{Result, StackInfo};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long messages may take to arrive: unanswered calls are retried at growing intervals, and a message whose
/// consumer was cut off is redelivered after its visibility timeout of six minutes.
const TIME_LIMIT: Duration = Duration::from_secs(420);
/// How long a dead data platform keeps a call waiting, in seconds: longer than any caller waits.
const HANGS_SECONDS: u64 = 60;
/// The interval between two polls of the queues.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What reached the external systems.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// How much, by target.
    pub tallies: BTreeMap<Target, Tally>,
    /// Messages that are still in flight.
    pub underway: u64,
    /// How long that took.
    pub took: Duration,
}

/// Waits until nothing is in flight any more, or the time limit is over. A stack without a sink has no external
/// systems.
pub async fn settle(info: &StackInfo) -> Result<Outside> {
    if info.sink_url.is_empty() {
        return Ok(Outside::default());
    }
    let sink = Client::new(&info.sink_url);
    let begun = Instant::now();
    let mut before = None;
    loop {
        let underway = on_their_way(info).await?;
        let tallies = sink.summary().await?;
        // A message between two queues is in neither: it has to be quiet twice.
        let is_quiet = underway == 0 && before.as_ref() == Some(&tallies);
        if is_quiet || begun.elapsed() >= TIME_LIMIT {
            return Ok(Outside { tallies, underway, took: begun.elapsed() });
        }
        before = (underway == 0).then_some(tallies);
        sleep(POLL_INTERVAL).await;
    }
}

/// The data platform, dead for a while.
pub struct Dead {
    sink: Client,
    refused_before: u64,
}

impl Dead {
    /// From now on it accepts calls and answers none. `None` where there are no external systems.
    pub async fn begin(info: &StackInfo) -> Result<Option<Self>> {
        if info.sink_url.is_empty() {
            return Ok(None);
        }
        let sink = Client::new(&info.sink_url);
        let refused_before = refused(&sink).await?;
        sink.behave(Target::DataPlatform, Behaviour::hang(HANGS_SECONDS)).await?;
        Ok(Some(Self { sink, refused_before }))
    }

    /// It recovers. Returns how many calls it refused meanwhile.
    pub async fn end(self) -> Result<u64> {
        self.sink.behave(Target::DataPlatform, Behaviour::ok()).await?;
        Ok(refused(&self.sink).await? - self.refused_before)
    }
}

async fn refused(sink: &Client) -> Result<u64> {
    Ok(sink.summary().await?.get(&Target::DataPlatform).map_or(0, |tally| tally.refused))
}
