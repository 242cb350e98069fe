//! What a sale causes outside: awaited, and read from the sink that plays everybody there.

use crate::audit::on_their_way;
use crate::sink::{Behaviour, Client, Tally, Target};
use crate::{Result, StackInfo};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long messages may take to get where they have to: whoever was not answered comes again less and less often, and what
/// a consumer had that was cut off comes again when its queue shows it again, after six minutes.
const PATIENCE: Duration = Duration::from_secs(420);
/// How long a dead data platform keeps a call waiting, in seconds: longer than anybody waits.
const HANGS_SECONDS: u64 = 60;
/// Between two looks at the queues.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What reached the outside.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// How much, by target.
    pub tallies: BTreeMap<Target, Tally>,
    /// Messages that are still on their way.
    pub underway: u64,
    /// How long that took.
    pub took: Duration,
}

/// Waits until nothing is on its way any more, or patience ends. Nobody is outside of a stack without a sink.
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
        // What is between two queues is in neither: it has to be quiet twice.
        let is_quiet = underway == 0 && before.as_ref() == Some(&tallies);
        if is_quiet || begun.elapsed() >= PATIENCE {
            return Ok(Outside { tallies, underway, took: begun.elapsed() });
        }
        before = (underway == 0).then_some(tallies);
        sleep(LOOK_EVERY).await;
    }
}

/// The data platform, dead for a while.
pub struct Dead {
    sink: Client,
    refused_before: u64,
}

impl Dead {
    /// It takes calls and answers none from now on. `None` where nobody is outside.
    pub async fn begin(info: &StackInfo) -> Result<Option<Self>> {
        if info.sink_url.is_empty() {
            return Ok(None);
        }
        let sink = Client::new(&info.sink_url);
        let refused_before = refused(&sink).await?;
        sink.behave(Target::DataPlatform, Behaviour::hang(HANGS_SECONDS)).await?;
        Ok(Some(Self { sink, refused_before }))
    }

    /// It is well again. How many calls it refused meanwhile.
    pub async fn end(self) -> Result<u64> {
        self.sink.behave(Target::DataPlatform, Behaviour::ok()).await?;
        Ok(refused(&self.sink).await? - self.refused_before)
    }
}

async fn refused(sink: &Client) -> Result<u64> {
    Ok(sink.summary().await?.get(&Target::DataPlatform).map_or(0, |tally| tally.refused))
}
