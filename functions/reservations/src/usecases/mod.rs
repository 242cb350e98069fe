//! One module per use case with logic of its own. Plain reads and writes go from handler to port.

pub mod begin_payment;
pub mod cancel_reservation;
pub mod confirm_reservation;
pub mod expire_hold;
pub mod extend_hold;
pub mod free_seats;
pub mod quote_refund;
pub mod quote_reservation;
pub mod refund_reservation;
pub mod release_reservation;
pub mod request_reservation;
pub mod reserve_seats;
pub mod roll_back_reservation;
pub mod sweep_holds;
pub mod sweep_reservations;
pub mod write_reservations;
