//! Queue activity, published without a call (R17): a join and a status check write one line into their log and are
//! answered. A log subscription passes the lines to `report-queue-activity`. So consumers, or the lack of them, cost
//! the request no time and cannot fail it.

use crate::domain::Place;
use crate::dynamo::SOURCE;
use contracts::events::{Event, EventBody, QueueChecked, QueueJoined};
use contracts::{ConcertId, UserId};
use kit::logs::Line;
use kit::outbox;
use serde::{Deserialize, Serialize};

/// The word by which the subscription filters our lines out of a log.
pub const MARK: &str = "queue_activity";

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A user took a place.
    Joined,
    /// A user checked the status of a place.
    Checked,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Checked => "checked",
        }
    }
}

/// Logs the activity.
pub fn say(kind: Kind, request_id: &str, user: &UserId, concert: &ConcertId, place: &Place) {
    let (position, status) = (place.position, place.status.as_str());
    let (user, concert) = (user.as_str(), concert.as_str());
    // This target is enabled at every log level: the line carries an event and is not diagnostic output.
    tracing::info!(target: kit::telemetry::SAID, activity = MARK, kind = kind.as_str(), correlation = request_id, user, concert, position, status);
}

#[derive(Debug, Deserialize)]
struct Said {
    activity: String,
    kind: Kind,
    correlation: String,
    user: UserId,
    concert: ConcertId,
    position: u64,
    status: String,
}

/// The event in a log line; `None` when the line is not ours. A line with our mark that cannot be parsed is logged and
/// skipped: it must not block the others.
pub fn heard(line: &Line) -> Option<Event> {
    if !line.text.contains(MARK) {
        return None;
    }
    match read(line) {
        Ok(event) => event,
        Err(error) => {
            tracing::error!(error, "a line of queue activity cannot be read");
            None
        }
    }
}

fn read(line: &Line) -> Result<Option<Event>, String> {
    let said: Said = serde_json::from_str(&line.text).map_err(|error| error.to_string())?;
    if said.activity != MARK {
        return Ok(None);
    }
    let Said { kind, correlation, user, concert, position, status, .. } = said;
    let subject = concert.to_string();
    let body = match kind {
        Kind::Joined => EventBody::QueueJoined(QueueJoined { user_id: user, concert_id: concert, position, status }),
        Kind::Checked => EventBody::QueueChecked(QueueChecked { user_id: user, concert_id: concert, position, status }),
    };
    // A request joins or checks once, so a line delivered twice is one event.
    let id = format!("{correlation}.{}", body.event_type());
    outbox::event_with_id(id, SOURCE, &subject, &correlation, body, line.at).map(Some).map_err(|fault| fault.chain())
}

#[cfg(test)]
mod tests {
    use super::*;
    use contracts::Timestamp;

    fn line(text: &str) -> Line {
        Line { at: Timestamp::from_millis(7), text: text.to_owned() }
    }

    #[test]
    fn a_line_of_ours_is_an_event_and_delivered_twice_the_same_one() {
        let text = r#"{"level":"INFO","activity":"queue_activity","kind":"joined","correlation":"req","user":"alice",
            "concert":"c1","position":3,"status":"waiting"}"#;
        let event = heard(&line(text)).unwrap();
        assert_eq!((event.id.as_str(), event.correlationid.as_str()), ("req.queue.joined", "req"));
        assert_eq!(event.time, Timestamp::from_millis(7));
        assert_eq!(heard(&line(text)), Some(event));
    }

    #[test]
    fn foreign_and_truncated_lines_are_skipped() {
        for text in
            ["START RequestId: 1", r#"{"http":"join-queue"}"#, r#"{"activity":"queue_activity"}"#, "queue_activity {"]
        {
            assert_eq!(heard(&line(text)), None, "{text}");
        }
    }
}
