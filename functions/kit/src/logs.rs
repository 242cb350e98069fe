//! What CloudWatch Logs delivers to a subscriber: log lines, gzipped and base64-encoded.
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/SubscriptionFilters.html#LambdaFunctionExample>

use crate::Fault;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contracts::Timestamp;
use flate2::read::GzDecoder;
use serde::Deserialize;
use std::io::Read;

/// The most that is unpacked of a delivery. CloudWatch packs up to 1 MB; ours never unpack to sixteen times that.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The event of a subscriber.
#[derive(Debug, Deserialize)]
pub(crate) struct LogsEvent {
    awslogs: Packed,
}

#[derive(Debug, Deserialize)]
struct Packed {
    data: String,
}

#[derive(Debug, Deserialize)]
struct Delivery {
    #[serde(rename = "logEvents", default)]
    events: Vec<WireLine>,
}

#[derive(Debug, Deserialize)]
struct WireLine {
    #[serde(default)]
    timestamp: i64,
    message: String,
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it was written.
    pub at: Timestamp,
    pub text: String,
}

pub(crate) fn lines(event: &LogsEvent) -> Result<Vec<Line>, Fault> {
    let broken = |error: Box<dyn std::error::Error + Send + Sync>| Fault::broken("unpacking log lines", error);
    let packed = STANDARD.decode(&event.awslogs.data).map_err(|error| broken(error.into()))?;
    let mut text = String::new();
    GzDecoder::new(packed.as_slice())
        .take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| broken(error.into()))?;
    let delivery: Delivery = serde_json::from_str(&text).map_err(|error| broken(error.into()))?;
    let line = |line: WireLine| Line { at: Timestamp::from_millis(line.timestamp), text: line.message };
    Ok(delivery.events.into_iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    #[test]
    fn lines_are_unpacked_in_order_and_garbage_is_broken() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(br#"{"messageType":"DATA_MESSAGE","logEvents":[{"id":"1","timestamp":7,"message":"a"}]}"#)
            .unwrap();
        let data = STANDARD.encode(gzip.finish().unwrap());
        let read = lines(&LogsEvent { awslogs: Packed { data } }).unwrap();
        assert_eq!(read, [Line { at: Timestamp::from_millis(7), text: "a".into() }]);
        let garbage = LogsEvent { awslogs: Packed { data: "AAAA".into() } };
        assert!(matches!(lines(&garbage), Err(Fault::Broken(_))));
    }
}
