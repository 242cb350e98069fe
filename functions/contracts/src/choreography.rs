//! The choreography of an order, in one place: the state of a participant's work, the events that it consumes, and its
//! reactions to them.

use crate::events::{EventBody, OrderEvent};
use crate::{Invalid, Timestamp};
use serde::{Deserialize, Serialize};

/// The state of a participant's work for an order: in its own table, where late and redelivered events find it, and in
/// the order's outbox row as `work_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParticipantState {
    /// No event of the order was consumed.
    Pending,
    /// It did its part.
    Done,
    /// It refused, and did nothing.
    Refused,
    /// It consumed the order's failure: its part is compensated, or will never be done.
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
    /// Do its part, or refuse.
    Do,
    /// Undo its part, if done, and ensure that it is never done later.
    Undo,
    /// Only republish its answer, which may have been lost.
    AnswerAgain,
    /// Nothing. The order was placed, but its failure was consumed before (R12).
    Nothing,
}

/// The choreography: a participant's reaction to a signal, by the state of its work. The conditions of its writes
/// repeat this.
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

/// For how long after it was placed an order is acted on, in milliseconds: 29 days. Participants remember an order for
/// 30 days; an event that arrives later, from dead letters that were redriven again and again, could be acted on twice.
pub const ACTED_ON_MILLIS: i64 = 29 * 24 * 3600 * 1000;

/// Whether an order that was placed at `placed_at` is too old to be acted on.
pub fn is_forgotten(placed_at: Timestamp, now: Timestamp) -> bool {
    now.millis_since(placed_at) > ACTED_ON_MILLIS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_order_is_never_done_and_a_redelivered_event_is_answered_again() {
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
