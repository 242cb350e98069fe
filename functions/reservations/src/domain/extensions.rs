//! The extension of a hold whose user buys points for it: the pure decision about it.

use super::{Reservation, Status};
use contracts::Timestamp;
use contracts::steps::HoldExtension;

/// The most by which a hold may be extended, in seconds: as long as the payment provider waits for the confirmation of a
/// payment.
pub const MAX_EXTENSION_SECONDS: u32 = 1_800;

/// A hold's end, moved once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extension {
    /// When the hold ends without it.
    pub from: Timestamp,
    /// When it ends with it.
    pub until: Timestamp,
    /// When its seats become free after that, if they are kept back: as long after the end as before, a moment that
    /// nobody was told.
    pub seats_free_at: Option<Timestamp>,
}

impl Extension {
    /// Until when nobody else can take the seats.
    pub fn seats_until(&self) -> Timestamp {
        self.seats_free_at.unwrap_or(self.until)
    }
}

/// What is done about a request to extend a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: this is its answer.
    Answer(HoldExtension),
    /// The hold is extended.
    Extend(Extension),
}

/// Decides about a request to extend a hold by `seconds`, for a user who is buying points or is not. A hold is extended
/// once, while it runs; asked for again, it is answered as it is. The write repeats this as its conditions.
pub fn decide_extension(
    reservation: Option<&Reservation>,
    is_topping_up: bool,
    seconds: u32,
    now: Timestamp,
) -> Decision {
    let Some(found) = reservation else { return Decision::Answer(HoldExtension::NotFound) };
    if found.visible_status(now) != Status::Held {
        return Decision::Answer(HoldExtension::NotExtendable);
    }
    if found.is_extended {
        return Decision::Answer(HoldExtension::Extended { hold_expires_at: found.hold_expires_at });
    }
    let seconds = i64::from(seconds.min(MAX_EXTENSION_SECONDS));
    match (seconds, is_topping_up) {
        (0, _) => Decision::Answer(HoldExtension::NotExtendable),
        (_, false) => Decision::Answer(HoldExtension::NotToppingUp),
        (_, true) => Decision::Extend(Extension {
            from: found.hold_expires_at,
            until: found.hold_expires_at.plus_seconds(seconds),
            seats_free_at: found.seats_free_at.map(|free_at| free_at.plus_seconds(seconds)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contracts::{ConcertId, ReservationId, ScheduleId, UserId, Won};

    const NOW: Timestamp = Timestamp::from_millis(0);
    const END: Timestamp = Timestamp::from_millis(300_000);

    fn reservation(status: Status) -> Reservation {
        Reservation {
            id: ReservationId::parse("r").unwrap(),
            user: UserId::parse("alice").unwrap(),
            schedule: ScheduleId::parse("s").unwrap(),
            concert: ConcertId::parse("c").unwrap(),
            seats: Vec::new(),
            total_price: Won::ZERO,
            queue_position: 1,
            status,
            hold_expires_at: END,
            created_at: Timestamp::from_millis(0),
            correlation_id: "q".into(),
            payment: None,
            releases: 0,
            failure: None,
            seats_free_at: None,
            is_extended: false,
        }
    }

    fn answer(reservation: &Reservation, is_topping_up: bool, seconds: u32, now: Timestamp) -> HoldExtension {
        match decide_extension(Some(reservation), is_topping_up, seconds, now) {
            Decision::Answer(answer) => answer,
            Decision::Extend(extension) => panic!("{extension:?}"),
        }
    }

    #[test]
    fn only_a_running_hold_is_extended() {
        for status in Status::ALL.into_iter().filter(|status| *status != Status::Held) {
            assert_eq!(answer(&reservation(status), true, 60, END.plus_millis(-1)), HoldExtension::NotExtendable);
        }
        let held = reservation(Status::Held);
        assert_eq!(answer(&held, true, 60, END), HoldExtension::NotExtendable);
        assert_eq!(decide_extension(None, true, 60, END), Decision::Answer(HoldExtension::NotFound));
        let extended = Extension { from: END, until: END.plus_seconds(60), seats_free_at: None };
        assert_eq!(decide_extension(Some(&held), true, 60, END.plus_millis(-1)), Decision::Extend(extended));
    }

    #[test]
    fn a_hold_is_extended_once_and_told_so_again_whatever_is_asked() {
        let end = END.plus_seconds(60);
        let extended = Reservation { hold_expires_at: end, is_extended: true, ..reservation(Status::Held) };
        let again = HoldExtension::Extended { hold_expires_at: end };
        for (is_topping_up, seconds) in [(true, 60), (true, 900), (false, 60), (true, 0)] {
            assert_eq!(answer(&extended, is_topping_up, seconds, END), again);
        }
        assert_eq!(answer(&extended, true, 60, end), HoldExtension::NotExtendable);
    }

    #[test]
    fn an_extension_is_bounded_can_be_turned_off_and_is_for_who_buys_points() {
        let held = reservation(Status::Held);
        assert_eq!(answer(&held, true, 0, NOW), HoldExtension::NotExtendable);
        assert_eq!(answer(&held, false, 60, NOW), HoldExtension::NotToppingUp);
        let Decision::Extend(longest) = decide_extension(Some(&held), true, u32::MAX, NOW) else { panic!() };
        assert_eq!(longest.until, END.plus_seconds(MAX_EXTENSION_SECONDS.into()));
    }

    #[test]
    fn seats_are_kept_back_for_as_long_as_before() {
        let kept = Reservation { seats_free_at: Some(END.plus_seconds(77)), ..reservation(Status::Held) };
        let Decision::Extend(extension) = decide_extension(Some(&kept), true, 60, NOW) else { panic!() };
        assert_eq!(extension.seats_free_at, Some(extension.until.plus_seconds(77)));
        assert_eq!(extension.seats_until(), extension.until.plus_seconds(77));
    }
}
