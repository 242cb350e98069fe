//! The choreography of an order, in one place: the state of a participant's work, the events that it consumes, and what it
//! does about them.

use crate::events::{EventBody, OrderEvent};
use crate::{Invalid, Timestamp};
use serde::{Deserialize, Serialize};

/// Where a participant stands with an order: in its own table, so that what comes late or again finds it, and in the
/// order's outbox row as `work_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParticipantState {
    /// No event of it was consumed.
    Pending,
    /// It did its part.
    Done,
    /// It refused, and did nothing.
    Refused,
    /// It consumed the order's failure: its part is compensated, or never will be done.
    Undone,
}

impl ParticipantState {
    /// Its name in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Undone => "undone",
        }
    }
}

impl std::str::FromStr for ParticipantState {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Pending, Self::Done, Self::Refused, Self::Undone]
            .into_iter()
            .find(|work| work.as_str() == text)
            .ok_or(Invalid::new("work_state", "must be pending, done, refused or undone"))
    }
}

/// Which event of an order a participant consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderSignal {
    /// It was placed: each participant does its part.
    Placed,
    /// It failed: each participant compensates.
    Failed,
}

impl OrderSignal {
    /// The signal in an event, with its order.
    pub fn of(body: EventBody) -> Option<(Self, OrderEvent)> {
        match body {
            EventBody::OrderPlaced(order) => Some((Self::Placed, order)),
            EventBody::OrderFailed(failed) => Some((Self::Failed, failed.order)),
            _ => None,
        }
    }
}

/// What a participant does about a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Its part, or refuse.
    Do,
    /// Undo what it did, if anything, and see to it that it never will.
    Undo,
    /// Nothing but publish its answer again: it may have been lost.
    AnswerAgain,
    /// Nothing. The order was placed, but its failure was consumed before (R12).
    Nothing,
}

/// The choreography, in one place: what a signal leads to for a participant, by the state of its work. Its writes
/// repeat this as their conditions.
pub const fn reaction_to(signal: OrderSignal, work: ParticipantState) -> Reaction {
    match (signal, work) {
        (OrderSignal::Placed, ParticipantState::Pending) => Reaction::Do,
        (OrderSignal::Placed, ParticipantState::Done | ParticipantState::Refused)
        | (OrderSignal::Failed, ParticipantState::Undone) => Reaction::AnswerAgain,
        (OrderSignal::Placed, ParticipantState::Undone) => Reaction::Nothing,
        (OrderSignal::Failed, ParticipantState::Pending | ParticipantState::Done | ParticipantState::Refused) => {
            Reaction::Undo
        }
    }
}

/// For how long after it was placed an order is acted on, in milliseconds: 29 days. Participants know what they did for
/// one for 30 days; what comes later than that, out of dead letters that were sent again and again, could be done twice.
pub const ACTED_ON_MILLIS: i64 = 29 * 24 * 3600 * 1000;

/// Whether an order that was placed at a moment is too old to be acted on.
pub fn is_forgotten(placed_at: Timestamp, now: Timestamp) -> bool {
    now.millis_since(placed_at) > ACTED_ON_MILLIS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_failed_is_never_done_and_what_is_published_again_is_answered_again() {
        let reactions = |signal| {
            [ParticipantState::Pending, ParticipantState::Done, ParticipantState::Refused, ParticipantState::Undone]
                .map(|work| reaction_to(signal, work))
        };
        assert_eq!(
            reactions(OrderSignal::Placed),
            [Reaction::Do, Reaction::AnswerAgain, Reaction::AnswerAgain, Reaction::Nothing]
        );
        assert_eq!(
            reactions(OrderSignal::Failed),
            [Reaction::Undo, Reaction::Undo, Reaction::Undo, Reaction::AnswerAgain]
        );
    }
}
